#include "actors/alarms.hpp"

#include <utility>

namespace posthorn {

std::string_view to_string(resource what) noexcept { return what == resource::memory ? "memory" : "disk"; }

std::optional<resource> parse_resource(std::string_view name) noexcept {
  for (const auto what : all_resources) {
    if (name == to_string(what)) return what;
  }
  return std::nullopt;
}

template <class Change>
bool resource_alarms::change(Change what) {
  const std::lock_guard guard{mutex_};
  const auto before = reason_now();
  const bool is_news = what();
  auto after = reason_now();
  if (after != before && listener_) listener_(after);
  return is_news;
}

bool resource_alarms::measured(resource what, bool is_low) {
  return change(
      [&] { return std::exchange(states_[static_cast<std::size_t>(what)].is_low, is_low) != is_low; });
}

bool resource_alarms::raised_by_hand(resource what, bool is_raised) {
  return change(
      [&] { return std::exchange(states_[static_cast<std::size_t>(what)].by_hand, is_raised) != is_raised; });
}

resource_alarms::state resource_alarms::of(resource what) const {
  const std::lock_guard guard{mutex_};
  return states_[static_cast<std::size_t>(what)];
}

std::string resource_alarms::reason() const {
  const std::lock_guard guard{mutex_};
  return reason_now();
}

std::string resource_alarms::reason_now() const {
  const bool memory = states_[static_cast<std::size_t>(resource::memory)].is_raised();
  const bool disk = states_[static_cast<std::size_t>(resource::disk)].is_raised();
  if (memory && disk) return "low on disk & memory";
  if (memory) return "low on memory";
  return disk ? "low on disk" : "";
}

void resource_alarms::listen(listener told) {
  const std::lock_guard guard{mutex_};
  listener_ = std::move(told);
  if (const auto reason = reason_now(); listener_ && !reason.empty()) listener_(reason);
}

}  // namespace posthorn
