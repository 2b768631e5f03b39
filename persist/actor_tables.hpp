// The tables of durable actors: `actors`, `state`, `timers` with its index `timer_names`, and `history`.
//
// Threads   an object of this class is fixed after `open`; a transaction belongs to its thread.
// Errors    `corrupted`: a record is damaged, or the tables contradict each other. `refused`: a path is none, or a
//           state would take a mailbox or a path away from another.
#pragma once

#include "persist/actor_records.hpp"
#include "persist/transaction.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

// Keys and values, for those that walk over the tables themselves.
namespace actor_keys {

// When it is due (8 octets, big-endian), the path, a zero octet, the name.
[[nodiscard]] std::string timer(std::int64_t due, std::string_view path, std::string_view name);
// The path, a zero octet, the event's number (8 octets, big-endian).
[[nodiscard]] std::string event(std::string_view path, std::uint64_t number);

}  // namespace actor_keys

[[nodiscard]] result<actor_state> read_state_record(std::span<const std::byte> key,
                                                    std::span<const std::byte> value);
// Whose a mailbox is, and how far it was used at least: the actor's state may know better.
struct mailbox_owner {
  std::string path;
  sequence used{};
};
[[nodiscard]] result<mailbox_owner> read_owner_record(std::span<const std::byte> key,
                                                      std::span<const std::byte> value);
[[nodiscard]] result<std::string> read_actor_record(std::span<const std::byte> key,
                                                    std::span<const std::byte> value);
[[nodiscard]] result<timer_record> read_timer_record(std::span<const std::byte> key,
                                                     std::span<const std::byte> value);
[[nodiscard]] result<std::int64_t> read_timer_index(std::span<const std::byte> key,
                                                    std::span<const std::byte> value);
[[nodiscard]] result<actor_event> read_event_record(std::span<const std::byte> key,
                                                    std::span<const std::byte> value);

class actor_tables {
public:
  // Makes those that are missing. The handles live on if the transaction commits.
  result<void> open(const write_transaction& txn);

  // All but the transfers, and but the messages of forgotten actors. `writes` was checked.
  result<void> write(write_transaction& txn, const atomic_writes& writes) const;

  [[nodiscard]] result<std::optional<std::string>> path_of(MDB_txn* txn, mailbox_id mailbox) const;
  // The last mailbox that belongs to an actor; 0: none does.
  [[nodiscard]] result<mailbox_id> last_mailbox(MDB_txn* txn) const;
  // With `used` as the table `actors` has it, if that is further.
  [[nodiscard]] result<std::optional<actor_state>> state_of(MDB_txn* txn, std::string_view path) const;
  // The actor of a mailbox: nothing if it has none, `corrupted` if its state does not say the same.
  [[nodiscard]] result<std::optional<actor_state>> actor_of(MDB_txn* txn, mailbox_id mailbox) const;
  [[nodiscard]] result<std::vector<timer_record>> timers_due(MDB_txn* txn, std::int64_t until,
                                                             std::size_t count_max) const;
  [[nodiscard]] result<std::optional<std::int64_t>> next_timer_due(MDB_txn* txn, std::int64_t after) const;
  [[nodiscard]] result<std::vector<actor_event>> history(MDB_txn* txn, std::string_view path,
                                                         std::uint64_t from, std::size_t count_max) const;

private:
  [[nodiscard]] result<std::optional<mailbox_owner>> owner_of(MDB_txn* txn, mailbox_id mailbox) const;
  result<void> put_state(write_transaction& txn, const actor_state& now) const;
  result<void> put_use(write_transaction& txn, const mailbox_use& use) const;
  result<void> claim_mailbox(write_transaction& txn, const actor_state& now) const;
  result<void> forget(write_transaction& txn, const actor_state& gone) const;
  result<void> set_timer(write_transaction& txn, const timer_record& timer) const;
  result<void> cancel_timer(write_transaction& txn, std::string_view path, std::string_view name) const;
  result<void> cancel_timers(write_transaction& txn, std::string_view path) const;
  result<void> append_event(write_transaction& txn, const actor_event& event) const;
  result<void> prune_events(write_transaction& txn, std::string_view path, std::uint64_t last) const;

  table_id actors_ = 0, state_ = 0, timers_ = 0, timer_names_ = 0, history_ = 0;
};

}  // namespace posthorn
