// Numbers in brackets are those of docs/amqp.md. The answers are those of RabbitMQ 4.3.6.
#include "mailbox/expiration.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;

TEST_CASE("an expiration is a whole number of milliseconds [29]", "[expiration]") {
  for (const auto* valid : {"0", "00", "5", "+5", "-0", "007", "315360000000"}) {
    CAPTURE(valid);
    CHECK_FALSE(invalid_expiration(valid));
  }
  const auto why = [](const std::string& text) {
    const auto said = invalid_expiration(text).value_or("");
    const auto start = "invalid expiration '" + text + "': ";
    REQUIRE(said.find(start) == 0);
    return said.substr(start.size());
  };
  for (const auto* none : {"", "abc", " 5", "+", "-", "+-1", "é"}) {
    CAPTURE(none);
    CHECK(why(none) == "no_integer");
  }
  CHECK(why("10s") == "{leftover_string,\"s\"}");
  CHECK(why("1.5") == "{leftover_string,\".5\"}");
  CHECK(why("5 ") == "{leftover_string,\" \"}");
  CHECK(why("5\n") == R"({leftover_string,"\n"})");
  CHECK(why("10\"s") == R"({leftover_string,"\"s"})");
  CHECK(why("1é") == "{leftover_string,\"Ã©\"}");
  CHECK(why("2\x01") == "{leftover_string,[1]}");
  CHECK(why("-5x") == "{leftover_string,\"x\"}");
  CHECK(why("-1") == "{value_negative,-1}");
  CHECK(why("-007") == "{value_negative,-7}");
  CHECK(why("-99999999999999999999") == "{value_negative,-99999999999999999999}");
  CHECK(why("315360000001") == "{value_too_large,315360000001}");
  CHECK(why("99999999999999999999999") == "{value_too_large,99999999999999999999999}");
}
