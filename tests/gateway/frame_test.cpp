#include "gateway/amqp091/frame.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

using namespace posthorn;
using namespace posthorn::amqp091;
using namespace std::string_view_literals;

namespace {

constexpr std::uint32_t frame_max = 4096;

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string body_frame(std::size_t payload_size) {
  std::string out{"\3\0\1"sv};
  big_endian::append(out, static_cast<std::uint32_t>(payload_size));
  out.append(payload_size, 'b');
  out.push_back(frame_end);
  return out;
}

}  // namespace

TEST_CASE("a whole frame is decoded in place", "[frame]") {
  const auto raw = "\1\0\2\0\0\0\4\0\x14\0\x29\xCE next"sv;
  frame f;
  REQUIRE(decode_frame(bytes_of(raw), frame_max, f) == frame_status::complete);
  CHECK(f.type == frame_type::method);
  CHECK(f.channel == 2);
  CHECK(f.size == 12);
  CHECK(text_of(f.payload) == "\0\x14\0\x29"sv);
  CHECK(text_of(f.payload).data() == raw.data() + 7);
}

TEST_CASE("a heartbeat is the eight octets that the specification shows", "[frame]") {
  const std::string_view raw{heartbeat_frame.data(), heartbeat_frame.size()};
  CHECK(raw == "\x08\0\0\0\0\0\0\xCE"sv);
  frame f;
  REQUIRE(decode_frame(bytes_of(raw), frame_max, f) == frame_status::complete);
  CHECK(f.type == frame_type::heartbeat);
  CHECK(f.channel == 0);
  CHECK(f.payload.empty());
  CHECK(f.size == raw.size());
}

TEST_CASE("a frame cut short at any octet is incomplete", "[frame]") {
  const auto raw = body_frame(20);
  frame f;
  for (std::size_t size = 0; size < raw.size(); ++size) {
    CHECK(decode_frame(bytes_of(std::string{raw, 0, size}), frame_max, f) == frame_status::incomplete);
  }
  CHECK(decode_frame(bytes_of(raw), frame_max, f) == frame_status::complete);
}

TEST_CASE("a frame's payload may be as large as was negotiated for the frame and not an octet larger",
          "[frame]") {
  frame f;
  CHECK(decode_frame(bytes_of(body_frame(frame_max - 8)), frame_max, f) == frame_status::complete);
  CHECK(decode_frame(bytes_of(body_frame(frame_max)), frame_max, f) == frame_status::complete);
  CHECK(decode_frame(bytes_of(body_frame(frame_max + 1)), frame_max, f) == frame_status::too_large);
}

TEST_CASE("a frame too large is refused by its header, before any of it has to be kept", "[frame]") {
  frame f;
  CHECK(decode_frame(bytes_of("\3\0\7\xFF\xFF\xFF\xFF"sv), 131072, f) == frame_status::too_large);
  CHECK(f.channel == 7);
  CHECK(f.type == frame_type::body);
  CHECK(f.size == std::size_t{0xFFFFFFFF} + 8);
}

TEST_CASE("a wrong end octet is refused", "[frame]") {
  auto raw = body_frame(3);
  frame f;
  for (int end = 0; end < 256; ++end) {
    raw.back() = static_cast<char>(end);
    CHECK((decode_frame(bytes_of(raw), frame_max, f) == frame_status::complete) == (end == 0xCE));
    CHECK((decode_frame(bytes_of(raw), frame_max, f) == frame_status::bad_end) == (end != 0xCE));
  }
}

TEST_CASE("an unknown frame type is refused at its first octet", "[frame]") {
  frame f;
  for (int type = 0; type < 256; ++type) {
    const std::string raw(1, static_cast<char>(type));
    const bool known = type == 1 || type == 2 || type == 3 || type == 8;
    CHECK(decode_frame(bytes_of(raw), frame_max, f) ==
          (known ? frame_status::incomplete : frame_status::bad_type));
  }
}

TEST_CASE("a content header round-trips", "[frame]") {
  std::string out;
  encode_content_header(9, 0x0102030405060708, bytes_of("\x10\0\2"sv), out);
  CHECK(out == "\2\0\x09\0\0\0\x0F\0\x3C\0\0\1\2\3\4\5\6\7\x08\x10\0\2\xCE"sv);
  frame f;
  REQUIRE(decode_frame(bytes_of(out), frame_max, f) == frame_status::complete);
  CHECK(f.type == frame_type::header);
  const auto header = decode_content_header(f.payload);
  REQUIRE(header.has_value());
  CHECK(header->class_id == 60);
  CHECK(header->body_size == 0x0102030405060708);
  CHECK(text_of(header->properties) == "\x10\0\2"sv);
}

TEST_CASE("a message without properties still sends its flags", "[frame]") {
  std::string out;
  encode_content_header(1, 0, {}, out);
  CHECK(out == "\2\0\1\0\0\0\x0E\0\x3C\0\0\0\0\0\0\0\0\0\0\0\0\xCE"sv);
}

TEST_CASE("a content header cut short, or with a weight, is refused", "[frame]") {
  const auto raw = "\0\x3C\0\0\0\0\0\0\0\0\0\5\0\0"sv;
  content_header header;
  for (std::size_t size = 0; size < 12; ++size) {
    CHECK_FALSE(decode_content_header(bytes_of(raw.substr(0, size)), header));
    CHECK(decode_content_header(bytes_of(raw.substr(0, size))).error().text ==
          "content header: cut short, " + std::to_string(size) + " of 12 octets are there");
  }
  CHECK(decode_content_header(bytes_of(raw), header));
  CHECK(decode_content_header(bytes_of("\0\x3C\0\1\0\0\0\0\0\0\0\5\0\0"sv)).error().text ==
        "content header: the weight is not zero");
}

TEST_CASE("a body is cut into frames of the negotiated size, and an empty one into none", "[frame]") {
  const std::string body(10'000, 'x');
  for (const std::size_t size : {0UL, 1UL, 4087UL, 4088UL, 4089UL, 8176UL, 10'000UL}) {
    std::string out;
    encode_body(3, bytes_of(body).first(size), frame_max, out);
    std::size_t seen = 0;
    std::size_t frames = 0;
    auto left = bytes_of(out);
    while (!left.empty()) {
      frame f;
      REQUIRE(decode_frame(left, frame_max, f) == frame_status::complete);
      CHECK(f.type == frame_type::body);
      CHECK(f.channel == 3);
      CHECK_FALSE(f.payload.empty());
      seen += f.payload.size();
      ++frames;
      left = left.subspan(f.size);
    }
    CHECK(seen == size);
    CHECK(frames == (size + 4087) / 4088);
  }
  std::string out;
  CHECK_THROWS_AS(encode_body(3, bytes_of(body), 8, out), std::logic_error);
}

TEST_CASE("a body frame's header says what follows it", "[frame]") {
  const auto header = body_frame_header(0x0102, 0x03040506);
  CHECK(std::string_view{header.data(), header.size()} == "\3\1\2\3\4\5\6"sv);
}

TEST_CASE("both protocol headers of our version are accepted, and others refused", "[frame]") {
  using status = protocol_header_status;
  CHECK(parse_protocol_header(bytes_of("AMQP\0\0\x09\1"sv)) == status::accepted);
  CHECK(parse_protocol_header(bytes_of("AMQP\1\1\0\x09"sv)) == status::accepted);
  CHECK(parse_protocol_header(bytes_of("AMQP\0\0\x09\1more"sv)) == status::accepted);
  CHECK(parse_protocol_header(bytes_of("AMQP\0\1\0\0"sv)) == status::refused);  // 1.0
  CHECK(parse_protocol_header(bytes_of("AMQP\3\1\0\0"sv)) == status::refused);  // 1.0 with SASL
  CHECK(parse_protocol_header(bytes_of("AMQP\0\0\x09\2"sv)) == status::refused);
  CHECK(parse_protocol_header(bytes_of("AMQP\1\1\x09\1"sv)) == status::refused);
  CHECK(parse_protocol_header(bytes_of("GET / HTTP/1.1"sv)) == status::refused);
  CHECK(parse_protocol_header(bytes_of("\x16\3\1"sv)) == status::refused);  // TLS
  CHECK(parse_protocol_header({}) == status::incomplete);
  for (std::size_t size = 0; size < 8; ++size) {
    CHECK(parse_protocol_header(bytes_of("AMQP\0\0\x09\1"sv).first(size)) == status::incomplete);
    CHECK(parse_protocol_header(bytes_of("AMQP\1\1\0\x09"sv).first(size)) == status::incomplete);
  }
}

TEST_CASE("a frame's status has a name for the log", "[frame]") {
  CHECK(to_string(frame_status::too_large) == "frame too large");
  CHECK(to_string(frame_status::bad_end) == "wrong frame end");
}
