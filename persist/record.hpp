// How a value stands in the store: 16 octets, then the bytes. docs/store.md has the format.
//
//   checksum  8 octets, XXH3 over all that follows, seeded with the record's place, so that a record that is found
//             under another key is as wrong as a damaged one
//   flags     4 octets, little endian
//   size      4 octets, little endian: of the bytes
#pragma once

#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace posthorn {

struct record {
  static constexpr std::size_t header_size = 16;
  // A message that does not survive a restart, written for want of memory.
  static constexpr std::uint32_t transient = 1;
  // A message that expires: 8 octets that say when stand in front of it.
  static constexpr std::uint32_t expires = 2;
  // A message that goes on in parts: 8 octets with the size of the whole stand in front of its beginning.
  static constexpr std::uint32_t in_parts = 4;

  std::uint32_t flags = 0;
  std::span<const std::byte> bytes;
};

// Fills `place`, which has room for the header and the bytes.
void write_record(std::span<std::byte> place, const record& r, std::uint64_t seed) noexcept;
// The same for bytes that stand in `place` behind the header already.
void seal_record(std::span<std::byte> place, std::uint32_t flags, std::uint64_t seed) noexcept;

// The bytes stay where they are: valid as long as `place` is.
[[nodiscard]] result<record> read_record(std::span<const std::byte> place, std::uint64_t seed);
// A record of a table that knows no flags.
[[nodiscard]] result<std::span<const std::byte>> read_plain_record(std::span<const std::byte> place,
                                                                   std::uint64_t seed);

// The seed of a record whose place is not a number: made of its key.
[[nodiscard]] std::uint64_t seed_of_key(std::span<const std::byte> key) noexcept;

}  // namespace posthorn
