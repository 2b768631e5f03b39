#include "gateway/amqp091/wire.hpp"

namespace posthorn::amqp091 {

bool is_utf8(std::string_view text) noexcept {
  const auto octet = [text](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  std::size_t at = 0;
  while (at < text.size()) {
    const unsigned first = octet(at);
    if (first < 0x80) {
      ++at;
      continue;
    }
    // How many octets follow the first, and what the second may be: this keeps out overlong forms, surrogates
    // and what lies beyond Unicode.
    std::size_t following = 0;
    unsigned low = 0x80;
    unsigned high = 0xBF;
    if (first >= 0xC2 && first <= 0xDF) {
      following = 1;
    } else if (first >= 0xE0 && first <= 0xEF) {
      following = 2;
      if (first == 0xE0) low = 0xA0;
      if (first == 0xED) high = 0x9F;
    } else if (first >= 0xF0 && first <= 0xF4) {
      following = 3;
      if (first == 0xF0) low = 0x90;
      if (first == 0xF4) high = 0x8F;
    } else {
      return false;
    }
    if (text.size() - at - 1 < following) return false;
    for (std::size_t i = 1; i <= following; ++i) {
      const unsigned next = octet(at + i);
      if (next < low || next > high) return false;
      low = 0x80;
      high = 0xBF;
    }
    at += 1 + following;
  }
  return true;
}

}  // namespace posthorn::amqp091
