#include "persist/actor_records.hpp"

#include "tests/persist/scratch.hpp"

#include <functional>

using namespace posthorn;

namespace {

atomic_writes a_turn() {
  atomic_writes turn;
  turn.transfers.push_back({{2}, {1}, message_of("sent")});
  turn.states.push_back({{"/a", {1}, {1}, 1, 1, {}}});
  turn.timers.push_back({{"/a", "tick", 5, 0, nullptr}});
  turn.events.push_back({"/a", 1, {}});
  turn.prune_events.emplace_back("/a", 0);
  return turn;
}

}  // namespace

TEST_CASE("a turn that names impossible things is refused, and nothing of it is written", "[persist]") {
  CHECK(check(a_turn()));
  const auto long_path = "/" + std::string(actor_path_size_max, 'a');
  const std::vector<std::function<void(atomic_writes&)>> faults = {
      [](auto& t) { t.transfers.back().to = {}; },
      [](auto& t) { t.transfers.back().message = nullptr; },
      [](auto& t) { t.states.back().now.path.clear(); },
      [](auto& t) { t.states.back().now.path = std::string("/a\0b", 4); },
      [&](auto& t) { t.states.back().now.path = long_path; },
      [](auto& t) { t.states.back().now.mailbox = {}; },
      [](auto& t) {
        t.states.push_back({{"/b", {}, {}, 0, 0, {}}, true});
      },
      [](auto& t) { t.timers.back().timer.path.clear(); },
      [](auto& t) { t.timers.back().timer.name.clear(); },
      [](auto& t) { t.timers.back().timer.name.assign(timer_name_size_max + 1, 'n'); },
      [](auto& t) { t.timers.back().timer.due = -1; },
      [](auto& t) { t.timers.back().timer.period = -1; },
      [&](auto& t) { t.events.back().path = long_path; },
      [](auto& t) { t.prune_events.back().first.clear(); },
  };
  scratch_directory directory;
  auto s = open_store(directory);
  for (const auto& fault : faults) {
    auto turn = a_turn();
    fault(turn);
    const auto checked = check(turn);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == errc::refused);
    CHECK(write(*s, turn) == checked);
  }
  CHECK(s->read_state("/a").value() == std::nullopt);
  CHECK(s->next_timer_due().value() == std::nullopt);
  for (const auto& path : {std::string{}, long_path}) {
    CHECK(s->read_state(path).error().code == errc::refused);
    CHECK(s->read_history(path, 0, 1).error().code == errc::refused);
  }
}

TEST_CASE("the longest path and name fit", "[persist]") {
  scratch_directory directory;
  auto s = open_store(directory);
  const auto path = std::string(actor_path_size_max, 'p');
  const auto name = std::string(timer_name_size_max, 'n');
  atomic_writes turn;
  turn.states.push_back({{path, {1}, {}, 0, 0, {}}});
  turn.timers.push_back({{path, name, 5, 0, nullptr}});
  turn.events.push_back({path, ~std::uint64_t{0}, {}});
  REQUIRE(write(*s, turn));
  CHECK(s->read_state(path).value()->mailbox == mailbox_id{1});
  CHECK(s->timers_due(5, 1).value().front().name == name);
  CHECK(s->read_history(path, 0, 9).value().front().number == ~std::uint64_t{0});
}
