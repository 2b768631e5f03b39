#include "node/load/rate_plan.hpp"

#include "node/load/number_list.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace posthorn {
namespace {

constexpr double rate_max = 1e9;
constexpr double seconds_max = 1e6;
// Sums of fractions may fall short of a whole number by a little.
constexpr double rounding = 1e-6;

}  // namespace

result<rate_plan> rate_plan::parse(std::string_view text) {
  const auto wrong = [&] {
    return refused("the rate " + std::string{text} +
                   " is none: expected messages per second, at most 1000000000, or steps RATE:SECONDS,...");
  };
  const auto parts = parts_of(text);
  rate_plan out;
  for (const auto part : parts) {
    const auto colon = part.find(':');
    const auto rate = number_from<double>(part.substr(0, colon));
    if (!rate || !(*rate >= 0 && *rate <= rate_max)) return wrong();
    if (colon == std::string_view::npos) {
      if (parts.size() != 1) return wrong();
      if (*rate == 0) return rate_plan{};
      out.steps_.push_back({*rate, 1});
      continue;
    }
    const auto seconds = number_from<double>(part.substr(colon + 1));
    if (!seconds || !(*seconds >= 0.001 && *seconds <= seconds_max)) return wrong();
    out.steps_.push_back({*rate, *seconds});
  }
  for (const auto& one : out.steps_) {
    out.round_seconds_ += one.seconds;
    out.round_count_ += one.rate * one.seconds;
  }
  if (out.round_count_ < rounding) return wrong();
  return out;
}

std::uint64_t rate_plan::due(double seconds) const noexcept {
  const double rounds = std::floor(seconds / round_seconds_);
  double left = seconds - rounds * round_seconds_;
  double count = rounds * round_count_;
  for (const auto& one : steps_) {
    const double time = std::min(left, one.seconds);
    count += time * one.rate;
    left -= time;
  }
  return static_cast<std::uint64_t>(std::max(0.0, count + rounding));
}

double rate_plan::time_of(std::uint64_t count) const noexcept {
  const double rounds = std::floor(static_cast<double>(count) / round_count_);
  double left = static_cast<double>(count) - rounds * round_count_;
  double seconds = rounds * round_seconds_;
  for (const auto& one : steps_) {
    if (left <= 0) break;
    if (one.rate > 0 && left <= one.rate * one.seconds) return seconds + left / one.rate;
    left -= one.rate * one.seconds;
    seconds += one.seconds;
  }
  return seconds;
}

}  // namespace posthorn
