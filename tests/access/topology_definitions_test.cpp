#include "access/topology_definitions.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;

namespace {

namespace json = boost::json;

imported_topology read(std::string_view text, std::optional<std::string_view> vhost = std::nullopt) {
  const auto all = definitions_of(text);
  REQUIRE(all.has_value());
  auto out = topology_of(*all, vhost);
  INFO((out ? "" : out.error().text));
  REQUIRE(out.has_value());
  return std::move(*out);
}

std::string complaint(std::string_view text) {
  const auto all = definitions_of(text);
  REQUIRE(all.has_value());
  const auto out = topology_of(*all);
  return out ? "" : out.error().text;
}

topology declared(const imported_topology& from, const std::string& vhost) {
  topology out{vhost};
  topology::changes changes;
  std::uint64_t id = 0;
  for (auto command : from.commands.at(vhost)) {
    if (auto* queue = std::get_if<declare_queue>(&command)) queue->id = {++id};
    if (auto* binding = std::get_if<bind>(&command)) binding->id = {++id};
    const auto refused = std::visit([&](const auto& c) { return out.on(c, changes); }, command);
    INFO((refused ? refused->text : ""));
    CHECK_FALSE(refused.has_value());
  }
  return out;
}

constexpr auto shop = R"({
  "exchanges": [{"name": "e", "vhost": "v", "type": "topic", "durable": true, "auto_delete": false,
                 "internal": true, "arguments": {"alternate-exchange": "a"}},
                {"name": "amq.rabbitmq.log", "vhost": "v", "type": "topic"}, {"name": "", "vhost": "v", "type": "direct"}],
  "queues": [{"name": "q", "vhost": "v", "durable": true, "auto_delete": false, "type": "quorum",
              "arguments": {"x-max-length": 5, "f": 1.5, "b": true, "n": null, "l": [1, "a"], "t": {"k": "v"}}},
             {"name": "c", "vhost": "v", "type": "classic", "arguments": []}],
  "bindings": [{"source": "", "vhost": "v", "destination": "q", "destination_type": "queue", "routing_key": "q"},
               {"source": "e", "vhost": "v", "destination": "q", "destination_type": "queue", "routing_key": "a.#",
                "arguments": {"x": 1}, "properties_key": "a.%23"},
               {"source": "amq.direct", "vhost": "v", "destination": "e", "destination_type": "exchange",
                "routing_key": "k", "arguments": {}}]})";

}  // namespace

TEST_CASE("exchanges, queues and bindings of a file become declarations", "[access]") {
  const auto read_shop = read(shop);
  REQUIRE(read_shop.commands.size() == 1);
  CHECK(read_shop.commands.at("v").size() == 5);
  const auto made = declared(read_shop, "v");
  CHECK(made.queue_count() == 2);
  CHECK(made.binding_count() == 2);
  const auto* exchange = made.find_exchange("e");
  REQUIRE(exchange != nullptr);
  CHECK(exchange->definition.internal);
  CHECK(exchange->alternate == "a");
  const auto arguments = decode_table(std::as_bytes(std::span{(*made.find_queue("q"))->arguments}));
  REQUIRE(arguments.has_value());
  CHECK(*arguments->find("x-max-length") == field_value::of_long(5));
  CHECK(*arguments->find("x-queue-type") == field_value::of_string("quorum"));
  CHECK(*arguments->find("b") == field_value::of_bool(true));
  CHECK(arguments->find("n")->type == 'V');
}

TEST_CASE("what was imported is exported, and imported again as the same", "[access]") {
  definitions first, second;
  export_topology(declared(read(shop), "v"), first);
  const auto text = json::serialize(to_json(first, "4.3.6"));
  export_topology(declared(read(text), "v"), second);
  CHECK(json::serialize(to_json(second, "4.3.6")) == text);
  CHECK(first.exchanges.size() == 1);  // not those that every virtual host has
  CHECK(first.queues.size() == 2);
  CHECK(first.bindings.size() == 2);
}

TEST_CASE("exclusive queues are not exported, nor what leads to them", "[access]") {
  topology t{"v"};
  topology::changes changes;
  declare_queue own;
  own.id = {1};
  own.name = "own";
  own.exclusive = true;
  own.by = {7};
  REQUIRE_FALSE(t.on(own, changes));
  bind to_own;
  to_own.id = {2};
  to_own.source = "amq.direct";
  to_own.destination = "own";
  to_own.by = {7};
  REQUIRE_FALSE(t.on(to_own, changes));
  definitions out;
  export_topology(t, out);
  CHECK(out.queues.empty());
  CHECK(out.bindings.empty());
}

TEST_CASE("a virtual host that is named by who imports counts more than the file's", "[access]") {
  CHECK(read(shop, "w").commands.begin()->first == "w");
  CHECK(complaint(R"({"queues": [{"name": "q"}]})") == "queues[0]: the field 'vhost' is missing");
  const auto all = definitions_of(R"({"queues": [{"name": "q"}]})");
  CHECK(topology_of(*all, "w")->commands.at("w").size() == 1);
}

TEST_CASE("a mistake in a file is told with where it stands", "[access]") {
  CHECK(complaint(R"({"queues": [1]})") == "queues[0] is not an object");
  CHECK(complaint(R"({"queues": [{"name": "", "vhost": "v"}]})") == "queues[0]: a queue must have a name");
  CHECK(complaint(R"({"queues": [{"name": 1, "vhost": "v"}]})") ==
        "queues[0]: the field 'name' is not a text");
  CHECK(complaint(R"({"queues": [{"name": "q", "vhost": "v", "durable": "yes"}]})") ==
        "queues[0]: the field 'durable' is neither true nor false");
  CHECK(complaint(R"({"queues": [{"name": "q", "vhost": "v", "arguments": {"x": 18446744073709551615}}]})") ==
        "queues[0]: the field 'arguments' has a name or a number that AMQP cannot say");
  CHECK(complaint(R"({"queues": [{"name": ")" + std::string(256, 'n') + R"(", "vhost": "v"}]})") ==
        "queues[0]: the field 'name' is longer than 255 octets");
  CHECK(complaint(R"({"exchanges": [{"name": "e", "vhost": "v"}]})") ==
        "exchanges[0]: the field 'type' is missing");
  CHECK(complaint(R"({"bindings": [{"source": "e", "vhost": "v", "destination": "q"}]})") ==
        "bindings[0]: the field 'destination_type' is missing");
}

TEST_CASE("a locator that RabbitMQ 4 refuses is left out with a warning", "[access]") {
  const auto out = read(
      R"({"queues": [{"name": "q", "vhost": "v", "arguments": {"x-queue-master-locator": "min-masters"}}]})");
  REQUIRE(out.warnings.size() == 1);
  CHECK(declared(out, "v").queue_count() == 1);
}
