// Who asks over HTTP: basic authentication, and whether the asker sits on this machine.
//
// Threads   pure functions.
#pragma once

#include <boost/asio/ip/address.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace posthorn::http {

struct credentials {
  std::string user;
  std::string password;

  friend bool operator==(const credentials&, const credentials&) = default;
};

// "Basic Z3Vlc3Q6Z3Vlc3Q=" → guest and guest. Nothing, when it is another scheme or malformed.
[[nodiscard]] std::optional<credentials> parse_basic_authorization(std::string_view header);
[[nodiscard]] std::string basic_authorization(const credentials& who);

// Also when the address is IPv4 seen through an IPv6 socket, as ::ffff:127.0.0.1.
[[nodiscard]] bool is_loopback(const boost::asio::ip::address& address);

}  // namespace posthorn::http
