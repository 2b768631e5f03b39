// How a stream is cut into steps, in which its oldest messages go: by its size, and by their age.
//
// Everything here can be found out from the messages themselves, in order: so nothing of it is stored, and whoever reads the
// store at the start of a node makes one with `add`. A step ends when it has reached the size that the queue's argument
// x-stream-max-segment-size-bytes asks for. A stream that is cut in the same way may begin with another step after a
// restart, which nobody minds.
//
// Sizes     are bytes of envelopes, as the store holds them; times are milliseconds since 1970.
// Memory    56 bytes for each step, and never more than `count_max` of them: beyond that, neighbours become one, and steps
//           are longer from then on.
// Threads   a plain value of its owner.
#pragma once

#include "mailbox/ids.hpp"
#include "mailbox/ring.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace posthorn {

// What the arguments of a stream ask for; see stream_arguments.hpp.
struct stream_rules {
  static constexpr std::uint64_t segment_size_default = 500'000'000;
  static constexpr std::uint64_t segment_size_most = 3'000'000'000;

  std::optional<std::uint64_t> size_max{};             // x-max-length-bytes
  std::optional<std::chrono::milliseconds> age_max{};  // x-max-age
  std::uint64_t segment_size_max = segment_size_default;

  friend bool operator==(const stream_rules&, const stream_rules&) = default;
};

struct stream_segment {
  sequence first{}, last{};
  std::uint64_t count = 0, size = 0;
  std::int64_t first_time = 0, last_time = 0;  // when its first and its last message came
};

class stream_segments {
public:
  static constexpr std::size_t count_max = 4096;

  explicit stream_segments(std::uint64_t segment_size_max = stream_rules::segment_size_default)
      : asked_{segment_size_max}, step_{segment_size_max} {}

  // The next message in order. A time before that of the message before counts as the same. True: it begins a step.
  bool add(sequence at, std::uint64_t size, std::int64_t came_at);

  // Of the steps to come.
  void set_segment_size(std::uint64_t size_max) noexcept;
  // The same messages in larger steps: neighbours become one until it has this size.
  [[nodiscard]] stream_segments joined(std::uint64_t segment_size_max) const;

  // Drops the oldest steps as long as the rest is larger than it may be, or the youngest message in them is too old; the
  // last step stays. The last place that went.
  std::optional<sequence> retain(const stream_rules& rules, std::int64_t now);
  // When `retain` has something to do, if nothing comes: in milliseconds since 1970.
  [[nodiscard]] std::optional<std::int64_t> next_retention(const stream_rules& rules) const noexcept;

  // The first step with a message that came at this time or later. Null: there is none. Valid until the next change.
  [[nodiscard]] const stream_segment* find(std::int64_t came_at) const noexcept;

  [[nodiscard]] std::size_t segment_count() const noexcept { return segments_.size(); }
  [[nodiscard]] const stream_segment& operator[](std::size_t index) const noexcept {
    return segments_[index];
  }
  // Of messages.
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return segments_.empty(); }
  // Of a stream that is not empty.
  [[nodiscard]] sequence first() const noexcept { return segments_.front().first; }
  [[nodiscard]] sequence last() const noexcept { return segments_.back().last; }
  // When the last message came; 0: there was none.
  [[nodiscard]] std::int64_t last_time() const noexcept { return last_time_; }

private:
  void merge_neighbours();

  std::uint64_t asked_, step_;  // bytes; a step may be longer than asked for when there are many
  ring<stream_segment> segments_;
  std::uint64_t count_ = 0, size_ = 0;
  std::int64_t last_time_ = 0;
};

}  // namespace posthorn
