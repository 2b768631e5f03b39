#include "mailbox/delivered_properties.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <optional>
#include <span>
#include <string>

using namespace posthorn;

namespace {

std::string encoded(const std::optional<field_table>& headers) {
  basic_properties p;
  p.content_type = "text/plain";
  p.headers = headers;
  p.priority = std::uint8_t{3};
  std::string out;
  encode_properties(p, out);
  return out;
}

std::optional<std::string> delivered(const std::optional<field_table>& headers, std::uint16_t returns,
                                     std::uint16_t attempts) {
  const auto properties = encoded(headers);
  return delivered_properties(std::as_bytes(std::span{properties}), returns, attempts);
}

const field_value keys = field_value::of_array({field_value::of_string("k")});

}  // namespace

TEST_CASE("what nobody has to change goes out as it came", "[delivered_properties]") {
  CHECK_FALSE(delivered(std::nullopt, 0, 0));
  CHECK_FALSE(delivered(std::nullopt, 0, 2));
  CHECK_FALSE(delivered(field_table{{"CC", keys}, {"x-delivery-count", field_value::of_long(7)}}, 0, 7));
}

TEST_CASE("31: BCC is for nobody's eyes", "[delivered_properties]") {
  CHECK(delivered(field_table{{"BCC", keys}, {"CC", keys}}, 0, 0) == encoded(field_table{{"CC", keys}}));
  CHECK(delivered(field_table{{"BCC", keys}}, 0, 0) == encoded(field_table{}));
  CHECK(delivered(field_table{{"BCC", keys}}, 1, 0) ==
        encoded(field_table{{"x-acquired-count", field_value::of_long(1)}}));
}

TEST_CASE("48: what came back says how often, behind the headers of its own", "[delivered_properties]") {
  CHECK(delivered(std::nullopt, 1, 0) == encoded(field_table{{"x-acquired-count", field_value::of_long(1)}}));
  CHECK(delivered(field_table{{"mine", keys}}, 4, 3) ==
        encoded(field_table{{"mine", keys},
                            {"x-acquired-count", field_value::of_long(4)},
                            {"x-delivery-count", field_value::of_long(3)}}));
  // What an earlier queue had said does not count any more.
  CHECK(delivered(field_table{{"x-delivery-count", field_value::of_long(9)}, {"mine", keys}}, 2, 1) ==
        encoded(field_table{{"mine", keys},
                            {"x-acquired-count", field_value::of_long(2)},
                            {"x-delivery-count", field_value::of_long(1)}}));
}

TEST_CASE("headers that cannot be read are left alone", "[delivered_properties]") {
  const std::string unreadable{"\x20\0\0\0\0\4\1kU\0", 10};
  CHECK_FALSE(delivered_properties(std::as_bytes(std::span{unreadable}), 3, 3));
}
