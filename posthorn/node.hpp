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
#include "posthorn/events.hpp"
#include "posthorn/router.hpp"
#include "posthorn/supervision.hpp"

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

// An answer, with the bytes that it stands in.
template <class Message>
class answer_of {
public:
  // Of a message with this type of body; copies the body.
  explicit answer_of(const envelope& message)
      : words_{detail::aligned_words(message.body())}, reader_{words_, detail::reader_options(words_)} {}
  // Valid as long as this is.
  [[nodiscard]] typename Message::Reader operator*() { return reader_.getRoot<Message>(); }
  // The same.
  [[nodiscard]] typename Message::Reader get() { return reader_.getRoot<Message>(); }

private:
  kj::Array<capnp::word> words_;
  capnp::FlatArrayMessageReader reader_;
};

class node {
public:
  // Opens the store, which is made if it is not there, and brings back what it holds. Returns when everything durable can
  // be used. The error says what is wrong with the directory, or that another node uses it.
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
    own_.reset();
    client_.reset();
    if (broker_) broker_->stop();
    broker_.reset();
  }

  // Actors of these kinds that have messages wake at once, when all of the kinds are there: add together what sends to
  // each other, or the first to wake find nobody of the others. Error: one of them is not right, and none is added.
  template <class... States>
  requires(sizeof...(States) > 0) result<void> add(const durable<States>&... kinds) {
    return broker_->context().house->add({kinds.kind()...});
  }

  // From now on, "routers/NAME" is a name to send to. Its members are there already.
  result<void> add(const router& which) { return routers().add(which.definition()); }
  // Its members are these now. Error: it or one of them is not there, and then nothing has changed.
  result<void> resize_router(std::string_view name, std::vector<router_member> members) {
    return routers().resize(name, std::move(members));
  }
  // Its members now, and how often each was chosen. Error: there is no such router.
  [[nodiscard]] result<router_report> show_router(std::string_view name) const {
    return broker_->context().house->routers().show(name);
  }

  // To an actor ("kind/id"), a router ("routers/name") or a queue. The future is ready when the message is durable.
  template <class Message, class Fill>
  [[nodiscard]] std::future<result<void>> send(std::string_view to, Fill&& fill) {
    return detail::with_message<Message>(fill,
                                         [&](const typed_message& m) { return client_->send_raw(to, m); });
  }
  // To an exchange; it may lead nowhere. The future is ready when all mailboxes that it leads to have it durably.
  template <class Message, class Fill>
  [[nodiscard]] std::future<result<void>> publish(std::string_view exchange, std::string_view key,
                                                  Fill&& fill) {
    return detail::with_message<Message>(
        fill, [&](const typed_message& m) { return client_->publish_raw(exchange, key, m); });
  }
  // Sends, and waits for the answer. An answer after the deadline is dropped.
  template <class Question, class Answer, class Fill>
  [[nodiscard]] result<std::unique_ptr<answer_of<Answer>>> ask(std::string_view to,
                                                               std::chrono::milliseconds deadline,
                                                               Fill&& fill) {
    return answer_as<Answer>(to, ask_later<Question>(to, deadline, fill).get());
  }
  // The same without waiting: `answer_as<Answer>(to, future.get())` reads what came.
  template <class Question, class Fill>
  [[nodiscard]] std::future<result<envelope_ptr>> ask_later(std::string_view to,
                                                            std::chrono::milliseconds deadline, Fill&& fill) {
    return detail::with_message<Question>(
        fill, [&](const typed_message& m) { return client_->ask_raw(to, m, deadline); });
  }
  // What came for `ask_later`, as an answer of this type. `refused`: it is of another.
  template <class Answer>
  [[nodiscard]] static result<std::unique_ptr<answer_of<Answer>>> answer_as(
      std::string_view from, const result<envelope_ptr>& answer) {
    if (!answer) return answer.error();
    const auto type = text_property((*answer)->properties(), property::type);
    if (type != type_of<Answer>()) {
      return refused("'" + std::string{from} + "' answered with a message of type '" +
                     std::string{type.value_or("")} + "', not " + type_of<Answer>());
    }
    return std::make_unique<answer_of<Answer>>(**answer);
  }

  // Exchanges and queues of the vhost "/", durable. Each returns when the change is on disk; what is there already in
  // the same way is no error.
  result<void> declare_exchange(std::string_view name, exchange_type type) {
    return client_->declare_exchange(name, type).get();
  }
  // A durable queue, with rules that it keeps for good. `refused`: it is there with others.
  result<void> declare_queue(std::string_view name, const mailbox_rules& rules = {}) {
    return client_->declare_queue(name, rules).get();
  }
  // With its bindings; one that is not there is no error.
  result<void> delete_exchange(std::string_view name) { return client_->delete_exchange(name).get(); }
  // `to`: a queue, or a durable actor ("kind/id").
  result<void> bind(std::string_view to, std::string_view exchange, std::string_view routing_key = "") {
    return client_->bind(to, exchange, routing_key).get();
  }
  // The opposite of `bind`; a binding that is not there is no error.
  result<void> unbind(std::string_view from, std::string_view exchange, std::string_view routing_key = "") {
    return client_->unbind(from, exchange, routing_key).get();
  }
  // One message of a queue, acknowledged; null: it is empty.
  [[nodiscard]] result<envelope_ptr> take(std::string_view queue) { return client_->take(queue).get(); }

  // Your own CAF actors under a supervisor, at /user/NAME. Returns when all have started; not in an actor's handler.
  result<supervised_group> supervise(const group& which) { return own_->supervise(which.definition()); }
  // One of them by its path, "/user/workers/parser": it stays valid over restarts.
  [[nodiscard]] result<actor_reference> find_actor(std::string_view path) const { return own_->find(path); }
  // Tells what befalls the actors of the tree, as long as the subscription is there.
  subscription on_event(std::function<void(const event&)> tell, event_filter filter = {}) {
    return broker_->bus().subscribe(std::move(filter), std::move(tell));
  }

  // Everything that runs, and what an operator may do with it.
  [[nodiscard]] supervisor& tree() noexcept { return broker_->tree(); }
  // For plain CAF actors of your own.
  [[nodiscard]] caf::actor_system& system() noexcept { return broker_->system(); }
  // What a door stands on.
  [[nodiscard]] posthorn::broker& broker() noexcept { return *broker_; }

private:
  explicit node(std::unique_ptr<posthorn::broker> b)
      : broker_{std::move(b)},
        client_{std::make_unique<client>(*broker_)},
        own_{std::make_unique<plain_actors>(broker_->system(), broker_->tree(),
                                            broker_->context().on_supervision_event)} {}
  [[nodiscard]] router_table& routers() noexcept { return broker_->context().house->routers(); }

  std::unique_ptr<posthorn::broker> broker_;
  std::unique_ptr<client> client_;
  std::unique_ptr<plain_actors> own_;
};

}  // namespace posthorn
