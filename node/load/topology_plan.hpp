// The queues, the exchange and the bindings of a load: made before it, and removed after it.
//
// Threads   pure functions over a connection of the caller's.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/amqp_client.hpp"
#include "node/load/load.hpp"

#include <string>
#include <string_view>

namespace posthorn {

// The table of arguments that queues are declared with, without its length. Empty `type`: no argument.
[[nodiscard]] std::string queue_arguments_of(std::string_view type);
// A durable queue.
[[nodiscard]] amqp091::method::queue_declare durable_queue(std::string_view name, std::string_view arguments);

// Unless they are to be kept as they are, what has their names is removed first.
[[nodiscard]] result<void> make_topology(const load_options& options);
[[nodiscard]] result<void> remove_topology(const load_options& options, amqp_client& client);

}  // namespace posthorn
