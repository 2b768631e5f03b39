// The last messages of an exchange of the type x-recent-history, for queues that are bound to it later.
//
// Such an exchange routes as a fanout exchange does. What passed it is remembered, the oldest is forgotten first, and a
// binding that is new gets all of it, oldest first: its queue, or what the exchange at its end routes each message to.
// A message whose header x-recent-history-no-store is true passes without a trace.
//
// How it is used: the vhost's actor owns one for each such exchange, made when it adds the exchange and dropped with it.
// topology::route names the exchanges of this type that a message passed (passage::histories); whoever routed sends the
// envelope along with the names to the vhost's actor, once per chunk as publishes go to queues, and the actor calls
// `remember`. When it has a binding_added with such a source, it publishes `messages()` to the destination before it
// answers the bind, so that they stand before what is published afterwards. Between a publish and a bind of different
// connections there is no order: a message may come in both ways, or in neither, as in RabbitMQ.
//
// It is kept in memory only, as RabbitMQ keeps it, and shares the envelopes with the queues.
//
// Threads   a plain value of its owner.
#pragma once

#include "mailbox/envelope.hpp"
#include "mailbox/field_table.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

namespace posthorn {

class recent_history {
public:
  static constexpr std::uint64_t length_default = 20;
  // Bytes of envelopes that one exchange remembers at most, whatever its length: the newest of them. One that is larger
  // on its own is not remembered.
  static constexpr std::size_t size_max = std::size_t{64} << 20;

  explicit recent_history(std::uint64_t length_max = length_default, std::size_t bytes_max = size_max)
      : length_max_{length_max}, bytes_max_{bytes_max} {}

  // What an exchange's arguments ask for. Those that are not valid count as not there.
  [[nodiscard]] static std::uint64_t length_of(const field_table& arguments);
  // Why an exchange may not have these arguments (406), in RabbitMQ's words.
  [[nodiscard]] static std::optional<std::string> invalid(const field_table& arguments);

  void remember(const envelope_ptr& message);

  // Oldest first.
  [[nodiscard]] const std::deque<envelope_ptr>& messages() const noexcept { return messages_; }
  // Of the envelopes that it holds.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

private:
  void forget_oldest();

  std::uint64_t length_max_;
  std::size_t bytes_max_;
  std::deque<envelope_ptr> messages_;
  std::size_t bytes_ = 0;
};

}  // namespace posthorn
