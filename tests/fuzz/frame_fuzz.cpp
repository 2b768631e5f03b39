// What a connection does with the bytes of a client, without the connection: frames, methods, content headers
// and properties. The input is a stream of frames.
//
// Beyond not crashing, this must hold:
//   1. A frame is complete exactly when all of its octets are there, and its size says how many those are.
//   2. What was decoded encodes to a frame of the same size, which decodes to the same again. A content
//      header's frame is the same octet for octet.
//   3. The fast ways (decode_as, the looks at one property) agree with the thorough ones.
#include "gateway/amqp091/frame.hpp"
#include "gateway/amqp091/methods.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

using namespace posthorn;
using namespace posthorn::amqp091;

namespace {

using bytes = std::span<const std::byte>;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

std::string_view text_of(bytes octets) {
  return {reinterpret_cast<const char*>(octets.data()), octets.size()};
}

bytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

constexpr std::uint32_t frame_max = 4096;

// Of its own allocation, so that the sanitizer sees a read behind it.
std::vector<std::byte> cut_to(bytes octets, std::size_t size) {
  return {octets.data(), octets.data() + size};
}

void check_frame_is_exact(bytes in, const frame& whole) {
  require(whole.size == whole.payload.size() + frame_overhead && whole.size <= in.size(), "a frame's size");
  for (const std::size_t size : {std::size_t{0}, frame_header_size, whole.size / 2, whole.size - 1}) {
    if (size >= whole.size) continue;
    const auto cut = cut_to(in, size);
    frame f;
    require(decode_frame(cut, frame_max, f) == frame_status::incomplete, "a frame cut short is incomplete");
  }
}

void check_method(const frame& f) {
  const auto method = decode_method(f.payload);
  if (method.has_error()) {
    require(!method.error().explanation.empty(), "a refusal says why");
    require(reply_text(method.error().code, method.error().explanation).size() <= 255, "a reply fits");
    return;
  }
  require(method_id_of(*method) == method_id_of(f.payload), "a method keeps its id");
  buffer once;
  encode(f.channel, *method, once);
  require(once.size() == f.size, "a method encodes to a frame of the size that it came in");
  frame again;
  require(decode_frame(bytes_of(once), frame_max, again) == frame_status::complete,
          "an encoded frame is whole");
  require(again.channel == f.channel && again.type == frame_type::method,
          "an encoded frame keeps its header");
  const auto second = decode_method(again.payload);
  require(second.has_value(), "an encoded method decodes");
  buffer twice;
  encode(again.channel, *second, twice);
  require(twice == once, "a method encodes to the same a second time");

  std::visit(
      [&](const auto& thorough) {
        std::remove_cvref_t<decltype(thorough)> fast;
        require(decode_as(f.payload, fast), "decode_as takes what decode_method takes");
        buffer out;
        encode(f.channel, fast, out);
        require(out == once, "decode_as gives what decode_method gives");
      },
      *method);
}

void check_properties_of(bytes properties) {
  const auto sound = check_properties(properties);
  const auto offsets = property_offsets::scan(properties);
  require(sound.has_value() == offsets.has_value(), "check and scan agree");
  const auto decoded = decode_properties(properties);
  if (!offsets) {
    require(decoded.has_error(), "what check refuses does not decode");
    for (std::size_t i = 0; i < property_count; ++i)
      (void)text_property(properties, static_cast<property>(i));
    (void)headers_of(properties);
    (void)delivery_mode_of(properties);
    return;
  }
  require(text_of(headers_of(properties)) == text_of(offsets->value(properties, property::headers)),
          "both ways to the headers agree");
  for (const auto which : {property::content_type, property::content_encoding, property::correlation_id,
                           property::reply_to, property::expiration, property::message_id, property::type,
                           property::user_id, property::app_id, property::cluster_id}) {
    require(text_property(properties, which) == offsets->text(properties, which),
            "both ways to a text agree");
  }
  if (decoded.has_error()) {
    require(check_table(headers_of(properties)).has_error(), "sound properties decode but for their headers");
    return;
  }
  require(delivery_mode_of(properties) == decoded->delivery_mode.value_or(0), "the delivery mode");
  require(priority_of(properties) == decoded->priority, "the priority");
  std::string out;
  encode_properties(*decoded, out);
  if (!properties.empty()) require(out == text_of(properties), "properties encode to the same octets");
}

void check_header(const frame& f) {
  content_header fast;
  const bool taken = decode_content_header(f.payload, fast);
  const auto thorough = decode_content_header(f.payload);
  require(thorough.has_value() == taken, "both ways to a content header agree");
  if (!taken) return;
  check_properties_of(fast.properties);
  if (fast.class_id != 60 || fast.properties.empty()) return;
  buffer out;
  encode_content_header(f.channel, fast.body_size, fast.properties, out);
  frame again;
  require(decode_frame(bytes_of(out), frame_max, again) == frame_status::complete,
          "an encoded header is whole");
  require(text_of(again.payload) == text_of(f.payload), "a content header encodes to the same octets");
}

void check_body(const frame& f) {
  if (f.payload.empty()) return;
  buffer out;
  encode_body(f.channel, f.payload, frame_max, out);
  require(out.size() == f.size, "a body that came in one frame leaves in one");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bytes in{reinterpret_cast<const std::byte*>(data), size};
  if (parse_protocol_header(in) == protocol_header_status::accepted) in = in.subspan(protocol_header_size);
  // Cut frames make every step cost as much as the input is long.
  for (int frames = 0; frames < 64; ++frames) {
    frame f;
    if (decode_frame(in, frame_max, f) != frame_status::complete) break;
    check_frame_is_exact(in, f);
    switch (f.type) {
      case frame_type::method: check_method(f); break;
      case frame_type::header: check_header(f); break;
      case frame_type::body: check_body(f); break;
      case frame_type::heartbeat: break;
    }
    in = in.subspan(f.size);
  }
  return 0;
}
