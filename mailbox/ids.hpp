// Names of things that are numbers: each is its own type, so that none can be taken for another.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace posthorn {

template <class Tag>
struct strong_id {
  std::uint64_t value = 0;

  friend constexpr auto operator<=>(const strong_id&, const strong_id&) = default;
};

// A mailbox of this node, for ever: an id is never given to a second mailbox while records of the first exist.
using mailbox_id = strong_id<struct mailbox_tag>;

// The place of a message in its mailbox. Counts from 1, in order of arrival, and is never used again.
using sequence = strong_id<struct sequence_tag>;

// Whoever holds messages of a mailbox: a consumer, or a channel that fetched with `basic.get`.
using consumer_id = strong_id<struct consumer_tag>;

// One stream of publishes that wants to know what became of them: a channel of a connection.
using publisher_id = strong_id<struct publisher_tag>;

using connection_id = strong_id<struct connection_tag>;
using binding_id = strong_id<struct binding_tag>;

// Both ends belong to the range.
struct sequence_range {
  sequence first, last;

  friend constexpr bool operator==(const sequence_range&, const sequence_range&) = default;
};

}  // namespace posthorn

template <class Tag>
struct std::hash<posthorn::strong_id<Tag>> {
  std::size_t operator()(posthorn::strong_id<Tag> id) const noexcept {
    return std::hash<std::uint64_t>{}(id.value);
  }
};
