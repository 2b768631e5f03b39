#include "mailbox/mailbox.hpp"

#include "mailbox/properties.hpp"

#include <algorithm>
#include <charconv>
#include <limits>

namespace posthorn {

namespace {

// How much is read back from the store at once: enough to be worth a read transaction, little beside the budget.
constexpr std::size_t load_count_max = 1024;
constexpr std::size_t load_size_max = std::size_t{1} << 20;

// Longer than anything lives: a sum with it does not overflow.
constexpr std::int64_t ttl_max = std::int64_t{1} << 60;

// Milliseconds. Whatever is no number was let in by somebody else, and does not expire.
std::optional<std::int64_t> ttl_of(std::string_view expiration) {
  std::uint64_t value = 0;
  const auto* end = expiration.data() + expiration.size();
  const auto [rest, failed] = std::from_chars(expiration.data(), end, value);
  if (rest != end || expiration.empty()) return std::nullopt;
  if (failed == std::errc::result_out_of_range) return ttl_max;
  return static_cast<std::int64_t>(std::min(value, static_cast<std::uint64_t>(ttl_max)));
}

}  // namespace

void effects::settle(publisher_id by, std::uint64_t number, bool rejected) {
  if (!settlements.empty()) {
    auto& last = settlements.back();
    if (last.by == by && last.last + 1 == number && last.rejected == rejected) {
      last.last = number;
      return;
    }
  }
  settlements.push_back({by, number, number, rejected});
}

void effects::clear() noexcept {
  deliveries.clear();
  settlements.clear();
  dead_letters.clear();
  load.reset();
}

mailbox::mailbox(bool durable, mailbox_limits limits, const recovered_mailbox& recovered, mailbox_rules rules)
    : durable_{durable},
      limits_{limits},
      held_max_{limits.resident_max},
      next_{std::max(recovered.used, recovered.last).value + 1} {
  if (rules != mailbox_rules{})
    book_ = std::make_unique<rule_book>(rule_book{std::move(rules), {}, {}, {}, {}});
  if (recovered.count == 0) return;
  expects(recovered.first <= recovered.last, "what was recovered has a first and a last message");
  may_expire_ = recovered.expires || (book_ && book_->rules.message_ttl);
  hole_ = {recovered.count, recovered.size, recovered.first, recovered.last, may_expire_};
  ready_size_ = recovered.size;
  recovered_last_ = sent_last_ = recovered.last;
}

std::uint64_t mailbox::ready_count() const noexcept {
  return returned_.size() + head_.size() + hole_.count + tail_.size();
}

bool mailbox::has_unsent() const noexcept {
  return unsent_.size() != elided_ || !erasures_.empty() || !spills_.empty() || (book_ && book_->moves);
}

// --- messages come ----------------------------------------------------------------------------------------------

void mailbox::publish(std::span<arrival> messages, effects& out, std::int64_t now) {
  for (auto& m : messages) {
    if (book_ != nullptr && refuses(m.message->body().size(), out, now)) {
      refuse(m, out);
      continue;
    }
    const auto at = next_;
    ++next_.value;
    entry e;
    e.at = at;
    e.size = static_cast<std::uint32_t>(m.message->body().size());
    if (durable_ && m.message->persistent()) e.where = kept::journaled;
    e.expires_at = expiry_of(book_ ? &book_->rules : nullptr, *m.message, now);
    if (e.expires_at != 0) [[unlikely]]
      may_expire_ = true;
    ready_size_ += e.size;
    resident_ += m.message->footprint();
    if (e.persistent()) {
      unsent_.push_back({at, m.message, m.from, m.number, e.expires_at});
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

// The lower of the two counts [57]. 0: never.
std::int64_t expiry_of(const mailbox_rules* rules, const envelope& message, std::int64_t now) {
  std::optional<std::int64_t> ttl;
  if (const auto text = expiration_of(message.properties())) ttl = ttl_of(*text);
  if (rules != nullptr && rules->message_ttl) {
    const auto all = std::min(std::int64_t{rules->message_ttl->count()}, ttl_max);
    ttl = ttl ? std::min(*ttl, all) : all;
  }
  return ttl ? std::max(now + *ttl, std::int64_t{1}) : 0;
}

bool mailbox::too_many(std::uint64_t count, std::uint64_t size) const noexcept {
  const auto& rules = book_->rules;
  return (rules.length_max && count > *rules.length_max) || (rules.size_max && size > *rules.size_max);
}

bool mailbox::has_too_many() const noexcept {
  return book_ && book_->rules.on_overflow == mailbox_rules::overflow::drop_head &&
         too_many(ready_count(), ready_size_);
}

bool mailbox::refuses(std::size_t size, effects& out, std::int64_t now) {
  if (book_->rules.on_overflow == mailbox_rules::overflow::drop_head) return false;
  if (!too_many(ready_count() + 1, ready_size_ + size)) return false;
  // Of several messages that come at once, the first may be on their way before the last has to fit.
  dispatch(out, now);
  out.load.reset();
  return too_many(ready_count() + 1, ready_size_ + size);
}

void mailbox::refuse(arrival& m, effects& out) {
  out.settle(m.from, m.number, true);
  if (book_->rules.on_overflow != mailbox_rules::overflow::reject_publish_dlx ||
      !book_->rules.dead_letter_exchange)
    return;
  book_->moves = true;
  out.dead_letters.push_back({{}, std::move(m.message), death_reason::maxlen});
}

void mailbox::arrive(std::span<loaded_message> messages) {
  for (auto& m : messages) {
    const auto at = m.at;
    entry e = entry_of(m);
    if (e.expires_at != 0) may_expire_ = true;
    ready_size_ += e.size;
    if (hole_.count != 0 && hole_.first <= at && at <= hole_.last) {
      // The store has it between those that are there; it will be read with them.
      ++hole_.count;
      hole_.size += e.size;
      hole_.expires = hole_.expires || e.expires_at != 0;
      continue;
    }
    resident_ += e.message->footprint();
    const bool behind = hole_.count != 0 ? hole_.last < at : !tail_.empty() && tail_.front().at < at;
    auto& part = behind ? tail_ : head_;
    // Others may have overtaken it, but few.
    std::size_t index = part.size();
    while (index > 0 && at < part[index - 1].at) --index;
    part.insert(index, std::move(e));
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
  h.in_turn = false;
  // Those that end at once, as connections do, often end in the order in which they came: then it stands in front.
  std::size_t at = 0;
  while (turns_[at] != &h) ++at;
  for (; at > 0; --at) turns_[at] = turns_[at - 1];
  turns_.pop_front();
}

void mailbox::dispatch(effects& out, std::int64_t now) {
  // Held bodies that the store does not have are memory that only an acknowledgement gives back.
  while (!turns_.empty() && held_resident_ < held_max_) {
    entry* next = next_ready(out);
    if (next == nullptr) return;
    if (next->expires_at != 0 && next->expires_at < now) [[unlikely]] {
      drop_front(death_reason::expired, out);
      continue;
    }
    holder& h = *turns_.front();
    turns_.pop_front();
    h.in_turn = false;
    if (!able(h)) continue;
    hand_out_next(h, *next, out);
    join_turns(h);
  }
  if (may_expire_ || book_) expire(now, out);
}

bool mailbox::fetch(consumer_id id, bool acknowledges, effects& out, std::int64_t now) {
  entry* next = next_ready(out);
  for (; next != nullptr && next->expires_at != 0 && next->expires_at < now; next = next_ready(out)) {
    drop_front(death_reason::expired, out);
  }
  if (next == nullptr) return false;
  holder& h = holder_of({.id = id, .acknowledges = true});
  const bool asked = h.spec.acknowledges;
  h.spec.acknowledges = acknowledges;
  hand_out_next(h, *next, out);
  h.spec.acknowledges = asked;
  drop_if_idle(h);
  return true;
}

// The front of the ready messages, perhaps without its body; or null. What is only in the store is asked for if `load`.
mailbox::entry* mailbox::front(effects& out, bool load) {
  if (!returned_.empty()) return &returned_.begin()->second;
  if (head_.empty() && hole_.count != 0 && !load) return nullptr;
  return next_ready(out);
}

std::optional<std::int64_t> mailbox::next_expiry() const {
  if (!may_expire_) return std::nullopt;
  const entry* e = nullptr;
  if (!returned_.empty()) {
    e = &returned_.begin()->second;
  } else if (!head_.empty()) {
    e = &head_.front();
  } else if (hole_.count != 0) {
    return hole_.expires ? std::optional<std::int64_t>{0} : std::nullopt;
  } else if (!tail_.empty()) {
    e = &tail_.front();
  }
  return e != nullptr && e->expires_at != 0 ? std::optional<std::int64_t>{e->expires_at} : std::nullopt;
}

void mailbox::expire(std::int64_t now, effects& out) {
  for (;;) {
    const bool many = has_too_many();
    if (!many && !may_expire_) return;
    const entry* e = front(out, many || hole_.expires);
    if (e == nullptr) break;
    if (e->expires_at != 0 && e->expires_at <= now) {
      drop_front(death_reason::expired, out);
    } else if (many) {
      drop_front(death_reason::maxlen, out);
    } else {
      return;
    }
  }
  if (ready_count() == 0 && held_count_ == 0) may_expire_ = false;
}

void mailbox::drop_front(death_reason why, effects& out) {
  const entry e = take_next();
  if (e.message) resident_ -= e.message->footprint();
  end(e, why, out);
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

[[gnu::always_inline]] inline void mailbox::hold(holder& h, entry&& e) {
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

// The front of the ready messages goes to `h`.
inline void mailbox::hand_out_next(holder& h, entry& next, effects& out) {
  ready_size_ -= next.size;
  hand_out(h, std::move(next), out);
  if (!returned_.empty()) {
    returned_.erase(returned_.begin());
  } else {
    head_.pop_front();
  }
}

void mailbox::hand_out(holder& h, entry&& e, effects& out) {
  const auto footprint = e.message->footprint();
  out.deliveries.push_back({h.spec.id, e.at, e.message, e.redelivered, e.attempts});
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
  hold(h, std::move(e));
}

// A message as it is read from the store. Its body counts only when it is put somewhere.
mailbox::entry mailbox::entry_of(loaded_message& m) const {
  entry e;
  e.at = m.at;
  e.size = static_cast<std::uint32_t>(m.message->body().size());
  e.where = kept::in_store;  // whether it has to survive or not
  e.redelivered = m.at <= recovered_last_;
  e.expires_at = m.expires_at;
  e.message = std::move(m.message);
  return e;
}

void mailbox::on_loaded(std::span<loaded_message> messages) {
  if (!claimed_.empty()) {
    const auto front = head_.empty() ? hole_.first : head_.front().at;
    claimed_.erase(claimed_.begin(), std::lower_bound(claimed_.begin(), claimed_.end(), front));
  }
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
    hole_.first = {m.at.value + 1};
    if (std::binary_search(claimed_.begin(), claimed_.end(), m.at)) continue;
    entry e = entry_of(m);
    if (e.expires_at != 0) may_expire_ = true;
    resident_ += footprint;
    --hole_.count;
    hole_.size -= e.size;
    head_.push_back(std::move(e));
    if (hole_.count == 0) {  // what is left of the page was claimed
      hole_ = {};
      break;
    }
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
  holder& h = holder_of(spec);
  expects(!h.consuming, "a consumer is added once");
  h.spec = spec;
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

template <class Back>
void mailbox::release_to(consumer_id id, Back back) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  holder& h = *found->second;
  if (h.consuming) --consumer_count_;
  h.consuming = false;
  leave_turns(h);
  while (!h.held.empty()) {
    entry e = std::move(h.held.front());
    h.held.pop_front();
    if (!e.gone()) back(std::move(e));
  }
  held_count_ -= h.held_count;
  holders_.erase(found);
}

void mailbox::release(consumer_id id, effects& out, blame why) {
  release_to(id, [&](entry e) { come_back(std::move(e), out, why); });
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
        take(std::move(part[index]));
      } else {
        if (end != index) part[end] = std::move(part[index]);
        ++end;
      }
    }
    while (part.size() > end) part.pop_back();
  };
  for (auto* m : in_order) {
    if (const auto found = returned_.find(m->at); found != returned_.end()) {
      take(std::move(found->second));
      returned_.erase(found);
    } else if (hole_.count != 0 && hole_.first <= m->at && m->at <= hole_.last && m->message &&
               !std::binary_search(claimed_.begin(), claimed_.end(), m->at) &&
               (claimed.empty() || claimed.back() != m->at)) {
      claimed.push_back(m->at);
      entry e = entry_of(*m);
      if (e.expires_at != 0) may_expire_ = true;
      --hole_.count;
      hole_.size -= e.size;
      resident_ += e.message->footprint();
      take(std::move(e));
      if (hole_.count == 0) hole_ = {};
    }
  }
  take_from(head_);
  take_from(tail_);
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
void mailbox::take_held(holder& h, std::span<const sequence_range> which, Take take) {
  const auto take_entry = [&](entry& e) {
    if (e.gone()) return;
    --h.held_count;
    --held_count_;
    if (e.message) held_resident_ -= e.message->footprint();
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
  take_held(*found->second, which, [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out);
  });
  after_taking(*found->second);
}

void mailbox::finish(consumer_id id, std::span<const sequence_range> which, effects& out) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  demand_batch();
  take_held(*found->second, which, [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    forget(e, out, true);
  });
  after_taking(*found->second);
}

void mailbox::reject(consumer_id id, std::span<const sequence_range> which, effects& out) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, [&](const entry& e) {
    if (e.message) resident_ -= e.message->footprint();
    end(e, death_reason::rejected, out);
  });
  after_taking(*found->second);
}

void mailbox::give_back(consumer_id id, std::span<const sequence_range> which, effects& out, blame why) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  take_held(*found->second, which, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();  // come_back takes it off again
    come_back(std::move(e), out, why);
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

void mailbox::set_aside(consumer_id from, consumer_id keeper, std::span<const sequence_range> which) {
  const auto found = holders_.find(from);
  if (found == holders_.end()) return;
  holder& h = *found->second;
  holder& k = holder_of({.id = keeper});
  expects(&k != &h && !k.consuming, "who keeps messages aside takes none by himself");
  take_held(h, which, [&](entry& e) {
    if (e.message) held_resident_ += e.message->footprint();
    hold(k, std::move(e));
  });
  after_taking(h);
  drop_if_idle(k);
}

// From a holder, to where it stood; or away, if it was delivered too often [49].
void mailbox::come_back(entry e, effects& out, blame why) {
  if (why == blame::yes) {
    if (e.attempts < std::numeric_limits<std::uint16_t>::max()) ++e.attempts;
    if (book_ && book_->rules.delivery_limit && e.attempts > *book_->rules.delivery_limit) {
      if (e.message) {
        held_resident_ -= e.message->footprint();
        resident_ -= e.message->footprint();
      }
      return end(e, death_reason::delivery_limit, out);
    }
  }
  put_back(std::move(e));
}

void mailbox::put_back(entry e) {
  if (e.message) held_resident_ -= e.message->footprint();
  e.redelivered = true;
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
  erase_hole();
  for (std::size_t i = 0; i < tail_.size(); ++i) drop(tail_[i]);
  tail_.clear();
  ready_size_ = 0;
  return count;
}

// All of the hole but what was claimed out of it.
void mailbox::erase_hole() {
  if (hole_.count != 0) {
    auto first = hole_.first;
    for (const auto at : claimed_) {
      if (at < first) continue;
      if (hole_.last < at) break;
      if (first < at) erase_later({first, {at.value - 1}});
      first = {at.value + 1};
    }
    if (first <= hole_.last) erase_later({first, hole_.last});
  }
  hole_ = {};
  claimed_.clear();
}

// --- towards the journal ----------------------------------------------------------------------------------------

// A message goes, and not because somebody has dealt with it: with a dead-letter exchange, a copy of it goes on.
void mailbox::end(const entry& e, death_reason why, effects& out) {
  if (!book_ || !book_->rules.dead_letter_exchange) return forget(e, out);
  book_->moves = true;
  out.dead_letters.push_back({e.at, e.message, why});
  forget(e, out, true);
}

// A message is settled for good: by an acknowledgement, a purge, or a consumer that does not acknowledge; or `moved`, as
// a dead letter.
void mailbox::forget(const entry& e, effects& out, bool moved) {
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
  if (!e.persistent()) return e.where == kept::in_store;
  return e.at <= sent_last_ && (sent_.empty() || e.at < sent_.front().at);
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
  }
  if (std::exchange(spills_under_way_, false)) {
    for (auto* part : {&head_, &tail_}) {
      for (std::size_t i = 0; i < part->size(); ++i) {
        entry& e = (*part)[i];
        if (e.where != kept::being_stored) continue;
        if (spills_.empty() || e.at < spills_.front().at) e.where = kept::in_store;
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
}

void mailbox::settle_all(effects& out) {
  for (const auto& s : sent_) out.settle(s.from, s.number);
  sent_.clear();
  for (; !unsent_.empty(); unsent_.pop_front()) {
    const auto& u = unsent_.front();
    if (u.message) out.settle(u.from, u.number);
  }
  elided_ = 0;
  if (!book_) return;
  for (auto* part : {&book_->moved_under_way, &book_->moved}) {
    for (const auto& m : *part) out.settle(m.by, m.number);
    part->clear();
  }
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
    if (hole_.count == 0) hole_ = {.first = e.at};
    hole_.last = e.at;
    hole_.expires = hole_.expires || e.expires_at != 0;
    ++hole_.count;
    hole_.size += e.size;
    resident_ -= e.message->footprint();
    tail_.pop_front();
  }
  if (resident_ - held_resident_ <= limits_.resident_max || !spills_.empty() || spills_under_way_) return;
  for (std::size_t i = 0; i < tail_.size(); ++i) {
    entry& e = tail_[i];
    if (e.where != kept::in_memory) continue;
    e.where = kept::being_stored;
    spills_.push_back({e.at, e.message, true, e.expires_at});
  }
}

// Held messages that the store has need no body here. The newest stand at the back, and those in front of the first
// one without a body were looked at before.
void mailbox::shed_held() {
  if (held_resident_ <= limits_.resident_max / 2) return;
  for (auto& [id, h] : holders_) {
    for (std::size_t i = h->held.size(); i > 0; --i) {
      entry& e = h->held[i - 1];
      if (e.gone()) continue;
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
