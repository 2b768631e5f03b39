#include "actors/volatile_timers.hpp"

#include "mailbox/result.hpp"

#include <algorithm>

namespace posthorn {

void volatile_timers::apply(timer_change change) {
  if (const auto found = timers_.find(change.name); found != timers_.end()) {
    order_.erase({found->second.due, change.name});
    if (found->second.waits) {
      std::erase_if(waiting_, [&](const due_message& m) { return m.timer == change.name; });
    }
    timers_.erase(found);
  }
  if (!change.message) return;
  order_.emplace(change.due, change.name);
  timers_.emplace(std::move(change.name), timer{std::move(change.message), change.due, change.period});
}

void volatile_timers::fall_due(std::int64_t now, sequence last) {
  while (!order_.empty() && order_.begin()->first <= now) {
    const auto name = order_.begin()->second;
    order_.erase(order_.begin());
    auto& t = timers_.find(name)->second;
    if (!std::exchange(t.waits, true)) waiting_.push_back({name, t.message, t.due, last});
    if (t.period == 0) continue;
    // Those that were missed come once.
    t.due = std::max(t.due + t.period, now + 1);
    order_.emplace(t.due, name);
  }
}

volatile_timers::due_message volatile_timers::take() {
  expects(!waiting_.empty(), "a message of a timer waits");
  auto out = std::move(waiting_.front());
  waiting_.pop_front();
  const auto found = timers_.find(out.timer);
  found->second.waits = false;
  if (found->second.period == 0) timers_.erase(found);
  return out;
}

std::optional<std::int64_t> volatile_timers::next_due() const {
  return order_.empty() ? std::nullopt : std::optional{order_.begin()->first};
}

void volatile_timers::clear() {
  timers_.clear();
  order_.clear();
  waiting_.clear();
}

}  // namespace posthorn
