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
#include <string_view>
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

// A reader may look at each word several times, but a small message must not become gigabytes by pointers that lead to the
// same place again and again.
inline capnp::ReaderOptions reader_options(kj::ArrayPtr<const capnp::word> message) {
  constexpr std::uint64_t least = std::uint64_t{8} << 20;
  capnp::ReaderOptions options;
  options.traversalLimitInWords = least + 4 * message.size();
  return options;
}

// A struct's name without the file and the scope that it stands in.
template <class Message>
[[nodiscard]] std::string name_of() {
  const std::string display = capnp::Schema::from<Message>().getProto().getDisplayName();
  return display.substr(display.find_last_of(":.") + 1);
}

// The root of a flat message, as a copy; no bytes: with its defaults.
template <class Struct>
void load_root(capnp::MessageBuilder& to, std::span<const std::byte> stored) {
  if (stored.empty()) {
    to.initRoot<Struct>();
  } else {
    const auto words = aligned_words(stored);
    capnp::FlatArrayMessageReader reader{words, reader_options(words)};
    to.setRoot(reader.getRoot<Struct>());
  }
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
  // By whoever runs the handler.
  explicit turn(raw_turn& raw) : raw_{raw} {}
  turn(const turn&) = delete;
  turn& operator=(const turn&) = delete;

  // The actor's state, to be read and changed; of a new actor, with the defaults of its schema.
  [[nodiscard]] typename State::Builder state() {
    handed_out_ = true;
    return load().template getRoot<State>();
  }

  // Writes an event into the actor's journal, and changes the state as the kind's `on_event<Event>` says: now, and again
  // whenever the actor wakes and the store has an older state. Throws when the kind does not know such events. What the
  // handler holds of lists and structs in the state may be out of date then: get them from `state()` again.
  template <class Event, class Fill>
  void record(Fill&& fill) {
    detail::with_message<Event>(fill, [&](const typed_message& m) {
      const auto& apply = raw_.applier_of(m.type, detail::name_of<Event>());
      raw_.record_raw(m, [&] { apply(load(), m.body); });
    });
  }

  // To an actor ("kind/id") or a queue, which may reply to this actor; its reply has the same correlation id. Throws when
  // nothing has this name, or its mailbox is full.
  template <class Message, class Fill>
  void send(std::string_view to, Fill&& fill, std::string_view correlation = {}) {
    detail::with_message<Message>(fill, [&](const typed_message& m) { raw_.send_raw(to, m, correlation); });
  }
  // Who waits for an answer, and the id that it knows its question by; empty: nobody, none. To answer in a later turn,
  // keep both in the state and `send` to the one with the other.
  [[nodiscard]] std::string_view reply_to() const { return raw_.reply_to().value_or(std::string_view{}); }
  // See `reply_to`.
  [[nodiscard]] std::string_view correlation() const {
    return raw_.correlation_id().value_or(std::string_view{});
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
  // One that is not there is no error.
  void cancel_reminder(std::string_view name) { raw_.cancel_reminder(name); }

  // Timers that are not durable: they end when the actor is started again, and an actor that has some stays awake. The
  // message comes to the actor itself, as a turn of its own, in order with the others; if that turn fails, it is gone.
  // One of the same name takes the place of the other. Throws when the name is empty or has more than 100 octets, the
  // delay is negative, the period is not positive, the kind has no handler for the message, or 1000 timers are set.
  template <class Message, class Fill>
  void after(std::string_view name, std::chrono::milliseconds delay, Fill&& fill) {
    detail::with_message<Message>(fill, [&](const typed_message& m) { raw_.after_raw(name, delay, m); });
  }
  // The same, again and again, each time so long after the last.
  template <class Message, class Fill>
  void every(std::string_view name, std::chrono::milliseconds period, Fill&& fill) {
    detail::with_message<Message>(fill, [&](const typed_message& m) { raw_.every_raw(name, period, m); });
  }
  // One that is not set is no error. Its message does not come any more, not even if it was due.
  void cancel_timer(std::string_view name) { raw_.cancel_timer(name); }

  // The message is set aside: it stays in the mailbox, durable, and is not counted as failed; state and sent messages of
  // this turn count. It comes again after `unstash_all`, or when the actor is started again. Throws when `stash_max`
  // messages are set aside already, and in the turn of a timer.
  void stash() { raw_.stash(); }
  // What was set aside before this turn comes again, in its order, before what is newer.
  void unstash_all() { raw_.unstash_all(); }

  // The message goes to the dead letters of the kind, and nothing else comes of this turn.
  void reject(std::string why = "the actor rejected it") { raw_.reject(std::move(why)); }

  // "kind/id", and the id alone.
  [[nodiscard]] const std::string& self() const noexcept { return raw_.self(); }
  // What stands behind the '/' of the name.
  [[nodiscard]] std::string_view id() const noexcept { return raw_.id(); }
  // Milliseconds since 1970.
  [[nodiscard]] std::int64_t now() const noexcept { return raw_.now(); }
  // How often this message has failed before.
  [[nodiscard]] std::uint32_t attempts() const noexcept { return raw_.attempts(); }
  // The same for each attempt at this message, and for no other message: for effects outside of the node.
  [[nodiscard]] std::string idempotency_key() const { return raw_.idempotency_key(); }
  // The turn without types: bytes, and the message as it came.
  [[nodiscard]] raw_turn& raw() noexcept { return raw_; }

  // By whoever runs the handler, when it has returned.
  void finish() {
    if (!builder_) return;
    const auto words = capnp::messageToFlatArray(*builder_);
    const auto bytes = words.asBytes();
    const auto* first = reinterpret_cast<const std::byte*>(bytes.begin());
    raw_.set_state_bytes({first, first + bytes.size()}, handed_out_);
  }

private:
  capnp::MallocMessageBuilder& load() {
    if (!builder_) detail::load_root<State>(builder_.emplace(), raw_.state_bytes());
    return *builder_;
  }

  raw_turn& raw_;
  std::optional<capnp::MallocMessageBuilder> builder_;
  bool handed_out_ = false;
};

}  // namespace posthorn
