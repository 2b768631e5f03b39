#include "persist/actor_tables.hpp"

#include "persist/flat_message.hpp"
#include "persist/keys.hpp"
#include "persist/schema.capnp.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

constexpr std::size_t number_size = 8;

capnp::Data::Reader as_data(std::span<const std::byte> bytes) noexcept {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}
std::span<const std::byte> as_span(capnp::Data::Reader data) noexcept {
  return {reinterpret_cast<const std::byte*>(data.begin()), data.size()};
}

void append_number(std::string& key, std::uint64_t number) {
  char octets[number_size];
  big_endian::store(octets, number);
  key.append(octets, number_size);
}

// "path\0rest" in two; nothing if it is not that.
std::optional<std::pair<std::string_view, std::string_view>> split(std::string_view key) noexcept {
  const auto end = key.find('\0');
  if (end == std::string_view::npos || end == 0) return std::nullopt;
  return std::pair{key.substr(0, end), key.substr(end + 1)};
}

bool starts_with(std::span<const std::byte> key, std::string_view prefix) noexcept {
  return as_text(key).starts_with(prefix);
}

result<void> put_plain(write_transaction& txn, table_id table, std::span<const std::byte> key,
                       std::span<const std::byte> bytes) {
  const auto place = txn.reserve(table, key, record::header_size + bytes.size());
  if (!place) return place.error();
  write_record(*place, {0, bytes}, seed_of_key(key));
  return {};
}

}  // namespace

std::string actor_keys::timer(std::int64_t due, std::string_view path, std::string_view name) {
  std::string key;
  key.reserve(number_size + path.size() + 1 + name.size());
  append_number(key, static_cast<std::uint64_t>(due));
  key += path;
  key += '\0';
  key += name;
  return key;
}

std::string actor_keys::event(std::string_view path, std::uint64_t number) {
  std::string key;
  key.reserve(path.size() + 1 + number_size);
  key += path;
  key += '\0';
  append_number(key, number);
  return key;
}

// --- values -------------------------------------------------------------------------------------------------------

result<actor_state> read_state_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  return read_flat<wire::StateRecord>(*bytes, "a state", [&](const wire::StateRecord::Reader& fields) {
    const auto state = as_span(fields.getState());
    return actor_state{std::string{as_text(key)}, {fields.getMailbox()}, {fields.getUsed()},
                       fields.getSchemaVersion(), fields.getTurn(),      {state.begin(), state.end()},
                       fields.getLastEvent()};
  });
}

result<mailbox_owner> read_owner_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  if (key.size() != number_size) return corrupted("the mailbox of an actor has an odd size");
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  const auto parts = split(as_text(*bytes));
  if (!parts) return mailbox_owner{std::string{as_text(*bytes)}, {}};
  if (parts->second.size() != number_size) {
    return corrupted("how far the mailbox of an actor was used has an odd size");
  }
  return mailbox_owner{std::string{parts->first}, {id_key::read(as_key(parts->second))}};
}

result<std::string> read_actor_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  auto owner = read_owner_record(key, value);
  if (!owner) return owner.error();
  return std::move(owner->path);
}

result<timer_record> read_timer_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  if (key.size() <= number_size) return corrupted("a timer has an odd key");
  const auto names = split(as_text(key).substr(number_size));
  if (!names) return corrupted("a timer has an odd key");
  timer_record out{std::string{names->first}, std::string{names->second},
                   static_cast<std::int64_t>(id_key::read(key)), 0, nullptr};
  result<envelope_ptr> message{envelope_ptr{}};
  const auto read =
      read_flat<wire::TimerRecord>(*bytes, "a timer", [&](const wire::TimerRecord::Reader& fields) {
        const auto stored = as_span(fields.getMessage());
        if (!stored.empty()) message = envelope::read(stored);
        return fields.getPeriod();
      });
  if (!read) return read.error();
  if (!message) return message.error();
  out.period = *read;
  out.message = std::move(*message);
  return out;
}

result<std::int64_t> read_timer_index(std::span<const std::byte> key, std::span<const std::byte> value) {
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  if (bytes->size() != number_size) return corrupted("an entry of the timers' index has an odd size");
  return static_cast<std::int64_t>(id_key::read(*bytes));
}

result<actor_event> read_event_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  const auto parts = split(as_text(key));
  if (!parts || parts->second.size() != number_size) return corrupted("an event has an odd key");
  return actor_event{std::string{parts->first}, id_key::read(as_key(parts->second)),
                     std::vector<std::byte>{bytes->begin(), bytes->end()}};
}

// --- writing ------------------------------------------------------------------------------------------------------

result<void> actor_tables::open(const write_transaction& txn) {
  for (const auto& [name, id] :
       {std::pair{"actors", &actors_}, std::pair{"state", &state_}, std::pair{"timers", &timers_},
        std::pair{"timer_names", &timer_names_}, std::pair{"history", &history_}}) {
    if (auto r = check_lmdb(mdb_dbi_open(txn.handle(), name, MDB_CREATE, id), "opening a table"); !r)
      return r;
  }
  return {};
}

result<void> actor_tables::write(write_transaction& txn, const atomic_writes& writes) const {
  for (const auto& s : writes.states) {
    if (!s.forget) continue;
    if (auto r = forget(txn, s.now); !r) return r;
  }
  for (const auto& s : writes.states) {
    if (s.forget) continue;
    if (auto r = put_state(txn, s.now); !r) return r;
  }
  for (const auto& t : writes.timers) {
    const auto done = t.cancel ? cancel_timer(txn, t.timer.path, t.timer.name) : set_timer(txn, t.timer);
    if (!done) return done;
  }
  for (const auto& e : writes.events) {
    if (auto r = append_event(txn, e); !r) return r;
  }
  for (const auto& [path, last] : writes.prune_events) {
    if (auto r = prune_events(txn, path, last); !r) return r;
  }
  for (const auto& u : writes.uses) {
    if (auto r = put_use(txn, u); !r) return r;
  }
  return {};
}

result<void> actor_tables::put_state(write_transaction& txn, const actor_state& now) const {
  if (auto r = claim_mailbox(txn, now); !r) return r;
  return put_flat<wire::StateRecord>(txn, state_, as_key(now.path), now.state.size(),
                                     [&](wire::StateRecord::Builder fields) {
                                       fields.setMailbox(now.mailbox.value);
                                       fields.setUsed(now.used.value);
                                       fields.setSchemaVersion(now.schema_version);
                                       fields.setTurn(now.turn);
                                       fields.setState(as_data(now.state));
                                       fields.setLastEvent(now.last_event);
                                     });
}

// Only an actor's first turn writes here; for all others it is a look.
result<void> actor_tables::claim_mailbox(write_transaction& txn, const actor_state& now) const {
  const auto holder = path_of(txn.handle(), now.mailbox);
  if (!holder) return holder.error();
  if (*holder) {
    if (**holder == now.path) return {};
    return refused("mailbox " + std::to_string(now.mailbox.value) + " belongs to actor " + **holder +
                   " and cannot be given to " + now.path);
  }
  const auto before = state_of(txn.handle(), now.path);
  if (!before) return before.error();
  if (*before) {
    return refused("actor " + now.path + " has mailbox " + std::to_string((*before)->mailbox.value) +
                   " and cannot get mailbox " + std::to_string(now.mailbox.value));
  }
  return put_plain(txn, actors_, id_key{now.mailbox.value}, as_key(now.path));
}

result<void> actor_tables::put_use(write_transaction& txn, const mailbox_use& use) const {
  const auto holder = owner_of(txn.handle(), use.mailbox);
  if (!holder) return holder.error();
  if (!*holder || (*holder)->path != use.path) {
    return refused("mailbox " + std::to_string(use.mailbox.value) + " is not that of actor " + use.path);
  }
  // Written again, it must not step back.
  if (use.used <= (*holder)->used) return {};
  return put_plain(txn, actors_, id_key{use.mailbox.value},
                   as_key(actor_keys::event(use.path, use.used.value)));
}

result<void> actor_tables::forget(write_transaction& txn, const actor_state& gone) const {
  const auto holder = path_of(txn.handle(), gone.mailbox);
  if (!holder) return holder.error();
  if (*holder && **holder == gone.path) {
    if (auto r = txn.erase(actors_, id_key{gone.mailbox.value}); !r) return r;
  }
  const auto present = state_of(txn.handle(), gone.path);
  if (!present) return present.error();
  // Written again after it was forgotten and made anew: the new one stays.
  if (*present && (*present)->mailbox != gone.mailbox) return {};
  if (auto r = txn.erase(state_, as_key(gone.path)); !r) return r;
  if (auto r = cancel_timers(txn, gone.path); !r) return r;
  return prune_events(txn, gone.path, std::numeric_limits<std::uint64_t>::max());
}

result<void> actor_tables::set_timer(write_transaction& txn, const timer_record& timer) const {
  if (auto r = cancel_timer(txn, timer.path, timer.name); !r) return r;
  const auto message = timer.message ? timer.message->bytes() : std::span<const std::byte>{};
  auto put =
      put_flat<wire::TimerRecord>(txn, timers_, as_key(actor_keys::timer(timer.due, timer.path, timer.name)),
                                  message.size(), [&](wire::TimerRecord::Builder fields) {
                                    fields.setPeriod(timer.period);
                                    if (!message.empty()) fields.setMessage(as_data(message));
                                  });
  if (!put) return put;
  return put_plain(txn, timer_names_, as_key(name_key(timer.path, timer.name)),
                   id_key{static_cast<std::uint64_t>(timer.due)});
}

result<void> actor_tables::cancel_timer(write_transaction& txn, std::string_view path,
                                        std::string_view name) const {
  const auto index_key = name_key(path, name);
  const auto found = find(txn.handle(), timer_names_, as_key(index_key));
  if (!found) return found.error();
  if (!*found) return {};
  const auto due = read_timer_index(as_key(index_key), **found);
  if (!due) return due.error();
  if (auto r = txn.erase(timers_, as_key(actor_keys::timer(*due, path, name))); !r) return r;
  return txn.erase(timer_names_, as_key(index_key));
}

result<void> actor_tables::cancel_timers(write_transaction& txn, std::string_view path) const {
  const auto prefix = name_key(path, "");
  auto c = cursor::open(txn.handle(), timer_names_);
  if (!c) return c.error();
  auto item = c->seek(as_key(prefix));
  for (; item && *item && starts_with((*item)->key, prefix); item = c->next()) {
    const auto due = read_timer_index((*item)->key, (*item)->value);
    if (!due) return due.error();
    const auto name = as_text((*item)->key).substr(prefix.size());
    if (auto r = txn.erase(timers_, as_key(actor_keys::timer(*due, path, name))); !r) return r;
    if (auto r = c->erase(); !r) return r;
  }
  if (!item) return item.error();
  return {};
}

result<void> actor_tables::append_event(write_transaction& txn, const actor_event& event) const {
  return put_plain(txn, history_, as_key(actor_keys::event(event.path, event.number)), event.bytes);
}

result<void> actor_tables::prune_events(write_transaction& txn, std::string_view path,
                                        std::uint64_t last) const {
  const auto end = actor_keys::event(path, last);
  auto c = cursor::open(txn.handle(), history_);
  if (!c) return c.error();
  auto item = c->seek(as_key(actor_keys::event(path, 0)));
  // The keys up to the last one are all of this path: they begin with it and its zero octet.
  for (; item && *item && as_text((*item)->key) <= end; item = c->next()) {
    if (auto r = c->erase(); !r) return r;
  }
  if (!item) return item.error();
  return {};
}

// --- reading ------------------------------------------------------------------------------------------------------

result<std::optional<mailbox_owner>> actor_tables::owner_of(MDB_txn* txn, mailbox_id mailbox) const {
  const id_key key{mailbox.value};
  const auto found = find(txn, actors_, key);
  if (!found) return found.error();
  if (!*found) return std::optional<mailbox_owner>{};
  auto owner = read_owner_record(key, **found);
  if (!owner) {
    return corrupted("the actor of mailbox " + std::to_string(mailbox.value) + ": " + owner.error().text);
  }
  return std::optional{std::move(*owner)};
}

result<std::optional<std::string>> actor_tables::path_of(MDB_txn* txn, mailbox_id mailbox) const {
  auto owner = owner_of(txn, mailbox);
  if (!owner) return owner.error();
  if (!*owner) return std::optional<std::string>{};
  return std::optional{std::move((*owner)->path)};
}

result<mailbox_id> actor_tables::last_mailbox(MDB_txn* txn) const {
  auto c = cursor::open(txn, actors_);
  if (!c) return c.error();
  const auto item = c->last();
  if (!item) return item.error();
  if (!*item) return mailbox_id{};
  if ((*item)->key.size() != number_size) return corrupted("the mailbox of an actor has an odd size");
  return mailbox_id{id_key::read((*item)->key)};
}

result<std::optional<actor_state>> actor_tables::state_of(MDB_txn* txn, std::string_view path) const {
  if (auto r = check_actor_path(path); !r) return r.error();
  const auto found = find(txn, state_, as_key(path));
  if (!found) return found.error();
  if (!*found) return std::optional<actor_state>{};
  auto state = read_state_record(as_key(path), **found);
  if (!state) return corrupted("the state of actor " + std::string{path} + ": " + state.error().text);
  const auto owner = owner_of(txn, state->mailbox);
  if (!owner) return owner.error();
  if (*owner && (*owner)->path == path) state->used = std::max(state->used, (*owner)->used);
  return std::optional{std::move(*state)};
}

result<std::optional<actor_state>> actor_tables::actor_of(MDB_txn* txn, mailbox_id mailbox) const {
  const auto path = path_of(txn, mailbox);
  if (!path) return path.error();
  if (!*path) return std::optional<actor_state>{};
  auto state = state_of(txn, **path);
  if (state && (!*state || (*state)->mailbox != mailbox)) {
    return corrupted("mailbox " + std::to_string(mailbox.value) + " belongs to actor " + **path +
                     (*state ? ", whose state names another one" : ", which has no state"));
  }
  return state;
}

result<std::vector<timer_record>> actor_tables::timers_due(MDB_txn* txn, std::int64_t until,
                                                           std::size_t count_max) const {
  std::vector<timer_record> out;
  auto c = cursor::open(txn, timers_);
  if (!c) return c.error();
  auto item = c->first();
  for (; item && *item && out.size() < count_max; item = c->next()) {
    auto timer = read_timer_record((*item)->key, (*item)->value);
    if (!timer) return timer.error();
    if (timer->due > until) break;
    out.push_back(std::move(*timer));
  }
  if (!item) return item.error();
  return out;
}

result<std::optional<std::int64_t>> actor_tables::next_timer_due(MDB_txn* txn, std::int64_t after) const {
  auto c = cursor::open(txn, timers_);
  if (!c) return c.error();
  const auto item = after < 0 ? c->first() : c->seek(id_key{static_cast<std::uint64_t>(after) + 1});
  if (!item) return item.error();
  if (!*item) return std::optional<std::int64_t>{};
  if ((*item)->key.size() <= number_size) return corrupted("a timer has an odd key");
  return std::optional{static_cast<std::int64_t>(id_key::read((*item)->key))};
}

result<std::vector<actor_event>> actor_tables::history(MDB_txn* txn, std::string_view path,
                                                       std::uint64_t from, std::size_t count_max) const {
  if (auto r = check_actor_path(path); !r) return r.error();
  std::vector<actor_event> out;
  const auto prefix = name_key(path, "");
  auto c = cursor::open(txn, history_);
  if (!c) return c.error();
  auto item = c->seek(as_key(actor_keys::event(path, from)));
  for (; item && *item && starts_with((*item)->key, prefix) && out.size() < count_max; item = c->next()) {
    auto event = read_event_record((*item)->key, (*item)->value);
    if (!event) return corrupted("an event of actor " + std::string{path} + ": " + event.error().text);
    out.push_back(std::move(*event));
  }
  if (!item) return item.error();
  return out;
}

}  // namespace posthorn
