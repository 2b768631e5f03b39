#include "actors/turn.hpp"

#include "actors/actor_house.hpp"
#include "actors/vhost.hpp"

namespace posthorn {

namespace {

constexpr std::string_view capnp_content = "application/x-capnp", json_content = "application/json";
constexpr std::uint8_t persistent_mode = 2;

}  // namespace

std::string raw_turn::idempotency_key() const {
  return p_.path + "#" + std::to_string(p_.mailbox.value) + "." + std::to_string(p_.message.at.value);
}

std::optional<std::string_view> raw_turn::reply_to() const { return reply_to_of(message().properties()); }
std::optional<std::string_view> raw_turn::correlation_id() const {
  return correlation_id_of(message().properties());
}

body_format raw_turn::format() const {
  const auto content = text_property(message().properties(), property::content_type);
  return content == json_content ? body_format::json : body_format::capnp;
}

envelope_ptr raw_turn::make(std::string_view exchange, std::string_view key, const typed_message& m,
                            std::string_view correlation, bool with_reply_to) const {
  if (exchange.size() > envelope::name_size_max || key.size() > envelope::name_size_max) {
    throw turn_error{"an exchange's or actor's name has more than 255 octets"};
  }
  basic_properties properties;
  properties.content_type = std::string{m.format == body_format::json ? json_content : capnp_content};
  properties.delivery_mode = persistent_mode;
  properties.type = m.type;
  if (!correlation.empty()) properties.correlation_id = std::string{correlation};
  if (with_reply_to) properties.reply_to = p_.name;
  std::string encoded;
  encode_properties(properties, encoded);
  return make_envelope(exchange, key, std::as_bytes(std::span{encoded}), true, m.body);
}

void raw_turn::deliver(const envelope_ptr& message, bool must_exist, std::string_view to) {
  // A mailbox that falls asleep between being found and being written to is found again, awake.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto targets = p_.node.house->route(p_.where, *message);
    if (targets.empty()) {
      if (must_exist) {
        throw turn_error{"nothing has the name '" + std::string{to} +
                         "': send to an actor of a known kind (\"kind/id\") or to a queue that was declared"};
      }
      return;
    }
    bool all = true;
    for (const auto& port : targets) {
      if (must_exist && port->is_full()) {
        throw turn_error{"the mailbox of '" + std::string{to} +
                         "' is full and refuses messages: slow down, or raise its maximum length"};
      }
      if (!p_.sent.add(*port, message, p_.now)) all = false;
    }
    if (all) return;
    if (targets.size() > 1) return;  // one of several was removed: it counts as never bound
  }
}

void raw_turn::send_raw(std::string_view to, const typed_message& m, std::string_view correlation) {
  deliver(make("", to, m, correlation, true), true, to);
}

void raw_turn::publish_raw(std::string_view exchange, std::string_view key, const typed_message& m) {
  if (p_.where.find_exchange(exchange) == nullptr) {
    throw turn_error{"there is no exchange '" + std::string{exchange} + "' to publish to: declare it first"};
  }
  deliver(make(exchange, key, m, {}, false), false, key);
}

void raw_turn::reply_raw(const typed_message& m) {
  const auto to = reply_to();
  if (!to || to->empty()) return;
  // Whoever asked may be gone; that is no reason to fail.
  deliver(make("", *to, m, correlation_id().value_or(""), false), false, *to);
}

void raw_turn::remind_raw(std::string_view reminder, std::chrono::milliseconds after, const typed_message& m,
                          std::chrono::milliseconds period) {
  if (after.count() < 0 || period.count() < 0) throw turn_error{"a reminder lies in the past"};
  timer_write w;
  w.timer.path = p_.path;
  w.timer.name = reminder;
  w.timer.due = p_.now + after.count();
  w.timer.period = period.count();
  w.timer.message = make("", p_.name, m, {}, false);
  p_.sent.writes.timers.push_back(std::move(w));
}

void raw_turn::cancel_reminder(std::string_view reminder) {
  timer_write w;
  w.timer.path = p_.path;
  w.timer.name = reminder;
  w.cancel = true;
  p_.sent.writes.timers.push_back(std::move(w));
}

void raw_turn::reject(std::string why) { rejected_ = std::move(why); }

}  // namespace posthorn
