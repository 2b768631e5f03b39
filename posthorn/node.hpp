// A node in your own program: a broker with durable queues, the supervision tree, and your durable actors.
//
//   auto node = posthorn::node::start({.data_directory = "data"});
//   if (!node) { … node.error().text says what to do … }
//   (*node)->add(posthorn::durable<…>("account")…);
//   (*node)->send<bank::Deposit>("account/anna", [](auto deposit) { deposit.setAmount(7); }).get();
//
// Ownership   stops when it goes out of scope; nothing of it may be used after that.
// Threads     any, unless a function says otherwise. Waiting for a future in an actor's handler would stop the actor.
// Errors      `refused` says why it will never work, `overloaded` may be tried again.
#pragma once

#include "actors/actor_house.hpp"
#include "actors/broker.hpp"
#include "actors/client.hpp"
#include "actors/supervisor.hpp"
#include "posthorn/durable.hpp"

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <string_view>

namespace posthorn {

// An answer, with the bytes that it stands in.
template <class Message>
class answer_of {
public:
  explicit answer_of(const envelope& message)
      : words_{detail::aligned_words(message.body())}, reader_{words_, detail::reader_options()} {}
  [[nodiscard]] typename Message::Reader operator*() { return reader_.getRoot<Message>(); }
  [[nodiscard]] typename Message::Reader get() { return reader_.getRoot<Message>(); }

private:
  kj::Array<capnp::word> words_;
  capnp::FlatArrayMessageReader reader_;
};

class node {
public:
  static result<std::unique_ptr<node>> start(broker_settings settings) {
    auto started = broker::start(std::move(settings));
    if (!started) return started.error();
    return std::unique_ptr<node>{new node{std::move(*started)}};
  }
  ~node() { stop(); }
  node(const node&) = delete;
  node& operator=(const node&) = delete;

  // Everything that was confirmed is on disk already.
  void stop() {
    client_.reset();
    if (broker_) broker_->stop();
    broker_.reset();
  }

  // The kind's actors that have messages wake at once.
  template <class State>
  result<void> add(const durable<State>& kind) {
    return broker_->context().house->add(kind.kind());
  }

  // To an actor ("kind/id") or a queue. The future is ready when the message is durable.
  template <class Message, class Fill>
  [[nodiscard]] std::future<result<void>> send(std::string_view to, Fill&& fill) {
    return detail::with_message<Message>(fill,
                                         [&](const typed_message& m) { return client_->send_raw(to, m); });
  }
  // Sends, and waits for the answer. An answer after the deadline is dropped.
  template <class Question, class Answer, class Fill>
  [[nodiscard]] result<std::unique_ptr<answer_of<Answer>>> ask(std::string_view to,
                                                               std::chrono::milliseconds deadline,
                                                               Fill&& fill) {
    auto answer = detail::with_message<Question>(
        fill, [&](const typed_message& m) { return client_->ask_raw(to, m, deadline); });
    if (!answer) return answer.error();
    const auto type = text_property((*answer)->properties(), property::type);
    if (type != type_of<Answer>()) {
      return refused("'" + std::string{to} + "' answered with a message of type '" +
                     std::string{type.value_or("")} + "', not " + type_of<Answer>());
    }
    return std::make_unique<answer_of<Answer>>(**answer);
  }

  // Everything that runs, and what an operator may do with it.
  [[nodiscard]] supervisor& tree() noexcept { return broker_->tree(); }
  // For plain CAF actors of your own.
  [[nodiscard]] caf::actor_system& system() noexcept { return broker_->system(); }
  [[nodiscard]] posthorn::broker& broker() noexcept { return *broker_; }

private:
  explicit node(std::unique_ptr<posthorn::broker> b)
      : broker_{std::move(b)}, client_{std::make_unique<client>(*broker_)} {}

  std::unique_ptr<posthorn::broker> broker_;
  std::unique_ptr<client> client_;
};

}  // namespace posthorn
