// The AMQP 0-9-1 door of a node: listeners, I/O threads and connections.
//
// Ownership   owns its threads and connections; stops before the broker does.
// Threads     start and stop from one thread. Each connection lives on one I/O thread, and everything about it happens
//             there.
#pragma once

#include "actors/broker.hpp"
#include "gateway/amqp091/network.hpp"
#include "gateway/amqp091/tls.hpp"
#include "mailbox/result.hpp"

#include <boost/asio/ip/tcp.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace posthorn::amqp091 {

// Takes a client that turned out to speak HTTP: its socket, what was read of it, and who it is, a proxy before it not being
// counted. Called on an I/O thread; must not wait.
using http_taker = std::function<void(boost::asio::ip::tcp::socket from, std::string first,
                                      const boost::asio::ip::address& client)>;

// Where a door listens, and what it allows its clients. On its port it takes AMQP, TLS if there is a certificate, the PROXY
// protocol of whom it trusts, and HTTP if somebody serves it.
struct server_settings {
  std::string version{};  // of this program
  // Clients are told that this is RabbitMQ, of the version that it speaks as: some decide by that what they may use.
  bool speaks_as_rabbitmq = true;
  std::string host = "*";                                    // "*": all addresses, IPv6 and IPv4
  std::uint16_t port = 5672;                                 // 0: any free one
  std::chrono::seconds heartbeat{60};                        // proposed to clients; 0: none
  std::uint16_t channel_max = 2047;                          // for each connection
  std::uint64_t consumer_max = 0;                            // for each channel; 0: no limit
  std::uint32_t frame_max = 131072;                          // bytes, with the frame's header and end
  std::uint64_t message_size_max = std::uint64_t{16} << 20;  // bytes of a body; more closes the channel
  std::uint64_t connection_max = 0;                          // 0: no limit
  std::chrono::milliseconds handshake_timeout{10'000};       // from the connection to the end of the login
  unsigned threads = 0;                                      // 0: one for every two cores
  std::chrono::microseconds turn_max{1000};  // of one connection, while others of its thread wait
  tls_settings tls{};                        // without a certificate: none
  std::string tls_host = "*";                // of a further port, on which nothing but TLS is taken
  std::optional<std::uint16_t> tls_port{};   // 0: any free one; nothing: there is none
  std::vector<network> proxy_trusted{};      // whose headers of the PROXY protocol are believed
  http_taker on_http{};                      // none: HTTP is answered as what is unknown, [68]
};

// What is open now.
struct server_counts {
  std::uint64_t connections = 0;  // that are logged in or about to
  std::uint64_t channels = 0;     // of all of them
  std::uint64_t turns_cut = 0;    // since the start: how often one had to let others go first
};

class server {
public:
  // `refused` when the address cannot be used; the text says why.
  static result<std::unique_ptr<server>> listen(broker& node, const server_settings& settings);
  ~server();
  server(const server&) = delete;
  server& operator=(const server&) = delete;

  // The port that is listened on.
  [[nodiscard]] std::uint16_t port() const noexcept;
  // 0: there is none.
  [[nodiscard]] std::uint16_t tls_port() const noexcept;
  // The certificate in use, with the days that it is still valid; nothing: there is none.
  [[nodiscard]] std::optional<std::pair<std::string, int>> certificate() const;
  // Reads the files again, or others: connections made from now on get them. `refused`: what is in use stays. Any thread.
  result<void> reload_tls(const tls_settings& settings);
  // What is open now.
  [[nodiscard]] server_counts counts() const noexcept;

  // No new connections; tells the clients (320), waits until they have gone, but not longer than `patience`.
  void stop(std::chrono::milliseconds patience);

private:
  struct impl;
  explicit server(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

}  // namespace posthorn::amqp091
