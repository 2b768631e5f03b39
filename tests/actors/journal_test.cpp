// The event journal that an actor may keep beside its state.
#include "actors/history.hpp"
#include "actors/same_value.hpp"
#include "persist/store.hpp"
#include "tests/actors/lab.hpp"

#include <algorithm>

using namespace posthorn;
using namespace lab;

namespace {

// Numbers are recorded as events that add them to the balance; 1000 and more do other things.
void count_events(lab::turn& t, std::int64_t number) {
  if (number < 1000) {
    t.record<bank::Deposit>([&](auto m) { m.setAmount(number); });
  } else if (number == 1000) {
    t.state().setTransfers(t.state().getTransfers() + 1);  // directly
  }
}

durable<bank::Account> journaled(const std::shared_ptr<notes>& seen) {
  return kind(seen).on_event<bank::Deposit>([](bank::Account::Builder state, bank::Deposit::Reader m) {
    state.setBalance(state.getBalance() + m.getAmount());
  });
}

bench::make_kind every(std::uint32_t events, bool keep = false) {
  return [=](const auto& seen) { return journaled(seen).snapshot_every(events).keep_events(keep); };
}

// What the store has of "lab/1", when everything is written.
actor_state stored(bench& b) {
  (void)b.ask();
  (void)b.ask();
  const auto state = b.node->broker().context().journal.read_state("/actors/lab/1");
  REQUIRE(state);
  REQUIRE(*state);
  return **state;
}

std::vector<std::uint64_t> history(bench& b, std::uint64_t from = 1) {
  const auto events = history_of(b.node->broker().context(), "lab/1", from);
  REQUIRE(events);
  std::vector<std::uint64_t> out;
  for (const auto& e : *events) out.push_back(e.number);
  return out;
}

std::vector<std::uint64_t> count(std::uint64_t first, std::uint64_t last) {
  std::vector<std::uint64_t> out;
  for (auto n = first; n <= last; ++n) out.push_back(n);
  return out;
}

}  // namespace

TEST_CASE("an event changes the state at once, and again when the actor wakes", "[journal]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
            count_events(t, number);
            b.seen->take(t.state().getBalance());
          },
          every(100)};
  b.send(1, 10);
  CHECK(b.ask().amount == 55);
  CHECK(b.seen->all_taken().back() == 55);
  CHECK(stored(b).state.empty());  // only the events are in the store
  CHECK(history(b) == count(1, 10));
  b.reopen();
  CHECK(b.ask().amount == 55);
  b.send(11);
  CHECK(b.ask().amount == 66);
  CHECK(history(b) == count(1, 11));
}

TEST_CASE("the journal is read as numbers, types and bodies", "[journal]") {
  bench b{count_events, every(100)};
  b.send(5);
  b.send(7);
  (void)stored(b);
  const auto events = history_of(b.node->broker().context(), "lab/1");
  REQUIRE(events);
  REQUIRE(events->size() == 2);
  const auto& second = (*events)[1];
  CHECK(second.number == 2);
  CHECK(second.type == type_of<bank::Deposit>());
  const auto words = detail::aligned_words(second.body);
  capnp::FlatArrayMessageReader reader{words};
  CHECK(reader.getRoot<bank::Deposit>().getAmount() == 7);
  CHECK(history(b, 2) == count(2, 2));
  CHECK(history(b, 3).empty());
  CHECK(history_of(b.node->broker().context(), "lab/1", 1, 1)->size() == 1);
  CHECK(history_of(b.node->broker().context(), "lab/nobody")->empty());
  for (const auto* name : {"", "lab", "lab/", "/x"}) {
    const auto none = history_of(b.node->broker().context(), name);
    REQUIRE_FALSE(none);
    CHECK(none.error().text.find("is no name of an actor") != std::string::npos);
  }
}

TEST_CASE("the state is written every so many events, and those that it has in it go", "[journal]") {
  bench b{count_events, every(4)};
  for (int n = 1; n <= 10; ++n) {
    b.send(1);
    (void)b.ask();
  }
  CHECK(stored(b).last_event == 8);
  CHECK_FALSE(stored(b).state.empty());
  CHECK(history(b) == count(9, 10));
  b.reopen();
  CHECK(b.ask().amount == 10);
}

TEST_CASE("events stay when the kind says so", "[journal]") {
  bench b{count_events, every(4, true)};
  for (int n = 1; n <= 10; ++n) {
    b.send(1);
    (void)b.ask();
  }
  CHECK(stored(b).last_event == 8);
  CHECK(history(b) == count(1, 10));
  b.reopen();
  CHECK(b.ask().amount == 10);
  b.send(1);
  CHECK(b.ask().amount == 11);
  CHECK(history(b) == count(1, 11));
}

TEST_CASE("with snapshot_every(0) the state is never written, and many events bring it back", "[journal]") {
  bench b{count_events, every(0)};
  for (int n = 0; n < 3; ++n) {
    b.send(1, 300);
    CHECK(b.ask().amount == (n + 1) * 45150);
    CHECK(stored(b).state.empty());
    CHECK(stored(b).last_event == 0);
    b.reopen();
  }
  CHECK(b.ask().amount == 3 * 45150);
  CHECK(history(b) == count(1, 900));
}

TEST_CASE("a kind may begin to keep a journal, and its rules may change", "[journal]") {
  bench b{[](lab::turn& t, std::int64_t number) { t.state().setBalance(number); }};
  b.send(5);
  CHECK(b.ask().amount == 5);
  b.seen->what = count_events;
  b.reopen_as(every(100));
  b.send(1, 3);
  CHECK(b.ask().amount == 11);
  b.reopen_as(every(2));
  b.send(1);
  CHECK(b.ask().amount == 12);
  CHECK(stored(b).last_event == 4);
  CHECK(history(b).empty());
  // With no events behind the state, a kind without a journal goes on from it.
  b.seen->what = [](lab::turn& t, std::int64_t number) {
    t.state().setBalance(t.state().getBalance() + number);
  };
  b.reopen_as(kind);
  b.send(1);
  CHECK(b.ask().amount == 13);
}

TEST_CASE("a turn that fails or is rejected leaves no event", "[journal]") {
  bench b{[](lab::turn& t, std::int64_t number) {
            count_events(t, number);
            if (number == 1) throw std::runtime_error("as it was told");
            if (number == 2) t.reject();
          },
          every(100)};
  b.send(1, 3);
  CHECK(b.eventually([&] { return b.ask().amount == 3; }));
  (void)stored(b);
  CHECK(history(b) == count(1, 1));
  b.reopen();
  CHECK(b.ask().amount == 3);
}

TEST_CASE("events of a turn that sets its message aside, and of a timer's turn, are kept", "[journal]") {
  bench b{[](lab::turn& t, std::int64_t number) {
            count_events(t, number);
            if (number == 1) t.after<bank::Deposit>("x", 1ms, [](auto m) { m.setAmount(30); });
            if (number == 2) t.stash();
          },
          every(100)};
  b.send(1);
  CHECK(b.eventually([&] { return b.ask().amount == 31; }));
  b.send(2);
  CHECK(b.eventually([&] { return b.ask().amount == 33; }));
  (void)stored(b);
  CHECK(history(b) == count(1, 3));
}

TEST_CASE("an event that the program does not know stops the actor, and not its mailbox", "[journal]") {
  bench b{count_events, every(100)};
  b.send(1, 3);
  CHECK(b.ask().amount == 6);
  b.reopen_as(kind);
  b.send(4);
  CHECK(b.failed_with("event 1 of actor 'lab/1', of type " + type_of<bank::Deposit>() +
                      ", is not known to the kind 'lab': start a program whose kind has on_event for it"));
  b.send(5);  // the mailbox takes it
  CHECK(history(b) == count(1, 3));
  b.reopen_as(every(100));
  CHECK(b.eventually([&] { return b.ask().amount == 15; }));
}

TEST_CASE("an event that cannot be applied when the actor wakes stops it, with its number", "[journal]") {
  bench b{count_events, every(100)};
  b.send(1, 3);
  CHECK(b.ask().amount == 6);
  b.reopen_as([](const auto& seen) {
    return kind(seen).template on_event<bank::Deposit>([](bank::Account::Builder, bank::Deposit::Reader m) {
      if (m.getAmount() == 2) throw std::runtime_error("two is not liked");
    });
  });
  b.send(4);
  CHECK(b.failed_with("event 2 of actor 'lab/1', of type " + type_of<bank::Deposit>() +
                      ", cannot be applied: two is not liked"));
}

TEST_CASE("an event that is missing from the store is damage", "[journal]") {
  bench b{count_events, every(100)};
  b.send(1, 3);
  CHECK(b.ask().amount == 6);
  b.node.reset();
  {
    auto opened = store::open({.directory = b.directory.path()});
    REQUIRE(opened);
    REQUIRE((*opened)->recover());
    atomic_writes writes;
    writes.events.push_back({"/actors/lab/1", 9, encode_event(type_of<bank::Deposit>(), {})});
    const mailbox_write write[] = {{mailbox_id{1}, nullptr, &writes}};
    REQUIRE((*opened)->commit(write));
  }
  b.open();
  b.send(4);
  CHECK(b.failed_with("event 4 of actor 'lab/1' is missing: the next is 9"));
}

TEST_CASE("what is wrong with an event is told: no on_event, an on_event that throws", "[journal]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
            if (number == 1) {
              b.seen->note_error([&] { t.record<bank::Transfer>([](auto) {}); });
            } else {
              try {
                t.record<bank::Deposit>([&](auto m) { m.setAmount(number); });
              } catch (const std::runtime_error&) {  // as if nothing had happened
              }
            }
          },
          [](const auto& seen) {
            return kind(seen).template on_event<bank::Deposit>(
                [](bank::Account::Builder state, bank::Deposit::Reader m) {
                  state.setBalance(m.getAmount());
                  if (m.getAmount() == 2) throw std::runtime_error("two is not liked");
                });
          }};
  b.send(1);
  REQUIRE(b.eventually([&] { return !b.seen->all_texts().empty(); }));
  CHECK(b.seen->all_texts()[0].find("does not say what the event Transfer (") != std::string::npos);
  CHECK(b.seen->all_texts()[0].find("add on_event<Transfer>(…)") != std::string::npos);
  CHECK(b.last_failure() == "");
  b.send(2);
  CHECK(b.failed_with("applied only in part: let the exception of turn.record pass"));
  b.send(3);
  CHECK(b.eventually([&] { return b.ask().amount == 3; }));
  (void)stored(b);
  CHECK(history(b) == count(1, 1));
}

TEST_CASE("a state that is changed directly is written with that turn", "[journal]") {
  bench b{count_events, every(100)};
  b.send(1, 3);
  CHECK(b.ask().amount == 6);
  CHECK(stored(b).state.empty());  // reading it is no change
  b.send(1000);
  CHECK(b.ask().transfers == 1);
  CHECK(stored(b).last_event == 3);
  CHECK(history(b).empty());
  b.send(4);
  b.reopen();
  CHECK(b.ask().amount == 10);
  CHECK(b.ask().transfers == 1);
}

TEST_CASE("a state that is never written cannot be changed directly", "[journal]") {
  bench b{count_events, every(0)};
  b.send(1);
  b.send(1000);
  CHECK(b.failed_with("the state of the kind 'lab' is never written (snapshot_every is 0)"));
  b.send(2);
  CHECK(b.eventually([&] { return b.ask().amount == 3; }));
  CHECK(b.ask().transfers == 0);
}

TEST_CASE("no place in the mailbox is given twice, though the state is not written", "[journal]") {
  bench b{[&](lab::turn& t, std::int64_t number) {
            b.seen->note(t.idempotency_key());
            if (number % 2 == 0) count_events(t, number);  // or nothing comes of the turn
          },
          [](const auto& seen) { return journaled(seen).snapshot_every(0).idle_after(1ms); }};
  for (int n = 1; n <= 5; ++n) {
    b.send(1, 4);
    CHECK(b.eventually([&] { return b.seen->all_texts().size() == static_cast<std::size_t>(n) * 4; }));
    CHECK(b.eventually([&] { return !b.node->tree().show("/actors/lab/1"); }));
    if (n % 2 == 0) b.reopen();
  }
  auto keys = b.seen->all_texts();
  std::sort(keys.begin(), keys.end());
  CHECK(std::adjacent_find(keys.begin(), keys.end()) == keys.end());
  CHECK(b.ask().amount == 5 * 6);
}

TEST_CASE("kills under load lose no event and double none", "[journal]") {
  bench b{[](lab::turn& t, std::int64_t number) {
            count_events(t, number);
            if (number < 1000) t.send<bank::Deposit>("lab/2", [&](auto m) { m.setAmount(2000 + number); });
          },
          every(7)};
  // "lab/2" gets the same, as numbers that record nothing.
  for (int n = 1; n <= 150; ++n) {
    auto sent = b.node->send<bank::Deposit>("lab/1", [](auto m) { m.setAmount(1); });
    if (n % 10 == 0) (void)b.node->tree().kill(n % 20 == 0 ? "/actors/lab/1" : "/journal");
    REQUIRE(sent.wait_for(patience) == std::future_status::ready);
    REQUIRE(sent.get());
  }
  CHECK(b.eventually([&] { return b.ask().amount == 150; }));
  b.reopen();
  CHECK(b.ask().amount == 150);
}

TEST_CASE("two states say the same if only defaults stand in one of them", "[journal]") {
  capnp::MallocMessageBuilder a, b;
  auto of_a = a.initRoot<bank::Transfer>(), of_b = b.initRoot<bank::Transfer>();
  const auto same = [&] {
    return same_value(capnp::DynamicStruct::Reader{of_a.asReader()},
                      capnp::DynamicStruct::Reader{of_b.asReader()});
  };
  CHECK(same());
  of_a.setTo("");
  CHECK(same());
  of_a.setTo("anna");
  CHECK_FALSE(same());
  of_b.setTo("anna");
  CHECK(same());
  of_b.setAmount(-1);
  CHECK_FALSE(same());
}
