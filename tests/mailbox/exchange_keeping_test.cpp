// Exchanges that keep messages: how they are declared, and what goes to their own actor instead of to queues.
#include "mailbox/deduplication.hpp"
#include "mailbox/delayed.hpp"
#include "tests/mailbox/virtual_host.hpp"

#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <string>

using namespace posthorn;
using namespace posthorn::test_host;

namespace {

struct any_port final : mailbox_port {};

declare_exchange with(declare_exchange command, const field_table& arguments) {
  command.arguments = table(arguments);
  return command;
}

field_table arguments_of(std::initializer_list<std::pair<const char*, field_value>> entries) {
  field_table out;
  for (const auto& [name, value] : entries) out.add(name, value);
  return out;
}

field_table later(std::string type) {
  return arguments_of({{"x-delayed-type", field_value::of_string(std::move(type))}});
}
const auto once = arguments_of({{"x-message-deduplication", field_value::of_bool(true)}});
const auto delay = arguments_of({{"x-delay", field_value::of_int(1000)}});
const auto known = arguments_of({{"x-deduplication-header", field_value::of_string("1")}});

// Declares it with an actor of its own.
void keeping(host& h, const std::string& name, const std::string& type, const field_table& arguments) {
  auto command = with(host::an_exchange(name, type), arguments);
  command.id = {1000 + h.t.exchange_count()};
  REQUIRE(h.tell(command).empty());
  h.t.attach_keeper(name, std::make_shared<any_port>());
}

// Of what a route gives, an exchange's own actor has no name.
const strings kept{""};

}  // namespace

TEST_CASE("an exchange that delays is of a type that exists", "[delayed][topology]") {
  host h;
  const auto refused = [&](const field_table& arguments) {
    return h.tell(with(host::an_exchange("x", "x-delayed-message"), arguments));
  };
  constexpr auto missing = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
  CHECK(refused({}) == missing);
  CHECK(refused(later("x-delayed-message")) == missing);
  CHECK(refused(arguments_of({{"x-delayed-type", field_value::of_int(1)}})) == missing);
  CHECK(refused(later("nonsense")) == "invalid exchange type 'nonsense'");
  CHECK(refused(later("topic")).empty());
  CHECK(h.t.find_exchange("x")->routes_as == exchange_type::topic);
  CHECK(h.tell(with(host::an_exchange("x", "topic"), {})) ==
        "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is "
        "''x-delayed-message''");
}

TEST_CASE("only an exchange that keeps something has an id", "[delayed][topology]") {
  host h;
  const auto id_of = [&](const std::string& name, const std::string& type, const field_table& arguments) {
    auto command = with(host::an_exchange(name, type), arguments);
    command.id = {77};
    REQUIRE(h.tell(command).empty());
    return h.t.find_exchange(name)->definition.id;
  };
  CHECK(id_of("plain", "direct", {}) == mailbox_id{});
  CHECK(id_of("later", "x-delayed-message", later("direct")) == mailbox_id{77});
  CHECK(id_of("once", "direct", once) == mailbox_id{77});
}

TEST_CASE("what has to wait goes to the exchange's actor, and all else by its type", "[delayed][topology]") {
  host h;
  h.queue("q").queue("rest");
  h.exchange("alternate", "fanout").bound(h.a_binding("alternate", "rest"));
  auto arguments = later("topic");
  arguments.add("alternate-exchange", field_value::of_string("alternate"));
  keeping(h, "later", "x-delayed-message", arguments);
  h.bound(h.a_binding("later", "q", "a.*"));
  CHECK(h.route("later", "a.b") == strings{"q"});
  CHECK(h.route("later", "b") == strings{"rest"});
  CHECK(h.route("later", "a.b", delay) == kept);
  CHECK(h.route("later", "b", delay) == kept);  // whether it leads anywhere is asked when its time has come
  CHECK_FALSE(h.t.find_exchange("later")->key_decides());
  // Behind another exchange, too.
  h.exchange("front", "fanout").bound(h.to_exchange("front", "later")).bound(h.a_binding("front", "rest"));
  CHECK(h.route("front", "b", delay) == strings{"rest", ""});
}

TEST_CASE("what may have passed already goes to the exchange's actor, if it leads somewhere",
          "[deduplication][topology]") {
  host h;
  h.queue("q");
  keeping(h, "once", "direct", once);
  h.bound(h.a_binding("once", "q", "k"));
  CHECK(h.route("once", "k") == kept);  // it must not overtake others
  CHECK(h.route("once", "k", known) == kept);
  CHECK(h.route("once", "k", known, {.is_first = true}) == strings{"q"});
  CHECK(h.route("once", "elsewhere", known).empty());
}

TEST_CASE("exchanges that remember and lead to each other are looked at once", "[deduplication][topology]") {
  host h;
  h.queue("q");
  keeping(h, "a", "fanout", once);
  keeping(h, "b", "fanout", once);
  h.bound(h.to_exchange("a", "b")).bound(h.to_exchange("b", "a"));
  CHECK(h.route("a", "", known).empty());
  h.bound(h.a_binding("b", "q"));
  CHECK(h.route("a", "", known) == kept);
  CHECK(h.route("a", "", known, {.is_first = true}) == strings{"q"});
}

TEST_CASE("an exchange that delays may remember, too", "[delayed][deduplication][topology]") {
  host h;
  h.queue("q");
  auto both = later("direct");
  both.add("x-message-deduplication", field_value::of_bool(true));
  keeping(h, "x", "x-delayed-message", both);
  h.bound(h.a_binding("x", "q", "k"));
  CHECK(h.route("x", "k") == kept);
  CHECK(h.route("x", "k", field_table{}, {.is_first = true}) == strings{"q"});
  CHECK(h.route("x", "k", known) == kept);
  CHECK(h.route("x", "k", delay, {.is_first = true}) == kept);
  CHECK(h.t.find_exchange("x")->remembers);
  CHECK(h.t.find_exchange("x")->delays);
}
