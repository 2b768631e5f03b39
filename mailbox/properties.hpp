// The properties of a message as they travel: two octets of flags, then the values whose flags are set. A
// message keeps these bytes as they came, and whoever needs one property looks into them.
//
// Threads   everything here is a plain value or looks at bytes that the caller keeps alive.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/result.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace posthorn {

// In the order in which they travel. The flag of the first is the highest bit.
enum class property : std::uint8_t {
  content_type,
  content_encoding,
  headers,
  delivery_mode,
  priority,
  correlation_id,
  reply_to,
  expiration,
  message_id,
  timestamp,
  type,
  user_id,
  app_id,
  cluster_id,
};

inline constexpr std::size_t property_count = 14;

[[nodiscard]] constexpr std::uint16_t flag_of(property which) noexcept {
  return static_cast<std::uint16_t>(0x8000U >> static_cast<unsigned>(which));
}

// Where each property that is present lies. One pass, no allocation.
class property_offsets {
public:
  // Nothing when a value reaches beyond the end, bytes are left over, or a flag is set that names no property
  // (among them the lowest, which says that more flags follow: there are no more). No bytes at all mean no
  // properties, as a client that leaves everything out may send.
  [[nodiscard]] static std::optional<property_offsets> scan(std::span<const std::byte> properties) noexcept;

  [[nodiscard]] bool has(property which) const noexcept { return (flags_ & flag_of(which)) != 0; }

  // The value without the length before it, or nothing. `properties` are the bytes that were scanned.
  [[nodiscard]] std::span<const std::byte> value(std::span<const std::byte> properties,
                                                 property which) const noexcept {
    if (!has(which)) return {};
    const auto& found = places_[static_cast<std::size_t>(which)];
    return properties.subspan(found.begin, found.size);
  }

  // The same for the properties that are text.
  [[nodiscard]] std::optional<std::string_view> text(std::span<const std::byte> properties,
                                                     property which) const noexcept {
    if (!has(which)) return std::nullopt;
    const auto found = value(properties, which);
    return std::string_view{reinterpret_cast<const char*>(found.data()), found.size()};
  }

private:
  struct place {
    std::uint32_t begin;
    std::uint32_t size;
  };

  property_offsets() noexcept {}  // leaves the places of what is absent as they are: they are never looked at

  std::uint16_t flags_ = 0;
  std::array<place, property_count> places_;
};

// Whether all that the flags announce is there, and nothing else. Of the headers only the length counts.
[[nodiscard]] result<void> check_properties(std::span<const std::byte> properties);

struct basic_properties {
  std::optional<std::string> content_type;
  std::optional<std::string> content_encoding;
  std::optional<field_table> headers;
  std::optional<std::uint8_t> delivery_mode;  // 2 is persistent
  std::optional<std::uint8_t> priority;
  std::optional<std::string> correlation_id;
  std::optional<std::string> reply_to;
  std::optional<std::string> expiration;  // milliseconds, as text
  std::optional<std::string> message_id;
  std::optional<std::uint64_t> timestamp;  // seconds
  std::optional<std::string> type;
  std::optional<std::string> user_id;
  std::optional<std::string> app_id;
  std::optional<std::string> cluster_id;

  friend bool operator==(const basic_properties&, const basic_properties&) = default;
};

[[nodiscard]] result<basic_properties> decode_properties(std::span<const std::byte> properties);

// Appends. Text of more than 255 octets is a bug of the caller.
void encode_properties(const basic_properties& properties, std::string& out);

// What `rewrite_properties` does not leave as it is.
struct property_changes {
  const field_table* headers =
      nullptr;  // in the place of those that are there, or as the first; null: no change
  bool without_expiration = false;
};

// Appends the properties with these changes; everything else byte for byte as it came. Nothing is appended when the
// properties are not what their flags announce. Of the headers that are there, only the length counts.
[[nodiscard]] result<void> rewrite_properties(std::span<const std::byte> properties,
                                              const property_changes& changes, std::string& out);

namespace detail {

// Where the value of `which` begins, its length included; -1 when it is absent or cannot be found.
[[nodiscard]] inline std::ptrdiff_t place_of(std::span<const std::byte> properties, property which) noexcept {
  if (properties.size() < 2) return -1;
  const auto flags = big_endian::load<std::uint16_t>(properties.data());
  if ((flags & flag_of(which)) == 0) return -1;
  std::size_t at = 2;
  // Only the values whose flags are higher stand before it.
  auto before = static_cast<std::uint16_t>(flags & ~static_cast<unsigned>(flag_of(which) * 2U - 1U));
  while (before != 0) {
    const auto index = std::countl_zero(before);
    before = static_cast<std::uint16_t>(before & ~(0x8000U >> static_cast<unsigned>(index)));
    switch (static_cast<property>(index)) {
      case property::headers:
        if (properties.size() - at < 4) return -1;
        at += 4 + std::size_t{big_endian::load<std::uint32_t>(properties.data() + at)};
        break;
      case property::delivery_mode:
      case property::priority: at += 1; break;
      case property::timestamp: at += 8; break;
      default:
        if (properties.size() - at < 1) return -1;
        at += 1 + std::to_integer<std::size_t>(properties[at]);
        break;
    }
    if (at > properties.size()) return -1;
  }
  return static_cast<std::ptrdiff_t>(at);
}

[[nodiscard]] inline std::optional<std::uint8_t> octet_property(std::span<const std::byte> properties,
                                                                property which) noexcept {
  const auto at = place_of(properties, which);
  if (at < 0 || static_cast<std::size_t>(at) >= properties.size()) return std::nullopt;
  return std::to_integer<std::uint8_t>(properties[static_cast<std::size_t>(at)]);
}

}  // namespace detail

// One look at one property, without a pass over those behind it. Bytes that check_properties refuses are
// looked at safely, and what cannot be found in them is absent.

[[nodiscard]] inline std::optional<std::string_view> text_property(std::span<const std::byte> properties,
                                                                   property which) noexcept {
  const auto place = detail::place_of(properties, which);
  if (place < 0) return std::nullopt;
  const auto at = static_cast<std::size_t>(place);
  if (at >= properties.size()) return std::nullopt;
  const auto size = std::to_integer<std::size_t>(properties[at]);
  if (properties.size() - at - 1 < size) return std::nullopt;
  return std::string_view{reinterpret_cast<const char*>(properties.data() + at + 1), size};
}

[[nodiscard]] inline bool has_headers(std::span<const std::byte> properties) noexcept {
  return properties.size() >= 2 &&
         (big_endian::load<std::uint16_t>(properties.data()) & flag_of(property::headers)) != 0;
}

// 0 when absent.
[[nodiscard]] inline std::uint8_t delivery_mode_of(std::span<const std::byte> properties) noexcept {
  return detail::octet_property(properties, property::delivery_mode).value_or(0);
}

[[nodiscard]] inline std::optional<std::uint8_t> priority_of(std::span<const std::byte> properties) noexcept {
  return detail::octet_property(properties, property::priority);
}

[[nodiscard]] inline std::optional<std::string_view> expiration_of(
    std::span<const std::byte> properties) noexcept {
  return text_property(properties, property::expiration);
}

[[nodiscard]] inline std::optional<std::string_view> message_id_of(
    std::span<const std::byte> properties) noexcept {
  return text_property(properties, property::message_id);
}

[[nodiscard]] inline std::optional<std::string_view> correlation_id_of(
    std::span<const std::byte> properties) noexcept {
  return text_property(properties, property::correlation_id);
}

[[nodiscard]] inline std::optional<std::string_view> reply_to_of(
    std::span<const std::byte> properties) noexcept {
  return text_property(properties, property::reply_to);
}

[[nodiscard]] inline std::optional<std::string_view> user_id_of(
    std::span<const std::byte> properties) noexcept {
  return text_property(properties, property::user_id);
}

// The body of the headers table, for decode_table; empty when there is none.
[[nodiscard]] inline std::span<const std::byte> headers_of(std::span<const std::byte> properties) noexcept {
  const auto place = detail::place_of(properties, property::headers);
  if (place < 0) return {};
  const auto at = static_cast<std::size_t>(place);
  if (properties.size() - at < 4) return {};
  const std::size_t size = big_endian::load<std::uint32_t>(properties.data() + at);
  if (properties.size() - at - 4 < size) return {};
  return properties.subspan(at + 4, size);
}

}  // namespace posthorn
