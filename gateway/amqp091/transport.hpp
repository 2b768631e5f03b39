// The bytes of a connection: a socket, with TLS between it and the connection or without.
//
// The plain way is the socket's own, behind one branch that always goes the same way: nothing is virtual and nothing is
// copied.
//
// Owns      the socket, which does not block, and the session.
// Threads   its connection's.
#pragma once

#include "gateway/amqp091/tls.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>

#include <memory>
#include <span>
#include <string>
#include <utility>

namespace posthorn::amqp091 {

class transport {
public:
  using socket = boost::asio::ip::tcp::socket;

  // `session`: of the same socket, with its handshake behind it; null: without TLS.
  explicit transport(socket plain, std::unique_ptr<tls_session> session = nullptr)
      : socket_{std::move(plain)}, tls_{std::move(session)} {}

  std::size_t read_some(std::span<std::byte> into, boost::system::error_code& failed) {
    if (tls_ == nullptr) [[likely]]
      return socket_.read_some(boost::asio::buffer(into.data(), into.size()), failed);
    return tls_->read_some(into, failed);
  }

  // After `would_block` the same octets are to be written again, and may be followed by more.
  std::size_t write_some(std::span<const char> from, boost::system::error_code& failed) {
    if (tls_ == nullptr) [[likely]]
      return socket_.write_some(boost::asio::buffer(from.data(), from.size()), failed);
    return tls_->write_some(from, failed);
  }

  // Calls the handler with an error_code when `read_some` is worth a try.
  template <class Handler>
  void wait_to_read(Handler&& handler) {
    if (tls_ != nullptr) [[unlikely]] {
      if (tls_->has_more()) {
        boost::asio::post(socket_.get_executor(), [then = std::forward<Handler>(handler)]() mutable {
          then(boost::system::error_code{});
        });
        return;
      }
      if (tls_->read_waits_to_write()) {
        socket_.async_wait(socket::wait_write, std::forward<Handler>(handler));
        return;
      }
    }
    socket_.async_wait(socket::wait_read, std::forward<Handler>(handler));
  }

  // The same for `write_some`.
  template <class Handler>
  void wait_to_write(Handler&& handler) {
    const bool reads = tls_ != nullptr && tls_->write_waits_to_read();
    socket_.async_wait(reads ? socket::wait_read : socket::wait_write, std::forward<Handler>(handler));
  }

  // Tells the client that no more comes. What it sends can still be read, if only to be thrown away.
  void finish_sending() {
    boost::system::error_code ignored;
    if (tls_ != nullptr) tls_->say_goodbye();
    tls_.reset();
    socket_.shutdown(socket::shutdown_send, ignored);
  }

  // Reads what comes, encrypted or not, for nobody to look at; `read_some` cannot be used any more after it.
  std::size_t discard_some(std::span<std::byte> into, boost::system::error_code& failed) {
    return socket_.read_some(boost::asio::buffer(into.data(), into.size()), failed);
  }

  // Calls the handler with an error_code when `discard_some` is worth a try.
  template <class Handler>
  void wait_to_discard(Handler&& handler) {
    socket_.async_wait(socket::wait_read, std::forward<Handler>(handler));
  }

  // Whoever waits is called with an error.
  void close() {
    boost::system::error_code ignored;
    if (tls_ != nullptr && socket_.is_open()) tls_->say_goodbye();
    socket_.shutdown(socket::shutdown_both, ignored);
    socket_.close(ignored);
  }

  [[nodiscard]] bool is_encrypted() const noexcept { return tls_ != nullptr; }
  // The user that the client's verified certificate names; empty when there is none.
  [[nodiscard]] std::string user() const { return tls_ != nullptr ? tls_->user() : std::string{}; }

private:
  socket socket_;
  std::unique_ptr<tls_session> tls_;  // goes first: it uses the socket
};

}  // namespace posthorn::amqp091
