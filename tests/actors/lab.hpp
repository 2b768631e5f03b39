// A node with a kind of actors, "lab", whose turns a test makes up: what it sends is a number, and the test says what
// comes of it. For the tests of what a turn can do.
#pragma once

#include "bank.capnp.h"
#include "posthorn/node.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace lab {

using namespace std::chrono_literals;

constexpr auto patience = 20s;
using turn = posthorn::turn<bank::Account>;

// What the turns have done, for the test to see. Locked, since they run on the node's threads.
struct notes {
  std::mutex mutex;
  std::function<void(turn&, std::int64_t)> what;  // called with the number of each Deposit
  std::vector<std::int64_t> taken;                // by `take`
  std::vector<std::string> texts;

  void take(std::int64_t number) {
    const std::lock_guard guard{mutex};
    taken.push_back(number);
  }
  void note(std::string text) {
    const std::lock_guard guard{mutex};
    texts.push_back(std::move(text));
  }
  // Notes the text of what `act` throws, or "" if it does not.
  void note_error(const std::function<void()>& act) {
    try {
      act();
      note("");
    } catch (const posthorn::turn_error& e) {
      note(e.what());
    }
  }
  std::vector<std::int64_t> all_taken() {
    const std::lock_guard guard{mutex};
    return taken;
  }
  std::vector<std::string> all_texts() {
    const std::lock_guard guard{mutex};
    return texts;
  }
};

inline posthorn::durable<bank::Account> kind(const std::shared_ptr<notes>& seen) {
  auto rules = posthorn::actor_kind{}.supervision;
  rules.back_off = {.minimum = 1ms, .maximum = 5ms};
  return posthorn::durable<bank::Account>("lab")
      .on<bank::Deposit>([seen](turn& t, bank::Deposit::Reader m) { seen->what(t, m.getAmount()); })
      .on<bank::Ask>([](turn& t, bank::Ask::Reader) {
        auto state = t.state();
        t.reply<bank::Balance>([&](auto balance) {
          balance.setAmount(state.getBalance());
          balance.setTransfers(state.getTransfers());
        });
      })
      .delivery_limit(3)
      .idle_after(0ms)
      .supervision(rules);
}

struct bench {
  using make_kind = std::function<posthorn::durable<bank::Account>(const std::shared_ptr<notes>&)>;

  explicit bench(std::function<void(turn&, std::int64_t)> what, make_kind make = kind)
      : make_{std::move(make)} {
    seen->what = std::move(what);
    open();
  }
  void open() {
    auto started = posthorn::node::start({.data_directory = directory.path()});
    REQUIRE(started);
    node = std::move(*started);
    REQUIRE(node->add(make_(seen)));
  }
  void reopen() {
    node.reset();
    open();
  }
  void reopen_as(make_kind make) {
    make_ = std::move(make);
    reopen();
  }

  // Numbers first..last; returns when they are durable.
  void send(std::int64_t first, std::int64_t last, const std::string& to = "lab/1") {
    std::vector<std::future<posthorn::result<void>>> sent;
    for (auto n = first; n <= last; ++n) {
      sent.push_back(node->send<bank::Deposit>(to, [&](auto m) { m.setAmount(n); }));
    }
    for (auto& s : sent) {
      REQUIRE(s.wait_for(patience) == std::future_status::ready);
      REQUIRE(s.get());
    }
  }
  void send(std::int64_t number) { send(number, number); }

  struct balance {
    std::int64_t amount = 0;
    std::uint64_t transfers = 0;
  };
  balance ask(const std::string& of = "lab/1") {
    auto answer = node->ask<bank::Ask, bank::Balance>(of, patience, [](auto) {});
    INFO((answer ? "" : answer.error().text));
    REQUIRE(answer);
    return {(*answer)->get().getAmount(), (*answer)->get().getTransfers()};
  }
  std::string last_failure(const std::string& of = "lab/1") const {
    const auto report = node->tree().show("/actors/" + of);
    return report && report->last_failure ? report->last_failure->reason : "";
  }
  bool failed_with(const std::string& text) {
    return eventually([&] { return last_failure().find(text) != std::string::npos; });
  }
  static bool eventually(const std::function<bool()>& condition) {
    for (const auto until = std::chrono::steady_clock::now() + patience; !condition();) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::yield();
    }
    return true;
  }
  bool took(const std::vector<std::int64_t>& expected) {
    return eventually([&] { return seen->all_taken().size() >= expected.size(); }) &&
           seen->all_taken() == expected;
  }

  posthorn::scratch_directory directory;
  std::shared_ptr<notes> seen = std::make_shared<notes>();
  std::unique_ptr<posthorn::node> node;

private:
  make_kind make_;
};

inline std::vector<std::int64_t> numbers(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> out;
  for (auto n = first; n <= last; ++n) out.push_back(n);
  return out;
}

}  // namespace lab
