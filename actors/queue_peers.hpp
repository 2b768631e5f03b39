// The connections that publish to a mailbox or consume from it, who consumes for which of them, and what is about to be
// sent to them. Both kinds of actors that stand behind a mailbox's port have one.
//
// Owned     by the actor's memory, and used in its handlers only.
#pragma once

#include "actors/messages.hpp"

#include <cstddef>
#include <optional>
#include <unordered_map>
#include <vector>

namespace posthorn {

class queue_peers {
public:
  struct peer {
    connection_id id{};
    connection_actor handle;
    std::vector<consumer_id> consumers;  // those of the consumers that are its own
    std::vector<delivery> deliveries;
    std::vector<settlement> settlements;
  };
  struct consumer {
    peer* of = nullptr;
    bool consuming = false;
  };

  // A new actor watches what its predecessor did.
  void watch_all(worker_actor::pointer self);
  // The connection, new or known. `watched`: the actor will hear of its end.
  peer& at(worker_actor::pointer self, connection_id id, const connection_actor& handle, bool watched = true);
  consumer& consumer_of(peer& p, consumer_id id);
  // Null: there is none.
  [[nodiscard]] consumer* find(consumer_id id);
  void forget(consumer_id id);
  // A watched connection is gone: its consumers, whom nobody knows any more. Nothing: it is none of these.
  [[nodiscard]] std::optional<std::vector<consumer_id>> remove(const caf::down_msg& down);
  void clear();
  // The mailbox is removed: each that consumes hears of it.
  void tell_cancelled(worker_actor::pointer self) const;

  // Sends all deliveries and settlements, in order, those for one connection together; then `out` has none. What is for a
  // consumer or a publisher that is gone is dropped: the mailbox has heard of that, or will.
  void send(worker_actor::pointer self, effects& out);

  [[nodiscard]] const std::unordered_map<consumer_id, consumer>& consumers() const noexcept {
    return consumers_;
  }

private:
  std::unordered_map<connection_id, peer> peers_;
  // By actor, so that a thousand connections that end at once are a thousand look-ups, and not a million.
  std::unordered_map<caf::actor_id, peer*> watched_;
  std::unordered_map<consumer_id, consumer> consumers_;
};

}  // namespace posthorn
