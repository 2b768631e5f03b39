#include "node/load/idle_load.hpp"

#include "node/load/request_pipe.hpp"
#include "node/load/topology_plan.hpp"

#include <sys/resource.h>

#include <chrono>

namespace posthorn {
namespace {

using steady = std::chrono::steady_clock;

constexpr std::size_t window = 1000;
constexpr std::chrono::seconds settling_time{3};

double seconds_since(steady::time_point since) {
  return std::chrono::duration<double>(steady::now() - since).count();
}

}  // namespace

result<void> reserve_files(std::uint64_t count) {
  constexpr std::uint64_t others = 64;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= count + others) return {};
  if (limit.rlim_max < count + others) {
    return refused(std::to_string(count) +
                   " connections need more open files than the system allows this process: " +
                   std::to_string(limit.rlim_max) + " (ulimit -Hn)");
  }
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  return {};
}

result<std::optional<process_memory>> idle_load::broker_memory() const {
  if (options_.broker_pid == 0) return std::optional<process_memory>{};
  auto memory = settled_memory(options_.broker_pid, settling_time);
  if (!memory) return memory.error();
  return std::optional{*memory};
}

result<void> idle_load::open(const std::atomic<bool>& interrupted) {
  const auto read_memory = [&](std::optional<process_memory>& into) -> result<void> {
    auto memory = broker_memory();
    if (!memory) return memory.error();
    into = *memory;
    return {};
  };
  if (auto ok = read_memory(report_.before); !ok) return ok;
  const auto connecting_since = steady::now();
  connections_.reserve(options_.connections);
  while (connections_.size() < options_.connections && !interrupted) {
    auto client = amqp_client::open(broker_);
    if (!client) {
      return error{client.error().code, "of " + std::to_string(options_.connections) + " idle connections, " +
                                            std::to_string(connections_.size()) +
                                            " could be opened: " + client.error().text};
    }
    (*client)->shrink();
    connections_.push_back(std::move(*client));
  }
  report_.connections = static_cast<unsigned>(connections_.size());
  report_.connect_seconds = seconds_since(connecting_since);
  if (auto ok = read_memory(report_.with_connections); !ok) return ok;
  if (options_.queues == 0) return {};
  if (auto ok = declare(interrupted); !ok) return ok;
  return read_memory(report_.with_queues);
}

result<void> idle_load::declare(const std::atomic<bool>& interrupted) {
  auto client = amqp_client::open(broker_);
  if (!client) return client.error();
  const auto since = steady::now();
  const auto arguments = queue_arguments_of(queue_type_);
  request_pipe pipe{**client, broker_.answer_time, window};
  while (report_.queues < options_.queues && !interrupted) {
    const auto name = name_ + "-idle-" + std::to_string(report_.queues++);
    if (auto ok = pipe.add(durable_queue(name, arguments)); !ok) return ok;
  }
  if (auto ok = pipe.finish(); !ok) return ok;
  report_.declare_seconds = seconds_since(since);
  (*client)->close();
  return {};
}

result<void> idle_load::close() {
  for (auto& client : connections_) {
    auto heard = client->receive_now();
    while (heard) {
      const auto frame = client->next();
      if (!frame) {
        heard = frame.error();
      } else if (!*frame) {
        break;
      }
    }
    if (!heard) ++report_.closed;
  }
  for (auto& client : connections_) {
    // One that does not answer will not answer the others either.
    if (report_.closed != 0 || !client->close()) break;
  }
  connections_.clear();
  if (report_.queues == 0) return {};
  auto client = amqp_client::open(broker_);
  if (!client) return client.error();
  request_pipe pipe{**client, broker_.answer_time, window};
  for (unsigned i = 0; i < report_.queues; ++i) {
    const auto name = name_ + "-idle-" + std::to_string(i);
    amqp091::method::queue_delete request;
    request.queue = name;
    if (auto ok = pipe.add(request); !ok) return ok;
  }
  if (auto ok = pipe.finish(); !ok) return ok;
  (*client)->close();
  return {};
}

}  // namespace posthorn
