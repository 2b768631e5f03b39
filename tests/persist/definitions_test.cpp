#include "persist/definitions.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;
using namespace std::string_literals;

TEST_CASE("an exchange's record gives back the exchange", "[persist]") {
  for (const auto type : exchange_types) {
    const exchange_definition e{"na\0me\xff"s, type, true, true, true, "\x01\x00\x02"s};
    const auto read = decode_exchange(encode("vh ä", e)).value();
    CHECK(read.first == "vh ä");
    CHECK(read.second.name == e.name);
    CHECK(read.second.type == type);
    CHECK(read.second.durable);
    CHECK(read.second.auto_delete);
    CHECK(read.second.internal);
    CHECK(read.second.arguments == e.arguments);
  }
  const auto plain =
      decode_exchange(encode("/", exchange_definition{"x", exchange_type::direct, true, false, false, {}}));
  CHECK_FALSE(plain.value().second.auto_delete);
  CHECK_FALSE(plain.value().second.internal);
}

TEST_CASE("a queue's record gives back the queue", "[persist]") {
  queue_definition q;
  q.id = {4};
  q.name = std::string(255, 'q');
  q.durable = q.auto_delete = true;
  q.arguments = "\x00\x01"s;
  const auto read = decode_queue(encode("/", q)).value();
  CHECK(read.first == "/");
  CHECK(read.second.name == q.name);
  CHECK(read.second.durable);
  CHECK(read.second.auto_delete);
  CHECK(read.second.arguments == q.arguments);
  CHECK_FALSE(read.second.owner);
}

TEST_CASE("a binding's record gives back the binding", "[persist]") {
  for (const auto kind : {destination_kind::queue, destination_kind::exchange}) {
    const binding_definition b{{1}, "source", kind, "destination", "a.#", "\x03\x00"s, true, {}};
    const auto read = decode_binding(encode("/", b)).value();
    CHECK(read.second.source == b.source);
    CHECK(read.second.kind == kind);
    CHECK(read.second.destination == b.destination);
    CHECK(read.second.routing_key == b.routing_key);
    CHECK(read.second.arguments == b.arguments);
    CHECK(read.second.durable);
  }
}

TEST_CASE("bytes that are not a definition are an error or a definition, never a crash", "[persist]") {
  queue_definition q;
  q.name = "queue";
  q.arguments = std::string(40, 'a');
  const auto bytes = encode("/", q);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto read = decode_queue(std::span{bytes}.first(size));
    CHECK((!read || read->second.name.size() <= bytes.size()));
  }
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    auto flipped = bytes;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto read = decode_queue(flipped);
    CHECK((!read || read->second.name.size() <= bytes.size() * 8));
  }
  auto exchange = encode("/", exchange_definition{"x", exchange_type::direct, true, false, false, {}});
  for (auto& b : exchange) {
    if (b == std::byte{'d'}) b = std::byte{'e'};
  }
  const auto unknown = decode_exchange(exchange);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().code == errc::corrupted);
}
