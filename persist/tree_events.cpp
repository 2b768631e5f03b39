#include "persist/tree_events.hpp"

#include "persist/flat_message.hpp"
#include "persist/keys.hpp"
#include "persist/schema.capnp.h"

#include <string_view>

namespace posthorn {

namespace {

constexpr std::size_t path_size_max = 400, kind_size_max = 100, reason_size_max = 2'000;

capnp::Data::Reader cut(std::string_view text, std::size_t size_max) noexcept {
  const auto kept = text.substr(0, size_max);
  return {reinterpret_cast<const kj::byte*>(kept.data()), kept.size()};
}

std::string as_string(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

}  // namespace

result<tree_event> read_tree_event(std::span<const std::byte> key, std::span<const std::byte> value) {
  if (key.size() != sizeof(std::uint64_t)) return corrupted("the number of an event has an odd size");
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  using fields_of = wire::TreeEventRecord::Reader;
  return read_flat<wire::TreeEventRecord>(*bytes, "an event", [&](const fields_of& fields) {
    return tree_event{id_key::read(key),
                      fields.getAt(),
                      as_string(fields.getPath()),
                      as_string(fields.getKind()),
                      as_string(fields.getReason()),
                      fields.getRestarts()};
  });
}

result<void> tree_event_table::open(const write_transaction& txn) {
  return check_lmdb(mdb_dbi_open(txn.handle(), "events", MDB_CREATE, &events_), "opening a table");
}

result<void> tree_event_table::write(write_transaction& txn, std::span<const tree_event> events) const {
  if (events.empty()) return {};
  for (const auto& e : events) {
    const auto size = e.path.size() + e.kind.size() + std::min(e.reason.size(), reason_size_max);
    const auto put = put_flat<wire::TreeEventRecord>(txn, events_, id_key{e.number}, size,
                                                     [&](wire::TreeEventRecord::Builder fields) {
                                                       fields.setAt(e.at);
                                                       fields.setPath(cut(e.path, path_size_max));
                                                       fields.setKind(cut(e.kind, kind_size_max));
                                                       fields.setReason(cut(e.reason, reason_size_max));
                                                       fields.setRestarts(e.restarts);
                                                     });
    if (!put) return put;
  }
  const auto last = last_number(txn.handle());
  if (!last) return last.error();
  auto c = cursor::open(txn.handle(), events_);
  if (!c) return c.error();
  auto item = c->first();
  for (; item && *item; item = c->next()) {
    if ((*item)->key.size() != sizeof *last) return corrupted("the number of an event has an odd size");
    if (*last - id_key::read((*item)->key) < events_max) break;
    if (auto r = c->erase(); !r) return r;
  }
  if (!item) return item.error();
  return {};
}

result<std::vector<tree_event>> tree_event_table::read(MDB_txn* txn, std::uint64_t from,
                                                       std::size_t count_max) const {
  std::vector<tree_event> out;
  auto c = cursor::open(txn, events_);
  if (!c) return c.error();
  auto item = c->seek(id_key{from});
  if (item && !*item) {
    item = c->last();
  } else if (item && (*item)->key.size() == sizeof from && id_key::read((*item)->key) > from) {
    item = c->previous();
  }
  for (; item && *item && out.size() < count_max; item = c->previous()) {
    auto event = read_tree_event((*item)->key, (*item)->value);
    if (!event) return corrupted("an event of the tree of actors: " + event.error().text);
    out.push_back(std::move(*event));
  }
  if (!item) return item.error();
  return out;
}

result<std::uint64_t> tree_event_table::last_number(MDB_txn* txn) const {
  auto c = cursor::open(txn, events_);
  if (!c) return c.error();
  const auto item = c->last();
  if (!item) return item.error();
  if (!*item) return std::uint64_t{0};
  if ((*item)->key.size() != sizeof(std::uint64_t)) {
    return corrupted("the number of an event has an odd size");
  }
  return id_key::read((*item)->key);
}

}  // namespace posthorn
