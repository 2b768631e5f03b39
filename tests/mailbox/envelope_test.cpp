#include "mailbox/envelope.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

using namespace posthorn;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span{text}); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void same(const envelope& a, const envelope& b) {
  CHECK(a.exchange() == b.exchange());
  CHECK(a.routing_key() == b.routing_key());
  CHECK(text_of(a.properties()) == text_of(b.properties()));
  CHECK(text_of(a.body()) == text_of(b.body()));
  CHECK(a.persistent() == b.persistent());
  CHECK(text_of(a.bytes()) == text_of(b.bytes()));
}

bool inside(const envelope& e, std::span<const std::byte> part) {
  const auto all = e.bytes();
  return part.empty() || (part.data() >= all.data() && part.data() + part.size() <= all.data() + all.size());
}

// Whatever was read can be read to its end without leaving the envelope.
void in_bounds(const envelope& e) {
  REQUIRE(e.exchange().size() <= envelope::name_size_max);
  REQUIRE(e.routing_key().size() <= envelope::name_size_max);
  for (const auto part : {bytes_of(e.exchange()), bytes_of(e.routing_key()), e.properties(), e.body()}) {
    REQUIRE(inside(e, part));
    unsigned sum = 0;
    for (const auto b : part) sum += std::to_integer<unsigned>(b);
    REQUIRE(sum <= part.size() * 255);
  }
}

}  // namespace

TEST_CASE("an envelope has what it was built from, in pieces or at once", "[envelope]") {
  for (const std::size_t size : {0U, 1U, 7U, 8U, 9U, 1000U}) {
    std::string body;
    for (std::size_t n = 0; n < size; ++n) body += static_cast<char>('a' + n % 26);
    const auto whole =
        make_envelope("exchange", "routing.key", bytes_of("\x80\x00properties"), true, bytes_of(body));
    CHECK(whole->exchange() == "exchange");
    CHECK(whole->routing_key() == "routing.key");
    CHECK(text_of(whole->body()) == body);
    CHECK(whole->persistent());
    CHECK(whole->footprint() >= whole->bytes().size());
    for (const std::size_t piece : {1U, 3U, 999U}) {
      envelope_builder builder{"exchange", "routing.key", bytes_of("\x80\x00properties"), true, size};
      for (std::size_t at = 0; at < size; at += piece) {
        CHECK(builder.body_missing() == size - at);
        builder.append_body(bytes_of(body).subspan(at, std::min(piece, size - at)));
        builder.append_body({});
      }
      CHECK(builder.body_missing() == 0);
      same(*builder.finish(), *whole);
    }
  }
}

TEST_CASE("parts that are empty stay empty", "[envelope]") {
  const auto e = make_envelope("", "", {}, false, {});
  CHECK(e->exchange().empty());
  CHECK(e->routing_key().empty());
  CHECK(e->properties().empty());
  CHECK(e->body().empty());
  CHECK_FALSE(e->persistent());
  same(*envelope::read(e->bytes()).value(), *e);
}

TEST_CASE("an envelope that is read from its bytes is the same, wherever they lay", "[envelope]") {
  const auto e = make_envelope(std::string(255, 'x'), std::string(255, 'k'), bytes_of(std::string(300, 'p')),
                               true, bytes_of(std::string(12'345, 'b')));
  std::vector<std::byte> shifted(e->bytes().size() + 8);
  for (std::size_t shift = 0; shift < 8; ++shift) {
    std::memcpy(shifted.data() + shift, e->bytes().data(), e->bytes().size());
    auto read = envelope::read(std::span{shifted}.subspan(shift, e->bytes().size()));
    REQUIRE(read.has_value());
    std::memset(shifted.data(), 0, shifted.size());  // it keeps its own copy
    same(**read, *e);
  }
}

TEST_CASE("no flipped bit makes an envelope reach beyond its bytes", "[envelope]") {
  const auto e =
      make_envelope("exchange", "key", bytes_of("\x10\x00\x02"), true, bytes_of("a body of some length"));
  const std::vector<std::byte> whole(e->bytes().begin(), e->bytes().end());
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    auto flipped = whole;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto read = envelope::read(flipped);
    if (read.has_value()) {
      in_bounds(**read);
    } else {
      CHECK(read.error().code == errc::corrupted);
      ++refused;
    }
    // Two at once: the pointers are in the first words.
    for (std::size_t other = bit + 1; other < std::min<std::size_t>(whole.size(), 56) * 8; other += 7) {
      auto twice = flipped;
      twice[other / 8] ^= std::byte{1} << (other % 8);
      if (const auto also = envelope::read(twice); also.has_value()) in_bounds(**also);
    }
  }
  CHECK(refused > 100);
}

TEST_CASE("an envelope that is cut off or goes on behind its end is refused", "[envelope]") {
  const auto e =
      make_envelope("exchange", "key", bytes_of("properties"), true, bytes_of(std::string(100, 'b')));
  for (std::size_t size = 0; size < e->bytes().size(); ++size) {
    const auto read = envelope::read(e->bytes().first(size));
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().code == errc::corrupted);
  }
  std::vector<std::byte> longer(e->bytes().begin(), e->bytes().end());
  longer.resize(longer.size() + 8);
  CHECK_FALSE(envelope::read(longer).has_value());
}

TEST_CASE("what no gateway lets in is a bug of whoever builds it", "[envelope]") {
  CHECK_THROWS_AS(envelope_builder(std::string(256, 'x'), "", {}, false, 0), std::logic_error);
  CHECK_THROWS_AS(envelope_builder("", std::string(256, 'x'), {}, false, 0), std::logic_error);
  CHECK_THROWS_AS(envelope_builder("", "", {}, false, envelope::body_size_max + 1), std::logic_error);
  envelope_builder builder{"", "", {}, false, 4};
  CHECK_THROWS_AS(builder.append_body(bytes_of("12345")), std::logic_error);
  builder.append_body(bytes_of("123"));
  CHECK_THROWS_AS(builder.finish(), std::logic_error);
  builder.append_body(bytes_of("4"));
  CHECK(builder.finish() != nullptr);
  CHECK_THROWS_AS(builder.finish(), std::logic_error);
}
