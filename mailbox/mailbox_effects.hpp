// What comes out of a mailbox: for consumers, publishers, the dead-letter exchange, and the journal.
#pragma once

#include "mailbox/dead_letter.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace posthorn {

struct delivery {
  consumer_id to{};
  sequence at{};
  envelope_ptr message;
  bool redelivered = false;
  std::uint16_t attempts = 0;  // deliveries that failed before this one
  std::uint16_t returns = 0;   // how often it was taken and came back, failed or not
};

// Publishes first..last of one publisher: stored, gone, or kept as far as they have to be; or refused.
struct settlement {
  publisher_id by{};
  std::uint64_t first = 0, last = 0;
  bool rejected = false;
};

// A copy of it is to go to the dead-letter exchange, in the transaction that writes the next batch of this mailbox.
struct dead_letter {
  sequence at{};         // 0: it was refused and never had a place here
  envelope_ptr message;  // null: only in the store, to be read before the next batch is written
  death_reason why = death_reason::expired;
  bool delivered = false;                   // somebody had it in his hands, here or before it came here
  std::uint16_t attempts = 0, returns = 0;  // as in a delivery
  // It stays here until its owner says what became of it: `on_buried` or `on_no_way`.
  bool waits = false;
};

// The mailbox can go on only with these messages, to be read from the store and given to `on_loaded`.
struct load_request {
  sequence_range where{};
  std::size_t count_max = 0, size_max = 0;
};

// Collected over several commands, run by the actor, then cleared. Keeps its memory, so that a busy queue does not
// allocate.
struct effects {
  std::vector<delivery> deliveries;
  std::vector<settlement> settlements;
  std::vector<dead_letter> dead_letters;
  // Consumers that left deliveries unanswered for too long: these went back. Each gets no more until it has answered them
  // all the same, which then changes nothing else; it goes on being a consumer [54].
  std::vector<consumer_id> timeouts;
  std::optional<load_request> load;

  void settle(publisher_id by, std::uint64_t number, bool rejected = false);
  void clear() noexcept;
};

struct journal_append {
  sequence at{};
  envelope_ptr message;
  bool transient = false;       // kept in the store for want of memory; does not survive a restart
  std::int64_t expires_at = 0;  // milliseconds since 1970; 0: never
};

// A range at least this wide is recorded as gone in one step, whatever it holds, and erased later, in slices.
inline constexpr std::uint64_t wide_erasure_min = 4096;

// What one batch holds at most: what is beyond it waits for the next one. So a commit is a few milliseconds of work (a
// message of 1 KiB costs 3.6 µs in it, its share of the sync included), and whoever shares it waits no longer. One message
// or one range may exceed it, and nothing is cut off the erasures of a batch that `moves`.
struct batch_limits {
  std::size_t count_max = 4096;                 // messages that are written, and as many that are erased
  std::size_t size_max = std::size_t{1} << 20;  // bytes of the envelopes that are written
};

// What the journal writes for one mailbox in one transaction: first the appends, then the erasures.
struct journal_batch {
  std::vector<journal_append> appends;
  std::vector<sequence_range> erasures;  // may name messages that were never written
  // Dead letters came out since the batch before: their copies belong in this transaction. Some of the erasures may be
  // theirs, so these are not to be written alone.
  bool moves = false;

  [[nodiscard]] bool empty() const noexcept { return appends.empty() && erasures.empty() && !moves; }
};

}  // namespace posthorn
