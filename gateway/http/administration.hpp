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
//   GET              /api/vhost-limits[/VHOST]            PUT, DELETE  /api/vhost-limits/VHOST/LIMIT
//   GET              /api/user-limits[/USER]              PUT, DELETE  /api/user-limits/USER/LIMIT
//   GET, POST        /api/definitions[/VHOST]
//   DELETE           /api/connections/username/USER, and, ours, /api/connections/vhost/VHOST
//
// What can be put can be got under the same path. A PUT is answered when the change is durable and holds: 201, or 204
// when there was one before; with `?if-new`, ours, the latter is refused (400). The header X-Reason says what clients that
// are closed are told.
//
// Who may   administrators everything; all with a tag of the management interface, what concerns themselves.
// Errors    400 wrong, and why; 401 not allowed; 404 there is none; 503 not just now.
// Threads   called on the HTTP server's threads; answers come on any.
#pragma once

#include "access/directory.hpp"
#include "gateway/http/message.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
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
};

// Whether a path, split at its slashes, is one of these.
[[nodiscard]] bool is_administration(const std::vector<std::string>& path);

// Of one who is logged in.
void administrate(administration& node, const user& who, const std::vector<std::string>& path,
                  const request& asked, responder answer);

}  // namespace posthorn::http
