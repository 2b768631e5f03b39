#include "mailbox/balance.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

using weights = std::vector<std::uint32_t>;

// Members 1, 2, 3, ... with these weights.
balance a_balance(balance_algorithm algorithm, const weights& of) {
  balance b{algorithm};
  for (std::size_t i = 0; i < of.size(); ++i) b.add(member_id{i + 1}, of[i]);
  return b;
}

balance equals(balance_algorithm algorithm, std::size_t count) {
  return a_balance(algorithm, weights(count, 1));
}

// 0 when there is nobody.
std::uint64_t next(balance& b, const choice& by = {}) {
  const auto chosen = b.choose(by);
  return chosen.empty() ? 0 : chosen.front().value;
}

std::vector<std::uint64_t> take(balance& b, std::size_t count) {
  std::vector<std::uint64_t> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(next(b));
  return out;
}

std::uint32_t sum(const weights& of) {
  std::uint32_t out = 0;
  for (const auto weight : of) out += weight;
  return out;
}

// What is wrong with three cycles of smooth weighted round robin; empty if nothing is.
std::string smoothness(const weights& of) {
  auto b = a_balance(balance_algorithm::weighted_round_robin, of);
  const auto total = sum(of);
  const auto heaviest = *std::max_element(of.begin(), of.end());
  std::uint64_t last = 0;
  for (int round = 0; round < 3; ++round) {
    weights turns(of.size());
    for (std::uint32_t i = 0; i < total; ++i) {
      const auto chosen = next(b);
      if (chosen == 0) return "nobody";
      ++turns[chosen - 1];
      const bool forced = heaviest * 2 > total && of[chosen - 1] == heaviest;
      if (chosen == last && !forced) return "two turns in a row of " + std::to_string(chosen);
      last = chosen;
    }
    if (turns != of) return "a cycle that is not exact";
  }
  return {};
}

constexpr balance_algorithm all_algorithms[] = {
    balance_algorithm::round_robin,
    balance_algorithm::random,
    balance_algorithm::weighted_round_robin,
    balance_algorithm::least_response_time,
    balance_algorithm::consistent_hash,
    balance_algorithm::smallest_mailbox,
    balance_algorithm::broadcast,
};

}  // namespace

TEST_CASE("an algorithm is found by its name", "[balance]") {
  for (const auto algorithm : all_algorithms) {
    CHECK(balance_algorithm_named(to_string(algorithm)) == algorithm);
  }
  CHECK(balance_algorithm_named("round-robin") == balance_algorithm::round_robin);
  CHECK(balance_algorithm_named("ROUND-ROBIN") == std::nullopt);
  CHECK(balance_algorithm_named("") == std::nullopt);
}

TEST_CASE("nobody is chosen among none, nor among those that are drained", "[balance]") {
  for (const auto algorithm : all_algorithms) {
    CAPTURE(to_string(algorithm));
    balance b{algorithm};
    CHECK(b.choose({.random = 7, .key = "k", .now = 1s}).empty());
    CHECK(b.add(member_id{1}, 0));
    CHECK(b.choose().empty());
    CHECK(b.reweight(member_id{1}, 2));
    CHECK(next(b) == 1);
    CHECK(b.reweight(member_id{1}, 0));
    CHECK(b.choose().empty());
    CHECK(b.remove(member_id{1}));
    CHECK(b.choose().empty());
    CHECK(b.size() == 0);
  }
}

TEST_CASE("a member joins once and leaves once, and news of strangers is ignored", "[balance]") {
  for (const auto algorithm : all_algorithms) {
    CAPTURE(to_string(algorithm));
    balance b{algorithm};
    CHECK(b.add(member_id{4}));
    CHECK_FALSE(b.add(member_id{4}, 9));
    CHECK(b.contains(member_id{4}));
    CHECK_FALSE(b.reweight(member_id{5}, 1));
    CHECK_FALSE(b.remove(member_id{5}));
    b.answered(member_id{5}, 1ms, 1s);
    b.abandoned(member_id{5});
    b.report_size(member_id{5}, 1);
    CHECK(next(b) == 4);
    CHECK(b.remove(member_id{4}));
    CHECK_FALSE(b.contains(member_id{4}));
    b.answered(member_id{4}, 1ms, 1s);
    CHECK(b.choose().empty());
  }
}

TEST_CASE("a copy goes its own way", "[balance]") {
  auto b = equals(balance_algorithm::round_robin, 3);
  CHECK(next(b) == 1);
  auto copy = b;
  CHECK(next(copy) == 2);
  CHECK(copy.remove(member_id{3}));
  CHECK(take(b, 3) == std::vector<std::uint64_t>{2, 3, 1});
}

TEST_CASE("whoever was removed is never chosen, whatever joins and leaves", "[balance]") {
  for (const auto algorithm : all_algorithms) {
    CAPTURE(to_string(algorithm));
    std::mt19937_64 chance{20'240'817};
    balance b{algorithm, {.virtual_nodes = 7}};
    std::map<std::uint64_t, std::uint32_t> members;
    auto now = 0ns;
    std::size_t wrong = 0;
    for (int step = 0; step < 20'000; ++step) {
      const auto id = chance() % 24;
      const auto weight = static_cast<std::uint32_t>(chance() % 6);
      now += std::chrono::milliseconds{chance() % 50};
      switch (chance() % 8) {
        case 0: wrong += b.add(member_id{id}, weight) != members.emplace(id, weight).second; break;
        case 1: wrong += b.remove(member_id{id}) != (members.erase(id) == 1); break;
        case 2:
          if (b.reweight(member_id{id}, weight)) members.at(id) = weight;
          break;
        case 3: b.answered(member_id{id}, std::chrono::microseconds{chance() % 100'000}, now); break;
        case 4: b.report_size(member_id{id}, chance() % 10); break;
        default: {
          const auto key = std::to_string(chance());
          const auto chosen = b.choose({.random = chance(), .key = key, .now = now});
          const auto active = std::count_if(members.begin(), members.end(),
                                            [](const auto& member) { return member.second != 0; });
          const auto wanted = algorithm == balance_algorithm::broadcast ? active : std::min<long>(active, 1);
          wrong += static_cast<long>(chosen.size()) != wanted;
          for (const auto& member : chosen) {
            const auto found = members.find(member.value);
            wrong += found == members.end() || found->second == 0;
          }
        }
      }
      wrong += b.size() != members.size();
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("round robin goes through all in the order in which they joined", "[balance]") {
  auto b = equals(balance_algorithm::round_robin, 3);
  CHECK(take(b, 7) == std::vector<std::uint64_t>{1, 2, 3, 1, 2, 3, 1});
  CHECK(b.remove(member_id{2}));
  CHECK(take(b, 3) == std::vector<std::uint64_t>{3, 1, 3});
  CHECK(b.add(member_id{9}));
  CHECK(take(b, 6) == std::vector<std::uint64_t>{1, 3, 9, 1, 3, 9});
}

TEST_CASE("round robin is exact with ten thousand members", "[balance]") {
  auto b = equals(balance_algorithm::round_robin, 10'000);
  std::map<std::uint64_t, int> turns;
  for (int i = 0; i < 30'000; ++i) ++turns[next(b)];
  CHECK(turns.size() == 10'000);
  CHECK(std::all_of(turns.begin(), turns.end(), [](const auto& t) { return t.second == 3; }));
}

TEST_CASE("random chooses as often as the weights say", "[balance]") {
  const weights of{1, 5, 0, 2, 12};
  auto b = a_balance(balance_algorithm::random, of);
  std::vector<std::uint64_t> counts(of.size() + 1);
  // Every number below the sum of the weights stands for one of them.
  for (std::uint64_t i = 0; i < 20; ++i) ++counts[next(b, {.random = i})];
  CHECK(counts == std::vector<std::uint64_t>{0, 1, 5, 0, 2, 12});

  CHECK(b.reweight(member_id{5}, 2));
  CHECK(b.remove(member_id{2}));
  CHECK(b.add(member_id{6}, 3));
  std::map<std::uint64_t, int> now;
  for (std::uint64_t i = 0; i < 8; ++i) ++now[next(b, {.random = i})];
  CHECK(now == std::map<std::uint64_t, int>{{1, 1}, {4, 2}, {5, 2}, {6, 3}});
}

TEST_CASE("smooth weighted round robin spreads the turns as nginx's example does", "[balance]") {
  auto b = a_balance(balance_algorithm::weighted_round_robin, {5, 1, 1});
  CHECK(take(b, 14) == std::vector<std::uint64_t>{1, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 3, 1, 1});
}

TEST_CASE("smooth weighted round robin is exact over a cycle, and without repetitions that can be avoided",
          "[balance]") {
  // All weights up to 6 of up to 5 members.
  std::size_t checked = 0;
  for (std::size_t count = 1; count <= 5; ++count) {
    weights of(count, 1);
    for (;;) {
      const auto wrong = smoothness(of);
      if (!wrong.empty()) {
        CAPTURE(of);
        FAIL_CHECK(wrong);
      }
      ++checked;
      std::size_t at = 0;
      while (at < count && of[at] == 6) of[at++] = 1;
      if (at == count) break;
      ++of[at];
    }
  }
  CHECK(checked == 6 + 36 + 216 + 1296 + 7776);
  std::mt19937_64 chance{42};
  for (int i = 0; i < 300; ++i) {
    weights of(1 + chance() % 40);
    for (auto& weight : of) weight = static_cast<std::uint32_t>(1 + chance() % (chance() % 200 + 1));
    CAPTURE(of);
    CHECK(smoothness(of).empty());
  }
}

TEST_CASE("smooth weighted round robin is exact again in the cycle after a change", "[balance]") {
  auto b = a_balance(balance_algorithm::weighted_round_robin, {3, 2, 4});
  (void)take(b, 4);
  CHECK(b.add(member_id{4}, 3));
  CHECK(b.reweight(member_id{3}, 2));
  CHECK(b.remove(member_id{1}));
  // However this cycle ends, whole cycles follow: any 7 turns hold each member within one of its weight.
  (void)take(b, 7);
  std::map<std::uint64_t, int> turns;
  for (const auto chosen : take(b, 70)) ++turns[chosen];
  CHECK(std::abs(turns[2] - 20) <= 1);
  CHECK(std::abs(turns[3] - 20) <= 1);
  CHECK(std::abs(turns[4] - 30) <= 1);
}

TEST_CASE("no member of smooth weighted round robin starves while others join and leave", "[balance]") {
  auto b = a_balance(balance_algorithm::weighted_round_robin, {1, 1, 1});
  std::map<std::uint64_t, int> turns;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    CHECK(b.add(member_id{100 + i}, 1));
    ++turns[next(b)];
    if (i >= 5) CHECK(b.remove(member_id{100 + i - 5}));
  }
  for (std::uint64_t id = 1; id <= 3; ++id) CHECK(turns[id] > 100);
}

TEST_CASE("the same key goes to the same member, on every machine", "[balance]") {
  // XXH3's own test vector for no bytes at all, and a place on the ring that must never move.
  CHECK(stable_hash("") == 0x2D06800538D394C2ULL);
  auto a = equals(balance_algorithm::consistent_hash, 10);
  balance b{balance_algorithm::consistent_hash};
  for (std::uint64_t id = 10; id >= 1; --id) b.add(member_id{id});
  for (int i = 0; i < 1000; ++i) {
    const auto key = "order-" + std::to_string(i);
    const auto chosen = next(a, {.key = key});
    if (next(b, {.key = key}) != chosen || next(a, {.key = key}) != chosen) FAIL_CHECK(key);
  }
  std::vector<std::uint64_t> pinned;
  for (const auto* key : {"alpha", "beta", "gamma", "delta", ""}) pinned.push_back(next(a, {.key = key}));
  CHECK(pinned == std::vector<std::uint64_t>{6, 6, 1, 5, 1});
}

TEST_CASE("whoever joins or leaves a ring moves only its own keys, about one in n", "[balance]") {
  constexpr std::size_t members = 20, keys = 20'000;
  auto b = equals(balance_algorithm::consistent_hash, members);
  const auto placed = [&b] {
    std::vector<std::uint64_t> out;
    for (std::size_t i = 0; i < keys; ++i) out.push_back(next(b, {.key = "key " + std::to_string(i)}));
    return out;
  };
  const auto before = placed();
  CHECK(b.add(member_id{21}));
  const auto with = placed();
  std::size_t moved = 0, strayed = 0;
  for (std::size_t i = 0; i < keys; ++i) {
    moved += with[i] != before[i];
    strayed += with[i] != before[i] && with[i] != 21;
  }
  CHECK(strayed == 0);
  CHECK(moved > 0);
  CHECK(moved < keys / 21 * 3 / 2);
  CHECK(b.remove(member_id{21}));
  CHECK(placed() == before);
  CHECK(b.remove(member_id{7}));
  const auto without = placed();
  for (std::size_t i = 0; i < keys; ++i) strayed += without[i] != before[i] && before[i] != 7;
  CHECK(strayed == 0);
}

TEST_CASE("keys are spread over a ring by weight", "[balance]") {
  auto b = a_balance(balance_algorithm::consistent_hash, {1, 2, 4, 1});
  std::map<std::uint64_t, double> share;
  for (int i = 0; i < 40'000; ++i) share[next(b, {.key = std::to_string(i)})] += 8.0 / 40'000;
  for (const auto& [id, wanted] : std::map<std::uint64_t, double>{{1, 1}, {2, 2}, {3, 4}, {4, 1}}) {
    CAPTURE(id, share[id]);
    CHECK(share[id] > wanted * 0.7);
    CHECK(share[id] < wanted * 1.3);
  }
  // A change of weight gives the same ring as joining with it.
  auto late = a_balance(balance_algorithm::consistent_hash, {3, 1, 4, 9});
  CHECK(late.reweight(member_id{1}, 1));
  CHECK(late.reweight(member_id{2}, 2));
  CHECK(late.reweight(member_id{4}, 1));
  for (int i = 0; i < 1000; ++i) {
    const auto key = std::to_string(i);
    if (next(b, {.key = key}) != next(late, {.key = key})) FAIL_CHECK(key);
  }
}

TEST_CASE("the smallest mailbox is chosen, and equals take turns", "[balance]") {
  auto b = equals(balance_algorithm::smallest_mailbox, 3);
  CHECK(take(b, 4) == std::vector<std::uint64_t>{1, 2, 3, 1});
  b.report_size(member_id{1}, 5);
  b.report_size(member_id{2}, 3);
  b.report_size(member_id{3}, 4);
  CHECK(take(b, 2) == std::vector<std::uint64_t>{2, 2});
  b.report_size(member_id{2}, UINT64_MAX);
  CHECK(next(b) == 3);
  b.report_size(member_id{3}, 5);
  CHECK(take(b, 4) == std::vector<std::uint64_t>{1, 3, 1, 3});
}

TEST_CASE("a broadcast goes to every member once", "[balance]") {
  auto b = a_balance(balance_algorithm::broadcast, {1, 7, 0, 1});
  CHECK(b.remove(member_id{1}));
  CHECK(b.add(member_id{5}));
  std::set<std::uint64_t> ids;
  const auto chosen = b.choose();
  for (const auto id : chosen) ids.insert(id.value);
  CHECK(chosen.size() == 3);
  CHECK(ids == std::set<std::uint64_t>{2, 4, 5});
}

TEST_CASE("least response time tries every newcomer once before it judges", "[balance]") {
  auto b = equals(balance_algorithm::least_response_time, 4);
  CHECK(take(b, 8) == std::vector<std::uint64_t>{1, 2, 3, 4, 1, 2, 3, 4});
  b = equals(balance_algorithm::least_response_time, 2);
  CHECK(take(b, 2) == std::vector<std::uint64_t>{1, 2});
  b.answered(member_id{1}, 1ms, 1s);
  b.answered(member_id{2}, 1ms, 1s);
  CHECK(b.add(member_id{3}));
  CHECK(next(b, {.now = 1s}) == 3);
  // One probe at a time: it has not shown yet that it is better.
  CHECK(next(b, {.now = 1s}) != 3);
}

TEST_CASE("least response time prefers who answers sooner, and equals take turns", "[balance]") {
  auto b = equals(balance_algorithm::least_response_time, 3);
  const std::chrono::nanoseconds latency[] = {0ns, 2ms, 8ms, 2ms};
  std::map<std::uint64_t, int> turns;
  auto now = 0ns;
  for (int i = 0; i < 1000; ++i) {
    const auto chosen = next(b, {.now = now});
    ++turns[chosen];
    now += 10us;
    b.answered(member_id{chosen}, latency[chosen], now);
  }
  CHECK(turns[2] == 1);
  CHECK(std::abs(turns[1] - turns[3]) <= 1);
}

TEST_CASE("least response time counts what is not answered yet", "[balance]") {
  auto b = equals(balance_algorithm::least_response_time, 2);
  (void)take(b, 2);
  b.answered(member_id{1}, 1ms, 0s);
  b.answered(member_id{2}, 4ms, 0s);
  std::map<std::uint64_t, int> turns;
  for (int i = 0; i < 50; ++i) ++turns[next(b)];
  CHECK(turns[1] == 40);
  CHECK(turns[2] == 10);
  for (int i = 0; i < 40; ++i) b.abandoned(member_id{1});
  CHECK(next(b) == 1);
}

TEST_CASE("least response time tries a member again that was slow once, and forgives it", "[balance]") {
  balance b{balance_algorithm::least_response_time, {.half_life = 1s}};
  b.add(member_id{1});
  b.add(member_id{2});
  (void)take(b, 2);
  b.answered(member_id{1}, 1ms, 0s);
  b.answered(member_id{2}, 1s, 0s);
  std::optional<std::chrono::nanoseconds> tried;
  std::map<std::uint64_t, int> later;
  for (auto now = 0ns; now < 30s; now += 10ms) {
    const auto chosen = next(b, {.now = now});
    if (chosen == 2 && !tried) tried = now;
    if (now >= 15s) ++later[chosen];
    b.answered(member_id{chosen}, 1ms, now + 1ms);
  }
  // A thousand times slower is ten half-lives.
  REQUIRE(tried.has_value());
  CHECK(*tried > 9s);
  CHECK(*tried < 11s);
  CHECK(later[2] > later[1] / 2);
}

TEST_CASE("no member of least response time starves, however slow it is, or silent", "[balance]") {
  balance b{balance_algorithm::least_response_time, {.half_life = 100ms}};
  for (std::uint64_t id = 1; id <= 5; ++id) b.add(member_id{id});
  std::map<std::uint64_t, int> turns;
  for (auto now = 0ns; now < 60s; now += 1ms) {
    const auto chosen = next(b, {.now = now});
    ++turns[chosen];
    if (chosen == 5) continue;  // never answers
    b.answered(member_id{chosen}, chosen == 4 ? std::chrono::nanoseconds{10s} : 1ms, now);
  }
  CHECK(turns[4] > 10);
  CHECK(turns[5] > 10);
  CHECK(turns[1] > 10 * turns[4]);
}

TEST_CASE("least response time takes any time and any latency", "[balance]") {
  balance b{balance_algorithm::least_response_time, {.half_life = 0ns}};
  b.add(member_id{1}, balance::weight_max);
  b.add(member_id{2}, UINT32_MAX);
  for (const auto now :
       {std::chrono::nanoseconds::max(), std::chrono::nanoseconds::zero(), std::chrono::nanoseconds{-5}}) {
    const auto chosen = next(b, {.now = now});
    CHECK(chosen != 0);
    b.answered(member_id{chosen}, std::chrono::nanoseconds::max(), now);
    b.answered(member_id{chosen}, std::chrono::nanoseconds::min(), now);
  }
}
