#include "persist/record.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <string>

namespace posthorn {

void write_record(std::span<std::byte> place, const record& r, std::uint64_t seed) noexcept {
  if (!r.bytes.empty()) std::memcpy(place.data() + record::header_size, r.bytes.data(), r.bytes.size());
  seal_record(place, r.flags, seed);
}

void seal_record(std::span<std::byte> place, std::uint32_t flags, std::uint64_t seed) noexcept {
  const auto size = static_cast<std::uint32_t>(place.size() - record::header_size);
  std::memcpy(place.data() + 8, &flags, 4);
  std::memcpy(place.data() + 12, &size, 4);
  const std::uint64_t checksum = XXH3_64bits_withSeed(place.data() + 8, place.size() - 8, seed);
  std::memcpy(place.data(), &checksum, 8);
}

result<record> read_record(std::span<const std::byte> place, std::uint64_t seed) {
  if (place.size() < record::header_size) return corrupted("a record is too short");
  std::uint64_t checksum = 0;
  std::memcpy(&checksum, place.data(), 8);
  if (XXH3_64bits_withSeed(place.data() + 8, place.size() - 8, seed) != checksum) {
    return corrupted("a record's checksum does not match its content");
  }
  record r;
  std::uint32_t size = 0;
  std::memcpy(&r.flags, place.data() + 8, 4);
  std::memcpy(&size, place.data() + 12, 4);
  if (size != place.size() - record::header_size)
    return corrupted("a record's size does not match its content");
  r.bytes = place.subspan(record::header_size);
  return r;
}

result<std::span<const std::byte>> read_plain_record(std::span<const std::byte> place, std::uint64_t seed) {
  const auto r = read_record(place, seed);
  if (!r) return r.error();
  if (r->flags != 0) return corrupted("a record has flags that this version does not know");
  return r->bytes;
}

std::uint64_t seed_of_key(std::span<const std::byte> key) noexcept {
  return XXH3_64bits(key.data(), key.size());
}

}  // namespace posthorn
