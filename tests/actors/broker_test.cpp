// The broker from its actors' side.
#include "mailbox/properties.hpp"
#include "tests/actors/probed_broker.hpp"

#include <functional>
#include <set>
#include <tuple>

using namespace posthorn;
using namespace posthorn::probed;
using kind = refusal::kind;

// --- durability ---------------------------------------------------------------------------------------------------

TEST_CASE("a queue is durable before its declaration is answered, and a message before it is settled",
          "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  {
    const auto disk = n.on_disk();
    REQUIRE(disk.vhosts.contains("/"));
    CHECK(disk.vhosts.at("/").queues.size() == 1);
  }
  c.publish(q, 500);
  REQUIRE(c.all_settled(500));
  CHECK(n.on_disk().message_count == 500);
  for (const auto& [who, times] : c.heard->settled) CHECK(times == 1);
  CHECK(c.heard->settled_count == 500);
  CHECK(n.running->totals().published == 500);
}

TEST_CASE("what was acknowledged is gone after a restart, and the rest is there, redelivered", "[actors]") {
  node n;
  {
    client c{*n};
    const auto q = c.declare("q");
    c.publish(q, 10);
    c.publish(q, 5, false);
    REQUIRE(c.all_settled(15));
    c.consume_from(q, 4);
    const auto first = c.take(4);
    CHECK(bodies_of(first) == std::vector<std::string>{"1", "2", "3", "4"});
    CHECK_FALSE(first.front().redelivered);
    c.answer_for(q, {first[0], first[2]});
    c.take(2);
  }
  n.restart();
  CHECK(n.running->message_count_at_start() == 8);
  client c{*n};
  auto q = c.queue("q");
  CHECK(c.counts(q).ready == 8);
  c.publish(q, 1);
  c.consume_from(q);
  const auto again = c.take(9);
  CHECK(bodies_of(again) == std::vector<std::string>{"2", "4", "5", "6", "7", "8", "9", "10", "1"});
  for (const auto& d : again) CHECK(d.redelivered == (&d != &again.back()));
  c.answer_for(q, again);
  CHECK(c.counts(q).ready == 0);
  q = nullptr;
  c.leave();
  n.restart();
  CHECK(n.running->message_count_at_start() == 0);
}

TEST_CASE("a broker that stops writes what it has taken", "[actors]") {
  node n;
  constexpr std::size_t batches = 40, size = 50;
  {
    client c{*n};
    const auto q = c.declare("q");
    const auto r = c.declare("r");
    for (std::size_t b = 0; b < batches; ++b) {
      c.publish(q, size);
      c.publish(r, size);
    }
  }
  n.restart();
  CHECK(n.running->message_count_at_start() == 2 * batches * size);
}

TEST_CASE("a broker can stop while there is work under way, again and again", "[actors]") {
  node n;
  for (int round = 0; round < 5; ++round) {
    {
      client c{*n}, d{*n};
      const auto q = c.declare("q");
      d.consume_from(q);
      for (int i = 0; i < 30; ++i) {
        c.publish(q, 20);
        d.ask_vhost(d.a_queue("passing " + std::to_string(i)));
        d.ask_vhost(declare_exchange{"x" + std::to_string(i), "fanout", false, true, false, false, {}});
      }
      d.leave(caf::exit_reason::kill);
    }
    n.running->stop();
    n.running->stop();
    n.restart();
  }
  CHECK(n.running->message_count_at_start() == 5 * 30 * 20);
}

TEST_CASE("a directory has one broker", "[actors]") {
  node n;
  broker_settings settings;
  settings.data_directory = n.directory.path();
  const auto second = broker::start(std::move(settings));
  REQUIRE_FALSE(second.has_value());
  CHECK(second.error().code == errc::refused);
}

TEST_CASE("definitions come back as they were", "[actors]") {
  node n;
  {
    client c{*n};
    c.declare("q");
    c.answer<done>(c.ask_vhost(declare_exchange{"x", "topic", false, true, false, false, {}}));
    c.answer<done>(c.ask_vhost(declare_exchange{"passing", "topic", false, false, false, false, {}}));
    c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "x", "q", "a.#", {}, c.id}));
    c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "passing", "q", "a.#", {}, c.id}));
    c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "x", "q", "b", {}, c.id}));
    c.answer<done>(c.ask_vhost(unbind{destination_kind::queue, "x", "q", "b", {}, c.id}));
  }
  n.restart();
  const auto snapshot = n.snapshot();
  CHECK(snapshot->queue_count() == 1);
  CHECK(snapshot->find_exchange("passing") == nullptr);
  REQUIRE(snapshot->find_exchange("x") != nullptr);
  CHECK(snapshot->binding_count() == 1);
  std::vector<queue_ptr> routed;
  snapshot->route(*snapshot->find_exchange("x"), "a.b.c", {}, routed);
  REQUIRE(routed.size() == 1);
  CHECK(routed.front()->port != nullptr);
  // Ids go on behind those that were used before.
  client c{*n};
  const auto declared = c.answer<queue_declared>(c.ask_vhost(c.a_queue("r")));
  CHECK(routed.front()->id < declared.queue->id);
}

TEST_CASE("exchanges of all types come back as what they were", "[actors]") {
  node n;
  {
    client c{*n};
    c.declare("q");
    for (const auto type : exchange_types) {
      const std::string name{to_string(type)};
      declare_exchange command{name, name, false, true, false, false, {}};
      field_table arguments;
      if (type == exchange_type::delayed) arguments.set("x-delayed-type", field_value::of_string("direct"));
      if (type == exchange_type::deduplicating) arguments.set("x-cache-size", field_value::of_int(1));
      encode_table(arguments, command.arguments);
      command.arguments.erase(0, 4);  // its length
      c.answer<done>(c.ask_vhost(std::move(command)));
      const auto key = type == exchange_type::local_random ? "" : "1";
      c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, name, "q", key, {}, c.id}));
    }
  }
  n.restart();
  const auto snapshot = n.snapshot();
  for (const auto type : exchange_types) {
    const auto* exchange = snapshot->find_exchange(to_string(type));
    REQUIRE(exchange != nullptr);
    CHECK(exchange->definition.type == type);
    std::vector<queue_ptr> routed;
    snapshot->route(*exchange, "1", {}, routed);
    CHECK(routed.size() == 1);
  }
}

// --- recent histories: mailbox/recent_history.hpp -----------------------------------------------------------------

TEST_CASE("what is bound to an exchange with a recent history gets its last messages first", "[actors]") {
  node n;
  client c{*n};
  const auto declare = [&](const std::string& name, const char* type, const field_table& arguments = {}) {
    declare_exchange command{name, type, false, true, false, false, {}};
    encode_table(arguments, command.arguments);
    command.arguments.erase(0, 4);  // its length
    c.answer<done>(c.ask_vhost(std::move(command)));
  };
  const auto bind_to = [&](const char* from, const char* to,
                           destination_kind what = destination_kind::queue) {
    return c.ask_vhost(posthorn::bind{{}, what, from, to, "", {}, c.id});
  };
  const auto pass = [&](const char* exchange, const char* body) {
    remember passed;
    passed.passed.push_back({exchange, message_of(body)});
    n.running->find_vhost("/")->post(std::move(passed));
  };
  declare("h", "x-recent-history", {{"x-recent-history-length", field_value::of_int(2)}});
  declare("plain", "fanout");
  for (const auto* body : {"1", "2", "3"}) pass("h", body);
  pass("plain", "passes without a trace");
  pass("nowhere", "so does this");
  const auto q = c.declare("q"), r = c.declare("r"), late = c.declare("late");
  c.consume_from(q);
  SECTION("a queue") {
    c.answer<done>(bind_to("h", "q"));
    CHECK(bodies_of(c.take(2)) == std::vector<std::string>{"2", "3"});
    // Once, and another binding of it again.
    c.answer<done>(bind_to("h", "q"));
    pass("h", "4");
    c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "h", "q", "other", {}, c.id}));
    CHECK(bodies_of(c.take(2)) == std::vector<std::string>{"3", "4"});
  }
  SECTION("whatever stands behind an exchange") {
    c.answer<done>(bind_to("plain", "q"));
    c.answer<done>(bind_to("plain", "r"));
    c.answer<done>(bind_to("h", "plain", destination_kind::exchange));
    CHECK(bodies_of(c.take(2)) == std::vector<std::string>{"2", "3"});
    CHECK(c.becomes_ready(r, 2));
  }
  SECTION("and a new exchange of the same name has none") {
    c.answer<done>(c.ask_vhost(posthorn::delete_exchange{"h", false}));
    declare("h", "x-recent-history");
    c.answer<done>(bind_to("h", "q"));
    pass("h", "4");
    c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "h", "q", "other", {}, c.id}));
    CHECK(bodies_of(c.take(1)) == std::vector<std::string>{"4"});
  }
  CHECK(c.counts(late).ready == 0);
}

TEST_CASE("a dead letter that passes an exchange with a recent history is remembered", "[actors]") {
  node n;
  client c{*n};
  c.answer<done>(c.ask_vhost(declare_exchange{"h", "x-recent-history", false, true, false, false, {}}));
  const auto q = c.declare("q", {{"x-dead-letter-exchange", field_value::of_string("h")}});
  const auto dead = c.declare("dead");
  c.publish(q, 1);
  c.consume_from(q);
  c.answer_for(q, c.take(1), outcome::rejected);
  // Its copies are handed over with the commit, which nobody is told of.
  CHECK(eventually([&] {
    c.answer<done>(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "h", "dead", "", {}, c.id}));
    c.answer<done>(c.ask_vhost(unbind{destination_kind::queue, "h", "dead", "", {}, c.id}));
    return c.counts(dead).ready != 0;
  }));
  CHECK(body_of(c.get(dead).value()) == "1");
}

// --- deliveries ---------------------------------------------------------------------------------------------------

TEST_CASE("priorities stand in their order, before a restart and after it [60]", "[actors]") {
  node n;
  for (const auto& [name, arguments, order] :
       {std::tuple{"classic", field_table{{"x-max-priority", field_value::of_int(5)}},
                   std::vector<std::string>{"2", "4", "3", "1"}},
        std::tuple{"quorum", field_table{{"x-queue-type", field_value::of_string("quorum")}},
                   std::vector<std::string>{"2", "4", "1", "3"}}}) {
    {
      client c{*n};
      std::vector<envelope_ptr> messages;
      for (const auto& [body, priority] : {std::pair{"1", -1}, {"2", 9}, {"3", 1}, {"4", 9}}) {
        basic_properties p;
        if (priority >= 0) p.priority = static_cast<std::uint8_t>(priority);
        std::string bytes;
        encode_properties(p, bytes);
        messages.push_back(make_envelope("", name, std::as_bytes(std::span{bytes}), true,
                                         std::as_bytes(std::span{std::string_view{body}})));
      }
      c.publish(c.declare(name, arguments), std::move(messages));
      c.check_settled_once();
    }
    n.restart();
    client c{*n};
    c.consume_from(c.queue(name));
    CHECK(bodies_of(c.take(4)) == order);
  }
}

TEST_CASE("a quorum queue with a single active consumer is not fetched from, and a classic one is [43]",
          "[actors]") {
  node n;
  client c{*n};
  const field_table single{{"x-single-active-consumer", field_value::of_bool(true)}};
  auto of_quorum = single;
  of_quorum.add("x-queue-type", field_value::of_string("quorum"));
  const auto classic = c.declare("classic", single), quorum = c.declare("quorum", of_quorum);
  CHECK_FALSE(c.get(classic));
  fetch_message request;
  request.by = c.id;
  request.holder = {901};
  CHECK(std::get<refusal>(c.answer(c.ask(quorum, request)).what) ==
        refusal{kind::resource_locked,
                "cannot obtain access to locked queue 'quorum' in vhost '/'. basic.get "
                "operations are not supported by <<\"quorum\">> queues with single active "
                "consumer"});
  // Who consumes alone cannot be the one of several, and a quorum queue does not care [38].
  c.start_consuming(classic, 0, true);
  CHECK(std::get<refusal>(c.answer(c.last_asked).what) ==
        refusal{kind::access_refused, "queue 'classic' in vhost '/' in exclusive use"});
  for (int n_th = 0; n_th < 2; ++n_th) {
    c.start_consuming(quorum, 0, true);
    c.answer<done>(c.last_asked);
    c.consume_from(classic);
  }
  CHECK(c.counts(quorum).consumers == 1);
  CHECK(c.counts(classic).consumers == 2);
}

TEST_CASE("a quorum queue counts what failed, and what was only not dealt with by itself [47]", "[actors]") {
  node n;
  client c{*n};
  const auto dead = c.declare("dead");
  c.lead("dlx", "dead");
  const auto q = c.declare("q", {{"x-queue-type", field_value::of_string("quorum")},
                                 {"x-dead-letter-exchange", field_value::of_string("dlx")}});
  c.publish(q, 1);
  c.consume_from(q);
  const auto after = [&](outcome how) {
    c.answer_for(q, c.take(1), how);
    REQUIRE(c.wait([&] { return !c.heard->deliveries.empty(); }));
    const std::lock_guard guard{c.heard->mutex};
    return std::pair{c.heard->deliveries.front().attempts, c.heard->deliveries.front().returns};
  };
  CHECK(after(outcome::released) == std::pair<std::uint16_t, std::uint16_t>{0, 1});
  CHECK(after(outcome::returned) == std::pair<std::uint16_t, std::uint16_t>{1, 2});
  c.answer_for(q, c.take(1), outcome::discarded);
  REQUIRE(c.becomes_ready(dead, 1));
  const auto letter = c.get(dead).value();
  CHECK(letter.redelivered);
  const auto headers = decode_table(headers_of(letter.message->properties())).value();
  CHECK(*headers.find("x-acquired-count") == field_value::of_long(2));
  CHECK(*headers.find("x-delivery-count") == field_value::of_long(1));
}

TEST_CASE("a quorum queue is deleted without a condition [13]", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q", {{"x-queue-type", field_value::of_string("quorum")}});
  delete_queue request;
  request.if_empty = true;
  CHECK(std::get<refusal>(c.answer(c.ask(q, request)).what) ==
        refusal{kind::not_implemented,
                "cannot delete queue 'q' in vhost '/'. queue.delete operations with if-empty "
                "flag set are not supported by quorum queues"});
  c.answer<messages_removed>(c.ask(q, delete_queue{}));
}

TEST_CASE("what a connection held goes to another consumer when it is killed", "[actors]") {
  node n;
  client publisher{*n}, other{*n};
  const auto q = publisher.declare("q");
  {
    client victim{*n};
    victim.consume_from(q);
    publisher.publish(q, 5);
    const auto held = victim.take(5);
    victim.answer_for(q, {held[1]});
    CHECK(publisher.counts(q).consumers == 1);
    victim.leave(caf::exit_reason::kill);
  }
  other.consume_from(q);
  const auto back = other.take(4);
  CHECK(bodies_of(back) == std::vector<std::string>{"1", "3", "4", "5"});
  for (const auto& d : back) CHECK(d.redelivered);
  other.answer_for(q, back);
  CHECK(publisher.all_settled(5));
  CHECK(publisher.counts(q).consumers == 1);
  CHECK(publisher.counts(q).ready == 0);
}

TEST_CASE("what a closed channel held goes back, and its consumers with it", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  const auto first = c.consume_from(q, 3);
  c.publish(q, 5);
  CHECK(c.take(3).size() == 3);
  q->post(release_holders{{first, {12345}}});
  const auto counts = c.counts(q);
  CHECK(counts.ready == 5);
  CHECK(counts.consumers == 0);
  c.consume_from(q);
  const auto again = c.take(5);
  CHECK(again[2].redelivered);
  CHECK_FALSE(again[3].redelivered);
}

TEST_CASE("a rejected message is gone, and a returned one comes back first", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  c.publish(q, 4);
  c.consume_from(q, 2);
  const auto held = c.take(2);
  c.answer_for(q, {held[1]}, outcome::rejected);
  CHECK(body_of(c.take(1).front()) == "3");
  c.answer_for(q, {held[0]}, outcome::returned);
  const auto back = c.take(1);
  CHECK(body_of(back.front()) == "1");
  CHECK(back.front().redelivered);
}

TEST_CASE("an exclusive consumer is alone until it is cancelled", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  const auto refused = [&] { return std::get<refusal>(c.answer(c.last_asked).what); };
  const auto alone = c.start_consuming(q, 0, true);
  c.answer<done>(c.last_asked);
  c.start_consuming(q);
  CHECK(refused() == refusal{kind::access_refused, "queue 'q' in vhost '/' in exclusive use"});
  cancel_consumer cancel;
  cancel.consumer = alone;
  c.answer<done>(c.ask(q, cancel));
  c.consume_from(q);
  c.start_consuming(q, 0, true);
  CHECK(refused().why == kind::access_refused);
  CHECK(c.counts(q).consumers == 1);
}

TEST_CASE("an exclusive consumer whose connection is killed makes room for the next", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  {
    client victim{*n};
    victim.start_consuming(q, 0, true);
    victim.answer<done>(victim.last_asked);
    victim.leave(caf::exit_reason::kill);
  }
  CHECK(eventually([&] { return c.counts(q).consumers == 0; }));
  c.start_consuming(q, 0, true);
  c.answer<done>(c.last_asked);
}

TEST_CASE("a fetch gives one message and says how many are left", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  fetch_message request;
  request.by = c.id;
  request.holder = {901};
  CHECK_FALSE(c.answer<fetched>(c.ask(q, request)).message);
  c.publish(q, 3);
  auto got = c.answer<fetched>(c.ask(q, request));
  REQUIRE(got.message);
  CHECK(body_of(*got.message) == "1");
  CHECK(got.remaining == 2);
  request.acknowledges = false;
  got = c.answer<fetched>(c.ask(q, request));
  CHECK(body_of(*got.message) == "2");
  CHECK(got.remaining == 1);
  c.answer_for(q, {{request.holder, {1}, nullptr, false}}, outcome::returned);
  CHECK(c.counts(q).ready == 2);
  CHECK(c.all_settled(3));
}

TEST_CASE("a purge is answered when nothing of it can come back", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  c.publish(q, 300);
  REQUIRE(c.all_settled(300));
  CHECK(c.answer<messages_removed>(c.ask(q, purge_queue{})).count == 300);
  CHECK(n.on_disk().message_count == 0);
  CHECK(c.answer<messages_removed>(c.ask(q, purge_queue{})).count == 0);
  c.publish(q, 1);
  REQUIRE(c.all_settled(301));
  CHECK(n.on_disk().message_count == 1);
}

TEST_CASE("messages that come after a great purge and a restart stay", "[actors]") {
  node n;
  constexpr std::size_t count = 9000;
  {
    client c{*n};
    const auto q = c.declare("q");
    c.publish(q, count);
    REQUIRE(c.all_settled(count));
    CHECK(c.answer<messages_removed>(c.ask(q, purge_queue{})).count == count);
  }
  for (std::size_t round = 0; round < 3; ++round) {
    n.restart();
    CHECK(n.running->message_count_at_start() == round * 10);
    client c{*n};
    c.publish(c.queue("q"), 10);
    REQUIRE(c.all_settled(10));
  }
  n.restart();
  CHECK(n.running->message_count_at_start() == 30);
}

TEST_CASE("a backlog beyond the budget drains in order, and memory stays within it", "[actors]") {
  constexpr std::uint64_t budget = 1 << 20;
  constexpr std::size_t count = 4000, size = 1000;
  node n{budget};
  client c{*n};
  auto q = c.declare("q");
  const bool persistent[] = {true, true, false};
  for (std::size_t sent = 0; sent < count; sent += 100) {
    publish_batch batch{c.handle, c.id, {}};
    for (std::size_t i = 0; i < 100; ++i) {
      ++c.published;
      auto body = std::to_string(c.published) + " " + std::string(size, '.');
      batch.messages.push_back({message_of(body, persistent[c.published % 3]), c.by, c.published});
    }
    q->post(std::move(batch));
  }
  REQUIRE(c.all_settled(count));
  CHECK(eventually(
      [&] { return n.running->context().resident.load() <= static_cast<std::int64_t>(2 * budget); }));
  CHECK(c.counts(q).ready == count);
  c.consume_from(q, 50);
  std::size_t next = 1;
  while (next <= count) {
    const auto some = c.take(1);
    for (const auto& d : some) REQUIRE(std::stoul(body_of(d)) == next++);
    c.answer_for(q, some);
  }
  CHECK(eventually([&] { return n.running->context().resident.load() == 0; }));
  q = nullptr;
  c.leave();
  n.restart();
  CHECK(n.running->message_count_at_start() == 0);
}

// --- queues that go -----------------------------------------------------------------------------------------------

TEST_CASE("an exclusive queue is for its connection alone, and goes when that releases it", "[actors]") {
  node n;
  client owner{*n}, other{*n};
  auto command = owner.a_queue("mine");
  command.exclusive = true;
  CHECK(owner.answer<queue_declared>(owner.ask_vhost(command)).created);
  const auto q = owner.queue("mine");
  owner.consume_from(q);
  CHECK(std::get<refusal>(other.answer(other.ask_vhost(other.a_queue("mine"))).what).why ==
        kind::resource_locked);
  CHECK(n.on_disk().vhosts["/"].queues.empty());

  n.running->find_vhost("/")->post(release_owner{owner.handle, 777, owner.id});
  owner.answer<done>(777);
  CHECK(n.snapshot()->queue_count() == 0);
  CHECK(owner.wait([&] { return owner.heard->cancelled.size() == 1; }));
  CHECK(other.answer<queue_declared>(other.ask_vhost(other.a_queue("mine"))).created);
  n.running->find_vhost("/")->post(release_owner{owner.handle, 778, owner.id});
  owner.answer<done>(778);
  CHECK(n.snapshot()->queue_count() == 1);  // it is another one now
}

TEST_CASE("an exclusive queue that was declared just before its owner left goes, too", "[actors]") {
  node n;
  client witness{*n};
  for (int round = 0; round < 50; ++round) {
    client owner{*n};
    auto command = owner.a_queue("mine");
    command.exclusive = true;
    owner.ask_vhost(owner.a_queue("durable " + std::to_string(round)));  // the next ones wait for the disk
    owner.ask_vhost(command);
    n.running->find_vhost("/")->post(release_owner{owner.handle, 777, owner.id});
    owner.answer<done>(777);
    CHECK(n.snapshot()->find_queue("mine") == nullptr);
  }
}

TEST_CASE("a deleted queue tells its consumers, and settles what it was sent", "[actors]") {
  node n;
  client c{*n}, other{*n};
  const auto q = c.declare("q");
  c.publish(q, 3);
  REQUIRE(c.all_settled(3));
  const auto consumer = other.consume_from(q, 1);
  other.take(1);
  delete_queue careful;
  careful.if_unused = true;
  CHECK(std::get<refusal>(c.answer(c.ask(q, careful)).what) ==
        refusal{kind::precondition_failed, "queue 'q' in vhost '/' in use"});
  careful.if_unused = false;
  careful.if_empty = true;
  CHECK(std::get<refusal>(c.answer(c.ask(q, careful)).what) ==
        refusal{kind::precondition_failed, "queue 'q' in vhost '/' not empty"});
  CHECK(c.answer<messages_removed>(c.ask(q, delete_queue{})).count == 2);
  CHECK(n.snapshot()->find_queue("q") == nullptr);
  CHECK(other.wait([&] { return other.heard->cancelled == std::vector{consumer}; }));
  CHECK(n.on_disk().vhosts["/"].queues.empty());
}

TEST_CASE("whoever still speaks to a queue that was deleted is answered", "[actors]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  c.answer<messages_removed>(c.ask(q, delete_queue{}));
  c.publish(q, 5);
  CHECK(c.all_settled(5));
  for (const auto& [who, times] : c.heard->settled) CHECK(times == 1);
  const auto refused = [&](request_token token) { return std::get<refusal>(c.answer(token).what); };
  const refusal gone{kind::not_found, "no queue 'q' in vhost '/'"};
  CHECK(refused(c.ask(q, inspect_queue{})) == gone);
  CHECK(refused(c.ask(q, purge_queue{})) == gone);
  fetch_message fetch;
  fetch.by = c.id;
  CHECK(refused(c.ask(q, fetch)) == gone);
  c.start_consuming(q);
  CHECK(refused(c.last_asked) == gone);
  c.answer<done>(c.ask(q, cancel_consumer{}));
  c.answer<messages_removed>(c.ask(q, delete_queue{}));  // a success: [13]
}

TEST_CASE("publishes that race with a deletion are all settled", "[actors]") {
  node n;
  client c{*n}, other{*n};
  std::size_t sent = 0;
  for (int round = 0; round < 30; ++round) {
    const auto q = c.declare("q");
    for (int i = 0; i < 10; ++i) {
      c.publish(q, 3);
      sent += 3;
      if (i == round % 10) other.ask(q, delete_queue{});
    }
    CHECK(c.all_settled(sent));
    CHECK(eventually([&] { return n.snapshot()->find_queue("q") == nullptr; }));
  }
  CHECK(c.heard->settled_count == sent);
  CHECK(n.snapshot()->queue_count() == 0);
}

TEST_CASE("an auto-delete queue goes with its last consumer, and not before it had one [16]", "[actors]") {
  node n;
  client c{*n};
  auto command = c.a_queue("q");
  command.auto_delete = true;
  c.answer<queue_declared>(c.ask_vhost(command));
  const auto q = c.queue("q");
  c.publish(q, 2);
  CHECK(c.counts(q).ready == 2);
  const auto first = c.consume_from(q);
  {
    client second{*n};
    second.consume_from(q);
    cancel_consumer cancel;
    cancel.consumer = first;
    c.answer<done>(c.ask(q, cancel));
    CHECK(n.snapshot()->queue_count() == 1);
    second.leave(caf::exit_reason::kill);
  }
  CHECK(eventually([&] { return n.snapshot()->queue_count() == 0; }));
}

TEST_CASE("a queue that is declared again after its deletion is a new one", "[actors]") {
  node n;
  client c{*n};
  for (int round = 0; round < 20; ++round) {
    const auto q = c.declare("q");
    CHECK(c.counts(q).ready == 0);
    c.publish(q, 5);
    const auto deleted = c.ask(q, delete_queue{});
    const auto declared = c.ask_vhost(c.a_queue("q"));
    c.answer<messages_removed>(deleted);
    c.answer<queue_declared>(declared);
    if (n.snapshot()->find_queue("q") != nullptr) {
      c.answer<messages_removed>(c.ask(c.queue("q"), delete_queue{}));
    }
  }
  c.leave();
  n.restart();
  CHECK(n.snapshot()->queue_count() == 0);
  CHECK(n.running->message_count_at_start() == 0);
}

// --- the vhost ----------------------------------------------------------------------------------------------------

TEST_CASE("a vhost answers in the order of the requests, whether they wait for the disk or not", "[actors]") {
  node n;
  client c{*n};
  std::vector<request_token> asked;
  for (int i = 0; i < 100; ++i) {
    asked.push_back(c.ask_vhost(c.a_queue("q" + std::to_string(i % 40))));
    asked.push_back(c.ask_vhost(posthorn::bind{
        {}, destination_kind::queue, "amq.fanout", "q" + std::to_string(i % 40), "", {}, c.id}));
    asked.push_back(
        c.ask_vhost(declare_exchange{"nowhere", "direct", true, false, false, false, {}}));  // refused
    asked.push_back(c.ask_vhost(declare_exchange{"x", "direct", false, false, false, false, {}}));
  }
  c.answer(asked.back());
  const std::lock_guard guard{c.heard->mutex};
  CHECK(c.heard->order == asked);
  CHECK(n.snapshot()->queue_count() == 40);
  CHECK(n.snapshot()->binding_count() == 40);
}

TEST_CASE("a binding that was answered is in the snapshot of every connection", "[actors]") {
  node n;
  client c{*n};
  c.declare("q");
  for (int i = 0; i < 50; ++i) {
    const auto key = std::to_string(i);
    c.answer<done>(
        c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "amq.direct", "q", key, {}, c.id}));
    std::vector<queue_ptr> routed;
    const auto snapshot = n.snapshot();
    snapshot->route(*snapshot->find_exchange("amq.direct"), key, {}, routed);
    REQUIRE(routed.size() == 1);
  }
}

TEST_CASE("a queue that is deleted and declared again at once is a new queue each time", "[actors]") {
  node n;
  client c{*n};
  for (int i = 0; i < 300; ++i) {
    // Nobody holds the queue's port while it is removed.
    const auto asked = c.ask(c.declare("again"), delete_queue{});
    CHECK(c.answer<messages_removed>(asked).count == 0);
    c.forget_replies();
  }
}

// --- many at once -------------------------------------------------------------------------------------------------

TEST_CASE("many publishers and consumers at once lose nothing, double nothing and keep the order",
          "[actors]") {
  node n;
  constexpr std::size_t publishers = 4, queues = 3, batches = 25, size = 10;
  constexpr std::size_t expected = publishers * batches * size;  // in each queue
  std::vector<queue_handle> handles;
  client admin{*n};
  for (std::size_t q = 0; q < queues; ++q) handles.push_back(admin.declare("q" + std::to_string(q)));

  std::vector<std::thread> threads;
  std::mutex failures_mutex;
  std::vector<std::string> failures;
  const auto fail = [&](const std::string& what) {
    const std::lock_guard guard{failures_mutex};
    failures.push_back(what);
  };
  for (std::size_t p = 0; p < publishers; ++p) {
    threads.emplace_back([&, p] {
      client c{*n};
      for (std::size_t b = 0; b < batches; ++b) {
        std::vector<arrival> messages;
        for (std::size_t i = 0; i < size; ++i) {
          ++c.published;
          messages.push_back({message_of(std::to_string(p) + " " + std::to_string(c.published), i % 4 != 0),
                              c.by, c.published});
        }
        for (const auto& q : handles) q->post(publish_batch{c.handle, c.id, messages});
      }
      // Once by each queue.
      if (!c.all_settled(queues * batches * size)) fail("not all was settled");
      const std::lock_guard guard{c.heard->mutex};
      for (const auto& [who, times] : c.heard->settled) {
        if (times != queues) fail("a publish was settled " + std::to_string(times) + " times");
      }
    });
  }
  for (std::size_t q = 0; q < queues; ++q) {
    threads.emplace_back([&, q] {
      // Consumers come and go; every third is killed with what it holds.
      std::map<std::string, int> first_time, acknowledged;
      std::size_t done_count = 0;
      for (int round = 0; done_count < expected; ++round) {
        client c{*n};
        const auto consumer = node_context::next_id<consumer_id>(n.running->context().last_consumer);
        consume request;
        request.by = c.id;
        request.consumer = {consumer, 20, true, plenty};
        c.ask(handles[q], std::move(request));
        std::map<std::string, std::size_t> last;  // of each publisher
        for (int turn = 0; turn < 12 && done_count < expected; ++turn) {
          if (!c.wait([&] { return !c.heard->deliveries.empty(); })) return fail("a consumer waits for ever");
          std::vector<delivery> some;
          {
            const std::lock_guard guard{c.heard->mutex};
            some.swap(c.heard->deliveries);
          }
          for (const auto& d : some) {
            const auto body = body_of(d);
            if (acknowledged.contains(body)) fail("an acknowledged message came back");
            if (!d.redelivered) {
              if (++first_time[body] != 1) fail("a message was delivered twice and not redelivered");
              const auto space = body.find(' ');
              auto& before = last[body.substr(0, space)];
              const auto number = std::stoul(body.substr(space));
              if (number <= before) fail("the order of a publisher was broken");
              before = number;
            }
          }
          if (round % 3 == 2 && turn == 11) break;
          for (const auto& d : some) ++acknowledged[body_of(d)];
          done_count += some.size();
          c.answer_for(handles[q], some);
        }
        // What was acknowledged before has to arrive before the connection goes.
        const auto asked = c.ask(handles[q], inspect_queue{});
        if (!c.wait([&] { return c.heard->replies.contains(asked); })) fail("a queue did not answer");
        c.leave(caf::exit_reason::kill);
      }
      for (const auto& [body, times] : acknowledged) {
        if (times != 1) fail("a message was acknowledged twice");
      }
      if (acknowledged.size() != expected) fail("not every message was delivered");
    });
  }
  for (auto& t : threads) t.join();
  CHECK(std::set<std::string>(failures.begin(), failures.end()) == std::set<std::string>{});
  for (const auto& q : handles) CHECK(eventually([&] { return admin.counts(q).ready == 0; }));
  handles.clear();
  admin.leave();
  n.restart();
  CHECK(n.running->message_count_at_start() == 0);
}
