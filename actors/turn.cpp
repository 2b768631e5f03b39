#include "actors/turn.hpp"

#include "actors/actor_house.hpp"
#include "actors/vhost.hpp"

namespace posthorn {

namespace {

constexpr std::string_view capnp_content = "application/x-capnp", json_content = "application/json";
constexpr std::uint8_t persistent_mode = 2;
// Nobody means it, and a sum with it stays a time.
constexpr std::chrono::milliseconds delay_max = std::chrono::hours{24 * 36525};

void check_name(std::string_view name, const char* what) {
  if (name.empty()) {
    throw turn_error{std::string{what} +
                     " needs a name, by which it is set anew and cancelled: \"\" is none"};
  }
  if (name.size() > timer_name_size_max) {
    throw turn_error{std::string{what} + " has a name of " + std::to_string(name.size()) +
                     " octets: use at most " + std::to_string(timer_name_size_max)};
  }
}

void check_delay(std::chrono::milliseconds delay, std::string_view name, const char* what) {
  if (delay.count() < 0) {
    throw turn_error{std::string{what} + " '" + std::string{name} + "' lies in the past: use 0 for at once"};
  }
  if (delay > delay_max) {
    throw turn_error{std::string{what} + " '" + std::string{name} +
                     "' lies more than 100 years ahead: do not set it at all"};
  }
}

}  // namespace

std::string raw_turn::idempotency_key() const {
  if (!p_.when.timer.empty()) {
    return p_.path + "#" + std::to_string(p_.mailbox.value) + ".timer." + std::to_string(p_.number) + "." +
           std::to_string(p_.when.timer_due) + "." + std::string{p_.when.timer};
  }
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
  if (m.body.size() > envelope::body_size_max) {
    throw turn_error{"a message of " + std::to_string(m.body.size()) +
                     " bytes is larger than a message can be: " + std::to_string(envelope::body_size_max)};
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
  std::vector<std::string_view> histories;
  const auto targets =
      p_.node.house->route(p_.where, *message, {.chance = p_.node.next_chance(), .histories = &histories});
  p_.sent.note_passage(p_.node.actors_vhost.lock(), histories, message);
  if (targets.empty() && must_exist) throw turn_error{p_.node.house->why_nowhere(to).text};
  for (auto port : targets) {
    if (must_exist && port->is_full()) {
      throw turn_error{"the mailbox of '" + std::string{to} +
                       "' is full and refuses messages: slow down, or raise its maximum length"};
    }
    while (port && !p_.sent.add(*port, message, p_.when.now)) {
      if (port->is_doorway()) {
        throw turn_error{"an exchange leads to " + port->described +
                         ", whose kind this program does not have: add the kind, or unbind the actor"};
      }
      // An actor fell asleep after it was found. A queue that was removed meanwhile counts as never bound.
      port = port->path.empty() ? nullptr : p_.node.house->find(actor_house::name_of(port->path));
    }
    if (!port && must_exist) throw turn_error{p_.node.house->why_nowhere(to).text};
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
  check_name(reminder, "a reminder");
  check_delay(after, reminder, "the reminder");
  check_delay(period, reminder, "the period of the reminder");
  timer_write w;
  w.timer.path = p_.path;
  w.timer.name = reminder;
  w.timer.due = p_.when.now + after.count();
  w.timer.period = period.count();
  w.timer.message = make("", p_.name, m, {}, false);
  p_.sent.writes.timers.push_back(std::move(w));
}

void raw_turn::cancel_reminder(std::string_view reminder) {
  check_name(reminder, "a reminder");
  timer_write w;
  w.timer.path = p_.path;
  w.timer.name = reminder;
  w.cancel = true;
  p_.sent.writes.timers.push_back(std::move(w));
}

void raw_turn::set_timer(std::string_view timer, std::int64_t due, std::int64_t period,
                         const typed_message& m) {
  if (!p_.kind.handlers.contains(m.type)) {
    throw turn_error{"the timer '" + std::string{timer} + "' would send a message of type '" + m.type +
                     "', which the kind '" + p_.kind.name + "' does not handle: add it with on<Message>(…)"};
  }
  if (!p_.when.timers->fits(timer, timers_.size())) {
    throw turn_error{"actor '" + p_.name + "' has " + std::to_string(volatile_timers::count_max) +
                     " timers: cancel some, set those that are there anew, or use turn.remind"};
  }
  timers_.push_back({std::string{timer}, make("", p_.name, m, {}, false), due, period});
}

void raw_turn::after_raw(std::string_view timer, std::chrono::milliseconds delay, const typed_message& m) {
  check_name(timer, "a timer");
  check_delay(delay, timer, "the timer");
  set_timer(timer, p_.when.now + delay.count(), 0, m);
}

void raw_turn::every_raw(std::string_view timer, std::chrono::milliseconds period, const typed_message& m) {
  check_name(timer, "a timer");
  check_delay(period, timer, "the period of the timer");
  if (period.count() == 0) {
    throw turn_error{"the timer '" + std::string{timer} +
                     "' has a period of 0 ms: use 1 ms and more, or turn.after for one that comes once"};
  }
  set_timer(timer, p_.when.now + period.count(), period.count(), m);
}

void raw_turn::cancel_timer(std::string_view timer) {
  check_name(timer, "a timer");
  timers_.push_back({std::string{timer}, nullptr, 0, 0});
}

void raw_turn::stash() {
  if (rejected_) throw turn_error{"a message that is rejected cannot be set aside, too: do one of them"};
  if (!p_.when.timer.empty()) {
    throw turn_error{"the message of the timer '" + std::string{p_.when.timer} +
                     "' is not in the mailbox and cannot be set aside: set the timer again"};
  }
  if (!stashed_ && p_.when.stashed >= p_.kind.stash_max) {
    throw turn_error{"actor '" + p_.name + "' has set aside " + std::to_string(p_.when.stashed) +
                     " messages, and its kind's stash_max is " + std::to_string(p_.kind.stash_max) +
                     ": call turn.unstash_all(), reject messages instead, or raise stash_max"};
  }
  stashed_ = true;
}

void raw_turn::unstash_all() { unstashes_ = true; }

void raw_turn::reject(std::string why) {
  if (stashed_) throw turn_error{"a message that is set aside cannot be rejected, too: do one of them"};
  rejected_ = std::move(why);
}

const event_journal::applier& raw_turn::applier_of(std::string_view type, std::string_view name) const {
  const auto& appliers = p_.kind.journal.appliers;
  const auto found = appliers.find(type);
  if (found == appliers.end()) {
    throw turn_error{"the kind '" + p_.kind.name + "' does not say what the event " + std::string{name} +
                     " (" + std::string{type} + ") does to its state: add on_event<" + std::string{name} +
                     ">(…)"};
  }
  return found->second;
}

void raw_turn::record_raw(const typed_message& e, const std::function<void()>& apply) {
  const bool was_spoilt = std::exchange(spoilt_, true);
  apply();
  spoilt_ = was_spoilt;
  events_.push_back({e.type, {e.body.begin(), e.body.end()}});
}

}  // namespace posthorn
