#include "persist/definitions.hpp"

#include "persist/flat_message.hpp"
#include "persist/schema.capnp.h"

#include <cstring>

namespace posthorn {

namespace {

capnp::Data::Reader as_data(std::string_view text) noexcept {
  return {reinterpret_cast<const kj::byte*>(text.data()), text.size()};
}

std::string as_string(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}
std::string as_string(capnp::Text::Reader text) { return {text.cStr(), text.size()}; }

template <class Fill>
record_bytes encoded(Fill fill) {
  capnp::MallocMessageBuilder message;
  fill(message);
  const auto words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  record_bytes out(bytes.size());
  std::memcpy(out.data(), bytes.begin(), bytes.size());
  return out;
}

template <class Struct, class Value, class Read>
result<std::pair<std::string, Value>> decoded(std::span<const std::byte> bytes, Read read) {
  return read_flat<Struct>(bytes, "a definition", [&](const auto& fields) {
    Value value;
    read(fields, value);
    return std::pair{as_string(fields.getVhost()), std::move(value)};
  });
}

}  // namespace

record_bytes encode(std::string_view vhost, const exchange_definition& exchange) {
  return encoded([&](capnp::MessageBuilder& message) {
    auto fields = message.initRoot<wire::ExchangeRecord>();
    fields.setVhost(std::string{vhost}.c_str());
    fields.setName(as_data(exchange.name));
    fields.setType(std::string{to_string(exchange.type)}.c_str());
    fields.setAutoDelete(exchange.auto_delete);
    fields.setInternal(exchange.internal);
    fields.setArguments(as_data(exchange.arguments));
    fields.setId(exchange.id.value);
  });
}

record_bytes encode(std::string_view vhost, const queue_definition& queue) {
  return encoded([&](capnp::MessageBuilder& message) {
    auto fields = message.initRoot<wire::QueueRecord>();
    fields.setVhost(std::string{vhost}.c_str());
    fields.setName(as_data(queue.name));
    fields.setAutoDelete(queue.auto_delete);
    fields.setArguments(as_data(queue.arguments));
  });
}

record_bytes encode(std::string_view vhost, const binding_definition& binding) {
  return encoded([&](capnp::MessageBuilder& message) {
    auto fields = message.initRoot<wire::BindingRecord>();
    fields.setVhost(std::string{vhost}.c_str());
    fields.setSource(as_data(binding.source));
    fields.setDestination(as_data(binding.destination));
    fields.setToExchange(binding.kind == destination_kind::exchange);
    fields.setRoutingKey(as_data(binding.routing_key));
    fields.setArguments(as_data(binding.arguments));
  });
}

result<std::pair<std::string, exchange_definition>> decode_exchange(std::span<const std::byte> bytes) {
  bool known = true;
  auto made = decoded<wire::ExchangeRecord, exchange_definition>(bytes, [&](const auto& fields, auto& value) {
    const auto type = exchange_type_of(as_string(fields.getType()));
    known = type.has_value();
    value.name = as_string(fields.getName());
    value.type = type.value_or(exchange_type::direct);
    value.id = {fields.getId()};
    value.durable = true;
    value.auto_delete = fields.getAutoDelete();
    value.internal = fields.getInternal();
    value.arguments = as_string(fields.getArguments());
  });
  if (made && !known) return corrupted("an exchange has a type that this version does not know");
  return made;
}

result<std::pair<std::string, queue_definition>> decode_queue(std::span<const std::byte> bytes) {
  return decoded<wire::QueueRecord, queue_definition>(bytes, [](const auto& fields, auto& value) {
    value.name = as_string(fields.getName());
    value.durable = true;
    value.auto_delete = fields.getAutoDelete();
    value.arguments = as_string(fields.getArguments());
  });
}

result<std::pair<std::string, binding_definition>> decode_binding(std::span<const std::byte> bytes) {
  return decoded<wire::BindingRecord, binding_definition>(bytes, [](const auto& fields, auto& value) {
    value.source = as_string(fields.getSource());
    value.destination = as_string(fields.getDestination());
    value.kind = fields.getToExchange() ? destination_kind::exchange : destination_kind::queue;
    value.routing_key = as_string(fields.getRoutingKey());
    value.arguments = as_string(fields.getArguments());
    value.durable = true;
  });
}

}  // namespace posthorn
