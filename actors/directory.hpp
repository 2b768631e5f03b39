// The actor of the node's directory (access/directory.hpp): users, permissions, virtual hosts, limits, policies.
//
// Owns      the value. It stands in the port, where the successor of a killed actor finds it (actors/worker.hpp).
// Started   by the node's supervisor, after the committer and before the virtual hosts, with what the store held.
// Receives  directory_request  from whoever administrates -> its function, when the change is durable, every later look
//                                                            at the snapshot sees it, and policies are applied: what a
//                                                            client sends from then on meets them
//           directory_written  from the committer
//           vhost_emptied      from the actor of a virtual host that is being deleted
//           policies_applied   from actors of virtual hosts, when they are done with apply_policies
// Sends     write_access       to the committer, one at a time: what arrives meanwhile is the next one
//           empty_vhost, apply_policies to actors of virtual hosts
// Stops     when its supervisor does.
#pragma once

#include "access/directory.hpp"
#include "actors/node_context.hpp"
#include "actors/worker.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

namespace posthorn {

class directory_logic;
struct child_definition;

using directory_ptr = std::shared_ptr<const directory>;

struct directory_request {
  directory_command command;
  // In the directory's actor; may be null.
  std::function<void(const result<directory_answer>&)> answer{};
};
struct directory_written {
  std::optional<error> failed{};
};
struct vhost_emptied {
  std::string vhost;
};
// What is laid down since this step applies to all that is in the virtual hosts, as far as it concerns them.
struct policies_applied {
  std::uint64_t step = 0;
};
using directory_message = std::variant<directory_request, directory_written, vhost_emptied, policies_applied>;

// How the directory is reached. The snapshot may be read at any time, from any thread, without waiting; it shows all that
// was ever answered.
class directory_port : public std::enable_shared_from_this<directory_port> {
public:
  static constexpr const char* kind = "posthorn.directory";

  // What follows from a change, beyond the directory. Called in its actor.
  struct hooks {
    // A new one has been made durable. Nobody knows it yet.
    std::function<void(const std::string& vhost)> start_vhost{};
    // It is being deleted, and nobody gets in any more: those who are in shall go.
    std::function<void(const std::string& vhost)> leave_vhost{};
    // Nothing is in it any more: its actors shall end.
    std::function<void(const std::string& vhost)> stop_vhost{};
    std::function<void(const std::string& user)> user_removed{};
    // Null when there is none.
    std::function<std::shared_ptr<vhost_port>(std::string_view name)> find_vhost{};
  };

  directory_port(node_context& node, directory first);
  ~directory_port();

  // Any thread.
  void post(directory_message message) { (void)in.post(std::move(message)); }
  [[nodiscard]] directory_ptr snapshot() const noexcept { return snapshot_.load(std::memory_order_acquire); }
  // Of the snapshot; cheaper to look at.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_.load(std::memory_order_acquire); }
  void publish(directory_ptr next) noexcept;
  [[nodiscard]] directory_logic& logic() noexcept { return *memory; }

  inbox<directory_message> in;
  actor_status status;
  std::unique_ptr<directory_logic> memory;  // its actor's
  hooks follow;                             // fixed before anyone else knows the port

private:
  std::atomic<directory_ptr> snapshot_;
  std::atomic<std::uint64_t> version_;
};

[[nodiscard]] child_definition directory_child(node_context& node);

}  // namespace posthorn
