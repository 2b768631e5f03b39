// The queues, exchanges and bindings of a file of definitions (access/definitions.hpp): how RabbitMQ writes them, and
// what is to be declared to have them.
//
//   exchanges   name, vhost, type, durable, auto_delete, internal, arguments
//   queues      name, vhost, durable, auto_delete, arguments, type
//   bindings    source, vhost, destination, destination_type, routing_key, arguments
//
// Exclusive queues are not exported, nor what leads to them, nor what every virtual host has by itself (the default
// exchange, amq.*). JSON has fewer types than AMQP: whole numbers become 'l', others 'd', texts 'S'; that an argument was
// of another width makes no difference to whoever declares the queue again [2].
//
// Threads   plain functions.
#pragma once

#include "access/definitions.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/result.hpp"
#include "mailbox/topology.hpp"

#include <boost/json/object.hpp>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace posthorn {

using topology_command = std::variant<declare_exchange, delete_exchange, declare_queue, bind, unbind>;

struct imported_topology {
  // By virtual host; of each exchanges, then queues, then bindings.
  std::map<std::string, std::vector<topology_command>> commands;
  std::vector<std::string> warnings;  // sentences
};

// `vhost`: all is for this one, whatever the file says. Refuses what cannot be read, and says where it stands
// ("queues[3]: …"); what a declaration may not be is found out when it is declared.
[[nodiscard]] result<imported_topology> topology_of(const definitions& all,
                                                    std::optional<std::string_view> vhost = std::nullopt);

// Adds what is in a virtual host.
void export_topology(const topology& from, definitions& to);

// Nothing: a name is longer than 255 octets, or a number does not fit.
[[nodiscard]] std::optional<field_table> table_of(const boost::json::object& fields);
[[nodiscard]] boost::json::object to_json(const field_table& table);

}  // namespace posthorn
