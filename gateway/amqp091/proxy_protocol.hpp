// The PROXY protocol, versions 1 and 2: the line or the block by which a proxy says for whom it connects. The format is
// HAProxy's, doc/proxy-protocol.txt.
//
// Threads   pure functions over bytes that the caller keeps alive.
#pragma once

#include "gateway/amqp091/network.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace posthorn::amqp091 {

struct proxy_header {
  enum class speaks_for : std::uint8_t {
    client,   // `source` is its address
    nobody,   // the proxy itself asks: a health check
    unknown,  // a client whose address the proxy does not tell, or that has none
  };
  speaks_for whom = speaks_for::unknown;
  ip_address source;
  std::uint16_t source_port = 0;
  std::size_t size = 0;  // in octets: the client's own begin behind it
};

enum class proxy_status : std::uint8_t { complete, incomplete, malformed };

// The first version's limit is the protocol's, the second's is ours: what a proxy says besides the addresses is skipped,
// but has to arrive.
inline constexpr std::size_t proxy_line_size_max = 107, proxy_block_size_max = 4096;
inline constexpr std::string_view proxy_line_begin{"PROXY "};
inline constexpr std::string_view proxy_block_begin{"\r\n\r\n\0\r\nQUIT\n", 12};

// Of octets that begin as one of the two do. When they are malformed, `why` says how, in a part of a sentence.
[[nodiscard]] proxy_status parse_proxy_header(std::span<const std::byte> in, proxy_header& out,
                                              std::string_view& why);

}  // namespace posthorn::amqp091
