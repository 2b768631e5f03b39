// What an actor sends so that it becomes durable together with its own batch, in one transaction or not at all: dead
// letters of a queue, and what a durable actor's turn sends.
//
// Each message gets its place in the mailbox it goes to before it is written; that mailbox hears of it when it is
// durable, from the committer. A place whose message is never written stays empty, which nobody minds.
//
// Ownership   a plain value of the actor that sends; shared with the committer, and not changed, while it is written.
#pragma once

#include "actors/queue.hpp"
#include "persist/actor_records.hpp"

#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace posthorn {

struct outgoing {
  struct parcel {
    std::shared_ptr<queue_port> to;
    arrived messages;
  };

  atomic_writes writes;
  std::vector<parcel> parcels;
  std::vector<remember::passage_of> passed;  // exchanges with a recent history, of `histories`
  std::weak_ptr<vhost_port> histories;

  [[nodiscard]] bool empty() const noexcept {
    return parcels.empty() && passed.empty() && writes.states.empty() && writes.timers.empty() &&
           writes.events.empty() && writes.prune_events.empty() && writes.uses.empty() && writes.seen.empty();
  }
  // False: the mailbox is closed. `now` in milliseconds since 1970.
  [[nodiscard]] bool add(queue_port& to, const envelope_ptr& message, std::int64_t now);
  // The exchanges with a recent history that it passed will hear of it.
  void note_passage(const std::shared_ptr<vhost_port>& vhost, std::span<const std::string_view> exchanges,
                    const envelope_ptr& message);
  // What `later` has stands behind what is here.
  void append(outgoing&& later);
  // Everything is durable.
  void hand_over();
};

// Where a message goes that is published to `exchange` with its own routing key, in the vhost's topology of now.
// Nowhere if there is no such exchange.
[[nodiscard]] std::vector<queue_ptr> route_of(const topology& where, const envelope& message,
                                              const passage& with);

}  // namespace posthorn
