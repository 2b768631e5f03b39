// One turn of a durable actor: the message, and what the handler wants to come of it. The typed face is posthorn/turn.hpp.
//
// Nothing of it happens before the handler has returned, and then all of it in one transaction, with the message's
// acknowledgement. A handler that throws leaves no trace; the message comes again, at most `delivery_limit` times, and
// then goes to the dead letters.
//
// Ownership   lives as long as the handler runs, and not longer: keep nothing of it.
// Threads     the handler's.
// Errors      `turn_error` from what cannot be done; a handler that lets it pass fails its turn.
#pragma once

#include "actors/actor_kind.hpp"
#include "actors/inhabitant.hpp"
#include "actors/node_context.hpp"
#include "actors/outgoing.hpp"
#include "mailbox/properties.hpp"

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

class turn_error : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

// The body is not what its type says. It is not tried again: the message goes to the dead letters.
class unreadable_message : public turn_error {
public:
  using turn_error::turn_error;
};

// A message as it is to be sent: its type, and its body as a flat Cap'n Proto message, or as JSON.
struct typed_message {
  std::string type;                         // "0x…", 16 hexadecimal digits; of JSON the name of the struct
  std::span<const std::byte> body;          // lives as long as the call
  body_format format = body_format::capnp;  // what the body is written in
};

class raw_turn {
public:
  // By those who run turns.
  struct parts {
    node_context& node;
    const topology& where;
    const delivery& message;
    outgoing& sent;
    const std::string& name;  // "kind/id"
    const std::string& path;
    std::span<const std::byte> state;
    const occasion& when;
    mailbox_id mailbox{};
    const actor_kind& kind;
    std::uint64_t number = 0;  // of turns that were carried out before
  };
  struct event {
    std::string type;
    std::vector<std::byte> body;
  };
  explicit raw_turn(const parts& p) : p_{p} {}

  // "kind/id", and the id.
  [[nodiscard]] const std::string& self() const noexcept { return p_.name; }
  [[nodiscard]] std::string_view id() const noexcept {
    return std::string_view{p_.name}.substr(p_.name.find('/') + 1);
  }
  // The time of the turn, in milliseconds since 1970. A turn that asks no clock can be repeated.
  [[nodiscard]] std::int64_t now() const noexcept { return p_.when.now; }
  // How often this message has failed before.
  [[nodiscard]] std::uint32_t attempts() const noexcept { return p_.message.attempts; }
  // The same for each attempt at this message, and for no other message: for effects outside of the node.
  [[nodiscard]] std::string idempotency_key() const;
  [[nodiscard]] const envelope& message() const noexcept { return *p_.message.message; }
  [[nodiscard]] std::optional<std::string_view> reply_to() const;
  [[nodiscard]] std::optional<std::string_view> correlation_id() const;

  // To an actor ("kind/id") or a queue.
  void send_raw(std::string_view to, const typed_message& m, std::string_view correlation = {});
  // To wherever the exchange leads now; nowhere is no error.
  void publish_raw(std::string_view exchange, std::string_view key, const typed_message& m);
  // To the message's reply_to, with its correlation id. `wants_reply` says whether there is one.
  void reply_raw(const typed_message& m);
  [[nodiscard]] bool wants_reply() const { return reply_to().has_value(); }
  // Who asks in JSON is answered in JSON.
  [[nodiscard]] body_format format() const;

  // Durable: comes even if the node was down when it was due. One of the same name takes its place. `period` 0: once.
  void remind_raw(std::string_view reminder, std::chrono::milliseconds after, const typed_message& m,
                  std::chrono::milliseconds period);
  void cancel_reminder(std::string_view reminder);

  // Not durable: they end when the actor is started again, and an actor that has some does not fall asleep. The message
  // comes to the actor itself, as a turn of its own; it is gone if that turn fails. One of the same name takes the place
  // of the other, and what has fallen due of it.
  void after_raw(std::string_view timer, std::chrono::milliseconds delay, const typed_message& m);
  void every_raw(std::string_view timer, std::chrono::milliseconds period, const typed_message& m);
  void cancel_timer(std::string_view timer);

  // The message is set aside: it stays in the mailbox, and is not counted as failed. Everything else of the turn counts.
  void stash();
  // What was set aside before this turn comes again, in its order, before what is newer.
  void unstash_all();

  // The message goes to the dead letters, and nothing else comes of the turn.
  void reject(std::string why = "the actor rejected it");

  // How the kind applies an event of this type; `name` is for the error.
  [[nodiscard]] const event_journal::applier& applier_of(std::string_view type, std::string_view name) const;
  // `apply` changes the state by the event.
  void record_raw(const typed_message& event, const std::function<void()>& apply);

  [[nodiscard]] std::span<const std::byte> state_bytes() const noexcept { return p_.state; }
  // `handed_out`: the handler has had it in its hands, and may have changed it otherwise than by events.
  void set_state_bytes(std::vector<std::byte> state, bool handed_out = true) {
    new_state_ = std::move(state);
    handed_out_ = handed_out;
  }

  // What came of it.
  [[nodiscard]] const std::optional<std::string>& rejected() const noexcept { return rejected_; }
  [[nodiscard]] bool stashed() const noexcept { return stashed_; }
  [[nodiscard]] bool unstashes() const noexcept { return unstashes_; }
  [[nodiscard]] std::vector<timer_change>& timers() noexcept { return timers_; }
  [[nodiscard]] std::optional<std::vector<std::byte>>& new_state() noexcept { return new_state_; }
  [[nodiscard]] bool handed_out() const noexcept { return handed_out_; }
  [[nodiscard]] const std::vector<event>& events() const noexcept { return events_; }
  // An event was applied only in part, so nothing may come of the turn.
  [[nodiscard]] bool spoilt() const noexcept { return spoilt_; }

private:
  [[nodiscard]] envelope_ptr make(std::string_view exchange, std::string_view key, const typed_message& m,
                                  std::string_view correlation, bool with_reply_to) const;
  void deliver(const envelope_ptr& message, bool must_exist, std::string_view to);
  void set_timer(std::string_view timer, std::int64_t due, std::int64_t period, const typed_message& m);

  parts p_;
  std::optional<std::vector<std::byte>> new_state_;
  std::optional<std::string> rejected_;
  std::vector<timer_change> timers_;
  std::vector<event> events_;
  bool stashed_ = false, unstashes_ = false, handed_out_ = false, spoilt_ = false;
};

}  // namespace posthorn
