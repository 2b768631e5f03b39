#include "gateway/http/authorization.hpp"

#include <catch2/catch_test_macros.hpp>

using namespace posthorn::http;

TEST_CASE("basic authorization carries a user and a password", "[http]") {
  CHECK(parse_basic_authorization("Basic Z3Vlc3Q6Z3Vlc3Q=") == credentials{"guest", "guest"});
  CHECK(parse_basic_authorization("basic  Z3Vlc3Q6Z3Vlc3Q=") == credentials{"guest", "guest"});
  CHECK(parse_basic_authorization("Basic YTpiOmM=") == credentials{"a", "b:c"});
  CHECK(parse_basic_authorization("Basic Og==") == credentials{"", ""});
}

TEST_CASE("what is not basic authorization is none", "[http]") {
  for (const auto* bad : {"", "Basic", "Basic ", "Basic Z3Vlc3Q=", "Basic Z3Vlc3Q6Z3Vlc3Q",
                          "Basic Z3Vlc3Q6Z3V*c3Q=", "Bearer Z3Vlc3Q6Z3Vlc3Q=", "BasicZ3Vlc3Q6Z3Vlc3Q="}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_basic_authorization(bad).has_value());
  }
}

TEST_CASE("what is written as basic authorization is read as the same", "[http]") {
  CHECK(basic_authorization({"guest", "guest"}) == "Basic Z3Vlc3Q6Z3Vlc3Q=");
  std::string password;
  for (int octet = 0; octet < 256; ++octet) {
    password.push_back(static_cast<char>(octet));
    const credentials who{"user", password};
    CHECK(parse_basic_authorization(basic_authorization(who)) == who);
  }
}

TEST_CASE("loopback is recognised also as IPv4 mapped into IPv6", "[http]") {
  const auto address = [](const char* text) { return boost::asio::ip::make_address(text); };
  CHECK(is_loopback(address("127.0.0.1")));
  CHECK(is_loopback(address("127.1.2.3")));
  CHECK(is_loopback(address("::1")));
  CHECK(is_loopback(address("::ffff:127.0.0.1")));
  CHECK_FALSE(is_loopback(address("::ffff:10.0.0.1")));
  CHECK_FALSE(is_loopback(address("10.0.0.1")));
  CHECK_FALSE(is_loopback(address("::")));
  CHECK_FALSE(is_loopback(address("fe80::1")));
}
