// LMDB's objects, each owned by one of ours. What LMDB returns is valid until the next write in the same transaction,
// or its end.
//
// Threads   an environment may be shared; a transaction belongs to the thread that began it, and ends in the handler
//           that began it. Only the journal's committer begins write transactions.
// Errors    `overloaded` when the disk or the map is full: nothing was written, and the same may succeed later.
//           `corrupted` when the store cannot be trusted.
#pragma once

#include "mailbox/result.hpp"

#include <lmdb.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace posthorn {

// LMDB's answer as ours; `doing` says what failed: "writing a message".
[[nodiscard]] result<void> check_lmdb(int answer, std::string_view doing);

using table_id = MDB_dbi;

struct environment_closer {
  void operator()(MDB_env* environment) const noexcept { mdb_env_close(environment); }
};
using environment_ptr = std::unique_ptr<MDB_env, environment_closer>;

// An environment that is not open yet, with room for our tables and readers.
[[nodiscard]] result<environment_ptr> new_environment();

class read_transaction {
public:
  static result<read_transaction> begin(MDB_env* environment);

  read_transaction(read_transaction&& other) noexcept : txn_{std::exchange(other.txn_, nullptr)} {}
  read_transaction& operator=(read_transaction&&) = delete;
  ~read_transaction() {
    if (txn_ != nullptr) mdb_txn_abort(txn_);
  }

  [[nodiscard]] MDB_txn* handle() const noexcept { return txn_; }

private:
  explicit read_transaction(MDB_txn* txn) noexcept : txn_{txn} {}
  MDB_txn* txn_;
};

// Leaving the scope without `commit`, in any way, undoes everything and gives the writer's lock back.
class write_transaction {
public:
  static result<write_transaction> begin(MDB_env* environment);

  write_transaction(write_transaction&& other) noexcept : txn_{std::exchange(other.txn_, nullptr)} {}
  write_transaction& operator=(write_transaction&&) = delete;
  ~write_transaction() {
    if (txn_ != nullptr) mdb_txn_abort(txn_);
  }

  [[nodiscard]] MDB_txn* handle() const noexcept { return txn_; }

  // Returns when the transaction is on disk.
  result<void> commit() &&;

  result<void> put(table_id table, std::span<const std::byte> key, std::span<const std::byte> value);
  // Room for a value of that size under the key, to be filled before anything else is done with the transaction.
  result<std::span<std::byte>> reserve(table_id table, std::span<const std::byte> key, std::size_t size);
  // Not there is a success.
  result<void> erase(table_id table, std::span<const std::byte> key);

private:
  explicit write_transaction(MDB_txn* txn) noexcept : txn_{txn} {}
  MDB_txn* txn_;
};

// The value under a key, or nothing.
[[nodiscard]] result<std::optional<std::span<const std::byte>>> find(MDB_txn* txn, table_id table,
                                                                     std::span<const std::byte> key);

// Walks over one table in the order of its keys.
class cursor {
public:
  struct item {
    std::span<const std::byte> key, value;
  };

  static result<cursor> open(MDB_txn* txn, table_id table);

  cursor(cursor&& other) noexcept : cursor_{std::exchange(other.cursor_, nullptr)} {}
  cursor& operator=(cursor&&) = delete;
  ~cursor() {
    if (cursor_ != nullptr) mdb_cursor_close(cursor_);
  }

  // Nothing when there is none (any more).
  result<std::optional<item>> first() { return move({}, MDB_FIRST); }
  result<std::optional<item>> last() { return move({}, MDB_LAST); }
  result<std::optional<item>> next() { return move({}, MDB_NEXT); }
  result<std::optional<item>> previous() { return move({}, MDB_PREV); }
  // The first whose key is not less.
  result<std::optional<item>> seek(std::span<const std::byte> key) { return move(key, MDB_SET_RANGE); }

  // Room for a value of that size under the key, to be filled before anything else is done with the transaction.
  result<std::span<std::byte>> reserve(std::span<const std::byte> key, std::size_t size);
  // The item that the cursor stands on; `next` then gives the one behind it. LMDB may move others, so what it gave of
  // them before is not valid any more.
  result<void> erase();

private:
  explicit cursor(MDB_cursor* c) noexcept : cursor_{c} {}
  result<std::optional<item>> move(std::span<const std::byte> key, MDB_cursor_op how);

  MDB_cursor* cursor_;
};

}  // namespace posthorn
