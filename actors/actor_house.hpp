// Where the durable actors of a node live: it knows their kinds, wakes the one that a message is for, and lets those
// sleep that have nothing to do. Who sleeps costs nothing but its state in the store.
//
// Owns      the kinds, the ports of the actors that are awake, and the supervisor of each kind, under /actors.
// Threads   any. Waking an actor reads its state from the store on the thread that asks.
#pragma once

#include "actors/actor_kind.hpp"
#include "actors/queue.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace posthorn {

class supervisor;
struct reminder_port;

class actor_house {
public:
  // `with_messages`: the actors that have messages in the store; those of a kind wake when it is added.
  actor_house(node_context& node, std::map<mailbox_id, std::string> with_messages,
              std::map<mailbox_id, recovered_mailbox> mailboxes);
  ~actor_house();
  actor_house(const actor_house&) = delete;
  actor_house& operator=(const actor_house&) = delete;

  // The supervisor of all kinds, to stand in the tree; and the actor of the reminders.
  [[nodiscard]] const std::shared_ptr<supervisor>& tree() const noexcept { return tree_; }
  // Of what clients in this process wait for answers with.
  [[nodiscard]] const std::shared_ptr<supervisor>& clients() const noexcept { return clients_; }

  // Error: a kind of this name is there, or its name cannot be one.
  result<void> add(std::shared_ptr<const actor_kind> kind);
  // The mailbox of "kind/id", awake. Null: there is no such kind, or the name cannot be one.
  [[nodiscard]] std::shared_ptr<queue_port> find(std::string_view name);
  // Where a message goes: to the queues that the topology says, or, by the default exchange, to an actor.
  [[nodiscard]] std::vector<std::shared_ptr<queue_port>> route(const topology& where,
                                                               const envelope& message);
  bool go_to_sleep(queue_port& port);
  // A mailbox that is always there, such as the one of a client's replies: "clients/…", which is no kind.
  void keep(const std::string& name, std::shared_ptr<queue_port> port);
  std::shared_ptr<queue_port> release(const std::string& name);

  // Actors that are awake.
  [[nodiscard]] std::size_t awake_count() const;
  void each_awake(const std::function<void(const std::string& name, const queue_port& port)>& visit) const;

  static std::string path_of(std::string_view name) { return "/actors/" + std::string{name}; }

private:
  struct kind_entry {
    std::shared_ptr<const actor_kind> kind;
    std::shared_ptr<supervisor> members;
  };
  std::shared_ptr<queue_port> wake(const kind_entry& of, const std::string& name,
                                   recovered_mailbox recovered);

  node_context& node_;
  std::shared_ptr<supervisor> tree_, clients_;
  std::shared_ptr<reminder_port> reminders_;

  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, kind_entry, std::less<>> kinds_;
  std::unordered_map<std::string, std::shared_ptr<queue_port>> awake_;
  std::map<mailbox_id, std::string> with_messages_;
  std::map<mailbox_id, recovered_mailbox> mailboxes_;
};

}  // namespace posthorn
