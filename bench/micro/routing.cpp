// Where a message goes, and what it costs to change that.
#include "bench/micro/meter.hpp"
#include "mailbox/properties.hpp"
#include "mailbox/topology.hpp"

#include <cstdlib>
#include <string>
#include <vector>

namespace posthorn::bench {

namespace {

std::string queue_name(std::uint64_t n) { return "queue-" + std::to_string(n); }

void declare(topology& t, std::uint64_t n) {
  topology::changes changes;
  declare_queue command;
  command.id = {n + 1};
  command.name = queue_name(n);
  command.durable = true;
  if (t.on(command, changes)) std::abort();
}

void bind_to(topology& t, const char* exchange, std::uint64_t id, std::string key, std::uint64_t queue,
             std::string arguments = {}) {
  topology::changes changes;
  posthorn::bind command;
  command.id = {id};
  command.source = exchange;
  command.destination = queue_name(queue);
  command.routing_key = std::move(key);
  command.arguments = std::move(arguments);
  if (t.on(command, changes)) std::abort();
}

topology with_queues(std::uint64_t count) {
  topology t{"/"};
  for (std::uint64_t n = 0; n < count; ++n) declare(t, n);
  return t;
}

std::string encoded(const field_table& table) {
  std::string out;
  encode_table(table, out);
  return out.substr(4);
}

std::string properties_with(std::int32_t n) {
  basic_properties properties;
  properties.headers = field_table{{"n", field_value::of_int(n)}};
  std::string out;
  encode_properties(properties, out);
  return out;
}

// `expected` queues for each of the keys, which are taken in turn.
void measure_route(meter& m, const std::string& name, const topology& t, const char* exchange,
                   const std::vector<std::string>& keys, const std::vector<std::string>& properties,
                   std::size_t expected) {
  const auto* e = t.find_exchange(exchange);
  std::vector<queue_ptr> found;
  m.measure(name, [&](std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) {
      found.clear();
      const auto& p = properties[n % properties.size()];
      t.route(*e, keys[n % keys.size()], std::as_bytes(std::span{p}), found);
      if (found.size() != expected) std::abort();
    }
  });
}

}  // namespace

void measure_routing(meter& m) {
  constexpr std::uint64_t count = 10'000,
                          step = 7919;  // a prime, so that neighbours are not asked for in a row
  const std::vector<std::string> no_properties{std::string{}};
  {
    auto t = with_queues(count);
    std::vector<std::string> names, direct_keys, topic_keys, no_keys{std::string{}}, headers;
    for (std::uint64_t n = 0; n < count; ++n) {
      const auto mixed = n * step % count;
      bind_to(t, "amq.direct", 1 + n, "key-" + std::to_string(n), n);
      const auto word = std::to_string(n);
      // A quarter each: literal, one word, any words, and both.
      const char* pattern[] = {".a.b", ".*.b", ".#", ".*.#"};
      bind_to(t, "amq.topic", 100'000 + n, "w" + word + pattern[n % 4], n);
      bind_to(t, "amq.headers", 200'000 + n, "", n,
              encoded({{"x-match", field_value::of_string("all")},
                       {"n", field_value::of_int(static_cast<std::int32_t>(n))}}));
      if (n < 10) bind_to(t, "amq.fanout", 300'000 + n, "", n);
      names.push_back(queue_name(mixed));
      direct_keys.push_back("key-" + std::to_string(mixed));
      topic_keys.push_back("w" + std::to_string(mixed) + ".a.b");
      headers.push_back(properties_with(static_cast<std::int32_t>(mixed)));
    }
    measure_route(m, "routing: default exchange, 10,000 queues", t, "", names, no_properties, 1);
    measure_route(m, "routing: direct, 10,000 bindings", t, "amq.direct", direct_keys, no_properties, 1);
    measure_route(m, "routing: topic, 10,000 bindings, one matches", t, "amq.topic", topic_keys,
                  no_properties, 1);
    measure_route(m, "routing: fanout to 10 queues", t, "amq.fanout", no_keys, no_properties, 10);
    measure_route(m, "routing: headers, 10,000 bindings, one matches", t, "amq.headers", no_keys, headers, 1);
    for (std::uint64_t n = 0; n < 100; ++n)
      bind_to(t, "amq.topic", 400'000 + n, n % 2 == 0 ? "#" : "*.a.#", n);
    measure_route(m, "routing: topic, 10,100 bindings, 101 match, 100 queues", t, "amq.topic", {"w1.a.b"},
                  no_properties, 100);
  }
  for (const std::uint64_t queues : {std::uint64_t{1000}, std::uint64_t{100'000}}) {
    const auto among = " among " + std::to_string(queues) + " queues";
    const auto base = with_queues(queues);
    m.measure("topology: copy the snapshot" + among, [&](std::uint64_t times) {
      for (std::uint64_t n = 0; n < times; ++n) {
        const topology copy = base;
        keep(copy);
      }
    });
    // As the vhost's actor does it when each declare comes alone: every one changes a copy, which becomes the snapshot.
    m.measure("topology: declare one on a copy, publish the copy," + among, [&](std::uint64_t times) {
      auto published = std::make_shared<const topology>(base);
      for (std::uint64_t n = 0; n < times; ++n) {
        auto copy = std::make_shared<topology>(*published);
        declare(*copy, queues + n);
        published = std::move(copy);
        if (n % 1000 == 999) published = std::make_shared<const topology>(base);
      }
    });
  }
}

}  // namespace posthorn::bench
