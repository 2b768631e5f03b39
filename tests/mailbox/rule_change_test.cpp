#include "mailbox/mailbox.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <map>
#include <random>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

constexpr consumer_id alice{1}, bob{2}, carol{3};
constexpr publisher_id paula{7};
constexpr std::int64_t plenty = std::int64_t{1} << 30;

envelope_ptr a_message(std::string key = "key") {
  return make_envelope("x", key, {}, false, std::vector<std::byte>(10));
}

// A mailbox whose rules change, and what came out of it.
struct desk {
  explicit desk(mailbox_rules rules = {}) : box{false, {}, {}, std::move(rules)} {}

  desk& publish(std::size_t count, const std::string& key = "key") {
    for (; count > 0; --count) {
      std::vector<arrival> one{{a_message(key), paula, ++number}};
      box.publish(one, fx, now);
    }
    return *this;
  }
  desk& consumer(consumer_id id, std::uint32_t prefetch = 0) {
    box.add_consumer({id, prefetch, true, plenty});
    return *this;
  }
  desk& change(mailbox_rules rules) {
    box.change_rules(std::move(rules));
    box.dispatch(fx, now);
    return *this;
  }
  // How many each consumer got, and how many are ready.
  std::map<std::uint64_t, int> dispatch() {
    box.dispatch(fx, now);
    std::map<std::uint64_t, int> out;
    for (const auto& d : fx.deliveries) ++out[d.to.value];
    fx.deliveries.clear();
    return out;
  }
  std::size_t refused() {
    std::size_t count = 0;
    for (const auto& s : fx.settlements) count += s.rejected ? s.last - s.first + 1 : 0;
    fx.settlements.clear();
    return count;
  }
  std::string deaths() {
    std::string text;
    for (const auto& d : fx.dead_letters) text += std::string{to_string(d.why)} + " ";
    fx.dead_letters.clear();
    return text;
  }

  mailbox box;
  effects fx;
  std::uint64_t number = 0;
  std::int64_t now = 1'000'000;
};

mailbox_rules length(std::uint64_t most) { return {.length_max = most}; }
mailbox_rules by(balance_algorithm how) { return {.dispatch = how}; }

}  // namespace

TEST_CASE("a mailbox without rules gets some, and loses them again", "[mailbox]") {
  desk d;
  d.publish(5).change(length(2));
  CHECK(d.box.ready_count() == 2);
  d.publish(3);
  d.dispatch();
  CHECK(d.box.ready_count() == 2);
  d.change({}).publish(3);
  d.dispatch();
  CHECK(d.box.ready_count() == 5);
}

TEST_CASE("what is there expires when it would have, and what comes then by the rule of then", "[mailbox]") {
  desk d;
  d.publish(1).change({.message_ttl = std::chrono::milliseconds{50}}).publish(1);
  d.now += 1000;
  d.dispatch();
  CHECK(d.box.ready_count() == 2);  // the first is at the head, and has no time
  std::vector<arrival> none;
  REQUIRE(d.box.fetch(alice, false, d.fx, d.now));
  d.dispatch();
  CHECK(d.box.ready_count() == 0);
  d.publish(1).change({});
  d.now += 1000;
  d.dispatch();
  CHECK(d.box.ready_count() == 0);  // it had come with a time
  d.publish(1);
  d.now += 1000;
  d.dispatch();
  CHECK(d.box.ready_count() == 1);
}

TEST_CASE("overflow and the dead-letter exchange are those of now", "[mailbox]") {
  desk d{length(1)};
  d.publish(2);
  d.dispatch();
  CHECK(d.refused() == 0);
  CHECK(d.deaths().empty());
  auto rules = length(1);
  rules.on_overflow = mailbox_rules::overflow::reject_publish_dlx;
  rules.dead_letter_exchange = "dlx";
  d.change(rules).publish(2);
  CHECK(d.refused() == 2);
  CHECK(d.deaths() == "maxlen maxlen ");
  rules.on_overflow = mailbox_rules::overflow::drop_head;
  d.change(rules).publish(1);
  d.dispatch();
  CHECK(d.refused() == 0);
  CHECK(d.deaths() == "maxlen ");
}

TEST_CASE("a delivery limit that comes later counts what failed before", "[mailbox]") {
  desk d;
  d.publish(1).consumer(alice);
  for (int n = 0; n < 3; ++n) {
    CHECK(d.dispatch() == std::map<std::uint64_t, int>{{1, 1}});
    d.box.give_back(alice, std::vector<sequence_range>{{{1}, {1}}}, d.fx);
  }
  d.change({.delivery_limit = 3});
  d.fx.deliveries.clear();
  CHECK(d.box.held_count() == 1);
  d.box.give_back(alice, std::vector<sequence_range>{{{1}, {1}}}, d.fx);
  CHECK(d.box.held_count() + d.box.ready_count() == 0);
}

TEST_CASE("what a mailbox was made with stays", "[mailbox]") {
  desk d{{.quorum = true, .single_active = true}};
  d.consumer(alice).consumer(bob).change(length(100)).publish(4);
  CHECK(d.dispatch() == std::map<std::uint64_t, int>{{1, 4}});
  d.change(by(balance_algorithm::consistent_hash)).publish(4, "other");
  CHECK(d.dispatch() == std::map<std::uint64_t, int>{{1, 4}});
}

TEST_CASE("dispatch changes among consumers that are there", "[mailbox]") {
  desk d;
  d.consumer(alice).consumer(bob).consumer(carol).publish(6);
  CHECK(d.dispatch() == std::map<std::uint64_t, int>{{1, 2}, {2, 2}, {3, 2}});
  d.change(by(balance_algorithm::consistent_hash)).publish(6);
  CHECK(d.dispatch().size() == 1);
  d.change(by(balance_algorithm::round_robin)).publish(6);
  CHECK(d.dispatch() == std::map<std::uint64_t, int>{{1, 2}, {2, 2}, {3, 2}});
  // One that goes and comes is in the row again.
  d.box.cancel_consumer(bob);
  d.publish(4);
  CHECK(d.dispatch() == std::map<std::uint64_t, int>{{1, 2}, {3, 2}});
}

TEST_CASE("a key that a consumer holds stays with it when the rule becomes a hash", "[mailbox]") {
  for (const auto holder : {alice, bob, carol}) {
    desk d;
    d.consumer(holder, 10).publish(1, "k");
    d.dispatch();
    for (const auto other : {alice, bob, carol}) {
      if (other != holder) d.consumer(other, 10);
    }
    d.change(by(balance_algorithm::consistent_hash)).publish(5, "k");
    CHECK(d.dispatch() == std::map<std::uint64_t, int>{{holder.value, 5}});
  }
}

TEST_CASE("rules that change at any time lose no message and double none", "[mailbox]") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random{seed};
    const auto below = [&](unsigned end) { return static_cast<unsigned>(random() % end); };
    desk d;
    std::vector<consumer_id> there;
    std::map<std::uint64_t, consumer_id> held;
    std::uint64_t published = 0, gone = 0, refused = 0;
    const auto collect = [&] {
      d.box.dispatch(d.fx, d.now);
      for (const auto& m : d.fx.deliveries) {
        REQUIRE(held.emplace(m.at.value, m.to).second);
      }
      d.fx.deliveries.clear();
      refused += d.refused();
      // Every dead letter was in the mailbox, or is one of those that were refused.
      for (const auto& m : d.fx.dead_letters) gone += m.at.value == 0 ? 0 : 1;
      d.fx.dead_letters.clear();
    };
    for (int step = 0; step < 300; ++step) {
      switch (below(7)) {
        case 0:
        case 1:
          d.publish(1, "k" + std::to_string(below(5)));
          ++published;
          break;
        case 2:
          if (there.size() < 4) {
            there.push_back({100 + static_cast<std::uint64_t>(step)});
            d.consumer(there.back(), 1 + below(3));
          }
          break;
        case 3:
          if (!there.empty()) {
            const auto id = there.back();
            there.pop_back();
            d.box.release(id, d.fx);
            std::erase_if(held, [&](const auto& h) { return h.second == id; });
          }
          break;
        case 4:
        case 5:
          if (!held.empty()) {
            const auto [at, id] = *held.begin();
            held.erase(held.begin());
            const std::vector<sequence_range> which{{{at}, {at}}};
            if (below(2) == 0) {
              d.box.acknowledge(id, which, d.fx);
              ++gone;
            } else {
              d.box.give_back(id, which, d.fx);
            }
          }
          break;
        default: {
          mailbox_rules rules;
          rules.dead_letter_exchange = "dlx";  // so that all that goes is told
          if (below(2) == 0) rules.length_max = below(6);
          if (below(3) == 0) rules.on_overflow = mailbox_rules::overflow::reject_publish;
          if (below(3) == 0) rules.delivery_limit = below(3);
          if (below(3) == 0) rules.message_ttl = std::chrono::milliseconds{below(20)};
          constexpr balance_algorithm ways[] = {balance_algorithm::round_robin, balance_algorithm::random,
                                                balance_algorithm::consistent_hash,
                                                balance_algorithm::least_response_time};
          rules.dispatch = ways[below(4)];
          collect();
          d.box.change_rules(rules);
        }
      }
      // From the first rules on: before, what goes is not told.
      if (step == 0) {
        mailbox_rules rules;
        rules.dead_letter_exchange = "dlx";
        d.box.change_rules(rules);
      }
      d.now += below(5);
      d.box.observe(std::chrono::milliseconds{d.now}, random());
      collect();
      REQUIRE(d.box.held_count() == held.size());
      REQUIRE(d.box.consumer_count() == there.size());
      REQUIRE(published == gone + refused + d.box.ready_count() + d.box.held_count());
    }
  }
}
