// Which of the batches that wait are in the next commit, so that a commit ends after a few milliseconds and nobody's small
// batch waits behind a large one for more than one.
//
// Small batches go with the next commit, whoever stands before them, up to a bound. Of the large ones, the oldest goes with
// every commit, so that it waits for no more than its turn among the large ones, and others with it while they fit. What is
// larger than a commit goes in parts, if it can. Measured beside a publisher at full speed, before there was a bound: a
// confirm took up to 300 ms; docs/performance.md has what it takes now.
//
// Order   batches of one mailbox stay in order, and so do those that are `ordered` (what durable actors do, who may touch
//         what another batch left). All others may overtake each other: none of them knows of another before it is written.
//
// A plain value, made for one commit; every waiting batch is offered to it, the oldest first.
#pragma once

#include "mailbox/ids.hpp"

#include <cstddef>
#include <unordered_set>

namespace posthorn {

class commit_share {
public:
  // What a commit has to do, in octets to be written: about 2.5 ns each, the sync included.
  static constexpr std::size_t work_max = std::size_t{2} << 20;
  static constexpr std::size_t small_max = work_max / 32;
  // Beside the bytes themselves: a batch touches pages of its own, and a record takes its place in the tree.
  static constexpr std::size_t batch_work = 4096, record_work = 256, erasure_work = 128;

  enum class answer { wait, whole, part };

  // Without large ones, a commit is short: who finds small batches and large ones waiting makes one for the small ones, and
  // the next for all. So a small batch waits for one large commit, not for the rest of one and another.
  enum class large_ones { go, wait };
  explicit commit_share(large_ones now = large_ones::go) noexcept : large_wait_{now == large_ones::wait} {}

  // `work` is what is left of it; `in_parts`: it is too large for one commit, and not all of its parts are written.
  [[nodiscard]] answer offer(mailbox_id mailbox, std::size_t work, bool ordered, bool in_parts = false) {
    const bool overtakes = passed_.contains(mailbox.value) || (ordered && passed_ordered_);
    if (!overtakes) {
      if (work <= small_max && !in_parts) {
        if (small_ + work <= work_max) {
          small_ += work;
          return answer::whole;
        }
      } else if (large_wait_) {
        // It is passed.
      } else if (large_ == 0 || (large_ + work <= work_max / 2 && !in_parts)) {
        // Beside parts, there is no other large one.
        large_ += in_parts ? work_max : work;
        if (!in_parts) return answer::whole;
        pass(mailbox, ordered);
        return answer::part;
      }
    }
    pass(mailbox, ordered);
    return answer::wait;
  }

private:
  void pass(mailbox_id mailbox, bool ordered) {
    passed_.insert(mailbox.value);
    passed_ordered_ = passed_ordered_ || ordered;
  }

  bool large_wait_;
  std::size_t small_ = 0, large_ = 0;
  std::unordered_set<std::uint64_t> passed_;
  bool passed_ordered_ = false;
};

}  // namespace posthorn
