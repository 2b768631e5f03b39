// Numbers in brackets are those of docs/amqp.md.
#include "mailbox/consumer_arguments.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;

TEST_CASE("a consumer's priority is an integer of any width [53]", "[mailbox]") {
  const std::string described = "queue 'q' in vhost '/'";
  const auto checked = [&](const char* name, const field_value& value) {
    return check_consumer_arguments({{name, value}}, described).value_or("accepted");
  };
  CHECK(checked("x-priority", field_value::of_int(-5)) == "accepted");
  CHECK(checked("x-priority", {'b', std::int64_t{5}}) == "accepted");
  CHECK(checked("x-priority", field_value::of_string("high")) ==
        "invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got longstr\"");
  CHECK(checked("x-weight", field_value::of_int(3)) == "accepted");
  CHECK(checked("x-weight", field_value::of_int(0)) ==
        "invalid arg 'x-weight' for " + described + ": {value_zero,0}");
  CHECK(checked("x-weight", field_value::of_int(-1)) ==
        "invalid arg 'x-weight' for " + described + ": {value_negative,-1}");
  CHECK(checked("x-other", field_value::of_string("?")) == "accepted");
}

TEST_CASE("an argument that is for consumers of another type of queue is refused [4]", "[mailbox]") {
  const std::string described = "queue 'q' in vhost '/'";
  const auto checked = [&](const char* name, std::string_view type) {
    return check_consumer_of_type({{name, field_value::of_int(1)}}, type, described).value_or("accepted");
  };
  for (const auto* type : {"classic", "quorum"}) {
    CHECK(checked("x-stream-offset", type) ==
          "invalid arg 'x-stream-offset' for " + described + " of queue type rabbit_" + type + "_queue");
    CHECK(checked("x-stream-filter", type) != "accepted");
    CHECK(checked("x-stream-match-unfiltered", type) != "accepted");
    CHECK(checked("x-priority", type) == "accepted");
    CHECK(checked("x-weight", type) == "accepted");
  }
  for (const auto* type : {"classic", "stream"}) {
    CHECK(checked("x-consumer-timeout", type) ==
          "invalid arg 'x-consumer-timeout' for " + described + " of queue type rabbit_" + type + "_queue");
  }
  CHECK(checked("x-consumer-timeout", "quorum") == "accepted");
  CHECK(checked("x-stream-offset", "stream") == "accepted");
  CHECK(checked("x-other", "stream") == "accepted");
  CHECK(checked("x-priority", "stream") ==
        "invalid arg 'x-priority' for " + described + " of queue type rabbit_stream_queue");
}

TEST_CASE("what a consumer wishes is read from its arguments", "[mailbox]") {
  CHECK(wishes_of({}) == consumer_wishes{});
  CHECK(wishes_of({{"x-priority", field_value::of_int(-7)}, {"x-weight", field_value::of_int(3)}}) ==
        consumer_wishes{-7, 3});
  CHECK(wishes_of({{"x-consumer-timeout", field_value::of_int(500)}}).timeout ==
        std::chrono::milliseconds{500});
  const field_table forever{{"x-consumer-timeout", field_value::of_long(std::int64_t{1} << 62)}};
  CHECK_FALSE(check_consumer_arguments(forever, "queue 'q' in vhost '/'"));
  CHECK(wishes_of(forever).timeout == std::chrono::milliseconds{315'360'000'000});
  CHECK(check_consumer_arguments({{"x-consumer-timeout", field_value::of_string("soon")}},
                                 "queue 'q' in vhost '/'") ==
        "invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': \"expected integer, got longstr\"");
  CHECK(
      check_consumer_arguments({{"x-consumer-timeout", field_value::of_int(-1)}}, "queue 'q' in vhost '/'") ==
      "invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/': {value_negative,-1}");
  CHECK(wishes_of({{"x-weight", field_value::of_long(1'000'000)}}).weight == 65'535);
  CHECK(wishes_of({{"x-priority", field_value::of_string("high")}}) == consumer_wishes{});
}
