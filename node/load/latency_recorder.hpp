// A histogram that one thread writes while another one reads it, so that a load shows what it does before it ends.
//
// Threads   `record` is for one thread; `add_to` is for any other, and sees each value at most a moment late.
#pragma once

#include "node/load/latency_histogram.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace posthorn {

class latency_recorder {
public:
  void record(std::uint64_t nanoseconds) noexcept {
    auto& count = counts_[latency_histogram::index_of(nanoseconds)];
    // One writer: an increment needs no locked instruction.
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (nanoseconds > max_.load(std::memory_order_relaxed))
      max_.store(nanoseconds, std::memory_order_relaxed);
  }

  void add_to(latency_histogram& sum) const noexcept {
    latency_histogram one;
    for (std::size_t i = 0; i < latency_histogram::step_count; ++i) {
      one.add_step(i, counts_[i].load(std::memory_order_relaxed));
    }
    one.raise_max(max_.load(std::memory_order_relaxed));
    sum.add(one);
  }

private:
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_ =
      std::make_unique<std::atomic<std::uint64_t>[]>(latency_histogram::step_count);
  std::atomic<std::uint64_t> max_ = 0;
};

}  // namespace posthorn
