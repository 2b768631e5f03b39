#include "mailbox/balance.hpp"

#include "mailbox/result.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <limits>

namespace posthorn {

namespace {

struct named_algorithm {
  balance_algorithm algorithm;
  std::string_view name;
};

constexpr named_algorithm algorithm_names[] = {
    {balance_algorithm::round_robin, "round-robin"},
    {balance_algorithm::random, "random"},
    {balance_algorithm::weighted_round_robin, "weighted"},
    {balance_algorithm::least_response_time, "least-response-time"},
    {balance_algorithm::consistent_hash, "hash"},
    {balance_algorithm::smallest_mailbox, "smallest-mailbox"},
    {balance_algorithm::broadcast, "broadcast"},
};

// The element of a slot, which may be the first one ever to stand there.
template <class T>
T& at_slot(std::vector<T>& entries, detail::slot which) {
  if (entries.size() <= which) entries.resize(std::size_t{which} + 1);
  return entries[which];
}

constexpr int fraction_bits = 16;
constexpr std::int64_t one = std::int64_t{1} << fraction_bits;

// The logarithm to the base of 2 of a number that is not 0, with `fraction_bits` behind the point. Each squaring of
// the mantissa gives the next bit. Not std::log2, whose last bit is another one on another machine.
constexpr std::int64_t logarithm(std::uint64_t number) noexcept {
  const int whole = static_cast<int>(std::bit_width(number)) - 1;
  auto mantissa = whole > 31 ? number >> (whole - 31) : number << (31 - whole);  // 1 is 2^31
  std::int64_t out = whole;
  for (int i = 0; i < fraction_bits; ++i) {
    mantissa = (mantissa * mantissa) >> 31;
    out *= 2;
    if (mantissa >= (std::uint64_t{1} << 32)) {
      mantissa >>= 1;
      ++out;
    }
  }
  return out;
}

static_assert(logarithm(1) == 0 && logarithm(1024) == 10 * one);
static_assert(logarithm(3) == 103'872, "1.58496 * 2^16");

// 2 to the power of -age/half_life, with `fraction_bits` behind the point; straight lines between the whole powers.
constexpr std::int64_t faded(std::int64_t age, std::int64_t half_life) noexcept {
  if (age <= 0) return one;
  const auto halvings = age / half_life;
  if (halvings > fraction_bits) return 0;
  const auto rest = (age % half_life) * one / half_life;
  return (one - rest / 2) >> halvings;
}

static_assert(faded(0, 10) == one && faded(10, 10) == one / 2 && faded(5, 10) == one * 3 / 4);

constexpr std::int64_t latency_max = std::int64_t{1} << 46;  // nanoseconds, 19 hours: products fit 63 bits
constexpr std::int64_t half_life_min = 1'000'000;
constexpr std::uint32_t outstanding_max = 1U << 20;

}  // namespace

std::string_view to_string(balance_algorithm algorithm) noexcept {
  for (const auto& [known, name] : algorithm_names) {
    if (known == algorithm) return name;
  }
  return {};
}

std::optional<balance_algorithm> balance_algorithm_named(std::string_view name) noexcept {
  for (const auto& known : algorithm_names) {
    if (known.name == name) return known.algorithm;
  }
  return std::nullopt;
}

std::uint64_t stable_hash(std::string_view key) noexcept { return XXH3_64bits(key.data(), key.size()); }

namespace detail {

// --- turns ------------------------------------------------------------------------------------------------------

void ranking::add(slot which, std::int64_t rank) {
  at_slot(entries_, which) = {rank, next_ticket_++};
  heap_.insert(which, before());
}

void ranking::remove(slot which) { heap_.erase(which, before()); }

void ranking::set_rank(slot which, std::int64_t rank) {
  if (entries_[which].rank == rank) return;
  entries_[which].rank = rank;
  heap_.update(which, before());
}

std::optional<slot> ranking::choose() {
  if (heap_.empty()) return std::nullopt;
  const auto chosen = heap_.first();
  entries_[chosen].ticket = next_ticket_++;
  heap_.update(chosen, before());
  return chosen;
}

// --- random -----------------------------------------------------------------------------------------------------

// sums_[i] is the sum of the weights of the slots from i + 1 - (the lowest bit of i + 1) to i.

void lottery::add(slot which, member_id, std::uint32_t weight) {
  while (sums_.size() <= which) {
    const auto count = sums_.size() + 1;
    sums_.push_back(sum_before(count - 1) - sum_before(count - (count & (~count + 1))));
  }
  change(which, weight);
}

void lottery::change(slot which, std::int64_t by) {
  total_ += static_cast<std::uint64_t>(by);
  for (std::size_t count = std::size_t{which} + 1; count <= sums_.size(); count += count & (~count + 1)) {
    sums_[count - 1] += static_cast<std::uint64_t>(by);
  }
}

std::uint64_t lottery::sum_before(std::size_t end) const noexcept {
  std::uint64_t sum = 0;
  for (; end != 0; end &= end - 1) sum += sums_[end - 1];
  return sum;
}

std::optional<slot> lottery::choose(std::uint64_t random) const noexcept {
  if (total_ == 0) return std::nullopt;
  auto rest = random % total_;
  std::size_t at = 0;  // so many slots, and what they weigh, lie before the one that is sought
  for (auto step = std::bit_floor(sums_.size()); step != 0; step /= 2) {
    if (at + step <= sums_.size() && sums_[at + step - 1] <= rest) {
      rest -= sums_[at + step - 1];
      at += step;
    }
  }
  return static_cast<slot>(at);
}

// --- smooth weighted round robin ----------------------------------------------------------------------------------

void smooth_turns::enter(slot which, std::uint8_t which_cycle) {
  auto& to = cycles_[which_cycle];
  entries_[which].cycle = which_cycle;
  to.by_due.insert(which, due_before());
  to.by_left.insert(which, more_left());
  to.left += left(which);
}

void smooth_turns::leave(slot which) {
  auto& from = cycles_[entries_[which].cycle];
  from.by_due.erase(which, due_before());
  from.by_left.erase(which, more_left());
  from.left -= left(which);
}

void smooth_turns::count_weight(std::uint32_t weight) {
  ++weights_[weight];
  total_ += weight;
}

void smooth_turns::discount_weight(std::uint32_t weight) {
  const auto found = weights_.find(weight);
  if (--found->second == 0) weights_.erase(found);
  total_ -= weight;
}

// Who joins in the middle of a cycle has the turns of the rest of it, or waits for the next one if none is left. A turn
// in any case would let those that come and go keep the cycle from ending.
void smooth_turns::add(slot which, member_id, std::uint32_t weight) {
  if (total_ == 0) {
    due_ = 0;
    due_parts_ = 1;
  }
  const auto past = static_cast<std::uint32_t>((due_ * weight + due_parts_ - 1) / due_parts_);
  const bool late = past >= weight;
  at_slot(entries_, which) = {weight, late ? 0 : past, 0, next_ticket_++};
  count_weight(weight);
  enter(which, late ? current_ ^ 1U : current_);
}

void smooth_turns::remove(slot which, member_id, std::uint32_t weight) {
  leave(which);
  discount_weight(weight);
  if (last_ == which) last_.reset();
}

void smooth_turns::reweight(slot which, member_id, std::uint32_t before, std::uint32_t after) {
  leave(which);
  discount_weight(before);
  auto& changed = entries_[which];
  changed.weight = after;
  changed.taken = static_cast<std::uint32_t>(std::uint64_t{changed.taken} * after / before);
  count_weight(after);
  enter(which, changed.cycle);
}

slot smooth_turns::next_turn(const cycle& now) const {
  const auto first = now.by_due.first();
  const auto second = now.by_due.second(due_before());
  if (total_ < 2 * std::uint64_t{weights_.rbegin()->first}) {
    // Somebody weighs more than the others together, and has to follow itself. Of those due at once, it waits.
    return first == last_ && second && compare_due(first, *second) == 0 ? *second : first;
  }
  auto most = now.by_left.first();
  if (most == last_) most = now.by_left.second(more_left()).value_or(most);
  if (most != last_ && 2 * left(most) > now.left) return most;
  return first == last_ && second ? *second : first;
}

std::optional<slot> smooth_turns::choose() {
  if (total_ == 0) return std::nullopt;
  if (cycles_[current_].by_due.empty()) {
    current_ ^= 1U;
    due_ = 0;
    due_parts_ = 1;
  }
  auto& now = cycles_[current_];
  const auto chosen = next_turn(now);
  auto& its = entries_[chosen];
  due_ = std::uint64_t{its.taken} * 2 + 1;
  due_parts_ = std::uint64_t{its.weight} * 2;
  last_ = chosen;
  if (its.taken + 1 == its.weight) {
    leave(chosen);
    its.taken = 0;
    its.ticket = next_ticket_++;
    enter(chosen, current_ ^ 1U);
  } else {
    ++its.taken;
    its.ticket = next_ticket_++;
    --now.left;
    now.by_due.update(chosen, due_before());
    now.by_left.update(chosen, more_left());
  }
  return chosen;
}

// --- least response time ------------------------------------------------------------------------------------------

response_times::response_times(std::chrono::nanoseconds half_life) noexcept
    : half_life_{std::clamp<std::int64_t>(half_life.count(), half_life_min, latency_max)},
      typical_{half_life_min} {}

void response_times::rank(slot which) {
  const auto& its = entries_[which];
  if (!its.chosen) {
    ranking_.set_rank(which, std::numeric_limits<std::int64_t>::min());
    return;
  }
  const auto latency = its.latency != 0 ? its.latency : typical_;
  const auto half_lives = its.fades_from / half_life_ * one + its.fades_from % half_life_ * one / half_life_;
  ranking_.set_rank(which, logarithm(static_cast<std::uint64_t>(latency)) +
                               logarithm(std::uint64_t{its.outstanding} + 1) - logarithm(its.weight) +
                               half_lives);
}

void response_times::add(slot which, member_id, std::uint32_t weight) {
  at_slot(entries_, which) = {};
  entries_[which].weight = weight;
  ranking_.add(which, std::numeric_limits<std::int64_t>::min());
}

void response_times::reweight(slot which, member_id, std::uint32_t, std::uint32_t after) {
  entries_[which].weight = after;
  rank(which);
}

std::optional<slot> response_times::choose(std::chrono::nanoseconds now) {
  const auto chosen = ranking_.choose();
  if (!chosen) return chosen;
  auto& its = entries_[*chosen];
  const auto at = std::max<std::int64_t>(now.count(), 0);
  its.fades_from = its.chosen ? std::max<std::int64_t>(its.fades_from, at) : at;
  its.chosen = true;
  its.outstanding = std::min(its.outstanding + 1, outstanding_max);
  rank(*chosen);
  return chosen;
}

void response_times::answered(slot which, std::chrono::nanoseconds latency, std::chrono::nanoseconds now) {
  auto& its = entries_[which];
  const auto at = std::max<std::int64_t>(now.count(), 0);
  const auto measured = std::clamp<std::int64_t>(latency.count(), 1, latency_max);
  // An average of three parts of what was known, faded, and the rest of what is new.
  const auto mixed = [measured](std::int64_t known, std::int64_t share) {
    return std::max<std::int64_t>(measured + (known - measured) * share / one, 1);
  };
  if (its.latency == 0) {
    its.latency = measured;
  } else {
    its.latency = mixed(its.latency, faded(at - its.answered_at, half_life_) * 3 / 4);
  }
  typical_ = typical_known_ ? mixed(typical_, one * 7 / 8) : measured;
  typical_known_ = true;
  its.answered_at = at;
  its.fades_from = its.chosen ? std::max<std::int64_t>(its.fades_from, at) : at;
  its.chosen = true;
  if (its.outstanding != 0) --its.outstanding;
  rank(which);
}

void response_times::abandoned(slot which) {
  auto& its = entries_[which];
  if (its.outstanding == 0) return;
  --its.outstanding;
  rank(which);
}

// --- consistent hash ----------------------------------------------------------------------------------------------

hash_ring::hash_ring(std::uint32_t virtual_nodes) noexcept
    : virtual_nodes_{std::max<std::uint32_t>(virtual_nodes, 1)} {}

std::uint64_t hash_ring::count(std::uint32_t weight) const noexcept {
  return std::min<std::uint64_t>(std::uint64_t{weight} * virtual_nodes_, balance::points_max);
}

// The points of a member are numbered, and it has those below its count.
void hash_ring::place(slot which, member_id id, std::uint64_t before, std::uint64_t after) {
  std::array<unsigned char, 8> octets{};
  for (std::size_t i = 0; i < octets.size(); ++i) {
    octets[i] = static_cast<unsigned char>((id.value >> (8 * i)) & 0xFFU);
  }
  const auto numbered = [&](std::uint64_t number) {
    return point{XXH3_64bits_withSeed(octets.data(), octets.size(), number), id, which};
  };
  for (auto number = before; number < after; ++number) points_.insert(numbered(number));
  for (auto number = after; number < before; ++number) points_.erase(numbered(number));
}

std::optional<slot> hash_ring::choose(std::string_view key) const noexcept {
  if (points_.empty()) return std::nullopt;
  const auto next = points_.lower_bound(point{stable_hash(key), member_id{}, 0});
  return next != points_.end() ? next->which : points_.begin()->which;
}

// --- broadcast ----------------------------------------------------------------------------------------------------

void everyone::add(slot which, member_id id, std::uint32_t) {
  at_slot(where_, which) = ids_.size();
  ids_.push_back(id);
  slots_.push_back(which);
}

void everyone::remove(slot which, member_id, std::uint32_t) {
  const auto hole = where_[which];
  ids_[hole] = ids_.back();
  slots_[hole] = slots_.back();
  where_[slots_[hole]] = hole;
  ids_.pop_back();
  slots_.pop_back();
}

}  // namespace detail

// --------------------------------------------------------------------------------------------------------------------

balance::strategy balance::strategy_of(balance_algorithm algorithm, const balance_settings& settings) {
  switch (algorithm) {
    case balance_algorithm::round_robin:
    case balance_algorithm::smallest_mailbox: return detail::in_turn{};
    case balance_algorithm::random: return detail::lottery{};
    case balance_algorithm::weighted_round_robin: return detail::smooth_turns{};
    case balance_algorithm::least_response_time: return detail::response_times{settings.half_life};
    case balance_algorithm::consistent_hash: return detail::hash_ring{settings.virtual_nodes};
    case balance_algorithm::broadcast: return detail::everyone{};
  }
  expects(false, "a balance has one of the known algorithms");
  return detail::in_turn{};
}

balance::balance(balance_algorithm algorithm, balance_settings settings)
    : algorithm_{algorithm}, strategy_{strategy_of(algorithm, settings)} {}

bool balance::add(member_id id, std::uint32_t weight) {
  if (slots_.contains(id)) return false;
  weight = std::min(weight, weight_max);
  auto place = static_cast<detail::slot>(members_.size());
  if (free_.empty()) {
    members_.push_back({id, weight});
  } else {
    place = free_.back();
    free_.pop_back();
    members_[place] = {id, weight};
  }
  slots_.emplace(id, place);
  if (weight != 0) std::visit([&](auto& s) { s.add(place, id, weight); }, strategy_);
  return true;
}

bool balance::remove(member_id id) {
  const auto found = slots_.find(id);
  if (found == slots_.end()) return false;
  const auto place = found->second;
  const auto weight = members_[place].weight;
  if (weight != 0) std::visit([&](auto& s) { s.remove(place, id, weight); }, strategy_);
  free_.push_back(place);
  slots_.erase(found);
  return true;
}

bool balance::reweight(member_id id, std::uint32_t weight) {
  const auto found = slots_.find(id);
  if (found == slots_.end()) return false;
  weight = std::min(weight, weight_max);
  const auto place = found->second;
  const auto before = std::exchange(members_[place].weight, weight);
  if (before == weight) return true;
  std::visit(
      [&](auto& s) {
        if (before == 0) {
          s.add(place, id, weight);
        } else if (weight == 0) {
          s.remove(place, id, before);
        } else {
          s.reweight(place, id, before, weight);
        }
      },
      strategy_);
  return true;
}

std::span<const member_id> balance::choose(const choice& by) {
  struct asking {
    const choice& by;

    std::optional<detail::slot> operator()(detail::in_turn& s) const { return s.turns.choose(); }
    std::optional<detail::slot> operator()(detail::lottery& s) const { return s.choose(by.random); }
    std::optional<detail::slot> operator()(detail::smooth_turns& s) const { return s.choose(); }
    std::optional<detail::slot> operator()(detail::response_times& s) const { return s.choose(by.now); }
    std::optional<detail::slot> operator()(detail::hash_ring& s) const { return s.choose(by.key); }
    std::optional<detail::slot> operator()(detail::everyone&) const { return std::nullopt; }
  };
  if (const auto* all = std::get_if<detail::everyone>(&strategy_)) return all->members();
  const auto found = std::visit(asking{by}, strategy_);
  if (!found) return {};
  chosen_ = members_[*found].id;
  return {&chosen_, 1};
}

std::optional<detail::slot> balance::find_active(member_id id) const noexcept {
  const auto found = slots_.find(id);
  if (found == slots_.end() || members_[found->second].weight == 0) return std::nullopt;
  return found->second;
}

void balance::answered(member_id id, std::chrono::nanoseconds latency, std::chrono::nanoseconds now) {
  auto* times = std::get_if<detail::response_times>(&strategy_);
  if (times == nullptr) return;
  if (const auto which = find_active(id)) times->answered(*which, latency, now);
}

void balance::abandoned(member_id id) {
  auto* times = std::get_if<detail::response_times>(&strategy_);
  if (times == nullptr) return;
  if (const auto which = find_active(id)) times->abandoned(*which);
}

void balance::report_size(member_id id, std::uint64_t size) {
  if (algorithm_ != balance_algorithm::smallest_mailbox) return;
  const auto which = find_active(id);
  if (!which) return;
  constexpr auto largest = std::uint64_t{std::numeric_limits<std::int64_t>::max()};
  std::get<detail::in_turn>(strategy_).turns.set_rank(*which,
                                                      static_cast<std::int64_t>(std::min(size, largest)));
}

}  // namespace posthorn
