// The last moments of a connection's socket, after the last frame that means anything was read.
//
// What is still to be told is written, then the sending side is shut, so that the client learns that no more comes; what
// it goes on to send is read and thrown away until it closes its side, too. Closed at once with input unread, the kernel
// would send a reset, which overtakes what the client has not read: its last publishes would fail, and it would not hear
// why the node closes.
//
// Owns      the socket, and itself: the handlers that wait hold it, and nobody else.
// Threads   its worker's.
// Limits    `patience` for each; `partings_max` at a time for each worker, beyond which the socket is closed at once, as the
//           connection does not count any more among those that are limited. What is read goes into the worker's chunk.
#pragma once

#include "gateway/amqp091/transport.hpp"
#include "gateway/amqp091/wire.hpp"

#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <memory>

namespace posthorn::amqp091 {

struct io_worker;

class parting : public std::enable_shared_from_this<parting> {
public:
  static constexpr std::size_t partings_max = 1024;

  // `rest`, from `sent` on, is what the client is still to be told. Whoever waits on the transport has been told already
  // that it is gone.
  static void begin(io_worker& worker, transport line, buffer rest, std::size_t sent,
                    std::chrono::milliseconds patience);

private:
  parting(io_worker& worker, transport line, buffer rest, std::size_t sent);
  void write();
  void read();
  void finish();

  io_worker& worker_;
  transport line_;
  buffer rest_;
  std::size_t sent_;
  boost::asio::steady_timer timer_;
  bool is_over_ = false;
};

}  // namespace posthorn::amqp091
