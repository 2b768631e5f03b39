// The exchanges beyond the standard's four, and messages with more than one key. Numbers in brackets are those of
// docs/amqp.md.
#include "tests/mailbox/virtual_host.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <map>
#include <set>

using namespace posthorn;
using namespace posthorn::test_host;
using kind = refusal::kind;

namespace {

declare_exchange with_arguments(const std::string& name, const std::string& type,
                                const field_table& arguments) {
  auto c = host::an_exchange(name, type);
  c.arguments = table(arguments);
  return c;
}

field_value keys(const std::vector<std::string>& names) {
  field_array out;
  for (const auto& name : names) out.push_back(field_value::of_string(name));
  return field_value::of_array(std::move(out));
}

std::string number(const std::string& before, int n) { return before + std::to_string(n); }

using shares = std::map<std::string, int>;

// Where each of many messages goes; each to one queue.
strings each(const host& h, int count) {
  strings out;
  for (int n = 0; n < count; ++n) {
    const auto went = h.route("x", number("key ", n));
    REQUIRE(went.size() == 1);
    out.push_back(went.front());
  }
  return out;
}
shares shares_of(const strings& went) {
  shares out;
  for (const auto& name : went) ++out[name];
  return out;
}

// Within five standard deviations of what chance would give: wrong once in millions, if it were chance.
bool is_share(int got, double probability, int count) {
  const auto expected = probability * count;
  return std::abs(got - expected) < 5 * std::sqrt(expected * (1 - probability));
}

}  // namespace

// --- declaring and binding ------------------------------------------------------------------------------------------

TEST_CASE("every type of exchange can be declared by its name, and is told apart [12]", "[exchange_types]") {
  host h;
  for (const auto type : exchange_types) {
    const std::string name{to_string(type)};
    CHECK(exchange_type_of(name) == type);
    field_table arguments;
    if (type == exchange_type::delayed) arguments.set("x-delayed-type", field_value::of_string("direct"));
    if (type == exchange_type::deduplicating) arguments.set("x-cache-size", field_value::of_int(1));
    CHECK(h.tell(with_arguments(name, name, arguments)).empty());
    CHECK(h.t.find_exchange(name)->definition.type == type);
  }
  CHECK(std::set<exchange_type>(std::begin(exchange_types), std::end(exchange_types)).size() == 11);
  CHECK(
      h.tell(host::an_exchange("x-random", "x-local-random")) ==
      "inequivalent arg 'type' for exchange 'x-random' in vhost '/': received ''x-local-random'' but current "
      "is ''x-random''");  // quoted twice, as RabbitMQ does with a name that has a dash
  CHECK(exchange_type_of("x-nothing") == std::nullopt);
}

TEST_CASE("the arguments of a consistent hash exchange are checked as RabbitMQ does", "[exchange_types]") {
  host h;
  const auto text = [](const char* t) { return field_value::of_string(t); };
  const auto declared = [&](const field_table& arguments) {
    return h.tell(with_arguments("x", "x-consistent-hash", arguments));
  };
  CHECK(declared({{"hash-header", text("a")}, {"hash-property", text("message_id")}}) ==
        "hash-header and hash-property are mutually exclusive");
  CHECK(h.why == kind::precondition_failed);
  CHECK(declared({{"hash-property", text("app_id")}}) == "Unsupported property: app_id");
  CHECK(declared({{"hash-header", field_value::of_int(1)}}) ==
        "invalid type 'signedint' for arg 'hash-header' in exchange 'x' in vhost '/'");
  CHECK(h.t.find_exchange("x") == nullptr);
  CHECK(h.tell(with_arguments("y", "direct", {{"hash-property", text("app_id")}})).empty());
  for (const auto* property : {"message_id", "correlation_id", "timestamp"}) {
    CHECK(h.tell(with_arguments(property, "x-consistent-hash", {{"hash-property", text(property)}})).empty());
  }
  CHECK(declared({{"hash-header", text("a")}}).empty());
  CHECK(declared({{"hash-header", text("b")}})
            .empty());  // such arguments are not compared, once it is there [2]
}

TEST_CASE("the key of a binding to a consistent hash exchange is its weight", "[exchange_types]") {
  host h;
  h.queue("q").exchange("x", "x-consistent-hash");
  const auto bound = [&](const std::string& key) { return h.tell(h.a_binding("x", "q", key)); };
  CHECK(bound("a") == "The binding key must be an integer: <<\"a\">>");
  CHECK(h.why == kind::precondition_failed);
  for (const auto* key : {"", "1a", "1.5", " 1", "1 ", "+", "-", "+-1", "--1", "0x1"}) {
    CAPTURE(key);
    CHECK(bound(key).find("The binding key must be an integer: <<") == 0);
  }
  for (const auto* key : {"0", "-1", "-0", "-99999999999999999999"}) {
    CAPTURE(key);
    CHECK(bound(key) == "The binding key must be greater than 0");
  }
  for (const auto* key : {"10001", "99999999999999999999"}) {
    CAPTURE(key);
    CHECK(bound(key) == "The binding key must not exceed 10000");
  }
  CHECK(h.t.binding_count() == 0);
  for (const auto* key : {"1", "+2", "007", "10000"}) {
    CAPTURE(key);
    CHECK(bound(key).empty());
  }
  CHECK(h.route("x", "any") == strings{"q"});
}

TEST_CASE("only classic queues without a key are bound to a local random exchange", "[exchange_types]") {
  host h;
  h.queue("q").exchange("x", "x-local-random");
  auto quorum = h.a_queue("quorum");
  quorum.arguments = table({{"x-queue-type", field_value::of_string("quorum")}});
  CHECK(h.tell(quorum).empty());
  auto classic = h.a_queue("classic");
  classic.arguments = table({{"x-queue-type", field_value::of_string("classic")}});
  CHECK(h.tell(classic).empty());
  CHECK(h.tell(h.a_binding("x", "q", "a")) == "Non empty binding 'a' key not permitted");
  CHECK(h.why == kind::precondition_failed);
  CHECK(h.tell(h.a_binding("x", "quorum", "a")) == "Non empty binding 'a' key not permitted");
  CHECK(h.tell(h.a_binding("x", "quorum")) ==
        "Queue type rabbit_quorum_queue not valid for this exchange type");
  CHECK(h.tell(h.to_exchange("x", "amq.fanout", "a")) == "Non empty binding 'a' key not permitted");
  CHECK(h.tell(h.to_exchange("x", "amq.fanout")) == "Destination not found");
  CHECK(h.tell(h.a_binding("x", "nobody", "a")) == "no queue 'nobody' in vhost '/'");
  CHECK(h.tell(host::the_reverse(h.a_binding("x", "q", "a"))).empty());
  CHECK(h.t.binding_count() == 0);
  CHECK(h.tell(h.a_binding("x", "classic")).empty());
  CHECK(h.tell(h.a_binding("x", "q")).empty());
}

TEST_CASE("the length of a recent history is a positive number", "[exchange_types]") {
  host h;
  const auto declared = [&](field_value length) {
    return h.tell(with_arguments("x", "x-recent-history", {{"x-recent-history-length", std::move(length)}}));
  };
  const std::string end = ", 'x-recent-history-length' must be a positive integer";
  CHECK(declared(field_value::of_int(0)) == "Invalid argument 0" + end);
  CHECK(h.why == kind::precondition_failed);
  CHECK(declared(field_value::of_int(-3)) == "Invalid argument -3" + end);
  CHECK(declared(field_value::of_string("3")) == "Invalid argument <<\"3\">>" + end);
  CHECK(h.t.find_exchange("x") == nullptr);
  CHECK(declared(field_value::of_long(3)).empty());
}

// --- where messages go ----------------------------------------------------------------------------------------------

TEST_CASE("a consistent hash exchange gives each message to one queue, in shares by weight",
          "[exchange_types]") {
  host h;
  h.exchange("x", "x-consistent-hash");
  CHECK(h.route("x", "k").empty());
  const std::map<std::string, int> weights{{"a", 1}, {"b", 1}, {"c", 2}, {"d", 6}};
  for (const auto& [name, weight] : weights)
    h.queue(name).bound(h.a_binding("x", name, std::to_string(weight)));
  constexpr int count = 20'000;
  const auto went = each(h, count);
  auto got = shares_of(went);
  for (const auto& [name, weight] : weights) {
    CAPTURE(name, weight, got[name]);
    CHECK(is_share(got[name], weight / 10.0, count));
  }
  CHECK(each(h, count) == went);  // the same message goes the same way
}

TEST_CASE("a queue that comes or goes moves only its own share of a consistent hash", "[exchange_types]") {
  host h;
  h.exchange("x", "x-consistent-hash");
  for (int n = 0; n < 9; ++n) h.queue(number("q", n)).bound(h.a_binding("x", number("q", n), "5"));
  constexpr int count = 10'000;
  const auto before = each(h, count);
  h.queue("new").bound(h.a_binding("x", "new", "5"));
  const auto with_new = each(h, count);
  int moved = 0;
  for (std::size_t n = 0; n < before.size(); ++n) {
    if (with_new[n] == before[n]) continue;
    ++moved;
    REQUIRE(with_new[n] == "new");
  }
  CHECK(is_share(moved, 0.1, count));
  h.remove("q3");
  const auto without = each(h, count);
  for (std::size_t n = 0; n < without.size(); ++n) {
    REQUIRE(without[n] != "q3");
    if (with_new[n] != "q3") REQUIRE(without[n] == with_new[n]);
  }
  h.remove("new");
  h.queue("q3").bound(h.a_binding("x", "q3", "5"));
  CHECK(each(h, count) == before);  // although the mailboxes and bindings have other ids
}

TEST_CASE("more bindings to a queue do not give it more of a consistent hash than the heaviest",
          "[exchange_types]") {
  host h;
  h.queue("a").queue("b").exchange("x", "x-consistent-hash");
  h.bound(h.a_binding("x", "a", "2")).bound(h.a_binding("x", "b", "2"));
  const auto before = each(h, 1000);
  h.bound(h.a_binding("x", "a", "1"));
  h.bound(h.a_binding("x", "a", "2", table({{"n", field_value::of_int(1)}})));
  CHECK(each(h, 1000) == before);
  h.bound(h.a_binding("x", "a", "6"));
  auto got = shares_of(each(h, 4000));
  CHECK(is_share(got["a"], 0.75, 4000));
  CHECK(h.tell(host::the_reverse(h.a_binding("x", "a", "6"))).empty());
  CHECK(each(h, 1000) == before);
}

TEST_CASE("a consistent hash looks at a header or a property, if it is told to", "[exchange_types]") {
  host h;
  h.exchange("k", "x-consistent-hash");
  const auto text = [](const char* t) { return field_value::of_string(t); };
  REQUIRE(h.tell(with_arguments("h", "x-consistent-hash", {{"hash-header", text("who")}})).empty());
  for (const auto* property : {"message_id", "correlation_id", "timestamp"}) {
    REQUIRE(
        h.tell(with_arguments(property, "x-consistent-hash", {{"hash-property", text(property)}})).empty());
  }
  for (int n = 0; n < 5; ++n) {
    h.queue(number("q", n));
    for (const auto* exchange : {"k", "h", "message_id", "correlation_id", "timestamp"})
      h.bound(h.a_binding(exchange, number("q", n), "1"));
  }
  const auto message = [](int n, int which) {
    basic_properties p;
    if (which == 1) p.headers = field_table{{"who", field_value::of_int(n)}};
    if (which == 2) p.message_id = std::to_string(n);
    if (which == 3) p.correlation_id = std::to_string(n);
    if (which == 4) p.timestamp = static_cast<std::uint64_t>(n);
    return p;
  };
  const char* exchanges[] = {"k", "h", "message_id", "correlation_id", "timestamp"};
  for (int of = 0; of < 5; ++of) {
    for (int which = 0; which < 5; ++which) {
      std::set<std::string> reached;
      for (int n = 0; n < 100; ++n) {
        const auto key = which == 0 ? std::to_string(n) : "k";
        const auto went = h.route(exchanges[of], key, message(n, which));
        REQUIRE(went.size() == 1);
        reached.insert(went.front());
      }
      CAPTURE(exchanges[of], which);
      CHECK(reached.size() ==
            (of == which ? 5 : 1));  // what it does not look at, or is missing, changes nothing
    }
  }
  for (std::int32_t n = 0; n < 20; ++n) {
    CHECK(h.route("h", "", {{"who", field_value::of_int(n)}}) ==
          h.route("h", "", {{"who", field_value::of_long(n)}}));
  }
}

TEST_CASE("a modulus hash exchange counts bindings, whatever their keys, in the order of their queues",
          "[exchange_types]") {
  host h, other;
  for (auto* vhost : {&h, &other}) vhost->exchange("x", "x-modulus-hash");
  CHECK(h.route("x", "k").empty());
  for (int n = 0; n < 4; ++n) {
    h.queue(number("q", n)).bound(h.a_binding("x", number("q", n), number("key", n)));
    other.queue(number("q", 3 - n)).bound(other.a_binding("x", number("q", 3 - n), number("key", 3 - n)));
  }
  constexpr int count = 4000;
  const auto went = each(h, count);
  auto got = shares_of(went);
  for (int n = 0; n < 4; ++n) CHECK(is_share(got[number("q", n)], 0.25, count));
  CHECK(each(other, count) == went);
  for (const auto* key : {"a", "b", "c", "d"}) h.bound(h.a_binding("x", "q0", key));
  got = shares_of(each(h, count));
  CHECK(is_share(got["q0"], 5.0 / 8, count));
}

TEST_CASE("an exchange by chance gives each message to one binding, as the number says that came with it",
          "[exchange_types]") {
  for (const auto* type : {"x-random", "x-local-random"}) {
    CAPTURE(type);
    host h;
    h.exchange("x", type);
    CHECK(h.route("x", "k").empty());
    for (int n = 0; n < 4; ++n) h.queue(number("q", n)).bound(h.a_binding("x", number("q", n)));
    constexpr int count = 4000;
    shares got;
    for (std::uint64_t n = 0; n < count; ++n) {
      const auto went = h.route("x", "k", field_table{}, passage{.chance = n});
      REQUIRE(went.size() == 1);
      REQUIRE(h.route("x", "k", field_table{}, passage{.chance = n}) == went);
      ++got[went.front()];
    }
    for (int n = 0; n < 4; ++n) CHECK(is_share(got[number("q", n)], 0.25, count));
    h.remove("q2");
    for (std::uint64_t n = 0; n < 100; ++n)
      CHECK(h.route("x", "k", field_table{}, passage{.chance = n}) != strings{"q2"});
  }
}

TEST_CASE("two exchanges by chance, one behind the other, draw for themselves", "[exchange_types]") {
  host h;
  h.exchange("x", "x-random").exchange("y", "x-random").exchange("z", "x-random");
  h.bound(h.to_exchange("x", "y")).bound(h.to_exchange("x", "z"));
  for (int n = 0; n < 4; ++n) h.queue(number("q", n)).bound(h.a_binding(n < 2 ? "y" : "z", number("q", n)));
  shares got;
  for (std::uint64_t n = 0; n < 4000; ++n) {
    const auto went = h.route("x", "k", field_table{}, passage{.chance = n});
    REQUIRE(went.size() == 1);
    ++got[went.front()];
  }
  for (int n = 0; n < 4; ++n) CHECK(is_share(got[number("q", n)], 0.25, 4000));
}

TEST_CASE("a recent history exchange routes to all, and says that it was passed", "[exchange_types]") {
  host h;
  h.queue("q").queue("r").exchange("x", "x-recent-history").exchange("y", "x-recent-history");
  std::vector<std::string_view> histories;
  const passage with{.chance = 0, .histories = &histories};
  CHECK(h.route("x", "k", field_table{}, with).empty());
  CHECK(histories == std::vector<std::string_view>{"x"});  // whoever comes later gets it
  histories.clear();
  h.bound(h.a_binding("x", "q", "a")).bound(h.a_binding("y", "r", "b")).bound(h.to_exchange("x", "y"));
  h.bound(h.to_exchange("amq.direct", "x", "k"));
  CHECK(h.route("amq.direct", "k", field_table{}, with) == strings{"q", "r"});
  CHECK(histories == std::vector<std::string_view>{"x", "y"});
  histories.clear();
  CHECK(h.route("amq.direct", "l", field_table{}, with).empty());
  CHECK(histories.empty());
}

TEST_CASE("an exchange that chooses among none leaves it to its alternate exchange", "[exchange_types]") {
  host h;
  h.queue("q").queue("lost").bound(h.a_binding("amq.fanout", "lost"));
  for (const auto* type :
       {"x-consistent-hash", "x-modulus-hash", "x-random", "x-local-random", "x-recent-history"}) {
    CAPTURE(type);
    const std::string name = type;
    REQUIRE(h.tell(with_arguments(name, type, {{"alternate-exchange", field_value::of_string("amq.fanout")}}))
                .empty());
    CHECK(h.route(name, "k") == strings{"lost"});
    const auto b = h.a_binding(name, "q", name == "x-consistent-hash" ? "1" : "");
    h.bound(b);
    CHECK(h.route(name, "k") == strings{"q"});
    CHECK(h.tell(host::the_reverse(b)).empty());
    CHECK(h.route(name, "k") == strings{"lost"});
  }
}

TEST_CASE("what the store held leads to the same places", "[exchange_types]") {
  host h;
  for (const auto* type : {"x-consistent-hash", "x-modulus-hash", "x-random"}) h.exchange(type, type);
  for (int n = 0; n < 5; ++n) {
    h.queue(number("q", n));
    for (const auto* type : {"x-consistent-hash", "x-modulus-hash", "x-random"})
      h.bound(h.a_binding(type, number("q", n), std::to_string(n + 1)));
  }
  host again;
  for (const auto& change : h.changes) {
    if (const auto* x = std::get_if<exchange_added>(&change)) again.t.restore(x->exchange);
    if (const auto* q = std::get_if<queue_added>(&change)) again.t.restore(*q->queue);
  }
  for (auto c = h.changes.rbegin(); c != h.changes.rend(); ++c) {
    if (const auto* b = std::get_if<binding_added>(&*c)) again.t.restore(*b->binding);
  }
  for (int n = 0; n < 200; ++n) {
    const passage with{.chance = static_cast<std::uint64_t>(n)};
    for (const auto* type : {"x-consistent-hash", "x-modulus-hash", "x-random"}) {
      CHECK(h.route(type, number("k", n), field_table{}, with) ==
            again.route(type, number("k", n), field_table{}, with));
    }
  }
  CHECK(again.t.find_exchange("x-random")->definition.type == exchange_type::random);
}

TEST_CASE("a snapshot of a choice does not change when its owner's does", "[exchange_types]") {
  host h;
  h.exchange("x", "x-consistent-hash");
  for (int n = 0; n < 4; ++n) h.queue(number("q", n)).bound(h.a_binding("x", number("q", n), "1"));
  const host then = h;
  const auto before = each(then, 500);
  h.remove("q1");
  h.queue("new").bound(h.a_binding("x", "new", "3"));
  CHECK(each(then, 500) == before);
  CHECK(each(h, 500) != before);
}

// --- more than one key ----------------------------------------------------------------------------------------------

TEST_CASE("a message goes by its key and by all of CC and BCC, one copy to each queue [31]",
          "[exchange_types]") {
  host h;
  h.queue("a").queue("b").queue("c").queue("d");
  for (const auto* name : {"a", "b", "c", "d"}) {
    h.bound(h.a_binding("amq.direct", name, name))
        .bound(h.a_binding("amq.topic", name, std::string{name} + ".#"));
    h.bound(h.a_binding("amq.fanout", name));
  }
  h.bound(h.a_binding("amq.direct", "a", "b"));  // two of the keys lead there
  const field_table headers{
      {"z", field_value::of_int(1)}, {"CC", keys({"b", "a"})}, {"BCC", keys({"c", "nobody"})}};
  for (const auto* exchange : {"", "amq.direct", "amq.topic"}) {
    CAPTURE(exchange);
    CHECK(h.route(exchange, "a", headers) == strings{"a", "b", "c"});
    CHECK(h.route(exchange, "nobody", headers) == strings{"a", "b", "c"});
    CHECK(h.route(exchange, "d", headers) == strings{"a", "b", "c", "d"});
    CHECK(h.route(exchange, "nobody", {{"BCC", keys({"d"})}}) == strings{"d"});
    CHECK(h.route(exchange, "nobody", {{"CC", keys({})}}).empty());
    CHECK(h.route(exchange, "a", {{"cc", keys({"b"})}}) == strings{"a"});
    // Only strings are keys, and what is no array names none.
    CHECK(h.route(exchange, "a",
                  {{"CC", field_value::of_array({field_value::of_int(1), field_value::of_bytes("c"),
                                                 field_value::of_string("d")})}}) == strings{"a", "d"});
    CHECK(h.route(exchange, "a", {{"CC", field_value::of_string("b")}}) == strings{"a"});
  }
  CHECK(h.route("amq.fanout", "a", headers) == strings{"a", "b", "c", "d"});
}

TEST_CASE("copies are routed by every exchange on the way [31]", "[exchange_types]") {
  host h;
  h.queue("q").queue("r").queue("lost").exchange("fan", "fanout").exchange("last", "fanout");
  REQUIRE(h.tell(with_arguments("x", "direct", {{"alternate-exchange", field_value::of_string("last")}}))
              .empty());
  h.bound(h.to_exchange("x", "fan", "in")).bound(h.to_exchange("fan", "amq.topic"));
  h.bound(h.a_binding("amq.topic", "q", "a.*")).bound(h.a_binding("amq.topic", "r", "b.*"));
  h.bound(h.a_binding("last", "lost"));
  CHECK(h.route("x", "in", {{"CC", keys({"a.1"})}, {"BCC", keys({"b.1"})}}) == strings{"q", "r"});
  CHECK(h.route("x", "a.1", {{"BCC", keys({"in"})}}) ==
        strings{"q"});  // and so not to the alternate exchange
  CHECK(h.route("x", "a.1", {{"CC", keys({"b.1"})}}) == strings{"lost"});
}

TEST_CASE("copies make no second choice [31]", "[exchange_types]") {
  host h;
  h.exchange("x-consistent-hash", "x-consistent-hash").exchange("x-modulus-hash", "x-modulus-hash");
  h.exchange("x-random", "x-random");
  for (int n = 0; n < 5; ++n) {
    h.queue(number("q", n));
    for (const auto* type : {"x-consistent-hash", "x-modulus-hash", "x-random"})
      h.bound(h.a_binding(type, number("q", n), "1"));
  }
  std::set<std::string> by_copy;
  for (int n = 0; n < 100; ++n) {
    const field_table headers{{"CC", keys({number("a", n), number("b", n)})}};
    CHECK(h.route("x-consistent-hash", "k", headers) ==
          h.route("x-consistent-hash", "k"));  // by its first key
    CHECK(h.route("x-random", "k", headers).size() == 1);
    const auto went = h.route("x-modulus-hash", "k", headers);  // by all of its keys
    REQUIRE(went.size() == 1);
    by_copy.insert(went.front());
  }
  CHECK(by_copy.size() == 5);
}
