// What exchanges remember of the messages that passed them: table `seen`. docs/store.md has its records.
//
// Threads   all but `read` belong to the committer, as all writing does.
#pragma once

#include "mailbox/deduplication.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/result.hpp"
#include "persist/actor_records.hpp"
#include "persist/transaction.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace posthorn {

class seen_table {
public:
  result<void> open(const write_transaction& txn);
  result<void> write(write_transaction& txn, std::span<const seen_write> writes) const;
  // Erases up to `count_max` records of an exchange, and says how many those were: fewer, and none is left.
  result<std::size_t> erase(write_transaction& txn, mailbox_id exchange, std::size_t count_max) const;
  // By exchange, the oldest first.
  [[nodiscard]] result<std::map<mailbox_id, std::vector<seen_messages::change>>> read(MDB_txn* txn) const;

private:
  table_id table_ = 0;
};

// What stands under a key, or what is wrong with it.
[[nodiscard]] result<seen_write> read_seen_record(std::span<const std::byte> key,
                                                  std::span<const std::byte> value);

}  // namespace posthorn
