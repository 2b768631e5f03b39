// The actor of one virtual host: owns its topology, makes changes durable, and publishes the routing snapshot.
//
// Owns      the topology, and the queues' actors: it starts and stops them.
// Started   by the broker, with what the store held.
// Receives  topology_request from a connection -> reply, in the order of the requests, when the change is durable and
//                                                 every later publish of any connection sees it
//           queue_removal    from a queue      -> queue_removed_now or queue_not_removed
//           release_owner    from a connection -> reply, if it waits for one: its exclusive queues are gone
//           topology_written from the committer
// Sends     write_topology   to the committer, one at a time: what arrives meanwhile is the next one
// Stops     when the broker stops.
#pragma once

#include "actors/node_context.hpp"

#include <atomic>
#include <memory>

namespace posthorn {

using topology_ptr = std::shared_ptr<const topology>;

// How a virtual host is reached. The snapshot may be read at any time, from any thread, without waiting; it shows all
// that was ever answered.
class vhost_port {
public:
  vhost_port(std::string name, topology_ptr first) : name_{std::move(name)}, snapshot_{std::move(first)} {}

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] topology_ptr snapshot() const noexcept { return snapshot_.load(std::memory_order_acquire); }
  void publish(topology_ptr next) noexcept { snapshot_.store(std::move(next), std::memory_order_release); }

  vhost_actor handle;  // set once, before anyone else knows the port

private:
  std::string name_;
  std::atomic<topology_ptr> snapshot_;
};

[[nodiscard]] std::shared_ptr<vhost_port> spawn_vhost(
    node_context& node, const std::string& name, recovered_vhost recovered,
    const std::map<mailbox_id, recovered_mailbox>& mailboxes);

}  // namespace posthorn
