// Numbers in brackets are those of docs/amqp.md.
#include "mailbox/queue_arguments.hpp"

#include "mailbox/topology.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>

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

TEST_CASE("a queue may be classic or quorum, and unknown arguments are ignored [2] [3]", "[topology]") {
  const auto c = a_command();
  CHECK(checked(c, {}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("classic")}}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("quorum")}}) == "accepted");
  CHECK(checked(c, {{"x-who-knows", field_value::of_int(-1)}, {"y", field_value::nothing()}}) == "accepted");
  CHECK(checked(c, {{"x-queue-type", field_value::of_string("stream")}}).find("'stream'") !=
        std::string::npos);
  CHECK(checked(c, {{"x-queue-type", field_value::of_int(1)}}) ==
        "invalid arg 'x-queue-type' for " + described + ": {unacceptable_type,signedint}");
}

TEST_CASE("a quorum queue is durable, shared, and stays [10]", "[topology]") {
  const field_table quorum{{"x-queue-type", field_value::of_string("quorum")}};
  auto c = a_command();
  c.server_named = true;
  CHECK(checked(c, quorum) == "Cannot declare a server-named queue for type quorum");
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

TEST_CASE("an argument that promises what is not there yet is refused by its name", "[topology]") {
  for (const auto* name :
       {"x-expires", "x-message-ttl", "x-max-length", "x-max-length-bytes", "x-max-priority", "x-overflow",
        "x-dead-letter-exchange", "x-delivery-limit", "x-single-active-consumer"}) {
    const auto text = checked(a_command(), {{name, field_value::of_int(1)}});
    CHECK(text.find("invalid arg '" + std::string{name} + "' for " + described) == 0);
  }
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
  CHECK(compared({}, {{"x-queue-type", field_value::of_string("quorum")}}) != "the same");
  CHECK(compared({{"x-mine", narrow}}, {}) == "the same");
}
