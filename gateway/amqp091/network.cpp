#include "gateway/amqp091/network.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace posthorn::amqp091 {

namespace {

constexpr unsigned bits_max = 128, bits_before_v4 = 96;

ip_address cut_to(ip_address address, unsigned prefix) noexcept {
  for (unsigned i = 0; i < address.octets.size(); ++i) {
    const unsigned kept = std::min(8U, prefix > i * 8 ? prefix - i * 8 : 0U);
    address.octets[i] = static_cast<std::uint8_t>(address.octets[i] & (0xFF00U >> kept));
  }
  return address;
}

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

}  // namespace

bool ip_address::is_v4() const noexcept {
  return std::all_of(octets.begin(), octets.begin() + 10, [](std::uint8_t octet) { return octet == 0; }) &&
         octets[10] == 0xFF && octets[11] == 0xFF;
}

bool ip_address::is_loopback() const noexcept {
  if (is_v4()) return octets[12] == 127;
  return octets[15] == 1 &&
         std::all_of(octets.begin(), octets.end() - 1, [](std::uint8_t octet) { return octet == 0; });
}

ip_address ip_address_of_v4(const std::array<std::uint8_t, 4>& octets) noexcept {
  ip_address out;
  out.octets[10] = out.octets[11] = 0xFF;
  std::copy(octets.begin(), octets.end(), out.octets.begin() + 12);
  return out;
}

std::optional<ip_address> parse_ip_address(std::string_view text) {
  // With a zero octet in it, inet_pton would see the begin only.
  if (text.size() >= INET6_ADDRSTRLEN || text.find('\0') != std::string_view::npos) return std::nullopt;
  const std::string copy{text};
  std::array<std::uint8_t, 4> v4{};
  if (::inet_pton(AF_INET, copy.c_str(), v4.data()) == 1) return ip_address_of_v4(v4);
  ip_address v6;
  if (::inet_pton(AF_INET6, copy.c_str(), v6.octets.data()) == 1) return v6;
  return std::nullopt;
}

std::string to_string(const ip_address& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const bool v4 = address.is_v4();
  ::inet_ntop(v4 ? AF_INET : AF_INET6, address.octets.data() + (v4 ? 12 : 0), text.data(), text.size());
  return text.data();
}

std::string to_string(const ip_address& address, std::uint16_t port) {
  const auto host = to_string(address);
  return (address.is_v4() ? host : '[' + host + ']') + ':' + std::to_string(port);
}

bool network::contains(const ip_address& address) const noexcept { return cut_to(address, prefix) == first; }

std::optional<network> parse_network(std::string_view text) {
  const auto slash = text.find('/');
  const auto address = parse_ip_address(text.substr(0, slash));
  if (!address) return std::nullopt;
  network out{*address, bits_max};
  if (slash == std::string_view::npos) return out;
  const auto digits = text.substr(slash + 1);
  const auto* const end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, out.prefix);
  if (digits.empty() || read.ec != std::errc{} || read.ptr != end) return std::nullopt;
  const bool v4 = text.substr(0, slash).find(':') == std::string_view::npos;
  if (out.prefix > (v4 ? bits_max - bits_before_v4 : bits_max)) return std::nullopt;
  if (v4) out.prefix += bits_before_v4;
  out.first = cut_to(out.first, out.prefix);
  return out;
}

std::string to_string(const network& one) {
  auto out = to_string(one.first);
  if (one.prefix == bits_max) return out;
  const bool v4 = one.first.is_v4() && one.prefix >= bits_before_v4;
  return out + '/' + std::to_string(v4 ? one.prefix - bits_before_v4 : one.prefix);
}

std::optional<std::vector<network>> parse_networks(std::string_view text) {
  std::vector<network> out;
  if (trimmed(text) == "none") return out;
  for (;;) {
    const auto comma = text.find(',');
    const auto one = parse_network(trimmed(text.substr(0, comma)));
    if (!one) return std::nullopt;
    out.push_back(*one);
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

std::string to_string(const std::vector<network>& networks) {
  if (networks.empty()) return "none";
  std::string out;
  for (const auto& one : networks) out += (out.empty() ? "" : ", ") + to_string(one);
  return out;
}

bool contains(const std::vector<network>& networks, const ip_address& address) noexcept {
  return std::any_of(networks.begin(), networks.end(),
                     [&](const network& one) { return one.contains(address); });
}

}  // namespace posthorn::amqp091
