// The texts and rules are those of RabbitMQ 4.3.6, where it is not said otherwise. Numbers in brackets are
// those of docs/amqp.md.
#include "access/policy.hpp"

#include "mailbox/queue_arguments.hpp"
#include "tests/mailbox/printed_result.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

namespace json = boost::json;
using subject = policy_subject;

json::object fields_with(const std::string& definition) {
  return json::object{
      {"pattern", ".*"}, {"definition", json::parse(definition)}, {"priority", 0}, {"apply-to", "all"}};
}

checked_policy checked(policy_kind kind, std::string name, const json::object& fields) {
  auto out = policy_of(kind, std::move(name), fields);
  INFO((out ? "" : out.error().text));
  REQUIRE(out.has_value());
  return std::move(*out);
}

policy a_policy(const std::string& definition, std::string name = "p", std::int64_t priority = 0,
                const char* apply_to = "all", const char* names = ".*") {
  auto fields = fields_with(definition);
  fields["priority"] = priority;
  fields["apply-to"] = apply_to;
  fields["pattern"] = names;
  return checked(policy_kind::ordinary, std::move(name), fields).value;
}

policy an_operator_policy(const std::string& definition) {
  return checked(policy_kind::of_operator, "o", fields_with(definition)).value;
}

// What is wrong with a definition, without the heading.
std::string complaint(policy_kind kind, const json::object& fields) {
  const auto out = policy_of(kind, "p", fields);
  if (out) return "";
  CHECK(out.error().code == errc::refused);
  constexpr std::string_view heading = "Validation failed\n\n";
  REQUIRE(out.error().text.starts_with(heading));
  return out.error().text.substr(heading.size());
}
std::string complaint(const std::string& definition) {
  return complaint(policy_kind::ordinary, fields_with(definition));
}
std::string operator_complaint(const std::string& definition) {
  return complaint(policy_kind::of_operator, fields_with(definition));
}

field_value number(std::int64_t value) { return field_value::of_long(value); }
field_value text(const char* value) { return field_value::of_string(value); }

const field_table quorum_arguments = {{"x-queue-type", text("quorum")}};
const field_table stream_arguments = {{"x-queue-type", text("stream")}};

std::optional<std::string> matched(const policy_set& policies, subject what, std::string_view name = "q") {
  const auto* found = policies.match(what, name);
  return found == nullptr ? std::nullopt : std::optional{found->name};
}

}  // namespace

// --- definitions -------------------------------------------------------------------------------------------

TEST_CASE("every key of RabbitMQ's is accepted with a good value", "[access]") {
  for (const auto* definition : {
           R"({"alternate-exchange":""})",
           R"({"consumer-disconnected-timeout":0})",
           R"({"consumer-timeout":0})",
           R"({"dead-letter-exchange":"x"})",
           R"({"dead-letter-routing-key":"k"})",
           R"({"dead-letter-strategy":"at-most-once"})",
           R"({"dead-letter-strategy":"at-least-once"})",
           R"({"message-ttl":0})",
           R"({"expires":1})",
           R"({"max-length":0})",
           R"({"max-length-bytes":0})",
           R"({"max-in-memory-length":0})",
           R"({"max-in-memory-bytes":0})",
           R"({"queue-mode":"lazy"})",
           R"({"queue-mode":"default"})",
           R"({"queue-version":1})",
           R"({"queue-version":2})",
           R"({"overflow":"drop-head"})",
           R"({"overflow":"reject-publish"})",
           R"({"overflow":"reject-publish-dlx"})",
           R"({"delivery-limit":-5})",
           R"({"max-age":"10D"})",
           R"({"queue-leader-locator":"client-local"})",
           R"({"queue-leader-locator":"balanced"})",
           R"({"queue-leader-locator":"random"})",
           R"({"queue-leader-locator":"least-leaders"})",
           R"({"initial-cluster-size":0})",
           R"({"stream-max-segment-size-bytes":3000000000})",
           R"({"stream-filter-size-bytes":16})",
           R"({"stream-filter-size-bytes":255})",
           R"({"target-group-size":1})",
           R"({"delayed-retry-type":"all","delayed-retry-min":1,"delayed-retry-max":1})",
           R"({"delayed-retry-type":"disabled"})",
           R"({"delayed-retry-min":5})",
       }) {
    INFO(definition);
    CHECK(complaint(definition).empty());
  }
}

TEST_CASE("a wrong value is refused in RabbitMQ's words", "[access]") {
  CHECK(complaint(R"({"max-length":-1})") == "-1 is not a valid maximum length");
  CHECK(complaint(R"({"max-length":1.0})") == "1.0 is not a valid maximum length");
  CHECK(complaint(R"({"max-length":null})") == "null is not a valid maximum length");
  CHECK(complaint(R"({"max-length":{"a":1}})") == "#{<<\"a\">> => 1} is not a valid maximum length");
  CHECK(complaint(R"({"max-length":[97,98]})") == "\"ab\" is not a valid maximum length");
  CHECK(complaint(R"({"max-length-bytes":"1"})") == "<<\"1\">> is not a valid maximum length in bytes");
  CHECK(complaint(R"({"max-age":"1Q"})") == "<<\"1Q\">> is not a valid max age");
  CHECK(complaint(R"({"max-age":"0D"})") == "<<\"0D\">> is not a valid max age");
  CHECK(complaint(R"({"max-age":1})") == "1 is not a valid max age");
  CHECK(complaint(R"({"overflow":"\u00e9"})") == "<<\"\xc3\xa9\"/utf8>> is not a valid overflow value");
  CHECK(complaint(R"({"message-ttl":-1})") == "-1 is not a valid message TTL");
  CHECK(complaint(R"({"expires":0})") == "0 is not a valid queue expiry");
  CHECK(complaint(R"({"delivery-limit":"x"})") == "<<\"x\">> is not a valid delivery limit");
  CHECK(complaint(R"({"alternate-exchange":5})") == "5 is not a valid alternate exchange name");
  CHECK(complaint(R"({"dead-letter-exchange":5})") == "5 is not a valid dead letter exchange name");
  CHECK(complaint(R"({"dead-letter-routing-key":5})") == "5 is not a valid dead letter routing key");
  CHECK(complaint(R"({"dead-letter-strategy":"x"})") == "<<\"x\">> is not a valid dead letter strategy");
  CHECK(complaint(R"({"consumer-timeout":-1})") == "-1 is not a valid consumer timeout");
  CHECK(complaint(R"({"consumer-disconnected-timeout":-1})") ==
        "-1 is not a valid consumer disconnected timeout");
  CHECK(complaint(R"({"queue-mode":"x"})") == "<<\"x\">> is not a valid queue-mode value");
  CHECK(complaint(R"({"queue-version":3})") == "3 is not a valid queue-version value");
  CHECK(complaint(R"({"queue-leader-locator":"x"})") ==
        "<<\"x\">> is not a valid queue leader locator value");
  CHECK(complaint(R"({"initial-cluster-size":-1})") == "-1 is not a valid cluster size");
  CHECK(complaint(R"({"max-in-memory-length":-1})") == "-1 is not a valid maximum memory in bytes");
  CHECK(complaint(R"({"max-in-memory-bytes":-1})") == "-1 is not a valid maximum memory in bytes");
  CHECK(complaint(R"({"stream-max-segment-size-bytes":3000000001})") ==
        "3000000001 is not a valid segment size");
  CHECK(complaint(R"({"stream-filter-size-bytes":15})") ==
        "15 is not a valid filter size. Valid range is 16-255");
  CHECK(complaint(R"({"target-group-size":0})") == "0 is not a valid qq target count value");
  CHECK(complaint(R"({"delayed-retry-min":0})") ==
        "0 is not a valid delayed retry minimum delay. Must be a positive integer");
  CHECK(complaint(R"({"delayed-retry-max":0})") ==
        "0 is not a valid delayed retry maximum delay. Must be a positive integer");
  CHECK(complaint(R"({"delayed-retry-type":"x"})") ==
        "<<\"x\">> is not a valid delayed retry type. Must be one of: all, failed, returned, disabled");
  CHECK(complaint(R"({"delayed-retry-type":"all"})") ==
        "delayed-retry-min is required when delayed-retry-type is all");
  CHECK(complaint(R"({"delayed-retry-min":5,"delayed-retry-max":4})") ==
        "delayed-retry-max (4) must not be smaller than delayed-retry-min (5)");
  CHECK(complaint(R"({"queue-master-locator":"min-masters"})") ==
        "use of deprecated queue-master-locator argument is not permitted");
}

TEST_CASE("unknown keys are refused in RabbitMQ's words", "[access]") {
  CHECK(
      complaint(R"({"foo":1,"bar":[1,2.5,true,null,{"x":"y"}]})") ==
      R"([{<<"bar">>,[1,2.5,true,null,#{<<"x">> => <<"y">>}]},{<<"foo">>,1}] are not recognised policy settings)");
  CHECK(complaint(R"({"max-priority":5})") ==
        R"([{<<"max-priority">>,5}] are not recognised policy settings)");
  // Known to policies, but not an operator's.
  CHECK(operator_complaint(R"({"dead-letter-exchange":"x"})") ==
        R"([{<<"dead-letter-exchange">>,<<"x">>}] are not recognised policy settings)");
  CHECK(operator_complaint(R"({"consumer-timeout":1})") ==
        R"([{<<"consumer-timeout">>,1}] are not recognised policy settings)");
  CHECK(operator_complaint(R"({"max-length":1,"target-group-size":3,"delayed-retry-min":2})").empty());
  for (const auto* key : {"expires", "message-ttl", "max-length", "max-length-bytes", "max-in-memory-length",
                          "max-in-memory-bytes", "delivery-limit", "queue-version"}) {
    CHECK(operator_complaint("{\"" + std::string{key} + "\":1}").empty());
  }
  CHECK(operator_complaint(R"({"overflow":"reject-publish"})").empty());
}

TEST_CASE("the first complaint about a definition is RabbitMQ's first", "[access]") {
  CHECK(complaint(R"({"message-ttl":"a","max-length":-1})") == "-1 is not a valid maximum length");
  CHECK(complaint(R"({"foo":1,"max-length":-1})") == "-1 is not a valid maximum length");
  CHECK(complaint(R"({"delayed-retry-min":0,"max-length":-1})") == "-1 is not a valid maximum length");
  CHECK(complaint(R"({"delayed-retry-min":0,"foo":1})").starts_with("0 is not a valid delayed retry"));
  CHECK(complaint(R"({"queue-master-locator":"x","max-length":-1})") ==
        "use of deprecated queue-master-locator argument is not permitted");
}

TEST_CASE("a definition is an object that is not empty", "[access]") {
  CHECK(complaint("{}") == "no policy provided");
  CHECK(complaint("[]") == "no policy provided");
  CHECK(complaint("[1]") == "definition must be a dictionary: [1]");
  CHECK(complaint("5") == "parse error while reading policy definition: 5. Validator: policy_validator.");
  CHECK(operator_complaint("5") ==
        "parse error while reading policy definition: 5. Validator: operator_policy_validator.");
  CHECK(complaint(policy_kind::ordinary, {}) ==
        "parse error while reading policy definition: undefined. Validator: policy_validator.\n"
        "pattern should be a binary but was undefined");
}

TEST_CASE("all that is wrong with a policy is said at once, in RabbitMQ's order", "[access]") {
  auto fields = fields_with(R"({"max-length":-1})");
  fields["apply-to"] = "foo";
  fields["pattern"] = "(";
  fields["priority"] = "x";
  CHECK(complaint(policy_kind::ordinary, fields) ==
        "-1 is not a valid maximum length\n"
        "apply-to 'foo' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', "
        "'streams', "
        "'exchanges', or 'all'\n"
        "pattern should be regular expression but is invalid: missing closing parenthesis: (\n"
        "priority should be a number, actually was <<\"x\">>");
  fields = fields_with(R"({"max-length":1})");
  fields["pattern"] = std::string(1025, 'a');
  CHECK(complaint(policy_kind::ordinary, fields) == "pattern must not exceed 1024 bytes");
  fields["pattern"] = 5;
  CHECK(complaint(policy_kind::ordinary, fields) == "pattern should be a binary but was 5");
}

TEST_CASE("a priority is a whole number, and 0 if nothing is said", "[access]") {
  auto fields = fields_with(R"({"max-length":1})");
  const auto priority = [&] { return checked(policy_kind::ordinary, "p", fields).value.priority; };
  fields["priority"] = -3;
  CHECK(priority() == -3);
  fields["priority"] = 2.0;
  CHECK(priority() == 2);
  fields.erase("priority");
  fields.erase("apply-to");
  CHECK(priority() == 0);
  CHECK(checked(policy_kind::ordinary, "p", fields).value.apply_to == policy_target::all);
  for (const auto& wrong : {json::value(1.5), json::value(1e300), json::value("1"), json::value(nullptr)}) {
    fields["priority"] = wrong;
    CHECK(complaint(policy_kind::ordinary, fields).starts_with("priority should be a number, actually was "));
  }
}

TEST_CASE("keys of mirrored queues are accepted with a warning, and change nothing", "[access]") {
  const auto out = checked(policy_kind::ordinary, "ha",
                           fields_with(R"({"ha-mode":"nodes","ha-params":["a","b"],"ha-sync-mode":"automatic",
                                           "queue-mode":"lazy","max-length":5})"));
  REQUIRE(out.warnings.size() == 4);
  CHECK(out.warnings[0] ==
        "ha-mode does nothing: there are no mirrored queues. For a queue with replicas, declare it "
        "with x-queue-type: quorum");
  CHECK(out.warnings[3] == "queue-mode does nothing; RabbitMQ ignores it since version 4, too");
  CHECK(effective_rules({}, out.value.definition) == mailbox_rules{.length_max = 5});
  CHECK(json::serialize(to_json(out.value)) ==
        R"({"pattern":".*","apply-to":"all","definition":{"ha-mode":"nodes","ha-params":["a","b"],)"
        R"("ha-sync-mode":"automatic","max-length":5,"queue-mode":"lazy"},"priority":0})");
  CHECK(complaint(R"({"ha-params":{"a":1}})") == "#{<<\"a\">> => 1} is not a valid ha-params value");
  CHECK(complaint(R"({"ha-mode":null})") == "null is not a valid ha-mode value");
}

TEST_CASE("a policy that was written is read again as the same", "[access]") {
  const auto p = a_policy(R"({"max-length":5,"overflow":"reject-publish","dead-letter-exchange":"é"})", "p",
                          -2, "quorum_queues", "^q\\.");
  CHECK(checked(policy_kind::ordinary, "p", to_json(p)).value == p);
}

// --- which one applies -------------------------------------------------------------------------------------

TEST_CASE("a policy applies to what it is for", "[access]") {
  struct row {
    const char* apply_to;
    bool exchange, classic, quorum, stream;
  };
  for (const auto& [apply_to, exchange, classic, quorum, stream] : {
           row{"all", true, true, true, true},
           row{"queues", false, true, true, true},
           row{"classic_queues", false, true, false, false},
           row{"quorum_queues", false, false, true, false},
           row{"streams", false, false, false, true},
           row{"exchanges", true, false, false, false},
       }) {
    INFO(apply_to);
    const auto p = a_policy(R"({"max-length-bytes":1})", "p", 0, apply_to, "^q");
    CHECK(p.applies_to(subject::exchange, "q1") == exchange);
    CHECK(p.applies_to(subject::classic_queue, "q1") == classic);
    CHECK(p.applies_to(subject::quorum_queue, "q1") == quorum);
    CHECK(p.applies_to(subject::stream, "q1") == stream);
    CHECK_FALSE(p.applies_to(subject::exchange, "x"));
    CHECK_FALSE(p.applies_to(subject::classic_queue, "x"));
  }
}

TEST_CASE("the highest priority wins, and of equal ones the first by name", "[access]") {
  policy_set policies;
  CHECK_FALSE(matched(policies, subject::classic_queue));
  policies.set(a_policy(R"({"max-length":1})", "m", 1));
  policies.set(a_policy(R"({"max-length":2})", "z", 1));
  CHECK(matched(policies, subject::exchange) == "m");
  policies.set(a_policy(R"({"max-length":3})", "a", 1));
  policies.set(a_policy(R"({"max-length":4})", "c", 2, "queues"));
  CHECK(matched(policies, subject::exchange) == "a");
  CHECK(matched(policies, subject::classic_queue) == "c");
  CHECK(policies.erase("c"));
  CHECK_FALSE(policies.erase("c"));
  CHECK(matched(policies, subject::classic_queue) == "a");
  policies.set(a_policy(R"({"max-length":3})", "a", -1));  // replaces it
  CHECK(matched(policies, subject::classic_queue) == "m");
  CHECK(policies.size() == 3);
  CHECK(policies.find("a")->priority == -1);
  CHECK(policies.find("b") == nullptr);
}

TEST_CASE("a policy with a key that the type of queue cannot have is passed by", "[access]") {
  policy_set policies;
  policies.set(a_policy(R"({"max-length":7})", "low", 1));
  policies.set(a_policy(R"({"delivery-limit":3,"max-length":2})", "high", 9));
  CHECK(matched(policies, subject::classic_queue) == "low");
  CHECK(matched(policies, subject::quorum_queue) == "high");
  CHECK_FALSE(matched(policies, subject::stream));
  CHECK(matched(policies, subject::exchange) == "high");
  // Not RabbitMQ's: a limit that is meant for classic queues.
  policies.set(a_policy(R"({"delivery-limit":4})", "own", 10, "classic_queues"));
  CHECK(matched(policies, subject::classic_queue) == "own");

  const auto fits = [](const char* definition, subject what) {
    return a_policy(definition).applies_to(what, "q");
  };
  CHECK_FALSE(fits(R"({"max-age":"1D"})", subject::classic_queue));
  CHECK_FALSE(fits(R"({"max-age":"1D"})", subject::quorum_queue));
  CHECK(fits(R"({"max-age":"1D"})", subject::stream));
  CHECK_FALSE(fits(R"({"dead-letter-strategy":"at-least-once"})", subject::classic_queue));
  CHECK(fits(R"({"dead-letter-strategy":"at-least-once"})", subject::quorum_queue));
  CHECK_FALSE(fits(R"({"queue-mode":"lazy"})", subject::quorum_queue));
  CHECK(fits(R"({"queue-mode":"lazy"})", subject::classic_queue));
  CHECK_FALSE(fits(R"({"message-ttl":1})", subject::stream));
  CHECK(fits(R"({"max-length-bytes":1})", subject::stream));
}

TEST_CASE("a snapshot of the policies does not see what changes later", "[access]") {
  policy_set now;
  now.set(a_policy(R"({"max-length":1})", "a"));
  const auto before = now;
  now.erase("a");
  CHECK(matched(before, subject::classic_queue) == "a");
  CHECK_FALSE(matched(now, subject::classic_queue));
}

TEST_CASE("what is in force names both policies", "[access]") {
  vhost_policies policies;
  CHECK(apply(policies, subject::classic_queue, "q") == applied_policy{});
  policies.ordinary.set(a_policy(R"({"max-length":5,"dead-letter-exchange":"x"})", "p"));
  policies.of_operator.set(an_operator_policy(R"({"max-length":3,"expires":9})"));
  const auto applied = apply(policies, subject::classic_queue, "q");
  CHECK(applied.policy == "p");
  CHECK(applied.operator_policy == "o");
  CHECK(applied.definition ==
        field_table{{"dead-letter-exchange", text("x")}, {"expires", number(9)}, {"max-length", number(3)}});
}

// --- what is in force --------------------------------------------------------------------------------------

TEST_CASE("policy and operator policy are merged key by key", "[access]") {
  const auto merged = [](const char* ordinary, const char* of_operator) {
    const auto p = a_policy(ordinary), o = an_operator_policy(of_operator);
    return to_string(merged_definition(&p, &o));
  };
  CHECK(merged(R"({"max-length":5})", R"({"max-length":3})") ==
        merged(R"({"max-length":3})", R"({"max-length":5})"));
  CHECK(merged(R"({"max-length":5})", R"({"max-length":3})").find("max-length: 3") != std::string::npos);
  CHECK(merged(R"({"overflow":"drop-head"})", R"({"overflow":"reject-publish"})").find("reject-publish") !=
        std::string::npos);
  CHECK(merged(R"({"target-group-size":3})", R"({"target-group-size":5})").find("5") != std::string::npos);
  CHECK(merged(R"({"delayed-retry-min":3})", R"({"delayed-retry-min":5})").find("5") != std::string::npos);
  CHECK(merged(R"({"delayed-retry-max":3})", R"({"delayed-retry-max":5})").find("3") != std::string::npos);
  // Any limit is less than none.
  CHECK(merged(R"({"delivery-limit":-1})", R"({"delivery-limit":5})").find("delivery-limit: 5") !=
        std::string::npos);
  CHECK(merged(R"({"delivery-limit":5})", R"({"delivery-limit":-1})").find("delivery-limit: 5") !=
        std::string::npos);
  CHECK(merged(R"({"delivery-limit":7})", R"({"delivery-limit":5})").find("delivery-limit: 5") !=
        std::string::npos);
}

TEST_CASE("an argument beats the policy, and of numbers the smaller counts [20]", "[access]") {
  const auto definition =
      a_policy(R"({"max-length":5,"message-ttl":100,"dead-letter-exchange":"p","overflow":"reject-publish"})")
          .definition;
  CHECK(effective_rules({}, definition) ==
        mailbox_rules{.message_ttl = 100ms,
                      .length_max = 5,
                      .on_overflow = mailbox_rules::overflow::reject_publish,
                      .dead_letter_exchange = "p"});
  const field_table arguments = {{"x-max-length", field_value::of_int(3)},
                                 {"x-message-ttl", field_value::of_int(1000)},
                                 {"x-dead-letter-exchange", text("a")},
                                 {"x-overflow", text("drop-head")},
                                 {"x-custom", text("kept")}};
  CHECK(effective_rules(arguments, definition) ==
        mailbox_rules{.message_ttl = 100ms, .length_max = 3, .dead_letter_exchange = "a"});
  // What was declared stays as it was sent.
  const auto all = effective_arguments(arguments, definition);
  CHECK(*all.find("x-max-length") == field_value::of_int(3));
  CHECK(*all.find("x-message-ttl") == number(100));
  CHECK(*all.find("x-custom") == text("kept"));
  CHECK(effective_arguments(arguments, {}) == arguments);
}

TEST_CASE("of a quorum queue, the policy's overflow beats the argument", "[access]") {
  auto arguments = quorum_arguments;
  arguments.add("x-overflow", text("drop-head"));
  const auto definition = a_policy(R"({"overflow":"reject-publish"})").definition;
  CHECK(effective_rules(arguments, definition).on_overflow == mailbox_rules::overflow::reject_publish);
}

TEST_CASE("a quorum queue's delivery limit is the smaller one, and any is less than none", "[access]") {
  const auto limit = [](std::optional<int> argument, const char* definition) {
    auto arguments = quorum_arguments;
    if (argument) arguments.add("x-delivery-limit", field_value::of_int(*argument));
    return effective_rules(arguments, a_policy(definition).definition).delivery_limit;
  };
  CHECK(limit({}, R"({"max-length":1})") == 20U);  // [49]
  CHECK(limit({}, R"({"delivery-limit":30})") == 30U);
  CHECK(limit(10, R"({"delivery-limit":30})") == 10U);
  CHECK(limit(10, R"({"delivery-limit":-1})") == 10U);
  CHECK(limit(-1, R"({"delivery-limit":30})") == 30U);
  CHECK_FALSE(limit({}, R"({"delivery-limit":-1})"));
  CHECK_FALSE(limit({}, R"({"delivery-limit":-99})"));
}

TEST_CASE("a stream takes everything from the policy, and only what is a stream's", "[access]") {
  auto arguments = stream_arguments;
  arguments.add("x-max-age", text("1D"));
  arguments.add("x-max-length-bytes", number(10));
  const auto all = effective_arguments(
      arguments,
      a_policy(R"({"max-age":"7D","max-length-bytes":99,"stream-filter-size-bytes":32})").definition);
  CHECK(*all.find("x-max-age") == text("7D"));
  CHECK(*all.find("x-max-length-bytes") == number(99));
  CHECK(*all.find("x-stream-filter-size-bytes") == number(32));
  CHECK_FALSE(effective_arguments({}, a_policy(R"({"max-age":"7D"})").definition).contains("x-max-age"));
}

TEST_CASE("a dead-letter key of the policy goes with an exchange of the argument", "[access]") {
  const field_table arguments = {{"x-dead-letter-exchange", text("a")}};
  const auto rules = effective_rules(
      arguments, a_policy(R"({"dead-letter-exchange":"p","dead-letter-routing-key":"k"})").definition);
  CHECK(rules.dead_letter_exchange == "a");
  CHECK(rules.dead_letter_routing_key == "k");
  // Without an exchange there is nothing to do.
  CHECK(effective_rules({}, a_policy(R"({"dead-letter-routing-key":"k"})").definition) == mailbox_rules{});
}

TEST_CASE("times beyond ten years are ten years", "[access]") {
  const auto definition =
      a_policy(R"({"message-ttl":9223372036854775807,"expires":9223372036854775807})").definition;
  const auto rules = effective_rules({}, definition);
  CHECK(rules.message_ttl == 315'360'000'000ms);
  CHECK(rules.expires == 315'360'000'000ms);
}

TEST_CASE("an exchange's own alternate beats the policy's", "[access]") {
  const auto definition = a_policy(R"({"alternate-exchange":"p"})").definition;
  CHECK(effective_alternate_exchange({}, definition) == "p");
  CHECK(effective_alternate_exchange({{"alternate-exchange", text("a")}}, definition) == "a");
  CHECK_FALSE(effective_alternate_exchange({}, {}));
}

TEST_CASE("dispatch is a policy, too", "[access]") {
  const auto definition = a_policy(R"({"dispatch":"hash","hash-header":"key"})").definition;
  const auto all = effective_arguments({{"x-dispatch", text("random")}}, definition);
  CHECK(*all.find("x-dispatch") == text("random"));
  CHECK(*all.find("x-hash-header") == text("key"));
  CHECK(complaint(R"({"dispatch":"x"})").starts_with("<<\"x\">> is not a valid dispatch."));
}

TEST_CASE("an age has a unit", "[access]") {
  CHECK(max_age_of("1s") == 1s);
  CHECK(max_age_of("2m") == 2min);
  CHECK(max_age_of("3h") == 3h);
  CHECK(max_age_of("7D") == 7 * 24h);
  CHECK(max_age_of("1M") == 30 * 24h);
  CHECK(max_age_of("1Y") == 365 * 24h);
  for (const auto* wrong :
       {"", "1", "D", "0D", "-1D", "+1D", " 1D", "1D ", "1d", "1DD", "99999999999999999999D"}) {
    INFO(wrong);
    CHECK_FALSE(max_age_of(wrong));
  }
  CHECK(max_age_of("9000000000000000000Y")->count() == std::numeric_limits<std::int64_t>::max());
}

// --- properties --------------------------------------------------------------------------------------------

namespace {

// A slow model, written from RabbitMQ's rules: each key by itself, from at most three values.
struct model {
  std::mt19937 random;

  std::int64_t roll(std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  }

  std::optional<std::int64_t> some_number(std::int64_t least) {
    return roll(2) == 0 ? std::nullopt : std::optional{least + roll(6)};
  }
  std::optional<std::string> some_text(std::initializer_list<const char*> words) {
    const auto at = static_cast<std::size_t>(roll(static_cast<std::int64_t>(words.size()) + 1));
    return at == words.size() ? std::nullopt : std::optional<std::string>{words.begin()[at]};
  }
};

using numbers = std::map<std::string, std::optional<std::int64_t>>;

// The smallest of those that are there.
std::optional<std::int64_t> least_of(std::initializer_list<std::optional<std::int64_t>> values) {
  std::optional<std::int64_t> out;
  for (const auto& v : values) {
    if (v && (!out || *v < *out)) out = v;
  }
  return out;
}

// Negative stands for "no limit", which is more than any; nothing for "not said".
std::optional<std::int64_t> least_limit_of(std::initializer_list<std::optional<std::int64_t>> values) {
  bool said = false;
  std::optional<std::int64_t> out;
  for (const auto& v : values) {
    if (!v) continue;
    said = true;
    if (*v >= 0 && (!out || *v < *out)) out = v;
  }
  return out ? out : said ? std::optional<std::int64_t>{-1} : std::nullopt;
}

}  // namespace

TEST_CASE("arguments, policy and operator policy merge as the model says", "[access]") {
  model m{std::mt19937{20'261}};
  const std::vector<std::string> plain = {"expires", "message-ttl", "max-length", "max-length-bytes"};
  int interesting = 0;
  for (int round = 0; round < 20'000; ++round) {
    const bool quorum = m.roll(2) == 0;
    std::map<std::string, numbers> said;  // by key: a argument, p policy, o operator
    std::map<std::string, std::map<char, std::optional<std::string>>> texts;
    json::object policy_fields, operator_fields;
    field_table arguments;
    if (quorum) arguments.add("x-queue-type", text("quorum"));
    const auto put = [&](const std::string& key, const auto& a, const auto& p, const auto& o) {
      const auto field = [](const auto& v) {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::string>) {
          return field_value::of_string(v);
        } else {
          return number(v);
        }
      };
      if (a) arguments.add("x-" + key, field(*a));
      if (p) policy_fields.emplace(key, *p);
      if (o) operator_fields.emplace(key, *o);
    };
    std::map<std::string, std::optional<std::int64_t>> expected;
    for (const auto& key : plain) {
      const auto a = m.some_number(1), p = m.some_number(1), o = m.some_number(1);
      put(key, a, p, o);
      expected[key] = least_of({a, p, o});
      interesting += a && p && o && *a != *p && *p != *o ? 1 : 0;
    }
    if (quorum) {
      const auto a = m.some_number(-1), p = m.some_number(-2), o = m.some_number(-2);
      put("delivery-limit", a, p, o);
      expected["delivery-limit"] = least_limit_of({a, p, o});
    }
    const auto words = {"drop-head", "reject-publish"};
    const auto oa = m.some_text(words), op = m.some_text(words), oo = m.some_text(words);
    put("overflow", oa, op, oo);
    const auto of_policies = oo ? oo : op;
    const auto overflow = quorum ? (of_policies ? of_policies : oa) : (oa ? oa : of_policies);
    const auto xa = m.some_text({"a1", "a2"}), xp = m.some_text({"p1", "p2"});
    put("dead-letter-exchange", xa, xp, std::optional<std::string>{});

    std::optional<policy> p, o;
    if (!policy_fields.empty()) {
      p = checked(policy_kind::ordinary, "p", json::object{{"pattern", ""}, {"definition", policy_fields}})
              .value;
    }
    if (!operator_fields.empty()) {
      o = checked(policy_kind::of_operator, "o",
                  json::object{{"pattern", ""}, {"definition", operator_fields}})
              .value;
    }
    const auto definition = merged_definition(p ? &*p : nullptr, o ? &*o : nullptr);
    const auto rules = effective_rules(arguments, definition);
    INFO(round << " " << to_string(arguments) << " " << json::serialize(policy_fields) << " "
               << json::serialize(operator_fields));
    const auto count = [](const auto& value) {
      return value ? std::optional{static_cast<std::int64_t>(value->count())} : std::nullopt;
    };
    const auto whole = [](const auto& value) {
      return value ? std::optional{static_cast<std::int64_t>(*value)} : std::nullopt;
    };
    CHECK(count(rules.expires) == expected["expires"]);
    CHECK(count(rules.message_ttl) == expected["message-ttl"]);
    CHECK(whole(rules.length_max) == expected["max-length"]);
    CHECK(whole(rules.size_max) == expected["max-length-bytes"]);
    auto limit = expected["delivery-limit"];
    if (quorum && !limit) limit = 20;
    if (limit && *limit < 0) limit = std::nullopt;
    CHECK(whole(rules.delivery_limit) == limit);
    CHECK((rules.on_overflow == mailbox_rules::overflow::reject_publish) == (overflow == "reject-publish"));
    CHECK(rules.dead_letter_exchange == (xa ? xa : xp));

    // What is in force, once more, is in force: and the merge of a definition with itself is that definition.
    CHECK(effective_rules(effective_arguments(arguments, definition), definition) == rules);
    if (o) CHECK(merged_definition(&*o, &*o) == o->definition);
  }
  CHECK(interesting > 1000);
}

TEST_CASE("which policy applies does not depend on the order in which they were set", "[access]") {
  std::mt19937 random{99};
  const std::vector<const char*> targets = {"all",           "queues",  "classic_queues",
                                            "quorum_queues", "streams", "exchanges"};
  const std::vector<const char*> definitions = {R"({"max-length-bytes":1})", R"({"delivery-limit":1})",
                                                R"({"max-age":"1D"})", R"({"message-ttl":1})"};
  const std::vector<const char*> patterns = {"", "^q", "^x", "1$", "^q1$"};
  for (int round = 0; round < 300; ++round) {
    std::vector<policy> all;
    for (int i = 0; i < 8; ++i) {
      all.push_back(a_policy(definitions[random() % definitions.size()],
                             std::string(1, static_cast<char>('a' + i)),
                             static_cast<std::int64_t>(random() % 3), targets[random() % targets.size()],
                             patterns[random() % patterns.size()]));
    }
    // The model: all that apply, sorted.
    std::shuffle(all.begin(), all.end(), random);
    policy_set policies;
    for (const auto& p : all) policies.set(a_policy(R"({"max-length":1})", p.name, 9));  // to be replaced
    for (const auto& p : all) policies.set(p);
    const auto gone = all.back().name;
    policies.erase(gone);
    all.pop_back();
    std::sort(all.begin(), all.end(), [](const policy& a, const policy& b) {
      return a.priority != b.priority ? a.priority > b.priority : a.name < b.name;
    });
    for (const auto what :
         {subject::exchange, subject::classic_queue, subject::quorum_queue, subject::stream}) {
      for (const auto* name : {"q1", "q2", "x1", ""}) {
        const auto first =
            std::find_if(all.begin(), all.end(), [&](const policy& p) { return p.applies_to(what, name); });
        CHECK(matched(policies, what, name) ==
              (first == all.end() ? std::nullopt : std::optional{first->name}));
      }
    }
  }
}
