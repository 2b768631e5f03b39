// The messages of an exchange of the type x-delayed-message that wait for their time.
//
// Such an exchange routes as an exchange of the type in its argument x-delayed-type does, but what has a header x-delay (in
// milliseconds) waits that long before it is routed, by the bindings of then. With a delay of zero or less, or without one,
// a message goes at once; so does what has waited, because its delay is negative from then on, as the plugin left it.
//
// A plain value, as `mailbox` is: commands go in, with the time; effects come out, and the actor around it runs them. How it
// is used:
//
//   publish   what the exchange is given and has to wait. Publishers are told when it is stored.
//   take_due  when `next_due` has come: what is to be routed now. The owner reads those that are only in the store, makes
//             `released` of each, routes that, and has the copies written with the next batch, which `moves` and erases them
//             here. So each goes on exactly once, whatever ends in between.
//
// On disk   are the messages, under the exchange's own mailbox id and their place; where others have the time at which they
//           expire (journal_append::expires_at) stands the time at which they are due. Whatever its delivery mode, a message
//           of a durable exchange survives a restart, as with the plugin; those of another exchange do not. The node's start
//           gives what is there to `restore`.
// Memory    16 bytes for each message, in blocks that are at least half full but for the last, and 24 bytes for each block
//           of 256: at most 33 bytes for a message, and 44 where many were cancelled. Envelopes are dropped when they are
//           stored.
//
// Invariants (the tests name them):
//   D1  A message is due at its time, never earlier, and in the order of these times; those of one time in order of arrival.
//   D2  It comes out once: due, cancelled, or purged.
//   I2 I4 I5 I7, as for a mailbox.
//
// Time      milliseconds since 1970.
// Threads   none of its own; whoever owns it calls it from one thread at a time.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/journal_feed.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/topology.hpp"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn {

// --- the exchange and its messages ------------------------------------------------------------------------------

inline constexpr std::string_view delayed_exchange_type = "x-delayed-message";

// As what the exchange routes; or why it may not be declared (406), in the plugin's words.
[[nodiscard]] std::variant<exchange_type, std::string> delayed_type_of(const field_table& arguments);

// How long a message has to wait, in milliseconds; 0: it goes at once. A delay may be any whole number of 64 bits, of any
// type, and a number that is a text or has a fraction, as with the plugin; what is not a number is no delay.
[[nodiscard]] std::int64_t delay_of(std::span<const std::byte> properties);

// When it is due, if it comes now. What would be later than time itself is due at its end.
[[nodiscard]] std::int64_t due_time_of(const envelope& message, std::int64_t now);

// The message as it goes on: with its delay negative, so that those behind see that it waited and none waits again.
// `corrupted`: its properties are not what their flags announce.
[[nodiscard]] result<envelope_ptr> released(const envelope& message);

// --- those that wait --------------------------------------------------------------------------------------------

// What tells a waiting message apart. Ordered by when they are due.
struct delayed_id {
  std::int64_t due = 0;
  sequence at{};

  friend auto operator<=>(const delayed_id&, const delayed_id&) = default;
};
// "1700000000000-42": for operators, who list messages and cancel them.
[[nodiscard]] std::string to_string(const delayed_id& id);
[[nodiscard]] std::optional<delayed_id> delayed_id_of(std::string_view text) noexcept;

// Sorted ids, in blocks.
class delayed_ids {
public:
  // False: it is there already.
  bool insert(const delayed_id& id);
  bool erase(const delayed_id& id);
  void pop_front();
  void clear() noexcept { *this = delayed_ids{}; }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] const delayed_id& front() const noexcept { return blocks_.front()[first_]; }
  // Up to `count_max` of them, from `from` on.
  [[nodiscard]] std::vector<delayed_id> list(const delayed_id& from, std::size_t count_max) const;
  [[nodiscard]] std::size_t footprint() const noexcept;  // bytes

private:
  static constexpr std::size_t block_size_max = 256;
  using block = std::vector<delayed_id>;

  // The block where it is, or would be.
  [[nodiscard]] std::size_t block_of(const delayed_id& id) const noexcept;
  void drop_gap();

  std::vector<block> blocks_;  // none is empty
  std::size_t first_ = 0;      // of the first block, what was popped
  std::size_t size_ = 0;
};

class delayed_messages {
public:
  // `survives`: the exchange is durable.
  explicit delayed_messages(bool survives) : survives_{survives} {}

  // A message that the store has, before anything else comes; loaded_message::expires_at is when it is due.
  void restore(sequence at, std::int64_t due);
  // The next messages stand behind this place: others up to it were used once, or given to senders who store them themselves.
  void skip_to(sequence next) noexcept { next_ = std::max(next_, next); }

  void publish(std::span<arrival> messages, std::int64_t now);
  // Messages that the store has already, at places that were skipped; due when loaded_message::expires_at says.
  void arrive(std::span<const loaded_message> messages);

  struct due_message {
    delayed_id id{};
    envelope_ptr message;  // null: only in the store, to be read before the next batch is written
  };
  // When the next is due; nothing: none waits.
  [[nodiscard]] std::optional<std::int64_t> next_due() const noexcept;
  // Those that are due now, the earliest first, at most so many. They are gone from here: the next batch `moves`.
  [[nodiscard]] std::vector<due_message> take_due(std::int64_t now, std::size_t count_max, effects& out);

  // False: it does not wait here (any more).
  bool cancel(const delayed_id& id, effects& out);
  // Forgets up to so many, the next ones first, and says how many they were; 0: none is left. What comes in the meantime goes,
  // too.
  std::size_t purge(std::size_t count_max, effects& out);
  // In the order in which they are due, from this one on.
  [[nodiscard]] std::vector<delayed_id> list(const delayed_id& from, std::size_t count_max) const {
    return ids_.list(from, count_max);
  }

  // As those of a mailbox.
  void demand_batch() noexcept { feed_.demand_move(); }
  journal_batch take_batch(const batch_limits& max = {}) { return feed_.take_batch(max, !survives_); }
  void on_committed(effects& out) { (void)feed_.on_committed(out); }
  void on_not_committed(journal_batch unwritten, effects& out) {
    (void)feed_.on_not_committed(std::move(unwritten), out);
  }
  void settle_all(effects& out) { feed_.settle_all(out); }

  [[nodiscard]] bool batch_under_way() const noexcept { return feed_.under_way(); }
  [[nodiscard]] bool has_unsent() const noexcept { return feed_.has_unsent(); }
  [[nodiscard]] bool has_unsent_erasures() const noexcept { return feed_.has_unsent_erasures(); }
  // Of one that waits. Null: the store has it.
  [[nodiscard]] envelope_ptr find_unstored(sequence at) const noexcept { return feed_.find_unstored(at); }
  [[nodiscard]] std::size_t count() const noexcept { return ids_.size(); }
  [[nodiscard]] std::size_t footprint() const noexcept { return ids_.footprint(); }

private:
  // fixed after construction
  bool survives_;

  delayed_ids ids_;
  sequence next_{1};
  journal_feed feed_;
};

}  // namespace posthorn
