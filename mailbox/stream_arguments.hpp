// The arguments of a stream, and of those who read it. Texts as RabbitMQ has them; numbers in brackets are those of
// docs/amqp.md.
//
// Everything here is a function of its arguments.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/stream_segments.hpp"
#include "mailbox/topology.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

// The header that tells a reader at which offset a message stands.
inline constexpr std::string_view stream_offset_header = "x-stream-offset";

// Offsets count from 0, places from 1.
[[nodiscard]] constexpr std::uint64_t offset_of(sequence at) noexcept { return at.value - 1; }

// A length of time as in "7D": a whole number above zero, and one of Y (365 days), M (30 days), D, h, m, s. What is longer
// than anything lasts is as long as can be.
[[nodiscard]] std::optional<std::chrono::milliseconds> stream_age(std::string_view text) noexcept;

// Why a stream may not have one of these arguments at all [4].
[[nodiscard]] std::optional<refusal> check_stream_argument_names(const field_table& arguments,
                                                                 std::string_view described);

// Why a stream may not be declared with what they say [3]; those that all types of queues know are checked elsewhere.
// `described` is the queue, as in "queue 'q' in vhost '/'".
[[nodiscard]] std::optional<refusal> check_stream_arguments(const field_table& arguments,
                                                            std::string_view described);
// From arguments that were checked; what is not valid counts as not there.
[[nodiscard]] stream_rules stream_rules_of(const field_table& arguments);

// Where a reader begins: consumer argument x-stream-offset. Nothing said: `next`.
struct stream_start {
  enum class from : std::uint8_t {
    first,   // the oldest message that is still there
    last,    // the youngest
    next,    // the first one that comes from now on
    offset,  // `value`; one that is not there yet is waited for
    time,    // the first one that came at `value` or later, in milliseconds since 1970
  };
  from where = from::next;
  std::uint64_t value = 0;

  friend bool operator==(const stream_start&, const stream_start&) = default;
};

// Which messages a reader wants: consumer arguments x-stream-filter (a text or several) and x-stream-match-unfiltered. A
// message has its value in the header x-stream-filter-value.
struct stream_filter {
  std::vector<std::string> values;  // none: all messages
  bool unfiltered = false;          // those without a value, too

  [[nodiscard]] bool takes_all() const noexcept { return values.empty(); }
  // `properties` are the message's, as they came.
  [[nodiscard]] bool takes(std::span<const std::byte> properties) const;

  friend bool operator==(const stream_filter&, const stream_filter&) = default;
};

// What a reader asks for.
struct stream_reading {
  stream_start start;
  stream_filter filter;
};

// Why this cannot be a reader [55]. `prefetch` is what a consumer of the channel gets now.
[[nodiscard]] std::optional<refusal> check_stream_reader(const field_table& arguments, std::uint32_t prefetch,
                                                         bool acknowledges, std::string_view described);
// From arguments that were checked; what is not valid counts as not there. `now` in milliseconds since 1970.
[[nodiscard]] stream_start stream_start_of(const field_table& arguments, std::int64_t now);
[[nodiscard]] stream_filter stream_filter_of(const field_table& arguments);

// The refusal of what streams do not have [55]: `what` is "basic.get" or "queue.purge".
[[nodiscard]] refusal not_of_streams(std::string_view what, std::string_view described);

// The properties as a receiver sees them: with the header x-stream-offset, and without BCC [31]. Nothing: the headers cannot
// be read, and are left alone.
[[nodiscard]] std::optional<std::string> with_stream_offset(std::span<const std::byte> properties,
                                                            std::uint64_t offset);

}  // namespace posthorn
