#include "access/limits.hpp"

#include "access/json_term.hpp"
#include "mailbox/erlang_term.hpp"

#include <array>
#include <map>
#include <string>
#include <utility>

namespace posthorn {

namespace {

namespace json = boost::json;
using kind = refusal::kind;

// Whether one more would be too many.
bool is_over(std::optional<std::int64_t> most, std::uint64_t present) {
  return most && *most >= 0 && present >= static_cast<std::uint64_t>(*most);
}

std::string quoted(std::string_view text) { return "'" + std::string{text} + "'"; }

struct named_limit {
  std::string_view name;
  std::optional<std::int64_t>& value;
};

// `where` is RabbitMQ's name for all of them. The complaints stand in the opposite order of the limits, as in
// RabbitMQ.
result<void> read(const json::value& value, const std::array<named_limit, 2>& limits, std::string_view where,
                  bool with_heading) {
  const auto* fields = value.if_object();
  if (fields == nullptr) return refused(std::string{where} + " not a list " + erlang_term(value));
  std::string wrong;
  std::map<std::string_view, const json::value*> unknown;
  for (const auto& [name, field] : *fields) unknown.emplace(name, &field);
  for (const auto& [name, limit] : limits) {
    const auto found = unknown.find(name);
    if (found == unknown.end()) continue;
    const auto* number = found->second->if_int64();
    if (number == nullptr) {
      wrong = std::string{name} + " should be a number, actually was " + erlang_term(*found->second) +
              (wrong.empty() ? "" : "\n") + wrong;
    } else {
      limit = *number;
    }
    unknown.erase(found);
  }
  if (!unknown.empty()) {
    std::string terms;
    for (const auto& [name, field] : unknown) {
      terms += (terms.empty() ? "{" : ",{") + erlang_binary(name) + "," + erlang_term(*field) + "}";
    }
    wrong =
        "Unrecognised terms [" + terms + "] in " + std::string{where} + (wrong.empty() ? "" : "\n") + wrong;
  }
  if (wrong.empty()) return {};
  return refused((with_heading ? "Validation failed\n\n" : "") + wrong);
}

void write(json::object& to, std::string_view name, std::optional<std::int64_t> limit) {
  if (limit) to.emplace(name, *limit);
}

}  // namespace

std::optional<refusal> check_connection(const vhost_limits& limits, std::uint64_t present,
                                        std::string_view vhost, std::string_view user) {
  if (!is_over(limits.connections_max, present)) return std::nullopt;
  return refusal{kind::not_allowed, "access to vhost " + quoted(vhost) + " refused for user " + quoted(user) +
                                        ": connection limit (" + std::to_string(*limits.connections_max) +
                                        ") is reached"};
}

std::optional<refusal> check_connection(const user_limits& limits, std::uint64_t present,
                                        std::string_view user) {
  if (!is_over(limits.connections_max, present)) return std::nullopt;
  return refusal{kind::not_allowed, "connection refused for user " + quoted(user) +
                                        ": user connection limit (" +
                                        std::to_string(*limits.connections_max) + ") is reached"};
}

std::optional<refusal> check_channel(const user_limits& limits, std::uint64_t present,
                                     std::string_view user) {
  if (!is_over(limits.channels_max, present)) return std::nullopt;
  return refusal{kind::not_allowed, "number of channels opened for user " + quoted(user) +
                                        " has reached the maximum allowed user limit of " +
                                        std::to_string(*limits.channels_max)};
}

std::optional<refusal> check_queue(const vhost_limits& limits, std::uint64_t present, std::string_view queue,
                                   std::string_view vhost) {
  if (!is_over(limits.queues_max, present)) return std::nullopt;
  return refusal{kind::precondition_failed, "cannot declare queue " + quoted(queue) +
                                                ": queue limit in vhost " + quoted(vhost) + " (" +
                                                std::to_string(*limits.queues_max) + ") is reached"};
}

std::optional<refusal> check_node_connection(std::optional<std::int64_t> most, std::uint64_t present) {
  if (!is_over(most, present)) return std::nullopt;
  return refusal{kind::not_allowed,
                 "connection refused: node connection limit (" + std::to_string(*most) + ") is reached"};
}

std::optional<refusal> check_node_channel(std::optional<std::int64_t> most, std::uint64_t present,
                                          std::string_view node) {
  if (!is_over(most, present)) return std::nullopt;
  return refusal{kind::not_allowed, "number of channels opened on node " + quoted(node) +
                                        " has reached the maximum allowed limit of " + std::to_string(*most)};
}

std::optional<refusal> check_cluster_queue(std::optional<std::int64_t> most, std::uint64_t present,
                                           std::string_view queue) {
  if (!is_over(most, present)) return std::nullopt;
  return refusal{kind::precondition_failed, "cannot declare queue " + quoted(queue) +
                                                ": queue limit in cluster (" + std::to_string(*most) +
                                                ") is reached"};
}

result<vhost_limits> vhost_limits_of(const json::value& value) {
  vhost_limits out;
  const auto done = read(value, {{{"max-connections", out.connections_max}, {"max-queues", out.queues_max}}},
                         "limits", true);
  if (!done) return done.error();
  return out;
}

result<user_limits> user_limits_of(const json::value& value) {
  user_limits out;
  const auto done =
      read(value, {{{"max-connections", out.connections_max}, {"max-channels", out.channels_max}}},
           "user-limits", false);
  if (!done) return done.error();
  return out;
}

json::object to_json(const vhost_limits& limits) {
  json::object out;
  write(out, "max-connections", limits.connections_max);
  write(out, "max-queues", limits.queues_max);
  return out;
}

json::object to_json(const user_limits& limits) {
  json::object out;
  write(out, "max-connections", limits.connections_max);
  write(out, "max-channels", limits.channels_max);
  return out;
}

}  // namespace posthorn
