#include "gateway/amqp091/frame.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace posthorn::amqp091 {

std::string_view to_string(frame_status status) noexcept {
  switch (status) {
    case frame_status::complete: return "complete";
    case frame_status::incomplete: return "incomplete";
    case frame_status::too_large: return "frame too large";
    case frame_status::bad_end: return "wrong frame end";
    case frame_status::bad_type: return "unknown frame type";
  }
  return "unknown";
}

result<content_header> decode_content_header(std::span<const std::byte> payload) {
  content_header out;
  if (decode_content_header(payload, out)) return out;
  constexpr std::size_t fixed = 12;
  if (payload.size() < fixed) {
    return corrupted("content header: cut short, " + std::to_string(payload.size()) + " of " +
                     std::to_string(fixed) + " octets are there");
  }
  return corrupted("content header: the weight is not zero");
}

void encode_content_header(std::uint16_t channel, std::uint64_t body_size,
                           std::span<const std::byte> properties, buffer& out) {
  writer to{out};
  to.begin_frame(static_cast<std::uint8_t>(frame_type::header), channel);
  to.short_(60);
  to.short_(0);
  to.longlong(body_size);
  // A message without properties still has flags on the wire.
  if (properties.empty()) {
    to.short_(0);
  } else {
    to.bytes(properties);
  }
  to.end_frame();
}

std::array<char, frame_header_size> body_frame_header(std::uint16_t channel, std::uint32_t size) noexcept {
  std::array<char, frame_header_size> header{};
  header[0] = static_cast<char>(frame_type::body);
  big_endian::store(header.data() + 1, channel);
  big_endian::store(header.data() + 3, size);
  return header;
}

void encode_body(std::uint16_t channel, std::span<const std::byte> body, std::uint32_t frame_max,
                 buffer& out) {
  expects(frame_max > frame_overhead, "a frame has room for at least one octet of a body");
  const std::size_t chunk_max = frame_max - frame_overhead;
  while (!body.empty()) {
    const auto chunk = body.first(std::min(body.size(), chunk_max));
    const auto header = body_frame_header(channel, static_cast<std::uint32_t>(chunk.size()));
    out.append(header.data(), header.size());
    out.append(reinterpret_cast<const char*>(chunk.data()), chunk.size());
    out.push_back(frame_end);
    body = body.subspan(chunk.size());
  }
}

protocol_header_status parse_protocol_header(std::span<const std::byte> in) noexcept {
  const auto size = std::min(in.size(), protocol_header_size);
  const auto begins = [&](const std::array<char, protocol_header_size>& with) {
    return size == 0 || std::memcmp(in.data(), with.data(), size) == 0;
  };
  if (!begins(protocol_header) && !begins(protocol_header_0_9)) return protocol_header_status::refused;
  return size == protocol_header_size ? protocol_header_status::accepted : protocol_header_status::incomplete;
}

}  // namespace posthorn::amqp091
