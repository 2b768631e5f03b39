// What a channel has to remember of messages that are on their way: publishes that the broker has not answered for, and
// deliveries that the client has not.
//
// Threads   plain values; each belongs to its connection's thread.
#pragma once

#include "mailbox/ids.hpp"
#include "mailbox/ring.hpp"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace posthorn::amqp091 {

// Publishes are numbered from 1, and answered for when every queue that they went to has settled them. Confirms are
// given in that order, as one `multiple` for all that can be confirmed, so that one never covers what is not safe: [25].
// A publish that some queue refused is not confirmed.
class publish_ledger {
public:
  // Enters the next publish and gives its number. `targets` queues will settle it; it takes `size` bytes of memory.
  std::uint64_t enter(std::uint32_t targets, std::size_t size) {
    const auto number = first_ + open_.size();
    if (targets == 0 && open_.empty()) {
      first_ = number + 1;  // answered at once
    } else {
      open_.push_back({targets & 0x7fffffffU, 0, static_cast<std::uint32_t>(size)});
      if (targets != 0) size_ += size;
    }
    last_ = number;
    return number;
  }

  // One queue has settled these, or refused them. Numbers that are not open are ignored. Gives the bytes that are no
  // longer on their way.
  std::size_t settle(std::uint64_t first, std::uint64_t last, bool rejected = false) {
    std::size_t freed = 0;
    for (auto n = first < first_ ? first_ : first; n <= last && n - first_ < open_.size(); ++n) {
      auto& e = open_[n - first_];
      if (e.targets == 0) continue;
      if (rejected) e.rejected = 1;
      if (--e.targets == 0) freed += e.size;
    }
    while (!open_.empty() && open_.front().targets == 0) {
      if (open_.front().rejected) [[unlikely]]
        rejected_.push_back(first_);
      open_.pop_front();
      ++first_;
    }
    size_ -= freed;
    return freed;
  }

  // All up to this number are answered for.
  [[nodiscard]] std::uint64_t answered() const noexcept { return first_ - 1; }
  // Those of them, since the last call, that some queue refused; in order.
  [[nodiscard]] std::vector<std::uint64_t> take_rejected() { return std::exchange(rejected_, {}); }
  // Nobody will ask which.
  void drop_rejected() noexcept { rejected_.clear(); }
  [[nodiscard]] std::uint64_t last() const noexcept { return last_; }
  // Bytes of publishes that are on their way to some queue.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

private:
  struct entry {
    std::uint32_t targets : 31 = 0;
    std::uint32_t rejected : 1 = 0;
    std::uint32_t size = 0;
  };
  ring<entry> open_;
  std::vector<std::uint64_t> rejected_;
  std::uint64_t first_ = 1, last_ = 0;
  std::size_t size_ = 0;
};

// Delivery tags first..last; none when the last is below the first.
struct tag_range {
  std::uint64_t first = 1, last = 0;
  [[nodiscard]] bool empty() const noexcept { return last < first; }
  friend bool operator==(const tag_range&, const tag_range&) = default;
};

// Deliveries are tagged from 1, without gaps, and a tag is never used again [41]. A delivery that is answered in a
// transaction is set aside until the transaction ends: it cannot be answered again, and the queue has not heard of it.
class delivery_ledger {
public:
  struct entry {
    std::uint32_t holder = 0;  // index of the channel's holder
    bool open = false;
    bool aside = false;  // only when not open
    sequence at{};
  };

  // The tag of a delivery that wants no answer.
  std::uint64_t pass() {
    if (open_.empty()) return first_++;
    open_.push_back({});
    return first_ + open_.size() - 1;
  }
  std::uint64_t enter(std::uint32_t holder, sequence at) {
    open_.push_back({holder, true, false, at});
    return first_ + open_.size() - 1;
  }

  // Calls `take(entry)` for what the client answers; false if it may not: an unknown tag, or one answered before [41].
  template <class Take>
  bool answer(std::uint64_t tag, bool multiple, Take&& take) {
    if (tag == 0) {
      if (!multiple) return false;
      return answer_up_to(first_ + open_.size(), take);
    }
    if (tag < first_ || tag - first_ >= open_.size() || !open_[tag - first_].open) return false;
    if (multiple) return answer_up_to(tag + 1, take);
    auto& e = open_[tag - first_];
    e.open = false;
    take(e);
    drop_answered();
    return true;
  }

  // The same answer, given in a transaction: its deliveries are set aside. The tags that it may be about; nothing if the
  // client may not give it.
  [[nodiscard]] std::optional<tag_range> set_aside(std::uint64_t tag, bool multiple) {
    const bool known =
        tag == 0 ? multiple : tag >= first_ && tag - first_ < open_.size() && open_[tag - first_].open;
    if (!known) return std::nullopt;
    tag_range which{multiple ? first_ : tag, tag != 0 ? tag : first_ + open_.size() - 1};
    for (auto n = which.first; n <= which.last; ++n) {
      auto& e = open_[n - first_];
      if (std::exchange(e.open, false)) e.aside = true;
    }
    return which;
  }
  // The transaction is committed: those of the range that are aside are answered. Calls `take(entry)` for each.
  template <class Take>
  void answer_aside(tag_range which, Take&& take) {
    for (auto n = which.first < first_ ? first_ : which.first; n <= which.last && n - first_ < open_.size();
         ++n) {
      if (auto& e = open_[n - first_]; std::exchange(e.aside, false)) take(e);
    }
    drop_answered();
  }
  // The transaction never was: all that is aside is open again.
  void reopen_aside() {
    for (std::size_t i = 0; i < open_.size(); ++i) {
      if (std::exchange(open_[i].aside, false)) open_[i].open = true;
    }
  }

  [[nodiscard]] bool empty() const noexcept { return open_.empty(); }

private:
  template <class Take>
  bool answer_up_to(std::uint64_t end, Take& take) {
    while (first_ < end && !open_.empty() && !open_.front().aside) {
      if (open_.front().open) take(open_.front());
      open_.pop_front();
      ++first_;
    }
    // Behind one that is aside, none can be dropped yet.
    for (std::size_t i = 0; i < open_.size() && first_ + i < end; ++i) {
      if (std::exchange(open_[i].open, false)) take(open_[i]);
    }
    drop_answered();
    return true;
  }
  void drop_answered() {
    while (!open_.empty() && !open_.front().open && !open_.front().aside) {
      open_.pop_front();
      ++first_;
    }
  }

  ring<entry> open_;
  std::uint64_t first_ = 1;
};

}  // namespace posthorn::amqp091
