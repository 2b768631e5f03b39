#include "access/definitions.hpp"

#include "access/json_term.hpp"
#include "tests/mailbox/printed_result.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <random>
#include <string>
#include <utility>

using namespace posthorn;

namespace {

namespace json = boost::json;

// What RabbitMQ 4.3.6 exported.
constexpr const char* exported =
    R"({"permissions":[{"configure":".*","read":".*","user":"guest","vhost":"/","write":".*"},)"
    R"({"configure":"^a","read":".*","user":"b3u","vhost":"b3v","write":""}],"bindings":[],"queues":[],)"
    R"("parameters":[{"component":"vhost-limits","name":"limits","value":{"max-connections":5,)"
    R"("max-queues":-1},"vhost":"b3v"},{"component":"operator_policy","name":"op",)"
    R"("value":{"apply-to":"all","definition":{"max-length":3},"pattern":"^q","priority":0},)"
    R"("vhost":"b3v"}],"policies":[{"apply-to":"queues","definition":{"max-length":5},"name":"pol",)"
    R"("pattern":"^q","priority":3,"vhost":"b3v"}],"rabbitmq_version":"4.3.6","rabbit_version":"4.3.6",)"
    R"("exchanges":[{"arguments":{},"auto_delete":false,"durable":true,"name":"amq.rabbitmq.log",)"
    R"("type":"topic","vhost":"/"}],"vhosts":[{"limits":{},)"
    R"("metadata":{"description":"Default virtual host","tags":[],"default_queue_type":"classic"},)"
    R"("name":"/"},{"limits":{"max-connections":5,"max-queues":-1},"metadata":{"description":"","tags":[],)"
    R"("default_queue_type":"classic"},"name":"b3v"}],)"
    R"("users":[{"hashing_algorithm":"rabbit_password_hashing_sha256","limits":{"max-channels":3,)"
    R"("max-connections":2},"name":"b3u","password_hash":"fZAlDJJAZkTLZ3+gbEOOk25SHHCBhrIZXpNHDFoBhFAJtcLz")"
    R"(,"tags":["monitoring","policymaker","foo"]},{"hashing_algorithm":"rabbit_password_hashing_sha256",)"
    R"("limits":{},"name":"guest","password_hash":"fZAlDJJAZkTLZ3+gbEOOk25SHHCBhrIZXpNHDFoBhFAJtcLz",)"
    R"("tags":["administrator"]}],"global_parameters":[{"name":"cluster_tags","value":[]},{"name":"gp",)"
    R"("value":{"a":1}}],"topic_permissions":[{"exchange":"amq.topic","read":".*","user":"b3u",)"
    R"("vhost":"b3v","write":"^{username}"}]})";

definitions read(std::string_view text) {
  auto out = definitions_of(text);
  INFO((out ? "" : out.error().text));
  REQUIRE(out.has_value());
  return std::move(*out);
}

std::string complaint(std::string_view text, std::optional<std::string_view> vhost = std::nullopt) {
  const auto out = definitions_of(text, vhost);
  if (out) return "";
  CHECK(out.error().code == errc::refused);
  return out.error().text;
}

// Lists of objects in one order, so that they can be compared.
json::value sorted(json::value value) {
  for (auto& [name, field] : value.as_object()) {
    if (!field.is_array()) continue;
    auto& list = field.get_array();
    std::sort(list.begin(), list.end(),
              [](const json::value& a, const json::value& b) { return erlang_term(a) < erlang_term(b); });
  }
  return value;
}

}  // namespace

TEST_CASE("what RabbitMQ exported is read", "[access]") {
  const auto all = read(exported);
  REQUIRE(all.users.size() == 2);
  const auto& b3u = all.users[0].value;
  CHECK(b3u.name == "b3u");
  CHECK(b3u.tags == std::vector<std::string>{"monitoring", "policymaker", "foo"});
  CHECK(b3u.limits == user_limits{.connections_max = 2, .channels_max = 3});
  CHECK(*password_check{b3u.password, secret{"secret1"}, {1, 8192}}.run());
  CHECK_FALSE(all.users[0].password);

  REQUIRE(all.vhosts.size() == 2);
  CHECK(all.vhosts[1] == virtual_host{.name = "b3v",
                                      .description = "",
                                      .tags = {},
                                      .default_queue_type = "classic",
                                      .limits = {.connections_max = 5, .queues_max = -1}});
  REQUIRE(all.permissions.size() == 2);
  CHECK(all.permissions[1].user == "b3u");
  CHECK(all.permissions[1].vhost == "b3v");
  CHECK(all.permissions[1].given == resource_permissions{"^a", "", ".*"});
  REQUIRE(all.topic_permissions.size() == 1);
  CHECK(all.topic_permissions[0].exchange == "amq.topic");
  CHECK(all.topic_permissions[0].given == topic_permissions{"^{username}", ".*"});
  REQUIRE(all.policies.size() == 2);
  CHECK(all.policies[0].kind == policy_kind::ordinary);
  CHECK(all.policies[0].value.priority == 3);
  CHECK(all.policies[0].value.apply_to == policy_target::queues);
  CHECK(all.policies[1].kind == policy_kind::of_operator);
  CHECK(all.policies[1].value.name == "op");
  CHECK(all.policies[1].vhost == "b3v");
  CHECK(all.parameters.empty());
  CHECK(all.global_parameters.size() == 2);
  CHECK(all.exchanges.size() == 1);
  CHECK(all.warnings.empty());
}

TEST_CASE("what was read is written as RabbitMQ wrote it", "[access]") {
  const auto written = to_json(read(exported), "4.3.6");
  CHECK(sorted(written) == sorted(json::parse(exported)));
}

TEST_CASE("files of older versions are read", "[access]") {
  const auto all = read(R"({"rabbit_version":"3.7.0",
    "users":[{"name":"a","password_hash":"","hashing_algorithm":"rabbit_password_hashing_sha256",
              "tags":"administrator, x"},
             {"name":"b","password":"clear","tags":"","limits":[]}],
    "vhosts":[{"name":"/"},{"name":"d","description":"text","tags":["t"],"default_queue_type":"undefined"}],
    "policies":[{"vhost":"/","name":"ha","pattern":"^ha\\.","definition":{"ha-mode":"all"}}],
    "parameters":[{"component":"shovel","vhost":"/","name":"s","value":{"a":1}}]})");
  CHECK(all.users[0].value.tags == std::vector<std::string>{"administrator", "x"});
  CHECK_FALSE(all.users[0].password);
  REQUIRE(all.users[1].password);
  CHECK(all.users[1].password->reveal() == "clear");
  CHECK(all.vhosts[1].description == "text");
  CHECK(all.vhosts[1].tags == std::vector<std::string>{"t"});
  CHECK_FALSE(all.vhosts[1].default_queue_type);
  REQUIRE(all.warnings.size() == 1);
  CHECK(all.warnings[0].starts_with("policy 'ha' in vhost '/': ha-mode does nothing"));
  REQUIRE(all.parameters.size() == 1);
  // A password that waits to be hashed is not written.
  const auto text = json::serialize(to_json(all, "4.3.6"));
  CHECK(text.find("clear") == std::string::npos);
  CHECK(text.find("shovel") != std::string::npos);
}

TEST_CASE("a file of one virtual host names none", "[access]") {
  constexpr auto text = R"({"policies":[{"name":"p","pattern":"","definition":{"max-length":1}}],
    "parameters":[{"component":"vhost-limits","name":"limits","value":{"max-queues":1}}]})";
  CHECK(complaint(text) == "policies[0]: the field 'vhost' is missing");
  const auto all = definitions_of(text, "v");
  REQUIRE(all.has_value());
  CHECK(all->policies[0].vhost == "v");
  REQUIRE(all->vhosts.size() == 1);
  CHECK(all->vhosts[0].name == "v");
  CHECK(all->vhosts[0].limits.queues_max == 1);
}

TEST_CASE("a mistake is told with where it is, and nothing is done", "[access]") {
  CHECK(complaint("{").starts_with("the definitions are not JSON: "));
  CHECK(complaint("").starts_with("the definitions are not JSON: "));
  CHECK(complaint("[]") == "the definitions are not a JSON object");
  CHECK(complaint("\xef\xbb\xbf{}").empty());
  CHECK(complaint(R"({"users":5})") == "users is not a list");
  CHECK(complaint(R"({"queues":5})") == "queues is not a list");
  CHECK(complaint(R"({"users":[5]})") == "users[0] is not an object");
  CHECK(complaint(R"({"users":[{"name":"a","tags":[]},{}]})") == "users[1]: the field 'name' is missing");
  CHECK(complaint(R"({"users":[{"name":5,"tags":[]}]})") == "users[0]: the field 'name' is not a text");
  CHECK(complaint(R"({"users":[{"name":"","tags":[]}]})") == "users[0]: a user must have a name");
  CHECK(complaint(R"({"users":[{"name":"a"}]})") == "users[0]: the field 'tags' is missing");
  CHECK(complaint(R"({"users":[{"name":"a","tags":5}]})") ==
        "users[0]: the field 'tags' is not a list of texts");
  CHECK(complaint(R"({"users":[{"name":"a","tags":[5]}]})") ==
        "users[0]: the field 'tags' is not a list of texts");
  CHECK(complaint(R"({"users":[{"name":"a","tags":[],"password":"x","password_hash":""}]})") ==
        "users[0]: both a password and a password hash are given");
  CHECK(complaint(R"({"users":[{"name":"a","tags":[],"password_hash":"!!"}]})") ==
        "users[0]: the password hash is not valid base64, or too long");
  CHECK(complaint(R"({"users":[{"name":"a","tags":[],"limits":{"x":1}}]})") ==
        "users[0]: Unrecognised terms [{<<\"x\">>,1}] in user-limits");
  CHECK(complaint(R"({"vhosts":[{}]})") == "vhosts[0]: the field 'name' is missing");
  CHECK(complaint(R"({"vhosts":[{"name":"v","metadata":5}]})") ==
        "vhosts[0]: the field 'metadata' is not an object");
  CHECK(complaint(R"({"permissions":[{"user":"u","vhost":"v","configure":"(","write":"","read":""}]})") ==
        "permissions[0]: the configure permission '(' is not a valid regular expression: missing closing "
        "parenthesis: (");
  CHECK(complaint(R"({"topic_permissions":[{"user":"u","vhost":"v","write":"","read":""}]})") ==
        "topic_permissions[0]: the field 'exchange' is missing");
  CHECK(complaint(R"({"policies":[{"vhost":"v","name":"q","pattern":"(","definition":{"foo":1}}]})") ==
        "policies[0]: Validation failed\n\n[{<<\"foo\">>,1}] are not recognised policy settings\n"
        "pattern should be regular expression but is invalid: missing closing parenthesis: (\n"
        "(vhost: \"v\" key: \"q\")");
  CHECK(complaint(R"({"parameters":[{"component":"operator_policy","vhost":"v","name":"q","value":5}]})") ==
        "parameters[0]: the field 'value' is not an object");
  CHECK(
      complaint(R"({"parameters":[{"component":"vhost-limits","vhost":"v","name":"q","value":{"x":1}}]})") ==
      "parameters[0]: Validation failed\n\nUnrecognised terms [{<<\"x\">>,1}] in limits");
}

TEST_CASE("no mistake repeats a password", "[access]") {
  for (const auto* field : {"password", "password_hash"}) {
    for (const auto* value : {R"("hunter2hunter2")", R"(["hunter2hunter2"])"}) {
      for (const auto* rest :
           {R"("tags":5)", R"("tags":[],"limits":5)", R"("tags":[],"hashing_algorithm":"argon2id")"}) {
        const auto text =
            std::string{R"({"users":[{"name":"a",")"} + field + "\":" + value + "," + rest + "}]}";
        CHECK(complaint(text).find("hunter2") == std::string::npos);
      }
    }
  }
}

TEST_CASE("any text is a file of definitions or is refused", "[access]") {
  std::mt19937 random{5};
  const std::string whole = exported;
  constexpr std::string_view pieces[] = {"null", "5",  "[]",  "{}",    "\"\"",
                                         "true", "-1", "1.5", "\"(\"", "{\"a\":1}"};
  int read_count = 0;
  for (int round = 0; round < 4000; ++round) {
    auto text = whole;
    for (auto i = 1 + random() % 3; i > 0; --i) {
      const auto at = random() % text.size();
      switch (random() % 4) {
        case 0: text[at] = static_cast<char>(random() % 256); break;
        case 1: text.erase(at, 1 + random() % 20); break;
        case 2: text.resize(at); break;
        default: {  // another value after a colon
          const auto colon = text.find(':', at);
          if (colon == std::string::npos) break;
          const auto end = text.find_first_of(",}]", colon);
          text.replace(colon + 1, end == std::string::npos ? 0 : end - colon - 1,
                       pieces[random() % std::size(pieces)]);
        }
      }
      if (text.empty()) text = "{";
    }
    if (const auto all = definitions_of(text)) {
      ++read_count;
      // What it has taken it can write, and take again.
      const auto once = to_json(*all, "4.3.6");
      const auto again = definitions_of(json::serialize(once));
      INFO((again ? "" : again.error().text));
      REQUIRE(again.has_value());
      CHECK(to_json(*again, "4.3.6") == once);
    }
  }
  CHECK(read_count > 100);
}

TEST_CASE("what stands deep is refused, not followed", "[access]") {
  CHECK_FALSE(complaint(std::string(100'000, '[')).empty());
  CHECK_FALSE(complaint("{\"users\":" + std::string(1000, '[') + std::string(1000, ']') + "}").empty());
}
