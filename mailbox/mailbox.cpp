#include "mailbox/mailbox.hpp"

#include "mailbox/deduplication.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

namespace posthorn {

namespace {

// The levels of a quorum queue are 0 to this, and what has no priority stands in the one in the middle [60].
constexpr std::uint8_t quorum_level_max = 31, quorum_level_of_others = 4;

}  // namespace

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

}  // namespace posthorn
