// Of a mailbox: ready messages go out to the consumers that can take them, or expire at the head; and what is only in
// the store is read back.
#include "mailbox/mailbox.hpp"

#include "mailbox/consumer_order.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <limits>

namespace posthorn {

namespace {

// How much is read back from the store at once: enough to be worth a read transaction, little beside the budget.
constexpr std::size_t load_count_max = 1024;
constexpr std::size_t load_size_max = std::size_t{1} << 20;

}  // namespace

// Where the next message comes from, unless one was returned; null only with levels.
inline mailbox::lane* mailbox::first_lane() noexcept {
  if (!levels_) return &lane_;
  for (auto& [level, its] : levels_->lanes) {
    if (!its.empty()) return &its;
  }
  return nullptr;
}

// Whether the next message is one that was returned.
inline bool mailbox::returned_first() const noexcept {
  if (returned_.empty()) return false;
  if (!levels_ || book_->rules.quorum) return true;
  for (const auto& [level, its] : levels_->lanes) {
    if (!its.empty()) return level <= returned_.begin()->second.level;
  }
  return true;
}

bool mailbox::able(const holder& h) const noexcept {
  return h.consuming && !h.suspended && h.spec.credit > 0 &&
         (h.spec.prefetch == 0 || h.held_count < h.spec.prefetch);
}

void mailbox::join_turns(holder& h) {
  if (order_) [[unlikely]] {
    if (h.consuming) order_->update(h.spec.id, able(h), h.held_count == 0);
    return;
  }
  if (h.in_turn || !able(h)) return;
  h.in_turn = true;
  turns_.push_back(&h);
}

void mailbox::leave_turns(holder& h) {
  if (order_) return order_->remove(h.spec.id);
  if (!h.in_turn) return;
  h.in_turn = false;
  // Those that end at once, as connections do, often end in the order in which they came: then it stands in front.
  std::size_t at = 0;
  while (turns_[at] != &h) ++at;
  for (; at > 0; --at) turns_[at] = turns_[at - 1];
  turns_.pop_front();
}

// From now on, consumers are more than turns.
void mailbox::make_order() {
  consumer_order_settings settings;
  if (book_) {
    settings.rule = book_->rules.dispatch;
    settings.single_active = book_->rules.single_active;
    settings.quorum = book_->rules.quorum;
  }
  order_ = std::make_unique<consumer_order>(settings);
  const auto enter = [this](const holder& h) {
    order_->add(h.spec.id, h.spec.priority, h.spec.weight, h.in_turn);
    order_->update(h.spec.id, able(h), h.held_count == 0);
  };
  for (; !turns_.empty(); turns_.pop_front()) enter(*turns_.front());
  for (auto& [id, h] : holders_) {
    if (h->consuming && !h->in_turn && !h->suspended) enter(*h);
    h->in_turn = false;
  }
}

// By another rule from now on.
void mailbox::change_order() {
  if (!order_) {
    make_order();
  } else {
    const auto members = order_->members();
    order_ = std::make_unique<consumer_order>(
        consumer_order_settings{book_->rules.dispatch, book_->rules.single_active, book_->rules.quorum});
    for (const auto id : members) {
      const auto& h = *holders_.at(id);
      order_->add(id, h.spec.priority, h.spec.weight);
      order_->update(id, able(h), h.held_count == 0);
    }
  }
  if (!order_->follows()) return;
  for (const auto& [id, h] : holders_) {
    for (std::size_t i = 0; h->consuming && i < h->held.size(); ++i) {
      const entry& e = h->held[i];
      if (e.gone() || !e.message) continue;
      order_->took(id, e.at, order_->keyed() ? key_of(*e.message) : std::string{});
    }
  }
}

void mailbox::dispatch(effects& out, std::int64_t now) {
  if (book_ && book_->look != 0 && book_->look <= now) [[unlikely]]
    look_at_holders(now, out);
  if (book_ && !book_->wakes.empty() && book_->wakes.begin()->first <= now) [[unlikely]]
    wake_parked(now, out);
  if (book_ && book_->came_back) {
    // As RabbitMQ does: what comes back to a classic queue that is full makes room before it goes out again.
    while (!book_->rules.quorum && has_too_many()) {
      if (front(out, true) == nullptr) {
        fresh_ = next_;
        return;
      }
      drop_front(death_reason::maxlen, out);
    }
    book_->came_back = false;
  }
  if (order_) {
    dispatch_in_order(out, now);
    fresh_ = next_;
    return;
  }
  // As in RabbitMQ, who can take no more loses the place in the row when it is the next to get a message, and in a
  // quorum queue at once.
  const bool leaves_at_once = book_ && book_->rules.quorum;
  // Held bodies that the store does not have are memory that only an acknowledgement gives back.
  while (!turns_.empty() && held_resident_ < held_max_) {
    holder& h = *turns_.front();
    if (!able(h)) {
      if (ready_count() == 0) break;
      turns_.pop_front();
      h.in_turn = false;
      continue;
    }
    entry* next = next_ready(out);
    if (next == nullptr) {
      if (!out.load) break;
      fresh_ = next_;
      return;
    }
    if (next->expires_at != 0 && is_too_late(*next, now)) [[unlikely]] {
      drop_front(death_reason::expired, out);
      continue;
    }
    hand_out_next(h, *next, out, now);
    if (leaves_at_once && !able(h)) {
      turns_.pop_front();
      h.in_turn = false;
    } else if (turns_.size() > 1) {
      turns_.pop_front();
      turns_.push_back(&h);
    }
  }
  fresh_ = next_;
  if (may_expire_ || book_) expire(now, out);
}

void mailbox::dispatch_in_order(effects& out, std::int64_t now) {
  for (;;) {
    hand_out_in_order(out, now);
    if (out.load || (!may_expire_ && !book_)) return;
    const auto before = ready_count();
    expire(now, out);
    // What waited for a certain consumer may be what went, and those behind it may have others.
    if (!order_->keyed() || out.load || ready_count() == before) return;
  }
}

void mailbox::hand_out_in_order(effects& out, std::int64_t now) {
  while (held_resident_ < held_max_) {
    if (!order_->anybody()) {
      if (ready_count() != 0) order_->pass_over();
      return;
    }
    entry* next = next_ready(out);
    if (next == nullptr) return;
    if (next->expires_at != 0 && is_too_late(*next, now)) {
      drop_front(death_reason::expired, out);
      continue;
    }
    const auto key = order_->keyed() ? key_of(*next->message) : std::string{};
    const auto id = order_->choose(key);
    if (!id) return;
    holder& h = *holders_.at(*id);
    if (h.spec.acknowledges && order_->follows()) order_->took(*id, next->at, key);
    hand_out_next(h, *next, out, now);
    join_turns(h);
  }
}

// As in RabbitMQ, who waits for a message of a classic queue does not hear that others had it before it came here.
bool mailbox::goes_at_once(const envelope& message) {
  return (!book_ || !book_->rules.quorum) && ready_count() == 0 && can_take_at_once(message);
}

// Whether a message that comes now, when none is ready, would not have to wait.
bool mailbox::can_take_at_once(const envelope& message) {
  if (held_resident_ >= held_max_) return false;
  if (order_) return order_->can_take(order_->keyed() ? key_of(message) : std::string{});
  for (; !turns_.empty(); turns_.pop_front()) {
    if (able(*turns_.front())) return true;
    turns_.front()->in_turn = false;
  }
  return false;
}

// By which a hash chooses; empty: by nothing.
std::string mailbox::key_of(const envelope& message) const {
  const auto& header = book_->rules.hash_header;
  if (!header) return std::string{message.routing_key()};
  const auto headers = decode_table(headers_of(message.properties()));
  const auto* value = headers ? headers->find(*header) : nullptr;
  return value != nullptr ? to_string(*value) : std::string{};
}

std::size_t mailbox::told_consumer_count() const noexcept {
  if (!book_ || !book_->rules.quorum) return consumer_count_;
  std::size_t count = consumer_count_;
  if (book_->rules.single_active) count = active_consumer() ? 1 : 0;
  for (const auto& [id, h] : holders_) {
    if (!h->consuming) count += h->fetches ? h->held_count : 1;
  }
  return count;
}

bool mailbox::fetch(consumer_id id, bool acknowledges, effects& out, std::int64_t now) {
  entry* next = next_ready(out);
  for (; next != nullptr && next->expires_at != 0 && is_too_late(*next, now); next = next_ready(out)) {
    drop_front(death_reason::expired, out);
  }
  if (next == nullptr) return false;
  holder& h = holder_of({.id = id, .acknowledges = true});
  h.fetches = !h.consuming;
  const bool asked = h.spec.acknowledges;
  h.spec.acknowledges = acknowledges;
  hand_out_next(h, *next, out, now);
  h.spec.acknowledges = asked;
  drop_if_idle(h);
  if (may_expire_) {
    expire(now, out);
    out.load.reset();
  }
  return true;
}

// The front of the ready messages, perhaps without its body; or null. What is only in the store is asked for if `load`, or
// if it may expire.
mailbox::entry* mailbox::front(effects& out, bool load) {
  if (returned_first()) return &returned_.begin()->second;
  const lane* its = first_lane();
  if (its == nullptr) return nullptr;
  if (its->head.empty() && its->hole.count != 0 && !load && !its->hole.expires) return nullptr;
  return next_ready(out);
}

// In its last millisecond, only who waited for it when it came may have it.
bool mailbox::is_too_late(const entry& e, std::int64_t now) const noexcept {
  return e.expires_at < now || (e.expires_at == now && e.at < fresh_);
}

std::optional<std::int64_t> mailbox::next_expiry() const {
  auto due = head_expiry();
  if (!book_) return due;
  if (!book_->wakes.empty()) due = std::min(due.value_or(INT64_MAX), book_->wakes.begin()->first);
  if (book_->look != 0) due = std::min(due.value_or(INT64_MAX), book_->look);
  return due;
}

std::optional<std::int64_t> mailbox::head_expiry() const {
  if (!may_expire_) return std::nullopt;
  const entry* e = nullptr;
  if (returned_first()) {
    e = &returned_.begin()->second;
  } else {
    const lane* its = &lane_;
    if (levels_) {
      const auto& lanes = levels_->lanes;
      const auto found =
          std::find_if(lanes.begin(), lanes.end(), [](const auto& l) { return !l.second.empty(); });
      if (found == lanes.end()) return std::nullopt;
      its = &found->second;
    }
    if (!its->head.empty()) {
      e = &its->head.front();
    } else if (its->hole.count != 0) {
      return its->hole.expires ? std::optional<std::int64_t>{0} : std::nullopt;
    } else if (!its->tail.empty()) {
      e = &its->tail.front();
    }
  }
  return e != nullptr && e->expires_at != 0 ? std::optional<std::int64_t>{e->expires_at} : std::nullopt;
}

void mailbox::expire(std::int64_t now, effects& out) {
  for (;;) {
    const bool many = has_too_many();
    if (!many && !may_expire_) return;
    const entry* e = front(out, many);
    if (e == nullptr) break;
    if (e->expires_at != 0 && e->expires_at <= now) {
      drop_front(death_reason::expired, out);
    } else if (many) {
      drop_front(death_reason::maxlen, out);
    } else {
      return;
    }
  }
  if (ready_count() == 0 && held_count_ == 0 && (!book_ || book_->parked.empty())) may_expire_ = false;
}

void mailbox::drop_front(death_reason why, effects& out) {
  const entry e = take_next();
  if (e.message) resident_ -= e.message->footprint();
  end(e, why, out);
}

// The front of the ready messages, with its body in memory; or null, with a request in `out` if it is in the store.
mailbox::entry* mailbox::next_ready(effects& out) {
  if (returned_first()) {
    entry& e = returned_.begin()->second;
    if (e.message) return &e;
    out.load = load_request{{e.at, e.at}, 1, 0};
    if (levels_) levels_->asked.reset();
    return nullptr;
  }
  lane* its = first_lane();
  if (its == nullptr) return nullptr;
  auto& [head, hole, tail, passed] = *its;
  if (head.empty()) {
    if (hole.count != 0) {
      out.load = load_request{
          {hole.first, hole.last}, load_count_max, std::min(load_size_max, limits_.resident_max / 4 + 1)};
      if (levels_) {
        for (const auto& [level, l] : levels_->lanes) {
          if (&l == its) levels_->asked = level;
        }
      }
      return nullptr;
    }
    if (tail.empty()) return nullptr;
    head = std::move(tail);
  }
  return &head.front();
}

mailbox::entry mailbox::take_next() {
  entry e;
  if (returned_first()) {
    e = std::move(returned_.begin()->second);
    returned_.erase(returned_.begin());
  } else {
    lane& its = *first_lane();
    e = std::move(its.head.front());
    its.head.pop_front();
    its.passed = std::max(its.passed, e.at);
  }
  ready_size_ -= e.size;
  return e;
}

// The front of the ready messages goes to `h`.
inline void mailbox::hand_out_next(holder& h, entry& next, effects& out, std::int64_t now) {
  ready_size_ -= next.size;
  const bool returned = returned_first();
  lane* its = returned ? nullptr : first_lane();
  if (!returned) its->passed = std::max(its->passed, next.at);
  if (book_ && book_->rules.quorum) [[unlikely]]
    note_taking(next, returned);
  hand_out(h, std::move(next), out, now);
  if (returned) {
    returned_.erase(returned_.begin());
  } else {
    its->head.pop_front();
  }
}

// In which order a holder's messages go back when it is gone: that in which it got them.
void mailbox::note_taking(entry& e, bool returned) {
  if (!returned && book_->taken_last < e.at) {
    book_->taken_last = e.at;
    return;
  }
  inherit_counts(e);
  auto& counts = counts_of(e);
  counts.taken_after = book_->taken_last;
  counts.taken = ++book_->taken_count;
}

// What an earlier queue has counted goes on counting [49].
void mailbox::inherit_counts(entry& e) {
  if (e.counted || !e.redelivered || !e.message->delivered_before()) return;
  if (const auto before = failed_deliveries_of(*e.message); before != 0) counts_of(e).attempts = before;
}

void mailbox::hand_out(holder& h, entry&& e, effects& out, std::int64_t now) {
  const auto footprint = e.message->footprint();
  out.deliveries.push_back({h.spec.id, e.at, e.message, e.redelivered});
  if (e.redelivered) [[unlikely]] {
    if (book_ && book_->rules.quorum) inherit_counts(e);
    if (e.counted) {
      const auto counts = return_counts_.at(e.at);
      out.deliveries.back().attempts = counts.attempts;
      out.deliveries.back().returns = counts.returns;
    }
  }
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
  if (h.limit.unit != 0) stamp(h, e, now);
  hold(h, std::move(e));
}

// A message as it is read from the store. Its body counts only when it is put somewhere.
mailbox::entry mailbox::entry_of(loaded_message& m) const {
  entry e;
  e.at = m.at;
  e.size = static_cast<std::uint32_t>(m.message->body().size());
  e.where = kept::in_store;  // whether it has to survive or not
  e.redelivered = m.at <= recovered_last_ || m.message->delivered_before();
  if (levels_) e.level = level_of(*m.message);
  e.expires_at = m.expires_at;
  e.message = std::move(m.message);
  return e;
}

// Of all that is not returned, nothing stands before this.
sequence mailbox::first_unreturned() const noexcept {
  sequence first{std::numeric_limits<std::uint64_t>::max()};
  const auto look = [&](const lane& its) {
    if (!its.head.empty()) first = std::min(first, its.head.front().at);
    if (its.hole.count != 0) first = std::min(first, its.hole.first);
    if (!its.tail.empty()) first = std::min(first, its.tail.front().at);
  };
  if (!levels_) {
    look(lane_);
  } else {
    for (const auto& [level, its] : levels_->lanes) look(its);
  }
  return first;
}

void mailbox::on_loaded(std::span<loaded_message> messages) {
  if (!claimed_.empty()) {
    claimed_.erase(claimed_.begin(), std::lower_bound(claimed_.begin(), claimed_.end(), first_unreturned()));
  }
  for (auto& m : messages) {
    const auto footprint = m.message->footprint();
    if (!levels_ || !levels_->asked) {
      if (const auto found = find_returned(m.at); found != returned_.end()) {
        if (!found->second.message) {
          resident_ += footprint;
          found->second.message = std::move(m.message);
        }
        continue;
      }
      if (levels_) continue;
    }
    auto& [head, hole, tail, passed] = levels_ ? levels_->lanes.at(*levels_->asked) : lane_;
    expects(hole.count > 0 && hole.first <= m.at && m.at <= hole.last,
            "a message that was asked for is loaded");
    hole.first = {m.at.value + 1};
    if (!given_.empty() && given(m.at)) continue;  // it will arrive
    // Those of other levels have a time of their own.
    if (levels_ && level_of(*m.message) != *levels_->asked) continue;
    if (std::binary_search(claimed_.begin(), claimed_.end(), m.at)) continue;
    entry e = entry_of(m);
    if (e.expires_at != 0) may_expire_ = true;
    resident_ += footprint;
    --hole.count;
    hole.size -= e.size;
    head.push_back(std::move(e));
    if (hole.count == 0) {  // what is left of the page was claimed, or is of other levels
      hole = {};
      break;
    }
  }
}

}  // namespace posthorn
