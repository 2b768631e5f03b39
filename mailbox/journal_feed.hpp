// What stands between a core that keeps every message and the journal: messages to be written, ranges to be erased, and
// the publishers who wait for either. A `mailbox` does this for itself, because it also has messages that need not survive.
//
//   unsent --take_batch--> sent (in the batch that the journal is writing) --on_committed--> stored
//      ^________________on_not_committed____________|
//
// What is withdrawn while it is unsent is never written; later, it is erased.
//
// Invariants (the numbers are those of a mailbox):
//   I2  A publish is settled exactly once: when it is stored, or withdrawn before it was sent.
//   I4  At most one batch is under way.
//   I5  A batch never erases what it appends.
//   I7  What is withdrawn because it moves elsewhere is erased and settled by the first batch taken after that, and that
//       batch `moves`.
//
// Threads   a plain value of its owner.
#pragma once

#include "mailbox/mailbox.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace posthorn {

class journal_feed {
public:
  // Nobody waits for what he publishes.
  static constexpr publisher_id nobody{};

  struct entry {
    sequence at{};
    envelope_ptr message;    // null: withdrawn before it was sent
    std::int64_t stamp = 0;  // stands in the store beside the message: journal_append::expires_at
    publisher_id from{};
    std::uint64_t number = 0;
    bool withdrawn = false, moves = false;
  };

  // Places grow.
  void append(entry e);
  // A message that was appended here once, and is neither wanted nor withdrawn already, is not to come back. `moves`: what
  // becomes of it is written by its owner with the next batch.
  void withdraw(sequence at, bool moves, effects& out);
  // These are stored, or nowhere.
  void erase(sequence_range which);
  // Something of the owner's belongs into the next batch, even if nothing else is in it.
  void demand_move() noexcept { moves_ = true; }

  // The next batch, the oldest first; empty when there is nothing to write or one is under way. `transient`: what it
  // appends does not survive a restart.
  journal_batch take_batch(const batch_limits& max, bool transient = false);
  // Of the batch under way: all of it was written; or all but this, as in mailbox::on_not_committed. Gives what is stored
  // now and was not withdrawn, in order.
  std::vector<sequence> on_committed(effects& out);
  std::vector<sequence> on_not_committed(journal_batch unwritten, effects& out);

  // Nobody waits any more.
  void settle_all(effects& out);

  [[nodiscard]] bool under_way() const noexcept { return under_way_; }
  // take_batch would give something, if none were under way.
  [[nodiscard]] bool has_unsent() const noexcept {
    return unsent_.size() != withdrawn_ || moves_ || !erasures_.empty();
  }
  [[nodiscard]] bool has_unsent_erasures() const noexcept { return !erasures_.empty(); }
  // Its erasure is not known to be written.
  [[nodiscard]] bool is_erasing(sequence at) const noexcept;
  // A message that the store may not have yet. Null: it has it, or never will.
  [[nodiscard]] envelope_ptr find_unstored(sequence at) const noexcept;

private:
  struct waiting {
    publisher_id from{};
    std::uint64_t number = 0;
  };
  static void settle(publisher_id from, std::uint64_t number, effects& out);
  void pop_withdrawn();
  std::vector<sequence> end_batch(effects& out);

  ring<entry> unsent_;         // sorted by place; those in the middle may be withdrawn
  std::size_t withdrawn_ = 0;  // of unsent_
  std::vector<entry> sent_;    // sorted by place
  std::vector<sequence_range> erasures_, erasures_under_way_;
  std::vector<waiting> moved_, moved_under_way_;
  bool moves_ = false, under_way_ = false;
};

}  // namespace posthorn
