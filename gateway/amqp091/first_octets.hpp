// What a client speaks, by the first octets that it sends: one port is enough for all of it.
//
// Threads   a pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace posthorn::amqp091 {

enum class spoken : std::uint8_t {
  incomplete,  // it may still become several of these: read more, then ask again
  amqp,        // or an attempt at it; what is wrong in its header, the connection answers [68]
  tls,         // a ClientHello
  proxy,       // the PROXY protocol, of either version; behind it, any of the others
  http,        // a request of HTTP/1
  unknown,
};

// Decides with the fewest octets that will do, never with more than `first_octets_max`.
[[nodiscard]] spoken recognise(std::span<const std::byte> first) noexcept;

inline constexpr std::size_t first_octets_max = 12;

}  // namespace posthorn::amqp091
