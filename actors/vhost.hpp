// The actor of one virtual host: owns its topology, makes changes durable, and publishes the routing snapshot.
//
// Owns      the topology, and the ports of its queues, whose actors its supervisor `queues` starts. All stands in its
//           port, where the successor of a killed actor finds it (actors/worker.hpp).
// Started   by the supervisor of the vhost, with what the store held.
// Receives  topology_request from a connection -> reply, in the order of the requests, when the change is durable and
//                                                 every later publish of any connection sees it
//           queue_removal    from a queue      -> queue_removed_now or queue_not_removed
//           release_owner    from a connection -> reply, if it waits for one: its exclusive queues are gone
//           topology_written from the committer; import_topology, apply_policies, empty_vhost from who administrates
//           remember         from whoever routed a message through an exchange with a recent history
// Sends     write_topology   to the committer, one at a time: what arrives meanwhile is the next one
//           arrived          to queues that are bound to an exchange with a recent history
// Stops     when its supervisor does.
#pragma once

#include "actors/node_context.hpp"
#include "actors/worker.hpp"

#include <atomic>
#include <memory>

namespace posthorn {

class supervisor;
class vhost_logic;

using topology_ptr = std::shared_ptr<const topology>;

// How a virtual host is reached. The snapshot may be read at any time, from any thread, without waiting; it shows all
// that was ever answered.
class vhost_port : public std::enable_shared_from_this<vhost_port> {
public:
  static constexpr const char* kind = "posthorn.vhost";

  vhost_port(node_context& node, std::string name, topology_ptr first);
  ~vhost_port();

  // Any thread.
  void post(vhost_message message) { (void)in.post(std::move(message)); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] topology_ptr snapshot() const noexcept { return snapshot_.load(std::memory_order_acquire); }
  void publish(topology_ptr next) noexcept { snapshot_.store(std::move(next), std::memory_order_release); }
  [[nodiscard]] vhost_logic& logic() noexcept { return *memory; }

  inbox<vhost_message> in;
  actor_status status;
  std::unique_ptr<vhost_logic> memory;    // its actor's
  std::shared_ptr<supervisor> queues;     // fixed before anyone else knows the port
  std::shared_ptr<supervisor> exchanges;  // the same; of those that keep something

private:
  std::string name_;
  std::atomic<topology_ptr> snapshot_;
};

// Makes the port and its queues, and a supervisor of both, to be started by its parent.
struct made_vhost {
  std::shared_ptr<vhost_port> port;
  std::shared_ptr<supervisor> tree;
};
[[nodiscard]] made_vhost make_vhost(node_context& node, const std::string& name, recovered_vhost recovered,
                                    const std::map<mailbox_id, recovered_mailbox>& mailboxes,
                                    const std::map<mailbox_id, recovered_keeper>& keepers);

}  // namespace posthorn
