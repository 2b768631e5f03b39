// Which messages of a channel are still to be confirmed, and when each was sent.
//
// A broker may answer in any order, singly or with `multiple`, and mix the two: `multiple` settles everything up to
// its tag that is not settled yet. Every message is counted once.
//
// Threads   a plain value of the producer's thread.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace posthorn {

class confirm_window {
public:
  // At most `size` messages are to be confirmed at a time.
  explicit confirm_window(std::size_t size) : sent_at_(std::bit_ceil(size + 1) * 4), size_{size} {}

  [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_; }
  // The oldest unconfirmed message holds its place in the ring, though younger ones are confirmed already.
  [[nodiscard]] std::size_t room() const noexcept {
    const auto span = static_cast<std::size_t>(next_ - lowest_);
    return span >= sent_at_.size() || in_flight_ >= size_
               ? 0
               : std::min(size_ - in_flight_, sent_at_.size() - span);
  }
  // Answers that named a message which was not there to be settled.
  [[nodiscard]] std::uint64_t unexpected() const noexcept { return unexpected_; }

  // Only with room. The time must not be zero.
  void published(std::uint64_t now) noexcept {
    slot(next_++) = now;
    ++in_flight_;
  }

  // Calls `on_settled(sent_at)` for each message that this answer settles; returns how many.
  template <class OnSettled>
  std::uint64_t settle(std::uint64_t tag, bool is_multiple, OnSettled&& on_settled) {
    // With `multiple`, tag 0 means all so far.
    const auto last = is_multiple && tag == 0 ? next_ - 1 : tag;
    if (last >= next_ || (tag == 0 && !is_multiple)) {
      ++unexpected_;
      return 0;
    }
    std::uint64_t count = 0;
    for (auto at = is_multiple ? lowest_ : std::max(last, lowest_); at <= last; ++at) {
      const auto sent_at = std::exchange(slot(at), 0);
      if (sent_at == 0) continue;
      on_settled(sent_at);
      ++count;
    }
    if (count == 0) ++unexpected_;
    in_flight_ -= static_cast<std::size_t>(count);
    while (lowest_ < next_ && slot(lowest_) == 0) ++lowest_;
    return count;
  }

private:
  std::uint64_t& slot(std::uint64_t tag) noexcept { return sent_at_[tag & (sent_at_.size() - 1)]; }

  std::vector<std::uint64_t> sent_at_;  // by tag, modulo its size, a power of two; 0: settled
  std::size_t size_;
  std::size_t in_flight_ = 0;
  std::uint64_t lowest_ = 1;  // no tag below it is unsettled
  std::uint64_t next_ = 1;    // the first confirm number is 1
  std::uint64_t unexpected_ = 0;
};

}  // namespace posthorn
