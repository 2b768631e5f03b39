// A small HTTP/1.1 server for what a node tells about itself: health, metrics, the management API.
//
// Owns      its listening sockets and its connections.
// Threads   runs on the io_context that it is given, on any number of threads. Each connection is a strand.
//           listen, endpoints, serve and stop may be called from any thread.
#pragma once

#include "gateway/http/message.hpp"
#include "mailbox/result.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace posthorn::http {

struct server_limits {
  std::uint32_t header_size_max = 8U << 10U;              // beyond: 431
  std::uint64_t body_size_max = 64U << 10U;               // beyond: 413, unless the gate lets it in
  std::uint64_t large_body_size_max = 16U << 20U;         // of those that it lets in
  std::size_t large_bodies_max = 2;                       // at a time; beyond: 503
  std::size_t connections_max = 256;                      // beyond: 503, then closed
  std::chrono::milliseconds idle_timeout{30'000};         // a connection kept alive, without a request
  std::chrono::milliseconds request_timeout{10'000};      // from its first byte to the end of the answer
  std::chrono::milliseconds large_body_timeout{120'000};  // the same, with a large body
};

// Who may send more than others: is asked when a header has come, with a request that has no body yet, and answers once,
// on any thread. Without a gate, nobody.
using body_gate = std::function<void(const request& head, std::function<void(bool may)> answer)>;

struct server_state;

class server {
public:
  // Listens on each address that the host names; "*" is every address of this machine. `unreachable` when the port is
  // in use or the address is not ours, `refused` when it may not be opened.
  static result<std::unique_ptr<server>> listen(boost::asio::io_context& io, std::string_view host,
                                                std::uint16_t port, request_handler handle,
                                                server_limits limits = {});
  static result<std::unique_ptr<server>> listen(boost::asio::io_context& io, std::string_view host,
                                                std::uint16_t port, deferring_handler handle,
                                                server_limits limits = {}, body_gate gate = nullptr);
  ~server();
  server(const server&) = delete;
  server& operator=(const server&) = delete;

  // Where it listens in fact: the port is known even if 0 was asked for.
  [[nodiscard]] std::vector<boost::asio::ip::tcp::endpoint> endpoints() const;

  // Serves a client that came in by another door: its socket, what was read of it there, and who is told to be asking.
  // Any thread.
  void serve(boost::asio::ip::tcp::socket from, std::string_view first,
             const boost::asio::ip::address& client);

  // No new connections, and the present ones are cut. Idempotent; what is under way ends on the io_context. Once the
  // io_context has run what stood in its line before this returned, the handler is not called again.
  void stop();

private:
  explicit server(std::shared_ptr<server_state> state);
  std::shared_ptr<server_state> state_;
};

}  // namespace posthorn::http
