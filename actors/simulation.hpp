// Time, order and crashes of a test's node, which runs on the thread that drives it: nothing happens but in `run` and
// `advance`. Which of the actors that could run is next is chosen by a generator, so that a seed stands for an order of
// events. What users see of it is posthorn/testing.hpp.
//
// Ownership   a test node's; outlives its brokers, of which there is one after each crash.
// Threads     one.
// Errors      `std::runtime_error` when the node gives up by itself, or never comes to rest.
#pragma once

#include <caf/fwd.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace caf::scheduler {
class test_coordinator;
}

namespace posthorn {

// What a fault point throws. It ends the handler that came there, and no other runs after it.
class simulated_crash : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

class simulation {
public:
  // `start_at`: milliseconds since 1970.
  simulation(std::uint64_t seed, std::int64_t start_at);
  simulation(const simulation&) = delete;
  simulation& operator=(const simulation&) = delete;

  // --- by the broker ---

  // The system has the scheduler "testing". It goes on at the time at which the one before it ended.
  void attach(caf::actor_system& system);
  // Whatever still waits to run is dropped.
  void detach();
  // Throws `simulated_crash` where the node is to crash.
  void reached(std::string_view point);
  // The node cannot go on. Throws.
  [[noreturn]] void give_up(const std::string& why);

  // --- by the test ---

  // Until nothing is left to do at this time.
  void run();
  // Time passes, and what falls due meanwhile runs when it is due.
  void advance(std::chrono::milliseconds time) {
    (void)advance_until(time, [] { return false; });
  }
  // The same, but no further than until `done`. False: that was never so.
  bool advance_until(std::chrono::milliseconds time, const std::function<bool()>& done);
  // Milliseconds since 1970.
  [[nodiscard]] std::int64_t now() const noexcept;

  // The node crashes when it comes to this point for the so-manieth time from now on.
  void crash_at(std::string_view point, unsigned on);
  // Where it has crashed; nothing of it runs any more.
  [[nodiscard]] const std::optional<std::string>& crashed() const noexcept { return crashed_; }
  // It crashes here and now.
  void crash(std::string where) { crashed_ = std::move(where); }

  // What has happened: fault points that were passed and actors that ran, with the time since the start.
  void keep_trace() noexcept { tracing_ = true; }
  [[nodiscard]] const std::vector<std::string>& trace() const noexcept { return trace_; }
  // The same in one number.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept { return fingerprint_; }

  [[nodiscard]] std::uint64_t choose(std::uint64_t below);
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }

private:
  bool step();
  bool run_due();
  void run_all();
  void note(std::string_view what, std::uint64_t number);
  [[nodiscard]] caf::scheduler::test_coordinator& scheduler() const;

  const std::uint64_t seed_;
  std::uint64_t state_;  // of the generator
  const std::int64_t start_at_;
  std::chrono::nanoseconds now_;  // since 1970, while there is no system
  caf::actor_system* system_ = nullptr;
  std::string crash_point_;
  unsigned crash_on_ = 0;  // 0: nowhere
  std::optional<std::string> crashed_, gave_up_;
  bool tracing_ = false;
  std::vector<std::string> trace_;
  std::uint64_t fingerprint_ = 0xcbf29ce484222325;
};

}  // namespace posthorn
