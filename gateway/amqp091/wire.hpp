// The elements of AMQP 0-9-1's wire format: numbers, short and long strings, packed bits, tables and frames.
//
// Threads   a reader or writer belongs to whoever made it.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace posthorn::amqp091 {

// What is to be sent grows at the end of one of these.
using buffer = std::string;

inline constexpr std::size_t frame_header_size = 7;  // type, channel, size of the payload
inline constexpr std::size_t frame_overhead = 8;     // the header and the end octet
inline constexpr char frame_end = '\xCE';

// The methods for strings and spans return views of the bytes that were given to the reader.
//
// A failure sticks: from the first value that is not wholly there, every read returns zero or nothing, and
// ok() is false. So decoding is written straight down, and looked at once at its end.
class reader {
public:
  explicit reader(std::span<const std::byte> bytes) noexcept : at_{bytes.data()}, left_{bytes.size()} {}

  [[nodiscard]] bool ok() const noexcept { return !failed_; }
  [[nodiscard]] bool failed() const noexcept { return failed_; }
  [[nodiscard]] std::size_t left() const noexcept { return left_; }
  // Everything was there, and nothing is left.
  [[nodiscard]] bool done() const noexcept { return !failed_ && left_ == 0; }

  std::uint8_t octet() noexcept { return number<std::uint8_t>(); }
  std::uint16_t short_() noexcept { return number<std::uint16_t>(); }
  std::uint32_t long_() noexcept { return number<std::uint32_t>(); }
  std::uint64_t longlong() noexcept { return number<std::uint64_t>(); }

  std::string_view shortstr() noexcept { return text(octet()); }
  std::string_view longstr() noexcept { return text(long_()); }
  // What stands between the length of a table and its end.
  std::span<const std::byte> table() noexcept { return bytes(long_()); }

  std::span<const std::byte> bytes(std::size_t size) noexcept {
    if (!take(size)) return {};
    return {at_ - size, size};
  }

  // Bits that stand next to each other share octets, eight in each, the lowest first.
  template <class... Bool>
  void bits(Bool&... bit) noexcept {
    static_assert(sizeof...(bit) <= 8);
    unsigned octet_of_bits = octet();
    ((bit = (octet_of_bits & 1U) != 0, octet_of_bits >>= 1U), ...);
  }

private:
  [[nodiscard]] bool take(std::size_t size) noexcept {
    if (left_ < size) [[unlikely]] {
      failed_ = true;
      left_ = 0;
      return false;
    }
    at_ += size;
    left_ -= size;
    return true;
  }

  template <class T>
  T number() noexcept {
    if (!take(sizeof(T))) return 0;
    return big_endian::load<T>(at_ - sizeof(T));
  }

  std::string_view text(std::size_t size) noexcept {
    if (!take(size)) return {};
    return {reinterpret_cast<const char*>(at_ - size), size};
  }

  const std::byte* at_;
  std::size_t left_;
  bool failed_ = false;
};

// Appends to a buffer. A string or table too long for its length field is a bug of the caller.
class writer {
public:
  explicit writer(buffer& out) noexcept : out_{out} {}

  void octet(std::uint8_t value) { out_.push_back(static_cast<char>(value)); }
  void short_(std::uint16_t value) { big_endian::append(out_, value); }
  void long_(std::uint32_t value) { big_endian::append(out_, value); }
  void longlong(std::uint64_t value) { big_endian::append(out_, value); }

  void shortstr(std::string_view value) {
    expects(value.size() <= 0xFF, "a short string has at most 255 octets");
    octet(static_cast<std::uint8_t>(value.size()));
    out_.append(value);
  }

  void longstr(std::string_view value) {
    expects(value.size() <= 0xFFFFFFFFU, "a long string has at most 2^32 - 1 octets");
    long_(static_cast<std::uint32_t>(value.size()));
    out_.append(value);
  }

  // `body` is an encoded table without its length.
  void table(std::span<const std::byte> body) {
    longstr({reinterpret_cast<const char*>(body.data()), body.size()});
  }

  void bytes(std::span<const std::byte> value) {
    out_.append(reinterpret_cast<const char*>(value.data()), value.size());
  }

  template <class... Bool>
  void bits(const Bool&... bit) {
    static_assert(sizeof...(bit) <= 8);
    unsigned octet_of_bits = 0;
    unsigned place = 0;
    ((octet_of_bits |= (bit ? 1U : 0U) << place++), ...);
    octet(static_cast<std::uint8_t>(octet_of_bits));
  }

  // Between begin_frame and end_frame stands the payload; its length is filled in at the end.
  void begin_frame(std::uint8_t type, std::uint16_t channel) {
    frame_begin_ = out_.size();
    octet(type);
    short_(channel);
    long_(0);
  }

  void begin_method(std::uint16_t channel, std::uint16_t class_id, std::uint16_t method_id) {
    begin_frame(1, channel);
    short_(class_id);
    short_(method_id);
  }

  void end_frame() {
    const auto size = out_.size() - frame_begin_ - frame_header_size;
    expects(size <= 0xFFFFFFFFU, "a frame has at most 2^32 - 1 octets of payload");
    big_endian::store(out_.data() + frame_begin_ + 3, static_cast<std::uint32_t>(size));
    out_.push_back(frame_end);
  }

private:
  buffer& out_;
  std::size_t frame_begin_ = 0;
};

// Well-formed by Unicode's table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

}  // namespace posthorn::amqp091
