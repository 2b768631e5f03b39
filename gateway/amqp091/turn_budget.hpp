// How long one connection may keep the I/O thread that it shares with others.
//
// A chunk of input is 256 KiB: a thousand small publishes or more. Most cost some hundred nanoseconds; one that a headers
// exchange compares with 10,000 bindings takes 0.4 ms, and one that goes to 1,000 queues 30 µs. Taken whole, a chunk kept
// everybody else waiting from 0.2 ms to more than a second. A connection therefore ends its turn when its time is over, and
// goes on after the others had theirs. Time is what counts, but looking at a clock after each frame would cost a tenth of
// what a frame does: what is done is counted, and the clock looked at when it may have become much.
//
// Threads   a plain value, of one I/O thread.
#pragma once

#include <chrono>
#include <cstddef>

namespace posthorn::amqp091 {

template <class Clock>
class basic_turn_budget {
public:
  // About ten microseconds of what costs least. Whatever may cost more than that alone spends this much.
  static constexpr std::size_t look_every = 256;

  void begin(typename Clock::duration longest) {
    until_ = Clock::now() + longest;
    spent_ = 0;
    over_ = false;
  }
  // One is a frame, a place in a queue's parcel, or a delivery.
  void spend(std::size_t cost) noexcept { spent_ += cost; }
  // Once it is, it stays so until the next turn begins.
  [[nodiscard]] bool is_over() {
    if (spent_ < look_every) [[likely]]
      return over_;
    spent_ = 0;
    return over_ = over_ || Clock::now() >= until_;
  }

private:
  typename Clock::time_point until_{};
  std::size_t spent_ = 0;
  bool over_ = false;
};

using turn_budget = basic_turn_budget<std::chrono::steady_clock>;

}  // namespace posthorn::amqp091
