// The management door of a broker that runs already: an HTTP server with a thread of its own, and what it shows.
// posthornd does not use it, because its door opens before its broker is there (node/run.cpp).
//
// Ownership   refers to the broker and to the AMQP door; goes before them.
// Threads     its own; everything here from any.
#pragma once

#include "mailbox/result.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace posthorn {

class broker;
namespace amqp091 {
class server;
}

// Where it listens.
struct http_door_settings {
  std::string host = "127.0.0.1";  // "*": all addresses
  std::uint16_t port = 15672;      // 0: any free one
};

class http_door {
public:
  // `amqp` may be null. Errors: `refused` or `unreachable`; the text says why.
  [[nodiscard]] static result<std::unique_ptr<http_door>> listen(broker& node,
                                                                 const http_door_settings& settings,
                                                                 const amqp091::server* amqp);
  // Answers nobody any more when it returns.
  ~http_door();
  http_door(const http_door&) = delete;
  http_door& operator=(const http_door&) = delete;

  // The port that is listened on.
  [[nodiscard]] std::uint16_t port() const;

private:
  struct impl;
  explicit http_door(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

}  // namespace posthorn
