// Users, virtual hosts and what is laid down for them, over HTTP: paths and JSON as RabbitMQ's management API has them,
// with basic authentication.
//
//   GET              /api/whoami
//   GET              /api/users                           PUT, DELETE  /api/users/NAME
//   GET              /api/users/NAME/permissions
//   GET              /api/vhosts                          PUT, DELETE  /api/vhosts/VHOST
//   GET              /api/vhosts/VHOST/permissions
//   GET              /api/permissions                     PUT, DELETE  /api/permissions/VHOST/USER
//   GET              /api/topic-permissions               PUT, DELETE  /api/topic-permissions/VHOST/USER
//   GET              /api/policies[/VHOST]                PUT, DELETE  /api/policies/VHOST/NAME
//   GET              /api/operator-policies[/VHOST]       PUT, DELETE  /api/operator-policies/VHOST/NAME
//   GET              /api/vhost-limits[/VHOST]            PUT, DELETE  /api/vhost-limits/VHOST/LIMIT
//   GET              /api/user-limits[/USER]              PUT, DELETE  /api/user-limits/USER/LIMIT
//   GET, POST        /api/definitions[/VHOST]
//   DELETE           /api/connections/username/USER, and, ours, /api/connections/vhost/VHOST
//
// What can be put can be got under the same path. A PUT is answered when the change is durable and holds: 201, or 204
// when there was one before; with `?if-new`, ours, the latter is refused (400). The header X-Reason says what clients that
// are closed are told.
//
// A file of definitions is refused as a whole if something in it is wrong; exchanges, queues and bindings that cannot be
// declared (a limit, a type that is not there) are left out, and 400 says which, when all others are there.
//
// Who may   administrators everything; policymakers, policies where they have permissions; all with a tag of the management
//           interface, what concerns themselves.
// Errors    400 wrong, and why; 401 not allowed; 404 there is none; 503 not just now.
// Threads   called on the HTTP server's threads; answers come on any.
#pragma once

#include "access/directory.hpp"
#include "access/topology_definitions.hpp"
#include "gateway/http/delayed.hpp"
#include "gateway/http/message.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn::http {

// What these calls need from the broker. Functions never wait; answers come on any thread, or at once.
class administration {
public:
  virtual ~administration() = default;

  // Null while the node starts.
  [[nodiscard]] virtual std::shared_ptr<const directory> access() const = 0;
  virtual void change(directory_command command,
                      std::function<void(const result<directory_answer>&)> answer) = 0;
  virtual void hash(secret password, std::function<void(result<password_hash>)> answer) = 0;
  // Of one virtual host or user.
  virtual void close_connections(const std::optional<std::string>& vhost,
                                 const std::optional<std::string>& user, const std::string& reason) = 0;
  // Adds the exchanges, queues and bindings of all virtual hosts, or of one.
  virtual void export_topology(const std::optional<std::string>& vhost, definitions& to) const = 0;
  // When all of it is durable: what was refused, a sentence for each.
  virtual void import_topology(imported_topology what,
                               std::function<void(result<std::vector<std::string>>)> answer) = 0;
  // Null: there is none.
  [[nodiscard]] virtual delayed_view* delayed() { return nullptr; }
};

// Whether a path, split at its slashes, is one of these.
[[nodiscard]] bool is_administration(const std::vector<std::string>& path);
// Whether a file of definitions is sent: it may be larger than other requests.
[[nodiscard]] bool is_import(std::string_view method, const std::vector<std::string>& path);

// Of one who is logged in.
void administrate(administration& node, const user& who, const std::vector<std::string>& path,
                  const request& asked, responder answer);

}  // namespace posthorn::http
