// The HTTP door of a node in your own program: health, metrics, the management API, and what `posthorn status`,
// `posthorn list queues` and `posthorn actors` talk to.
//
//   auto door = posthorn::listen_for_http(*node, {.host = "127.0.0.1", .port = 15672});
//
// Ownership   the door goes before its node does, and before the AMQP door that it counts the connections of.
// Errors      `refused` or `unreachable` when the address cannot be used; the text says why.
#pragma once

#include "gateway/http_door.hpp"
#include "posthorn/amqp.hpp"
#include "posthorn/node.hpp"

#include <memory>

namespace posthorn {

// `amqp` may be null: then there are no connections to count.
[[nodiscard]] inline result<std::unique_ptr<http_door>> listen_for_http(node& n,
                                                                        const http_door_settings& settings,
                                                                        const amqp_door* amqp = nullptr) {
  return http_door::listen(n.broker(), settings, amqp);
}

}  // namespace posthorn
