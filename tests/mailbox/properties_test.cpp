#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

using namespace posthorn;
using namespace std::string_view_literals;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string encoded(const basic_properties& properties) {
  std::string out;
  encode_properties(properties, out);
  return out;
}

basic_properties all_of_them() {
  basic_properties p;
  p.content_type = "text/plain";
  p.content_encoding = "gzip";
  p.headers = field_table{{"x-match", field_value::of_string("all")}, {"n", field_value::of_int(3)}};
  p.delivery_mode = std::uint8_t{2};
  p.priority = std::uint8_t{9};
  p.correlation_id = "c-1";
  p.reply_to = "amq.rabbitmq.reply-to";
  p.expiration = "60000";
  p.message_id = "m-1";
  p.timestamp = 0xFFFFFFFFFFFFFFFFULL;
  p.type = "order";
  p.user_id = "guest";
  p.app_id = "shop";
  p.cluster_id = "";
  return p;
}

// Bit i of `chosen` keeps the property i.
basic_properties some_of_them(unsigned chosen) {
  auto p = all_of_them();
  const auto keep = [chosen](property which, auto& value) {
    if (((chosen >> static_cast<unsigned>(which)) & 1U) == 0) value.reset();
  };
  keep(property::content_type, p.content_type);
  keep(property::content_encoding, p.content_encoding);
  keep(property::headers, p.headers);
  keep(property::delivery_mode, p.delivery_mode);
  keep(property::priority, p.priority);
  keep(property::correlation_id, p.correlation_id);
  keep(property::reply_to, p.reply_to);
  keep(property::expiration, p.expiration);
  keep(property::message_id, p.message_id);
  keep(property::timestamp, p.timestamp);
  keep(property::type, p.type);
  keep(property::user_id, p.user_id);
  keep(property::app_id, p.app_id);
  keep(property::cluster_id, p.cluster_id);
  return p;
}

}  // namespace

TEST_CASE("the properties that a persistent message usually has are the bytes that clients write",
          "[properties]") {
  basic_properties p;
  p.delivery_mode = std::uint8_t{2};
  CHECK(encoded(p) == "\x10\0\2"sv);
  p.content_type = "text/plain";
  CHECK(encoded(p) == "\x90\0\x0Atext/plain\2"sv);
  CHECK(delivery_mode_of(bytes_of("\x90\0\x0Atext/plain\2"sv)) == 2);
}

TEST_CASE("every subset of the properties round-trips, and the looks agree with the decoder",
          "[properties]") {
  std::size_t wrong = 0;
  for (unsigned chosen = 0; chosen < (1U << property_count); ++chosen) {
    const auto wanted = some_of_them(chosen);
    const auto raw = encoded(wanted);
    const auto bytes = bytes_of(raw);
    const auto found = decode_properties(bytes);
    if (!check_properties(bytes) || !found || !(*found == wanted) || encoded(*found) != raw) {
      ++wrong;
      continue;
    }
    std::string headers;
    if (wanted.headers) encode_table(*wanted.headers, headers);
    const auto looked = headers_of(bytes);
    const bool same_headers = std::string_view{reinterpret_cast<const char*>(looked.data()), looked.size()} ==
                              (headers.empty() ? ""sv : std::string_view{headers}.substr(4));
    if (!same_headers || delivery_mode_of(bytes) != wanted.delivery_mode.value_or(0) ||
        priority_of(bytes) != wanted.priority || expiration_of(bytes) != wanted.expiration ||
        message_id_of(bytes) != wanted.message_id || correlation_id_of(bytes) != wanted.correlation_id ||
        reply_to_of(bytes) != wanted.reply_to || user_id_of(bytes) != wanted.user_id ||
        text_property(bytes, property::content_type) != wanted.content_type ||
        text_property(bytes, property::cluster_id) != wanted.cluster_id) {
      ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("no bytes at all are no properties", "[properties]") {
  CHECK(check_properties({}).has_value());
  CHECK(decode_properties({}).value() == basic_properties{});
  CHECK(encoded({}) == "\0\0"sv);
  CHECK(delivery_mode_of({}) == 0);
  CHECK(headers_of({}).empty());
}

TEST_CASE("properties cut short at any octet are refused, and looking into them is safe", "[properties]") {
  const auto whole = encoded(all_of_them());
  for (std::size_t size = 1; size < whole.size(); ++size) {
    // A copy of its own, so that a sanitizer sees a read behind it.
    const std::string cut = whole.substr(0, size);
    const auto bytes = bytes_of(cut);
    CHECK(check_properties(bytes).has_error());
    CHECK(decode_properties(bytes).has_error());
    for (unsigned i = 0; i < property_count; ++i) (void)text_property(bytes, static_cast<property>(i));
    (void)headers_of(bytes);
    (void)priority_of(bytes);
    (void)delivery_mode_of(bytes);
  }
}

TEST_CASE("octets behind the properties are refused", "[properties]") {
  CHECK(check_properties(bytes_of("\x10\0\2\0"sv)).has_error());
  CHECK(check_properties(bytes_of("\0\0\0"sv)).has_error());
}

TEST_CASE("a flag that names no property is refused, and so are more flags", "[properties]") {
  CHECK(check_properties(bytes_of("\0\1\0\0"sv)).error().text ==
        "message properties: the flags 1 name a property that there is not");
  CHECK(check_properties(bytes_of("\0\2"sv)).has_error());
}

TEST_CASE("a headers table longer than the properties is refused before it is looked into", "[properties]") {
  CHECK(check_properties(bytes_of("\x20\0\xFF\xFF\xFF\xFF"sv)).has_error());
  CHECK(headers_of(bytes_of("\x20\0\xFF\xFF\xFF\xFF"sv)).empty());
  // Inside, it may be anything until it is decoded.
  CHECK(check_properties(bytes_of("\x20\0\0\0\0\4\1kU\0"sv)).has_value());
  CHECK(decode_properties(bytes_of("\x20\0\0\0\0\4\1kU\0"sv)).error().text ==
        "field table: the value of 'k' has the unknown type 85");
}

TEST_CASE("one scan finds all the properties", "[properties]") {
  const auto raw = encoded(all_of_them());
  const auto offsets = property_offsets::scan(bytes_of(raw));
  REQUIRE(offsets.has_value());
  CHECK(offsets->has(property::timestamp));
  CHECK(offsets->value(bytes_of(raw), property::timestamp).size() == 8);
  CHECK(offsets->text(bytes_of(raw), property::app_id) == "shop");
  CHECK(offsets->text(bytes_of(raw), property::cluster_id) == "");
  const auto none = property_offsets::scan(bytes_of("\0\0"sv));
  REQUIRE(none.has_value());
  CHECK(none->text(bytes_of("\0\0"sv), property::app_id) == std::nullopt);
  CHECK(none->value(bytes_of("\0\0"sv), property::headers).empty());
}

TEST_CASE("text too long for a property is a bug of whoever encodes it", "[properties]") {
  basic_properties p;
  p.message_id = std::string(256, 'm');
  CHECK_THROWS_AS(encoded(p), std::logic_error);
  p.message_id = std::string(255, 'm');
  CHECK(encoded(p).size() == 2 + 1 + 255);
}

TEST_CASE("every subset of the properties can be written with other headers and without its expiration",
          "[properties]") {
  const field_table headers{{"x-death", field_value::of_array({})}};
  std::size_t wrong = 0;
  for (unsigned chosen = 0; chosen < (1U << property_count); ++chosen) {
    const auto from = some_of_them(chosen);
    const auto raw = encoded(from);
    std::string same = "before";
    std::string changed = "before";
    auto wanted = from;
    wanted.headers = headers;
    wanted.expiration.reset();
    if (!rewrite_properties(bytes_of(raw), {}, same) || same != "before" + raw) ++wrong;
    if (!rewrite_properties(bytes_of(raw), {.headers = &headers, .without_expiration = true}, changed) ||
        changed != "before" + encoded(wanted)) {
      ++wrong;
    }
  }
  CHECK(wrong == 0);
  std::string out;
  CHECK(rewrite_properties({}, {.headers = &headers, .without_expiration = true}, out).has_value());
  CHECK(headers_of(bytes_of(out)).size() == 13);
}

TEST_CASE("properties that are damaged are not written anew", "[properties]") {
  const auto whole = encoded(all_of_them());
  for (std::size_t size = 1; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);
    std::string out = "before";
    CHECK(
        rewrite_properties(bytes_of(cut), {.headers = nullptr, .without_expiration = true}, out).has_error());
    CHECK(out == "before");
  }
}
