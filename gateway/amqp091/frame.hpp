// The frame: what AMQP 0-9-1 cuts a connection's bytes into. Also the eight octets before the first frame,
// and the content header, which is a frame's payload of its own kind.
//
// Threads   pure functions over bytes that the caller keeps alive.
#pragma once

#include "gateway/amqp091/wire.hpp"
#include "mailbox/result.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace posthorn::amqp091 {

enum class frame_type : std::uint8_t { method = 1, header = 2, body = 3, heartbeat = 8 };

struct frame {
  frame_type type = frame_type::method;
  std::uint16_t channel = 0;
  std::span<const std::byte> payload;  // of the bytes that were decoded
  std::size_t size = 0;                // on the wire, header and end octet included
};

enum class frame_status : std::uint8_t {
  complete,
  incomplete,  // read more, then ask again
  too_large,   // 501: judged by the header alone, before the body has to be buffered
  bad_end,     // 501
  bad_type,    // 501: judged by the first octet
};

[[nodiscard]] std::string_view to_string(frame_status status) noexcept;

// Looks at the first frame of `in`. `frame_max` is the size of a whole frame that was negotiated. As with RabbitMQ, a client
// that counts the payload only, without the eight octets around it, is not refused for them [32]. After `too_large` and `bad_end`, `out` holds the type, channel and size, for the log. Whether a heartbeat is
// empty and on channel 0 is the connection's question.
[[nodiscard]] inline frame_status decode_frame(std::span<const std::byte> in, std::uint32_t frame_max,
                                               frame& out) noexcept {
  if (in.empty()) return frame_status::incomplete;
  const auto type = std::to_integer<std::uint8_t>(in[0]);
  if (type - 1U > 2U && type != 8U) [[unlikely]]
    return frame_status::bad_type;
  if (in.size() < frame_header_size) return frame_status::incomplete;
  const std::size_t payload_size = big_endian::load<std::uint32_t>(in.data() + 3);
  out.type = static_cast<frame_type>(type);
  out.channel = big_endian::load<std::uint16_t>(in.data() + 1);
  out.size = payload_size + frame_overhead;
  if (payload_size > frame_max) [[unlikely]]
    return frame_status::too_large;
  if (in.size() < out.size) return frame_status::incomplete;
  if (in[out.size - 1] != std::byte{0xCE}) [[unlikely]]
    return frame_status::bad_end;
  out.payload = in.subspan(frame_header_size, payload_size);
  return frame_status::complete;
}

static_assert(sizeof(std::size_t) >= 8, "the size of a frame is summed up without overflow");

struct content_header {
  std::uint16_t class_id = 60;
  std::uint64_t body_size = 0;
  std::span<const std::byte> properties;  // flags and values, unchecked
};

// The payload of a header frame. The first form is for the message's way: false when there are fewer than the
// twelve octets that stand before the properties, or when the weight, which nothing ever used, is not zero.
[[nodiscard]] inline bool decode_content_header(std::span<const std::byte> payload,
                                                content_header& out) noexcept {
  reader in{payload};
  out.class_id = in.short_();
  const auto weight = in.short_();
  out.body_size = in.longlong();
  if (in.failed() || weight != 0) [[unlikely]]
    return false;
  out.properties = in.bytes(in.left());
  return true;
}
[[nodiscard]] result<content_header> decode_content_header(std::span<const std::byte> payload);

// Whole frames. The properties are flags and values as they travel.
void encode_content_header(std::uint16_t channel, std::uint64_t body_size,
                           std::span<const std::byte> properties, buffer& out);
// As many frames as the body needs: none when it is empty.
void encode_body(std::uint16_t channel, std::span<const std::byte> body, std::uint32_t frame_max,
                 buffer& out);

// The header of the body frame that carries `size` octets, for whoever sends the body itself from where it
// lies, and then `frame_end`.
[[nodiscard]] std::array<char, frame_header_size> body_frame_header(std::uint16_t channel,
                                                                    std::uint32_t size) noexcept;

inline constexpr std::array<char, frame_overhead> heartbeat_frame{'\x08', 0, 0, 0, 0, 0, 0, frame_end};

enum class protocol_header_status : std::uint8_t { accepted, incomplete, refused };

inline constexpr std::size_t protocol_header_size = 8;
// What a client of our version begins with, and what we answer, before closing, to one that begins with
// anything else.
inline constexpr std::array<char, protocol_header_size> protocol_header{'A', 'M', 'Q', 'P', 0, 0, 9, 1};
// 0-9-1 as the clients of 0-9 announced it.
inline constexpr std::array<char, protocol_header_size> protocol_header_0_9{'A', 'M', 'Q', 'P', 1, 1, 0, 9};

// Refuses as soon as the bytes can no longer become one of the two.
[[nodiscard]] protocol_header_status parse_protocol_header(std::span<const std::byte> in) noexcept;

}  // namespace posthorn::amqp091
