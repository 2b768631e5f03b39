#include "persist/access_table.hpp"

#include "persist/keys.hpp"
#include "persist/record.hpp"

namespace posthorn {

result<access_record> read_access_record(std::span<const std::byte> key, std::span<const std::byte> value) {
  const auto bytes = read_plain_record(value, seed_of_key(key));
  if (!bytes) return bytes.error();
  return access_record{std::string{as_text(key)}, std::string{as_text(*bytes)}};
}

result<void> access_table::open(const write_transaction& txn) {
  return check_lmdb(mdb_dbi_open(txn.handle(), "access", MDB_CREATE, &table_), "opening a table");
}

result<void> access_table::write(write_transaction& txn, std::span<const access_record> records) const {
  for (const auto& r : records) {
    const auto key = as_key(r.name);
    if (!r.text) {
      if (auto erased = txn.erase(table_, key); !erased) return erased;
      continue;
    }
    const auto place = txn.reserve(table_, key, record::header_size + r.text->size());
    if (!place) return place.error();
    write_record(*place, {0, as_key(*r.text)}, seed_of_key(key));
  }
  return {};
}

result<std::vector<access_record>> access_table::read(MDB_txn* txn) const {
  std::vector<access_record> out;
  auto c = cursor::open(txn, table_);
  if (!c) return c.error();
  auto item = c->first();
  for (; item && *item; item = c->next()) {
    auto r = read_access_record((*item)->key, (*item)->value);
    if (!r) return corrupted("in table access: " + r.error().text);
    out.push_back(std::move(*r));
  }
  if (!item) return item.error();
  return out;
}

}  // namespace posthorn
