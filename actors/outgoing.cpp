#include "actors/outgoing.hpp"

#include "actors/vhost.hpp"
#include "mailbox/delayed.hpp"
#include "mailbox/topology.hpp"

#include <iterator>
#include <utility>

namespace posthorn {

bool outgoing::add(queue_port& to, const envelope_ptr& message, std::int64_t now) {
  // A stream stores everything, with the time at which it came.
  // What waits in an exchange is stored, too, with the time at which it is due.
  const bool to_be_stored = to.durable && (message->persistent() || to.stream || to.delays);
  std::optional<sequence> at;
  if (to_be_stored) {
    at = to.reserve();
    if (!at) return false;
  }
  auto& last = !parcels.empty() && parcels.back().to.get() == &to
                   ? parcels.back()
                   : parcels.emplace_back(parcel{to.shared_from_this(), {}});
  if (!to_be_stored) {
    last.messages.unstored.push_back({message, {}, 0});
    return true;
  }
  const auto expires_at = to.stream   ? now
                          : to.delays ? due_time_of(*message, now)
                                      : expiry_of(to.rules().get(), *message, now);
  writes.transfers.push_back({to.id, *at, message, expires_at});
  last.messages.stored.push_back({*at, message, expires_at});
  return true;
}

void outgoing::append(outgoing&& later) {
  const auto move_all = [](auto& to, auto& from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
    from.clear();
  };
  move_all(writes.transfers, later.writes.transfers);
  move_all(writes.states, later.writes.states);
  move_all(writes.timers, later.writes.timers);
  move_all(writes.events, later.writes.events);
  move_all(writes.prune_events, later.writes.prune_events);
  move_all(writes.uses, later.writes.uses);
  move_all(writes.seen, later.writes.seen);
  move_all(parcels, later.parcels);
  move_all(passed, later.passed);
  if (histories.expired()) histories = std::move(later.histories);
}

void outgoing::note_passage(const std::shared_ptr<vhost_port>& vhost,
                            std::span<const std::string_view> exchanges, const envelope_ptr& message) {
  if (exchanges.empty()) return;
  histories = vhost;
  for (const auto name : exchanges) passed.push_back({std::string{name}, message});
}

void outgoing::hand_over() {
  for (auto& p : parcels) p.to->post(std::move(p.messages));
  parcels.clear();
  if (passed.empty()) return;
  if (const auto vhost = histories.lock()) vhost->post(remember{std::exchange(passed, {})});
}

std::vector<queue_ptr> route_of(const topology& where, const envelope& message, const passage& with) {
  std::vector<queue_ptr> out;
  if (const auto* exchange = where.find_exchange(message.exchange())) {
    auto through = with;
    through.by_key_alone = message.by_key_alone();
    through.is_first = true;
    where.route(*exchange, message.routing_key(), message.properties(), out, through);
    std::erase_if(out, [](const queue_ptr& queue) { return queue->port == nullptr; });
  }
  return out;
}

}  // namespace posthorn
