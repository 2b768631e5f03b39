#include "access/topology_definitions.hpp"

#include <span>
#include <utility>

namespace posthorn {

namespace {

namespace json = boost::json;

constexpr std::size_t name_size_max = 255;

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }
json::string text_of(std::string_view text) { return json::string(text.data(), text.size()); }

// --- arguments ---------------------------------------------------------------------------------------------

// Nothing: it cannot be said in a field table.
std::optional<field_value> field_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return field_value::nothing();
    case json::kind::bool_: return field_value::of_bool(value.get_bool());
    case json::kind::int64: return field_value::of_long(value.get_int64());
    case json::kind::uint64: return std::nullopt;
    case json::kind::double_: return field_value::of_double(value.get_double());
    case json::kind::string: return field_value::of_string(view(value.get_string()));
    case json::kind::array: {
      field_array list;
      for (const auto& element : value.get_array()) {
        auto field = field_of(element);
        if (!field) return std::nullopt;
        list.push_back(std::move(*field));
      }
      return field_value::of_array(std::move(list));
    }
    case json::kind::object: {
      auto table = table_of(value.get_object());
      if (!table) return std::nullopt;
      return field_value::of_table(std::move(*table));
    }
  }
  return std::nullopt;
}

json::value json_of(const field_value& value) {
  if (const auto number = as_integer(value)) return *number;
  if (const auto flag = as_bool(value)) return *flag;
  if (const auto text = as_string(value)) return text_of(*text);
  if (const auto* number = std::get_if<std::int64_t>(&value.value)) return *number;
  if (const auto* number = std::get_if<double>(&value.value)) return *number;
  if (const auto* number = std::get_if<float>(&value.value)) return double{*number};
  if (const auto* table = as_table(value)) return to_json(*table);
  if (const auto* elements = as_array(value)) {
    json::array list;
    for (const auto& element : *elements) list.push_back(json_of(element));
    return list;
  }
  if (std::holds_alternative<std::monostate>(value.value)) return nullptr;
  return text_of(to_string(value));
}

json::object arguments_in(std::string_view encoded) {
  const auto table = decode_table(std::as_bytes(std::span{encoded}));
  return table ? to_json(*table) : json::object{};
}

// --- reading -----------------------------------------------------------------------------------------------

// The fields of one entry of one list, and where it stands.
class entry {
public:
  entry(std::string_view list, std::size_t index, const json::object& fields)
      : where_{std::string{list} + "[" + std::to_string(index) + "]"}, fields_{fields} {}

  [[nodiscard]] error mistake(const std::string& what) const { return refused(where_ + ": " + what); }

  // Empty when it is missing, unless it is `needed`.
  [[nodiscard]] result<std::string> text(std::string_view name, bool needed = true) const {
    const auto* value = find(name);
    if (value == nullptr) {
      if (!needed) return std::string{};
      return mistake("the field '" + std::string{name} + "' is missing");
    }
    if (!value->is_string()) return mistake("the field '" + std::string{name} + "' is not a text");
    if (value->get_string().size() > name_size_max) {
      return mistake("the field '" + std::string{name} + "' is longer than 255 octets");
    }
    return std::string{view(value->get_string())};
  }
  [[nodiscard]] result<bool> flag(std::string_view name, bool otherwise) const {
    const auto* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_bool()) return mistake("the field '" + std::string{name} + "' is neither true nor false");
    return value->get_bool();
  }
  [[nodiscard]] result<field_table> arguments() const {
    const auto* value = find("arguments");
    // RabbitMQ has exported "none" as an empty list, too.
    if (value == nullptr || (value->is_array() && value->get_array().empty())) return field_table{};
    if (!value->is_object()) return mistake("the field 'arguments' is not an object");
    auto table = table_of(value->get_object());
    if (!table) return mistake("the field 'arguments' has a name or a number that AMQP cannot say");
    return std::move(*table);
  }

private:
  [[nodiscard]] const json::value* find(std::string_view name) const {
    const auto* value = fields_.if_contains(name);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  std::string where_;
  const json::object& fields_;
};

std::string encoded(const field_table& arguments) {
  if (arguments.empty()) return {};
  std::string out;
  encode_table(arguments, out);
  return out.substr(4);  // behind its length
}

class reader {
public:
  explicit reader(std::optional<std::string_view> vhost) : vhost_{vhost} {}

  result<imported_topology> run(const definitions& all) {
    using step = result<void> (reader::*)(const entry&);
    struct list {
      std::string_view name;
      const json::array& entries;
      step read;
    };
    for (const auto& [name, entries, read] : {list{"exchanges", all.exchanges, &reader::on_exchange},
                                              list{"queues", all.queues, &reader::on_queue},
                                              list{"bindings", all.bindings, &reader::on_binding}}) {
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const auto* fields = entries[i].if_object();
        if (fields == nullptr) {
          return refused(std::string{name} + "[" + std::to_string(i) + "] is not an object");
        }
        if (auto done = (this->*read)(entry{name, i, *fields}); !done) return done.error();
      }
    }
    return std::move(out_);
  }

private:
  [[nodiscard]] result<std::string> vhost_of(const entry& e) const {
    return vhost_ ? result<std::string>{std::string{*vhost_}} : e.text("vhost");
  }

  // The same in every virtual host.
  static bool is_given(std::string_view exchange) { return exchange.empty() || exchange.starts_with("amq."); }

  result<void> on_exchange(const entry& e) {
    auto vhost = vhost_of(e), name = e.text("name"), type = e.text("type");
    for (const auto* field : {&vhost, &name, &type}) {
      if (!*field) return field->error();
    }
    const auto durable = e.flag("durable", true), auto_delete = e.flag("auto_delete", false),
               internal = e.flag("internal", false);
    for (const auto* field : {&durable, &auto_delete, &internal}) {
      if (!*field) return field->error();
    }
    const auto arguments = e.arguments();
    if (!arguments) return arguments.error();
    if (is_given(*name)) return {};
    declare_exchange command;
    command.name = std::move(*name);
    command.type = std::move(*type);
    command.durable = *durable;
    command.auto_delete = *auto_delete;
    command.internal = *internal;
    command.arguments = encoded(*arguments);
    out_.commands[*vhost].emplace_back(std::move(command));
    return {};
  }

  result<void> on_queue(const entry& e) {
    auto vhost = vhost_of(e), name = e.text("name"), type = e.text("type", false);
    for (const auto* field : {&vhost, &name, &type}) {
      if (!*field) return field->error();
    }
    if (name->empty()) return e.mistake("a queue must have a name");
    const auto durable = e.flag("durable", true), auto_delete = e.flag("auto_delete", false);
    if (!durable) return durable.error();
    if (!auto_delete) return auto_delete.error();
    auto arguments = e.arguments();
    if (!arguments) return arguments.error();
    // RabbitMQ 3.x had it; 4 refuses it, and there is nothing here that it could choose.
    if (arguments->erase("x-queue-master-locator")) {
      out_.warnings.push_back("queue '" + *name + "' in vhost '" + *vhost +
                              "' is imported without x-queue-master-locator, which does nothing");
    }
    if ((*type == "quorum" || *type == "stream") && !arguments->contains("x-queue-type")) {
      arguments->add("x-queue-type", field_value::of_string(*type));
    }
    declare_queue command;
    command.name = std::move(*name);
    command.durable = *durable;
    command.auto_delete = *auto_delete;
    command.server_named = command.name.starts_with("amq.");
    command.arguments = encoded(*arguments);
    out_.commands[*vhost].emplace_back(std::move(command));
    return {};
  }

  result<void> on_binding(const entry& e) {
    auto vhost = vhost_of(e), source = e.text("source"), destination = e.text("destination"),
         kind = e.text("destination_type"), key = e.text("routing_key", false);
    for (const auto* field : {&vhost, &source, &destination, &kind, &key}) {
      if (!*field) return field->error();
    }
    if (*kind != "queue" && *kind != "exchange") {
      return e.mistake("the field 'destination_type' is neither 'queue' nor 'exchange'");
    }
    const auto arguments = e.arguments();
    if (!arguments) return arguments.error();
    if (source->empty()) return {};  // every queue is bound to the default exchange
    bind command;
    command.kind = *kind == "queue" ? destination_kind::queue : destination_kind::exchange;
    command.source = std::move(*source);
    command.destination = std::move(*destination);
    command.routing_key = std::move(*key);
    command.arguments = encoded(*arguments);
    out_.commands[*vhost].emplace_back(std::move(command));
    return {};
  }

  std::optional<std::string_view> vhost_;
  imported_topology out_;
};

}  // namespace

std::optional<field_table> table_of(const json::object& fields) {
  field_table out;
  for (const auto& [key, value] : fields) {
    auto field = field_of(value);
    if (!field || key.size() > name_size_max) return std::nullopt;
    out.add(std::string{std::string_view{key.data(), key.size()}}, std::move(*field));
  }
  return out;
}

json::object to_json(const field_table& table) {
  json::object out;
  for (const auto& [name, value] : table) out.emplace(name, json_of(value));
  return out;
}

result<imported_topology> topology_of(const definitions& all, std::optional<std::string_view> vhost) {
  return reader{vhost}.run(all);
}

void export_topology(const topology& from, definitions& to) {
  const auto vhost = text_of(from.vhost());
  from.for_each_exchange([&](const exchange_state& exchange) {
    const auto& e = exchange.definition;
    if (e.name.empty() || e.name.starts_with("amq.")) return;
    to.exchanges.push_back(json::object{{"name", text_of(e.name)},
                                        {"vhost", vhost},
                                        {"type", text_of(to_string(e.type))},
                                        {"durable", e.durable},
                                        {"auto_delete", e.auto_delete},
                                        {"internal", e.internal},
                                        {"arguments", arguments_in(e.arguments)}});
  });
  from.for_each_queue([&](const queue_ptr& queue) {
    if (queue->owner || queue->of_actor) return;
    auto arguments = arguments_in(queue->arguments);
    const auto* type = arguments.if_contains("x-queue-type");
    const auto is = type != nullptr && type->is_string() ? type->get_string() : json::string("classic");
    to.queues.push_back(json::object{{"name", text_of(queue->name)},
                                     {"vhost", vhost},
                                     {"type", is},
                                     {"durable", queue->durable},
                                     {"auto_delete", queue->auto_delete},
                                     {"arguments", std::move(arguments)}});
  });
  from.for_each_binding([&](const binding_definition& b) {
    if (b.source.empty()) return;
    const bool to_queue = b.kind == destination_kind::queue;
    if (to_queue) {
      const auto* queue = from.find_queue(b.destination);
      if (queue == nullptr || (*queue)->owner || (*queue)->of_actor) return;
    }
    to.bindings.push_back(json::object{{"source", text_of(b.source)},
                                       {"vhost", vhost},
                                       {"destination", text_of(b.destination)},
                                       {"destination_type", to_queue ? "queue" : "exchange"},
                                       {"routing_key", text_of(b.routing_key)},
                                       {"arguments", arguments_in(b.arguments)}});
  });
}

}  // namespace posthorn
