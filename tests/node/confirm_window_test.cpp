#include "node/load/confirm_window.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <random>
#include <set>
#include <vector>

using posthorn::confirm_window;

namespace {

// A window with messages 1 to `count`, each sent at the time 100 + its number.
confirm_window with_messages(std::uint64_t count) {
  confirm_window window{count};
  for (std::uint64_t i = 1; i <= count; ++i) window.published(100 + i);
  return window;
}

std::vector<std::uint64_t> settle(confirm_window& window, std::uint64_t tag, bool is_multiple) {
  std::vector<std::uint64_t> settled;
  const auto count =
      window.settle(tag, is_multiple, [&](std::uint64_t sent_at) { settled.push_back(sent_at - 100); });
  CHECK(count == settled.size());
  return settled;
}

}  // namespace

TEST_CASE("a single confirm settles one message, a multiple one all up to it", "[confirm_window]") {
  auto window = with_messages(10);
  CHECK(settle(window, 1, false) == std::vector<std::uint64_t>{1});
  CHECK(settle(window, 4, true) == std::vector<std::uint64_t>{2, 3, 4});
  CHECK(window.in_flight() == 6);
  CHECK(settle(window, 0, true) == std::vector<std::uint64_t>{5, 6, 7, 8, 9, 10});
  CHECK(window.in_flight() == 0);
  CHECK(window.unexpected() == 0);
}

TEST_CASE("a multiple confirm does not count again what was confirmed singly before", "[confirm_window]") {
  auto window = with_messages(10);
  CHECK(settle(window, 3, false) == std::vector<std::uint64_t>{3});
  CHECK(settle(window, 7, false) == std::vector<std::uint64_t>{7});
  CHECK(settle(window, 5, true) == std::vector<std::uint64_t>{1, 2, 4, 5});
  CHECK(settle(window, 10, true) == std::vector<std::uint64_t>{6, 8, 9, 10});
  CHECK(window.in_flight() == 0);
}

TEST_CASE("a confirm of nothing is unexpected, and changes nothing", "[confirm_window]") {
  auto window = with_messages(3);
  CHECK(settle(window, 2, false).size() == 1);
  CHECK(settle(window, 2, false).empty());
  CHECK(settle(window, 4, false).empty());
  CHECK(settle(window, 4, true).empty());
  CHECK(settle(window, 0, false).empty());
  CHECK(window.unexpected() == 4);
  CHECK(window.in_flight() == 2);
}

TEST_CASE("the oldest unconfirmed message keeps its place, so that its time is not overwritten",
          "[confirm_window]") {
  confirm_window window{4};
  std::uint64_t next = 1;
  while (window.room() != 0) window.published(100 + next++);
  CHECK(window.in_flight() == 4);
  for (std::uint64_t tag = 2; window.room() == 0 ? tag < next : tag < 100; ++tag) {
    settle(window, tag, false);
    if (window.room() != 0) window.published(100 + next++);
  }
  CHECK(settle(window, 1, false) == std::vector<std::uint64_t>{1});
}

TEST_CASE("whatever the order and mixture of confirms, each message is counted once", "[confirm_window]") {
  std::mt19937_64 random{7};
  confirm_window window{100};
  std::set<std::uint64_t> outstanding;
  std::uint64_t next = 1;
  std::uint64_t settled = 0;
  for (int round = 0; round < 20'000; ++round) {
    for (auto room = std::min<std::size_t>(window.room(), random() % 20); room > 0; --room) {
      window.published(100 + next);
      outstanding.insert(next++);
    }
    if (outstanding.empty()) continue;
    auto chosen = outstanding.begin();
    std::advance(chosen, static_cast<std::ptrdiff_t>(random() % outstanding.size()));
    const bool is_multiple = random() % 3 == 0;
    const std::uint64_t tag = *chosen;
    const std::vector<std::uint64_t> expected{is_multiple ? outstanding.begin() : chosen, std::next(chosen)};
    REQUIRE(settle(window, tag, is_multiple) == expected);
    settled += expected.size();
    outstanding.erase(is_multiple ? outstanding.begin() : chosen, std::next(chosen));
    REQUIRE(window.in_flight() == outstanding.size());
  }
  CHECK(settled + outstanding.size() == next - 1);
  CHECK(settled > 10'000);
  CHECK(window.unexpected() == 0);
}
