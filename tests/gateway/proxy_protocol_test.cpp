#include "gateway/amqp091/proxy_protocol.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn::amqp091;
using namespace std::string_literals;
using namespace std::string_view_literals;
using whom = proxy_header::speaks_for;

namespace {

struct parsed {
  proxy_status status = proxy_status::incomplete;
  proxy_header header{};
  std::string_view why{};
};

parsed parse(std::string_view octets) {
  parsed out;
  out.status = parse_proxy_header(std::as_bytes(std::span{octets}), out.header, out.why);
  return out;
}

std::string block(char command, char family, std::string_view rest) {
  std::string out{proxy_block_begin};
  out += command;
  out += family;
  out += static_cast<char>(rest.size() >> 8U);
  out += static_cast<char>(rest.size());
  return out += rest;
}

const std::string v4_addresses = "\xC0\x00\x02\x07\xC6\x33\x64\x01\xDC\x04\x16\x28"s;

}  // namespace

TEST_CASE("the first version's line names the client", "[proxy_protocol]") {
  const auto v4 = parse("PROXY TCP4 192.0.2.7 198.51.100.1 56324 5672\r\nAMQP");
  REQUIRE(v4.status == proxy_status::complete);
  CHECK(v4.header.whom == whom::client);
  CHECK(to_string(v4.header.source, v4.header.source_port) == "192.0.2.7:56324");
  CHECK(v4.header.size == 46);
  const auto v6 = parse("PROXY TCP6 2001:db8::7 ::1 0 65535\r\n");
  REQUIRE(v6.status == proxy_status::complete);
  CHECK(to_string(v6.header.source, v6.header.source_port) == "[2001:db8::7]:0");
}

TEST_CASE("a proxy may say that it does not know", "[proxy_protocol]") {
  for (const auto line : {"PROXY UNKNOWN\r\n"sv, "PROXY UNKNOWN ffff::1 what ever 5\r\n"sv}) {
    const auto unknown = parse(line);
    REQUIRE(unknown.status == proxy_status::complete);
    CHECK(unknown.header.whom == whom::unknown);
    CHECK(unknown.header.size == line.size());
  }
}

TEST_CASE("the longest line is taken, and one octet more is not", "[proxy_protocol]") {
  const std::string longest = "PROXY UNKNOWN "s + std::string(91, 'x') + "\r\n";
  REQUIRE(longest.size() == proxy_line_size_max);
  CHECK(parse(longest).status == proxy_status::complete);
  CHECK(parse(longest.substr(0, 106)).status == proxy_status::incomplete);
  CHECK(parse("PROXY UNKNOWN "s + std::string(92, 'x') + "\r\n").status == proxy_status::malformed);
  CHECK(parse("PROXY TCP4 "s + std::string(5000, ' ')).status == proxy_status::malformed);
}

TEST_CASE("a line that is not exact is refused with what is wrong", "[proxy_protocol]") {
  for (const auto line :
       {"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n"sv, "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"sv,
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n"sv, "PROXY TCP4 ::1 1.2.3.4 1 1\r\n"sv,
        "PROXY TCP6 1.2.3.4 ::1 1 1\r\n"sv, "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n"sv,
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n"sv, "PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n"sv,
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n"sv, "PROXY TCP4 1.2.3.4 1.2.3.4  1 1\r\n"sv, "PROXY \r\n"sv,
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n"sv, "PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n"sv}) {
    CAPTURE(line);
    const auto wrong = parse(line);
    CHECK(wrong.status == proxy_status::malformed);
    CHECK_FALSE(wrong.why.empty());
  }
}

TEST_CASE("the second version's block names the client", "[proxy_protocol]") {
  const auto octets = block('\x21', '\x11', v4_addresses);
  const auto v4 = parse(octets + "AMQP");
  REQUIRE(v4.status == proxy_status::complete);
  CHECK(v4.header.whom == whom::client);
  CHECK(to_string(v4.header.source, v4.header.source_port) == "192.0.2.7:56324");
  CHECK(v4.header.size == octets.size());
  const std::string source = "\x20\x01\x0d\xb8"s + std::string(11, '\0') + '\x07';
  const auto v6 = parse(block('\x21', '\x21', source + std::string(16, '\0') + "\x00\x07\x16\x28"s));
  REQUIRE(v6.status == proxy_status::complete);
  CHECK(to_string(v6.header.source, v6.header.source_port) == "[2001:db8::7]:7");
}

TEST_CASE("what a block says besides the addresses is skipped", "[proxy_protocol]") {
  const auto octets = block('\x21', '\x11', v4_addresses + "\x04\x00\x03pad"s);
  CHECK(parse(octets).header.size == octets.size());
  CHECK(to_string(parse(octets).header.source) == "192.0.2.7");
}

TEST_CASE("a block of the proxy itself, or of a client without an address", "[proxy_protocol]") {
  CHECK(parse(block('\x20', '\x00', "")).header.whom == whom::nobody);
  CHECK(parse(block('\x20', '\x11', v4_addresses)).header.whom == whom::nobody);
  CHECK(parse(block('\x21', '\x00', "")).header.whom == whom::unknown);
  CHECK(parse(block('\x21', '\x31', std::string(216, 'u'))).header.whom == whom::unknown);
  CHECK(parse(block('\x21', '\x12', v4_addresses)).header.whom == whom::unknown);  // datagrams
}

TEST_CASE("every part of a header is incomplete", "[proxy_protocol]") {
  for (const auto& whole :
       {"PROXY TCP4 192.0.2.7 198.51.100.1 56324 5672\r\n"s,
        block('\x21', '\x11', v4_addresses + "\x04\x00\x03pad"s), block('\x20', '\x00', "")}) {
    REQUIRE(parse(whole).status == proxy_status::complete);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      CAPTURE(size);
      CHECK(parse(whole.substr(0, size)).status == proxy_status::incomplete);
    }
  }
}

TEST_CASE("a block that is wrong or too long is refused before it has come", "[proxy_protocol]") {
  CHECK(parse(block('\x11', '\x11', v4_addresses).substr(0, 13)).status == proxy_status::malformed);
  CHECK(parse(block('\x22', '\x11', v4_addresses)).status == proxy_status::malformed);
  CHECK(parse(block('\x21', '\x11', v4_addresses.substr(1))).status == proxy_status::malformed);
  CHECK(parse(block('\x21', '\x21', v4_addresses)).status == proxy_status::malformed);
  CHECK(parse(block('\x20', '\x00', std::string(4080, 'x'))).status == proxy_status::complete);
  CHECK(parse(block('\x20', '\x00', std::string(4081, 'x')).substr(0, 16)).status == proxy_status::malformed);
}
