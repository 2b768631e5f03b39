// The texts are those of RabbitMQ 4.3.6. Numbers in brackets are those of docs/amqp.md.
#include "access/limits.hpp"

#include "access/json_term.hpp"
#include "tests/mailbox/printed_result.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;

namespace {

namespace json = boost::json;
using kind = refusal::kind;

std::string vhost_complaint(const char* text) {
  const auto read = vhost_limits_of(json::parse(text));
  return read ? "" : read.error().text;
}

std::string user_complaint(const char* text) {
  const auto read = user_limits_of(json::parse(text));
  return read ? "" : read.error().text;
}

}  // namespace

TEST_CASE("a virtual host has no more connections than it may [70]", "[access]") {
  CHECK_FALSE(check_connection(vhost_limits{}, 1'000'000, "v", "u"));
  const vhost_limits one{.connections_max = 1};
  CHECK_FALSE(check_connection(one, 0, "v", "u"));
  CHECK(check_connection(one, 1, "v", "u") ==
        refusal{kind::not_allowed,
                "access to vhost 'v' refused for user 'u': connection limit (1) is reached"});
  CHECK(check_connection(one, 2, "v", "u"));
}

TEST_CASE("0 allows none at all, and a negative limit is none", "[access]") {
  CHECK(check_connection(vhost_limits{.connections_max = 0}, 0, "v", "u")->text ==
        "access to vhost 'v' refused for user 'u': connection limit (0) is reached");
  CHECK_FALSE(check_connection(vhost_limits{.connections_max = -1}, 5, "v", "u"));
  CHECK_FALSE(check_queue(vhost_limits{.queues_max = -7}, 5, "q", "v"));
  CHECK(check_queue(vhost_limits{.queues_max = 0}, 0, "q", "v"));
  CHECK_FALSE(check_channel(user_limits{.channels_max = -1}, 5, "u"));
}

TEST_CASE("a user has no more connections and channels than it may [70] [72]", "[access]") {
  const user_limits limits{.connections_max = 0, .channels_max = 1};
  CHECK(check_connection(limits, 0, "u") ==
        refusal{kind::not_allowed, "connection refused for user 'u': user connection limit (0) is reached"});
  CHECK_FALSE(check_channel(limits, 0, "u"));
  CHECK(check_channel(limits, 1, "u") ==
        refusal{kind::not_allowed,
                "number of channels opened for user 'u' has reached the maximum allowed user limit of 1"});
}

TEST_CASE("a virtual host has no more queues than it may [19]", "[access]") {
  const vhost_limits limits{.queues_max = 2};
  CHECK_FALSE(check_queue(limits, 1, "q", "v"));
  CHECK(check_queue(limits, 2, "q", "v") ==
        refusal{kind::precondition_failed,
                "cannot declare queue 'q': queue limit in vhost 'v' (2) is reached"});
  CHECK_FALSE(check_cluster_queue(std::nullopt, 2, "q"));
  CHECK(
      check_cluster_queue(2, 2, "q") ==
      refusal{kind::precondition_failed, "cannot declare queue 'q': queue limit in cluster (2) is reached"});
}

TEST_CASE("a node has limits of its own", "[access]") {
  CHECK_FALSE(check_node_connection(std::nullopt, 5));
  CHECK(check_node_connection(5, 5) ==
        refusal{kind::not_allowed, "connection refused: node connection limit (5) is reached"});
  CHECK_FALSE(check_node_channel(5, 4, "n"));
  CHECK(check_node_channel(5, 5, "n") ==
        refusal{kind::not_allowed,
                "number of channels opened on node 'n' has reached the maximum allowed limit of 5"});
}

TEST_CASE("limits are read and written as in RabbitMQ's definitions", "[access]") {
  const auto vhost = vhost_limits_of(json::parse(R"({"max-connections": 5, "max-queues": -1})"));
  REQUIRE(vhost.has_value());
  CHECK(*vhost == vhost_limits{.connections_max = 5, .queues_max = -1});
  CHECK(json::serialize(to_json(*vhost)) == R"({"max-connections":5,"max-queues":-1})");
  const auto user = user_limits_of(json::parse(R"({"max-channels": 3})"));
  REQUIRE(user.has_value());
  CHECK(user->channels_max == 3);
  CHECK_FALSE(user->connections_max);
  CHECK(json::serialize(to_json(*user)) == R"({"max-channels":3})");
  CHECK(*vhost_limits_of(json::parse("{}")) == vhost_limits{});
}

TEST_CASE("what is no limit is refused in RabbitMQ's words", "[access]") {
  CHECK(vhost_complaint(R"({"max-foo":1})") ==
        "Validation failed\n\nUnrecognised terms [{<<\"max-foo\">>,1}] in limits");
  CHECK(vhost_complaint(R"({"max-queues":"a"})") ==
        "Validation failed\n\nmax-queues should be a number, actually was <<\"a\">>");
  CHECK(vhost_complaint(R"({"max-queues":1.5})") ==
        "Validation failed\n\nmax-queues should be a number, actually was 1.5");
  CHECK(user_complaint(R"({"max-queues":1})") ==
        "Unrecognised terms [{<<\"max-queues\">>,1}] in user-limits");
  CHECK(user_complaint(R"({"max-channels":"x"})") ==
        "max-channels should be a number, actually was <<\"x\">>");
  CHECK_FALSE(vhost_complaint("[1]").empty());
  CHECK_FALSE(vhost_complaint("null").empty());
  CHECK_FALSE(user_complaint("99999999999999999999").empty());
  CHECK_FALSE(user_complaint(R"({"max-channels":99999999999999999999})").empty());
}

TEST_CASE("values are printed as Erlang prints them", "[access]") {
  const auto printed = [](const char* text) { return erlang_term(json::parse(text)); };
  CHECK(printed("-1") == "-1");
  CHECK(printed("1.0") == "1.0");
  CHECK(printed("1.5e30") == "1.5e30");
  CHECK(printed("1e30") == "1.0e30");
  CHECK(printed("2.5") == "2.5");
  CHECK(printed("null") == "null");
  CHECK(printed("true") == "true");
  CHECK(printed("\"1Q\"") == "<<\"1Q\">>");
  CHECK(printed("\"\"") == "<<>>");
  CHECK(printed("\"\\u00e9\"") == "<<\"\xc3\xa9\"/utf8>>");
  CHECK(printed(R"("a\u0001\n\"b")") == "<<97,1,10,34,98>>");
  CHECK(printed(R"("a\n\"b\\")") == R"(<<"a\n\"b\\">>)");
  CHECK(printed("{}") == "#{}");
  CHECK(printed(R"({"b":2,"a":1})") == R"(#{<<"a">> => 1,<<"b">> => 2})");
  CHECK(printed("[]") == "[]");
  CHECK(printed("[97,98]") == "\"ab\"");
  CHECK(printed(R"([1,2.5,true,null,{"x":"y"}])") == R"([1,2.5,true,null,#{<<"x">> => <<"y">>}])");
}
