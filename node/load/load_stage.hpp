// What all workers of a load share: the plan, the names, the signals from the one that directs them, and the counts that
// they write.
//
// Threads   options and names are fixed; the flags are written by the director, each tally by the thread it belongs to.
#pragma once

#include "mailbox/result.hpp"
#include "node/load/latency_recorder.hpp"
#include "node/load/load.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

namespace posthorn {

[[nodiscard]] inline std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// Written by one thread, read by any.
struct counter {
  std::atomic<std::uint64_t> value = 0;

  void add(std::uint64_t n) noexcept {
    value.store(value.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t get() const noexcept { return value.load(std::memory_order_relaxed); }
};

// What the connections of one thread did; on cache lines of its own.
struct alignas(64) load_tally {
  counter published, confirmed, consumed;
  counter nacked, returned, unexpected, unconfirmed, was_blocked;
  latency_recorder delivery, confirm;
};

struct load_stage {
  explicit load_stage(const load_options& o) : options{o} {}

  const load_options& options;
  std::chrono::steady_clock::time_point began;  // set before `may_publish`
  std::atomic<bool> may_publish = false;
  std::atomic<bool> measure = false;  // latencies count
  std::atomic<bool> stop_publishing = false;
  std::atomic<bool> stop_consuming = false;
  std::atomic<bool> has_failed = false;
  // Grows with each of the flags, so that a thread sees at one glance that there is something to see.
  std::atomic<unsigned> signals = 0;
  std::atomic<unsigned> producers_left = 0;

  std::mutex mutex;  // guards `first_error`
  std::optional<error> first_error;

  void raise(std::atomic<bool>& flag) {
    flag = true;
    ++signals;
  }
  void fail(const error& failure) {
    {
      const std::lock_guard lock{mutex};
      if (!first_error) first_error = failure;
    }
    raise(has_failed);
  }
};

[[nodiscard]] std::string queue_name_of(const load_options& options, unsigned queue);
// Empty for the default exchange.
[[nodiscard]] std::string exchange_name_of(const load_options& options);
// What brings a message to `queue`, in `key` of `options.keys` ways.
[[nodiscard]] std::string routing_key_of(const load_options& options, unsigned queue, unsigned key);
// How many queues a message gets to.
[[nodiscard]] unsigned copies_of(const load_options& options);

}  // namespace posthorn
