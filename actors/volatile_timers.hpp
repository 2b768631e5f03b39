// The timers of an actor that are not durable: they have names, fall due, and then have a message that waits for its turn.
//
// A plain value; whoever owns it tells it the time. A message stands behind all that was in the mailbox when it fell due,
// and in front of what comes later. A timer has at most one message waiting: one with a period that falls due again
// meanwhile is not counted twice.
#pragma once

#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace posthorn {

struct timer_change {
  std::string name;
  envelope_ptr message;     // null: it is cancelled
  std::int64_t due = 0;     // milliseconds since 1970
  std::int64_t period = 0;  // milliseconds; 0: once
};

class volatile_timers {
public:
  static constexpr std::size_t count_max = 1000;

  struct due_message {
    std::string timer;
    envelope_ptr message;
    std::int64_t due = 0;
    sequence behind{};  // the last message of the mailbox that is older
  };

  // Sets a timer, in the place of one of the same name, or cancels it. What waits of the one before is gone.
  void apply(timer_change change);
  // `last`: the place that the mailbox gave last.
  void fall_due(std::int64_t now, sequence last);
  // The next message; null: none waits.
  [[nodiscard]] const due_message* waiting() const noexcept {
    return waiting_.empty() ? nullptr : &waiting_.front();
  }
  [[nodiscard]] due_message take();
  // When the next timer falls due, in milliseconds since 1970.
  [[nodiscard]] std::optional<std::int64_t> next_due() const;

  [[nodiscard]] bool empty() const noexcept { return timers_.empty(); }
  // There is room for a timer of this name.
  [[nodiscard]] bool fits(std::string_view name, std::size_t others) const {
    return timers_.size() + others < count_max || timers_.contains(name);
  }
  void clear();

private:
  struct timer {
    envelope_ptr message;
    std::int64_t due = 0, period = 0;
    bool waits = false;  // a message of it stands in waiting_
  };

  std::map<std::string, timer, std::less<>> timers_;
  std::set<std::pair<std::int64_t, std::string>>
      order_;                       // by when they fall due; without those that came once
  std::list<due_message> waiting_;  // most actors have none, and an empty list has no memory
};

}  // namespace posthorn
