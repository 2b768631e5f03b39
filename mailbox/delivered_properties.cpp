#include "mailbox/delivered_properties.hpp"

#include "mailbox/carbon_copies.hpp"
#include "mailbox/properties.hpp"

namespace posthorn {

void add_delivery_counts(field_table& headers, std::uint16_t returns, std::uint16_t attempts) {
  headers.erase(acquired_count_header);
  headers.erase(delivery_count_header);
  headers.add(std::string{acquired_count_header}, field_value::of_long(returns));
  if (attempts != 0) headers.add(std::string{delivery_count_header}, field_value::of_long(attempts));
}

std::optional<std::string> delivered_properties(std::span<const std::byte> properties, std::uint16_t returns,
                                                std::uint16_t attempts) {
  if (returns == 0) return without_blind_copies(properties);
  auto headers = decode_table(headers_of(properties));
  if (!headers) return std::nullopt;
  headers->erase("BCC");
  add_delivery_counts(*headers, returns, attempts);
  std::string out;
  if (!rewrite_properties(properties, {.headers = &*headers}, out)) return std::nullopt;
  return out;
}

}  // namespace posthorn
