// A client that has come to the door, until it is known what it speaks.
//
//   recognising --PROXY header, of a trusted proxy--> recognising --ClientHello--> greeting --the handshake is done--+
//        |                                                                                                          |
//        +--anything else that is served here-------------------------------------------------------------> passed on
//   From everywhere, a lost socket, what cannot be served, or a handshake that takes too long leads to gone.
//
// Owns      the socket and its TLS session, until it passes them on: to a connection, or to the HTTP door.
// Threads   one I/O thread's.
// Limits    at most `octets_max` are read before it is known what they are; all of it within `handshake_timeout`, of which
//           the connection gets what is left for its login.
#pragma once

#include "gateway/amqp091/connection.hpp"
#include "gateway/amqp091/first_octets.hpp"
#include "gateway/amqp091/network.hpp"
#include "gateway/amqp091/transport.hpp"

#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

namespace posthorn::amqp091 {

class arrival : public std::enable_shared_from_this<arrival> {
public:
  using socket = boost::asio::ip::tcp::socket;

  // What becomes of it, on the I/O thread, once: an AMQP client, or nothing, when it is gone or was passed to the HTTP door.
  struct amqp_client {
    transport bytes;
    client_place from;
    std::string first;  // octets
    std::chrono::steady_clock::time_point deadline;
  };
  using ending = std::function<void(arrival&, std::optional<amqp_client>)>;

  // `tls_only`: it came to the port of TLS.
  arrival(server_context& server, io_worker& worker, socket from, bool tls_only, ending on_end);
  ~arrival();

  void start();
  // The node stops.
  void abandon();

private:
  void wait_to_read();
  void on_readable(const boost::system::error_code& failed);
  void look();
  void on_proxy_header();
  void begin_tls();
  void greet();
  void pass_to_http();
  void pass_on(std::unique_ptr<tls_session> session);
  // Ends it, with a line in the log; nothing to log is what anybody may do who only looks whether the port is open.
  void refuse(node_context::severity level, const std::string& why);
  void end(std::optional<amqp_client> becomes = std::nullopt);
  void log(node_context::severity level, const std::string& text) const;

  server_context& server_;
  io_worker& worker_;
  socket socket_;
  boost::asio::steady_timer timer_;
  const std::chrono::steady_clock::time_point deadline_;
  const bool tls_only_;
  ending on_end_;

  ip_address neighbour_;  // whose socket it is: the client, or its proxy
  client_place from_;
  std::string octets_;
  bool is_proxied_ = false;
  std::unique_ptr<tls_session> tls_;
};

}  // namespace posthorn::amqp091
