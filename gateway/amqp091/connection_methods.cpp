// The methods of an open channel but for basic.publish, and how their answers and the deliveries leave.
#include "gateway/amqp091/connection.hpp"

#include "actors/actor_house.hpp"
#include "mailbox/consumer_arguments.hpp"
#include "mailbox/delivered_properties.hpp"
#include "mailbox/properties.hpp"
#include "mailbox/stream_arguments.hpp"

#include <algorithm>
#include <random>

namespace posthorn::amqp091 {

namespace {

// Bytes that may be on their way to one consumer; less when a connection has many.
constexpr std::int64_t window_max = std::int64_t{1} << 20;
constexpr std::int64_t window_min = std::int64_t{32} << 10;
constexpr std::int64_t window_all = std::int64_t{8} << 20;

std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// CR and LF are stripped from names: [9].
std::string clean(std::string_view name) {
  std::string out{name};
  std::erase_if(out, [](char c) { return c == '\r' || c == '\n'; });
  return out;
}

// A name that nobody has: 128 random bits in 22 characters.
std::string generated(std::string_view prefix) {
  static constexpr char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string out{prefix};
  for (int i = 0; i < 22; ++i) out += letters[random() & 63];
  return out;
}

// The properties as the client sees them; what is not as it came is put into `changed`. [31] [48]
std::span<const std::byte> shown(const channel_holder& holder, const delivery& d,
                                 std::optional<std::string>& changed) {
  const auto properties = d.message->properties();
  const bool counts = d.returns != 0 && holder.counts;
  if (!has_headers(properties) && !counts && !holder.tells_offsets) [[likely]]
    return properties;
  changed = holder.tells_offsets
                ? with_stream_offset(properties, offset_of(d.at))
                : delivered_properties(properties, counts ? d.returns : std::uint16_t{0}, d.attempts);
  return changed ? std::as_bytes(std::span{*changed}) : properties;
}

std::uint32_t as_count(std::uint64_t count) noexcept {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(count, UINT32_MAX));
}

}  // namespace

// An empty name is the queue that the channel declared last: [8].
std::optional<std::string> connection::name_for(channel& c, std::string_view name, method_id about) {
  auto out = name.empty() ? c.last_queue : clean(name);
  if (!out.empty()) return out;
  refuse_channel(c.number, reply_code::not_found, "no previously declared queue", about);
  return std::nullopt;
}

std::optional<queue_ptr> connection::queue_for(channel& c, std::string_view name, method_id about) {
  const auto full = name_for(c, name, about);
  if (!full) return std::nullopt;
  auto access = snapshot_->access_queue(*full, id_);
  if (std::holds_alternative<refusal>(access) && snapshot_->find_queue(*full) == nullptr) {
    if (auto actor = actor_named(*full)) return actor;
  }
  if (auto* refused = std::get_if<refusal>(&access)) {
    refuse(c, about, *refused);
    return std::nullopt;
  }
  return std::move(std::get<queue_ptr>(access));
}

// Whether the queue is there, this client may use it, and no request that is on its way deletes it.
bool connection::is_at_hand(std::uint16_t number, std::string_view queue) const {
  const auto c = channels_.find(number);
  if (c == channels_.end() || c->second->closing) return false;
  const auto access = snapshot_->access_queue(queue.empty() ? c->second->last_queue : clean(queue), id_);
  const auto* found = std::get_if<queue_ptr>(&access);
  return found != nullptr && !(*found)->of_actor && !deleting_.contains((*found)->id);
}

bool connection::knows_actor(std::string_view name) const {
  auto& node = server_.node.context();
  return node.actors_vhost.lock() == vhost_ && node.house->knows(name);
}

queue_ptr connection::actor_named(std::string_view name) const {
  auto& node = server_.node.context();
  if (node.actors_vhost.lock() != vhost_) return nullptr;
  auto port = node.house->find(name);
  if (!port) return nullptr;
  auto mailbox = std::make_shared<queue_definition>();
  mailbox->id = port->id;
  mailbox->name = name;
  mailbox->durable = mailbox->of_actor = true;
  mailbox->port = std::move(port);
  return mailbox;
}

// --- exchanges ----------------------------------------------------------------------------------------------------

bool connection::on(channel& c, const method::exchange_declare& m) {
  constexpr auto about = id_of<method::exchange_declare>;
  declare_exchange command{clean(m.exchange), std::string{m.type}, m.passive,           m.durable,
                           m.auto_delete,     m.internal,          as_text(m.arguments)};
  if (const auto no = ask_to_declare(command)) return refuse_access(c, about, *no);
  return ask_vhost(c, about, m.no_wait, std::move(command));
}

bool connection::on(channel& c, const method::exchange_delete& m) {
  constexpr auto about = id_of<method::exchange_delete>;
  delete_exchange command{clean(m.exchange), m.if_unused};
  if (!command.name.empty()) {  // the default exchange is refused by the topology
    if (const auto no = access_->delete_exchange(command.name)) return refuse_access(c, about, *no);
  }
  return ask_vhost(c, about, m.no_wait, std::move(command));
}

bool connection::on(channel& c, const method::exchange_bind& m) {
  if (const auto no =
          ask_to_bind(resource_kind::exchange, clean(m.destination), clean(m.source), m.routing_key)) {
    return refuse_access(c, id_of<method::exchange_bind>, *no);
  }
  return ask_vhost(c, id_of<method::exchange_bind>, m.no_wait,
                   bind{{},
                        destination_kind::exchange,
                        clean(m.source),
                        clean(m.destination),
                        std::string{m.routing_key},
                        as_text(m.arguments),
                        id_});
}

bool connection::on(channel& c, const method::exchange_unbind& m) {
  if (const auto no =
          ask_to_bind(resource_kind::exchange, clean(m.destination), clean(m.source), m.routing_key)) {
    return refuse_access(c, id_of<method::exchange_unbind>, *no);
  }
  return ask_vhost(c, id_of<method::exchange_unbind>, m.no_wait,
                   unbind{destination_kind::exchange, clean(m.source), clean(m.destination),
                          std::string{m.routing_key}, as_text(m.arguments), id_});
}

// --- queues -------------------------------------------------------------------------------------------------------

bool connection::on(channel& c, const method::queue_declare& m) {
  constexpr auto about = id_of<method::queue_declare>;
  if (m.queue == reply_queue || (is_reply_address(m.queue) && server_.replies.find(m.queue)))
    return answer_for_reply_address(c, m);
  const auto name = clean(m.queue);
  if (m.passive) {  // [7]
    if (const auto no = access_->find_queue(name)) return refuse_access(c, about, *no);
    if (name.empty()) {  // not the last one here [8]
      return refuse_channel(c.number, reply_code::not_found, "no queue '' in vhost '" + vhost_->name() + "'",
                            about);
    }
    const auto queue = queue_for(c, name, about);
    if (!queue) return phase_ == phase::running;
    c.last_queue = (*queue)->name;
    auto& r = ask(c, about, m.no_wait, request_kind::of_queue);
    r.name = (*queue)->name;
    port_of(**queue).post(inspect_queue{self_, r.token});
    return true;
  }
  const bool server_named = name.empty();
  posthorn::declare_queue command;
  command.name = server_named ? generated("amq.gen-") : name;
  command.durable = m.durable;
  command.exclusive = m.exclusive;
  command.auto_delete = m.auto_delete;
  command.server_named = server_named;
  command.arguments = as_text(m.arguments);
  command.by = id_;
  if (const auto no = ask_to_declare(command)) return refuse_access(c, about, *no);
  c.last_queue = command.name;
  if (m.exclusive) has_exclusive_ = true;
  return ask_vhost(c, about, m.no_wait, std::move(command));
}

bool connection::on(channel& c, const method::queue_bind& m) {
  constexpr auto about = id_of<method::queue_bind>;
  auto queue = name_for(c, m.queue, about);
  if (!queue) return phase_ == phase::running;
  const bool by_name = m.queue.empty() && m.routing_key.empty();  // [8]
  auto key = by_name ? *queue : std::string{m.routing_key};
  if (const auto no = ask_to_bind(resource_kind::queue, *queue, clean(m.exchange), key)) {
    return refuse_access(c, about, *no);
  }
  return ask_vhost(c, about, m.no_wait,
                   bind{{},
                        destination_kind::queue,
                        clean(m.exchange),
                        std::move(*queue),
                        std::move(key),
                        as_text(m.arguments),
                        id_});
}

bool connection::on(channel& c, const method::queue_unbind& m) {
  constexpr auto about = id_of<method::queue_unbind>;
  auto queue = name_for(c, m.queue, about);
  if (!queue) return phase_ == phase::running;
  const bool by_name = m.queue.empty() && m.routing_key.empty();
  auto key = by_name ? *queue : std::string{m.routing_key};
  if (const auto no = ask_to_bind(resource_kind::queue, *queue, clean(m.exchange), key)) {
    return refuse_access(c, about, *no);
  }
  return ask_vhost(c, about, false,
                   unbind{destination_kind::queue, clean(m.exchange), std::move(*queue), std::move(key),
                          as_text(m.arguments), id_});
}

bool connection::on(channel& c, const method::queue_purge& m) {
  constexpr auto about = id_of<method::queue_purge>;
  const auto name = name_for(c, m.queue, about);
  if (!name) return phase_ == phase::running;
  if (const auto no = access_->purge_queue(*name)) return refuse_access(c, about, *no);
  const auto queue = queue_for(c, *name, about);
  if (!queue) return phase_ == phase::running;
  const auto& r = ask(c, about, m.no_wait, request_kind::of_queue);
  port_of(**queue).post(purge_queue{self_, r.token});
  return true;
}

bool connection::on(channel& c, const method::queue_delete& m) {
  constexpr auto about = id_of<method::queue_delete>;
  const auto name = name_for(c, m.queue, about);
  if (!name) return phase_ == phase::running;
  if (const auto no = access_->delete_queue(*name)) return refuse_access(c, about, *no);
  if (snapshot_->find_queue(*name) == nullptr && !knows_actor(*name)) {  // a success: [13]
    if (!m.no_wait) send(c.number, method::queue_delete_ok{0});
    return true;
  }
  const auto queue = queue_for(c, *name, about);
  if (!queue) return phase_ == phase::running;
  const bool has_condition = m.if_unused || m.if_empty;
  auto& r = ask(c, about, m.no_wait, has_condition ? request_kind::alone : request_kind::of_queue);
  r.deletes = (*queue)->id;
  deleting_.insert(r.deletes);
  port_of(**queue).post(posthorn::delete_queue{self_, r.token, m.if_unused, m.if_empty});
  return true;
}

// --- consumers ----------------------------------------------------------------------------------------------------

bool connection::on(channel& c, const method::basic_qos& m) {
  if (m.prefetch_size != 0) {  // [44]
    return refuse_connection(reply_code::not_implemented,
                             "prefetch_size!=0 (" + std::to_string(m.prefetch_size) + ")",
                             id_of<method::basic_qos>);
  }
  c.prefetch = m.prefetch_count;  // of consumers that come later, whether global or not: [44]
  send(c.number, method::basic_qos_ok{});
  return true;
}

bool connection::on(channel& c, const method::basic_consume& m) {
  constexpr auto about = id_of<method::basic_consume>;
  if (m.queue == reply_queue) {
    return consume_replies(c, m,
                           m.consumer_tag.empty() ? generated("amq.ctag-") : std::string{m.consumer_tag});
  }
  const auto name = name_for(c, m.queue, about);
  if (!name) return phase_ == phase::running;
  if (const auto no = access_->read_queue(*name)) return refuse_access(c, about, *no);
  const auto queue = queue_for(c, *name, about);
  if (!queue) return phase_ == phase::running;
  const auto arguments = decode_table(m.arguments);
  if (!arguments) return refuse_connection(reply_code::syntax_error, arguments.error().text, about);
  const auto& port = port_of(**queue);
  const auto* type = port.stream ? "stream" : port.is_quorum ? "quorum" : "classic";
  if (const auto wrong = check_consumer_of_type(*arguments, type, port.described)) {
    return refuse_channel(c.number, reply_code::precondition_failed, *wrong, about);
  }
  if (const auto wrong = check_consumer_arguments(*arguments, port.described)) {
    return refuse_channel(c.number, reply_code::precondition_failed, *wrong, about);
  }
  if (port.stream) {
    if (const auto no = check_stream_reader(*arguments, c.prefetch, !m.no_ack, port.described))
      return refuse(c, about, *no);
  }
  auto tag = m.consumer_tag.empty() ? generated("amq.ctag-") : std::string{m.consumer_tag};
  if (c.consumers.contains(tag)) {
    return refuse_connection(reply_code::not_allowed, "attempt to reuse consumer tag '" + tag + "'",
                             about);  // [37]
  }
  if (const auto limit = server_.settings.consumer_max; limit != 0 && c.consumers.size() >= limit) {
    return refuse_connection(reply_code::not_allowed,
                             "reached maximum (" + std::to_string(limit) + ") of consumers per channel",
                             about);
  }
  const auto index = c.add_holder();
  auto& holder = c.holders[index];
  holder.id = node_context::next_id<consumer_id>(server_.node.context().last_consumer);
  holder.tag = tag;
  holder.queue = *queue;
  holder.no_ack = m.no_ack;
  holder.counts = port.is_quorum;
  holder.tells_offsets = port.stream != nullptr;
  holder.consuming = true;
  holder.window =
      std::clamp(window_all / static_cast<std::int64_t>(consumers_.size() + 1), window_min, window_max);
  c.consumers.emplace(tag, index);
  consumers_.emplace(holder.id, consumer_place{&c, index});
  auto& r = ask(c, about, m.no_wait);
  r.name = std::move(tag);
  r.holder = index;
  consumer_spec spec;
  spec.id = holder.id;
  spec.prefetch = m.no_ack ? 0 : c.prefetch;
  spec.acknowledges = !m.no_ack;
  spec.credit = holder.window;
  const auto wishes = wishes_of(*arguments);
  spec.priority = wishes.priority;
  spec.weight = wishes.weight;
  spec.timeout = wishes.timeout;
  posthorn::consume wanted{self_, id_, r.token, spec, m.exclusive};
  if (port.stream) {
    const auto now = server_.node.context().now();
    wanted.reading = std::make_shared<const stream_reading>(
        stream_reading{stream_start_of(*arguments, now), stream_filter_of(*arguments)});
  }
  port_of(**queue).post(std::move(wanted));
  return true;
}

bool connection::on(channel& c, const method::basic_cancel& m) {
  const auto found = c.consumers.find(std::string{m.consumer_tag});
  if (found == c.consumers.end()) {  // a success: [39]
    if (!m.no_wait) send(c.number, method::basic_cancel_ok{m.consumer_tag});
    return true;
  }
  if (c.holders[found->second].takes_replies()) {
    stop_replies(c);
    if (!m.no_wait) send(c.number, method::basic_cancel_ok{m.consumer_tag});
    return true;
  }
  auto& r = ask(c, id_of<method::basic_cancel>, m.no_wait);
  r.name = found->first;
  r.holder = found->second;
  const auto& holder = c.holders[found->second];
  port_of(*holder.queue).post(posthorn::cancel_consumer{self_, r.token, holder.id});
  return true;
}

bool connection::on(channel& c, const method::basic_get& m) {
  constexpr auto about = id_of<method::basic_get>;
  const auto name = name_for(c, m.queue, about);
  if (!name) return phase_ == phase::running;
  if (const auto no = access_->read_queue(*name)) return refuse_access(c, about, *no);
  const auto queue = queue_for(c, *name, about);
  if (!queue) return phase_ == phase::running;
  // All that the channel fetches from one queue has one holder.
  std::uint32_t index = 0;
  for (; index < c.holders.size(); ++index) {
    const auto& h = c.holders[index];
    if (h.in_use && h.tag.empty() && h.queue->id == (*queue)->id) break;
  }
  if (index == c.holders.size()) {
    index = c.add_holder();
    auto& made = c.holders[index];
    made.id = node_context::next_id<consumer_id>(server_.node.context().last_consumer);
    made.queue = *queue;
    made.counts = port_of(**queue).is_quorum;
    consumers_.emplace(made.id, consumer_place{&c, index});
  }
  auto& r = ask(c, about, false);
  r.holder = index;
  r.no_wait = m.no_ack;  // no answer to the delivery is awaited
  port_of(**queue).post(fetch_message{self_, id_, r.token, c.holders[index].id, !m.no_ack});
  return true;
}

void connection::drop_holder_if_idle(channel& c, std::uint32_t index) {
  auto& h = c.holders[index];
  if (!h.in_use || h.consuming || h.held_count != 0) return;
  consumers_.erase(h.id);
  h = {};
}

// --- answers of the client ----------------------------------------------------------------------------------------

// Into the parcel for its queue.
void connection::enter_answer(channel& c, const delivery_ledger::entry& e, outcome how) {
  auto& holder = c.holders[e.holder];
  --holder.held_count;
  auto& answers = parcel_for(holder.queue).answers.answers;
  if (answers.empty() || answers.back().holder != holder.id || answers.back().how != how) {
    answers.push_back({holder.id, how, {}});
  }
  auto& which = answers.back().which;
  if (!which.empty() && which.back().last.value + 1 == e.at.value) {
    which.back().last = e.at;
  } else {
    which.push_back({e.at, e.at});
  }
  drop_holder_if_idle(c, e.holder);
}

bool connection::answer_deliveries(channel& c, std::uint64_t tag, bool multiple, outcome how,
                                   method_id about) {
  if (c.tx != nullptr) [[unlikely]]
    return hold_answer(c, tag, multiple, how, about);
  if (multiple && comes_back(how)) [[unlikely]]
    return give_back_deliveries(c, tag, how, about);
  std::int64_t count = 0;
  const bool known = c.delivered.answer(tag, multiple, [&](const delivery_ledger::entry& e) {
    ++count;
    enter_answer(c, e, how);
  });
  if (!known) {
    return refuse_channel(c.number, reply_code::precondition_failed,
                          "unknown delivery tag " + std::to_string(tag),
                          about);  // [41]
  }
  worker_.turn.spend(static_cast<std::size_t>(count) / 4);
  if (!comes_back(how)) server_.node.context().counters.acknowledged->inc(count);
  return true;
}

// One consumer's after another's, in the order of their tags, as RabbitMQ does it; each one's in the order in which they
// were delivered.
bool connection::give_back_deliveries(channel& c, std::uint64_t tag, outcome how, method_id about) {
  std::vector<delivery_ledger::entry> back;
  const bool known =
      c.delivered.answer(tag, true, [&](const delivery_ledger::entry& e) { back.push_back(e); });
  if (!known) {
    return refuse_channel(c.number, reply_code::precondition_failed,
                          "unknown delivery tag " + std::to_string(tag),
                          about);  // [41]
  }
  const auto tag_of = [&](const delivery_ledger::entry& e) -> const std::string& {
    return c.holders[e.holder].tag;
  };
  std::stable_sort(back.begin(), back.end(),
                   [&](const auto& a, const auto& b) { return tag_of(a) < tag_of(b); });
  for (const auto& e : back) enter_answer(c, e, how);
  worker_.turn.spend(back.size());
  return true;
}

bool connection::on(channel& c, const method::basic_ack& m) {
  return answer_deliveries(c, m.delivery_tag, m.multiple, outcome::acknowledged, id_of<method::basic_ack>);
}

bool connection::on(channel& c, const method::basic_nack& m) {
  return answer_deliveries(c, m.delivery_tag, m.multiple, m.requeue ? outcome::released : outcome::discarded,
                           id_of<method::basic_nack>);
}

bool connection::on(channel& c, const method::basic_reject& m) {
  return answer_deliveries(c, m.delivery_tag, false, m.requeue ? outcome::returned : outcome::rejected,
                           id_of<method::basic_reject>);
}

bool connection::recover(channel& c, bool requeue, method_id about) {
  if (!requeue) return refuse_connection(reply_code::not_implemented, "requeue=false", about);  // [45]
  // A transaction does not wait for it, nor what it holds for this.
  return give_back_deliveries(c, 0, outcome::released, about);
}

bool connection::on(channel& c, const method::basic_recover& m) {
  if (!recover(c, m.requeue, id_of<method::basic_recover>)) return false;
  send(c.number, method::basic_recover_ok{});
  return true;
}

bool connection::on(channel& c, const method::basic_recover_async& m) {
  return recover(c, m.requeue, id_of<method::basic_recover_async>);
}

// --- the rest -----------------------------------------------------------------------------------------------------

bool connection::on(channel& c, const method::confirm_select& m) {
  if (c.tx != nullptr) {
    return refuse_channel(c.number, reply_code::precondition_failed, "cannot switch from tx to confirm mode",
                          id_of<method::confirm_select>);
  }
  if (!c.confirming) {
    c.confirming = true;
    c.confirm_base = c.published.last();
  }
  if (!m.no_wait) send(c.number, method::confirm_select_ok{});
  return true;
}

bool connection::on(channel& c, const method::channel_flow& m) {
  if (!m.active)
    return refuse_connection(reply_code::not_implemented, "active=false", id_of<method::channel_flow>);
  send(c.number, method::channel_flow_ok{true});
  return true;
}

bool connection::on(channel& c, const method::access_request&) {
  send(c.number, method::access_request_ok{1});  // [23]
  return true;
}

// --- what queues and the vhost answer -----------------------------------------------------------------------------

void connection::answer(const request& r, reply& message) {
  if (r.about == id_of<method::connection_close>) {
    say_goodbye();  // the input stands at the close still: read again, it is answered
    return;
  }
  if (r.about == id_of<method::channel_close>) return send(r.channel, method::channel_close_ok{});
  auto* c = find_channel(r.channel);
  if (c == nullptr || c->closing) return;
  if (auto* refused = std::get_if<refusal>(&message.what)) {
    if (r.about == id_of<method::basic_consume>) {
      auto& holder = c->holders[r.holder];
      holder.consuming = false;
      c->consumers.erase(r.name);
      drop_holder_if_idle(*c, r.holder);
    }
    refuse(*c, r.about, *refused);
    return;
  }
  const auto answer_with = [&](const auto& ok) {
    if (!r.no_wait) send(r.channel, ok);
  };
  switch (packed(r.about)) {
    case packed(id_of<method::exchange_declare>): return answer_with(method::exchange_declare_ok{});
    case packed(id_of<method::exchange_delete>): return answer_with(method::exchange_delete_ok{});
    case packed(id_of<method::exchange_bind>): return answer_with(method::exchange_bind_ok{});
    case packed(id_of<method::exchange_unbind>): return answer_with(method::exchange_unbind_ok{});
    case packed(id_of<method::queue_bind>): return answer_with(method::queue_bind_ok{});
    case packed(id_of<method::queue_unbind>): return answer_with(method::queue_unbind_ok{});
    case packed(id_of<method::queue_declare>): {
      queue_counts counts;  // of a queue that was not there before: none
      if (const auto* told = std::get_if<queue_counts>(&message.what)) counts = *told;
      return answer_with(
          method::queue_declare_ok{r.name, as_count(counts.ready), as_count(counts.consumers)});
    }
    case packed(id_of<method::queue_purge>):
      return answer_with(method::queue_purge_ok{as_count(std::get<messages_removed>(message.what).count)});
    case packed(id_of<method::queue_delete>):
      return answer_with(method::queue_delete_ok{as_count(std::get<messages_removed>(message.what).count)});
    case packed(id_of<method::basic_consume>): return answer_with(method::basic_consume_ok{r.name});
    case packed(id_of<method::tx_commit>): return answer_with(method::tx_commit_ok{});
    case packed(id_of<method::basic_cancel>): {
      c->holders[r.holder].consuming = false;
      c->consumers.erase(r.name);
      drop_holder_if_idle(*c, r.holder);
      return answer_with(method::basic_cancel_ok{r.name});
    }
    case packed(id_of<method::basic_get>): {
      auto& answer = std::get<fetched>(message.what);
      if (!answer.message) {
        drop_holder_if_idle(*c, r.holder);
        send(r.channel, method::basic_get_empty{});
        return;
      }
      const auto& m = *answer.message->message;
      c->holders[r.holder].no_ack = r.no_wait;
      const auto tag = enter_delivery(*c, r.holder, *answer.message);
      std::optional<std::string> changed;
      encode_with_content(r.channel,
                          method::basic_get_ok{tag, answer.message->redelivered, m.exchange(),
                                               m.routing_key(), as_count(answer.remaining)},
                          shown(c->holders[r.holder], *answer.message, changed), m.body(), frame_max_, out_);
      drop_holder_if_idle(*c, r.holder);
      return;
    }
    default: return;
  }
}

std::uint64_t connection::enter_delivery(channel& c, std::uint32_t index, const delivery& d) {
  auto& holder = c.holders[index];
  if (holder.no_ack) return c.delivered.pass();
  ++holder.held_count;
  return c.delivered.enter(index, d.at);
}

void connection::on_deliver(deliver& message) {
  if (phase_ != phase::running) return;
  worker_.turn.spend(message.deliveries.size());
  consumer_id last{};
  consumer_place place;
  std::optional<std::string> changed;
  for (auto& d : message.deliveries) {
    if (d.to != last || place.of == nullptr) {
      const auto found = consumers_.find(d.to);
      // Its channel was closed: the queue puts the message back when it hears of that.
      if (found == consumers_.end()) continue;
      last = d.to;
      place = found->second;
    }
    auto& c = *place.of;
    auto& holder = c.holders[place.holder];
    const auto tag = enter_delivery(c, place.holder, d);
    const auto& m = *d.message;
    encode_deliver(c.number, {holder.tag, tag, d.redelivered, m.exchange(), m.routing_key()},
                   shown(holder, d, changed), m.body(), frame_max_, out_);
    const bool was_owed = holder.is_owed_credit();
    holder.credit_owed += static_cast<std::int64_t>(m.footprint());
    if (!was_owed && holder.is_owed_credit()) owed_.push_back(holder.id);
  }
}

// Its deliveries went back. It stays, and gets others when it has answered what it was told [54].
void connection::on_consumer_timeout(consumer_id id) {
  const auto found = consumers_.find(id);
  if (found == consumers_.end()) return;
  auto& c = *found->second.of;
  const auto& holder = c.holders[found->second.holder];
  if (c.closing || !holder.consuming) return;
  if (wants_cancel_notify_) {
    send(c.number, method::basic_cancel{holder.tag, true});
    return;
  }
  // RabbitMQ shows this time, whatever was set.
  (void)refuse_channel(c.number, reply_code::precondition_failed,
                       "delivery acknowledgement on channel " + std::to_string(c.number) +
                           " timed out. Timeout value used: -1 ms. This timeout value can be configured, see "
                           "consumers doc guide to learn more",
                       {});
}

// The queue is gone, and the consumer with it: [40].
void connection::on_consumer_cancelled(consumer_id id) {
  const auto found = consumers_.find(id);
  if (found == consumers_.end()) return;
  auto& c = *found->second.of;
  const auto index = found->second.holder;
  auto& holder = c.holders[index];
  holder.consuming = false;
  c.consumers.erase(holder.tag);
  if (wants_cancel_notify_) send(c.number, method::basic_cancel{holder.tag, true});
  drop_holder_if_idle(c, index);
}

}  // namespace posthorn::amqp091
