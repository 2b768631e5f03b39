// Numbers in brackets are those of docs/amqp.md. What holds for all of a mailbox's consumers is in mailbox_model_test.
#include "mailbox/consumer_order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <map>
#include <string>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr consumer_id alice{1}, bob{2}, carol{3};

consumer_order an_order(balance_algorithm rule) { return consumer_order{{.rule = rule}}; }

void enter(consumer_order& order, consumer_id id, std::int64_t priority = 0, std::uint32_t weight = 1) {
  order.add(id, priority, weight);
  order.update(id, true, true);
}

std::string chosen(consumer_order& order, int count, std::string_view key = {}) {
  std::string out;
  for (; count > 0; --count) {
    const auto id = order.choose(key);
    out += id ? std::to_string(id->value) : "-";
  }
  return out;
}

}  // namespace

TEST_CASE("consumers of the highest priority are served as long as they are able [53]", "[mailbox]") {
  auto order = an_order(balance_algorithm::round_robin);
  CHECK(chosen(order, 1) == "-");
  enter(order, alice);
  enter(order, bob, 5);
  enter(order, carol, 5);
  CHECK(chosen(order, 4) == "2323");
  order.update(bob, false, false);
  CHECK(chosen(order, 2) == "33");
  order.update(carol, false, false);
  CHECK(chosen(order, 2) == "11");
  order.update(bob, true, false);
  CHECK(chosen(order, 2) == "22");
  order.remove(bob);
  order.remove(alice);
  CHECK(chosen(order, 1) == "-");
}

TEST_CASE("of a single active consumer, the next is the first that waits [52]", "[mailbox]") {
  consumer_order order{{.single_active = true}};
  enter(order, alice);
  enter(order, bob);
  enter(order, carol, 9);
  CHECK(chosen(order, 3) == "111");
  order.update(alice, false, false);
  CHECK(chosen(order, 1) == "-");
  order.remove(alice);
  CHECK(order.active() == carol);
  order.remove(carol);
  CHECK(order.active() == bob);
  order.remove(bob);
  CHECK_FALSE(order.active());
}

TEST_CASE(
    "in a quorum queue, a consumer of a higher priority takes over when the active one holds nothing [52]",
    "[mailbox]") {
  consumer_order order{{.single_active = true, .quorum = true}};
  enter(order, alice);
  order.update(alice, true, false);
  enter(order, bob, 1);
  CHECK(order.active() == alice);
  CHECK(chosen(order, 1) == "-");
  order.update(alice, true, true);
  CHECK(order.active() == bob);
  enter(order, carol, 2);
  CHECK(order.active() == carol);
}

TEST_CASE("weights say how often each is chosen, and chance is what the caller says", "[mailbox]") {
  auto weighted = an_order(balance_algorithm::weighted_round_robin);
  enter(weighted, alice, 0, 3);
  enter(weighted, bob, 0, 1);
  std::map<char, int> count;
  for (const char c : chosen(weighted, 40)) ++count[c];
  CHECK(count['1'] == 30);
  CHECK(count['2'] == 10);

  auto random = an_order(balance_algorithm::random);
  auto same = an_order(balance_algorithm::random);
  for (auto* order : {&random, &same}) {
    enter(*order, alice);
    enter(*order, bob);
    order->observe(0ns, 42);
  }
  const auto some = chosen(random, 50);
  CHECK(some == chosen(same, 50));
  CHECK(some.find('1') != std::string::npos);
  CHECK(some.find('2') != std::string::npos);
  random.update(alice, false, false);
  CHECK(chosen(random, 5) == "22222");
}

TEST_CASE("who answers sooner gets more", "[mailbox]") {
  auto order = an_order(balance_algorithm::least_response_time);
  enter(order, alice);
  enter(order, bob);
  std::map<std::uint64_t, int> count;
  std::chrono::nanoseconds now{};
  for (std::uint64_t n = 1; n <= 200; ++n) {
    order.observe(now, 0);
    const auto id = order.choose({});
    REQUIRE(id);
    order.took(*id, {n}, {});
    now += *id == alice ? 1ms : 50ms;
    order.observe(now, 0);
    order.let_go({n}, left::answered);
    ++count[id->value];
  }
  CHECK(count[1] > 150);
  CHECK(count[2] >= 1);
}

TEST_CASE("a key is with one consumer at a time, and moves when nobody holds a message of it", "[mailbox]") {
  auto order = an_order(balance_algorithm::consistent_hash);
  enter(order, alice);
  REQUIRE(order.choose("k") == alice);
  order.took(alice, {1}, "k");
  // Whoever joins and leaves, the key stays.
  for (std::uint64_t n = 10; n < 30; ++n) enter(order, {n});
  CHECK(order.choose("k") == alice);
  order.update(alice, false, false);
  CHECK_FALSE(order.choose("k"));
  CHECK_FALSE(order.can_take("k"));
  order.remove(alice);
  CHECK_FALSE(order.choose("k"));
  order.let_go({1}, left::answered);
  const auto next = order.choose("k");
  REQUIRE(next);
  CHECK(*next != alice);
  CHECK(order.choose("k") == next);
  // Others have others.
  std::map<std::uint64_t, int> all;
  for (int n = 0; n < 200; ++n) ++all[order.choose("key " + std::to_string(n))->value];
  CHECK(all.size() > 10);
  // What has no key goes in turn.
  CHECK(order.choose({}) != order.choose({}));
}
