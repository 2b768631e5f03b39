// Where the durable actors of a node live: it knows their kinds, wakes the one that a message is for, and lets those
// sleep that have nothing to do. Who sleeps costs nothing but its state in the store.
//
// Owns      the kinds, the ports of the actors that are awake, and the supervisor of each kind, under /actors.
// Threads   any. Waking an actor reads its state from the store on the thread that asks.
#pragma once

#include "actors/actor_kind.hpp"
#include "actors/queue.hpp"
#include "actors/router.hpp"

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

// An actor's mailbox as an exchange is bound to it. Its port leads to the actor whether it sleeps or not.
[[nodiscard]] queue_ptr actor_definition(node_context& node, mailbox_id id, std::string name);

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
  // All of them or none; actors of theirs that have messages wake when all are there.
  result<void> add(std::vector<std::shared_ptr<const actor_kind>> kinds);
  // The mailbox of "kind/id", awake; or the doorway of a router. Null: there is no such kind, or the name cannot be one.
  [[nodiscard]] std::shared_ptr<queue_port> find(std::string_view name);
  // The same, if it is awake; wakes nobody.
  [[nodiscard]] std::shared_ptr<queue_port> find_awake(std::string_view name) const;
  // There is such a kind, and the name can be one. Wakes nobody.
  [[nodiscard]] bool knows(std::string_view name) const;
  // The same for the actor of this name; null: there is no such kind, or the name cannot be one.
  [[nodiscard]] queue_ptr definition_of(std::string_view name);
  // The mailbox that takes what is for this queue, which may be an actor's; null: that actor cannot be reached.
  [[nodiscard]] std::shared_ptr<queue_port> taker_of(const queue_definition& queue);
  // Where a message goes: to the queues that the topology says, or, by the default exchange, to an actor or to whom a
  // router chooses. Of a bound actor that cannot be reached, the doorway, which refuses.
  [[nodiscard]] std::vector<std::shared_ptr<queue_port>> route(const topology& where, const envelope& message,
                                                               const passage& with);
  // Why a message by the default exchange leads nowhere, and what to do.
  [[nodiscard]] error why_nowhere(std::string_view name) const;
  [[nodiscard]] router_table& routers() noexcept { return routers_; }
  bool go_to_sleep(queue_port& port);
  // A mailbox that is always there, such as the one of a client's replies: "clients/…", which is no kind.
  void keep(const std::string& name, std::shared_ptr<queue_port> port);
  std::shared_ptr<queue_port> release(const std::string& name);

  // Actors that are awake.
  [[nodiscard]] std::size_t awake_count() const;
  void each_awake(const std::function<void(const std::string& name, const queue_port& port)>& visit) const;

  static std::string path_of(std::string_view name) { return "/actors/" + std::string{name}; }
  static std::string_view name_of(std::string_view path) { return path.substr(path_of("").size()); }

private:
  struct kind_entry {
    std::shared_ptr<const actor_kind> kind;
    std::shared_ptr<supervisor> members;
  };
  [[nodiscard]] const kind_entry* kind_of(std::string_view name) const;
  void wake_all(const kind_entry& of);
  std::shared_ptr<queue_port> wake(const kind_entry& of, const std::string& name,
                                   recovered_mailbox recovered);

  node_context& node_;
  std::shared_ptr<supervisor> tree_, clients_;
  std::shared_ptr<reminder_port> reminders_;
  router_table routers_;

  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, kind_entry, std::less<>> kinds_;
  std::unordered_map<std::string, std::shared_ptr<queue_port>> awake_;
  std::map<mailbox_id, std::string> with_messages_;
  std::map<mailbox_id, recovered_mailbox> mailboxes_;
};

}  // namespace posthorn
