// Who a connection's client is, and what it may do: the login's answer, the virtual host, permissions.
#include "gateway/amqp091/connection.hpp"

#include "access/permissions.hpp"
#include "mailbox/carbon_copies.hpp"

#include <utility>

namespace posthorn::amqp091 {

namespace {

// How long a failed login without `authentication_failure_close` keeps its socket: [69].
constexpr auto failed_login_delay = std::chrono::seconds{3};

constexpr request_token no_request = 0;

}  // namespace

// The answer to a login comes as a reply without a request: from the thread of the passwords, it finds this connection as
// any other answer does.
reply connection::reply_of(broker::login verdict) {
  switch (verdict) {
    case broker::login::accepted: return {no_request, done{}};
    case broker::login::loopback_only:
      return {no_request, refusal{refusal::kind::access_refused, ", who may come in from this machine only"}};
    case broker::login::overloaded:
      return {no_request, refusal{refusal::kind::access_refused, ": too many passwords wait to be checked"}};
    case broker::login::refused: break;
  }
  return {no_request, refusal{refusal::kind::access_refused, ""}};
}

void connection::check_login(std::string user, secret password, std::string_view mechanism) {
  user_ = std::move(user);
  mechanism_ = mechanism;
  phase_ = phase::login;
  server_.node.authenticate(user_, std::move(password), from_loopback_,
                            [to = self_](broker::login verdict) { caf::anon_send(to, reply_of(verdict)); });
}

void connection::on_login(const reply& message) {
  if (std::holds_alternative<done>(message.what)) {
    phase_ = phase::tune;
    send(0, method::connection_tune{server_.settings.channel_max, server_.settings.frame_max,
                                    static_cast<std::uint16_t>(server_.settings.heartbeat.count())});
    return;
  }
  const auto* why = std::get_if<refusal>(&message.what);
  log(node_context::severity::warning, "connection " + peer_ + ": login refused for user '" +
                                           user_.substr(0, 64) + "'" + (why != nullptr ? why->text : ""));
  if (wants_failure_close_) {  // [69]
    const auto refused = login_refused(mechanism_);
    refuse_connection(reply_code::access_refused, refused.text);
    return;
  }
  phase_ = phase::closing;
  arm_timer(failed_login_delay);
}

// Null when it may not, and then the connection is being closed [70].
std::shared_ptr<vhost_port> connection::enter_vhost(const std::string& name, method_id about) {
  const auto access = server_.node.access();
  const auto entry = access->find_vhost(name);
  auto vhost = server_.node.find_vhost(name);
  const auto refuse_with = [&](const refusal& why) {
    refuse_connection(reply_code::not_allowed, why.text, about);
    return nullptr;
  };
  if (!vhost || !entry || entry->closing) return refuse_with(no_vhost(name));
  auto who = access->users().find(user_);
  auto permissions = access->users().permissions(user_, name);
  if (!who || !permissions->may_open()) return refuse_with(vhost_refused(name, user_));
  if (const auto full = server_.occupants.enter(name, entry->what.limits, *who)) return refuse_with(*full);
  has_entered_ = true;
  who_ = std::move(who);
  access_.emplace(std::move(permissions));
  access_version_ = access->version();
  return vhost;
}

void connection::leave_vhost() {
  if (!std::exchange(has_entered_, false)) return;
  server_.occupants.leave(vhost_->name(), user_);
}

// Whatever was looked up with permissions that are no longer the same is looked up again.
void connection::look_at_permissions() {
  const auto access = server_.node.access();
  access_version_ = access->version();
  who_ = access->users().find(user_);
  access_.emplace(access->users().permissions(user_, vhost_->name()));
  for (auto& [number, c] : channels_) {
    c->may_publish_to.reset();
    c->route.version = 0;
  }
}

void connection::evict(const broker::eviction& who) {
  if (phase_ != phase::running || (who.vhost && *who.vhost != vhost_->name()) ||
      (who.user && *who.user != user_)) {
    return;
  }
  caf::anon_send(self_, close_connection{who.reason});
}

// False, as the caller's answer: the channel is being closed, or the input waits, because requests that came before are
// answered before.
bool connection::refuse_access(channel& c, method_id about, const refusal& why) {
  if (!requests_.empty()) {
    stalled_ = true;
    return false;
  }
  return refuse(c, about, why);
}

std::optional<refusal> connection::ask_to_bind(resource_kind kind, const std::string& destination,
                                               const std::string& source, std::string_view key) const {
  if (auto no = access_->bind_destination(kind, destination)) return no;
  if (source.empty()) return std::nullopt;  // refused by the topology
  if (auto no = access_->bind_source(source)) return no;
  const auto* exchange = snapshot_->find_exchange(source);
  if (exchange == nullptr || exchange->definition.type != exchange_type::topic) return std::nullopt;
  return access_->bind_topic(source, key);
}

std::optional<refusal> connection::ask_to_declare(const posthorn::declare_queue& command) const {
  if (auto no = access_->declare_queue(command.name)) return no;
  if (command.arguments.empty() || snapshot_->find_queue(command.name) != nullptr) return std::nullopt;
  const auto arguments = decode_table(std::as_bytes(std::span{command.arguments}));
  const auto* to = arguments ? arguments->find("x-dead-letter-exchange") : nullptr;
  const auto exchange = to != nullptr ? as_string(*to) : std::nullopt;
  return exchange ? access_->dead_letter(command.name, *exchange) : std::nullopt;
}

std::optional<refusal> connection::ask_to_declare(const declare_exchange& command) const {
  if (command.name.empty()) return std::nullopt;  // refused by the topology
  if (command.passive) return access_->find_exchange(command.name);
  if (auto no = access_->declare_exchange(command.name)) return no;
  if (command.arguments.empty() || snapshot_->find_exchange(command.name) != nullptr) return std::nullopt;
  const auto arguments = decode_table(std::as_bytes(std::span{command.arguments}));
  const auto* to = arguments ? arguments->find("alternate-exchange") : nullptr;
  const auto alternate = to != nullptr ? as_string(*to) : std::nullopt;
  return alternate ? access_->alternate(command.name, *alternate) : std::nullopt;
}

// One after the other for the same exchange, it costs a comparison.
std::optional<refusal> connection::ask_to_publish(channel& c, const std::string& exchange) const {
  if (c.may_publish_to && *c.may_publish_to == exchange) return std::nullopt;
  if (auto no = access_->publish(exchange)) return no;
  c.may_publish_to = exchange;
  return std::nullopt;
}

// Of each of its routing keys.
std::optional<refusal> connection::ask_to_publish(const exchange_state& exchange,
                                                  const envelope& message) const {
  const auto& name = exchange.definition.name;
  if (exchange.definition.type != exchange_type::topic || !access_->permissions().has_topics(name)) {
    return std::nullopt;
  }
  if (auto no = access_->publish_topic(name, message.routing_key())) return no;
  for (const auto& key : copy_keys(message.properties())) {
    if (auto no = access_->publish_topic(name, key)) return no;
  }
  return std::nullopt;
}

// As RabbitMQ does when a secret is new: consumers of queues that may not be read any more are cancelled [77].
bool connection::on_new_secret(method_id about) {
  look_at_permissions();
  if (!who_ || !access_->permissions().may_open()) {
    // Not the method's own number: it stands where a vhost is opened, as in RabbitMQ.
    return refuse_connection(reply_code::not_allowed, vhost_refused(vhost_->name(), user_).text, about);
  }
  send_parcels();
  for (auto& [number, c] : channels_) {
    if (c->closing) continue;
    for (auto& h : c->holders) {
      if (!h.in_use || !h.consuming || h.takes_replies() || !access_->read_queue(h.queue->name)) continue;
      port_of(*h.queue).post(posthorn::cancel_consumer{self_, no_request, h.id});
      h.consuming = false;
      c->consumers.erase(h.tag);
      if (wants_cancel_notify_) send(c->number, method::basic_cancel{h.tag, true});
    }
  }
  send(0, method::connection_update_secret_ok{});
  return true;
}

}  // namespace posthorn::amqp091
