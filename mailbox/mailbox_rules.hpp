// What a mailbox has to heed: the limits of the node, and what the arguments of its queue and the policies ask for.
#pragma once

#include "mailbox/balance.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/stream_segments.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace posthorn {

struct mailbox_limits {
  std::size_t resident_max = std::size_t{64} << 20;  // bytes of message bodies kept in memory
  // Of a quorum queue. How long a delivery may stay unanswered if neither its consumer nor the queue says so; 0: for ever.
  std::chrono::milliseconds consumer_timeout{0};
  // How long a dead letter that found no way waits before it is tried again.
  std::chrono::milliseconds dead_letter_retry{5000};
};

// What the arguments of a queue ask for; `rules_of` reads them. Nothing set: as if there were none.
struct mailbox_rules {
  std::optional<std::chrono::milliseconds> message_ttl{};
  // Of the queue itself, when nobody uses it: for the actor.
  std::optional<std::chrono::milliseconds> expires{};
  std::optional<std::uint64_t> length_max{};  // ready messages
  std::optional<std::uint64_t> size_max{};    // bytes of their bodies
  enum class overflow : std::uint8_t {
    drop_head,           // the oldest give way, as soon as no consumer takes them
    reject_publish,      // the newest are refused
    reject_publish_dlx,  // the newest are refused and dead-lettered
  };
  overflow on_overflow = overflow::drop_head;
  std::optional<std::string> dead_letter_exchange{};  // without it, there are no dead letters
  std::optional<std::string> dead_letter_routing_key{};
  // How often a message may be given back. It is counted up to 65535; a limit above that is never reached.
  std::optional<std::uint32_t> delivery_limit{};
  // Of a quorum queue, with a dead-letter exchange and reject_publish: a dead letter that finds no way stays until there
  // is one [64] [66].
  bool at_least_once = false;
  // Of a quorum queue: how long a delivery may stay unanswered; 0: for ever [54].
  std::optional<std::chrono::milliseconds> consumer_timeout{};
  // Of a quorum queue: what comes back stands aside for a time, as long as `retry_min` times the number of times that it
  // was taken, and at most `retry_max` [67].
  enum class delayed_retry : std::uint8_t {
    disabled,
    all,
    failed,    // when it counts as a failed delivery
    returned,  // when it does not
  };
  delayed_retry retry = delayed_retry::disabled;
  std::chrono::milliseconds retry_min{0};
  std::optional<std::chrono::milliseconds> retry_max{};
  // A quorum queue: 32 levels, what has no priority in level 4; what comes back stands before all others, in the order
  // in which it came back [50] [60].
  bool quorum = false;
  std::optional<std::uint8_t>
      priority_max{};          // of a classic queue: levels from 0 to this; without it, there are none
  bool single_active = false;  // one consumer gets all [52]
  balance_algorithm dispatch = balance_algorithm::round_robin;  // among its consumers; see `consumer_order`
  // For a hash: the header whose value is the key. Without it, the routing key is.
  std::optional<std::string> hash_header{};
  // It takes no message while the same is in it: mailbox/deduplication.hpp.
  bool deduplicates = false;
  // It is a stream, which is no mailbox: see `stream_log`. None of the above is asked for.
  std::optional<stream_rules> stream{};

  friend bool operator==(const mailbox_rules&, const mailbox_rules&) = default;
};

// When a message that comes now expires, in milliseconds since 1970; 0: never. `rules` may be null.
[[nodiscard]] std::int64_t expiry_of(const mailbox_rules* rules, const envelope& message, std::int64_t now);

}  // namespace posthorn
