// The records of the node's directory, who may do what: table `access`. What stands in them is the business of those
// who keep them (access/directory.hpp).
//
// Threads   `open` and `write` belong to the committer, as all writing does.
#pragma once

#include "mailbox/result.hpp"
#include "persist/transaction.hpp"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace posthorn {

struct access_record {
  std::string name;                 // at most 511 octets, which is what LMDB takes
  std::optional<std::string> text;  // nothing: it is to be erased

  friend bool operator==(const access_record&, const access_record&) = default;
};

class access_table {
public:
  result<void> open(const write_transaction& txn);
  result<void> write(write_transaction& txn, std::span<const access_record> records) const;
  // By name.
  [[nodiscard]] result<std::vector<access_record>> read(MDB_txn* txn) const;

private:
  table_id table_ = 0;
};

// What stands under a key, or what is wrong with it.
[[nodiscard]] result<access_record> read_access_record(std::span<const std::byte> key,
                                                       std::span<const std::byte> value);

}  // namespace posthorn
