// Supervisors as actors, and the places that outlive actors. What a supervisor decides is tested in supervision_test.cpp
// in virtual time; here real actors start, fail, are killed and come back. Nothing sleeps: what is expected is looked for
// until it is there, or the deadline has passed.
#include "actors/supervisor.hpp"

#include "actors/worker.hpp"

#include <caf/event_based_actor.hpp>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

using event_kind = supervision_effects::event_kind;

constexpr auto patience = 30s;  // under a sanitizer on a busy machine, too
constexpr restart_intensity lenient{100'000, 10s};

template <class Condition>
bool eventually(Condition condition) {
  const auto give_up_at = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up_at) return false;
    std::this_thread::yield();
  }
  return true;
}

// A child that does what it is told.
caf::behavior obedient(caf::event_based_actor* self) {
  self->set_exception_handler([](std::exception_ptr& thrown) { return failure_of(thrown); });
  return {
      [self](const std::string& order) {
        if (order == "throw") throw std::runtime_error{"it was told to throw"};
        if (order == "fail") self->quit(caf::make_error(caf::sec::invalid_argument, "it was told to fail"));
        if (order == "end") self->quit();
      },
  };
}

// One that is asked to end in vain.
caf::behavior stubborn(caf::event_based_actor* self) {
  self->set_exit_handler([](caf::exit_msg&) {});
  return obedient(self);
}

// A system of actors, a tree in it, and what happened.
class garden {
public:
  garden() {
    static const bool types_known = [] {
      caf::core::init_global_meta_objects();
      caf::init_global_meta_objects<caf::id_block::posthorn>();
      return true;
    }();
    REQUIRE(types_known);
    config_.set("caf.scheduler.max-threads", 3);
    system = std::make_unique<caf::actor_system>(config_);
  }
  ~garden() {
    if (root) {
      root->shut_down();
      root->wait_until_finished(2s);
      root.reset();
    }
    // A test that has failed may have left some behind; the system would wait for them.
    for (const auto& [name, handle] : std::exchange(starts_, {})) {
      caf::anon_send_exit(handle, caf::exit_reason::kill);
    }
    system.reset();
  }
  garden(const garden&) = delete;
  garden& operator=(const garden&) = delete;

  child_definition child(const std::string& name, caf::behavior (*as)(caf::event_based_actor*) = obedient) {
    child_definition out;
    out.spec.name = name;
    out.kind = "test";
    out.start = [this, name, as] { return run(name, as); };
    return out;
  }
  // For starters of their own.
  caf::actor run(const std::string& name, caf::behavior (*as)(caf::event_based_actor*) = obedient) {
    auto handle = system->spawn(as);
    const std::lock_guard guard{mutex_};
    starts_.emplace_back(name, handle);
    return handle;
  }
  std::shared_ptr<supervisor> make(supervisor_spec spec, std::vector<child_definition> children) {
    auto made = supervisor::make(*system, std::move(spec), std::move(children),
                                 [this](const supervision_event& e) { note(e); });
    REQUIRE(made.has_value());
    return *made;
  }
  static child_definition place_for(const std::string& name, std::shared_ptr<supervisor> sub) {
    child_definition out;
    out.spec.name = name;
    out.as_supervisor = std::move(sub);
    return out;
  }
  void plant(supervisor_spec spec, std::vector<child_definition> children) {
    root = make(std::move(spec), std::move(children));
    root->start_as_root([this](const failure& why) {
      const std::lock_guard guard{mutex_};
      ++finished_times_;
      finished_with_ = why;
    });
  }
  void plant_and_wait(supervisor_spec spec, std::vector<child_definition> children) {
    plant(std::move(spec), std::move(children));
    REQUIRE(root->wait_until_started().has_value());
  }

  // --- what happened ---

  [[nodiscard]] std::vector<std::string> started() const {
    const std::lock_guard guard{mutex_};
    std::vector<std::string> out;
    for (const auto& [name, handle] : starts_) out.push_back(name);
    return out;
  }
  [[nodiscard]] std::size_t starts_of(const std::string& name) const {
    const auto all = started();
    return static_cast<std::size_t>(std::count(all.begin(), all.end(), name));
  }
  // The paths of all events of one kind, in order.
  [[nodiscard]] std::vector<std::string> paths(event_kind kind) const {
    const std::lock_guard guard{mutex_};
    std::vector<std::string> out;
    for (const auto& e : events_) {
      if (e.kind == kind) out.push_back(e.path);
    }
    return out;
  }
  [[nodiscard]] std::vector<supervision_event> events(event_kind kind, const std::string& path) const {
    const std::lock_guard guard{mutex_};
    std::vector<supervision_event> out;
    for (const auto& e : events_) {
      if (e.kind == kind && e.path == path) out.push_back(e);
    }
    return out;
  }
  [[nodiscard]] bool happened(event_kind kind, const std::string& path, std::size_t times = 1) const {
    return eventually([&] { return events(kind, path).size() >= times; });
  }
  [[nodiscard]] int finished_times() const {
    const std::lock_guard guard{mutex_};
    return finished_times_;
  }
  [[nodiscard]] failure finished_with() const {
    const std::lock_guard guard{mutex_};
    return finished_with_;
  }

  // --- the tree ---

  [[nodiscard]] caf::actor_id id(const std::string& path) const {
    const auto handle = root->find(path);
    return handle ? handle.id() : 0;
  }
  // Another actor than `before` runs there.
  [[nodiscard]] bool replaced(const std::string& path, caf::actor_id before) const {
    return eventually([&] {
      const auto now = id(path);
      return now != 0 && now != before && state(path) == child_state::running;
    });
  }
  [[nodiscard]] child_state state(const std::string& path) const {
    const auto shown = root->show(path);
    return shown ? shown->state : child_state::stopped;
  }
  [[nodiscard]] bool becomes(const std::string& path, child_state what) const {
    return eventually([&] {
      const auto shown = root->show(path);
      return shown && shown->state == what;
    });
  }
  void tell(const std::string& path, const std::string& order) const {
    const auto handle = root->find(path);
    REQUIRE(handle);
    caf::anon_send(handle, order);
  }

  std::shared_ptr<supervisor> root;
  std::unique_ptr<caf::actor_system> system;

private:
  void note(const supervision_event& e) {
    const std::lock_guard guard{mutex_};
    events_.push_back(e);
  }

  caf::actor_system_config config_;
  mutable std::mutex mutex_;
  std::vector<supervision_event> events_;
  std::vector<std::pair<std::string, caf::actor>> starts_;
  int finished_times_ = 0;
  failure finished_with_;
};

using names = std::vector<std::string>;

// --- a place that outlives its actor ------------------------------------------------------------------------------

struct item {
  unsigned from = 0, number = 0;
  std::function<void()> act{};  // in the actor
};

// Notes down what comes.
struct recorder {
  std::mutex mutex;
  std::vector<std::pair<unsigned, unsigned>> handled, discarded;
  int begun = 0, begun_after_failure = 0;
  std::atomic<std::size_t> count{0};

  void begin(worker_actor::pointer, bool after_failure) {
    const std::lock_guard guard{mutex};
    ++begun;
    if (after_failure) ++begun_after_failure;
  }
  void on(item& i) {
    if (i.act) i.act();
    const std::lock_guard guard{mutex};
    handled.emplace_back(i.from, i.number);
    ++count;
  }
  void discard(item& i) {
    const std::lock_guard guard{mutex};
    discarded.emplace_back(i.from, i.number);
    ++count;
  }
  void on_idle() {}
  void on_tick(const tick&) {}
  void on_down(const caf::down_msg&) {}
};

struct desk {
  static constexpr const char* kind = "test.desk";
  inbox<item> in;
  actor_status status;
  recorder notes;
  recorder& logic() { return notes; }
};

child_definition desk_child(garden& g, const std::string& name, const std::shared_ptr<desk>& d) {
  child_definition out;
  out.spec.name = name;
  out.start = [&g, d] { return start_worker(*g.system, d); };
  out.figures = [d] { return figures_of(*d); };
  return out;
}

bool post(desk& d, unsigned from, unsigned number, std::function<void()> act = {}) {
  return d.in.post(item{from, number, std::move(act)});
}

}  // namespace

// --- start ----------------------------------------------------------------------------------------------------------

TEST_CASE("children start from top to bottom, those of a supervisor before what stands below it",
          "[supervisor]") {
  garden g;
  auto sub = g.make({}, {g.child("b"), g.child("c")});
  g.plant_and_wait({}, {g.child("a"), garden::place_for("sub", sub), g.child("d")});
  CHECK(g.started() == names{"a", "b", "c", "d"});
  CHECK(g.paths(event_kind::started) == names{"/a", "/sub/b", "/sub/c", "/sub", "/d"});
  CHECK(sub->path() == "/sub");
  const auto shown = g.root->show("/sub");
  REQUIRE(shown.has_value());
  CHECK(shown->is_supervisor);
  CHECK(shown->children == 2);
  CHECK(shown->kind == "supervisor");
}

TEST_CASE("a starter that throws undoes the start in reverse order, also below another supervisor",
          "[supervisor]") {
  garden g;
  auto bad = g.child("bad");
  bad.start = []() -> caf::actor { throw std::runtime_error{"no such luck"}; };
  auto sub = g.make({}, {g.child("b"), bad, g.child("never")});
  g.plant({}, {g.child("a"), garden::place_for("sub", sub), g.child("never either")});
  REQUIRE(eventually([&] { return g.finished_times() == 1; }));
  CHECK(g.finished_with().kind == exit_kind::start_failed);
  CHECK(g.started() == names{"a", "b"});
  CHECK(g.paths(event_kind::stopped) == names{"/sub/b", "/a"});
  CHECK_FALSE(g.root->find("/a"));
  CHECK_FALSE(g.root->find("/sub/b"));
}

TEST_CASE("a starter that throws undoes the start in reverse order", "[supervisor]") {
  garden g;
  auto bad = g.child("bad");
  bad.start = []() -> caf::actor { throw std::runtime_error{"no such luck"}; };
  g.plant({}, {g.child("a"), g.child("b"), bad, g.child("never")});
  REQUIRE(eventually([&] { return g.finished_times() == 1; }));
  CHECK(g.finished_with().kind == exit_kind::start_failed);
  CHECK(g.finished_with().reason.find("no such luck") != std::string::npos);
  CHECK(g.started() == names{"a", "b"});
  CHECK(g.paths(event_kind::stopped) == names{"/b", "/a"});
  CHECK_FALSE(g.root->find("/a"));
}

TEST_CASE("whoever waits for the start hears that it has failed, and why", "[supervisor]") {
  garden g;
  auto bad = g.child("bad");
  bad.start = []() -> caf::actor { throw std::runtime_error{"no such luck"}; };
  SECTION("at the only child") { g.plant({}, {bad}); }
  SECTION("at the last child") { g.plant({}, {g.child("a"), bad}); }
  SECTION("at a child below") {
    auto sub = g.make({}, {bad});
    g.plant({}, {g.child("a"), garden::place_for("sub", sub)});
  }
  SECTION("with others to come") { g.plant({}, {g.child("a"), bad, g.child("b")}); }
  const auto started = g.root->wait_until_started();
  REQUIRE_FALSE(started.has_value());
  CHECK(started.error().text.find("no such luck") != std::string::npos);
}

TEST_CASE("something thrown that is no std::exception is a failed start, too", "[supervisor]") {
  garden g;
  auto bad = g.child("bad");
  bad.start = []() -> caf::actor { throw 42; };
  g.plant({}, {bad});
  REQUIRE(g.root->wait_until_finished(patience));
  CHECK(eventually([&] { return g.finished_with().kind == exit_kind::start_failed; }));
}

TEST_CASE("a starter that gives no actor has nothing to run, which is no failure", "[supervisor]") {
  garden g;
  auto none = g.child("none");
  none.start = [] { return caf::actor{}; };
  g.plant_and_wait({}, {none, g.child("b")});
  CHECK(g.started() == names{"b"});
  CHECK(g.state("/none") == child_state::stopped);
  CHECK(g.paths(event_kind::failed).empty());
  CHECK(g.root->kill("/none").error().code == errc::overloaded);
}

TEST_CASE("a child that reports its start holds up those below it until it does", "[supervisor]") {
  garden g;
  auto slow = g.child("slow");
  slow.reports_start = true;
  g.plant({}, {slow, g.child("b")});
  REQUIRE(g.becomes("/slow", child_state::starting));
  CHECK(eventually([&] { return g.starts_of("slow") == 1; }));
  CHECK(g.starts_of("b") == 0);
  g.root->started("slow");
  REQUIRE(g.root->wait_until_started().has_value());
  CHECK(g.started() == names{"slow", "b"});
}

TEST_CASE("a child that has not reported its start by its deadline is killed, and the start fails",
          "[supervisor]") {
  garden g;
  auto slow = g.child("slow", stubborn);
  slow.reports_start = true;
  slow.spec.start_deadline = 30ms;
  g.plant({}, {g.child("a"), slow});
  REQUIRE(eventually([&] { return g.finished_times() == 1; }));
  const auto failed = g.events(event_kind::start_failed, "/slow");
  REQUIRE(failed.size() == 1);
  CHECK(failed.front().why.kind == exit_kind::start_timeout);
}

TEST_CASE("a wrong specification is an error at once", "[supervisor]") {
  garden g;
  const auto sink = [](const supervision_event&) {};
  child_definition empty;
  empty.spec.name = "x";
  CHECK(supervisor::make(*g.system, {}, {empty}, sink).error().code == errc::refused);
  CHECK_FALSE(supervisor::make(*g.system, {}, {g.child("x"), g.child("x")}, sink).has_value());
  CHECK_FALSE(supervisor::make(*g.system, {}, {g.child("x/y")}, sink).has_value());
  CHECK_FALSE(supervisor::make(*g.system, {.how = strategy::dynamic}, {g.child("x")}, sink).has_value());
}

// --- restart --------------------------------------------------------------------------------------------------------

TEST_CASE("a child that ends badly is started again, and its report says why", "[supervisor]") {
  garden g;
  g.plant_and_wait({.intensity = lenient}, {g.child("a"), g.child("b")});
  const auto b = g.id("/b");
  auto before = g.id("/a");
  REQUIRE(g.root->kill("/a").has_value());
  REQUIRE(g.replaced("/a", before));
  auto shown = g.root->show("/a");
  REQUIRE(shown.has_value());
  REQUIRE(shown->last_failure);
  CHECK(shown->last_failure->kind == exit_kind::killed);
  CHECK(shown->restarts == 1);
  CHECK(shown->failed_at > 0);
  CHECK(shown->since >= shown->failed_at);

  before = g.id("/a");
  g.tell("/a", "throw");
  REQUIRE(g.replaced("/a", before));
  shown = g.root->show("/a");
  REQUIRE(shown->last_failure);
  CHECK(*shown->last_failure == failure{exit_kind::exception, "it was told to throw"});

  before = g.id("/a");
  g.tell("/a", "fail");
  REQUIRE(g.replaced("/a", before));
  shown = g.root->show("/a");
  REQUIRE(shown->last_failure);
  CHECK(shown->last_failure->kind == exit_kind::error);
  CHECK(shown->last_failure->reason.find("it was told to fail") != std::string::npos);
  CHECK(shown->restarts == 3);

  before = g.id("/a");
  g.tell("/a", "end");
  REQUIRE(g.replaced("/a", before));  // it is permanent
  CHECK(g.id("/b") == b);
  CHECK(g.events(event_kind::restarted, "/a").size() == 4);
}

TEST_CASE("a transient child that ends as it should stays stopped, a temporary one is forgotten",
          "[supervisor]") {
  garden g;
  auto transient = g.child("transient"), temporary = g.child("temporary");
  transient.spec.restart = restart_kind::transient;
  temporary.spec.restart = restart_kind::temporary;
  g.plant_and_wait({.intensity = lenient}, {transient, temporary});
  const auto before = g.id("/transient");
  g.tell("/transient", "throw");
  REQUIRE(g.replaced("/transient", before));
  g.tell("/transient", "end");
  CHECK(g.becomes("/transient", child_state::stopped));
  g.tell("/temporary", "throw");
  CHECK(eventually([&] { return !g.root->show("/temporary").has_value(); }));
  CHECK(g.starts_of("temporary") == 1);
}

TEST_CASE("one_for_all starts all again, those that run having been stopped in reverse order",
          "[supervisor]") {
  garden g;
  g.plant_and_wait({.how = strategy::one_for_all, .intensity = lenient},
                   {g.child("a"), g.child("b"), g.child("c")});
  const auto a = g.id("/a"), b = g.id("/b"), c = g.id("/c");
  g.tell("/b", "throw");
  CHECK(g.replaced("/a", a));
  CHECK(g.replaced("/b", b));
  CHECK(g.replaced("/c", c));
  CHECK(g.started() == names{"a", "b", "c", "a", "b", "c"});
}

TEST_CASE("rest_for_one starts the failed child and those below it again", "[supervisor]") {
  garden g;
  auto sub = g.make({}, {g.child("d")});
  g.plant_and_wait({.how = strategy::rest_for_one, .intensity = lenient},
                   {g.child("a"), g.child("b"), g.child("c"), garden::place_for("sub", sub)});
  const auto a = g.id("/a"), b = g.id("/b"), c = g.id("/c"), d = g.id("/sub/d");
  REQUIRE(g.root->kill("/b").has_value());
  CHECK(g.replaced("/b", b));
  CHECK(g.replaced("/c", c));
  CHECK(g.replaced("/sub/d", d));
  CHECK(g.id("/a") == a);
  CHECK(g.started() == names{"a", "b", "c", "d", "b", "c", "d"});
}

TEST_CASE("too many failures escalate up to the root, which finishes once", "[supervisor]") {
  garden g;
  auto inner = g.make({.intensity = {0, 5s}}, {g.child("a"), g.child("b")});
  auto outer = g.make({.intensity = {0, 5s}}, {garden::place_for("inner", inner)});
  g.plant_and_wait({.intensity = {0, 5s}}, {g.child("first"), garden::place_for("outer", outer)});
  g.tell("/outer/inner/a", "throw");
  REQUIRE(g.root->wait_until_finished(patience));
  REQUIRE(eventually([&] { return g.finished_times() == 1; }));
  // As in Erlang/OTP, one that gives up exits as `shutdown`.
  CHECK(g.finished_with().kind == exit_kind::shutdown);
  CHECK(g.finished_with().reason.find("intensity") != std::string::npos);
  CHECK(g.events(event_kind::escalated, "/outer/inner/a").size() == 1);
  CHECK(g.events(event_kind::escalated, "/outer/inner").size() == 1);
  CHECK(g.events(event_kind::escalated, "/outer").size() == 1);
  for (const auto* path : {"/first", "/outer/inner/a", "/outer/inner/b"}) CHECK_FALSE(g.root->find(path));
  CHECK(g.finished_times() == 1);
}

TEST_CASE("a supervisor that gave up is started again by its own, with all children", "[supervisor]") {
  garden g;
  auto sub = g.make({.intensity = {0, 5s}}, {g.child("a"), g.child("b")});
  g.plant_and_wait({.intensity = lenient}, {garden::place_for("sub", sub)});
  for (int round = 0; round < 20; ++round) {
    const auto a = g.id("/sub/a"), b = g.id("/sub/b");
    g.tell("/sub/a", "throw");
    REQUIRE(g.replaced("/sub/a", a));
    REQUIRE(g.replaced("/sub/b", b));
  }
  CHECK(eventually([&] { return g.root->show("/sub")->restarts == 20; }));
}

// --- dynamic children -----------------------------------------------------------------------------------------------

TEST_CASE("children come and go at run time", "[supervisor]") {
  garden g;
  g.plant_and_wait({.how = strategy::dynamic, .intensity = lenient}, {});
  g.root->add(g.child("a"));
  REQUIRE(g.becomes("/a", child_state::running));
  auto temporary = g.child("t");
  temporary.spec.restart = restart_kind::temporary;
  const auto running = g.run("t");
  g.root->adopt(temporary, running);
  REQUIRE(g.becomes("/t", child_state::running));
  CHECK(g.id("/t") == running.id());
  CHECK(g.root->show("/")->children == 2);
  g.tell("/t", "throw");
  CHECK(eventually([&] { return !g.root->show("/t").has_value(); }));
  const auto a = g.id("/a");
  g.tell("/a", "throw");
  CHECK(g.replaced("/a", a));
}

TEST_CASE("one that was adopted is started again by its starter, and one that was dead already, too",
          "[supervisor]") {
  garden g;
  g.plant_and_wait({.how = strategy::dynamic, .intensity = lenient}, {});
  const auto running = g.run("a"), dead = g.run("b");
  caf::anon_send_exit(dead, caf::exit_reason::kill);
  g.root->adopt(g.child("a"), running);
  g.root->adopt(g.child("b"), dead);
  REQUIRE(g.replaced("/b", dead.id()));
  REQUIRE(g.becomes("/a", child_state::running));
  CHECK(g.id("/a") == running.id());
  for (int round = 0; round < 10; ++round) {
    const auto before = g.id("/a");
    REQUIRE(g.root->kill("/a").has_value());
    REQUIRE(g.replaced("/a", before));
  }
}

TEST_CASE("a child whose name is still taken by one that ends waits for its end", "[supervisor]") {
  garden g;
  g.plant_and_wait({.how = strategy::dynamic}, {});
  std::promise<void> gate;
  const auto opened = gate.get_future().share();
  auto old = g.child("a");
  old.spec.restart = restart_kind::temporary;
  old.start = [&g, opened] {
    return g.system->spawn([opened](caf::event_based_actor* self) -> caf::behavior {
      return {[=](const std::string&) {
        opened.wait();
        self->quit();
      }};
    });
  };
  g.root->add(old);
  REQUIRE(g.becomes("/a", child_state::running));
  g.tell("/a", "end");
  // Three more of that name, each of which ends when it is told to.
  for (int n = 0; n < 3; ++n) {
    auto next = g.child("a");
    next.spec.restart = restart_kind::temporary;
    g.root->add(next);
  }
  g.root->add(g.child("b"));
  REQUIRE(g.becomes("/b", child_state::running));  // behind them, and not held up
  CHECK(g.starts_of("a") == 0);
  gate.set_value();
  for (std::size_t n = 1; n <= 3; ++n) {
    REQUIRE(eventually([&] { return g.starts_of("a") == n && g.state("/a") == child_state::running; }));
    g.tell("/a", "end");
  }
  CHECK(eventually([&] { return !g.root->show("/a").has_value(); }));
}

TEST_CASE("two that fail over and over are given up alone, next to a thousand good ones", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic}, {});
  g.plant_and_wait({}, {garden::place_for("pool", pool)});
  constexpr int good = 1000;
  const auto add_good = [&](int from, int to) {
    for (int n = from; n < to; ++n) pool->add(g.child("good " + std::to_string(n)));
  };
  add_good(0, good / 2);
  for (const auto* name : {"bad 1", "bad 2"}) {
    auto bad = g.child(name);
    bad.spec.budget = restart_intensity{5, 60s};
    bad.start = [&g, called = std::string{name}] {
      auto handle = g.run(called);
      caf::anon_send(handle, std::string{"throw"});
      return handle;
    };
    pool->add(bad);
  }
  add_good(good / 2, good);
  REQUIRE(g.becomes("/pool/bad 1", child_state::failed));
  REQUIRE(g.becomes("/pool/bad 2", child_state::failed));
  REQUIRE(g.becomes("/pool/good " + std::to_string(good - 1), child_state::running));
  CHECK(g.starts_of("bad 1") == 6);
  CHECK(g.starts_of("bad 2") == 6);
  CHECK(g.happened(event_kind::gave_up, "/pool/bad 1"));
  int running = 0;
  REQUIRE(g.root
              ->walk("/pool", 10'000,
                     [&](const actor_report& r) {
                       if (r.path.starts_with("/pool/good") && r.state == child_state::running &&
                           r.restarts == 0) {
                         ++running;
                       }
                     })
              .has_value());
  CHECK(running == good);
  CHECK(g.paths(event_kind::escalated).empty());
}

// --- killed supervisors ---------------------------------------------------------------------------------------------

TEST_CASE("no child ends because a supervisor is killed, and those that fail afterwards are started again",
          "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic, .intensity = lenient}, {});
  auto sub = g.make({.intensity = lenient}, {g.child("a"), garden::place_for("pool", pool), g.child("z")});
  g.plant_and_wait({.intensity = lenient}, {g.child("top"), garden::place_for("sub", sub)});
  pool->add(g.child("x"));
  pool->add(g.child("y"));
  REQUIRE(g.becomes("/sub/pool/y", child_state::running));
  const names workers{"/top", "/sub/a", "/sub/z", "/sub/pool/x", "/sub/pool/y"};
  for (int round = 0; round < 30; ++round) {
    std::map<std::string, caf::actor_id> before;
    for (const auto& path : workers) before[path] = g.id(path);
    for (const names& killed : {names{"/"}, names{"/sub"}, names{"/sub/pool"},
                                names{"/sub/pool", "/sub", "/"}, names{"/", "/sub", "/sub/pool"}}) {
      std::vector<caf::actor_id> ids;
      for (const auto& path : killed) {
        REQUIRE(eventually([&] { return g.id(path) != 0; }));
        ids.push_back(g.id(path));
        REQUIRE(eventually([&] { return g.root->kill(path).has_value(); }));
      }
      for (std::size_t n = 0; n < killed.size(); ++n) {
        REQUIRE(eventually([&] { return g.id(killed[n]) != 0 && g.id(killed[n]) != ids[n]; }));
      }
    }
    for (const auto& path : workers) {
      INFO(path);
      CHECK(g.id(path) == before[path]);
    }
    // Some fail while there is nobody to hear of it.
    REQUIRE(eventually([&] { return g.root->kill("/sub/pool").has_value(); }));
    REQUIRE(eventually([&] { return g.root->kill("/sub").has_value(); }));
    REQUIRE(eventually([&] { return g.root->kill("/").has_value(); }));
    for (const auto& path : workers) g.tell(path, "throw");
    for (const auto& path : workers) {
      INFO(path);
      REQUIRE(g.replaced(path, before[path]));
    }
    REQUIRE(g.becomes("/sub", child_state::running));
    REQUIRE(g.becomes("/sub/pool", child_state::running));
  }
  pool->add(g.child("late"));
  CHECK(g.becomes("/sub/pool/late", child_state::running));
}

TEST_CASE("a back-off that runs while the supervisor is killed ends as it would have", "[supervisor]") {
  garden g;
  auto child = g.child("a");
  child.spec.back_off = {.minimum = 50ms, .maximum = 50ms, .jitter = 0};
  auto sub = g.make({.intensity = lenient}, {child});
  g.plant_and_wait({.intensity = lenient}, {garden::place_for("sub", sub)});
  const auto before = g.id("/sub/a");
  REQUIRE(g.root->kill("/sub/a").has_value());
  REQUIRE(g.becomes("/sub/a", child_state::backing_off));
  const auto actor = g.id("/sub");
  REQUIRE(g.root->kill("/sub").has_value());
  REQUIRE(g.replaced("/sub", actor));
  CHECK(g.replaced("/sub/a", before));
}

TEST_CASE("what is added while the supervisor is killed over and over is not lost", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic, .intensity = lenient}, {});
  g.plant_and_wait({.intensity = lenient}, {garden::place_for("pool", pool)});
  constexpr int count = 500;
  for (int n = 0; n < count; ++n) {
    if (n % 5 == 0) (void)g.root->kill("/pool");
    if (n % 17 == 0) (void)g.root->kill("/");
    pool->add(g.child(std::to_string(n)));
  }
  for (int n = 0; n < count; ++n) REQUIRE(g.becomes("/pool/" + std::to_string(n), child_state::running));
  for (int n = 0; n < count; ++n) CHECK(g.starts_of(std::to_string(n)) == 1);
}

// --- restart by an operator -----------------------------------------------------------------------------------------

TEST_CASE("a worker is restarted by its path", "[supervisor]") {
  garden g;
  auto sub = g.make({.intensity = lenient}, {g.child("a"), g.child("b")});
  g.plant_and_wait({}, {garden::place_for("sub", sub)});
  const auto a = g.id("/sub/a"), b = g.id("/sub/b");
  REQUIRE(g.root->restart("/sub/a").has_value());
  CHECK(g.replaced("/sub/a", a));
  CHECK(g.id("/sub/b") == b);
}

TEST_CASE("a supervisor is restarted by its path, its children with it", "[supervisor]") {
  garden g;
  auto sub = g.make({}, {g.child("a"), g.child("b")});
  g.plant_and_wait({}, {garden::place_for("sub", sub), g.child("c")});
  const auto a = g.id("/sub/a"), b = g.id("/sub/b"), c = g.id("/c");
  REQUIRE(g.root->restart("/sub").has_value());
  CHECK(g.replaced("/sub/a", a));
  CHECK(g.replaced("/sub/b", b));
  CHECK(g.becomes("/sub", child_state::running));
  CHECK(g.id("/c") == c);
}

TEST_CASE("one that has failed for good is started again by an operator", "[supervisor]") {
  garden g;
  auto worker = g.child("a");
  worker.spec.budget = restart_intensity{0, 60s};
  auto place = garden::place_for("sub", g.make({.intensity = {0, 5s}}, {g.child("b")}));
  place.spec.budget = restart_intensity{0, 60s};
  g.plant_and_wait({}, {worker, place});
  g.tell("/a", "throw");
  REQUIRE(g.becomes("/a", child_state::failed));
  CHECK(g.root->kill("/a").error().code == errc::overloaded);
  REQUIRE(g.root->restart("/a").has_value());
  CHECK(g.becomes("/a", child_state::running));
  g.tell("/sub/b", "throw");
  REQUIRE(g.becomes("/sub", child_state::failed));
  REQUIRE(g.root->restart("/sub").has_value());
  CHECK(g.becomes("/sub", child_state::running));
  CHECK(g.becomes("/sub/b", child_state::running));
  CHECK(g.finished_times() == 0);
}

TEST_CASE("the root is restarted by killing it", "[supervisor]") {
  garden g;
  g.plant_and_wait({}, {g.child("a")});
  const auto root = g.id("/"), a = g.id("/a");
  REQUIRE(g.root->restart("/").has_value());
  CHECK(eventually([&] { return g.id("/") != root; }));
  CHECK(g.id("/a") == a);
}

TEST_CASE("a supervisor of dynamic children brings them all back when it is restarted", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic}, {});
  g.plant_and_wait({.intensity = lenient}, {garden::place_for("pool", pool)});
  constexpr int count = 5;
  for (int n = 0; n < count; ++n) pool->add(g.child(std::to_string(n)));
  for (int n = 0; n < count; ++n) REQUIRE(g.becomes("/pool/" + std::to_string(n), child_state::running));
  const auto before = g.id("/pool");
  REQUIRE(g.root->restart("/pool").has_value());
  REQUIRE(g.replaced("/pool", before));
  const auto soon = std::chrono::steady_clock::now() + 2s;
  while (g.root->show("/pool")->children != count && std::chrono::steady_clock::now() < soon) {
    std::this_thread::yield();
  }
  CHECK(g.root->show("/pool")->children == count);
}

TEST_CASE("a supervisor that failed to start can be restarted later", "[supervisor]") {
  garden g;
  std::atomic<bool> broken{false};
  auto child = g.child("b");
  child.start = [&] {
    if (broken) throw std::runtime_error{"broken"};
    return g.run("b");
  };
  auto place = garden::place_for("sub", g.make({.intensity = {0, 5s}}, {child}));
  place.spec.budget = restart_intensity{0, 60s};
  g.plant_and_wait({}, {place});
  g.tell("/sub/b", "throw");
  REQUIRE(g.becomes("/sub", child_state::failed));
  broken = true;
  REQUIRE(g.root->restart("/sub").has_value());
  REQUIRE(g.happened(event_kind::start_failed, "/sub"));
  REQUIRE(g.becomes("/sub", child_state::failed));
  broken = false;
  REQUIRE(g.root->restart("/sub").has_value());
  const auto soon = std::chrono::steady_clock::now() + 2s;
  while (g.state("/sub") != child_state::running && std::chrono::steady_clock::now() < soon) {
    std::this_thread::yield();
  }
  CHECK(g.state("/sub") == child_state::running);
  CHECK(g.state("/sub/b") == child_state::running);
}

TEST_CASE("a restart is for now: it does not count as a failure against the intensity", "[supervisor]") {
  garden g;
  g.plant_and_wait({.intensity = {1, 60s}}, {g.child("a")});
  for (int round = 0; round < 3; ++round) {
    const auto before = g.id("/a");
    REQUIRE(g.root->restart("/a").has_value());
    REQUIRE(eventually([&] {
      const auto now = g.id("/a");
      return (now != 0 && now != before) || g.finished_times() != 0;
    }));
    REQUIRE(g.finished_times() == 0);
  }
}

TEST_CASE("one that waits before it starts again is started at once by an operator", "[supervisor]") {
  garden g;
  auto child = g.child("a");
  child.spec.back_off = {.minimum = 60s, .maximum = 60s, .jitter = 0};
  g.plant_and_wait({.intensity = lenient}, {child});
  REQUIRE(g.root->kill("/a").has_value());
  REQUIRE(g.becomes("/a", child_state::backing_off));
  // Either it starts, or whoever gave the order is told why not.
  if (g.root->restart("/a").has_value()) {
    const auto soon = std::chrono::steady_clock::now() + 2s;
    while (g.state("/a") != child_state::running && std::chrono::steady_clock::now() < soon) {
      std::this_thread::yield();
    }
    CHECK(g.state("/a") == child_state::running);
  }
}

// --- paths ----------------------------------------------------------------------------------------------------------

TEST_CASE("orders and questions about paths that lead nowhere say where they end", "[supervisor]") {
  garden g;
  auto sub = g.make({.intensity = lenient}, {g.child("%2F")});
  g.plant_and_wait({}, {garden::place_for("sub", sub), g.child("a")});
  const auto visit = [](const actor_report&) { FAIL_CHECK("nothing is there"); };
  for (const std::string path : {"", "a", "sub/%2F", "/b", "/sub/b", "/a/b", "/sub/%2F/b", "//a", "/sub//%2F",
                                 "/ a", "/A", "/sub/%2f"}) {
    INFO("'" << path << "'");
    CHECK(g.root->show(path).error().code == errc::unreachable);
    CHECK(g.root->kill(path).error().code == errc::unreachable);
    CHECK(g.root->restart(path).error().code == errc::unreachable);
    CHECK(g.root->walk(path, 10, visit).error().code == errc::unreachable);
    CHECK_FALSE(g.root->find(path));
  }
  CHECK(g.root->show("/a/b").error().text.find("/a is no supervisor") != std::string::npos);
  CHECK(g.root->show("/sub/b").error().text.find("/sub has no child 'b'") != std::string::npos);
  CHECK(g.root->show("/sub/%2F/").has_value());
  CHECK(g.root->show("/").has_value());
  CHECK(sub->show("/%2F").has_value());
  CHECK(sub->show("/%2F")->path == "/sub/%2F");
}

TEST_CASE("a walk visits parents before children, and no more children than asked for", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic}, {});
  g.plant_and_wait({}, {g.child("a"), garden::place_for("pool", pool), g.child("z")});
  for (int n = 0; n < 10; ++n) pool->add(g.child(std::to_string(n)));
  REQUIRE(g.becomes("/pool/9", child_state::running));
  const auto walk = [&](const std::string& path, std::size_t count_max) {
    names out;
    REQUIRE(g.root->walk(path, count_max, [&](const actor_report& r) { out.push_back(r.path); }).has_value());
    return out;
  };
  CHECK(walk("/", 3) == names{"/", "/a", "/pool", "/pool/0", "/pool/1", "/pool/2", "/z"});
  CHECK(walk("/pool", 2) == names{"/pool", "/pool/0", "/pool/1"});
  CHECK(walk("/a", 2) == names{"/a"});
  CHECK(walk("/pool", 1000).size() == 11);
  CHECK(walk("/", 0) == names{"/"});
}

TEST_CASE("part of a path has no character that a terminal would not show", "[supervisor]") {
  CHECK(path_part("/") == "%2F");
  CHECK(path_part("a b%\n\x7f") == "a%20b%25%0A%7F");
  CHECK(path_part("grün") == "grün");
  CHECK(path_part("").empty());
}

// --- the end --------------------------------------------------------------------------------------------------------

TEST_CASE("children stop from bottom to top, and one that does not stop in time is killed", "[supervisor]") {
  garden g;
  auto slow = g.child("slow", stubborn);
  slow.spec.shutdown = shutdown_rule::within(30ms);
  auto brutal = g.child("brutal", stubborn);
  brutal.spec.shutdown = shutdown_rule::brutal_kill();
  auto sub = g.make({}, {g.child("b"), slow, g.child("c")});
  g.plant_and_wait({}, {g.child("a"), garden::place_for("sub", sub), brutal, g.child("z")});
  g.root->shut_down();
  g.root->shut_down();
  REQUIRE(g.root->wait_until_finished(patience));
  REQUIRE(eventually([&] { return g.finished_times() == 1; }));
  CHECK(g.finished_with().kind == exit_kind::shutdown);
  CHECK(g.paths(event_kind::stopped) ==
        names{"/z", "/brutal", "/sub/c", "/sub/slow", "/sub/b", "/sub", "/a"});
  CHECK(g.events(event_kind::stopped, "/sub/slow").front().why.kind == exit_kind::killed);
  for (const auto& path : names{"/a", "/z", "/brutal", "/sub", "/sub/slow"}) CHECK_FALSE(g.root->find(path));
}

TEST_CASE("a tree whose root is killed while it shuts down finishes all the same", "[supervisor]") {
  for (int round = 0; round < 20; ++round) {
    garden g;
    auto slow = g.child("slow", stubborn);
    slow.spec.shutdown = shutdown_rule::within(10ms);
    g.plant_and_wait({}, {g.child("a"), slow, g.child("b")});
    g.root->shut_down();
    (void)g.root->kill("/");
    (void)g.root->kill("/");
    REQUIRE(g.root->wait_until_finished(patience));
    CHECK_FALSE(g.root->find("/a"));
    CHECK_FALSE(g.root->find("/slow"));
  }
}

TEST_CASE("a supervisor that is killed while it stops still stops its children before its own end counts",
          "[supervisor]") {
  garden g;
  std::atomic<bool> asked{false};
  auto slow = g.child("slow");
  slow.spec.shutdown = shutdown_rule::infinity();
  slow.stop = [&](const caf::actor&) { asked = true; };  // it takes its time
  auto sub = g.make({}, {slow});
  g.plant_and_wait({.intensity = lenient}, {garden::place_for("sub", sub)});
  const auto child = g.root->find("/sub/slow");
  std::atomic<bool> ended{false};
  child->attach_functor([&](const caf::error&) { ended = true; });
  g.root->shut_down();
  REQUIRE(eventually([&] { return asked.load(); }));
  REQUIRE(g.root->kill("/sub").has_value());
  const bool finished_early = g.root->wait_until_finished(1s);
  CHECK_FALSE(finished_early);
  CHECK_FALSE(ended);
  caf::anon_send_exit(child, caf::exit_reason::kill);
  CHECK(g.root->wait_until_finished(patience));
  REQUIRE(eventually([&] { return ended.load(); }));
}

TEST_CASE("a supervisor that is killed while its children start goes on starting them", "[supervisor]") {
  garden g;
  auto slow = g.child("slow");
  slow.reports_start = true;
  auto sub = g.make({}, {g.child("a"), slow, g.child("z")});
  g.plant({.intensity = lenient}, {garden::place_for("sub", sub)});
  REQUIRE(eventually([&] { return g.starts_of("slow") == 1; }));
  REQUIRE(g.root->kill("/sub").has_value());
  sub->started("slow");
  const auto started = g.root->wait_until_started();
  CHECK(started.has_value());
  if (!started) {
    // If the start counts as failed, then nothing of it may be left.
    CHECK_FALSE(g.root->find("/sub/a"));
  }
}

// --- handlers that run too long -------------------------------------------------------------------------------------

TEST_CASE("a handler that runs too long is reported while it runs, and once", "[supervisor]") {
  garden g;
  const auto d = std::make_shared<desk>();
  auto child = desk_child(g, "slow", d);
  child.spec.handler_limit = 10ms;
  auto sub = g.make({}, {child});
  g.plant_and_wait({}, {garden::place_for("sub", sub)});
  std::promise<void> gate;
  const auto opened = gate.get_future().share();
  REQUIRE(post(*d, 1, 1, [opened] { opened.wait(); }));
  REQUIRE(g.happened(event_kind::overran, "/sub/slow"));
  CHECK(d->notes.count == 0);
  // The root has looked again.
  REQUIRE(eventually([&] { return figures_of(*d).busy_for > 2500ms; }));
  CHECK(g.events(event_kind::overran, "/sub/slow").size() == 1);
  CHECK(g.state("/sub/slow") == child_state::running);
  gate.set_value();
  CHECK(eventually([&] { return d->notes.count == 1; }));
  CHECK(g.paths(event_kind::failed).empty());
}

TEST_CASE("a limit is for one message, not for all that had come", "[supervisor]") {
  garden g;
  const auto d = std::make_shared<desk>();
  auto child = desk_child(g, "busy", d);
  child.spec.handler_limit = 500ms;
  g.plant_and_wait({}, {child});
  // Each takes 20 ms of work, far below the limit.
  const auto work_a_while = [] {
    const auto until = std::chrono::steady_clock::now() + 20ms;
    while (std::chrono::steady_clock::now() < until) {
    }
  };
  constexpr unsigned count = 150;
  for (unsigned n = 1; n <= count; ++n) REQUIRE(post(*d, 1, n, work_a_while));
  REQUIRE(eventually([&] { return d->notes.count == count; }));
  CHECK(g.events(event_kind::overran, "/busy").empty());
}

TEST_CASE("each handler that runs too long is told of, also when the one before was", "[supervisor]") {
  garden g;
  const auto d = std::make_shared<desk>();
  auto child = desk_child(g, "slow", d);
  child.spec.handler_limit = 10ms;
  g.plant_and_wait({}, {child});
  for (std::size_t round = 1; round <= 2; ++round) {
    std::promise<void> gate;
    const auto opened = gate.get_future().share();
    REQUIRE(post(*d, 1, 1, [opened] { opened.wait(); }));
    REQUIRE(g.happened(event_kind::overran, "/slow", round));
    gate.set_value();
    REQUIRE(eventually([&] { return d->notes.count == round; }));
    // The root looks again while nothing runs.
    const auto until = std::chrono::steady_clock::now() + 1500ms;
    REQUIRE(eventually([&] { return std::chrono::steady_clock::now() > until; }));
  }
  CHECK(g.events(event_kind::overran, "/slow").size() == 2);
}

TEST_CASE("children are asked how long they are busy only while some thread is so for long", "[supervisor]") {
  garden g;
  const auto d = std::make_shared<desk>();
  auto slow = desk_child(g, "slow", d);
  slow.spec.handler_limit = 100ms;
  std::atomic<int> asked{0};
  auto other = g.child("other");
  other.spec.handler_limit = 100ms;
  other.figures = [&asked] {
    ++asked;
    return actor_figures{};
  };
  auto sub = g.make({.how = strategy::dynamic}, {});
  g.plant_and_wait({}, {garden::place_for("sub", sub), slow});
  // More than are looked at under one lock.
  constexpr int count = 2000;
  for (int n = 0; n < count; ++n) {
    other.spec.name = std::to_string(n);
    sub->add(other);
  }
  REQUIRE(g.becomes("/sub/" + std::to_string(count - 1), child_state::running));
  asked = 0;  // nobody looks at the tree any more
  const auto until = std::chrono::steady_clock::now() + 2500ms;
  REQUIRE(eventually([&] { return std::chrono::steady_clock::now() > until; }));
  CHECK(asked == 0);
  std::promise<void> gate;
  const auto opened = gate.get_future().share();
  REQUIRE(post(*d, 1, 1, [opened] { opened.wait(); }));
  REQUIRE(g.happened(event_kind::overran, "/slow"));
  CHECK(eventually([&] { return asked >= count; }));
  gate.set_value();
  REQUIRE(eventually([&] { return d->notes.count == 1; }));
}

// --- children that sleep --------------------------------------------------------------------------------------------

TEST_CASE("a child that nobody wants yet is listed, and starts when it is wanted", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic}, {});
  g.plant_and_wait({}, {garden::place_for("pool", pool)});
  std::atomic<bool> is_wanted{false};
  auto child = g.child("a");
  child.is_wanted = [&] { return is_wanted.load(); };
  pool->add(child);
  REQUIRE(g.becomes("/pool/a", child_state::asleep));
  CHECK(g.root->show("/pool")->children == 1);
  CHECK(g.id("/pool/a") == 0);
  pool->wake("a");  // somebody is mistaken
  pool->wake("nobody");
  REQUIRE(g.root->restart("/pool").has_value());
  REQUIRE(g.happened(event_kind::stopped, "/pool"));
  REQUIRE(g.becomes("/pool/a", child_state::asleep));
  CHECK(g.starts_of("a") == 0);
  is_wanted = true;
  pool->wake("a");
  REQUIRE(g.becomes("/pool/a", child_state::running));
  CHECK(g.starts_of("a") == 1);
}

TEST_CASE("an operator wakes what sleeps, to kill it or to start it again", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic, .intensity = lenient}, {});
  g.plant_and_wait({}, {garden::place_for("pool", pool)});
  for (const auto* name : {"a", "b"}) {
    auto child = g.child(name);
    child.is_wanted = [] { return false; };
    pool->add(child);
    REQUIRE(g.becomes(std::string{"/pool/"} + name, child_state::asleep));
  }
  REQUIRE(g.root->kill("/pool/a").has_value());
  REQUIRE(g.happened(event_kind::restarted, "/pool/a"));
  CHECK(g.events(event_kind::failed, "/pool/a").front().why.kind == exit_kind::killed);
  CHECK(g.starts_of("a") == 2);
  REQUIRE(g.root->restart("/pool/b").has_value());
  REQUIRE(g.becomes("/pool/b", child_state::running));
  CHECK(g.starts_of("b") == 1);
  // It does not fall asleep again.
  const auto before = g.id("/pool/b");
  REQUIRE(g.root->restart("/pool/b").has_value());
  REQUIRE(g.replaced("/pool/b", before));
}

TEST_CASE("one that is restarted starts, though nobody wants it any more", "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic, .intensity = lenient}, {});
  g.plant_and_wait({}, {garden::place_for("pool", pool)});
  std::atomic<bool> is_wanted{true};
  auto child = g.child("a");
  child.is_wanted = [&] { return is_wanted.load(); };
  pool->add(child);
  REQUIRE(g.becomes("/pool/a", child_state::running));
  const auto before = g.id("/pool/a");
  is_wanted = false;  // as of a queue that was deleted meanwhile
  REQUIRE(g.root->restart("/pool/a").has_value());
  // Asleep it would never end, and one of its name would wait for that for ever.
  REQUIRE(g.replaced("/pool/a", before));
}

TEST_CASE("one that is added while another of its name ends is asked then whether it is wanted",
          "[supervisor]") {
  garden g;
  auto pool = g.make({.how = strategy::dynamic}, {});
  g.plant_and_wait({}, {garden::place_for("pool", pool)});
  auto first = g.child("a");
  first.spec.restart = restart_kind::temporary;
  pool->add(first);
  REQUIRE(g.becomes("/pool/a", child_state::running));
  const auto before = g.root->find("/pool/a");
  std::atomic<bool> is_wanted{false};
  auto second = g.child("a");
  second.is_wanted = [&] { return is_wanted.load(); };
  pool->add(second);
  is_wanted = true;
  pool->wake("a");
  caf::anon_send_exit(before, caf::exit_reason::user_shutdown);
  REQUIRE(eventually([&] { return g.starts_of("a") == 2; }));
  CHECK(g.becomes("/pool/a", child_state::running));
}

// --- the inbox ------------------------------------------------------------------------------------------------------

TEST_CASE("messages that came before, between and after actors are handled once, in order", "[inbox]") {
  garden g;
  const auto d = std::make_shared<desk>();
  unsigned last = 0;
  for (int n = 0; n < 1000; ++n) REQUIRE(post(*d, 1, ++last));
  CHECK(d->in.depth() == 1000);
  g.plant_and_wait({.intensity = lenient}, {desk_child(g, "desk", d)});
  for (int round = 0; round < 50; ++round) {
    const auto before = g.id("/desk");
    for (int n = 0; n < 10; ++n) REQUIRE(post(*d, 1, ++last));
    REQUIRE(g.root->kill("/desk").has_value());
    for (int n = 0; n < 10; ++n) REQUIRE(post(*d, 1, ++last));
    REQUIRE(g.replaced("/desk", before));
    for (int n = 0; n < 10; ++n) REQUIRE(post(*d, 1, ++last));
  }
  REQUIRE(eventually([&] { return d->notes.count == last; }));
  const std::lock_guard guard{d->notes.mutex};
  REQUIRE(d->notes.handled.size() == last);
  for (unsigned n = 0; n < last; ++n) REQUIRE(d->notes.handled[n].second == n + 1);
  CHECK(d->notes.discarded.empty());
  CHECK(d->notes.begun == 51);
  CHECK(d->notes.begun_after_failure == 0);
}

TEST_CASE("a message at which an actor failed is discarded by its successor, and the rest is handled",
          "[inbox]") {
  garden g;
  const auto d = std::make_shared<desk>();
  unsigned last = 0;
  for (int n = 0; n < 100; ++n) {
    REQUIRE(post(*d, 1, ++last));
    REQUIRE(post(*d, 2, ++last, [] { throw std::runtime_error{"bad message"}; }));
    REQUIRE(post(*d, 1, ++last));
  }
  g.plant_and_wait({.intensity = lenient}, {desk_child(g, "desk", d)});
  REQUIRE(eventually([&] { return d->notes.count == last; }));
  const std::lock_guard guard{d->notes.mutex};
  CHECK(d->notes.handled.size() == 200);
  CHECK(d->notes.discarded.size() == 100);
  CHECK(std::is_sorted(d->notes.handled.begin(), d->notes.handled.end()));
  CHECK(std::is_sorted(d->notes.discarded.begin(), d->notes.discarded.end()));
  CHECK(d->notes.begun == 101);
  CHECK(d->notes.begun_after_failure == 100);
}

TEST_CASE(
    "four threads post while the actor is killed a thousand times: nothing is lost, doubled or reordered",
    "[inbox]") {
  garden g;
  const auto d = std::make_shared<desk>();
  auto sub = g.make({.intensity = lenient}, {desk_child(g, "desk", d)});
  g.plant_and_wait({.intensity = lenient}, {garden::place_for("sub", sub)});
  constexpr unsigned threads = 4;
  std::atomic<bool> enough{false};
  std::vector<unsigned> sent(threads);
  std::vector<std::thread> posters;
  for (unsigned t = 0; t < threads; ++t) {
    posters.emplace_back([&, t] {
      unsigned number = 0;
      while (!enough) {
        // Not more than the actor can take.
        if (d->in.depth() > 10'000) {
          std::this_thread::yield();
          continue;
        }
        (void)post(*d, t, ++number);
      }
      sent[t] = number;
    });
  }
  bool all_came_back = true;
  for (int n = 0; n < 1000 && all_came_back; ++n) {
    const auto before = g.id("/sub/desk");
    if (n % 50 == 0) (void)g.root->kill("/sub");
    if (n % 70 == 0) (void)g.root->kill("/");
    (void)g.root->kill("/sub/desk");
    all_came_back = eventually([&] {
      const auto now = g.id("/sub/desk");
      return now != 0 && now != before;
    });
  }
  enough = true;
  std::size_t total = 0;
  for (unsigned t = 0; t < threads; ++t) {
    posters[t].join();
    total += sent[t];
  }
  REQUIRE(all_came_back);
  REQUIRE(eventually([&] { return d->notes.count == total; }));
  const std::lock_guard guard{d->notes.mutex};
  std::vector<unsigned> next(threads, 1);
  for (const auto& [from, number] : d->notes.handled) {
    REQUIRE(number == next[from]);
    ++next[from];
  }
  CHECK(d->notes.discarded.empty());
  CHECK(d->notes.begun == 1001);
  CHECK(figures_of(*d).handled == total);
}

TEST_CASE("a closed inbox takes nothing, and gives what stood behind the message of now", "[inbox]") {
  inbox<int> in;
  for (int n = 1; n <= 3; ++n) REQUIRE(in.post(int{n}));
  REQUIRE(in.next() != nullptr);
  in.done();
  REQUIRE(*in.next() == 2);
  CHECK(in.attempts() == 1);
  REQUIRE(in.post(4));
  CHECK(in.close() == std::vector<int>{3, 4});
  CHECK_FALSE(in.post(5));
  CHECK(in.next() == nullptr);
  in.done();
  CHECK(in.next() == nullptr);
  CHECK(in.close().empty());
  CHECK(in.depth() == 0);
}

TEST_CASE("an inbox is closed as idle only between two messages, and only if none waits", "[inbox]") {
  inbox<int> in;
  REQUIRE(in.post(1));
  REQUIRE(in.post(2));
  REQUIRE(*in.next() == 1);
  CHECK_FALSE(in.close_if_idle());
  in.done();
  CHECK_FALSE(in.close_if_idle());
  REQUIRE(*in.next() == 2);
  CHECK_FALSE(in.close_if_idle());
  in.done();
  REQUIRE(in.post(3));
  CHECK_FALSE(in.close_if_idle());
  REQUIRE(*in.next() == 3);
  in.done();
  CHECK(in.close_if_idle());
  CHECK_FALSE(in.post(4));
  CHECK(in.next() == nullptr);

  inbox<int> empty;
  CHECK(empty.close_if_idle());
  CHECK_FALSE(empty.post(1));
}

TEST_CASE("the depth of an inbox counts what its actor has taken out but not handled", "[inbox]") {
  inbox<int> in;
  for (int n = 0; n < 1000; ++n) REQUIRE(in.post(int{n}));
  CHECK(in.depth() == 1000);
  REQUIRE(in.next() != nullptr);
  CHECK(in.depth() >= 999);
}
