#include "actors/queue_peers.hpp"

#include <algorithm>
#include <utility>

namespace posthorn {

namespace {

// A publisher's id holds that of its connection.
connection_id connection_of(publisher_id by) noexcept { return {by.value >> 16}; }

}  // namespace

void queue_peers::watch_all(worker_actor::pointer self) {
  for (auto& [id, p] : peers_) self->monitor(p.handle);
}

queue_peers::peer& queue_peers::at(worker_actor::pointer self, connection_id id,
                                   const connection_actor& handle, bool watched) {
  const auto [found, added] = peers_.try_emplace(id);
  if (added) {
    found->second.id = id;
    found->second.handle = handle;
    if (watched) {
      self->monitor(handle);
      watched_.emplace(handle.id(), &found->second);
    }
  }
  return found->second;
}

queue_peers::consumer& queue_peers::consumer_of(peer& p, consumer_id id) {
  const auto [found, added] = consumers_.try_emplace(id, consumer{&p, false});
  if (added) p.consumers.push_back(id);
  return found->second;
}

queue_peers::consumer* queue_peers::find(consumer_id id) {
  const auto found = consumers_.find(id);
  return found == consumers_.end() ? nullptr : &found->second;
}

void queue_peers::forget(consumer_id id) {
  const auto found = consumers_.find(id);
  if (found == consumers_.end()) return;
  auto& siblings = found->second.of->consumers;
  // The newest are the most likely to go.
  const auto own = std::find(siblings.rbegin(), siblings.rend(), id);
  *own = siblings.back();
  siblings.pop_back();
  consumers_.erase(found);
}

std::optional<std::vector<consumer_id>> queue_peers::remove(const caf::down_msg& down) {
  const auto found = watched_.find(down.source.id());
  if (found == watched_.end()) return std::nullopt;
  peer& gone = *found->second;
  auto theirs = std::move(gone.consumers);
  for (const auto id : theirs) consumers_.erase(id);
  watched_.erase(found);
  peers_.erase(connection_id{gone.id});
  return theirs;
}

void queue_peers::tell_cancelled(worker_actor::pointer self) const {
  for (const auto& [id, c] : consumers_) {
    if (c.consuming) self->send(c.of->handle, consumer_cancelled{id});
  }
}

void queue_peers::clear() {
  consumers_.clear();
  watched_.clear();
  peers_.clear();
}

void queue_peers::send(worker_actor::pointer self, effects& out) {
  std::vector<peer*> touched;
  const auto touch = [&](peer& p) {
    if (p.deliveries.empty() && p.settlements.empty()) touched.push_back(&p);
  };
  consumer_id last_consumer{};
  peer* to = nullptr;
  for (auto& d : out.deliveries) {
    if (to == nullptr || d.to != last_consumer) {
      last_consumer = d.to;
      const auto found = consumers_.find(d.to);
      to = found == consumers_.end() ? nullptr : found->second.of;
      if (to == nullptr)
        continue;  // its connection went in this very step; `release` has put the message back
    }
    touch(*to);
    to->deliveries.push_back(std::move(d));
  }
  for (const auto& s : out.settlements) {
    const auto found = peers_.find(connection_of(s.by));
    if (found == peers_.end()) continue;  // nobody waits for it any more
    touch(found->second);
    found->second.settlements.push_back(s);
  }
  for (auto* p : touched) {
    if (!p->deliveries.empty()) self->send(p->handle, deliver{std::exchange(p->deliveries, {})});
    if (!p->settlements.empty()) self->send(p->handle, settled{std::exchange(p->settlements, {})});
  }
  out.deliveries.clear();
  out.settlements.clear();
}

}  // namespace posthorn
