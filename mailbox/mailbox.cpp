#include "mailbox/mailbox.hpp"

#include "mailbox/deduplication.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <tuple>

namespace posthorn {

namespace {

// How much is read back from the store at once: enough to be worth a read transaction, little beside the budget.
constexpr std::size_t load_count_max = 1024;
constexpr std::size_t load_size_max = std::size_t{1} << 20;

// The levels of a quorum queue are 0 to this, and what has no priority stands in the one in the middle [60].
constexpr std::uint8_t quorum_level_max = 31, quorum_level_of_others = 4;

// Messages that stand aside and go on in one step; and deliveries of one consumer that go back in one, because it took too
// long.
constexpr std::size_t wakes_max = 256, late_max = 4096;

// A time limit of a consumer is so many of its units.
constexpr std::int64_t units_of_timeout = 8192;

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
  timeouts.clear();
  load.reset();
}

void recovered_mailbox::count_message(sequence at, const envelope& message, std::int64_t expires_at) {
  const auto note = [&](auto& where) {
    if (where.count++ == 0) where.first = at;
    where.last = at;
    where.size += message.body().size();
  };
  note(*this);
  expires = expires || expires_at != 0;
  if (const auto priority = priority_of(message.properties())) note(priorities[*priority]);
  if (segments) segments->add(at, message.bytes().size(), expires_at);
  if (!keys) return;
  if (const auto key = deduplication_key_of(message.properties())) keys->all.emplace_back(at, *key);
}

void mailbox::change_rules(mailbox_rules rules, std::int64_t now) {
  if (!book_) {
    if (rules == mailbox_rules{}) return;
    book_ = std::make_unique<rule_book>();
  }
  auto& known = book_->rules;
  rules.quorum = known.quorum;
  rules.priority_max = known.priority_max;
  rules.single_active = known.single_active;
  rules.deduplicates = known.deduplicates;
  const bool other_order = rules.dispatch != known.dispatch || rules.hash_header != known.hash_header;
  known = std::move(rules);
  if (other_order && !known.single_active) change_order();
  for (auto& [id, h] : holders_) {
    if (h->consuming) set_timeout(*h, now);
  }
}

mailbox::mailbox(bool durable, mailbox_limits limits, const recovered_mailbox& recovered, mailbox_rules rules)
    : durable_{durable},
      limits_{limits},
      held_max_{limits.resident_max},
      fresh_{std::max(recovered.used, recovered.last).value + 1},
      next_{fresh_} {
  if (rules != mailbox_rules{}) {
    book_ = std::make_unique<rule_book>();
    book_->rules = std::move(rules);
  }
  if (book_ && (book_->rules.quorum || book_->rules.priority_max)) levels_ = std::make_unique<level_book>();
  if (book_ && (book_->rules.single_active || book_->rules.dispatch != balance_algorithm::round_robin))
    make_order();
  if (book_ && book_->rules.deduplicates) {
    book_->kept = std::make_shared<kept_messages>();
    if (recovered.keys) {
      for (const auto& [at, key] : recovered.keys->all) book_->kept->add(key, at);
    }
  }
  if (recovered.count == 0) return;
  expects(recovered.first <= recovered.last, "what was recovered has a first and a last message");
  may_expire_ = recovered.expires || (book_ && book_->rules.message_ttl);
  if (levels_) {
    recover_levels(recovered);
  } else {
    lane_.hole = {recovered.count, recovered.size, recovered.first, recovered.last, may_expire_};
  }
  ready_size_ = recovered.size;
  recovered_last_ = sent_last_ = recovered.last;
}

// Several priorities may share a level, and nothing is known of what has none but what is left of all.
void mailbox::recover_levels(const recovered_mailbox& recovered) {
  stored_part rest{recovered.count, recovered.size, recovered.first, recovered.last, may_expire_};
  const auto join = [this](std::uint8_t level, const stored_part& more) {
    auto& its = levels_->lanes[level].hole;
    const auto before = its;
    its = more;
    if (before.count == 0) return;
    its.count += before.count;
    its.size += before.size;
    its.first = std::min(its.first, before.first);
    its.last = std::max(its.last, before.last);
  };
  const auto most = book_->rules.quorum ? quorum_level_max : *book_->rules.priority_max;
  for (const auto& [priority, its] : recovered.priorities) {
    expects(its.count <= rest.count && its.size <= rest.size, "the priorities are part of the whole");
    rest.count -= its.count;
    rest.size -= its.size;
    join(std::min(priority, most), {its.count, its.size, its.first, its.last, may_expire_});
  }
  if (rest.count != 0) join(book_->rules.quorum ? quorum_level_of_others : std::uint8_t{0}, rest);
}

std::uint8_t mailbox::level_of(const envelope& message) const noexcept {
  const auto priority = priority_of(message.properties());
  if (book_->rules.quorum) return std::min(priority.value_or(quorum_level_of_others), quorum_level_max);
  return std::min(priority.value_or(0), *book_->rules.priority_max);
}

// The highest level first.
template <class Each>
void mailbox::for_each_lane(Each each) {
  if (!levels_) return each(lane_);
  for (auto& [level, its] : levels_->lanes) each(its);
}

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

std::map<mailbox::return_place, mailbox::entry>::iterator mailbox::find_returned(sequence at) {
  if (!levels_) return returned_.find({0, at.value});
  // Nearly always the first: it was asked for.
  return std::find_if(returned_.begin(), returned_.end(),
                      [at](const auto& returned) { return returned.second.at == at; });
}

std::uint64_t mailbox::ready_count() const noexcept {
  std::uint64_t count = returned_.size();
  if (!levels_) return count + lane_.count();
  for (const auto& [level, its] : levels_->lanes) count += its.count();
  return count;
}

bool mailbox::has_unsent() const noexcept {
  return unsent_.size() != elided_ || !erasures_.empty() || !spills_.empty() || (book_ && book_->moves);
}

// --- messages come ----------------------------------------------------------------------------------------------

void mailbox::publish(std::span<arrival> messages, effects& out, std::int64_t now) {
  for (auto& m : messages) {
    if (book_ != nullptr) {
      if (book_->kept && is_there(m, out)) continue;
      if (refuses(*m.message, out, now)) {
        refuse(m, out);
        continue;
      }
    }
    const auto at = next_;
    ++next_.value;
    if (book_ != nullptr && book_->kept) [[unlikely]]
      remember(at, *m.message);
    entry e;
    e.at = at;
    e.size = static_cast<std::uint32_t>(m.message->body().size());
    e.redelivered = m.message->delivered_before() && !goes_at_once(*m.message);
    if (levels_) [[unlikely]]
      e.level = level_of(*m.message);
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
    lane& its = lane_of(e.level);
    if (its.hole.count == 0 && its.tail.empty()) {
      its.head.push_back(std::move(e));
    } else {
      its.tail.push_back(std::move(e));
    }
    if (levels_ && ready_count() == 1) [[unlikely]] {
      // Who waits for it gets it, before one of a higher priority comes that was sent later.
      dispatch(out, now);
      out.load.reset();
    }
  }
  keep_within_memory();
}

// The same is in it already. Whoever has published it again hears what its original's publisher does.
bool mailbox::is_there(const arrival& m, effects& out) {
  const auto key = deduplication_key_of(m.message->properties());
  if (!key) return false;
  const auto original = book_->kept->original_of(*key);
  if (!original) return false;
  if (*original <= settled_up_to()) {
    out.settle(m.from, m.number);
  } else {
    book_->kept->wait_for(*original, m.from, m.number);
  }
  return true;
}

void mailbox::remember(sequence at, const envelope& message) {
  if (const auto key = deduplication_key_of(message.properties())) book_->kept->add(*key, at);
}

// The same for what another actor has stored here: it goes again, and is not read with what stands around it before it has
// gone.
bool mailbox::is_there(const loaded_message& m) {
  const auto key = deduplication_key_of(m.message->properties());
  if (!key || !book_->kept->original_of(*key)) return false;
  erase_later({m.at, m.at});
  claimed_.erase(claimed_.begin(), std::lower_bound(claimed_.begin(), claimed_.end(), first_unreturned()));
  claimed_.insert(std::lower_bound(claimed_.begin(), claimed_.end(), m.at), m.at);
  return true;
}

// What stands up to here is stored, or need not be.
sequence mailbox::settled_up_to() const noexcept {
  if (!sent_.empty()) return {sent_.front().at.value - 1};
  return {(unsent_.empty() ? next_ : unsent_.front().at).value - 1};
}

void mailbox::tell_duplicates(effects& out) {
  if (book_ && book_->kept) book_->kept->on_stored(settled_up_to(), out);
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

bool mailbox::refuses(const envelope& message, effects& out, std::int64_t now) {
  const auto size = message.body().size();
  if (book_->rules.on_overflow == mailbox_rules::overflow::drop_head) return false;
  // As in RabbitMQ, a quorum queue refuses once it holds too much, and a classic one what would be too much, even if
  // somebody waits for it.
  const auto is_too_much = [&] {
    // What has died there and found no way is still there.
    return book_->rules.quorum ? too_many(ready_count() + book_->dead_count, ready_size_ + book_->dead_size)
                               : too_many(ready_count() + 1, ready_size_ + size);
  };
  if (!is_too_much()) return false;
  // Of several messages that come at once, the first may be on their way before the last has to fit.
  dispatch(out, now);
  out.load.reset();
  return is_too_much();
}

void mailbox::refuse(arrival& m, effects& out) {
  out.settle(m.from, m.number, true);
  if (book_->rules.on_overflow != mailbox_rules::overflow::reject_publish_dlx ||
      !book_->rules.dead_letter_exchange)
    return;
  book_->moves = true;
  const bool delivered = m.message->delivered_before();
  out.dead_letters.push_back({{}, std::move(m.message), death_reason::maxlen, delivered});
}

void mailbox::give_away(sequence end) {
  const sequence last{end.value - 1};
  if (!given_.empty() && given_.back().last.value + 1 == next_.value) {
    given_.back().last = last;
  } else {
    given_.push_back({next_, last});
  }
  next_ = end;
}

// It has arrived.
void mailbox::take_given(sequence at) {
  if (next_ <= at) give_away({at.value + 1});
  const auto found = std::lower_bound(given_.begin(), given_.end(), at,
                                      [](const sequence_range& r, sequence a) { return r.last < a; });
  if (found == given_.end() || at < found->first) return;
  const auto whole = *found;
  if (whole.first < at && at < whole.last) {
    found->first = {at.value + 1};
    given_.insert(found, {whole.first, {at.value - 1}});
  } else if (whole.first < at) {
    found->last = {at.value - 1};
  } else if (at < whole.last) {
    found->first = {at.value + 1};
  } else {
    given_.erase(found);
  }
}

bool mailbox::given(sequence at) const noexcept {
  const auto found = std::lower_bound(given_.begin(), given_.end(), at,
                                      [](const sequence_range& r, sequence a) { return r.last < a; });
  return found != given_.end() && found->first <= at;
}

void mailbox::arrive(std::span<loaded_message> messages) {
  for (auto& m : messages) {
    const auto at = m.at;
    fresh_ = std::min(fresh_, at);
    take_given(at);
    if (book_ && book_->kept) [[unlikely]] {
      if (is_there(m)) continue;
      remember(at, *m.message);
    }
    const bool at_once = m.message->delivered_before() && goes_at_once(*m.message);
    entry e = entry_of(m);
    if (at_once) e.redelivered = false;
    if (e.expires_at != 0) may_expire_ = true;
    ready_size_ += e.size;
    auto& [head, hole, tail, passed] = lane_of(e.level);
    if (hole.count != 0 && hole.first <= at && at <= hole.last) {
      // The store has it between those that are there; it will be read with them.
      ++hole.count;
      hole.size += e.size;
      hole.expires = hole.expires || e.expires_at != 0;
      continue;
    }
    resident_ += e.message->footprint();
    const bool behind = hole.count != 0 ? hole.last < at : !tail.empty() && tail.front().at < at;
    auto& part = behind ? tail : head;
    // Others may have overtaken it, but few.
    std::size_t index = part.size();
    while (index > 0 && at < part[index - 1].at) --index;
    part.insert(index, std::move(e));
  }
  keep_within_memory();
}

// --- messages go out --------------------------------------------------------------------------------------------

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

// --- messages stand aside -----------------------------------------------------------------------------------------

bool mailbox::stands_aside(blame why) const noexcept {
  using delayed_retry = mailbox_rules::delayed_retry;
  if (!book_) return false;
  switch (book_->rules.retry) {
    case delayed_retry::disabled: return false;
    case delayed_retry::all: return true;
    case delayed_retry::failed: return why == blame::yes;
    case delayed_retry::returned: return why == blame::no;
  }
  return false;
}

// From a holder.
void mailbox::stand_aside(entry e, std::int64_t now) {
  if (e.message) held_resident_ -= e.message->footprint();
  count_return(e);
  const auto& rules = book_->rules;
  auto delay = rules.retry_min * counts_of(e).returns;
  if (rules.retry_max) delay = std::min(delay, *rules.retry_max);
  if (delay.count() == 0) return put_ready(std::move(e));
  park({.e = std::move(e), .due = now + delay.count()});
}

// Its body counts as in memory, if it has one.
void mailbox::park(parked_entry p) {
  const auto at = p.e.at;
  if (p.dead) {
    ++book_->dead_count;
    book_->dead_size += p.e.size;
  }
  if (p.due != 0) book_->wakes.emplace(p.due, at);
  if (p.e.message) book_->unshed.push_back(at);
  book_->parked.emplace(at, std::move(p));
  shed_parked();
}

// What the store has by now needs no body in memory.
void mailbox::shed_parked() {
  auto& unshed = book_->unshed;
  std::size_t left = 0;
  for (const auto at : unshed) {
    const auto found = book_->parked.find(at);
    if (found == book_->parked.end() || !found->second.e.message) continue;
    entry& e = found->second.e;
    if (stored(e)) {
      resident_ -= e.message->footprint();
      e.message.reset();
    } else {
      unshed[left++] = at;
    }
  }
  unshed.resize(left);
}

// Whose time has come; the rest of many with the next call.
void mailbox::wake_parked(std::int64_t now, effects& out) {
  auto& wakes = book_->wakes;
  for (std::size_t count = 0; count < wakes_max && !wakes.empty() && wakes.begin()->first <= now; ++count) {
    const auto found = book_->parked.find(wakes.begin()->second);
    wakes.erase(wakes.begin());
    if (found->second.dead) {
      found->second.due = 0;
      tell_dead(found->second, found->second.e.message, out);
    } else {
      entry e = std::move(found->second.e);
      book_->parked.erase(found);
      put_ready(std::move(e));
    }
  }
}

void mailbox::tell_dead(const parked_entry& p, const envelope_ptr& message, effects& out) {
  dead_letter dead{p.e.at, message, p.why, p.delivered};
  if (p.e.counted) {
    const auto counts = return_counts_.at(p.e.at);
    dead.attempts = counts.attempts;
    dead.returns = counts.returns;
  }
  dead.waits = p.dead;
  out.dead_letters.push_back(std::move(dead));
}

void mailbox::on_buried(sequence at, effects& out) {
  const auto found = book_->parked.find(at);
  expects(found != book_->parked.end() && found->second.dead, "a dead letter that waits is buried once");
  const entry e = std::move(found->second.e);
  if (found->second.due != 0) book_->wakes.erase({found->second.due, at});
  book_->parked.erase(found);
  --book_->dead_count;
  book_->dead_size -= e.size;
  if (e.message) resident_ -= e.message->footprint();
  book_->moves = true;
  forget(e, out, true);
}

void mailbox::on_no_way(sequence at, std::int64_t now) {
  const auto found = book_->parked.find(at);
  expects(found != book_->parked.end() && found->second.dead && found->second.due == 0,
          "a dead letter that came out finds no way");
  found->second.due = std::max<std::int64_t>(now + limits_.dead_letter_retry.count(), 1);
  book_->wakes.emplace(found->second.due, at);
}

// --- time limits of holders -----------------------------------------------------------------------------------------

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
inline void mailbox::stamp(holder& h, entry& e, std::int64_t now) {
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

// --- towards the journal ----------------------------------------------------------------------------------------

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

// --- memory -----------------------------------------------------------------------------------------------------

void mailbox::keep_within_memory() {
  shed_held();
  const bool over = resident_ - held_resident_ > limits_.resident_max;
  // The front half of the budget stays at hand; what stands behind goes where it can be folded away.
  std::size_t kept_size = 0;
  for_each_lane([&](lane& its) {
    auto& [head, hole, tail, passed] = its;
    if (over && (levels_ || (hole.count == 0 && tail.empty()))) {
      std::size_t index = 0;
      while (index < head.size() && (kept_size < limits_.resident_max / 2 || head[index].at <= passed)) {
        kept_size += head[index++].message->footprint();
      }
      while (head.size() > index) {
        // With levels, what was read from the store may have to go back, for others go first.
        if (hole.count != 0 && !stored(head.back())) break;
        entry e = std::move(head.back());
        head.pop_back();
        if (hole.count == 0) {
          tail.push_front(std::move(e));
          continue;
        }
        hole.first = e.at;
        hole.expires = hole.expires || e.expires_at != 0;
        ++hole.count;
        hole.size += e.size;
        resident_ -= e.message->footprint();
      }
    }
    fold(its);
  });
  if (resident_ - held_resident_ <= limits_.resident_max || !spills_.empty() || spills_under_way_) return;
  kept_size = 0;
  for_each_lane([&](lane& its) {
    std::size_t index = its.head.size();
    if (levels_) {
      index = 0;
      while (index < its.head.size() && kept_size < limits_.resident_max / 2) {
        kept_size += its.head[index++].message->footprint();
      }
    }
    spill(its, index);
  });
  if (book_) {
    for (const auto at : book_->unshed) {
      const auto found = book_->parked.find(at);
      if (found == book_->parked.end() || found->second.e.where != kept::in_memory) continue;
      entry& e = found->second.e;
      if (!e.message) continue;
      e.where = kept::being_stored;
      spills_.push_back({e.at, e.message, true, e.expires_at});
    }
  }
  if (levels_) {
    std::sort(spills_.begin(), spills_.end(),
              [](const journal_append& a, const journal_append& b) { return a.at < b.at; });
  }
}

// What stands behind the hole and is in the store becomes a part of it.
void mailbox::fold(lane& its) {
  auto& [head, hole, tail, passed] = its;
  while (!tail.empty() && stored(tail.front())) {
    const entry& e = tail.front();
    if (hole.count == 0) hole = {.first = e.at};
    hole.last = e.at;
    hole.expires = hole.expires || e.expires_at != 0;
    ++hole.count;
    hole.size += e.size;
    resident_ -= e.message->footprint();
    tail.pop_front();
  }
}

// What need not survive is to be written, from this place in the head on.
void mailbox::spill(lane& its, std::size_t from) {
  const auto write = [this](entry& e) {
    if (e.where != kept::in_memory) return;
    e.where = kept::being_stored;
    spills_.push_back({e.at, e.message, true, e.expires_at});
  };
  for (; from < its.head.size(); ++from) write(its.head[from]);
  for (std::size_t i = 0; i < its.tail.size(); ++i) write(its.tail[i]);
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
