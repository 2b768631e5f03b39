// Connections and queues that do nothing: what they cost a broker, and whether they slow others down.
//
// Owns      its connections. They need no thread.
// Threads   belongs to one thread.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/amqp_client.hpp"
#include "node/load/process_memory.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace posthorn {

struct idle_options {
  unsigned connections = 0;  // each with a channel
  unsigned queues = 0;       // durable
  int broker_pid = 0;        // whose memory to read; 0: of no process
};

struct idle_report {
  unsigned connections = 0;
  unsigned queues = 0;
  double connect_seconds = 0;
  double declare_seconds = 0;
  std::uint64_t closed = 0;  // connections that the broker closed meanwhile
  // Of the broker: before, with the connections, and with the queues too.
  std::optional<process_memory> before, with_connections, with_queues;
};

class idle_load {
public:
  // The queues are called NAME-idle-0 ...
  idle_load(const idle_options& options, const amqp_address& broker, std::string name, std::string queue_type)
      : options_{options}, broker_{broker}, name_{std::move(name)}, queue_type_{std::move(queue_type)} {}

  [[nodiscard]] result<void> open(const std::atomic<bool>& interrupted);
  // Counts those that were closed, closes the others, and deletes the queues.
  [[nodiscard]] result<void> close();
  [[nodiscard]] const idle_report& report() const noexcept { return report_; }

private:
  [[nodiscard]] result<void> declare(const std::atomic<bool>& interrupted);
  [[nodiscard]] result<std::optional<process_memory>> broker_memory() const;

  idle_options options_;
  amqp_address broker_;
  std::string name_;
  std::string queue_type_;
  std::vector<std::unique_ptr<amqp_client>> connections_;
  idle_report report_;
};

// Makes sure that so many files can be open besides the few that a program has.
[[nodiscard]] result<void> reserve_files(std::uint64_t count);

}  // namespace posthorn
