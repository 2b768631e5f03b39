#include "node/commands/human_time.hpp"

#include <array>
#include <ctime>

namespace posthorn {
namespace {

// One digit behind the point below ten, none above.
std::string scaled(std::int64_t value, std::int64_t unit, const char* name) {
  const auto tenths = value / (unit / 10);
  std::string out = std::to_string(tenths / 10);
  if (tenths < 100 && tenths % 10 != 0) out += '.' + std::to_string(tenths % 10);
  return out + ' ' + name;
}

}  // namespace

std::string human_duration(std::chrono::nanoseconds duration) {
  const std::int64_t ns = duration.count();
  if (ns <= 0) return "0 s";
  if (ns < 1000) return std::to_string(ns) + " ns";
  if (ns < 1'000'000) return scaled(ns, 1000, "µs");
  if (ns < 1'000'000'000) return scaled(ns, 1'000'000, "ms");
  const std::int64_t seconds = ns / 1'000'000'000;
  if (seconds < 60) return scaled(ns, 1'000'000'000, "s");
  if (seconds < 3600) return std::to_string(seconds / 60) + " min " + std::to_string(seconds % 60) + " s";
  const auto hours = seconds / 3600;
  if (hours < 48) return std::to_string(hours) + " h " + std::to_string(seconds % 3600 / 60) + " min";
  return std::to_string(hours / 24) + " d " + std::to_string(hours % 24) + " h";
}

std::string human_time(std::int64_t milliseconds_since_1970) {
  const auto seconds = static_cast<std::time_t>(milliseconds_since_1970 / 1000);
  std::tm broken_down{};
  if (::localtime_r(&seconds, &broken_down) == nullptr) return "?";
  std::array<char, 32> out{};
  return {out.data(), std::strftime(out.data(), out.size(), "%Y-%m-%d %H:%M:%S", &broken_down)};
}

}  // namespace posthorn
