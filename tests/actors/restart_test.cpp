// The broker while its actors are killed and restarted, and the rules of its queues: what is settled, answered and
// delivered stays as if nothing had happened. Nothing sleeps: what is expected is waited for, or the deadline has passed.
#include "actors/broker.hpp"

#include "actors/queue.hpp"
#include "actors/supervisor.hpp"
#include "mailbox/field_table.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

using namespace posthorn;

namespace {

constexpr auto patience = std::chrono::seconds{60};
constexpr std::int64_t plenty = std::int64_t{1} << 40;

template <class Condition>
bool eventually(Condition condition, std::chrono::milliseconds within = patience) {
  const auto give_up_at = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up_at) return false;
    std::this_thread::yield();
  }
  return true;
}

// What a connection has heard.
struct hearing {
  std::mutex mutex;
  std::condition_variable news;
  std::vector<delivery> deliveries;
  std::map<std::uint64_t, int> settled, rejected;  // how often, by number
  std::atomic<std::size_t> settled_count{0};
  std::map<request_token, std::vector<reply>> replies;
  std::vector<consumer_id> cancelled;
  bool closed = false;

  template <class Note>
  void note(Note&& how) {
    {
      const std::lock_guard guard{mutex};
      if (closed) return;
      how();
    }
    news.notify_all();
  }
};

connection_actor::behavior_type listener(std::shared_ptr<hearing> h) {
  return {
      [h](deliver& m) {
        h->note(
            [&] { std::move(m.deliveries.begin(), m.deliveries.end(), std::back_inserter(h->deliveries)); });
      },
      [h](settled& m) {
        h->note([&] {
          for (const auto& s : m.settlements) {
            for (auto n = s.first; n <= s.last; ++n) {
              ++(s.rejected ? h->rejected : h->settled)[n];
              ++h->settled_count;
            }
          }
        });
      },
      [h](reply& m) { h->note([&] { h->replies[m.token].push_back(std::move(m)); }); },
      [h](consumer_cancelled& m) { h->note([&] { h->cancelled.push_back(m.consumer); }); },
      [](close_connection&) {},
      [](alarm_changed&) {},
  };
}

using queue_handle = std::shared_ptr<queue_port>;

// A broker on a directory of its own.
class node {
public:
  explicit node(std::uint64_t memory = std::uint64_t{128} << 20) : memory_{memory} { start(); }

  void start() {
    broker_settings settings;
    settings.data_directory = directory_.path();
    settings.map_size = std::uint64_t{256} << 20;
    settings.disk_free_min = 1;
    settings.memory_messages_max = memory_;
    settings.threads = 3;
    auto started = broker::start(std::move(settings));
    REQUIRE(started.has_value());
    running = std::move(*started);
  }
  void restart() {
    running.reset();
    start();
  }
  broker& operator*() const { return *running; }
  [[nodiscard]] supervisor& tree() const { return running->tree(); }
  [[nodiscard]] caf::actor_id id(const std::string& path) const {
    const auto handle = tree().find(path);
    return handle ? handle.id() : 0;
  }
  // Gives the order, which may come at a bad time, until another actor runs there.
  template <class Order>
  bool replace(const std::string& path, Order order) const {
    const auto before = id(path);
    return eventually([&] {
      if (id(path) == before) (void)order(path);
      const auto now = id(path);
      return now != 0 && now != before;
    });
  }
  bool kill(const std::string& path) const {
    return replace(path, [&](const std::string& p) { return tree().kill(p); });
  }
  bool restart_actor(const std::string& path) const {
    const auto before = id(path);
    if (!tree().restart(path)) return false;
    return eventually([&] {
      const auto now = id(path);
      return now != 0 && now != before;
    });
  }

  std::unique_ptr<broker> running;

private:
  scratch_directory directory_;
  std::uint64_t memory_;
};

class client {
public:
  explicit client(broker& b) : broker_{b} {
    id = node_context::next_id<connection_id>(b.context().last_connection);
    by = {id.value << 16 | 1};
    handle_ = b.system().spawn([h = heard](connection_actor::pointer) { return listener(h); });
  }
  ~client() {
    caf::anon_send_exit(handle_, caf::exit_reason::user_shutdown);
    const std::lock_guard guard{heard->mutex};
    heard->closed = true;
    heard->replies.clear();
  }
  client(const client&) = delete;
  client& operator=(const client&) = delete;

  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock{heard->mutex};
    return heard->news.wait_for(lock, patience, condition);
  }
  template <class Command>
  request_token ask_vhost(Command command) {
    const auto token = ++last_token_;
    broker_.find_vhost("/")->post(topology_request{handle_, token, std::move(command)});
    return token;
  }
  template <class Request>
  request_token ask(const queue_handle& queue, Request request) {
    request.from = handle_;
    request.token = ++last_token_;
    const auto token = request.token;
    queue->post(std::move(request));
    return token;
  }
  template <class Answer>
  Answer answer(request_token token) {
    REQUIRE(wait([&] { return heard->replies.contains(token); }));
    const std::lock_guard guard{heard->mutex};
    auto got = heard->replies.at(token).front();
    const auto* refused = std::get_if<refusal>(&got.what);
    INFO("refused: " << (refused ? refused->text : ""));
    REQUIRE(std::holds_alternative<Answer>(got.what));
    return std::get<Answer>(std::move(got.what));
  }
  declare_queue a_queue(const std::string& name, const field_table& arguments = {}) const {
    declare_queue c;
    c.name = name;
    c.durable = true;
    c.by = id;
    encode_table(arguments, c.arguments);
    c.arguments.erase(0, 4);  // its length
    return c;
  }
  queue_handle declare(const std::string& name, const field_table& arguments = {}) {
    const auto declared = answer<queue_declared>(ask_vhost(a_queue(name, arguments)));
    REQUIRE(declared.queue != nullptr);
    return port_of(*declared.queue).shared_from_this();
  }
  queue_handle queue(const std::string& name) const {
    const auto* found = broker_.find_vhost("/")->snapshot()->find_queue(name);
    REQUIRE(found != nullptr);
    return port_of(**found).shared_from_this();
  }
  // A fanout exchange that leads to the queue.
  void lead(const std::string& exchange, const std::string& to) {
    answer<done>(ask_vhost(declare_exchange{exchange, "fanout", false, true, false, false, {}}));
    answer<done>(ask_vhost(posthorn::bind{{}, destination_kind::queue, exchange, to, "", {}, id}));
  }
  void publish(const queue_handle& to, std::vector<envelope_ptr> messages) {
    publish_batch batch{handle_, id, {}};
    for (auto& m : messages) batch.messages.push_back({std::move(m), by, ++published});
    to->post(std::move(batch));
  }
  void publish(const queue_handle& to, std::size_t count, bool persistent = true, std::size_t padding = 0) {
    std::vector<envelope_ptr> messages;
    for (std::size_t n = 0; n < count; ++n) {
      auto body = std::to_string(published + n + 1);
      if (padding != 0) body += " " + std::string(padding, 'x');
      messages.push_back(message_of(body, persistent));
    }
    publish(to, std::move(messages));
  }
  bool all_settled() {
    return wait([&] { return heard->settled_count >= published; });
  }
  // Every publish was answered, each once.
  void check_settled_once() {
    REQUIRE(all_settled());
    const std::lock_guard guard{heard->mutex};
    CHECK(heard->settled_count == published);
    CHECK(heard->settled.size() + heard->rejected.size() == published);
  }
  consumer_id consume_from(const queue_handle& from, std::uint32_t prefetch = 0) {
    const auto consumer = node_context::next_id<consumer_id>(broker_.context().last_consumer);
    consume request;
    request.by = id;
    request.consumer = {consumer, prefetch, true, plenty};
    answer<done>(ask(from, std::move(request)));
    return consumer;
  }
  std::vector<delivery> take(std::size_t count) {
    REQUIRE(wait([&] { return heard->deliveries.size() >= count; }));
    const std::lock_guard guard{heard->mutex};
    return std::exchange(heard->deliveries, {});
  }
  void answer_for(const queue_handle& queue, const std::vector<delivery>& deliveries,
                  outcome how = outcome::acknowledged) {
    answer_held message;
    for (const auto& d : deliveries) message.answers.push_back({d.to, how, {{d.at, d.at}}});
    queue->post(std::move(message));
  }
  queue_counts counts(const queue_handle& queue) { return answer<queue_counts>(ask(queue, inspect_queue{})); }
  bool becomes_ready(const queue_handle& queue, std::uint64_t count) {
    return eventually([&] { return queue->ready.load() == count; });
  }
  std::optional<delivery> get(const queue_handle& queue) {
    fetch_message request;
    request.by = id;
    request.holder = node_context::next_id<consumer_id>(broker_.context().last_consumer);
    request.acknowledges = false;
    return answer<fetched>(ask(queue, std::move(request))).message;
  }

  connection_id id;
  publisher_id by;
  std::shared_ptr<hearing> heard = std::make_shared<hearing>();
  std::uint64_t published = 0;

private:
  broker& broker_;
  connection_actor handle_;
  request_token last_token_ = 0;
};

std::string body(const delivery& d) { return posthorn::body_of(*d.message); }
// The number that the body begins with.
std::uint64_t number_of(const delivery& d) { return std::stoull(body(d)); }

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
  CHECK(n.tree().show(path).has_value());
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

TEST_CASE("a broker stops although supervisors are killed meanwhile", "[restart][.defect]") {
  for (int round = 0; round < 20; ++round) {
    node n;
    {
      client c{*n};
      for (int i = 0; i < 10; ++i) c.publish(c.declare("q" + std::to_string(i)), 50);
    }
    auto keep = n.tree().shared_from_this();
    auto stopping = std::async(std::launch::async, [&] { n.running->stop(); });
    for (int i = 0; i < 200; ++i) {
      for (const auto* path : {"/vhosts/%2F/queues", "/vhosts/%2F", "/vhosts"}) (void)keep->kill(path);
    }
    CHECK(keep->wait_until_finished(std::chrono::seconds{10}));
    // Whatever still runs was left behind, and the broker waits for it.
    for (int i = 0; i < 10; ++i) {
      const auto left = keep->find("/vhosts/%2F/queues/q" + std::to_string(i));
      CHECK_FALSE(left);
      if (left) caf::anon_send_exit(left, caf::exit_reason::kill);
    }
    keep = nullptr;
    REQUIRE(stopping.wait_for(std::chrono::seconds{10}) == std::future_status::ready);
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
  CHECK(body(*left) == "3");
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
  CHECK(body(*got) == "2");
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
    CHECK(body(*got) == expected);
    CHECK(got->message->exchange() == "dlx");
    CHECK(got->message->routing_key() == "key");
    CHECK_FALSE(got->redelivered);
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
    CHECK(seen.insert(body(d)).second);
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
    CHECK(body(d).size() == std::to_string(next).size() + 1 + size);
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
  REQUIRE(q->rules.delivery_limit == 2);
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
