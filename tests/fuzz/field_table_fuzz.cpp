// The field table, which stands in headers and arguments. The input is a table without its length.
//
// Beyond not crashing, this must hold:
//   1. decode_table takes exactly what check_table takes, and refuses with the same words.
//   2. What was decoded encodes to the same octets, and equals itself, floats that are no numbers included.
#include "mailbox/field_table.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

using namespace posthorn;

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span body{reinterpret_cast<const std::byte*>(data), size};
  const auto table = decode_table(body);
  const auto check = check_table(body);
  if (table.has_error()) {
    require(check.has_error() && check.error() == table.error(), "check and decode refuse alike");
    require(!table.error().text.empty(), "a refusal says why");
    return 0;
  }
  require(check.has_value(), "check takes what decode takes");

  std::string out;
  encode_table(*table, out);
  const std::string_view wanted{reinterpret_cast<const char*>(data), size};
  require(std::string_view{out}.substr(4) == wanted, "a table encodes to the same octets");

  const field_table copy = *table;
  require(copy == *table, "a copy equals its original");
  const auto sorted = table->sorted();
  require(sorted.size() == table->size() && sorted.sorted() == sorted, "sorting keeps every entry");
  for (const auto& [name, value] : *table) {
    require(!type_name(value.type).empty(), "a decoded type is known by name");
    require(table->find(name) != nullptr && sorted.find(name) != nullptr, "every entry is found");
    require(*sorted.find(name) == *table->find(name), "sorting keeps the first of a name first");
  }
  (void)to_string(*table);
  return 0;
}
