#include "persist/verify.hpp"

#include "mailbox/envelope.hpp"
#include "persist/access_table.hpp"
#include "persist/actor_tables.hpp"
#include "persist/definitions.hpp"
#include "persist/directory_lock.hpp"
#include "persist/keys.hpp"
#include "persist/message_record.hpp"
#include "persist/record.hpp"
#include "persist/seen_table.hpp"
#include "persist/store.hpp"
#include "persist/transaction.hpp"
#include "persist/tree_events.hpp"
#include "persist/trial_read.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

namespace posthorn {

namespace {

constexpr std::size_t problems_listed_max = 100;

class verifier {
public:
  explicit verifier(MDB_txn* txn) noexcept : txn_{txn} {}

  verify_report run() {
    read_version();
    read_graves();
    read_definitions("exchanges", report_.exchanges, [this](std::uint64_t, auto bytes) -> result<void> {
      const auto made = decode_exchange(bytes);
      if (!made) return made.error();
      if (made->second.id.value != 0) mailboxes_.insert(made->second.id);
      return {};
    });
    read_definitions("queues", report_.queues, [this](std::uint64_t id, auto bytes) -> result<void> {
      const auto made = decode_queue(bytes);
      if (!made) return made.error();
      mailboxes_.insert({id});
      return {};
    });
    read_definitions("bindings", report_.bindings, [](std::uint64_t, auto bytes) -> result<void> {
      const auto made = decode_binding(bytes);
      if (!made) return made.error();
      return {};
    });
    read_actors();
    read_timers();
    read_histories();
    read_tree_events();
    read_access();
    read_seen();
    read_messages();
    return std::move(report_);
  }

private:
  void problem(std::string text) {
    ++report_.problem_count;
    if (report_.problems.size() < problems_listed_max) report_.problems.push_back(std::move(text));
  }

  template <class Visit>
  void each(const char* table, Visit visit) {
    MDB_dbi id = 0;
    const int opened = mdb_dbi_open(txn_, table, 0, &id);
    if (opened == MDB_NOTFOUND) return;
    if (auto r = check_lmdb(opened, std::string{"table "} + table); !r) return problem(r.error().text);
    auto c = cursor::open(txn_, id);
    if (!c) return problem(c.error().text);
    auto item = c->first();
    for (; item && *item; item = c->next()) {
      if constexpr (std::is_invocable_v<Visit, const cursor::item&, cursor&>) {
        visit(**item, *c);
      } else {
        visit(**item);
      }
    }
    if (!item) problem(std::string{"table "} + table + " cannot be read to its end: " + item.error().text);
  }

  void read_version() {
    each("meta", [&](const cursor::item& item) {
      const std::string_view key{reinterpret_cast<const char*>(item.key.data()), item.key.size()};
      if (key != "version") return;
      if (item.value.size() != sizeof report_.version) return problem("the version has an odd size");
      std::memcpy(&report_.version, item.value.data(), sizeof report_.version);
    });
    if (report_.version == 0) problem("the store has no version");
  }

  void read_graves() {
    each("graves", [&](const cursor::item& item) {
      if (item.key.size() != message_key::size || item.value.size() != 8)
        return problem("a grave has an odd size");
      graves_[{message_key::mailbox_of(item.key), message_key::sequence_of(item.key)}] = {
          id_key::read(item.value)};
    });
  }

  bool buried(mailbox_id mailbox, sequence at) const {
    auto found = graves_.upper_bound({mailbox, at});
    if (found == graves_.begin()) return false;
    --found;
    return found->first.first == mailbox && at <= found->second;
  }

  template <class Decode>
  void read_definitions(const char* table, std::uint64_t& count, Decode decode) {
    const bool by_id = std::string_view{table} != "exchanges";
    each(table, [&](const cursor::item& item) {
      ++count;
      const auto where = std::string{"table "} + table + ", record " + std::to_string(count) + ": ";
      if (by_id && item.key.size() != 8) return problem(where + "its key has an odd size");
      const auto id = by_id ? id_key::read(item.key) : 0;
      const auto r = read_record(item.value, seed_of(id));
      if (!r) return problem(where + r.error().text);
      if (const auto decoded = decode(id, r->bytes); !decoded) problem(where + decoded.error().text);
    });
  }

  // Another table of the same store, to look something up; nothing if an older store does not have it.
  std::optional<table_id> table(const char* name) {
    table_id id = 0;
    if (mdb_dbi_open(txn_, name, 0, &id) != MDB_SUCCESS) return std::nullopt;
    return id;
  }
  std::optional<std::span<const std::byte>> look_up(std::optional<table_id> where,
                                                    std::span<const std::byte> key) {
    if (!where) return std::nullopt;
    const auto found = find(txn_, *where, key);
    return found ? *found : std::nullopt;
  }

  // Each mailbox has one actor, and each actor one mailbox.
  void read_actors() {
    const auto actors = table("actors"), states = table("state");
    each("state", [&](const cursor::item& item) {
      ++report_.actors;
      const auto where = "actor " + std::string{as_text(item.key)} + ": ";
      if (const auto path = check_actor_path(as_text(item.key)); !path)
        return problem(where + path.error().text);
      const auto state = read_state_record(item.key, item.value);
      if (!state) return problem(where + state.error().text);
      const id_key mailbox{state->mailbox.value};
      const auto entry = look_up(actors, mailbox);
      if (!entry) return problem(where + "its mailbox does not name it");
      // A damaged entry is a problem of its own.
      const auto path = read_actor_record(mailbox, *entry);
      if (path && *path != state->path) problem(where + "its mailbox belongs to actor " + *path);
    });
    each("actors", [&](const cursor::item& item) {
      const auto path = read_actor_record(item.key, item.value);
      if (!path) return problem("table actors: " + path.error().text);
      const mailbox_id mailbox{id_key::read(item.key)};
      const auto where = "mailbox " + std::to_string(mailbox.value) + " of actor " + *path + ": ";
      const auto value = look_up(states, as_key(*path));
      if (!value) return problem(where + "the actor has no state");
      const auto state = read_state_record(as_key(*path), *value);
      if (state && state->mailbox != mailbox) problem(where + "the actor's state names another one");
    });
  }

  void read_timers() {
    const auto timers = table("timers"), names = table("timer_names");
    each("timers", [&](const cursor::item& item) {
      ++report_.timers;
      const auto timer = read_timer_record(item.key, item.value);
      if (!timer) return problem("timer " + std::to_string(report_.timers) + ": " + timer.error().text);
      const auto where = "timer " + timer->name + " of actor " + timer->path + ": ";
      const auto index_key = name_key(timer->path, timer->name);
      const auto entry = look_up(names, as_key(index_key));
      if (!entry) return problem(where + "the index does not name it");
      const auto due = read_timer_index(as_key(index_key), *entry);
      if (due && *due != timer->due) problem(where + "the index names another time");
    });
    each("timer_names", [&](const cursor::item& item) {
      const auto due = read_timer_index(item.key, item.value);
      if (!due) return problem("table timer_names: " + due.error().text);
      const auto key = as_text(item.key);
      const auto end = std::min(key.find('\0'), key.size());
      const auto path = key.substr(0, end), name = key.substr(std::min(end + 1, key.size()));
      if (!look_up(timers, as_key(actor_keys::timer(*due, path, name)))) {
        problem("timer " + std::string{name} + " of actor " + std::string{path} +
                ": only the index names it");
      }
    });
  }

  void read_histories() {
    each("history", [&](const cursor::item& item) {
      ++report_.actor_events;
      if (const auto event = read_event_record(item.key, item.value); !event) {
        problem("event " + std::to_string(report_.actor_events) +
                " in the journals of actors: " + event.error().text);
      }
    });
  }

  void read_tree_events() {
    each("events", [&](const cursor::item& item) {
      ++report_.tree_events;
      if (const auto event = read_tree_event(item.key, item.value); !event) {
        problem("event " + std::to_string(report_.tree_events) +
                " of the tree of actors: " + event.error().text);
      }
    });
  }

  void read_access() {
    each("access", [&](const cursor::item& item) {
      ++report_.access;
      if (const auto r = read_access_record(item.key, item.value); !r) {
        problem("record " + std::to_string(report_.access) + " of the directory: " + r.error().text);
      }
    });
  }

  // What an exchange remembered that is gone is to be erased.
  void read_seen() {
    std::uint64_t number = 0;
    each("seen", [&](const cursor::item& item) {
      ++number;
      const auto r = read_seen_record(item.key, item.value);
      if (!r) return problem("record " + std::to_string(number) + " in table seen: " + r.error().text);
      ++(mailboxes_.contains(r->exchange) ? report_.seen : report_.buried);
    });
  }

  void read_messages() {
    const auto actors = table("actors");
    std::optional<mailbox_id> current;
    bool known = false;
    std::optional<std::pair<mailbox_id, sequence>> last;
    each("messages", [&](const cursor::item& item, cursor& c) {
      if (item.key.size() != message_key::size && item.key.size() != part_key::size) {
        return problem("a message's key has an odd size");
      }
      const auto mailbox = message_key::mailbox_of(item.key);
      const auto at = message_key::sequence_of(item.key);
      const auto where =
          "message " + std::to_string(at.value) + " of mailbox " + std::to_string(mailbox.value) + ": ";
      // Parts without their message: cut off, or behind one that is a problem already.
      const bool seen = std::exchange(last, std::pair{mailbox, at}) == std::pair{mailbox, at};
      if (item.key.size() == part_key::size) {
        if (!seen && !buried(mailbox, at)) ++report_.unfinished;
        return;
      }
      const auto r = read_message(c, item);
      if (!r) return problem(where + r.error().text);
      if (current != mailbox) {
        current = mailbox;
        known = mailboxes_.contains(mailbox) || look_up(actors, id_key{mailbox.value}).has_value();
      }
      if (buried(mailbox, at) || !known) {
        ++report_.buried;
      } else if (r->transient) {
        ++report_.transient;
      } else {
        ++report_.messages;
        report_.message_bytes += r->message->body().size();
      }
    });
  }

  MDB_txn* txn_;
  verify_report report_;
  std::set<mailbox_id> mailboxes_;
  std::map<std::pair<mailbox_id, sequence>, sequence> graves_;
};

}  // namespace

result<verify_report> verify(const std::filesystem::path& directory) {
  std::error_code failed;
  if (!std::filesystem::exists(directory / "data.mdb", failed)) {
    return refused("there is no store in " + directory.string() + (failed ? ": " + failed.message() : ""));
  }
  const auto lock = directory_lock::take(directory);
  if (!lock) return lock.error();
  const auto environment = new_environment();
  if (!environment) return environment.error();
  auto* made = environment->get();
  const int opened = mdb_env_open(made, directory.c_str(), MDB_RDONLY | MDB_NOLOCK, 0640);
  verify_report damaged;
  if (opened == MDB_INVALID || opened == MDB_CORRUPTED || opened == MDB_VERSION_MISMATCH) {
    damaged.problem_count = 1;
    damaged.problems.emplace_back("the first pages of data.mdb are not LMDB's");
    return damaged;
  }
  if (auto r = check_lmdb(opened, "opening " + (directory / "data.mdb").string()); !r) return r.error();
  if (!readable_to_its_end(made, directory)) {
    damaged.problem_count = 1;
    damaged.problems.emplace_back("data.mdb is shorter than its content");
    return damaged;
  }
  auto txn = read_transaction::begin(made);
  if (!txn) return txn.error();
  auto report = verifier{txn->handle()}.run();
  if (report.version > store::version) {
    return refused("the store in " + directory.string() + " has version " + std::to_string(report.version) +
                   ", newer than this program, which knows versions up to " + std::to_string(store::version));
  }
  return report;
}

}  // namespace posthorn
