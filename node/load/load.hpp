// The load: producers and consumers that keep a broker busy, and what came out of it.
//
// Each producer and each consumer is a connection with a thread of its own, and sends frames that were built before,
// so that the broker, and not the client, is what is measured. Works against any AMQP 0-9-1 broker.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/amqp_client.hpp"
#include "node/load/latency_histogram.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace posthorn {

struct load_options {
  amqp_address broker;
  unsigned producers = 1;
  unsigned consumers = 1;
  unsigned queues = 1;
  std::size_t size = 1024;            // of a body, in bytes; from 8 on it carries the time that it was sent
  double rate = 0;                    // messages per second of all producers; 0: as many as go
  std::size_t confirm_window = 1000;  // unconfirmed messages per producer; 0: no confirms
  std::uint16_t prefetch = 1000;
  unsigned ack_every = 100;
  bool is_auto_ack = false;
  bool is_transient = false;  // messages that need not survive; the queues are durable all the same
  std::chrono::milliseconds warm_up{500};
  std::chrono::milliseconds duration{10'000};
  std::uint64_t count = 0;              // instead of a duration: this many messages, without a warm-up
  std::string exchange_type;            // empty: the default exchange
  std::string queue_type;               // x-queue-type
  std::string name = "posthorn-bench";  // what the queues' names begin with
  bool keep = false;                    // use the queues as they are, and leave them
};

struct load_counts {
  std::uint64_t published = 0;
  std::uint64_t confirmed = 0;
  std::uint64_t consumed = 0;
};

// Called each second, with the counts since the last call.
using load_observer = std::function<void(unsigned second, const load_counts& delta, double seconds)>;

struct load_report {
  double seconds = 0;    // that were measured
  load_counts measured;  // in them
  load_counts total;     // from the first message to the last
  std::uint64_t nacked = 0;
  std::uint64_t unconfirmed = 0;  // neither confirmed nor refused when patience ended
  std::uint64_t unexpected = 0;   // confirms for messages that did not wait for one
  std::uint64_t missing = 0;      // published, but never consumed; 0 where this cannot be told
  bool was_blocked = false;
  latency_histogram delivery;  // from before the publish to the consumer
  latency_histogram confirm;   // from before the publish to its confirm
};

// Ends early, but in good order, once `interrupted` becomes true.
[[nodiscard]] result<load_report> run_load(const load_options& options, const load_observer& observe,
                                           const std::atomic<bool>& interrupted);

}  // namespace posthorn
