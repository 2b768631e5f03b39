// A message's way in: method, content header, body, routing, and the confirm at the end.
#include "gateway/amqp091/connection.hpp"

#include "actors/actor_house.hpp"
#include "mailbox/carbon_copies.hpp"
#include "mailbox/expiration.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>

namespace posthorn::amqp091 {

namespace {

// Publishes that the queues have not settled yet may take this much memory. Beyond it the socket is not read until half
// of it is free again.
constexpr std::size_t in_flight_max = std::size_t{16} << 20;

constexpr std::uint8_t persistent_mode = 2;

// Beyond it, no setting helps: RabbitMQ does not read such a body at all.
constexpr std::uint64_t body_size_most = std::uint64_t{512} << 20;

constexpr std::size_t least_header = 12;

}  // namespace

bool connection::on_publish(channel& c, const method::basic_publish& m) {
  if (!requests_.empty()) {
    stalled_ = true;
    return false;
  }
  if (alarmed_) [[unlikely]] {
    // It waits, and all behind it, until there is room [75].
    if (wants_blocked_ && !std::exchange(blocked_told_, true))
      send(0, method::connection_blocked{blocked_reason_});
    blocked_ = stalled_ = true;
    return false;
  }
  if (m.immediate) {
    return refuse_connection(reply_code::not_implemented, "immediate=true",
                             id_of<method::basic_publish>);  // [23]
  }
  auto& content = c.content;
  content.exchange = m.exchange;
  content.routing_key = m.routing_key;
  content.mandatory = m.mandatory;
  content.expected = content_in_progress::part::header;
  return true;
}

bool connection::on_content_header(channel& c, bytes payload) {
  using part = content_in_progress::part;
  constexpr auto about = id_of<method::basic_publish>;
  auto& content = c.content;
  if (content.expected == part::none) return refuse_content();
  if (content.expected != part::header) {
    return refuse_connection(reply_code::unexpected_frame,
                             "expected content body, got non content body frame instead", about);
  }
  content_header header;
  if (payload.size() < least_header) {
    return refuse_connection(
        reply_code::frame_error,
        "a content header of " + std::to_string(payload.size()) + " octets; it has at least 12", {});
  }
  if (!decode_content_header(payload, header)) {  // its weight is not 0
    return refuse_connection(reply_code::unexpected_frame,
                             "expected content header for class 60, got non content header frame instead",
                             about);
  }
  if (header.class_id != method::basic_publish::class_id) {
    return refuse_connection(reply_code::unexpected_frame,
                             "expected content header for class 60, got one for class " +
                                 std::to_string(header.class_id) + " instead",
                             about);
  }
  if (const auto valid = check_properties(header.properties); !valid) {
    return refuse_connection(reply_code::syntax_error, valid.error().text, about);
  }
  // Nobody who reads the message could go on behind a value of an unknown type [78].
  if (has_headers(header.properties)) {
    if (const auto valid = check_table(headers_of(header.properties)); !valid)
      return refuse_connection(reply_code::syntax_error, valid.error().text, about);
  }
  if (header.body_size > body_size_most) [[unlikely]] {  // [30]
    return refuse_connection(reply_code::frame_error,
                             "content body size " + std::to_string(header.body_size) +
                                 " exceeds maximum allowed size " + std::to_string(body_size_most),
                             about);
  }
  if (header.body_size > server_.settings.message_size_max) {
    return refuse_channel(c.number, reply_code::precondition_failed,
                          "message size " + std::to_string(header.body_size) +
                              " is larger than configured max size " +
                              std::to_string(server_.settings.message_size_max),
                          about);
  }
  std::optional<std::string> wrong;
  if (const auto expiration = expiration_of(header.properties))
    wrong = invalid_expiration(*expiration);  // [29]
  if (const auto user = user_id_of(header.properties);
      !wrong && user && *user != user_ && !(who_ && who_->may_impersonate())) {  // [28], an empty one, too
    wrong = invalid_copies(header.properties);
    if (!wrong) {
      wrong =
          "user_id property set to '" + std::string{*user} + "' but authenticated user was '" + user_ + "'";
    }
  }
  if (wrong) [[unlikely]] {
    // Where it is published to, comes before what it says.
    if (exchange_of_content(c) != nullptr)
      refuse_channel(c.number, reply_code::precondition_failed, *wrong, about);
    return phase_ == phase::running;
  }
  std::string rewritten;
  if (const auto reply_to = reply_to_of(header.properties); reply_to && *reply_to == reply_queue) {  // [35]
    if (!c.replies) {
      if (exchange_of_content(c) == nullptr) return phase_ == phase::running;
      return refuse_channel(c.number, reply_code::precondition_failed, "fast reply consumer does not exist",
                            about);
    }
    rewritten = with_reply_to(header.properties, c.replies->address);
    header.properties = std::as_bytes(std::span{rewritten});
  }
  content.builder =
      envelope_builder{content.exchange, content.routing_key, header.properties,
                       delivery_mode_of(header.properties) == persistent_mode, header.body_size};
  content.expected = part::body;
  if (header.body_size == 0) on_message(c);  // [33]
  return phase_ == phase::running;
}

bool connection::on_body(channel& c, bytes payload) {
  constexpr auto about = id_of<method::basic_publish>;
  auto& content = c.content;
  if (content.expected == content_in_progress::part::none) return refuse_content();
  if (content.expected != content_in_progress::part::body) {
    return refuse_connection(reply_code::unexpected_frame,
                             "expected content header for class 60, got non content header frame instead",
                             about);
  }
  if (payload.size() > content.builder.body_missing()) {
    return refuse_connection(reply_code::frame_error, "content body frame exceeds remaining content size",
                             about);
  }
  content.builder.append_body(payload);
  if (content.builder.body_missing() == 0) on_message(c);
  return phase_ == phase::running;
}

void connection::on_message(channel& c) {
  auto& content = c.content;
  content.expected = content_in_progress::part::none;
  const auto message = content.builder.finish();
  constexpr auto about = id_of<method::basic_publish>;
  const auto* queues = known_route(c, *message);
  if (queues == nullptr) {
    const auto* exchange = exchange_of_content(c);
    if (exchange == nullptr) return;
    if (const auto wrong = invalid_copies(message->properties())) {  // [31]
      refuse_channel(c.number, reply_code::precondition_failed, *wrong, about);
      return;
    }
    if (const auto no = ask_to_publish(*exchange, *message)) {
      refuse(c, about, *no);
      return;
    }
    queues = &find_route(c, *exchange, *message);
  }
  if (c.tx != nullptr) [[unlikely]]
    return hold(c, message, *queues);
  forward(c, message, *queues, c.route.replies, content.mandatory);
}

const exchange_state* connection::exchange_of_content(channel& c) {
  constexpr auto about = id_of<method::basic_publish>;
  const auto& name = c.content.exchange;
  if (const auto no = ask_to_publish(c, name)) {  // [71]
    refuse(c, about, *no);
    return nullptr;
  }
  const auto* exchange = snapshot_->find_exchange(name);
  if (exchange == nullptr) {  // [21]
    refuse_channel(c.number, reply_code::not_found,
                   "no exchange '" + name + "' in vhost '" + vhost_->name() + "'", about);
    return nullptr;
  }
  if (exchange->definition.internal) {  // [22]
    refuse_channel(c.number, reply_code::access_refused,
                   "cannot publish to internal exchange '" + name + "' in vhost '" + vhost_->name() + "'",
                   about);
    return nullptr;
  }
  return exchange;
}

// To its queues, and to those who wait for it as a reply.
void connection::forward(channel& c, const envelope_ptr& message, const std::vector<queue_ptr>& queues,
                         const reply_route& replies, bool mandatory) {
  const auto number = c.published.enter(static_cast<std::uint32_t>(queues.size()), message->footprint());
  if (replies.known) [[unlikely]] {
    for (const auto& consumer : replies.consumers) {
      if (!consumer->deliver_reply(message)) server_.node.context().counters.unroutable->inc();
    }
  }
  if (queues.empty()) {
    if (!replies.known) {
      server_.node.context().counters.unroutable->inc();
      if (mandatory) return_message(c, *message);  // before the confirm: [24]
    }
    confirm(c);
    return;
  }
  worker_.turn.spend(queues.size());
  in_flight_ += message->footprint();
  if (in_flight_ > in_flight_max) in_flight_full_ = true;
  const publisher_id from{(id_.value << 16) | c.incarnation};
  for (const auto& queue : queues) parcel_for(queue).publishes.messages.push_back({message, from, number});
}

const std::vector<queue_ptr>* connection::known_route(const channel& c, const envelope& message) const {
  const auto& known = c.route;
  const bool same = known.version == snapshot_->version() && known.routing_key == message.routing_key() &&
                    known.exchange == message.exchange() && !may_name_copies(message.properties());
  return same ? &known.queues : nullptr;
}

const std::vector<queue_ptr>& connection::find_route(channel& c, const exchange_state& exchange,
                                                     const envelope& message) {
  auto& found = c.route;
  found.queues.clear();
  // Another one for each message, and other ones in other connections.
  const auto chance = (id_.value << 32) + ++routed_;
  std::vector<std::string_view> histories;
  snapshot_->route(exchange, message.routing_key(), message.properties(), found.queues,
                   {.chance = chance, .histories = &histories});
  for (const auto name : histories) passed_.push_back({std::string{name}, envelope_ptr{&message}});
  std::erase_if(found.queues, [](const queue_ptr& queue) { return queue->port == nullptr; });
  found.replies.known = false;
  found.replies.consumers.clear();
  if (exchange.definition.name.empty()) {
    // The default exchange leads to durable actors, too, and to those who wait for replies.
    server_.replies.route(message.routing_key(), message.properties(), found.replies);
    if (found.queues.empty()) {
      if (auto actor = actor_named(message.routing_key())) found.queues.push_back(std::move(actor));
    }
  }
  // It holds for the next message of these names, unless something else may have decided on the way.
  const bool names_decide = exchange.key_decides() && !exchange.leads_to_exchanges &&
                            exchange.alternate.empty() && !found.queues.empty() && !found.replies.known &&
                            !may_name_copies(message.properties());
  // A lookup takes about a microsecond; a comparison with each binding of a headers exchange may take any time.
  const bool compares = exchange.routes_as == exchange_type::headers ||
                        exchange.routes_as == exchange_type::consistent_hash || exchange.delays ||
                        exchange.remembers || exchange.leads_to_exchanges ||
                        may_name_copies(message.properties());
  worker_.turn.spend(compares ? turn_budget::look_every : 16);
  found.version = names_decide ? snapshot_->version() : 0;
  found.exchange = message.exchange();
  found.routing_key = message.routing_key();
  return found.queues;
}

void connection::return_message(channel& c, const envelope& message) {
  const auto visible = without_blind_copies(message.properties());  // [31]
  const auto properties = visible ? std::as_bytes(std::span{*visible}) : message.properties();
  encode_with_content(
      c.number,
      method::basic_return{reply_code::no_route, "NO_ROUTE", message.exchange(), message.routing_key()},
      properties, message.body(), frame_max_, out_);
}

void connection::on_settled(const settled& message) {
  for (const auto& s : message.settlements) {
    const auto found = publishers_.find(static_cast<std::uint16_t>(s.by.value & 0xffff));
    if (found == publishers_.end()) continue;  // its channel is closed, and its bytes were taken off then
    auto& c = *found->second;
    worker_.turn.spend(1 + (s.last - s.first) / 4);
    in_flight_ -= std::min(in_flight_, c.published.settle(s.first, s.last, s.rejected));
    confirm(c);
  }
  if (in_flight_full_ && in_flight_ <= in_flight_max / 2) in_flight_full_ = false;
  if (committing_ != nullptr) [[unlikely]]
    go_on_with_commit();
}

// One confirm for all that can be confirmed, in the order of the publishes: it never covers what is not safe [25].
void connection::confirm(channel& c) {
  if (!c.confirming || c.closing) {
    if (c.tx == nullptr) c.published.drop_rejected();  // a transaction asks at its end
    return;
  }
  const auto answered = c.published.answered();
  if (answered <= c.confirm_base) return;
  const auto confirm_up_to = [&](std::uint64_t tag) {
    if (tag <= c.confirmed) return;
    server_.node.context().counters.confirmed->inc(static_cast<std::int64_t>(tag - c.confirmed));
    send(c.number, method::basic_ack{tag, tag - c.confirmed > 1});
    c.confirmed = tag;
  };
  for (const auto number : c.published.take_rejected()) {
    if (number <= c.confirm_base) continue;
    const auto tag = number - c.confirm_base;
    confirm_up_to(tag - 1);
    send(c.number, method::basic_nack{tag, false, true});  // the last bit says nothing here: as RabbitMQ
    c.confirmed = tag;
  }
  confirm_up_to(answered - c.confirm_base);
}

}  // namespace posthorn::amqp091
