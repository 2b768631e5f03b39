// Keys are big-endian, so that the order of the keys is the order of arrival. docs/store.md lists them.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/ids.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace posthorn {

// Every table that a store may have.
inline constexpr std::array table_names = {"meta",    "exchanges", "queues", "bindings", "messages",
                                           "graves",  "actors",    "state",  "timers",   "timer_names",
                                           "history", "events",    "access", "seen"};

inline std::span<const std::byte> as_key(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(std::span<const std::byte> key) noexcept {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

class id_key {
public:
  explicit id_key(std::uint64_t id) noexcept {
    big_endian::store(reinterpret_cast<char*>(bytes_.data()), id);
  }
  operator std::span<const std::byte>() const noexcept { return bytes_; }  // NOLINT: a key is its bytes

  static std::uint64_t read(std::span<const std::byte> key) noexcept {
    return big_endian::load<std::uint64_t>(key.data());
  }

private:
  std::array<std::byte, 8> bytes_;
};

class message_key {
public:
  static constexpr std::size_t size = 16;

  message_key(mailbox_id mailbox, sequence at) noexcept {
    auto* to = reinterpret_cast<char*>(bytes_.data());
    big_endian::store(to, mailbox.value);
    big_endian::store(to + 8, at.value);
  }
  operator std::span<const std::byte>() const noexcept { return bytes_; }  // NOLINT: a key is its bytes

  static mailbox_id mailbox_of(std::span<const std::byte> key) noexcept {
    return {big_endian::load<std::uint64_t>(key.data())};
  }
  static sequence sequence_of(std::span<const std::byte> key) noexcept {
    return {big_endian::load<std::uint64_t>(key.data() + 8)};
  }

private:
  std::array<std::byte, 16> bytes_;
};

// One part of a message that does not fit into a page. It stands right behind the message, whose key is its beginning.
class part_key {
public:
  static constexpr std::size_t size = message_key::size + 4;

  part_key(mailbox_id mailbox, sequence at, std::uint32_t number) noexcept {
    const message_key of{mailbox, at};
    const std::span<const std::byte> begin{of};
    std::memcpy(bytes_.data(), begin.data(), begin.size());
    big_endian::store(reinterpret_cast<char*>(bytes_.data()) + message_key::size, number);
  }
  operator std::span<const std::byte>() const noexcept { return bytes_; }  // NOLINT: a key is its bytes

private:
  std::array<std::byte, 20> bytes_;
};

// What a record's checksum is seeded with: its place. Those of actors are seeded with their keys (persist/record.hpp).
inline std::uint64_t seed_of(mailbox_id mailbox, sequence at) noexcept {
  return mailbox.value * 0x9e3779b97f4a7c15ULL ^ at.value;
}
inline std::uint64_t seed_of(mailbox_id mailbox, sequence at, std::uint32_t part) noexcept {
  return seed_of(mailbox, at) ^ part * 0xc2b2ae3d27d4eb4fULL;
}
inline std::uint64_t seed_of(std::uint64_t id) noexcept { return id * 0x9e3779b97f4a7c15ULL; }

// vhost, a zero octet, name: at most 511 octets, which is what LMDB takes.
inline std::string name_key(std::string_view vhost, std::string_view name) {
  std::string key{vhost};
  key += '\0';
  key += name;
  return key;
}

}  // namespace posthorn
