#include "gateway/amqp091/first_octets.hpp"

#include "gateway/amqp091/proxy_protocol.hpp"

#include <string_view>

namespace posthorn::amqp091 {

namespace {

struct beginning {
  std::string_view octets;
  spoken what;
};

// No one of them begins another.
constexpr beginning beginnings[] = {
    // The rest of an AMQP header is looked at where it is answered.
    {"A", spoken::amqp},
    // A record of TLS that carries a handshake, of whatever minor version: those of before 1.0 are refused by name later.
    {"\x16\x03", spoken::tls},
    {proxy_line_begin, spoken::proxy},
    {proxy_block_begin, spoken::proxy},
    {"GET ", spoken::http},
    {"HEAD ", spoken::http},
    {"POST ", spoken::http},
    {"PUT ", spoken::http},
    {"DELETE ", spoken::http},
    {"OPTIONS ", spoken::http},
    {"PATCH ", spoken::http},
};

}  // namespace

spoken recognise(std::span<const std::byte> first) noexcept {
  const std::string_view text{reinterpret_cast<const char*>(first.data()), first.size()};
  bool may_become = false;
  for (const auto& [octets, what] : beginnings) {
    if (text.starts_with(octets)) return what;
    if (octets.starts_with(text)) may_become = true;
  }
  return may_become ? spoken::incomplete : spoken::unknown;
}

}  // namespace posthorn::amqp091
