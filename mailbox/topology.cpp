#include "mailbox/topology.hpp"

#include "mailbox/balance.hpp"
#include "mailbox/carbon_copies.hpp"
#include "mailbox/deduplication.hpp"
#include "mailbox/delayed.hpp"
#include "mailbox/erlang_term.hpp"
#include "mailbox/properties.hpp"
#include "mailbox/queue_arguments.hpp"
#include "mailbox/recent_history.hpp"
#include "mailbox/result.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace posthorn {

namespace {

using kind = refusal::kind;

std::span<const std::byte> as_bytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string quoted(std::string_view name) { return "'" + std::string{name} + "'"; }
std::string bool_text(bool value) { return value ? "true" : "false"; }

// What tells bindings apart: [15].
std::string key_of(destination_kind to, std::string_view destination, std::string_view routing_key,
                   std::string_view arguments) {
  std::string key;
  key.reserve(destination.size() + routing_key.size() + arguments.size() + 8);
  key += to == destination_kind::queue ? 'q' : 'e';
  for (const auto part : {destination, routing_key}) {
    key += static_cast<char>(part.size() & 0xff);  // a short string: its length fits an octet
    key += part;
  }
  // The order in which a client writes its arguments tells nothing apart.
  if (const auto table = decode_table(as_bytes(arguments)); table && table->size() > 1) {
    encode_table(table->sorted(), key);
  } else {
    key += arguments;
  }
  return key;
}

// RabbitMQ writes it as an atom of Erlang's, which has quotes of its own around a hyphen.
std::string type_as_told(std::string_view type) {
  return type.find('-') == std::string_view::npos ? std::string{type} : quoted(type);
}
std::string key_of(binding_id id) {
  std::string key;
  big_endian::append(key, id.value);
  return key;
}
std::string destination_key(destination_kind to, std::string_view name) {
  return (to == destination_kind::queue ? "q" : "e") + std::string{name};
}

// The first word of a topic, and what follows it. "a..b" has an empty word in the middle: [34].
std::pair<std::string_view, std::optional<std::string_view>> split_word(std::string_view topic) noexcept {
  const auto dot = topic.find('.');
  if (dot == std::string_view::npos) return {topic, std::nullopt};
  return {topic.substr(0, dot), topic.substr(dot + 1)};
}

void add_pattern(shared_value<topic_node>& root, std::optional<std::string_view> pattern,
                 const std::string& key, const binding_ptr& binding) {
  auto* at = &root.edit();
  while (pattern) {
    const auto [word, rest] = split_word(*pattern);
    at = word == "*" ? &at->star.edit() : word == "#" ? &at->hash.edit() : &at->words.edit(word);
    pattern = rest;
  }
  at->here.set(key, binding);
}

// The pattern was added. Says whether nothing is left of the node. A routing key has at most 255 octets, so at most 256
// words: the recursion is bounded by that.
bool remove_pattern(topic_node& at, std::optional<std::string_view> pattern, const std::string& key) {
  if (!pattern) {
    at.here.erase(key);
    return at.empty();
  }
  const auto [word, rest] = split_word(*pattern);
  if (word == "*" || word == "#") {
    auto& child = word == "*" ? at.star : at.hash;
    if (child && remove_pattern(child.edit(), rest, key)) child = {};
  } else if (at.words.find(word) != nullptr) {
    if (remove_pattern(at.words.edit(word), rest, key)) at.words.erase(word);
  }
  return at.empty();
}

// The words of a pattern; an empty one has none, rather than one empty word.
std::optional<std::string_view> words_of(const std::string& routing_key) noexcept {
  if (routing_key.empty()) return std::nullopt;
  return routing_key;
}

// Follows all patterns that match at once, word by word: a set of places in the trie, so that many `#` in a pattern
// cost no more than the number of its words.
template <class Visit>
void match_topic(const shared_value<topic_node>& root, std::string_view routing_key, const Visit& visit) {
  struct place {
    const topic_node* node;
    bool behind_hash;  // the `#` before it takes any further word as well
  };
  std::vector<place> now, next;
  const auto reach = [](std::vector<place>& places, const topic_node* node, bool behind_hash) {
    while (node != nullptr &&
           std::none_of(places.begin(), places.end(), [&](const place& p) { return p.node == node; })) {
      places.push_back({node, behind_hash});
      node = node->hash.get();  // `#` also takes no word at all
      behind_hash = true;
    }
  };
  reach(now, root.get(), false);
  std::optional<std::string_view> rest = routing_key;
  if (routing_key.empty()) rest = std::nullopt;  // no words, rather than one empty word
  while (rest && !now.empty()) {
    const auto [word, following] = split_word(*rest);
    next.clear();
    for (const auto& p : now) {
      if (p.behind_hash) reach(next, p.node, true);
      if (const auto* child = p.node->words.find(word)) reach(next, child, false);
      reach(next, p.node->star.get(), false);
    }
    std::swap(now, next);
    rest = following;
  }
  for (const auto& p : now) {
    p.node->here.for_each([&](const std::string&, const binding_ptr& b) { visit(b); });
  }
}

// In the order in which the store has them: to erase neighbours costs it a third of what bindings at random do.
std::vector<binding_ptr> by_age(const binding_set& bindings) {
  std::vector<binding_ptr> out;
  out.reserve(bindings.size());
  bindings.for_each([&](const std::string&, const binding_ptr& b) { out.push_back(b); });
  std::sort(out.begin(), out.end(), [](const binding_ptr& a, const binding_ptr& b) { return a->id < b->id; });
  return out;
}

constexpr std::string_view default_exchange_text = "operation not permitted on the default exchange";

}  // namespace

std::string_view to_string(exchange_type type) noexcept {
  switch (type) {
    case exchange_type::direct: return "direct";
    case exchange_type::fanout: return "fanout";
    case exchange_type::topic: return "topic";
    case exchange_type::headers: return "headers";
    case exchange_type::consistent_hash: return "x-consistent-hash";
    case exchange_type::modulus_hash: return "x-modulus-hash";
    case exchange_type::random: return "x-random";
    case exchange_type::local_random: return "x-local-random";
    case exchange_type::recent_history: return "x-recent-history";
    case exchange_type::delayed: return delayed_exchange_type;
    case exchange_type::deduplicating: return deduplication_exchange_type;
  }
  return "unknown";
}

std::optional<exchange_type> exchange_type_of(std::string_view name) noexcept {
  for (const auto type : exchange_types) {
    if (to_string(type) == name) return type;
  }
  return std::nullopt;
}

bool exchange_state::key_decides() const noexcept {
  if (delays || remembers) return false;
  switch (routes_as) {
    case exchange_type::direct:
    case exchange_type::fanout:
    case exchange_type::topic:
    case exchange_type::modulus_hash: return true;
    case exchange_type::consistent_hash: return hashed.of == hash_source::part::routing_key;
    case exchange_type::headers:
    case exchange_type::random:
    case exchange_type::local_random:
    case exchange_type::recent_history:
    case exchange_type::delayed:
    case exchange_type::deduplicating: return false;
  }
  return false;
}

namespace {

struct hashed_property {
  std::string_view name;
  hash_source::part part;
};
constexpr std::array<hashed_property, 3> hashed_properties = {{
    {"correlation_id", hash_source::part::correlation_id},
    {"message_id", hash_source::part::message_id},
    {"timestamp", hash_source::part::timestamp},
}};

const hashed_property* hashed_property_of(const field_table& arguments) noexcept {
  const auto* value = arguments.find("hash-property");
  const auto name = value == nullptr ? std::nullopt : as_string(*value);
  const auto found = std::find_if(hashed_properties.begin(), hashed_properties.end(),
                                  [&](const hashed_property& p) { return p.name == name; });
  return found == hashed_properties.end() ? nullptr : &*found;
}

// From arguments that were checked; what is not valid counts as not there.
hash_source hash_source_of(const field_table& arguments) {
  if (const auto* header = arguments.find("hash-header"); header != nullptr && header->type == 'S') {
    return {hash_source::part::header, std::string{*as_string(*header)}};
  }
  if (const auto* property = hashed_property_of(arguments)) return {property->part, {}};
  return {};
}

// What an exchange of this type does with what has come to it and may go on.
exchange_type plain_type_of(exchange_type type, const field_table& arguments) {
  if (type == exchange_type::delayed) {
    const auto inner = delayed_type_of(arguments);
    const auto* known = std::get_if<exchange_type>(&inner);  // it is, unless the store says otherwise
    type = known != nullptr ? *known : exchange_type::direct;
  }
  return type == exchange_type::deduplicating ? exchange_type::fanout : type;
}

// What it has to remember, or why it may not be declared.
std::variant<std::optional<deduplication_rules>, std::string> rules_of_exchange(
    exchange_type type, const field_table& arguments) {
  if (type == exchange_type::delayed) {
    auto inner = delayed_type_of(arguments);
    if (auto* why = std::get_if<std::string>(&inner)) return std::move(*why);
    type = std::get<exchange_type>(inner);
  }
  return deduplication_of_exchange(to_string(type), arguments);
}

// What a new exchange of this type may not have, in RabbitMQ's words; except for a header or property that is not a
// string: there, RabbitMQ fails (541).
std::optional<std::string> invalid_exchange_arguments(exchange_type type, const field_table& arguments,
                                                      const std::string& described) {
  if (type == exchange_type::recent_history) return recent_history::invalid(arguments);
  if (type != exchange_type::consistent_hash) return std::nullopt;
  for (const std::string_view name : {"hash-header", "hash-property"}) {
    if (const auto* value = arguments.find(name); value != nullptr && value->type != 'S') {
      return "invalid type " + quoted(type_name(value->type)) + " for arg " + quoted(name) + " in " +
             described;
    }
  }
  const auto* property = arguments.find("hash-property");
  if (property == nullptr) return std::nullopt;
  if (arguments.contains("hash-header")) return "hash-header and hash-property are mutually exclusive";
  if (hashed_property_of(arguments) == nullptr) {
    return "Unsupported property: " + std::string{*as_string(*property)};
  }
  return std::nullopt;
}

}  // namespace

topology::topology(std::string vhost) : vhost_{std::move(vhost)} {
  add_exchange({"", exchange_type::direct, true, false, false, {}});
  add_exchange({"amq.direct", exchange_type::direct, true, false, false, {}});
  add_exchange({"amq.fanout", exchange_type::fanout, true, false, false, {}});
  add_exchange({"amq.topic", exchange_type::topic, true, false, false, {}});
  add_exchange({"amq.headers", exchange_type::headers, true, false, false, {}});
  add_exchange({"amq.match", exchange_type::headers, true, false, false, {}});
}

void topology::set_alternate(std::string_view exchange, std::string alternate) {
  if (const auto* found = exchanges_.find(exchange); found != nullptr && found->alternate != alternate) {
    exchanges_.edit(exchange).alternate = std::move(alternate);
  }
}

const exchange_state* topology::find_exchange(std::string_view name) const noexcept {
  return exchanges_.find(name);
}

void topology::add_exchange(exchange_definition definition) {
  exchange_state state;
  state.routes_as = plain_type_of(definition.type, {});
  if (const auto arguments = decode_table(as_bytes(definition.arguments))) {
    if (const auto* alternate = arguments->find("alternate-exchange")) {
      state.alternate = as_string(*alternate).value_or("");
    }
    state.routes_as = plain_type_of(definition.type, *arguments);
    state.delays = definition.type == exchange_type::delayed;
    const auto rules = rules_of_exchange(definition.type, *arguments);
    const auto* valid = std::get_if<std::optional<deduplication_rules>>(&rules);
    state.remembers = valid != nullptr && valid->has_value();
    if (state.routes_as == exchange_type::consistent_hash) state.hashed = hash_source_of(*arguments);
  }
  state.definition = std::move(definition);
  const auto name = state.definition.name;
  exchanges_.set(name, std::move(state));
}

// --- exchanges --------------------------------------------------------------------------------------------------

std::optional<refusal> topology::on(const declare_exchange& c, changes& out) {
  const auto here = " in vhost " + quoted(vhost_);
  const auto* found = find_exchange(c.name);
  // A passive declaration only asks for the name. Otherwise an unknown type comes before everything else.
  const auto type = c.passive ? std::nullopt : exchange_type_of(c.type);
  if (!c.passive && !type) {  // [12]
    // RabbitMQ tells words that its runtime knows from others. Of those, these are known.
    const bool is_word = c.type.empty() || c.type == "foo";
    return refusal{kind::precondition_failed,
                   (is_word ? "invalid exchange type " : "unknown exchange type ") + quoted(c.type)};
  }
  if (c.name.empty()) return refusal{kind::access_refused, std::string{default_exchange_text}};
  if (c.passive) {
    if (found != nullptr) return std::nullopt;
    return refusal{kind::not_found, "no exchange " + quoted(c.name) + here};
  }
  const auto arguments = decode_table(as_bytes(c.arguments));
  if (!arguments) return refusal{kind::precondition_failed, arguments.error().text};
  if (found == nullptr) {
    if (c.name.starts_with("amq.")) {
      return refusal{kind::access_refused,
                     "exchange name " + quoted(c.name) + " contains reserved prefix 'amq.*'"};
    }
    const auto described = "exchange " + quoted(c.name) + here;
    if (const auto* alternate = arguments->find("alternate-exchange");
        alternate != nullptr && alternate->type != 'S') {
      return refusal{kind::precondition_failed, "invalid type " + quoted(type_name(alternate->type)) +
                                                    " for arg 'alternate-exchange' in " + described};
    }
    const auto rules = rules_of_exchange(*type, *arguments);
    if (const auto* wrong = std::get_if<std::string>(&rules))
      return refusal{kind::precondition_failed, *wrong};
    if (auto wrong = invalid_exchange_arguments(plain_type_of(*type, *arguments), *arguments, described)) {
      return refusal{kind::precondition_failed, std::move(*wrong)};
    }
    exchange_definition made{c.name, *type, c.durable, c.auto_delete, c.internal, c.arguments};
    const bool remembers = std::get<std::optional<deduplication_rules>>(rules).has_value();
    if (remembers || *type == exchange_type::delayed) made.id = c.id;
    add_exchange(made);
    out.emplace_back(exchange_added{std::move(made)});
    return std::nullopt;
  }
  const auto& present = found->definition;
  const auto differs = [&](std::string_view what, std::string_view received, std::string_view current) {
    return refusal{kind::precondition_failed, "inequivalent arg " + quoted(what) + " for exchange " +
                                                  quoted(c.name) + here + ": received " + quoted(received) +
                                                  " but current is " + quoted(current)};
  };
  if (present.type != *type) {
    return differs("type", type_as_told(c.type), type_as_told(to_string(present.type)));
  }
  if (present.durable != c.durable)
    return differs("durable", bool_text(c.durable), bool_text(present.durable));
  if (present.auto_delete != c.auto_delete) {
    return differs("auto_delete", bool_text(c.auto_delete), bool_text(present.auto_delete));
  }
  if (present.internal != c.internal)
    return differs("internal", bool_text(c.internal), bool_text(present.internal));
  const auto current = decode_table(as_bytes(present.arguments));
  if (auto text =
          inequivalent_argument(current ? *current : field_table{}, *arguments, "alternate-exchange")) {
    return refusal{kind::precondition_failed, "inequivalent arg 'alternate-exchange' for exchange " +
                                                  quoted(c.name) + here + ": " + *text};
  }
  return std::nullopt;
}

std::optional<refusal> topology::on(const delete_exchange& c, changes& out) {
  if (c.name.empty()) return refusal{kind::access_refused, std::string{default_exchange_text}};
  if (c.name.starts_with("amq.")) {
    return refusal{kind::access_refused, "deletion of system exchange " + quoted(c.name) + " in vhost " +
                                             quoted(vhost_) + " not allowed"};
  }
  const auto* found = exchanges_.find(c.name);
  if (found == nullptr) return std::nullopt;  // [13]
  if (c.if_unused && !found->bindings.empty()) {
    return refusal{kind::precondition_failed,
                   "exchange " + quoted(c.name) + " in vhost " + quoted(vhost_) + " in use"};
  }
  remove_exchanges({c.name}, out);
  return std::nullopt;
}

// A removed exchange takes its bindings along, those may have been the last of an auto-delete exchange [16], and so
// on: a list of names instead of a recursion, because clients decide how long such a chain is.
void topology::remove_exchanges(std::vector<std::string> names, changes& out) {
  while (!names.empty()) {
    const auto name = std::move(names.back());
    names.pop_back();
    const auto* found = exchanges_.find(name);
    if (found == nullptr) continue;
    const exchange_state exchange = *found;
    exchanges_.erase(name);
    out.emplace_back(exchange_removed{exchange.definition});
    // Nobody finds it any more: only what leads to it has to be forgotten, not its own order of things.
    forget_source(exchange);
    for (auto& binding : by_age(exchange.bindings)) out.emplace_back(binding_removed{std::move(binding)});
    for (auto& unused : remove_bindings_to(destination_kind::exchange, name, out))
      names.push_back(std::move(unused));
  }
}

// --- queues -----------------------------------------------------------------------------------------------------

std::variant<queue_ptr, refusal> topology::access_queue(std::string_view name, connection_id by) const {
  const auto* found = queues_.find(name);
  if (found == nullptr) {
    return refusal{kind::not_found, "no queue " + quoted(name) + " in vhost " + quoted(vhost_)};
  }
  if ((*found)->owner && *(*found)->owner != by) {
    return refusal{
        kind::resource_locked,
        "cannot obtain exclusive access to locked queue " + quoted(name) + " in vhost " + quoted(vhost_) +
            ". It could be originally declared on another connection or the exclusive property value "
            "does not match that of the original declaration."};
  }
  return *found;
}

std::optional<refusal> topology::check_equivalent(const queue_definition& present, const declare_queue& c,
                                                  const field_table& arguments) const {
  const auto described = "queue " + quoted(c.name) + " in vhost " + quoted(vhost_);
  const auto differs = [&](std::string_view what, bool received, bool current) {
    return refusal{kind::precondition_failed, "inequivalent arg " + quoted(what) + " for " + described +
                                                  ": received " + quoted(bool_text(received)) +
                                                  " but current is " + quoted(bool_text(current))};
  };
  if (present.owner.has_value() != c.exclusive) {
    return refusal{
        kind::resource_locked,
        "cannot obtain exclusive access to locked " + described +
            ". It could be originally declared on another connection or the exclusive property value "
            "does not match that of the original declaration."};
  }
  const bool durable = c.durable && !c.exclusive;  // [6]
  if (present.durable != durable) return differs("durable", durable, present.durable);
  if (present.auto_delete != c.auto_delete) return differs("auto_delete", c.auto_delete, present.auto_delete);
  const auto current = decode_table(as_bytes(present.arguments));
  return inequivalent_queue_arguments(current ? *current : field_table{}, arguments, described);
}

std::optional<refusal> topology::on(const declare_queue& c, changes& out) {
  const auto described = "queue " + quoted(c.name) + " in vhost " + quoted(vhost_);
  // Even if it is there: a name that the server has chosen is not declared again [9].
  if (!c.server_named && c.name.starts_with("amq.")) {
    return refusal{kind::access_refused,
                   "queue name " + quoted(c.name) + " contains reserved prefix 'amq.*'"};
  }
  const auto arguments = decode_table(as_bytes(c.arguments));
  if (!arguments) return refusal{kind::precondition_failed, arguments.error().text};
  if (queues_.find(c.name) != nullptr) {
    auto access = access_queue(c.name, c.by);
    if (auto* refused = std::get_if<refusal>(&access)) return std::move(*refused);
    return check_equivalent(*std::get<queue_ptr>(access), c, *arguments);
  }
  if (c.actor.value != 0) {
    queue_definition actor;
    actor.durable = actor.of_actor = true;
    return check_equivalent(actor, c, *arguments);
  }
  if (auto refused = check_queue_arguments(c, *arguments, described)) return refused;
  queue_definition made;
  made.id = c.id;
  made.name = c.name;
  made.durable = c.durable && !c.exclusive;  // [6]
  made.auto_delete = c.auto_delete;
  if (c.exclusive) made.owner = c.by;
  made.arguments = c.arguments;
  auto shared = std::make_shared<const queue_definition>(std::move(made));
  queues_.set(c.name, shared);
  out.emplace_back(queue_added{std::move(shared)});
  return std::nullopt;
}

void topology::on(const remove_queue& c, changes& out) {
  const auto* found = queues_.find(c.name);
  if (found == nullptr || (*found)->id != c.id) return;
  const queue_ptr queue = *found;
  queues_.erase(c.name);
  out.emplace_back(queue_removed{queue});
  remove_exchanges(remove_bindings_to(destination_kind::queue, c.name, out), out);
}

void topology::attach(mailbox_id id, std::string_view name, std::shared_ptr<mailbox_port> port) {
  const auto* found = queues_.find(name);
  if (found == nullptr || (*found)->id != id) return;
  auto changed = std::make_shared<queue_definition>(**found);
  changed->port = std::move(port);
  queues_.set(name, std::move(changed));
}

void topology::attach_keeper(std::string_view exchange, std::shared_ptr<mailbox_port> port) {
  const auto* found = find_exchange(exchange);
  if (found == nullptr) return;
  auto keeper = std::make_shared<queue_definition>();
  keeper->id = found->definition.id;
  keeper->durable = found->definition.durable;
  keeper->port = std::move(port);
  exchanges_.edit(exchange).keeper = std::move(keeper);
}

// --- bindings ---------------------------------------------------------------------------------------------------

std::optional<refusal> topology::check_ends(destination_kind to, const std::string& source,
                                            const std::string& destination) const {
  const auto missing = [&](std::string_view what, const std::string& name) {
    return refusal{kind::not_found,
                   "no " + std::string{what} + " " + quoted(name) + " in vhost " + quoted(vhost_)};
  };
  if (source.empty() || (to == destination_kind::exchange && destination.empty())) {
    return refusal{kind::access_refused, std::string{default_exchange_text}};  // [14]
  }
  if (find_exchange(source) == nullptr) return missing("exchange", source);
  if (to == destination_kind::queue) {
    if (queues_.find(destination) == nullptr) return missing("queue", destination);
  } else if (find_exchange(destination) == nullptr) {
    return missing("exchange", destination);
  }
  return std::nullopt;
}

// Only classic queues without a key: anything else is RabbitMQ's to refuse, and so ours.
std::optional<refusal> topology::check_local_random(const bind& c) const {
  if (!c.routing_key.empty()) {
    return refusal{kind::precondition_failed,
                   "Non empty binding " + quoted(c.routing_key) + " key not permitted"};
  }
  if (c.kind == destination_kind::exchange)
    return refusal{kind::precondition_failed, "Destination not found"};
  const auto arguments = decode_table(as_bytes((*queues_.find(c.destination))->arguments));
  const auto* type = arguments ? arguments->find("x-queue-type") : nullptr;
  const auto name = type == nullptr ? std::nullopt : as_string(*type);
  if (name && *name != "classic") {
    return refusal{kind::precondition_failed,
                   "Queue type rabbit_" + std::string{*name} + "_queue not valid for this exchange type"};
  }
  return std::nullopt;
}

namespace {

std::variant<header_match, refusal> header_match_of(const field_table& arguments) {
  header_match match;
  if (const auto* mode = arguments.find("x-match")) {  // [34]
    if (mode->type != 'S') {
      return refusal{kind::precondition_failed, "Invalid x-match field type " +
                                                    std::string{type_name(mode->type)} + " (value " +
                                                    erlang_term(*mode) + "); expected longstr"};
    }
    const auto text = *as_string(*mode);
    if (text != "all" && text != "any" && text != "all-with-x" && text != "any-with-x") {
      return refusal{kind::precondition_failed, "Invalid x-match field value " + erlang_binary(text) +
                                                    "; expected all, any, all-with-x, or any-with-x"};
    }
    match.any = text.starts_with("any");
    match.with_x = text.ends_with("-with-x");
  }
  match.wanted = arguments;
  return match;
}

constexpr std::int64_t weight_max = 10'000;

// The weight that a binding's key says.
std::variant<std::uint32_t, refusal> weight_of(std::string_view key) {
  const auto invalid = [](std::string text) {
    return refusal{kind::precondition_failed, "The binding key must " + std::move(text)};
  };
  auto digits = key;
  if (digits.starts_with('+')) {
    digits.remove_prefix(1);
    if (digits.starts_with('-')) digits = {};
  }
  std::int64_t weight = 0;
  const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), weight);
  const bool whole = !digits.empty() && end == digits.data() + digits.size();
  if (!whole || failed == std::errc::invalid_argument) return invalid("be an integer: " + erlang_binary(key));
  if (failed == std::errc::result_out_of_range) weight = digits.starts_with('-') ? -1 : weight_max + 1;
  if (weight < 1) return invalid("be greater than 0");
  if (weight > weight_max) return invalid("not exceed " + std::to_string(weight_max));
  return static_cast<std::uint32_t>(weight);
}

}  // namespace

std::optional<refusal> topology::on(const bind& c, changes& out) {
  const bool new_actor =
      c.actor && c.kind == destination_kind::queue && queues_.find(c.destination) == nullptr;
  if (new_actor) queues_.set(c.destination, c.actor);
  auto refused = add_binding(c, out);
  if (new_actor && refused) queues_.erase(c.destination);
  return refused;
}

std::optional<refusal> topology::add_binding(const bind& c, changes& out) {
  if (auto refused = check_ends(c.kind, c.source, c.destination)) return refused;
  const auto* source = find_exchange(c.source);
  const auto arguments = decode_table(as_bytes(c.arguments));
  if (!arguments) return refusal{kind::precondition_failed, arguments.error().text};
  binding_definition made;
  if (source->routes_as == exchange_type::headers) {
    auto match = header_match_of(*arguments);
    if (auto* refused = std::get_if<refusal>(&match)) return std::move(*refused);
    made.headers = std::move(std::get<header_match>(match));
  } else if (source->routes_as == exchange_type::consistent_hash) {
    auto weight = weight_of(c.routing_key);
    if (auto* refused = std::get_if<refusal>(&weight)) return std::move(*refused);
  } else if (source->routes_as == exchange_type::local_random) {
    if (auto refused = check_local_random(c)) return refused;
  }
  if (c.kind == destination_kind::queue) {  // only now, as RabbitMQ does, but also if the binding is there
    auto access = access_queue(c.destination, c.by);
    if (auto* refused = std::get_if<refusal>(&access)) return std::move(*refused);
  }
  const auto key = key_of(c.kind, c.destination, c.routing_key, c.arguments);
  if (source->bindings.find(key) != nullptr) return std::nullopt;  // [15]
  made.id = c.id;
  made.source = c.source;
  made.kind = c.kind;
  made.destination = c.destination;
  made.routing_key = c.routing_key;
  made.arguments = c.arguments;
  const bool destination_durable = c.kind == destination_kind::queue
                                       ? (*queues_.find(c.destination))->durable
                                       : find_exchange(c.destination)->definition.durable;
  made.durable = source->definition.durable && destination_durable;
  auto shared = std::make_shared<const binding_definition>(std::move(made));
  add_binding(shared, key);
  out.emplace_back(binding_added{std::move(shared)});
  return std::nullopt;
}

std::optional<refusal> topology::on(const unbind& c, changes& out) {
  if (auto refused = check_ends(c.kind, c.source, c.destination)) {
    if (refused->why == kind::not_found) return std::nullopt;  // [13]
    return refused;
  }
  const auto key = key_of(c.kind, c.destination, c.routing_key, c.arguments);
  const auto* found = find_exchange(c.source)->bindings.find(key);
  if (found == nullptr) return std::nullopt;
  if (c.kind == destination_kind::queue) {  // [5], but only if there is something to take away
    auto access = access_queue(c.destination, c.by);
    if (auto* refused = std::get_if<refusal>(&access)) return std::move(*refused);
  }
  const binding_ptr binding = *found;
  if (remove_binding(binding, key, out)) remove_exchanges({binding->source}, out);
  return std::nullopt;
}

void topology::add_binding(const binding_ptr& binding, const std::string& key) {
  expects(find_exchange(binding->source) != nullptr, "the source of a binding exists");
  auto& source = exchanges_.edit(binding->source);
  source.bindings.set(key, binding);
  if (binding->kind == destination_kind::exchange) source.leads_to_exchanges = true;
  switch (source.routes_as) {
    case exchange_type::direct: source.by_key.edit(binding->routing_key).set(key, binding); break;
    case exchange_type::fanout: break;
    case exchange_type::topic:
      add_pattern(source.patterns, words_of(binding->routing_key), key, binding);
      break;
    case exchange_type::headers: source.headers.add(binding->headers, key, binding); break;
    case exchange_type::consistent_hash: {
      const auto weight = weight_of(binding->routing_key);
      const auto* valid = std::get_if<std::uint32_t>(&weight);  // it is, unless the store says otherwise
      source.choice.add(binding, valid != nullptr ? *valid : 1);
      break;
    }
    case exchange_type::modulus_hash:
    case exchange_type::random:
    case exchange_type::local_random: source.choice.add(binding); break;
    case exchange_type::recent_history:
    case exchange_type::delayed:
    case exchange_type::deduplicating: break;
  }
  by_destination_.edit(destination_key(binding->kind, binding->destination))
      .edit(binding->source)
      .set(key_of(binding->id), binding);
  ++binding_count_;
}

void topology::forget_source(const exchange_state& exchange) {
  binding_count_ -= exchange.bindings.size();
  const auto& source = exchange.definition.name;
  const binding_definition* last = nullptr;
  exchange.bindings.for_each([&](const std::string&, const binding_ptr& b) {
    // Thousands may lead to the same place, and go with the first of them.
    if (last != nullptr && last->kind == b->kind && last->destination == b->destination) return;
    last = b.get();
    const auto destination = destination_key(b->kind, b->destination);
    const auto* sources = by_destination_.find(destination);
    if (sources == nullptr || sources->find(source) == nullptr) return;
    by_destination_.edit(destination).erase(source);
    forget_destination_if_unused(*b, destination);
  });
}

void topology::forget_destination_if_unused(const binding_definition& binding, const std::string& key) {
  if (!by_destination_.find(key)->empty()) return;
  by_destination_.erase(key);
  if (binding.kind != destination_kind::queue) return;
  const auto* queue = queues_.find(binding.destination);
  if (queue != nullptr && (*queue)->of_actor) queues_.erase(binding.destination);
}

bool topology::remove_binding(const binding_ptr& binding, const std::string& key, changes& out) {
  const auto destination = destination_key(binding->kind, binding->destination);
  auto& sources = by_destination_.edit(destination);
  auto& from_there = sources.edit(binding->source);
  expects(from_there.erase(key_of(binding->id)), "a binding is known where it leads to");
  if (from_there.empty()) sources.erase(binding->source);
  forget_destination_if_unused(*binding, destination);
  --binding_count_;
  out.emplace_back(binding_removed{binding});
  expects(find_exchange(binding->source) != nullptr, "the source of a binding exists");
  auto& source = exchanges_.edit(binding->source);
  source.bindings.erase(key);
  switch (source.routes_as) {
    case exchange_type::direct: {
      auto& set = source.by_key.edit(binding->routing_key);
      set.erase(key);
      if (set.empty()) source.by_key.erase(binding->routing_key);
      break;
    }
    case exchange_type::fanout: break;
    case exchange_type::topic:
      if (remove_pattern(source.patterns.edit(), words_of(binding->routing_key), key)) source.patterns = {};
      break;
    case exchange_type::headers: source.headers.remove(binding->headers, key); break;
    case exchange_type::consistent_hash:
    case exchange_type::modulus_hash:
    case exchange_type::random:
    case exchange_type::local_random: source.choice.remove(*binding); break;
    case exchange_type::recent_history:
    case exchange_type::delayed:
    case exchange_type::deduplicating: break;
  }
  return source.bindings.empty() && source.definition.auto_delete;
}

std::vector<std::string> topology::remove_bindings_to(destination_kind to, const std::string& name,
                                                      changes& out) {
  std::vector<std::string> unused;
  const auto* found = by_destination_.find(destination_key(to, name));
  if (found == nullptr) return unused;
  const auto sources = *found;
  sources.for_each([&](const std::string&, const binding_set& from_there) {
    for (const auto& b : by_age(from_there)) {
      const auto key = key_of(b->kind, b->destination, b->routing_key, b->arguments);
      if (remove_binding(b, key, out)) unused.push_back(b->source);
    }
  });
  return unused;
}

// --- what the store held ------------------------------------------------------------------------------------------

void topology::restore(exchange_definition exchange) { add_exchange(std::move(exchange)); }

void topology::restore(queue_definition queue) {
  auto name = queue.name;
  queues_.set(name, std::make_shared<const queue_definition>(std::move(queue)));
}

void topology::restore(binding_definition binding) {
  if (const auto* source = find_exchange(binding.source);
      source != nullptr && source->routes_as == exchange_type::headers) {
    const auto arguments = decode_table(as_bytes(binding.arguments));
    if (arguments) {
      auto match = header_match_of(*arguments);
      if (auto* valid = std::get_if<header_match>(&match)) binding.headers = std::move(*valid);
    }
  }
  const auto key = key_of(binding.kind, binding.destination, binding.routing_key, binding.arguments);
  add_binding(std::make_shared<const binding_definition>(std::move(binding)), key);
}

// --- routing ------------------------------------------------------------------------------------------------------

namespace {

// Of several texts one after the other, and of nothing that they could be put together to.
std::uint64_t hash_of(std::string_view text, std::uint64_t before) {
  std::string octets;
  octets.reserve(text.size() + 8);
  big_endian::append(octets, before);
  octets += text;
  return stable_hash(octets);
}

// What a consistent hash sees of a message, as text: a header that is a number counts the same whatever its width.
std::string hashed_part(const hash_source& source, std::string_view routing_key,
                        std::span<const std::byte> properties) {
  const auto text = [](std::optional<std::string_view> found) { return std::string{found.value_or("")}; };
  switch (source.of) {
    case hash_source::part::routing_key: return std::string{routing_key};
    case hash_source::part::message_id: return text(message_id_of(properties));
    case hash_source::part::correlation_id: return text(correlation_id_of(properties));
    case hash_source::part::timestamp: {
      const auto found = property_offsets::scan(properties);
      if (!found || !found->has(property::timestamp)) return {};
      return std::to_string(
          big_endian::load<std::uint64_t>(found->value(properties, property::timestamp).data()));
    }
    case hash_source::part::header: {
      const auto headers = decode_table(headers_of(properties));
      const auto* value = headers ? headers->find(source.header) : nullptr;
      return value != nullptr ? to_string(*value) : std::string{};
    }
  }
  return {};
}

}  // namespace

// What comes to an exchange that remembers is kept if it leads somewhere: nobody has to remember what went nowhere. Also
// what cannot have passed before, so that no message overtakes another. No look goes through a second such exchange.
bool topology::is_kept(const exchange_state& exchange, std::string_view routing_key,
                       std::span<const std::byte> properties, const passage& with) const {
  if (exchange.delays && delay_of(properties) > 0) return true;
  if (!exchange.remembers || with.is_first) return false;
  std::vector<queue_ptr> behind;
  route(exchange, routing_key, properties, behind,
        {.chance = with.chance, .by_key_alone = with.by_key_alone, .is_first = true});
  return !behind.empty();
}

void topology::route(const exchange_state& start, std::string_view routing_key,
                     std::span<const std::byte> properties, std::vector<queue_ptr>& out,
                     const passage& with) const {
  const auto copies = with.by_key_alone ? std::vector<std::string>{} : copy_keys(properties);
  const auto for_each_key = [&](const auto& visit) {
    visit(routing_key);
    for (const auto& key : copies) visit(std::string_view{key});
  };
  const std::size_t begin = out.size();
  std::optional<field_table> headers;
  std::vector<const exchange_state*> to_visit, visited;
  if (start.definition.name.empty()) {
    // Every queue is bound to the default exchange by its name: [14].
    for_each_key([&](std::string_view key) {
      if (const auto* queue = queues_.find(key)) out.push_back(*queue);
    });
  } else {
    to_visit.push_back(&start);
  }
  while (!to_visit.empty()) {
    const auto* exchange = to_visit.back();
    to_visit.pop_back();
    if (std::find(visited.begin(), visited.end(), exchange) != visited.end()) continue;
    visited.push_back(exchange);
    if (exchange->keeper) [[unlikely]] {
      if (is_kept(*exchange, routing_key, properties, with)) {
        out.push_back(exchange->keeper);
        continue;
      }
    }
    bool routed = false;
    const auto follow = [&](const binding_ptr& b) {
      routed = true;
      if (b->kind == destination_kind::queue) {
        if (const auto* queue = queues_.find(b->destination)) out.push_back(*queue);
      } else if (const auto* next = find_exchange(b->destination)) {
        to_visit.push_back(next);
      }
    };
    const auto follow_each = [&](const std::string&, const binding_ptr& b) { follow(b); };
    const auto& choice = exchange->choice;
    switch (exchange->routes_as) {
      case exchange_type::direct:
        for_each_key([&](std::string_view key) {
          if (const auto* set = exchange->by_key.find(key)) set->for_each(follow_each);
        });
        break;
      case exchange_type::fanout: exchange->bindings.for_each(follow_each); break;
      case exchange_type::topic:
        for_each_key([&](std::string_view key) { match_topic(exchange->patterns, key, follow); });
        break;
      case exchange_type::headers:
        if (!headers) {
          auto decoded = decode_table(headers_of(properties));
          headers = decoded ? std::move(*decoded) : field_table{};
        }
        exchange->headers.for_each_candidate(*headers, [&](const binding_ptr& b) {
          if (headers_match(b->headers, *headers)) follow(b);
        });
        break;
      case exchange_type::consistent_hash:
        // By one key only, the first: two could not both have the one place.
        if (!choice.empty()) {
          follow(choice.by_weight(stable_hash(hashed_part(exchange->hashed, routing_key, properties))));
        }
        break;
      case exchange_type::modulus_hash:
        if (!choice.empty()) {
          std::uint64_t hash = 0;
          for_each_key([&](std::string_view key) { hash = hash_of(key, hash); });
          follow(choice.at(hash));
        }
        break;
      case exchange_type::random:
      case exchange_type::local_random:
        // Two of them on the way of one message draw for themselves.
        if (!choice.empty()) follow(choice.at(hash_of(exchange->definition.name, with.chance)));
        break;
      case exchange_type::recent_history:
        exchange->bindings.for_each(follow_each);
        if (with.histories != nullptr) with.histories->push_back(exchange->definition.name);
        break;
      case exchange_type::delayed:
      case exchange_type::deduplicating: break;  // no plain types
    }
    if (!routed && !exchange->alternate.empty()) {
      if (const auto* alternate = find_exchange(exchange->alternate)) to_visit.push_back(alternate);
    }
  }
  if (out.size() - begin > 1) {
    const auto first = out.begin() + static_cast<std::ptrdiff_t>(begin);
    std::sort(first, out.end(), [](const queue_ptr& a, const queue_ptr& b) { return a->id < b->id; });
    out.erase(std::unique(first, out.end()), out.end());
  }
}

}  // namespace posthorn
