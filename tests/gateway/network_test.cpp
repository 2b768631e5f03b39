#include "gateway/amqp091/network.hpp"

#include <catch2/catch_test_macros.hpp>

using namespace posthorn::amqp091;

namespace {

ip_address address(std::string_view text) {
  const auto parsed = parse_ip_address(text);
  REQUIRE(parsed.has_value());
  return *parsed;
}

bool is_in(std::string_view network, std::string_view candidate) {
  const auto parsed = parse_network(network);
  REQUIRE(parsed.has_value());
  return parsed->contains(address(candidate));
}

}  // namespace

TEST_CASE("an IPv4 address is the same seen through IPv6", "[network]") {
  CHECK(address("127.0.0.1") == address("::ffff:127.0.0.1"));
  CHECK(to_string(address("::ffff:10.1.2.3")) == "10.1.2.3");
  CHECK(to_string(address("10.1.2.3"), 5672) == "10.1.2.3:5672");
  CHECK(to_string(address("FD00::0001"), 1) == "[fd00::1]:1");
}

TEST_CASE("this machine is 127.0.0.0/8 and ::1", "[network]") {
  for (const auto* here : {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"}) {
    CHECK(address(here).is_loopback());
  }
  for (const auto* elsewhere : {"128.0.0.1", "126.255.255.255", "::2", "::", "0.0.0.0", "::127.0.0.1"}) {
    CHECK_FALSE(address(elsewhere).is_loopback());
  }
}

TEST_CASE("what is no address is none", "[network]") {
  using namespace std::string_view_literals;
  for (const auto wrong :
       {""sv, "localhost"sv, "1.2.3"sv, "1.2.3.256"sv, "1.2.3.4 "sv, "01.2.3.4"sv, "[::1]"sv, "::1%lo"sv,
        "1.2.3.4\0"sv, "1:2:3:4:5:6:7:8:9"sv, "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000"sv}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_ip_address(wrong).has_value());
  }
}

TEST_CASE("a network holds the addresses that share its prefix", "[network]") {
  CHECK(is_in("10.0.0.0/8", "10.255.0.1"));
  CHECK(is_in("10.0.0.0/8", "::ffff:10.0.0.1"));
  CHECK_FALSE(is_in("10.0.0.0/8", "11.0.0.0"));
  CHECK(is_in("192.168.1.129/25", "192.168.1.254"));
  CHECK_FALSE(is_in("192.168.1.129/25", "192.168.1.127"));
  CHECK(is_in("192.168.1.7", "192.168.1.7"));
  CHECK_FALSE(is_in("192.168.1.7", "192.168.1.6"));
  CHECK(is_in("fd00::/9", "fd7f::1"));
  CHECK_FALSE(is_in("fd00::/9", "fd80::1"));
  CHECK(is_in("::/0", "10.0.0.1"));
  // All of IPv4, and nothing else.
  CHECK(is_in("0.0.0.0/0", "10.0.0.1"));
  CHECK_FALSE(is_in("0.0.0.0/0", "fd00::1"));
}

TEST_CASE("networks are written as they are read", "[network]") {
  const auto parsed = parse_networks("10.1.2.3/8,  ::1 , fd00::/8");
  REQUIRE(parsed.has_value());
  CHECK(to_string(*parsed) == "10.0.0.0/8, ::1, fd00::/8");
  CHECK(parse_networks(to_string(*parsed)) == parsed);
  CHECK(contains(*parsed, address("10.9.9.9")));
  CHECK_FALSE(contains(*parsed, address("127.0.0.1")));
  REQUIRE(parse_networks("none").has_value());
  CHECK(parse_networks("none")->empty());
  CHECK(to_string(std::vector<network>{}) == "none");
  for (const auto* wrong : {"", ",", "10.0.0.0/8,", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0.0/-1",
                            "all", "10.0.0.0/8/8", "10.0.0.0/ 8"}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_networks(wrong).has_value());
  }
}
