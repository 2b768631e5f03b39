// The turn that a durable actor's handler gets: its state and what it sends, as Cap'n Proto types.
//
// See actors/turn.hpp for what a turn promises. `turn<State>` adds the state:
//
//   [](posthorn::turn<bank::Account>& turn, bank::Deposit::Reader deposit) {
//     turn.state().setBalance(turn.state().getBalance() + deposit.getAmount());
//     turn.reply<bank::Balance>([&](auto balance) { balance.setAmount(turn.state().getBalance()); });
//   }
//
// Ownership   everything a turn gives out ends with it.
// Threads     the handler's.
// Errors      what cannot be sent throws `turn_error`, which fails the turn unless the handler catches it.
#pragma once

#include "actors/turn.hpp"

#include <capnp/common.h>
#include <capnp/compat/json.h>
#include <capnp/message.h>
#include <capnp/schema.h>
#include <capnp/serialize.h>
#include <kj/array.h>

#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace posthorn {

// How a message says what it is: its schema's 64-bit id, as 0x and 16 hexadecimal digits.
template <class Message>
[[nodiscard]] std::string type_of() {
  char text[19];
  std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(capnp::typeId<Message>()));
  return text;
}

namespace detail {

// Words for bytes that may stand anywhere.
inline kj::Array<capnp::word> aligned_words(std::span<const std::byte> bytes) {
  auto words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
  if (words.size() != 0) std::memcpy(words.begin(), bytes.data(), words.size() * sizeof(capnp::word));
  return words;
}

inline capnp::ReaderOptions reader_options() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = std::uint64_t{1} << 30;
  return options;
}

// A struct's name without the file and the scope that it stands in.
template <class Message>
[[nodiscard]] std::string name_of() {
  const std::string display = capnp::Schema::from<Message>().getProto().getDisplayName();
  return display.substr(display.find_last_of(":.") + 1);
}

// Builds a message with `fill(Message::Builder)` and hands it to `use` as its type and bytes.
template <class Message, class Fill, class Use>
auto with_message(Fill&& fill, Use&& use) {
  capnp::MallocMessageBuilder builder;
  fill(builder.initRoot<Message>());
  const auto words = capnp::messageToFlatArray(builder);
  const auto type = type_of<Message>();
  const auto bytes = words.asBytes();
  return use(typed_message{
      type, {reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()}, body_format::capnp});
}

}  // namespace detail

template <class State>
class turn {
public:
  explicit turn(raw_turn& raw) : raw_{raw} {}
  turn(const turn&) = delete;
  turn& operator=(const turn&) = delete;

  // The actor's state, to be read and changed; of a new actor, with the defaults of its schema.
  [[nodiscard]] typename State::Builder state() {
    if (!builder_) {
      builder_.emplace();
      const auto stored = raw_.state_bytes();
      if (stored.empty()) {
        builder_->template initRoot<State>();
      } else {
        const auto words = detail::aligned_words(stored);
        capnp::FlatArrayMessageReader reader{words, detail::reader_options()};
        builder_->setRoot(reader.getRoot<State>());
      }
    }
    return builder_->template getRoot<State>();
  }

  // To an actor ("kind/id") or a queue. Throws when nothing has this name, or its mailbox is full.
  template <class Message, class Fill>
  void send(std::string_view to, Fill&& fill) {
    detail::with_message<Message>(fill, [&](const typed_message& m) { raw_.send_raw(to, m); });
  }
  // To an exchange; it may lead nowhere. Throws when there is no such exchange.
  template <class Message, class Fill>
  void publish(std::string_view exchange, std::string_view key, Fill&& fill) {
    detail::with_message<Message>(fill, [&](const typed_message& m) { raw_.publish_raw(exchange, key, m); });
  }
  // To whoever sent the message, if it waits for an answer; in JSON, if the message was.
  template <class Message, class Fill>
  void reply(Fill&& fill) {
    if (!raw_.wants_reply()) return;
    if (raw_.format() == body_format::json) {
      capnp::MallocMessageBuilder builder;
      fill(builder.initRoot<Message>());
      const auto text = capnp::JsonCodec{}.encode(builder.getRoot<Message>().asReader());
      raw_.reply_raw({detail::name_of<Message>(), std::as_bytes(std::span{text.cStr(), text.size()}),
                      body_format::json});
    } else {
      detail::with_message<Message>(fill, [&](const typed_message& m) { raw_.reply_raw(m); });
    }
  }
  // A durable reminder: this message comes to the actor itself, `after` from now and then every `period`, whatever
  // happens in between. One of the same name takes the place of the other.
  template <class Message, class Fill>
  void remind(std::string_view name, std::chrono::milliseconds after, Fill&& fill,
              std::chrono::milliseconds period = {}) {
    detail::with_message<Message>(fill,
                                  [&](const typed_message& m) { raw_.remind_raw(name, after, m, period); });
  }
  void cancel_reminder(std::string_view name) { raw_.cancel_reminder(name); }

  // The message goes to the dead letters of the kind, and nothing else comes of this turn.
  void reject(std::string why = "the actor rejected it") { raw_.reject(std::move(why)); }

  // "kind/id", and the id alone.
  [[nodiscard]] const std::string& self() const noexcept { return raw_.self(); }
  [[nodiscard]] std::string_view id() const noexcept { return raw_.id(); }
  // Milliseconds since 1970.
  [[nodiscard]] std::int64_t now() const noexcept { return raw_.now(); }
  [[nodiscard]] std::uint32_t attempts() const noexcept { return raw_.attempts(); }
  [[nodiscard]] std::string idempotency_key() const { return raw_.idempotency_key(); }
  [[nodiscard]] raw_turn& raw() noexcept { return raw_; }

  // By whoever runs the handler, when it has returned.
  void finish() {
    if (!builder_) return;
    const auto words = capnp::messageToFlatArray(*builder_);
    const auto bytes = words.asBytes();
    const auto* first = reinterpret_cast<const std::byte*>(bytes.begin());
    raw_.set_state_bytes({first, first + bytes.size()});
  }

private:
  raw_turn& raw_;
  std::optional<capnp::MallocMessageBuilder> builder_;
};

}  // namespace posthorn
