// One channel of a connection: what it publishes, what it holds, who consumes on it.
//
//   open --on_close (the client)--> gone
//   open --refuse (an error)------> closing --on_close_ok--> gone
//
// Threads   a plain value, owned by its connection.
#pragma once

#include "actors/queue.hpp"
#include "gateway/amqp091/ledgers.hpp"
#include "gateway/amqp091/reply_to.hpp"
#include "gateway/amqp091/transaction.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/topology.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace posthorn::amqp091 {

// A consumer, or all that a channel fetched from one queue with basic.get.
struct channel_holder {
  consumer_id id{};
  std::string tag;  // of a consumer; empty for a fetcher
  queue_ptr queue;
  bool no_ack = false;
  bool consuming = false;
  bool in_use = false;
  bool counts = false;         // of a quorum queue, which says how often a message came back [48]
  bool tells_offsets = false;  // of a stream [55]
  std::uint32_t held_count = 0;
  std::int64_t window = 0;       // bytes that may be on their way to the socket
  std::int64_t credit_owed = 0;  // bytes that were handed to the socket, and not granted again yet
  // Waits for replies [56]: its queue is the pseudo queue, behind which there is nothing.
  [[nodiscard]] bool takes_replies() const noexcept { return queue->port == nullptr; }
  // It is worth a message to the queue.
  [[nodiscard]] bool is_owed_credit() const noexcept { return credit_owed > 0 && credit_owed >= window / 4; }
};

// A publish between its method and the end of its body.
struct content_in_progress {
  enum class part : std::uint8_t { none, header, body };
  part expected = part::none;
  std::string exchange, routing_key;
  bool mandatory = false;
  envelope_builder builder;
};

// Where the last message went, for the next one that goes there too.
struct route_cache {
  std::uint64_t version = 0;  // of the snapshot that it is true for; 0: of none
  std::string exchange, routing_key;
  std::vector<queue_ptr> queues;
  reply_route replies;  // of the last message that was routed; none of one that goes by the above
};

struct channel {
  std::uint16_t number = 0;
  std::uint16_t incarnation = 0;  // tells publishers apart when a number is used again
  bool closing = false;           // we sent channel.close, and wait for its ok

  bool confirming = false;
  std::uint64_t confirm_base = 0;  // publishes before confirm.select have no confirm number
  std::uint64_t confirmed = 0;     // all up to here were confirmed
  publish_ledger published;
  content_in_progress content;
  route_cache route;
  // The exchange that it published to last, with permission; forgotten when permissions change.
  std::optional<std::string> may_publish_to;
  std::unique_ptr<transaction> tx;  // after tx.select

  std::uint16_t prefetch = 0;
  delivery_ledger delivered;
  std::vector<channel_holder> holders;                       // the index is what the ledger knows
  std::unordered_map<std::string, std::uint32_t> consumers;  // tag -> holder
  reply_consumer_ptr replies;                                // null: it does not wait for any
  std::string last_queue;                                    // declared; what an empty name means: [8]

  // A free holder, and its index.
  std::uint32_t add_holder() {
    for (std::uint32_t i = 0; i < holders.size(); ++i) {
      if (!holders[i].in_use) {
        holders[i] = {};
        holders[i].in_use = true;
        return i;
      }
    }
    holders.emplace_back().in_use = true;
    return static_cast<std::uint32_t>(holders.size() - 1);
  }
};

}  // namespace posthorn::amqp091
