// Exchanges that keep something, in virtual time and through crashes: what is delayed goes on exactly once and not early,
// and what is published again is there once.
#include "actors/exchange_keeper.hpp"

#include "actors/test_node.hpp"
#include "actors/vhost.hpp"
#include "mailbox/deduplication.hpp"
#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

field_table table_of(std::initializer_list<std::pair<const char*, field_value>> entries) {
  field_table out;
  for (const auto& [name, value] : entries) out.add(name, value);
  return out;
}

field_table delayed_by(std::int64_t milliseconds) {
  return table_of({{"x-delay", field_value::of_long(milliseconds)}});
}
field_table known_as(const std::string& key) {
  return table_of({{"x-deduplication-header", field_value::of_string(key)}});
}
const field_table direct_later = table_of({{"x-delayed-type", field_value::of_string("direct")}});
field_table remembering(bool on_disk, std::int64_t size = 100) {
  auto out = table_of({{"x-cache-size", field_value::of_long(size)}});
  if (on_disk) out.add("x-cache-persistence", field_value::of_string("disk"));
  return out;
}

// A client of the node: declares, publishes as a connection does, and fetches.
class customer {
public:
  explicit customer(raw_test_node& n) : node_{n} {
    id_ = node_context::next_id<connection_id>(context().last_connection);
    handle_ = n.system().spawn([h = heard_](connection_actor::pointer) -> connection_actor::behavior_type {
      return {
          [](deliver&) {},
          [h](settled& m) {
            for (const auto& s : m.settlements) {
              for (auto number = s.first; number <= s.last; ++number)
                ++(s.rejected ? h->refused : h->confirmed)[number];
            }
          },
          [h](reply& m) { h->replies[m.token] = std::move(m); },
          [](consumer_cancelled&) {},
          [](close_connection&) {},
          [](alarm_changed&) {},
      };
    });
  }
  ~customer() { caf::anon_send_exit(handle_, caf::exit_reason::user_shutdown); }
  customer(const customer&) = delete;
  customer& operator=(const customer&) = delete;

  // The refusal's text, or nothing.
  template <class Command>
  std::string tell(Command command) {
    const auto token = ++last_token_;
    vhost()->post(topology_request{handle_, token, std::move(command)});
    node_.run();
    const auto found = heard_->replies.find(token);
    if (found == heard_->replies.end()) return "no answer";
    const auto* refused = std::get_if<refusal>(&found->second.what);
    auto text = refused != nullptr ? refused->text : std::string{};
    heard_->replies.erase(found);
    return text;
  }
  void exchange(const std::string& name, const std::string& type, const field_table& arguments,
                bool durable = true) {
    declare_exchange c;
    c.name = name;
    c.type = type;
    c.durable = durable;
    c.arguments = encoded(arguments);
    REQUIRE(tell(std::move(c)).empty());
  }
  void queue(const std::string& name, const field_table& arguments = {}) {
    declare_queue c;
    c.name = name;
    c.durable = true;
    c.arguments = encoded(arguments);
    c.by = id_;
    REQUIRE(tell(std::move(c)).empty());
  }
  void bound(const std::string& from, const std::string& to, const std::string& key = "") {
    REQUIRE(tell(posthorn::bind{{}, destination_kind::queue, from, to, key, {}, id_}).empty());
  }
  // What is sent to "later" with the key "k" comes to "q" in its time.
  void delays_for_q() {
    exchange("later", "x-delayed-message", direct_later);
    queue("q");
    bound("later", "q", "k");
  }

  // Its number; 0: it leads nowhere.
  std::uint64_t publish(const std::string& exchange, const std::string& key, const std::string& body,
                        const field_table& headers) {
    basic_properties p;
    p.delivery_mode = 2;
    p.headers = headers;
    std::string properties;
    encode_properties(p, properties);
    const auto message = make_envelope(exchange, key, std::as_bytes(std::span{properties}), true,
                                       std::as_bytes(std::span{body}));
    const auto where = vhost()->snapshot();
    std::vector<queue_ptr> queues;
    where->route(*where->find_exchange(exchange), key, message->properties(), queues);
    if (queues.empty()) return 0;
    ++last_number_;
    for (const auto& q : queues) {
      publish_batch batch{handle_, id_, {}};
      batch.messages.push_back({message, {id_.value << 16 | 1}, last_number_});
      port_of(*q).post(std::move(batch));
    }
    return last_number_;
  }
  [[nodiscard]] bool is_confirmed(std::uint64_t number) const { return heard_->confirmed.contains(number); }
  [[nodiscard]] bool is_refused(std::uint64_t number) const { return heard_->refused.contains(number); }

  std::vector<delivery> take_all(const std::string& from) {
    std::vector<delivery> out;
    const auto where = vhost()->snapshot();
    auto& port = port_of(**where->find_queue(from));
    for (;;) {
      fetch_message request;
      request.from = handle_;
      request.by = id_;
      request.token = ++last_token_;
      request.holder = node_context::next_id<consumer_id>(context().last_consumer);
      request.acknowledges = false;
      port.post(std::move(request));
      node_.run();
      auto answer = heard_->replies.extract(last_token_);
      REQUIRE(!answer.empty());
      auto& found = std::get<fetched>(answer.mapped().what);
      if (!found.message) return out;
      out.push_back(std::move(*found.message));
    }
  }
  std::vector<std::string> bodies(const std::string& from) {
    std::vector<std::string> out;
    for (const auto& d : take_all(from)) {
      const auto body = d.message->body();
      out.emplace_back(reinterpret_cast<const char*>(body.data()), body.size());
    }
    return out;
  }

  // --- orders ---
  std::shared_ptr<queue_port> keeper(const std::string& exchange) {
    const auto where = vhost()->snapshot();
    const auto* found = where->find_exchange(exchange);
    REQUIRE(found != nullptr);
    REQUIRE(found->keeper != nullptr);
    return port_of(*found->keeper).shared_from_this();
  }
  result<std::vector<waiting_message>> list(const std::string& exchange, std::size_t count_max = 100) {
    result<std::vector<waiting_message>> out = refused("no answer");
    auto order = std::make_shared<keeper_order>();
    order->count_max = count_max;
    order->on_list = [&out](auto found) { out = std::move(found); };
    keeper(exchange)->post(ask_keeper{std::move(order)});
    node_.run();
    return out;
  }
  result<std::uint64_t> cancel(const std::string& exchange, std::vector<delayed_id> which) {
    result<std::uint64_t> out = refused("no answer");
    auto order = std::make_shared<keeper_order>();
    order->what = which.empty() ? keeper_order::kind::cancel_all : keeper_order::kind::cancel;
    order->which = std::move(which);
    order->on_cancelled = [&out](auto count) { out = count; };
    keeper(exchange)->post(ask_keeper{std::move(order)});
    node_.run();
    return out;
  }

  [[nodiscard]] node_context& context() { return node_.broker().context(); }
  [[nodiscard]] std::shared_ptr<vhost_port> vhost() { return node_.broker().find_vhost("/"); }

private:
  static std::string encoded(const field_table& arguments) {
    std::string out;
    encode_table(arguments, out);
    return out.substr(4);
  }

  struct hearing {
    std::map<std::uint64_t, int> confirmed, refused;
    std::map<request_token, reply> replies;
  };

  raw_test_node& node_;
  connection_id id_{};
  connection_actor handle_;
  std::shared_ptr<hearing> heard_ = std::make_shared<hearing>();
  request_token last_token_ = 0;
  std::uint64_t last_number_ = 0;
};

using strings = std::vector<std::string>;

}  // namespace

TEST_CASE("a delayed message goes on when its time has come, in the order of these times", "[delayed]") {
  raw_test_node node{{}};
  customer c{node};
  c.delays_for_q();
  const auto slow = c.publish("later", "k", "slow", delayed_by(5000));
  const auto fast = c.publish("later", "k", "fast", delayed_by(1000));
  c.publish("later", "k", "now", delayed_by(0));
  c.publish("later", "k", "before", delayed_by(-7));
  c.publish("later", "elsewhere", "nowhere", delayed_by(1000));
  node.run();
  CHECK(c.is_confirmed(slow));  // because it is stored
  CHECK(c.is_confirmed(fast));
  CHECK(c.bodies("q") == strings{"now", "before"});
  node.advance(999ms);
  CHECK(c.bodies("q").empty());
  node.advance(1ms);
  const auto came = c.take_all("q");
  REQUIRE(came.size() == 1);
  const auto headers = decode_table(headers_of(came[0].message->properties()));
  CHECK(as_integer(*headers->find("x-delay")) == -1000);
  node.advance(3999ms);
  CHECK(c.bodies("q").empty());
  node.advance(1ms);
  CHECK(c.bodies("q") == strings{"slow"});
  node.advance(24h);
  CHECK(c.bodies("q").empty());
  CHECK(c.keeper("later")->ready == 0);
}

TEST_CASE("delayed messages are routed by the bindings of then", "[delayed]") {
  raw_test_node node{{}};
  customer c{node};
  c.exchange("rest", "fanout", {});
  auto arguments = direct_later;
  arguments.add("alternate-exchange", field_value::of_string("rest"));
  c.exchange("later", "x-delayed-message", arguments);
  c.queue("q");
  c.queue("rest");
  c.bound("rest", "rest");
  c.publish("later", "k", "1", delayed_by(1000));
  c.publish("later", "unbound", "2", delayed_by(1000));
  node.run();
  c.bound("later", "q", "k");
  node.advance(1s);
  CHECK(c.bodies("q") == strings{"1"});
  CHECK(c.bodies("rest") == strings{"2"});
}

TEST_CASE("a delay of 2^62 ms waits, is listed, and is cancelled", "[delayed]") {
  raw_test_node node{{}};
  customer c{node};
  c.delays_for_q();
  const auto start = node.now();
  for (const auto* body : {"a", "b"}) c.publish("later", "k", body, delayed_by(std::int64_t{1} << 62));
  c.publish("later", "k", "soon", delayed_by(1000));
  node.run();
  auto listed = c.list("later").value();
  REQUIRE(listed.size() == 3);
  CHECK(listed[0].id.due == start + 1000);
  CHECK(listed[1].id.due == start + (std::int64_t{1} << 62));
  CHECK(listed[1].routing_key == "k");
  CHECK(listed[1].size == 1);
  CHECK(c.list("later", 1)->size() == 1);
  CHECK(c.cancel("later", {listed[2].id, listed[0].id, {1, {1}}}).value() == 2);
  CHECK(c.cancel("later", {listed[2].id}).value() == 0);
  node.advance(1h);
  CHECK(c.bodies("q").empty());
  CHECK(c.list("later")->size() == 1);
}

TEST_CASE("everything that waits is cancelled in steps, and does not come back", "[delayed]") {
  raw_test_node node{{}};
  {
    customer c{node};
    c.delays_for_q();
    for (int n = 0; n < 2500; ++n) c.publish("later", "k", "x", delayed_by(60'000));
    node.run();
    CHECK(c.cancel("later", {}).value() == 2500);
    c.publish("later", "k", "late", delayed_by(60'000));
    node.run();
  }
  node.crash_and_restart();
  customer c{node};
  CHECK(c.list("later", 500)->size() == 1);
  node.advance(1min);
  CHECK(c.bodies("q") == strings{"late"});
}

TEST_CASE("whatever a crash cuts off, what was confirmed goes on exactly once", "[delayed][crash]") {
  int crashes = 0;
  for (const auto* point : {"batch.sent", "commit.begun", "commit.messages_written", "commit.actors_written",
                            "commit.all_written", "commit.done", "commit.handed_over", "commit.answered"}) {
    for (unsigned on = 1; on <= 4; ++on) {
      INFO("at " << point << ", the time " << on);
      raw_test_node node{{.seed = on}};
      std::vector<std::string> confirmed;
      {
        customer c{node};
        c.delays_for_q();
        node.fail_at(point, on);
        std::map<std::uint64_t, std::string> sent;
        try {
          for (int n = 0; n < 6 && !node.has_crashed(); ++n) {
            const auto body = std::to_string(n);
            sent.emplace(c.publish("later", "k", body, delayed_by(1000 + n % 3)), body);
            node.run();
            if (!node.has_crashed() && n % 2 == 1) node.advance(600ms);
          }
          if (!node.has_crashed()) node.advance(10s);
        } catch (const test_failure&) {
          // It has crashed; what was confirmed until then counts.
        }
        for (const auto& [number, body] : sent) {
          if (c.is_confirmed(number)) confirmed.push_back(body);
        }
      }
      if (node.has_crashed()) ++crashes;
      node.crash_and_restart();
      node.advance(10s);
      customer c{node};
      auto found = c.bodies("q");
      std::sort(found.begin(), found.end());
      CHECK(std::adjacent_find(found.begin(), found.end()) == found.end());
      for (const auto& body : confirmed) CHECK(std::binary_search(found.begin(), found.end(), body));
      CHECK(c.keeper("later")->ready == 0);
    }
  }
  CHECK(crashes >= 16);
}

TEST_CASE("a killed actor's successor goes on with what waits", "[delayed]") {
  raw_test_node node{{}};
  customer c{node};
  c.delays_for_q();
  c.publish("later", "k", "1", delayed_by(1000));
  node.run();
  node.kill("/vhosts/%2F/exchanges/later");
  node.run();
  c.publish("later", "k", "2", delayed_by(1000));
  node.run();
  node.advance(2s);
  CHECK(c.bodies("q") == strings{"1", "2"});
}

TEST_CASE("with its exchange, what waits is forgotten, and publishers are answered", "[delayed]") {
  raw_test_node node{{}};
  {
    customer c{node};
    c.delays_for_q();
    c.publish("later", "k", "1", delayed_by(1000));
    node.run();
    const auto last = c.publish("later", "k", "2", delayed_by(1000));
    REQUIRE(c.tell(delete_exchange{"later", false}).empty());
    CHECK(c.is_confirmed(last));
    c.exchange("later", "x-delayed-message", direct_later);
    c.bound("later", "q", "k");
    CHECK(c.list("later")->empty());
  }
  node.crash_and_restart();
  node.advance(1h);
  customer c{node};
  CHECK(c.bodies("q").empty());
}

TEST_CASE("a dead letter waits in an exchange that delays", "[delayed]") {
  raw_test_node node{{}};
  {
    customer c{node};
    c.exchange("later", "x-delayed-message", direct_later);
    c.queue("q");
    c.bound("later", "q", "dead");
    c.queue("first", table_of({{"x-message-ttl", field_value::of_int(10)},
                               {"x-dead-letter-exchange", field_value::of_string("later")},
                               {"x-dead-letter-routing-key", field_value::of_string("dead")}}));
    c.publish("", "first", "1", delayed_by(5000));
    node.advance(1s);
    CHECK(c.list("later")->size() == 1);
  }
  node.crash_and_restart();
  customer c{node};
  CHECK(c.list("later")->size() == 1);
  node.advance(5s);
  CHECK(c.bodies("q") == strings{"1"});
}

// --- deduplication ------------------------------------------------------------------------------------------------

TEST_CASE("an exchange lets a message pass once, and each publisher hears when it is stored",
          "[deduplication]") {
  raw_test_node node{{}};
  customer c{node};
  c.exchange("once", "x-message-deduplication", remembering(false));
  c.queue("a");
  c.queue("b");
  c.bound("once", "a");
  c.bound("once", "b");
  const auto first = c.publish("once", "", "1", known_as("x"));
  const auto again = c.publish("once", "", "2", known_as("x"));
  CHECK_FALSE(c.is_confirmed(again));
  node.run();
  CHECK(c.is_confirmed(first));
  CHECK(c.is_confirmed(again));
  const auto later = c.publish("once", "", "3", known_as("x"));
  c.publish("once", "", "4", known_as("y"));
  c.publish("once", "", "5", {});
  c.publish("once", "", "6", {});
  node.run();
  CHECK(c.is_confirmed(later));
  for (const auto* queue : {"a", "b"}) {
    auto found = c.bodies(queue);
    std::sort(found.begin(), found.end());
    CHECK(found == strings{"1", "4", "5", "6"});
  }
}

TEST_CASE("what passed is forgotten after x-cache-ttl, or as the message says", "[deduplication]") {
  raw_test_node node{{}};
  customer c{node};
  auto arguments = remembering(false);
  arguments.add("x-cache-ttl", field_value::of_long(1000));
  c.exchange("once", "x-message-deduplication", arguments);
  c.queue("q");
  c.bound("once", "q");
  auto long_known = known_as("y");
  long_known.add("x-cache-ttl", field_value::of_long(10'000));
  const auto publish_both = [&](const std::string& body) {
    c.publish("once", "", "x" + body, known_as("x"));
    c.publish("once", "", "y" + body, long_known);
    node.run();
    return c.bodies("q");
  };
  CHECK(publish_both("1") == strings{"x1", "y1"});
  node.advance(999ms);
  CHECK(publish_both("2").empty());
  node.advance(1ms);
  CHECK(publish_both("3") == strings{"x3"});
  node.advance(9s);
  CHECK(publish_both("4") == strings{"x4", "y4"});
}

TEST_CASE("a message that a full queue refuses is nowhere, and may be sent again", "[deduplication]") {
  raw_test_node node{{}};
  customer c{node};
  c.exchange("once", "x-message-deduplication", remembering(true));
  c.queue("narrow", table_of({{"x-max-length", field_value::of_int(1)},
                              {"x-overflow", field_value::of_string("reject-publish")}}));
  c.queue("wide");
  c.bound("once", "narrow");
  c.bound("once", "wide");
  c.publish("once", "", "1", known_as("1"));
  node.run();
  const auto refused = c.publish("once", "", "2", known_as("2"));
  node.run();
  CHECK(c.is_refused(refused));
  CHECK(c.bodies("wide") == strings{"1"});
  CHECK(c.bodies("narrow") == strings{"1"});
  const auto again = c.publish("once", "", "2", known_as("2"));
  node.run();
  CHECK(c.is_confirmed(again));
  CHECK(c.bodies("wide") == strings{"2"});
}

TEST_CASE("whatever a crash cuts off, what is published again is there once", "[deduplication][crash]") {
  int crashes = 0;
  for (const auto* type : {"x-message-deduplication", "x-delayed-message"}) {
    for (const auto* point : {"publish.accepted", "batch.sent", "commit.begun", "commit.messages_written",
                              "commit.all_written", "commit.done", "commit.handed_over", "commit.answered"}) {
      for (unsigned on = 1; on <= 3; ++on) {
        INFO(type << " at " << point << ", the time " << on);
        raw_test_node node{{.seed = on}};
        const bool delays = std::string{type} == "x-delayed-message";
        const auto publish = [&](customer& c, const std::string& body) {
          auto headers = known_as(body);
          if (delays) headers.add("x-delay", field_value::of_int(100));
          return c.publish("once", "", body, headers);
        };
        {
          customer c{node};
          auto arguments = remembering(true);
          if (delays) {
            arguments.add("x-delayed-type", field_value::of_string("fanout"));
            arguments.add("x-message-deduplication", field_value::of_bool(true));
          }
          c.exchange("once", type, arguments);
          c.queue("q");
          c.bound("once", "q");
          node.fail_at(point, on);
          try {
            for (int n = 0; n < 5 && !node.has_crashed(); ++n) {
              (void)publish(c, std::to_string(n));
              node.run();
            }
          } catch (const test_failure&) {
          }
        }
        if (node.has_crashed()) ++crashes;
        node.crash_and_restart();
        customer c{node};
        std::vector<std::uint64_t> numbers;
        for (int n = 0; n < 5; ++n) numbers.push_back(publish(c, std::to_string(n)));
        node.run();
        node.advance(1s);
        for (const auto number : numbers) CHECK(c.is_confirmed(number));
        auto found = c.bodies("q");
        std::sort(found.begin(), found.end());
        CHECK(found == strings{"0", "1", "2", "3", "4"});
      }
    }
  }
  CHECK(crashes >= 24);
}

TEST_CASE("a queue takes no message while the same is in it", "[deduplication]") {
  raw_test_node node{{}};
  {
    customer c{node};
    c.queue("q", table_of({{"x-message-deduplication", field_value::of_bool(true)}}));
    const auto first = c.publish("", "q", "1", known_as("x"));
    const auto again = c.publish("", "q", "2", known_as("x"));
    node.run();
    CHECK(c.is_confirmed(first));
    CHECK(c.is_confirmed(again));
  }
  node.crash_and_restart();
  customer c{node};
  const auto after_crash = c.publish("", "q", "3", known_as("x"));
  node.run();
  CHECK(c.is_confirmed(after_crash));
  CHECK(c.bodies("q") == strings{"1"});
  c.publish("", "q", "4", known_as("x"));
  node.run();
  CHECK(c.bodies("q") == strings{"4"});
}
