// Of a mailbox: consumers come and go, answer for what they hold, and may take only so long for it.
#include "mailbox/mailbox.hpp"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

namespace posthorn {

namespace {

// Deliveries of one consumer that go back in one step, because it took too long.
constexpr std::size_t late_max = 4096;

// A time limit of a consumer is so many of its units.
constexpr std::int64_t units_of_timeout = 8192;

}  // namespace

mailbox::holder& mailbox::holder_of(const consumer_spec& spec) {
  auto& slot = holders_[spec.id];
  if (!slot) {
    slot = std::make_unique<holder>();
    slot->spec = spec;
  }
  return *slot;
}

void mailbox::add_consumer(const consumer_spec& spec) {
  holder& h = holder_of(spec);
  expects(!h.consuming, "a consumer is added once");
  h.spec = spec;
  h.consuming = true;
  set_timeout(h, 0);
  ++consumer_count_;
  if (!order_ && spec.priority != 0) {
    h.consuming = false;
    make_order();
    h.consuming = true;
  }
  if (order_) {
    order_->add(spec.id, spec.priority, spec.weight);
    join_turns(h);
  } else if (!h.in_turn && (able(h) || !book_ || !book_->rules.quorum)) {
    // Able or not: it has its place by the time at which it came. But in a quorum queue, only who is able has one.
    h.in_turn = true;
    turns_.push_back(&h);
  }
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

template <class Back>
void mailbox::release_to(consumer_id id, Back back) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  holder& h = *found->second;
  if (h.consuming) --consumer_count_;
  h.consuming = false;
  leave_turns(h);
  // A quorum queue takes them back in the order in which they were handed out [50].
  const bool by_taking = book_ && book_->rules.quorum;
  std::vector<std::tuple<sequence, std::uint64_t, entry>> taken;
  while (!h.held.empty()) {
    entry e = std::move(h.held.front());
    h.held.pop_front();
    if (e.gone()) continue;
    if (order_) order_->let_go(e.at, left::unanswered);
    if (!by_taking) {
      back(std::move(e));
      continue;
    }
    const auto counts = e.counted ? return_counts_.at(e.at) : return_counts{};
    taken.emplace_back(counts.taken != 0 ? counts.taken_after : e.at, counts.taken, std::move(e));
  }
  std::sort(taken.begin(), taken.end(), [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
  });
  for (auto& [after, count, e] : taken) back(std::move(e));
  held_count_ -= h.held_count;
  holders_.erase(found);
}

void mailbox::release(consumer_id id, effects& out, blame why, std::int64_t now) {
  release_to(id, [&](entry e) { come_back(std::move(e), out, why, now); });
}

void mailbox::release(consumer_id id) {
  release_to(id, [this](entry e) { put_back(std::move(e)); });
}

void mailbox::grant(consumer_id id, std::int64_t bytes) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  found->second->spec.credit += bytes;
  join_turns(*found->second);
}

void mailbox::set_credit(consumer_id id, std::int64_t bytes) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  found->second->spec.credit = bytes;
  join_turns(*found->second);
}

void mailbox::claim(const consumer_spec& as, std::span<loaded_message> messages) {
  std::vector<loaded_message*> in_order;
  in_order.reserve(messages.size());
  for (auto& m : messages) in_order.push_back(&m);
  std::sort(in_order.begin(), in_order.end(),
            [](const loaded_message* a, const loaded_message* b) { return a->at < b->at; });
  holder& h = holder_of(as);
  const auto take = [&](entry e) {
    ready_size_ -= e.size;
    if (e.message && stored(e)) {
      resident_ -= e.message->footprint();
      e.message.reset();
    }
    if (e.message) held_resident_ += e.message->footprint();
    hold(h, std::move(e));
  };
  const auto follow = [&](const loaded_message& m) {
    if (order_ && order_->follows() && m.message)
      order_->took(as.id, m.at, order_->keyed() ? key_of(*m.message) : std::string{});
  };
  std::vector<sequence> claimed;
  const auto take_from = [&](ring<entry>& part) {
    // Few are claimed, and once in the life of an actor: so the others move up.
    auto wanted = in_order.begin();
    std::size_t end = 0;
    const auto size = part.size();
    for (std::size_t index = 0; index < size; ++index) {
      while (wanted != in_order.end() && (*wanted)->at < part[index].at) ++wanted;
      if (wanted != in_order.end() && (*wanted)->at == part[index].at) {
        claimed.push_back(part[index].at);
        follow(**wanted);
        take(std::move(part[index]));
      } else {
        if (end != index) part[end] = std::move(part[index]);
        ++end;
      }
    }
    while (part.size() > end) part.pop_back();
  };
  for (auto* m : in_order) {
    if (const auto found = find_returned(m->at); found != returned_.end()) {
      follow(*m);
      take(std::move(found->second));
      returned_.erase(found);
      continue;
    }
    if (!m->message) continue;
    auto& hole = lane_of(levels_ ? level_of(*m->message) : std::uint8_t{0}).hole;
    if (hole.count != 0 && hole.first <= m->at && m->at <= hole.last &&
        !std::binary_search(claimed_.begin(), claimed_.end(), m->at) &&
        (claimed.empty() || claimed.back() != m->at)) {
      claimed.push_back(m->at);
      follow(*m);
      entry e = entry_of(*m);
      if (e.expires_at != 0) may_expire_ = true;
      --hole.count;
      hole.size -= e.size;
      resident_ += e.message->footprint();
      take(std::move(e));
      if (hole.count == 0) hole = {};
    }
  }
  for_each_lane([&](lane& its) {
    take_from(its.head);
    take_from(its.tail);
  });
  claimed_.insert(claimed_.end(), claimed.begin(), claimed.end());
  std::sort(claimed_.begin(), claimed_.end());
  after_taking(h);
}

bool mailbox::holds(consumer_id id, sequence at) const {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return false;
  const auto& held = found->second->held;
  std::size_t low = 0, high = held.size();
  while (low < high) {
    const auto middle = (low + high) / 2;
    if (held[middle].at < at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  // A message that came back to its holder stands behind what is left of its first stay.
  for (; low < held.size() && held[low].at == at; ++low) {
    if (!held[low].gone()) return true;
  }
  return false;
}

void mailbox::drop_if_idle(holder& h) {
  if (!h.consuming && h.held_count == 0) holders_.erase(consumer_id{h.spec.id});
}

// --- answers of consumers ---------------------------------------------------------------------------------------

template <class Take>
void mailbox::take_held(holder& h, std::span<const sequence_range> which, left how, Take take) {
  const auto take_entry = [&](entry& e) {
    if (e.gone()) return;
    --h.held_count;
    --held_count_;
    if (e.message) held_resident_ -= e.message->footprint();
    if (order_) [[unlikely]]
      order_->let_go(e.at, how);
    take(e);
    e.message.reset();
    e.where = kept::gone;
  };
  for (const auto& range : which) {
    // Nearly always, the oldest are answered first.
    while (!h.held.empty() &&
           (h.held.front().gone() || (range.first <= h.held.front().at && h.held.front().at <= range.last))) {
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
  while (!h.held.empty() && h.held.back().gone()) h.held.pop_back();
}

void mailbox::after_taking(holder& h) {
  join_turns(h);
  drop_if_idle(h);
}

void mailbox::acknowledge(consumer_id id, std::span<const sequence_range> which, effects& out) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, left::answered, [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out);
  });
  answer_owed(*found->second, which);
  after_taking(*found->second);
}

void mailbox::finish(consumer_id id, std::span<const sequence_range> which, effects& out) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  demand_batch();
  take_held(*found->second, which, left::answered, [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out, true);
  });
  after_taking(*found->second);
}

void mailbox::reject(consumer_id id, std::span<const sequence_range> which, effects& out, blame why) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, left::answered, [&](entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    if (why == blame::yes) {
      count_failure(e);
      count_return(e);
    }
    end(e, death_reason::rejected, out, why);
  });
  answer_owed(*found->second, which);
  after_taking(*found->second);
}

void mailbox::give_back(consumer_id id, std::span<const sequence_range> which, effects& out, blame why,
                        std::int64_t now) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, left::unanswered, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();  // come_back takes it off again
    come_back(std::move(e), out, why, now);
  });
  answer_owed(*found->second, which);
  after_taking(*found->second);
}

void mailbox::give_back(consumer_id id, std::span<const sequence_range> which) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, left::unanswered, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();  // put_back takes it off again
    put_back(std::move(e));
  });
  answer_owed(*found->second, which);
  after_taking(*found->second);
}

void mailbox::set_aside(consumer_id from, consumer_id keeper, std::span<const sequence_range> which) {
  const auto found = holders_.find(from);
  if (found == holders_.end()) return;
  holder& h = *found->second;
  holder& k = holder_of({.id = keeper});
  expects(&k != &h && !k.consuming, "who keeps messages aside takes none by himself");
  take_held(h, which, left::unanswered, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();
    hold(k, std::move(e));
  });
  after_taking(h);
  drop_if_idle(k);
}

// From a holder, to where it stood; or away, if it was delivered too often [49].
void mailbox::come_back(entry e, effects& out, blame why, std::int64_t now) {
  if (why == blame::yes) {
    count_failure(e);
    if (book_ && book_->rules.delivery_limit && counts_of(e).attempts > *book_->rules.delivery_limit) {
      count_return(e);
      if (e.message) {
        held_resident_ -= e.message->footprint();
        resident_ -= e.message->footprint();
      }
      return end(e, death_reason::delivery_limit, out, why);
    }
  }
  if (stands_aside(why)) return stand_aside(std::move(e), now);
  put_back(std::move(e));
}

// Neither counts further than it can.
void mailbox::count_failure(entry& e) {
  auto& attempts = counts_of(e).attempts;
  if (attempts < std::numeric_limits<std::uint16_t>::max()) ++attempts;
}
void mailbox::count_return(entry& e) {
  e.redelivered = true;
  auto& counts = counts_of(e);
  counts.taken = 0;
  if (counts.returns < std::numeric_limits<std::uint16_t>::max()) ++counts.returns;
}

mailbox::return_counts& mailbox::counts_of(entry& e) {
  e.counted = true;
  return return_counts_[e.at];
}

void mailbox::put_back(entry e) {
  if (e.message) held_resident_ -= e.message->footprint();
  count_return(e);
  put_ready(std::move(e));
}

// Among the returned ones.
void mailbox::put_ready(entry e) {
  ready_size_ += e.size;
  return_place place{0, e.at.value};
  if (book_) {
    book_->came_back = true;
    if (book_->rules.quorum) {
      place.order = ++book_->return_count;
    } else if (levels_) {
      place.below_top = std::numeric_limits<std::uint8_t>::max() - e.level;
    }
  }
  returned_.emplace(place, std::move(e));
}

// --- time limits of holders [54] ----------------------------------------------------------------------------------

std::int64_t mailbox::timeout_of(const consumer_spec& spec) const noexcept {
  if (!book_ || !book_->rules.quorum || !spec.acknowledges) return 0;
  if (spec.timeout) return spec.timeout->count();
  return book_->rules.consumer_timeout.value_or(limits_.consumer_timeout).count();
}

// What it holds keeps the time at which it was handed out; without a limit, nobody has noted that.
void mailbox::set_timeout(holder& h, std::int64_t now) {
  const auto before = h.limit;
  const auto all = timeout_of(h.spec);
  if (all == before.all) return;
  h.limit = {all, all == 0 ? 0 : all / units_of_timeout + 1, 0};
  if (all == 0 || h.held_count == 0) return;
  for (std::size_t i = 0; i < h.held.size(); ++i) {
    entry& e = h.held[i];
    if (e.gone()) continue;
    std::int64_t age = 0;
    if (before.unit != 0) {
      const auto units = static_cast<std::int16_t>(static_cast<std::uint16_t>(now / before.unit) - e.since);
      age = std::min(std::max<std::int64_t>(units, 0) * before.unit, all);
    }
    e.since = static_cast<std::uint16_t>((now - age) / h.limit.unit);
  }
  h.limit.look = std::max<std::int64_t>(now, 1);
  book_->look = h.limit.look;
}

// It is handed out.
void mailbox::stamp(holder& h, entry& e, std::int64_t now) {
  e.since = static_cast<std::uint16_t>(now / h.limit.unit);
  if (h.limit.look != 0) return;
  h.limit.look = now + h.limit.all;
  if (book_->look == 0 || h.limit.look < book_->look) book_->look = h.limit.look;
}

void mailbox::look_at_holders(std::int64_t now, effects& out) {
  std::vector<consumer_id> late;
  for (const auto& [id, h] : holders_) {
    if (h->limit.look != 0 && h->limit.look <= now) late.push_back(id);
  }
  std::sort(late.begin(), late.end());  // the same order on every node
  for (const auto id : late) look_at(*holders_.at(id), now, out);
  book_->look = 0;
  for (const auto& [id, h] : holders_) {
    if (h->limit.look != 0 && (book_->look == 0 || h->limit.look < book_->look)) book_->look = h->limit.look;
  }
}

// Perhaps it has taken too long.
void mailbox::look_at(holder& h, std::int64_t now, effects& out) {
  std::vector<sequence_range> late;
  std::optional<std::int64_t> oldest;  // of the others; in units
  const auto current = static_cast<std::uint16_t>(now / h.limit.unit);
  for (std::size_t i = 0; i < h.held.size(); ++i) {
    entry& e = h.held[i];
    if (e.gone()) continue;
    auto age = static_cast<std::int16_t>(current - e.since);
    if (age < 0) {  // the clock was set back
      e.since = current;
      age = 0;
    }
    // Both ends of it were rounded down.
    if (age * h.limit.unit >= h.limit.all + h.limit.unit - 1 && late.size() < late_max) {
      late.push_back({e.at, e.at});
    } else {
      oldest = std::max<std::int64_t>(oldest.value_or(0), age);
    }
  }
  h.limit.look = 0;
  if (oldest) h.limit.look = std::max(now + h.limit.all + h.limit.unit - 1 - *oldest * h.limit.unit, now + 1);
  if (late.empty()) return;
  take_held(h, late, left::unanswered, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();  // come_back takes it off again
    come_back(std::move(e), out, blame::no, now);
  });
  if (!h.consuming) return drop_if_idle(h);
  for (const auto& range : late) h.owed.push_back(range.first);
  std::sort(h.owed.begin(), h.owed.end());
  if (std::exchange(h.suspended, true)) return;
  leave_turns(h);
  out.timeouts.push_back(h.spec.id);
}

// It answers, late. When it owes nothing any more, it stands at the end of the row.
void mailbox::answer_owed(holder& h, std::span<const sequence_range> which) {
  if (!h.suspended) [[likely]]
    return;
  for (const auto& range : which) {
    h.owed.erase(std::lower_bound(h.owed.begin(), h.owed.end(), range.first),
                 std::upper_bound(h.owed.begin(), h.owed.end(), range.last));
  }
  if (!h.owed.empty()) return;
  h.suspended = false;
  if (order_ && h.consuming) order_->add(h.spec.id, h.spec.priority, h.spec.weight, false);
}

}  // namespace posthorn
