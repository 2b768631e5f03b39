#include "mailbox/stream_segments.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

// A step of size 0 would have no message in it.
std::uint64_t at_least_one(std::uint64_t size) noexcept { return std::max<std::uint64_t>(size, 1); }

// When a message that came then is older than it may be.
std::int64_t end_of_life(std::int64_t came_at, std::chrono::milliseconds age_max) noexcept {
  constexpr auto never = std::numeric_limits<std::int64_t>::max();
  return age_max.count() > never - std::max<std::int64_t>(came_at, 0) ? never : came_at + age_max.count();
}

// `later` follows.
void join(stream_segment& to, const stream_segment& later) noexcept {
  to.last = later.last;
  to.last_time = later.last_time;
  to.count += later.count;
  to.size += later.size;
}

}  // namespace

bool stream_segments::add(sequence at, std::uint64_t size, std::int64_t came_at) {
  const bool begins = segments_.empty() || segments_.back().size >= at_least_one(step_);
  last_time_ = std::max(last_time_, came_at);
  if (begins) {
    if (segments_.size() == count_max) merge_neighbours();
    segments_.push_back({at, at, 0, 0, last_time_, last_time_});
  }
  auto& last = segments_.back();
  last.last = at;
  last.last_time = last_time_;
  ++last.count;
  last.size += size;
  ++count_;
  size_ += size;
  return begins;
}

void stream_segments::set_segment_size(std::uint64_t size_max) noexcept {
  if (size_max == asked_) return;
  asked_ = step_ = size_max;
}

void stream_segments::merge_neighbours() {
  ring<stream_segment> merged;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const auto& next = segments_[i];
    if (i % 2 == 0) {
      merged.push_back(next);
      continue;
    }
    join(merged.back(), next);
  }
  segments_ = std::move(merged);
  constexpr auto most = std::numeric_limits<std::uint64_t>::max() / 2;
  step_ = std::min(at_least_one(step_), most) * 2;
}

stream_segments stream_segments::joined(std::uint64_t segment_size_max) const {
  stream_segments out{segment_size_max};
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const auto& next = segments_[i];
    if (out.segments_.empty() || out.segments_.back().size >= at_least_one(segment_size_max)) {
      out.segments_.push_back(next);
    } else {
      join(out.segments_.back(), next);
    }
  }
  out.count_ = count_;
  out.size_ = size_;
  out.last_time_ = last_time_;
  return out;
}

std::optional<sequence> stream_segments::retain(const stream_rules& rules, std::int64_t now) {
  std::optional<sequence> gone;
  while (segments_.size() > 1) {
    const auto& oldest = segments_.front();
    const bool too_large = rules.size_max && size_ > *rules.size_max;
    const bool too_old = rules.age_max && end_of_life(oldest.last_time, *rules.age_max) <= now;
    if (!too_large && !too_old) break;
    gone = oldest.last;
    count_ -= oldest.count;
    size_ -= oldest.size;
    segments_.pop_front();
  }
  if (gone && segments_.size() <= count_max / 4) step_ = std::max(asked_, step_ / 2);
  return gone;
}

std::optional<std::int64_t> stream_segments::next_retention(const stream_rules& rules) const noexcept {
  if (!rules.age_max || segments_.size() < 2) return std::nullopt;
  return end_of_life(segments_.front().last_time, *rules.age_max);
}

const stream_segment* stream_segments::find(std::int64_t came_at) const noexcept {
  std::size_t first = 0, end = segments_.size();
  while (first < end) {
    const auto middle = first + (end - first) / 2;
    if (segments_[middle].last_time < came_at) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first < segments_.size() ? &segments_[first] : nullptr;
}

}  // namespace posthorn
