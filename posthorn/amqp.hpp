// The AMQP 0-9-1 door of a node in your own program: RabbitMQ's clients publish to its queues, exchanges and durable actors.
//
//   auto door = posthorn::listen_for_amqp(*node, {.host = "127.0.0.1", .port = 5672});
//
// Ownership   the door goes before its node does.
// Errors      `refused` when the address cannot be used; the text says why.
#pragma once

#include "gateway/amqp091/server.hpp"
#include "posthorn/node.hpp"

#include <memory>
#include <utility>

namespace posthorn {

// An open door: `port()` and `counts()`; `stop` closes it before it goes.
using amqp_door = amqp091::server;
// Where it listens, and what it allows.
using amqp_settings = amqp091::server_settings;

// Opens a door to the node. It takes clients from the moment that this returns.
[[nodiscard]] inline result<std::unique_ptr<amqp_door>> listen_for_amqp(node& n,
                                                                        const amqp_settings& settings) {
  return amqp_door::listen(n.broker(), settings);
}

}  // namespace posthorn
