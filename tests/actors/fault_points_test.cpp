// The process ends at every point that a publish and a turn pass; the state that is found afterwards is that of before or
// after, never between.
#include "bank.capnp.h"
#include "posthorn/node.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr auto patience = 20s;
constexpr std::int64_t first_deposit = 1000, amount = 10;
constexpr int transfers = 12;

// The same accounts as states that are written with each turn, and as event journals.
enum class kept_as { state, journal };

durable<bank::Account> accounts_with_journal() {
  return durable<bank::Account>("account")
      .on_event<bank::Deposit>([](bank::Account::Builder state, bank::Deposit::Reader m) {
        state.setBalance(state.getBalance() + m.getAmount());
      })
      .on_event<bank::Transfer>([](bank::Account::Builder state, bank::Transfer::Reader m) {
        state.setBalance(state.getBalance() - m.getAmount());
        state.setTransfers(state.getTransfers() + 1);
      })
      .on<bank::Deposit>([](turn<bank::Account>& t, bank::Deposit::Reader m) {
        t.record<bank::Deposit>([&](auto event) { event.setAmount(m.getAmount()); });
      })
      .on<bank::Transfer>([](turn<bank::Account>& t, bank::Transfer::Reader m) {
        t.record<bank::Transfer>([&](auto event) { event.setAmount(m.getAmount()); });
        t.send<bank::Deposit>(m.getTo().cStr(), [&](auto deposit) { deposit.setAmount(m.getAmount()); });
      })
      .on<bank::Ask>([](turn<bank::Account>& t, bank::Ask::Reader) {
        t.reply<bank::Balance>([&](auto balance) {
          balance.setAmount(t.state().getBalance());
          balance.setTransfers(t.state().getTransfers());
        });
      })
      .snapshot_every(3);
}

durable<bank::Account> accounts() {
  return durable<bank::Account>("account")
      .on<bank::Deposit>([](turn<bank::Account>& t, bank::Deposit::Reader m) {
        t.state().setBalance(t.state().getBalance() + m.getAmount());
      })
      .on<bank::Transfer>([](turn<bank::Account>& t, bank::Transfer::Reader m) {
        t.state().setBalance(t.state().getBalance() - m.getAmount());
        t.state().setTransfers(t.state().getTransfers() + 1);
        t.send<bank::Deposit>(m.getTo().cStr(), [&](auto deposit) { deposit.setAmount(m.getAmount()); });
      })
      .on<bank::Ask>([](turn<bank::Account>& t, bank::Ask::Reader) {
        t.reply<bank::Balance>([&](auto balance) {
          balance.setAmount(t.state().getBalance());
          balance.setTransfers(t.state().getTransfers());
        });
      });
}

std::unique_ptr<node> open(const std::filesystem::path& directory, kept_as how,
                           const fault_plan& faults = {}) {
  broker_settings settings;
  settings.data_directory = directory;
  settings.threads = 2;
  settings.faults = faults;
  auto started = node::start(std::move(settings));
  if (!started || !(*started)->add(how == kept_as::state ? accounts() : accounts_with_journal())) {
    std::_Exit(1);
  }
  return std::move(*started);
}

struct balances {
  std::int64_t anna = 0, bert = 0;
  std::uint64_t sent = 0;
};

balances ask(node& n) {
  const auto one = [&](const char* of) { return n.ask<bank::Ask, bank::Balance>(of, patience, [](auto) {}); };
  auto anna = one("account/anna"), bert = one("account/bert");
  REQUIRE(anna);
  REQUIRE(bert);
  return {(*anna)->get().getAmount(), (*bert)->get().getAmount(), (*anna)->get().getTransfers()};
}

// In a process of its own: transfers, one after the other or all at once, until it is over or the fault strikes. What
// was confirmed is counted in the pipe. Its exit code.
int run_with(const std::filesystem::path& directory, kept_as how, const fault_plan& faults, bool at_once,
             int& confirmed) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const auto child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    auto running = open(directory, how, faults);
    std::vector<std::future<result<void>>> sent;
    const auto confirm = [&](std::future<result<void>>& f) {
      if (f.wait_for(patience) != std::future_status::ready || !f.get()) std::_Exit(2);
      if (::write(ends[1], "c", 1) != 1) std::_Exit(3);
    };
    for (int n = 0; n < transfers; ++n) {
      sent.push_back(running->send<bank::Transfer>("account/anna", [](auto m) {
        m.setTo("account/bert");
        m.setAmount(amount);
      }));
      if (!at_once) confirm(sent.back());
    }
    if (at_once) {
      for (auto& f : sent) confirm(f);
    }
    // Wait until the turns are through, for the points behind the confirm.
    for (int n = 0; n < 200; ++n) {
      auto bert = running->ask<bank::Ask, bank::Balance>("account/bert", patience, [](auto) {});
      if (bert && (*bert)->get().getAmount() == transfers * amount) break;
    }
    std::_Exit(0);
  }
  ::close(ends[1]);
  confirmed = 0;
  for (char c = 0; ::read(ends[0], &c, 1) == 1;) ++confirmed;
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

void prepare(const std::filesystem::path& directory, kept_as how) {
  auto running = open(directory, how);
  REQUIRE(running->send<bank::Deposit>("account/anna", [](auto m) { m.setAmount(first_deposit); }).get());
  CHECK(ask(*running).anna == first_deposit);
}

// What is wrong with what is found after the crash; empty if nothing is.
std::string fault_of(const std::filesystem::path& directory, kept_as how, int confirmed) {
  auto running = open(directory, how);
  balances found;
  for (const auto until = std::chrono::steady_clock::now() + patience;;) {
    found = ask(*running);
    // Every transfer that was confirmed is carried out, others may be.
    const bool whole = found.anna == first_deposit - static_cast<std::int64_t>(found.sent) * amount &&
                       found.bert == static_cast<std::int64_t>(found.sent) * amount;
    if (whole && found.sent >= static_cast<std::uint64_t>(confirmed)) break;
    if (std::chrono::steady_clock::now() > until) {
      return "anna " + std::to_string(found.anna) + ", bert " + std::to_string(found.bert) + " after " +
             std::to_string(found.sent) + " transfers, of which " + std::to_string(confirmed) +
             " were confirmed";
    }
    if (found.anna + found.bert != first_deposit &&
        std::chrono::steady_clock::now() > until - patience + 2s) {
      return "the sum is " + std::to_string(found.anna + found.bert);
    }
  }
  if (found.sent > transfers) return std::to_string(found.sent) + " transfers were carried out";
  return "";
}

constexpr int crashed = 86;

// ThreadSanitizer cannot follow a process into a fork.
#ifdef __SANITIZE_THREAD__
constexpr bool can_fork = false;
#else
constexpr bool can_fork = true;
#endif

}  // namespace

namespace {

void crash_everywhere(kept_as how, std::initializer_list<unsigned> times) {
  for (const auto point : fault_points) {
    int strikes = 0;
    for (const unsigned on : times) {
      for (const bool at_once : {false, true}) {
        scratch_directory directory;
        prepare(directory.path(), how);
        fault_plan faults;
        faults.crash_at = point;
        faults.crash_on = on;
        int confirmed = 0;
        const auto code = run_with(directory.path(), how, faults, at_once, confirmed);
        INFO(point << " for the " << on << ". time, " << (at_once ? "all at once" : "one by one"));
        CHECK((code == 0 || code == crashed));
        strikes += code == crashed;
        CHECK(fault_of(directory.path(), how, confirmed) == "");
      }
    }
    INFO(point);
    CHECK(strikes > 0);
  }
}

}  // namespace

TEST_CASE("a crash at any point of a publish and a turn leaves the state of before or after",
          "[durable][faults]") {
  if (!can_fork) SKIP("not under ThreadSanitizer");
  crash_everywhere(kept_as::state, {1U, 2U, 5U});
}

TEST_CASE("a crash at any point of a turn that records events leaves the state of before or after",
          "[journal][faults]") {
  if (!can_fork) SKIP("not under ThreadSanitizer");
  // Before a snapshot, and with one.
  crash_everywhere(kept_as::journal, {2U, 4U});
}

TEST_CASE("a turn whose commit is split in two is found out", "[durable][faults]") {
  if (!can_fork) SKIP("not under ThreadSanitizer");
  // The crash comes between the two transactions: in the second one of a pair.
  int found_out = 0;
  for (unsigned on = 1; on <= 20 && found_out == 0; ++on) {
    scratch_directory directory;
    prepare(directory.path(), kept_as::state);
    fault_plan faults;
    faults.split_turn = true;
    faults.crash_at = "commit.messages_written";
    faults.crash_on = on;
    int confirmed = 0;
    if (run_with(directory.path(), kept_as::state, faults, false, confirmed) != crashed) continue;
    found_out += fault_of(directory.path(), kept_as::state, confirmed) != "";
  }
  CHECK(found_out > 0);
}
