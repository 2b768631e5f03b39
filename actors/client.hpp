// Code outside of the actors that uses the node: a program's main thread, a test, a gateway of its own. It sends, asks,
// publishes, and changes what exchanges and queues there are.
//
// Ownership   holds its broker's context by reference: it goes before the broker stops.
// Threads     any, several at a time. Whatever waits must not be called in an actor.
// Errors      `refused`: it will never work, and the text says why; `overloaded`: the mailbox refused the message, or the
//             deadline passed.
#pragma once

#include "actors/broker.hpp"
#include "actors/turn.hpp"
#include "mailbox/topology.hpp"

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

class client {
public:
  explicit client(broker& node);
  ~client();
  client(const client&) = delete;
  client& operator=(const client&) = delete;

  // To an actor ("kind/id") or a queue. The future is ready when the message is durable, or was refused.
  [[nodiscard]] std::future<result<void>> send_raw(std::string_view to, const typed_message& m);
  // To wherever the exchange leads; nowhere is no error. The future is ready when all of its mailboxes have it durably.
  [[nodiscard]] std::future<result<void>> publish_raw(std::string_view exchange, std::string_view key,
                                                      const typed_message& m);
  // Sends it; the future has the answer, or says that none came in time. One that comes after the deadline is dropped.
  [[nodiscard]] std::future<result<envelope_ptr>> ask_raw(std::string_view to, const typed_message& m,
                                                          std::chrono::milliseconds deadline);

  // Durable exchanges and queues of the vhost "/". Each is done, durably, when its future is ready; the rules and their
  // texts are AMQP's: what is there in the same way, or is not there to be removed, is no error.
  [[nodiscard]] std::future<result<void>> declare_exchange(std::string_view name, exchange_type type);
  [[nodiscard]] std::future<result<void>> declare_queue(std::string_view name, const mailbox_rules& rules);
  [[nodiscard]] std::future<result<void>> delete_exchange(std::string_view name);
  // `to`: a queue, or a durable actor ("kind/id").
  [[nodiscard]] std::future<result<void>> bind(std::string_view to, std::string_view exchange,
                                               std::string_view routing_key);
  [[nodiscard]] std::future<result<void>> unbind(std::string_view from, std::string_view exchange,
                                                 std::string_view routing_key);
  // One message of a queue, acknowledged; null: it is empty.
  [[nodiscard]] std::future<result<envelope_ptr>> take(std::string_view queue);

private:
  struct state;
  std::shared_ptr<state> state_;
};

}  // namespace posthorn
