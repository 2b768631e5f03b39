// How large the bodies are: all alike, some sizes in turn, or anything within bounds.
//
// Threads   a plain value.
#pragma once

#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace posthorn {

class size_plan {
public:
  // In bytes: "1024", in turn "100,1000,10000", or at random "100-2000".
  static result<size_plan> parse(std::string_view text);

  // The size of a producer's message of this number.
  [[nodiscard]] std::size_t size_of(std::uint64_t number) const noexcept {
    if (sizes_.size() == 1) return sizes_.front();
    if (!is_random_) return sizes_[number % sizes_.size()];
    // What looks random must be the same in each run, so that two runs compare.
    std::uint64_t mixed = (number + 1) * 0x9E3779B97F4A7C15U;
    mixed = (mixed ^ (mixed >> 30U)) * 0xBF58476D1CE4E5B9U;
    mixed = (mixed ^ (mixed >> 27U)) * 0x94D049BB133111EBU;
    mixed ^= mixed >> 31U;
    return sizes_[0] + static_cast<std::size_t>(mixed % (sizes_[1] - sizes_[0] + 1));
  }
  [[nodiscard]] std::size_t largest() const noexcept;

  static constexpr std::size_t size_max = std::size_t{512} << 20U;

private:
  std::vector<std::size_t> sizes_{1024};  // at random: the smallest and the largest
  bool is_random_ = false;
};

}  // namespace posthorn
