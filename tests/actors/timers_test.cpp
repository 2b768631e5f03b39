// Timers that are not durable: of the value that keeps them, and of actors that set them.
#include "actors/volatile_timers.hpp"
#include "tests/actors/lab.hpp"

using namespace posthorn;
using namespace lab;

namespace {

timer_change a_timer(std::string name, std::int64_t due, std::int64_t period = 0) {
  return {std::move(name), make_envelope("", "x", {}, false, {}), due, period};
}

std::string taken(volatile_timers& timers) {
  std::string out;
  while (timers.waiting() != nullptr) out += timers.take().timer + " ";
  return out;
}

void deposit(lab::turn& t, const char* timer, std::chrono::milliseconds delay, std::int64_t number) {
  t.after<bank::Deposit>(timer, delay, [&](auto m) { m.setAmount(number); });
}

}  // namespace

TEST_CASE("timers fall due in the order of their times, and wait behind what is older", "[timers]") {
  volatile_timers timers;
  timers.apply(a_timer("late", 30));
  timers.apply(a_timer("early", 10));
  timers.apply(a_timer("middle", 20));
  CHECK(timers.next_due() == 10);
  timers.fall_due(9, {5});
  CHECK(timers.waiting() == nullptr);
  timers.fall_due(20, {7});
  REQUIRE(timers.waiting() != nullptr);
  CHECK(timers.waiting()->behind == sequence{7});
  CHECK(timers.waiting()->due == 10);
  CHECK(timers.next_due() == 30);
  CHECK(taken(timers) == "early middle ");
  CHECK_FALSE(timers.empty());
  timers.fall_due(1000, {7});
  CHECK(taken(timers) == "late ");
  CHECK(timers.empty());
  CHECK_FALSE(timers.next_due());
}

TEST_CASE("a timer with a period waits once, however often it fell due", "[timers]") {
  volatile_timers timers;
  timers.apply(a_timer("beat", 10, 10));
  timers.fall_due(10, {1});
  timers.fall_due(20, {1});
  CHECK(timers.next_due() == 30);
  timers.fall_due(55, {1});
  CHECK(timers.next_due() == 56);  // those that were missed come once
  CHECK(taken(timers) == "beat ");
  timers.fall_due(56, {1});
  CHECK(taken(timers) == "beat ");
  CHECK_FALSE(timers.empty());
}

TEST_CASE("a timer that is set anew or cancelled does not come, even if it was due", "[timers]") {
  volatile_timers timers;
  timers.apply(a_timer("a", 10));
  timers.apply(a_timer("b", 10));
  timers.fall_due(10, {1});
  timers.apply(a_timer("a", 20));
  timers.apply({"b", nullptr, 0, 0});
  timers.apply({"never set", nullptr, 0, 0});
  CHECK(timers.waiting() == nullptr);
  CHECK(timers.next_due() == 20);
  timers.apply(a_timer("c", 30));
  timers.clear();
  CHECK(timers.empty());
  CHECK_FALSE(timers.next_due());
}

TEST_CASE("there is room for so many timers, and for those that are there", "[timers]") {
  volatile_timers timers;
  for (std::size_t n = 0; n < volatile_timers::count_max; ++n) {
    REQUIRE(timers.fits("t" + std::to_string(n), 0));
    timers.apply(a_timer("t" + std::to_string(n), 10));
  }
  CHECK_FALSE(timers.fits("one more", 0));
  CHECK(timers.fits("t3", 5));
}

TEST_CASE("a timer's message comes as a turn of its own, with its state and what it sends", "[timers]") {
  bench b{[](lab::turn& t, std::int64_t number) {
    if (number == 1) {
      deposit(t, "once", 1ms, 2);
    } else {
      t.state().setBalance(t.state().getBalance() + number);
      if (number == 2) t.send<bank::Deposit>("lab/other", [](auto m) { m.setAmount(30); });
    }
  }};
  b.send(1);
  CHECK(b.eventually([&] { return b.ask("lab/other").amount == 30; }));
  b.reopen();
  CHECK(b.ask().amount == 2);
  CHECK(b.ask("lab/other").amount == 30);
}

TEST_CASE("a timer with a period comes until it is cancelled", "[timers]") {
  bench b{[](lab::turn& t, std::int64_t number) {
    if (number == 1) {
      t.every<bank::Deposit>("beat", 1ms, [](auto m) { m.setAmount(2); });
    } else if (number == 2) {
      t.state().setBalance(t.state().getBalance() + 1);
      if (t.state().getBalance() == 5) t.cancel_timer("beat");
    }
  }};
  b.send(1);
  CHECK(b.eventually([&] { return b.ask().amount == 5; }));
  for (int n = 0; n < 20; ++n) REQUIRE(b.ask().amount == 5);
  b.send(1);
  CHECK(b.eventually([&] { return b.ask().amount > 5; }));
}

TEST_CASE("a timer that is due has its turn behind the messages that are older", "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
    if (number == 100) {
      deposit(t, "due", 0ms, 101);
      t.unstash_all();
    } else if (number == 101 || t.state().getBalance() == 1) {
      b.seen->take(number);
    } else if (number == 99) {
      t.state().setBalance(1);
    } else {
      t.stash();
    }
  }};
  b.send(1, 10);
  b.send(99, 100);
  auto expected = numbers(1, 10);
  expected.push_back(101);
  CHECK(b.took(expected));
}

TEST_CASE("a timer that is set in a turn that fails or is rejected is not set", "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
    if (number > 2) return b.seen->take(number);
    deposit(t, "never", 0ms, 50);
    if (number == 1) t.reject();
    if (number == 2) throw std::runtime_error("as it was told");
  }};
  b.send(1, 3);
  CHECK(b.took({3}));
  for (int n = 0; n < 20; ++n) (void)b.ask();
  CHECK(b.seen->all_taken() == std::vector<std::int64_t>{3});
}

TEST_CASE("timers end when the actor is started again", "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
    if (number == 1) t.every<bank::Deposit>("beat", 1ms, [](auto m) { m.setAmount(2); });
    if (number == 2) b.seen->take(number);
  }};
  b.send(1);
  CHECK(b.eventually([&] { return b.seen->all_taken().size() >= 3; }));
  REQUIRE(b.node->tree().kill("/actors/lab/1"));
  CHECK(b.eventually([&] {
    const auto report = b.node->tree().show("/actors/lab/1");
    return report && report->restarts == 1;
  }));
  (void)b.ask();
  const auto before = b.seen->all_taken().size();
  for (const auto until = std::chrono::steady_clock::now() + 20ms;
       std::chrono::steady_clock::now() < until;) {
    (void)b.ask();
  }
  CHECK(b.seen->all_taken().size() == before);
}

TEST_CASE("a timer's turn that fails is counted like any, and its message is gone", "[timers]") {
  std::atomic<int> attempts{0};
  bench b{[&](lab::turn& t, std::int64_t number) {
    if (number == 1) deposit(t, "bomb", 1ms, 2);
    if (number == 3) b.seen->take(number);
    if (number != 2) return;
    ++attempts;
    t.state().setBalance(1000);
    t.send<bank::Deposit>("lab/other", [](auto m) { m.setAmount(3); });
    throw std::runtime_error("it went off");
  }};
  b.send(1);
  CHECK(b.failed_with("the turn of the timer 'bomb' failed, and its message is gone: it went off"));
  b.send(3);
  CHECK(b.took({3}));
  CHECK(b.ask().amount == 0);
  CHECK(b.ask("lab/other").amount == 0);
  CHECK(attempts == 1);
}

TEST_CASE("an actor with timers does not fall asleep, and one without does", "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
            if (number == 1) t.every<bank::Deposit>("beat", 10ms, [](auto m) { m.setAmount(2); });
            if (number == 2) b.seen->take(number);
            if (number == 3) t.cancel_timer("beat");
          },
          [](const auto& seen) { return kind(seen).idle_after(2ms); }};
  b.send(1);
  CHECK(b.eventually([&] { return b.seen->all_taken().size() >= 5; }));
  REQUIRE(b.node->tree().show("/actors/lab/1"));
  b.send(3);
  CHECK(b.eventually([&] { return !b.node->tree().show("/actors/lab/1"); }));
}

TEST_CASE("bad timers are told: no name, too long a name, a time that lies behind, no period, no handler",
          "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t) {
    const auto after = [&](std::string_view name, std::chrono::milliseconds delay) {
      b.seen->note_error([&] { t.after<bank::Deposit>(name, delay, [](auto) {}); });
    };
    const auto every = [&](std::string_view name, std::chrono::milliseconds period) {
      b.seen->note_error([&] { t.every<bank::Deposit>(name, period, [](auto) {}); });
    };
    const std::string long_name(101, 'x');
    after("", 1ms);
    after(long_name, 1ms);
    after("a", -1ms);
    after("a", std::chrono::milliseconds::max());
    after("a", std::chrono::milliseconds::min());
    every("", 1ms);
    every("a", 0ms);
    every("a", -1ms);
    b.seen->note_error([&] { t.cancel_timer(""); });
    b.seen->note_error([&] { t.after<bank::Transfer>("a", 1ms, [](auto) {}); });
    b.seen->note_error([&] { t.remind<bank::Deposit>("", 1ms, [](auto) {}); });
    b.seen->note_error([&] { t.remind<bank::Deposit>("a", -1ms, [](auto) {}); });
    b.seen->note_error([&] {
      t.remind<bank::Deposit>(
          "a", 1ms, [](auto) {}, -1ms);
    });
    b.seen->note_error([&] { t.cancel_timer("never set"); });
    after(long_name.substr(1), 1h);
  }};
  b.send(1);
  const std::vector<std::string> expected{"a timer needs a name",
                                          "has a name of 101 octets: use at most 100",
                                          "the timer 'a' lies in the past",
                                          "more than 100 years ahead",
                                          "lies in the past",
                                          "a timer needs a name",
                                          "has a period of 0 ms: use 1 ms and more, or turn.after",
                                          "the period of the timer 'a' lies in the past",
                                          "a timer needs a name",
                                          "which the kind 'lab' does not handle: add it with on<Message>",
                                          "a reminder needs a name",
                                          "the reminder 'a' lies in the past",
                                          "the period of the reminder 'a' lies in the past"};
  REQUIRE(b.eventually([&] { return b.seen->all_texts().size() == expected.size() + 2; }));
  const auto texts = b.seen->all_texts();
  for (std::size_t n = 0; n < expected.size(); ++n) {
    INFO(n << ": " << texts[n]);
    CHECK(texts[n].find(expected[n]) != std::string::npos);
  }
  CHECK(texts[expected.size()] == "");
  CHECK(texts[expected.size() + 1] == "");
  CHECK(b.last_failure() == "");
}

TEST_CASE("too many timers are told, and none of the turn's is set", "[timers]") {
  bench b{[](lab::turn& t, std::int64_t) {
    for (int n = 0; n <= 1000; ++n) deposit(t, ("t" + std::to_string(n)).c_str(), 1h, 1);
  }};
  b.send(1);
  CHECK(b.failed_with("actor 'lab/1' has 1000 timers: cancel some"));
}

TEST_CASE("the message of a timer cannot be set aside, and that it was rejected is logged", "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
    if (number == 1) deposit(t, "x", 0ms, 2);
    if (number == 2) {
      b.seen->note_error([&] { t.stash(); });
      t.state().setBalance(7);
      t.reject("not now");
    }
  }};
  b.send(1);
  REQUIRE(b.eventually([&] { return !b.seen->all_texts().empty(); }));
  CHECK(b.seen->all_texts()[0].find("cannot be set aside: set the timer again") != std::string::npos);
  CHECK(b.ask().amount == 0);
  CHECK(b.last_failure() == "");
}

TEST_CASE("each turn of a timer has an idempotency key of its own", "[timers]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
    b.seen->note(t.idempotency_key());
    if (number == 1) t.every<bank::Deposit>("beat", 1ms, [](auto m) { m.setAmount(2); });
  }};
  b.send(1);
  REQUIRE(b.eventually([&] { return b.seen->all_texts().size() >= 5; }));
  auto keys = b.seen->all_texts();
  std::sort(keys.begin(), keys.end());
  CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
}
