// A node's or a virtual host's definitions as RabbitMQ exports and imports them: the JSON of `rabbitmqctl
// export_definitions` and of GET /api/definitions, as far as users, virtual hosts and what is laid down for
// them goes. Queues, exchanges and bindings are passed on as they are: whoever has the topology reads them.
//
//   users               name, password_hash, hashing_algorithm, limits; tags as a list, or, when it is read,
//                       one text with commas; password, which is to be hashed, only when it is read. Users
//                       are exported with their hash, so that the file is a secret
//   vhosts              name, limits, metadata.description, .tags, .default_queue_type; these are read
//                       outside metadata, too
//   permissions         user, vhost, configure, write, read
//   topic_permissions   user, vhost, exchange, write, read
//   policies            vhost, name, pattern, definition, priority, apply-to
//   parameters          of component operator_policy and vhost-limits; all others are kept as they are
//   global_parameters, queues, exchanges, bindings
//                       as they came
//   rabbit_version, rabbitmq_version
//                       not read; the caller tells what is written
//
// Everything is checked before anything is done: a file with one mistake is refused as a whole, with where
// the mistake is ("policies[2]: Validation failed…"). RabbitMQ has then imported what came before. A
// permission for a user that is not in the file is no mistake; whoever imports finds it out.
//
// Threads   plain values.
#pragma once

#include "access/limits.hpp"
#include "access/password.hpp"
#include "access/permissions.hpp"
#include "access/policy.hpp"
#include "access/user.hpp"
#include "mailbox/result.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

struct virtual_host {
  std::string name;
  std::string description;
  std::vector<std::string> tags;
  std::optional<std::string> default_queue_type;
  vhost_limits limits;

  friend bool operator==(const virtual_host&, const virtual_host&) = default;
};

struct definitions {
  struct user_entry {
    user value;
    std::optional<secret> password;  // to be hashed by a worker, into value.password
  };
  struct permissions_entry {
    std::string user, vhost;
    resource_permissions given;
  };
  struct topic_permissions_entry {
    std::string user, vhost, exchange;
    topic_permissions given;
  };
  struct policy_entry {
    policy_kind kind = policy_kind::ordinary;
    std::string vhost;
    policy value;
  };

  std::vector<user_entry> users;
  std::vector<virtual_host>
      vhosts;  // those whose limits came as a parameter, too, though they stand nowhere else
  std::vector<permissions_entry> permissions;
  std::vector<topic_permissions_entry> topic_permissions;
  std::vector<policy_entry> policies;
  boost::json::array parameters, global_parameters;
  boost::json::array queues, exchanges, bindings;

  std::vector<std::string> warnings;  // of reading; sentences
};

// `vhost` is for what names none, as in a file that was exported from one virtual host; without it, that is a
// mistake.
[[nodiscard]] result<definitions> definitions_of(std::string_view text,
                                                 std::optional<std::string_view> vhost = std::nullopt);

// In RabbitMQ's format; a password that waits to be hashed is left out. `version` is the RabbitMQ whose
// behaviour this is.
[[nodiscard]] boost::json::object to_json(const definitions& all, std::string_view version);

}  // namespace posthorn
