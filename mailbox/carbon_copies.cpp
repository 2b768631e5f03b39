#include "mailbox/carbon_copies.hpp"

#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <array>
#include <string_view>

namespace posthorn {

namespace {

constexpr std::array<std::string_view, 2> names = {"CC", "BCC"};

field_table headers_in(std::span<const std::byte> properties) {
  auto decoded = decode_table(headers_of(properties));
  return decoded ? *std::move(decoded) : field_table{};
}

}  // namespace

bool may_name_copies(std::span<const std::byte> properties) noexcept {
  const auto headers = headers_of(properties);
  const std::string_view octets{reinterpret_cast<const char*>(headers.data()), headers.size()};
  for (auto at = octets.find("CC"); at != std::string_view::npos; at = octets.find("CC", at + 1)) {
    // A name stands behind its length.
    if (at >= 1 && octets[at - 1] == '\2') return true;
    if (at >= 2 && octets[at - 1] == 'B' && octets[at - 2] == '\3') return true;
  }
  return false;
}

std::vector<std::string> copy_keys(std::span<const std::byte> properties) {
  std::vector<std::string> keys;
  if (!may_name_copies(properties)) return keys;
  const auto headers = headers_in(properties);
  for (const auto name : names) {
    const auto* value = headers.find(name);
    const auto* elements = value != nullptr ? as_array(*value) : nullptr;
    if (elements == nullptr) continue;
    for (const auto& element : *elements) {
      if (element.type == 'S') keys.emplace_back(*as_string(element));
    }
  }
  return keys;
}

std::optional<std::string> invalid_copies(std::span<const std::byte> properties) {
  if (!may_name_copies(properties)) return std::nullopt;
  const auto headers = headers_in(properties);
  for (const auto name : names) {
    const auto* value = headers.find(name);
    if (value == nullptr || as_array(*value) != nullptr) continue;
    return "invalid message: {unacceptable_type_in_header,\"" + std::string{name} + "\"," +
           std::string{type_name(value->type)} + "}";
  }
  return std::nullopt;
}

std::optional<std::string> without_blind_copies(std::span<const std::byte> properties) {
  if (!may_name_copies(properties)) return std::nullopt;
  auto headers = headers_in(properties);
  if (!headers.erase("BCC")) return std::nullopt;
  std::string out;
  if (!rewrite_properties(properties, {.headers = &headers}, out)) return std::nullopt;
  return out;
}

}  // namespace posthorn
