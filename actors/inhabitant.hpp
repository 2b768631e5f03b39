// Who takes the messages of a mailbox inside the node, where a queue has consumers: a durable actor's behaviour.
//
// Called by the actor of the mailbox only, in its handlers. What it keeps besides what it saves is lost when the actor
// is started again.
#pragma once

#include "actors/outgoing.hpp"
#include "mailbox/mailbox.hpp"

#include <chrono>
#include <optional>
#include <string>

namespace posthorn {

class inhabitant {
public:
  enum class verdict : std::uint8_t {
    done,      // the message is gone, with the transaction that has what was sent and the state
    rejected,  // it goes to the dead letters
    failed,    // there is no trace of the turn; the message comes again, and the actor is started anew
  };
  struct answer {
    verdict what = verdict::done;
    std::string why;  // of what is not done
  };

  virtual ~inhabitant() = default;
  // A new actor starts. An error: it cannot, and must not take messages.
  virtual result<void> begin() = 0;
  // One turn. `sent` is empty, and counts only when the answer is `done`. `now` in milliseconds since 1970.
  virtual answer take(const delivery& message, outgoing& sent, std::int64_t now) = 0;
  // Puts what the turns have changed since the last call into `to`. `used`: the last place of its mailbox ever used.
  virtual void save(outgoing& to, sequence used) = 0;
  // How long it stays awake without a message; 0: for ever.
  [[nodiscard]] virtual std::chrono::milliseconds idle_after() const = 0;
};

}  // namespace posthorn
