// Direct reply-to [35] [56]: whoever asks names the pseudo queue `amq.rabbitmq.reply-to` in the property reply-to, and
// consumes from it on the same channel. The node writes an address in its place, and what is published to that address by
// way of the default exchange, on any connection of the node, goes straight to the asker, through no queue.
//
//   address   amq.rabbitmq.reply-to.<43 letters>, 256 random bits: who does not know it cannot guess it
//
// An address lives as long as its consumer: until the consumer is cancelled or its channel ends. What is published to it
// afterwards counts as routed, and is gone. A reply is in memory only. One for which its receiver has no room, because it
// does not read its socket, is gone as well.
//
// Threads   reply_addresses: any; of a reply_consumer everything but `under_way` is fixed.
#pragma once

#include "actors/messages.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace posthorn::amqp091 {

inline constexpr std::string_view reply_queue = "amq.rabbitmq.reply-to";

// Whether it looks like the address of a consumer, living or gone.
[[nodiscard]] bool is_reply_address(std::string_view name) noexcept;

// Sits on a channel, and waits for replies.
struct reply_consumer {
  // Replies on their way to its socket may take so many bytes of memory together; one alone may take more.
  static constexpr std::size_t under_way_max = std::size_t{8} << 20;

  std::string address;
  connection_actor at;
  consumer_id id{};
  std::atomic<std::size_t> under_way{0};

  // Any thread. False: there is no room for it, and it is gone.
  bool deliver_reply(envelope_ptr message);
  // So many bytes have left for the socket.
  void grant(std::size_t bytes) noexcept { under_way.fetch_sub(bytes, std::memory_order_relaxed); }
};
using reply_consumer_ptr = std::shared_ptr<reply_consumer>;

// Where a message goes beside its queues.
struct reply_route {
  std::vector<reply_consumer_ptr> consumers;
  bool known = false;  // it was published to an address; those who stood there may be gone
};

// All consumers of a node that wait for replies.
class reply_addresses {
public:
  // With a new address.
  [[nodiscard]] reply_consumer_ptr add(connection_actor at, consumer_id id);
  void remove(const reply_consumer& gone);
  // Null: it is gone, or never was.
  [[nodiscard]] reply_consumer_ptr find(std::string_view address) const;

  // Where the routing keys of a message lead, if the default exchange has it.
  void route(std::string_view routing_key, std::span<const std::byte> properties, reply_route& out) const;

private:
  mutable std::mutex mutex_;
  std::unordered_map<std::string_view, reply_consumer_ptr> consumers_;  // by their own address
};

// The properties, which must be valid and have a reply-to, with this address in its place; all else as it came.
[[nodiscard]] std::string with_reply_to(std::span<const std::byte> properties, std::string_view address);

}  // namespace posthorn::amqp091
