// What the tests of the store share: a directory of their own, and short ways to write into a store.
#pragma once

#include "persist/store.hpp"
#include "tests/mailbox/printed_result.hpp"

#include <catch2/catch_test_macros.hpp>

#include <lmdb.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

class scratch_directory {
public:
  scratch_directory() {
    static std::atomic<unsigned> last{0};
    path_ = std::filesystem::temp_directory_path() /
            ("posthorn-test-" + std::to_string(::getpid()) + "-" + std::to_string(++last));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~scratch_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::string content(const char* file = "data.mdb") const {
    std::ifstream in{path_ / file, std::ios::binary};
    return {std::istreambuf_iterator<char>{in}, {}};
  }
  void set_content(const std::string& bytes, const char* file = "data.mdb") const {
    std::ofstream out{path_ / file, std::ios::binary | std::ios::trunc};
    out << bytes;
  }

private:
  std::filesystem::path path_;
};

constexpr std::uint64_t small_map = std::uint64_t{64} << 20;

// The tests of the store cut no power, so they need no fsync.
inline std::unique_ptr<store> open_store(const scratch_directory& directory,
                                         std::uint64_t map_size = small_map) {
  auto opened = store::open({directory.path(), map_size, false});
  REQUIRE(opened.has_value());
  return std::move(*opened);
}

inline recovered_store recover(store& s) {
  auto recovered = s.recover();
  REQUIRE(recovered.has_value());
  return std::move(*recovered);
}

inline envelope_ptr message_of(std::string_view body, bool persistent = true) {
  return make_envelope("x", "key", {}, persistent, std::as_bytes(std::span{body}));
}
inline std::string body_of(const envelope& e) {
  return {reinterpret_cast<const char*>(e.body().data()), e.body().size()};
}

inline journal_append append(std::uint64_t at, std::string_view body, bool transient = false) {
  return {{at}, message_of(body), transient};
}

inline result<void> write(store& s, mailbox_id mailbox, journal_batch batch) {
  const mailbox_write w{mailbox, &batch};
  return s.commit({&w, 1});
}

inline result<void> write(store& s, const std::vector<topology_change>& changes,
                          const std::string& vhost = "/") {
  const store::topology_write w{vhost, changes};
  return s.commit({}, {&w, 1});
}

inline queue_added a_queue(mailbox_id id, std::string name) {
  auto q = std::make_shared<queue_definition>();
  q->id = id;
  q->name = std::move(name);
  q->durable = true;
  return {q};
}

inline result<void> write(store& s, const atomic_writes& turn, mailbox_id mailbox = {1},
                          journal_batch batch = {}) {
  const mailbox_write w{mailbox, &batch, &turn};
  return s.commit({&w, 1});
}

// Past the store: puts a value into a table, or takes one out of it.
inline void tamper(const scratch_directory& directory, const char* table, std::string_view key,
                   std::optional<std::string> value) {
  MDB_env* env = nullptr;
  MDB_txn* txn = nullptr;
  MDB_dbi id = 0;
  REQUIRE(mdb_env_create(&env) == 0);
  REQUIRE(mdb_env_set_maxdbs(env, 16) == 0);
  REQUIRE(mdb_env_set_mapsize(env, small_map) == 0);
  REQUIRE(mdb_env_open(env, directory.path().c_str(), 0, 0640) == 0);
  REQUIRE(mdb_txn_begin(env, nullptr, 0, &txn) == 0);
  REQUIRE(mdb_dbi_open(txn, table, 0, &id) == 0);
  std::string name{key};
  MDB_val k{name.size(), name.data()};
  if (!value) {
    REQUIRE(mdb_del(txn, id, &k, nullptr) == 0);
  } else {
    MDB_val v{value->size(), value->data()};
    REQUIRE(mdb_put(txn, id, &k, &v, 0) == 0);
  }
  REQUIRE(mdb_txn_commit(txn) == 0);
  mdb_env_close(env);
}

// As an older program would have left it.
inline void drop_table(const scratch_directory& directory, const char* table) {
  MDB_env* env = nullptr;
  MDB_txn* txn = nullptr;
  MDB_dbi id = 0;
  REQUIRE(mdb_env_create(&env) == 0);
  REQUIRE(mdb_env_set_maxdbs(env, 16) == 0);
  REQUIRE(mdb_env_open(env, directory.path().c_str(), 0, 0640) == 0);
  REQUIRE(mdb_txn_begin(env, nullptr, 0, &txn) == 0);
  REQUIRE(mdb_dbi_open(txn, table, 0, &id) == 0);
  REQUIRE(mdb_drop(txn, id, 1) == 0);
  REQUIRE(mdb_txn_commit(txn) == 0);
  mdb_env_close(env);
}

// The version of the format, as it stands in `meta`.
inline std::string version_value(std::uint32_t version) {
  std::string value(sizeof version, '\0');
  std::memcpy(value.data(), &version, sizeof version);
  return value;
}

// The bodies of all messages, in order.
inline std::vector<std::string> bodies(const store& s, mailbox_id mailbox) {
  std::vector<std::string> out;
  sequence from{0};
  for (;;) {
    const auto loaded = s.load(mailbox, {{from, {~std::uint64_t{0}}}, 7, std::size_t{1} << 20});
    if (!loaded) return out;
    for (const auto& m : *loaded) out.push_back(body_of(*m.message));
    from = {loaded->back().at.value + 1};
  }
}

}  // namespace posthorn
