// The test kit, used as its users do; and what only it can show of the runtime: crashes at every point, under many orders
// of events, and hours that pass in no time.
#include "bank.capnp.h"
#include "posthorn/testing.hpp"

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <chrono>
#include <set>
#include <string>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

durable<bank::Account> accounts() {
  return durable<bank::Account>("account")
      .on<bank::Deposit>([](turn<bank::Account>& t, bank::Deposit::Reader m) {
        t.state().setBalance(t.state().getBalance() + m.getAmount());
      })
      .on<bank::Transfer>([](turn<bank::Account>& t, bank::Transfer::Reader m) {
        auto mine = t.state();
        mine.setBalance(mine.getBalance() - m.getAmount());
        mine.setTransfers(mine.getTransfers() + 1);
        t.send<bank::Deposit>(m.getTo().cStr(), [&](auto deposit) { deposit.setAmount(m.getAmount()); });
      })
      .on<bank::Ask>([](turn<bank::Account>& t, bank::Ask::Reader) {
        t.reply<bank::Balance>([&](auto balance) {
          balance.setAmount(t.state().getBalance());
          balance.setTransfers(t.state().getTransfers());
        });
      })
      .on<bank::Remind>([](turn<bank::Account>& t, bank::Remind::Reader m) {
        t.remind<bank::Deposit>(
            "interest", std::chrono::milliseconds{m.getAfter()},
            [&](auto deposit) { deposit.setAmount(m.getAmount()); },
            std::chrono::milliseconds{m.getPeriod()});
      });
}

constexpr const char* names[] = {"account/anna", "account/bert", "account/carla", "account/dora",
                                 "account/emil"};
constexpr std::int64_t first_deposit = 1000;

void deposit(test_node& node, const std::string& to, std::int64_t amount) {
  (void)node.send<bank::Deposit>(to, [&](auto m) { m.setAmount(amount); });
}

std::int64_t funds(test_node& node, const std::string& of) {
  return node.state<bank::Account>(of)->getBalance();
}

// --- what must hold after any crash -------------------------------------------------------------------------------

struct outcome {
  bool crashed = false;
  std::string fault;  // what is wrong with what was found; empty if nothing is
};

// Transfers around five accounts, and a crash on the way; then everything is let finish.
outcome transfers_with_crash(std::uint64_t seed, std::string_view point, unsigned on,
                             const fault_plan& defects = {}) {
  constexpr int rounds = 6;
  test_settings settings;
  settings.seed = seed;
  settings.defects = defects;
  test_node node{settings};
  node.add(accounts());
  for (const auto* name : names) deposit(node, name, first_deposit);
  node.run();

  outcome out;
  std::array<std::vector<sent_message>, std::size(names)> sent;
  node.fail_at(point, on);
  for (int round = 0; round < rounds && !node.has_crashed(); ++round) {
    for (std::size_t n = 0; n < std::size(names); ++n) {
      sent[n].push_back(node.send<bank::Transfer>(names[n], [&](auto m) {
        m.setTo(names[(n + 1 + static_cast<std::size_t>(round) % 4) % std::size(names)]);
        m.setAmount(static_cast<std::int64_t>(n) + 1);
      }));
    }
    node.run();
  }
  out.crashed = node.has_crashed();
  node.crash_and_restart();
  node.run();

  std::int64_t sum = 0;
  for (std::size_t n = 0; n < std::size(names); ++n) {
    const auto account = node.state<bank::Account>(names[n]);
    sum += account.get().getBalance();
    std::size_t confirmed = 0;
    for (const auto& s : sent[n]) confirmed += s.confirmed();
    const auto done = account.get().getTransfers();
    if (done < confirmed || done > sent[n].size()) {
      out.fault += std::string{names[n]} + ": " + std::to_string(confirmed) + " of " +
                   std::to_string(sent[n].size()) + " transfers were confirmed, " + std::to_string(done) +
                   " were carried out. ";
    }
  }
  const auto expected = first_deposit * static_cast<std::int64_t>(std::size(names));
  if (sum != expected) out.fault += "The sum is " + std::to_string(sum) + ". ";
  return out;
}

}  // namespace

TEST_CASE("nothing happens until the node runs, and then everything does", "[test_kit]") {
  test_node node;
  node.add(accounts());
  auto probe = node.probe("probe/1");
  const auto sent = node.send<bank::Deposit>("account/anna", [](auto m) { m.setAmount(7); });
  (void)probe.send<bank::Ask>("account/anna", [](auto) {});
  CHECK(sent.what() == sent_message::fate::open);
  CHECK(!node.has_state("account/anna"));
  probe.expect_nothing();
  node.run();
  CHECK(sent.confirmed());
  CHECK(funds(node, "account/anna") == 7);
  probe.expect<bank::Balance>([](auto m) { return m.getAmount() == 7; });
  probe.expect_nothing();
}

TEST_CASE("what is not as expected is said", "[test_kit]") {
  test_node node;
  node.add(accounts());
  auto probe = node.probe("probe/1");
  const auto failure = [](const auto& does) -> std::string {
    try {
      does();
    } catch (const test_failure& e) {
      return e.what();
    }
    return "";
  };
  CHECK(failure([&] { probe.expect<bank::Balance>(); }) ==
        "probe/1 expected Balance, and has nothing: did the node run?");
  (void)node.send<bank::Deposit>("probe/1", [](auto m) { m.setAmount(1); });
  node.run();
  CHECK(failure([&] { probe.expect<bank::Balance>(); }).starts_with("probe/1 expected Balance (0x"));
  CHECK(failure([&] { probe.expect_nothing(); }).starts_with("probe/1 expected nothing, and has 1 messages"));
  CHECK(failure([&] { probe.expect<bank::Deposit>([](auto m) { return m.getAmount() == 2; }); }) ==
        "probe/1 has another Deposit than it expected: (amount = 1)");
  CHECK(failure([&] { deposit(node, "nobody/1", 1); }).starts_with("nothing has the name 'nobody/1'"));
  CHECK(failure([&] { node.fail_at("no.point"); }).starts_with("'no.point' is no fault point"));
  CHECK(failure([&] {
          node.ask<bank::Deposit, bank::Balance>(
              "account/anna", [](auto) {}, 1h);
        }) == "no answer of 'account/anna' came within 3600000 ms of virtual time");
}

TEST_CASE("a question is answered at once", "[test_kit]") {
  test_node node;
  node.add(accounts());
  deposit(node, "account/anna", 7);
  const auto before = node.now();
  CHECK(node.ask<bank::Ask, bank::Balance>("account/anna", [](auto) {})->getAmount() == 7);
  CHECK(node.now() == before);
}

TEST_CASE("a crash at any point, under any order of events, leaves the state of before or after",
          "[test_kit]") {
  for (const auto point : fault_points) {
    int strikes = 0;
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      const auto on = static_cast<unsigned>(1 + seed % 7);
      const auto out = transfers_with_crash(seed, point, on);
      strikes += out.crashed;
      INFO(point << ", for the " << on << ". time, seed " << seed);
      REQUIRE(out.fault == "");
    }
    INFO(point);
    CHECK(strikes > 10);
  }
}

TEST_CASE("the crashes find out a turn whose commit is split in two", "[test_kit]") {
  fault_plan defects;
  defects.split_turn = true;
  int found_out = 0;
  for (unsigned on = 1; on <= 40; ++on) {
    found_out += !transfers_with_crash(on, "commit.messages_written", on, defects).fault.empty();
  }
  CHECK(found_out > 0);
}

TEST_CASE("the crashes find out a confirm that comes before the commit", "[test_kit]") {
  fault_plan defects;
  defects.confirm_before_commit = true;
  int found_out = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    found_out +=
        !transfers_with_crash(seed, "commit.all_written", 1 + static_cast<unsigned>(seed) % 7, defects)
             .fault.empty();
  }
  CHECK(found_out > 0);
}

TEST_CASE("the same seed gives the same events, and another seed others", "[test_kit]") {
  const auto trace_of = [](std::uint64_t seed) {
    test_settings settings;
    settings.seed = seed;
    settings.keep_trace = true;
    test_node node{settings};
    node.add(accounts());
    for (const auto* name : names) deposit(node, name, 10);
    node.fail_at("commit.done", 2);
    node.run();
    node.crash_and_restart(1min);
    for (const auto* name : names) deposit(node, name, 10);
    node.run();
    node.kill("/actors/account/anna");
    node.advance(2min);
    return std::pair{node.trace(), node.fingerprint()};
  };
  const auto one = trace_of(1), again = trace_of(1);
  CHECK(one.first.size() > 100);
  CHECK(one.first == again.first);
  CHECK(one.second == again.second);
  std::set<std::uint64_t> different;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) different.insert(trace_of(seed).second);
  CHECK(different.size() == 10);
}

TEST_CASE("hours pass at once, and what falls due on the way happens in time", "[test_kit]") {
  test_node node;
  node.add(accounts());
  (void)node.send<bank::Remind>("account/anna", [](auto m) {
    m.setAfter(3'600'000);
    m.setAmount(5);
  });
  node.advance(59min);
  CHECK(funds(node, "account/anna") == 0);
  node.advance(2min);
  CHECK(funds(node, "account/anna") == 5);

  // One that was due while the node was down comes when it is back.
  (void)node.send<bank::Remind>("account/anna", [](auto m) {
    m.setAfter(60'000);
    m.setAmount(10);
  });
  node.run();
  node.crash_and_restart(30min);
  node.run();
  CHECK(funds(node, "account/anna") == 15);
}

TEST_CASE("a reminder that comes again and again comes once for all that it missed", "[test_kit]") {
  test_node node;
  node.add(accounts());
  (void)node.send<bank::Remind>("account/bert", [](auto m) {
    m.setAfter(60'000);
    m.setPeriod(60'000);
    m.setAmount(1);
  });
  node.run();
  node.advance(10min + 1s);
  CHECK(funds(node, "account/bert") == 10);
  node.crash_and_restart(30min);
  node.advance(30s);
  CHECK(funds(node, "account/bert") == 11);
}

TEST_CASE("a turn that fails is tried again later and later", "[test_kit]") {
  std::vector<std::int64_t> attempts;
  auto rules = actor_kind{}.supervision;
  rules.back_off = {.minimum = 1s, .maximum = 1min};
  rules.budget.reset();
  test_node node;
  node.add(durable<bank::Account>("account")
               .on<bank::Deposit>([&](turn<bank::Account>& t, bank::Deposit::Reader) {
                 attempts.push_back(t.now());
                 throw std::runtime_error{"never"};
               })
               .delivery_limit(8)
               .supervision(rules));
  deposit(node, "account/anna", 1);
  node.run();
  CHECK(attempts.size() == 1);
  node.advance(1h);
  REQUIRE(attempts.size() == 9);
  std::vector<std::int64_t> pauses;
  for (std::size_t n = 1; n < attempts.size(); ++n)
    pauses.push_back((attempts[n] - attempts[n - 1] + 500) / 1000);
  CHECK(pauses == std::vector<std::int64_t>{1, 2, 4, 8, 16, 32, 60, 60});
  CHECK(funds(node, "account/anna") == 0);
}

TEST_CASE("a message that waited too long for its actor is dropped", "[test_kit]") {
  test_node node;
  node.add(accounts().message_ttl(30s));
  // Two that were confirmed and had no good turn before the node went down.
  for (const auto down_for : {10s, 40s}) {
    node.fail_next_turn("account/anna", "as the test says");
    const auto sent = node.send<bank::Deposit>("account/anna", [&](auto m) { m.setAmount(down_for / 1s); });
    node.run();
    REQUIRE(sent.confirmed());
    node.crash_and_restart(down_for);
    node.run();
    CHECK(funds(node, "account/anna") == 10);
  }
}

TEST_CASE("a killed actor has a successor that knows what it knew", "[test_kit]") {
  test_node node;
  node.add(accounts());
  deposit(node, "account/anna", 7);
  node.run();
  node.kill("/actors/account/anna");
  deposit(node, "account/anna", 5);
  node.run();
  CHECK(funds(node, "account/anna") == 12);
  CHECK(node.tree().show("/actors/account/anna")->restarts == 1);
}

TEST_CASE("an actor that has nothing to do leaves memory, and comes back", "[test_kit]") {
  test_node node;
  node.add(accounts().idle_after(10min));
  deposit(node, "account/anna", 7);
  node.run();
  CHECK(node.tree().show("/actors/account/anna").has_value());
  node.advance(21min);
  CHECK(!node.tree().show("/actors/account/anna").has_value());
  CHECK(node.ask<bank::Ask, bank::Balance>("account/anna", [](auto) {})->getAmount() == 7);
}

TEST_CASE("a crash takes what was not committed, and nothing else", "[test_kit]") {
  test_node node;
  node.add(accounts());
  deposit(node, "account/anna", 7);
  node.run();
  const auto sent = node.send<bank::Deposit>("account/anna", [](auto m) { m.setAmount(100); });
  node.crash_and_restart();
  node.run();
  CHECK(funds(node, "account/anna") == 7);
  CHECK(sent.what() == sent_message::fate::open);

  // A node that crashed at a point does nothing more.
  node.fail_at("turn.handled");
  deposit(node, "account/anna", 1);
  node.run();
  CHECK(node.has_crashed());
  CHECK_THROWS_AS(deposit(node, "account/anna", 1), test_failure);
  node.advance(1h);
  CHECK(funds(node, "account/anna") == 7);
  node.crash_and_restart();
  node.run();
  CHECK(funds(node, "account/anna") == 7);
  node.fail_at("commit.done");
  deposit(node, "account/anna", 1);
  node.run();
  CHECK(node.has_crashed());
  node.crash_and_restart();
  node.run();
  CHECK(funds(node, "account/anna") == 8);

  node.restart();
  CHECK(funds(node, "account/anna") == 8);
}

TEST_CASE("two nodes in one thread do not disturb each other", "[test_kit]") {
  test_node one{{.seed = 1}}, other{{.seed = 2}};
  one.add(accounts());
  other.add(accounts());
  deposit(one, "account/anna", 1);
  deposit(other, "account/anna", 2);
  one.fail_at("publish.accepted");
  one.run();
  CHECK(one.has_crashed());
  other.run();
  CHECK(funds(other, "account/anna") == 2);
  one.crash_and_restart();
  one.run();
  CHECK(funds(one, "account/anna") == 0);
}

TEST_CASE("a message that fails too often is a dead letter, with its history", "[test_kit]") {
  test_node node;
  node.declare_exchange("dead", exchange_type::direct);
  node.declare_queue("graveyard");
  node.bind("graveyard", "dead", "accounts");
  node.add(accounts().delivery_limit(2).dead_letters_to("dead", "accounts"));
  node.fail_next_turn("account/anna", "as the test says", 3);
  deposit(node, "account/anna", 7);
  CHECK(node.take("graveyard") == nullptr);
  node.advance(1min);
  CHECK(funds(node, "account/anna") == 0);
  node.crash_and_restart();
  const auto dead = node.take("graveyard");
  REQUIRE(dead != nullptr);
  CHECK(text_property(dead->properties(), property::type) == type_of<bank::Deposit>());
  CHECK(node.take("graveyard") == nullptr);
}

TEST_CASE("actors hear what is published, and routers choose among them, also after a crash", "[test_kit]") {
  test_node node;
  node.add(accounts());
  node.declare_exchange("gifts", exchange_type::fanout);
  node.bind("account/anna", "gifts");
  node.bind("account/bert", "gifts");
  node.add(router("any", routing::round_robin).over({"account/anna", "account/bert"}));
  for (int n = 0; n < 2; ++n) {
    node.publish<bank::Deposit>("gifts", "", [](auto m) { m.setAmount(1); });
    deposit(node, "routers/any", 10);
    deposit(node, "routers/any", 10);
    node.run();
    node.crash_and_restart();
  }
  CHECK(funds(node, "account/anna") == 22);
  CHECK(funds(node, "account/bert") == 22);
}

TEST_CASE("an orderly stop and a start change nothing, whatever the seed", "[test_kit]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    test_settings settings;
    settings.seed = seed;
    test_node node{settings};
    node.add(accounts());
    for (const auto* name : names) deposit(node, name, 1);
    std::vector<sent_message> sent;
    for (const auto* name : names) {
      sent.push_back(node.send<bank::Deposit>(name, [](auto m) { m.setAmount(10); }));
    }
    node.restart();
    node.run();
    std::int64_t sum = 0, confirmed = 0;
    for (const auto* name : names) sum += funds(node, name);
    for (const auto& s : sent) confirmed += s.confirmed();
    INFO("seed " << seed);
    CHECK(sum >= confirmed * 10);
    CHECK(sum <= 55);
  }
}
