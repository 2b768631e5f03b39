// A message that a queue gives up goes to the queue's dead-letter exchange, and carries its history in its headers.
// Numbers in brackets are those of docs/amqp.md.
//
//   x-death                              array of tables, newest first, one for each queue and reason [61]:
//     original-expiration  S             only if the message had an expiration when this happened first
//     count                l             how often
//     reason, queue        S
//     time                 T             seconds since 1970, when it happened first
//     exchange             S             to which the message had been published when it happened first,
//     routing-keys         A of S        and with which keys: those of CC count, those of BCC do not
//   x-first-death-{reason,queue,exchange}   S, never change [62]
//   x-last-death-{reason,queue,exchange}    S
//
// Everything here is a function of its arguments.
#pragma once

#include "mailbox/envelope.hpp"
#include "mailbox/result.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

namespace posthorn {

// [63]
enum class death_reason : std::uint8_t { rejected, expired, maxlen, delivery_limit };

// As it stands in the headers.
[[nodiscard]] std::string_view to_string(death_reason reason) noexcept;

struct death {
  std::string_view queue;  // which gives the message up
  death_reason reason = death_reason::rejected;
  std::chrono::seconds time{};                  // since 1970
  std::string_view exchange;                    // the dead-letter exchange of the queue
  std::optional<std::string_view> routing_key;  // the dead-letter routing key of the queue, if it has one
  // Whether the message was made by make_dead_letter. If it was not, an x-death in it comes from a client, who may
  // have republished the headers of a dead letter: that is no history of this message, and is replaced [62].
  bool dead_lettered_before = false;
  // Whether somebody had it in his hands: wherever it goes, it may have been seen before, and is delivered as such.
  bool delivered = false;
  // Of a quorum queue: how often it came back, and how often of these a delivery had failed [48].
  std::uint16_t returns = 0, attempts = 0;
};

// What is published to the dead-letter exchange. Body, properties and headers that are not named here stay byte for
// byte as they are.
//
//   - The expiration is removed, so that the message does not expire again where it goes [63].
//   - Without a dead-letter routing key, the message keeps all of its keys: routing key, CC and BCC. With one, it has
//     only that; CC stays to be read, but names no keys any more [64]. BCC is expected to be still in the headers:
//     whoever delivers a message removes it [31].
//   - What a quorum queue has counted is in the headers x-acquired-count and x-delivery-count, where the next one goes on.
//   - Headers that cannot be read are replaced, and so is a history that is not one.
//
// Errors: `refused` when exchange and key do not fit into an envelope, or the headers have outgrown it; `corrupted`
// when the properties are not what their flags announce. Nothing can be dead-lettered then.
[[nodiscard]] result<envelope_ptr> make_dead_letter(const envelope& message, const death& event);

// Whether a dead letter that died of `reason` last must not go to `queue`, because it has been there, and has come
// back without anybody rejecting it on the way: it would go round for ever [65]. `dead_letter` was made by
// make_dead_letter. To be asked for each queue to which its exchange routes it.
[[nodiscard]] bool would_cycle(const envelope& dead_letter, std::string_view queue, death_reason reason);

// How many deliveries of it had failed when it died, as far as quorum queues have counted them.
[[nodiscard]] std::uint16_t failed_deliveries_of(const envelope& dead_letter);

}  // namespace posthorn
