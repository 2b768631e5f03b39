// How many connections, channels and queues there may be: of a virtual host, of a user, of the node. Who
// counts them is the caller; here is what the numbers mean, and RabbitMQ's texts. Numbers in brackets are
// those of docs/amqp.md.
//
// A limit of 0 allows none at all. A negative one is none, and stays in the definitions as it was given. What
// is there already when a limit is set stays.
//
//   checked when           in this order                                          refused with
//   connection.open [70]   node's connections, vhost's connections, user's        530, connection
//   channel.open [72]      user's channels, node's channels                       530, connection
//   queue.declare [19]     vhost's queues, cluster's queues; after permissions    406, channel
//                          and arguments, and only if it would create
//
// Threads   everything here is a plain value.
#pragma once

#include "mailbox/result.hpp"
#include "mailbox/topology.hpp"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

namespace posthorn {

struct vhost_limits {
  std::optional<std::int64_t> connections_max{}, queues_max{};

  friend bool operator==(const vhost_limits&, const vhost_limits&) = default;
};

struct user_limits {
  std::optional<std::int64_t> connections_max{}, channels_max{};

  friend bool operator==(const user_limits&, const user_limits&) = default;
};

// Each counts what is there without the one that asks. Nothing: it may.
[[nodiscard]] std::optional<refusal> check_connection(const vhost_limits& limits, std::uint64_t present,
                                                      std::string_view vhost, std::string_view user);
[[nodiscard]] std::optional<refusal> check_connection(const user_limits& limits, std::uint64_t present,
                                                      std::string_view user);
[[nodiscard]] std::optional<refusal> check_channel(const user_limits& limits, std::uint64_t present,
                                                   std::string_view user);
[[nodiscard]] std::optional<refusal> check_queue(const vhost_limits& limits, std::uint64_t present,
                                                 std::string_view queue, std::string_view vhost);

// The node's own limits, from its configuration.
[[nodiscard]] std::optional<refusal> check_node_connection(std::optional<std::int64_t> most,
                                                           std::uint64_t present);
[[nodiscard]] std::optional<refusal> check_node_channel(std::optional<std::int64_t> most,
                                                        std::uint64_t present, std::string_view node);
[[nodiscard]] std::optional<refusal> check_cluster_queue(std::optional<std::int64_t> most,
                                                         std::uint64_t present, std::string_view queue);

// As in RabbitMQ's definitions: {"max-connections": 5, "max-queues": -1}. Anything else in it is refused, in
// RabbitMQ's words.
[[nodiscard]] result<vhost_limits> vhost_limits_of(const boost::json::value& value);
[[nodiscard]] result<user_limits> user_limits_of(const boost::json::value& value);
[[nodiscard]] boost::json::object to_json(const vhost_limits& limits);
[[nodiscard]] boost::json::object to_json(const user_limits& limits);

}  // namespace posthorn
