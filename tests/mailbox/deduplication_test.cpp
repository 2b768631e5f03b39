#include "mailbox/deduplication.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;
using verdict = seen_messages::verdict;

namespace {

std::string properties_with(const field_table& headers) {
  basic_properties p;
  p.headers = headers;
  std::string out;
  encode_properties(p, out);
  return out;
}

std::optional<deduplication_key> key_of(field_value value) {
  const auto properties = properties_with({{"x-deduplication-header", std::move(value)}});
  return deduplication_key_of(std::as_bytes(std::span{properties}));
}

deduplication_key key(std::uint64_t n) { return *key_of(field_value::of_long(static_cast<std::int64_t>(n))); }

std::string answer(std::string_view type, const field_table& arguments) {
  const auto read = deduplication_of_exchange(type, arguments);
  if (const auto* text = std::get_if<std::string>(&read)) return *text;
  const auto& rules = std::get<std::optional<deduplication_rules>>(read);
  if (!rules) return "nothing";
  return std::to_string(rules->size_max) + (rules->ttl ? " for " + std::to_string(*rules->ttl) : "") +
         (rules->on_disk ? " on disk" : "");
}

// What is remembered, in the order in which it goes.
class slow_memory {
public:
  slow_memory(std::uint64_t size_max, std::optional<std::int64_t> ttl) : size_max_{size_max}, ttl_{ttl} {}

  verdict see(std::uint64_t n, std::int64_t now, std::optional<std::int64_t> ttl) {
    const auto found = find(n);
    if (found != all_.end() && (!found->expires_at || now < *found->expires_at)) {
      std::rotate(found, found + 1, all_.end());
      return all_.back().stored ? verdict::duplicate : verdict::pending;
    }
    if (found != all_.end()) all_.erase(found);
    if (all_.size() == size_max_) all_.erase(all_.begin());
    if (!ttl) ttl = ttl_;
    all_.push_back({n, ttl ? std::optional{now + *ttl} : std::nullopt, false});
    return verdict::fresh;
  }
  void on_stored(std::uint64_t n) {
    if (const auto found = find(n); found != all_.end()) found->stored = true;
  }
  void on_refused(std::uint64_t n) {
    if (const auto found = find(n); found != all_.end()) all_.erase(found);
  }
  void expire(std::int64_t now) {
    std::erase_if(all_, [now](const seen& s) { return s.expires_at && *s.expires_at <= now; });
  }
  [[nodiscard]] std::size_t size() const { return all_.size(); }
  [[nodiscard]] std::set<deduplication_key> keys() const {
    std::set<deduplication_key> out;
    for (const auto& s : all_) out.insert(key(s.n));
    return out;
  }

private:
  struct seen {
    std::uint64_t n = 0;
    std::optional<std::int64_t> expires_at;
    bool stored = false;
  };
  std::vector<seen>::iterator find(std::uint64_t n) {
    return std::find_if(all_.begin(), all_.end(), [n](const seen& s) { return s.n == n; });
  }

  std::uint64_t size_max_;
  std::optional<std::int64_t> ttl_;
  std::vector<seen> all_;
};

}  // namespace

TEST_CASE("messages are the same when the values of their headers are", "[deduplication]") {
  const auto text = [](const char* t) { return field_value::of_string(t); };
  CHECK_FALSE(deduplication_key_of({}));
  const auto other = properties_with({{"other", text("x-deduplication-header")}});
  CHECK_FALSE(deduplication_key_of(std::as_bytes(std::span{other})));
  CHECK(key_of(text("a")) == key_of(text("a")));
  CHECK(key_of(text("a")) != key_of(text("b")));
  CHECK(key_of(text("a")) == key_of(field_value::of_bytes("a")));
  CHECK(key_of(field_value::of_int(1)) == key_of({'b', std::int64_t{1}}));
  CHECK(key_of(field_value::of_int(1)) == key_of(field_value::of_long(1)));
  CHECK(key_of(field_value::of_int(1)) != key_of(text("1")));
  CHECK(key_of(field_value::of_int(1)) != key_of(field_value::of_double(1)));
  CHECK(key_of({'f', 1.5F}) == key_of(field_value::of_double(1.5)));
  CHECK(key_of(field_value::of_bool(true)) != key_of(field_value::of_bool(false)));
  CHECK(key_of(field_value::of_bool(true)) != key_of(field_value::of_int(1)));
  CHECK(key_of(field_value::nothing()).has_value());
  CHECK(key_of(field_value::of_array({text("a")})) != key_of(field_value::of_array({text("b")})));
}

TEST_CASE("an exchange says how much it remembers, and for how long", "[deduplication]") {
  const auto text = [](const char* t) { return field_value::of_string(t); };
  const auto number = [](std::int64_t n) { return field_value::of_long(n); };
  const std::string type{"x-message-deduplication"};
  const std::string no_size = "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0";
  const std::string no_ttl = "Invalid argument, 'x-cache-ttl' must be an integer greater than 0";
  const std::string no_place = "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
  CHECK(answer("direct", {}) == "nothing");
  CHECK(answer("direct", {{"x-cache-size", number(5)}}) == "nothing");
  CHECK(answer("direct", {{"x-message-deduplication", field_value::of_bool(false)}}) == "nothing");
  CHECK(answer("topic", {{"x-message-deduplication", field_value::of_bool(true)}}) == "128");
  CHECK(answer("topic", {{"x-message-deduplication", field_value::of_bool(true)},
                         {"x-cache-size", number(9)}}) == "9");
  CHECK(answer("topic", {{"x-message-deduplication", number(1)}}) ==
        "Invalid argument, 'x-message-deduplication' must be a boolean");
  CHECK(answer(type, {}) == no_size);
  CHECK(answer(type, {{"x-cache-size", number(0)}}) == no_size);
  CHECK(answer(type, {{"x-cache-size", text("many")}}) == no_size);
  CHECK(answer(type, {{"x-cache-size", number(5)}}) == "5");
  CHECK(answer(type, {{"x-cache-size", text("5")}}) == "5");
  const auto with = [&](const char* name, field_value value) {
    return answer(type, {{"x-cache-size", number(5)}, {name, std::move(value)}});
  };
  CHECK(with("x-cache-ttl", number(1000)) == "5 for 1000");
  CHECK(with("x-cache-ttl", text("1000")) == "5 for 1000");
  CHECK(with("x-cache-ttl", number(0)) == no_ttl);
  CHECK(with("x-cache-ttl", field_value::of_bool(true)) == no_ttl);
  CHECK(with("x-cache-persistence", text("disk")) == "5 on disk");
  CHECK(with("x-cache-persistence", text("memory")) == "5");
  CHECK(with("x-cache-persistence", text("tape")) == no_place);
  CHECK(with("x-cache-persistence", number(1)) == no_place);
  CHECK(answer(type, {{"x-cache-size", number(std::numeric_limits<std::int64_t>::max())}}) == "4294967294");
}

TEST_CASE("a queue says whether it takes a message only once", "[deduplication]") {
  const field_table yes{{"x-message-deduplication", field_value::of_bool(true)}};
  const field_table no{{"x-message-deduplication", field_value::of_bool(false)}};
  const field_table bad{{"x-message-deduplication", field_value::of_int(1)}};
  CHECK(deduplicates(yes));
  CHECK_FALSE(deduplicates(no));
  CHECK_FALSE(deduplicates({}));
  CHECK_FALSE(deduplicates(bad));  // which queue_arguments refuses
}

TEST_CASE("what a message says of its own time counts", "[deduplication]") {
  const auto ttl = [](field_value value) {
    const auto properties = properties_with({{"x-cache-ttl", std::move(value)}});
    return deduplication_ttl_of(std::as_bytes(std::span{properties}));
  };
  CHECK(ttl(field_value::of_int(50)) == 50);
  CHECK(ttl(field_value::of_string("50")) == 50);
  CHECK_FALSE(ttl(field_value::of_string("long")));
  CHECK_FALSE(deduplication_ttl_of({}));
  seen_messages memory{{.size_max = 10, .ttl = 1000}};
  CHECK(memory.see(key(1), 100, 50) == verdict::fresh);
  CHECK(memory.see(key(1), 149, 50) == verdict::pending);
  CHECK(memory.see(key(1), 150, 50) == verdict::fresh);
  CHECK(memory.see(key(2), 100, std::numeric_limits<std::int64_t>::max()) == verdict::fresh);
  CHECK(memory.see(key(2), std::int64_t{1} << 60) == verdict::pending);
}

TEST_CASE("a duplicate is not called safe before its original is, and a refused original is forgotten",
          "[deduplication]") {
  seen_messages memory{{.size_max = 10}};
  CHECK(memory.see(key(1), 1) == verdict::fresh);
  CHECK(memory.see(key(1), 2) == verdict::pending);
  memory.on_stored(key(1));
  CHECK(memory.see(key(1), 3) == verdict::duplicate);
  CHECK(memory.see(key(2), 3) == verdict::fresh);
  memory.on_refused(key(2));
  CHECK(memory.see(key(2), 4) == verdict::fresh);
}

TEST_CASE("an exchange remembers as the model does, and after a restart as before", "[deduplication]") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random{seed};
    const auto below = [&random](std::uint64_t end) { return random() % end; };
    deduplication_rules rules{.size_max = 1 + below(12), .on_disk = seed % 2 == 0};
    if (below(2) == 0) rules.ttl = static_cast<std::int64_t>(1 + below(200));
    std::optional<seen_messages> memory{rules};
    slow_memory model{rules.size_max, rules.ttl};
    std::map<deduplication_key, seen_messages::change> disk;
    std::int64_t now = 1'000'000;
    bool same = true;
    for (int step = 0; step < 1000 && same; ++step) {
      now += static_cast<std::int64_t>(below(12));
      const auto n = below(20);
      switch (below(6)) {
        case 0: {
          memory->on_stored(key(n));
          model.on_stored(n);
          break;
        }
        case 1: {
          memory->on_refused(key(n));
          model.on_refused(n);
          break;
        }
        case 2: {
          if (below(4) != 0) break;
          memory->expire(now, 100);
          model.expire(now);
          same = memory->size() == model.size();
          break;
        }
        default: {
          const auto ttl = below(3) == 0 ? std::optional{static_cast<std::int64_t>(1 + below(100))}
                                         : std::optional<std::int64_t>{};
          same = memory->see(key(n), now, ttl) == model.see(n, now, ttl);
        }
      }
      for (const auto& c : memory->changes()) {
        if (c.forgotten) {
          disk.erase(c.key);
        } else {
          disk[c.key] = c;
        }
      }
      same = same && memory->size() == model.size() && memory->size() <= rules.size_max;
    }
    CHECK(same);
    if (!rules.on_disk) {
      CHECK(disk.empty());
      continue;
    }
    std::set<deduplication_key> on_disk;
    for (const auto& [k, c] : disk) on_disk.insert(k);
    CHECK(on_disk == model.keys());
    std::vector<seen_messages::change> ordered;
    for (const auto& [k, c] : disk) ordered.push_back(c);
    std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.order < b.order; });
    seen_messages again{rules};
    for (const auto& c : ordered) again.restore(c);
    CHECK(again.size() == model.size());
    for (const auto& c : ordered) {
      const bool expired = c.expires_at != 0 && c.expires_at <= now;
      CHECK(again.see(c.key, now) == (expired ? verdict::fresh : verdict::duplicate));
    }
  }
}

TEST_CASE("a queue knows what is in it, and answers duplicates when their original is stored",
          "[deduplication]") {
  kept_messages kept;
  effects out;
  CHECK_FALSE(kept.original_of(key(1)));
  kept.add(key(1), {5});
  kept.add(key(2), {9});
  kept.add(key(3), {7});  // it was stored by somebody else, and came late
  CHECK(kept.original_of(key(1)) == sequence{5});
  CHECK(kept.original_of(key(3)) == sequence{7});
  kept.wait_for({5}, {1}, 10);
  kept.wait_for({9}, {1}, 11);
  kept.on_stored({8}, out);
  REQUIRE(out.settlements.size() == 1);
  CHECK(out.settlements.front().first == 10);
  out.clear();
  kept.remove({{6}, {9}});
  CHECK_FALSE(kept.original_of(key(2)));
  CHECK_FALSE(kept.original_of(key(3)));
  CHECK(kept.original_of(key(1)) == sequence{5});
  kept.on_stored({20}, out);
  CHECK(out.settlements.size() == 1);
  kept.add(key(2), {21});
  CHECK(kept.original_of(key(2)) == sequence{21});
  CHECK(kept.size() == 2);
}

TEST_CASE("a queue knows what is in it, whatever comes and goes", "[deduplication]") {
  std::mt19937_64 random{3};
  const auto below = [&random](std::uint64_t end) { return random() % end; };
  kept_messages kept;
  std::map<std::uint64_t, std::uint64_t> model;  // place -> number
  std::uint64_t next = 1;
  for (int step = 0; step < 20'000; ++step) {
    const auto n = below(500);
    const auto same = std::find_if(model.begin(), model.end(), [n](const auto& m) { return m.second == n; });
    const auto original = kept.original_of(key(n));
    REQUIRE(original.has_value() == (same != model.end()));
    REQUIRE((!original || original->value == same->first));
    if (!original) {
      next += 1 + below(3);
      kept.add(key(n), {next});
      model[next] = n;
    }
    if (below(3) != 0) continue;
    const auto first = below(4) == 0 ? below(next + 1) : next - below(std::min<std::uint64_t>(next, 300));
    const auto last = first + below(5);
    kept.remove({{first}, {last}});
    model.erase(model.lower_bound(first), model.upper_bound(last));
    REQUIRE(kept.size() == model.size());
  }
}
