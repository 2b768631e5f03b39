// Addresses of clients, and the networks that an operator trusts, as plain values.
//
// Threads   pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn::amqp091 {

// IPv4 is kept as IPv6 sees it, ::ffff:a.b.c.d: so an address is the same whatever socket it came through.
struct ip_address {
  std::array<std::uint8_t, 16> octets{};

  [[nodiscard]] bool is_v4() const noexcept;
  [[nodiscard]] bool is_loopback() const noexcept;  // 127.0.0.0/8 or ::1
  friend bool operator==(const ip_address&, const ip_address&) = default;
};

[[nodiscard]] ip_address ip_address_of_v4(const std::array<std::uint8_t, 4>& octets) noexcept;
// "10.0.0.1", "fd00::1". Nothing else: no brackets, no zone, no name.
[[nodiscard]] std::optional<ip_address> parse_ip_address(std::string_view text);
[[nodiscard]] std::string to_string(const ip_address& address);
// "10.0.0.1:5672", "[fd00::1]:5672".
[[nodiscard]] std::string to_string(const ip_address& address, std::uint16_t port);

struct network {
  ip_address first;
  unsigned prefix = 128;  // bits of `first` that all its addresses share

  [[nodiscard]] bool contains(const ip_address& address) const noexcept;
  friend bool operator==(const network&, const network&) = default;
};

// "10.0.0.0/8", "fd00::/8", or one address. Bits behind the prefix are taken for zero.
[[nodiscard]] std::optional<network> parse_network(std::string_view text);
[[nodiscard]] std::string to_string(const network& one);

// "10.0.0.0/8, 192.168.1.7": commas between them, or "none".
[[nodiscard]] std::optional<std::vector<network>> parse_networks(std::string_view text);
[[nodiscard]] std::string to_string(const std::vector<network>& networks);
[[nodiscard]] bool contains(const std::vector<network>& networks, const ip_address& address) noexcept;

}  // namespace posthorn::amqp091
