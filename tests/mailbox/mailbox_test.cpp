#include "mailbox/mailbox.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;

namespace {

constexpr consumer_id alice{1}, bob{2}, carol{3};
constexpr publisher_id paula{7}, peter{8};
constexpr std::int64_t plenty = std::int64_t{1} << 30;

envelope_ptr a_message(std::size_t size = 10, bool persistent = true) {
  return make_envelope("x", "key", {}, persistent, std::vector<std::byte>(size));
}

// A mailbox with the store that stands behind it.
class desk {
public:
  explicit desk(bool durable = true, std::size_t resident_max = std::size_t{1} << 20,
                const recovered_mailbox& r = {})
      : box{durable, {resident_max}, r} {}

  mailbox box;
  effects fx;
  std::map<sequence, envelope_ptr> store;
  journal_batch batch;

  desk& publish(std::size_t count, std::size_t size = 10, bool persistent = true, publisher_id from = paula) {
    std::vector<arrival> arrivals;
    for (; count > 0; --count) arrivals.push_back({a_message(size, persistent), from, ++numbers_[from]});
    box.publish(arrivals, fx);
    return *this;
  }
  desk& consumer(consumer_id id, std::uint32_t prefetch = 0, bool acknowledges = true,
                 std::int64_t credit = plenty) {
    box.add_consumer({id, prefetch, acknowledges, credit});
    return *this;
  }
  desk& acknowledge(consumer_id id, std::vector<sequence_range> which) {
    box.acknowledge(id, which, fx);
    return *this;
  }
  desk& give_back(consumer_id id, std::vector<sequence_range> which) {
    box.give_back(id, which);
    return *this;
  }

  // What is handed out now: "1:4 2:5r" is message 4 to consumer 1, and message 5, redelivered, to consumer 2.
  std::string dispatch() {
    box.dispatch(fx);
    while (load()) box.dispatch(fx);
    return deliveries();
  }
  std::string fetch(consumer_id id, bool acknowledges = true) {
    while (!box.fetch(id, acknowledges, fx) && load()) {
    }
    return deliveries();
  }
  std::string deliveries() {
    std::string text;
    for (const auto& d : fx.deliveries) {
      text += (text.empty() ? "" : " ") + std::to_string(d.to.value) + ":" + std::to_string(d.at.value) +
              (d.redelivered ? "r" : "");
    }
    fx.deliveries.clear();
    return text;
  }
  // Who was settled since the last look: "7:1-3 8:1".
  std::string settlements() {
    std::string text;
    for (const auto& s : fx.settlements) {
      text += (text.empty() ? "" : " ") + std::to_string(s.by.value) + ":" + std::to_string(s.first) +
              (s.first == s.last ? "" : "-" + std::to_string(s.last));
    }
    fx.settlements.clear();
    return text;
  }

  // The next batch as "+1 +2 -3-5".
  std::string take() {
    batch = box.take_batch();
    std::string text;
    for (const auto& a : batch.appends) {
      text += (text.empty() ? "+" : " +") + std::to_string(a.at.value) + (a.transient ? "t" : "");
    }
    for (const auto& e : batch.erasures) {
      text += (text.empty() ? "-" : " -") + std::to_string(e.first.value) +
              (e.first == e.last ? "" : "-" + std::to_string(e.last.value));
    }
    return text;
  }
  void write() {
    for (const auto& a : batch.appends) store[a.at] = a.message;
    for (const auto& e : batch.erasures) store.erase(store.lower_bound(e.first), store.upper_bound(e.last));
  }
  void committed() {
    write();
    batch = {};
    box.on_committed(fx);
  }
  // All there is to write is written.
  desk& commit() {
    take();
    if (box.batch_under_way()) committed();
    return *this;
  }

  bool load() {
    if (!fx.load) return false;
    last_load = *std::exchange(fx.load, std::nullopt);
    std::vector<loaded_message> found;
    std::size_t size = 0;
    for (auto s = store.lower_bound(last_load.where.first);
         s != store.end() && s->first <= last_load.where.last; ++s) {
      if (!found.empty() && (found.size() >= last_load.count_max || size >= last_load.size_max)) break;
      size += s->second->footprint();
      found.push_back({s->first, envelope::read(s->second->bytes()).value()});
    }
    REQUIRE_FALSE(found.empty());
    ++load_count;
    box.on_loaded(found);
    return true;
  }
  load_request last_load;
  std::size_t load_count = 0;

private:
  std::map<publisher_id, std::uint64_t> numbers_;
};

}  // namespace

// --- order and delivery -----------------------------------------------------------------------------------------

TEST_CASE("I1: messages are delivered in the order in which they came", "[mailbox]") {
  desk d;
  d.publish(2).publish(1, 10, false, peter).publish(2).consumer(alice);
  CHECK(d.dispatch() == "1:1 1:2 1:3 1:4 1:5");
  d.publish(1);
  CHECK(d.dispatch() == "1:6");
}

TEST_CASE("returned messages go before all others, in the order in which they came, and are redelivered",
          "[mailbox]") {
  desk d;
  d.publish(6).consumer(alice, 4);
  REQUIRE(d.dispatch() == "1:1 1:2 1:3 1:4");
  d.give_back(alice, {{{4}, {4}}}).give_back(alice, {{{2}, {2}}});
  d.consumer(bob);
  CHECK(d.dispatch() == "1:2r 2:4r 1:5 2:6");
  d.publish(1);
  d.box.release(alice);
  CHECK(d.dispatch() == "2:1r 2:2r 2:3r 2:5r 2:7");
}

TEST_CASE("a message that comes back to its own holder can be answered again", "[mailbox]") {
  desk d;
  d.publish(5).consumer(alice);
  d.dispatch();
  for (int round = 0; round < 3; ++round) {
    d.give_back(alice, {{{2}, {3}}});
    CHECK(d.box.ready_count() == 2);
    CHECK(d.dispatch() == "1:2r 1:3r");
    CHECK(d.box.held_count() == 5);
  }
  d.acknowledge(alice, {{{1}, {4}}});
  CHECK(d.box.held_count() == 1);
  d.box.release(alice);
  d.consumer(bob);
  CHECK(d.dispatch() == "2:5r");
}

TEST_CASE("a consumer holds no more than its prefetch", "[mailbox]") {
  desk d;
  d.publish(5).consumer(alice, 2);
  CHECK(d.dispatch() == "1:1 1:2");
  CHECK(d.dispatch().empty());
  d.acknowledge(alice, {{{2}, {2}}});
  CHECK(d.dispatch() == "1:3");
  d.give_back(alice, {{{3}, {3}}});
  CHECK(d.dispatch() == "1:3r");
}

TEST_CASE("deliveries stop at a consumer's credit, which one message may exceed", "[mailbox]") {
  desk d;
  const auto footprint = static_cast<std::int64_t>(a_message(100)->footprint());
  d.publish(4, 100).consumer(alice, 0, true, footprint + 1);
  CHECK(d.dispatch() == "1:1 1:2");
  d.acknowledge(alice, {{{1}, {2}}});
  CHECK(d.dispatch().empty());
  d.box.grant(alice, footprint - 1);
  CHECK(d.dispatch().empty());
  d.box.grant(alice, 1);
  CHECK(d.dispatch() == "1:3");
  d.box.grant(carol, 1);  // nobody
  CHECK(d.dispatch().empty());
}

TEST_CASE("consumers are served in turn, and those that are full are passed over", "[mailbox]") {
  desk d;
  d.consumer(alice, 1).consumer(bob).consumer(carol, 2).publish(7);
  CHECK(d.dispatch() == "1:1 2:2 3:3 2:4 3:5 2:6 2:7");
  d.acknowledge(carol, {{{3}, {5}}}).publish(3);
  CHECK(d.dispatch() == "2:8 3:9 2:10");
}

TEST_CASE("a consumer that does not acknowledge holds nothing", "[mailbox]") {
  desk d;
  d.consumer(alice, 0, false).publish(2).publish(1, 10, false);
  CHECK(d.settlements() == "7:3");
  CHECK(d.dispatch() == "1:1 1:2 1:3");
  CHECK(d.settlements() == "7:1-2");
  CHECK(d.box.held_count() == 0);
  CHECK(d.box.resident_size() == 0);
  CHECK(d.take().empty());
}

TEST_CASE("a cancelled consumer gets nothing more, and goes on holding what it holds", "[mailbox]") {
  desk d;
  d.publish(3).consumer(alice, 2);
  REQUIRE(d.dispatch() == "1:1 1:2");
  d.box.cancel_consumer(alice);
  d.box.cancel_consumer(alice);
  d.box.cancel_consumer(bob);
  CHECK(d.box.consumer_count() == 0);
  CHECK(d.box.held_count() == 2);
  d.acknowledge(alice, {{{1}, {1}}});
  CHECK(d.dispatch().empty());
  CHECK(d.box.known(alice));
  d.give_back(alice, {{{2}, {2}}});
  CHECK_FALSE(d.box.known(alice));
  d.consumer(bob);
  CHECK(d.dispatch() == "2:2r 2:3");
}

TEST_CASE("a consumer that goes gives back all that it holds, and the others go on", "[mailbox]") {
  desk d;
  d.consumer(alice, 2).consumer(bob, 2).publish(5);
  REQUIRE(d.dispatch() == "1:1 2:2 1:3 2:4");
  d.acknowledge(bob, {{{2}, {2}}});
  d.box.release(alice);
  CHECK(d.box.ready_count() == 3);
  CHECK(d.box.held_count() == 1);
  CHECK(d.box.consumer_count() == 1);
  CHECK(d.dispatch() == "2:1r");
  d.box.release(alice);
  d.box.release(bob);
  CHECK(d.box.ready_count() == 4);
  CHECK(d.box.held_count() == 0);
  CHECK(d.dispatch().empty());
}

TEST_CASE("a consumer is added once", "[mailbox]") {
  desk d;
  d.consumer(alice);
  CHECK_THROWS_AS(d.consumer(alice), std::logic_error);
}

TEST_CASE("a fetch takes the next message for whoever fetches", "[mailbox]") {
  desk d;
  CHECK(d.fetch(alice).empty());
  CHECK_FALSE(d.box.known(alice));
  d.publish(3);
  CHECK(d.fetch(alice) == "1:1");
  CHECK(d.fetch(alice, false) == "1:2");
  CHECK(d.settlements() == "7:2");
  CHECK(d.box.held_count() == 1);
  CHECK(d.box.consumer_count() == 0);
  d.give_back(alice, {{{1}, {1}}});
  CHECK_FALSE(d.box.known(alice));
  CHECK(d.fetch(bob) == "2:1r");
  CHECK(d.dispatch().empty());  // a fetcher is no consumer
  d.acknowledge(bob, {{{1}, {9}}});
  CHECK(d.fetch(bob, false) == "2:3");
  CHECK_FALSE(d.box.known(bob));
}

TEST_CASE("acknowledgements by ranges skip what is not held by that consumer", "[mailbox]") {
  desk d;
  d.consumer(alice).consumer(bob).publish(10);
  REQUIRE(d.dispatch() == "1:1 2:2 1:3 2:4 1:5 2:6 1:7 2:8 1:9 2:10");
  d.acknowledge(alice, {{{5}, {8}}, {{100}, {200}}, {{2}, {2}}, {{5}, {5}}});
  CHECK(d.box.held_count() == 8);
  CHECK(d.settlements() == "7:5 7:7");
  d.acknowledge(carol, {{{1}, {10}}});
  CHECK(d.box.held_count() == 8);
  d.acknowledge(alice, {{{9}, {9}}, {{1}, {1}}});
  CHECK(d.settlements() == "7:9 7:1");
  d.acknowledge(alice, {{{1}, {10}}});
  CHECK(d.settlements() == "7:3");
  CHECK(d.box.held_count() == 5);
  d.box.release(bob);
  CHECK(d.dispatch() == "1:2r 1:4r 1:6r 1:8r 1:10r");
}

TEST_CASE("I3: every message is ready, held or gone, and the counts say so", "[mailbox]") {
  desk d;
  d.publish(3, 100).publish(2, 10, false);
  CHECK(d.box.ready_count() == 5);
  CHECK(d.box.ready_size() == 320);
  d.consumer(alice, 3).dispatch();
  CHECK(d.box.ready_count() == 2);
  CHECK(d.box.ready_size() == 20);
  CHECK(d.box.held_count() == 3);
  d.give_back(alice, {{{2}, {2}}}).acknowledge(alice, {{{1}, {1}}});
  CHECK(d.box.ready_count() == 3);
  CHECK(d.box.ready_size() == 120);
  CHECK(d.box.held_count() == 1);
}

// --- settlements and the journal ----------------------------------------------------------------------------------

TEST_CASE("I2: a publish is settled at once if it need not survive, and else when it is stored",
          "[mailbox]") {
  desk d;
  d.publish(2, 10, false).publish(2).publish(1, 10, true, peter);
  CHECK(d.settlements() == "7:1-2");
  CHECK(d.take() == "+3 +4 +5");
  CHECK(d.settlements().empty());
  d.publish(1);
  d.committed();
  CHECK(d.settlements() == "7:3-4 8:1");
  CHECK(d.take() == "+6");
  d.committed();
  CHECK(d.settlements() == "7:5");
}

TEST_CASE("I2: a message that is gone before it was sent to the journal is never written and settled at once",
          "[mailbox]") {
  desk d;
  d.publish(4).consumer(alice).dispatch();
  d.acknowledge(alice, {{{2}, {3}}});
  CHECK(d.settlements() == "7:2-3");
  CHECK(d.box.has_unsent());
  d.acknowledge(alice, {{{1}, {1}}});
  CHECK(d.settlements() == "7:1");
  CHECK(d.take() == "+4");
  d.committed();
  CHECK(d.settlements() == "7:4");
  d.publish(1).dispatch();
  d.acknowledge(alice, {{{5}, {5}}});
  CHECK_FALSE(d.box.has_unsent());
  CHECK(d.take().empty());
  CHECK_FALSE(d.box.batch_under_way());
}

TEST_CASE("I2: a message that is gone while it is being written is settled once and erased afterwards",
          "[mailbox]") {
  desk d;
  d.publish(2).consumer(alice).dispatch();
  REQUIRE(d.take() == "+1 +2");
  d.acknowledge(alice, {{{1}, {1}}});
  CHECK(d.settlements().empty());
  d.committed();
  CHECK(d.settlements() == "7:1-2");
  CHECK(d.take() == "-1");
  d.committed();
  CHECK(d.settlements().empty());
  CHECK(d.store.size() == 1);
}

TEST_CASE("I4: one batch is under way at a time, and what goes meanwhile is erased by a later one",
          "[mailbox]") {
  desk d;
  d.publish(3).commit().consumer(alice).dispatch();
  d.acknowledge(alice, {{{1}, {1}}});
  REQUIRE(d.take() == "-1");
  d.acknowledge(alice, {{{2}, {3}}}).publish(1);
  CHECK(d.box.take_batch().empty());
  CHECK(d.box.batch_under_way());
  d.committed();
  CHECK_FALSE(d.box.batch_under_way());
  CHECK(d.take() == "+4 -2-3");
  d.committed();
  CHECK(d.store.size() == 1);
}

TEST_CASE("I5: a batch that could not be written never erases what it appends the next time", "[mailbox]") {
  desk d;
  d.publish(2).commit().publish(3).consumer(alice).dispatch();
  d.acknowledge(alice, {{{1}, {1}}});
  d.settlements();
  REQUIRE(d.take() == "+3 +4 +5 -1");
  d.acknowledge(alice, {{{2}, {2}}, {{4}, {4}}}).publish(1);
  d.box.on_not_committed(std::move(d.batch), d.fx);
  CHECK(d.settlements() == "7:4");  // gone, and will never be written
  CHECK(d.box.has_unsent());
  CHECK(d.take() == "+3 +5 +6 -1 -2 -4");
  d.committed();
  CHECK(d.settlements() == "7:3 7:5-6");
  CHECK(d.store.size() == 3);
}

TEST_CASE("of a batch that was written in part only the rest is written again", "[mailbox]") {
  desk d;
  d.publish(2).commit().publish(3).consumer(alice).dispatch();
  d.acknowledge(alice, {{{1}, {1}}});
  d.settlements();
  REQUIRE(d.take() == "+3 +4 +5 -1");
  SECTION("the erasures were written") {
    d.store.erase({1});
    d.batch.erasures.clear();
    d.box.on_not_committed(std::move(d.batch), d.fx);
    CHECK(d.settlements().empty());
    CHECK(d.take() == "+3 +4 +5");
    d.committed();
    CHECK(d.settlements() == "7:3-5");
  }
  SECTION("the first messages were written") {
    d.store[{3}] = d.batch.appends.front().message;
    d.batch.appends.erase(d.batch.appends.begin());
    d.box.on_not_committed(std::move(d.batch), d.fx);
    CHECK(d.settlements() == "7:3");
    d.acknowledge(alice, {{{3}, {4}}});
    CHECK(d.settlements() == "7:4");
    CHECK(d.take() == "+5 -1 -3");
    d.committed();
    CHECK(d.settlements() == "7:5");
  }
  CHECK(d.store.size() == (d.store.contains({3}) ? 4 : 2));
}

TEST_CASE("a mailbox that goes settles all that is not settled yet", "[mailbox]") {
  desk d;
  d.publish(2);
  d.take();
  d.publish(3).consumer(alice).dispatch();
  d.acknowledge(alice, {{{4}, {4}}});
  CHECK(d.settlements() == "7:4");
  d.box.settle_all(d.fx);
  CHECK(d.settlements() == "7:1-3 7:5");
  d.box.settle_all(d.fx);
  CHECK(d.settlements().empty());
  d.box.on_committed(d.fx);
  CHECK(d.settlements().empty());
}

TEST_CASE("a mailbox that is not durable writes nothing while memory lasts", "[mailbox]") {
  desk d{false};
  d.publish(3).consumer(alice).dispatch();
  CHECK(d.settlements() == "7:1-3");
  d.acknowledge(alice, {{{1}, {2}}});
  CHECK_FALSE(d.box.has_unsent());
  CHECK(d.take().empty());
}

// --- purge ------------------------------------------------------------------------------------------------------

TEST_CASE("a purge forgets what is ready, wherever it is, and nothing that is held", "[mailbox]") {
  desk d{true, 2000};
  d.publish(40, 100).commit().publish(2, 100).publish(2, 100, false);
  d.consumer(alice, 3);
  REQUIRE(d.dispatch() == "1:1 1:2 1:3");
  d.give_back(alice, {{{2}, {2}}});
  d.settlements();
  CHECK(d.box.purge(d.fx) == 42);
  CHECK(d.settlements() == "7:41-42");
  CHECK(d.box.ready_count() == 0);
  CHECK(d.box.ready_size() == 0);
  CHECK(d.box.held_count() == 2);
  CHECK(d.dispatch().empty());
  d.commit();
  CHECK(d.store.size() == 2);  // what is held
  d.box.release(alice);
  d.consumer(bob).publish(1);
  CHECK(d.dispatch() == "2:1r 2:3r 2:45");
  CHECK(d.box.purge(d.fx) == 0);
}

// --- recovery ---------------------------------------------------------------------------------------------------

TEST_CASE("a recovered mailbox hands out what the store held, redelivered, and counts on behind it",
          "[mailbox]") {
  desk before;
  before.publish(5, 20).commit().consumer(alice).dispatch();
  before.acknowledge(alice, {{{2}, {3}}}).commit();

  desk d{true, 1 << 20, {.count = 3, .size = 60, .first = {1}, .last = {5}}};
  d.store = before.store;
  CHECK(d.box.ready_count() == 3);
  CHECK(d.box.ready_size() == 60);
  CHECK(d.box.resident_size() == 0);
  d.publish(1);
  d.consumer(bob);
  CHECK(d.dispatch() == "2:1r 2:4r 2:5r 2:6");
  CHECK(d.load_count == 1);
  d.acknowledge(bob, {{{1}, {6}}});
  CHECK(d.settlements() == "7:1");
  d.commit();
  CHECK(d.store.empty());
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("a fetch from a recovered mailbox asks for the message first", "[mailbox]") {
  desk before;
  before.publish(2).commit();
  desk d{true, 1 << 20, {.count = 2, .size = 20, .first = {1}, .last = {2}}};
  d.store = before.store;
  CHECK_FALSE(d.box.fetch(alice, true, d.fx));
  REQUIRE(d.fx.load);
  CHECK(d.fx.load->where == sequence_range{{1}, {2}});
  CHECK(d.fx.load->count_max >= 1);
  CHECK(d.fetch(alice) == "1:1r");
  CHECK(d.box.purge(d.fx) == 1);
  d.acknowledge(alice, {{{1}, {1}}}).commit();
  CHECK(d.store.empty());
}

// --- memory -----------------------------------------------------------------------------------------------------

TEST_CASE("I6: of a long backlog only as much as the budget stays in memory, and it drains in order",
          "[mailbox]") {
  constexpr std::size_t budget = 64 << 10;
  desk d{true, budget};
  constexpr std::size_t count = 5000;
  for (std::size_t n = 0; n < count / 10; ++n) {
    d.publish(10, 100).commit();
    REQUIRE(d.box.resident_size() <= budget);
  }
  CHECK(d.box.ready_count() == count);
  CHECK(d.box.ready_size() == count * 100);
  d.consumer(alice, 50);
  std::uint64_t next = 1;
  while (next <= count) {
    d.box.dispatch(d.fx);
    while (d.load()) d.box.dispatch(d.fx);
    REQUIRE(d.box.resident_size() <= budget);
    REQUIRE_FALSE(d.fx.deliveries.empty());
    for (const auto& delivery : d.fx.deliveries) REQUIRE(delivery.at.value == next++);
    d.fx.deliveries.clear();
    d.acknowledge(alice, {{{1}, {next}}});
    if (next % 200 == 1) d.commit();
  }
  CHECK(d.load_count > 10);
  d.commit();
  CHECK(d.store.empty());
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("I6: bodies that are held and stored leave memory, and are read back when they are returned",
          "[mailbox]") {
  constexpr std::size_t budget = 10'000;
  desk d{true, budget};
  d.publish(30, 200).consumer(alice);
  CHECK(d.dispatch() != "");
  const auto before = d.box.resident_size();
  CHECK(before > budget / 2);
  d.commit();  // now the store has them, too
  CHECK(d.box.resident_size() < before);
  CHECK(d.box.resident_size() <= budget);
  CHECK(d.box.held_count() == 30);
  d.box.release(alice);
  CHECK(d.box.ready_count() == 30);
  d.consumer(bob);
  std::string expected;
  for (int n = 1; n <= 30; ++n) expected += (n == 1 ? "2:" : " 2:") + std::to_string(n) + "r";
  CHECK(d.dispatch() == expected);
  CHECK(d.load_count > 0);
  CHECK(d.box.resident_size() <= budget);
  d.acknowledge(bob, {{{1}, {30}}}).commit();
  CHECK(d.store.empty());
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("messages that are held and not stored stop deliveries when they fill the budget", "[mailbox]") {
  constexpr std::size_t budget = 4000;
  desk d{true, budget};
  d.publish(40, 200).consumer(alice);
  d.dispatch();
  const auto held = d.box.held_count();
  CHECK(held >= 10);
  CHECK(held < 40);
  d.commit();  // they can leave memory now
  CHECK(d.dispatch() != "");
  CHECK(d.box.held_count() == 40);
}

TEST_CASE("messages that need not survive go to the store for want of memory, and come back in order",
          "[mailbox]") {
  const bool durable = GENERATE(true, false);
  desk d{durable, 4000};
  d.publish(40, 200, false);
  CHECK(d.settlements() == "7:1-40");
  CHECK(d.box.resident_size() > 4000);
  REQUIRE(d.box.has_unsent());
  d.take();
  REQUIRE_FALSE(d.batch.appends.empty());
  for (const auto& a : d.batch.appends) CHECK(a.transient);
  d.committed();
  CHECK(d.settlements().empty());
  CHECK(d.box.resident_size() <= 4000);
  CHECK(d.box.ready_count() == 40);
  d.consumer(alice, 1);
  for (std::uint64_t n = 1; n <= 40; ++n) {
    REQUIRE(d.dispatch() == "1:" + std::to_string(n));
    d.acknowledge(alice, {{{n}, {n}}});
  }
  d.commit();
  CHECK(d.store.empty());
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("a spilled message that is gone before it was written is not written", "[mailbox]") {
  desk d{false, 2000};
  d.publish(20, 200, false);
  REQUIRE(d.box.has_unsent());
  CHECK(d.box.purge(d.fx) == 20);
  CHECK(d.take().empty());

  d.publish(20, 200, false);
  d.take();
  REQUIRE_FALSE(d.batch.appends.empty());
  CHECK(d.box.purge(d.fx) == 20);
  SECTION("it was written") { d.committed(); }
  SECTION("it was not") { d.box.on_not_committed(std::move(d.batch), d.fx); }
  d.commit();
  CHECK(d.store.empty());
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("a lower budget takes effect with the next messages", "[mailbox]") {
  desk d{true, std::size_t{1} << 20};
  d.publish(100, 500).commit();
  const auto before = d.box.resident_size();
  d.box.limit_memory(8000);
  d.publish(1, 500).commit();
  CHECK(before > 50'000);
  CHECK(d.box.resident_size() <= 8000);
  CHECK(d.box.ready_count() == 101);
}
