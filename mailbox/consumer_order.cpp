#include "mailbox/consumer_order.hpp"

#include "mailbox/result.hpp"

#include <algorithm>

namespace posthorn {

namespace {

member_id as_member(consumer_id id) noexcept { return {id.value}; }

// The next of a row of numbers that begins where chance says (splitmix64).
std::uint64_t next_random(std::uint64_t& state) noexcept {
  state += 0x9e3779b97f4a7c15ULL;
  auto z = state;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

}  // namespace

void consumer_order::add(consumer_id id, std::int64_t priority, std::uint32_t weight, bool in_turn) {
  member m;
  m.priority = priority;
  m.weight = std::clamp<std::uint32_t>(weight, 1, balance::weight_max);
  m.joined = ++joined_;
  expects(members_.emplace(id, m).second, "a consumer is added once");
  auto& its = classes_.try_emplace(priority, settings_.rule).first->second;
  ++its.member_count;
  if (!plain() && !settings_.single_active) {
    its.chooser.add(as_member(id), keyed() ? m.weight : 0);
  }
  if (!settings_.single_active && in_turn) {
    members_.at(id).in_turn = true;
    its.turns.push_back(id);
  }
  if (settings_.single_active) elect();
}

void consumer_order::remove(consumer_id id) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  const auto m = found->second;
  members_.erase(found);
  if (m.able) --able_count_;
  const auto place = classes_.find(m.priority);
  auto& its = place->second;
  if (m.able) --its.able_count;
  its.chooser.remove(as_member(id));
  if (m.in_turn) leave(its, id);
  if (--its.member_count == 0) classes_.erase(place);
  if (active_ == id) {
    active_.reset();
    gives_way_ = false;
  }
  if (settings_.single_active) elect();
}

void consumer_order::leave(priority_class& its, consumer_id id) {
  std::size_t at = 0;
  while (its.turns[at] != id) ++at;
  for (; at > 0; --at) its.turns[at] = its.turns[at - 1];
  its.turns.pop_front();
}

void consumer_order::update(consumer_id id, bool able, bool idle) {
  const auto found = members_.find(id);
  if (found == members_.end()) return;
  member& m = found->second;
  m.idle = idle;
  if (m.able != able) {
    m.able = able;
    auto& its = classes_.at(m.priority);
    able_count_ = able ? able_count_ + 1 : able_count_ - 1;
    its.able_count = able ? its.able_count + 1 : its.able_count - 1;
    if (!plain() && !keyed() && !settings_.single_active) {
      its.chooser.reweight(as_member(id), able ? m.weight : 0);
      // Whoever comes back to be chosen from is a newcomer to `balance`, which forgets its latency.
      if (able && m.latency.count() != 0) its.chooser.answered(as_member(id), m.latency, now_);
    }
  }
  if (able && !m.in_turn && !settings_.single_active) {
    m.in_turn = true;
    classes_.at(m.priority).turns.push_back(id);
  } else if (!able && m.in_turn && settings_.quorum) {
    m.in_turn = false;
    leave(classes_.at(m.priority), id);
  }
  if (settings_.single_active && gives_way_ && active_ == id && idle) elect();
}

// The first of those with the highest priority; of those that are there already, only one that takes over counts.
void consumer_order::elect() {
  const member* now = active_ ? &members_.at(*active_) : nullptr;
  gives_way_ = false;
  if (now != nullptr && !settings_.quorum) return;
  std::optional<consumer_id> best;
  const member* its = nullptr;
  for (const auto& [id, m] : members_) {
    if (its == nullptr || m.priority > its->priority ||
        (m.priority == its->priority && m.joined < its->joined)) {
      best = id;
      its = &m;
    }
  }
  if (now == nullptr) {
    active_ = best;
  } else if (its->priority > now->priority) {
    if (now->idle) {
      active_ = best;
    } else {
      gives_way_ = true;
    }
  }
}

std::vector<consumer_id> consumer_order::members() const {
  std::vector<consumer_id> out;
  out.reserve(members_.size());
  for (const auto& [id, m] : members_) out.push_back(id);
  std::sort(out.begin(), out.end(),
            [this](consumer_id a, consumer_id b) { return members_.at(a).joined < members_.at(b).joined; });
  return out;
}

bool consumer_order::anybody() const noexcept {
  if (!settings_.single_active) return able_count_ != 0;
  return active_ && !gives_way_ && members_.at(*active_).able;
}

bool consumer_order::can_take(std::string_view key) const {
  if (!anybody() || !keyed() || key.empty()) return anybody();
  const auto owner = owner_of(key);
  return owner && members_.at(*owner).able;
}

// Who has to get the messages of this key; none: nobody may, for now.
std::optional<consumer_id> consumer_order::owner_of(std::string_view key) const {
  if (const auto found = groups_.find(stable_hash(key)); found != groups_.end()) {
    const auto with = found->second.with;
    return members_.contains(with) ? std::optional{with} : std::nullopt;
  }
  if (classes_.empty()) return std::nullopt;
  const auto chosen = classes_.begin()->second.chooser.choose({.key = key});
  return chosen.empty() ? std::nullopt : std::optional{consumer_id{chosen.front().value}};
}

std::optional<consumer_id> consumer_order::next_in_turn(priority_class& among) {
  while (!among.turns.empty()) {
    const auto id = among.turns.front();
    among.turns.pop_front();
    member& m = members_.at(id);
    if (m.able) {
      among.turns.push_back(id);
      return id;
    }
    m.in_turn = false;
  }
  return std::nullopt;
}

std::optional<consumer_id> consumer_order::choose(std::string_view key) {
  if (!anybody()) return std::nullopt;
  if (settings_.single_active) return active_;
  if (keyed() && !key.empty()) {
    const auto owner = owner_of(key);
    return owner && members_.at(*owner).able ? owner : std::nullopt;
  }
  for (auto& [priority, its] : classes_) {
    if (its.able_count == 0) {
      // In their turn they cannot take it, and so they stand out of the row.
      if (plain()) (void)next_in_turn(its);
      continue;
    }
    if (plain() || keyed()) return next_in_turn(its);
    const auto chosen = its.chooser.choose({.random = next_random(random_), .key = {}, .now = now_});
    expects(!chosen.empty(), "one that is able can be chosen");
    return consumer_id{chosen.front().value};
  }
  return std::nullopt;
}

void consumer_order::pass_over() {
  for (auto& [priority, its] : classes_) (void)next_in_turn(its);
}

void consumer_order::took(consumer_id id, sequence at, std::string_view key) {
  if (keyed()) {
    if (key.empty()) return;
    const auto hash = stable_hash(key);
    if (!held_.emplace(at, holding{id, hash, now_}).second) return;
    auto& its = groups_.try_emplace(hash, group{id, 0}).first->second;
    ++its.count;
    return;
  }
  held_.emplace(at, holding{id, 0, now_});
}

void consumer_order::let_go(sequence at, left how) {
  const auto found = held_.find(at);
  if (found == held_.end()) return;
  const auto it = found->second;
  held_.erase(found);
  if (keyed()) {
    const auto its = groups_.find(it.key);
    if (its != groups_.end() && --its->second.count == 0) groups_.erase(its);
    return;
  }
  const auto holder = members_.find(it.by);
  if (holder == members_.end()) return;
  auto& m = holder->second;
  auto& chooser = classes_.at(m.priority).chooser;
  if (how == left::unanswered) return chooser.abandoned(as_member(it.by));
  const auto latency = std::max(now_ - it.since, std::chrono::nanoseconds{1});
  m.latency = m.latency.count() == 0 ? latency : (m.latency * 3 + latency) / 4;
  if (m.able) chooser.answered(as_member(it.by), latency, now_);
}

}  // namespace posthorn
