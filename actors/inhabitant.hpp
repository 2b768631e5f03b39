// Who takes the messages of a mailbox inside the node, where a queue has consumers: a durable actor's behaviour.
//
// Called by the actor of the mailbox only, in its handlers. What it keeps besides what it saves is lost when the actor
// is started again.
#pragma once

#include "actors/outgoing.hpp"
#include "actors/volatile_timers.hpp"
#include "mailbox/mailbox.hpp"

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

// What a turn may ask about beside its message.
struct occasion {
  std::int64_t now = 0;                     // milliseconds since 1970
  std::size_t stashed = 0;                  // messages that are set aside
  const volatile_timers* timers = nullptr;  // that are set
  // Whose message it is, and not one of the mailbox; empty: it is. Such a message has no place and never comes again.
  std::string_view timer{};
  std::int64_t timer_due = 0;  // milliseconds since 1970
};

class inhabitant {
public:
  enum class verdict : std::uint8_t {
    done,      // the message is gone, with the transaction that has what was sent and the state
    stashed,   // the message is set aside; what was sent and the state count
    rejected,  // it goes to the dead letters
    failed,    // there is no trace of the turn; the message comes again, and the actor is started anew
  };
  // Of a turn that was rejected or failed, only `why` counts.
  struct answer {
    verdict what = verdict::done;
    std::string why;
    bool changed = true;   // of one that is set aside: something is to be written all the same
    bool unstash = false;  // what was set aside before this turn comes again
    std::vector<timer_change> timers{};
  };

  virtual ~inhabitant() = default;
  // A new actor starts. An error: it cannot, and must not take messages.
  virtual result<void> begin() = 0;
  // One turn. `sent` is empty, and counts only when the answer is `done` or `stashed`.
  virtual answer take(const delivery& message, outgoing& sent, const occasion& when) = 0;
  // Puts what the turns have changed since the last call into `to`. `used`: the last place of its mailbox ever used.
  virtual void save(outgoing& to, sequence used) = 0;
  // How long it stays awake without a message; 0: for ever.
  [[nodiscard]] virtual std::chrono::milliseconds idle_after() const = 0;
};

// One without a state, that hands each message on: the mailbox of whoever waits for answers outside of the actors.
class message_taker final : public inhabitant {
public:
  explicit message_taker(std::function<void(const envelope_ptr&)> take) : take_{std::move(take)} {}
  result<void> begin() override { return {}; }
  answer take(const delivery& message, outgoing&, const occasion&) override {
    take_(message.message);
    return {};
  }
  void save(outgoing&, sequence) override {}
  [[nodiscard]] std::chrono::milliseconds idle_after() const override { return {}; }

private:
  std::function<void(const envelope_ptr&)> take_;
};

}  // namespace posthorn
