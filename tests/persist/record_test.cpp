#include "persist/record.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <string_view>
#include <vector>

using namespace posthorn;

namespace {

std::vector<std::byte> written(std::string_view content, std::uint32_t flags, std::uint64_t seed) {
  std::vector<std::byte> place(record::header_size + content.size());
  write_record(place, {flags, std::as_bytes(std::span{content})}, seed);
  return place;
}

}  // namespace

TEST_CASE("a record gives back what was written", "[persist]") {
  for (const std::string_view content :
       {std::string_view{}, std::string_view{"a"}, std::string_view{"0123456789abcdef0"}}) {
    const auto place = written(content, record::transient, 5);
    const auto r = read_record(place, 5);
    REQUIRE(r);
    CHECK(r->flags == record::transient);
    REQUIRE(r->bytes.size() == content.size());
    CHECK((content.empty() || std::memcmp(r->bytes.data(), content.data(), content.size()) == 0));
  }
}

TEST_CASE("a record under another key, with any flipped bit, or of another size is an error", "[persist]") {
  const auto place = written("a message of some bytes", 0, 5);
  CHECK_FALSE(read_record(place, 6));
  for (std::size_t bit = 0; bit < place.size() * 8; ++bit) {
    auto flipped = place;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto r = read_record(flipped, 5);
    REQUIRE_FALSE(r);
    CHECK(r.error().code == errc::corrupted);
  }
  for (std::size_t size = 0; size < place.size(); ++size) {
    CHECK_FALSE(read_record(std::span{place}.first(size), 5));
  }
  auto longer = place;
  longer.push_back({});
  CHECK_FALSE(read_record(longer, 5));
}
