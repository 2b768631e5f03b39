// The broker while its actors are killed and restarted, and the rules of its queues: what is settled, answered and
// delivered stays as if nothing had happened.
#include "tests/actors/probed_broker.hpp"

#include <future>
#include <set>

using namespace posthorn;
using namespace posthorn::probed;

namespace {

// Properties with an expiration only, as AMQP 0-9-1 writes them.
envelope_ptr expiring(std::string_view text, const std::string& milliseconds, bool persistent = true) {
  std::string raw;
  big_endian::append<std::uint16_t>(raw, 1U << 8);
  raw += static_cast<char>(milliseconds.size());
  raw += milliseconds;
  return make_envelope("x", "key", std::as_bytes(std::span{raw}), persistent, std::as_bytes(std::span{text}));
}

// The headers of a message; those that are dead letters have nothing before them.
field_table headers_of(const envelope& e) {
  const auto p = e.properties();
  if (p.size() < 6) return {};
  const auto flags = big_endian::load<std::uint16_t>(p.data());
  REQUIRE((flags & 0xe000U) == 0x2000U);
  const auto size = big_endian::load<std::uint32_t>(p.data() + 2);
  auto table = decode_table(p.subspan(6, size));
  REQUIRE(table.has_value());
  return *table;
}

const field_table& newest_death(const field_table& headers) {
  const auto* deaths = headers.find("x-death");
  REQUIRE(deaths != nullptr);
  const auto* list = as_array(*deaths);
  REQUIRE(list != nullptr);
  REQUIRE(list->size() == 1);
  const auto* table = as_table(list->front());
  REQUIRE(table != nullptr);
  return *table;
}
std::string text_at(const field_table& table, std::string_view name) {
  const auto* found = table.find(name);
  REQUIRE(found != nullptr);
  return std::string{as_string(*found).value()};
}

field_table table(std::string_view name, std::int32_t value) {
  return {{std::string{name}, field_value::of_int(value)}};
}

}  // namespace

// --- queues that are killed and restarted ---------------------------------------------------------------------------

TEST_CASE("a queue that is killed and restarted while it is busy loses nothing and doubles nothing",
          "[restart]") {
  node n;
  client publisher{*n}, consumer{*n};
  const auto q = publisher.declare("q");
  consumer.consume_from(q, 50);
  constexpr std::size_t rounds = 60, batch = 20;
  std::vector<std::uint64_t> order;
  std::vector<delivery> unacked;
  for (std::size_t round = 0; round < rounds; ++round) {
    publisher.publish(q, batch, round % 3 != 0);
    const bool done =
        round % 2 == 0 ? n.kill("/vhosts/%2F/queues/q") : n.restart_actor("/vhosts/%2F/queues/q");
    REQUIRE(done);
    for (auto& d : consumer.take(1)) {
      order.push_back(number_of(d));
      unacked.push_back(std::move(d));
    }
    // Half of what it holds is answered, the older half.
    const auto half = unacked.begin() + static_cast<std::ptrdiff_t>((unacked.size() + 1) / 2);
    consumer.answer_for(q, {unacked.begin(), half});
    unacked.erase(unacked.begin(), half);
  }
  while (order.size() < rounds * batch) {
    consumer.answer_for(q, unacked);
    unacked = consumer.take(1);
    for (const auto& d : unacked) {
      CHECK_FALSE(d.redelivered);
      order.push_back(number_of(d));
    }
  }
  consumer.answer_for(q, unacked);
  CHECK(order.size() == rounds * batch);
  CHECK(std::is_sorted(order.begin(), order.end()));
  CHECK(std::adjacent_find(order.begin(), order.end()) == order.end());
  publisher.check_settled_once();
  CHECK(publisher.heard->rejected.empty());
  CHECK(eventually([&] { return q->ready == 0 && q->held == 0; }));
}

TEST_CASE("purge, delete and declare are answered once while the queue's actor is killed", "[restart]") {
  node n;
  client c{*n};
  const std::string path = "/vhosts/%2F/queues/q";
  for (int round = 0; round < 40; ++round) {
    const bool by_force = round % 2 == 0;
    const auto order = [&] { (void)(by_force ? n.tree().kill(path) : n.tree().restart(path)); };
    auto q = c.declare("q");
    c.counts(q);
    REQUIRE(eventually([&] { return n.id(path) != 0; }));
    c.publish(q, 30);
    if (by_force) order();
    const auto purged = c.ask(q, purge_queue{});
    order();
    CHECK(c.answer<messages_removed>(purged).count == 30);
    REQUIRE(c.all_settled());
    c.publish(q, 10);
    if (by_force) order();
    const auto deleted = c.ask(q, delete_queue{});
    if (by_force) order();
    CHECK(c.answer<messages_removed>(deleted).count == 10);
    c.check_settled_once();
    const std::lock_guard guard{c.heard->mutex};
    for (const auto& [token, answers] : c.heard->replies) CHECK(answers.size() == 1);
    c.heard->replies.clear();
  }
}

TEST_CASE("a queue that is asked to restart and killed in the same moment comes back", "[restart]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  const std::string path = "/vhosts/%2F/queues/q";
  c.counts(q);
  REQUIRE(eventually([&] { return n.id(path) != 0; }));
  SECTION("restarted, then killed") {
    for (int round = 0; round < 200; ++round) {
      (void)n.tree().restart(path);
      (void)n.tree().kill(path);
    }
  }
  SECTION("restarted over and over") {
    for (int round = 0; round < 200; ++round) (void)n.tree().restart(path);
  }
  c.publish(q, 1);
  CHECK(eventually([&] { return q->status.ending || c.heard->settled_count == 1; }, std::chrono::seconds{3}));
  // Between its end and the start of the next, nothing stands there for a moment.
  CHECK(eventually([&] { return n.tree().show(path).has_value(); }));
  CHECK(c.heard->settled_count == 1);
}

TEST_CASE("all queues come back when their supervisor, or their vhost, is restarted", "[restart]") {
  node n;
  client c{*n};
  constexpr int count = 20;
  std::vector<queue_handle> queues;
  for (int i = 0; i < count; ++i) queues.push_back(c.declare("q" + std::to_string(i)));
  for (const std::string path : {"/vhosts/%2F/queues", "/vhosts/%2F", "/vhosts"}) {
    INFO(path);
    for (const auto& q : queues) c.publish(q, 3);
    REQUIRE(n.restart_actor(path));
    for (const auto& q : queues) c.publish(q, 3);
    c.check_settled_once();
  }
  for (const auto& q : queues) CHECK(c.counts(q).ready == 18);
  c.declare("late");
}

TEST_CASE("a queue that is declared while the supervisor of queues restarts has an actor", "[restart]") {
  node n;
  client c{*n};
  for (int i = 0; i < 20; ++i) c.declare("old" + std::to_string(i));
  for (int round = 0; round < 20; ++round) {
    REQUIRE(n.tree().restart("/vhosts/%2F/queues").has_value());
    std::vector<queue_handle> made;
    for (int i = 0; i < 5; ++i) {
      made.push_back(c.declare("new" + std::to_string(round) + "." + std::to_string(i)));
    }
    for (const auto& q : made) c.publish(q, 1);
    const bool settled = eventually(
        [&] {
          const std::lock_guard guard{c.heard->mutex};
          return c.heard->settled_count == c.published;
        },
        std::chrono::seconds{3});
    REQUIRE(settled);
  }
}

TEST_CASE("a broker stops although supervisors are killed meanwhile", "[restart]") {
  for (int round = 0; round < 20; ++round) {
    node n;
    {
      client c{*n};
      for (int i = 0; i < 10; ++i) c.publish(c.declare("q" + std::to_string(i)), 50);
    }
    const std::weak_ptr<supervisor> root = n.tree().shared_from_this();
    std::atomic<bool> left_behind{false}, stopped{false};
    std::thread killer{[&] {
      while (!stopped) {
        const auto tree = root.lock();
        if (!tree) return;
        for (const auto* path : {"/vhosts/%2F/queues", "/vhosts/%2F", "/vhosts", "/"}) (void)tree->kill(path);
        if (!tree->wait_until_finished(std::chrono::milliseconds{0})) continue;
        // Whatever still runs was left behind, and the broker would wait for it.
        for (int i = 0; i < 10; ++i) {
          const auto left = tree->find("/vhosts/%2F/queues/q" + std::to_string(i));
          if (!left) continue;
          left_behind = true;
          caf::anon_send_exit(left, caf::exit_reason::kill);
        }
        return;
      }
    }};
    const auto began = std::chrono::steady_clock::now();
    n.running->stop();
    CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds{2});  // nobody had to be killed
    stopped = true;
    killer.join();
    CHECK_FALSE(left_behind);
    n.restart();
    CHECK(n.running->message_count_at_start() == 500);
  }
}

// --- the committer and the topology ---------------------------------------------------------------------------------

TEST_CASE("a committer that is killed between a thousand publishes settles each once", "[restart]") {
  node n;
  client c{*n};
  const auto q = c.declare("q"), r = c.declare("r");
  int kills = 0;
  for (int i = 0; i < 1000; ++i) {
    c.publish(i % 2 == 0 ? q : r, 1);
    if (i % 10 == 0 && n.tree().kill("/journal")) ++kills;
    if (i % 250 == 0) (void)n.tree().restart("/journal");
  }
  CHECK(kills > 0);
  c.check_settled_once();
  CHECK(c.heard->rejected.empty());
  CHECK(c.counts(q).ready == 500);
  CHECK(c.counts(r).ready == 500);
  CHECK(eventually([&] {
    const auto journal = n.tree().show("/journal");
    return journal && journal->state == child_state::running;
  }));
}

TEST_CASE("what a killed committer has answered is on disk", "[restart]") {
  node n;
  {
    client c{*n};
    const auto q = c.declare("q");
    for (int i = 0; i < 300; ++i) {
      c.publish(q, 3);
      if (i % 5 == 0) (void)n.tree().kill("/journal");
    }
    c.check_settled_once();
  }
  n.restart();
  CHECK(n.running->message_count_at_start() == 900);
}

TEST_CASE("every declaration is answered once, in order, while the topology's actor is killed", "[restart]") {
  node n;
  client c{*n};
  std::vector<request_token> declares, binds;
  c.answer<done>(c.ask_vhost(declare_exchange{"x", "direct", false, true, false, false, {}}));
  constexpr int count = 300;
  for (int i = 0; i < count; ++i) {
    const auto name = "q" + std::to_string(i);
    declares.push_back(c.ask_vhost(c.a_queue(name)));
    if (i % 3 == 0) (void)n.tree().kill("/vhosts/%2F/topology");
    if (i % 50 == 0) (void)n.tree().restart("/vhosts/%2F/topology");
    binds.push_back(c.ask_vhost(posthorn::bind{{}, destination_kind::queue, "x", name, name, {}, c.id}));
    if (i % 20 == 0) c.answer<done>(binds.back());
  }
  for (const auto token : declares) CHECK(c.answer<queue_declared>(token).created);
  for (const auto token : binds) c.answer<done>(token);
  {
    const std::lock_guard guard{c.heard->mutex};
    for (const auto& [token, answers] : c.heard->replies) CHECK(answers.size() == 1);
  }
  const auto snapshot = n.running->find_vhost("/")->snapshot();
  CHECK(snapshot->queue_count() == count);
  // The default exchange has bindings of its own, which are not counted.
  CHECK(snapshot->binding_count() == count);
  for (int i = 0; i < count; ++i) c.publish(c.queue("q" + std::to_string(i)), 1);
  c.check_settled_once();
}

// --- queues that nobody has used yet ---------------------------------------------------------------------------------

TEST_CASE("a queue that was only declared has no actor, and the first message starts it",
          "[restart][asleep]") {
  node n;
  client c{*n};
  const std::string path = "/vhosts/%2F/queues/q";
  const auto q = c.declare("q");
  REQUIRE(eventually([&] { return n.tree().show(path).has_value(); }));
  CHECK(n.tree().show(path)->state == child_state::asleep);
  CHECK(n.id(path) == 0);
  CHECK(q->memory == nullptr);
  std::vector<std::thread> others;
  std::atomic<int> ready{0};
  for (int t = 0; t < 4; ++t) {
    others.emplace_back([&] {
      ++ready;
      while (ready < 4) std::this_thread::yield();
      inspect_queue request;
      request.from = c.handle;
      request.token = 1'000'000 + static_cast<request_token>(ready.load());
      q->post(request);
    });
  }
  for (auto& other : others) other.join();
  c.publish(q, 3);
  c.check_settled_once();
  CHECK(n.tree().show(path)->state == child_state::running);
  CHECK(c.counts(q).ready == 3);
}

TEST_CASE("after a start, an empty queue sleeps, and one that has messages or expires does not",
          "[restart][asleep]") {
  node n;
  {
    client c{*n};
    c.publish(c.declare("full"), 2);
    const auto emptied = c.declare("emptied");
    c.publish(emptied, 2);
    c.check_settled_once();
    CHECK(c.answer<messages_removed>(c.ask(emptied, purge_queue{})).count == 2);
    c.declare("expiring", table("x-expires", 60'000));
    c.declare("unused");
  }
  n.restart();
  client c{*n};
  const auto state = [&](const std::string& name) {
    const auto shown = n.tree().show("/vhosts/%2F/queues/" + name);
    return shown ? shown->state : child_state::failed;
  };
  CHECK(eventually([&] { return state("full") == child_state::running; }));
  CHECK(eventually([&] { return state("expiring") == child_state::running; }));
  CHECK(eventually([&] { return state("unused") == child_state::asleep; }));
  CHECK(eventually([&] { return state("emptied") == child_state::asleep; }));
  CHECK(c.queue("full")->ready == 2);
  const auto emptied = c.queue("emptied");
  c.publish(emptied, 1);
  c.check_settled_once();
  c.consume_from(emptied);
  CHECK(number_of(c.take(1).front()) == 1);
}

TEST_CASE("a queue that sleeps is removed, also with its owner, and declared again", "[restart][asleep]") {
  node n;
  client c{*n};
  for (int round = 0; round < 50; ++round) {
    const auto q = c.declare("q");
    if (round % 2 == 0) {
      CHECK(c.answer<messages_removed>(c.ask(q, delete_queue{})).count == 0);
    } else {
      client owner{*n};
      auto command = owner.a_queue("own");
      command.durable = false;
      command.exclusive = true;
      owner.answer<queue_declared>(owner.ask_vhost(command));
      n.running->find_vhost("/")->post(release_owner{owner.handle, 777, owner.id});
      owner.answer<done>(777);
      CHECK(n.snapshot()->find_queue("own") == nullptr);
      // The next one has the name although the one before may not have ended yet.
      const auto again = c.declare("own");
      c.publish(again, 1);
      c.check_settled_once();
      CHECK(c.answer<messages_removed>(c.ask(again, delete_queue{})).count == 1);
    }
  }
}

TEST_CASE("what many connections held comes back when all of them end at once", "[restart]") {
  node n;
  client c{*n};
  const auto q = c.declare("q");
  constexpr std::size_t count = 300;
  std::vector<std::unique_ptr<client>> others;
  for (std::size_t i = 0; i < count; ++i) {
    others.push_back(std::make_unique<client>(*n));
    others.back()->consume_from(q, 1);
  }
  c.publish(q, count);
  REQUIRE(eventually([&] { return q->held == count; }));
  // A connection that goes on, with two consumers, of which one was cancelled.
  const auto stays = c.start_consuming(q, 1);
  const auto goes = c.consume_from(q, 1);
  c.answer<done>(c.ask(q, cancel_consumer{{}, 0, goes}));
  for (auto& other : others) other->leave(caf::exit_reason::kill);
  REQUIRE(eventually([&] { return q->consumers == 1; }));
  const auto first = c.take(1);
  CHECK(first.front().to == stays);
  CHECK(eventually([&] { return q->held == 1 && q->ready == count - 1; }));
}

// --- rules of queues ------------------------------------------------------------------------------------------------

TEST_CASE("messages expire by the queue's time and by their own, also when its actor was killed",
          "[restart][rules]") {
  node n;
  client c{*n};
  const auto q = c.declare("q", table("x-message-ttl", 60));
  const auto r = c.declare("r");
  c.publish(q, 20);
  c.publish(r, {expiring("1", "40"), expiring("2", "50", false), message_of("3")});
  REQUIRE(n.kill("/vhosts/%2F/queues/q"));
  REQUIRE(n.restart_actor("/vhosts/%2F/queues/r"));
  CHECK(c.becomes_ready(q, 0));
  CHECK(c.becomes_ready(r, 1));
  const auto left = c.get(r);
  REQUIRE(left);
  CHECK(body_of(*left) == "3");
  c.check_settled_once();
}

TEST_CASE("messages that expire while the broker is down are gone when it is up", "[restart][rules]") {
  node n;
  {
    client c{*n};
    const auto q = c.declare("q", table("x-message-ttl", 100));
    const auto r = c.declare("r");
    c.publish(q, 20);
    c.publish(r, {expiring("1", "100"), message_of("2")});
    c.check_settled_once();
  }
  n.restart();
  client c{*n};
  CHECK(c.becomes_ready(c.queue("q"), 0));
  const auto r = c.queue("r");
  const auto got = c.get(r);
  REQUIRE(got);
  CHECK(body_of(*got) == "2");
}

TEST_CASE("messages that have their own time expire after a restart, too, when nobody looks at them",
          "[restart][rules]") {
  node n;
  {
    client c{*n};
    c.publish(c.declare("r"), {expiring("1", "100"), message_of("2")});
    c.check_settled_once();
  }
  n.restart();
  client c{*n};
  const auto r = c.queue("r");
  CHECK(eventually([&] { return r->ready == 1; }, std::chrono::seconds{3}));
}

TEST_CASE("a queue that is full drops its oldest messages", "[restart][rules]") {
  node n;
  client c{*n};
  const auto q = c.declare("q", table("x-max-length", 5));
  c.publish(q, 20);
  c.check_settled_once();
  REQUIRE(n.kill("/vhosts/%2F/queues/q"));
  c.publish(q, 2);
  c.check_settled_once();
  CHECK(c.counts(q).ready == 5);
  for (std::uint64_t expected = 18; expected <= 22; ++expected) {
    const auto got = c.get(q);
    REQUIRE(got);
    CHECK(number_of(*got) == expected);
  }
}

TEST_CASE("a queue that is full and refuses says so of each message that it refuses", "[restart][rules]") {
  node n;
  client c{*n};
  auto arguments = table("x-max-length", 5);
  arguments.add("x-overflow", field_value::of_string("reject-publish"));
  const auto q = c.declare("q", arguments);
  c.publish(q, 8);
  c.check_settled_once();
  CHECK(c.heard->settled.size() == 5);
  CHECK(c.heard->rejected.size() == 3);
  CHECK(c.heard->rejected.contains(8));
  REQUIRE(n.restart_actor("/vhosts/%2F/queues/q"));
  c.publish(q, 1);
  c.check_settled_once();
  CHECK(c.heard->rejected.size() == 4);
  REQUIRE(c.get(q));
  c.publish(q, 1);
  c.check_settled_once();
  CHECK(c.heard->settled.size() == 6);
}

TEST_CASE("a message that is rejected goes through the dead-letter exchange to another queue",
          "[restart][rules]") {
  node n;
  client c{*n};
  const auto dead = c.declare("dead");
  c.lead("dlx", "dead");
  const auto q = c.declare("q", {{"x-dead-letter-exchange", field_value::of_string("dlx")}});
  c.publish(q, 3);
  c.consume_from(q);
  const auto held = c.take(3);
  REQUIRE(n.kill("/vhosts/%2F/queues/q"));
  c.answer_for(q, {held[0], held[2]}, outcome::rejected);
  c.answer_for(q, {held[1]});
  REQUIRE(c.becomes_ready(dead, 2));
  for (const auto* expected : {"1", "3"}) {
    const auto got = c.get(dead);
    REQUIRE(got);
    CHECK(body_of(*got) == expected);
    CHECK(got->message->exchange() == "dlx");
    CHECK(got->message->routing_key() == "key");
    CHECK(got->redelivered);  // who rejected it had it in his hands
    const auto headers = headers_of(*got->message);
    const auto& death = newest_death(headers);
    CHECK(text_at(death, "queue") == "q");
    CHECK(text_at(death, "reason") == "rejected");
    CHECK(text_at(death, "exchange") == "x");
    CHECK(as_integer(*death.find("count")) == 1);
    CHECK(text_at(headers, "x-first-death-queue") == "q");
  }
  CHECK(eventually([&] { return q->held == 0; }));
}

TEST_CASE("dead letters arrive once each, although the broker restarts in between", "[restart][rules]") {
  node n;
  constexpr std::size_t count = 400;
  {
    client c{*n};
    c.declare("dead");
    c.lead("dlx", "dead");
    auto arguments = table("x-message-ttl", 150);
    arguments.add("x-dead-letter-exchange", field_value::of_string("dlx"));
    const auto q = c.declare("q", arguments);
    for (std::size_t i = 0; i < count; i += 20) c.publish(q, 20);
    c.check_settled_once();
  }
  for (int round = 0; round < 3; ++round) n.restart();
  client c{*n};
  const auto q = c.queue("q"), dead = c.queue("dead");
  for (int i = 0; i < 20; ++i) {
    REQUIRE(n.kill("/vhosts/%2F/queues/q"));
    REQUIRE(n.kill("/vhosts/%2F/queues/dead"));
    REQUIRE(n.kill("/journal"));
  }
  REQUIRE(c.becomes_ready(q, 0));
  REQUIRE(c.becomes_ready(dead, count));
  c.consume_from(dead);
  std::set<std::string> seen;
  for (const auto& d : c.take(count)) {
    CHECK(seen.insert(body_of(d)).second);
    CHECK(text_at(newest_death(headers_of(*d.message)), "reason") == "expired");
  }
  CHECK(seen.size() == count);
}

TEST_CASE("dead letters whose bodies are only in the store arrive whole", "[restart][rules]") {
  node n;
  constexpr std::size_t count = 400, size = 4000;
  {
    client c{*n};
    c.declare("dead");
    c.lead("dlx", "dead");
    auto arguments = table("x-max-length", static_cast<std::int32_t>(count));
    arguments.add("x-dead-letter-exchange", field_value::of_string("dlx"));
    c.publish(c.declare("q", arguments), count, true, size);
    c.check_settled_once();
  }
  // Nothing reads them back.
  n.restart();
  client c{*n};
  const auto q = c.queue("q"), dead = c.queue("dead");
  CHECK(q->resident == 0);
  // Each pushes one of the old ones out.
  c.publish(q, count, true, size);
  c.check_settled_once();
  REQUIRE(c.becomes_ready(dead, count));
  REQUIRE(n.restart_actor("/vhosts/%2F/queues/dead"));
  c.consume_from(dead);
  std::uint64_t next = 0;
  std::vector<delivery> all;
  while (all.size() < count) {
    for (auto& d : c.take(1)) all.push_back(std::move(d));
  }
  for (const auto& d : all) {
    CHECK(number_of(d) == ++next);
    CHECK(body_of(d).size() == std::to_string(next).size() + 1 + size);
    CHECK(text_at(newest_death(headers_of(*d.message)), "reason") == "maxlen");
  }
  CHECK(c.counts(q).ready == count);
}

TEST_CASE("a queue with a maximum length keeps to the memory that it may take", "[restart][rules]") {
  node n{std::uint64_t{64} << 10};
  client c{*n};
  field_table arguments;
  SECTION("without a maximum") {}
  SECTION("with one") { arguments = table("x-max-length", 400); }
  SECTION("with a dead-letter exchange") {
    arguments = {{"x-dead-letter-exchange", field_value::of_string("dlx")}};
  }
  const auto q = c.declare("q", arguments);
  c.publish(q, 400, true, 4000);
  c.check_settled_once();
  c.counts(q);
  CHECK(eventually([&] { return q->resident < (std::uint64_t{512} << 10); }, std::chrono::seconds{3}));
  INFO(q->resident.load());
}

TEST_CASE("a message that was given back too often goes", "[restart][rules]") {
  node n;
  client c{*n};
  const auto dead = c.declare("dead");
  c.lead("dlx", "dead");
  auto arguments = table("x-delivery-limit", 2);
  arguments.add("x-dead-letter-exchange", field_value::of_string("dlx"));
  const auto declared = c.ask_vhost(c.a_queue("q", arguments));
  const auto q = port_of(*c.answer<queue_declared>(declared).queue).shared_from_this();
  REQUIRE(q->rules()->delivery_limit == 2);
  c.publish(q, 1);
  c.consume_from(q);
  for (std::uint32_t attempt = 0; attempt < 3; ++attempt) {
    const auto held = c.take(1);
    REQUIRE(held.size() == 1);
    CHECK(held.front().attempts == attempt);
    CHECK(held.front().redelivered == (attempt > 0));
    REQUIRE(n.kill("/vhosts/%2F/queues/q"));
    c.answer_for(q, held, outcome::returned);
  }
  REQUIRE(c.becomes_ready(dead, 1));
  const auto got = c.get(dead);
  REQUIRE(got);
  CHECK(text_at(newest_death(headers_of(*got->message)), "reason") == "delivery_limit");
  CHECK(q->ready == 0);
  CHECK(q->held == 0);
}

TEST_CASE("a queue that nobody uses goes, and one that has a consumer stays", "[restart][rules]") {
  node n;
  client c{*n};
  const auto used = c.declare("used", table("x-expires", 200));
  c.consume_from(used);
  c.declare("unused", table("x-expires", 200));
  if (n.id("/vhosts/%2F/queues/unused") != 0) (void)n.tree().kill("/vhosts/%2F/queues/unused");
  (void)n.tree().restart("/vhosts/%2F/queues/used");
  const auto there = [&](const char* name) {
    return n.running->find_vhost("/")->snapshot()->find_queue(name) != nullptr;
  };
  CHECK(eventually([&] { return !there("unused"); }));
  CHECK(there("used"));
  CHECK(eventually([&] { return !n.tree().show("/vhosts/%2F/queues/unused").has_value(); }));
  // It may be declared again.
  CHECK(c.answer<queue_declared>(c.ask_vhost(c.a_queue("unused"))).created);
}
