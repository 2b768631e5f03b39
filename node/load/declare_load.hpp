// How fast a broker declares durable queues: one by one, so that each is on disk before the next is asked for, and many
// ahead of their answers.
//
// Threads   runs on the caller's thread.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/amqp_client.hpp"
#include "node/load/latency_histogram.hpp"
#include "node/load/process_memory.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace posthorn {

struct declare_options {
  amqp_address broker;
  unsigned queues = 5000;  // for each of the two
  unsigned window = 1000;  // requests ahead of their answers
  std::string queue_type;  // x-queue-type
  std::string name = "posthorn-bench";
  bool keep = false;   // leave the queues
  int broker_pid = 0;  // whose memory to read; 0: of no process
};

// One way of asking.
struct declare_phase {
  unsigned count = 0;
  double seconds = 0;
  latency_histogram latency;  // of each answer
};

struct declare_report {
  declare_phase one_by_one, pipelined, removed;
  std::optional<process_memory> before, after;  // of the broker, without and with all queues
};

// Called now and then with what is being done, and how many of it are done.
using declare_observer = std::function<void(const char* what, unsigned done)>;

// The queues NAME-declare-0 ... are removed first, and at the end. Ends early, but in good order, once `interrupted`.
[[nodiscard]] result<declare_report> run_declare(const declare_options& options,
                                                 const declare_observer& observe,
                                                 const std::atomic<bool>& interrupted);

}  // namespace posthorn
