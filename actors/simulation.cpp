#include "actors/simulation.hpp"

#include "actors/node_context.hpp"

#include <caf/abstract_actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/detail/test_actor_clock.hpp>
#include <caf/resumable.hpp>
#include <caf/scheduled_actor.hpp>
#include <caf/scheduler/test_coordinator.hpp>

#include <utility>

namespace posthorn {

namespace {

// A node that does so much without any time passing never comes to rest.
constexpr std::size_t steps_max = 10'000'000;

}  // namespace

void node_context::at_fault_point(std::string_view point) {
  if (simulated != nullptr) return simulated->reached(point);
  if (point == faults.crash_at && times_reached.fetch_add(1) + 1 == faults.crash_on) std::_Exit(86);
}

simulation::simulation(std::uint64_t seed, std::int64_t start_at)
    : seed_{seed}, state_{seed}, start_at_{start_at}, now_{std::chrono::milliseconds{start_at}} {}

caf::scheduler::test_coordinator& simulation::scheduler() const {
  return dynamic_cast<caf::scheduler::test_coordinator&>(system_->scheduler());
}

void simulation::attach(caf::actor_system& system) {
  system_ = &system;
  crashed_.reset();
  gave_up_.reset();
  // The clock counts from 1970, so that it is the wall clock, too.
  scheduler().clock().current_time = caf::actor_clock::time_point{now_};
}

void simulation::detach() {
  if (system_ == nullptr) return;
  auto& s = scheduler();
  now_ = s.clock().current_time.time_since_epoch();
  // What an actor leaves behind when it is dropped may wake another.
  while (!s.clock().schedule.empty() || !s.jobs.empty()) {
    auto timers = std::exchange(s.clock().schedule, {});
    timers.clear();
    for (auto* job : std::exchange(s.jobs, {})) {
      // CAF's way to drop an actor forgets its state.
      if (job->subtype() == caf::resumable::scheduled_actor)
        static_cast<caf::scheduled_actor*>(job)->on_exit();
      caf::scheduler::abstract_coordinator::cleanup_and_release(job);
    }
  }
  system_ = nullptr;
}

std::int64_t simulation::now() const noexcept {
  const auto since = system_ == nullptr ? now_ : system_->clock().now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}

// SplitMix64: the same everywhere, which the distributions of the standard library are not.
std::uint64_t simulation::choose(std::uint64_t below) {
  state_ += 0x9e3779b97f4a7c15;
  auto z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return (z ^ (z >> 31)) % below;
}

void simulation::note(std::string_view what, std::uint64_t number) {
  const auto mix = [this](std::uint64_t octet) { fingerprint_ = (fingerprint_ ^ octet) * 0x100000001b3; };
  const auto at = static_cast<std::uint64_t>(now() - start_at_);
  for (const char c : what) mix(static_cast<unsigned char>(c));
  mix(number);
  mix(at);
  if (!tracing_) return;
  auto line = "+" + std::to_string(at) + " ms: " + std::string{what};
  if (number != 0) line += " #" + std::to_string(number);
  trace_.push_back(std::move(line));
}

void simulation::reached(std::string_view point) {
  if (crashed_) throw simulated_crash{*crashed_};
  note(point, 0);
  if (crash_on_ == 0 || point != crash_point_ || --crash_on_ != 0) return;
  crash(std::string{point});
  throw simulated_crash{*crashed_};
}

void simulation::give_up(const std::string& why) {
  if (!gave_up_) gave_up_ = why;
  crash("it gave up: " + why);
  throw simulated_crash{*crashed_};
}

void simulation::crash_at(std::string_view point, unsigned on) {
  crash_point_ = point;
  crash_on_ = on;
}

bool simulation::step() {
  auto& s = scheduler();
  if (crashed_ || s.jobs.empty()) return false;
  std::swap(s.jobs.front(), s.jobs[choose(s.jobs.size())]);
  if (const auto* actor = dynamic_cast<caf::abstract_actor*>(s.jobs.front()))
    note("an actor runs", actor->id());
  return s.try_run_once();
}

// Timers that are due.
bool simulation::run_due() {
  auto& clock = scheduler().clock();
  if (crashed_ || clock.schedule.empty() || clock.schedule.begin()->first > clock.current_time) return false;
  (void)clock.advance_time(caf::actor_clock::duration_type{0});
  return true;
}

void simulation::run_all() {
  if (system_ == nullptr) return;
  std::size_t steps = 0;
  do {
    while (step()) {
      if (++steps > steps_max) {
        throw std::runtime_error{"the node never comes to rest: " + std::to_string(steps_max) +
                                 " steps at one moment"};
      }
    }
  } while (run_due());
  if (gave_up_) throw std::runtime_error{"the node gave up: " + *gave_up_};
}

void simulation::run() { run_all(); }

bool simulation::advance_until(std::chrono::milliseconds time, const std::function<bool()>& done) {
  if (system_ == nullptr) {
    now_ += time;
    return done();
  }
  auto& clock = scheduler().clock();
  const auto target = clock.current_time + time;
  for (;;) {
    run_all();
    if (done()) return true;
    if (crashed_) return false;
    const auto next = clock.schedule.empty() ? target : clock.schedule.begin()->first;
    if (clock.schedule.empty() || next > target) break;
    clock.current_time = next;
  }
  clock.current_time = target;
  return false;
}

}  // namespace posthorn
