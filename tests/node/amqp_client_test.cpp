#include "node/load/amqp_client.hpp"

#include <catch2/catch_test_macros.hpp>

using namespace posthorn;

TEST_CASE("an AMQP URI names host, port, user and virtual host, all optional", "[amqp_client]") {
  const auto parsed = [](const char* uri) { return parse_amqp_uri(uri).value(); };
  CHECK(parsed("amqp://").host == "127.0.0.1");
  CHECK(parsed("amqp://").port == "5672");
  CHECK(parsed("amqp://").vhost == "/");
  CHECK(parsed("amqp://rabbit:5673").host == "rabbit");
  CHECK(parsed("amqp://rabbit:5673").port == "5673");
  CHECK(parsed("amqp://rabbit").port == "5672");
  CHECK(parsed("amqp://[::1]:5673/").host == "::1");
  CHECK(parsed("amqp://[::1]").host == "::1");
  const auto all = parsed("amqp://me%40home:p%2Fw@host:1/a%2Fb");
  CHECK(all.user == "me@home");
  CHECK(all.password == "p/w");
  CHECK(all.vhost == "a/b");
  CHECK(parsed("amqp://me@host").user == "me");
  for (const auto* bad :
       {"host", "http://host", "amqps://host", "amqp://host:x", "amqp://host/%2", "amqp://a%zz@host"}) {
    CAPTURE(bad);
    CHECK(parse_amqp_uri(bad).has_error());
  }
}
