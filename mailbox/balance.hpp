// Chooses one of several members, or all of them: what a router does with its routees, and a queue with its
// consumers. Each algorithm does what its name says in the field; the comments at `balance_algorithm` say the rest.
//
// A plain value. What chance or a clock would decide comes in with the question, and all of the arithmetic is done
// with integers, so that the same calls give the same members on every machine.
//
// A choice costs O(log n) with n members, and does not allocate; so does a report. `add`, `remove` and `reweight` cost
// O(log n) for each turn, or virtual node, that they have to place.
//
// Threads   none of its own; whoever owns it calls it from one thread at a time.
#pragma once

#include "mailbox/ids.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn {

// Whoever can be chosen. The number is the caller's; a consistent hash places members by it, so that it has to be the
// same wherever the same keys are to go to the same member (see `member_named`).
using member_id = strong_id<struct member_tag>;

enum class balance_algorithm : std::uint8_t {
  // One after the other, in the order in which they joined. Weights do not count.
  round_robin,
  // By `choice::random`, as often as the weights say.
  random,
  // As often as the weights say, exactly so in every cycle of as many choices as the weights' sum, and spread over the
  // cycle rather than in bursts. Nobody has two turns in a row unless one weighs more than all of the others together.
  weighted_round_robin,
  // Who answers soonest: the moving average of the latencies that were reported, times what is not answered yet,
  // divided by the weight. It fades with the time since the member was last chosen, so that one that was slow once is
  // tried again. Newcomers are tried at once; equals take turns.
  least_response_time,
  // By `choice::key`: the next member on a ring, on which each stands as often as its weight says. One that joins or
  // leaves moves only the keys that are or were its own.
  consistent_hash,
  // The one with the smallest reported size; equals take turns. Weights do not count.
  smallest_mailbox,
  // All of them. Weights do not count.
  broadcast,
};

// "round-robin", "random", "weighted", "least-response-time", "hash", "smallest-mailbox", "broadcast".
[[nodiscard]] std::string_view to_string(balance_algorithm algorithm) noexcept;
[[nodiscard]] std::optional<balance_algorithm> balance_algorithm_named(std::string_view name) noexcept;

// The same on every machine and in every version: the 64 bits of XXH3.
[[nodiscard]] std::uint64_t stable_hash(std::string_view key) noexcept;
[[nodiscard]] inline member_id member_named(std::string_view name) noexcept { return {stable_hash(name)}; }

// Fixed after construction.
struct balance_settings {
  // Least response time: how long until a latency counts half, while its member is not chosen. From a millisecond to
  // 19 hours; anything else counts as the nearer of these.
  std::chrono::nanoseconds half_life = std::chrono::seconds{5};
  // Consistent hash: how often a member of weight 1 stands on the ring. More is more even, and takes more memory.
  std::uint32_t virtual_nodes = 100;
};

struct choice {
  std::uint64_t random = 0;        // for random: any of the 2^64 numbers, all as likely
  std::string_view key{};          // for consistent hash
  std::chrono::nanoseconds now{};  // for least response time, since a moment that stays the same
};

namespace detail {

using slot = std::uint32_t;  // the place of a member, kept until it is removed

// Slots in a binary heap, so that the first of them is at hand. What comes `before` what is a rule that the caller
// gives to each call; it must not say that two are equal.
class slot_heap {
public:
  [[nodiscard]] bool empty() const noexcept { return order_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return order_.size(); }
  [[nodiscard]] slot first() const noexcept { return order_.front(); }

  // The one that would be first without the first.
  template <class Before>
  [[nodiscard]] std::optional<slot> second(const Before& before) const {
    if (order_.size() < 2) return std::nullopt;
    if (order_.size() > 2 && before(order_[2], order_[1])) return order_[2];
    return order_[1];
  }

  template <class Before>
  void insert(slot which, const Before& before) {
    if (where_.size() <= which) where_.resize(std::size_t{which} + 1);
    where_[which] = order_.size();
    order_.push_back(which);
    rise(order_.size() - 1, before);
  }

  // What the rule looks at has changed for this one.
  template <class Before>
  void update(slot which, const Before& before) {
    rise(where_[which], before);
    sink(where_[which], before);
  }

  template <class Before>
  void erase(slot which, const Before& before) {
    const auto hole = where_[which];
    const auto last = order_.back();
    order_.pop_back();
    if (last == which) return;
    place(last, hole);
    update(last, before);
  }

private:
  void place(slot which, std::size_t at) {
    order_[at] = which;
    where_[which] = at;
  }

  template <class Before>
  void rise(std::size_t at, const Before& before) {
    const auto which = order_[at];
    for (; at != 0 && before(which, order_[(at - 1) / 2]); at = (at - 1) / 2) place(order_[(at - 1) / 2], at);
    place(which, at);
  }

  template <class Before>
  void sink(std::size_t at, const Before& before) {
    const auto which = order_[at];
    for (auto child = 2 * at + 1; child < order_.size(); child = 2 * at + 1) {
      if (child + 1 < order_.size() && before(order_[child + 1], order_[child])) ++child;
      if (!before(order_[child], which)) break;
      place(order_[child], at);
      at = child;
    }
    place(which, at);
  }

  std::vector<slot> order_;
  std::vector<std::size_t> where_;  // by slot
};

// The lowest rank first; those of equal rank take turns. Round robin is when all ranks are equal.
class ranking {
public:
  void add(slot which, std::int64_t rank);
  void remove(slot which);
  void set_rank(slot which, std::int64_t rank);
  // Ends the turn of the one that it gives: among its equals, it is the last now.
  [[nodiscard]] std::optional<slot> choose();

private:
  struct entry {
    std::int64_t rank = 0;
    std::uint64_t ticket = 0;  // grows with every turn that ends, so that no two are equal
  };
  [[nodiscard]] auto before() const noexcept {
    return [this](slot a, slot b) {
      const auto &x = entries_[a], &y = entries_[b];
      return x.rank != y.rank ? x.rank < y.rank : x.ticket < y.ticket;
    };
  }

  std::vector<entry> entries_;  // by slot
  slot_heap heap_;
  std::uint64_t next_ticket_ = 0;
};

struct in_turn {
  ranking turns;

  void add(slot which, member_id, std::uint32_t) { turns.add(which, 0); }
  void remove(slot which, member_id, std::uint32_t) { turns.remove(which); }
  void reweight(slot, member_id, std::uint32_t, std::uint32_t) {}
};

// A Fenwick tree of the weights: sums over ranges of slots.
class lottery {
public:
  void add(slot which, member_id, std::uint32_t weight);
  void remove(slot which, member_id, std::uint32_t weight) { change(which, -std::int64_t{weight}); }
  void reweight(slot which, member_id, std::uint32_t before, std::uint32_t after) {
    change(which, std::int64_t{after} - std::int64_t{before});
  }
  [[nodiscard]] std::optional<slot> choose(std::uint64_t random) const noexcept;

private:
  void change(slot which, std::int64_t by);
  [[nodiscard]] std::uint64_t sum_before(std::size_t end) const noexcept;

  std::vector<std::uint64_t> sums_;
  std::uint64_t total_ = 0;
};

// Smooth weighted round robin. In a cycle that lasts from 0 to 1, turn k of a member of weight w is due at
// (k + 1/2) / w, and whoever is due first is chosen. Two rules keep anybody from having two turns in a row, as long as
// nobody weighs more than the others together:
//   - whoever was chosen last is passed over;
//   - whoever has more than half of the turns that are left in the cycle is chosen, due or not.
// By these, no member other than the last ever has more than half (rounded up) of the turns left, nor the last one
// more than half (rounded down), so that the cycle can always be finished without a repetition.
class smooth_turns {
public:
  void add(slot which, member_id, std::uint32_t weight);
  void remove(slot which, member_id, std::uint32_t weight);
  void reweight(slot which, member_id, std::uint32_t before, std::uint32_t after);
  [[nodiscard]] std::optional<slot> choose();

private:
  struct entry {
    std::uint32_t weight = 0;
    std::uint32_t taken = 0;   // turns of its cycle that it had
    std::uint8_t cycle = 0;    // which of the two it stands in
    std::uint64_t ticket = 0;  // grows with every turn, so that no two are equal
  };
  // Those that still have turns in this cycle. Whose turns are used up waits in the other one.
  struct cycle {
    slot_heap by_due, by_left;
    std::uint64_t left = 0;  // turns
  };

  [[nodiscard]] std::uint64_t left(slot which) const noexcept {
    return std::uint64_t{entries_[which].weight} - entries_[which].taken;
  }
  // Less than zero, zero, or more: a is due before, with, or after b.
  [[nodiscard]] int compare_due(slot a, slot b) const noexcept {
    const auto x = (std::uint64_t{entries_[a].taken} * 2 + 1) * entries_[b].weight;
    const auto y = (std::uint64_t{entries_[b].taken} * 2 + 1) * entries_[a].weight;
    return x < y ? -1 : x > y ? 1 : 0;
  }
  [[nodiscard]] auto due_before() const noexcept {
    return [this](slot a, slot b) {
      if (const auto order = compare_due(a, b); order != 0) return order < 0;
      const auto &x = entries_[a], &y = entries_[b];
      return x.weight != y.weight ? x.weight > y.weight : x.ticket < y.ticket;
    };
  }
  [[nodiscard]] auto more_left() const noexcept {
    return [this](slot a, slot b) {
      return left(a) != left(b) ? left(a) > left(b) : entries_[a].ticket < entries_[b].ticket;
    };
  }
  void enter(slot which, std::uint8_t which_cycle);
  void leave(slot which);
  void count_weight(std::uint32_t weight);
  void discount_weight(std::uint32_t weight);
  [[nodiscard]] slot next_turn(const cycle& now) const;

  std::vector<entry> entries_;  // by slot
  std::array<cycle, 2> cycles_;
  std::uint8_t current_ = 0;
  std::uint64_t due_ = 0, due_parts_ = 1;  // how far this cycle has come: a fraction
  std::optional<slot> last_;
  std::map<std::uint32_t, std::uint32_t> weights_;  // how many members have each
  std::uint64_t total_ = 0;
  std::uint64_t next_ticket_ = 0;
};

// Ranks are logarithms to the base of 2, with 16 bits behind the point: a latency's, plus the half-lives until the
// moment at which it began to fade. All latencies fade alike, so that their order stays the same until one changes.
class response_times {
public:
  explicit response_times(std::chrono::nanoseconds half_life) noexcept;

  void add(slot which, member_id, std::uint32_t weight);
  void remove(slot which, member_id, std::uint32_t) { ranking_.remove(which); }
  void reweight(slot which, member_id, std::uint32_t before, std::uint32_t after);
  [[nodiscard]] std::optional<slot> choose(std::chrono::nanoseconds now);
  void answered(slot which, std::chrono::nanoseconds latency, std::chrono::nanoseconds now);
  void abandoned(slot which);

private:
  struct entry {
    std::uint32_t weight = 1;
    std::uint32_t outstanding = 0;  // chosen, and not answered yet
    std::int64_t latency = 0;       // nanoseconds, averaged; 0: no answer yet
    std::int64_t fades_from = 0;    // when it was chosen or answered last
    std::int64_t answered_at = 0;
    bool chosen = false;
  };
  void rank(slot which);

  std::vector<entry> entries_;  // by slot
  ranking ranking_;
  std::int64_t half_life_;
  std::int64_t typical_;  // nanoseconds: what is assumed of those that were tried and have not answered yet
  bool typical_known_ = false;
};

class hash_ring {
public:
  explicit hash_ring(std::uint32_t virtual_nodes) noexcept;

  void add(slot which, member_id id, std::uint32_t weight) { place(which, id, 0, count(weight)); }
  void remove(slot which, member_id id, std::uint32_t weight) { place(which, id, count(weight), 0); }
  void reweight(slot which, member_id id, std::uint32_t before, std::uint32_t after) {
    place(which, id, count(before), count(after));
  }
  [[nodiscard]] std::optional<slot> choose(std::string_view key) const noexcept;

private:
  // Ordered by its place, and by the member if two fall on one place.
  struct point {
    std::uint64_t at = 0;
    member_id id{};
    slot which = 0;

    friend bool operator<(const point& a, const point& b) noexcept {
      return a.at != b.at ? a.at < b.at : a.id < b.id;
    }
  };
  [[nodiscard]] std::uint64_t count(std::uint32_t weight) const noexcept;
  void place(slot which, member_id id, std::uint64_t before, std::uint64_t after);

  std::uint32_t virtual_nodes_;
  std::set<point> points_;
};

class everyone {
public:
  void add(slot which, member_id id, std::uint32_t);
  void remove(slot which, member_id, std::uint32_t);
  void reweight(slot, member_id, std::uint32_t, std::uint32_t) {}
  [[nodiscard]] std::span<const member_id> members() const noexcept { return ids_; }

private:
  std::vector<member_id> ids_;
  std::vector<slot> slots_;         // of the ids
  std::vector<std::size_t> where_;  // by slot
};

}  // namespace detail

class balance {
public:
  // More than this counts as this; so does what a client asks for.
  static constexpr std::uint32_t weight_max = 65'535;
  // How often a member stands on the ring of a consistent hash at most, whatever its weight.
  static constexpr std::uint32_t points_max = 65'536;

  explicit balance(balance_algorithm algorithm, balance_settings settings = {});

  [[nodiscard]] balance_algorithm algorithm() const noexcept { return algorithm_; }
  [[nodiscard]] std::size_t size() const noexcept { return slots_.size(); }
  [[nodiscard]] bool contains(member_id id) const noexcept { return slots_.contains(id); }

  // Weight 0 drains: the member is not chosen, whatever the algorithm, until it weighs more.
  // False: it is a member already, and stays as it is.
  bool add(member_id id, std::uint32_t weight = 1);
  // The others keep their places. False: it is no member.
  bool remove(member_id id);
  bool reweight(member_id id, std::uint32_t weight);

  // One member; all of them, in no certain order, if broadcast; none when there is nobody to be chosen. Valid until
  // the next call of anything that is not const.
  [[nodiscard]] std::span<const member_id> choose(const choice& by = {});

  // What follows is news for one algorithm and ignored by the others, and so is news of somebody who is no member
  // (any more): answers may come late.

  // Least response time: the member answered one message for which it had been chosen.
  void answered(member_id id, std::chrono::nanoseconds latency, std::chrono::nanoseconds now);
  // Least response time: there will be no answer, and nobody knows how long it would have taken.
  void abandoned(member_id id);
  // Smallest mailbox: how much waits there now. A choice does not change it; 0 until it is reported. A caller that
  // hears of it too seldom adds one for each choice.
  void report_size(member_id id, std::uint64_t size);

private:
  struct member {
    member_id id{};
    std::uint32_t weight = 0;
  };
  using strategy = std::variant<detail::in_turn, detail::lottery, detail::smooth_turns,
                                detail::response_times, detail::hash_ring, detail::everyone>;

  [[nodiscard]] static strategy strategy_of(balance_algorithm algorithm, const balance_settings& settings);
  [[nodiscard]] std::optional<detail::slot> find_active(member_id id) const noexcept;

  balance_algorithm algorithm_;
  strategy strategy_;            // knows those whose weight is not 0
  std::vector<member> members_;  // by slot; those that are free are in free_
  std::vector<detail::slot> free_;
  std::unordered_map<member_id, detail::slot> slots_;
  member_id chosen_{};
};

}  // namespace posthorn
