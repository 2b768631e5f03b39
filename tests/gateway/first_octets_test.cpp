#include "gateway/amqp091/first_octets.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string_view>

using namespace posthorn::amqp091;
using namespace std::string_view_literals;

namespace {

spoken of(std::string_view octets) { return recognise(std::as_bytes(std::span{octets})); }

}  // namespace

TEST_CASE("what a client speaks is seen from its first octets", "[first_octets]") {
  CHECK(of("AMQP\0\0\x09\x01"sv) == spoken::amqp);
  CHECK(of("\x16\x03\x01\x02\x00\x01"sv) == spoken::tls);
  CHECK(of("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n") == spoken::proxy);
  CHECK(of("\r\n\r\n\0\r\nQUIT\n\x21\x11"sv) == spoken::proxy);
  for (const auto method : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    CHECK(of(std::string{method} + " / HTTP/1.1\r\n") == spoken::http);
  }
}

TEST_CASE("the first octet is enough where only one thing begins so", "[first_octets]") {
  CHECK(of("A") == spoken::amqp);
  CHECK(of("X") == spoken::unknown);
  CHECK(of("\x80") == spoken::unknown);
}

TEST_CASE("what may still become several things waits for more", "[first_octets]") {
  CHECK(of("") == spoken::incomplete);
  CHECK(of("P") == spoken::incomplete);
  CHECK(of("PROXY") == spoken::incomplete);
  CHECK(of("PO") == spoken::incomplete);
  CHECK(of("\x16") == spoken::incomplete);
  CHECK(of("\r\n\r\n\0\r\nQUIT"sv) == spoken::incomplete);
}

TEST_CASE("what begins as something and goes on otherwise is unknown", "[first_octets]") {
  for (const auto octets : {"\x16\x02"sv, "PROXYx"sv, "GET/"sv, "get / "sv, "BREW / "sv, "\r\n\r\n\r\n"sv,
                            "PRI * HTTP/2.0"sv, "\0\0\0\0"sv}) {
    CAPTURE(octets);
    CHECK(of(octets) == spoken::unknown);
  }
}
