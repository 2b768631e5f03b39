#include "gateway/amqp091/proxy_protocol.hpp"

#include <algorithm>
#include <charconv>

namespace posthorn::amqp091 {

namespace {

using bytes = std::span<const std::byte>;

std::uint8_t octet(bytes in, std::size_t at) { return std::to_integer<std::uint8_t>(in[at]); }

std::uint16_t number(bytes in, std::size_t at) {
  return static_cast<std::uint16_t>(octet(in, at) << 8U | octet(in, at + 1));
}

std::optional<std::uint16_t> port_of(std::string_view digits) {
  std::uint16_t out = 0;
  const auto* const end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, out);
  const bool has_idle_zero = digits.size() > 1 && digits[0] == '0';
  if (digits.empty() || has_idle_zero || read.ec != std::errc{} || read.ptr != end) return std::nullopt;
  return out;
}

// What stands before the next space, which goes with it.
std::string_view take_word(std::string_view& text) {
  const auto end = text.find(' ');
  const auto out = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return out;
}

proxy_status parse_line(std::string_view in, proxy_header& out, std::string_view& why) {
  const auto malformed = [&](std::string_view what) {
    why = what;
    return proxy_status::malformed;
  };
  const auto searched = in.substr(0, proxy_line_size_max);
  const auto end = searched.find("\r\n");
  if (end == std::string_view::npos) {
    if (in.size() >= proxy_line_size_max) return malformed("its line has no end within 107 octets");
    return proxy_status::incomplete;
  }
  out = {};
  out.size = end + 2;
  auto rest = in.substr(0, end);
  rest.remove_prefix(proxy_line_begin.size());
  const auto family = take_word(rest);
  if (family == "UNKNOWN") return proxy_status::complete;  // whatever follows
  if (family != "TCP4" && family != "TCP6") return malformed("it names neither TCP4, TCP6 nor UNKNOWN");
  const bool v4 = family == "TCP4";
  const auto source = take_word(rest), target = take_word(rest);
  // An IPv6 address has a colon, also when it is an IPv4 address in it.
  const auto fits = [&](std::string_view text) {
    return (text.find(':') == std::string_view::npos) == v4 && parse_ip_address(text).has_value();
  };
  if (!fits(source) || !fits(target)) return malformed("an address in it is none");
  const auto source_port = port_of(take_word(rest)), target_port = port_of(take_word(rest));
  if (!source_port || !target_port || !rest.empty()) return malformed("a port in it is none");
  out.whom = proxy_header::speaks_for::client;
  out.source = *parse_ip_address(source);
  out.source_port = *source_port;
  return proxy_status::complete;
}

proxy_status parse_block(bytes in, proxy_header& out, std::string_view& why) {
  const auto malformed = [&](std::string_view what) {
    why = what;
    return proxy_status::malformed;
  };
  constexpr std::size_t fixed = 16;
  constexpr std::uint8_t of_nobody = 0x20, of_client = 0x21;
  constexpr std::uint8_t v4_stream = 0x11, v6_stream = 0x21;
  if (in.size() > 12 && octet(in, 12) != of_nobody && octet(in, 12) != of_client) {
    return malformed("its version is not 2, or its command is neither LOCAL nor PROXY");
  }
  if (in.size() < fixed) return proxy_status::incomplete;
  const std::size_t size = fixed + number(in, 14);
  if (size > proxy_block_size_max) return malformed("it is longer than 4096 octets");
  const auto family = octet(in, 13);
  const std::size_t addresses = family == v4_stream ? 12 : family == v6_stream ? 36 : 0;
  const bool is_of_client = octet(in, 12) == of_client;
  if (is_of_client && size < fixed + addresses) return malformed("it is too short for its addresses");
  if (in.size() < size) return proxy_status::incomplete;
  out = {};
  out.size = size;
  if (!is_of_client) {
    out.whom = proxy_header::speaks_for::nobody;
    return proxy_status::complete;
  }
  if (addresses == 0) return proxy_status::complete;  // a UNIX socket's, or of no family at all
  out.whom = proxy_header::speaks_for::client;
  if (family == v4_stream) {
    std::array<std::uint8_t, 4> v4{};
    for (std::size_t i = 0; i < v4.size(); ++i) v4[i] = octet(in, fixed + i);
    out.source = ip_address_of_v4(v4);
    out.source_port = number(in, fixed + 8);
  } else {
    for (std::size_t i = 0; i < out.source.octets.size(); ++i) out.source.octets[i] = octet(in, fixed + i);
    out.source_port = number(in, fixed + 32);
  }
  return proxy_status::complete;
}

}  // namespace

proxy_status parse_proxy_header(bytes in, proxy_header& out, std::string_view& why) {
  const std::string_view text{reinterpret_cast<const char*>(in.data()), in.size()};
  const auto begins = [&](std::string_view with) {
    return text.substr(0, with.size()) == with.substr(0, text.size());
  };
  if (begins(proxy_line_begin)) {
    return text.size() < proxy_line_begin.size() ? proxy_status::incomplete : parse_line(text, out, why);
  }
  if (begins(proxy_block_begin)) return parse_block(in, out, why);
  why = "it begins as neither version does";
  return proxy_status::malformed;
}

}  // namespace posthorn::amqp091
