// A node for tests of your actors: in the test's own process and thread, with virtual time and an order of events that
// comes from a seed. docs/testing.md has the whole of it.
//
//   posthorn::test_node node{{.seed = 7}};
//   node.add(accounts());
//   auto probe = node.probe("probe/1");
//   probe.send<bank::Ask>("account/anna", [](auto) {});      // nothing has happened yet
//   node.run();                                              // now it has
//   probe.expect<bank::Balance>([](auto balance) { REQUIRE(balance.getAmount() == 0); });
//
// Ownership   the node's directory is a temporary one and goes with it, unless you give one. Probes end with their node.
// Threads     one: handlers run inside of `run`, `advance` and `ask`, on the thread that calls them.
// Errors      `test_failure`, a std::exception whose text says what was expected and what was there.
#pragma once

#include "actors/actor_house.hpp"
#include "actors/supervisor.hpp"
#include "actors/test_node.hpp"
#include "posthorn/durable.hpp"
#include "posthorn/router.hpp"

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace posthorn {

// A Cap'n Proto struct that was read from somewhere, with the bytes that it stands in. Cheap to copy.
template <class Struct>
class read_struct {
public:
  // What looks at it.
  using reader = typename Struct::Reader;

  // Without bytes, the defaults of the schema.
  explicit read_struct(std::span<const std::byte> bytes)
      : data_{std::make_shared<data>(bytes)},
        reader_{bytes.empty() ? data_->builder.template initRoot<Struct>().asReader()
                              : data_->message.template getRoot<Struct>()} {}

  // Valid as long as this or a copy of it is.
  [[nodiscard]] reader get() const { return reader_; }
  // The same.
  [[nodiscard]] reader operator*() const { return reader_; }
  // state->getBalance()
  [[nodiscard]] reader* operator->() { return &reader_; }

private:
  struct data {
    explicit data(std::span<const std::byte> bytes)
        : words{detail::aligned_words(bytes)}, message{words, detail::reader_options(words)} {}
    kj::Array<capnp::word> words;
    capnp::FlatArrayMessageReader message;
    capnp::MallocMessageBuilder builder;
  };
  std::shared_ptr<data> data_;
  reader reader_;
};

class test_node;

// An address that belongs to the test. Actors send and reply to it; it keeps what comes, in order, also over a crash of
// the node.
class test_probe {
public:
  // Where it is sent to.
  [[nodiscard]] const std::string& name() const noexcept { return state_->name; }
  // Messages that came and were not looked at.
  [[nodiscard]] std::size_t count() const noexcept { return state_->messages.size(); }
  // Forgets what has come.
  void clear() noexcept { state_->messages.clear(); }

  // The oldest message is one of these; it is taken off, and given.
  template <class Message>
  read_struct<Message> expect() {
    if (state_->messages.empty()) {
      throw test_failure{name() + " expected " + detail::name_of<Message>() +
                         ", and has nothing: did the node run?"};
    }
    const auto message = state_->messages.front();
    const auto type = text_property(message->properties(), property::type);
    if (type != type_of<Message>()) {
      throw test_failure{name() + " expected " + detail::name_of<Message>() + " (" + type_of<Message>() +
                         "), and has a message of type '" + std::string{type.value_or("")} + "'"};
    }
    state_->messages.pop_front();
    return read_struct<Message>{message->body()};
  }
  // The same; `check(Message::Reader)` looks at it. One that gives a bool fails the test when that is false.
  template <class Message, class Check>
  read_struct<Message> expect(Check&& check) {
    auto message = expect<Message>();
    if constexpr (std::is_same_v<decltype(check(message.get())), bool>) {
      if (!check(message.get())) {
        throw test_failure{name() + " has another " + detail::name_of<Message>() +
                           " than it expected: " + kj::str(message.get()).cStr()};
      }
    } else {
      check(message.get());
    }
    return message;
  }
  // Throws if something came that was not looked at.
  void expect_nothing() const {
    if (state_->messages.empty()) return;
    const auto type = text_property(state_->messages.front()->properties(), property::type);
    throw test_failure{name() + " expected nothing, and has " + std::to_string(count()) +
                       " messages, the first of type '" + std::string{type.value_or("")} + "'"};
  }

  // As `test_node::send`; answers come to the probe.
  template <class Message, class Fill>
  sent_message send(std::string_view to, Fill&& fill);

private:
  friend class test_node;
  test_probe(test_node& node, std::shared_ptr<probe_state> state) : node_{&node}, state_{std::move(state)} {}

  test_node* node_;
  std::shared_ptr<probe_state> state_;
};

// The node, with the types of messages and states. What it inherits is about time, failures and what the node is made of.
class test_node : public raw_test_node {
public:
  // Starts it. `test_failure`: the broker does not start.
  explicit test_node(test_settings settings = {}) : raw_test_node{std::move(settings)} {}

  // Also to the nodes after a crash.
  template <class State>
  test_node& add(const durable<State>& kind) {
    raw_test_node::add(kind.kind());
    return *this;
  }
  using raw_test_node::add;
  // Also to the nodes after a crash.
  test_node& add(const router& which) {
    at_start([definition = which.definition()](posthorn::broker& b) {
      if (auto added = b.context().house->routers().add(definition); !added)
        throw test_failure{added.error().text};
    });
    return *this;
  }

  // To an actor ("kind/id"), a probe or a queue. It is on its way; what becomes of it can be asked after a run.
  template <class Message, class Fill>
  sent_message send(std::string_view to, Fill&& fill) {
    return detail::with_message<Message>(fill, [&](const typed_message& m) { return send_raw(to, m); });
  }

  // Sends, and runs until the answer has come; lets as much virtual time pass as that needs, up to `within`.
  template <class Question, class Answer, class Fill>
  read_struct<Answer> ask(std::string_view to, Fill&& fill,
                          std::chrono::milliseconds within = std::chrono::seconds{5}) {
    const auto answer =
        detail::with_message<Question>(fill, [&](const typed_message& m) { return ask_raw(to, m, within); });
    const auto type = text_property(answer->properties(), property::type);
    if (type != type_of<Answer>()) {
      throw test_failure{"'" + std::string{to} + "' answered with a message of type '" +
                         std::string{type.value_or("")} + "', not " + detail::name_of<Answer>()};
    }
    return read_struct<Answer>{answer->body()};
  }

  // Durable exchanges, queues and bindings, as those of `posthorn::node`. They run the node until they are done.
  void declare_exchange(std::string_view name, exchange_type type) {
    done(client().declare_exchange(name, type));
  }
  // A durable queue, with rules that it keeps for good.
  void declare_queue(std::string_view name, const mailbox_rules& rules = {}) {
    done(client().declare_queue(name, rules));
  }
  // `to`: a queue, or a durable actor ("kind/id").
  void bind(std::string_view to, std::string_view exchange, std::string_view routing_key = "") {
    done(client().bind(to, exchange, routing_key));
  }
  // To an exchange; on disk when this returns.
  template <class Message, class Fill>
  void publish(std::string_view exchange, std::string_view key, Fill&& fill) {
    done(detail::with_message<Message>(
        fill, [&](const typed_message& m) { return client().publish_raw(exchange, key, m); }));
  }
  // One message of a queue, acknowledged, such as a dead letter; null: it is empty.
  [[nodiscard]] envelope_ptr take(std::string_view queue) { return done(client().take(queue)); }

  // The same one for the same name.
  [[nodiscard]] test_probe probe(std::string_view name) { return {*this, probe_named(name)}; }

  // The state of an actor ("kind/id") as it is in the store; of one that has none, the defaults of the schema.
  template <class State>
  [[nodiscard]] read_struct<State> state(std::string_view name) {
    const auto found = stored(name);
    return read_struct<State>{found ? std::span<const std::byte>{found->state}
                                    : std::span<const std::byte>{}};
  }
  // It has one: something was committed for it.
  [[nodiscard]] bool has_state(std::string_view name) {
    const auto found = stored(name);
    return found && !found->state.empty();
  }

private:
  friend class test_probe;
};

template <class Message, class Fill>
sent_message test_probe::send(std::string_view to, Fill&& fill) {
  return detail::with_message<Message>(
      fill, [&](const typed_message& m) { return node_->send_raw(to, m, name()); });
}

}  // namespace posthorn
