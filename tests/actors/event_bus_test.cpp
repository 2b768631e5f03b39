// What befalls the tree, as subscribers hear of it.
#include "posthorn/events.hpp"

#include "posthorn/node.hpp"
#include "tests/actors/lab.hpp"
#include "tests/actors/probed_broker.hpp"

#include <condition_variable>

using namespace posthorn;
using namespace std::chrono_literals;
using probed::eventually;

namespace {

struct a_node : lab::bench {
  // When it is there, no event of the start is still to come from below /actors.
  a_node() : lab::bench{[](lab::turn&, std::int64_t) {}} {
    REQUIRE(probed::eventually([&] {
      const auto recorded = node->broker().events(100);
      REQUIRE(recorded);
      return std::any_of(recorded->begin(), recorded->end(),
                         [](const tree_event& e) { return e.path == "/actors/lab"; });
    }));
  }
};

// What a subscriber has heard.
struct heard {
  std::mutex mutex;
  std::vector<event> all;

  void operator()(const event& e) {
    const std::lock_guard guard{mutex};
    all.push_back(e);
  }
  std::vector<event> now() {
    const std::lock_guard guard{mutex};
    return all;
  }
  std::size_t count(event_kind kind, const std::string& path) {
    const auto events = now();
    return static_cast<std::size_t>(std::count_if(
        events.begin(), events.end(), [&](const event& e) { return e.kind == kind && e.path == path; }));
  }
};

// Lets a callback wait until the test says so.
struct gate {
  std::mutex mutex;
  std::condition_variable news;
  bool is_open = false;
  int waiting = 0;

  void pass() {
    std::unique_lock lock{mutex};
    ++waiting;
    news.notify_all();
    news.wait(lock, [this] { return is_open; });
  }
  bool somebody_waits() {
    std::unique_lock lock{mutex};
    return news.wait_for(lock, 20s, [this] { return waiting > 0; });
  }
  void open() {
    const std::lock_guard guard{mutex};
    is_open = true;
    news.notify_all();
  }
};

// Whatever happens, nobody waits at the gate for ever. Stands behind the subscriptions.
struct opened_at_end {
  gate& which;
  ~opened_at_end() { which.open(); }
};

}  // namespace

TEST_CASE("a subscriber hears of a failure, its reason, and the restart", "[events]") {
  a_node n;
  heard seen;
  const auto subscribed = n.node->on_event(std::ref(seen));
  n.send(1);
  CHECK(eventually([&] { return seen.count(event_kind::started, "/actors/lab/1") == 1; }));
  REQUIRE(n.node->tree().kill("/actors/lab/1"));
  CHECK(eventually([&] { return seen.count(event_kind::restarted, "/actors/lab/1") == 1; }));
  for (const auto& e : seen.now()) {
    CHECK(e.at > 1'600'000'000'000);
    CHECK(e.dropped_before == 0);
    if (e.kind == event_kind::failed) {
      CHECK(e.path == "/actors/lab/1");
      CHECK(e.why.kind == exit_kind::killed);
    }
    if (e.kind == event_kind::restarted) CHECK(e.restarts == 1);
  }
  CHECK(seen.count(event_kind::failed, "/actors/lab/1") == 1);
  CHECK(subscribed.dropped() == 0);
}

TEST_CASE("a filter lets through what is below its path, and the kinds that it names", "[events]") {
  a_node n;
  heard all, below, kinds, other, exact;
  const auto a = n.node->on_event(std::ref(all));
  const auto b = n.node->on_event(std::ref(below), {.below = "/actors/lab/"});
  const auto c = n.node->on_event(std::ref(kinds), {.below = "/", .kinds = {event_kind::failed}});
  const auto d = n.node->on_event(std::ref(other), {.below = "/actors/la"});  // no part of the path
  const auto e = n.node->on_event(std::ref(exact), {.below = "/actors/lab/2"});
  n.send(1, 1, "lab/1");
  n.send(1, 1, "lab/2");
  REQUIRE(n.node->tree().kill("/actors/lab/1"));
  REQUIRE(n.node->tree().kill("/vhosts"));
  REQUIRE(eventually([&] { return all.count(event_kind::restarted, "/vhosts") == 1; }));
  REQUIRE(eventually([&] { return all.count(event_kind::restarted, "/actors/lab/1") == 1; }));
  REQUIRE(eventually([&] { return kinds.now().size() == 2; }));
  CHECK(kinds.count(event_kind::failed, "/vhosts") == 1);
  CHECK(kinds.count(event_kind::failed, "/actors/lab/1") == 1);
  REQUIRE(eventually([&] { return below.now().size() >= 4; }));
  for (const auto& what : below.now()) CHECK(what.path.starts_with("/actors/lab"));
  CHECK(eventually([&] { return exact.now().size() == 1; }));
  CHECK(other.now().empty());
}

TEST_CASE("a slow subscriber holds up nobody, and hears how much it has missed", "[events]") {
  a_node n;
  gate closed;
  heard seen, quick;
  auto slow = n.node->on_event(
      [&](const event& e) {
        closed.pass();
        seen(e);
      },
      {.below = "/actors/lab", .kinds = {event_kind::started}, .waiting_max = 3});
  const auto other =
      n.node->on_event(std::ref(quick), {.below = "/actors/lab", .kinds = {event_kind::started}});
  const opened_at_end at_end{closed};
  n.send(1, 1, "lab/0");
  REQUIRE(closed.somebody_waits());
  constexpr std::size_t more = 20;
  for (std::size_t i = 1; i <= more; ++i) n.send(1, 1, "lab/" + std::to_string(i));
  CHECK(eventually([&] { return quick.now().size() == more + 1; }));
  CHECK(eventually([&] { return slow.dropped() == more - 3; }));
  const auto metrics = n.node->broker().metrics();
  CHECK(metrics.find("posthorn_events_dropped_total 17") != std::string::npos);
  closed.open();
  REQUIRE(eventually([&] { return seen.now().size() == 4; }));
  n.send(1, 1, "lab/last");
  REQUIRE(eventually([&] { return seen.now().size() == 5; }));
  const auto events = seen.now();
  for (std::size_t i = 0; i < 4; ++i) CHECK(events[i].dropped_before == 0);
  CHECK(events[4].path == "/actors/lab/last");
  CHECK(events[4].dropped_before == more - 3);
}

TEST_CASE("an exception of a subscriber is logged, and the next event comes", "[events]") {
  scratch_directory directory;
  std::mutex mutex;
  std::string logged;
  broker_settings settings;
  settings.data_directory = directory.path();
  settings.log = [&](node_context::severity, const std::string& line) {
    const std::lock_guard guard{mutex};
    logged += line + "\n";
  };
  auto started = node::start(std::move(settings));
  REQUIRE(started);
  heard seen;
  const auto subscribed = (*started)->on_event(
      [&](const event& e) {
        seen(e);
        if (seen.now().size() % 2 == 1) throw std::runtime_error{"I cannot bear this"};
        throw 7;
      },
      {.below = "/vhosts"});
  REQUIRE((*started)->tree().kill("/vhosts"));
  CHECK(eventually([&] { return seen.count(event_kind::restarted, "/vhosts") == 1; }));
  REQUIRE(eventually([&] {
    const std::lock_guard guard{mutex};
    return logged.find("I cannot bear this") != std::string::npos &&
           logged.find("no std::exception") != std::string::npos;
  }));
}

TEST_CASE("nothing is told after the end of a subscription, nor what still waits", "[events]") {
  a_node n;
  gate closed;
  std::atomic<int> told{0};
  auto subscribed = n.node->on_event(
      [&](const event&) {
        ++told;
        closed.pass();
      },
      {.below = "/actors/lab"});
  n.send(1, 1, "lab/1");
  REQUIRE(closed.somebody_waits());
  n.send(1, 1, "lab/2");
  n.send(1, 1, "lab/3");
  std::thread opener{[&] { closed.open(); }};
  subscribed.cancel();  // waits for the callback that runs
  opener.join();
  const int at_end = told;
  CHECK(at_end >= 1);
  n.send(1, 1, "lab/4");
  CHECK(n.ask("lab/4").amount == 0);
  CHECK(told == at_end);
}

TEST_CASE("a callback may end its own subscription, and others may begin and end meanwhile", "[events]") {
  a_node n;
  std::mutex mutex;
  std::optional<subscription> own;
  std::atomic<int> told{0};
  {
    const std::lock_guard guard{mutex};
    own = n.node->on_event(
        [&](const event&) {
          {
            const std::lock_guard inner{mutex};
            own.reset();
          }
          ++told;  // the last that it looks at
        },
        {.below = "/actors/lab", .kinds = {event_kind::started}});
  }
  for (int i = 0; i < 20; ++i) {
    heard seen;
    const auto passing = n.node->on_event(std::ref(seen));
    n.send(1, 1, "lab/" + std::to_string(i));
  }
  CHECK(eventually([&] { return told == 1; }));
}

TEST_CASE("what happened before a node stops is told, and a subscription may outlive it", "[events]") {
  a_node n;
  heard seen;
  gate closed;
  auto subscribed = n.node->on_event([&](const event& e) {
    closed.pass();
    seen(e);
  });
  n.send(1, 1, "lab/1");
  REQUIRE(closed.somebody_waits());
  std::thread opener{[&] { closed.open(); }};
  n.node.reset();
  opener.join();
  CHECK(seen.count(event_kind::stopped, "/journal") == 1);
  CHECK(subscribed.dropped() == 0);
  subscribed.cancel();
}
