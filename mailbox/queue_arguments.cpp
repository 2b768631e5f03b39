#include "mailbox/queue_arguments.hpp"

#include "mailbox/topology.hpp"

#include <array>

namespace posthorn {

namespace {

using kind = refusal::kind;

// What RabbitMQ compares when a classic queue is declared again.
constexpr std::array<std::string_view, 12> compared = {
    "x-expires",      "x-message-ttl", "x-max-length",           "x-max-length-bytes",
    "x-max-priority", "x-overflow",    "x-dead-letter-exchange", "x-dead-letter-routing-key",
    "x-queue-type",   "x-queue-mode",  "x-queue-version",        "x-single-active-consumer",
};

// Promises that a queue of this version does not keep yet.
constexpr std::array<std::string_view, 14> not_kept = {
    "x-expires",          "x-message-ttl",           "x-max-length",
    "x-max-length-bytes", "x-max-priority",          "x-overflow",
    "x-dispatch",         "x-dead-letter-exchange",  "x-dead-letter-routing-key",
    "x-delivery-limit",   "x-dead-letter-strategy",  "x-single-active-consumer",
    "x-consumer-timeout", "x-message-deduplication",
};

std::string quoted(std::string_view text) { return "'" + std::string{text} + "'"; }

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
    if (*text != "classic" && *text != "quorum") {
      return refusal{kind::precondition_failed, "invalid arg 'x-queue-type' for " + std::string{described} +
                                                    ": queue type " + quoted(*text) +
                                                    " is not supported; use 'classic' or 'quorum'"};
    }
    if (*text == "quorum") {  // [10]
      if (command.server_named) {
        return refusal{kind::precondition_failed, "Cannot declare a server-named queue for type quorum"};
      }
      const auto invalid = [&](std::string_view what) {
        return refusal{kind::precondition_failed,
                       "invalid property " + quoted(what) + " for " + std::string{described}};
      };
      if (command.auto_delete) return invalid("auto-delete");
      if (command.exclusive) return invalid("exclusive-owner");
      if (!command.durable) return invalid("non-durable");
    }
  }
  for (const auto name : not_kept) {
    if (arguments.contains(name)) {
      return refusal{kind::precondition_failed,
                     "invalid arg " + quoted(name) + " for " + std::string{described} +
                         ": this version of Posthorn does not support it yet; declare the "
                         "queue without it"};
    }
  }
  return std::nullopt;
}

std::optional<std::string> inequivalent_argument(const field_table& current, const field_table& received,
                                                 std::string_view name) {
  const auto* now = current.find(name);
  const auto* asked = received.find(name);
  if (now == nullptr && asked == nullptr) return std::nullopt;
  if (name == "x-queue-type") {  // a missing one is classic
    const auto type_of = [](const field_value* v) {
      return v == nullptr ? "classic" : as_string(*v).value_or("?");
    };
    if (type_of(now) == type_of(asked)) return std::nullopt;
  }
  const auto described = [](const field_value* v) {
    if (v == nullptr) return std::string{"none"};
    return "the value " + quoted(to_string(*v)) + " of type " + quoted(type_name(v->type));
  };
  if (now != nullptr && asked != nullptr) {
    const auto a = as_integer(*now), b = as_integer(*asked);
    if (a && b ? *a == *b : *now == *asked) return std::nullopt;
    return "received " + quoted(to_string(*asked)) + " but current is " + quoted(to_string(*now));
  }
  return "received " + described(asked) + " but current is " + described(now);
}

std::optional<refusal> inequivalent_queue_arguments(const field_table& current, const field_table& received,
                                                    std::string_view described) {
  for (const auto name : compared) {
    if (auto text = inequivalent_argument(current, received, name)) {
      return refusal{kind::precondition_failed,
                     "inequivalent arg " + quoted(name) + " for " + std::string{described} + ": " + *text};
    }
  }
  return std::nullopt;
}

}  // namespace posthorn
