// Numbers in brackets are those of docs/amqp.md.
#include "mailbox/queue_arguments.hpp"

#include "mailbox/topology.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

using namespace posthorn;

namespace {

const std::string described = "queue 'q' in vhost '/'";

declare_queue a_command() {
  declare_queue c;
  c.name = "q";
  c.durable = true;
  return c;
}

std::string checked(const declare_queue& c, const field_table& arguments) {
  const auto refused = check_queue_arguments(c, arguments, described);
  if (!refused) return "accepted";
  CHECK(refused->why == refusal::kind::precondition_failed);
  return refused->text;
}

}  // namespace

TEST_CASE("a queue may be classic, quorum or a stream, and unknown arguments are ignored [2] [3]",
          "[topology]") {
  const auto c = a_command();
  CHECK(checked(c, {}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("classic")}}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("quorum")}}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("stream")}}) == "accepted");
  CHECK(checked(c, {{"x-who-knows", field_value::of_int(-1)}, {"y", field_value::nothing()}}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("other")}}) ==
        "invalid arg 'x-queue-type' for " + described + ": \"unsupported queue type 'other'\"");
  CHECK(checked(c, {{"x-queue-type", field_value::of_int(1)}}) ==
        "invalid arg 'x-queue-type' for " + described + ": {unacceptable_type,signedint}");
}

TEST_CASE("a quorum queue or a stream is durable, shared, and stays [10]", "[topology]") {
  const std::string type = GENERATE("quorum", "stream");
  const field_table quorum{{"x-queue-type", field_value::of_string(type)}};
  auto c = a_command();
  c.server_named = true;
  CHECK(checked(c, quorum) == "Cannot declare a server-named queue for type rabbit_" + type + "_queue");
  c = a_command();
  c.auto_delete = true;
  CHECK(checked(c, quorum) == "invalid property 'auto-delete' for " + described);
  c = a_command();
  c.exclusive = true;
  CHECK(checked(c, quorum) == "invalid property 'exclusive-owner' for " + described);
  c = a_command();
  c.durable = false;
  CHECK(checked(c, quorum) == "invalid property 'non-durable' for " + described);
}

TEST_CASE("a queue that drops duplicates is asked for with a boolean", "[topology]") {
  const std::string name = "x-message-deduplication";
  CHECK(checked(a_command(), {{name, field_value::of_bool(true)}}) == "accepted");
  CHECK(checked(a_command(), {{name, field_value::of_int(1)}}) ==
        "invalid arg '" + name + "' for " + described + ": {unacceptable_type,signedint}");
}

TEST_CASE("dead letters are kept until there is a way only together with reject-publish [66]", "[topology]") {
  const auto text = [](const char* t) { return field_value::of_string(t); };
  field_table arguments{{"x-queue-type", text("quorum")},
                        {"x-dead-letter-strategy", text("at-least-once")},
                        {"x-dead-letter-exchange", text("dlx")}};
  CHECK_FALSE(rules_of(arguments).at_least_once);
  arguments.set("x-overflow", text("reject-publish"));
  CHECK(rules_of(arguments).at_least_once);
  CHECK(rules_of(arguments_of(rules_of(arguments))) == rules_of(arguments));
  arguments.set("x-queue-type", text("classic"));
  CHECK_FALSE(rules_of(arguments).at_least_once);
}

TEST_CASE("what only a quorum queue knows of time [54] [67]", "[topology]") {
  using namespace std::chrono_literals;
  const auto text = [](const char* t) { return field_value::of_string(t); };
  field_table arguments{{"x-queue-type", text("quorum")},
                        {"x-consumer-timeout", field_value::of_int(1000)},
                        {"x-delayed-retry-type", text("failed")},
                        {"x-delayed-retry-min", field_value::of_int(20)},
                        {"x-delayed-retry-max", field_value::of_int(90)}};
  CHECK(checked(a_command(), arguments) == "accepted");
  const auto rules = rules_of(arguments);
  CHECK(rules.consumer_timeout == 1000ms);
  CHECK(rules.retry == mailbox_rules::delayed_retry::failed);
  CHECK(rules.retry_min == 20ms);
  CHECK(rules.retry_max == 90ms);
  CHECK(rules_of(arguments_of(rules)) == rules);
  arguments.set("x-delayed-retry-type", text("sometimes"));
  CHECK(checked(a_command(), arguments) == "accepted");  // as RabbitMQ does [3]
  CHECK(rules_of(arguments).retry == mailbox_rules::delayed_retry::disabled);
  arguments.set("x-delayed-retry-type", text("all"));
  arguments.set("x-delayed-retry-min", field_value::of_int(-1));
  CHECK(checked(a_command(), arguments) ==
        "invalid arg 'x-delayed-retry-min' for " + described + ": {value_negative,-1}");
  arguments.set("x-queue-type", text("classic"));
  CHECK(rules_of(arguments) == mailbox_rules{});
  // No time is too long for a consumer, and those of RabbitMQ that mean nothing here are looked at all the same.
  const auto answer = [&](const char* name, field_value value) {
    return checked(a_command(), {{"x-queue-type", text("quorum")}, {name, std::move(value)}});
  };
  CHECK(answer("x-consumer-timeout", field_value::of_long(std::int64_t{1} << 62)) == "accepted");
  CHECK(answer("x-dead-letter-strategy", text("other")) ==
        "invalid arg 'x-dead-letter-strategy' for " + described + ": invalid_dlx_strategy");
  CHECK(answer("x-quorum-initial-group-size", field_value::of_int(0)) ==
        "invalid arg 'x-quorum-initial-group-size' for " + described + ": {value_zero,0}");
  for (const auto* name :
       {"x-consumer-disconnected-timeout", "x-max-in-memory-length", "x-max-in-memory-bytes"}) {
    const auto start = "invalid arg '" + std::string{name} + "' for " + described + ": ";
    CHECK(answer(name, field_value::of_int(0)) == "accepted");
    CHECK(answer(name, field_value::of_int(-1)) == start + "{value_negative,-1}");
    CHECK(answer(name, text("1")) == start + "\"expected integer, got longstr\"");
  }
}

TEST_CASE("an argument that only another type of queue knows is refused [4]", "[topology]") {
  const auto answer = [](const char* type, const char* name, field_value value) {
    return checked(a_command(), {{"x-queue-type", field_value::of_string(type)}, {name, std::move(value)}});
  };
  const auto refused = [](const std::string& name, const std::string& type) {
    return "invalid arg '" + name + "' for " + described + " of queue type rabbit_" + type + "_queue";
  };
  const auto text = [](const char* t) { return field_value::of_string(t); };
  CHECK(answer("quorum", "x-max-priority", field_value::of_int(5)) == refused("x-max-priority", "quorum"));
  CHECK(answer("quorum", "x-queue-mode", text("lazy")) == refused("x-queue-mode", "quorum"));
  CHECK(answer("quorum", "x-queue-version", field_value::of_int(2)) == refused("x-queue-version", "quorum"));
  CHECK(answer("quorum", "x-max-age", text("1h")) == refused("x-max-age", "quorum"));
  for (const auto* type : {"classic", "quorum"}) {
    for (const auto* name :
         {"x-stream-max-segment-size-bytes", "x-stream-filter-size-bytes", "x-initial-cluster-size"}) {
      CHECK(answer(type, name, field_value::of_int(16)) == refused(name, type));
      CHECK(answer("stream", name, field_value::of_int(16)) == "accepted");
    }
  }
  for (const auto* name : {"x-message-ttl", "x-max-length", "x-max-priority", "x-dispatch"}) {
    const auto value = std::string_view{name} == "x-dispatch" ? text("random") : field_value::of_int(5);
    CHECK(answer("stream", name, value) == refused(name, "stream"));
  }
  CHECK(answer("stream", "x-max-age", text("5")) ==
        "invalid arg 'x-max-age' for " + described + ": invalid_max_age");
  for (const auto* name :
       {"x-quorum-initial-group-size", "x-consumer-timeout", "x-consumer-disconnected-timeout",
        "x-max-in-memory-length", "x-max-in-memory-bytes"}) {
    for (const auto* type : {"classic", "stream"}) {
      CHECK(answer(type, name, field_value::of_int(1)) == refused(name, type));
      CHECK(answer(type, name, text("no number")) == refused(name, type));  // before what it says is read
    }
  }
  CHECK(checked(a_command(), {{"x-max-age", text("1h")}, {"x-consumer-timeout", field_value::of_int(5)}}) ==
        refused("x-consumer-timeout", "classic"));  // the first by name
  auto transient = a_command();
  transient.durable = false;
  CHECK(checked(transient, {{"x-queue-type", text("quorum")}, {"x-max-age", text("1h")}}) ==
        refused("x-max-age", "quorum"));
  CHECK(answer("classic", "x-dead-letter-strategy", text("at-least-once")) ==
        refused("x-dead-letter-strategy", "classic"));
  CHECK(answer("classic", "x-delayed-retry-type", text("all")) == refused("x-delayed-retry-type", "classic"));
  CHECK(answer("classic", "x-delivery-limit", field_value::of_int(5)) == "accepted");
}

TEST_CASE("an argument with a value that it cannot have is refused, in RabbitMQ's words [3]", "[topology]") {
  const auto answer = [](const char* name, field_value value) {
    const auto text = checked(a_command(), {{name, std::move(value)}});
    const std::string start = "invalid arg '" + std::string{name} + "' for " + described + ": ";
    return text.starts_with(start) ? text.substr(start.size()) : text;
  };
  const auto number = [](std::int64_t n) { return field_value::of_long(n); };
  const auto text = [](const char* t) { return field_value::of_string(t); };
  for (const auto* name : {"x-message-ttl", "x-max-length", "x-max-length-bytes"}) {
    CHECK(answer(name, field_value::of_int(0)) == "accepted");
    CHECK(answer(name, number(60'000)) == "accepted");
    CHECK(answer(name, {'b', std::int64_t{5}}) == "accepted");
    CHECK(answer(name, number(-1)) == "{value_negative,-1}");
    CHECK(answer(name, text("5")) == "\"expected integer, got longstr\"");
    CHECK(answer(name, field_value::of_double(1.5)) == "\"expected integer, got double\"");
    CHECK(answer(name, field_value::of_timestamp(5)) == "\"expected integer, got timestamp\"");
  }
  CHECK(answer("x-expires", number(1)) == "accepted");
  CHECK(answer("x-expires", number(0)) == "{value_zero,0}");
  CHECK(answer("x-expires", number(-7)) == "{value_negative,-7}");
  CHECK(answer("x-expires", field_value::of_bool(true)) == "\"expected integer, got bool\"");
  CHECK(answer("x-expires", number(315'360'000'000)) == "accepted");
  CHECK(answer("x-expires", number(315'360'000'001)) == "{value_too_large,315360000001}");
  CHECK(answer("x-message-ttl", number(315'360'000'001)) == "{value_too_large,315360000001}");
  CHECK(answer("x-max-length", number(std::int64_t{1} << 62)) == "accepted");
  for (const auto* how : {"drop-head", "reject-publish", "reject-publish-dlx"}) {
    CHECK(answer("x-overflow", text(how)) == "accepted");
  }
  CHECK(answer("x-overflow", text("drop-tail")) == "invalid_overflow");
  CHECK(answer("x-overflow", number(1)) == "{unacceptable_type,long}");
  CHECK(answer("x-delivery-limit", number(0)) == "accepted");
  CHECK(answer("x-delivery-limit", number(-1)) == "accepted");
  CHECK(answer("x-delivery-limit", number(-2)) == "accepted");
  CHECK(answer("x-delivery-limit", text("3")) == "accepted");
  CHECK(answer("x-max-priority", number(0)) == "accepted");
  CHECK(answer("x-max-priority", number(255)) == "accepted");
  CHECK(answer("x-max-priority", number(256)) == "{max_value_exceeded,256}");
  CHECK(answer("x-max-priority", number(-1)) == "{value_negative,-1}");
  CHECK(answer("x-max-priority", text("5")) == "\"expected integer, got longstr\"");
  CHECK(answer("x-single-active-consumer", field_value::of_bool(false)) == "accepted");
  CHECK(answer("x-single-active-consumer", text("yes")) == "{unacceptable_type,longstr}");
  CHECK(answer("x-queue-version", number(2)) == "accepted");
  CHECK(answer("x-queue-version", number(3)) == "\"unsupported queue version '3'\"");
  CHECK(answer("x-queue-version", number(-1)) == "{value_negative,-1}");
  CHECK(answer("x-queue-version", text("2")) == "\"expected integer, got longstr\"");
  CHECK(answer("x-queue-mode", text("other")) == "accepted");
  CHECK(answer("x-queue-leader-locator", text("balanced")) == "accepted");
  CHECK(answer("x-queue-leader-locator", text("other")) == "invalid_queue_locator_arg");
  for (const auto* how : {"round-robin", "random", "weighted", "least-response-time", "hash"}) {
    CHECK(answer("x-dispatch", text(how)) == "accepted");
  }
  for (const auto* how : {"broadcast", "smallest-mailbox", "other"}) {
    CHECK(answer("x-dispatch", text(how)) == "\"unsupported dispatch '" + std::string{how} + "'\"");
  }
  CHECK(answer("x-dispatch", number(1)) == "{unacceptable_type,long}");
  CHECK(answer("x-hash-header", number(1)) == "{unacceptable_type,long}");
}

TEST_CASE("a dead-letter exchange is named by text, and a routing key for it needs one [3]", "[topology]") {
  const auto c = a_command();
  const auto text = field_value::of_string("dlx");
  CHECK(checked(c, {{"x-dead-letter-exchange", text}}) == "accepted");
  CHECK(checked(c, {{"x-dead-letter-exchange", field_value::of_string("")}}) == "accepted");
  CHECK(checked(c, {{"x-dead-letter-exchange", field_value::of_int(1)}}) ==
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in " + described);
  CHECK(checked(c, {{"x-dead-letter-exchange", text}, {"x-dead-letter-routing-key", text}}) == "accepted");
  const std::string start = "invalid arg 'x-dead-letter-routing-key' for " + described + ": ";
  CHECK(checked(c, {{"x-dead-letter-routing-key", text}}) == start + "routing_key_but_no_dlx_defined");
  CHECK(
      checked(c, {{"x-dead-letter-exchange", text}, {"x-dead-letter-routing-key", field_value::of_int(1)}}) ==
      start + "{unacceptable_type,signedint}");
}

TEST_CASE("the rules of a mailbox are read from the queue's arguments", "[topology]") {
  using overflow = mailbox_rules::overflow;
  CHECK(rules_of({}) == mailbox_rules{});
  CHECK(rules_of({{"x-queue-type", field_value::of_string("classic")}, {"x-mine", field_value::of_int(3)}}) ==
        mailbox_rules{});
  const auto all = rules_of({
      {"x-message-ttl", field_value::of_int(0)},
      {"x-expires", field_value::of_long(60'000)},
      {"x-max-length", field_value::of_int(10)},
      {"x-max-length-bytes", field_value::of_long(std::int64_t{1} << 40)},
      {"x-overflow", field_value::of_string("reject-publish-dlx")},
      {"x-dead-letter-exchange", field_value::of_string("")},
      {"x-dead-letter-routing-key", field_value::of_string("k")},
      {"x-delivery-limit", field_value::of_int(3)},
  });
  CHECK(all.message_ttl == std::chrono::milliseconds{0});
  CHECK(all.expires == std::chrono::minutes{1});
  CHECK(all.length_max == 10);
  CHECK(all.size_max == std::uint64_t{1} << 40);
  CHECK(all.on_overflow == overflow::reject_publish_dlx);
  CHECK(all.dead_letter_exchange == "");
  CHECK(all.dead_letter_routing_key == "k");
  CHECK(all.delivery_limit == 3);
  CHECK(rules_of({{"x-overflow", field_value::of_string("reject-publish")}}).on_overflow ==
        overflow::reject_publish);
  CHECK(rules_of({{"x-overflow", field_value::of_string("drop-head")}}) == mailbox_rules{});
  CHECK(rules_of({{"x-overflow", field_value::of_string("reject-publish-dlx")},
                  {"x-queue-type", field_value::of_string("quorum")}})
            .on_overflow == overflow::drop_head);
}

TEST_CASE("who gets a message, and in which order, is read from the queue's arguments, and written back",
          "[topology]") {
  const auto text = [](const char* t) { return field_value::of_string(t); };
  const auto classic = rules_of({{"x-max-priority", field_value::of_int(10)},
                                 {"x-single-active-consumer", field_value::of_bool(true)},
                                 {"x-dispatch", text("weighted")},
                                 {"x-hash-header", text("not of a hash")}});
  CHECK(classic == mailbox_rules{.priority_max = 10,
                                 .single_active = true,
                                 .dispatch = balance_algorithm::weighted_round_robin});
  CHECK(rules_of(arguments_of(classic)) == classic);
  const auto quorum = rules_of({{"x-queue-type", text("quorum")},
                                {"x-delivery-limit", field_value::of_int(-1)},
                                {"x-dispatch", text("hash")},
                                {"x-hash-header", text("customer")}});
  CHECK(quorum == mailbox_rules{.quorum = true,
                                .dispatch = balance_algorithm::consistent_hash,
                                .hash_header = "customer"});
  CHECK(rules_of(arguments_of(quorum)) == quorum);
  CHECK(rules_of({{"x-max-priority", field_value::of_int(0)}}) == mailbox_rules{});
  CHECK(rules_of({{"x-single-active-consumer", field_value::of_bool(false)}}) == mailbox_rules{});
}

TEST_CASE("a quorum queue limits deliveries to 20 unless it is told otherwise [49]", "[topology]") {
  const std::pair<std::string, field_value> quorum{"x-queue-type", field_value::of_string("quorum")};
  const auto limit = [](std::int32_t n) {
    return std::pair<std::string, field_value>{"x-delivery-limit", field_value::of_int(n)};
  };
  const auto rules = [](std::initializer_list<std::pair<std::string, field_value>> arguments) {
    field_table table;
    for (const auto& [name, value] : arguments) table.set(name, value);
    return rules_of(table);
  };
  CHECK(rules({quorum}).delivery_limit == 20);
  CHECK(rules({quorum, limit(5)}).delivery_limit == 5);
  CHECK(rules({quorum, limit(0)}).delivery_limit == 0);
  CHECK_FALSE(rules({quorum, limit(-1)}).delivery_limit);
  CHECK_FALSE(rules({quorum, limit(-2)}).delivery_limit);
  CHECK_FALSE(rules({}).delivery_limit);
  CHECK(rules({limit(2)}).delivery_limit == 2);
}

TEST_CASE("two declarations mean the same when the arguments that count are equal by value [1] [2]",
          "[topology]") {
  const auto compared = [](const field_table& current, const field_table& received) {
    const auto refused = inequivalent_queue_arguments(current, received, described);
    return refused ? refused->text : "the same";
  };
  const auto narrow = field_value::of_int(1000), wide = field_value::of_long(1000);
  const std::string start = "inequivalent arg 'x-max-length' for " + described + ": received ";
  CHECK(compared({}, {}) == "the same");
  CHECK(compared({{"x-max-length", narrow}}, {{"x-max-length", wide}}) == "the same");
  CHECK(compared({{"x-max-length", narrow}}, {{"x-max-length", field_value::of_int(5)}}) ==
        start + "'5' but current is '1000'");
  CHECK(compared({}, {{"x-max-length", narrow}}) ==
        start + "the value '1000' of type 'signedint' but current is none");
  CHECK(compared({{"x-max-length", narrow}}, {}) ==
        start + "none but current is the value '1000' of type 'signedint'");
  CHECK(compared({{"x-max-length", narrow}}, {{"x-max-length", field_value::of_string("1000")}}) !=
        "the same");
  CHECK(compared({{"x-queue-type", field_value::of_string("classic")}}, {}) == "the same");
  CHECK(compared({}, {{"x-queue-type", field_value::of_string("classic")}}) == "the same");
  const std::string type = "inequivalent arg 'x-queue-type' for " + described + ": received ";
  CHECK(compared({}, {{"x-queue-type", field_value::of_string("quorum")}}) ==
        type + "'quorum' but current is 'classic'");
  CHECK(compared({{"x-queue-type", field_value::of_string("quorum")}}, {}) ==
        type + "'classic' but current is 'quorum'");
  CHECK(compared({{"x-mine", narrow}}, {}) == "the same");
  // How long an age is counts, and not how it is written; what it is compared as, RabbitMQ tells.
  const std::pair<std::string, field_value> stream{"x-queue-type", field_value::of_string("stream")};
  const field_table hour{stream, {"x-max-age", field_value::of_string("1h")}};
  CHECK(compared(hour, {stream, {"x-max-age", field_value::of_string("60m")}}) == "the same");
  const std::string age = "inequivalent arg 'x-max-age' for " + described + ": received ";
  CHECK(compared(hour, {stream, {"x-max-age", field_value::of_string("2h")}}) ==
        age + "'7200000' but current is '3600000'");
  CHECK(compared(hour, {stream}) == age + "none but current is the value '3600000' of type 'longstr'");
  CHECK(compared({stream}, {stream, {"x-stream-max-segment-size-bytes", narrow}}) ==
        "inequivalent arg 'x-stream-max-segment-size-bytes' for " + described +
            ": received the value '1000' of type 'signedint' but current is none");
  CHECK(compared({{"x-delivery-limit", narrow}}, {}) != "the same");
  // Equal is what has the same value, whatever its type; what is nothing, is none.
  CHECK(compared({{"x-max-length", narrow}}, {{"x-max-length", field_value::of_timestamp(1000)}}) ==
        "the same");
  CHECK(compared({{"x-max-length", narrow}}, {{"x-max-length", field_value::nothing()}}) ==
        start + "none but current is '1000'");
  CHECK(compared({{"x-max-length", narrow}},
                 {{"x-max-length", {'A', field_array{field_value::of_string("a")}}}}) ==
        start + "'[{longstr,<<\"a\">>}]' but current is '1000'");
}

TEST_CASE(
    "what a type of queue does not know, is not compared; all that it knows is, in RabbitMQ's order [2]",
    "[topology]") {
  const auto named = [](const field_table& current, const field_table& received) -> std::string {
    const auto refused = inequivalent_queue_arguments(current, received, described);
    if (!refused) return "none";
    const auto begin = refused->text.find('\'') + 1;
    return refused->text.substr(begin, refused->text.find('\'', begin) - begin);
  };
  const auto of_type = [](const char* type) {
    return field_table{{"x-queue-type", field_value::of_string(type)}};
  };
  const auto order = [&](const char* type, std::initializer_list<const char*> names) {
    auto all = of_type(type);
    for (const auto* name : names) all.set(name, field_value::of_int(1));
    auto received = of_type(type);
    for (const auto* name : names) {
      CAPTURE(name);
      CHECK(named(all, received) == name);
      received.set(name, field_value::of_int(1));
    }
    CHECK(named(all, received) == "none");
  };
  order("classic", {"x-expires", "x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key",
                    "x-max-length", "x-max-length-bytes", "x-max-priority", "x-overflow", "x-queue-mode",
                    "x-queue-version", "x-single-active-consumer", "x-queue-leader-locator",
                    "x-delivery-limit", "x-dispatch", "x-hash-header"});
  order("quorum", {"x-dead-letter-exchange",
                   "x-dead-letter-routing-key",
                   "x-dead-letter-strategy",
                   "x-expires",
                   "x-max-length",
                   "x-max-length-bytes",
                   "x-max-in-memory-length",
                   "x-max-in-memory-bytes",
                   "x-overflow",
                   "x-single-active-consumer",
                   "x-quorum-initial-group-size",
                   "x-delivery-limit",
                   "x-message-ttl",
                   "x-queue-leader-locator",
                   "x-consumer-disconnected-timeout",
                   "x-consumer-timeout",
                   "x-delayed-retry-type",
                   "x-delayed-retry-min",
                   "x-delayed-retry-max",
                   "x-dispatch",
                   "x-hash-header"});
  order("stream", {"x-max-length-bytes", "x-max-age", "x-stream-max-segment-size-bytes",
                   "x-stream-filter-size-bytes", "x-initial-cluster-size", "x-queue-leader-locator"});
  CHECK(named({}, {{"x-max-age", field_value::of_string("1h")}}) == "none");
}
