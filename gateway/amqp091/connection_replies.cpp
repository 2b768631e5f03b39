// Direct reply-to of a connection's channels: who waits for replies, and until when [35] [56].
#include "gateway/amqp091/connection.hpp"

#include <utility>

namespace posthorn::amqp091 {

bool connection::consume_replies(channel& c, const method::basic_consume& m, std::string tag) {
  constexpr auto about = id_of<method::basic_consume>;
  const auto refuse_it = [&](const char* why) {
    return refuse_channel(c.number, reply_code::precondition_failed, why, about);
  };
  const auto same = c.consumers.find(tag);
  if (same != c.consumers.end() && !c.holders[same->second].takes_replies()) {
    return refuse_connection(reply_code::not_allowed, "attempt to reuse consumer tag '" + tag + "'", about);
  }
  if (!m.no_ack) return refuse_it("reply consumer cannot acknowledge");
  if (c.replies) return refuse_it("reply consumer already set");
  auto pseudo = std::make_shared<queue_definition>();
  pseudo->name = reply_queue;
  const auto index = c.add_holder();
  auto& holder = c.holders[index];
  holder.id = node_context::next_id<consumer_id>(server_.node.context().last_consumer);
  holder.tag = std::move(tag);
  holder.queue = std::move(pseudo);
  holder.no_ack = holder.consuming = true;
  holder.window = reply_consumer::under_way_max;
  c.consumers.emplace(holder.tag, index);
  consumers_.emplace(holder.id, consumer_place{&c, index});
  c.replies = server_.replies.add(self_, holder.id);
  if (!m.no_wait) send(c.number, method::basic_consume_ok{holder.tag});
  return true;
}

// Nothing more comes to its address; what is on its way finds nobody.
void connection::stop_replies(channel& c) {
  const auto place = consumers_.find(c.replies->id);
  auto& holder = c.holders[place->second.holder];
  c.consumers.erase(holder.tag);
  holder = {};
  consumers_.erase(place);
  server_.replies.remove(*c.replies);
  c.replies.reset();
}

// Whether somebody is there can be asked by declaring the address as if it were a queue: one consumer, no messages.
bool connection::answer_for_reply_address(channel& c, const method::queue_declare& m) {
  if (!requests_.empty()) {
    stalled_ = true;
    return false;
  }
  c.last_queue = m.queue;
  if (!m.no_wait) send(c.number, method::queue_declare_ok{m.queue, 0, 1});
  return true;
}

}  // namespace posthorn::amqp091
