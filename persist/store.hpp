// The node's store: one LMDB environment, its tables, and what can be done with them. docs/store.md has the format.
//
// Durability   `commit` returns when everything in it is on disk. A crash at any moment leaves the state before or
//              after a commit, never between.
// Threads      `commit`, `bury` and `recover` belong to the one thread of the journal's committer (before it starts:
//              to whoever opens the store). Everything const may be called from any thread.
// Errors       `overloaded`: disk or map are full, nothing was written, the same may succeed later. `corrupted`: stop.
//              `refused` (from open): not ours to open; the text says why.
#pragma once

#include "mailbox/ids.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/result.hpp"
#include "mailbox/topology.hpp"
#include "persist/directory_lock.hpp"
#include "persist/transaction.hpp"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace posthorn {

struct store_settings {
  std::filesystem::path directory;
  std::uint64_t map_size = 0;  // bytes the store may grow to; 0: as much as the file system has
  // Only tests switch it off, to see that they notice.
  bool sync = true;
};

// What one mailbox wants written. The batch stays its own: it is given back if it cannot be written.
struct mailbox_write {
  mailbox_id mailbox{};
  journal_batch* batch = nullptr;
};

// What is durable of one vhost, as it stood when the node stopped.
struct recovered_vhost {
  std::vector<exchange_definition> exchanges;
  std::vector<queue_definition> queues;
  std::vector<binding_definition> bindings;
};

struct recovered_store {
  std::map<std::string, recovered_vhost> vhosts;
  std::map<mailbox_id, recovered_mailbox> mailboxes;
  mailbox_id last_mailbox{};  // no new mailbox may have this id or a lower one
  binding_id last_binding{};
  std::uint64_t message_count = 0;
};

struct store_space {
  std::uint64_t disk_free = 0;  // of the file system, for us
  std::uint64_t disk_size = 0;
  std::uint64_t reusable = 0;  // free pages inside the file
  std::uint64_t file_size = 0;
  std::uint64_t map_size = 0;
};

class store {
public:
  // The version of the format that this code writes. A store of a newer one is refused and left untouched.
  static constexpr std::uint32_t version = 1;
  // A range of sequences at least this wide is buried: recorded as gone in one step, and erased in slices.
  static constexpr std::uint64_t burial_width_min = 4096;

  static result<std::unique_ptr<store>> open(const store_settings& settings);
  ~store();
  store(const store&) = delete;
  store& operator=(const store&) = delete;

  // Reads everything once, checking every record, and clears away what does not survive a restart. Before the first
  // commit.
  result<recovered_store> recover();

  struct topology_write {
    std::string vhost;
    std::span<const topology_change> changes;
  };

  // All of it in one transaction.
  result<void> commit(std::span<const mailbox_write> mailboxes,
                      std::span<const topology_write> topologies = {});
  // Only the erasures of the batches: what still fits on a full disk.
  result<void> commit_erasures(std::span<const mailbox_write> mailboxes);

  [[nodiscard]] bool has_graves() const noexcept { return grave_count_.load(std::memory_order_relaxed) != 0; }
  // Erases up to `count_max` buried messages, in a transaction of its own.
  result<void> bury(std::size_t count_max);

  // Reads messages of one mailbox, in order, within the request's limits but at least one. An empty answer means that
  // the store lost them: `corrupted`.
  [[nodiscard]] result<std::vector<loaded_message>> load(mailbox_id mailbox,
                                                         const load_request& request) const;

  // Counting the reusable pages reads the list of free pages; the rest costs next to nothing.
  [[nodiscard]] store_space space(bool with_reusable) const;

private:
  struct tables {
    table_id meta = 0, exchanges = 0, queues = 0, bindings = 0, messages = 0, graves = 0;
  };

  store(directory_lock lock, std::filesystem::path directory)
      : lock_{std::move(lock)}, directory_{std::move(directory)} {}

  static result<void> make_new(const store_settings& settings);
  result<void> open_tables();
  result<void> end(write_transaction txn);
  result<void> write_topology(write_transaction& txn, const topology_write& write);
  result<void> write_appends(write_transaction& txn, std::span<const mailbox_write> mailboxes);
  result<void> write_erasures(write_transaction& txn, std::span<const mailbox_write> mailboxes);
  result<void> add_grave(write_transaction& txn, mailbox_id mailbox, sequence_range range);
  result<void> read_graves(const read_transaction& txn);
  result<void> read_definitions(const read_transaction& txn, recovered_store& out);
  void publish_graves();
  [[nodiscard]] bool buried(mailbox_id mailbox, sequence at) const;

  using grave_map = std::map<std::pair<mailbox_id, sequence>, sequence>;  // (mailbox, first) -> last

  directory_lock lock_;
  std::filesystem::path directory_;
  environment_ptr environment_;
  tables tables_;

  grave_map graves_;  // the committer's
  std::atomic<std::size_t> grave_count_{0};
  mutable std::mutex published_mutex_;  // taken by `load` only while something is buried
  grave_map published_graves_;
};

}  // namespace posthorn
