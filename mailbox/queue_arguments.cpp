#include "mailbox/queue_arguments.hpp"

#include "mailbox/deduplication.hpp"
#include "mailbox/erlang_term.hpp"
#include "mailbox/stream_arguments.hpp"
#include "mailbox/topology.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

using kind = refusal::kind;

// What is compared when a queue is declared again: what its type knows, in RabbitMQ's order; ours stand at the ends.
constexpr std::array<std::string_view, 17> compared_of_classic = {
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
    "x-delivery-limit",
    "x-dispatch",
    "x-hash-header",
};
constexpr std::array<std::string_view, 22> compared_of_quorum = {
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
    "x-dispatch",
    "x-hash-header",
};
constexpr std::array<std::string_view, 7> compared_of_stream = {
    "x-max-length-bytes",
    "x-queue-type",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
    "x-queue-leader-locator",
};

// What is refused for one type of queue, because only another knows it [4]; of several, the first by name is told.
// RabbitMQ refuses x-delivery-limit for classic queues, too; here, all have it.
constexpr std::array<std::string_view, 8> not_of_quorum = {
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-priority",
    "x-queue-master-locator",
    "x-queue-mode",
    "x-queue-version",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
};
constexpr std::array<std::string_view, 13> not_of_classic = {
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-dead-letter-strategy",
    "x-delayed-retry-max",
    "x-delayed-retry-min",
    "x-delayed-retry-type",
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-quorum-initial-group-size",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
};

// The longest time that a queue or a message may be given: ten years, in milliseconds.
constexpr std::int64_t time_max = 315'360'000'000;
constexpr std::uint32_t delivery_limit_of_quorum = 20;
constexpr std::int64_t priority_max = 255;

// As RabbitMQ begins it; the rest never fits into an answer.
constexpr std::string_view deprecated_locator =
    "Feature `queue_master_locator` is deprecated.\nBy default, this feature is not permitted anymore.\nThe "
    "feature "
    "will be removed from a future major RabbitMQ version, regardless of the configuration; actual version "
    "to be "
    "determined.\nTo continue using this feature";

std::string quoted(std::string_view text) { return "'" + std::string{text} + "'"; }

std::string unacceptable(const field_value& value) {
  return "{unacceptable_type," + std::string{type_name(value.type)} + "}";
}

std::string no_integer(const field_value& value) {
  return "\"expected integer, got " + std::string{type_name(value.type)} + "\"";
}

std::string unsupported(std::string_view what, const field_value& value) {
  return "\"unsupported " + std::string{what} + " " + quoted(to_string(value)) + "\"";
}

std::string about(std::string_view what, std::int64_t value) {
  return "{" + std::string{what} + "," + std::to_string(value) + "}";
}

// Each check says what is wrong with the value, in RabbitMQ's words [3].
using complaint = std::optional<std::string>;

complaint check_whole(const field_value& value, std::int64_t least, std::int64_t most) {
  const auto number = as_integer(value);
  if (!number) return no_integer(value);
  if (*number < least) return *number == 0 ? about("value_zero", 0) : about("value_negative", *number);
  if (*number > most) return about("value_too_large", *number);
  return std::nullopt;
}

constexpr auto no_end = std::numeric_limits<std::int64_t>::max();
constexpr auto no_beginning = std::numeric_limits<std::int64_t>::min();

complaint check_expires(const field_value& value, const field_table&) {
  return check_whole(value, 1, time_max);
}
complaint check_time(const field_value& value, const field_table&) { return check_whole(value, 0, time_max); }
complaint check_count(const field_value& value, const field_table&) { return check_whole(value, 0, no_end); }
complaint check_size_of_group(const field_value& value, const field_table&) {
  return check_whole(value, 1, no_end);
}

complaint check_priority(const field_value& value, const field_table&) {
  if (const auto number = as_integer(value); number && *number > priority_max)
    return about("max_value_exceeded", *number);
  return check_whole(value, 0, priority_max);
}

complaint check_version(const field_value& value, const field_table&) {
  const auto number = as_integer(value);
  if (!number) return no_integer(value);
  if (*number < 0) return about("value_negative", *number);
  if (*number != 2) return unsupported("queue version", value);
  return std::nullopt;
}

complaint check_bool(const field_value& value, const field_table&) {
  if (!as_bool(value)) return unacceptable(value);
  return std::nullopt;
}

complaint check_text(const field_value& value, const field_table&) {
  if (value.type != 'S') return unacceptable(value);
  return std::nullopt;
}

complaint check_leader(const field_value& value, const field_table&) {
  if (value.type != 'S') return unacceptable(value);
  constexpr std::array<std::string_view, 4> known = {"client-local", "balanced", "random", "least-leaders"};
  if (std::find(known.begin(), known.end(), as_string(value)) == known.end())
    return "invalid_queue_locator_arg";
  return std::nullopt;
}

complaint check_strategy(const field_value& value, const field_table&) {
  if (value.type != 'S') return unacceptable(value);
  if (as_string(value) != "at-most-once" && as_string(value) != "at-least-once")
    return "invalid_dlx_strategy";
  return std::nullopt;
}

std::optional<mailbox_rules::delayed_retry> delayed_retry_of(const field_value& value) {
  const auto text = as_string(value);
  if (text == "disabled") return mailbox_rules::delayed_retry::disabled;
  if (text == "all") return mailbox_rules::delayed_retry::all;
  if (text == "failed") return mailbox_rules::delayed_retry::failed;
  if (text == "returned") return mailbox_rules::delayed_retry::returned;
  return std::nullopt;
}

// Those of `balance` that one message can have.
std::optional<balance_algorithm> dispatch_of(const field_value& value) {
  const auto name = value.type == 'S' ? as_string(value) : std::nullopt;
  const auto found = name ? balance_algorithm_named(*name) : std::nullopt;
  if (found == balance_algorithm::smallest_mailbox || found == balance_algorithm::broadcast)
    return std::nullopt;
  return found;
}

complaint check_dispatch(const field_value& value, const field_table&) {
  if (value.type != 'S') return unacceptable(value);
  if (!dispatch_of(value)) return unsupported("dispatch", value);
  return std::nullopt;
}

std::optional<mailbox_rules::overflow> overflow_of(const field_value& value) {
  const auto text = as_string(value);
  if (text == "drop-head") return mailbox_rules::overflow::drop_head;
  if (text == "reject-publish") return mailbox_rules::overflow::reject_publish;
  if (text == "reject-publish-dlx") return mailbox_rules::overflow::reject_publish_dlx;
  return std::nullopt;
}

complaint check_overflow(const field_value& value, const field_table&) {
  if (value.type != 'S') return unacceptable(value);
  if (!overflow_of(value)) return "invalid_overflow";
  return std::nullopt;
}

complaint check_routing_key(const field_value& value, const field_table& arguments) {
  if (value.type != 'S') return unacceptable(value);
  if (!arguments.contains("x-dead-letter-exchange")) return "routing_key_but_no_dlx_defined";
  return std::nullopt;
}

struct checked_argument {
  std::string_view name;
  complaint (*check)(const field_value& value, const field_table& arguments);
};

constexpr std::array<checked_argument, 23> checks = {{
    {"x-expires", check_expires},
    {"x-message-ttl", check_time},
    {"x-dead-letter-routing-key", check_routing_key},
    {"x-dead-letter-strategy", check_strategy},
    {"x-max-length", check_count},
    {"x-max-length-bytes", check_count},
    {"x-max-priority", check_priority},
    {"x-overflow", check_overflow},
    {"x-queue-version", check_version},
    {"x-single-active-consumer", check_bool},
    {"x-consumer-timeout", check_count},
    {"x-consumer-disconnected-timeout", check_count},
    {"x-delayed-retry-type", check_text},  // RabbitMQ takes any, and disables what it does not know
    {"x-delayed-retry-min", check_time},
    {"x-delayed-retry-max", check_time},
    {"x-max-in-memory-length", check_count},
    {"x-max-in-memory-bytes", check_count},
    {"x-quorum-initial-group-size", check_size_of_group},
    {"x-initial-cluster-size", check_size_of_group},
    {"x-queue-leader-locator", check_leader},
    {"x-dispatch", check_dispatch},
    {"x-hash-header", check_text},
    {deduplication_argument, check_bool},
}};

// What it says, or what is meant where it says nothing.
std::string_view type_of(const field_table& arguments) {
  const auto* type = arguments.find("x-queue-type");
  return type != nullptr && type->type == 'S' ? *as_string(*type) : std::string_view{"classic"};
}

bool is_quorum(const field_table& arguments) { return type_of(arguments) == "quorum"; }
bool is_stream(const field_table& arguments) { return type_of(arguments) == "stream"; }

template <std::size_t Count>
std::optional<refusal> first_of(const std::array<std::string_view, Count>& names,
                                const field_table& arguments, std::string_view described,
                                std::string_view why) {
  for (const auto name : names) {
    if (!arguments.contains(name)) continue;
    return refusal{kind::precondition_failed,
                   "invalid arg " + quoted(name) + " for " + std::string{described} + std::string{why}};
  }
  return std::nullopt;
}

std::optional<refusal> check_argument_names(const field_table& arguments, std::string_view described) {
  if (is_stream(arguments)) return check_stream_argument_names(arguments, described);
  return is_quorum(arguments)
             ? first_of(not_of_quorum, arguments, described, " of queue type rabbit_quorum_queue")
             : first_of(not_of_classic, arguments, described, " of queue type rabbit_classic_queue");
}

// What only a quorum queue knows.
void read_rules_of_quorum(const field_table& arguments, mailbox_rules& rules) {
  const auto time = [&](std::string_view name) -> std::optional<std::chrono::milliseconds> {
    const auto* value = arguments.find(name);
    const auto number = value == nullptr ? std::nullopt : as_integer(*value);
    if (!number || *number < 0) return std::nullopt;
    return std::chrono::milliseconds{std::min(*number, time_max)};
  };
  // Without reject-publish, it is the other strategy by another name [66].
  const auto* strategy = arguments.find("x-dead-letter-strategy");
  rules.at_least_once = strategy != nullptr && as_string(*strategy) == "at-least-once" &&
                        rules.on_overflow == mailbox_rules::overflow::reject_publish &&
                        rules.dead_letter_exchange.has_value();
  rules.consumer_timeout = time("x-consumer-timeout");
  const auto* retry = arguments.find("x-delayed-retry-type");
  rules.retry = retry == nullptr ? mailbox_rules::delayed_retry::disabled
                                 : delayed_retry_of(*retry).value_or(mailbox_rules::delayed_retry::disabled);
  rules.retry_min = time("x-delayed-retry-min").value_or(std::chrono::milliseconds{0});
  rules.retry_max = time("x-delayed-retry-max");
  // Where nothing stands aside, they are nothing to tell queues apart by.
  if (rules.retry != mailbox_rules::delayed_retry::disabled && rules.retry_min.count() != 0) return;
  rules.retry = mailbox_rules::delayed_retry::disabled;
  rules.retry_min = {};
  rules.retry_max.reset();
}

bool is_text(const field_value& value) { return value.type == 'S' || value.type == 'x'; }

// What RabbitMQ compares, and prints: the value without its type, of an age how long it is, in milliseconds.
std::string compared_as(std::string_view name, const field_value& value) {
  if (!is_text(value)) return erlang_term(value);
  if (const auto age = name == "x-max-age" ? stream_age(to_string(value)) : std::nullopt)
    return std::to_string(age->count());
  return to_string(value);
}

}  // namespace

std::optional<refusal> check_queue_arguments(const declare_queue& command, const field_table& arguments,
                                             std::string_view described) {
  if (const auto* type = arguments.find("x-queue-type")) {
    const auto text = as_string(*type);
    if (type->type != 'S' || !text) {
      return refusal{kind::precondition_failed, "invalid arg 'x-queue-type' for " + std::string{described} +
                                                    ": {unacceptable_type," +
                                                    std::string{type_name(type->type)} + "}"};
    }
    if (*text != "classic" && *text != "quorum" && *text != "stream") {
      return refusal{kind::precondition_failed, "invalid arg 'x-queue-type' for " + std::string{described} +
                                                    ": " + unsupported("queue type", *type)};
    }
    if (*text != "classic" && command.server_named) {  // [10]
      return refusal{kind::precondition_failed,
                     "Cannot declare a server-named queue for type rabbit_" + std::string{*text} + "_queue"};
    }
  }
  if (auto refused = check_argument_names(arguments, described)) return refused;
  if (const auto* exchange = arguments.find("x-dead-letter-exchange");
      exchange != nullptr && exchange->type != 'S') {
    return refusal{kind::precondition_failed, "invalid type " + quoted(type_name(exchange->type)) +
                                                  " for arg 'x-dead-letter-exchange' in " +
                                                  std::string{described}};
  }
  for (const auto& [name, check] : checks) {
    const auto* value = arguments.find(name);
    if (value == nullptr) continue;
    if (const auto wrong = check(*value, arguments)) {
      return refusal{kind::precondition_failed,
                     "invalid arg " + quoted(name) + " for " + std::string{described} + ": " + *wrong};
    }
  }
  if (is_stream(arguments)) {
    if (auto refused = check_stream_arguments(arguments, described)) return refused;
  }
  if (arguments.contains("x-queue-master-locator"))  // [11]
    return refusal{kind::internal_error, std::string{deprecated_locator}};
  if (is_quorum(arguments) || is_stream(arguments)) {  // [10]
    const auto invalid = [&](std::string_view what) {
      return refusal{kind::precondition_failed,
                     "invalid property " + quoted(what) + " for " + std::string{described}};
    };
    if (command.auto_delete) return invalid("auto-delete");
    if (command.exclusive) return invalid("exclusive-owner");
    if (!command.durable) return invalid("non-durable");
  }
  return std::nullopt;
}

mailbox_rules rules_of(const field_table& arguments) {
  mailbox_rules rules;
  if (is_stream(arguments)) {
    rules.stream = stream_rules_of(arguments);
    return rules;
  }
  // `least` is what the check lets through.
  const auto whole = [&](std::string_view name, std::int64_t least) -> std::optional<std::int64_t> {
    const auto* value = arguments.find(name);
    const auto number = value == nullptr ? std::nullopt : as_integer(*value);
    return number && *number >= least ? number : std::nullopt;
  };
  const auto text = [&](std::string_view name) -> std::optional<std::string> {
    const auto* value = arguments.find(name);
    if (value == nullptr || value->type != 'S') return std::nullopt;
    return std::string{*as_string(*value)};
  };
  if (const auto ttl = whole("x-message-ttl", 0)) rules.message_ttl = std::chrono::milliseconds{*ttl};
  if (const auto expires = whole("x-expires", 1)) rules.expires = std::chrono::milliseconds{*expires};
  if (const auto length = whole("x-max-length", 0)) rules.length_max = static_cast<std::uint64_t>(*length);
  if (const auto size = whole("x-max-length-bytes", 0)) rules.size_max = static_cast<std::uint64_t>(*size);
  if (const auto* overflow = arguments.find("x-overflow")) {
    rules.on_overflow = overflow_of(*overflow).value_or(mailbox_rules::overflow::drop_head);
    // A quorum queue does not know it, and takes it for nothing said [59].
    if (is_quorum(arguments) && rules.on_overflow == mailbox_rules::overflow::reject_publish_dlx)
      rules.on_overflow = mailbox_rules::overflow::drop_head;
  }
  rules.dead_letter_exchange = text("x-dead-letter-exchange");
  if (rules.dead_letter_exchange) rules.dead_letter_routing_key = text("x-dead-letter-routing-key");
  if (const auto limit = whole("x-delivery-limit", -1)) {
    if (*limit >= 0) {
      const auto most = std::int64_t{std::numeric_limits<std::uint32_t>::max()};
      rules.delivery_limit = static_cast<std::uint32_t>(std::min(*limit, most));
    }
  } else if (is_quorum(arguments) && !whole("x-delivery-limit", no_beginning)) {
    rules.delivery_limit = delivery_limit_of_quorum;
  }
  rules.quorum = is_quorum(arguments);
  if (rules.quorum) read_rules_of_quorum(arguments, rules);
  if (const auto most = whole("x-max-priority", 1); most && !rules.quorum)
    rules.priority_max = static_cast<std::uint8_t>(std::min(*most, priority_max));
  if (const auto* single = arguments.find("x-single-active-consumer"))
    rules.single_active = as_bool(*single).value_or(false);
  if (const auto* dispatch = arguments.find("x-dispatch"))
    rules.dispatch = dispatch_of(*dispatch).value_or(balance_algorithm::round_robin);
  if (rules.dispatch == balance_algorithm::consistent_hash) rules.hash_header = text("x-hash-header");
  rules.deduplicates = deduplicates(arguments);
  return rules;
}

field_table arguments_of(const mailbox_rules& rules) {
  field_table out;
  const auto whole = [&](const char* name, auto value) {
    if (value) out.add(name, field_value::of_long(static_cast<std::int64_t>(*value)));
  };
  const auto time = [&](const char* name, const auto& value) {
    if (value) out.add(name, field_value::of_long(value->count()));
  };
  const auto text = [&](const char* name, const auto& value) {
    if (value) out.add(name, field_value::of_string(*value));
  };
  time("x-message-ttl", rules.message_ttl);
  time("x-expires", rules.expires);
  whole("x-max-length", rules.length_max);
  whole("x-max-length-bytes", rules.size_max);
  switch (rules.on_overflow) {
    case mailbox_rules::overflow::drop_head: break;
    case mailbox_rules::overflow::reject_publish:
      out.add("x-overflow", field_value::of_string("reject-publish"));
      break;
    case mailbox_rules::overflow::reject_publish_dlx:
      out.add("x-overflow", field_value::of_string("reject-publish-dlx"));
      break;
  }
  text("x-dead-letter-exchange", rules.dead_letter_exchange);
  text("x-dead-letter-routing-key", rules.dead_letter_routing_key);
  if (rules.quorum) out.add("x-queue-type", field_value::of_string("quorum"));
  if (rules.at_least_once) out.add("x-dead-letter-strategy", field_value::of_string("at-least-once"));
  time("x-consumer-timeout", rules.consumer_timeout);
  if (rules.retry != mailbox_rules::delayed_retry::disabled) {
    constexpr const char* names[] = {"disabled", "all", "failed", "returned"};
    out.add("x-delayed-retry-type", field_value::of_string(names[static_cast<std::size_t>(rules.retry)]));
    out.add("x-delayed-retry-min", field_value::of_long(rules.retry_min.count()));
    time("x-delayed-retry-max", rules.retry_max);
  }
  if (rules.quorum && !rules.delivery_limit) {
    out.add("x-delivery-limit", field_value::of_long(-1));
  } else {
    whole("x-delivery-limit", rules.delivery_limit);
  }
  whole("x-max-priority", rules.priority_max);
  if (rules.single_active) out.add("x-single-active-consumer", field_value::of_bool(true));
  if (rules.dispatch != balance_algorithm::round_robin)
    out.add("x-dispatch", field_value::of_string(to_string(rules.dispatch)));
  text("x-hash-header", rules.hash_header);
  if (rules.deduplicates) out.add(std::string{deduplication_argument}, field_value::of_bool(true));
  if (rules.stream) {
    out.add("x-queue-type", field_value::of_string("stream"));
    whole("x-max-length-bytes", rules.stream->size_max);
    if (rules.stream->age_max)
      out.add("x-max-age",
              field_value::of_string(std::to_string(rules.stream->age_max->count() / 1000) + "s"));
    if (rules.stream->segment_size_max != stream_rules::segment_size_default) {
      out.add("x-stream-max-segment-size-bytes",
              field_value::of_long(static_cast<std::int64_t>(rules.stream->segment_size_max)));
    }
  }
  return out;
}

std::optional<std::string> inequivalent_argument(const field_table& current, const field_table& received,
                                                 std::string_view name) {
  const auto* now = current.find(name);
  const auto* asked = received.find(name);
  if (now == nullptr && asked == nullptr) return std::nullopt;
  const auto classic = field_value::of_string("classic");
  if (name == "x-queue-type") {  // a missing one is classic
    if (now == nullptr) now = &classic;
    if (asked == nullptr) asked = &classic;
  }
  const auto told = [](std::string_view asked_for, std::string_view is) {
    return "received " + std::string{asked_for} + " but current is " + std::string{is};
  };
  if (now != nullptr && asked != nullptr) {
    const auto is = compared_as(name, *now), wanted = compared_as(name, *asked);
    if (is == wanted && is_text(*now) == is_text(*asked)) return std::nullopt;
    const auto shown = [](const field_value& value, const std::string& text) {
      return value.type == 'V' ? std::string{"none"} : quoted(text);
    };
    return told(shown(*asked, wanted), shown(*now, is));
  }
  const auto described = [&](const field_value* v) {
    if (v == nullptr) return std::string{"none"};
    return "the value " + quoted(compared_as(name, *v)) + " of type " + quoted(type_name(v->type));
  };
  return told(described(asked), described(now));
}

std::optional<refusal> inequivalent_queue_arguments(const field_table& current, const field_table& received,
                                                    std::string_view described) {
  const auto first = [&](const auto& names) -> std::optional<refusal> {
    for (const auto name : names) {
      if (auto text = inequivalent_argument(current, received, name)) {
        return refusal{kind::precondition_failed,
                       "inequivalent arg " + quoted(name) + " for " + std::string{described} + ": " + *text};
      }
    }
    return std::nullopt;
  };
  if (is_quorum(current)) return first(compared_of_quorum);
  return is_stream(current) ? first(compared_of_stream) : first(compared_of_classic);
}

}  // namespace posthorn
