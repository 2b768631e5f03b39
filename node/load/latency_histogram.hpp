// How long things took: a histogram of fixed size, whatever the number of values, exact to 3 %.
//
// Threads   a plain value of one thread; `add` joins those of several when they are done.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace posthorn {

class latency_histogram {
public:
  void record(std::uint64_t nanoseconds) noexcept {
    ++counts_[index_of(nanoseconds)];
    ++count_;
    max_ = std::max(max_, nanoseconds);
  }

  void add(const latency_histogram& other) noexcept {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    count_ += other.count_;
    max_ = std::max(max_, other.max_);
  }

  // What was recorded since `earlier`, an older state of this one. Its largest value is known to 3 %, as all others.
  [[nodiscard]] latency_histogram since(const latency_histogram& earlier) const noexcept {
    latency_histogram out;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] <= earlier.counts_[i]) continue;
      out.add_step(i, counts_[i] - earlier.counts_[i]);
      out.max_ = std::min(highest_of(i), max_);
    }
    return out;
  }

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t max() const noexcept { return max_; }

  // The value that the given part of all values does not exceed, in nanoseconds; 0 if there are none.
  [[nodiscard]] std::uint64_t quantile(double part) const noexcept {
    const auto rank = static_cast<std::uint64_t>(part * static_cast<double>(count_));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > rank || (seen == count_ && count_ != 0)) return std::min(highest_of(i), max_);
    }
    return 0;
  }

  // Calls `visit(highest, count)` for each step that has values, from the lowest to the highest. Times in nanoseconds.
  template <class Visit>
  void each_step(Visit&& visit) const {
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] != 0) visit(std::min(highest_of(i), max_), counts_[i]);
    }
  }

  // For those that count elsewhere: `count` values of one step, and the largest of all.
  void add_step(std::size_t index, std::uint64_t count) noexcept {
    counts_[index] += count;
    count_ += count;
  }
  void raise_max(std::uint64_t nanoseconds) noexcept { max_ = std::max(max_, nanoseconds); }

  // Each power of two is divided into 32 steps; below 64 each value has its own.
  static constexpr unsigned step_bits = 5;
  static constexpr std::size_t step_count = (64 - step_bits + 1) << step_bits;

  static constexpr std::size_t index_of(std::uint64_t value) noexcept {
    if (value < (2U << step_bits)) return static_cast<std::size_t>(value);
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - step_bits - 1;
    return (std::size_t{shift} << step_bits) + static_cast<std::size_t>(value >> shift);
  }

private:
  static constexpr std::uint64_t highest_of(std::size_t index) noexcept {
    if (index < (2U << step_bits)) return index;
    const auto shift = static_cast<unsigned>(index >> step_bits) - 1;
    const auto lowest = (static_cast<std::uint64_t>(index) - (std::uint64_t{shift} << step_bits)) << shift;
    return lowest + ((std::uint64_t{1} << shift) - 1);
  }

  std::array<std::uint64_t, step_count> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace posthorn
