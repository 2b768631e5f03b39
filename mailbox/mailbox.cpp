#include "mailbox/mailbox.hpp"

#include <algorithm>

namespace posthorn {

namespace {

// How much is read back from the store at once: enough to be worth a read transaction, little beside the budget.
constexpr std::size_t load_count_max = 1024;
constexpr std::size_t load_size_max = std::size_t{1} << 20;

}  // namespace

void effects::settle(publisher_id by, std::uint64_t number) {
  if (!settlements.empty()) {
    auto& last = settlements.back();
    if (last.by == by && last.last + 1 == number) {
      last.last = number;
      return;
    }
  }
  settlements.push_back({by, number, number});
}

void effects::clear() noexcept {
  deliveries.clear();
  settlements.clear();
  load.reset();
}

mailbox::mailbox(bool durable, mailbox_limits limits, const recovered_mailbox& recovered)
    : durable_{durable},
      limits_{limits},
      held_max_{limits.resident_max},
      next_{std::max(recovered.used, recovered.last).value + 1} {
  if (recovered.count == 0) return;
  expects(durable && recovered.first <= recovered.last, "only a durable mailbox recovers messages");
  hole_ = {recovered.count, recovered.size, recovered.first, recovered.last};
  ready_size_ = recovered.size;
  recovered_last_ = sent_last_ = recovered.last;
}

std::uint64_t mailbox::ready_count() const noexcept {
  return returned_.size() + head_.size() + hole_.count + tail_.size();
}

bool mailbox::has_unsent() const noexcept {
  return unsent_.size() != elided_ || !erasures_.empty() || !spills_.empty();
}

// --- messages come ----------------------------------------------------------------------------------------------

void mailbox::publish(std::span<arrival> messages, effects& out) {
  for (auto& m : messages) {
    const auto at = next_;
    ++next_.value;
    entry e;
    e.at = at;
    e.size = static_cast<std::uint32_t>(m.message->body().size());
    e.persistent = durable_ && m.message->persistent();
    ready_size_ += e.size;
    resident_ += m.message->footprint();
    if (e.persistent) {
      unsent_.push_back({at, m.message, m.from, m.number});
    } else {
      out.settle(m.from, m.number);
    }
    e.message = std::move(m.message);
    if (hole_.count == 0 && tail_.empty()) {
      head_.push_back(std::move(e));
    } else {
      tail_.push_back(std::move(e));
    }
  }
  keep_within_memory();
}

// --- messages go out --------------------------------------------------------------------------------------------

bool mailbox::able(const holder& h) const noexcept {
  return h.consuming && h.spec.credit > 0 && (h.spec.prefetch == 0 || h.held_count < h.spec.prefetch);
}

void mailbox::join_turns(holder& h) {
  if (h.in_turn || !able(h)) return;
  h.in_turn = true;
  turns_.push_back(&h);
}

void mailbox::leave_turns(holder& h) {
  if (!h.in_turn) return;
  for (std::size_t left = turns_.size(); left > 0; --left) {
    holder* other = turns_.front();
    turns_.pop_front();
    if (other != &h) turns_.push_back(other);
  }
  h.in_turn = false;
}

void mailbox::dispatch(effects& out) {
  // Held bodies that the store does not have are memory that only an acknowledgement gives back.
  while (!turns_.empty() && held_resident_ < held_max_) {
    if (next_ready(out) == nullptr) return;
    holder& h = *turns_.front();
    turns_.pop_front();
    h.in_turn = false;
    if (!able(h)) continue;
    hand_out(h, take_next(), out);
    join_turns(h);
  }
}

bool mailbox::fetch(consumer_id id, bool acknowledges, effects& out) {
  if (next_ready(out) == nullptr) return false;
  holder& h = holder_of({.id = id, .acknowledges = true});
  const bool asked = h.spec.acknowledges;
  h.spec.acknowledges = acknowledges;
  hand_out(h, take_next(), out);
  h.spec.acknowledges = asked;
  drop_if_idle(h);
  return true;
}

// The front of the ready messages, with its body in memory; or null, with a request in `out` if it is in the store.
mailbox::entry* mailbox::next_ready(effects& out) {
  if (!returned_.empty()) {
    entry& e = returned_.begin()->second;
    if (e.message) return &e;
    out.load = load_request{{e.at, e.at}, 1, 0};
    return nullptr;
  }
  if (head_.empty()) {
    if (hole_.count != 0) {
      out.load = load_request{
          {hole_.first, hole_.last}, load_count_max, std::min(load_size_max, limits_.resident_max / 4 + 1)};
      return nullptr;
    }
    if (tail_.empty()) return nullptr;
    head_ = std::move(tail_);
  }
  return &head_.front();
}

mailbox::entry mailbox::take_next() {
  entry e;
  if (!returned_.empty()) {
    e = std::move(returned_.begin()->second);
    returned_.erase(returned_.begin());
  } else {
    e = std::move(head_.front());
    head_.pop_front();
  }
  ready_size_ -= e.size;
  return e;
}

void mailbox::hand_out(holder& h, entry e, effects& out) {
  const auto footprint = e.message->footprint();
  out.deliveries.push_back({h.spec.id, e.at, e.message, e.redelivered});
  h.spec.credit -= static_cast<std::int64_t>(footprint);
  if (!h.spec.acknowledges) {
    resident_ -= footprint;
    forget(e, out);
    return;
  }
  if (stored(e) && resident_ > limits_.resident_max / 2) {
    resident_ -= footprint;
    e.message.reset();
  } else {
    held_resident_ += footprint;
  }
  ++h.held_count;
  ++held_count_;
  if (h.held.empty() || h.held.back().at < e.at) {
    h.held.push_back(std::move(e));
    return;
  }
  // A returned message is older than what the holder got since. Rare, so the entries behind may move.
  std::size_t index = h.held.size();
  while (index > 0 && e.at < h.held[index - 1].at) --index;
  h.held.insert(index, std::move(e));
}

void mailbox::on_loaded(std::span<loaded_message> messages) {
  for (auto& m : messages) {
    const auto footprint = m.message->footprint();
    if (const auto found = returned_.find(m.at); found != returned_.end()) {
      if (!found->second.message) {
        resident_ += footprint;
        found->second.message = std::move(m.message);
      }
      continue;
    }
    expects(hole_.count > 0 && hole_.first <= m.at && m.at <= hole_.last,
            "a message that was asked for is loaded");
    entry e;
    e.at = m.at;
    e.size = static_cast<std::uint32_t>(m.message->body().size());
    e.persistent = durable_ && m.message->persistent();
    e.where = e.persistent ? kept::in_memory : kept::in_store;
    e.redelivered = m.at <= recovered_last_;
    e.message = std::move(m.message);
    resident_ += footprint;
    hole_.first = {m.at.value + 1};
    --hole_.count;
    hole_.size -= e.size;
    head_.push_back(std::move(e));
  }
}

// --- consumers --------------------------------------------------------------------------------------------------

mailbox::holder& mailbox::holder_of(const consumer_spec& spec) {
  auto& slot = holders_[spec.id];
  if (!slot) {
    slot = std::make_unique<holder>();
    slot->spec = spec;
  }
  return *slot;
}

void mailbox::add_consumer(const consumer_spec& spec) {
  expects(!holders_.contains(spec.id), "a consumer is added once");
  holder& h = holder_of(spec);
  h.consuming = true;
  ++consumer_count_;
  join_turns(h);
}

void mailbox::cancel_consumer(consumer_id id) {
  const auto found = holders_.find(id);
  if (found == holders_.end() || !found->second->consuming) return;
  holder& h = *found->second;
  h.consuming = false;
  --consumer_count_;
  leave_turns(h);
  drop_if_idle(h);
}

void mailbox::release(consumer_id id) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  holder& h = *found->second;
  if (h.consuming) --consumer_count_;
  h.consuming = false;
  leave_turns(h);
  while (!h.held.empty()) {
    entry e = std::move(h.held.front());
    h.held.pop_front();
    if (!e.gone) put_back(std::move(e));
  }
  held_count_ -= h.held_count;
  holders_.erase(found);
}

void mailbox::grant(consumer_id id, std::int64_t bytes) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  found->second->spec.credit += bytes;
  join_turns(*found->second);
}

void mailbox::drop_if_idle(holder& h) {
  if (!h.consuming && h.held_count == 0) holders_.erase(consumer_id{h.spec.id});
}

// --- answers of consumers ---------------------------------------------------------------------------------------

template <class Take>
void mailbox::take_held(holder& h, std::span<const sequence_range> which, Take take) {
  const auto take_entry = [&](entry& e) {
    if (e.gone) return;
    --h.held_count;
    --held_count_;
    if (e.message) held_resident_ -= e.message->footprint();
    take(e);
    e.message.reset();
    e.gone = true;
  };
  for (const auto& range : which) {
    // Nearly always, the oldest are answered first.
    while (!h.held.empty() &&
           (h.held.front().gone || (range.first <= h.held.front().at && h.held.front().at <= range.last))) {
      take_entry(h.held.front());
      h.held.pop_front();
    }
    if (h.held.empty() || range.last < h.held.front().at) continue;
    std::size_t low = 0, high = h.held.size();
    while (low < high) {
      const auto middle = (low + high) / 2;
      if (h.held[middle].at < range.first) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    for (; low < h.held.size() && h.held[low].at <= range.last; ++low) take_entry(h.held[low]);
  }
  while (!h.held.empty() && h.held.back().gone) h.held.pop_back();
}

void mailbox::after_taking(holder& h) {
  join_turns(h);
  drop_if_idle(h);
}

void mailbox::acknowledge(consumer_id id, std::span<const sequence_range> which, effects& out) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out);
  });
  after_taking(*found->second);
}

void mailbox::give_back(consumer_id id, std::span<const sequence_range> which) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();  // put_back takes it off again
    put_back(std::move(e));
  });
  after_taking(*found->second);
}

void mailbox::put_back(entry e) {
  if (e.message) held_resident_ -= e.message->footprint();
  e.redelivered = true;
  e.gone = false;
  ready_size_ += e.size;
  const auto at = e.at;
  returned_.emplace(at, std::move(e));
}

std::uint64_t mailbox::purge(effects& out) {
  const auto count = ready_count();
  const auto drop = [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out);
  };
  for (auto& [at, e] : returned_) drop(e);
  returned_.clear();
  for (std::size_t i = 0; i < head_.size(); ++i) drop(head_[i]);
  head_.clear();
  if (hole_.count != 0) erase_later({hole_.first, hole_.last});
  hole_ = {};
  for (std::size_t i = 0; i < tail_.size(); ++i) drop(tail_[i]);
  tail_.clear();
  ready_size_ = 0;
  return count;
}

// --- towards the journal ----------------------------------------------------------------------------------------

// A message is settled for good: by an acknowledgement, a purge, or a consumer that does not acknowledge.
void mailbox::forget(const entry& e, effects& out) {
  if (!e.persistent) {
    if (e.where == kept::in_memory) return;
    const auto spill = std::lower_bound(spills_.begin(), spills_.end(), e.at,
                                        [](const journal_append& s, sequence at) { return s.at < at; });
    if (spill != spills_.end() && spill->at == e.at) {
      spills_.erase(spill);  // not yet taken: I5
    } else {
      erase_later({e.at, e.at});
    }
  } else if (e.at <= sent_last_) {
    erase_later({e.at, e.at});
  } else {
    elide(e.at, out);
  }
}

void mailbox::elide(sequence at, effects& out) {
  // Sequences are mostly without gaps, so the distance from the front is mostly the index.
  std::size_t low = 0, high = unsent_.size();
  const auto guess = at.value - unsent_.front().at.value;
  if (guess < high && unsent_[guess].at == at) {
    low = guess;
  } else {
    while (low < high) {
      const auto middle = (low + high) / 2;
      if (unsent_[middle].at < at) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
  }
  expects(low < unsent_.size() && unsent_[low].at == at, "a message that was not sent is unsent");
  auto& found = unsent_[low];
  if (!found.message) return;
  out.settle(found.from, found.number);
  found.message.reset();
  ++elided_;
  while (!unsent_.empty() && !unsent_.front().message) {
    sent_last_ = std::max(sent_last_, unsent_.front().at);
    unsent_.pop_front();
    --elided_;
  }
}

void mailbox::erase_later(sequence_range which) {
  if (!erasures_.empty() && erasures_.back().last.value + 1 == which.first.value) {
    erasures_.back().last = which.last;
  } else {
    erasures_.push_back(which);
  }
}

bool mailbox::stored(const entry& e) const noexcept {
  if (!e.persistent) return e.where == kept::in_store;
  return e.at <= sent_last_ && (sent_.empty() || e.at < sent_.front().at);
}

journal_batch mailbox::take_batch() {
  journal_batch batch;
  if (under_way_) return batch;
  batch.appends.reserve(unsent_.size() - elided_ + spills_.size());
  sent_.reserve(unsent_.size() - elided_);
  for (; !unsent_.empty(); unsent_.pop_front()) {
    auto& u = unsent_.front();
    sent_last_ = std::max(sent_last_, u.at);
    if (!u.message) continue;
    sent_.push_back({u.at, u.from, u.number});
    batch.appends.push_back({u.at, std::move(u.message), false});
  }
  elided_ = 0;
  spills_under_way_ = !spills_.empty();
  for (auto& s : spills_) batch.appends.push_back(std::move(s));
  spills_.clear();
  batch.erasures = std::exchange(erasures_, {});
  under_way_ = !batch.empty();
  return batch;
}

void mailbox::on_committed(effects& out) {
  expects(under_way_, "only a batch under way is committed");
  under_way_ = false;
  for (const auto& s : sent_) out.settle(s.from, s.number);
  sent_.clear();
  if (std::exchange(spills_under_way_, false)) {
    for (auto* part : {&head_, &tail_}) {
      for (std::size_t i = 0; i < part->size(); ++i) {
        entry& e = (*part)[i];
        if (e.where == kept::being_stored) e.where = kept::in_store;
      }
    }
  }
  keep_within_memory();
}

void mailbox::on_not_committed(journal_batch unwritten, effects& out) {
  expects(under_way_, "only a batch under way can fail");
  under_way_ = false;
  spills_under_way_ = false;
  // What went in the meantime need not be written any more, nor erased: I5.
  auto erasures = std::exchange(erasures_, {});
  const auto gone = [&](sequence at) {
    for (const auto& r : erasures) {
      if (r.first <= at && at <= r.last) return true;
    }
    return false;
  };
  std::vector<journal_append> spills;
  std::vector<unsent_entry> unsent;
  auto sent = sent_.begin();
  for (auto& a : unwritten.appends) {
    if (a.transient) {
      if (!gone(a.at)) spills.push_back(std::move(a));
      continue;
    }
    for (; sent != sent_.end() && sent->at < a.at; ++sent) out.settle(sent->from, sent->number);
    expects(sent != sent_.end() && sent->at == a.at,
            "what comes back is part of the batch that was under way");
    if (gone(a.at)) {
      out.settle(sent->from, sent->number);
    } else {
      unsent.push_back({a.at, std::move(a.message), sent->from, sent->number});
    }
    ++sent;
  }
  for (; sent != sent_.end(); ++sent) out.settle(sent->from, sent->number);
  sent_.clear();
  for (auto u = unsent.rbegin(); u != unsent.rend(); ++u) unsent_.push_front(std::move(*u));
  if (!unsent_.empty()) sent_last_ = {unsent_.front().at.value - 1};
  spills.insert(spills.end(), std::make_move_iterator(spills_.begin()),
                std::make_move_iterator(spills_.end()));
  spills_ = std::move(spills);
  erasures_ = std::move(unwritten.erasures);
  erasures_.insert(erasures_.end(), erasures.begin(), erasures.end());
}

void mailbox::settle_all(effects& out) {
  for (const auto& s : sent_) out.settle(s.from, s.number);
  sent_.clear();
  for (; !unsent_.empty(); unsent_.pop_front()) {
    const auto& u = unsent_.front();
    if (u.message) out.settle(u.from, u.number);
  }
  elided_ = 0;
}

// --- memory -----------------------------------------------------------------------------------------------------

void mailbox::keep_within_memory() {
  shed_held();
  if (resident_ - held_resident_ > limits_.resident_max && hole_.count == 0 && tail_.empty()) {
    // The front half of the budget stays at hand; what stands behind goes where it can be folded away.
    std::size_t kept_size = 0, index = 0;
    while (index < head_.size() && kept_size < limits_.resident_max / 2) {
      kept_size += head_[index++].message->footprint();
    }
    while (head_.size() > index) {
      entry e = std::move(head_.back());
      head_.pop_back();
      tail_.push_front(std::move(e));
    }
  }
  while (!tail_.empty() && stored(tail_.front())) {
    const entry& e = tail_.front();
    if (hole_.count == 0) hole_.first = e.at;
    hole_.last = e.at;
    ++hole_.count;
    hole_.size += e.size;
    resident_ -= e.message->footprint();
    tail_.pop_front();
  }
  if (resident_ - held_resident_ <= limits_.resident_max || !spills_.empty() || spills_under_way_) return;
  for (std::size_t i = 0; i < tail_.size(); ++i) {
    entry& e = tail_[i];
    if (e.persistent || e.where != kept::in_memory) continue;
    e.where = kept::being_stored;
    spills_.push_back({e.at, e.message, true});
  }
}

// Held messages that the store has need no body here. The newest stand at the back, and those in front of the first
// one without a body were looked at before.
void mailbox::shed_held() {
  if (held_resident_ <= limits_.resident_max / 2) return;
  for (auto& [id, h] : holders_) {
    for (std::size_t i = h->held.size(); i > 0; --i) {
      entry& e = h->held[i - 1];
      if (e.gone) continue;
      if (!e.message) break;
      if (!stored(e)) continue;
      const auto footprint = e.message->footprint();
      held_resident_ -= footprint;
      resident_ -= footprint;
      e.message.reset();
    }
  }
}

}  // namespace posthorn
