// Numbers in brackets are those of docs/amqp.md.
#include "mailbox/topology.hpp"

#include "tests/mailbox/virtual_host.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <variant>
#include <vector>

using namespace posthorn;
using namespace posthorn::test_host;
using kind = refusal::kind;

// --- exchanges ----------------------------------------------------------------------------------------------------

TEST_CASE("every virtual host has the default exchange and those of the standard", "[topology]") {
  const host h;
  CHECK(h.t.exchange_count() == 6);
  CHECK(h.t.find_exchange("")->definition.type == exchange_type::direct);
  CHECK(h.t.find_exchange("amq.direct")->definition.type == exchange_type::direct);
  CHECK(h.t.find_exchange("amq.fanout")->definition.type == exchange_type::fanout);
  CHECK(h.t.find_exchange("amq.topic")->definition.type == exchange_type::topic);
  CHECK(h.t.find_exchange("amq.headers")->definition.type == exchange_type::headers);
  CHECK(h.t.find_exchange("amq.match")->definition.type == exchange_type::headers);
}

TEST_CASE("an exchange that is declared again has to be the same [1] [12]", "[topology]") {
  host h;
  auto c = host::an_exchange("x", "direct");
  CHECK(h.tell(c).empty());
  CHECK(h.count<exchange_added>() == 1);
  CHECK(h.tell(c).empty());
  CHECK(h.changes.size() == 1);

  const std::string start = "inequivalent arg ";
  const std::string middle = " for exchange 'x' in vhost '/': received ";
  auto other = c;
  other.type = "fanout";
  CHECK(h.tell(other) == start + "'type'" + middle + "'fanout' but current is 'direct'");
  CHECK(h.why == kind::precondition_failed);
  other = c;
  other.durable = false;
  CHECK(h.tell(other) == start + "'durable'" + middle + "'false' but current is 'true'");
  other = c;
  other.auto_delete = true;
  CHECK(h.tell(other) == start + "'auto_delete'" + middle + "'true' but current is 'false'");
  other = c;
  other.internal = true;
  CHECK(h.tell(other) == start + "'internal'" + middle + "'true' but current is 'false'");
  other = c;
  other.arguments = table({{"alternate-exchange", field_value::of_string("ae")}});
  CHECK(h.tell(other) ==
        start + "'alternate-exchange'" + middle + "the value 'ae' of type 'longstr' but current is none");
  other = c;
  other.arguments = table({{"x-unknown", field_value::of_int(1)}});
  CHECK(h.tell(other).empty());  // [2]
  other = c;
  other.type = "foo";
  CHECK(h.tell(other) == "invalid exchange type 'foo'");
  CHECK(h.why == kind::precondition_failed);
  other = c;
  other.arguments = table({{"alternate-exchange", field_value::of_int(5)}});
  CHECK(h.tell(other) ==
        start + "'alternate-exchange'" + middle + "the value '5' of type 'signedint' but current is none");
}

TEST_CASE("a passive declaration of an exchange only asks whether it is there [7]", "[topology]") {
  host h;
  auto c = host::an_exchange("x", "nonsense");
  c.passive = true;
  CHECK(h.tell(c) == "no exchange 'x' in vhost '/'");
  CHECK(h.why == kind::not_found);
  h.exchange("x", "topic");
  CHECK(h.tell(c).empty());
}

TEST_CASE("names that begin with amq. are reserved [9]", "[topology]") {
  host h;
  CHECK(h.tell(host::an_exchange("amq.mine", "direct")) ==
        "exchange name 'amq.mine' contains reserved prefix 'amq.*'");
  CHECK(h.why == kind::access_refused);
  CHECK(h.tell(host::an_exchange("amq.topic", "topic")).empty());  // it is there
  CHECK(h.tell(delete_exchange{"amq.topic", false}) ==
        "deletion of system exchange 'amq.topic' in vhost '/' not allowed");
  CHECK(h.why == kind::access_refused);
  CHECK(h.tell(h.a_queue("amq.q")) == "queue name 'amq.q' contains reserved prefix 'amq.*'");
  CHECK(h.why == kind::access_refused);
  auto generated = h.a_queue("amq.gen-1");
  generated.server_named = true;
  CHECK(h.tell(generated).empty());
  CHECK(h.tell(h.a_queue("amq.gen-1")) == "queue name 'amq.gen-1' contains reserved prefix 'amq.*'");
  CHECK(h.why == kind::access_refused);  // although it is there
  auto wrong = h.a_queue("amq.q");
  wrong.arguments = table({{"x-expires", field_value::of_int(0)}});
  CHECK(h.tell(wrong) == "queue name 'amq.q' contains reserved prefix 'amq.*'");
}

TEST_CASE("what is wrong with the declaration of an exchange is told in RabbitMQ's order [9] [12] [14]",
          "[topology]") {
  host h;
  auto c = host::an_exchange("", "foo");
  c.arguments = table({{"alternate-exchange", field_value::of_int(4)}});
  CHECK(h.tell(c) == "invalid exchange type 'foo'");
  c.type = "direct";
  CHECK(h.tell(c) == "operation not permitted on the default exchange");
  c.passive = true;
  c.type = "foo";
  CHECK(h.tell(c) == "operation not permitted on the default exchange");
  c.passive = false;
  c.type = "direct";
  c.name = "amq.mine";
  CHECK(h.tell(c) == "exchange name 'amq.mine' contains reserved prefix 'amq.*'");
  c.name = "mine";
  CHECK(h.tell(c) == "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'mine' in vhost '/'");
  c.type = "";
  CHECK(h.tell(c) == "invalid exchange type ''");
}

TEST_CASE("nothing can be done with the default exchange but publishing to it [14]", "[topology]") {
  host h;
  h.queue("q").exchange("x", "direct");
  const std::string text = "operation not permitted on the default exchange";
  CHECK(h.tell(host::an_exchange("", "direct")) == text);
  CHECK(h.why == kind::access_refused);
  CHECK(h.tell(delete_exchange{"", false}) == text);
  const auto b = h.a_binding("", "q", "q");
  CHECK(h.tell(b) == text);
  CHECK(h.tell(host::the_reverse(b)) == text);
  CHECK(h.why == kind::access_refused);
  CHECK(h.tell(h.to_exchange("x", "")) == text);
  CHECK(h.tell(h.to_exchange("", "x")) == text);
  CHECK(h.t.binding_count() == 0);
  CHECK(h.route("", "q") == strings{"q"});
  CHECK(h.route("", "nobody").empty());
}

TEST_CASE("deleting an exchange takes its bindings along, on both sides [13]", "[topology]") {
  host h;
  CHECK(h.tell(delete_exchange{"x", true}).empty());  // it is not there
  h.queue("q").exchange("x", "direct").exchange("y", "fanout");
  h.bound(h.a_binding("x", "q", "k")).bound(h.to_exchange("y", "x"));
  CHECK(h.tell(delete_exchange{"x", true}) == "exchange 'x' in vhost '/' in use");
  CHECK(h.why == kind::precondition_failed);
  CHECK(h.tell(delete_exchange{"x", false}).empty());
  CHECK(h.count<exchange_removed>() == 1);
  CHECK(h.count<binding_removed>() == 2);
  CHECK(h.t.find_exchange("x") == nullptr);
  CHECK(h.t.binding_count() == 0);
  CHECK(h.route("y", "k").empty());
  CHECK(h.tell(delete_exchange{"y", true}).empty());
  h.exchange("x", "direct");
  CHECK(h.route("x", "k").empty());  // a new one starts without bindings
}

TEST_CASE("an argument of an exchange that names no exchange is refused [3]", "[topology]") {
  host h;
  auto c = host::an_exchange("x", "direct");
  c.arguments = table({{"alternate-exchange", field_value::of_int(4)}});
  CHECK(h.tell(c) == "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'");
  CHECK(h.why == kind::precondition_failed);
  c.arguments = "\x05 broken";
  CHECK_FALSE(h.tell(c).empty());
  CHECK(h.t.find_exchange("x") == nullptr);
}

// --- queues -------------------------------------------------------------------------------------------------------

TEST_CASE("a queue that is declared again has to be the same [1] [2]", "[topology]") {
  host h;
  auto c = h.a_queue("q");
  CHECK(h.tell(c).empty());
  c.id = {99};
  CHECK(h.tell(c).empty());
  CHECK(h.changes.size() == 1);
  CHECK((*h.t.find_queue("q"))->id == mailbox_id{1});

  const std::string start = "inequivalent arg ";
  const std::string middle = " for queue 'q' in vhost '/': received ";
  auto other = c;
  other.durable = false;
  CHECK(h.tell(other) == start + "'durable'" + middle + "'false' but current is 'true'");
  CHECK(h.why == kind::precondition_failed);
  other = c;
  other.auto_delete = true;
  CHECK(h.tell(other) == start + "'auto_delete'" + middle + "'true' but current is 'false'");
  other = c;
  other.arguments = table({{"x-max-length", field_value::of_int(1000)}});
  CHECK(h.tell(other) ==
        start + "'x-max-length'" + middle + "the value '1000' of type 'signedint' but current is none");
  other.arguments = table({{"x-queue-type", field_value::of_string("classic")}});
  CHECK(h.tell(other).empty());
  other.arguments = table({{"x-queue-type", field_value::of_string("quorum")}});
  CHECK(h.why == std::nullopt);
  CHECK_FALSE(h.tell(other).empty());
  other.arguments = table({{"x-something", field_value::of_int(3)}});
  CHECK(h.tell(other).empty());
}

TEST_CASE("an exclusive queue belongs to its connection, and is not durable [5] [6]", "[topology]") {
  host h;
  auto c = h.a_queue("q");
  c.exclusive = true;
  CHECK(h.tell(c).empty());
  const auto& q = **h.t.find_queue("q");
  CHECK_FALSE(q.durable);
  CHECK(q.owner == me);
  CHECK(h.tell(c).empty());

  const std::string text =
      "cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on "
      "another "
      "connection or the exclusive property value does not match that of the original declaration.";
  auto other = c;
  other.by = you;
  CHECK(h.tell(other) == text);
  CHECK(h.why == kind::resource_locked);
  other = c;
  other.exclusive = false;
  CHECK(h.tell(other) == text);
  CHECK(h.why == kind::resource_locked);
  auto b = h.a_binding("amq.direct", "q", "k");
  b.by = you;
  CHECK(h.tell(b) == text);
  CHECK(h.why == kind::resource_locked);
  CHECK(h.tell(host::the_reverse(b)).empty());  // there is nothing to be taken away [13]
  auto mine = b;
  mine.by = me;
  CHECK(h.tell(mine).empty());
  CHECK(h.tell(b) == text);  // although it is there
  CHECK(h.tell(host::the_reverse(b)) == text);
  CHECK(h.why == kind::resource_locked);
  CHECK(h.t.binding_count() == 1);
  CHECK(h.tell(host::the_reverse(mine)).empty());
  CHECK(h.t.binding_count() == 0);
  CHECK(std::get<refusal>(h.t.access_queue("q", you)) == refusal{kind::resource_locked, text});
  CHECK(std::get<queue_ptr>(h.t.access_queue("q", me))->name == "q");
  CHECK(std::get<refusal>(h.t.access_queue("r", me)) ==
        refusal{kind::not_found, "no queue 'r' in vhost '/'"});

  h.queue("shared");
  auto shared = h.a_queue("shared", you);
  shared.exclusive = true;
  CHECK(h.tell(shared).find("cannot obtain exclusive access to locked queue 'shared'") == 0);
}

TEST_CASE("a queue is removed by its id, with its bindings", "[topology]") {
  host h;
  h.queue("q").queue("r");
  h.bound(h.a_binding("amq.direct", "q", "k"))
      .bound(h.a_binding("amq.fanout", "q"))
      .bound(h.a_binding("amq.direct", "r", "k"));
  const auto before = h.changes.size();
  h.t.on(remove_queue{{77}, "q"}, h.changes);
  h.t.on(remove_queue{{1}, "nobody"}, h.changes);
  CHECK(h.changes.size() == before);
  h.remove("q");
  CHECK(h.count<queue_removed>() == 1);
  CHECK(h.count<binding_removed>() == 2);
  CHECK(h.t.queue_count() == 1);
  CHECK(h.t.binding_count() == 1);
  CHECK(h.route("amq.direct", "k") == strings{"r"});
  CHECK(h.route("amq.fanout", "").empty());
  CHECK(h.route("", "q").empty());
}

// --- bindings -----------------------------------------------------------------------------------------------------

TEST_CASE("both ends of a binding have to be there", "[topology]") {
  host h;
  h.queue("q").exchange("x", "direct");
  CHECK(h.tell(h.a_binding("x", "nobody")) == "no queue 'nobody' in vhost '/'");
  CHECK(h.why == kind::not_found);
  CHECK(h.tell(h.a_binding("nowhere", "q")) == "no exchange 'nowhere' in vhost '/'");
  CHECK(h.why == kind::not_found);
  CHECK(h.tell(h.to_exchange("x", "nowhere")) == "no exchange 'nowhere' in vhost '/'");
  for (const auto& b :
       {h.a_binding("x", "nobody"), h.a_binding("nowhere", "q"), h.a_binding("x", "q", "never")}) {
    CHECK(h.tell(host::the_reverse(b)).empty());  // [13]
  }
}

TEST_CASE("what is wrong with a binding is told in RabbitMQ's order [5] [14] [34]", "[topology]") {
  host h;
  auto locked = h.a_queue("locked", you);
  locked.exclusive = true;
  CHECK(h.tell(locked).empty());
  const std::string default_exchange = "operation not permitted on the default exchange";
  const auto invalid = table({{"x-match", field_value::of_string("some")}});
  for (const auto* queue : {"locked", "nobody"}) {
    CHECK(h.tell(h.a_binding("", queue)) == default_exchange);
    CHECK(h.tell(host::the_reverse(h.a_binding("", queue))) == default_exchange);
    CHECK(h.tell(h.a_binding("nowhere", queue)) == "no exchange 'nowhere' in vhost '/'");
    CHECK(h.tell(host::the_reverse(h.a_binding("nowhere", queue))).empty());
  }
  CHECK(h.tell(h.a_binding("amq.headers", "nobody", "", invalid)) == "no queue 'nobody' in vhost '/'");
  CHECK(h.tell(h.a_binding("amq.headers", "locked", "", invalid)) ==
        "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x");
  CHECK(h.tell(h.a_binding("amq.headers", "locked")).find("cannot obtain exclusive access") == 0);
  CHECK(h.tell(h.to_exchange("nowhere", "nobody")) == "no exchange 'nowhere' in vhost '/'");
  CHECK(h.tell(h.to_exchange("amq.fanout", "nobody")) == "no exchange 'nobody' in vhost '/'");
  CHECK(h.tell(h.to_exchange("nowhere", "")) == default_exchange);
  CHECK(h.t.binding_count() == 0);
}

TEST_CASE("a binding is told apart by its ends, its key and its arguments [15]", "[topology]") {
  host h;
  h.queue("q").queue("r");
  const auto b = h.a_binding("amq.direct", "q", "k");
  h.bound(b).bound(b);
  CHECK(h.count<binding_added>() == 1);
  h.bound(h.a_binding("amq.direct", "q", "k", table({{"a", field_value::of_int(1)}})));
  CHECK(h.t.binding_count() == 2);
  CHECK(h.route("amq.direct", "k") == strings{"q"});  // one copy
  CHECK(h.tell(host::the_reverse(b)).empty());
  CHECK(h.route("amq.direct", "k") == strings{"q"});
  auto other = b;
  other.arguments = table({{"a", field_value::of_int(1)}});
  CHECK(h.tell(host::the_reverse(other)).empty());
  CHECK(h.route("amq.direct", "k").empty());
  CHECK(h.t.binding_count() == 0);
  CHECK(h.tell(host::the_reverse(b)).empty());
  // Neighbouring names do not run together.
  h.queue("qk").bound(h.a_binding("amq.direct", "q", "kk")).bound(h.a_binding("amq.direct", "qk", "k"));
  CHECK(h.t.binding_count() == 2);
  CHECK(h.tell(host::the_reverse(h.a_binding("amq.direct", "q", "kk"))).empty());
  CHECK(h.route("amq.direct", "k") == strings{"qk"});
}

TEST_CASE("the order in which a binding's arguments are sent does not matter [15]", "[topology]") {
  host h;
  h.queue("q");
  const auto one = field_value::of_int(1), two = field_value::of_int(2);
  h.bound(h.a_binding("amq.headers", "q", "", table({{"a", one}, {"b", two}})));
  h.bound(h.a_binding("amq.headers", "q", "", table({{"b", two}, {"a", one}})));
  CHECK(h.t.binding_count() == 1);
}

TEST_CASE("a binding is durable when both of its ends are", "[topology]") {
  host h;
  h.queue("durable").exchange("x", "direct");
  auto passing = h.a_queue("passing");
  passing.durable = false;
  REQUIRE(h.tell(passing).empty());
  auto y = host::an_exchange("y", "direct");
  y.durable = false;
  REQUIRE(h.tell(y).empty());
  const auto durable = [&](const bind& b) {
    h.bound(b);
    return std::get<binding_added>(h.changes.back()).binding->durable;
  };
  CHECK(durable(h.a_binding("x", "durable")));
  CHECK_FALSE(durable(h.a_binding("x", "passing")));
  CHECK_FALSE(durable(h.a_binding("y", "durable")));
  CHECK_FALSE(durable(h.to_exchange("x", "y")));
  CHECK(durable(h.to_exchange("x", "amq.fanout")));
}

// --- auto-delete --------------------------------------------------------------------------------------------------

TEST_CASE("an auto-delete exchange goes with its last binding, and not before it had one [16]",
          "[topology]") {
  host h;
  h.queue("q").queue("r").exchange("x", "direct", true);
  CHECK(h.tell(host::the_reverse(h.a_binding("x", "q", "k"))).empty());
  CHECK(h.t.find_exchange("x") != nullptr);
  h.bound(h.a_binding("x", "q", "k"))
      .bound(h.a_binding("x", "r", "k"))
      .bound(h.to_exchange("amq.fanout", "x"));
  CHECK(h.tell(host::the_reverse(h.a_binding("x", "q", "k"))).empty());
  CHECK(h.t.find_exchange("x") != nullptr);
  h.remove("r");
  CHECK(h.t.find_exchange("x") == nullptr);
  CHECK(h.count<exchange_removed>() == 1);
  CHECK(h.t.binding_count() == 0);  // that from amq.fanout went, too
}

TEST_CASE("a chain of 10,000 auto-delete exchanges goes with its last queue", "[topology]") {
  host h;
  constexpr int length = 10'000;
  h.queue("q");
  for (int n = 0; n < length; ++n) h.exchange("x" + std::to_string(n), "fanout", true);
  for (int n = 0; n + 1 < length; ++n)
    h.bound(h.to_exchange("x" + std::to_string(n), "x" + std::to_string(n + 1)));
  h.bound(h.a_binding("x" + std::to_string(length - 1), "q"));
  CHECK(h.route("x" + std::to_string(length - 50), "") == strings{"q"});
  h.remove("q");
  CHECK(h.t.exchange_count() == 6);
  CHECK(h.t.binding_count() == 0);
  CHECK(h.count<exchange_removed>() == length);
  CHECK(h.count<binding_removed>() == length);
}

// --- routing ------------------------------------------------------------------------------------------------------

TEST_CASE("direct and fanout exchanges route by the key and to all, one copy to each queue", "[topology]") {
  host h;
  h.queue("a").queue("b").queue("c");
  h.bound(h.a_binding("amq.direct", "a", "k")).bound(h.a_binding("amq.direct", "b", "k"));
  h.bound(h.a_binding("amq.direct", "b", "l")).bound(h.a_binding("amq.direct", "c", ""));
  CHECK(h.route("amq.direct", "k") == strings{"a", "b"});
  CHECK(h.route("amq.direct", "l") == strings{"b"});
  CHECK(h.route("amq.direct", "") == strings{"c"});
  CHECK(h.route("amq.direct", "K").empty());
  for (const auto* key : {"1", "2", "3"})
    h.bound(h.a_binding("amq.fanout", "c", key)).bound(h.a_binding("amq.fanout", "a", key));
  CHECK(h.route("amq.fanout", "whatever") == strings{"a", "c"});
}

namespace {

strings words_of(const std::string& topic) {
  if (topic.empty()) return {};
  strings words{""};
  for (const char c : topic) {
    if (c == '.') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

// What the standard says, word by word: [34].
bool topic_matches(const strings& pattern, const strings& topic, std::size_t p = 0, std::size_t t = 0) {
  if (p == pattern.size()) return t == topic.size();
  if (pattern[p] == "#") {
    for (auto rest = t; rest <= topic.size(); ++rest) {
      if (topic_matches(pattern, topic, p + 1, rest)) return true;
    }
    return false;
  }
  return t < topic.size() && (pattern[p] == "*" || pattern[p] == topic[t]) &&
         topic_matches(pattern, topic, p + 1, t + 1);
}

}  // namespace

TEST_CASE("a topic exchange matches words, * and # [34]", "[topology]") {
  host h;
  const auto routed = [&h](const std::string& pattern, const std::string& key) {
    h.queue("q").bound(h.a_binding("amq.topic", "q", pattern));
    const bool yes = !h.route("amq.topic", key).empty();
    h.remove("q");
    return yes;
  };
  CHECK(routed("a.b", "a.b"));
  CHECK_FALSE(routed("a.b", "a.b.c"));
  CHECK(routed("#", ""));
  CHECK(routed("#", "a.b.c"));
  CHECK(routed("a.#", "a"));
  CHECK(routed("#.c", "c"));
  CHECK(routed("a.#.c", "a.c"));
  CHECK(routed("a.#.c", "a.b.b.c"));
  CHECK_FALSE(routed("*", ""));
  CHECK_FALSE(routed("*", "a.b"));
  CHECK(routed("a..b", "a..b"));
  CHECK(routed("a.*.b", "a..b"));
  CHECK_FALSE(routed("a.b", "a..b"));
  CHECK(routed("*.*", "."));
  CHECK(routed("#.#.#", ""));
  CHECK_FALSE(routed("a.#.b.#.c", "a.c.b"));
  CHECK(routed("", ""));
  CHECK_FALSE(routed("", "a"));
}

TEST_CASE("a topic exchange matches as the definition does, for any patterns and keys [34]", "[topology]") {
  constexpr unsigned seed = 34;
  CAPTURE(seed);
  std::mt19937 random{seed};
  const auto below = [&](unsigned end) { return static_cast<unsigned>(random() % end); };
  const char* pattern_words[] = {"a", "b", "", "*", "#", "#", "*", "ab"};
  const char* key_words[] = {"a", "b", "", "ab", "*", "#"};
  const auto topic_of = [&](const auto& words, unsigned count_max) {
    std::string topic;
    const auto count = below(count_max);
    for (unsigned n = 0; n < count; ++n)
      topic += (n == 0 ? "" : ".") + std::string{words[below(static_cast<unsigned>(std::size(words)))]};
    return topic;
  };
  for (int round = 0; round < 60; ++round) {
    host h;
    h.exchange("x", "topic");
    std::vector<std::pair<std::string, std::string>> patterns;  // queue, pattern
    const auto expected = [&](const std::string& key) {
      std::set<std::string> names;
      for (const auto& [queue, pattern] : patterns) {
        if (topic_matches(words_of(pattern), words_of(key))) names.insert(queue);
      }
      return names;
    };
    for (char name = 'a'; name < 'k'; ++name) h.queue(std::string{name});
    for (int n = 0; n < 25; ++n) {
      const std::string queue{static_cast<char>('a' + below(10))};
      const auto pattern = topic_of(pattern_words, 6);
      patterns.emplace_back(queue, pattern);
      h.bound(h.a_binding("x", queue, pattern));
      if (below(3) == 0) {
        const auto gone = patterns[below(static_cast<unsigned>(patterns.size()))];
        std::erase(patterns, gone);
        REQUIRE(h.tell(host::the_reverse(h.a_binding("x", gone.first, gone.second))).empty());
      }
      const auto key = topic_of(key_words, 7);
      const auto got = h.route("x", key);
      CAPTURE(round, n, key);
      REQUIRE(std::set<std::string>(got.begin(), got.end()) == expected(key));
      REQUIRE(std::set<std::string>(got.begin(), got.end()).size() == got.size());
    }
    while (!patterns.empty()) {
      REQUIRE(
          h.tell(host::the_reverse(h.a_binding("x", patterns.back().first, patterns.back().second))).empty());
      const auto gone = patterns.back();
      std::erase(patterns, gone);
    }
    REQUIRE(h.t.binding_count() == 0);
    REQUIRE(h.t.find_exchange("x")->patterns.get() == nullptr);
  }
}

TEST_CASE("many # in a pattern do not make a topic exchange slow", "[topology]") {
  host h;
  h.queue("q");
  std::string pattern, key;
  for (int n = 0; n < 60; ++n) {
    pattern += "#.*.";
    key += "a.";
  }
  h.bound(h.a_binding("amq.topic", "q", pattern + "z"));
  CHECK(h.route("amq.topic", key + key.substr(0, 100) + "a").empty());
  CHECK(h.route("amq.topic", key + key + "z") == strings{"q"});
}

TEST_CASE("a headers exchange matches all or any, with or without x- [34]", "[topology]") {
  const auto text = [](const char* t) { return field_value::of_string(t); };
  const auto one = field_value::of_int(1);
  const auto matches = [&](field_table wanted, const field_table& headers) {
    host h;
    h.queue("q").bound(h.a_binding("amq.headers", "q", "", table(wanted)));
    return !h.route("amq.headers", "", headers).empty();
  };
  SECTION("all, which is what is meant without x-match") {
    for (const bool named : {true, false}) {
      field_table wanted{{"a", text("1")}, {"b", one}, {"x-c", one}};
      if (named) wanted.set("x-match", text("all"));
      CHECK(matches(wanted, {{"a", text("1")}, {"b", one}}));
      CHECK(matches(wanted, {{"z", one}, {"b", one}, {"a", text("1")}}));
      CHECK_FALSE(matches(wanted, {{"a", text("1")}}));
      CHECK_FALSE(matches(wanted, {{"a", text("2")}, {"b", one}}));
      CHECK_FALSE(matches(wanted, {}));
    }
    CHECK(matches({{"x-match", text("all")}}, {}));
    CHECK(matches({}, {{"a", one}}));
  }
  SECTION("any") {
    const field_table wanted{{"x-match", text("any")}, {"a", text("1")}, {"b", one}, {"x-c", one}};
    CHECK(matches(wanted, {{"a", text("1")}}));
    CHECK(matches(wanted, {{"a", text("2")}, {"b", one}}));
    CHECK_FALSE(matches(wanted, {{"a", text("2")}}));
    CHECK_FALSE(matches(wanted, {{"x-c", one}}));
    CHECK_FALSE(matches(wanted, {}));
    CHECK_FALSE(matches({{"x-match", text("any")}}, {{"a", one}}));
  }
  SECTION("all-with-x") {
    const field_table wanted{{"x-match", text("all-with-x")}, {"a", one}, {"x-c", one}};
    CHECK(matches(wanted, {{"a", one}, {"x-c", one}}));
    CHECK_FALSE(matches(wanted, {{"a", one}}));
    CHECK_FALSE(matches(wanted, {{"x-c", one}}));
  }
  SECTION("any-with-x") {
    const field_table wanted{{"x-match", text("any-with-x")}, {"a", one}, {"x-c", one}};
    CHECK(matches(wanted, {{"a", one}}));
    CHECK(matches(wanted, {{"x-c", one}}));
    CHECK_FALSE(matches(wanted, {{"x-match", text("any-with-x")}}));
  }
  SECTION("a value of nothing asks whether the header is there, and types have to be equal") {
    CHECK(matches({{"a", field_value::nothing()}}, {{"a", text("whatever")}}));
    CHECK_FALSE(matches({{"a", field_value::nothing()}}, {{"b", one}}));
    CHECK_FALSE(matches({{"a", one}}, {{"a", text("1")}}));
    CHECK_FALSE(matches({{"a", one}}, {{"a", field_value::of_double(1)}}));
    CHECK_FALSE(matches({{"a", one}}, {{"a", field_value::of_bool(true)}}));
    CHECK_FALSE(matches({{"a", one}}, {{"a", field_value::nothing()}}));
  }
  SECTION("numbers are equal by value, and text by its octets, whatever the letter") {
    for (const char wanted : {'b', 'B', 's', 'u', 'I', 'i', 'l', 'L'}) {
      CHECK_FALSE(matches({{"a", {wanted, std::int64_t{1}}}}, {{"a", {'T', std::int64_t{1}}}}));
      for (const char sent : {'b', 'B', 's', 'u', 'I', 'i', 'l', 'L'}) {
        CHECK(matches({{"a", {wanted, std::int64_t{1}}}}, {{"a", {sent, std::int64_t{1}}}}));
        CHECK_FALSE(matches({{"a", {wanted, std::int64_t{1}}}}, {{"a", {sent, std::int64_t{2}}}}));
      }
    }
    CHECK(matches({{"a", {'f', 1.5F}}}, {{"a", field_value::of_double(1.5)}}));
    CHECK(matches({{"a", field_value::of_double(1.5)}}, {{"a", {'f', 1.5F}}}));
    CHECK_FALSE(matches({{"a", {'f', 0.1F}}}, {{"a", field_value::of_double(0.1)}}));
    CHECK_FALSE(matches({{"a", field_value::of_double(0.0)}}, {{"a", field_value::of_double(-0.0)}}));
    CHECK(matches({{"a", text("t")}}, {{"a", field_value::of_bytes("t")}}));
    CHECK(matches({{"a", {'T', std::int64_t{1}}}}, {{"a", {'T', std::int64_t{1}}}}));
    // Not what stands in an array.
    CHECK(matches({{"a", field_value::of_array({one})}}, {{"a", field_value::of_array({one})}}));
    CHECK_FALSE(matches({{"a", field_value::of_array({one})}},
                        {{"a", field_value::of_array({field_value::of_long(1)})}}));
  }
}

TEST_CASE("an x-match that is none of the four is refused [34]", "[topology]") {
  host h;
  h.queue("q");
  CHECK(h.tell(h.a_binding("amq.headers", "q", "", table({{"x-match", field_value::of_string("some")}}))) ==
        "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x");
  CHECK(h.why == kind::precondition_failed);
  CHECK(h.tell(h.a_binding("amq.headers", "q", "", table({{"x-match", field_value::of_int(1)}}))) ==
        "Invalid x-match field type signedint (value 1); expected longstr");
  CHECK(h.tell(h.a_binding("amq.headers", "q", "", table({{"x-match", field_value::of_bytes("all")}}))) ==
        "Invalid x-match field type binary (value <<\"all\">>); expected longstr");
  CHECK(h.tell(h.a_binding("amq.direct", "q", "", table({{"x-match", field_value::of_string("some")}})))
            .empty());
  CHECK(h.tell(h.a_binding("amq.direct", "q", "", "broken")) != "");
}

TEST_CASE("exchanges lead to exchanges, and a circle ends", "[topology]") {
  host h;
  h.queue("q").queue("r").exchange("a", "fanout").exchange("b", "direct").exchange("c", "topic");
  h.bound(h.to_exchange("a", "b")).bound(h.to_exchange("b", "c", "k.l")).bound(h.to_exchange("c", "a", "#"));
  h.bound(h.a_binding("c", "q", "k.*")).bound(h.a_binding("a", "r")).bound(h.to_exchange("a", "a"));
  CHECK(h.route("a", "k.l") == strings{"q", "r"});
  CHECK(h.route("b", "k.l") == strings{"q", "r"});
  CHECK(h.route("c", "k.l") == strings{"q", "r"});
  CHECK(h.route("a", "k") == strings{"r"});
  CHECK(h.tell(host::the_reverse(h.to_exchange("b", "c", "k.l"))).empty());
  CHECK(h.route("a", "k.l") == strings{"r"});
}

TEST_CASE("what an exchange cannot route goes to its alternate exchange", "[topology]") {
  host h;
  h.queue("q").queue("lost").exchange("last", "fanout");
  auto second = host::an_exchange("second", "direct");
  second.arguments = table({{"alternate-exchange", field_value::of_string("last")}});
  auto first = host::an_exchange("first", "direct");
  first.arguments = table({{"alternate-exchange", field_value::of_string("second")}});
  auto round = host::an_exchange("round", "direct");
  round.arguments = table({{"alternate-exchange", field_value::of_string("round")}});
  auto nowhere = host::an_exchange("nowhere", "direct");
  nowhere.arguments = table({{"alternate-exchange", field_value::of_string("not there")}});
  for (const auto& c : {second, first, round, nowhere}) REQUIRE(h.tell(c).empty());
  h.bound(h.a_binding("first", "q", "k")).bound(h.a_binding("last", "lost"));
  CHECK(h.route("first", "k") == strings{"q"});
  CHECK(h.route("first", "other") == strings{"lost"});
  CHECK(h.route("round", "k").empty());
  CHECK(h.route("nowhere", "k").empty());
  // Declared again with another alternate, it would be another exchange.
  first.arguments = table({{"alternate-exchange", field_value::of_string("last")}});
  CHECK(h.tell(first) ==
        "inequivalent arg 'alternate-exchange' for exchange 'first' in vhost '/': received 'last' "
        "but current is 'second'");
}

// --- copies, restoring --------------------------------------------------------------------------------------------

TEST_CASE("a copy does not see what happens to the original later", "[topology]") {
  host h;
  h.queue("q")
      .exchange("x", "topic")
      .bound(h.a_binding("x", "q", "a.#"))
      .bound(h.a_binding("amq.direct", "q", "k"));
  host copy = h;
  h.queue("r").bound(h.a_binding("x", "r", "a.b")).bound(h.a_binding("amq.direct", "r", "k"));
  CHECK(h.route("x", "a.b") == strings{"q", "r"});
  CHECK(copy.route("x", "a.b") == strings{"q"});
  CHECK(copy.route("amq.direct", "k") == strings{"q"});
  h.remove("q");
  REQUIRE(h.tell(delete_exchange{"x", false}).empty());
  CHECK(copy.route("x", "a.b") == strings{"q"});
  CHECK(copy.route("", "q") == strings{"q"});
  CHECK(copy.t.binding_count() == 2);
  CHECK(copy.t.queue_count() == 1);
  copy.remove("q");
  CHECK(h.route("amq.direct", "k") == strings{"r"});
}

TEST_CASE("what was restored routes as before and knows what it leads to", "[topology]") {
  topology t{"/"};
  t.restore(exchange_definition{"x", exchange_type::headers, true, true, false, {}});
  t.restore(exchange_definition{"y", exchange_type::topic, true, false, false,
                                table({{"alternate-exchange", field_value::of_string("x")}})});
  queue_definition q;
  q.id = {4};
  q.name = "q";
  q.durable = true;
  t.restore(q);
  const auto any = table({{"x-match", field_value::of_string("any")}, {"a", field_value::of_int(1)}});
  t.restore(binding_definition{{1}, "x", destination_kind::queue, "q", "", any, true, {}});
  t.restore(binding_definition{{2}, "y", destination_kind::exchange, "x", "k.#", {}, true, {}});
  host h;
  h.t = t;
  CHECK(h.t.binding_count() == 2);
  CHECK(h.route("x", "", {{"a", field_value::of_int(1)}}) == strings{"q"});
  CHECK(h.route("x", "", {{"b", field_value::of_int(1)}}).empty());
  CHECK(h.route("y", "k.l", {{"a", field_value::of_int(1)}}) == strings{"q"});
  CHECK(h.route("y", "other", {{"a", field_value::of_int(1)}}) == strings{"q"});  // its alternate
  h.remove("q");
  CHECK(h.t.find_exchange("x") == nullptr);  // auto-delete
  CHECK(h.t.binding_count() == 0);
}

TEST_CASE("a queue is attached to what stands behind it, unless it is another one by now", "[topology]") {
  struct port : mailbox_port {};
  host h;
  h.queue("q");
  const auto before = h.t;
  const auto p = std::make_shared<port>();
  h.t.attach({99}, "q", p);
  h.t.attach({1}, "nobody", p);
  CHECK((*h.t.find_queue("q"))->port == nullptr);
  h.t.attach({1}, "q", p);
  CHECK((*h.t.find_queue("q"))->port == p);
  CHECK((*before.find_queue("q"))->port == nullptr);
  h.bound(h.a_binding("amq.fanout", "q", "1")).bound(h.a_binding("amq.fanout", "q", "2"));
  CHECK(h.route("amq.fanout", "") == strings{"q"});
}

TEST_CASE("visiting shows every queue, exchange and binding once", "[topology]") {
  host h;
  h.queue("q").queue("r").exchange("x", "direct");
  h.bound(h.a_binding("x", "q")).bound(h.a_binding("x", "r")).bound(h.to_exchange("amq.topic", "x"));
  strings queues;
  std::size_t exchanges = 0, bindings = 0;
  h.t.for_each_queue([&](const queue_ptr& queue) { queues.push_back(queue->name); });
  h.t.for_each_exchange([&](const exchange_state&) { ++exchanges; });
  h.t.for_each_binding([&](const binding_definition&) { ++bindings; });
  std::sort(queues.begin(), queues.end());
  CHECK(queues == strings{"q", "r"});
  CHECK(exchanges == h.t.exchange_count());
  CHECK(bindings == 3);
}

namespace {

// A command to bind an actor's mailbox, as the vhost gives it when the name is an actor's.
bind to_actor(std::string source, std::string actor, std::string key) {
  auto definition = std::make_shared<queue_definition>();
  definition->id = {1000};
  definition->name = actor;
  definition->durable = definition->of_actor = true;
  bind c;
  c.id = {500};
  c.source = std::move(source);
  c.destination = std::move(actor);
  c.routing_key = std::move(key);
  c.actor = std::move(definition);
  return c;
}

}  // namespace

TEST_CASE("a durable actor can be bound without being declared, and is known as long as it is bound",
          "[topology]") {
  host h;
  CHECK(h.tell(to_actor("amq.topic", "account/anna", "a.*")).empty());
  CHECK(h.tell(to_actor("amq.direct", "account/anna", "x")).empty());
  REQUIRE(h.t.find_queue("account/anna") != nullptr);
  std::vector<queue_ptr> to;
  h.t.route(*h.t.find_exchange("amq.topic"), "a.b", {}, to);
  REQUIRE(to.size() == 1);
  CHECK(to[0]->of_actor);
  for (const auto& change : h.changes) {
    // Its state says whose mailbox it is: the topology stores nothing but the bindings.
    CHECK(std::holds_alternative<binding_added>(change));
  }
  const auto off = [](std::string source, std::string key) {
    unbind c;
    c.source = std::move(source);
    c.destination = "account/anna";
    c.routing_key = std::move(key);
    return c;
  };
  CHECK(h.tell(off("amq.topic", "a.*")).empty());
  CHECK(h.t.find_queue("account/anna") != nullptr);
  CHECK(h.tell(off("amq.direct", "x")).empty());
  CHECK(h.t.find_queue("account/anna") == nullptr);
}

TEST_CASE("a refused binding of an actor leaves no trace", "[topology]") {
  host h;
  CHECK(h.tell(to_actor("missing", "account/anna", "")) == "no exchange 'missing' in vhost '/'");
  CHECK(h.tell(to_actor("", "account/anna", "")) == "operation not permitted on the default exchange");
  CHECK(h.t.find_queue("account/anna") == nullptr);
}

TEST_CASE("the last exchange that leads to an actor takes it along", "[topology]") {
  host h;
  CHECK(h.tell(host::an_exchange("orders", "fanout")).empty());
  CHECK(h.tell(to_actor("orders", "account/anna", "")).empty());
  delete_exchange gone;
  gone.name = "orders";
  CHECK(h.tell(gone).empty());
  CHECK(h.t.find_queue("account/anna") == nullptr);
  CHECK(h.t.binding_count() == 0);
}

TEST_CASE("whatever is bound, unbound and removed, what is left is what a list of bindings would have",
          "[topology]") {
  std::mt19937 random{11};
  const auto below = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
  const char* types[] = {"direct",           "fanout",           "topic",
                         "headers",          "x-modulus-hash",   "x-random",
                         "x-recent-history", "x-consistent-hash"};
  for (int round = 0; round < 30; ++round) {
    host h;
    std::vector<posthorn::bind> bound;
    const auto with = [](std::string letter, unsigned n) { return letter += std::to_string(n); };
    const auto exchange = [&] { return with("x", below(8)); };
    const auto forget = [&](auto gone) { std::erase_if(bound, gone); };
    for (int step = 0; step < 400; ++step) {
      const auto n = below(8);
      for (unsigned i = 0; i < 8; ++i) {
        if (h.t.find_exchange(with("x", i)) == nullptr) h.exchange(with("x", i), types[i]);
        if (h.t.find_queue(with("q", i)) == nullptr) h.queue(with("q", i));
      }
      if (n < 5) {
        auto b = below(4) == 0 ? h.to_exchange(exchange(), exchange(), std::to_string(1 + below(3)))
                               : h.a_binding(exchange(), with("q", below(8)), std::to_string(1 + below(3)),
                                             table({{"n", field_value::of_int(static_cast<int>(below(3)))}}));
        h.bound(b);
        const auto same = [&](const posthorn::bind& other) {
          return std::tie(b.kind, b.source, b.destination, b.routing_key, b.arguments) ==
                 std::tie(other.kind, other.source, other.destination, other.routing_key, other.arguments);
        };
        if (std::none_of(bound.begin(), bound.end(), same)) bound.push_back(b);
      } else if (n == 5 && !bound.empty()) {
        const auto at = bound.begin() + below(static_cast<unsigned>(bound.size()));
        REQUIRE(h.tell(host::the_reverse(*at)).empty());
        bound.erase(at);
      } else if (n == 6 && below(10) == 0) {
        delete_exchange gone;
        gone.name = exchange();
        REQUIRE(h.tell(gone).empty());
        forget([&](const posthorn::bind& b) {
          return b.source == gone.name ||
                 (b.kind == destination_kind::exchange && b.destination == gone.name);
        });
      } else if (n == 7 && below(10) == 0) {
        const auto gone = with("q", below(8));
        h.remove(gone);
        forget([&](const posthorn::bind& b) {
          return b.kind == destination_kind::queue && b.destination == gone;
        });
      }
      REQUIRE(h.t.binding_count() == bound.size());
      REQUIRE(h.count<binding_added>() - h.count<binding_removed>() == bound.size());
      std::size_t listed = 0;
      h.t.for_each_binding([&](const binding_definition&) { ++listed; });
      REQUIRE(listed == bound.size());
    }
    while (!bound.empty()) {
      REQUIRE(h.tell(host::the_reverse(bound.back())).empty());
      bound.pop_back();
      REQUIRE(h.t.binding_count() == bound.size());
    }
    for (unsigned i = 0; i < 8; ++i) {
      const auto* x = h.t.find_exchange(with("x", i));
      if (x == nullptr) continue;
      CHECK(x->bindings.empty());
      CHECK(x->by_key.empty());
      CHECK(x->headers.empty());
      CHECK(x->choice.empty());
      CHECK(x->patterns.get() == nullptr);
    }
  }
}

TEST_CASE("a queue that was declared comes before an actor of its name", "[topology]") {
  host h;
  CHECK(h.tell(h.a_queue("account/anna")).empty());
  CHECK(h.tell(to_actor("amq.fanout", "account/anna", "")).empty());
  CHECK_FALSE((*h.t.find_queue("account/anna"))->of_actor);
}

TEST_CASE("an actor is as good as declared, as a durable queue without arguments", "[topology]") {
  host h;
  auto c = h.a_queue("account/anna");
  c.actor = {1000};
  CHECK(h.tell(c).empty());
  CHECK(h.changes.empty());
  c.durable = false;
  CHECK(h.tell(c) ==
        "inequivalent arg 'durable' for queue 'account/anna' in vhost '/': received 'false' but "
        "current is 'true'");
  c.durable = true;
  c.arguments = table({{"x-max-length", field_value::of_int(3)}});
  CHECK_FALSE(h.tell(c).empty());
  CHECK(h.why == kind::precondition_failed);
}
