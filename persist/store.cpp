#include "persist/store.hpp"

#include "mailbox/field_table.hpp"
#include "mailbox/queue_arguments.hpp"
#include "persist/definitions.hpp"
#include "persist/keys.hpp"
#include "persist/message_record.hpp"
#include "persist/record.hpp"
#include "persist/trial_read.hpp"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

namespace posthorn {

namespace {

constexpr sequence last_sequence{std::numeric_limits<std::uint64_t>::max()};
// At restart, what does not survive it is erased in transactions of this many records.
constexpr std::size_t clearing_count_max = 50'000;
// What a burial erases at once, in bytes. A version before 3 wrote large bodies as one value each.
constexpr std::size_t buried_size_max = std::size_t{32} << 20;
// With less than this, in bytes, a transaction may have found no room.
constexpr std::uint64_t nearly_full = std::uint64_t{64} << 20;

bool lies_in(std::span<const sequence_range> ranges, sequence at) noexcept {
  return std::any_of(ranges.begin(), ranges.end(),
                     [at](const auto& range) { return range.first <= at && at <= range.last; });
}

// Of a stream: the steps in which its messages are counted, until its actor knows how large they are to be. Nothing: the
// queue is none. Small, because a policy may ask for small ones; and no smaller than the queue itself asks for.
std::optional<stream_segments> steps_of(const queue_definition& queue) {
  constexpr std::uint64_t step = std::uint64_t{64} << 10;
  if (queue.arguments.empty()) return std::nullopt;
  const auto arguments = decode_table(std::as_bytes(std::span{queue.arguments}));
  const auto rules = arguments ? rules_of(*arguments).stream : std::nullopt;
  if (!rules) return std::nullopt;
  return stream_segments{std::min(step, rules->segment_size_max)};
}

// Whether the queue has to know the keys of its messages.
bool takes_once(const queue_definition& queue) {
  if (queue.arguments.empty()) return false;
  const auto arguments = decode_table(as_key(queue.arguments));
  return arguments && deduplicates(*arguments);
}

std::string sentence_on(const std::filesystem::path& directory, std::string_view what) {
  return "the store in " + directory.string() + " " + std::string{what};
}

// Looks at what is there without touching it: no lock file, no map for writing, no table made.
result<void> inspect(const std::filesystem::path& directory) {
  const auto file = directory / "data.mdb";
  auto environment = new_environment();
  if (!environment) return environment.error();
  auto* env = environment->get();
  const int opened = mdb_env_open(env, directory.c_str(), MDB_RDONLY | MDB_NOLOCK, 0640);
  if (opened == MDB_INVALID || opened == MDB_CORRUPTED || opened == MDB_VERSION_MISMATCH) {
    return corrupted(sentence_on(directory, "is damaged: its first pages are not LMDB's"));
  }
  if (auto r = check_lmdb(opened, "opening " + file.string()); !r) return r;
  if (!readable_to_its_end(env, directory)) {
    return corrupted(sentence_on(directory, "is damaged: its file is shorter than its content"));
  }
  auto txn = read_transaction::begin(env);
  if (!txn) return txn.error();
  MDB_dbi meta = 0;
  const int found = mdb_dbi_open(txn->handle(), "meta", 0, &meta);
  if (found == MDB_NOTFOUND) return {};
  if (auto r = check_lmdb(found, "reading the version"); !r) return r;
  MDB_val key{7, const_cast<char*>("version")}, value{};
  const int got = mdb_get(txn->handle(), meta, &key, &value);
  if (got == MDB_NOTFOUND) return {};
  if (auto r = check_lmdb(got, "reading the version"); !r) return r;
  std::uint32_t stored = 0;
  if (value.mv_size != sizeof stored)
    return corrupted(sentence_on(directory, "is damaged: it has no valid version"));
  std::memcpy(&stored, value.mv_data, sizeof stored);
  if (stored > store::version) {
    return refused(sentence_on(directory, "has version " + std::to_string(stored) +
                                              ", newer than this program, which knows versions up to " +
                                              std::to_string(store::version) +
                                              "; start a newer Posthorn, or another data directory"));
  }
  return {};
}

result<void> sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return refused("cannot open " + directory.string() + ": " + std::strerror(errno));
  const bool synced = ::fsync(descriptor) == 0;
  ::close(descriptor);
  if (!synced) return refused("cannot sync " + directory.string() + ": " + std::strerror(errno));
  return {};
}

}  // namespace

// A store that was cut off while LMDB made its first pages looks like a damaged one. So a new one is made aside, and
// gets its name when it is whole and on disk.
result<void> store::make_new(const store_settings& settings) {
  const auto aside = settings.directory / "new";
  std::error_code failed;
  std::filesystem::remove_all(aside, failed);
  if (!failed) std::filesystem::create_directory(aside, failed);
  if (failed)
    return refused("cannot make a store in " + settings.directory.string() + ": " + failed.message());
  {
    auto environment = new_environment();
    if (!environment) return environment.error();
    const int opened = mdb_env_open(environment->get(), aside.c_str(), 0, 0640);
    if (auto r = check_lmdb(opened, "making a store in " + settings.directory.string()); !r) return r;
    auto txn = write_transaction::begin(environment->get());
    if (!txn) return txn.error();
    MDB_dbi meta = 0;
    if (auto r = check_lmdb(mdb_dbi_open(txn->handle(), "meta", MDB_CREATE, &meta), "making a table"); !r)
      return r;
    const std::uint32_t now = version;
    if (auto r = txn->put(meta, as_key("version"), std::as_bytes(std::span{&now, 1})); !r) return r;
    if (auto r = std::move(*txn).commit(); !r) return r;
  }
  if (auto r = sync_directory(aside); !r) return r;
  std::filesystem::rename(aside / "data.mdb", settings.directory / "data.mdb", failed);
  if (failed)
    return refused("cannot make a store in " + settings.directory.string() + ": " + failed.message());
  std::filesystem::remove_all(aside, failed);
  return sync_directory(settings.directory);
}

store::~store() = default;

result<std::unique_ptr<store>> store::open(const store_settings& settings) {
  const auto& directory = settings.directory;
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  if (failed || !std::filesystem::is_directory(directory)) {
    return refused("cannot use " + directory.string() + " as data directory: " +
                   (failed ? failed.message() : std::string{"it is not a directory"}) +
                   "; choose another one with --data-dir");
  }
  auto lock = directory_lock::take(directory);
  if (!lock) return lock.error();
  if (std::filesystem::exists(directory / "data.mdb", failed)) {
    if (auto r = inspect(directory); !r) return r.error();
  } else if (auto r = make_new(settings); !r) {
    return r.error();
  }

  std::unique_ptr<store> made{new store{std::move(*lock), settings}};
  auto environment = new_environment();
  if (!environment) return environment.error();
  made->environment_ = std::move(*environment);
  auto* env = made->environment_.get();

  std::uint64_t map_size = settings.map_size;
  struct statvfs disk {};
  if (map_size == 0 && ::statvfs(directory.c_str(), &disk) == 0) {
    map_size = std::max<std::uint64_t>(std::uint64_t{1} << 30, std::uint64_t{disk.f_blocks} * disk.f_frsize);
  }
  constexpr std::uint64_t page = 4096;
  mdb_env_set_mapsize(env, map_size / page * page);
  const unsigned flags = MDB_NOTLS | MDB_NORDAHEAD | (settings.sync ? 0U : unsigned{MDB_NOSYNC});
  const int opened = mdb_env_open(env, directory.c_str(), flags, 0640);
  if (opened == ENOMEM) {
    return refused("cannot map " + std::to_string(map_size) +
                   " bytes for the store; set store.map_size lower");
  }
  if (auto r = check_lmdb(opened, "cannot open the store in " + directory.string()); !r) return r.error();
  if (auto r = made->open_tables(); !r) return r.error();
  return made;
}

result<void> store::open_tables() {
  auto txn = write_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  const auto table = [&](const char* name, table_id& id) {
    return check_lmdb(mdb_dbi_open(txn->handle(), name, MDB_CREATE, &id), "opening a table");
  };
  for (const auto& [name, id] :
       {std::pair{"meta", &tables_.meta}, std::pair{"exchanges", &tables_.exchanges},
        std::pair{"queues", &tables_.queues}, std::pair{"bindings", &tables_.bindings},
        std::pair{"messages", &tables_.messages}, std::pair{"graves", &tables_.graves}}) {
    if (auto r = table(name, *id); !r) return r;
  }
  if (auto r = actors_.open(*txn); !r) return r;
  if (auto r = events_.open(*txn); !r) return r;
  if (auto r = access_.open(*txn); !r) return r;
  if (auto r = seen_.open(*txn); !r) return r;
  if (auto r = raise_version(*txn); !r) return r;
  // The handles of the tables live on only if the transaction commits. Without a change, it leaves the file as it is.
  return std::move(*txn).commit();
}

// An older store has tables and records that this version reads as they are. It gets its new version in the transaction
// that makes the tables it lacks, before anything is written that a program of its own version would misread.
result<void> store::raise_version(write_transaction& txn) {
  const auto stored = find(txn.handle(), tables_.meta, as_key("version"));
  if (!stored) return stored.error();
  const std::uint32_t now = version;
  const auto bytes = std::as_bytes(std::span{&now, 1});
  if (*stored && std::equal(bytes.begin(), bytes.end(), (*stored)->begin(), (*stored)->end())) return {};
  return txn.put(tables_.meta, as_key("version"), bytes);
}

// --- what was there ---------------------------------------------------------------------------------------------

result<void> store::read_graves(const read_transaction& txn) {
  auto c = cursor::open(txn.handle(), tables_.graves);
  if (!c) return c.error();
  auto item = c->first();
  for (; item && *item; item = c->next()) {
    if ((*item)->key.size() != message_key::size || (*item)->value.size() != 8) {
      return corrupted(sentence_on(directory_, "is damaged: a grave has an odd size"));
    }
    graves_[{message_key::mailbox_of((*item)->key), message_key::sequence_of((*item)->key)}] = {
        id_key::read((*item)->value)};
  }
  if (!item) return item.error();
  keep_graves();
  return {};
}

result<void> store::read_definitions(const read_transaction& txn, recovered_store& out) {
  const auto each = [&](table_id table, std::string_view name, auto&& take) -> result<void> {
    auto c = cursor::open(txn.handle(), table);
    if (!c) return c.error();
    auto item = c->first();
    for (; item && *item; item = c->next()) {
      const bool by_id = table != tables_.exchanges;
      if (by_id && (*item)->key.size() != 8)
        return corrupted("a key in table " + std::string{name} + " has an odd size");
      const auto id = by_id ? id_key::read((*item)->key) : 0;
      const auto r = read_record((*item)->value, seed_of(id));
      if (!r) return corrupted("in table " + std::string{name} + ": " + r.error().text);
      if (auto taken = take(id, r->bytes); !taken) return taken;
    }
    if (!item) return item.error();
    return {};
  };
  if (auto r = each(tables_.exchanges, "exchanges",
                    [&](std::uint64_t, auto bytes) -> result<void> {
                      auto made = decode_exchange(bytes);
                      if (!made) return made.error();
                      if (const auto keeps = made->second.id; keeps.value != 0) {
                        out.last_mailbox = std::max(out.last_mailbox, keeps);
                        out.mailboxes[keeps];
                        out.keepers[keeps];
                      }
                      out.vhosts[made->first].exchanges.push_back(std::move(made->second));
                      return {};
                    });
      !r)
    return r;
  if (auto r = each(tables_.queues, "queues",
                    [&](std::uint64_t id, auto bytes) -> result<void> {
                      auto made = decode_queue(bytes);
                      if (!made) return made.error();
                      made->second.id = {id};
                      out.last_mailbox = std::max(out.last_mailbox, mailbox_id{id});
                      auto& mailbox = out.mailboxes[{id}];
                      if (takes_once(made->second)) mailbox.keys = std::make_shared<recovered_keys>();
                      if (auto steps = steps_of(made->second))
                        mailbox.segments = std::make_shared<stream_segments>(std::move(*steps));
                      out.vhosts[made->first].queues.push_back(std::move(made->second));
                      return {};
                    });
      !r)
    return r;
  return each(tables_.bindings, "bindings", [&](std::uint64_t id, auto bytes) -> result<void> {
    auto made = decode_binding(bytes);
    if (!made) return made.error();
    made->second.id = {id};
    out.last_binding = std::max(out.last_binding, binding_id{id});
    out.vhosts[made->first].bindings.push_back(std::move(made->second));
    return {};
  });
}

// The mailbox whose messages are being recovered; null: it belongs to nobody.
result<recovered_mailbox*> store::mailbox_of_messages(const read_transaction& txn, mailbox_id mailbox,
                                                      recovered_store& out) {
  auto actor = actors_.actor_of(txn.handle(), mailbox);
  if (!actor) return actor.error();
  auto found = out.mailboxes.find(mailbox);
  if (!*actor) return found == out.mailboxes.end() ? nullptr : &found->second;
  if (found == out.mailboxes.end()) {
    found = out.mailboxes.try_emplace(mailbox).first;
    for (auto grave = graves_.lower_bound({mailbox, {}});
         grave != graves_.end() && grave->first.first == mailbox; ++grave) {
      found->second.used = std::max(found->second.used, grave->second);
    }
  }
  found->second.used = std::max(found->second.used, (*actor)->used);
  out.actors.try_emplace(mailbox, std::move((*actor)->path));
  return &found->second;
}

result<recovered_store> store::recover() {
  recovered_store out;
  std::vector<std::pair<mailbox_id, sequence>> transient;
  std::vector<mailbox_id> orphans;
  {
    auto txn = read_transaction::begin(environment_.get());
    if (!txn) return txn.error();
    const auto damaged = [&](const error& why) {
      return corrupted(sentence_on(directory_, "is damaged and was left as it is: " + why.text +
                                                   "; see what can still be read with `posthorn verify " +
                                                   directory_.string() +
                                                   "`, then restore a copy of the directory"));
    };
    if (auto r = read_graves(*txn); !r) return damaged(r.error());
    if (auto r = read_definitions(*txn, out); !r) return damaged(r.error());
    for (const auto& [place, last] : graves_) {
      out.last_mailbox = std::max(out.last_mailbox, place.first);
      // New messages must not get sequences that are still to be erased.
      if (const auto found = out.mailboxes.find(place.first); found != out.mailboxes.end()) {
        found->second.used = std::max(found->second.used, last);
      }
    }
    const auto last_actor = actors_.last_mailbox(txn->handle());
    if (!last_actor) return damaged(last_actor.error());
    out.last_mailbox = std::max(out.last_mailbox, *last_actor);
    const auto last_event = events_.last_number(txn->handle());
    if (!last_event) return damaged(last_event.error());
    out.last_event = *last_event;
    auto access = access_.read(txn->handle());
    if (!access) return damaged(access.error());
    out.access = std::move(*access);
    auto seen = seen_.read(txn->handle());
    if (!seen) return damaged(seen.error());
    for (auto& [exchange, all] : *seen) {
      const auto keeper = out.keepers.find(exchange);
      if (keeper == out.keepers.end()) {
        gone_exchanges_.insert(exchange);
      } else {
        keeper->second.seen = std::move(all);
      }
    }
    keep_graves();

    auto c = cursor::open(txn->handle(), tables_.messages);
    if (!c) return c.error();
    auto item = c->first();
    mailbox_id current{};
    recovered_mailbox* m = nullptr;
    recovered_keeper* keeper = nullptr;
    while (item && *item) {
      const auto key = (*item)->key;
      if (key.size() != message_key::size && key.size() != part_key::size) {
        return damaged(corrupted("a message's key has an odd size"));
      }
      const auto mailbox = message_key::mailbox_of(key);
      const auto at = message_key::sequence_of(key);
      out.last_mailbox = std::max(out.last_mailbox, mailbox);
      if (m == nullptr || mailbox != current) {
        const auto found = mailbox_of_messages(*txn, mailbox, out);
        if (!found) return damaged(found.error());
        current = mailbox;
        m = *found;
        const auto keeps = out.keepers.find(mailbox);
        keeper = keeps == out.keepers.end() ? nullptr : &keeps->second;
      }
      if (m == nullptr) {
        // Its queue is gone. The rest of it needs no look.
        if (!graves_.contains({mailbox, sequence{0}})) orphans.push_back(mailbox);
        item = c->seek(message_key{{mailbox.value + 1}, {0}});
        continue;
      }
      if (key.size() == part_key::size) {
        // Its message was never finished, or is being erased.
        const std::pair place{mailbox, at};
        if (!buried(mailbox, at) && (transient.empty() || transient.back() != place)) {
          transient.push_back(place);
        }
        item = c->next();
        continue;
      }
      const auto r = read_message(*c, **item);
      if (!r) {
        return damaged(corrupted("message " + std::to_string(at.value) + " of mailbox " +
                                 std::to_string(mailbox.value) + ": " + r.error().text));
      }
      if (!buried(mailbox, at)) {
        if (r->transient) {
          transient.emplace_back(mailbox, at);
        } else {
          m->count_message(at, *r->message, r->expires_at);
          if (keeper != nullptr) keeper->waiting.push_back({r->expires_at, at});
          ++out.message_count;
        }
      }
      item = c->next();
    }
    if (!item) return damaged(item.error());
    // Those of which nothing is left sleep like the others.
    for (auto actor = out.actors.begin(); actor != out.actors.end();) {
      const auto found = out.mailboxes.find(actor->first);
      if (found->second.count != 0) {
        ++actor;
        continue;
      }
      const auto queue = find(txn->handle(), tables_.queues, id_key{actor->first.value});
      if (!queue) return queue.error();
      if (!*queue) out.mailboxes.erase(found);
      actor = out.actors.erase(actor);
    }
  }

  if (auto r = erase_unfinished(transient); !r) return r.error();
  if (!orphans.empty()) {
    auto txn = write_transaction::begin(environment_.get());
    if (!txn) return txn.error();
    for (const auto mailbox : orphans) {
      if (auto r = add_grave(*txn, mailbox, {{0}, last_sequence}); !r) return r.error();
    }
    if (auto r = std::move(*txn).commit(); !r) return r.error();
    keep_graves();
  }
  return out;
}

// What does not survive a restart: messages that need not, and parts of messages that were never finished.
result<void> store::erase_unfinished(std::span<const std::pair<mailbox_id, sequence>> messages) {
  while (!messages.empty()) {
    auto txn = write_transaction::begin(environment_.get());
    if (!txn) return txn.error();
    const auto erase_some = [&]() -> result<void> {
      auto c = cursor::open(txn->handle(), tables_.messages);
      if (!c) return c.error();
      std::size_t count = 0;
      while (!messages.empty() && count < clearing_count_max) {
        const auto [mailbox, at] = messages.front();
        auto item = c->seek(message_key{mailbox, at});
        const auto inside = [&, m = mailbox, s = at] {
          return item && *item && message_key::mailbox_of((*item)->key) == m &&
                 message_key::sequence_of((*item)->key) == s;
        };
        for (; inside() && count < clearing_count_max; ++count) {
          if (auto r = c->erase(); !r) return r;
          item = c->next();
        }
        if (!item) return item.error();
        if (!inside()) messages = messages.subspan(1);
      }
      return {};
    };
    // The end of a write transaction frees its cursors, so ours must be gone by then.
    if (auto r = erase_some(); !r) return r;
    if (auto r = std::move(*txn).commit(); !r) return r;
  }
  return {};
}

// --- writing ----------------------------------------------------------------------------------------------------

result<void> store::commit(std::span<const mailbox_write> mailboxes,
                           std::span<const topology_write> topologies, std::span<const tree_event> events,
                           std::span<const part_write> parts, std::span<const access_record> access) {
  for (const auto& m : mailboxes) {
    if (m.with == nullptr) continue;
    if (auto r = check(*m.with); !r) return r;
  }
  auto txn = write_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  const auto written = [&]() -> result<void> {
    for (const auto& t : topologies) {
      if (auto r = write_topology(*txn, t); !r) return r;
    }
    if (auto r = access_.write(*txn, access); !r) return r;
    reached("commit.topology_written");
    if (auto r = write_parts(*txn, parts); !r) return r;
    if (auto r = write_messages(*txn, mailboxes); !r) return r;
    reached("commit.messages_written");
    if (auto r = write_actors(*txn, mailboxes); !r) return r;
    reached("commit.actors_written");
    if (auto r = write_erasures(*txn, mailboxes); !r) return r;
    if (auto r = events_.write(*txn, events); !r) return r;
    reached("commit.all_written");
    return end(std::move(*txn));
  }();
  if (!written) {
    undo_graves();
    return written;
  }
  keep_graves();
  return {};
}

result<void> store::commit_erasures(std::span<const mailbox_write> mailboxes) {
  auto txn = write_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  std::vector<mailbox_write> alone;
  for (const auto& m : mailboxes) {
    if (m.with == nullptr) alone.push_back(m);
  }
  auto written = write_erasures(*txn, alone);
  if (written) written = end(std::move(*txn));
  if (!written) {
    undo_graves();
    return written;
  }
  keep_graves();
  return {};
}

// A write that a nearly full disk takes only in part comes out of LMDB as an I/O error. It is one only if there was room.
result<void> store::end(write_transaction txn) {
  auto written = std::move(txn).commit();
  if (!written && written.error().code == errc::corrupted && space(false).disk_free < nearly_full) {
    return overloaded(written.error().text + " (the disk is full)");
  }
  return written;
}

result<void> store::write_parts(write_transaction& txn, std::span<const part_write> parts) {
  if (parts.empty()) return {};
  auto c = cursor::open(txn.handle(), tables_.messages);
  if (!c) return c.error();
  for (const auto& p : parts) {
    if (auto r = put_parts(*c, p.mailbox, p.at, *p.message, p.first, p.count); !r) return r;
  }
  reached("commit.parts_written");
  return {};
}

result<void> store::write_messages(write_transaction& txn, std::span<const mailbox_write> mailboxes) {
  auto c = cursor::open(txn.handle(), tables_.messages);
  if (!c) return c.error();
  for (const auto& m : mailboxes) {
    if (m.batch != nullptr) {
      for (const auto& a : m.batch->appends) {
        if (auto r =
                put_message(*c, m.mailbox, a.at, {a.transient, a.expires_at, a.message}, m.parts_are_there);
            !r)
          return r;
      }
    }
    if (m.with != nullptr) {
      for (const auto& t : m.with->transfers) {
        if (auto r = put_message(*c, t.to, t.at, {false, t.expires_at, t.message}, m.parts_are_there); !r)
          return r;
      }
    }
  }
  return {};
}

result<void> store::write_actors(write_transaction& txn, std::span<const mailbox_write> mailboxes) {
  for (const auto& m : mailboxes) {
    if (m.with == nullptr) continue;
    if (auto r = actors_.write(txn, *m.with); !r) return r;
    if (auto r = seen_.write(txn, m.with->seen); !r) return r;
    for (const auto& s : m.with->states) {
      if (!s.forget) continue;
      if (auto r = add_grave(txn, s.now.mailbox, {{0}, last_sequence}); !r) return r;
    }
  }
  return {};
}

result<void> store::write_erasures(write_transaction& txn, std::span<const mailbox_write> mailboxes) {
  auto c = cursor::open(txn.handle(), tables_.messages);
  if (!c) return c.error();
  std::size_t erased = 0;
  for (const auto& m : mailboxes) {
    if (m.batch == nullptr) continue;
    for (const auto& range : m.batch->erasures) {
      // A message may have thousands of parts, so that the width of a range is not all.
      if (range.last.value - range.first.value >= burial_width_min || erased >= erased_at_once_max) {
        if (auto r = add_grave(txn, m.mailbox, range); !r) return r;
        continue;
      }
      auto item = c->seek(message_key{m.mailbox, range.first});
      const auto inside = [&] {
        return item && *item && message_key::mailbox_of((*item)->key) == m.mailbox &&
               message_key::sequence_of((*item)->key) <= range.last;
      };
      for (; inside() && erased < erased_at_once_max; ++erased) {
        if (auto r = c->erase(); !r) return r;
        item = c->next();
      }
      if (!item) return item.error();
      if (!inside()) continue;
      const auto rest = message_key::sequence_of((*item)->key);
      if (auto r = add_grave(txn, m.mailbox, {rest, range.last}); !r) return r;
    }
  }
  return {};
}

result<void> store::write_topology(write_transaction& txn, const topology_write& write) {
  const auto put = [&](table_id table, std::span<const std::byte> key, std::uint64_t seed,
                       const record_bytes& bytes) -> result<void> {
    std::vector<std::byte> value(record::header_size + bytes.size());
    write_record(value, {0, bytes}, seed);
    return txn.put(table, key, value);
  };
  for (const auto& change : write.changes) {
    result<void> done;
    if (const auto* added = std::get_if<exchange_added>(&change)) {
      if (!added->exchange.durable) continue;
      done = put(tables_.exchanges, as_key(name_key(write.vhost, added->exchange.name)), seed_of(0),
                 encode(write.vhost, added->exchange));
    } else if (const auto* removed = std::get_if<exchange_removed>(&change)) {
      if (removed->exchange.durable)
        done = txn.erase(tables_.exchanges, as_key(name_key(write.vhost, removed->exchange.name)));
      if (done && removed->exchange.id.value != 0) {
        done = add_grave(txn, removed->exchange.id, {{0}, last_sequence});
        going_exchanges_.insert(removed->exchange.id);
      }
    } else if (const auto* queue = std::get_if<queue_added>(&change)) {
      const auto& q = *queue->queue;
      if (!q.durable) continue;
      done = put(tables_.queues, id_key{q.id.value}, seed_of(q.id.value), encode(write.vhost, q));
    } else if (const auto* gone = std::get_if<queue_removed>(&change)) {
      const auto& q = *gone->queue;
      if (q.durable) done = txn.erase(tables_.queues, id_key{q.id.value});
      if (done) done = add_grave(txn, q.id, {{0}, last_sequence});
    } else if (const auto* bound = std::get_if<binding_added>(&change)) {
      const auto& b = *bound->binding;
      if (!b.durable) continue;
      done = put(tables_.bindings, id_key{b.id.value}, seed_of(b.id.value), encode(write.vhost, b));
    } else if (const auto* unbound = std::get_if<binding_removed>(&change)) {
      if (!unbound->binding->durable) continue;
      done = txn.erase(tables_.bindings, id_key{unbound->binding->id.value});
    }
    if (!done) return done;
  }
  return {};
}

// --- burials ----------------------------------------------------------------------------------------------------

result<void> store::add_grave(write_transaction& txn, mailbox_id mailbox, sequence_range range) {
  if (auto r = txn.put(tables_.graves, message_key{mailbox, range.first}, id_key{range.last.value}); !r)
    return r;
  change_grave({mailbox, range.first}, range.last);
  return {};
}

void store::change_grave(const grave_map::key_type& place, std::optional<sequence> last) {
  const auto found = graves_.find(place);
  graves_before_.emplace_back(place, found == graves_.end() ? std::nullopt : std::optional{found->second});
  if (last) {
    graves_[place] = *last;
  } else if (found != graves_.end()) {
    graves_.erase(found);
  }
}

void store::keep_graves() {
  graves_before_.clear();
  gone_exchanges_.merge(going_exchanges_);
  going_exchanges_.clear();
  grave_count_.store(graves_.size() + gone_exchanges_.size(), std::memory_order_relaxed);
}

void store::undo_graves() {
  going_exchanges_.clear();
  for (auto before = graves_before_.rbegin(); before != graves_before_.rend(); ++before) {
    if (before->second) {
      graves_[before->first] = *before->second;
    } else {
      graves_.erase(before->first);
    }
  }
  graves_before_.clear();
}

bool store::buried(mailbox_id mailbox, sequence at) const {
  auto found = graves_.upper_bound({mailbox, at});
  if (found == graves_.begin()) return false;
  --found;
  return found->first.first == mailbox && at <= found->second;
}

// As they stand in the transaction, so that they fit the messages that it sees.
result<std::vector<sequence_range>> store::graves_of(const read_transaction& txn, mailbox_id mailbox) const {
  std::vector<sequence_range> out;
  auto c = cursor::open(txn.handle(), tables_.graves);
  if (!c) return c.error();
  auto item = c->seek(message_key{mailbox, {0}});
  for (; item && *item; item = c->next()) {
    if ((*item)->key.size() != message_key::size || (*item)->value.size() != 8)
      return corrupted("a grave has an odd size");
    if (message_key::mailbox_of((*item)->key) != mailbox) break;
    out.push_back({message_key::sequence_of((*item)->key), {id_key::read((*item)->value)}});
  }
  if (!item) return item.error();
  return out;
}

result<void> store::erase_seen(std::size_t count_max) {
  if (gone_exchanges_.empty()) return {};
  auto txn = write_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  const auto erased = seen_.erase(*txn, *gone_exchanges_.begin(), count_max);
  if (!erased) return erased.error();
  if (auto ended = end(std::move(*txn)); !ended) return ended;
  if (*erased < count_max) gone_exchanges_.erase(gone_exchanges_.begin());
  keep_graves();
  return {};
}

result<void> store::bury(std::size_t count_max) {
  if (graves_.empty()) return erase_seen(count_max);
  auto txn = write_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  const auto erase_slice = [&]() -> result<void> {
    auto c = cursor::open(txn->handle(), tables_.messages);
    if (!c) return c.error();
    std::size_t size = 0;
    while (count_max > 0 && size < buried_size_max && !graves_.empty()) {
      const auto [place, last] = *graves_.begin();
      const auto [mailbox, first] = place;
      auto item = c->seek(message_key{mailbox, first});
      const auto inside = [&, m = mailbox, l = last] {
        return item && *item && message_key::mailbox_of((*item)->key) == m &&
               message_key::sequence_of((*item)->key) <= l;
      };
      for (; inside() && count_max > 0 && size < buried_size_max; --count_max) {
        size += (*item)->value.size();
        if (auto r = c->erase(); !r) return r;
        item = c->next();
      }
      if (!item) return item.error();
      if (inside()) break;  // what is left of it is for the next slice
      if (auto r = txn->erase(tables_.graves, message_key{mailbox, first}); !r) return r;
      change_grave(place, std::nullopt);
      // An empty one is work, too: as many queues as a client likes may be deleted at once.
      if (count_max > 0) --count_max;
    }
    return {};
  };
  // The end of a write transaction frees its cursors, so ours must be gone by then.
  auto slice = erase_slice();
  if (slice) slice = end(std::move(*txn));
  if (!slice) {
    undo_graves();
    return slice;
  }
  keep_graves();
  return {};
}

// --- reading ----------------------------------------------------------------------------------------------------

result<std::vector<loaded_message>> store::load(mailbox_id mailbox, const load_request& request) const {
  std::vector<loaded_message> out;
  auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  const auto graves = graves_of(*txn, mailbox);
  if (!graves) return graves.error();
  auto c = cursor::open(txn->handle(), tables_.messages);
  if (!c) return c.error();
  std::size_t size = 0;
  auto item = c->seek(message_key{mailbox, request.where.first});
  for (; item && *item && out.size() < std::max<std::size_t>(1, request.count_max) &&
         (out.empty() || size < request.size_max);
       item = c->next()) {
    const auto at = message_key::sequence_of((*item)->key);
    if (message_key::mailbox_of((*item)->key) != mailbox || request.where.last < at) break;
    if ((*item)->key.size() != message_key::size || lies_in(*graves, at)) continue;
    auto r = read_message(*c, **item);
    if (!r) return r.error();
    size += r->message->footprint();
    auto& made = out.emplace_back();
    made.at = at;
    made.message = std::move(r->message);
    made.expires_at = r->expires_at;
  }
  if (!item) return item.error();
  if (out.empty()) {
    return corrupted("message " + std::to_string(request.where.first.value) + " of mailbox " +
                     std::to_string(mailbox.value) + " is not in the store any more");
  }
  return out;
}

result<recovered_mailbox> store::survey(mailbox_id mailbox) const {
  auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  recovered_mailbox out;
  const auto graves = graves_of(*txn, mailbox);
  if (!graves) return graves.error();
  for (const auto& grave : *graves) out.used = std::max(out.used, grave.last);
  const auto actor = actors_.actor_of(txn->handle(), mailbox);
  if (!actor) return actor.error();
  if (*actor) out.used = std::max(out.used, (*actor)->used);
  auto c = cursor::open(txn->handle(), tables_.messages);
  if (!c) return c.error();
  auto item = c->seek(message_key{mailbox, {0}});
  for (; item && *item && message_key::mailbox_of((*item)->key) == mailbox; item = c->next()) {
    const auto at = message_key::sequence_of((*item)->key);
    if ((*item)->key.size() != message_key::size || lies_in(*graves, at)) continue;
    const auto r = read_message(*c, **item);
    if (!r) return r.error();
    out.count_message(at, *r->message, r->expires_at);
  }
  if (!item) return item.error();
  out.used = std::max(out.used, out.last);
  return out;
}

result<std::optional<actor_state>> store::read_state(std::string_view path) const {
  const auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  return actors_.state_of(txn->handle(), path);
}

result<std::vector<timer_record>> store::timers_due(std::int64_t until, std::size_t count_max) const {
  const auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  return actors_.timers_due(txn->handle(), until, count_max);
}

result<std::optional<std::int64_t>> store::next_timer_due(std::int64_t after) const {
  const auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  return actors_.next_timer_due(txn->handle(), after);
}

result<std::vector<actor_event>> store::read_history(std::string_view path, std::uint64_t from,
                                                     std::size_t count_max) const {
  const auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  return actors_.history(txn->handle(), path, from, count_max);
}

result<std::vector<tree_event>> store::read_events(std::uint64_t from, std::size_t count_max) const {
  const auto txn = read_transaction::begin(environment_.get());
  if (!txn) return txn.error();
  return events_.read(txn->handle(), from, count_max);
}

void store::forget_dead_readers() const noexcept {
  int dead = 0;
  (void)mdb_reader_check(environment_.get(), &dead);
}

store_space store::space(bool with_reusable) const {
  store_space out;
  struct statvfs disk {};
  if (::statvfs(directory_.c_str(), &disk) == 0) {
    out.disk_free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
    out.disk_size = std::uint64_t{disk.f_blocks} * disk.f_frsize;
  }
  MDB_envinfo info{};
  MDB_stat stat{};
  mdb_env_info(environment_.get(), &info);
  mdb_env_stat(environment_.get(), &stat);
  out.map_size = info.me_mapsize;
  out.file_size = (info.me_last_pgno + 1) * stat.ms_psize;
  if (!with_reusable) return out;
  auto txn = read_transaction::begin(environment_.get());
  if (!txn) return out;
  constexpr table_id free_pages = 0;  // LMDB's own list: transaction -> count and page numbers
  auto c = cursor::open(txn->handle(), free_pages);
  if (!c) return out;
  for (auto item = c->first(); item && *item; item = c->next()) {
    std::uint64_t count = 0;
    if ((*item)->value.size() < sizeof count) break;
    std::memcpy(&count, (*item)->value.data(), sizeof count);
    out.reusable += count * stat.ms_psize;
  }
  return out;
}

}  // namespace posthorn
