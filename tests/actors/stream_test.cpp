// The actor of a stream: what its readers get, and what is left of it after a crash at any point, in virtual time; and what
// it costs in memory.
#include "actors/test_node.hpp"
#include "tests/actors/probed_broker.hpp"

#include <catch2/catch_test_macros.hpp>

#include <map>
#include <string>
#include <vector>

using namespace posthorn;
using namespace posthorn::probed;
using namespace std::chrono_literals;

namespace {

using from = stream_start::from;

const std::string path_of_s = "/vhosts/%2F/queues/s";

field_table stream_with(std::initializer_list<std::pair<const char*, field_value>> more = {}) {
  field_table out;
  out.add("x-queue-type", field_value::of_string("stream"));
  for (const auto& [name, value] : more) out.add(name, value);
  return out;
}

consumer_id ask_to_read(probed::client& c, broker& b, const queue_handle& stream, stream_start start,
                        std::uint32_t prefetch, std::int64_t credit = plenty) {
  const auto id = node_context::next_id<consumer_id>(b.context().last_consumer);
  consume request;
  request.by = c.id;
  request.consumer = {id, prefetch, true, credit};
  request.reading = std::make_shared<const stream_reading>(stream_reading{start, {}});
  c.last_asked = c.ask(stream, std::move(request));
  return id;
}

// A node in virtual time, and connections to it. Everything happens in `run` and `advance`.
class virtual_bench {
public:
  explicit virtual_bench(std::uint64_t seed = 1) : node{settings_of(seed)} { connect(); }

  // What was there before a crash is gone with it.
  void connect() { c = std::make_unique<probed::client>(node.broker()); }
  void crash_and_restart() {
    c.reset();
    node.crash_and_restart();
    connect();
  }
  queue_handle declare(const std::string& name, const field_table& arguments) {
    const auto token = c->ask_vhost(c->a_queue(name, arguments));
    node.run();
    const auto declared = c->answer<queue_declared>(token);
    return port_of(*declared.queue).shared_from_this();
  }
  consumer_id read(const queue_handle& stream, stream_start start, std::uint32_t prefetch = 1000,
                   std::int64_t credit = plenty) {
    const auto id = ask_to_read(*c, node.broker(), stream, start, prefetch, credit);
    node.run();
    c->answer<done>(c->last_asked);
    return id;
  }
  // What has come to the reader by now, and has not been looked at.
  std::vector<delivery> taken() {
    node.run();
    const std::lock_guard guard{c->heard->mutex};
    return std::exchange(c->heard->deliveries, {});
  }
  std::map<std::uint64_t, std::string> all_in(const queue_handle& stream) {
    (void)taken();
    const auto reader = read(stream, {from::first}, 100'000);
    std::map<std::uint64_t, std::string> out;
    for (const auto& d : taken()) {
      CHECK(d.to == reader);
      CHECK_FALSE(d.redelivered);
      CHECK(out.emplace(offset_of(d.at), probed::body_of(d)).second);
    }
    stream->post(release_holders{{reader}});
    node.run();
    return out;
  }

  raw_test_node node;
  std::unique_ptr<probed::client> c;

private:
  static test_settings settings_of(std::uint64_t seed) {
    test_settings settings;
    settings.seed = seed;
    return settings;
  }
};

std::vector<std::uint64_t> offsets_of(const std::vector<delivery>& all, consumer_id to) {
  std::vector<std::uint64_t> out;
  for (const auto& d : all) {
    if (d.to == to) out.push_back(offset_of(d.at));
  }
  return out;
}

}  // namespace

TEST_CASE("readers of a stream begin where they ask to, and nobody takes anything from another", "[stream]") {
  virtual_bench b;
  const auto s = b.declare("s", stream_with());
  b.c->publish(s, 5, false);  // not persistent, and kept all the same
  b.node.run();
  CHECK(b.c->heard->settled_count == 5);
  const auto first = b.read(s, {from::first}), last = b.read(s, {from::last}), next = b.read(s, {from::next}),
             third = b.read(s, {from::offset, 3});
  auto got = b.taken();
  CHECK(offsets_of(got, first) == std::vector<std::uint64_t>{0, 1, 2, 3, 4});
  CHECK(offsets_of(got, last) == std::vector<std::uint64_t>{4});
  CHECK(offsets_of(got, next).empty());
  CHECK(offsets_of(got, third) == std::vector<std::uint64_t>{3, 4});
  b.c->answer_for(s, got);
  b.c->publish(s, 1);
  got = b.taken();
  for (const auto reader : {first, last, next, third}) {
    CHECK(offsets_of(got, reader) == std::vector<std::uint64_t>{5});
  }
  CHECK(s->ready == 6);
  CHECK(s->consumers == 4);
}

TEST_CASE("a reader holds no more than its prefetch, and any answer makes room", "[stream]") {
  virtual_bench b;
  const auto s = b.declare("s", stream_with());
  b.c->publish(s, 10);
  b.node.run();
  const auto reader = b.read(s, {from::first}, 2);
  auto got = b.taken();
  CHECK(offsets_of(got, reader) == std::vector<std::uint64_t>{0, 1});
  CHECK(s->held == 2);
  b.c->answer_for(s, got, outcome::returned);
  got = b.taken();
  CHECK(offsets_of(got, reader) == std::vector<std::uint64_t>{2, 3});
  b.c->answer_for(s, got, outcome::rejected);
  CHECK(offsets_of(b.taken(), reader) == std::vector<std::uint64_t>{4, 5});
  CHECK(s->ready == 10);
}

TEST_CASE("a stream refuses what streams do not have", "[stream]") {
  virtual_bench b;
  const auto s = b.declare("s", stream_with());
  const auto refused = [&](request_token token) {
    b.node.run();
    return std::get<refusal>(b.c->answer(token).what);
  };
  fetch_message get;
  get.by = b.c->id;
  const auto no_get = refused(b.c->ask(s, std::move(get)));
  CHECK(no_get.text == "basic.get not supported by stream queues queue 's' in vhost '/'");
  CHECK(no_get.why == refusal::kind::not_implemented);
  CHECK(refused(b.c->ask(s, purge_queue{})).text ==
        "queue.purge not supported by stream queues queue 's' in vhost '/'");
  (void)ask_to_read(*b.c, b.node.broker(), s, {from::first}, 0);
  CHECK(refused(b.c->last_asked).text ==
        "consumer prefetch count is not set for stream queue 's' in vhost '/'");
}

TEST_CASE("every confirmed message of a stream is at the same offset after a crash at any point",
          "[stream]") {
  for (const std::string_view point :
       {"publish.received", "publish.accepted", "batch.sent", "commit.answered"}) {
    for (unsigned on = 1; on <= 4; ++on) {
      INFO("crash at " << point << ", time " << on);
      virtual_bench b{on};
      auto s = b.declare("s", stream_with());
      b.c->publish(s, 3);
      b.node.run();
      const auto reader = b.read(s, {from::first});
      b.node.fail_at(point, on);
      std::uint64_t sent = 3;
      for (int round = 0; round < 6 && !b.node.has_crashed(); ++round) {
        b.c->publish(s, 5, round % 2 == 0);
        sent += 5;
        b.node.run();
      }
      CHECK(b.node.has_crashed());
      const auto confirmed = b.c->heard->settled_count.load();
      std::map<std::uint64_t, std::string> seen;
      {
        const std::lock_guard guard{b.c->heard->mutex};
        for (const auto& d : b.c->heard->deliveries) {
          CHECK(d.to == reader);
          seen.emplace(offset_of(d.at), probed::body_of(d));
        }
      }
      s.reset();
      b.crash_and_restart();
      s = b.c->queue("s");
      const auto all = b.all_in(s);
      CHECK(all.size() >= confirmed);
      CHECK(all.size() <= sent);
      for (const auto& [offset, body] : all) CHECK(body == std::to_string(offset + 1));
      for (const auto& [offset, body] : seen) {
        REQUIRE(all.contains(offset));
        CHECK(all.at(offset) == body);
      }
      CHECK(s->ready == all.size());
      // What comes now stands behind all that was ever seen.
      b.c->publish(s, 1);
      b.node.run();
      CHECK(b.all_in(s).rbegin()->first >= all.size());
    }
  }
}

TEST_CASE("a stream whose actor is killed goes on as if nothing had happened", "[stream]") {
  virtual_bench b;
  const auto s = b.declare("s", stream_with());
  b.c->publish(s, 20);
  b.node.run();
  const auto reader = b.read(s, {from::first}, 4);
  std::vector<std::uint64_t> order;
  for (int round = 0; order.size() < 40 && round < 100; ++round) {
    if (round < 4) b.c->publish(s, 5);
    if (round % 2 == 0) b.node.kill(path_of_s);
    const auto got = b.taken();
    for (const auto offset : offsets_of(got, reader)) order.push_back(offset);
    b.c->answer_for(s, got);
    if (round % 3 == 0) b.node.kill(path_of_s);
    b.node.advance(100ms);
  }
  std::vector<std::uint64_t> expected(40);
  for (std::size_t n = 0; n < expected.size(); ++n) expected[n] = n;
  CHECK(order == expected);
  CHECK(b.c->heard->settled_count == 40);
}

TEST_CASE("a stream lets go what is too old, and only whole segments", "[stream]") {
  virtual_bench b;
  auto s = b.declare("s", stream_with({{"x-max-age", field_value::of_string("1h")},
                                       {"x-stream-max-segment-size-bytes", field_value::of_int(2000)}}));
  for (int n = 0; n < 6; ++n) {
    b.c->publish(s, 10, true, 100);
    b.node.advance(10min);
  }
  b.node.advance(15min);
  CHECK(s->stream->segments > 3);
  CHECK(s->ready < 60);  // the first are more than an hour old
  CHECK(s->stream->first_offset > 0);
  b.node.advance(2h);
  const auto left = s->ready.load();
  CHECK(left > 0);
  CHECK(left < 30);
  CHECK(s->stream->segments == 1);
  CHECK(s->stream->next_offset == 60);
  const auto all = b.all_in(s);
  CHECK(all.size() == left);
  s.reset();
  b.crash_and_restart();
  CHECK(b.all_in(b.c->queue("s")) == all);
}

TEST_CASE("a stream lets go what is too much", "[stream]") {
  virtual_bench b;
  auto s = b.declare("s", stream_with({{"x-max-length-bytes", field_value::of_int(20'000)},
                                       {"x-stream-max-segment-size-bytes", field_value::of_int(2000)}}));
  for (int n = 0; n < 40; ++n) {
    b.c->publish(s, 10, true, 100);
    b.node.run();
    CHECK(s->ready_size < 25'000);
  }
  CHECK(s->ready_size > 15'000);
  CHECK(s->stream->next_offset == 400);
  const auto all = b.all_in(s);
  CHECK(all.rbegin()->first == 399);
  CHECK(all.begin()->first == s->stream->first_offset);
  s.reset();
  b.crash_and_restart();
  s = b.c->queue("s");
  const auto after = b.all_in(s);
  CHECK(after.rbegin()->first == 399);
  CHECK(after.begin()->first >= all.begin()->first);
  CHECK(after.at(399) == all.at(399));
}

TEST_CASE("a reader begins at the first message that came at a time or later", "[stream]") {
  virtual_bench b;
  auto s = b.declare("s", stream_with());
  std::vector<std::int64_t> came;
  for (int n = 0; n < 50; ++n) {
    came.push_back(b.node.now());
    b.c->publish(s, 1);
    b.node.advance(1min);
  }
  s.reset();
  b.crash_and_restart();  // so that all of it is only in the store
  const auto again = b.c->queue("s");
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{17}, std::size_t{49}}) {
    const auto reader = b.read(again, {from::time, static_cast<std::uint64_t>(came[n])}, 1);
    CHECK(offsets_of(b.taken(), reader) == std::vector<std::uint64_t>{n});
  }
  const auto between = b.read(again, {from::time, static_cast<std::uint64_t>(came[30] + 1)}, 1);
  CHECK(offsets_of(b.taken(), between) == std::vector<std::uint64_t>{31});
  CHECK(again->stream->lag_max == 0);
  b.node.advance(1s);
  CHECK(again->stream->lag_max == 49);  // of who stands at the first message, and takes no second
  CHECK(again->stream->lags().size() == 5);
}

TEST_CASE("dead letters go into a stream, whatever their delivery mode, and survive", "[stream]") {
  virtual_bench b;
  auto s = b.declare("s", stream_with());
  field_table to_stream;
  to_stream.add("x-dead-letter-exchange", field_value::of_string(""));
  to_stream.add("x-dead-letter-routing-key", field_value::of_string("s"));
  to_stream.add("x-max-length", field_value::of_int(1));
  auto q = b.declare("q", to_stream);
  const auto reader = b.read(s, {from::next});
  b.c->publish(q, 4, true);
  b.c->publish(q, 4, false);
  b.c->publish(s, 2);
  const auto got = b.taken();
  CHECK(offsets_of(got, reader).size() == 9);
  const auto all = b.all_in(s);
  CHECK(all.size() == 9);
  s.reset();
  q.reset();
  b.crash_and_restart();
  CHECK(b.all_in(b.c->queue("s")) == all);
}

TEST_CASE("a stream that is deleted tells its readers, and leaves nothing", "[stream]") {
  virtual_bench b;
  auto s = b.declare("s", stream_with());
  b.c->publish(s, 8);
  b.node.run();
  const auto reader = b.read(s, {from::first});
  CHECK(b.taken().size() == 8);
  const auto in_use = b.c->ask(s, delete_queue{{}, 0, true, false});
  const auto not_empty = b.c->ask(s, delete_queue{{}, 0, false, true});
  b.node.run();
  CHECK(std::get<refusal>(b.c->answer(in_use).what).text == "queue 's' in vhost '/' in use");
  CHECK(std::get<refusal>(b.c->answer(not_empty).what).text == "queue 's' in vhost '/' not empty");
  const auto deleted = b.c->ask(s, delete_queue{});
  b.node.run();
  CHECK(b.c->answer<messages_removed>(deleted).count == 8);
  CHECK(b.c->heard->cancelled == std::vector<consumer_id>{reader});
  b.c->publish(s, 1);  // by an older snapshot
  b.node.run();
  CHECK(b.c->heard->settled_count == 9);
  const auto again = b.declare("s", stream_with());
  CHECK(b.all_in(again).empty());
}

TEST_CASE("what a stream keeps in memory is bounded, though nobody answers and many read", "[stream]") {
  constexpr std::uint64_t budget = std::uint64_t{1} << 20;
  probed::node n{budget};
  probed::client publisher{*n}, reader{*n};
  const auto s = publisher.declare("s", stream_with());
  // One who takes ten and answers nothing, one who has little credit and gives it back, and one who takes everything.
  (void)ask_to_read(reader, *n, s, {from::first}, 10);
  (void)ask_to_read(reader, *n, s, {from::first}, 65'535, 64 << 10);
  constexpr std::size_t rounds = 100, batch = 200;
  for (std::size_t round = 0; round < rounds; ++round) {
    publisher.publish(s, batch, true, 1000);
    REQUIRE(publisher.all_settled());
    CHECK(s->resident <= 2 * budget);
  }
  probed::client late{*n};
  const auto all = ask_to_read(late, *n, s, {from::first}, 65'535);
  late.answer<done>(late.last_asked);
  const auto got = late.take(rounds * batch);
  CHECK(got.size() == rounds * batch);
  CHECK(offsets_of(got, all).size() == rounds * batch);
  CHECK(std::is_sorted(got.begin(), got.end(), [](const auto& a, const auto& b) { return a.at < b.at; }));
  CHECK(s->resident <= 2 * budget);
  CHECK(s->ready == rounds * batch);
}
