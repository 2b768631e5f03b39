#include "mailbox/mailbox.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
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

envelope_ptr a_message_that_expires(std::string after, bool persistent = true) {
  basic_properties properties;
  properties.content_type = "text/plain";
  properties.expiration = std::move(after);
  std::string bytes;
  encode_properties(properties, bytes);
  return make_envelope("x", "key", {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()},
                       persistent, std::vector<std::byte>(10));
}

mailbox_rules ttl(std::int64_t after) { return {.message_ttl = std::chrono::milliseconds{after}}; }
mailbox_rules with_exchange(mailbox_rules rules) {
  rules.dead_letter_exchange = "dlx";
  return rules;
}

// A mailbox with the store that stands behind it.
class desk {
public:
  explicit desk(bool durable = true, std::size_t resident_max = std::size_t{1} << 20,
                const recovered_mailbox& r = {}, mailbox_rules rules = {})
      : box{durable, {resident_max}, r, std::move(rules)} {}
  explicit desk(mailbox_rules rules) : desk{true, std::size_t{1} << 20, {}, std::move(rules)} {}

  mailbox box;
  effects fx;
  std::map<sequence, envelope_ptr> store;
  std::map<sequence, std::int64_t> expiries;
  journal_batch batch;
  std::int64_t now = 1'000'000;

  desk& at(std::int64_t time) {
    now = 1'000'000 + time;
    return *this;
  }
  desk& publish(envelope_ptr message, publisher_id from = paula) {
    std::vector<arrival> arrivals{{std::move(message), from, ++numbers_[from]}};
    box.publish(arrivals, fx, now);
    return *this;
  }
  desk& publish(std::size_t count, std::size_t size = 10, bool persistent = true, publisher_id from = paula) {
    std::vector<arrival> arrivals;
    for (; count > 0; --count) arrivals.push_back({a_message(size, persistent), from, ++numbers_[from]});
    box.publish(arrivals, fx, now);
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
  desk& reject(consumer_id id, std::vector<sequence_range> which) {
    box.reject(id, which, fx);
    return *this;
  }
  desk& fail(consumer_id id, std::vector<sequence_range> which, blame why = blame::yes) {
    box.give_back(id, which, fx, why);
    return *this;
  }
  desk& give_back(consumer_id id, std::vector<sequence_range> which) {
    box.give_back(id, which);
    return *this;
  }

  // What is handed out now: "1:4 2:5r" is message 4 to consumer 1, and message 5, redelivered, to consumer 2.
  std::string dispatch() {
    box.dispatch(fx, now);
    while (load()) box.dispatch(fx, now);
    return deliveries();
  }
  std::string fetch(consumer_id id, bool acknowledges = true) {
    while (!box.fetch(id, acknowledges, fx, now) && load()) {
    }
    return deliveries();
  }
  // What died since the last look: "1 expired, 3 maxlen". What is only in the store is read there.
  std::string deaths() {
    std::string text;
    for (const auto& d : fx.dead_letters) {
      CHECK((d.message || store.contains(d.at)));
      text += (text.empty() ? "" : ", ") + std::to_string(d.at.value) + " " + std::string{to_string(d.why)};
    }
    fx.dead_letters.clear();
    return text;
  }
  std::string expire() {
    box.expire(now, fx);
    while (load()) box.expire(now, fx);
    return deaths();
  }
  std::string deliveries() {
    std::string text;
    for (const auto& d : fx.deliveries) {
      text += (text.empty() ? "" : " ") + std::to_string(d.to.value) + ":" + std::to_string(d.at.value) +
              (d.redelivered ? "r" : "") + (d.attempts == 0 ? "" : std::to_string(d.attempts));
    }
    fx.deliveries.clear();
    return text;
  }
  // Who was settled since the last look: "7:1-3 8:1"; an x stands behind what was refused.
  std::string settlements() {
    std::string text;
    for (const auto& s : fx.settlements) {
      text += (text.empty() ? "" : " ") + std::to_string(s.by.value) + ":" + std::to_string(s.first) +
              (s.first == s.last ? "" : "-" + std::to_string(s.last)) + (s.rejected ? "x" : "");
    }
    fx.settlements.clear();
    return text;
  }

  // The next batch as "+1 +2 -3-5", with an m behind it if it moves.
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
    if (batch.moves) text += text.empty() ? "m" : " m";
    return text;
  }
  void write() {
    for (const auto& a : batch.appends) {
      store[a.at] = a.message;
      expiries[a.at] = a.expires_at;
    }
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

  // These messages, as the store has them.
  std::vector<loaded_message> read(std::initializer_list<std::uint64_t> which) {
    std::vector<loaded_message> found;
    for (const auto at : which) {
      found.push_back({{at}, envelope::read(store.at({at})->bytes()).value(), expiries[{at}]});
    }
    return found;
  }
  void claim(consumer_id id, std::initializer_list<std::uint64_t> which) {
    auto found = read(which);
    box.claim({.id = id}, found);
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
      found.push_back({s->first, envelope::read(s->second->bytes()).value(), expiries[s->first]});
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

// --- claims of holders, when the actor was started again ----------------------------------------------------------

TEST_CASE("what a holder claims is held again, wherever it stands, and nobody else gets it", "[mailbox]") {
  desk before;
  before.publish(10, 20).commit();
  desk d{true, 1 << 20, {.count = 10, .size = 200, .first = {1}, .last = {10}}};
  d.store = before.store;
  SECTION("in the hole") {
    d.consumer(alice);
    d.claim(alice, {1, 4, 5, 10, 5});
    CHECK(d.box.ready_count() == 6);
    CHECK(d.box.ready_size() == 120);
    CHECK(d.box.held_count() == 4);
    CHECK(d.box.resident_size() == 0);
    CHECK(d.box.holds(alice, {4}));
    CHECK_FALSE(d.box.holds(alice, {6}));
    CHECK_FALSE(d.box.holds(bob, {4}));
    CHECK(d.dispatch() == "1:2r 1:3r 1:6r 1:7r 1:8r 1:9r");
    CHECK(d.box.ready_count() == 0);
    d.acknowledge(alice, {{{1}, {3}}});
    d.box.release(alice);
    d.consumer(bob);
    CHECK(d.dispatch() == "2:4r 2:5r 2:6r 2:7r 2:8r 2:9r 2:10r");
    d.acknowledge(bob, {{{1}, {10}}});
  }
  SECTION("all of the hole") {
    d.claim(alice, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
    CHECK(d.box.ready_count() == 0);
    CHECK(d.box.consumer_count() == 0);
    d.publish(1);
    CHECK(d.fetch(bob) == "2:11");
    d.acknowledge(bob, {{{11}, {11}}}).acknowledge(alice, {{{1}, {10}}});
    CHECK_FALSE(d.box.known(alice));
  }
  SECTION("in memory, returned, or held by another") {
    REQUIRE(d.fetch(bob) == "2:1r");
    REQUIRE(d.fetch(bob) == "2:2r");
    d.give_back(bob, {{{2}, {2}}});
    d.claim(alice, {1, 2, 7});
    CHECK(d.box.held_count() == 3);
    CHECK_FALSE(d.box.holds(alice, {1}));
    CHECK(d.box.holds(alice, {2}));
    CHECK(d.box.holds(alice, {7}));
    CHECK(d.box.ready_count() == 7);
    CHECK(d.box.ready_size() == 140);
    d.consumer(carol);
    CHECK(d.dispatch() == "3:3r 3:4r 3:5r 3:6r 3:8r 3:9r 3:10r");
    for (const auto id : {alice, bob, carol}) d.acknowledge(id, {{{1}, {10}}});
  }
  SECTION("what is gone, or never was") {
    REQUIRE(d.fetch(bob, false) == "2:1r");
    d.claim(alice, {1});
    std::vector<loaded_message> strange{{{99}, a_message()}};
    d.box.claim({.id = alice}, strange);
    CHECK_FALSE(d.box.known(alice));
    CHECK(d.box.ready_count() == 9);
    d.box.purge(d.fx);
  }
  d.commit();
  CHECK(d.store.empty());
  CHECK(d.box.resident_size() == 0);
  CHECK(d.box.held_count() == 0);
}

TEST_CASE("a purge spares what was claimed out of the middle of the hole", "[mailbox]") {
  desk before;
  before.publish(10, 20).commit();
  desk d{true, 1 << 20, {.count = 10, .size = 200, .first = {1}, .last = {10}}};
  d.store = before.store;
  d.claim(alice, {1, 4, 5, 10});
  CHECK(d.box.purge(d.fx) == 6);
  CHECK(d.take() == "-2-3 -6-9");
  d.committed();
  CHECK(d.store.size() == 4);
  d.box.release(alice);
  d.consumer(bob);
  CHECK(d.dispatch() == "2:1r 2:4r 2:5r 2:10r");
}

TEST_CASE("what was claimed stays out when the messages around it are folded away again", "[mailbox]") {
  desk before;
  before.publish(40, 100).commit();
  desk d{true, 1 << 20, {.count = 40, .size = 4000, .first = {1}, .last = {40}}};
  d.store = before.store;
  REQUIRE(d.fetch(bob) == "2:1r");  // now all are in memory
  d.claim(alice, {20, 30, 40});
  d.box.limit_memory(2000);
  d.publish(1, 100).commit();
  CHECK(d.box.resident_size() <= 2000);
  CHECK(d.box.ready_count() == 37);
  d.consumer(carol);
  std::string expected;
  for (int n = 2; n <= 40; ++n) {
    if (n % 10 != 0 || n == 10) expected += "3:" + std::to_string(n) + "r ";
  }
  CHECK(d.dispatch() == expected + "3:41");
  CHECK(d.load_count > 1);
}

TEST_CASE("a credit can be set, whatever was granted before", "[mailbox]") {
  desk d;
  d.consumer(alice, 0, true, 0).publish(2);
  d.box.set_credit(alice, 1);
  CHECK(d.dispatch() == "1:1");
  d.box.set_credit(alice, 0);
  CHECK(d.dispatch().empty());
  d.box.set_credit(alice, plenty);
  d.box.set_credit(bob, plenty);  // nobody
  CHECK(d.dispatch() == "1:2");
}

TEST_CASE("a holder that claimed may become a consumer afterwards", "[mailbox]") {
  desk before;
  before.publish(4).commit();
  desk d{true, 1 << 20, {.count = 4, .size = 40, .first = {1}, .last = {4}}};
  d.store = before.store;
  d.claim(alice, {2});
  d.consumer(alice, 2);
  CHECK(d.dispatch() == "1:1r");
  d.acknowledge(alice, {{{2}, {2}}});
  CHECK(d.dispatch() == "1:3r");
}

// --- expiry -------------------------------------------------------------------------------------------------------

TEST_CASE("a message expires after the queue's time or its own, whichever is shorter [57]", "[mailbox]") {
  desk d{with_exchange(ttl(100))};
  d.at(0).publish(a_message_that_expires("30")).publish(a_message_that_expires("500")).publish(a_message());
  d.publish(a_message_that_expires("no number"));
  CHECK(d.box.next_expiry() == 1'000'030);
  CHECK(d.at(29).expire().empty());
  CHECK(d.at(30).expire() == "1 expired");
  CHECK(d.box.next_expiry() == 1'000'100);
  CHECK(d.at(99).expire().empty());
  CHECK(d.at(1000).expire() == "2 expired, 3 expired, 4 expired");
  CHECK_FALSE(d.box.next_expiry());
  CHECK(d.box.ready_count() == 0);
  CHECK(d.box.ready_size() == 0);
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("a message's own expiration counts in any queue", "[mailbox]") {
  desk d;
  d.publish(a_message_that_expires("30")).publish(a_message_that_expires("99999999999999999999999"));
  CHECK(d.box.next_expiry() == 1'000'030);
  CHECK(d.at(30).expire().empty());
  CHECK(d.settlements() == "7:1");  // gone without a trace
  CHECK(d.take() == "+2");
  CHECK(d.batch.appends.front().expires_at > std::int64_t{1} << 60);
  CHECK(d.box.ready_count() == 1);
}

TEST_CASE("a message expires only at the head: one that lives longer hides those behind it [57]",
          "[mailbox]") {
  desk d{with_exchange({})};
  d.publish(1).publish(a_message_that_expires("10")).publish(1).publish(a_message_that_expires("20"));
  CHECK_FALSE(d.box.next_expiry());
  CHECK(d.at(50).expire().empty());
  CHECK(d.box.ready_count() == 4);
  CHECK(d.fetch(alice) == "1:1");
  CHECK(d.deaths() == "2 expired");
  CHECK(d.box.ready_count() == 2);
  CHECK_FALSE(d.box.next_expiry());
  CHECK(d.fetch(alice) == "1:3");
  CHECK(d.deaths() == "4 expired");
}

TEST_CASE("an expired message is never delivered, and one that is held does not expire", "[mailbox]") {
  desk d{with_exchange(ttl(100))};
  d.at(0).publish(3).consumer(alice, 1);
  CHECK(d.dispatch() == "1:1");
  d.at(101);
  CHECK(d.expire() == "2 expired, 3 expired");
  CHECK(d.box.holds(alice, {1}));
  CHECK_FALSE(d.box.next_expiry());
  d.publish(1).fail(alice, {{{1}, {1}}});
  CHECK(d.box.next_expiry() == 1'000'100);  // requeued, it keeps its time
  CHECK(d.dispatch() == "1:4");
  CHECK(d.deaths() == "1 expired");
}

TEST_CASE("a message that expires at once reaches a consumer that waits, and nobody else [29]", "[mailbox]") {
  desk d{with_exchange({})};
  d.consumer(alice, 1).publish(a_message_that_expires("0")).publish(a_message_that_expires("0"));
  CHECK(d.dispatch() == "1:1");
  CHECK(d.deaths() == "2 expired");
  CHECK(d.fetch(bob).empty());
}

TEST_CASE("a message that expires at once and came back goes to nobody in the same millisecond [57]",
          "[mailbox]") {
  desk d{with_exchange({})};
  d.consumer(alice, 1).publish(a_message_that_expires("0"));
  CHECK(d.dispatch() == "1:1");
  d.give_back(alice, {{{1}, {1}}});
  CHECK(d.dispatch().empty());
  CHECK(d.deaths() == "1 expired");
}

TEST_CASE(
    "a message that expires at once behind others goes to nobody who comes later in the same millisecond "
    "[57]",
    "[mailbox]") {
  desk d{with_exchange({})};
  d.publish(1).publish(a_message_that_expires("0"));
  CHECK(d.dispatch().empty());
  d.consumer(alice);
  CHECK(d.dispatch() == "1:1");
  CHECK(d.deaths() == "2 expired");
}

TEST_CASE("a message that is only in the store expires, too, after a restart and out of the backlog",
          "[mailbox]") {
  desk before{with_exchange(ttl(100))};
  before.at(0).publish(2).at(50).publish(1).commit();
  const bool queue_says = GENERATE(true, false);
  recovered_mailbox r{.count = 3, .size = 30, .first = {1}, .last = {3}, .used = {}, .expires = !queue_says};
  desk d{true, 1 << 20, r, with_exchange(queue_says ? ttl(100) : mailbox_rules{})};
  d.store = before.store;
  d.expiries = before.expiries;
  REQUIRE(d.box.next_expiry());
  CHECK(*d.box.next_expiry() < 1'000'000);  // unknown: to be looked at now
  CHECK(d.at(60).expire().empty());
  CHECK(d.box.next_expiry() == 1'000'100);
  CHECK(d.at(120).expire() == "1 expired, 2 expired");
  CHECK(d.box.next_expiry() == 1'000'150);
  CHECK(d.take() == "-1-2 m");
  d.committed();
  CHECK(d.at(151).fetch(alice).empty());
  CHECK(d.deaths() == "3 expired");
  d.commit();
  CHECK(d.store.empty());

  constexpr std::size_t budget = 8000;
  desk long_one{true, budget, {}, ttl(1000)};
  for (int n = 0; n < 50; ++n) long_one.at(n).publish(10, 100).commit();
  CHECK(long_one.box.resident_size() <= budget);
  CHECK(long_one.at(1024).expire().empty());
  CHECK(long_one.box.ready_count() == 250);
  CHECK(long_one.load_count > 0);
  CHECK(long_one.box.next_expiry() == 1'001'025);
}

// --- too many -----------------------------------------------------------------------------------------------------

TEST_CASE("of too many ready messages the oldest go, when no consumer takes them [58]", "[mailbox]") {
  desk d{with_exchange({.length_max = 3})};
  d.publish(5);
  CHECK(d.dispatch().empty());
  CHECK(d.deaths() == "1 maxlen, 2 maxlen");
  CHECK(d.box.ready_count() == 3);
  d.consumer(alice, 2);
  d.publish(2);
  CHECK(d.dispatch() == "1:3 1:4");
  CHECK(d.deaths().empty());  // held messages do not count
  d.box.release(alice);
  d.dispatch();
  CHECK(d.deaths() == "3 maxlen, 4 maxlen");
  CHECK(d.box.ready_count() == 3);
}

TEST_CASE("a length of 0 keeps only what a consumer takes at once [58]", "[mailbox]") {
  desk d{mailbox_rules{.length_max = 0}};
  d.consumer(alice, 1).publish(3);
  CHECK(d.dispatch() == "1:1");
  CHECK(d.box.ready_count() == 0);
  CHECK(d.settlements() == "7:2-3");
}

TEST_CASE("the bytes of the bodies may be too many, as well, and either limit counts [58]", "[mailbox]") {
  desk d{with_exchange({.length_max = 4, .size_max = 100})};
  d.publish(2, 40).dispatch();
  CHECK(d.deaths().empty());
  d.publish(1, 21).dispatch();
  CHECK(d.deaths() == "1 maxlen");
  CHECK(d.box.ready_size() == 61);
  d.publish(3, 1).dispatch();
  CHECK(d.deaths() == "2 maxlen");
  d.publish(1, 101).dispatch();  // which fits never
  CHECK(d.deaths() == "3 maxlen, 4 maxlen, 5 maxlen, 6 maxlen, 7 maxlen");
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("the oldest go even if they are only in the store", "[mailbox]") {
  desk d{true, 4000, {}, {.length_max = 100}};
  for (int n = 0; n < 20; ++n) {
    d.publish(10, 100).dispatch();
    d.commit();
  }
  CHECK(d.box.ready_count() == 100);
  CHECK(d.box.resident_size() <= 4000);
  CHECK(d.load_count > 0);
  d.commit();
  CHECK(d.store.size() == 100);
  CHECK(d.fetch(alice) == "1:101");
}

TEST_CASE("when there are too many the newest are refused, if the queue says so [59]", "[mailbox]") {
  using overflow = mailbox_rules::overflow;
  SECTION("by number") {
    desk d{mailbox_rules{.length_max = 2, .on_overflow = overflow::reject_publish}};
    d.publish(1, 10, false).publish(3);
    CHECK(d.settlements() == "7:1 7:3-4x");
    CHECK(d.box.ready_count() == 2);
    CHECK(d.take() == "+2");
    d.committed();
    CHECK(d.settlements() == "7:2");
    d.publish(1, 10, false);
    CHECK(d.settlements() == "7:5x");  // never merged with what was accepted
    CHECK(d.fetch(alice) == "1:1");
    d.publish(1, 10, false);
    CHECK(d.settlements() == "7:6");
    CHECK(d.fetch(alice) == "1:2");
    CHECK(d.fetch(alice) == "1:3");  // what is refused takes no place
  }
  SECTION("by size") {
    desk d{mailbox_rules{.size_max = 50, .on_overflow = overflow::reject_publish}};
    d.publish(1, 30, false).publish(1, 21, false).publish(1, 20, false);
    CHECK(d.settlements() == "7:1 7:2x 7:3");
    CHECK(d.box.ready_size() == 50);
  }
  SECTION("not those that a consumer takes at once") {
    desk d{mailbox_rules{.length_max = 2, .on_overflow = overflow::reject_publish}};
    d.consumer(alice, 3).publish(7, 10, false);
    CHECK(d.settlements() == "7:1-5 7:6-7x");
    CHECK(d.dispatch() == "1:1 1:2 1:3");
    CHECK(d.box.ready_count() == 2);
  }
  SECTION("nor those for which expired ones give way") {
    desk d{mailbox_rules{.message_ttl = std::chrono::milliseconds{10},
                         .length_max = 2,
                         .on_overflow = overflow::reject_publish}};
    d.at(0).publish(3, 10, false).at(10).publish(1, 10, false);
    CHECK(d.settlements() == "7:1-2 7:3x 7:4");
    CHECK(d.box.ready_count() == 1);
  }
  SECTION("and become dead letters, if it says that, too") {
    desk d{with_exchange({.length_max = 1, .on_overflow = overflow::reject_publish_dlx})};
    d.publish(3);
    CHECK(d.settlements() == "7:2-3x");
    REQUIRE(d.fx.dead_letters.size() == 2);
    CHECK(d.fx.dead_letters[0].message);
    CHECK(d.deaths() == "0 maxlen, 0 maxlen");
    CHECK(d.take() == "+1 m");
    desk alone{mailbox_rules{.length_max = 1, .on_overflow = overflow::reject_publish_dlx}};
    alone.publish(2);
    CHECK(alone.settlements() == "7:2x");
    CHECK(alone.deaths().empty());
  }
}

// --- failed deliveries --------------------------------------------------------------------------------------------

TEST_CASE("a message that comes back counts its failed deliveries, if somebody is to blame [47] [48]",
          "[mailbox]") {
  desk d;
  d.publish(2).consumer(alice);
  CHECK(d.dispatch() == "1:1 1:2");
  d.fail(alice, {{{1}, {1}}}).fail(alice, {{{2}, {2}}}, blame::no);
  CHECK(d.dispatch() == "1:1r1 1:2r");
  d.give_back(alice, {{{1}, {2}}});
  CHECK(d.dispatch() == "1:1r1 1:2r");
  d.box.release(alice, d.fx);
  d.consumer(bob);
  CHECK(d.dispatch() == "2:1r2 2:2r1");
  d.box.release(bob);
  d.consumer(carol);
  CHECK(d.dispatch() == "3:1r2 3:2r1");
}

TEST_CASE("more failed deliveries than the limit are the end of a message [49]", "[mailbox]") {
  desk d{with_exchange({.delivery_limit = 2})};
  d.publish(2).commit().consumer(alice);
  for (int round = 0; round < 2; ++round) {
    d.dispatch();
    d.fail(alice, {{{1}, {1}}});
    CHECK(d.deaths().empty());
  }
  CHECK(d.dispatch() == "1:1r2");
  SECTION("when it is given back") { d.fail(alice, {{{1}, {2}}}); }
  SECTION("when its holder is gone") { d.box.release(alice, d.fx); }
  CHECK(d.deaths() == "1 delivery_limit");
  CHECK(d.box.ready_count() == 1);
  CHECK(d.box.held_count() == 0);
  CHECK(d.take() == "-1 m");
  d.committed();
  CHECK(d.fetch(bob) == "2:2r1");
  d.acknowledge(bob, {{{2}, {2}}}).commit();
  CHECK(d.box.resident_size() == 0);
}

TEST_CASE("a limit of 0 lets a message be delivered once [49]", "[mailbox]") {
  desk d{mailbox_rules{.delivery_limit = 0}};
  d.publish(2).consumer(alice, 1).dispatch();
  d.settlements();
  d.fail(alice, {{{1}, {1}}});
  CHECK(d.settlements() == "7:1");
  CHECK(d.dispatch() == "1:2");
}

// --- dead letters -------------------------------------------------------------------------------------------------

TEST_CASE("a rejected message is a dead letter, and gone where there is no exchange for it [63]",
          "[mailbox]") {
  desk d{with_exchange({})};
  d.publish(3).commit().consumer(alice).dispatch();
  d.settlements();
  d.reject(alice, {{{1}, {2}}, {{9}, {9}}});
  CHECK(d.deaths() == "1 rejected, 2 rejected");
  CHECK(d.take() == "-1-2 m");
  CHECK(d.box.held_count() == 1);

  desk plain;
  plain.publish(1).consumer(alice).dispatch();
  plain.reject(alice, {{{1}, {1}}});
  CHECK(plain.deaths().empty());
  CHECK(plain.settlements() == "7:1");
  CHECK(plain.take().empty());
}

TEST_CASE("I7: the publisher of a dead letter hears of it when the next batch is stored", "[mailbox]") {
  desk d{with_exchange({})};
  d.publish(2).consumer(alice).dispatch();
  d.reject(alice, {{{1}, {2}}});
  CHECK(d.settlements().empty());
  CHECK(d.box.has_unsent());
  CHECK(d.take() == "m");
  CHECK(d.box.batch_under_way());
  CHECK_FALSE(d.box.has_unsent());
  SECTION("it is") {
    d.committed();
    CHECK(d.settlements() == "7:1-2");
  }
  SECTION("it is not at first") {
    d.box.on_not_committed(std::move(d.batch), d.fx);
    CHECK(d.settlements().empty());
    CHECK(d.take() == "m");
    d.publish(1).dispatch();
    d.reject(alice, {{{3}, {3}}});
    d.committed();
    CHECK(d.settlements() == "7:1-2");
    CHECK(d.take() == "m");
    d.committed();
    CHECK(d.settlements() == "7:3");
  }
  SECTION("the mailbox goes before") {
    d.publish(1).dispatch();
    d.reject(alice, {{{3}, {3}}});
    d.box.settle_all(d.fx);
    CHECK(d.settlements() == "7:1-3");
  }
  d.box.settle_all(d.fx);
  CHECK(d.settlements().empty());
}

TEST_CASE("I7: a message that dies while it is being written is settled with that batch or with its copy",
          "[mailbox]") {
  desk d{with_exchange({})};
  d.publish(3).consumer(alice).dispatch();
  REQUIRE(d.take() == "+1 +2 +3");
  d.reject(alice, {{{2}, {2}}}).acknowledge(alice, {{{3}, {3}}});
  CHECK(d.settlements().empty());
  SECTION("it is stored") {
    d.committed();
    CHECK(d.settlements() == "7:1-3");
    CHECK(d.take() == "-2-3 m");
  }
  SECTION("it is not") {
    d.box.on_not_committed(std::move(d.batch), d.fx);
    CHECK(d.settlements() == "7:3");  // acknowledged, and never to be written
    CHECK(d.take() == "+1 -2-3 m");
    CHECK(d.settlements().empty());
    d.committed();
    CHECK(d.settlements() == "7:1-2");
  }
}

TEST_CASE("a dead letter whose body is only in the store says so", "[mailbox]") {
  desk d{true, 600, {}, with_exchange({})};
  d.publish(10, 200).commit().consumer(alice);
  d.dispatch();
  d.reject(alice, {{{1}, {10}}});
  REQUIRE(d.fx.dead_letters.size() == 10);
  CHECK_FALSE(d.fx.dead_letters.back().message);
  CHECK(d.deaths().find("10 rejected") != std::string::npos);
  d.commit();
  CHECK(d.store.empty());
}

TEST_CASE("a purge and the end of a queue make no dead letters [63]", "[mailbox]") {
  desk d{with_exchange(ttl(10))};
  d.publish(2).commit().publish(1);
  CHECK(d.box.purge(d.fx) == 3);
  CHECK(d.deaths().empty());
  CHECK(d.settlements() == "7:1-3");
  CHECK(d.take() == "-1-2");
}

TEST_CASE("a claimed message keeps its time, and its failed delivery counts when it comes back",
          "[mailbox]") {
  desk before{ttl(100)};
  before.at(0).publish(3).commit();
  desk d{true,
         1 << 20,
         {.count = 3, .size = 30, .first = {1}, .last = {3}},
         with_exchange({.message_ttl = std::chrono::milliseconds{100}, .delivery_limit = 0})};
  d.store = before.store;
  d.expiries = before.expiries;
  d.claim(alice, {1, 2});
  CHECK(d.at(500).expire() == "3 expired");
  d.fail(alice, {{{1}, {1}}}).fail(alice, {{{2}, {2}}}, blame::no);
  CHECK(d.deaths() == "1 delivery_limit");
  CHECK(d.box.next_expiry() == 1'000'100);
  CHECK(d.expire() == "2 expired");
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

// --- messages that other actors stored ----------------------------------------------------------------------------

namespace {

// What another actor has stored in this mailbox.
void arrive(desk& d, std::vector<sequence> places, std::size_t size = 10) {
  std::vector<loaded_message> messages;
  for (const auto at : places) {
    messages.push_back({at, a_message(size, true)});
    d.store[at] = messages.back().message;
  }
  d.box.arrive(messages);
}

}  // namespace

TEST_CASE("a message that another actor stored stands at the place that it was given", "[mailbox]") {
  desk d;
  d.publish(2);
  d.box.skip_to({4});  // 3 was given away
  d.publish(1);
  arrive(d, {{3}});
  d.consumer(alice);
  CHECK(d.dispatch() == "1:1 1:2 1:3 1:4");
}

TEST_CASE("a message that another actor stored is erased, not written, and nobody is told of it",
          "[mailbox]") {
  desk d;
  d.box.skip_to({2});
  arrive(d, {{1}});
  CHECK(d.box.take_batch().empty());
  d.consumer(alice);
  CHECK(d.dispatch() == "1:1");
  d.acknowledge(alice, {{{1}, {1}}});
  CHECK(d.fx.settlements.empty());
  const auto batch = d.box.take_batch();
  CHECK(batch.appends.empty());
  CHECK(batch.erasures == std::vector<sequence_range>{{{1}, {1}}});
}

TEST_CASE("a message that arrives after its neighbours were delivered goes next", "[mailbox]") {
  desk d;
  d.box.skip_to({2});
  d.publish(3).consumer(alice, 1);
  CHECK(d.dispatch() == "1:2");
  arrive(d, {{1}});
  d.acknowledge(alice, {{{2}, {2}}});
  CHECK(d.dispatch() == "1:1");
}

TEST_CASE("a place that was given away and never used is not missed", "[mailbox]") {
  desk d;
  d.publish(1);
  d.box.skip_to({5});
  d.publish(1).consumer(alice);
  CHECK(d.dispatch() == "1:1 1:5");
  d.acknowledge(alice, {{{1}, {5}}});
  CHECK(d.box.ready_count() + d.box.held_count() == 0);
}

TEST_CASE("a message that arrives in the middle of a backlog that is only in the store is read with it",
          "[mailbox]") {
  desk d{true, 1000};
  d.publish(20, 100);
  d.box.skip_to({22});
  d.publish(20, 100);
  d.commit();
  d.publish(1, 100);
  d.commit();
  const auto ready = d.box.ready_count();
  arrive(d, {{21}}, 100);
  CHECK(d.box.ready_count() == ready + 1);
  d.consumer(alice);
  std::string all;
  for (std::uint64_t n = 1; n <= 42; ++n) all += (n == 1 ? "1:" : " 1:") + std::to_string(n);
  std::string got;
  for (int turn = 0; turn < 100 && d.box.ready_count() > 0; ++turn) {
    const auto some = d.dispatch();
    got += (got.empty() || some.empty() ? "" : " ") + some;
    d.acknowledge(alice, {{{1}, {100}}});
  }
  CHECK(got == all);
}

TEST_CASE("who can take no more keeps the place in the row until it is its turn", "[mailbox]") {
  desk d;
  d.consumer(alice, 1).publish(1);
  CHECK(d.dispatch() == "1:1");
  // Alice came first, and so she is the next, although she was full when Bob came.
  d.consumer(bob);
  d.fail(alice, {{{1}, {1}}}, blame::no);
  CHECK(d.dispatch() == "1:1r");
}

TEST_CASE("a fetch does not count what has expired behind the message that it takes", "[mailbox]") {
  desk d;
  d.publish(1).publish(a_message_that_expires("0")).publish(a_message_that_expires("0"));
  d.box.dispatch(d.fx, d.now);
  CHECK(d.box.ready_count() == 3);
  CHECK(d.fetch(alice) == "1:1");
  CHECK(d.box.ready_count() == 0);
}

TEST_CASE("a classic queue refuses what is too much, and a quorum queue as soon as it holds too much [59]",
          "[mailbox]") {
  const bool quorum = GENERATE(false, true);
  using overflow = mailbox_rules::overflow;
  desk d{mailbox_rules{.size_max = 5, .on_overflow = overflow::reject_publish, .quorum = quorum}};
  const auto refused = [&] {
    d.publish(1);
    bool any = false;
    for (const auto& s : d.fx.settlements) any = any || s.rejected;
    d.fx.settlements.clear();
    return any;
  };
  // Whether somebody waits for it or not.
  d.consumer(alice, 1);
  CHECK(refused() != quorum);
  CHECK(d.dispatch() == (quorum ? "1:1" : ""));
  CHECK(refused() != quorum);
  CHECK(refused());
}

TEST_CASE("what comes back to a full queue makes room before it goes out again", "[mailbox]") {
  desk d{with_exchange({.length_max = 1})};
  d.consumer(alice, 2).publish(2);
  CHECK(d.dispatch() == "1:1 1:2");
  d.fail(alice, {{{1}, {2}}}, blame::no);
  CHECK(d.dispatch() == "1:2r");
  CHECK(d.deaths() == "1 maxlen");
}

TEST_CASE("what a lost consumer held comes back to a quorum queue in the order in which it got it [50] [51]",
          "[mailbox]") {
  desk d{mailbox_rules{.quorum = true}};
  d.consumer(alice).publish(3);
  CHECK(d.dispatch() == "1:1 1:2 1:3");
  d.give_back(alice, {{{1}, {1}}});
  CHECK(d.dispatch() == "1:1r");
  d.publish(1);
  CHECK(d.dispatch() == "1:4");
  d.give_back(alice, {{{2}, {2}}});
  CHECK(d.dispatch() == "1:2r");
  d.box.release(alice);
  d.consumer(bob);
  CHECK(d.dispatch() == "2:3r 2:1r 2:4r 2:2r");
}

TEST_CASE("what comes back to a quorum queue goes next, in the order in which it came back [50]",
          "[mailbox]") {
  desk d{mailbox_rules{.quorum = true}};
  d.publish(4);
  for (int n = 0; n < 3; ++n) (void)d.fetch(alice);
  d.fail(alice, {{{3}, {3}}}, blame::no);
  d.fail(alice, {{{1}, {1}}}, blame::no);
  d.consumer(bob);
  CHECK(d.dispatch() == "2:3r 2:1r 2:4");
}

namespace {
envelope_ptr a_dead_letter(bool delivered, std::uint16_t returns = 0, std::uint16_t attempts = 0) {
  death event;
  event.queue = "q";
  event.delivered = delivered;
  event.returns = returns;
  event.attempts = attempts;
  return make_dead_letter(*a_message(), event).value();
}
}  // namespace

TEST_CASE("a dead letter that somebody had in his hands is delivered as seen before, and no other",
          "[mailbox]") {
  desk d;
  d.publish(a_dead_letter(true)).publish(a_dead_letter(false)).consumer(alice);
  CHECK(d.dispatch() == "1:1r 1:2");
  d.publish(a_dead_letter(true));  // somebody waits for it, and RabbitMQ does not tell him
  CHECK(d.dispatch() == "1:3");
  desk again{true, 1 << 20, {.count = 2, .size = 20, .first = {1}, .last = {2}}};
  for (std::uint64_t n = 1; n <= 4; ++n) again.store[{n}] = a_dead_letter(n % 2 == 1);
  std::vector<loaded_message> come{{{3}, again.store.at({3}), 0}, {{4}, again.store.at({4}), 0}};
  again.box.skip_to({5});
  again.box.arrive(come);
  again.consumer(alice);
  CHECK(again.dispatch() == "1:1r 1:2r 1:3r 1:4");
}

TEST_CASE("who waits gets the first of several messages, whatever the priority of those behind it [60]",
          "[mailbox]") {
  desk d{mailbox_rules{.priority_max = 5}};
  d.consumer(alice, 1);
  std::vector<arrival> together;
  for (const int p : {1, 3, 5}) {
    basic_properties properties;
    properties.priority = static_cast<std::uint8_t>(p);
    std::string bytes;
    encode_properties(properties, bytes);
    together.push_back({make_envelope("x", "key", std::as_bytes(std::span{bytes}), true, {}), paula, 0});
  }
  d.box.publish(together, d.fx, d.now);
  CHECK(d.dispatch() == "1:1");
  d.acknowledge(alice, {{{1}, {1}}});
  CHECK(d.dispatch() == "1:3");
}

TEST_CASE("of a dead letter it is known whether somebody had it in his hands", "[mailbox]") {
  const auto delivered = [](desk& d) {
    std::string text;
    for (const auto& dead : d.fx.dead_letters) {
      text += std::to_string(dead.at.value) + (dead.delivered ? "d" : "") + std::to_string(dead.attempts) +
              std::to_string(dead.returns) + " ";
    }
    return text;
  };
  SECTION("a classic queue remembers only that a delivery failed") {
    desk d{with_exchange({.message_ttl = std::chrono::milliseconds{100}})};
    d.publish(4).consumer(alice, 3);
    (void)d.dispatch();
    d.box.reject(alice, std::vector<sequence_range>{{{1}, {1}}}, d.fx, blame::yes);
    d.reject(alice, {{{2}, {2}}}).fail(alice, {{{3}, {3}}});
    d.box.cancel_consumer(alice);
    d.at(200).box.expire(d.now, d.fx);
    CHECK(delivered(d) == "1d11 200 311 400 ");
  }
  SECTION("a quorum queue only what failed or came back") {
    desk d{with_exchange({.delivery_limit = 1, .quorum = true})};
    d.publish(4).consumer(alice);
    (void)d.dispatch();
    d.box.reject(alice, std::vector<sequence_range>{{{1}, {1}}}, d.fx, blame::no);
    d.box.reject(alice, std::vector<sequence_range>{{{2}, {2}}}, d.fx, blame::yes);
    d.fail(alice, {{{3}, {4}}});
    (void)d.dispatch();
    d.fail(alice, {{{3}, {3}}});
    d.fail(alice, {{{4}, {4}}}, blame::no);
    (void)d.dispatch();
    d.box.reject(alice, std::vector<sequence_range>{{{4}, {4}}}, d.fx, blame::no);
    CHECK(delivered(d) == "100 2d11 3d22 4d12 ");
  }
}

TEST_CASE("failed deliveries of an earlier quorum queue count towards the limit of the next [49]",
          "[mailbox]") {
  desk d{with_exchange({.delivery_limit = 3, .quorum = true})};
  d.publish(a_dead_letter(true, 2, 2)).consumer(alice);
  d.box.dispatch(d.fx, d.now);
  REQUIRE(d.fx.deliveries.size() == 1);
  CHECK(d.fx.deliveries.front().attempts == 2);
  CHECK(d.fx.deliveries.front().returns == 0);  // so that its headers stay as they are
  d.fx.deliveries.clear();
  d.fail(alice, {{{1}, {1}}});
  CHECK(d.dispatch() == "1:1r3");
  d.fail(alice, {{{1}, {1}}});
  CHECK(d.deaths() == "1 delivery_limit");
  desk classic{with_exchange({.delivery_limit = 1})};
  classic.publish(a_dead_letter(true, 2, 2)).consumer(alice);
  CHECK(classic.dispatch() == "1:1r");
  classic.fail(alice, {{{1}, {1}}});
  CHECK(classic.dispatch() == "1:1r1");
}

TEST_CASE("a quorum queue tells of everybody who holds something, each fetched message for itself",
          "[mailbox]") {
  for (const bool quorum : {false, true}) {
    desk d{mailbox_rules{.quorum = quorum}};
    d.publish(4);
    (void)d.fetch(carol);
    (void)d.fetch(carol);
    (void)d.fetch(bob, false);
    d.consumer(alice);
    (void)d.dispatch();
    CHECK(d.box.told_consumer_count() == (quorum ? 3 : 1));
    d.box.cancel_consumer(alice);
    CHECK(d.box.told_consumer_count() == (quorum ? 3 : 0));
    d.acknowledge(alice, {{{4}, {4}}}).acknowledge(carol, {{{1}, {1}}});
    CHECK(d.box.told_consumer_count() == (quorum ? 1 : 0));
  }
}

namespace {
envelope_ptr with_priority(int priority, std::size_t size = 10) {
  basic_properties p;
  if (priority >= 0) p.priority = static_cast<std::uint8_t>(priority);
  std::string bytes;
  encode_properties(p, bytes);
  return make_envelope("x", "key", std::as_bytes(std::span{bytes}), true, std::vector<std::byte>(size));
}
}  // namespace

TEST_CASE(
    "the highest priority goes first, and none at all is 0 in a classic queue, 4 in a quorum queue [60]",
    "[mailbox]") {
  const auto order = [](mailbox_rules rules) {
    desk d{std::move(rules)};
    for (const int p : {0, 3, -1, 200, 5, 31}) d.publish(with_priority(p));
    d.consumer(alice);
    return d.dispatch();
  };
  CHECK(order({.priority_max = 10}) == "1:4 1:6 1:5 1:2 1:1 1:3");
  CHECK(order({.quorum = true}) == "1:4 1:6 1:5 1:3 1:2 1:1");
  CHECK(order({}) == "1:1 1:2 1:3 1:4 1:5 1:6");
}

TEST_CASE("of too many, the highest priority goes, as in RabbitMQ, for it stands at the head [60]",
          "[mailbox]") {
  desk d{with_exchange({.length_max = 2, .priority_max = 5})};
  for (const int p : {1, 5, 3}) d.publish(with_priority(p));
  CHECK(d.expire() == "2 maxlen");
}

TEST_CASE("a recovered mailbox finds its levels again, and what was read of others comes in its time",
          "[mailbox]") {
  recovered_mailbox r;
  std::map<sequence, envelope_ptr> store;
  for (std::uint64_t n = 1; n <= 40; ++n) {
    store[{n}] = with_priority(static_cast<int>(n % 4) * 3 - 1);
    r.count_message({n}, *store[{n}], 0);
  }
  CHECK(r.count == 40);
  CHECK(r.priorities.size() == 3);
  desk d{true, 1 << 20, r, {.priority_max = 5}};
  d.store = store;
  d.consumer(alice);
  std::string out;
  for (int round = 0; round < 5; ++round) {
    out += d.dispatch() + " ";
  }
  // 8 and 5 are one level, and none is 0.
  std::vector<std::uint64_t> expected;
  for (const int level : {5, 2, 0}) {
    for (std::uint64_t n = 1; n <= 40; ++n) {
      const int p = static_cast<int>(n % 4) * 3 - 1;
      if (std::min(std::max(p, 0), 5) == level) expected.push_back(n);
    }
  }
  std::string in_order;
  for (const auto n : expected) in_order += "1:" + std::to_string(n) + "r ";
  while (!out.empty() && out.back() == ' ') out.pop_back();
  in_order.pop_back();
  CHECK(out == in_order);
}

TEST_CASE("only the active consumer gets messages, and the next one when it goes [52]", "[mailbox]") {
  desk d{mailbox_rules{.single_active = true}};
  d.consumer(alice, 2).consumer(bob).publish(3);
  CHECK(d.dispatch() == "1:1 1:2");
  CHECK(d.box.active_consumer() == alice);
  CHECK(d.box.told_consumer_count() == 2);
  d.box.cancel_consumer(alice);
  CHECK(d.dispatch() == "2:3");
  CHECK(d.box.active_consumer() == bob);
  desk quorum{mailbox_rules{.quorum = true, .single_active = true}};
  quorum.consumer(alice).consumer(bob);
  CHECK(quorum.box.told_consumer_count() == 1);
}
