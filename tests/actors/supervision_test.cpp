#include "actors/supervision.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

using fx_t = supervision_effects;
using event_kind = fx_t::event_kind;
using how = strategy;
constexpr auto permanent = restart_kind::permanent;
constexpr auto transient = restart_kind::transient;
constexpr auto temporary = restart_kind::temporary;

child_spec a_child(std::string name, restart_kind restart = permanent) {
  return {.name = std::move(name), .restart = restart};
}

// Children a, b, c... of one kind, and an intensity that is not in the way.
supervisor_spec a_supervisor(strategy which, std::string_view names = "abc",
                             restart_kind restart = permanent) {
  supervisor_spec spec{.how = which, .intensity = {1000, 1s}};
  for (const char name : names) spec.children.push_back(a_child(std::string(1, name), restart));
  return spec;
}

// The world around a supervisor: answers what is asked of the children at once, unless it is told not to, and has
// the only clock. What was asked is kept as words: "start a", "stop a", "kill a", "finished shutdown".
class world {
public:
  using time_point = supervision::time_point;

  explicit world(supervisor_spec spec, std::uint64_t seed = 1)
      : core_{supervision::make(std::move(spec), seed).value()} {}

  // What the next starts do, until they are taken out again.
  std::map<std::string, int, std::less<>> failing;  // how many starts fail
  std::set<std::string, std::less<>> hanging;       // a start is not answered
  std::set<std::string, std::less<>> ignoring;      // a start is answered as `ignore`
  std::set<std::string, std::less<>> deaf;          // a stop is not answered
  std::set<std::string, std::less<>> undead;        // a kill is not answered

  time_point now{1h};
  supervision& core() { return core_; }

  world& start() {
    return tell([&](fx_t& fx) { core_.start(now, fx); });
  }
  world& started(std::string_view name) {
    return tell([&](fx_t& fx) { core_.started(name, now, fx); });
  }
  world& start_fails(std::string_view name, failure why = {exit_kind::error, "no"}) {
    return tell([&](fx_t& fx) { core_.start_failed(name, why, now, fx); });
  }
  world& ends(std::string_view name, exit_kind kind = exit_kind::error) {
    return tell([&](fx_t& fx) { core_.ended(name, {kind, "boom"}, now, fx); });
  }
  world& overruns(std::string_view name, std::chrono::milliseconds took) {
    return tell([&](fx_t& fx) { core_.overran(name, took, now, fx); });
  }
  world& shut_down() {
    return tell([&](fx_t& fx) { core_.shut_down(now, fx); });
  }
  result<void> add(child_spec spec) {
    return ask([&](fx_t& fx) { return core_.add_child(std::move(spec), now, fx); });
  }
  result<void> adopt(child_spec spec) {
    return ask([&](fx_t& fx) { return core_.adopt_child(std::move(spec), now, fx); });
  }
  result<void> add_sleeping(child_spec spec) {
    return ask([&](fx_t& fx) { return core_.add_sleeping_child(std::move(spec), now, fx); });
  }
  world& wake(std::string_view name) {
    return tell([&](fx_t& fx) { core_.wake_child(name, now, fx); });
  }
  result<void> terminate(std::string_view name) {
    return ask([&](fx_t& fx) { return core_.terminate_child(name, now, fx); });
  }
  result<void> restart(std::string_view name) {
    return ask([&](fx_t& fx) { return core_.restart_child(name, now, fx); });
  }

  // Time passes, and every alarm rings at its time.
  world& pass(std::chrono::nanoseconds time) {
    const auto until = now + time;
    while (core_.wake_at() && *core_.wake_at() <= until) {
      now = std::max(now, *core_.wake_at());
      tell([&](fx_t& fx) { core_.on_time(now, fx); });
    }
    now = until;
    return *this;
  }

  // What has been asked for since the last time, or since the last `forget`.
  std::string asked() { return std::exchange(asked_, {}); }
  std::string events() { return std::exchange(events_, {}); }
  world& forget() {
    asked_.clear();
    events_.clear();
    return *this;
  }
  [[nodiscard]] const failure& end() const { return end_; }

  [[nodiscard]] std::string states() const {
    std::string all;
    core_.for_each_child([&](const child_status& c) {
      all += (all.empty() ? "" : ", ") + std::string{c.name} + " " + std::string{to_string(c.state)};
    });
    return all;
  }
  [[nodiscard]] child_state state(std::string_view name) const {
    return core_.find_child(name).value().state;
  }

private:
  world& tell(const std::function<void(fx_t&)>& event) {
    fx_t fx;
    event(fx);
    run(std::move(fx));
    return *this;
  }
  result<void> ask(const std::function<result<void>(fx_t&)>& order) {
    fx_t fx;
    auto answer = order(fx);
    run(std::move(fx));
    return answer;
  }

  void note(std::string& log, std::string text) { log += (log.empty() ? "" : ", ") + std::move(text); }

  void run(fx_t first) {
    std::deque<fx_t::effect> todo(first.list.begin(), first.list.end());
    while (!todo.empty()) {
      const auto effect = std::move(todo.front());
      todo.pop_front();
      fx_t fx;
      if (const auto* e = std::get_if<fx_t::start_child>(&effect)) {
        note(asked_, "start " + e->name);
        if (ignoring.contains(e->name))
          core_.start_failed(e->name, {exit_kind::normal, ""}, now, fx);
        else if (failing[e->name] > 0) {
          --failing[e->name];
          core_.start_failed(e->name, {exit_kind::error, "no"}, now, fx);
        } else if (!hanging.contains(e->name))
          core_.started(e->name, now, fx);
      } else if (const auto* s = std::get_if<fx_t::stop_child>(&effect)) {
        note(asked_, "stop " + s->name);
        if (!deaf.contains(s->name)) core_.ended(s->name, {exit_kind::shutdown, ""}, now, fx);
      } else if (const auto* k = std::get_if<fx_t::kill_child>(&effect)) {
        note(asked_, "kill " + k->name);
        if (!undead.contains(k->name)) core_.ended(k->name, {exit_kind::killed, ""}, now, fx);
      } else if (const auto* f = std::get_if<fx_t::finished>(&effect)) {
        note(asked_, "finished " + std::string{to_string(f->why.kind)});
        end_ = f->why;
      } else if (const auto* v = std::get_if<fx_t::event>(&effect)) {
        note(events_, std::string{to_string(v->kind)} + " " + v->name);
      }
      todo.insert(todo.end(), fx.list.begin(), fx.list.end());
    }
  }

  supervision core_;
  std::string asked_, events_;
  failure end_;
};

world running(supervisor_spec spec) {
  world w{std::move(spec)};
  w.start().forget();
  return w;
}

}  // namespace

// ---- specs

TEST_CASE("a wrong supervisor spec is refused at once, with what to do about it", "[supervision]") {
  struct row {
    std::string_view name;
    std::function<void(supervisor_spec&)> spoil;
    std::string_view says;
  };
  const auto rows = std::vector<row>{
      {"two children of one name", [](auto& s) { s.children[1].name = "a"; }, "two children are named 'a'"},
      {"a child without a name", [](auto& s) { s.children[0].name = ""; }, "has no name"},
      {"a name with a slash", [](auto& s) { s.children[0].name = "x/y"; }, "leave out the '/'"},
      {"intensity 0 over 0",
       [](auto& s) {
         s.intensity = {0, 0ms};
       },
       "0 restarts within 0 ms"},
      {"a period of 0",
       [](auto& s) {
         s.intensity = {3, 0ms};
       },
       "give a period above 0"},
      {"a negative period",
       [](auto& s) {
         s.intensity = {3, -1ms};
       },
       "not negative"},
      {"a period beyond all clocks",
       [](auto& s) {
         s.intensity = {3, std::chrono::milliseconds::max()};
       },
       "at most"},
      {"children in a dynamic supervisor's spec", [](auto& s) { s.how = how::dynamic; }, "add_child"},
      {"more children than children_max", [](auto& s) { s.children_max = 2; }, "children_max"},
      {"children_max 0", [](auto& s) { s.children_max = 0; }, "at least one"},
      {"a significant child with auto_shutdown never",
       [](auto& s) {
         s.children[0].significant = true;
         s.children[0].restart = transient;
       },
       "auto_shutdown is never"},
      {"a significant child that is permanent",
       [](auto& s) {
         s.children[0].significant = true;
         s.shutdown_when = auto_shutdown::any_significant;
       },
       "make it transient or temporary"},
      {"a back-off maximum below its minimum",
       [](auto& s) { s.children[0].back_off = {.minimum = 10ms, .maximum = 9ms}; }, "below its minimum"},
      {"a back-off maximum without a minimum", [](auto& s) { s.children[0].back_off = {.maximum = 9ms}; },
       "give both, or neither"},
      {"a negative back-off minimum",
       [](auto& s) { s.children[0].back_off = {.minimum = -1ms, .maximum = 9ms}; }, "not negative"},
      {"a negative reset_after", [](auto& s) { s.children[0].back_off.reset_after = -1ms; }, "reset_after"},
      {"a jitter above 1", [](auto& s) { s.children[0].back_off.jitter = 1.01; }, "from 0 to 1"},
      {"a negative jitter", [](auto& s) { s.children[0].back_off.jitter = -0.1; }, "from 0 to 1"},
      {"a jitter that is no number", [](auto& s) { s.children[0].back_off.jitter = std::stod("nan"); },
       "from 0 to 1"},
      {"a negative shutdown time", [](auto& s) { s.children[0].shutdown = shutdown_rule::within(-1ms); },
       "shutdown time"},
      {"a negative start deadline", [](auto& s) { s.children[0].start_deadline = -1ms; }, "start_deadline"},
      {"a negative handler limit", [](auto& s) { s.children[0].handler_limit = -1ms; }, "handler_limit"},
      {"a budget of 0 ms",
       [](auto& s) {
         s.children[0].budget = {{1, 0ms}};
       },
       "its budget"},
      {"a budget under one_for_all",
       [](auto& s) {
         s.how = how::one_for_all;
         s.children[0].budget = restart_intensity{};
       },
       "one_for_all"},
      {"a budget under rest_for_one",
       [](auto& s) {
         s.how = how::rest_for_one;
         s.children[0].budget = restart_intensity{};
       },
       "rest_for_one"},
  };
  const auto& r = rows[GENERATE(range(std::size_t{0}, std::size_t{25}))];
  REQUIRE(rows.size() == 25);
  DYNAMIC_SECTION(r.name) {
    auto spec = a_supervisor(how::one_for_one);
    REQUIRE(supervision::make(spec, 1).has_value());
    r.spoil(spec);
    const auto made = supervision::make(spec, 1);
    REQUIRE(made.has_error());
    CHECK(made.error().code == errc::refused);
    INFO(made.error().text);
    CHECK(made.error().text.find(r.says) != std::string::npos);
  }
}

TEST_CASE("the defaults are OTP's", "[supervision]") {
  CHECK(supervisor_spec{}.how == how::one_for_one);
  CHECK(supervisor_spec{}.intensity == restart_intensity{1, 5s});
  CHECK(supervisor_spec{}.shutdown_when == auto_shutdown::never);
  CHECK(child_spec{}.restart == permanent);
  CHECK_FALSE(child_spec{}.significant);
}

TEST_CASE("an empty supervisor starts, and shuts down at once", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one, how::dynamic);
  world w{{.how = which}};
  CHECK(w.start().asked().empty());
  CHECK_FALSE(w.core().is_finished());
  CHECK(w.shut_down().asked() == "finished shutdown");
  CHECK(w.core().is_finished());
}

// ---- start

TEST_CASE("children start in the order of the spec", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one);
  world w{a_supervisor(which)};
  w.start();
  CHECK(w.events() == "started a, started b, started c");
  CHECK(w.asked() == "start a, start b, start c");
  CHECK(w.states() == "a running, b running, c running");
}

TEST_CASE("the next child starts only after the one before has started", "[supervision]") {
  world w{a_supervisor(how::one_for_one)};
  w.hanging = {"a", "b"};
  CHECK(w.start().asked() == "start a");
  CHECK(w.states() == "a starting, b waiting, c waiting");
  CHECK(w.started("a").asked() == "start b");
  CHECK(w.started("b").asked() == "start c");
}

TEST_CASE("failed_to_start_child: those that were started are stopped in reverse order", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one);
  world w{a_supervisor(which, "abcd")};
  w.failing["c"] = 1;
  CHECK(w.start().asked() == "start a, start b, start c, stop b, stop a, finished start_failed");
  CHECK(w.end().reason == "failed_to_start_child: 'c' (error: no)");
  CHECK(w.events() == "started a, started b, start_failed c, stopped b, stopped a");
}

TEST_CASE("failed_to_start_child of the first child finishes the supervisor at once", "[supervision]") {
  world w{a_supervisor(how::one_for_one)};
  w.failing["a"] = 1;
  CHECK(w.start().asked() == "start a, finished start_failed");
}

TEST_CASE("a temporary child that fails to start stops the start as any other", "[supervision]") {
  world w{a_supervisor(how::one_for_one, "ab", temporary)};
  w.failing["b"] = 1;
  CHECK(w.start().asked() == "start a, start b, stop a, finished start_failed");
}

TEST_CASE("ignore: a child with nothing to run does not stop the start", "[supervision]") {
  world w{a_supervisor(how::one_for_one)};
  w.ignoring = {"b"};
  CHECK(w.start().asked() == "start a, start b, start c");
  CHECK(w.states() == "a running, b stopped, c running");
  w.ignoring.clear();
  CHECK(w.restart("b").has_value());
  CHECK(w.state("b") == child_state::running);
}

TEST_CASE("ignore: a temporary child's spec is not kept", "[supervision]") {
  world w{a_supervisor(how::one_for_one, "abc", temporary)};
  w.ignoring = {"b"};
  w.start();
  CHECK(w.states() == "a running, c running");
}

TEST_CASE("a child that ends before it has started has failed to start", "[supervision]") {
  const auto kind = GENERATE(exit_kind::error, exit_kind::normal, exit_kind::shutdown, exit_kind::killed);
  world w{a_supervisor(how::one_for_one)};
  w.hanging = {"b"};
  w.start().forget();
  CHECK(w.ends("b", kind).asked() == "stop a, finished start_failed");
}

TEST_CASE("a missed start deadline kills the child, and is a failure to start", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.children[1].start_deadline = 300ms;
  world w{spec};
  w.hanging = {"b"};
  w.undead = {"b"};
  w.start().forget();
  CHECK(w.pass(299ms).asked().empty());
  CHECK(w.pass(1ms).asked() == "kill b");
  CHECK(w.ends("b", exit_kind::killed).asked() == "stop a, finished start_failed");
  CHECK(w.end().reason == "failed_to_start_child: 'b' (start_timeout: it did not start within 300 ms)");
}

TEST_CASE("a start deadline that was met is forgotten", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].start_deadline = 300ms;
  auto w = running(spec);
  CHECK_FALSE(w.core().wake_at().has_value());
  CHECK(w.pass(1h).asked().empty());
}

TEST_CASE("a missed start deadline of a restart counts as one more failure", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].start_deadline = 300ms;
  spec.intensity = {2, 1h};
  auto w = running(spec);
  w.hanging = {"a"};
  CHECK(w.ends("a").asked() == "start a");
  CHECK(w.pass(300ms).asked() == "kill a, start a");
  CHECK(w.pass(300ms).asked() == "kill a, finished shutdown");
}

TEST_CASE("a child that started but was killed for its deadline meanwhile is killed once more",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].start_deadline = 300ms;
  world w{spec};
  w.hanging = w.undead = {"a"};
  w.start().pass(300ms).forget();
  CHECK(w.started("a").asked() == "kill a");
}

TEST_CASE("shutdown during the start stops the starting child too, and starts no other", "[supervision]") {
  world w{a_supervisor(how::one_for_one)};
  w.hanging = {"b"};
  w.deaf = {"b"};
  w.start().forget();
  CHECK(w.shut_down().asked() == "stop b");
  SECTION("when its start could be cut short") {
    CHECK(w.start_fails("b").asked() == "stop a, finished shutdown");
  }
  SECTION("when it has started meanwhile, it is asked again") {
    CHECK(w.started("b").asked() == "stop b");
    CHECK(w.ends("b", exit_kind::shutdown).asked() == "stop a, finished shutdown");
  }
  CHECK(w.events() == "stopped b, stopped a");
}

TEST_CASE("one_for_one: a child that fails during the start is restarted beside it", "[supervision]") {
  world w{a_supervisor(how::one_for_one)};
  w.hanging = {"b"};
  w.start().forget();
  CHECK(w.ends("a").asked() == "start a");
  CHECK(w.started("b").asked() == "start c");
  CHECK(w.states() == "a running, b running, c running");
}

TEST_CASE("one_for_all: a child that fails during the start starts all again", "[supervision]") {
  world w{a_supervisor(how::one_for_all)};
  w.hanging = {"b"};
  w.start().forget();
  CHECK(w.ends("a").asked() == "stop b, start a, start b");
  CHECK(w.started("b").asked() == "start c");
}

TEST_CASE("one_for_all: a temporary child that has not started yet is not lost to a failure during the start",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.children[2].restart = temporary;
  world w{spec};
  w.hanging = {"b"};
  w.start();
  w.ends("a").started("b");
  CHECK(w.states() == "a running, b running, c running");
}

TEST_CASE("one_for_all: a failed start after a failure during the start still undoes the start",
          "[supervision]") {
  world w{a_supervisor(how::one_for_all)};
  w.hanging = {"b"};
  w.start();
  w.ends("a").forget();
  CHECK(w.start_fails("b").asked() == "stop a, finished start_failed");
}

// ---- strategies

TEST_CASE("strategies restart those children that OTP restarts", "[supervision]") {
  struct row {
    strategy which;
    std::string_view fails, asked;
  };
  const auto r = GENERATE(row{how::one_for_one, "a", "start a"}, row{how::one_for_one, "b", "start b"},
                          row{how::one_for_one, "c", "start c"},
                          row{how::one_for_all, "a", "stop c, stop b, start a, start b, start c"},
                          row{how::one_for_all, "b", "stop c, stop a, start a, start b, start c"},
                          row{how::one_for_all, "c", "stop b, stop a, start a, start b, start c"},
                          row{how::rest_for_one, "a", "stop c, stop b, start a, start b, start c"},
                          row{how::rest_for_one, "b", "stop c, start b, start c"},
                          row{how::rest_for_one, "c", "start c"});
  DYNAMIC_SECTION(to_string(r.which) << ": " << r.fails << " fails") {
    auto w = running(a_supervisor(r.which));
    CHECK(w.ends(r.fails).asked() == r.asked);
    CHECK(w.states() == "a running, b running, c running");
    CHECK_FALSE(w.core().is_finished());
  }
}

TEST_CASE("the others are stopped one after the other", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_all));
  w.deaf = {"b", "c"};
  CHECK(w.ends("a").asked() == "stop c");
  CHECK(w.ends("c", exit_kind::shutdown).asked() == "stop b");
  CHECK(w.ends("b", exit_kind::shutdown).asked() == "start a, start b, start c");
}

TEST_CASE("a child that ends by itself while others are stopped is not counted as a failure",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.intensity = {1, 1h};
  auto w = running(spec);
  w.deaf = {"c"};
  CHECK(w.ends("a").asked() == "stop c");
  CHECK(w.ends("b").asked().empty());
  CHECK(w.ends("c", exit_kind::shutdown).asked() == "start a, start b, start c");
  CHECK(w.core().find_child("b")->last_failure->reason == "boom");
}

TEST_CASE("rest_for_one: an earlier child that fails meanwhile widens the group", "[supervision]") {
  auto w = running(a_supervisor(how::rest_for_one, "abcd"));
  w.deaf = {"d"};
  CHECK(w.ends("c").asked() == "stop d");
  CHECK(w.ends("b").asked().empty());
  CHECK(w.ends("d", exit_kind::shutdown).asked() == "start b, start c, start d");
  CHECK(w.events() == "failed c, failed b, stopped d, restarted b, restarted c, restarted d");
}

TEST_CASE("rest_for_one: a later child that fails while the group starts is where it starts again",
          "[supervision]") {
  auto w = running(a_supervisor(how::rest_for_one, "abcd"));
  w.hanging = {"d"};
  w.ends("a").forget();
  CHECK(w.ends("b").asked() == "stop d, stop c, start b, start c, start d");
  CHECK(w.states() == "a running, b running, c running, d starting");
}

TEST_CASE("one_for_all: transient children that ended normally start again with their siblings",
          "[supervision]") {
  auto w = running(a_supervisor(how::one_for_all, "abc", transient));
  CHECK(w.ends("b", exit_kind::normal).asked().empty());
  CHECK(w.ends("a").asked() == "stop c, start a, start b, start c");
}

TEST_CASE("one_for_all: terminated children start again with their siblings", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_all));
  REQUIRE(w.terminate("b").has_value());
  w.forget();
  CHECK(w.ends("a").asked() == "stop c, start a, start b, start c");
}

TEST_CASE("temporary children are stopped, not restarted, with their siblings, and forgotten",
          "[supervision]") {
  struct row {
    strategy which;
    std::string_view fails, asked, states;
  };
  const auto r = GENERATE(
      row{how::one_for_all, "c", "stop d, stop b, stop a, start b, start c", "b running, c running"},
      row{how::rest_for_one, "b", "stop d, stop c, start b, start c", "a running, b running, c running"});
  auto spec = a_supervisor(r.which, "abcd");
  spec.children[0].restart = temporary;
  spec.children[3].restart = temporary;
  auto w = running(spec);
  CHECK(w.ends(r.fails).asked() == r.asked);
  CHECK(w.states() == r.states);
}

TEST_CASE("a temporary child that fails does not restart its siblings", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one);
  auto spec = a_supervisor(which);
  spec.children[0].restart = temporary;
  auto w = running(spec);
  CHECK(w.ends("a").asked().empty());
  CHECK(w.states() == "b running, c running");
  CHECK(w.events() == "failed a");
}

// ---- restart kinds

TEST_CASE("restart kinds decide by the way in which the child ended", "[supervision]") {
  struct row {
    restart_kind kind;
    exit_kind end;
    std::string_view asked, states;
  };
  const auto r = GENERATE(
      row{permanent, exit_kind::normal, "start a", "a running"},
      row{permanent, exit_kind::shutdown, "start a", "a running"},
      row{permanent, exit_kind::error, "start a", "a running"},
      row{permanent, exit_kind::exception, "start a", "a running"},
      row{permanent, exit_kind::killed, "start a", "a running"},
      row{transient, exit_kind::normal, "", "a stopped"},
      row{transient, exit_kind::shutdown, "", "a stopped"},
      row{transient, exit_kind::error, "start a", "a running"},
      row{transient, exit_kind::exception, "start a", "a running"},
      row{transient, exit_kind::killed, "start a", "a running"}, row{temporary, exit_kind::normal, "", ""},
      row{temporary, exit_kind::shutdown, "", ""}, row{temporary, exit_kind::error, "", ""},
      row{temporary, exit_kind::exception, "", ""}, row{temporary, exit_kind::killed, "", ""});
  DYNAMIC_SECTION(to_string(r.kind) << " and " << to_string(r.end)) {
    auto w = running(a_supervisor(how::one_for_one, "a", r.kind));
    CHECK(w.ends("a", r.end).asked() == r.asked);
    CHECK(w.states() == r.states);
  }
}

TEST_CASE("a normal end of a permanent child counts as a restart", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.intensity = {1, 1h};
  auto w = running(spec);
  CHECK(w.ends("a", exit_kind::normal).asked() == "start a");
  CHECK(w.ends("a", exit_kind::normal).asked() == "finished shutdown");
}

TEST_CASE("the attempt of a start is a number of its own for each start", "[supervision]") {
  auto core = supervision::make(a_supervisor(how::one_for_one, "a"), 1).value();
  const supervision::time_point now{1h};
  supervision_effects fx;
  core.start(now, fx);
  CHECK(fx.list.at(0) == fx_t::effect{fx_t::start_child{"a", 1}});
  core.started("a", now, fx);
  core.ended("a", {exit_kind::error, "boom"}, now, fx);
  CHECK(fx.list.at(2) == fx_t::effect{fx_t::event{event_kind::failed, "a", {exit_kind::error, "boom"}, 0}});
  CHECK(fx.list.at(3) == fx_t::effect{fx_t::start_child{"a", 2}});
  core.started("a", now, fx);
  CHECK(fx.list.at(4) == fx_t::effect{fx_t::event{event_kind::restarted, "a", {}, 1}});
}

// ---- intensity

TEST_CASE("reached_max_restart_intensity: the others are stopped in reverse, the supervisor ends as shutdown",
          "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one);
  auto spec = a_supervisor(which);
  spec.intensity = {1, 5s};
  auto w = running(spec);
  w.ends("b").forget();
  CHECK(w.ends("b", exit_kind::exception).asked() == "stop c, stop a, finished shutdown");
  CHECK(w.events() == "failed b, escalated b, stopped c, stopped a");
  CHECK(w.end().reason ==
        "reached_max_restart_intensity: more than 1 restarts within 5000 ms; the last is of child 'b' "
        "(exception: boom)");
}

TEST_CASE("intensity counts the restarts of all children together", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.intensity = {2, 1s};
  auto w = running(spec);
  CHECK(w.ends("a").asked() == "start a");
  CHECK(w.ends("b").asked() == "start b");
  CHECK(w.ends("c").asked() == "stop b, stop a, finished shutdown");
}

TEST_CASE("intensity counts one restart of a group as one", "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.intensity = {2, 1s};
  auto w = running(spec);
  w.ends("a").ends("b");
  CHECK_FALSE(w.core().is_finished());
  w.ends("c");
  CHECK(w.core().is_finished());
}

TEST_CASE("the period slides: restarts older than it are forgotten, one of its very age is not",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.intensity = {2, 1s};
  auto w = running(spec);
  w.ends("a").pass(600ms).ends("a");
  SECTION("of its very age") {
    w.pass(400ms).ends("a");
    CHECK(w.core().is_finished());
  }
  SECTION("older") {
    w.pass(400ms + 1ns).ends("a");
    CHECK_FALSE(w.core().is_finished());
    w.pass(500ms).ends("a");  // the second and the third still count
    CHECK(w.core().is_finished());
  }
}

TEST_CASE("intensity 0: the first failure is too many", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.intensity = {0, 1s};
  auto w = running(spec);
  CHECK(w.ends("a").asked() == "stop c, stop b, finished shutdown");
}

TEST_CASE("intensity 0 leaves alone what is not restarted", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab", temporary);
  spec.children[1].restart = transient;
  spec.intensity = {0, 1s};
  auto w = running(spec);
  CHECK(w.ends("a").asked().empty());
  CHECK(w.ends("b", exit_kind::normal).asked().empty());
}

TEST_CASE("a restart that fails to start is tried again, and counts as another failure", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.intensity = {3, 1s};
  auto w = running(spec);
  SECTION("until it starts") {
    w.failing["b"] = 2;
    CHECK(w.ends("b").asked() == "start b, start b, start b");
    CHECK(w.state("b") == child_state::running);
    CHECK(w.events() == "failed b, start_failed b, start_failed b, restarted b");
    CHECK(w.core().find_child("b")->restarts == 1);
  }
  SECTION("until it is too much") {
    w.failing["b"] = 3;
    CHECK(w.ends("b").asked() == "start b, start b, start b, stop c, stop a, finished shutdown");
    CHECK(w.end().reason.find("'b' (error: no)") != std::string::npos);
  }
}

TEST_CASE("one_for_all: a sibling that fails to start stops those before it and all start again",
          "[supervision]") {
  auto w = running(a_supervisor(how::one_for_all));
  w.failing["b"] = 1;
  CHECK(w.ends("c").asked() == "stop b, stop a, start a, start b, stop a, start a, start b, start c");
}

TEST_CASE("rest_for_one: a sibling that fails to start is where the rest starts again", "[supervision]") {
  auto w = running(a_supervisor(how::rest_for_one));
  w.failing["b"] = 1;
  CHECK(w.ends("a").asked() == "stop c, stop b, start a, start b, start b, start c");
}

TEST_CASE("escalation during a group's restart stops what runs of it", "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.intensity = {1, 1s};
  auto w = running(spec);
  w.failing["c"] = 1;
  CHECK(w.ends("c").asked() ==
        "stop b, stop a, start a, start b, start c, stop b, stop a, finished shutdown");
}

// ---- shutdown

TEST_CASE("shutdown stops the children in reverse order, one after the other", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one);
  auto w = running(a_supervisor(which));
  w.deaf = {"b"};
  CHECK(w.shut_down().asked() == "stop c, stop b");
  CHECK(w.ends("b", exit_kind::shutdown).asked() == "stop a, finished shutdown");
}

TEST_CASE("shutdown timeout: a child that does not end in its time is killed", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab");
  spec.children[1].shutdown = shutdown_rule::within(70ms);
  auto w = running(spec);
  w.deaf = {"b"};
  CHECK(w.shut_down().asked() == "stop b");
  CHECK(w.pass(69ms).asked().empty());
  CHECK(w.pass(1ms).asked() == "kill b, stop a, finished shutdown");
}

TEST_CASE("shutdown: a worker has 5 seconds, a supervisor has all the time", "[supervision]") {
  const bool is_supervisor = GENERATE(false, true);
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].is_supervisor = is_supervisor;
  auto w = running(spec);
  w.deaf = {"a"};
  w.shut_down().forget();
  CHECK(w.core().wake_at().has_value() != is_supervisor);
  CHECK(w.pass(4999ms).asked().empty());
  CHECK(w.pass(1ms).asked() == (is_supervisor ? "" : "kill a, finished shutdown"));
}

TEST_CASE("shutdown infinity waits for ever, also for a worker", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].shutdown = shutdown_rule::infinity();
  auto w = running(spec);
  w.deaf = {"a"};
  CHECK(w.shut_down().pass(1000h).asked() == "stop a");
}

TEST_CASE("shutdown brutal_kill does not ask", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab");
  spec.children[1].shutdown = shutdown_rule::brutal_kill();
  auto w = running(spec);
  CHECK(w.shut_down().asked() == "kill b, stop a, finished shutdown");
}

TEST_CASE("shutdown rules hold for siblings that are stopped for a restart", "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.children[1].shutdown = shutdown_rule::brutal_kill();
  spec.children[2].shutdown = shutdown_rule::within(10ms);
  auto w = running(spec);
  w.deaf = {"c"};
  CHECK(w.ends("a").asked() == "stop c");
  CHECK(w.pass(10ms).asked() == "kill c, kill b, start a, start b, start c");
}

TEST_CASE("shutdown while a group is being stopped goes on stopping, and starts nothing", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_all));
  w.deaf = {"c"};
  CHECK(w.ends("b").asked() == "stop c");
  CHECK(w.shut_down().asked().empty());
  CHECK(w.ends("c", exit_kind::shutdown).asked() == "stop a, finished shutdown");
}

TEST_CASE("shutdown of a supervisor whose child backs off forgets the back-off", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all);
  auto spec = a_supervisor(which, "a");
  spec.children[0].back_off = {.minimum = 1s, .maximum = 1s};
  auto w = running(spec);
  w.ends("a").forget();
  CHECK(w.shut_down().asked() == "finished shutdown");
  CHECK_FALSE(w.core().wake_at().has_value());
}

TEST_CASE("shutdown before the start finishes, and a later start does nothing", "[supervision]") {
  world w{a_supervisor(how::one_for_one)};
  CHECK(w.shut_down().asked() == "finished shutdown");
  CHECK(w.start().asked().empty());
}

TEST_CASE("a second shutdown changes nothing", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one));
  w.deaf = {"c"};
  w.shut_down().forget();
  CHECK(w.shut_down().asked().empty());
  CHECK(w.ends("c").asked() == "stop b, stop a, finished shutdown");
  CHECK(w.shut_down().ends("a").asked().empty());
}

TEST_CASE("a shutdown does not hide why the supervisor was ending already", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.intensity = {0, 1s};
  auto w = running(spec);
  w.deaf = {"c"};
  w.ends("a").shut_down().ends("c", exit_kind::shutdown);
  CHECK(w.end().reason.find("reached_max_restart_intensity") == 0);
}

TEST_CASE("a child that fails while the supervisor shuts down is not restarted", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one));
  w.deaf = {"c"};
  w.shut_down().forget();
  CHECK(w.ends("b").asked().empty());
  CHECK(w.ends("c").asked() == "stop a, finished shutdown");
}

TEST_CASE("a restart that fails to start while the supervisor shuts down is not tried again",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab");
  spec.children[0].back_off = GENERATE(backoff{}, backoff{.minimum = 1s, .maximum = 1s});
  auto w = running(spec);
  w.hanging = {"a"};
  w.deaf = {"b"};
  w.ends("a").pass(2s).shut_down().forget();
  CHECK(w.start_fails("a").asked().empty());
  CHECK(w.ends("b", exit_kind::shutdown).asked() == "finished shutdown");
  CHECK_FALSE(w.core().wake_at().has_value());
}

// ---- auto-shutdown

TEST_CASE("auto_shutdown happens when significant children end by themselves", "[supervision]") {
  struct row {
    std::string_view name;
    auto_shutdown when;
    restart_kind kind;
    exit_kind end;
    std::string_view after_first, after_second;
  };
  constexpr auto any = auto_shutdown::any_significant;
  constexpr auto all = auto_shutdown::all_significant;
  const auto r = GENERATE(
      row{"any_significant, transient, normal", any, transient, exit_kind::normal,
          "stop c, stop b, finished shutdown", ""},
      row{"any_significant, transient, shutdown", any, transient, exit_kind::shutdown,
          "stop c, stop b, finished shutdown", ""},
      row{"any_significant, transient, error", any, transient, exit_kind::error, "start a", "start b"},
      row{"any_significant, temporary, normal", any, temporary, exit_kind::normal,
          "stop c, stop b, finished shutdown", ""},
      row{"any_significant, temporary, error", any, temporary, exit_kind::error,
          "stop c, stop b, finished shutdown", ""},
      row{"all_significant, transient, normal", all, transient, exit_kind::normal, "",
          "stop c, finished shutdown"},
      row{"all_significant, transient, error", all, transient, exit_kind::error, "start a", "start b"},
      row{"all_significant, temporary, normal", all, temporary, exit_kind::normal, "",
          "stop c, finished shutdown"},
      row{"all_significant, temporary, error", all, temporary, exit_kind::error, "",
          "stop c, finished shutdown"});
  DYNAMIC_SECTION(r.name) {
    auto spec = a_supervisor(how::one_for_one);
    spec.shutdown_when = r.when;
    for (const std::size_t n : {0U, 1U}) {
      spec.children[n].significant = true;
      spec.children[n].restart = r.kind;
    }
    auto w = running(spec);
    CHECK(w.ends("a", r.end).asked() == r.after_first);
    CHECK(w.ends("b", r.end).asked() == r.after_second);
    if (w.core().is_finished()) CHECK(w.end().reason.find("auto_shutdown") == 0);
  }
}

TEST_CASE("auto_shutdown: a child that is not significant ends alone", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab", transient);
  spec.shutdown_when = GENERATE(auto_shutdown::any_significant, auto_shutdown::all_significant);
  spec.children[0].significant = true;
  auto w = running(spec);
  CHECK(w.ends("b", exit_kind::normal).asked().empty());
}

TEST_CASE("auto_shutdown: terminate_child of a significant child does not trigger it", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab", transient);
  spec.shutdown_when = GENERATE(auto_shutdown::any_significant, auto_shutdown::all_significant);
  spec.children[0].significant = true;
  auto w = running(spec);
  REQUIRE(w.terminate("a").has_value());
  CHECK(w.asked() == "stop a");
  CHECK_FALSE(w.core().is_finished());
}

TEST_CASE("auto_shutdown: a significant child that is stopped for its sibling does not trigger it",
          "[supervision]") {
  const auto which = GENERATE(how::one_for_all, how::rest_for_one);
  auto spec = a_supervisor(which, "ab", permanent);
  spec.shutdown_when = auto_shutdown::any_significant;
  spec.children[1].restart = temporary;
  spec.children[1].significant = true;
  auto w = running(spec);
  CHECK(w.ends("a").asked() == "stop b, start a");
  CHECK(w.states() == "a running");
}

TEST_CASE("auto_shutdown: all_significant counts one that backs off as alive", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab", transient);
  spec.shutdown_when = auto_shutdown::all_significant;
  for (auto& c : spec.children) c.significant = true;
  spec.children[0].back_off = {.minimum = 1s, .maximum = 1s};
  auto w = running(spec);
  w.ends("a").ends("b", exit_kind::normal);
  CHECK_FALSE(w.core().is_finished());
  w.pass(2s).ends("a", exit_kind::normal);
  CHECK(w.core().is_finished());
}

TEST_CASE("auto_shutdown: a significant child that is given up has ended", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab", transient);
  spec.shutdown_when = auto_shutdown::any_significant;
  spec.children[0].significant = true;
  spec.children[0].budget = restart_intensity{1, 1s};
  auto w = running(spec);
  w.ends("a").forget();
  CHECK(w.ends("a").asked() == "stop b, finished shutdown");
}

TEST_CASE("auto_shutdown works for dynamic children", "[supervision]") {
  world w{{.how = how::dynamic, .shutdown_when = auto_shutdown::all_significant}};
  w.start();
  for (const auto* name : {"x", "y"}) {
    auto spec = a_child(name, temporary);
    spec.significant = true;
    REQUIRE(w.add(spec).has_value());
  }
  w.ends("x").forget();
  CHECK(w.ends("y").asked() == "finished shutdown");
}

// ---- back-off

TEST_CASE("back-off doubles from minimum to maximum", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].back_off = {.minimum = 100ms, .maximum = 500ms, .jitter = 0};
  auto w = running(spec);
  for (const auto delay : {100ms, 200ms, 400ms, 500ms, 500ms}) {
    w.ends("a");
    CHECK(w.state("a") == child_state::backing_off);
    CHECK(w.core().wake_at() == w.now + delay);
    CHECK(w.pass(delay - 1ns).asked().empty());
    CHECK(w.pass(1ns).asked() == "start a");
  }
}

TEST_CASE("back-off of 0 restarts at once", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "a"));
  CHECK(w.ends("a").asked() == "start a");
  CHECK_FALSE(w.core().wake_at().has_value());
}

TEST_CASE("back-off begins anew when the child ran calmly for reset_after", "[supervision]") {
  const auto [reset_after, calm] =
      GENERATE(std::pair{0ms, 800ms}, std::pair{300ms, 300ms}, std::pair{2000ms, 2000ms});  // 0: the maximum
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].back_off = {.minimum = 100ms, .maximum = 800ms, .jitter = 0, .reset_after = reset_after};
  auto w = running(spec);
  w.ends("a").pass(100ms);
  w.pass(calm - 1ms).ends("a");
  CHECK(w.core().wake_at() == w.now + 200ms);
  w.pass(200ms).pass(calm).ends("a");
  CHECK(w.core().wake_at() == w.now + 100ms);
}

TEST_CASE("back-off grows when a restart fails to start", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].back_off = {.minimum = 100ms, .maximum = 10s, .jitter = 0};
  auto w = running(spec);
  w.failing["a"] = 2;
  CHECK(w.ends("a").pass(100ms).asked() == "start a");
  CHECK(w.pass(200ms).asked() == "start a");
  CHECK(w.pass(400ms).asked() == "start a");
  CHECK(w.state("a") == child_state::running);
}

TEST_CASE("back-off jitter lengthens a delay by at most its share, by the seed alone", "[supervision]") {
  const auto delays = [](std::uint64_t seed) {
    auto spec = a_supervisor(how::one_for_one, "a");
    spec.children[0].back_off = {.minimum = 100ms, .maximum = 100ms, .jitter = 0.5};
    world w{spec, seed};
    w.start();
    std::set<std::chrono::nanoseconds> all;
    for (int n = 0; n < 100; ++n) {
      w.ends("a");
      all.insert(*w.core().wake_at() - w.now);
      w.pass(1s);
    }
    return all;
  };
  const auto first = delays(1);
  CHECK(*first.begin() >= 100ms);
  CHECK(*first.rbegin() < 150ms);
  CHECK(*first.begin() < 105ms);
  CHECK(*first.rbegin() > 145ms);
  CHECK(first.size() > 90);
  CHECK(delays(1) == first);
  CHECK(delays(2) != first);
}

TEST_CASE("back-off of a group: siblings are stopped at once, and all start after the delay",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.children[1].back_off = {.minimum = 100ms, .maximum = 100ms, .jitter = 0};
  auto w = running(spec);
  CHECK(w.ends("b").asked() == "stop c, stop a");
  CHECK(w.states() == "a waiting, b backing_off, c waiting");
  CHECK(w.pass(99ms).asked().empty());
  CHECK(w.pass(1ms).asked() == "start a, start b, start c");
}

TEST_CASE("back-off of a group that is over before its siblings have stopped waits for them",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.children[1].back_off = {.minimum = 100ms, .maximum = 100ms, .jitter = 0};
  auto w = running(spec);
  w.deaf = {"c"};
  CHECK(w.ends("b").pass(200ms).asked() == "stop c");
  CHECK(w.ends("c", exit_kind::shutdown).asked() == "stop a, start a, start b, start c");
}

TEST_CASE("rest_for_one: an earlier child that fails during the back-off starts the group with itself",
          "[supervision]") {
  auto spec = a_supervisor(how::rest_for_one);
  spec.children[1].back_off = {.minimum = 100ms, .maximum = 100ms, .jitter = 0};
  auto w = running(spec);
  CHECK(w.ends("b").asked() == "stop c");
  CHECK(w.ends("a").asked().empty());
  CHECK(w.pass(100ms).asked() == "start a, start b, start c");
}

TEST_CASE("back-off of one child does not hold up another", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one);
  spec.children[0].back_off = {.minimum = 100ms, .maximum = 100ms};
  auto w = running(spec);
  CHECK(w.ends("a").ends("b").asked() == "start b");
  CHECK(w.states() == "a backing_off, b running, c running");
}

// ---- deciders

TEST_CASE("a decider is asked before the restart kind is", "[supervision]") {
  struct row {
    directive what;
    std::string_view asked, events;
  };
  const auto r = GENERATE(row{directive::restart, "start b", "failed b, restarted b"},
                          row{directive::resume, "start b", "failed b, restarted b"},
                          row{directive::stop, "", "failed b"},
                          row{directive::escalate, "stop c, stop a, finished error",
                              "failed b, escalated b, stopped c, stopped a"});
  DYNAMIC_SECTION(to_string(r.what)) {
    auto spec = a_supervisor(how::one_for_one);
    spec.children[1].decide = [&](const failure& why) {
      return why.kind == exit_kind::exception ? r.what : directive::restart;
    };
    auto w = running(spec);
    CHECK(w.ends("b", exit_kind::error).asked() == "start b");
    w.forget();
    CHECK(w.ends("b", exit_kind::exception).asked() == r.asked);
    CHECK(w.events() == r.events);
    if (r.what == directive::stop) CHECK(w.state("b") == child_state::failed);
    if (r.what == directive::escalate) CHECK(w.end().reason == "escalated by child 'b' (exception: boom)");
  }
}

TEST_CASE("a decider is not asked about a normal end, nor about a shutdown", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].decide = [](const failure&) { return directive::escalate; };
  auto w = running(spec);
  CHECK(w.ends("a", exit_kind::normal).asked() == "start a");
  CHECK(w.ends("a", exit_kind::shutdown).asked() == "start a");
}

TEST_CASE("a decider's restart does not restart a temporary child", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a", temporary);
  spec.children[0].decide = [](const failure&) { return directive::restart; };
  auto w = running(spec);
  CHECK(w.ends("a").asked().empty());
  CHECK(w.states().empty());
}

TEST_CASE("a decider's stop is not counted, and leaves the siblings alone", "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.intensity = {0, 1s};
  spec.children[0].decide = [](const failure&) { return directive::stop; };
  auto w = running(spec);
  CHECK(w.ends("a").asked().empty());
  CHECK(w.states() == "a failed, b running, c running");
}

TEST_CASE("a decider is asked about a restart that failed to start", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].decide = [](const failure& why) {
    return why.reason == "no" ? directive::stop : directive::restart;
  };
  auto w = running(spec);
  w.failing["a"] = 1;
  CHECK(w.ends("a").asked() == "start a");
  CHECK(w.state("a") == child_state::failed);
}

// ---- children that sleep

TEST_CASE("a child that sleeps is there, and starts once when it is woken", "[supervision]") {
  auto w = running({.how = how::dynamic});
  REQUIRE(w.add_sleeping(a_child("a", transient)).has_value());
  REQUIRE(w.add_sleeping(a_child("b", transient)).has_value());
  CHECK(w.asked().empty());
  CHECK(w.events().empty());
  CHECK(w.states() == "a asleep, b asleep");
  CHECK(w.core().active_count() == 0);
  w.wake("b").wake("b").wake("nobody");
  CHECK(w.asked() == "start b");
  CHECK(w.events() == "started b");
  CHECK(w.states() == "a asleep, b running");
  w.ends("b");
  CHECK(w.asked() == "start b");
  CHECK(w.events() == "failed b, restarted b");
  // Awake, it is a child as any other.
  w.wake("b");
  CHECK(w.asked().empty());
}

TEST_CASE("a name is taken although its child sleeps", "[supervision]") {
  auto w = running({.how = how::dynamic, .children_max = 2});
  REQUIRE(w.add_sleeping(a_child("a")).has_value());
  const auto twice = w.add(a_child("a"));
  REQUIRE_FALSE(twice.has_value());
  CHECK(twice.error().text.find("already_present (asleep)") != std::string::npos);
  REQUIRE(w.add_sleeping(a_child("b")).has_value());
  CHECK(w.add_sleeping(a_child("c")).error().code == errc::overloaded);
}

TEST_CASE("what sleeps keeps nobody from stopping, and is not woken any more", "[supervision]") {
  auto w = running({.how = how::dynamic});
  REQUIRE(w.add_sleeping(a_child("a")).has_value());
  REQUIRE(w.add(a_child("b")).has_value());
  w.deaf.insert("b");
  w.forget().shut_down();
  CHECK(w.asked() == "stop b");
  w.wake("a");
  CHECK(w.asked().empty());
  w.ends("b", exit_kind::shutdown);
  CHECK(w.asked() == "finished shutdown");
  CHECK(w.states() == "a stopped, b stopped");
}

TEST_CASE("a child that sleeps is forgotten when it is terminated", "[supervision]") {
  auto w = running({.how = how::dynamic});
  REQUIRE(w.add_sleeping(a_child("a")).has_value());
  REQUIRE(w.terminate("a").has_value());
  CHECK(w.asked().empty());
  CHECK(w.states().empty());
}

TEST_CASE("only a dynamic supervisor has children that sleep", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one));
  const auto added = w.add_sleeping(a_child("x"));
  REQUIRE_FALSE(added.has_value());
  CHECK(added.error().code == errc::refused);
}

// ---- overrun

TEST_CASE("an overrun is reported, and the child goes on", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].handler_limit = 50ms;
  auto w = running(spec);
  w.overruns("a", 80ms);
  CHECK(w.asked().empty());
  CHECK(w.events() == "overran a");
  const auto a = w.core().find_child("a").value();
  CHECK(a.state == child_state::running);
  CHECK(*a.last_failure == failure{exit_kind::overrun, "a handler ran for 80 ms, its limit is 50 ms"});
  CHECK(a.failed_at == w.now);
}

TEST_CASE("an overrun of a child that does not run is late, and ignored", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "a", transient));
  w.ends("a", exit_kind::normal).forget();
  w.overruns("a", 80ms).overruns("nobody", 80ms);
  CHECK(w.events().empty());
}

// ---- orders: start_child, terminate_child, restart_child, delete_child

TEST_CASE("start_child puts a child after the others", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one);
  auto w = running(a_supervisor(which));
  CHECK(w.add(a_child("d")).has_value());
  CHECK(w.asked() == "start d");
  CHECK(w.states() == "a running, b running, c running, d running");
  CHECK(w.shut_down().asked() == "stop d, stop c, stop b, stop a, finished shutdown");
}

TEST_CASE("start_child: a failed start forgets the child and is not tried again", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::one_for_all, how::rest_for_one, how::dynamic);
  auto spec = a_supervisor(which, which == how::dynamic ? "" : "abc");
  spec.intensity = {0, 1s};
  auto w = running(spec);
  w.failing["d"] = 1;
  CHECK(w.add(a_child("d")).has_value());
  CHECK(w.asked() == "start d");
  CHECK(w.events() == "start_failed d");
  CHECK_FALSE(w.core().find_child("d").has_value());
  CHECK_FALSE(w.core().is_finished());
}

TEST_CASE("start_child: already_started and already_present are errors", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "ab"));
  REQUIRE(w.terminate("b").has_value());
  const auto started = w.add(a_child("a"));
  REQUIRE(started.has_error());
  CHECK(started.error().text.find("already_started (running)") != std::string::npos);
  const auto present = w.add(a_child("b"));
  REQUIRE(present.has_error());
  CHECK(present.error().text.find("already_present (stopped)") != std::string::npos);
}

TEST_CASE("start_child: a wrong child spec is refused", "[supervision]") {
  auto w = running({.how = how::dynamic});
  auto significant = a_child("x", temporary);
  significant.significant = true;
  for (const auto& spec : {a_child(""), a_child("x/y"), significant}) {
    CHECK(w.add(spec).has_error());
    CHECK(w.adopt(spec).has_error());
  }
  CHECK(w.core().children_count() == 0);
}

TEST_CASE("start_child: more than children_max are overload, not a mistake", "[supervision]") {
  world w{{.how = how::dynamic, .children_max = 2}};
  w.start();
  CHECK(w.add(a_child("x")).has_value());
  CHECK(w.adopt(a_child("y")).has_value());
  CHECK(w.add(a_child("z")).error().code == errc::overloaded);
  CHECK(w.adopt(a_child("z")).error().code == errc::overloaded);
  CHECK(w.terminate("x").has_value());
  CHECK(w.add(a_child("z")).has_value());
}

TEST_CASE("orders wait for a start or a group's restart, and are refused at the end", "[supervision]") {
  world w{a_supervisor(how::one_for_all)};
  const auto all_are = [&](errc code) {
    return w.add(a_child("x")).error().code == code && w.adopt(a_child("x")).error().code == code &&
           w.terminate("a").error().code == code && w.restart("a").error().code == code;
  };
  CHECK(all_are(errc::refused));
  w.hanging = {"b"};
  w.start();
  CHECK(all_are(errc::overloaded));
  w.started("b");
  w.deaf = {"c"};
  w.ends("b");
  CHECK(all_are(errc::overloaded));
  w.shut_down();
  CHECK(all_are(errc::refused));
  w.ends("c");
  REQUIRE(w.core().is_finished());
  CHECK(all_are(errc::refused));
}

TEST_CASE("an adopted child runs already, and is restarted as any other", "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::dynamic);
  auto w = running(a_supervisor(which, ""));
  CHECK(w.adopt(a_child("x")).has_value());
  CHECK(w.asked().empty());
  CHECK(w.events() == "started x");
  CHECK(w.state("x") == child_state::running);
  CHECK(w.ends("x").asked() == "start x");
  CHECK(w.shut_down().asked() == "stop x, finished shutdown");
}

TEST_CASE("terminate_child stops a child and keeps its spec", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "ab", GENERATE(permanent, transient)));
  CHECK(w.terminate("a").has_value());
  CHECK(w.asked() == "stop a");
  CHECK(w.states() == "a stopped, b running");
  CHECK(w.terminate("a").has_value());
  CHECK(w.asked().empty());
}

TEST_CASE("terminate_child forgets a temporary child", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "ab", temporary));
  CHECK(w.terminate("a").has_value());
  CHECK(w.states() == "b running");
}

TEST_CASE("terminate_child of a child that starts stops it, and its failure to start is no failure",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.intensity = {1, 1h};
  auto w = running(spec);
  w.hanging = {"a"};
  w.deaf = {"a"};
  w.ends("a").forget();
  CHECK(w.terminate("a").has_value());
  CHECK(w.asked() == "stop a");
  CHECK(w.start_fails("a").asked().empty());
  CHECK(w.states() == "a stopped");
}

TEST_CASE("terminate_child of a child in its back-off ends the back-off", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "ab");
  spec.children[0].back_off = {.minimum = 1s, .maximum = 1s};
  auto w = running(spec);
  w.ends("a").forget();
  CHECK(w.terminate("a").has_value());
  CHECK(w.pass(1h).asked().empty());
  CHECK(w.states() == "a stopped, b running");
}

TEST_CASE("terminate_child of a child in its back-off lets its group start without it", "[supervision]") {
  auto spec = a_supervisor(how::one_for_all);
  spec.children[1].back_off = {.minimum = 1s, .maximum = 1s};
  auto w = running(spec);
  w.ends("b").forget();
  CHECK(w.terminate("b").has_value());
  CHECK(w.asked() == "start a, start c");
  CHECK(w.states() == "a running, b stopped, c running");
}

TEST_CASE("terminate_child of an unknown child is an error: not_found", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one));
  CHECK(w.terminate("x").error().text == "there is no child named 'x'");
  CHECK(w.restart("x").has_error());
  CHECK(w.core().delete_child("x").has_error());
}

TEST_CASE("terminate_child under one_for_all leaves the siblings alone", "[supervision]") {
  auto w = running(a_supervisor(GENERATE(how::one_for_all, how::rest_for_one)));
  CHECK(w.terminate("a").has_value());
  CHECK(w.asked() == "stop a");
  CHECK(w.states() == "a stopped, b running, c running");
}

TEST_CASE("terminate_child kills a child that does not end in its time", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "a"));
  w.deaf = {"a"};
  CHECK(w.terminate("a").has_value());
  CHECK(w.pass(5s).asked() == "stop a, kill a");
  CHECK(w.states() == "a stopped");
}

TEST_CASE("restart_child starts a stopped child", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "ab"));
  REQUIRE(w.terminate("a").has_value());
  w.forget();
  CHECK(w.restart("a").has_value());
  CHECK(w.asked() == "start a");
  CHECK(w.events() == "started a");
  CHECK(w.states() == "a running, b running");
}

TEST_CASE("restart_child: a failed start is not tried again, nor counted", "[supervision]") {
  auto spec = a_supervisor(how::one_for_all, "ab");
  spec.intensity = {0, 1s};
  auto w = running(spec);
  REQUIRE(w.terminate("a").has_value());
  w.forget();
  w.failing["a"] = 1;
  CHECK(w.restart("a").has_value());
  CHECK(w.asked() == "start a");
  CHECK(w.states() == "a failed, b running");
  CHECK(w.restart("a").has_value());
  CHECK(w.states() == "a running, b running");
}

TEST_CASE("restart_child and delete_child of a child that runs are errors: running", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "a"));
  CHECK(w.restart("a").error().text.find("is running") != std::string::npos);
  CHECK(w.core().delete_child("a").error().text.find("is running") != std::string::npos);
}

TEST_CASE("restart_child and delete_child of a child in its back-off are errors: restarting",
          "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].back_off = {.minimum = 1s, .maximum = 1s};
  auto w = running(spec);
  w.ends("a");
  CHECK(w.restart("a").error().text.find("restarting") != std::string::npos);
  CHECK(w.core().delete_child("a").error().text.find("backing_off") != std::string::npos);
}

TEST_CASE("delete_child forgets a stopped child, and its name is free again", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "ab"));
  REQUIRE(w.terminate("a").has_value());
  CHECK(w.core().delete_child("a").has_value());
  CHECK(w.states() == "b running");
  CHECK(w.add(a_child("a")).has_value());
  CHECK(w.states() == "b running, a running");
}

TEST_CASE("a child that was added starts again in a group that interrupts its start", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_all, "ab"));
  w.hanging = {"x"};
  REQUIRE(w.add(a_child("x")).has_value());
  w.forget();
  CHECK(w.ends("a").asked() == "stop x, stop b, start a, start b, start x");
  CHECK(w.start_fails("x").asked() == "stop b, stop a, start a, start b, start x");
  CHECK_FALSE(w.core().is_finished());
}

// ---- late and unknown events

TEST_CASE("events about unknown children are ignored", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one));
  w.started("x").start_fails("x").ends("x");
  CHECK(w.asked().empty());
  CHECK(w.events().empty());
}

TEST_CASE("a second end of a child is ignored", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].back_off = {.minimum = 1s, .maximum = 1s, .jitter = 0};
  spec.intensity = {1, 1h};
  auto w = running(spec);
  w.ends("a").ends("a");
  CHECK_FALSE(w.core().is_finished());
  CHECK(w.pass(1s).asked() == "start a");
}

TEST_CASE("started twice changes nothing", "[supervision]") {
  auto w = running(a_supervisor(how::one_for_one, "a"));
  CHECK(w.started("a").events().empty());
}

TEST_CASE("an alarm that rings early changes nothing", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].back_off = {.minimum = 1s, .maximum = 1s};
  auto w = running(spec);
  w.ends("a").forget();
  supervision_effects fx;
  w.core().on_time(w.now + 999ms, fx);
  CHECK(fx.list.empty());
}

TEST_CASE("a supervisor can be moved while its children start", "[supervision]") {
  auto core = supervision::make(a_supervisor(how::one_for_one, "ab"), 1).value();
  supervision_effects fx;
  core.start(supervision::time_point{1h}, fx);
  auto moved = std::move(core);
  moved.started("a", supervision::time_point{1h}, fx);
  CHECK(fx.list.back() == fx_t::effect{fx_t::start_child{"b", 1}});
}

// ---- dynamic

TEST_CASE("simple_one_for_one: children come at run time, and are forgotten when they end", "[supervision]") {
  struct row {
    restart_kind kind;
    exit_kind end;
    std::string_view states;
  };
  const auto r =
      GENERATE(row{permanent, exit_kind::normal, "x running"}, row{transient, exit_kind::normal, ""},
               row{transient, exit_kind::error, "x running"}, row{temporary, exit_kind::error, ""},
               row{temporary, exit_kind::normal, ""});
  auto w = running({.how = how::dynamic});
  REQUIRE(w.add(a_child("x", r.kind)).has_value());
  w.ends("x", r.end);
  CHECK(w.states() == r.states);
}

TEST_CASE("simple_one_for_one: terminate_child forgets the child", "[supervision]") {
  auto w = running({.how = how::dynamic});
  REQUIRE(w.add(a_child("x")).has_value());
  CHECK(w.terminate("x").has_value());
  CHECK(w.states().empty());
  CHECK(w.restart("x").has_error());
}

TEST_CASE("simple_one_for_one: at shutdown all children are stopped at once", "[supervision]") {
  auto w = running({.how = how::dynamic});
  w.deaf = {"x", "y"};
  for (const auto* name : {"x", "y", "z"}) REQUIRE(w.add(a_child(name)).has_value());
  w.forget();
  CHECK(w.shut_down().asked() == "stop z, stop y, stop x");
  CHECK(w.ends("x", exit_kind::shutdown).asked().empty());
  CHECK(w.pass(5s).asked() == "kill y, finished shutdown");
}

TEST_CASE("simple_one_for_one: without budgets all children share the supervisor's intensity",
          "[supervision]") {
  auto w = running({.how = how::dynamic, .intensity = {1, 1s}});
  for (const auto* name : {"x", "y", "z"}) REQUIRE(w.add(a_child(name)).has_value());
  w.forget();
  CHECK(w.ends("x").asked() == "start x");
  CHECK(w.ends("y").asked() == "stop z, stop x, finished shutdown");
}

TEST_CASE("a child over its own budget is given up alone, and does not count for the supervisor",
          "[supervision]") {
  const auto which = GENERATE(how::one_for_one, how::dynamic);
  auto w = running({.how = which, .intensity = {0, 1h}});
  auto spec = a_child("x");
  spec.budget = restart_intensity{2, 1s};
  REQUIRE(w.add(spec).has_value());
  w.forget();
  CHECK(w.ends("x").ends("x").asked() == "start x, start x");
  CHECK(w.ends("x").asked().empty());
  CHECK(w.events() == "failed x, restarted x, failed x, restarted x, failed x, gave_up x");
  const auto x = w.core().find_child("x").value();
  CHECK(x.state == child_state::failed);
  CHECK(x.restarts == 2);
  CHECK(*x.last_failure == failure{exit_kind::error, "boom"});
  CHECK_FALSE(w.core().is_finished());
}

TEST_CASE("a budget's period slides", "[supervision]") {
  auto w = running({.how = how::dynamic, .intensity = {0, 1h}});
  auto spec = a_child("x");
  spec.budget = restart_intensity{1, 1s};
  REQUIRE(w.add(spec).has_value());
  for (int n = 0; n < 10; ++n) w.pass(1001ms).ends("x");
  CHECK(w.state("x") == child_state::running);
  w.pass(1000ms).ends("x");
  CHECK(w.state("x") == child_state::failed);
}

TEST_CASE("a restart that fails to start counts for the child's own budget", "[supervision]") {
  auto w = running({.how = how::dynamic, .intensity = {0, 1h}});
  auto spec = a_child("x");
  spec.budget = restart_intensity{2, 1s};
  REQUIRE(w.add(spec).has_value());
  w.forget();
  w.failing["x"] = 10;
  CHECK(w.ends("x").asked() == "start x, start x");
  CHECK(w.state("x") == child_state::failed);
}

TEST_CASE("restart_child gives a child that was given up a clean history", "[supervision]") {
  auto w = running({.how = how::dynamic});
  auto spec = a_child("x");
  spec.budget = restart_intensity{1, 1h};
  spec.back_off = {.minimum = 100ms, .maximum = 1s, .jitter = 0};
  REQUIRE(w.add(spec).has_value());
  w.ends("x").pass(1s).ends("x");
  REQUIRE(w.state("x") == child_state::failed);
  CHECK(w.restart("x").has_value());
  w.ends("x");
  CHECK(w.state("x") == child_state::backing_off);
  CHECK(w.core().wake_at() == w.now + 100ms);
}

TEST_CASE("what there is to see of a child", "[supervision]") {
  auto spec = a_supervisor(how::one_for_one, "a");
  spec.children[0].handler_limit = 7ms;
  world w{spec};
  CHECK(w.core().how() == how::one_for_one);
  CHECK(w.state("a") == child_state::waiting);
  w.start();
  CHECK(w.core().find_child("a")->since == w.now);
  CHECK(w.core().find_child("a")->last_failure == nullptr);
  CHECK(w.core().find_child("a")->rules->handler_limit == 7ms);
  w.pass(1s).ends("a");
  const auto a = w.core().find_child("a").value();
  CHECK(a.name == "a");
  CHECK(a.restarts == 1);
  CHECK(a.failed_at == w.now);
  CHECK(a.since == w.now);
  CHECK(*a.last_failure == failure{exit_kind::error, "boom"});
  CHECK(w.core().children_count() == 1);
  CHECK(w.core().active_count() == 1);
  CHECK_FALSE(w.core().find_child("b").has_value());
}

TEST_CASE("specs that differ in their names alone share their memory", "[supervision]") {
  auto w = running({.how = how::dynamic});
  child_spec kind;
  kind.decide = [](const failure&) { return directive::restart; };
  for (int n = 0; n < 3; ++n) {
    kind.name = std::to_string(n);
    REQUIRE(w.add(kind).has_value());
  }
  kind.name = "other";
  kind.handler_limit = 1ms;
  REQUIRE(w.add(kind).has_value());
  const auto* rules = w.core().find_child("0")->rules;
  CHECK(rules == w.core().find_child("2")->rules);
  CHECK(rules != w.core().find_child("other")->rules);
  CHECK(rules->name.empty());
}

TEST_CASE("two children that fail for ever do not touch a hundred thousand others", "[supervision]") {
  constexpr int count = 100'000;
  auto core = supervision::make({.how = how::dynamic, .intensity = {0, 1h}}, 1).value();
  supervision::time_point now{1h};
  supervision_effects fx;
  core.start(now, fx);
  child_spec kind;
  kind.budget = restart_intensity{20, 1min};
  kind.back_off = {.minimum = 10ms, .maximum = 1s};
  for (int n = 0; n < count; ++n) {
    kind.name = "queue-" + std::to_string(n);
    REQUIRE(core.add_child(kind, now, fx).has_value());
    core.started(kind.name, now, fx);
    fx.list.clear();
  }
  const std::set<std::string, std::less<>> bad{"queue-77", "queue-99998"};
  std::deque<std::string> failing(bad.begin(), bad.end());
  std::size_t gave_up = 0, starts = 0;
  for (int turns = 0; turns < 10'000 && (!failing.empty() || core.wake_at()); ++turns) {
    if (!failing.empty()) {
      core.ended(failing.front(), {exit_kind::exception, "bad"}, now, fx);
      failing.pop_front();
    } else {
      now = *core.wake_at();
      core.on_time(now, fx);
    }
    for (std::size_t n = 0; n < fx.list.size(); ++n) {
      const auto effect = fx.list[n];
      if (const auto* e = std::get_if<fx_t::start_child>(&effect)) {
        REQUIRE(bad.contains(e->name));
        ++starts;
        core.started(e->name, now, fx);
        failing.push_back(e->name);
      } else if (const auto* v = std::get_if<fx_t::event>(&effect)) {
        REQUIRE(bad.contains(v->name));
        if (v->kind == event_kind::gave_up) ++gave_up;
      } else {
        FAIL("nothing else is asked for");
      }
    }
    fx.list.clear();
  }
  CHECK(gave_up == 2);
  CHECK(starts == 40);
  CHECK_FALSE(core.is_finished());
  CHECK(core.active_count() == count - 2);
  std::size_t untouched = 0;
  core.for_each_child([&](const child_status& c) {
    if (c.state == child_state::running && c.restarts == 0) ++untouched;
  });
  CHECK(untouched == count - 2);

  core.shut_down(now, fx);
  CHECK(fx.list.size() == count - 2);
}

// ---- all of it, at random

namespace {

// Plays children and operators at random against a supervisor, and holds it to what must always be true.
class chaos {
public:
  explicit chaos(std::uint64_t seed) : random_{seed}, core_{supervision::make(make_spec(), seed).value()} {}

  void run() {
    tell([&](fx_t& fx) { core_.start(now_, fx); });
    for (int n = 0; n < 300 && !finished_; ++n) step();
    // Everybody behaves from now on.
    for (int n = 0; n < 10'000 && !finished_ && (answer() || alarm()); ++n) {
    }
    if (!finished_) {
      REQUIRE_FALSE(core_.wake_at().has_value());
      core_.for_each_child([&](const child_status& c) {
        REQUIRE((c.state == child_state::running || c.state == child_state::stopped ||
                 c.state == child_state::failed));
        REQUIRE(there_.contains(c.name) == (c.state == child_state::running));
      });
      stopping_all_ = true;
      tell([&](fx_t& fx) { core_.shut_down(now_, fx); });
      for (int n = 0; n < 10'000 && !finished_ && (answer() || alarm()); ++n) {
      }
    }
    REQUIRE(finished_);
    REQUIRE(core_.is_finished());
    REQUIRE(core_.active_count() == 0);
    REQUIRE_FALSE(core_.wake_at().has_value());
  }

private:
  struct instance {
    bool starting = true, asked_to_stop = false, killed = false;
  };

  int below(int n) { return std::uniform_int_distribution<int>{0, n - 1}(random_); }
  bool one_in(int n) { return below(n) == 0; }

  child_spec make_child(std::string name) {
    auto spec = a_child(std::move(name), static_cast<restart_kind>(below(3)));
    if (one_in(3)) spec.back_off = {.minimum = 10ms, .maximum = 100ms};
    if (one_in(3)) spec.start_deadline = std::chrono::milliseconds{1 + below(50)};
    if (one_in(3)) spec.shutdown = shutdown_rule::brutal_kill();
    if (one_in(3)) spec.shutdown = shutdown_rule::infinity();
    if (how_ == how::dynamic && one_in(3)) spec.budget = restart_intensity{2, 1s};
    if (auto_ != auto_shutdown::never && spec.restart != permanent && one_in(3)) spec.significant = true;
    if (one_in(8))
      spec.decide = [](const failure& why) {
        return why.kind == exit_kind::exception ? directive::stop : directive::restart;
      };
    return spec;
  }

  supervisor_spec make_spec() {
    how_ = static_cast<strategy>(below(4));
    if (one_in(3)) auto_ = static_cast<auto_shutdown>(1 + below(2));
    intensity_ = {static_cast<std::uint32_t>(below(20)), std::chrono::milliseconds{1 + below(1000)}};
    supervisor_spec spec{.how = how_, .intensity = intensity_, .shutdown_when = auto_};
    const int count = how_ == how::dynamic ? 0 : below(6);
    for (int n = 0; n < count; ++n) spec.children.push_back(make_child("c" + std::to_string(n)));
    return spec;
  }

  // A name of a child, or of none.
  std::string some_name() { return "c" + std::to_string(below(8)); }

  void step() {
    const auto name = some_name();
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
      case 3: answer(); break;
      case 4:
      case 5:
        if (const auto it = there_.find(name); it != there_.end()) {
          there_.erase(it);
          const auto kind = static_cast<exit_kind>(below(5));
          tell([&](fx_t& fx) { core_.ended(name, {kind, "at random"}, now_, fx); });
        }
        break;
      case 6:
        if (const auto it = there_.find(name); it != there_.end() && it->second.starting) {
          there_.erase(it);
          tell([&](fx_t& fx) { core_.start_failed(name, {exit_kind::error, "at random"}, now_, fx); });
        }
        break;
      case 7:
        now_ += std::chrono::milliseconds{below(20)};
        if (core_.wake_at() && *core_.wake_at() <= now_) tell([&](fx_t& fx) { core_.on_time(now_, fx); });
        break;
      case 8: tell([&](fx_t& fx) { (void)core_.add_child(make_child(name), now_, fx); }); break;
      case 9:
        by_order_ = name;
        tell([&](fx_t& fx) { (void)core_.terminate_child(name, now_, fx); });
        by_order_.clear();
        break;
      case 10:
        by_order_ = name;
        tell([&](fx_t& fx) { (void)core_.restart_child(name, now_, fx); });
        by_order_.clear();
        break;
      default:
        if (one_in(4)) {
          (void)core_.delete_child(name);
        } else if (one_in(20)) {
          stopping_all_ = true;
          tell([&](fx_t& fx) { core_.shut_down(now_, fx); });
        } else {
          tell([&](fx_t& fx) { core_.ended("nobody", {exit_kind::error, ""}, now_, fx); });
        }
    }
  }

  // One child does what it was asked for.
  bool answer() {
    for (auto& [name, c] : there_) {
      if (c.killed || c.asked_to_stop) {
        const auto gone = name;
        const failure why{c.killed ? exit_kind::killed : exit_kind::shutdown, ""};
        there_.erase(gone);
        tell([&](fx_t& fx) { core_.ended(gone, why, now_, fx); });
        return true;
      }
      if (c.starting) {
        c.starting = false;
        const auto up = name;
        tell([&](fx_t& fx) { core_.started(up, now_, fx); });
        return true;
      }
    }
    return false;
  }

  bool alarm() {
    if (!core_.wake_at()) return false;
    now_ = std::max(now_, *core_.wake_at());
    tell([&](fx_t& fx) { core_.on_time(now_, fx); });
    return true;
  }

  void tell(const std::function<void(fx_t&)>& event) {
    std::vector<std::string> order;
    core_.for_each_child([&](const child_status& c) { order.emplace_back(c.name); });
    fx_t fx;
    event(fx);
    core_.for_each_child([&](const child_status& c) {
      if (std::find(order.begin(), order.end(), c.name) == order.end()) order.emplace_back(c.name);
    });
    for (const auto& effect : fx.list) check(effect, order);
    if (core_.wake_at()) REQUIRE(*core_.wake_at() > now_);
    REQUIRE(core_.active_count() == there_.size());
  }

  void check(const fx_t::effect& effect, const std::vector<std::string>& order) {
    REQUIRE_FALSE(finished_);
    if (const auto* e = std::get_if<fx_t::start_child>(&effect)) {
      INFO("start " << e->name);
      REQUIRE_FALSE(there_.contains(e->name));  // never two of one name, nor two starts outstanding
      REQUIRE_FALSE(stopping_all_);
      if (how_ == how::one_for_all && by_order_ != e->name)  // those before it in the order have started
        for (const auto& name : before(order, e->name)) {
          const auto c = core_.find_child(name);
          REQUIRE((!c || (c->state != child_state::waiting && c->state != child_state::backing_off)));
        }
      there_.emplace(e->name, instance{});
    } else if (const auto* s = std::get_if<fx_t::stop_child>(&effect)) {
      INFO("stop " << s->name);
      REQUIRE(there_.contains(s->name));
      in_reverse(s->name, order);
      there_.at(s->name).asked_to_stop = true;
    } else if (const auto* k = std::get_if<fx_t::kill_child>(&effect)) {
      INFO("kill " << k->name);
      REQUIRE(there_.contains(k->name));
      there_.at(k->name).killed = true;
    } else if (const auto* v = std::get_if<fx_t::event>(&effect)) {
      if (v->kind == event_kind::restarted) restarts_of(v->name);
    } else {
      REQUIRE(there_.empty());  // every child that was started has ended
      finished_ = true;
    }
  }

  static std::vector<std::string> before(const std::vector<std::string>& order, const std::string& name) {
    return {order.begin(), std::find(order.begin(), order.end(), name)};
  }

  // Whoever is stopped, but not by an operator, was started after all that still run. Dynamic ones have no order.
  void in_reverse(const std::string& name, const std::vector<std::string>& order) {
    if (how_ == how::dynamic || by_order_ == name || there_.at(name).asked_to_stop) return;
    const auto it = std::find(order.begin(), order.end(), name);
    REQUIRE(it != order.end());
    for (auto later = it + 1; later != order.end(); ++later) REQUIRE_FALSE(there_.contains(*later));
  }

  // A restart under one_for_one counts when the child failed; without a delay its start is at that time. Those
  // that took a while to start, or had a back-off, or count for themselves, are left out.
  void restarts_of(const std::string& name) {
    const auto c = core_.find_child(name);
    if (how_ != how::one_for_one || !c || c->rules->back_off.minimum != 0ms || c->failed_at != now_) return;
    restarts_.push_back(now_);
    while (now_ - restarts_.front() > intensity_.period) restarts_.pop_front();
    REQUIRE(restarts_.size() <= intensity_.restarts);
  }

  std::mt19937_64 random_;
  strategy how_ = how::one_for_one;
  auto_shutdown auto_ = auto_shutdown::never;
  restart_intensity intensity_;
  supervision core_;
  supervision::time_point now_{1h};
  std::map<std::string, instance, std::less<>> there_;  // what runs, or starts, or stops
  std::deque<supervision::time_point> restarts_;
  std::string by_order_;
  bool stopping_all_ = false, finished_ = false;
};

}  // namespace

TEST_CASE(
    "whatever happens: one start at a time, stops in reverse order, no more restarts than allowed, nobody "
    "left",
    "[supervision]") {
  const auto base = static_cast<std::uint64_t>(std::random_device{}());
  for (std::uint64_t n = 0; n < 2000; ++n) {
    const auto seed = base + n;
    INFO("seed " << seed);
    chaos{seed}.run();
  }
}
