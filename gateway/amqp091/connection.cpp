// The dialogue of a connection: from the first frame to the last, and what goes wrong in between.
#include "gateway/amqp091/connection.hpp"

#include <algorithm>

namespace posthorn::amqp091 {

namespace {

constexpr std::uint32_t frame_min_size = 4096;
// The mechanism of those whose certificate names a user; offered to them only.
constexpr std::string_view external = "EXTERNAL";

reply_code code_of(refusal::kind why) noexcept {
  switch (why) {
    case refusal::kind::not_found: return reply_code::not_found;
    case refusal::kind::access_refused: return reply_code::access_refused;
    case refusal::kind::resource_locked: return reply_code::resource_locked;
    case refusal::kind::precondition_failed: return reply_code::precondition_failed;
    case refusal::kind::command_invalid: return reply_code::command_invalid;
    case refusal::kind::not_allowed: return reply_code::not_allowed;
    case refusal::kind::not_implemented: return reply_code::not_implemented;
    // 506 would close the whole connection, and with it consumers that could make room.
    case refusal::kind::resource_error: return reply_code::precondition_failed;
    case refusal::kind::internal_error: return reply_code::internal_error;
  }
  return reply_code::internal_error;
}

template <class... Methods>
struct one_of {
  template <class Method>
  static constexpr bool contains = (std::is_same_v<Method, Methods> || ...);
};

// Asked of the vhost; queue.declare too, but for a passive one.
using vhost_methods = one_of<method::exchange_declare, method::exchange_delete, method::exchange_bind,
                             method::exchange_unbind, method::queue_bind, method::queue_unbind>;

// See `tell_later`.
constexpr std::chrono::milliseconds refusal_delay{2};

// Whether nothing is sent back for it when all is well.
bool has_no_answer(method_id about) noexcept {
  return about == id_of<method::basic_publish> || about == id_of<method::basic_ack> ||
         about == id_of<method::basic_nack> || about == id_of<method::basic_reject> ||
         about == id_of<method::basic_recover_async>;
}

// Requests of one client that wait for answers. They take about 300 bytes each, here and where they are answered.
constexpr std::size_t requests_max = 4096;

}  // namespace

// --- frames -------------------------------------------------------------------------------------------------------

// False when the connection ends, or with `stalled_` when the frame has to wait.
bool connection::on_frame(const frame& f) {
  if (phase_ == phase::closing) {
    if (f.type == frame_type::method && method_id_of(f.payload) == id_of<method::connection_close_ok>) {
      end("closed", true);
    } else if (f.type == frame_type::method && method_id_of(f.payload) == id_of<method::connection_close>) {
      send(0, method::connection_close_ok{});  // each of them is answered
    }
    return false;
  }
  if (phase_ == phase::login) {  // what comes behind waits for the answer
    stalled_ = true;
    return false;
  }
  if (f.type == frame_type::method) [[likely]]
    return on_method(f.channel, f.payload);
  if (f.type == frame_type::heartbeat) {
    if (f.channel != 0) {
      return refuse_connection(reply_code::unexpected_frame,
                               "heartbeat on channel " + std::to_string(f.channel));
    }
    if (f.payload.empty()) return true;
    return refuse_connection(reply_code::frame_error,
                             "heartbeat with a payload of " + std::to_string(f.payload.size()) + " octets");
  }
  if (phase_ != phase::running) {
    return refuse_connection(reply_code::unexpected_frame, "a content frame before the connection is open");
  }
  auto* c = find_channel(f.channel);
  if (c == nullptr) return refuse_content();
  if (c->closing) return true;
  return f.type == frame_type::header ? on_content_header(*c, f.payload) : on_body(*c, f.payload);
}

bool connection::on_method(std::uint16_t number, bytes payload) {
  using part = content_in_progress::part;
  if (phase_ == phase::running && number != 0) {
    auto* c = find_channel(number);
    if (c != nullptr && !c->closing) {
      if (c->content.expected != part::none) [[unlikely]] {
        const bool header = c->content.expected == part::header;
        return refuse_connection(
            reply_code::unexpected_frame,
            header ? "expected content header for class 60, got non content header frame instead"
                   : "expected content body, got non content body frame instead",
            method_id_of(payload));
      }
      // The message's way, without a variant.
      if (method::basic_publish publish; decode_publish(payload, publish)) return on_publish(*c, publish);
      if (method::basic_ack ack; requests_.empty() && decode_ack(payload, ack)) return on(*c, ack);
    }
  }
  auto decoded = decode_method(payload);
  if (!decoded) {
    const auto& e = decoded.error();
    return refuse_connection(e.code, e.explanation, e.method);
  }
  const auto& m = *decoded;
  if (number == 0) return on_connection_method(m);
  if (phase_ != phase::running) {
    return refuse_connection(reply_code::channel_error, "a channel's method before the connection is open",
                             method_id_of(m));
  }
  if (must_wait(number, m)) {
    stalled_ = true;
    return false;
  }
  return on_channel_method(number, m);
}

// The rule stands at "Order" in the header.
bool connection::must_wait(std::uint16_t number, const any_method& m) const {
  if (requests_.empty()) return false;
  if (requests_.size() >= requests_max) return true;
  return std::visit(
      [&](const auto& typed) {
        using method_type = std::remove_cvref_t<decltype(typed)>;
        if constexpr (vhost_methods::contains<method_type>) {
          return !may_follow(request_kind::of_topology);
        } else if constexpr (std::is_same_v<method_type, method::queue_declare>) {
          if (!typed.passive) return !may_follow(request_kind::of_topology);
          return !may_follow(request_kind::of_queue) || !is_at_hand(number, typed.queue);
        } else if constexpr (std::is_same_v<method_type, method::queue_delete>) {
          return typed.if_unused || typed.if_empty || !may_follow(request_kind::of_queue) ||
                 !is_at_hand(number, typed.queue);
        } else if constexpr (std::is_same_v<method_type, method::queue_purge>) {
          return !may_follow(request_kind::of_queue) || !is_at_hand(number, typed.queue);
        } else {
          return true;
        }
      },
      m);
}

bool connection::may_follow(request_kind kind) const noexcept {
  return requests_of_[static_cast<std::size_t>(kind)] == requests_.size();
}

// --- channel 0 ----------------------------------------------------------------------------------------------------

bool connection::on_connection_method(const any_method& m) {
  if (phase_ == phase::start) {
    if (const auto* ok = std::get_if<method::connection_start_ok>(&m)) {
      on(*ok);
      return phase_ != phase::gone;
    }
  } else if (phase_ == phase::tune) {
    if (const auto* ok = std::get_if<method::connection_tune_ok>(&m)) {
      on(*ok);
      return phase_ != phase::gone;
    }
  } else if (phase_ == phase::open) {
    if (const auto* open = std::get_if<method::connection_open>(&m)) {
      on(*open);
      return phase_ != phase::gone;
    }
  }
  if (const auto* close = std::get_if<method::connection_close>(&m)) {
    if (!requests_.empty()) {
      stalled_ = true;
      return false;
    }
    on(*close);
    return false;
  }
  if (phase_ != phase::running) {
    const auto* state = phase_ == phase::start ? "starting" : phase_ == phase::tune ? "tuning" : "opening";
    return refuse_connection(reply_code::channel_error,
                             std::string{"unexpected method in connection state "} + state, method_id_of(m));
  }
  if (std::holds_alternative<method::connection_update_secret>(m)) {
    // The node knows its users by itself: any secret will do, as with RabbitMQ's internal users [77].
    if (!requests_.empty()) {
      stalled_ = true;
      return false;
    }
    return on_new_secret(method_id_of(m));
  }
  return refuse_connection(reply_code::channel_error, "unexpected method in connection state running",
                           method_id_of(m));
}

void connection::on(const method::connection_start_ok& m) {
  if (const auto properties = decode_table(m.client_properties)) {
    if (const auto* found = properties->find("capabilities")) {
      if (const auto* capabilities = as_table(*found)) {
        const auto has = [&](std::string_view name) {
          const auto* value = capabilities->find(name);
          return value != nullptr && as_bool(*value).value_or(false);
        };
        wants_cancel_notify_ = has("consumer_cancel_notify");
        wants_blocked_ = has("connection.blocked");
        wants_failure_close_ = has("authentication_failure_close");
      }
    }
  } else {
    refuse_connection(reply_code::syntax_error, properties.error().text, id_of<method::connection_start_ok>);
    return;
  }
  log_in(m.mechanism, m.response);
}

void connection::log_in(std::string_view mechanism, std::string_view response) {
  std::string user, password;
  bool understood = false;
  const bool by_certificate = mechanism == external && !transport_.user().empty();
  if (by_certificate) {
    user = transport_.user();
  } else if (mechanism == "PLAIN") {
    // Authorization id, user, password; a zero octet before each of the latter. Nobody acts for somebody else.
    const auto first = response.find('\0');
    const auto second = first == std::string_view::npos ? first : response.find('\0', first + 1);
    if (second != std::string_view::npos) {
      user = response.substr(first + 1, second - first - 1);
      password = response.substr(second + 1);
      understood = first == 0 || response.substr(0, first) == user;
    }
  } else if (mechanism == "AMQPLAIN") {
    if (const auto table = decode_table(std::as_bytes(std::span{response}))) {
      const auto* login = table->find("LOGIN");
      const auto* secret = table->find("PASSWORD");
      if (login != nullptr && secret != nullptr) {
        user = as_string(*login).value_or("");
        password = as_string(*secret).value_or("");
        understood = true;
      }
    }
  } else {
    refuse_connection(reply_code::command_invalid,
                      "unknown authentication mechanism '" + std::string{mechanism.substr(0, 64)} + "'",
                      id_of<method::connection_start_ok>);
    return;
  }
  if (by_certificate || !understood) {
    user_ = std::move(user);
    mechanism_ = mechanism;
    const auto verdict =
        by_certificate ? server_.node.authenticate_certified(user_, from_loopback_) : broker::login::refused;
    return on_login(reply_of(verdict));
  }
  check_login(std::move(user), secret{std::move(password)}, mechanism);
}

void connection::on(const method::connection_tune_ok& m) {
  const auto& offered = server_.settings;
  const auto about = id_of<method::connection_tune_ok>;
  const auto too_high = [&](const char* what, std::uint64_t value, std::uint64_t limit) {
    refuse_connection(reply_code::not_allowed,
                      std::string{"negotiated "} + what + " = " + std::to_string(value) +
                          (value == 0 ? " (no limit)" : "") + " is higher than the maximum allowed value (" +
                          std::to_string(limit) + ")",
                      about);
  };
  // No limit is more than any limit: [72].
  if (offered.channel_max != 0 && (m.channel_max == 0 || m.channel_max > offered.channel_max)) {
    return too_high("channel_max", m.channel_max, offered.channel_max);
  }
  if (offered.frame_max != 0 && (m.frame_max == 0 || m.frame_max > offered.frame_max)) {
    return too_high("frame_max", m.frame_max, offered.frame_max);
  }
  if (m.frame_max != 0 && m.frame_max < frame_min_size) {
    refuse_connection(reply_code::not_allowed,
                      "negotiated frame_max = " + std::to_string(m.frame_max) +
                          " is lower than the minimum allowed value (" + std::to_string(frame_min_size) + ")",
                      about);
    return;
  }
  channel_max_ = m.channel_max;
  frame_max_ = m.frame_max != 0 ? m.frame_max : server_.settings.frame_max;
  heartbeat_ = std::chrono::seconds{m.heartbeat};
  phase_ = phase::open;
}

void connection::on(const method::connection_open& m) {
  vhost_ = enter_vhost(std::string{m.virtual_host}, id_of<method::connection_open>);
  if (!vhost_) return;
  snapshot_ = vhost_->snapshot();
  phase_ = phase::running;
  send(0, method::connection_open_ok{});
  received_since_tick_ = true;
  timer_.cancel();
  if (heartbeat_.count() != 0) arm_timer(heartbeat_ / 2);
  log(node_context::severity::debug, "connection " + peer_ + " opened by user '" + user_ + "'");
}

void connection::on(const method::connection_close&) {
  tell_refusals();
  bool waits = has_exclusive_;
  for (auto& [number, c] : channels_) waits |= leave_auto_delete_queues(*c);
  if (!waits) {
    say_goodbye();
    send(0, method::connection_close_ok{});
    return;
  }
  // Its exclusive queues are gone before the client may know that it is: [6].
  if (has_exclusive_) {
    auto& r = requests_.emplace_back();
    r.token = ++last_token_;
    ++requests_of_[static_cast<std::size_t>(r.kind)];
  }
  requests_.back().about = id_of<method::connection_close>;
  release_everything(requests_.back().token);
  stalled_ = true;
}

// Every channel, every holder, and the exclusive queues. With a token, the vhost answers.
void connection::release_everything(request_token token) {
  for (auto& [number, c] : channels_) release(*c);
  server_.channels.fetch_sub(channels_.size(), std::memory_order_relaxed);
  if (!channels_.empty()) server_.occupants.close_channels(user_, channels_.size());
  channels_.clear();
  send_parcels();
  if (std::exchange(has_exclusive_, false) && vhost_) {
    vhost_->post(release_owner{token != 0 ? self_ : connection_actor{}, token, id_});
  }
}

// --- channels -----------------------------------------------------------------------------------------------------

channel* connection::find_channel(std::uint16_t number) {
  const auto found = channels_.find(number);
  return found == channels_.end() ? nullptr : found->second.get();
}

bool connection::on_channel_method(std::uint16_t number, const any_method& m) {
  auto* c = find_channel(number);
  if (c != nullptr && c->closing) {  // [73]
    if (!untold_.empty() && (std::holds_alternative<method::channel_close>(m) ||
                             std::holds_alternative<method::channel_close_ok>(m))) {
      tell_refusals();
    }
    if (std::holds_alternative<method::channel_close_ok>(m)) {
      channels_.erase(number);
      server_.channels.fetch_sub(1, std::memory_order_relaxed);
      server_.occupants.close_channels(user_, 1);
    } else if (std::holds_alternative<method::channel_close>(m)) {
      send(number, method::channel_close_ok{});
    }
    return true;
  }
  if (std::holds_alternative<method::channel_open>(m)) {
    if (c != nullptr) {
      return refuse_connection(reply_code::channel_error, "second 'channel.open' seen", method_id_of(m));
    }
    if (channel_max_ != 0 && channels_.size() >= channel_max_) {  // whatever their numbers [72]
      return refuse_connection(reply_code::not_allowed, "number of channels opened (" +
                                                            std::to_string(channels_.size()) +
                                                            ") has reached the negotiated channel_max (" +
                                                            std::to_string(channel_max_) + ")");
    }
    if (who_) {
      if (const auto full = server_.occupants.open_channel(*who_)) {  // [70]
        return refuse_connection(reply_code::not_allowed, full->text);
      }
    }
    on_channel_open(number);
    return true;
  }
  if (c == nullptr) {
    if (std::holds_alternative<method::channel_close_ok>(m)) return true;
    return refuse_connection(reply_code::channel_error, "expected 'channel.open'", method_id_of(m));
  }
  return std::visit(
      [&](const auto& typed) {
        using method_type = std::remove_cvref_t<decltype(typed)>;
        if constexpr (requires { typed.arguments; }) {
          if (const auto valid = check_table(typed.arguments); !valid) {
            return refuse_connection(reply_code::syntax_error, valid.error().text, id_of<method_type>);
          }
        }
        if constexpr (std::is_same_v<method_type, method::channel_close>) {
          on_channel_close(*c);
          return true;
        } else if constexpr (requires { on(*c, typed); }) {
          return on(*c, typed);
        } else if constexpr (std::is_same_v<method_type, method::basic_cancel_ok> ||
                             std::is_same_v<method_type, method::channel_flow_ok>) {
          return true;  // [40]
        } else {
          return refuse_connection(reply_code::command_invalid, "unimplemented method", id_of<method_type>);
        }
      },
      m);
}

void connection::on_channel_open(std::uint16_t number) {
  auto made = std::make_unique<channel>();
  made->number = number;
  while (publishers_.contains(++last_incarnation_)) {
  }
  made->incarnation = last_incarnation_;
  publishers_.emplace(made->incarnation, made.get());
  channels_.emplace(number, std::move(made));
  server_.channels.fetch_add(1, std::memory_order_relaxed);
  send(number, method::channel_open_ok{});
}

void connection::on_channel_close(channel& c) {
  const auto number = c.number;
  const bool waits = leave_auto_delete_queues(c);
  release(c);
  channels_.erase(number);
  server_.channels.fetch_sub(1, std::memory_order_relaxed);
  server_.occupants.close_channels(user_, 1);
  if (!waits) return send(number, method::channel_close_ok{});
  requests_.back().about = id_of<method::channel_close>;
  requests_.back().channel = number;
}

// Whoever hears that its last consumer has gone finds an auto-delete queue no more [16]: as after basic.cancel. True: they
// will answer, and what the last request is about, is for the caller to say.
bool connection::leave_auto_delete_queues(channel& c) {
  bool waits = false;
  for (const auto& h : c.holders) {
    if (!h.in_use || !h.consuming || h.takes_replies() || !h.queue->auto_delete) continue;
    auto& r = ask(c, id_of<method::basic_cancel>, true);
    r.channel = 0;  // nobody waits for this one
    port_of(*h.queue).post(cancel_consumer{self_, r.token, h.id});
    waits = true;
  }
  return waits;
}

// What the channel holds goes back at once [51], its consumers end, and nobody waits for its publishes any more.
void connection::release(channel& c) {
  send_parcels();
  if (c.tx != nullptr) drop_transaction(c);
  if (c.replies != nullptr) stop_replies(c);
  std::unordered_map<mailbox_id, std::pair<queue_ptr, release_holders>> by_queue;
  for (auto& h : c.holders) {
    if (!h.in_use || h.takes_replies()) continue;
    auto& entry = by_queue[h.queue->id];
    entry.first = h.queue;
    entry.second.holders.push_back(h.id);
    consumers_.erase(h.id);
  }
  for (auto& [id, entry] : by_queue) port_of(*entry.first).post(std::move(entry.second));
  c.holders.clear();
  c.consumers.clear();
  publishers_.erase(c.incarnation);
  in_flight_ -= std::min(in_flight_, c.published.size());
  c.published = {};
}

// --- refusing -----------------------------------------------------------------------------------------------------

bool connection::refuse(const channel& c, method_id about, const refusal& why) {
  const auto code = code_of(why.why);
  if (closes_connection(code)) return refuse_connection(code, why.text, about);
  return refuse_channel(c.number, code, why.text, about);
}

// True: the connection goes on.
bool connection::refuse_channel(std::uint16_t number, reply_code code, std::string_view why,
                                method_id about) {
  auto* c = find_channel(number);
  if (c == nullptr || c->closing) return true;
  log(node_context::severity::info, "connection " + peer_ + ", channel " + std::to_string(number) +
                                        " closed: " + std::string{reply_name(code)} + " - " +
                                        std::string{why});
  release(*c);
  c->closing = true;
  c->content = {};
  const auto text = reply_text(code, why);
  const method::channel_close refusal{code, text, about.class_, about.method};
  if (has_no_answer(about)) {
    tell_later(number, refusal);
  } else {
    send(number, refusal);
  }
  return true;
}

// Whoever publishes or acknowledges hears of a refusal a moment later. Clients go on to a method that has an answer, and
// expect it to fail; a client that hears of the refusal before it has sent that method fails otherwise, at once. RabbitMQ
// takes a millisecond to refuse, and we took 0.1: with its own client for Java, that test then failed 11 times of 40.
void connection::tell_later(std::uint16_t number, const method::channel_close& refusal) {
  const bool is_armed = !untold_.empty();
  encode(number, refusal, untold_);
  if (is_armed) return;
  const auto timer = std::make_shared<boost::asio::steady_timer>(worker_.io, refusal_delay);
  timer->async_wait([timer, weak = weak_from_this()](const auto&) {
    const auto self = weak.lock();
    if (!self || self->phase_ == phase::gone) return;
    self->tell_refusals();
    self->write_out();
  });
}

void connection::tell_refusals() {
  out_.append(untold_.data(), untold_.size());
  buffer{}.swap(untold_);
}

bool connection::refuse_connection(reply_code code, std::string_view why, method_id about) {
  log(node_context::severity::warning,
      "connection " + peer_ + " closed: " + std::string{reply_name(code)} + " - " + std::string{why});
  close_now(code, why, about);
  return false;
}

bool connection::refuse_content() {
  return refuse_connection(reply_code::unexpected_frame,
                           "expected method frame, got non method frame instead");
}

// --- asking and being answered --------------------------------------------------------------------------------------

connection::request& connection::ask(channel& c, method_id about, bool no_wait, request_kind kind) {
  send_parcels();  // what was published or answered before takes effect before
  auto& r = requests_.emplace_back();
  r.token = ++last_token_;
  r.channel = c.number;
  r.about = about;
  r.no_wait = no_wait;
  r.kind = kind;
  ++requests_of_[static_cast<std::size_t>(kind)];
  worker_.turn.spend(8);
  return r;
}

bool connection::ask_vhost(channel& c, method_id about, bool no_wait,
                           decltype(topology_request::command) command) {
  auto& r = ask(c, about, no_wait, request_kind::of_topology);
  if (const auto* declare = std::get_if<posthorn::declare_queue>(&command)) r.name = declare->name;
  vhost_->post(topology_request{self_, r.token, std::move(command)});
  return true;
}

void connection::on_reply(reply& message) {
  if (phase_ == phase::login) [[unlikely]]
    return on_login(message);
  if (committing_ != nullptr) [[unlikely]] {
    // Each queue that had answers of the transaction says that they are written.
    if (message.token != last_token_) return;
    committing_->tx->on_written();
    return go_on_with_commit();
  }
  if (requests_.empty()) return;
  const auto index = message.token - requests_.front().token;
  if (index >= requests_.size()) return;
  auto& r = requests_[index];
  if (const auto* declared = std::get_if<queue_declared>(&message.what);
      declared != nullptr && !declared->created && declared->queue != nullptr && !r.no_wait) {
    // It was there before: how many messages and consumers it has, only it knows.
    port_of(*declared->queue).post(inspect_queue{self_, r.token});
    return;
  }
  if (r.deletes != mailbox_id{}) deleting_.erase(r.deletes);
  r.answered = std::move(message);
  while (!requests_.empty() && requests_.front().answered) {
    auto& first = requests_.front();
    auto answered = std::move(*first.answered);
    first.answered.reset();
    if (phase_ == phase::gone) return;
    answer(first, answered);
    --requests_of_[static_cast<std::size_t>(first.kind)];
    requests_.pop_front();
  }
}

connection::parcel& connection::parcel_for(const queue_ptr& queue) {
  if (parcel_count_ != 0 && parcels_[parcel_count_ - 1].queue->id == queue->id)
    return parcels_[parcel_count_ - 1];
  const auto [found, added] = parcel_index_.try_emplace(queue->id, parcel_count_);
  if (!added) return parcels_[found->second];
  if (parcel_count_ == parcels_.size()) parcels_.emplace_back();
  auto& p = parcels_[parcel_count_++];
  p.queue = queue;
  return p;
}

void connection::send_parcels() {
  if (!passed_.empty()) [[unlikely]]
    vhost_->post(remember{std::exchange(passed_, {})});
  if (parcel_count_ == 0) return;
  for (std::size_t i = 0; i < parcel_count_; ++i) {
    auto& p = parcels_[i];
    auto& queue = port_of(*p.queue);
    if (!p.publishes.messages.empty()) {
      p.publishes.from = self_;
      p.publishes.by = id_;
      queue.post(std::exchange(p.publishes, {}));
    }
    if (!p.answers.answers.empty() || !p.answers.grants.empty()) queue.post(std::exchange(p.answers, {}));
    p.queue.reset();
  }
  parcel_count_ = turns_gathered_ = 0;
  parcel_index_.clear();
}

}  // namespace posthorn::amqp091
