// Of a mailbox: messages go for good, and what the journal has to write comes out in batches.
#include "mailbox/mailbox.hpp"

#include "mailbox/deduplication.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

namespace posthorn {

std::uint64_t mailbox::purge(effects& out) {
  const auto count = ready_count() + delayed_count();
  const auto drop = [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out);
  };
  for (auto& [place, e] : returned_) drop(e);
  returned_.clear();
  if (book_ && !book_->parked.empty()) {
    for (auto p = book_->parked.begin(); p != book_->parked.end();) {
      if (p->second.dead) {
        ++p;
        continue;
      }
      drop(p->second.e);
      book_->wakes.erase({p->second.due, p->first});
      p = book_->parked.erase(p);
    }
  }
  for_each_lane([&](lane& its) {
    for (auto* part : {&its.head, &its.tail}) {
      for (std::size_t i = 0; i < part->size(); ++i) drop((*part)[i]);
      part->clear();
    }
    its.passed = {next_.value - 1};
  });
  erase_holes();
  ready_size_ = 0;
  return count;
}

// All of the holes but what was claimed out of them, and what is held of other levels or stands aside.
void mailbox::erase_holes() {
  if (levels_) {
    auto spared = claimed_;
    for (const auto& [id, h] : holders_) {
      for (std::size_t i = 0; i < h->held.size(); ++i) {
        if (!h->held[i].gone()) spared.push_back(h->held[i].at);
      }
    }
    for (const auto& [at, p] : book_->parked) spared.push_back(at);
    std::sort(spared.begin(), spared.end());
    std::vector<sequence_range> parts;
    for (auto& [level, its] : levels_->lanes) {
      const auto part = std::exchange(its.hole, {});
      if (part.count != 0) parts.push_back({part.first, part.last});
    }
    std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    // They mostly lie across each other.
    for (std::size_t i = 0; i < parts.size();) {
      auto all = parts[i];
      for (++i; i < parts.size() && parts[i].first.value <= all.last.value + 1; ++i)
        all.last = std::max(all.last, parts[i].last);
      erase_between(all, spared);
    }
  } else {
    const auto part = std::exchange(lane_.hole, {});
    if (part.count != 0) erase_between({part.first, part.last}, claimed_);
  }
  claimed_.clear();
}

void mailbox::erase_between(sequence_range part, std::span<const sequence> spared) {
  auto first = part.first;
  const auto erase_but_given = [this](sequence_range which) {
    for (const auto& g : given_) {
      if (g.last < which.first || which.last < g.first) continue;
      if (which.first < g.first) erase_unread({which.first, {g.first.value - 1}});
      which.first = {g.last.value + 1};
    }
    if (which.first <= which.last) erase_unread(which);
  };
  for (const auto at : spared) {
    if (at < first) continue;
    if (part.last < at) break;
    if (first < at) erase_but_given({first, {at.value - 1}});
    first = {at.value + 1};
  }
  if (first <= part.last) erase_but_given({first, part.last});
}

// A message goes, and not because somebody has dealt with it: with a dead-letter exchange, a copy of it goes on.
void mailbox::end(const entry& e, death_reason why, effects& out, blame whose) {
  if (!book_ || !book_->rules.dead_letter_exchange) return forget(e, out);
  // As RabbitMQ: a classic queue remembers only that a delivery failed, a quorum queue also that it came back.
  const bool delivered = whose == blame::yes || (book_->rules.quorum && e.redelivered);
  parked_entry dying{.e = e, .dead = book_->rules.at_least_once, .why = why, .delivered = delivered};
  tell_dead(dying, e.message, out);
  if (dying.dead) {
    if (e.message) resident_ += e.message->footprint();  // the caller has taken it off
    return park(std::move(dying));
  }
  book_->moves = true;
  forget(e, out, true);
}

// A message is settled for good: by an acknowledgement, a purge, or a consumer that does not acknowledge; or `moved`, as
// a dead letter.
void mailbox::forget(const entry& e, effects& out, bool moved) {
  if (book_ && book_->kept) [[unlikely]]
    book_->kept->remove({e.at, e.at});
  if (e.counted) [[unlikely]]
    return_counts_.erase(e.at);
  if (!e.persistent()) {
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
    if (moved && !stored(e)) book_->moved_sent.push_back(e.at);
  } else {
    elide(e.at, out, moved);
  }
}

void mailbox::elide(sequence at, effects& out, bool moved) {
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
  if (moved) {
    book_->moved.push_back({found.from, found.number});
  } else {
    out.settle(found.from, found.number);
  }
  if (book_ && book_->kept) [[unlikely]] {
    for (const auto& w : book_->kept->take_waiting(at)) {
      if (moved) {
        book_->moved.push_back({w.by, w.number});
      } else {
        out.settle(w.by, w.number);
      }
    }
  }
  found.message.reset();
  ++elided_;
  while (!unsent_.empty() && !unsent_.front().message) {
    sent_last_ = std::max(sent_last_, unsent_.front().at);
    unsent_.pop_front();
    --elided_;
  }
}

// A part of what is only in the store.
void mailbox::erase_unread(sequence_range which) {
  if (book_ && book_->kept) book_->kept->remove(which);
  erase_later(which);
}

void mailbox::erase_later(sequence_range which) {
  if (!erasures_.empty() && erasures_.back().last.value + 1 == which.first.value) {
    erasures_.back().last = which.last;
  } else {
    erasures_.push_back(which);
  }
}

void mailbox::demand_batch() {
  if (!book_) book_ = std::make_unique<rule_book>();
  book_->moves = true;
}

journal_batch mailbox::take_batch(batch_limits max) {
  journal_batch batch;
  if (under_way_) return batch;
  std::size_t size = 0;
  const auto fits = [&](const envelope& message) {
    if (!batch.appends.empty() &&
        (batch.appends.size() >= max.count_max || size + message.bytes().size() > max.size_max)) {
      return false;
    }
    size += message.bytes().size();
    return true;
  };
  const auto unsent_count = std::min(unsent_.size() - elided_, max.count_max);
  batch.appends.reserve(unsent_count);
  sent_.reserve(unsent_count);
  for (; !unsent_.empty(); unsent_.pop_front()) {
    auto& u = unsent_.front();
    if (!u.message) {
      --elided_;
    } else if (fits(*u.message)) {
      sent_.push_back({u.at, u.from, u.number});
      batch.appends.push_back({u.at, std::move(u.message), false, u.expires_at});
    } else {
      break;
    }
    sent_last_ = std::max(sent_last_, u.at);
  }
  auto spill = spills_.begin();
  for (; spill != spills_.end() && fits(*spill->message); ++spill) {
    batch.appends.push_back(std::move(*spill));
  }
  spills_under_way_ = spill != spills_.begin();
  spills_.erase(spills_.begin(), spill);
  if (book_) {
    batch.moves = std::exchange(book_->moves, false);
    book_->moved_under_way = std::exchange(book_->moved, {});
  }
  auto range = erasures_.begin();
  for (std::uint64_t erased = 0; range != erasures_.end(); ++range) {
    const auto width = range->last.value - range->first.value;
    erased += width < wide_erasure_min ? width + 1 : 1;
    if (erased > max.count_max && range != erasures_.begin() && !batch.moves) break;
  }
  if (range == erasures_.end()) {
    batch.erasures = std::exchange(erasures_, {});
  } else {
    batch.erasures.assign(erasures_.begin(), range);
    erasures_.erase(erasures_.begin(), range);
  }
  under_way_ = !batch.empty();
  return batch;
}

void mailbox::on_committed(effects& out) {
  expects(under_way_, "only a batch under way is committed");
  under_way_ = false;
  for (const auto& s : sent_) out.settle(s.from, s.number);
  sent_.clear();
  if (book_) {
    for (const auto& m : std::exchange(book_->moved_under_way, {})) out.settle(m.by, m.number);
    book_->moved_sent.clear();
    tell_duplicates(out);
  }
  if (std::exchange(spills_under_way_, false)) {
    for_each_lane([this](lane& its) {
      for (auto* part : {&its.head, &its.tail}) {
        for (std::size_t i = 0; i < part->size(); ++i) {
          entry& e = (*part)[i];
          if (e.where != kept::being_stored) continue;
          if (spills_.empty() || e.at < spills_.front().at) e.where = kept::in_store;
        }
      }
    });
  }
  if (book_ && !book_->unshed.empty()) [[unlikely]] {
    for (const auto at : book_->unshed) {
      const auto found = book_->parked.find(at);
      if (found == book_->parked.end() || found->second.e.where != kept::being_stored) continue;
      if (spills_.empty() || at < spills_.front().at) found->second.e.where = kept::in_store;
    }
    shed_parked();
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
  std::vector<sequence> moved_sent;
  if (book_) {
    moved_sent = std::exchange(book_->moved_sent, {});
    std::sort(moved_sent.begin(), moved_sent.end());
    auto under_way = std::exchange(book_->moved_under_way, {});
    if (unwritten.moves) {
      book_->moves = true;
      book_->moved.insert(book_->moved.begin(), under_way.begin(), under_way.end());
    } else {
      for (const auto& m : under_way) out.settle(m.by, m.number);
    }
  }
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
    if (std::binary_search(moved_sent.begin(), moved_sent.end(), a.at)) {
      book_->moved.push_back({sent->from, sent->number});
      if (book_->kept) {
        for (const auto& w : book_->kept->take_waiting(a.at)) book_->moved.push_back({w.by, w.number});
      }
    } else if (gone(a.at)) {
      out.settle(sent->from, sent->number);
    } else {
      unsent.push_back({a.at, std::move(a.message), sent->from, sent->number, a.expires_at});
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
  tell_duplicates(out);
}

void mailbox::settle_all(effects& out) {
  for (const auto& s : sent_) out.settle(s.from, s.number);
  sent_.clear();
  for (; !unsent_.empty(); unsent_.pop_front()) {
    const auto& u = unsent_.front();
    if (u.message) out.settle(u.from, u.number);
  }
  elided_ = 0;
  tell_duplicates(out);
  if (!book_) return;
  for (auto* part : {&book_->moved_under_way, &book_->moved}) {
    for (const auto& m : *part) out.settle(m.by, m.number);
    part->clear();
  }
}

}  // namespace posthorn
