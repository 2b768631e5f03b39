// The node's store: one LMDB environment, its tables, and what can be done with them. docs/store.md has the format.
//
// Durability   `commit` returns when everything in it is on disk. A crash at any moment leaves the state before or
//              after a commit, never between.
// Threads      `commit`, `bury` and `recover` belong to the one thread of the journal's committer (before it starts:
//              to whoever opens the store). Everything const may be called from any thread.
// Errors       `overloaded`: disk or map are full, nothing was written, the same may succeed later. `corrupted`: stop.
//              `refused` (from open): not ours to open; the text says why.
#pragma once

#include "mailbox/delayed.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/result.hpp"
#include "mailbox/topology.hpp"
#include "persist/access_table.hpp"
#include "persist/actor_tables.hpp"
#include "persist/directory_lock.hpp"
#include "persist/seen_table.hpp"
#include "persist/transaction.hpp"
#include "persist/tree_events.hpp"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

struct store_settings {
  std::filesystem::path directory;
  std::uint64_t map_size = 0;  // bytes the store may grow to; 0: as much as the file system has
  // Only tests switch it off, to see that they notice.
  bool sync = true;
  // Called in the middle of commits, with the name of the point. For tests that end the process there.
  std::function<void(std::string_view)> at_point{};
};

// What one mailbox wants written. The batch stays its own: it is given back if it cannot be written.
struct mailbox_write {
  mailbox_id mailbox{};
  journal_batch* batch = nullptr;  // null: nothing but `with`
  // What is written in the same transaction as the batch, which is then whole or not at all: the turn of an actor.
  const atomic_writes* with = nullptr;
  // All parts of all of its messages are in the store already (see part_write).
  bool parts_are_there = false;
};

// Some parts of a message that is larger than a commit should be, ahead of the message: see put_parts.
struct part_write {
  mailbox_id mailbox{};
  sequence at{};
  const envelope* message = nullptr;
  std::uint32_t first = 1, count = 0;
};

// What is durable of one vhost, as it stood when the node stopped.
struct recovered_vhost {
  std::vector<exchange_definition> exchanges;
  std::vector<queue_definition> queues;
  std::vector<binding_definition> bindings;
};

// What an exchange of these has kept, beside what it is.
struct recovered_keeper {
  std::vector<delayed_id> waiting;          // messages; their places grow
  std::vector<seen_messages::change> seen;  // the oldest first
};

struct recovered_store {
  std::map<std::string, recovered_vhost> vhosts;
  // Of all durable queues, of exchanges that keep something, and of the actors that have messages.
  std::map<mailbox_id, recovered_mailbox> mailboxes;
  std::map<mailbox_id, recovered_keeper> keepers;  // of all durable exchanges that keep something
  // The paths of those actors. All others sleep in the store, and cost nothing here.
  std::map<mailbox_id, std::string> actors;
  std::vector<access_record> access;  // of the directory, by name
  mailbox_id last_mailbox{};          // no new mailbox may have this id or a lower one
  binding_id last_binding{};
  std::uint64_t last_event = 0;  // the number of the last event of the tree of actors; 0: there is none
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
  // One of an older version is raised to this one when it is opened.
  static constexpr std::uint32_t version = 4;
  // What one transaction erases at once, in records; what is beyond it is buried.
  static constexpr std::size_t erased_at_once_max = 10'000;
  // A range of sequences at least this wide is buried: recorded as gone in one step, and erased in slices.
  static constexpr std::uint64_t burial_width_min = wide_erasure_min;

  static result<std::unique_ptr<store>> open(const store_settings& settings);
  ~store();
  store(const store&) = delete;
  store& operator=(const store&) = delete;

  // Reads definitions and messages once, checking every record, and clears away what does not survive a restart. Before
  // the first commit. Actors without messages, timers and events are not looked at: they may be many.
  result<recovered_store> recover();

  struct topology_write {
    std::string vhost;
    std::span<const topology_change> changes;
  };

  // All of it in one transaction. Committing the same again, with nothing newer in between, changes nothing: so whoever
  // does not know what became of a commit repeats it. `refused`: `check` refuses a turn, or it takes a mailbox or a path
  // that is another's; nothing was written.
  result<void> commit(std::span<const mailbox_write> mailboxes,
                      std::span<const topology_write> topologies = {},
                      std::span<const tree_event> events = {}, std::span<const part_write> parts = {},
                      std::span<const access_record> access = {});
  // Only the erasures of the batches: what still fits on a full disk. Those that have `with` are passed over: their
  // erasures belong to their turn, and are not written by this.
  result<void> commit_erasures(std::span<const mailbox_write> mailboxes);

  [[nodiscard]] bool has_graves() const noexcept { return grave_count_.load(std::memory_order_relaxed) != 0; }
  // Erases up to `count_max` buried records, or of what exchanges remembered that are gone, in a transaction of its own.
  result<void> bury(std::size_t count_max);

  // Reads messages of one mailbox, in order, within the request's limits but at least one. An empty answer means that
  // the store lost them: `corrupted`.
  [[nodiscard]] result<std::vector<loaded_message>> load(mailbox_id mailbox,
                                                         const load_request& request) const;

  // What the store holds of one mailbox now, for one that is built again while the node runs: what does not survive a
  // restart counts, too. Takes as long as reading all of its messages.
  [[nodiscard]] result<recovered_mailbox> survey(mailbox_id mailbox) const;

  // Nothing if the actor was never committed, or was forgotten. `refused`: this cannot be a path.
  [[nodiscard]] result<std::optional<actor_state>> read_state(std::string_view path) const;
  // Up to `count_max` timers that are due at `until` (milliseconds since 1970) or before, the earliest first.
  [[nodiscard]] result<std::vector<timer_record>> timers_due(std::int64_t until, std::size_t count_max) const;
  // When the first of all timers is due, in milliseconds since 1970.
  [[nodiscard]] result<std::optional<std::int64_t>> next_timer_due(std::int64_t after = -1) const;
  // Up to `count_max` events of an actor's journal, in order, from the number `from` on.
  [[nodiscard]] result<std::vector<actor_event>> read_history(std::string_view path, std::uint64_t from,
                                                              std::size_t count_max) const;
  // Up to `count_max` events of the tree of actors, the newest first, from the number `from` downwards.
  [[nodiscard]] result<std::vector<tree_event>> read_events(std::uint64_t from, std::size_t count_max) const;

  // Counting the reusable pages reads the list of free pages; the rest costs next to nothing.
  [[nodiscard]] store_space space(bool with_reusable) const;
  // Another process may read, too (persist/backup.hpp). What one that was killed had open would keep pages from being
  // used again. To be called now and then.
  void forget_dead_readers() const noexcept;

private:
  struct tables {
    table_id meta = 0, exchanges = 0, queues = 0, bindings = 0, messages = 0, graves = 0;
  };

  store(directory_lock lock, const store_settings& settings)
      : lock_{std::move(lock)}, directory_{settings.directory}, at_point_{settings.at_point} {}
  void reached(std::string_view point) const {
    if (at_point_) [[unlikely]]
      at_point_(point);
  }

  using grave_map = std::map<std::pair<mailbox_id, sequence>, sequence>;  // (mailbox, first) -> last

  static result<void> make_new(const store_settings& settings);
  result<void> open_tables();
  result<void> end(write_transaction txn);
  result<void> write_topology(write_transaction& txn, const topology_write& write);
  result<void> raise_version(write_transaction& txn);
  result<void> write_parts(write_transaction& txn, std::span<const part_write> parts);
  result<void> write_messages(write_transaction& txn, std::span<const mailbox_write> mailboxes);
  result<void> write_actors(write_transaction& txn, std::span<const mailbox_write> mailboxes);
  result<void> write_erasures(write_transaction& txn, std::span<const mailbox_write> mailboxes);
  result<void> erase_unfinished(std::span<const std::pair<mailbox_id, sequence>> messages);
  result<void> add_grave(write_transaction& txn, mailbox_id mailbox, sequence_range range);
  result<void> read_graves(const read_transaction& txn);
  result<void> read_definitions(const read_transaction& txn, recovered_store& out);
  result<recovered_mailbox*> mailbox_of_messages(const read_transaction& txn, mailbox_id mailbox,
                                                 recovered_store& out);
  // No place any more: it is gone.
  void change_grave(const grave_map::key_type& place, std::optional<sequence> last);
  result<void> erase_seen(std::size_t count_max);
  void keep_graves();
  void undo_graves();
  [[nodiscard]] bool buried(mailbox_id mailbox, sequence at) const;
  [[nodiscard]] result<std::vector<sequence_range>> graves_of(const read_transaction& txn,
                                                              mailbox_id mailbox) const;

  directory_lock lock_;
  std::filesystem::path directory_;
  std::function<void(std::string_view)> at_point_;
  environment_ptr environment_;
  tables tables_;
  actor_tables actors_;
  tree_event_table events_;
  access_table access_;
  seen_table seen_;

  // The committer's. Readers look into the table: a burial may end between their look at it and at the messages.
  grave_map graves_;
  // What the transaction under way has changed, and what was there before: a copy of all of them for each commit took
  // tens of milliseconds when 10,000 queues had been deleted.
  std::vector<std::pair<grave_map::key_type, std::optional<sequence>>> graves_before_;
  // Exchanges that are gone, and may have left something in the table `seen`; and those of the transaction under way. Only
  // here: at the start, whatever belongs to none is found.
  std::set<mailbox_id> gone_exchanges_, going_exchanges_;
  std::atomic<std::size_t> grave_count_{0};  // both kinds
};

}  // namespace posthorn
