#include "persist/seen_table.hpp"

#include "mailbox/field_table.hpp"
#include "persist/keys.hpp"
#include "persist/record.hpp"

#include <algorithm>
#include <array>

namespace posthorn {

namespace {

constexpr std::size_t key_size = 24, value_size = 16;

std::array<std::byte, key_size> key_of(mailbox_id exchange, const deduplication_key& key) noexcept {
  std::array<std::byte, key_size> out{};
  auto* to = reinterpret_cast<char*>(out.data());
  big_endian::store(to, exchange.value);
  big_endian::store(to + 8, key.high);
  big_endian::store(to + 16, key.low);
  return out;
}

std::uint64_t number_at(std::span<const std::byte> bytes, std::size_t at) noexcept {
  return big_endian::load<std::uint64_t>(bytes.data() + at);
}

}  // namespace

result<seen_write> read_seen_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  if (key.size() != key_size) return corrupted("the key of a message that was seen has an odd size");
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  if (bytes->size() != value_size) return corrupted("the record of a message that was seen has an odd size");
  seen_write out;
  out.exchange = {number_at(key, 0)};
  out.what.key = {number_at(key, 8), number_at(key, 16)};
  out.what.expires_at = static_cast<std::int64_t>(number_at(*bytes, 0));
  out.what.order = number_at(*bytes, 8);
  return out;
}

result<void> seen_table::open(const write_transaction& txn) {
  return check_lmdb(mdb_dbi_open(txn.handle(), "seen", MDB_CREATE, &table_), "opening a table");
}

result<void> seen_table::write(write_transaction& txn, std::span<const seen_write> writes) const {
  for (const auto& w : writes) {
    const auto key = key_of(w.exchange, w.what.key);
    if (w.what.forgotten) {
      if (auto erased = txn.erase(table_, key); !erased) return erased;
      continue;
    }
    const auto place = txn.reserve(table_, key, record::header_size + value_size);
    if (!place) return place.error();
    std::array<std::byte, value_size> bytes{};
    auto* to = reinterpret_cast<char*>(bytes.data());
    big_endian::store(to, static_cast<std::uint64_t>(w.what.expires_at));
    big_endian::store(to + 8, w.what.order);
    write_record(*place, {0, bytes}, seed_of_key(key));
  }
  return {};
}

result<std::size_t> seen_table::erase(write_transaction& txn, mailbox_id exchange,
                                      std::size_t count_max) const {
  auto c = cursor::open(txn.handle(), table_);
  if (!c) return c.error();
  std::size_t count = 0;
  auto item = c->seek(id_key{exchange.value});
  while (count < count_max && item && *item && id_key::read((*item)->key) == exchange.value) {
    if (auto erased = c->erase(); !erased) return erased.error();
    ++count;
    item = c->next();
  }
  if (!item) return item.error();
  return count;
}

result<std::map<mailbox_id, std::vector<seen_messages::change>>> seen_table::read(MDB_txn* txn) const {
  std::map<mailbox_id, std::vector<seen_messages::change>> out;
  auto c = cursor::open(txn, table_);
  if (!c) return c.error();
  auto item = c->first();
  for (; item && *item; item = c->next()) {
    auto r = read_seen_record((*item)->key, (*item)->value);
    if (!r) return corrupted("in table seen: " + r.error().text);
    out[r->exchange].push_back(r->what);
  }
  if (!item) return item.error();
  for (auto& [exchange, all] : out) {
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.order < b.order; });
  }
  return out;
}

}  // namespace posthorn
