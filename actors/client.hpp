// Code outside of the actors that sends to them: a program's main thread, a test, a gateway of its own.
//
// Ownership   holds its broker's context by reference: it goes before the broker stops.
// Threads     any, several at a time.
// Errors      `refused`: nothing has this name; `overloaded`: the mailbox refused the message, or the deadline passed.
#pragma once

#include "actors/broker.hpp"
#include "actors/turn.hpp"

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>

namespace posthorn {

class client {
public:
  explicit client(broker& node);
  ~client();
  client(const client&) = delete;
  client& operator=(const client&) = delete;

  // The future is ready when the message is durable, or was refused.
  [[nodiscard]] std::future<result<void>> send_raw(std::string_view to, const typed_message& m);
  // Sends it and waits for the answer; one that comes after the deadline is dropped. Not to be called in an actor.
  [[nodiscard]] result<envelope_ptr> ask_raw(std::string_view to, const typed_message& m,
                                             std::chrono::milliseconds deadline);

private:
  struct state;
  std::shared_ptr<state> state_;
};

}  // namespace posthorn
