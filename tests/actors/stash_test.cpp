// Messages that a turn sets aside, and that come again.
#include "actors/queue.hpp"
#include "actors/vhost.hpp"
#include "mailbox/mailbox.hpp"
#include "tests/actors/lab.hpp"

#include <utility>

using namespace posthorn;
using namespace lab;

namespace {

constexpr std::int64_t open_door = -1, close_door = -2;

// Sets numbers aside until the door is open. The state has the door (balance), and how often it set something aside.
void a_door(notes& seen, lab::turn& t, std::int64_t number) {
  auto state = t.state();
  if (number == open_door) {
    state.setBalance(1);
    t.unstash_all();
  } else if (number == close_door) {
    state.setBalance(0);
  } else if (state.getBalance() == 1) {
    seen.take(number);
  } else {
    state.setTransfers(state.getTransfers() + 1);
    t.stash();
  }
}

struct a_house : bench {
  explicit a_house(make_kind make = kind)
      : bench{[this](lab::turn& t, std::int64_t number) { a_door(*seen, t, number); }, std::move(make)} {}
};

}  // namespace

TEST_CASE("what was set aside comes again in its order, before what is newer, and keeps nobody waiting",
          "[stash]") {
  a_house h;
  // More than the actor holds at a time.
  h.send(1, 900);
  CHECK(h.eventually([&] { return h.ask().transfers == 900; }));
  CHECK(h.seen->all_taken().empty());
  CHECK(h.last_failure() == "");
  h.send(open_door);
  h.send(901, 950);
  CHECK(h.took(numbers(1, 950)));
  CHECK(h.ask().transfers == 900);
}

TEST_CASE("a message may be set aside more than once, and those behind it keep their place", "[stash]") {
  a_house h;
  h.send(1, 20);
  h.send(open_door);
  h.send(21, 22);
  h.send(close_door);
  h.send(23, 30);
  CHECK(h.took(numbers(1, 22)));
  h.send(open_door);
  h.send(31, 32);
  CHECK(h.took(numbers(1, 32)));
  CHECK(h.ask().transfers == 28);
}

TEST_CASE("what was set aside comes before newer messages that the actor has at hand already", "[stash]") {
  a_house h{[](const auto& seen) {
    auto rules = actor_kind{}.supervision;
    rules.back_off = {.minimum = 1h, .maximum = 1h};
    return kind(seen).supervision(rules);
  }};
  const auto door = std::exchange(
      h.seen->what, [](lab::turn&, std::int64_t) { throw std::runtime_error("not yet: let them gather"); });
  h.send(1, 10);
  h.send(open_door);
  h.send(11, 30);
  h.node.reset();
  h.seen->what = door;
  h.reopen_as(kind);
  CHECK(h.took(numbers(1, 30)));
  CHECK(h.ask().transfers == 10);
}

TEST_CASE(
    "what was set aside comes again after a kill and after a restart, in order, with the state that was kept",
    "[stash]") {
  a_house h;
  h.send(1, 40);
  CHECK(h.eventually([&] { return h.ask().transfers == 40; }));
  REQUIRE(h.node->tree().kill("/actors/lab/1"));
  CHECK(h.eventually([&] { return h.ask().transfers == 80; }));
  h.reopen();
  CHECK(h.eventually([&] { return h.ask().transfers == 120; }));
  h.send(open_door);
  h.send(41, 45);
  CHECK(h.took(numbers(1, 45)));
  h.reopen();
  CHECK(h.ask().transfers == 120);
  CHECK(h.seen->all_taken() == numbers(1, 45));
}

TEST_CASE("kills among messages that are set aside lose nothing and reorder nothing", "[stash]") {
  a_house h;
  for (std::int64_t n = 1; n <= 200; ++n) {
    h.send(n);
    if (n % 20 == 0) (void)h.node->tree().kill("/actors/lab/1");
    if (n % 50 == 0) {
      h.send(open_door);
      h.send(close_door);
    }
  }
  h.send(open_door);
  CHECK(h.eventually([&] { return h.seen->all_taken().size() >= 200; }));
  CHECK(h.seen->all_taken() == numbers(1, 200));
}

TEST_CASE("what a turn sends that sets its message aside is sent", "[stash]") {
  bench b{[](lab::turn& t, std::int64_t number) {
    if (number == 100) {
      t.state().setBalance(t.state().getBalance() + 1);
    } else {
      t.send<bank::Deposit>("lab/other", [](auto m) { m.setAmount(100); });
      t.stash();
    }
  }};
  b.send(1, 3);
  CHECK(b.eventually([&] { return b.ask("lab/other").amount == 3; }));
}

TEST_CASE("a turn that fails sets nothing aside and brings nothing back", "[stash]") {
  std::atomic<int> failures{0};
  bench b{[&](lab::turn& t, std::int64_t number) {
    if (number == 1) return t.stash();
    t.unstash_all();
    t.stash();
    ++failures;
    throw std::runtime_error("as it was told");
  }};
  b.send(1, 2);
  CHECK(b.eventually([&] { return failures == 4; }));  // and then it is given up
  CHECK(b.failed_with("as it was told"));
  const auto port = b.node->broker().context().house->find("lab/1");
  CHECK(b.eventually([&] { return port->held == 1 && port->ready == 0; }));
}

TEST_CASE("more than stash_max fails, and says what to do", "[stash]") {
  a_house h{[](const auto& seen) { return kind(seen).stash_max(5); }};
  h.send(1, 5);
  CHECK(h.eventually([&] { return h.ask().transfers == 5; }));
  CHECK(h.last_failure() == "");
  h.send(6);
  CHECK(
      h.failed_with("actor 'lab/1' has set aside 5 messages, and its kind's stash_max is 5: call "
                    "turn.unstash_all(), reject messages instead, or raise stash_max"));
  // It fails as any message does, and in the end is given up; the others are still there.
  h.send(open_door);
  CHECK(h.took(numbers(1, 5)));
}

TEST_CASE("setting aside and rejecting at once is told to be wrong, in either order", "[stash]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
    b.seen->note_error([&] {
      if (number == 1) t.stash();
      t.reject();
      if (number == 2) t.stash();
    });
  }};
  b.send(1, 2);
  CHECK(b.eventually([&] { return b.seen->all_texts().size() >= 2; }));
  for (const auto& text : b.seen->all_texts()) CHECK(text.find("do one of them") != std::string::npos);
}

TEST_CASE("an actor with messages set aside does not fall asleep", "[stash]") {
  a_house h{[](const auto& seen) { return kind(seen).idle_after(1ms); }};
  h.send(1, 3);
  const auto port = h.node->broker().context().house->find("lab/1");
  CHECK(h.eventually([&] { return port->held == 3; }));
  for (const auto until = std::chrono::steady_clock::now() + 30ms;
       std::chrono::steady_clock::now() < until;) {
    REQUIRE(h.node->tree().show("/actors/lab/1"));
  }
  h.send(open_door);
  CHECK(h.took(numbers(1, 3)));
  CHECK(h.eventually([&] { return !h.node->tree().show("/actors/lab/1"); }));
}

TEST_CASE("purging the mailbox takes what was set aside, too", "[stash]") {
  a_house h;
  h.send(1, 7);
  auto port = h.node->broker().context().house->find("lab/1");
  CHECK(h.eventually([&] { return port->held == 7; }));
  std::promise<std::uint64_t> purged;
  const connection_actor asker =
      h.node->system().spawn([&](connection_actor::pointer) -> connection_actor::behavior_type {
        return {
            [](deliver&) {},
            [](settled&) {},
            [&](reply& m) { purged.set_value(std::get<messages_removed>(m.what).count); },
            [](consumer_cancelled&) {},
            [](close_connection&) {},
            [](alarm_changed&) {},
        };
      });
  port->post(purge_queue{asker, 1});
  auto count = purged.get_future();
  REQUIRE(count.wait_for(patience) == std::future_status::ready);
  CHECK(count.get() == 7);
  caf::anon_send_exit(asker, caf::exit_reason::user_shutdown);
  h.send(open_door);
  h.send(8);
  CHECK(h.took({8}));
  port.reset();  // nothing of a node outlives it
  h.reopen();
  h.send(9);
  CHECK(h.took({8, 9}));
}

TEST_CASE("a message does not expire while it is set aside, but does when it would come again", "[stash]") {
  a_house h{[](const auto& seen) { return kind(seen).message_ttl(100ms); }};
  h.send(1, 3);
  const auto port = h.node->broker().context().house->find("lab/1");
  const auto& context = h.node->broker().context();
  const auto sent_before = context.now();
  CHECK(h.eventually([&] { return context.now() > sent_before + 150; }));
  CHECK(port->held == 3);
  h.send(open_door);
  h.send(4);
  CHECK(h.took({4}));
  CHECK(h.eventually([&] { return port->held == 0 && port->ready == 0; }));
}

TEST_CASE("the mailbox keeps aside what is held, and gives it back in order", "[stash][mailbox]") {
  constexpr consumer_id own{1}, aside{2};
  mailbox box{false, {}};
  effects out;
  box.add_consumer({.id = own, .prefetch = 2, .credit = 1 << 20});
  std::vector<arrival> messages;
  for (std::uint64_t n = 0; n < 5; ++n) messages.push_back({make_envelope("", "q", {}, false, {}), {7}, n});
  box.publish(messages, out);
  box.dispatch(out);
  REQUIRE(out.deliveries.size() == 2);
  const sequence_range both[] = {{{1}, {2}}};
  box.set_aside(own, aside, both);
  CHECK(box.held_count() == 2);
  CHECK(box.holds(aside, {1}));
  CHECK_FALSE(box.holds(own, {1}));
  out.clear();
  box.dispatch(out);  // the prefetch is free again
  REQUIRE(out.deliveries.size() == 2);
  CHECK(out.deliveries[0].at == sequence{3});
  CHECK(box.purge(out) == 1);
  const sequence_range next[] = {{{3}, {4}}};
  box.give_back(own, next, out, blame::no);
  box.release(aside, out, blame::no);
  CHECK_FALSE(box.known(aside));
  out.clear();
  box.dispatch(out);
  REQUIRE(out.deliveries.size() == 2);
  CHECK(out.deliveries[0].at == sequence{1});
  CHECK(out.deliveries[0].attempts == 0);
  CHECK(out.deliveries[1].at == sequence{2});
}
