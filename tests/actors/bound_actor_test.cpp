// Durable actors as what exchanges lead to, and the exchanges and queues that a program declares.
#include "actors/queue.hpp"
#include "actors/vhost.hpp"
#include "bank.capnp.h"
#include "posthorn/node.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <string>
#include <thread>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr auto patience = 10s;

auto accounts(std::chrono::milliseconds idle_after) {
  return durable<bank::Account>("account")
      .on<bank::Deposit>([](turn<bank::Account>& t, bank::Deposit::Reader m) {
        t.state().setBalance(t.state().getBalance() + m.getAmount());
      })
      .on<bank::Announce>([](turn<bank::Account>& t, bank::Announce::Reader m) {
        t.publish<bank::Deposit>(m.getExchange().cStr(), m.getKey().cStr(),
                                 [](auto deposit) { deposit.setAmount(100); });
      })
      .on<bank::Ask>([](turn<bank::Account>& t, bank::Ask::Reader) {
        t.reply<bank::Balance>([&](auto balance) { balance.setAmount(t.state().getBalance()); });
      })
      .idle_after(idle_after);
}

struct a_node {
  explicit a_node(std::chrono::milliseconds idle_after = 0ms) : idle{idle_after} { open(); }

  void open(bool with_accounts = true) {
    running.reset();
    auto started = node::start({.data_directory = directory.path()});
    REQUIRE(started);
    running = std::move(*started);
    if (with_accounts) REQUIRE(running->add(accounts(idle)));
  }
  result<void> publish(const std::string& exchange, const std::string& key, std::int64_t amount) {
    auto sent = running->publish<bank::Deposit>(exchange, key, [&](auto m) { m.setAmount(amount); });
    REQUIRE(sent.wait_for(patience) == std::future_status::ready);
    return sent.get();
  }
  std::int64_t balance(const std::string& of) {
    auto answer = running->ask<bank::Ask, bank::Balance>(of, patience, [](auto) {});
    REQUIRE(answer);
    return (*answer)->get().getAmount();
  }
  template <class Condition>
  bool eventually(Condition condition) {
    for (const auto until = std::chrono::steady_clock::now() + patience; !condition();) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::yield();
    }
    return true;
  }
  bool all_asleep() {
    return eventually([&] {
      std::size_t awake = 0;
      running->broker().context().house->each_awake([&](const std::string&, const queue_port& port) {
        if (port.durable) ++awake;
      });
      return awake == 0;
    });
  }

  scratch_directory directory;
  std::chrono::milliseconds idle;
  std::unique_ptr<node> running;
};

}  // namespace

TEST_CASE("an exchange leads to the durable actors that are bound to it", "[bound]") {
  a_node n;
  REQUIRE(n.running->declare_exchange("payday", exchange_type::fanout));
  REQUIRE(n.running->bind("account/anna", "payday"));
  REQUIRE(n.running->bind("account/bert", "payday"));
  REQUIRE(n.running->bind("account/bert", "payday"));  // once more is once
  REQUIRE(n.publish("payday", "", 7));
  CHECK(n.balance("account/anna") == 7);
  CHECK(n.balance("account/bert") == 7);
  REQUIRE(n.running->unbind("account/bert", "payday"));
  REQUIRE(n.publish("payday", "", 1));
  CHECK(n.balance("account/anna") == 8);
  CHECK(n.balance("account/bert") == 7);
}

TEST_CASE("a bound actor wakes for what is published", "[bound]") {
  a_node n{1ms};
  REQUIRE(n.running->bind("account/anna", "amq.topic", "deposit.#"));
  REQUIRE(n.all_asleep());
  REQUIRE(n.publish("amq.topic", "deposit.of.7", 7));
  REQUIRE(n.all_asleep());
  REQUIRE(n.publish("amq.topic", "deposit", 5));
  CHECK(n.balance("account/anna") == 12);
}

TEST_CASE("bindings of actors survive a restart", "[bound]") {
  a_node n;
  REQUIRE(n.running->bind("account/anna", "amq.direct", "anna"));
  n.open();
  REQUIRE(n.publish("amq.direct", "anna", 7));
  CHECK(n.balance("account/anna") == 7);
}

TEST_CASE("what is published to an actor of an unknown kind is refused, not lost", "[bound]") {
  a_node n;
  REQUIRE(n.running->bind("account/anna", "amq.direct", "anna"));
  n.open(false);
  CHECK_FALSE(n.publish("amq.direct", "anna", 7));
  n.open();
  REQUIRE(n.publish("amq.direct", "anna", 5));
  CHECK(n.balance("account/anna") == 5);
}

TEST_CASE("a turn publishes to the actors that are bound, awake or asleep", "[bound]") {
  a_node n{1ms};
  REQUIRE(n.running->bind("account/anna", "amq.fanout"));
  REQUIRE(n.running->bind("account/bert", "amq.fanout"));
  REQUIRE(n.all_asleep());
  REQUIRE(n.running->send<bank::Announce>("account/carl", [](auto m) { m.setExchange("amq.fanout"); }).get());
  CHECK(n.eventually([&] { return n.balance("account/anna") == 100 && n.balance("account/bert") == 100; }));
}

TEST_CASE("dead letters reach a bound actor", "[bound]") {
  a_node n{1ms};
  REQUIRE(n.running->bind("account/heir", "amq.direct", "left"));
  mailbox_rules rules;
  rules.message_ttl = 1ms;
  rules.dead_letter_exchange = "amq.direct";
  rules.dead_letter_routing_key = "left";
  REQUIRE(n.running->declare_queue("testament", rules));
  REQUIRE(n.all_asleep());
  REQUIRE(n.publish("", "testament", 9));
  CHECK(n.eventually([&] { return n.balance("account/heir") == 9; }));
}

TEST_CASE("nobody takes the messages of a durable actor", "[bound]") {
  a_node n;
  REQUIRE(n.running->bind("account/anna", "amq.fanout"));
  const auto taken = n.running->take("account/anna");
  REQUIRE_FALSE(taken);
  CHECK(taken.error().text.find("handles its messages itself") != std::string::npos);
}

TEST_CASE("a program declares, publishes and takes", "[bound]") {
  a_node n;
  REQUIRE(n.running->declare_exchange("orders", exchange_type::topic));
  REQUIRE(n.running->declare_exchange("orders", exchange_type::topic));
  CHECK_FALSE(n.running->declare_exchange("orders", exchange_type::fanout));
  mailbox_rules rules;
  rules.length_max = 2;
  rules.on_overflow = mailbox_rules::overflow::reject_publish;
  REQUIRE(n.running->declare_queue("all", rules));
  CHECK_FALSE(n.running->declare_queue("all"));  // other rules
  REQUIRE(n.running->bind("all", "orders", "#"));
  CHECK_FALSE(n.running->bind("nothing", "orders", "#"));
  CHECK(n.publish("orders", "a", 1));
  CHECK(n.publish("orders", "b", 2));
  CHECK_FALSE(n.publish("orders", "c", 3));  // full
  CHECK_FALSE(n.publish("missing", "c", 3));
  CHECK(n.publish("amq.fanout", "leads.nowhere", 3));
  const auto first = n.running->take("all");
  REQUIRE(first);
  REQUIRE(*first);
  CHECK((*first)->routing_key() == "a");
  CHECK(*n.running->take("all"));
  CHECK_FALSE(*n.running->take("all"));
  CHECK_FALSE(n.running->take("nothing"));
  REQUIRE(n.running->unbind("all", "orders", "#"));
  REQUIRE(n.running->delete_exchange("orders"));
}

TEST_CASE("several questions wait at once, each with its own deadline", "[bound]") {
  a_node n;
  REQUIRE(n.running->declare_queue("silent"));
  const auto nothing = [](auto) {};
  auto late = n.running->ask_later<bank::Ask>("silent", 20ms, nothing);
  auto later = n.running->ask_later<bank::Ask>("silent", 60ms, nothing);
  auto soon = n.running->ask_later<bank::Ask>("account/anna", patience, nothing);
  const auto answer = node::answer_as<bank::Balance>("account/anna", soon.get());
  REQUIRE(answer);
  CHECK((*answer)->get().getAmount() == 0);
  const auto none = late.get();
  REQUIRE_FALSE(none);
  CHECK(none.error().text ==
        "no answer of 'silent' came within 20 ms; it may still come, and is then dropped");
  CHECK_FALSE(later.get());
  CHECK_FALSE(n.running->ask_later<bank::Ask>("nobody", patience, nothing).get());
}
