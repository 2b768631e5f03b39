// The load: producers and consumers that keep a broker busy, and what came out of it.
//
// Each producer and each consumer is a connection with one or more channels; a few threads drive them all. Frames are
// put together from prepared pieces, so that the broker, and not the client, is what is measured. Works against any
// AMQP 0-9-1 broker.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/amqp_client.hpp"
#include "node/load/idle_load.hpp"
#include "node/load/latency_histogram.hpp"
#include "node/load/rate_plan.hpp"
#include "node/load/size_plan.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace posthorn {

struct load_options {
  amqp_address broker;
  unsigned producers = 1;      // connections
  unsigned consumers = 1;      // connections
  std::uint16_t channels = 1;  // of each connection
  unsigned threads = 8;        // at most, for all connections
  unsigned queues = 1;
  size_plan size;                     // of a body; from 8 bytes on it carries the time that it was sent
  rate_plan rate;                     // messages per second of all producers
  double consume_rate = 0;            // messages per second of all consumers; 0: as many as come
  std::size_t confirm_window = 1000;  // unconfirmed messages per channel; 0: no confirms
  std::uint16_t prefetch = 1000;      // per channel
  unsigned ack_every = 100;
  bool is_auto_ack = false;
  bool is_transient = false;  // messages that need not survive; the queues are durable all the same
  bool is_mandatory = false;  // what reaches no queue is returned
  std::chrono::milliseconds warm_up{500};
  std::chrono::milliseconds duration{10'000};
  std::uint64_t count = 0;    // instead of a duration: this many messages, without a warm-up
  std::string exchange_type;  // empty: the default exchange
  unsigned fan_out = 1;       // queues that each message gets to; an exchange of type fanout reaches all
  unsigned keys = 1;          // routing keys per queue, each with a binding of its own
  std::string queue_type;     // x-queue-type
  std::string name = "posthorn-bench";  // what the queues' names begin with
  bool keep = false;                    // use the queues as they are, and leave them
  idle_options idle;                    // what there is besides, and does nothing
};

struct load_counts {
  std::uint64_t published = 0;
  std::uint64_t confirmed = 0;
  std::uint64_t consumed = 0;
};

// A second of the measured time.
struct load_second {
  double end = 0;  // seconds since measuring began
  double seconds = 0;
  load_counts counts;
  latency_histogram delivery;
  latency_histogram confirm;
};

// Called each second.
using load_observer = std::function<void(const load_second&)>;

// The part of a second that is kept.
struct latency_summary {
  std::uint64_t count = 0;
  std::uint64_t p50 = 0, p99 = 0, max = 0;  // nanoseconds
};

struct load_point {
  double end = 0;
  double seconds = 0;
  load_counts counts;
  latency_summary delivery;
  latency_summary confirm;
};

struct load_report {
  double seconds = 0;    // that were measured
  load_counts measured;  // in them
  load_counts total;     // from the first message to the last
  std::uint64_t nacked = 0;
  std::uint64_t returned = 0;     // mandatory messages that reached no queue
  std::uint64_t unconfirmed = 0;  // neither confirmed nor refused when patience ended
  std::uint64_t unexpected = 0;   // confirms for messages that did not wait for one
  std::uint64_t missing = 0;      // published, but never consumed; 0 where this cannot be told
  bool was_blocked = false;
  latency_histogram delivery;  // from before the publish to the consumer
  latency_histogram confirm;   // from before the publish to its confirm
  std::vector<load_point> series;
  std::optional<idle_report> idle;
};

// Ends early, but in good order, once `interrupted` becomes true.
[[nodiscard]] result<load_report> run_load(const load_options& options, const load_observer& observe,
                                           const std::atomic<bool>& interrupted);

}  // namespace posthorn
