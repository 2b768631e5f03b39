#include "persist/transaction.hpp"

#include <cerrno>
#include <cstdlib>
#include <string>

namespace posthorn {

namespace {

MDB_val as_val(std::span<const std::byte> bytes) noexcept {
  return {bytes.size(), const_cast<std::byte*>(bytes.data())};
}

std::span<const std::byte> as_bytes(const MDB_val& value) noexcept {
  return {static_cast<const std::byte*>(value.mv_data), value.mv_size};
}

}  // namespace

result<void> check_lmdb(int answer, std::string_view doing) {
  if (answer == MDB_SUCCESS) return {};
  const std::string text = std::string{doing} + ": " + mdb_strerror(answer);
  switch (answer) {
    case ENOSPC:
    case EDQUOT:
    case MDB_MAP_FULL: return overloaded(text);
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOENT:
    case MDB_BAD_VALSIZE: return refused(text);
    default: return corrupted(text);
  }
}

result<environment_ptr> new_environment() {
  MDB_env* made = nullptr;
  if (auto r = check_lmdb(mdb_env_create(&made), "creating an environment"); !r) return r.error();
  environment_ptr environment{made};
  mdb_env_set_maxdbs(made, 16);
  mdb_env_set_maxreaders(made, 512);
  // A damaged file breaks LMDB's own assertions. It would print where in its source; a damage_guard says what to do.
  mdb_env_set_assert(made, [](MDB_env*, const char*) { std::abort(); });
  return environment;
}

result<read_transaction> read_transaction::begin(MDB_env* environment) {
  MDB_txn* txn = nullptr;
  if (auto r = check_lmdb(mdb_txn_begin(environment, nullptr, MDB_RDONLY, &txn), "beginning to read"); !r) {
    return r.error();
  }
  return read_transaction{txn};
}

result<write_transaction> write_transaction::begin(MDB_env* environment) {
  MDB_txn* txn = nullptr;
  if (auto r = check_lmdb(mdb_txn_begin(environment, nullptr, 0, &txn), "beginning to write"); !r)
    return r.error();
  return write_transaction{txn};
}

result<void> write_transaction::commit() && {
  return check_lmdb(mdb_txn_commit(std::exchange(txn_, nullptr)), "committing");
}

result<void> write_transaction::put(table_id table, std::span<const std::byte> key,
                                    std::span<const std::byte> value) {
  auto k = as_val(key);
  auto v = as_val(value);
  return check_lmdb(mdb_put(txn_, table, &k, &v, 0), "writing a record");
}

result<std::span<std::byte>> write_transaction::reserve(table_id table, std::span<const std::byte> key,
                                                        std::size_t size) {
  auto k = as_val(key);
  MDB_val v{size, nullptr};
  if (auto r = check_lmdb(mdb_put(txn_, table, &k, &v, MDB_RESERVE), "writing a record"); !r)
    return r.error();
  return std::span<std::byte>{static_cast<std::byte*>(v.mv_data), v.mv_size};
}

result<void> write_transaction::erase(table_id table, std::span<const std::byte> key) {
  auto k = as_val(key);
  const int answer = mdb_del(txn_, table, &k, nullptr);
  if (answer == MDB_NOTFOUND) return {};
  return check_lmdb(answer, "erasing a record");
}

result<std::optional<std::span<const std::byte>>> find(MDB_txn* txn, table_id table,
                                                       std::span<const std::byte> key) {
  auto k = as_val(key);
  MDB_val v{};
  const int answer = mdb_get(txn, table, &k, &v);
  if (answer == MDB_NOTFOUND) return std::optional<std::span<const std::byte>>{};
  if (auto r = check_lmdb(answer, "reading a record"); !r) return r.error();
  return std::optional{as_bytes(v)};
}

result<cursor> cursor::open(MDB_txn* txn, table_id table) {
  MDB_cursor* c = nullptr;
  if (auto r = check_lmdb(mdb_cursor_open(txn, table, &c), "opening a table"); !r) return r.error();
  return cursor{c};
}

result<std::optional<cursor::item>> cursor::move(std::span<const std::byte> key, MDB_cursor_op how) {
  auto k = as_val(key);
  MDB_val v{};
  const int answer = mdb_cursor_get(cursor_, &k, &v, how);
  if (answer == MDB_NOTFOUND) return std::optional<item>{};
  if (auto r = check_lmdb(answer, "reading a table"); !r) return r.error();
  return std::optional<item>{item{as_bytes(k), as_bytes(v)}};
}

result<std::span<std::byte>> cursor::reserve(std::span<const std::byte> key, std::size_t size) {
  auto k = as_val(key);
  MDB_val v{size, nullptr};
  if (auto r = check_lmdb(mdb_cursor_put(cursor_, &k, &v, MDB_RESERVE), "writing a record"); !r)
    return r.error();
  return std::span<std::byte>{static_cast<std::byte*>(v.mv_data), v.mv_size};
}

result<void> cursor::erase() { return check_lmdb(mdb_cursor_del(cursor_, 0), "erasing a record"); }

}  // namespace posthorn
