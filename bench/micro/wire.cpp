// From bytes to a publish, and from a delivery to bytes.
#include "bench/micro/meter.hpp"
#include "gateway/amqp091/frame.hpp"
#include "gateway/amqp091/methods.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/properties.hpp"

#include <cstdlib>
#include <string>

namespace posthorn::bench {

namespace {

using namespace amqp091;

constexpr std::uint32_t frame_max = 131072;
constexpr std::size_t messages_per_chunk = 64;  // about what one read of a socket brings

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span{text}); }

std::string properties_of_a_persistent_message() {
  std::string out;
  basic_properties properties;
  properties.delivery_mode = std::uint8_t{2};
  encode_properties(properties, out);
  return out;
}

buffer publishes(std::size_t size) {
  const auto properties = properties_of_a_persistent_message();
  const std::string body(size, 'x');
  buffer out;
  for (std::size_t n = 0; n < messages_per_chunk; ++n)
    encode_with_content(1, method::basic_publish{0, "", "orders", false, false}, bytes_of(properties),
                        bytes_of(body), frame_max, out);
  return out;
}

// What a connection does with the frames of publishes, but for what comes after.
template <class OnMessage>
void decode_all(const buffer& chunk, std::uint64_t count, OnMessage on_message) {
  std::span<const std::byte> rest;
  while (count > 0) {
    if (rest.empty()) rest = bytes_of(chunk);
    method::basic_publish publish;
    content_header header;
    frame f;
    for (int part = 0; part < 3; ++part) {
      if (decode_frame(rest, frame_max, f) != frame_status::complete) std::abort();
      rest = rest.subspan(f.size);
      if (part == 0 && !decode_publish(f.payload, publish)) std::abort();
      if (part == 1 && !decode_content_header(f.payload, header)) std::abort();
    }
    on_message(publish, header, f.payload);
    --count;
  }
}

}  // namespace

void measure_wire(meter& m) {
  for (const auto& [size, name] :
       {std::pair{std::size_t{100}, "100 B"}, std::pair{std::size_t{1024}, "1 KiB"}}) {
    const auto chunk = publishes(size);
    m.measure(std::string{"wire: decode the three frames of a publish, "} + name, [&](std::uint64_t count) {
      decode_all(chunk, count, [](const auto& publish, const auto& header, auto body) {
        keep(publish);
        keep(header);
        keep(body);
      });
    });
    m.measure(std::string{"wire: the same, checked and made an envelope, "} + name, [&](std::uint64_t count) {
      decode_all(chunk, count, [](const auto& publish, const auto& header, auto body) {
        if (!check_properties(header.properties)) std::abort();
        keep(user_id_of(header.properties));
        keep(expiration_of(header.properties));
        envelope_builder builder{publish.exchange, publish.routing_key, header.properties,
                                 delivery_mode_of(header.properties) == 2, header.body_size};
        builder.append_body(body);
        keep(builder.finish());
      });
    });
    const auto properties = properties_of_a_persistent_message();
    const std::string body(size, 'x');
    buffer out;
    m.measure(std::string{"wire: encode a delivery, "} + name, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) {
        if (n % messages_per_chunk == 0) out.clear();
        encode_deliver(1, {"ctag-1", n + 1, false, "", "orders"}, bytes_of(properties), bytes_of(body),
                       frame_max, out);
        keep(out);
      }
    });
  }
  buffer ack;
  encode(1, method::basic_ack{1234, true}, ack);
  m.measure("wire: decode an acknowledgement", [&](std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) {
      frame f;
      method::basic_ack decoded;
      keep(ack);
      if (decode_frame(bytes_of(ack), frame_max, f) != frame_status::complete ||
          !decode_ack(f.payload, decoded))
        std::abort();
      keep(decoded);
    }
  });
  buffer out;
  m.measure("wire: encode a confirm", [&](std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) {
      if (n % messages_per_chunk == 0) out.clear();
      encode(1, method::basic_ack{n, true}, out);
      keep(out);
    }
  });
}

}  // namespace posthorn::bench
