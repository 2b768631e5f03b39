// What happened in the tree of actors, kept in the table `events`: started, failed, restarted, escalated, stopped.
// Only the last `events_max` are kept.
//
// Threads, errors   as in persist/actor_tables.hpp.
#pragma once

#include "mailbox/result.hpp"
#include "persist/transaction.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace posthorn {

struct tree_event {
  std::uint64_t number = 0;  // grows by one; chosen by whoever reports the event
  std::int64_t at = 0;       // milliseconds since 1970
  // Cut at 400, 100 and 2,000 octets, so that the table is bounded in bytes, too.
  std::string path, kind, reason;
  std::uint64_t restarts = 0;

  friend bool operator==(const tree_event&, const tree_event&) = default;
};

// How many the store keeps.
inline constexpr std::uint64_t events_max = 10'000;

[[nodiscard]] result<tree_event> read_tree_event(std::span<const std::byte> key,
                                                 std::span<const std::byte> value);

class tree_event_table {
public:
  result<void> open(const write_transaction& txn);

  // Adds them, and erases what is older than the last `events_max` numbers.
  result<void> write(write_transaction& txn, std::span<const tree_event> events) const;

  // Up to `count_max`, the newest first, beginning with the number `from` or the next one below it.
  [[nodiscard]] result<std::vector<tree_event>> read(MDB_txn* txn, std::uint64_t from,
                                                     std::size_t count_max) const;
  // The last number that was given; 0: none.
  [[nodiscard]] result<std::uint64_t> last_number(MDB_txn* txn) const;

private:
  table_id events_ = 0;
};

}  // namespace posthorn
