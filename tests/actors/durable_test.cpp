// Durable actors, as a program that uses the library sees them.
#include "actors/queue.hpp"
#include "actors/vhost.hpp"
#include "bank.capnp.h"
#include "persist/store.hpp"
#include "posthorn/node.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr auto patience = 10s;

struct probe {
  std::atomic<int> failures{0};
};

auto accounts(const std::shared_ptr<probe>& p, std::chrono::milliseconds idle_after = 0ms) {
  child_spec rules = actor_kind{}.supervision;
  rules.back_off = {.minimum = 1ms, .maximum = 5ms};
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
      .on<bank::Fail>([p](turn<bank::Account>& t, bank::Fail::Reader m) {
        t.state().setBalance(t.state().getBalance() + 1000);
        t.send<bank::Deposit>("account/other", [](auto deposit) { deposit.setAmount(1000); });
        if (t.attempts() < m.getTimes()) {
          ++p->failures;
          throw std::runtime_error("as it was told");
        }
      })
      .on<bank::Remind>([](turn<bank::Account>& t, bank::Remind::Reader m) {
        t.remind<bank::Deposit>(
            "interest", std::chrono::milliseconds{m.getAfter()},
            [&](auto deposit) { deposit.setAmount(m.getAmount()); },
            std::chrono::milliseconds{m.getPeriod()});
      })
      .on<bank::Announce>([](turn<bank::Account>& t, bank::Announce::Reader m) {
        t.publish<bank::Balance>(m.getExchange().cStr(), m.getKey().cStr(),
                                 [&](auto balance) { balance.setAmount(t.state().getBalance()); });
      })
      .delivery_limit(3)
      .idle_after(idle_after)
      .supervision(rules);
}

// A node with a bank, on a directory of its own.
struct a_bank {
  explicit a_bank(std::chrono::milliseconds idle_after = 0ms) : idle{idle_after} { open(); }

  void open() {
    auto started = node::start({.data_directory = directory.path()});
    REQUIRE(started);
    running = std::move(*started);
    REQUIRE(running->add(accounts(seen, idle)));
  }
  void reopen() {
    running.reset();
    open();
  }
  void deposit(const std::string& to, std::int64_t amount) {
    auto sent = running->send<bank::Deposit>(to, [&](auto m) { m.setAmount(amount); });
    REQUIRE(sent.wait_for(patience) == std::future_status::ready);
    REQUIRE(sent.get());
  }
  void transfer(const std::string& from, const std::string& to, std::int64_t amount) {
    auto sent = running->send<bank::Transfer>(from, [&](auto m) {
      m.setTo(to);
      m.setAmount(amount);
    });
    REQUIRE(sent.wait_for(patience) == std::future_status::ready);
    REQUIRE(sent.get());
  }
  std::int64_t balance(const std::string& of) {
    auto answer = running->ask<bank::Ask, bank::Balance>(of, patience, [](auto) {});
    INFO((answer ? "" : answer.error().text));
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

  scratch_directory directory;
  std::chrono::milliseconds idle;
  std::shared_ptr<probe> seen = std::make_shared<probe>();
  std::unique_ptr<node> running;
};

}  // namespace

TEST_CASE("an actor exists because somebody sends to it, and remembers", "[durable]") {
  a_bank b;
  b.deposit("account/anna", 7);
  b.deposit("account/anna", 5);
  CHECK(b.balance("account/anna") == 12);
  CHECK(b.balance("account/nobody") == 0);
}

TEST_CASE("an actor's state survives a restart of the node", "[durable]") {
  a_bank b;
  b.deposit("account/anna", 7);
  CHECK(b.balance("account/anna") == 7);
  b.reopen();
  CHECK(b.balance("account/anna") == 7);
}

TEST_CASE("what a turn sends arrives, once, and takes part in the next turns", "[durable]") {
  a_bank b;
  b.deposit("account/anna", 100);
  for (int n = 0; n < 10; ++n) b.transfer("account/anna", "account/bert", 3);
  CHECK(b.eventually([&] { return b.balance("account/bert") == 30; }));
  CHECK(b.balance("account/anna") == 70);
  b.reopen();
  CHECK(b.balance("account/anna") == 70);
  CHECK(b.balance("account/bert") == 30);
}

TEST_CASE("a turn that throws leaves no trace, and its message comes again", "[durable]") {
  a_bank b;
  auto sent = b.running->send<bank::Fail>("account/anna", [](auto m) { m.setTimes(2); });
  REQUIRE(sent.get());
  CHECK(b.eventually([&] { return b.balance("account/anna") == 1000; }));
  CHECK(b.seen->failures == 2);
  CHECK(b.eventually([&] { return b.balance("account/other") == 1000; }));
  const auto report = b.running->tree().show("/actors/account/anna");
  REQUIRE(report);
  CHECK(report->restarts == 2);
  REQUIRE(report->last_failure);
  CHECK(report->last_failure->reason == "as it was told");
}

TEST_CASE("a message that fails too often is given up, and those behind it go on", "[durable]") {
  a_bank b;
  REQUIRE(b.running->send<bank::Fail>("account/anna", [](auto m) { m.setTimes(1000); }).get());
  b.deposit("account/anna", 1);
  CHECK(b.eventually([&] { return b.balance("account/anna") == 1; }));
  CHECK(b.seen->failures == 4);  // the first attempt, and three more
}

TEST_CASE("a killed actor goes on with the next message, and nothing is lost or doubled", "[durable]") {
  a_bank b;
  for (int n = 0; n < 200; ++n) {
    auto sent = b.running->send<bank::Deposit>("account/anna", [](auto m) { m.setAmount(1); });
    if (n % 5 == 0) (void)b.running->tree().kill("/actors/account/anna");
    REQUIRE(sent.wait_for(patience) == std::future_status::ready);
  }
  CHECK(b.balance("account/anna") == 200);
}

TEST_CASE("any actor of the node may be killed: the sum of all accounts never changes", "[durable]") {
  a_bank b;
  constexpr int count = 20;
  const auto account = [](std::size_t n) { return "account/" + std::to_string(n); };
  for (int n = 0; n < count; ++n) b.deposit(account(static_cast<std::size_t>(n)), 100);
  std::mt19937_64 random{4711};
  std::vector<std::future<result<void>>> sent;
  for (int n = 0; n < 1000; ++n) {
    sent.push_back(b.running->send<bank::Transfer>(account(random() % count), [&](auto m) {
      m.setTo(account(random() % count));
      m.setAmount(static_cast<std::int64_t>(random() % 10));
    }));
    if (n % 3 == 0) {
      std::vector<std::string> paths;
      REQUIRE(b.running->tree().walk("/", 1000, [&](const actor_report& r) { paths.push_back(r.path); }));
      (void)b.running->tree().kill(paths[random() % paths.size()]);
    }
  }
  for (auto& s : sent) {
    REQUIRE(s.wait_for(patience) == std::future_status::ready);
    REQUIRE(s.get());
  }
  const auto sum = [&] {
    std::int64_t all = 0;
    for (std::size_t n = 0; n < count; ++n) all += b.balance(account(n));
    return all;
  };
  CHECK(b.eventually([&] { return sum() == count * 100; }));
  b.reopen();
  CHECK(sum() == count * 100);
}

TEST_CASE("an idle actor leaves memory and comes back with its next message", "[durable]") {
  a_bank b{5ms};
  for (int round = 1; round <= 5; ++round) {
    b.deposit("account/anna", 1);
    auto& house = *b.running->broker().context().house;
    CHECK(b.eventually([&] { return !b.running->tree().show("/actors/account/anna"); }));
    std::size_t awake = 0;
    house.each_awake(
        [&](const std::string& name, const queue_port&) { awake += name.starts_with("account/"); });
    CHECK(awake == 0);
    CHECK(b.balance("account/anna") == round);
  }
}

TEST_CASE("messages that come while an actor falls asleep are not lost", "[durable]") {
  a_bank b{1ms};
  std::vector<std::future<result<void>>> sent;
  for (int n = 0; n < 300; ++n) {
    b.transfer("account/" + std::to_string(n % 7), "account/target", 1);
    if (n % 10 == 0) std::this_thread::yield();
  }
  CHECK(b.eventually([&] { return b.balance("account/target") == 300; }));
}

TEST_CASE("messages that an actor has not handled wake it after a restart", "[durable]") {
  scratch_directory directory;
  {
    // A kind that never gets further than failing.
    auto started = node::start({.data_directory = directory.path()});
    REQUIRE(started);
    child_spec rules = actor_kind{}.supervision;
    rules.back_off = {.minimum = 1h, .maximum = 1h};
    REQUIRE((*started)->add(durable<bank::Account>("account")
                                .on<bank::Deposit>([](turn<bank::Account>&, bank::Deposit::Reader) {
                                  throw std::runtime_error("not today");
                                })
                                .supervision(rules)));
    REQUIRE((*started)->send<bank::Deposit>("account/anna", [](auto m) { m.setAmount(3); }).get());
  }
  auto started = node::start({.data_directory = directory.path()});
  REQUIRE(started);
  auto seen = std::make_shared<probe>();
  REQUIRE((*started)->add(accounts(seen)));
  auto answer = (*started)->ask<bank::Ask, bank::Balance>("account/anna", patience, [](auto) {});
  REQUIRE(answer);
  CHECK((*answer)->get().getAmount() == 3);
}

TEST_CASE("a reminder comes, and one with a period comes again, also after a restart", "[durable]") {
  a_bank b;
  REQUIRE(b.running
              ->send<bank::Remind>("account/anna",
                                   [](auto m) {
                                     m.setAfter(1);
                                     m.setAmount(5);
                                   })
              .get());
  CHECK(b.eventually([&] { return b.balance("account/anna") == 5; }));
  REQUIRE(b.running
              ->send<bank::Remind>("account/bert",
                                   [](auto m) {
                                     m.setAfter(1);
                                     m.setPeriod(2);
                                     m.setAmount(1);
                                   })
              .get());
  CHECK(b.eventually([&] { return b.balance("account/bert") >= 3; }));
  const auto before = b.balance("account/bert");
  b.reopen();
  CHECK(b.eventually([&] { return b.balance("account/bert") >= before + 3; }));
  CHECK(b.balance("account/anna") == 5);
}

TEST_CASE("bad use is told: unknown names, unknown messages, kinds that cannot be", "[durable]") {
  a_bank b;
  auto nowhere = b.running->send<bank::Deposit>("acount/anna", [](auto) {}).get();
  REQUIRE_FALSE(nowhere);
  CHECK(nowhere.error().text.find("nothing has the name 'acount/anna'") == 0);
  CHECK_FALSE(b.running->send<bank::Deposit>("account/", [](auto) {}).get());
  CHECK_FALSE(b.running->send<bank::Deposit>("account/a b", [](auto) {}).get());
  CHECK_FALSE(b.running->add(accounts(b.seen)));
  CHECK_FALSE(b.running->add(durable<bank::Account>("a/b").on<bank::Ask>([](auto&, bank::Ask::Reader) {})));
  CHECK_FALSE(b.running->add(durable<bank::Account>("empty")));
  // A message of a type that the kind does not know is rejected, and the actor goes on.
  REQUIRE(b.running->send<bank::Account>("account/anna", [](auto) {}).get());
  b.deposit("account/anna", 2);
  CHECK(b.balance("account/anna") == 2);
  // A turn that sends to nobody fails, and in the end is given up.
  b.transfer("account/anna", "acount/bert", 1);
  b.deposit("account/anna", 1);
  CHECK(b.eventually([&] { return b.balance("account/anna") == 3; }));
}

TEST_CASE("a state that a newer program wrote is refused, and left as it is", "[durable]") {
  scratch_directory directory;
  const auto kind = [](std::uint32_t version) {
    return durable<bank::Account>("account")
        .on<bank::Deposit>([](turn<bank::Account>& t, bank::Deposit::Reader m) {
          t.state().setBalance(t.state().getBalance() + m.getAmount());
        })
        .on<bank::Ask>([](turn<bank::Account>& t, bank::Ask::Reader) {
          t.reply<bank::Balance>([&](auto balance) { balance.setAmount(t.state().getBalance()); });
        })
        .schema_version(version);
  };
  const auto balance = [](node& n, std::chrono::milliseconds deadline) {
    return n.ask<bank::Ask, bank::Balance>("account/anna", deadline, [](auto) {});
  };
  for (const std::uint32_t version : {2U, 1U, 2U}) {
    auto started = node::start({.data_directory = directory.path()});
    REQUIRE(started);
    REQUIRE((*started)->add(kind(version)));
    if (version == 1) {
      CHECK_FALSE(balance(**started, 200ms));
      const auto report = (*started)->tree().show("/actors/account/anna");
      REQUIRE(report);
      REQUIRE(report->last_failure);
      CHECK(report->last_failure->reason.find("written by version 2 of its schema; this program knows 1") !=
            std::string::npos);
    } else {
      REQUIRE((*started)->send<bank::Deposit>("account/anna", [](auto m) { m.setAmount(1); }).get());
      CHECK(balance(**started, patience));
    }
  }
}
