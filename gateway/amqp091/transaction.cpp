#include "gateway/amqp091/transaction.hpp"

#include <algorithm>
#include <utility>

namespace posthorn::amqp091 {

std::size_t transaction::publish::size() const noexcept {
  return sizeof(publish) + message->footprint() + queues.capacity() * sizeof(queue_ptr) +
         replies.consumers.capacity() * sizeof(reply_consumer_ptr);
}

void transaction::add(publish next) {
  size_ += next.size();
  publishes_.push_back(std::move(next));
}

// Answers of one kind to neighbours are one: between them there is nothing that could be set aside later.
void transaction::add(answer next) {
  if (next.which.empty()) return;
  if (!answers_.empty() && answers_.back().how == next.how) {
    auto& before = answers_.back().which;
    if (next.which.first <= before.last + 1 && before.first <= next.which.last + 1) {
      before.first = std::min(before.first, next.which.first);
      before.last = std::max(before.last, next.which.last);
      return;
    }
  }
  answers_.push_back(next);
}

void transaction::rollback() { *this = {}; }

void transaction::begin_commit(std::uint64_t last_before) {
  expects(step_ == step::gathering, "one commit comes after the other");
  before_ = last_before;
  step_ = step::publishing;
}

std::optional<transaction::publish> transaction::next_publish() {
  if (publishes_.empty()) return std::nullopt;
  auto next = std::move(publishes_.front());
  publishes_.pop_front();
  size_ -= next.size();
  return next;
}

void transaction::end_publishing(std::uint64_t last) {
  expects(step_ == step::publishing && publishes_.empty(), "all publishes are handed out");
  last_ = last;
  step_ = step::settling;
}

void transaction::settle(std::uint64_t answered, std::span<const std::uint64_t> rejected) {
  // What was published before tx.select is none of its business.
  refused_ = refused_ || (!rejected.empty() && rejected.back() > before_);
  if (step_ == step::settling && answered >= last_) step_ = step::answering;
}

std::optional<transaction::answer> transaction::next_answer() {
  if (next_ == answers_.size()) return std::nullopt;
  return answers_[next_++];
}

std::optional<transaction::verdict> transaction::take_verdict() {
  if (step_ != step::writing || unwritten_ != 0) return std::nullopt;
  const auto how = refused_ ? verdict::partial : verdict::complete;
  rollback();
  return how;
}

}  // namespace posthorn::amqp091
