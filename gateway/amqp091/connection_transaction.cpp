// Transactions of a connection's channels: what waits for a commit, and how a commit goes [27].
#include "gateway/amqp091/connection.hpp"

#include <utility>
#include <vector>

namespace posthorn::amqp091 {

namespace {

// What the transactions of one connection may hold. The socket has to be read until the commit comes, so the client is
// refused beyond it. One message is always taken, however large.
constexpr std::size_t transactions_max = std::size_t{64} << 20;

constexpr const char* not_transactional = "channel is not transactional";

}  // namespace

bool connection::on(channel& c, const method::tx_select&) {
  if (c.confirming) {
    return refuse_channel(c.number, reply_code::precondition_failed, "cannot switch from confirm to tx mode",
                          id_of<method::tx_select>);
  }
  if (c.tx == nullptr) c.tx = std::make_unique<transaction>();
  send(c.number, method::tx_select_ok{});
  return true;
}

// A publish was routed, and waits.
void connection::hold(channel& c, const envelope_ptr& message, const std::vector<queue_ptr>& queues) {
  transaction::publish next{message, queues, c.route.replies, c.content.mandatory};
  const auto size = next.size();
  if (transactions_size_ != 0 && transactions_size_ + size > transactions_max) {
    refuse_channel(c.number, reply_code::precondition_failed,
                   "the transactions of this connection hold " + std::to_string(transactions_size_) + " of " +
                       std::to_string(transactions_max) + " bytes, and the next message takes " +
                       std::to_string(size) + ": commit more often",
                   id_of<method::basic_publish>);
    return;
  }
  transactions_size_ += size;
  worker_.turn.spend(queues.size());
  c.tx->add(std::move(next));
}

// What is unknown is refused at once; what is known waits [41].
bool connection::hold_answer(channel& c, std::uint64_t tag, bool multiple, outcome how, method_id about) {
  const auto which = c.delivered.set_aside(tag, multiple);
  if (!which) {
    return refuse_channel(c.number, reply_code::precondition_failed,
                          "unknown delivery tag " + std::to_string(tag), about);
  }
  c.tx->add(transaction::answer{*which, how});
  return true;
}

bool connection::on(channel& c, const method::tx_rollback&) {
  if (c.tx == nullptr) {
    return refuse_channel(c.number, reply_code::precondition_failed, not_transactional,
                          id_of<method::tx_rollback>);
  }
  transactions_size_ -= c.tx->size();
  c.tx->rollback();
  c.delivered.reopen_aside();
  send(c.number, method::tx_rollback_ok{});
  return true;
}

bool connection::on(channel& c, const method::tx_commit&) {
  if (c.tx == nullptr) {
    return refuse_channel(c.number, reply_code::precondition_failed, not_transactional,
                          id_of<method::tx_commit>);
  }
  (void)ask(c, id_of<method::tx_commit>, false);
  committing_ = &c;
  c.published.drop_rejected();
  c.tx->begin_commit(c.published.last());
  go_on_with_commit();
  return phase_ == phase::running;
}

void connection::go_on_with_commit() {
  using step = transaction::step;
  auto& c = *committing_;
  auto& tx = *c.tx;
  while (tx.at() == step::publishing && !in_flight_full_ && !worker_.turn.is_over()) {
    if (auto next = tx.next_publish()) {
      transactions_size_ -= next->size();
      worker_.turn.spend(1);
      // With the last of its queues, it has no way any more.
      std::erase_if(next->queues, [](const queue_ptr& queue) { return port_of(*queue).is_closed(); });
      forward(c, next->message, next->queues, next->replies, next->mandatory);
    } else {
      tx.end_publishing(c.published.last());
    }
  }
  tx.settle(c.published.answered(), c.published.take_rejected());
  while (tx.at() == step::answering && !worker_.turn.is_over()) {
    const auto given = tx.next_answer();
    if (!given) {
      send_parcels();
      tx.end_answering([&](const queue_ptr& queue) {
        port_of(*queue).post(await_erased{self_, last_token_});
      });
      break;
    }
    std::int64_t count = 0;
    c.delivered.answer_aside(given->which, [&](const delivery_ledger::entry& e) {
      ++count;
      const auto& queue = c.holders[e.holder].queue;
      if (!comes_back(given->how) && queue->durable) tx.wait_for(queue);
      enter_answer(c, e, given->how);
    });
    worker_.turn.spend(1 + static_cast<std::size_t>(count) / 4);
    if (!comes_back(given->how)) server_.node.context().counters.acknowledged->inc(count);
  }
  send_parcels();
  const bool may_go_on = tx.at() == step::answering || (tx.at() == step::publishing && !in_flight_full_);
  if (may_go_on && !std::exchange(commit_scheduled_, true)) {
    boost::asio::post(worker_.io, [self = shared_from_this()] {
      self->commit_scheduled_ = false;
      if (self->phase_ == phase::gone || self->committing_ == nullptr) return;
      self->begin_turn();
      self->go_on_with_commit();
      self->resume_input();
    });
  }
  const auto verdict = tx.take_verdict();
  if (!verdict) return;
  committing_ = nullptr;
  reply told{last_token_, done{}};
  if (*verdict == transaction::verdict::partial) {
    told.what = refusal{refusal::kind::precondition_failed, "partial tx completion"};
  }
  on_reply(told);
}

// Its channel ends. Of a commit that was under way, what was handed out takes its course, and nobody is told.
void connection::drop_transaction(channel& c) {
  transactions_size_ -= c.tx->size();
  c.tx.reset();
  if (committing_ != &c) return;
  committing_ = nullptr;
  requests_.back().channel = 0;
  reply nobody_waits{last_token_, done{}};
  on_reply(nobody_waits);
}

}  // namespace posthorn::amqp091
