#include "access/policy.hpp"

#include "access/json_term.hpp"
#include "mailbox/erlang_term.hpp"
#include "mailbox/queue_arguments.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace posthorn {

namespace {

namespace json = boost::json;

// The longest time that a queue or a message is given: ten years, as for arguments.
constexpr std::int64_t time_max = 315'360'000'000;

// --- which keys there are ----------------------------------------------------------------------------------

// What becomes of two values for one key.
enum class keep : std::uint8_t {
  none,   // the key means nothing here
  first,  // of policy and operator policy, or of definition and argument
  second,
  least,
  most,
  limit,  // the smaller number, but if either is negative, the larger
};

// For whom a policy with this key does not apply at all.
enum barred : std::uint8_t { nobody = 0, classic = 1, quorum = 2, stream = 4 };
constexpr auto classic_and_quorum = std::uint8_t{classic | quorum};
constexpr auto classic_and_stream = std::uint8_t{classic | stream};
constexpr auto quorum_and_stream = std::uint8_t{quorum | stream};

// RabbitMQ checks in this order whose keys are right, and says the first complaint.
enum class owner : std::uint8_t { locator, general, quorum_queues, ours };

bool is_text(const json::value& v) { return v.is_string(); }
bool is_whole(const json::value& v) { return v.is_int64(); }
template <std::int64_t least, std::int64_t most = std::numeric_limits<std::int64_t>::max()>
bool is_number(const json::value& v) {
  return v.is_int64() && v.get_int64() >= least && v.get_int64() <= most;
}
bool is_one_of(const json::value& v, std::initializer_list<std::string_view> words) {
  return v.is_string() &&
         std::find(words.begin(), words.end(), std::string_view{v.get_string()}) != words.end();
}
bool is_strategy(const json::value& v) { return is_one_of(v, {"at-most-once", "at-least-once"}); }
bool is_mode(const json::value& v) { return is_one_of(v, {"default", "lazy"}); }
bool is_overflow(const json::value& v) {
  return is_one_of(v, {"drop-head", "reject-publish", "reject-publish-dlx"});
}
bool is_locator(const json::value& v) {
  return is_one_of(v, {"client-local", "balanced", "random", "least-leaders"});
}
bool is_retry_type(const json::value& v) { return is_one_of(v, {"all", "failed", "returned", "disabled"}); }
bool is_dispatch(const json::value& v) {
  return is_one_of(v, {"round-robin", "random", "weighted", "least-response-time", "hash"});
}
bool is_max_age(const json::value& v) { return v.is_string() && max_age_of(v.get_string()).has_value(); }
bool is_plain(const json::value& v) {
  const auto single = [](const json::value& element) { return element.is_string() || element.is_int64(); };
  return single(v) || (v.is_array() && std::all_of(v.get_array().begin(), v.get_array().end(), single));
}
bool never(const json::value&) { return false; }

struct key_rule {
  std::string_view key;
  owner whose;
  bool (*valid)(const json::value& value);
  std::string_view complaint;  // after the value
  bool for_operator;
  keep with_operator;                     // first: the policy's; second: the operator's
  keep in_classic, in_quorum, in_stream;  // first: the definition's; second: the argument's
  std::uint8_t not_for;
  std::string_view warning;  // empty: none
};

constexpr std::string_view mirrored =
    " does nothing: there are no mirrored queues. For a queue with replicas, declare it with x-queue-type: "
    "quorum";
constexpr std::string_view ignored = " does nothing; RabbitMQ ignores it since version 4, too";

// Sorted by key.
constexpr std::array<key_rule, 34> keys = {{
    {"alternate-exchange",
     owner::general,
     is_text,
     "is not a valid alternate exchange name",
     false,
     keep::none,
     keep::none,
     keep::none,
     keep::none,
     nobody,
     {}},
    {"consumer-disconnected-timeout",
     owner::general,
     is_number<0>,
     "is not a valid consumer disconnected timeout",
     false,
     keep::none,
     keep::none,
     keep::least,
     keep::none,
     nobody,
     {}},
    {"consumer-timeout",
     owner::general,
     is_number<0>,
     "is not a valid consumer timeout",
     false,
     keep::none,
     keep::least,
     keep::least,
     keep::least,
     nobody,
     {}},
    {"dead-letter-exchange",
     owner::general,
     is_text,
     "is not a valid dead letter exchange name",
     false,
     keep::none,
     keep::second,
     keep::second,
     keep::none,
     stream,
     {}},
    {"dead-letter-routing-key",
     owner::general,
     is_text,
     "is not a valid dead letter routing key",
     false,
     keep::none,
     keep::second,
     keep::second,
     keep::none,
     stream,
     {}},
    {"dead-letter-strategy",
     owner::general,
     is_strategy,
     "is not a valid dead letter strategy",
     false,
     keep::none,
     keep::second,
     keep::second,
     keep::none,
     classic_and_stream,
     {}},
    {"delayed-retry-max",
     owner::quorum_queues,
     is_number<1>,
     "is not a valid delayed retry maximum delay. Must be a positive integer",
     true,
     keep::least,
     keep::none,
     keep::least,
     keep::none,
     nobody,
     {}},
    {"delayed-retry-min",
     owner::quorum_queues,
     is_number<1>,
     "is not a valid delayed retry minimum delay. Must be a positive integer",
     true,
     keep::most,
     keep::none,
     keep::least,
     keep::none,
     nobody,
     {}},
    {"delayed-retry-type",
     owner::quorum_queues,
     is_retry_type,
     "is not a valid delayed retry type. Must be one of: all, failed, returned, disabled",
     true,
     keep::second,
     keep::none,
     keep::first,
     keep::none,
     nobody,
     {}},
    {"delivery-limit",
     owner::general,
     is_whole,
     "is not a valid delivery limit",
     true,
     keep::limit,
     keep::limit,
     keep::limit,
     keep::none,
     classic_and_stream,
     {}},
    {"dispatch",
     owner::ours,
     is_dispatch,
     "is not a valid dispatch. Must be one of: round-robin, random, weighted, least-response-time, hash",
     false,
     keep::none,
     keep::second,
     keep::second,
     keep::none,
     stream,
     {}},
    {"expires",
     owner::general,
     is_number<1>,
     "is not a valid queue expiry",
     true,
     keep::least,
     keep::least,
     keep::least,
     keep::none,
     stream,
     {}},
    {"ha-mode", owner::ours, is_plain, "is not a valid ha-mode value", true, keep::second, keep::none,
     keep::none, keep::none, quorum_and_stream, mirrored},
    {"ha-params", owner::ours, is_plain, "is not a valid ha-params value", true, keep::second, keep::none,
     keep::none, keep::none, quorum_and_stream, mirrored},
    {"ha-promote-on-failure", owner::ours, is_plain, "is not a valid ha-promote-on-failure value", true,
     keep::second, keep::none, keep::none, keep::none, quorum_and_stream, mirrored},
    {"ha-promote-on-shutdown", owner::ours, is_plain, "is not a valid ha-promote-on-shutdown value", true,
     keep::second, keep::none, keep::none, keep::none, quorum_and_stream, mirrored},
    {"ha-sync-batch-size", owner::ours, is_plain, "is not a valid ha-sync-batch-size value", true,
     keep::second, keep::none, keep::none, keep::none, quorum_and_stream, mirrored},
    {"ha-sync-mode", owner::ours, is_plain, "is not a valid ha-sync-mode value", true, keep::second,
     keep::none, keep::none, keep::none, quorum_and_stream, mirrored},
    {"hash-header",
     owner::ours,
     is_text,
     "is not a valid hash header",
     false,
     keep::none,
     keep::second,
     keep::second,
     keep::none,
     stream,
     {}},
    {"initial-cluster-size",
     owner::general,
     is_number<0>,
     "is not a valid cluster size",
     false,
     keep::none,
     keep::none,
     keep::none,
     keep::first,
     classic_and_quorum,
     {}},
    {"max-age",
     owner::general,
     is_max_age,
     "is not a valid max age",
     false,
     keep::none,
     keep::none,
     keep::none,
     keep::first,
     classic_and_quorum,
     {}},
    {"max-in-memory-bytes", owner::general, is_number<0>, "is not a valid maximum memory in bytes", true,
     keep::least, keep::none, keep::none, keep::none, classic_and_stream, ignored},
    {"max-in-memory-length", owner::general, is_number<0>, "is not a valid maximum memory in bytes", true,
     keep::least, keep::none, keep::none, keep::none, classic_and_stream, ignored},
    {"max-length",
     owner::general,
     is_number<0>,
     "is not a valid maximum length",
     true,
     keep::least,
     keep::least,
     keep::least,
     keep::none,
     stream,
     {}},
    {"max-length-bytes",
     owner::general,
     is_number<0>,
     "is not a valid maximum length in bytes",
     true,
     keep::least,
     keep::least,
     keep::least,
     keep::first,
     nobody,
     {}},
    {"message-ttl",
     owner::general,
     is_number<0>,
     "is not a valid message TTL",
     true,
     keep::least,
     keep::least,
     keep::least,
     keep::none,
     stream,
     {}},
    {"overflow",
     owner::general,
     is_overflow,
     "is not a valid overflow value",
     true,
     keep::second,
     keep::second,
     keep::first,
     keep::none,
     stream,
     {}},
    {"queue-leader-locator",
     owner::general,
     is_locator,
     "is not a valid queue leader locator value",
     false,
     keep::none,
     keep::first,
     keep::first,
     keep::first,
     nobody,
     {}},
    {"queue-master-locator",
     owner::locator,
     never,
     "use of deprecated queue-master-locator argument is not permitted",
     true,
     keep::none,
     keep::none,
     keep::none,
     keep::none,
     quorum_and_stream,
     {}},
    {"queue-mode", owner::general, is_mode, "is not a valid queue-mode value", false, keep::none, keep::none,
     keep::none, keep::none, quorum_and_stream, ignored},
    {"queue-version", owner::general, is_number<1, 2>, "is not a valid queue-version value", true,
     keep::second, keep::none, keep::none, keep::none, nobody, ignored},
    {"stream-filter-size-bytes",
     owner::general,
     is_number<16, 255>,
     "is not a valid filter size. Valid range is 16-255",
     false,
     keep::none,
     keep::none,
     keep::none,
     keep::first,
     nobody,
     {}},
    {"stream-max-segment-size-bytes",
     owner::general,
     is_number<0, 3'000'000'000>,
     "is not a valid segment size",
     false,
     keep::none,
     keep::none,
     keep::none,
     keep::first,
     classic_and_quorum,
     {}},
    {"target-group-size",
     owner::quorum_queues,
     is_number<1>,
     "is not a valid qq target count value",
     true,
     keep::most,
     keep::none,
     keep::first,
     keep::none,
     classic_and_stream,
     {}},
}};
static_assert(std::is_sorted(keys.begin(), keys.end(),
                             [](const auto& a, const auto& b) { return a.key < b.key; }));

const key_rule* rule_of(std::string_view key) {
  const auto found =
      std::lower_bound(keys.begin(), keys.end(), key,
                       [](const key_rule& rule, std::string_view name) { return rule.key < name; });
  return found != keys.end() && found->key == key ? &*found : nullptr;
}

field_value chosen(keep how, const field_value& first, const field_value& second) {
  if (how == keep::first || how == keep::none) return first;
  if (how == keep::second) return second;
  const auto a = as_integer(first), b = as_integer(second);
  if (!a || !b)
    return second;  // what is no number was not checked: the argument's, which the queue has today
  const bool smaller = how == keep::least || (how == keep::limit && *a >= 0 && *b >= 0);
  // The second one when both are equal: an argument stays as it was sent.
  return smaller ? (*a < *b ? first : second) : (*a > *b ? first : second);
}

// --- reading -----------------------------------------------------------------------------------------------

using sorted_fields = std::map<std::string_view, const json::value*>;
using complaint = std::optional<std::string>;

// A key and a value, in RabbitMQ's way to print them.
std::string printed(const sorted_fields& fields) {
  std::string out;
  for (const auto& [key, value] : fields) {
    out += (out.empty() ? "{" : ",{") + erlang_binary(key) + "," + erlang_term(*value) + "}";
  }
  return "[" + out + "]";
}

std::optional<std::int64_t> whole(const sorted_fields& fields, std::string_view key) {
  const auto found = fields.find(key);
  if (found == fields.end() || !found->second->is_int64()) return std::nullopt;
  return found->second->get_int64();
}

complaint check_delayed_retry(const sorted_fields& fields) {
  const auto type = fields.find("delayed-retry-type");
  const auto least = whole(fields, "delayed-retry-min"), most = whole(fields, "delayed-retry-max");
  if (type != fields.end() && !least && type->second->get_string() != "disabled") {
    return "delayed-retry-min is required when delayed-retry-type is " +
           std::string{std::string_view{type->second->get_string()}};
  }
  if (least && most && *most < *least) {
    return "delayed-retry-max (" + std::to_string(*most) + ") must not be smaller than delayed-retry-min (" +
           std::to_string(*least) + ")";
  }
  return std::nullopt;
}

complaint check_fields(policy_kind kind, const sorted_fields& fields) {
  sorted_fields unknown = fields;
  for (const auto whose : {owner::locator, owner::general, owner::quorum_queues, owner::ours}) {
    sorted_fields theirs;
    for (const auto& [key, value] : fields) {
      const auto* rule = rule_of(key);
      if (rule == nullptr || rule->whose != whose) continue;
      if (kind == policy_kind::of_operator && !rule->for_operator) continue;
      unknown.erase(key);
      theirs.emplace(key, value);
      if (rule->valid(*value)) continue;
      if (whose == owner::locator) return std::string{rule->complaint};
      return erlang_term(*value) + " " + std::string{rule->complaint};
    }
    if (whose == owner::quorum_queues) {
      if (auto wrong = check_delayed_retry(theirs)) return wrong;
    }
  }
  if (!unknown.empty()) return printed(unknown) + " are not recognised policy settings";
  return std::nullopt;
}

complaint check_definition(policy_kind kind, const json::value* value) {
  const auto unreadable = [&](const std::string& what) {
    return "parse error while reading policy definition: " + what + ". Validator: " +
           (kind == policy_kind::ordinary ? "policy_validator." : "operator_policy_validator.");
  };
  if (value == nullptr) return unreadable("undefined");
  if (const auto* list = value->if_array()) {
    if (list->empty()) return "no policy provided";
    return "definition must be a dictionary: " + erlang_term(*value);
  }
  const auto* object = value->if_object();
  if (object == nullptr) return unreadable(erlang_term(*value));
  if (object->empty()) return "no policy provided";
  sorted_fields fields;
  for (const auto& [key, field] : *object) fields.emplace(key, &field);
  return check_fields(kind, fields);
}

std::optional<policy_target> target_of(std::string_view text) {
  for (const auto target : {policy_target::all, policy_target::queues, policy_target::classic_queues,
                            policy_target::quorum_queues, policy_target::streams, policy_target::exchanges}) {
    if (to_string(target) == text) return target;
  }
  return std::nullopt;
}

// A whole number, whether or not it was written like one.
std::optional<std::int64_t> priority_of(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (!value.is_double()) return std::nullopt;
  const double number = value.get_double();
  constexpr double most = 9007199254740992.0;  // up to here, every whole number is one
  if (!(number >= -most && number <= most)) return std::nullopt;
  const auto rounded = static_cast<std::int64_t>(number);
  if (static_cast<double>(rounded) != number) return std::nullopt;
  return rounded;
}

field_value field_of(const json::value& value) {
  if (value.is_int64()) return field_value::of_long(value.get_int64());
  if (value.is_string()) return field_value::of_string(std::string_view{value.get_string()});
  expects(value.is_array(), "only what was checked becomes a definition");
  field_array list;
  for (const auto& element : value.get_array()) list.push_back(field_of(element));
  return field_value::of_array(std::move(list));
}

json::value json_of(const field_value& value) {
  if (const auto number = as_integer(value)) return *number;
  if (const auto text = as_string(value)) return json::value(json::string_view{text->data(), text->size()});
  json::array list;
  if (const auto* elements = as_array(value)) {
    for (const auto& element : *elements) list.push_back(json_of(element));
  }
  return list;
}

std::uint8_t bit_of(policy_subject subject) {
  switch (subject) {
    case policy_subject::exchange: return nobody;
    case policy_subject::classic_queue: return classic;
    case policy_subject::quorum_queue: return quorum;
    case policy_subject::stream: return stream;
  }
  return nobody;
}

policy_target own_target(policy_subject subject) {
  switch (subject) {
    case policy_subject::exchange: return policy_target::exchanges;
    case policy_subject::classic_queue: return policy_target::classic_queues;
    case policy_subject::quorum_queue: return policy_target::quorum_queues;
    case policy_subject::stream: return policy_target::streams;
  }
  return policy_target::all;
}

// What a value of the definition means to a queue.
field_value bounded(std::string_view key, const field_value& value) {
  const auto number = as_integer(value);
  if (!number) return value;
  if ((key == "message-ttl" || key == "expires") && *number > time_max) return field_value::of_long(time_max);
  if (key == "delivery-limit" && *number < -1) return field_value::of_long(-1);  // none, whatever the number
  return value;
}

}  // namespace

std::string_view to_string(policy_target target) noexcept {
  switch (target) {
    case policy_target::all: return "all";
    case policy_target::queues: return "queues";
    case policy_target::classic_queues: return "classic_queues";
    case policy_target::quorum_queues: return "quorum_queues";
    case policy_target::streams: return "streams";
    case policy_target::exchanges: return "exchanges";
  }
  return "";
}

policy_subject policy_subject_of(const field_table& queue_arguments) {
  const auto* type = queue_arguments.find("x-queue-type");
  const auto text = type == nullptr ? std::nullopt : as_string(*type);
  if (text == "quorum") return policy_subject::quorum_queue;
  if (text == "stream") return policy_subject::stream;
  return policy_subject::classic_queue;
}

bool policy::applies_to(policy_subject subject, std::string_view subject_name) const {
  const auto own = own_target(subject);
  if (apply_to == policy_target::queues) {
    if (subject == policy_subject::exchange) return false;
  } else if (apply_to != policy_target::all && apply_to != own) {
    return false;
  }
  const auto bit = bit_of(subject);
  for (const auto& [key, value] : definition) {
    const auto* rule = rule_of(key);
    if (rule == nullptr || (rule->not_for & bit) == 0) continue;
    // Ours: the limit exists for classic queues, too, if it is meant for them.
    if (key == "delivery-limit" && bit == classic && apply_to == own) continue;
    return false;
  }
  return names.matches(subject_name);
}

result<checked_policy> policy_of(policy_kind kind, std::string name, const json::object& fields) {
  checked_policy out;
  out.value.name = std::move(name);
  std::string wrong;
  const auto complain = [&](const std::string& text) { wrong += "\n" + text; };

  const auto* definition = fields.if_contains("definition");
  if (const auto complaint = check_definition(kind, definition)) complain(*complaint);

  if (const auto* apply_to = fields.if_contains("apply-to")) {
    const auto* text = apply_to->if_string();
    const auto target = text == nullptr ? std::nullopt : target_of(*text);
    if (target) {
      out.value.apply_to = *target;
    } else {
      complain("apply-to '" +
               (text == nullptr ? erlang_term(*apply_to) : std::string{std::string_view{*text}}) +
               "' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', 'streams', "
               "'exchanges', or 'all'");
    }
  }

  const auto* names = fields.if_contains("pattern");
  if (names == nullptr || !names->is_string()) {
    complain("pattern should be a binary but was " + (names == nullptr ? "undefined" : erlang_term(*names)));
  } else if (names->get_string().size() > pattern::length_max) {
    complain("pattern must not exceed " + std::to_string(pattern::length_max) + " bytes");
  } else if (auto compiled = pattern::compile(std::string{std::string_view{names->get_string()}})) {
    out.value.names = std::move(*compiled);
  } else {
    complain("pattern should be regular expression but is invalid: " + compiled.error().text);
  }

  if (const auto* priority = fields.if_contains("priority")) {
    if (const auto number = priority_of(*priority)) {
      out.value.priority = *number;
    } else {
      complain("priority should be a number, actually was " + erlang_term(*priority));
    }
  }
  if (!wrong.empty()) return refused("Validation failed\n" + wrong);

  sorted_fields sorted;
  for (const auto& [key, value] : definition->get_object()) sorted.emplace(key, &value);
  for (const auto& [key, value] : sorted) {
    out.value.definition.add(std::string{key}, field_of(*value));
    if (const auto& warning = rule_of(key)->warning; !warning.empty()) {
      out.warnings.push_back(std::string{key} + std::string{warning});
    }
  }
  return out;
}

json::object to_json(const policy& value) {
  json::object definition;
  for (const auto& [key, field] : value.definition) definition.emplace(key, json_of(field));
  json::object out;
  out.emplace("pattern", value.names.text());
  out.emplace("apply-to", json::string_view{to_string(value.apply_to)});
  out.emplace("definition", std::move(definition));
  out.emplace("priority", value.priority);
  return out;
}

void policy_set::set(policy value) {
  auto next = std::make_shared<list>();
  next->reserve(policies_->size() + 1);
  for (const auto& present : *policies_) {
    if (present->name != value.name) next->push_back(present);
  }
  auto added = std::make_shared<const policy>(std::move(value));
  const auto at =
      std::lower_bound(next->begin(), next->end(), added, [](const auto& present, const auto& wanted) {
        if (present->priority != wanted->priority) return present->priority > wanted->priority;
        return present->name < wanted->name;
      });
  next->insert(at, std::move(added));
  policies_ = std::move(next);
}

bool policy_set::erase(std::string_view name) {
  if (find(name) == nullptr) return false;
  auto next = std::make_shared<list>(*policies_);
  std::erase_if(*next, [&](const auto& present) { return present->name == name; });
  policies_ = std::move(next);
  return true;
}

const policy* policy_set::match(policy_subject subject, std::string_view name) const {
  for (const auto& candidate : *policies_) {
    if (candidate->applies_to(subject, name)) return candidate.get();
  }
  return nullptr;
}

const policy* policy_set::find(std::string_view name) const {
  for (const auto& present : *policies_) {
    if (present->name == name) return present.get();
  }
  return nullptr;
}

field_table merged_definition(const policy* ordinary, const policy* of_operator) {
  std::map<std::string_view, field_value> merged;
  if (ordinary != nullptr) {
    for (const auto& [key, value] : ordinary->definition) merged.emplace(key, value);
  }
  if (of_operator != nullptr) {
    for (const auto& [key, value] : of_operator->definition) {
      const auto [at, added] = merged.emplace(key, value);
      if (added) continue;
      const auto* rule = rule_of(key);
      at->second = chosen(rule == nullptr ? keep::second : rule->with_operator, at->second, value);
    }
  }
  field_table out;
  for (auto& [key, value] : merged) out.add(std::string{key}, std::move(value));
  return out;
}

applied_policy apply(const vhost_policies& policies, policy_subject subject, std::string_view name) {
  const auto* ordinary = policies.ordinary.match(subject, name);
  const auto* of_operator = policies.of_operator.match(subject, name);
  applied_policy out;
  if (ordinary != nullptr) out.policy = ordinary->name;
  if (of_operator != nullptr) out.operator_policy = of_operator->name;
  out.definition = merged_definition(ordinary, of_operator);
  return out;
}

field_table effective_arguments(const field_table& arguments, const field_table& definition) {
  const auto subject = policy_subject_of(arguments);
  field_table out = arguments;
  for (const auto& [key, value] : definition) {
    const auto* rule = rule_of(key);
    if (rule == nullptr) continue;
    const auto how = subject == policy_subject::stream         ? rule->in_stream
                     : subject == policy_subject::quorum_queue ? rule->in_quorum
                                                               : rule->in_classic;
    if (how == keep::none) continue;
    const auto name = "x-" + key;
    const auto meant = bounded(key, value);
    const auto* argument = out.find(name);
    out.set(name, argument == nullptr ? meant : chosen(how, meant, *argument));
  }
  return out;
}

mailbox_rules effective_rules(const field_table& arguments, const field_table& definition) {
  return rules_of(effective_arguments(arguments, definition));
}

std::optional<std::string> effective_alternate_exchange(const field_table& arguments,
                                                        const field_table& definition) {
  for (const auto* table : {&arguments, &definition}) {
    const auto* value = table->find("alternate-exchange");
    const auto text = value == nullptr ? std::nullopt : as_string(*value);
    if (text) return std::string{*text};
  }
  return std::nullopt;
}

std::optional<std::chrono::milliseconds> max_age_of(std::string_view text) {
  std::int64_t count = 0;
  const auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (wrong != std::errc{} || count <= 0 || end + 1 != text.data() + text.size()) return std::nullopt;
  constexpr std::int64_t second = 1000, day = 24 * 3600 * second;
  std::int64_t unit = 0;
  switch (*end) {
    case 'Y': unit = 365 * day; break;
    case 'M': unit = 30 * day; break;
    case 'D': unit = day; break;
    case 'h': unit = 3600 * second; break;
    case 'm': unit = 60 * second; break;
    case 's': unit = second; break;
    default: return std::nullopt;
  }
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  return std::chrono::milliseconds{count > most / unit ? most : count * unit};
}

}  // namespace posthorn
