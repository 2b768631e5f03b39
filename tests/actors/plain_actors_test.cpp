// A program's own CAF actors under supervisors of the node.
#include "posthorn/supervision.hpp"

#include "posthorn/node.hpp"
#include "tests/persist/scratch.hpp"

#include <caf/event_based_actor.hpp>

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <mutex>
#include <thread>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr auto patience = 30s;  // under a sanitizer on a busy machine, too

template <class Condition>
bool eventually(Condition condition) {
  const auto give_up_at = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up_at) return false;
    std::this_thread::yield();
  }
  return true;
}

// What the children did, in order: "+a" for a start of a, "-a" for its end.
struct diary {
  std::mutex mutex;
  std::vector<std::string> lines;
  std::atomic<int> greeted{0};

  void note(std::string line) {
    const std::lock_guard guard{mutex};
    lines.push_back(std::move(line));
  }
  std::vector<std::string> all() {
    const std::lock_guard guard{mutex};
    return lines;
  }
  std::size_t count(const std::string& line) {
    const auto now = all();
    return static_cast<std::size_t>(std::count(now.begin(), now.end(), line));
  }
};
using diary_ptr = std::shared_ptr<diary>;

// A child that does what it is told.
child obedient(const std::string& name, const diary_ptr& d) {
  return child(name, [name, d](caf::actor_system& system) {
    d->note("+" + name);
    return system.spawn([name, d](caf::event_based_actor* self) -> caf::behavior {
      self->attach_functor([name, d](const caf::error&) { d->note("-" + name); });
      return {[self, d](const std::string& order) {
        if (order == "throw") throw std::runtime_error{"it was told to throw"};
        if (order == "end") self->quit();
        if (order == "greet") ++d->greeted;
      }};
    });
  });
}

struct a_node {
  a_node() {
    auto started = node::start({.data_directory = directory.path()});
    REQUIRE(started);
    running = std::move(*started);
  }
  [[nodiscard]] child_state state_of(const std::string& path) const {
    const auto report = running->tree().show(path);
    REQUIRE(report);
    return report->state;
  }
  [[nodiscard]] bool is_there(const std::string& path) const {
    return running->tree().show(path).has_value();
  }

  // The actor of now fails `times` times, each time as another one: what is sent to one that ends already is lost.
  void let_fail(const actor_reference& who, const std::string& name, std::size_t times) {
    caf::actor last;
    for (std::size_t i = 1; i <= times; ++i) {
      REQUIRE(eventually([&] {
        const auto now = who.get();
        if (!now || now == last) return false;
        last = now;
        return true;
      }));
      caf::anon_send(last, std::string{"throw"});
      REQUIRE(eventually([&] { return seen->count("-" + name) == i; }));
    }
  }

  scratch_directory directory;
  std::unique_ptr<node> running;
  diary_ptr seen = std::make_shared<diary>();
};

std::string text_of(const auto& failed) {
  REQUIRE_FALSE(failed);
  return failed.error().text;
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a group starts in order, stands in the tree, and stops in reverse", "[plain]") {
  a_node n;
  const auto workers = n.running->supervise(group("workers", strategy::one_for_all)
                                                .intensity(3, 10s)
                                                .with(obedient("a", n.seen))
                                                .with(group("inner").with(obedient("b", n.seen)))
                                                .with(obedient("c", n.seen)));
  REQUIRE(workers);
  CHECK(workers->path() == "/user/workers");
  CHECK(n.seen->all() == std::vector<std::string>{"+a", "+b", "+c"});
  std::vector<std::string> paths;
  REQUIRE(n.running->tree().walk("/user", 100, [&](const actor_report& r) { paths.push_back(r.path); }));
  CHECK(paths == std::vector<std::string>{"/user", "/user/workers", "/user/workers/a", "/user/workers/inner",
                                          "/user/workers/inner/b", "/user/workers/c"});
  const auto report = n.running->tree().show("/user/workers");
  REQUIRE(report);
  CHECK(report->how == strategy::one_for_all);
  CHECK(report->intensity == restart_intensity{3, 10s});

  REQUIRE(workers->stop());
  CHECK(n.seen->all() == std::vector<std::string>{"+a", "+b", "+c", "-c", "-b", "-a"});
  CHECK(eventually([&] { return !n.is_there("/user/workers"); }));
  // The name is free again.
  CHECK(n.running->supervise(group("workers").with(obedient("a", n.seen))));
}

TEST_CASE("a node that stops stops its groups first, the last one first", "[plain]") {
  a_node n;
  REQUIRE(n.running->supervise(group("one").with(obedient("a", n.seen)).with(obedient("b", n.seen))));
  const auto one = n.running->find_actor("/user/one/a");
  REQUIRE(one);
  n.running.reset();
  CHECK(n.seen->all() == std::vector<std::string>{"+a", "+b", "-b", "-a"});
  CHECK(one->get() == nullptr);
  CHECK_FALSE(one->send(std::string{"greet"}));
}

TEST_CASE("a reference leads to the actor of now, also after a restart", "[plain]") {
  a_node n;
  const auto workers = n.running->supervise(group("workers").intensity(100, 10s).with(obedient("a", n.seen)));
  REQUIRE(workers);
  const auto a = workers->find("a");
  REQUIRE(a);
  CHECK(a->path() == "/user/workers/a");
  const auto first = a->get();
  REQUIRE(first);
  CHECK(a->send(std::string{"greet"}));
  CHECK(eventually([&] { return n.seen->greeted == 1; }));

  a->send(std::string{"throw"});
  CHECK(eventually([&] { return a->get() && a->get() != first; }));
  CHECK(eventually([&] {
    a->send(std::string{"greet"});
    return n.seen->greeted > 1;
  }));
  REQUIRE(eventually([&] {
    const auto now = n.running->tree().show("/user/workers/a");
    return now && now->restarts == 1;
  }));
  const auto report = n.running->tree().show("/user/workers/a");
  REQUIRE(report);
  REQUIRE(report->last_failure);
  CHECK(report->last_failure->kind == exit_kind::exception);
  CHECK(has(report->last_failure->reason, "it was told to throw"));

  const auto second = a->get();
  REQUIRE(n.running->tree().kill("/user/workers/a"));
  CHECK(eventually([&] { return a->get() && a->get() != second; }));
  CHECK(n.running->find_actor("/user/workers/a")->get() == a->get());
  CHECK(text_of(n.running->find_actor("/user/workers/b")) ==
        "no actor of this program has the path '/user/workers/b'; see `posthorn actors tree /user`");
  CHECK_FALSE(n.running->find_actor("/user/others/a"));
  CHECK_FALSE(n.running->find_actor("/journal"));
  CHECK_FALSE(actor_reference{}.get());
}

TEST_CASE("strategies and restart kinds are those of the tree", "[plain]") {
  a_node n;
  const auto all = n.running->supervise(group("all", strategy::one_for_all)
                                            .intensity(100, 10s)
                                            .with(obedient("a", n.seen))
                                            .with(obedient("b", n.seen)));
  REQUIRE(all);
  all->find("a")->send(std::string{"throw"});
  CHECK(eventually([&] { return n.seen->count("+b") == 2; }));
  CHECK(eventually([&] { return n.seen->count("-b") == 1; }));

  const auto some = n.running->supervise(group("some")
                                             .with(obedient("c", n.seen).restart(restart_kind::transient))
                                             .with(obedient("d", n.seen).restart(restart_kind::temporary)));
  REQUIRE(some);
  some->find("c")->send(std::string{"end"});
  some->find("d")->send(std::string{"throw"});
  CHECK(eventually([&] { return n.state_of("/user/some/c") == child_state::stopped; }));
  CHECK(eventually([&] { return !n.is_there("/user/some/d"); }));
  CHECK(eventually([&] { return n.seen->count("+c") == 1; }));
  CHECK(eventually([&] { return n.seen->count("+d") == 1; }));
  CHECK(eventually([&] { return some->find("c")->get() == nullptr; }));
  REQUIRE(some->restart("c"));
  CHECK(eventually([&] { return some->find("c")->get() != nullptr; }));
}

TEST_CASE("a decider, a back-off and a budget are asked", "[plain]") {
  a_node n;
  const auto g = n.running->supervise(
      group("g")
          .with(obedient("stays down", n.seen).decide([](const failure&) { return directive::stop; }))
          .with(obedient("waits", n.seen).back_off({.minimum = 1h, .maximum = 2h}))
          .with(obedient("gives up", n.seen).budget(1, 1h)));
  REQUIRE(g);
  g->find("stays down")->send(std::string{"throw"});
  CHECK(eventually([&] { return n.state_of("/user/g/stays%20down") == child_state::failed; }));
  g->find("waits")->send(std::string{"throw"});
  CHECK(eventually([&] { return n.state_of("/user/g/waits") == child_state::backing_off; }));
  CHECK(eventually([&] { return g->find("waits")->get() == nullptr; }));
  n.let_fail(*g->find("gives up"), "gives up", 2);
  CHECK(eventually([&] { return n.state_of("/user/g/gives%20up") == child_state::failed; }));
  // One that waits can be stopped, too.
  REQUIRE(g->stop("waits"));
  CHECK(n.state_of("/user/g/waits") == child_state::stopped);
}

TEST_CASE("children of a dynamic group come and go at run time", "[plain]") {
  a_node n;
  const auto pool = n.running->supervise(group("pool", strategy::dynamic).intensity(5, 10s));
  REQUIRE(pool);
  for (int i = 0; i < 20; ++i) {
    const auto started = pool->start(obedient(std::to_string(i), n.seen));
    REQUIRE(started);
    CHECK(started->get());
  }
  CHECK(n.running->tree().show("/user/pool")->children == 20);
  CHECK(has(text_of(pool->start(obedient("7", n.seen))), "has a child '7', which is running"));
  // Permanent as they are, and more of them than the intensity allows: to stop one is no failure.
  for (int i = 0; i < 20; ++i) REQUIRE(pool->stop(std::to_string(i)));
  CHECK(eventually([&] { return n.running->tree().show("/user/pool")->children == 0; }));
  for (int i = 0; i < 20; ++i) {
    CHECK(n.seen->count("-" + std::to_string(i)) == 1);
    CHECK(n.seen->count("+" + std::to_string(i)) == 1);
  }
  CHECK(pool->stop("7"));  // it is so already
  CHECK(has(text_of(pool->stop("nobody")), "has no child 'nobody'"));
  // A name is free as soon as its child has stopped.
  for (int i = 0; i < 20; ++i) {
    const auto again = pool->start(obedient("7", n.seen));
    INFO((again ? "" : again.error().text));
    REQUIRE(again);
    CHECK(again->get());
    REQUIRE(pool->stop("7"));
  }
  CHECK(n.seen->count("+7") == 21);
  // A group may come at run time, too.
  const auto inner = pool->start(group("inner").with(obedient("a", n.seen)));
  REQUIRE(inner);
  CHECK(inner->path() == "/user/pool/inner");
  CHECK(pool->group("inner")->find("a")->get());
  REQUIRE(pool->stop("inner"));
  CHECK(eventually([&] { return n.seen->count("-a") == 1; }));
}

TEST_CASE("a bad child of a dynamic group is given up alone", "[plain]") {
  a_node n;
  const auto pool = n.running->supervise(group("pool", strategy::dynamic).intensity(2, 1h));
  REQUIRE(pool);
  REQUIRE(pool->start(obedient("good", n.seen)));
  REQUIRE(pool->start(obedient("bad", n.seen)));
  const auto bad = pool->find("bad");
  n.let_fail(*bad, "bad", 3);
  CHECK(eventually([&] { return n.state_of("/user/pool/bad") == child_state::failed; }));
  REQUIRE(pool->stop("bad"));  // and it is forgotten
  CHECK_FALSE(n.is_there("/user/pool/bad"));
  CHECK(eventually([&] { return n.seen->count("+bad") == 3; }));
  CHECK(n.seen->count("-good") == 0);
  CHECK(pool->find("good")->send(std::string{"greet"}));
}

TEST_CASE("a group that fails too often is given up, and the node lives on", "[plain]") {
  a_node n;
  const auto g = n.running->supervise(
      group("g").intensity(1, 1h).with(obedient("a", n.seen)).with(obedient("b", n.seen)));
  REQUIRE(g);
  n.let_fail(*g->find("a"), "a", 2);
  CHECK(eventually([&] { return !n.is_there("/user/g"); }));
  CHECK(eventually([&] { return n.seen->count("-b") == 1; }));
  CHECK(n.state_of("/journal") == child_state::running);
  CHECK(n.running->supervise(group("g").with(obedient("a", n.seen))));
}

TEST_CASE("a group that fails too often is started again by the group that it stands in", "[plain]") {
  a_node n;
  const auto outer = n.running->supervise(
      group("outer").intensity(1, 1h).with(group("inner").intensity(0, 1h).with(obedient("a", n.seen))));
  REQUIRE(outer);
  CHECK(has(text_of(outer->stop("inner")), "stop that one"));
  const auto a = n.running->find_actor("/user/outer/inner/a");
  REQUIRE(a);
  n.let_fail(*a, "a", 2);
  CHECK(eventually([&] { return n.seen->count("+a") == 2; }));
  CHECK(eventually([&] { return !n.is_there("/user/outer"); }));
}

TEST_CASE("a stopped child of a static group stays so until it is restarted", "[plain]") {
  a_node n;
  const auto g = n.running->supervise(group("g").with(obedient("a", n.seen)).with(obedient("b", n.seen)));
  REQUIRE(g);
  const auto a = g->find("a");
  for (int i = 0; i < 10; ++i) {
    REQUIRE(g->stop("a"));
    CHECK(n.state_of("/user/g/a") == child_state::stopped);
    CHECK(eventually([&] { return a->get() == nullptr; }));
    CHECK(g->stop("a"));
    CHECK(has(text_of(g->start(obedient("a", n.seen))), "'/user/g' has a child 'a', which is"));
    REQUIRE(g->restart("a"));
    CHECK(eventually([&] { return a->get() != nullptr; }));
  }
  CHECK(n.running->tree().show("/user/g/a")->restarts == 0);
  CHECK(n.seen->count("-b") == 0);
  // More can come behind those of the start.
  CHECK(g->start(obedient("c", n.seen)));
  CHECK(eventually([&] { return n.state_of("/user/g/c") == child_state::running; }));
}

TEST_CASE("a supervisor of the program's that is killed finds its children", "[plain]") {
  a_node n;
  const auto g = n.running->supervise(group("g").with(obedient("a", n.seen)));
  REQUIRE(g);
  const auto a = g->find("a")->get();
  for (const auto* path : {"/user/g", "/user", "/"}) {
    caf::actor before;  // it may have started a moment ago, and not stand there yet
    REQUIRE(eventually([&] { return (before = n.running->tree().find(path)) != nullptr; }));
    REQUIRE(eventually([&] { return n.running->tree().kill(path).has_value(); }));
    CHECK(eventually([&] {
      const auto now = n.running->tree().find(path);
      return now && now != before;
    }));
  }
  CHECK(g->find("a")->get() == a);
  REQUIRE(g->stop());
  CHECK(eventually([&] { return n.seen->count("-a") == 1; }));
}

TEST_CASE("a group that cannot start says why, and leaves nothing behind", "[plain]") {
  a_node n;
  const auto failing = n.running->supervise(
      group("g").with(obedient("a", n.seen)).with(child("b", [](caf::actor_system&) -> caf::actor {
        throw std::runtime_error{"the file is missing"};
      })));
  const auto text = text_of(failing);
  INFO(text);
  CHECK(has(text, "'/user/g' did not start"));
  CHECK(has(text, "the file is missing"));
  CHECK(eventually([&] { return n.seen->count("-a") == 1; }));
  CHECK(eventually([&] { return !n.is_there("/user/g"); }));

  const auto g = n.running->supervise(group("g").with(obedient("a", n.seen)));
  REQUIRE(g);
  CHECK(has(
      text_of(g->start(child(
          "b", [](caf::actor_system&) -> caf::actor { throw std::runtime_error{"the file is missing"}; }))),
      "the file is missing"));
  CHECK(
      has(text_of(g->start(child("c", [](caf::actor_system&) { return caf::actor{}; }))), "nothing to run"));
}

TEST_CASE("wrong specifications are refused with what to do, and run nothing", "[plain]") {
  a_node n;
  const auto refused = [&](const group& g) {
    const auto failed = n.running->supervise(g);
    REQUIRE_FALSE(failed);
    CHECK(failed.error().code == errc::refused);
    INFO(failed.error().text);
    CHECK(has(failed.error().text, "'/user"));
  };
  refused(group("g").with(obedient("a", n.seen)).with(obedient("a", n.seen)));  // two of one name
  refused(group("g").intensity(0, 0ms).with(obedient("a", n.seen)));
  refused(group("g").with(obedient("", n.seen)));
  refused(group("").with(obedient("a", n.seen)));
  refused(group("g").with(group("inner").intensity(0, 0ms)));
  refused(group("g", strategy::dynamic).with(obedient("a", n.seen)));
  REQUIRE(n.running->supervise(group("g")));
  refused(group("g"));
  CHECK(n.seen->all().empty());
}

TEST_CASE("a typed actor is found with its type", "[plain]") {
  using counter = caf::typed_actor<caf::result<int>(int)>;
  a_node n;
  const auto g = n.running->supervise(group("g").with(child("counter", [](caf::actor_system& system) {
    return system.spawn(
        [](counter::pointer) -> counter::behavior_type { return {[](int by) { return by + 1; }}; });
  })));
  REQUIRE(g);
  caf::scoped_actor self{n.running->system()};
  int answer = 0;
  self->request(g->find("counter")->as<counter>(), patience, 41)
      .receive([&](int got) { answer = got; }, [](const caf::error&) {});
  CHECK(answer == 42);
}

TEST_CASE("many threads start and stop children at once", "[plain]") {
  a_node n;
  const auto pool = n.running->supervise(group("pool", strategy::dynamic));
  REQUIRE(pool);
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        const auto name = std::to_string(t) + "." + std::to_string(i);
        if (!pool->start(obedient(name, n.seen)) || (i % 2 == 0 && !pool->stop(name))) ++failed;
      }
    });
  }
  for (auto& t : threads) t.join();
  CHECK(failed == 0);
  CHECK(eventually([&] { return n.running->tree().show("/user/pool")->children == 4 * 12; }));
}
