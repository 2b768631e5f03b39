// Routers over durable actors and queues, from all sides that can send to them.
#include "posthorn/router.hpp"

#include "actors/actor_house.hpp"
#include "tests/actors/lab.hpp"
#include "tests/actors/probed_broker.hpp"

#include <map>
#include <numeric>
#include <set>

using namespace posthorn;
using namespace std::chrono_literals;
using lab::patience;
using probed::eventually;

namespace {

// Each number that an actor gets counts up its transfers; what is negative, it sends on to "routers/r" as 1.
void count(lab::turn& t, std::int64_t number) {
  if (number < 0) {
    for (; number < 0; ++number) t.send<bank::Deposit>("routers/r", [](auto m) { m.setAmount(1); });
    return;
  }
  t.state().setTransfers(t.state().getTransfers() + 1);
}

struct a_node : lab::bench {
  a_node() : lab::bench{count} {}

  std::uint64_t got(const std::string& actor) { return ask(actor).transfers; }
  std::vector<std::uint64_t> got(const std::vector<std::string>& actors) {
    std::vector<std::uint64_t> out;
    for (const auto& a : actors) out.push_back(got(a));
    return out;
  }
  void send_to(const std::string& to, int times) {
    for (int n = 0; n < times; ++n) bench::send(1, 1, to);
  }
  actor_house& house() { return *node->broker().context().house; }
  std::uint64_t chosen(const std::string& router, const std::string& member) {
    const auto report = node->show_router(router);
    REQUIRE(report);
    for (const auto& m : report->members) {
      if (m.name == member) return m.chosen;
    }
    FAIL(member << " is no member of " << router);
    return 0;
  }
  // Whom a message with this key goes to.
  std::string member_for(const std::string& router, const std::string& key) {
    const auto chosen =
        house().routers().choose(*make_envelope("", router_address(router, key), {}, true, {}));
    REQUIRE(chosen.size() == 1);
    return chosen.front()->described;
  }
};

envelope_ptr message_to(const std::string& name, const basic_properties& properties = {},
                        std::string_view body = "") {
  std::string encoded;
  encode_properties(properties, encoded);
  return make_envelope("", name, std::as_bytes(std::span{encoded}), true, std::as_bytes(std::span{body}));
}

const std::vector<std::string> three{"lab/1", "lab/2", "lab/3"};
const std::vector<router_member> three_members{"lab/1", "lab/2", "lab/3"};

}  // namespace

TEST_CASE("round robin goes from one member to the next, actors and queues alike", "[router]") {
  a_node n;
  REQUIRE(n.node->declare_queue("q"));
  REQUIRE(n.node->add(router("r", routing::round_robin).over({"lab/1", "lab/2", "q"})));
  n.send_to("routers/r", 9);
  CHECK(n.got("lab/1") == 3);
  CHECK(n.got("lab/2") == 3);
  for (int i = 0; i < 3; ++i) {
    auto taken = n.node->take("q");
    REQUIRE(taken);
    CHECK(*taken != nullptr);
  }
  CHECK(*n.node->take("q") == nullptr);
}

TEST_CASE("weighted round robin gives each its share, and none a burst", "[router]") {
  a_node n;
  REQUIRE(n.node->add(
      router("r", routing::weighted_round_robin).over({{"lab/1", 5}, {"lab/2", 1}, {"lab/3", 1}})));
  n.send_to("routers/r", 14);
  CHECK(n.got(three) == std::vector<std::uint64_t>{10, 2, 2});
}

TEST_CASE("random goes to each as often as its weight says, about", "[router]") {
  a_node n;
  REQUIRE(n.node->add(router("r", routing::random).over({{"lab/1", 3}, {"lab/2", 1}, {"lab/3", 0}})));
  n.send(-4000, -4000, "lab/sender");
  REQUIRE(eventually([&] { return n.got("lab/1") + n.got("lab/2") == 4000; }));
  CHECK(n.got("lab/1") > 2800);
  CHECK(n.got("lab/1") < 3200);
  CHECK(n.got("lab/3") == 0);
}

TEST_CASE("the smallest mailbox gets the next message", "[router]") {
  a_node n;
  for (const auto* q : {"a", "b", "c"}) REQUIRE(n.node->declare_queue(q));
  n.send_to("a", 4);
  n.send_to("b", 2);
  REQUIRE(n.node->add(router("r", routing::smallest_mailbox).over({"a", "b", "c"})));
  n.send_to("routers/r", 6);
  probed::client c{n.node->broker()};
  CHECK(c.counts(c.queue("a")).ready == 4);
  CHECK(c.counts(c.queue("b")).ready == 4);
  CHECK(c.counts(c.queue("c")).ready == 4);
  // An actor that sleeps has an empty mailbox, and looking at it does not wake it.
  REQUIRE(n.node->resize_router("r", {"a", "b", "c", "lab/asleep"}));
  const auto awake = n.house().awake_count();
  CHECK(n.house().find("routers/r") != nullptr);
  CHECK(n.house().awake_count() == awake);
  n.send_to("routers/r", 3);
  CHECK(n.got("lab/asleep") == 3);
}

TEST_CASE("a burst to the smallest mailbox is spread before the mailboxes show it", "[router]") {
  a_node n;
  for (const auto* q : {"a", "b"}) REQUIRE(n.node->declare_queue(q));
  REQUIRE(n.node->add(router("r", routing::smallest_mailbox).over({"a", "b"})));
  // All in one turn: none of them arrives before the last was sent.
  n.send(-10, -10, "lab/sender");
  REQUIRE(eventually([&] { return n.chosen("r", "a") + n.chosen("r", "b") == 10; }));
  CHECK(n.chosen("r", "a") == 5);
}

TEST_CASE("the member that answers soonest gets most, and a slow one is not forgotten", "[router]") {
  a_node n;
  REQUIRE(n.node->add(
      router("r", routing::least_response_time).half_life(std::chrono::hours{19}).over(three_members)));
  // As if they had been measured.
  for (int i = 0; i < 100; ++i) {
    n.house().find("lab/1")->response.note(3'600'000'000'000);
    n.house().find("lab/3")->response.note(3'600'000'000'000);
    n.house().find("lab/2")->response.note(1000);
  }
  n.send_to("routers/r", 50);
  const auto got = n.got(three);
  CHECK(got[0] >= 1);
  CHECK(got[2] >= 1);
  CHECK(got[1] > 40);
}

TEST_CASE("a mailbox knows how long its turns take, and how long its consumers", "[router]") {
  a_node n;
  CHECK(n.house().find("lab/1")->response.nanoseconds() == 0);
  n.send_to("lab/1", 1);
  CHECK(n.got("lab/1") == 1);
  CHECK(eventually([&] { return n.house().find("lab/1")->response.nanoseconds() > 0; }));

  probed::client c{n.node->broker()};
  const auto q = c.declare("q");
  c.consume_from(q);
  c.publish(q, 3);
  const auto held = c.take(3);
  CHECK(q->response.nanoseconds() == 0);
  c.answer_for(q, {held[1], held[2]});
  CHECK(c.counts(q).ready == 0);
  const auto others = q->response.nanoseconds();
  c.answer_for(q, {held[0]}, outcome::returned);
  const auto again = c.take(1);
  CHECK(q->response.nanoseconds() == others);  // what comes back took no time that counts
  c.answer_for(q, again);
  CHECK(eventually([&] { return q->response.nanoseconds() > 0; }));
  // One that its consumer never answered for does not keep others from being measured.
  {
    probed::client lost{n.node->broker()};
    const auto other = lost.declare("other");
    lost.consume_from(other);
    lost.publish(other, 1);
    lost.take(1);
    lost.leave(caf::exit_reason::kill);
  }
  const auto other = c.queue("other");
  c.consume_from(other);
  c.answer_for(other, c.take(1));
  CHECK(eventually([&] { return other->response.nanoseconds() > 0; }));
}

TEST_CASE("a consistent hash sends what has the same key to the same member", "[router]") {
  a_node n;
  REQUIRE(n.node->add(router("r", routing::consistent_hash).over(three_members)));
  for (int i = 0; i < 10; ++i) n.bench::send(1, 1, router_address("r", "anna"));
  const auto got = n.got(three);
  CHECK(*std::max_element(got.begin(), got.end()) == 10);
  CHECK(std::accumulate(got.begin(), got.end(), std::uint64_t{0}) == 10);
  std::set<std::string> used;
  for (int i = 0; i < 100; ++i) used.insert(n.member_for("r", std::to_string(i)));
  CHECK(used.size() == 3);
}

TEST_CASE("a consistent hash moves only the keys that it must", "[router]") {
  a_node n;
  REQUIRE(n.node->add(router("r", routing::consistent_hash).over(three_members)));
  const auto look = [&] {
    std::map<int, std::string> out;
    for (int i = 0; i < 600; ++i) out[i] = n.member_for("r", std::to_string(i));
    return out;
  };
  const auto before = look();
  REQUIRE(n.node->resize_router("r", {"lab/4", "lab/3", "lab/2", "lab/1"}));
  const auto grown = look();
  int moved = 0;
  for (const auto& [key, member] : grown) {
    if (member == before.at(key)) continue;
    ++moved;
    CHECK(member == "actor 'lab/4'");
  }
  CHECK(moved > 60);
  CHECK(moved < 300);
  REQUIRE(n.node->resize_router("r", three_members));
  CHECK(look() == before);
  REQUIRE(n.node->resize_router("r", {"lab/1", "lab/3"}));
  for (const auto& [key, member] : look()) {
    if (before.at(key) != "actor 'lab/2'") CHECK(member == before.at(key));
  }
}

TEST_CASE(
    "the key is in the address, a header, the correlation id, the message id or the body, in this order",
    "[router]") {
  a_node n;
  std::vector<router_member> many;
  for (int i = 0; i < 50; ++i) many.emplace_back("lab/" + std::to_string(i));
  REQUIRE(n.node->add(router("r", routing::consistent_hash).over(many)));
  REQUIRE(n.node->add(router("own", routing::consistent_hash).key_header("customer").over(many)));
  const auto goes_to = [&](const envelope_ptr& m) {
    return n.house().routers().choose(*m).front()->described;
  };
  for (const std::string key : {"one", "two", "3"}) {
    const auto expected = n.member_for("r", key);
    basic_properties p;
    CHECK(goes_to(message_to("routers/r", p, key)) == expected);
    p.message_id = key;
    CHECK(goes_to(message_to("routers/r", p, "body")) == expected);
    p.message_id = "id";
    p.correlation_id = key;
    CHECK(goes_to(message_to("routers/r", p)) == expected);
    p.correlation_id = "correlation";
    p.headers = field_table{{"x-routing-hash", field_value::of_string(key)}};
    CHECK(goes_to(message_to("routers/r", p)) == expected);
    CHECK(goes_to(message_to("routers/own", p)) == n.member_for("r", "correlation"));
    p.headers = field_table{{"customer", field_value::of_string(key)}};
    CHECK(goes_to(message_to("routers/own", p)) == expected);
    p.headers = field_table{{"x-routing-hash", field_value::of_string("header")}};
    CHECK(goes_to(message_to("routers/r/" + key, p)) == expected);
  }
  basic_properties number;
  number.headers = field_table{{"x-routing-hash", field_value::of_int(3)}};
  CHECK(goes_to(message_to("routers/r", number)) == n.member_for("r", "3"));
}

TEST_CASE("a broadcast reaches all, and is durable in all before its sender hears of it", "[router]") {
  a_node n;
  REQUIRE(n.node->declare_queue("q"));
  REQUIRE(n.node->add(router("r", routing::broadcast).over({"lab/1", "lab/2", "q"})));
  n.send_to("routers/r", 3);
  CHECK(n.got("lab/1") == 3);
  CHECK(n.got("lab/2") == 3);
  n.send(-2, -2, "lab/sender");
  CHECK(eventually([&] { return n.got("lab/1") == 5 && n.got("lab/2") == 5; }));
  probed::client c{n.node->broker()};
  CHECK(eventually([&] { return c.counts(c.queue("q")).ready == 5; }));
}

TEST_CASE("a question that is sent to a router is answered by a member", "[router]") {
  a_node n;
  n.send_to("lab/2", 7);
  REQUIRE(n.node->add(router("r", routing::round_robin).over({{"lab/1", 0}, "lab/2"})));
  CHECK(n.got("routers/r") == 7);
}

TEST_CASE("turns send to routers, in one transaction with all that they do", "[router]") {
  a_node n;
  REQUIRE(n.node->add(router("r", routing::round_robin).over(three_members)));
  n.send(-9, -9, "lab/sender");
  CHECK(eventually([&] { return n.got(three) == std::vector<std::uint64_t>{3, 3, 3}; }));
}

TEST_CASE("a reminder's turn sends to a router", "[router]") {
  lab::bench b{[](lab::turn& t, std::int64_t number) {
    if (number == 0) {
      t.remind<bank::Deposit>("later", 1ms, [](auto m) { m.setAmount(1); });
    } else if (number == 1) {
      t.send<bank::Deposit>("routers/r", [](auto m) { m.setAmount(2); });
    } else {
      t.state().setBalance(t.state().getBalance() + number);
    }
  }};
  REQUIRE(b.node->add(router("r", routing::round_robin).over({"lab/2"})));
  b.send(0);
  CHECK(eventually([&] { return b.ask("lab/2").amount == 2; }));
}

TEST_CASE("a publish over the default exchange goes through a router, and is confirmed once", "[router]") {
  a_node n;
  probed::client c{n.node->broker()};
  const auto a = c.declare("a"), b = c.declare("b");
  REQUIRE(n.node->add(router("r", routing::round_robin).over({"a", "b"})));
  REQUIRE(n.node->add(router("all", routing::broadcast).over({"a", "b"})));
  // As a connection does: it looks the name up once, and publishes to what it has found.
  const auto one = n.house().find("routers/r"), all = n.house().find("routers/all");
  REQUIRE(one);
  REQUIRE(all);
  CHECK(n.house().find("routers/r") == one);
  c.publish(one, 10);
  c.check_settled_once();
  CHECK(c.counts(a).ready == 5);
  CHECK(c.counts(b).ready == 5);
  c.publish(all, 10);
  c.check_settled_once();
  CHECK(c.counts(a).ready == 15);
  CHECK(c.counts(b).ready == 15);
  // The order of a publisher is kept in each mailbox.
  c.consume_from(a);
  std::vector<std::uint64_t> numbers;
  for (const auto& d : c.take(15)) numbers.push_back(probed::number_of(d));
  CHECK(std::is_sorted(numbers.begin(), numbers.end()));
}

TEST_CASE("a broadcast that one of its members refuses is refused, once", "[router]") {
  a_node n;
  probed::client c{n.node->broker()};
  c.declare("a");
  c.declare("b", {{"x-max-length", field_value::of_int(1)},
                  {"x-overflow", field_value::of_string("reject-publish")}});
  REQUIRE(n.node->add(router("all", routing::broadcast).over({"a", "b"})));
  const auto all = n.house().find("routers/all");
  REQUIRE(all);
  c.publish(all, 1);
  REQUIRE(c.all_settled());
  CHECK(c.heard->rejected.empty());
  c.publish(all, 1);
  c.check_settled_once();
  CHECK(c.heard->rejected == std::map<std::uint64_t, int>{{2, 1}});
}

TEST_CASE("a router without members says so to whoever sends to it", "[router]") {
  a_node n;
  probed::client c{n.node->broker()};
  const auto q = c.declare("q");
  REQUIRE(n.node->add(router("r", routing::round_robin).over({"q"})));
  const auto doorway = n.house().find("routers/r");
  REQUIRE(doorway);
  c.answer<messages_removed>(c.ask(q, delete_queue{}));

  const auto sent = n.node->send<bank::Deposit>("routers/r", [](auto) {}).get();
  REQUIRE_FALSE(sent);
  CHECK(sent.error().code == errc::refused);
  CHECK(sent.error().text.find("router 'r' has no members") == 0);
  // To AMQP it is a name that leads nowhere; who knows it from before is refused.
  CHECK(n.house().find("routers/r") == nullptr);
  c.publish(doorway, 2);
  c.check_settled_once();
  CHECK(c.heard->rejected.size() == 2);
  // The turn fails with the reason.
  n.send(-1, -1, "lab/sender");
  CHECK(eventually([&] {
    const auto report = n.node->tree().show("/actors/lab/sender");
    return report && report->last_failure &&
           report->last_failure->reason.find("router 'r' has no members") != std::string::npos;
  }));
  // It takes up the queue when it is declared again.
  REQUIRE(n.node->declare_queue("q"));
  CHECK(n.node->send<bank::Deposit>("routers/r", [](auto) {}).get());
}

TEST_CASE("what a deleted queue would have got goes to the next member", "[router]") {
  a_node n;
  probed::client c{n.node->broker()};
  const auto a = c.declare("a");
  c.declare("b");
  c.declare("d");
  const std::map<std::string, routing> all{{"round-robin", routing::round_robin},
                                           {"random", routing::random},
                                           {"weighted", routing::weighted_round_robin},
                                           {"least-response-time", routing::least_response_time},
                                           {"hash", routing::consistent_hash},
                                           {"smallest-mailbox", routing::smallest_mailbox},
                                           {"broadcast", routing::broadcast}};
  for (const auto& [name, how] : all) REQUIRE(n.node->add(router(name, how).over({"a", "b"})));
  c.answer<messages_removed>(c.ask(a, delete_queue{}));
  for (const auto& [name, how] : all) {
    n.send_to("routers/" + name, 4);
    CHECK(n.chosen(name, "a") == 0);
    CHECK(n.chosen(name, "b") == 4);
  }
  CHECK(c.counts(c.queue("b")).ready == 28);
}

TEST_CASE("wrong routers are refused with what to do", "[router]") {
  a_node n;
  const auto text_of = [](const result<void>& r) {
    REQUIRE_FALSE(r);
    CHECK(r.error().code == errc::refused);
    return r.error().text;
  };
  const auto has = [](const std::string& text, std::string_view part) {
    INFO(text);
    CHECK(text.find(part) != std::string::npos);
  };
  has(text_of(n.node->add(router("r", routing::random).over({"nobody/1"}))), "no kind 'nobody' of actors");
  has(text_of(n.node->add(router("r", routing::random).over({"missing"}))), "declare it before the router");
  has(text_of(n.node->add(router("r", routing::random).over({"lab/1", "lab/1"}))), "named twice");
  has(text_of(n.node->add(router("a/b", routing::random).over({"lab/1"}))), "name of a router");
  has(text_of(n.node->add(router("", routing::random))), "name of a router");
  REQUIRE(n.node->add(router("r", routing::random).over({"lab/1"})));
  has(text_of(n.node->add(router("r", routing::random).over({"lab/1"}))), "is there already");
  has(text_of(n.node->add(router("s", routing::random).over({"routers/r"}))), "a router cannot be a member");
  has(text_of(n.node->resize_router("s", {"lab/1"})), "no router 's'");
  has(text_of(n.node->resize_router("r", {"lab/1", "missing"})), "'missing'");
  CHECK(n.node->show_router("r")->members.size() == 1);  // it has not changed
  has(n.node->send<bank::Deposit>("routers/s", [](auto) {}).get().error().text, "no router 's'");
  // Nobody else may have the name.
  auto other = durable<bank::Account>("routers").on<bank::Ask>([](lab::turn&, bank::Ask::Reader) {});
  has(text_of(n.node->add(other)), "'routers'");
}

TEST_CASE("many threads send to a router while it grows and shrinks, and nothing is lost", "[router]") {
  a_node n;
  REQUIRE(n.node->add(router("r", routing::least_response_time).over(three_members)));
  constexpr int senders = 4, each = 200;
  std::atomic<bool> over{false};
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int s = 0; s < senders; ++s) {
    threads.emplace_back([&] {
      std::vector<std::future<result<void>>> sent;
      for (int i = 0; i < each; ++i) {
        sent.push_back(n.node->send<bank::Deposit>("routers/r", [](auto m) { m.setAmount(1); }));
      }
      for (auto& f : sent) {
        if (!f.get()) ++failed;
      }
    });
  }
  std::thread resizer{[&] {
    for (bool more = true; !over; more = !more) {
      const auto done = more ? n.node->resize_router("r", {"lab/2", "lab/3", "lab/4"})
                             : n.node->resize_router("r", three_members);
      if (!done) ++failed;
      std::this_thread::yield();
    }
  }};
  for (auto& t : threads) t.join();
  over = true;
  resizer.join();
  CHECK(failed == 0);
  CHECK(eventually(
      [&] { return n.got("lab/1") + n.got("lab/2") + n.got("lab/3") + n.got("lab/4") == senders * each; }));
}

TEST_CASE("a router is the program's, and not stored", "[router]") {
  a_node n;
  REQUIRE(n.node->add(router("r", routing::round_robin).over({"lab/1"})));
  n.send_to("routers/r", 1);
  n.reopen();
  CHECK_FALSE(n.node->send<bank::Deposit>("routers/r", [](auto) {}).get());
  REQUIRE(n.node->add(router("r", routing::round_robin).over({"lab/1"})));
  n.send_to("routers/r", 1);
  CHECK(n.got("lab/1") == 2);
}
