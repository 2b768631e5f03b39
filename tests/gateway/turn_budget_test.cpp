#include "gateway/amqp091/turn_budget.hpp"

#include <catch2/catch_test_macros.hpp>

using namespace std::chrono_literals;

namespace {

// A clock that the test moves, and that counts how often it is looked at.
struct test_clock {
  using duration = std::chrono::microseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<test_clock>;
  static constexpr bool is_steady = true;

  static inline time_point at{};
  static inline int looks = 0;
  static time_point now() {
    ++looks;
    return at;
  }
};
using budget = posthorn::amqp091::basic_turn_budget<test_clock>;

}  // namespace

TEST_CASE("a turn is over when its time is, and stays so until the next one begins", "[turn_budget]") {
  budget turn;
  turn.begin(1ms);
  turn.spend(budget::look_every);
  CHECK_FALSE(turn.is_over());
  test_clock::at += 999us;
  turn.spend(budget::look_every);
  CHECK_FALSE(turn.is_over());
  test_clock::at += 1us;
  turn.spend(budget::look_every);
  CHECK(turn.is_over());
  CHECK(turn.is_over());
  turn.begin(1ms);
  CHECK_FALSE(turn.is_over());
}

TEST_CASE("the clock is looked at when enough was done since the last look, not before", "[turn_budget]") {
  budget turn;
  turn.begin(1ms);
  test_clock::at += 1h;
  test_clock::looks = 0;
  for (std::size_t i = 1; i < budget::look_every; ++i) {
    turn.spend(1);
    REQUIRE_FALSE(turn.is_over());
  }
  CHECK(test_clock::looks == 0);
  turn.spend(1);
  CHECK(turn.is_over());
  CHECK(test_clock::looks == 1);
}
