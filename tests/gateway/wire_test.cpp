#include "gateway/amqp091/wire.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

using namespace posthorn;
using namespace posthorn::amqp091;
using namespace std::string_view_literals;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

TEST_CASE("numbers travel with their most significant octet first", "[wire]") {
  std::string out;
  writer to{out};
  to.octet(0x01);
  to.short_(0x0203);
  to.long_(0x04050607);
  to.longlong(0x08090A0B0C0D0E0F);
  CHECK(out == "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0A\x0B\x0C\x0D\x0E\x0F"sv);
  reader in{bytes_of(out)};
  CHECK(in.octet() == 0x01);
  CHECK(in.short_() == 0x0203);
  CHECK(in.long_() == 0x04050607);
  CHECK(in.longlong() == 0x08090A0B0C0D0E0F);
  CHECK(in.done());
}

TEST_CASE("strings and tables travel with their length before them", "[wire]") {
  std::string out;
  writer to{out};
  to.shortstr("hi");
  to.longstr("there");
  to.table(bytes_of("\1kV"sv));
  to.shortstr("");
  CHECK(out == "\2hi\0\0\0\5there\0\0\0\3\1kV\0"sv);
  reader in{bytes_of(out)};
  CHECK(in.shortstr() == "hi");
  CHECK(in.longstr() == "there");
  CHECK(text_of(in.table()) == "\1kV");
  CHECK(in.shortstr().empty());
  CHECK(in.done());
}

TEST_CASE("a string that was read is a view of the bytes that were given", "[wire]") {
  const std::string raw = "\3abc";
  reader in{bytes_of(raw)};
  CHECK(in.shortstr().data() == raw.data() + 1);
}

TEST_CASE("bits share an octet, the lowest first", "[wire]") {
  std::string out;
  writer to{out};
  to.bits(true, false, true);
  CHECK(out == "\5"sv);
  bool a = false;
  bool b = true;
  bool c = false;
  reader in{bytes_of("\xFD"sv)};
  in.bits(a, b, c);
  CHECK((a && !b && c));
  CHECK(in.done());
}

TEST_CASE("a failure sticks, and all that is read after it is nothing", "[wire]") {
  reader in{bytes_of("\1\2\3"sv)};
  CHECK(in.long_() == 0);
  CHECK(in.failed());
  CHECK(in.octet() == 0);
  CHECK(in.shortstr().empty());
  CHECK(in.table().empty());
  CHECK(in.failed());
  CHECK_FALSE(in.done());
  CHECK(in.left() == 0);
}

TEST_CASE("a length beyond the end fails, whatever it claims", "[wire]") {
  for (const auto raw : {"\3ab"sv, "\xFF"sv}) {
    reader in{bytes_of(raw)};
    CHECK(in.shortstr().empty());
    CHECK(in.failed());
  }
  for (const auto raw : {"\0\0\0\3ab"sv, "\xFF\xFF\xFF\xFF"sv, "\x7F\xFF\xFF\xFF..."sv, "\0\0\0"sv}) {
    reader strings{bytes_of(raw)};
    CHECK(strings.longstr().empty());
    CHECK(strings.failed());
    reader tables{bytes_of(raw)};
    CHECK(tables.table().empty());
    CHECK(tables.failed());
  }
}

TEST_CASE("an empty reader is done, and fails at the first octet", "[wire]") {
  reader in{{}};
  CHECK(in.done());
  in.octet();
  CHECK(in.failed());
}

TEST_CASE("a frame's length is filled in when it ends, wherever it begins in the buffer", "[wire]") {
  std::string out = "before";
  writer to{out};
  to.begin_method(0x0102, 20, 10);
  to.shortstr("");
  to.end_frame();
  CHECK(out == "before\1\1\2\0\0\0\5\0\x14\0\x0A\0\xCE"sv);
}

TEST_CASE("a string too long for its length is a bug of whoever writes it", "[wire]") {
  std::string out;
  writer to{out};
  CHECK_THROWS_AS(to.shortstr(std::string(256, 'x')), std::logic_error);
  CHECK_NOTHROW(to.shortstr(std::string(255, 'x')));
}

TEST_CASE("well-formed UTF-8 is told from everything else", "[wire]") {
  CHECK(is_utf8(""));
  CHECK(is_utf8("plain"));
  CHECK(is_utf8("caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x90\xB0"));
  CHECK(is_utf8("\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF"));
  CHECK(is_utf8("\0"sv));
  CHECK_FALSE(is_utf8("\x80"));              // continues nothing
  CHECK_FALSE(is_utf8("\xC3"));              // cut short
  CHECK_FALSE(is_utf8("\xE2\x82"));          // cut short
  CHECK_FALSE(is_utf8("\xC3("));             // not continued
  CHECK_FALSE(is_utf8("\xC0\xAF"));          // overlong
  CHECK_FALSE(is_utf8("\xE0\x80\xAF"));      // overlong
  CHECK_FALSE(is_utf8("\xF0\x80\x80\xAF"));  // overlong
  CHECK_FALSE(is_utf8("\xED\xA0\x80"));      // a surrogate
  CHECK_FALSE(is_utf8("\xF4\x90\x80\x80"));  // beyond Unicode
  CHECK_FALSE(is_utf8("\xFF"));
}
