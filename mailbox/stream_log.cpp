#include "mailbox/stream_log.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace posthorn {

namespace {

// How much is read back from the store at once, as for a mailbox.
constexpr std::size_t load_count_max = 1024;
constexpr std::size_t load_size_max = std::size_t{1} << 20;

constexpr sequence behind(sequence at) noexcept { return {at.value + 1}; }
constexpr sequence before(sequence at) noexcept { return {at.value - 1}; }

}  // namespace

stream_log::stream_log(const stream_rules& rules, mailbox_limits limits, stream_segments recovered,
                       sequence used)
    : rules_{rules}, limits_{limits}, segments_{std::move(recovered)} {
  segments_.set_segment_size(rules.segment_size_max);
  last_time_ = segments_.last_time();
  next_ = behind(used);
  if (segments_.empty()) return;
  first_ = segments_.first();
  readable_last_ = stored_only_last_ = segments_.last();
  next_ = std::max(next_, behind(readable_last_));
}

// --- what comes ---

void stream_log::publish(std::span<arrival> messages, std::int64_t now) {
  last_time_ = std::max(last_time_, now);
  for (auto& m : messages) {
    const auto at = next_;
    next_ = behind(at);
    if (m.from == journal_feed::nobody && m.number != 0) {
      const auto found = std::find_if(late_.begin(), late_.end(),
                                      [&m](const late_message& l) { return l.at.value == m.number; });
      if (found != late_.end()) found->again_at = at;
      m.number = 0;
    }
    resident_ += m.message->footprint();
    tail_.push_back({at, m.message, last_time_, false});
    feed_.append({at, std::move(m.message), last_time_, m.from, m.number, false, false});
  }
  trim();
}

std::vector<arrival> stream_log::arrive(std::span<loaded_message> messages, std::int64_t now) {
  std::vector<arrival> late;
  for (auto& m : messages) {
    next_ = std::max(next_, behind(m.at));
    if (m.at < first_) {
      feed_.erase({m.at, m.at});  // retention has taken what stood around it, and takes it, too
      continue;
    }
    if (m.at <= readable_last_) {
      const auto place =
          std::find_if(late_.begin(), late_.end(), [&m](const late_message& l) { return m.at < l.at; });
      late_.insert(place, {m.at, {}, false});
      late.push_back({std::move(m.message), journal_feed::nobody, m.at.value});
      continue;
    }
    const auto index = tail_index(m.at);
    auto came_at = m.expires_at;
    if (index > 0) came_at = std::max(came_at, tail_[index - 1].came_at);
    if (index < tail_.size()) came_at = std::min(came_at, tail_[index].came_at);
    last_time_ = std::max(last_time_, came_at);
    resident_ += m.message->footprint();
    tail_.insert(index, {m.at, std::move(m.message), came_at, true});
  }
  advance();
  retain(now);
  trim();
  return late;
}

std::size_t stream_log::tail_index(sequence at) const noexcept {
  std::size_t first = 0, end = tail_.size();
  while (first < end) {
    const auto middle = first + (end - first) / 2;
    if (tail_[middle].at < at) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first;
}

// --- the journal ---

void stream_log::on_committed(effects& out, std::int64_t now) { on_stored(feed_.on_committed(out), now); }

void stream_log::on_not_committed(journal_batch unwritten, effects& out, std::int64_t now) {
  on_stored(feed_.on_not_committed(std::move(unwritten), out), now);
}

void stream_log::on_stored(std::span<const sequence> which, std::int64_t now) {
  auto index = seen_;
  for (const auto at : which) {
    while (index < tail_.size() && tail_[index].at < at) ++index;
    expects(index < tail_.size() && tail_[index].at == at,
            "what was written is in memory until it can be read");
    tail_[index].stored = true;
  }
  if (!late_.empty()) {
    for (auto& l : late_) {
      if (l.stored_again || l.again_at == sequence{}) continue;
      if (!std::binary_search(which.begin(), which.end(), l.again_at)) continue;
      l.stored_again = true;
      feed_.erase({l.at, l.at});
    }
    std::erase_if(late_, [this](const late_message& l) { return l.stored_again && !feed_.is_erasing(l.at); });
  }
  advance();
  retain(now);
  trim();
}

// What is stored, and so is all before it, can be read.
void stream_log::advance() {
  const auto seen_before = seen_;
  for (; seen_ < tail_.size() && tail_[seen_].stored; ++seen_) {
    const auto& e = tail_[seen_];
    segments_.add(e.at, e.message->bytes().size(), e.came_at);
    readable_last_ = e.at;
  }
  if (seen_ != seen_before) wake_waiting();
}

void stream_log::trim() {
  for (; seen_ > 0 && resident_ > limits_.resident_max; --seen_) {
    resident_ -= tail_.front().message->footprint();
    stored_only_last_ = tail_.front().at;
    tail_.pop_front();
  }
}

void stream_log::limit_memory(std::size_t resident_max) {
  limits_.resident_max = resident_max;
  trim();
}

// --- retention ---

void stream_log::change(const stream_rules& rules, std::int64_t now) {
  rules_ = rules;
  segments_.set_segment_size(rules.segment_size_max);
  retain(now);
}

void stream_log::retain(std::int64_t now) {
  const auto last = segments_.retain(rules_, now);
  if (!last) return;
  erase_but_late({first_, *last});
  first_ = behind(*last);
  for (; seen_ > 0 && tail_.front().at < first_; --seen_) {
    resident_ -= tail_.front().message->footprint();
    tail_.pop_front();
  }
}

// What came late is erased when it is stored again, and no earlier.
void stream_log::erase_but_late(sequence_range which) {
  for (const auto& l : late_) {
    if (l.at < which.first || which.last < l.at) continue;
    if (which.first < l.at) feed_.erase({which.first, before(l.at)});
    which.first = behind(l.at);
  }
  if (which.first <= which.last) feed_.erase(which);
}

std::optional<sequence_range> stream_log::readable() const noexcept {
  if (segments_.empty()) return std::nullopt;
  return sequence_range{segments_.first(), segments_.last()};
}

bool stream_log::hidden(sequence at) const noexcept {
  return at < first_ ||
         std::any_of(late_.begin(), late_.end(), [at](const late_message& l) { return l.at == at; });
}

// --- readers ---

std::uint32_t stream_log::room_of(const reader& r) noexcept {
  if (r.spec.prefetch == 0) return std::numeric_limits<std::uint32_t>::max();
  return r.held_count >= r.spec.prefetch ? 0 : r.spec.prefetch - static_cast<std::uint32_t>(r.held_count);
}

bool stream_log::able(const reader& r) noexcept { return r.spec.credit > 0 && room_of(r) > 0; }

bool stream_log::has_more(const reader& r) const noexcept { return r.looking || r.next <= readable_last_; }

stream_log::reader* stream_log::find(consumer_id id) const {
  const auto found = readers_.find(id);
  return found == readers_.end() ? nullptr : found->second.get();
}

void stream_log::add_reader(const consumer_spec& spec, const stream_start& start, stream_filter filter) {
  remove_reader(spec.id);
  auto& r = *(readers_[spec.id] = std::make_unique<reader>());
  r.spec = spec;
  r.filter = std::move(filter);
  begin(r, start);
  take_turn(r);
}

void stream_log::begin(reader& r, const stream_start& start) {
  constexpr auto most = std::numeric_limits<std::uint64_t>::max() - 1;
  switch (start.where) {
    case stream_start::from::first: r.next = first_; break;
    case stream_start::from::last: r.next = segments_.empty() ? next_ : readable_last_; break;
    case stream_start::from::next: r.next = next_; break;
    case stream_start::from::offset: r.next = behind({std::min(start.value, most)}); break;
    case stream_start::from::time: {
      constexpr auto latest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      look_for(r, static_cast<std::int64_t>(std::min(start.value, latest)));
      break;
    }
  }
}

void stream_log::look_for(reader& r, std::int64_t came_at) {
  // In the tail, from this index on.
  const auto found_in_tail = [&](std::size_t first) {
    auto end = tail_.size();
    while (first < end) {
      const auto middle = first + (end - first) / 2;
      if (tail_[middle].came_at < came_at) {
        first = middle + 1;
      } else {
        end = middle;
      }
    }
    return first < tail_.size() ? tail_[first].at : next_;
  };
  const auto* segment = segments_.find(came_at);
  if (segment == nullptr) {
    r.next = found_in_tail(seen_);
  } else if (segment->first_time >= came_at) {
    r.next = segment->first;
  } else if (seen_ > 0 && tail_.front().at <= segment->last && tail_.front().came_at < came_at) {
    r.next = found_in_tail(0);
  } else {
    const bool reaches_tail = seen_ > 0 && tail_.front().at <= segment->last;
    const auto high = reaches_tail ? tail_.front().at : segment->last;
    r.looking = search{came_at, behind(segment->first), high, segment->last};
  }
}

void stream_log::claim(consumer_id id, std::span<const sequence_range> which) {
  auto* r = find(id);
  if (r == nullptr) return;
  for (const auto& range : which) {
    let_go(*r, range);
    hold(*r, range);
    r->looking.reset();
    r->next = std::max(r->next, behind(range.last));
  }
}

void stream_log::remove_reader(consumer_id id) {
  const auto found = readers_.find(id);
  if (found == readers_.end()) return;
  if (chunk_ && chunk_->by == id) chunk_.reset();
  held_count_ -= found->second->held_count;
  leave_turns(*found->second);
  readers_.erase(found);
}

void stream_log::grant(consumer_id id, std::int64_t bytes) {
  auto* r = find(id);
  if (r == nullptr) return;
  r->spec.credit += bytes;
  take_turn(*r);
}

void stream_log::set_credit(consumer_id id, std::int64_t bytes) {
  auto* r = find(id);
  if (r == nullptr) return;
  r->spec.credit = bytes;
  take_turn(*r);
}

void stream_log::answer(consumer_id id, std::span<const sequence_range> which) {
  auto* r = find(id);
  if (r == nullptr) return;
  for (const auto& range : which) let_go(*r, range);
  take_turn(*r);
}

void stream_log::hold(reader& r, sequence_range which) {
  const auto count = which.last.value - which.first.value + 1;
  r.held_count += count;
  held_count_ += count;
  if (!r.held.empty()) {
    const auto newest = std::prev(r.held.end());
    if (behind(newest->first) == which.first) {
      auto node = r.held.extract(newest);
      node.key() = which.last;
      r.held.insert(r.held.end(), std::move(node));
      return;
    }
  }
  r.held.emplace(which.last, which.first);
}

void stream_log::let_go(reader& r, sequence_range which) {
  for (auto part = r.held.lower_bound(which.first); part != r.held.end() && part->second <= which.last;) {
    const auto first = part->second, last = part->first;
    const auto from = std::max(first, which.first), to = std::min(last, which.last);
    const auto count = to.value - from.value + 1;
    r.held_count -= count;
    held_count_ -= count;
    if (first < from) r.held.emplace(before(from), first);
    if (to < last) {
      part->second = behind(to);
      break;
    }
    part = r.held.erase(part);
  }
}

std::uint64_t stream_log::lag_of(consumer_id id) const {
  const auto* r = find(id);
  if (r == nullptr) return 0;
  const auto next = std::max(r->looking ? r->looking->low : r->next, first_);
  return next <= readable_last_ ? readable_last_.value - next.value + 1 : 0;
}

// --- turns ---

void stream_log::take_turn(reader& r) {
  if (r.stands != turn::none || !able(r)) return;
  if (has_more(r)) {
    r.stands = turn::reading;
    reading_.push_back(&r);
  } else {
    r.stands = turn::waiting;
    waiting_.push_back(&r);
  }
}

void stream_log::leave_turns(reader& r) {
  if (r.stands == turn::waiting) std::erase(waiting_, &r);
  if (r.stands == turn::reading) {
    for (auto left = reading_.size(); left > 0; --left) {
      auto* each = reading_.front();
      reading_.pop_front();
      if (each != &r) reading_.push_back(each);
    }
  }
  r.stands = turn::none;
}

void stream_log::wake_waiting() {
  std::erase_if(waiting_, [this](reader* r) {
    if (!has_more(*r)) return false;
    r->stands = turn::reading;
    reading_.push_back(r);
    return true;
  });
}

void stream_log::dispatch(effects& out) {
  while (!reading_.empty()) {
    auto& r = *reading_.front();
    const auto done = read(r, out);
    if (done == outcome_of_turn::asks) return;
    reading_.pop_front();
    if (done == outcome_of_turn::waits_behind) {
      reading_.push_back(&r);
    } else {
      r.stands = turn::none;
      take_turn(r);  // it may still wait
    }
  }
  chunk_.reset();
}

stream_log::outcome_of_turn stream_log::read(reader& r, effects& out) {
  while (able(r) && has_more(r)) {
    if (r.looking) {
      if (!search_on(r, out)) return outcome_of_turn::asks;
      continue;
    }
    r.next = std::max(r.next, first_);
    if (stored_only_last_ < r.next) {
      read_tail(r, out);
    } else if (in_chunk(r.next)) {
      read_chunk(r, out);
    } else if (chunk_ && chunk_->by == r.spec.id && !chunk_->messages.empty() && !chunk_->had_turn) {
      chunk_->had_turn = true;
      return outcome_of_turn::waits_behind;
    } else {
      ask(r, {r.next, readable_last_}, false, out);
      return outcome_of_turn::asks;
    }
  }
  return outcome_of_turn::leaves;
}

void stream_log::ask(reader& r, sequence_range where, bool searches, effects& out) {
  chunk_ = chunk{r.spec.id, where, searches, false, {}};
  if (searches) {
    out.load = load_request{where, 1, 0};
    return;
  }
  const auto room = r.filter.takes_all() ? std::size_t{room_of(r)} : load_count_max;
  const auto credit = static_cast<std::size_t>(std::max<std::int64_t>(r.spec.credit, 1));
  out.load = load_request{where, std::min(load_count_max, room), std::min(load_size_max, credit)};
}

void stream_log::on_loaded(std::span<loaded_message> messages) {
  if (!chunk_ || messages.empty() || messages.front().at < chunk_->where.first ||
      chunk_->where.last < messages.back().at) {
    return;
  }
  chunk_->messages.assign(std::make_move_iterator(messages.begin()), std::make_move_iterator(messages.end()));
}

bool stream_log::in_chunk(sequence at) const noexcept {
  return chunk_ && !chunk_->searches && !chunk_->messages.empty() && chunk_->where.first <= at &&
         at <= chunk_->messages.back().at;
}

void stream_log::read_chunk(reader& r, effects& out) {
  const auto& messages = chunk_->messages;
  auto m = std::lower_bound(messages.begin(), messages.end(), r.next,
                            [](const loaded_message& l, sequence at) { return l.at < at; });
  for (; m != messages.end() && able(r); ++m) offer(r, m->at, m->message, out);
}

void stream_log::read_tail(reader& r, effects& out) {
  for (auto index = tail_index(r.next); index < seen_ && able(r); ++index) {
    offer(r, tail_[index].at, tail_[index].message, out);
  }
}

void stream_log::offer(reader& r, sequence at, const envelope_ptr& message, effects& out) {
  r.next = behind(at);
  if (hidden(at) || !r.filter.takes(message->properties())) return;
  hold(r, {at, at});
  r.spec.credit -= static_cast<std::int64_t>(message->footprint());
  delivery d;
  d.to = r.spec.id;
  d.at = at;
  d.message = message;
  out.deliveries.push_back(std::move(d));
}

bool stream_log::search_on(reader& r, effects& out) {
  auto& s = *r.looking;
  if (chunk_ && chunk_->by == r.spec.id && chunk_->searches && !chunk_->messages.empty()) {
    const auto& found = chunk_->messages.front();
    if (found.expires_at < s.came_at) {
      s.low = std::max(s.low, behind(found.at));
    } else {
      s.high = std::min(s.high, chunk_->where.first);
    }
    chunk_.reset();
  }
  s.low = std::max(s.low, first_);
  if (s.low < s.high) {
    const sequence middle{s.low.value + (s.high.value - s.low.value) / 2};
    ask(r, {middle, s.there}, true, out);
    return false;
  }
  r.next = std::max(s.low, s.high);
  r.looking.reset();
  return true;
}

}  // namespace posthorn
