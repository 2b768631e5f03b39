// Streams: their arguments, the steps in which they are cut, and what one reader sees. Long sequences of everything are in
// stream_log_model_test.cpp.
#include "mailbox/properties.hpp"
#include "mailbox/stream_log.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using from = stream_start::from;

namespace {

constexpr auto described = "queue 'q' in vhost '/'";

std::string told(const std::optional<refusal>& refused) {
  if (!refused) return "accepted";
  const std::string code = refused->why == refusal::kind::not_implemented ? "540 " : "406 ";
  return code + refused->text;
}

std::string declared(const field_table& arguments) {
  if (const auto refused = check_stream_argument_names(arguments, described)) return told(refused);
  return told(check_stream_arguments(arguments, described));
}

std::string declared(const char* name, field_value value) { return declared({{name, std::move(value)}}); }

field_value text(const char* t) { return field_value::of_string(t); }
field_value number(std::int64_t n) { return field_value::of_long(n); }

stream_start start_with(field_value value, std::int64_t now = 1'700'000'000'000) {
  return stream_start_of({{"x-stream-offset", std::move(value)}}, now);
}

envelope_ptr message(const std::string& body, const field_table& headers = {}) {
  basic_properties p;
  p.headers = headers;
  std::string properties;
  encode_properties(p, properties);
  return make_envelope("x", "k", std::as_bytes(std::span{properties}), false, std::as_bytes(std::span{body}));
}

// A stream with all of its messages in memory.
class stream {
public:
  explicit stream(const stream_rules& rules = {}) : log{rules} {}

  void publish(const std::vector<std::string>& bodies, std::int64_t now = 1000,
               const field_table& headers = {}) {
    std::vector<arrival> arrivals;
    for (const auto& body : bodies) arrivals.push_back({message(body, headers), {1}, ++published_});
    log.publish(arrivals, now);
    const auto batch = log.take_batch();
    log.on_committed(fx, now);
  }
  void read(std::uint64_t reader, const stream_start& start, std::uint32_t prefetch = 100,
            stream_filter filter = {}) {
    consumer_spec spec;
    spec.id = {reader};
    spec.prefetch = prefetch;
    spec.credit = 1'000'000;
    log.add_reader(spec, start, std::move(filter));
  }
  // Offset and body of what a reader is handed now.
  std::vector<std::pair<std::uint64_t, std::string>> delivered(std::uint64_t reader) {
    log.dispatch(fx);
    std::vector<std::pair<std::uint64_t, std::string>> out;
    for (const auto& d : fx.deliveries) {
      const auto body = d.message->body();
      if (d.to.value == reader)
        out.emplace_back(offset_of(d.at),
                         std::string{reinterpret_cast<const char*>(body.data()), body.size()});
    }
    std::erase_if(fx.deliveries, [reader](const delivery& d) { return d.to.value == reader; });
    return out;
  }

  stream_log log;
  effects fx;

private:
  std::uint64_t published_ = 0;
};

using read_messages = std::vector<std::pair<std::uint64_t, std::string>>;

}  // namespace

TEST_CASE("an age is a number and one of Y, M, D, h, m, s", "[stream]") {
  CHECK(stream_age("1s") == seconds{1});
  CHECK(stream_age("2m") == seconds{120});
  CHECK(stream_age("3h") == hours{3});
  CHECK(stream_age("7D") == hours{7 * 24});
  CHECK(stream_age("2M") == hours{60 * 24});
  CHECK(stream_age("1Y") == hours{365 * 24});
  CHECK(stream_age("007s") == seconds{7});
  CHECK(stream_age("99999999999999999999Y") == milliseconds::max());
  CHECK(stream_age("9223372036854775Y") == milliseconds::max());
  for (const auto* wrong : {"", "5", "s", "0s", "-1s", "+1s", "1 s", " 1s", "1S", "1hh", "1d", "1.5h", "h1"})
    CHECK_FALSE(stream_age(wrong).has_value());
}

TEST_CASE("a stream is declared with its own arguments, in RabbitMQ's words [3] [4]", "[stream]") {
  const std::string start = std::string{" for "} + described + ": ";
  const auto wrong = [&](const std::string& name, const std::string& what) {
    return "406 invalid arg '" + name + "'" + start + what;
  };
  CHECK(declared("x-max-age", text("7D")) == "accepted");
  CHECK(declared("x-max-age", text("5")) == wrong("x-max-age", "invalid_max_age"));
  CHECK(declared("x-max-age", field_value::of_int(5)) == wrong("x-max-age", "{unacceptable_type,signedint}"));
  for (const std::string name : {"x-max-length-bytes", "x-stream-max-segment-size-bytes"}) {
    CHECK(declared(name.c_str(), number(0)) == "accepted");
    CHECK(declared(name.c_str(), number(-1)) == wrong(name, "{value_negative,-1}"));
    CHECK(declared(name.c_str(), text("1")) == wrong(name, "\"expected integer, got longstr\""));
  }
  CHECK(declared("x-stream-max-segment-size-bytes", number(3'000'000'000)) == "accepted");
  CHECK(declared("x-stream-max-segment-size-bytes", number(4'000'000'000)) ==
        "406 Exceeded max value for x-stream-max-segment-size-bytes");
  for (const auto size : {16, 255}) CHECK(declared("x-stream-filter-size-bytes", number(size)) == "accepted");
  for (const auto size : {15, 256}) {
    CHECK(declared("x-stream-filter-size-bytes", number(size)) ==
          "406 Invalid value for x-stream-filter-size-bytes");
  }
  for (const std::string name :
       {"x-message-ttl", "x-dead-letter-exchange", "x-expires", "x-overflow", "x-max-length",
        "x-max-priority", "x-delivery-limit", "x-single-active-consumer", "x-consumer-timeout"}) {
    CHECK(declared(name.c_str(), number(5)) ==
          "406 invalid arg '" + name + "' for " + described + " of queue type rabbit_stream_queue");
  }
  CHECK(declared("x-stream-filter-size-bytes", text("a")) ==
        wrong("x-stream-filter-size-bytes", "\"expected integer, got longstr\""));
  // Which of several mistakes is told: what only others know, then a value, then what is too large.
  const auto unknown =
      "406 invalid arg 'x-message-ttl' for " + std::string{described} + " of queue type rabbit_stream_queue";
  CHECK(declared({{"x-message-ttl", number(5)}, {"x-max-age", text("5")}}) == unknown);
  CHECK(declared({{"x-stream-max-segment-size-bytes", number(4'000'000'000)},
                  {"x-message-ttl", number(5)}}) == unknown);
  CHECK(declared({{"x-stream-max-segment-size-bytes", number(4'000'000'000)}, {"x-max-age", text("5")}}) ==
        wrong("x-max-age", "invalid_max_age"));
  CHECK(declared("x-mine", number(5)) == "accepted");
  const auto rules = stream_rules_of({{"x-max-age", text("2m")},
                                      {"x-max-length-bytes", number(1000)},
                                      {"x-stream-max-segment-size-bytes", number(100)}});
  CHECK(rules == stream_rules{1000, seconds{120}, 100});
  CHECK(stream_rules_of({}) == stream_rules{});
}

TEST_CASE("a reader needs a prefetch, acknowledges, and begins somewhere [55]", "[stream]") {
  const auto answer = [](const field_table& arguments, std::uint32_t prefetch = 10,
                         bool acknowledges = true) {
    return told(check_stream_reader(arguments, prefetch, acknowledges, described));
  };
  CHECK(answer({}) == "accepted");
  CHECK(answer({}, 0) == "406 consumer prefetch count is not set for stream queue 'q' in vhost '/'");
  CHECK(answer({}, 10, false) ==
        "540 automatic acknowledgement not supported by stream queue 'q' in vhost '/'");
  const auto offset = [&](field_value value) { return answer({{"x-stream-offset", std::move(value)}}); };
  for (const auto* where : {"first", "last", "next", "1h", "3M"}) CHECK(offset(text(where)) == "accepted");
  CHECK(offset(number(5)) == "accepted");
  CHECK(offset(field_value::of_timestamp(5)) == "accepted");
  const std::string start = "406 invalid arg 'x-stream-offset' for queue 'q' in vhost '/': ";
  CHECK(offset(text("soon")) == start + "{invalid_stream_offset_arg,{longstr,<<\"soon\">>}}");
  CHECK(offset(text("3")) == start + "{invalid_stream_offset_arg,{longstr,<<\"3\">>}}");
  CHECK(told(check_stream_reader({{"x-stream-offset", text("soon")}}, 0, false, described)).ends_with("}}"));
  CHECK(offset(text("0s")) == start + "{invalid_stream_offset_arg,{longstr,<<\"0s\">>}}");
  CHECK(offset(text("")) == start + "{invalid_stream_offset_arg,{longstr,<<>>}}");
  CHECK(offset(field_value::of_bool(true)) == start + "{invalid_stream_offset_arg,{bool,true}}");
  CHECK(told(not_of_streams("basic.get", described)) ==
        "540 basic.get not supported by stream queues queue 'q' in vhost '/'");
  CHECK(told(not_of_streams("queue.purge", described)) ==
        "540 queue.purge not supported by stream queues queue 'q' in vhost '/'");
}

TEST_CASE("where a reader begins is read from its arguments [55]", "[stream]") {
  CHECK(stream_start_of({}, 1) == stream_start{from::next});
  CHECK(start_with(text("first")) == stream_start{from::first});
  CHECK(start_with(text("last")) == stream_start{from::last});
  CHECK(start_with(text("next")) == stream_start{from::next});
  CHECK(start_with(number(17)) == stream_start{from::offset, 17});
  CHECK(start_with(field_value::of_timestamp(1'600'000'000)) == stream_start{from::time, 1'600'000'000'000});
  CHECK(start_with(field_value::of_timestamp(std::uint64_t{1} << 63)).value > std::uint64_t{1} << 62);
  CHECK(start_with(text("1h")) == stream_start{from::time, 1'700'000'000'000 - 3'600'000});
  CHECK(start_with(text("99999Y")) == stream_start{from::time, 0});
}

TEST_CASE("many read one stream, each from its own place, and take nothing from each other [55]",
          "[stream]") {
  stream s;
  s.publish({"a", "b", "c"});
  s.read(1, {from::first});
  s.read(2, {from::offset, 1});
  s.read(3, {from::last});
  s.read(4, {from::next});
  CHECK(s.delivered(1) == read_messages{{0, "a"}, {1, "b"}, {2, "c"}});
  CHECK(s.delivered(2) == read_messages{{1, "b"}, {2, "c"}});
  CHECK(s.delivered(3) == read_messages{{2, "c"}});
  CHECK(s.delivered(4).empty());
  s.publish({"d"});
  for (std::uint64_t reader = 1; reader <= 4; ++reader) CHECK(s.delivered(reader) == read_messages{{3, "d"}});
  CHECK(s.log.message_count() == 4);
  s.read(5, {from::offset, 5});  // which is not there yet: RabbitMQ's readers wait for it, too
  s.publish({"e", "f"});
  CHECK(s.delivered(5) == read_messages{{5, "f"}});
}

TEST_CASE("a reader begins at a time", "[stream]") {
  stream s;
  s.publish({"a"}, 1000);
  s.publish({"b", "c"}, 2000);
  s.publish({"d"}, 3000);
  const auto first_of = [&](std::uint64_t time) {
    s.read(1, {from::time, time});
    const auto read = s.delivered(1);
    return read.empty() ? std::string{} : read.front().second;
  };
  CHECK(first_of(0) == "a");
  CHECK(first_of(1000) == "a");
  CHECK(first_of(1001) == "b");
  CHECK(first_of(2000) == "b");
  CHECK(first_of(3000) == "d");
  CHECK(first_of(3001).empty());
  CHECK(first_of(std::numeric_limits<std::uint64_t>::max()).empty());
}

TEST_CASE("a reader has no more than its prefetch, and however it answers, it gets the next", "[stream]") {
  stream s;
  s.publish({"a", "b", "c", "d", "e"});
  s.read(1, {from::first}, 2);
  CHECK(s.delivered(1) == read_messages{{0, "a"}, {1, "b"}});
  CHECK(s.delivered(1).empty());
  const sequence_range second{{2}, {2}};
  s.log.answer({1}, {&second, 1});
  CHECK(s.delivered(1) == read_messages{{2, "c"}});
  s.log.answer({1}, {&second, 1});  // a second time
  CHECK(s.delivered(1).empty());
  const sequence_range all{{1}, {100}};
  s.log.answer({1}, {&all, 1});
  CHECK(s.delivered(1) == read_messages{{3, "d"}, {4, "e"}});
  CHECK(s.log.held_count() == 2);
}

TEST_CASE("a reader gets what its filter lets through", "[stream]") {
  stream s;
  const auto value = [](const char* v) { return field_table{{"x-stream-filter-value", text(v)}}; };
  s.publish({"a"}, 1000, value("red"));
  s.publish({"b"}, 1000, value("blue"));
  s.publish({"c"});
  s.publish({"d"}, 1000, value("green"));
  const auto filter = stream_filter_of({{"x-stream-filter", text("red")}});
  s.read(1, {from::first}, 10, filter);
  CHECK(s.delivered(1) == read_messages{{0, "a"}});
  const auto two =
      stream_filter_of({{"x-stream-filter", field_value::of_array({text("blue"), text("green")})},
                        {"x-stream-match-unfiltered", field_value::of_bool(true)}});
  s.read(2, {from::first}, 10, two);
  CHECK(s.delivered(2) == read_messages{{1, "b"}, {2, "c"}, {3, "d"}});
  CHECK(stream_filter_of({}).takes_all());
}

TEST_CASE("the oldest steps of a stream go when it is too large", "[stream]") {
  const auto size = message("x")->bytes().size();
  stream s{{.size_max = 6 * size, .segment_size_max = 2 * size}};
  for (int n = 0; n < 6; ++n) s.publish({"x"});
  CHECK(s.log.message_count() == 6);
  s.publish({"x"});
  CHECK(s.log.message_count() == 5);
  CHECK(s.log.readable()->first == sequence{3});
  const auto batch = s.log.take_batch();
  CHECK(batch.erasures == std::vector<sequence_range>{{{1}, {2}}});
  s.log.on_committed(s.fx, 1000);
  s.read(1, {from::first});
  CHECK(s.delivered(1).front().first == 2);
  s.read(2, {from::offset, 0});  // which is not there any more
  CHECK(s.delivered(2).front().first == 2);
}

TEST_CASE("the oldest steps of a stream go when their last message is too old", "[stream]") {
  const auto size = message("x")->bytes().size();
  stream s{{.age_max = seconds{10}, .segment_size_max = 2 * size}};
  s.publish({"x"}, 1000);
  CHECK_FALSE(s.log.next_retention());  // the last step stays
  s.publish({"x"}, 3000);
  s.publish({"x"}, 4000);
  CHECK(s.log.next_retention() == 13'000);
  s.log.retain(12'999);
  CHECK(s.log.message_count() == 3);
  s.log.retain(13'000);
  CHECK(s.log.message_count() == 1);
  CHECK_FALSE(s.log.next_retention());
}

TEST_CASE("a stream of ever so many steps takes no more memory than for 4096 of them", "[stream]") {
  stream_segments segments{100};
  constexpr std::uint64_t count = 100'000;
  for (std::uint64_t n = 1; n <= count; ++n) {
    segments.add({n}, 100, static_cast<std::int64_t>(n));
    REQUIRE(segments.segment_count() <= stream_segments::count_max);
  }
  CHECK(segments.count() == count);
  CHECK(segments.size() == count * 100);
  CHECK(segments.segment_count() > stream_segments::count_max / 4);
  std::uint64_t at = 1, longest = 0;
  for (std::size_t i = 0; i < segments.segment_count(); ++i) {
    REQUIRE(segments[i].first.value == at);
    at = segments[i].last.value + 1;
    longest = std::max(longest, segments[i].count);
  }
  CHECK(at == count + 1);
  CHECK(longest <= 2 * count / stream_segments::count_max + 2 * 32);
  CHECK(segments.find(50'000)->first.value <= 50'000);
  CHECK(segments.find(50'000)->last.value >= 50'000);
  CHECK(segments.find(count + 1) == nullptr);
  const auto gone = segments.retain({.size_max = count * 10}, 0);
  REQUIRE(gone.has_value());
  CHECK(segments.size() <= count * 10);
  CHECK(segments.size() > count * 10 - longest * 100);
  CHECK(segments.first().value == gone->value + 1);
}

TEST_CASE("steps of a stream can be made longer, and hold the same messages", "[stream]") {
  stream_segments small{100};
  for (std::uint64_t n = 1; n <= 1000; ++n) small.add({2 * n}, 30, static_cast<std::int64_t>(n));
  const auto large = small.joined(1000);
  CHECK(large.count() == 1000);
  CHECK(large.size() == 30'000);
  CHECK(large.first() == sequence{2});
  CHECK(large.last() == sequence{2000});
  CHECK(large.last_time() == 1000);
  CHECK(large.segment_count() == 28);  // each of nine small ones, of 120: the first size that is 1000 or more
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < large.segment_count(); ++i) {
    count += large[i].count;
    CHECK(large[i].size >= (i + 1 < large.segment_count() ? 1000 : 30));
    if (i > 0) CHECK(large[i].first.value == large[i - 1].last.value + 2);
  }
  CHECK(count == 1000);
  CHECK(small.joined(1).segment_count() == small.segment_count());
  CHECK(stream_segments{}.joined(5).empty());
}

TEST_CASE("a receiver sees at which offset a message stands", "[stream]") {
  const auto m = message(
      "x", {{"a", number(1)}, {"BCC", field_value::of_array({text("k")})}, {"x-stream-offset", number(7)}});
  const auto properties = with_stream_offset(m->properties(), 42);
  REQUIRE(properties.has_value());
  const auto decoded = decode_properties(std::as_bytes(std::span{*properties}));
  CHECK(*decoded->headers == field_table{{"a", number(1)}, {"x-stream-offset", number(42)}});
  CHECK(with_stream_offset({}, 0).has_value());
}
