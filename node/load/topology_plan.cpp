#include "node/load/topology_plan.hpp"

#include "mailbox/field_table.hpp"
#include "node/load/load_stage.hpp"
#include "node/load/request_pipe.hpp"

#include <algorithm>

namespace posthorn {

namespace amqp = amqp091;
namespace method = amqp091::method;

namespace {

// Requests under way at a time.
constexpr std::size_t window = 500;

std::string table_body(const field_table& table) {
  std::string out;
  encode_table(table, out);
  return out.substr(4);
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace

std::string queue_name_of(const load_options& options, unsigned queue) {
  return options.name + '-' + std::to_string(queue);
}

std::string exchange_name_of(const load_options& options) {
  return options.exchange_type.empty() ? "" : options.name + '.' + options.exchange_type;
}

std::string routing_key_of(const load_options& options, unsigned queue, unsigned key) {
  auto out = queue_name_of(options, queue);
  if (key != 0) out += '.' + std::to_string(key);
  return out;
}

unsigned copies_of(const load_options& options) {
  return options.exchange_type == "fanout" ? options.queues : options.fan_out;
}

std::string queue_arguments_of(std::string_view type) {
  field_table arguments;
  if (!type.empty()) arguments.add("x-queue-type", field_value::of_string(std::string{type}));
  return table_body(arguments);
}

method::queue_declare durable_queue(std::string_view name, std::string_view arguments) {
  method::queue_declare out;
  out.queue = name;
  out.durable = true;
  out.arguments = as_bytes(arguments);
  return out;
}

result<void> remove_topology(const load_options& options, amqp_client& client) {
  request_pipe pipe{client, options.broker.answer_time, window};
  for (unsigned i = 0; i < options.queues; ++i) {
    const std::string name = queue_name_of(options, i);
    method::queue_delete request;
    request.queue = name;
    if (auto ok = pipe.add(request); !ok) return ok;
  }
  const std::string exchange = exchange_name_of(options);
  if (!exchange.empty()) {
    method::exchange_delete request;
    request.exchange = exchange;
    if (auto ok = pipe.add(request); !ok) return ok;
  }
  return pipe.finish();
}

result<void> make_topology(const load_options& options) {
  auto client = amqp_client::open(options.broker);
  if (!client) return client.error();
  if (!options.keep) {
    if (auto ok = remove_topology(options, **client); !ok) return ok;
  }
  request_pipe pipe{**client, options.broker.answer_time, window};
  const std::string exchange = exchange_name_of(options);
  if (!exchange.empty()) {
    method::exchange_declare request;
    request.exchange = exchange;
    request.type = options.exchange_type;
    request.durable = true;
    if (auto ok = pipe.add(request); !ok) return ok;
  }
  const auto arguments = queue_arguments_of(options.queue_type);
  for (unsigned i = 0; i < options.queues; ++i) {
    const std::string name = queue_name_of(options, i);
    if (auto ok = pipe.add(durable_queue(name, arguments)); !ok) return ok;
  }
  // What is sent to a queue's own key reaches that queue, and those that follow it in the ring of all.
  const auto reach = options.exchange_type == "fanout" ? 1U : options.fan_out;
  for (unsigned i = 0; !exchange.empty() && i < options.queues; ++i) {
    for (unsigned k = 0; k < (options.exchange_type == "fanout" ? 1U : options.keys); ++k) {
      for (unsigned step = 0; step < reach; ++step) {
        const std::string name = queue_name_of(options, (i + step) % options.queues);
        auto key = routing_key_of(options, i, k);
        field_table matching;
        if (options.exchange_type == "headers") {
          matching.add("x-match", field_value::of_string("all"));
          matching.add("queue", field_value::of_string(key));
        }
        if (options.exchange_type == "topic" && options.keys == 1) key += ".#";
        const auto bind_arguments = table_body(matching);
        method::queue_bind bind;
        bind.queue = name;
        bind.exchange = exchange;
        bind.routing_key = key;
        bind.arguments = as_bytes(bind_arguments);
        if (auto ok = pipe.add(bind); !ok) return ok;
      }
    }
  }
  if (auto ok = pipe.finish(); !ok) return ok;
  (*client)->close();
  return {};
}

}  // namespace posthorn
