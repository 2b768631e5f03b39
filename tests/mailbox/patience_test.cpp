// What a quorum queue keeps for later: dead letters until there is a way, messages until their retry; and consumers that
// take too long.
#include "mailbox/mailbox.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr consumer_id one{1}, two{2};

mailbox_rules quorum_rules() {
  mailbox_rules rules;
  rules.quorum = true;
  return rules;
}

struct desk {
  explicit desk(mailbox_rules rules, mailbox_limits limits = {}) : box{true, limits, {}, std::move(rules)} {}

  void publish(std::int64_t now) {
    const std::vector<std::byte> body(8);
    std::vector<arrival> arrivals{{make_envelope("", "q", {}, true, body), {1}, ++published}};
    box.publish(arrivals, fx, now);
  }
  void consume(consumer_id id, std::optional<std::chrono::milliseconds> timeout = std::nullopt) {
    box.add_consumer({.id = id, .prefetch = 1, .credit = 10'000, .timeout = timeout});
  }
  std::size_t deliveries(std::int64_t now) {
    box.dispatch(fx, now);
    taken = std::exchange(fx.deliveries, {});
    return taken.size();
  }

  mailbox box;
  effects fx;
  std::uint64_t published = 0;
  std::vector<delivery> taken;  // since the last look
  const std::vector<sequence_range> first{{{1}, {1}}};
};

}  // namespace

TEST_CASE("a consumer that takes too long gets nothing until it answers, which then does nothing else [54]",
          "[mailbox]") {
  desk d{quorum_rules(), {.consumer_timeout = 1000ms}};
  d.consume(one);
  d.publish(0);
  REQUIRE(d.deliveries(0) == 1);
  CHECK(d.box.next_expiry() == 1000);
  CHECK(d.deliveries(999) == 0);
  CHECK(d.fx.timeouts.empty());
  CHECK(d.deliveries(1000) == 0);
  CHECK(d.fx.timeouts == std::vector{one});
  CHECK(d.box.ready_count() == 1);
  CHECK(d.box.consumer_count() == 1);
  CHECK(d.box.next_expiry() == std::nullopt);
  d.box.acknowledge(one, d.first, d.fx);
  CHECK(d.box.ready_count() == 1);
  REQUIRE(d.deliveries(1001) == 1);
  CHECK(d.taken.front().attempts == 0);
  CHECK(d.taken.front().returns == 1);
  d.box.acknowledge(one, d.first, d.fx);
  CHECK(d.box.ready_count() + d.box.held_count() == 0);
}

TEST_CASE("the consumer's own timeout counts before the queue's, and the queue's before the node's [54]",
          "[mailbox]") {
  auto rules = quorum_rules();
  rules.consumer_timeout = 100ms;
  desk d{rules, {.consumer_timeout = 5ms}};
  d.consume(one, 1000ms);
  d.publish(0);
  REQUIRE(d.deliveries(0) == 1);
  CHECK(d.deliveries(999) + d.fx.timeouts.size() == 0);
  d.consume(two);
  CHECK(d.deliveries(1000) == 1);
  CHECK(d.deliveries(1099) == 0);
  CHECK(d.fx.timeouts == std::vector{one});
  CHECK(d.deliveries(1100) == 0);
  CHECK(d.fx.timeouts == std::vector{one, two});
}

TEST_CASE("another timeout by a policy counts for what is held already [54]", "[mailbox]") {
  desk d{quorum_rules()};
  d.consume(one);
  d.publish(0);
  REQUIRE(d.deliveries(0) == 1);
  CHECK(d.box.next_expiry() == std::nullopt);
  auto rules = quorum_rules();
  rules.consumer_timeout = 50ms;
  d.box.change_rules(rules, 100);
  CHECK(d.deliveries(149) + d.fx.timeouts.size() == 0);
  CHECK(d.deliveries(150) == 0);
  CHECK(d.fx.timeouts == std::vector{one});
}

TEST_CASE("a dead letter without a way stays, and comes out again [64]", "[mailbox]") {
  auto rules = quorum_rules();
  rules.dead_letter_exchange = "dlx";
  rules.at_least_once = true;
  rules.length_max = 0;
  rules.on_overflow = mailbox_rules::overflow::reject_publish;
  desk d{rules, {.dead_letter_retry = 100ms}};
  d.consume(one);
  d.publish(0);
  REQUIRE(d.deliveries(0) == 1);
  d.box.reject(one, d.first, d.fx);
  REQUIRE(d.fx.dead_letters.size() == 1);
  CHECK(d.fx.dead_letters.front().waits);
  CHECK(d.box.waiting_dead_count() == 1);
  d.fx.clear();
  d.box.on_no_way({1}, 0);
  CHECK(d.box.next_expiry() == 100);
  // It counts towards the limit.
  d.publish(10);
  REQUIRE(d.fx.settlements.size() == 1);
  CHECK(d.fx.settlements.front().rejected);
  CHECK(d.box.purge(d.fx) == 0);
  d.fx.clear();
  CHECK(d.deliveries(99) + d.fx.dead_letters.size() == 0);
  CHECK(d.deliveries(100) == 0);
  REQUIRE(d.fx.dead_letters.size() == 1);
  CHECK(d.fx.dead_letters.front().why == death_reason::rejected);
  d.box.on_buried({1}, d.fx);
  CHECK(d.box.waiting_dead_count() == 0);
  CHECK(d.box.next_expiry() == std::nullopt);
  CHECK(d.box.take_batch().moves);
}

TEST_CASE("what comes back waits longer each time, and no longer than it may [67]", "[mailbox]") {
  auto rules = quorum_rules();
  rules.retry = mailbox_rules::delayed_retry::all;
  rules.retry_min = 10ms;
  rules.retry_max = 25ms;
  desk d{rules};
  d.consume(one);
  d.publish(0);
  std::int64_t now = 0;
  for (const std::int64_t delay : {10, 20, 25, 25}) {
    REQUIRE(d.deliveries(now) == 1);
    d.box.give_back(one, d.first, d.fx, blame::no, now);
    CHECK(d.box.delayed_count() == 1);
    CHECK(d.box.ready_count() == 0);
    CHECK(d.box.next_expiry() == now + delay);
    CHECK(d.deliveries(now + delay - 1) == 0);
    now += delay;
  }
}
