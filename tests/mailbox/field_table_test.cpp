#include "mailbox/field_table.hpp"

#include <catch2/catch_test_macros.hpp>

#include <bit>
#include <cstdint>
#include <limits>
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

// Without the four octets of length.
std::string encoded(const field_table& table) {
  std::string out;
  encode_table(table, out);
  REQUIRE(big_endian::load<std::uint32_t>(bytes_of(out).data()) == out.size() - 4);
  return out.substr(4);
}

field_table decoded(std::string_view body) {
  auto table = decode_table(bytes_of(body));
  INFO((table.has_error() ? table.error().text : std::string{}));
  REQUIRE(table.has_value());
  CHECK(check_table(bytes_of(body)).has_value());
  return *std::move(table);
}

std::string refusal(std::string_view body) {
  const auto table = decode_table(bytes_of(body));
  REQUIRE(table.has_error());
  CHECK(table.error().code == errc::corrupted);
  const auto check = check_table(bytes_of(body));
  REQUIRE(check.has_error());
  CHECK(check.error() == table.error());
  return table.error().text;
}

field_value only_value(std::string_view body) {
  const auto table = decoded(body);
  REQUIRE(table.size() == 1);
  CHECK(encoded(table) == body);
  return table.begin()->second;
}

field_table one_of_each() {
  return {
      {"t", field_value::of_bool(true)},
      {"b", {'b', std::int64_t{-128}}},
      {"B", {'B', std::int64_t{255}}},
      {"s", {'s', std::int64_t{-32768}}},
      {"u", {'u', std::int64_t{65535}}},
      {"I", {'I', std::int64_t{std::numeric_limits<std::int32_t>::min()}}},
      {"i", {'i', std::int64_t{std::numeric_limits<std::uint32_t>::max()}}},
      {"l", {'l', std::numeric_limits<std::int64_t>::min()}},
      {"L", {'L', std::numeric_limits<std::int64_t>::max()}},
      {"f", {'f', 1.5F}},
      {"d", {'d', -2.25}},
      {"D", {'D', decimal{2, 31415}}},
      {"S", field_value::of_string("text")},
      {"x", field_value::of_bytes(std::string{"\0\xFF", 2})},
      {"A", field_value::of_array(
                {field_value::of_int(1), field_value::of_string("two"), field_value::nothing()})},
      {"F", field_value::of_table({{"inner", field_value::of_long(7)}})},
      {"T", field_value::of_timestamp(1700000000)},
      {"V", field_value::nothing()},
  };
}

}  // namespace

TEST_CASE("every type of the dialect round-trips byte for byte, with its letter", "[field_table]") {
  const auto table = one_of_each();
  const auto body = encoded(table);
  const auto again = decoded(body);
  CHECK(again == table);
  CHECK(encoded(again) == body);
  for (const auto& [name, value] : again) CHECK(name == std::string(1, value.type));
}

TEST_CASE("the bytes of each type are those that RabbitMQ's clients write", "[field_table]") {
  CHECK(only_value("\1kt\1"sv) == field_value::of_bool(true));
  CHECK(only_value("\1kb\xFF"sv) == field_value{'b', std::int64_t{-1}});
  CHECK(only_value("\1kB\xFF"sv) == field_value{'B', std::int64_t{255}});
  CHECK(only_value("\1ks\xFF\xFE"sv) == field_value{'s', std::int64_t{-2}});
  CHECK(only_value("\1ku\xFF\xFE"sv) == field_value{'u', std::int64_t{65534}});
  CHECK(only_value("\1kI\xFF\xFF\xFF\xFD"sv) == field_value{'I', std::int64_t{-3}});
  CHECK(only_value("\1ki\xFF\xFF\xFF\xFD"sv) == field_value{'i', std::int64_t{4294967293}});
  CHECK(only_value("\1kl\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFC"sv) == field_value{'l', std::int64_t{-4}});
  CHECK(only_value("\1kL\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFC"sv) == field_value{'L', std::int64_t{-4}});
  CHECK(only_value("\1kf\x3F\x80\0\0"sv) == field_value{'f', 1.0F});
  CHECK(only_value("\1kd\x40\x09\x21\xFB\x54\x44\x2D\x18"sv) == field_value{'d', 3.141592653589793});
  CHECK(only_value("\1kD\2\0\0\x01\x3A"sv) == field_value{'D', decimal{2, 314}});
  CHECK(only_value("\1kS\0\0\0\2hi"sv) == field_value::of_string("hi"));
  CHECK(only_value("\1kx\0\0\0\2\0\1"sv) == field_value::of_bytes(std::string{"\0\1", 2}));
  CHECK(only_value("\1kT\0\0\0\0\x65\x53\xF1\0"sv) == field_value::of_timestamp(1700000000));
}

TEST_CASE("an array holds typed values without names, a table holds named ones", "[field_table]") {
  CHECK(only_value("\1kA\0\0\0\7t\1I\0\0\0\7"sv) ==
        field_value::of_array({field_value::of_bool(true), field_value::of_int(7)}));
  CHECK(only_value("\1kF\0\0\0\4\1at\1"sv) == field_value::of_table({{"a", field_value::of_bool(true)}}));
  CHECK(only_value("\1kV"sv) == field_value::nothing());
}

TEST_CASE("the client properties of a real connection.start-ok are read", "[field_table]") {
  const auto table = decoded(
      "\x07productS\0\0\0\x04Pika"
      "\x0C"
      "capabilitiesF\0\0\0\x20"
      "\x16"
      "consumer_cancel_notifyt\1"
      "\4nackt\1"sv);
  REQUIRE(table.find("product") != nullptr);
  CHECK(as_string(*table.find("product")) == "Pika");
  const auto* capabilities = table.find("capabilities");
  REQUIRE(capabilities != nullptr);
  REQUIRE(as_table(*capabilities) != nullptr);
  CHECK(as_bool(*as_table(*capabilities)->find("consumer_cancel_notify")) == true);
}

TEST_CASE("a timestamp keeps all of its 64 bits", "[field_table]") {
  for (const std::uint64_t seconds : {std::uint64_t{0}, std::uint64_t{1} << 62U, std::uint64_t{1} << 63U,
                                      std::numeric_limits<std::uint64_t>::max()}) {
    const field_table table{{"at", field_value::of_timestamp(seconds)}};
    const auto again = decoded(encoded(table));
    CHECK(again == table);
    CHECK(to_string(*again.find("at")) == std::to_string(seconds));
  }
}

TEST_CASE("floats keep their bits, those of a signalling NaN too", "[field_table]") {
  for (const std::string_view body : {"\1kf\x7F\xA0\0\1"sv, "\1kf\xFF\xC0\xAB\xCD"sv, "\1kf\x80\0\0\0"sv,
                                      "\1kd\x7F\xF4\0\0\0\0\0\1"sv, "\1kd\x80\0\0\0\0\0\0\0"sv}) {
    const auto value = only_value(body);
    CHECK(value == only_value(body));
  }
  CHECK_FALSE(only_value("\1kf\x80\0\0\0"sv) == only_value("\1kf\0\0\0\0"sv));
}

TEST_CASE("any octet but zero is true, and leaves as it came", "[field_table]") {
  CHECK(as_bool(only_value("\1kt\2"sv)) == true);
  CHECK(as_bool(only_value("\1kt\xFF"sv)) == true);
  CHECK(as_bool(only_value("\1kt\0"sv)) == false);
  CHECK(only_value("\1kt\2"sv) == only_value("\1kt\1"sv));
}

TEST_CASE("an empty table and an empty name are fine", "[field_table]") {
  CHECK(decoded(""sv).empty());
  CHECK(encoded({}).empty());
  CHECK(decoded("\0t\1"sv).contains(""));
}

TEST_CASE("a name may stand there twice, and the first one counts", "[field_table]") {
  const auto table = decoded("\1kB\1\1kB\2"sv);
  CHECK(table.size() == 2);
  CHECK(as_integer(*table.find("k")) == 1);
  CHECK(encoded(table) == "\1kB\1\1kB\2"sv);
}

TEST_CASE("an unknown type letter is refused by name", "[field_table]") {
  CHECK(refusal("\1kU\0"sv) == "field table: the value of 'k' has the unknown type 85");
  CHECK(refusal("\1kA\0\0\0\1\0"sv) == "field table: an array's element has the unknown type 0");
  for (int letter = 0; letter < 256; ++letter) {
    // Sixteen zeros are room for any value; what is left of them may be wrong, but not the type.
    const auto body = std::string{"\1k"} + static_cast<char>(letter) + std::string(16, '\0');
    const auto table = decode_table(bytes_of(body));
    const bool known = !type_name(static_cast<char>(letter)).empty();
    const bool refused_type =
        table.has_error() &&
        table.error().text.find("unknown type " + std::to_string(letter)) != std::string::npos;
    CHECK(refused_type == !known);
  }
}

TEST_CASE("a table cut short at any octet is refused or a whole smaller table", "[field_table]") {
  const auto body = encoded(one_of_each());
  std::size_t whole = 0;
  for (std::size_t size = 0; size < body.size(); ++size) {
    const auto cut = body.substr(0, size);
    const auto table = decode_table(bytes_of(cut));
    CHECK(table.has_value() == check_table(bytes_of(cut)).has_value());
    if (table.has_value()) {
      ++whole;
      CHECK(encoded(*table) == cut);
    } else {
      CHECK_FALSE(table.error().text.empty());
    }
  }
  CHECK(whole == one_of_each().size());
}

TEST_CASE("a length that reaches beyond the table is refused, whatever it claims", "[field_table]") {
  CHECK(refusal("\1kS\0\0\0\3hi"sv) ==
        "field table: a value of 3 octets is cut short, 2 are left, at or after 'k'");
  for (const char letter : {'S', 'x', 'A', 'F'}) {
    refusal(std::string{"\1k"} + letter + std::string{"\xFF\xFF\xFF\xFF"});
    refusal(std::string{"\1k"} + letter + std::string{"\x7F\xFF\xFF\xFFzz"});
  }
  refusal("\xFFk"sv);
  // The inner table may not borrow from the outer one.
  refusal("\1kF\0\0\0\2\1at\1"sv);
}

TEST_CASE("nesting is allowed up to a limit, and refused beyond it without deep recursion", "[field_table]") {
  const auto nested = [](int levels, bool arrays) {
    field_table table;
    for (int i = 1; i < levels; ++i) {
      if (arrays) {
        field_array array;
        array.push_back(field_value::of_table(std::move(table)));
        table = {{"k", field_value::of_array(std::move(array))}};
        ++i;
      } else {
        table = {{"k", field_value::of_table(std::move(table))}};
      }
    }
    return table;
  };
  CHECK(decoded(encoded(nested(field_depth_max, false))) == nested(field_depth_max, false));
  CHECK(refusal(encoded(nested(field_depth_max + 1, false))) ==
        "field table: tables and arrays are nested deeper than 64 levels");
  CHECK(refusal(encoded(nested(field_depth_max + 2, true))) ==
        "field table: tables and arrays are nested deeper than 64 levels");

  // Half a megabyte of nothing but opening brackets.
  std::string deep;
  for (std::uint32_t left = 500'000; left > 5; left -= 5) {
    deep += 'A';
    big_endian::append(deep, left - 5);
  }
  std::string body{"\1kA"};
  big_endian::append(body, static_cast<std::uint32_t>(deep.size()));
  body += deep;
  CHECK(decode_table(bytes_of(body)).has_error());
  CHECK(check_table(bytes_of(body)).has_error());
}

TEST_CASE("values of the same number but of another type are not the same", "[field_table]") {
  CHECK_FALSE(field_value::of_int(1) == field_value::of_long(1));
  CHECK_FALSE(field_value{'l', std::int64_t{1}} == field_value{'L', std::int64_t{1}});
  CHECK_FALSE(field_value::of_string("a") == field_value::of_bytes("a"));
  CHECK(as_integer(field_value::of_int(1)) == as_integer(field_value::of_long(1)));
}

TEST_CASE("helpers give a value only for a type that has it", "[field_table]") {
  CHECK(as_integer(field_value::of_timestamp(1)) == std::nullopt);
  CHECK(as_integer(field_value::of_bool(true)) == std::nullopt);
  CHECK(as_integer(field_value::of_string("1")) == std::nullopt);
  CHECK(as_string(field_value::of_int(1)) == std::nullopt);
  CHECK(as_string(field_value::of_bytes("raw")) == "raw");
  CHECK(as_bool(field_value::of_int(1)) == std::nullopt);
  CHECK(as_table(field_value::of_int(1)) == nullptr);
  CHECK(as_array(field_value::of_int(1)) == nullptr);
}

TEST_CASE("entries are replaced, removed and sorted by name", "[field_table]") {
  field_table table{
      {"b", field_value::of_int(1)}, {"a", field_value::of_int(2)}, {"b", field_value::of_int(3)}};
  table.set("b", field_value::of_int(4));
  table.set("c", field_value::of_int(5));
  CHECK(to_string(table) == "{b: 4, a: 2, b: 3, c: 5}");
  CHECK(to_string(table.sorted()) == "{a: 2, b: 4, b: 3, c: 5}");
  CHECK(table.erase("b"));
  CHECK_FALSE(table.erase("b"));
  CHECK(to_string(table) == "{a: 2, c: 5}");
  CHECK(table == table.sorted());
  CHECK_FALSE(field_table{} == table);
}

TEST_CASE("types are called as RabbitMQ calls them, and values are printed", "[field_table]") {
  CHECK(type_name('I') == "signedint");
  CHECK(type_name('S') == "longstr");
  CHECK(type_name('L') == "long");
  CHECK(type_name('U').empty());
  CHECK(to_string(field_value::of_long(-5)) == "-5");
  CHECK(to_string(field_value::of_bool(false)) == "false");
  CHECK(to_string(field_value{'f', 1.5F}) == "1.5");
  CHECK(to_string(field_value{'D', decimal{2, 314}}) == "314e-2");
  CHECK(to_string(field_value::nothing()) == "undefined");
  CHECK(to_string(field_value::of_array({field_value::of_int(1), field_value::of_string("x")})) == "[1,x]");
}

TEST_CASE("what cannot be sent is a bug of whoever encodes it", "[field_table]") {
  std::string out;
  CHECK_THROWS_AS(encode_table({{std::string(256, 'n'), field_value::nothing()}}, out), std::logic_error);
  CHECK_THROWS_AS(encode_table({{"k", {'s', std::int64_t{32768}}}}, out), std::logic_error);
  CHECK_THROWS_AS(encode_table({{"k", {'B', std::int64_t{-1}}}}, out), std::logic_error);
  CHECK_THROWS_AS(encode_table({{"k", {'S', std::int64_t{1}}}}, out), std::logic_error);
  CHECK_THROWS_AS(encode_table({{"k", {'U', std::int64_t{1}}}}, out), std::logic_error);
  CHECK_NOTHROW(encode_table({{std::string(255, 'n'), field_value::nothing()}}, out));
}
