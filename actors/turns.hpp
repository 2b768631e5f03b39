// The turns of a durable actor: which message its inhabitant takes next, and what then becomes of the message.
//
// A part of the actor of its mailbox (actors/queue.cpp), who hands it what the mailbox delivers, and writes what comes of
// the turns with the mailbox's next batch. It consumes under an id of its own, and holds a message until its turn is over;
// messages that a turn sets aside are held under a second id, so that they keep nobody waiting.
//
// Messages are taken one at a time and in order. When one fails, those behind it wait: the actor ends with the failure as
// its reason, its successor starts at once, so that the mailbox goes on, and takes the same message again after the
// back-off. Of timers that are not durable and of what was set aside, a successor knows nothing: the messages come again.
//
// Ownership   the queue's logic owns it; mailbox, port and node outlive it.
// Threads     the actor's.
#pragma once

#include "actors/inhabitant.hpp"
#include "actors/node_context.hpp"
#include "actors/outgoing.hpp"
#include "actors/queue.hpp"
#include "actors/supervision.hpp"
#include "actors/volatile_timers.hpp"
#include "mailbox/ring.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace posthorn {

class turns {
public:
  // The ticks that make the mailbox's actor look for turns again.
  static constexpr std::uint64_t next_turn_tick = 4, timer_tick = 5;

  turns(node_context& node, queue_port& port, mailbox& box, const backoff& pause,
        std::unique_ptr<inhabitant> who);

  // A new actor starts. When its inhabitant cannot take messages, the mailbox goes on without turns, and the actor ends
  // once, with what is wrong as its reason.
  void begin(worker_actor::pointer self, effects& fx);

  // What the mailbox handed out waits for its turn.
  void keep(effects& from);
  // Takes what may be taken at `now` (milliseconds since 1970), and puts what is to be written into `to`. False: nothing
  // may be taken yet.
  bool take(effects& fx, outgoing& to, std::int64_t now);
  // There is more to take at once.
  [[nodiscard]] bool wants_turn(std::int64_t now) const {
    return (!to_take_.empty() || timers_.waiting() != nullptr) && may_take(now);
  }
  void on_timer_tick() noexcept { armed_ = 0; }
  // Gives back to the mailbox all that it holds, also what was set aside, so that it is ready there.
  void give_back_all(effects& fx);
  // What the turns so far have to be written is in a batch.
  void on_batch_taken() noexcept { unwritten_ = 0; }
  // Why the actor has to end, told once.
  [[nodiscard]] std::optional<std::string> failure() { return std::exchange(failed_, std::nullopt); }
  // How long it stays awake without a message; 0: for ever.
  [[nodiscard]] std::chrono::milliseconds idle_after() const { return who_->idle_after(); }
  // Nothing would be lost if it fell asleep.
  [[nodiscard]] bool at_rest() const noexcept { return to_take_.empty() && timers_.empty(); }

private:
  [[nodiscard]] bool may_take(std::int64_t now) const;
  [[nodiscard]] bool timer_is_next(bool none_ready) const;
  // One turn. False: it failed.
  bool take_message(effects& fx, outgoing& to, std::int64_t now);
  bool take_timer(effects& fx, outgoing& to, std::int64_t now);
  inhabitant::answer run(const delivery& message, outgoing& sent, const occasion& when);
  void carry_out(outgoing&& sent, inhabitant::answer& answer, outgoing& to, effects& fx);
  void give_back_untaken(effects& fx);
  void wait_after_failure(std::int64_t now);
  void arm_timers(std::int64_t now);

  // fixed after construction
  node_context& node_;
  queue_port& port_;
  mailbox& box_;
  const backoff pause_;
  const std::unique_ptr<inhabitant> who_;
  const consumer_id own_,
      aside_;  // as which it takes messages, and as which it holds those that are set aside

  worker_actor::pointer self_ = nullptr;  // the actor of now
  ring<delivery> to_take_;                // held by it
  std::size_t stashed_ = 0;               // held aside
  volatile_timers timers_;
  std::int64_t armed_ = 0;  // when the next timer_tick is due; 0: none is
  bool changed_ = false;    // the inhabitant has something to save
  std::optional<std::string> failed_;
  bool unable_ = false;    // it cannot take messages at all
  std::int64_t from_ = 0;  // no turn before this time
  unsigned failures_in_row_ = 0;
  std::size_t unwritten_ = 0;  // turns that are in no batch yet
};

}  // namespace posthorn
