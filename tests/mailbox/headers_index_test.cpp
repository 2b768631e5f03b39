#include "mailbox/headers_index.hpp"

#include "mailbox/topology.hpp"

#include <catch2/catch_test_macros.hpp>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

binding_ptr binding_of(std::uint64_t id, header_match match) {
  auto made = std::make_shared<binding_definition>();
  made->id = {id};
  made->headers = std::move(match);
  return made;
}

using model = std::map<std::string, binding_ptr>;
using found = std::set<std::uint64_t>;

// The definition: every binding, one after the other.
found linear(const model& bindings, const field_table& headers) {
  found out;
  for (const auto& [name, b] : bindings) {
    if (headers_match(b->headers, headers)) out.insert(b->id.value);
  }
  return out;
}

struct indexed_answer {
  found matching;
  std::size_t candidates = 0;
};
indexed_answer indexed(const headers_index& index, const field_table& headers) {
  indexed_answer out;
  index.for_each_candidate(headers, [&](const binding_ptr& b) {
    ++out.candidates;
    if (headers_match(b->headers, headers)) out.matching.insert(b->id.value);
  });
  return out;
}

// Few names and few values, so that much is equal, nearly equal, or of another type only.
class chance {
public:
  explicit chance(unsigned seed) : random_{seed} {}

  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  std::string name() {
    static const char* names[] = {"a", "b", "c", "x-a", "x-b", "x-match", "", "x", "aa"};
    return names[below(std::size(names))];
  }
  field_value value(int depth = 0) {
    const auto n = static_cast<std::int32_t>(below(3));
    switch (below(depth < 2 ? 14 : 10)) {
      case 0: return field_value::nothing();
      case 1: return {'t', boolean{static_cast<std::uint8_t>(n)}};  // two octets are the same truth
      case 2: return field_value::of_int(n);
      case 3: return field_value::of_long(n);
      case 4: return field_value::of_timestamp(static_cast<std::uint64_t>(n));
      case 5: return field_value::of_string(std::to_string(n));
      case 6: return field_value::of_bytes(std::to_string(n));
      case 7: return field_value::of_double(n == 0 ? 0.0 : n == 1 ? -0.0 : 1.0);
      case 8: return {'f', static_cast<float>(n)};
      case 9: return {'D', decimal{static_cast<std::uint8_t>(n), 1}};
      case 10: return field_value::of_string(std::string(100 + below(2), 'l'));  // longer than a key may be
      case 11:
      case 12: {
        field_array values;
        for (auto i = below(3); i > 0; --i) values.push_back(value(depth + 1));
        return field_value::of_array(std::move(values));
      }
      default: return field_value::of_table(some(2, depth + 1));
    }
  }
  field_table some(unsigned count_max, int depth = 0) {
    field_table out;
    for (auto i = below(count_max + 1); i > 0; --i) out.add(name(), value(depth));  // a name may come twice
    return out;
  }

private:
  std::mt19937 random_;
};

void agrees_with_the_linear_way(unsigned seed, int steps) {
  CAPTURE(seed);
  chance c{seed};
  headers_index index;
  model bindings;
  std::vector<std::pair<headers_index, model>> copies;
  for (int step = 0; step < steps; ++step) {
    if (bindings.empty() || c.below(5) < 3) {
      const auto id = static_cast<std::uint64_t>(step);
      const auto name = "binding " + std::to_string(id);
      const auto b = binding_of(id, {c.below(2) == 0, c.below(2) == 0, c.some(4)});
      index.add(b->headers, name, b);
      bindings.emplace(name, b);
    } else {
      auto gone = bindings.begin();
      std::advance(gone, c.below(static_cast<unsigned>(bindings.size())));
      index.remove(gone->second->headers, gone->first);
      bindings.erase(gone);
    }
    if (c.below(50) == 0) copies.emplace_back(index, bindings);
    const auto headers = c.some(8);
    REQUIRE(indexed(index, headers).matching == linear(bindings, headers));
    if (!bindings.empty()) {
      // At random, few bindings match all; what one wants, with something else besides, surely matches.
      auto wanted = bindings.begin();
      std::advance(wanted, c.below(static_cast<unsigned>(bindings.size())));
      auto like = wanted->second->headers.wanted;
      for (const auto& [name, value] : c.some(3)) like.add(name, value);
      REQUIRE(indexed(index, like).matching == linear(bindings, like));
    }
  }
  for (const auto& [copy, then] : copies) {
    const auto headers = c.some(8);
    REQUIRE(indexed(copy, headers).matching == linear(then, headers));
  }
  for (const auto& [name, b] : bindings) index.remove(b->headers, name);
  CHECK(index.empty());
}

field_table pair_of(const std::string& a, int x, const std::string& b, int y) {
  return {{a, field_value::of_int(x)}, {b, field_value::of_int(y)}};
}

}  // namespace

TEST_CASE("the index finds what a comparison with every binding finds", "[headers_index]") {
  for (unsigned seed = 1; seed <= 60; ++seed) agrees_with_the_linear_way(seed, 200);
}

TEST_CASE("bindings that do not match are not looked at", "[headers_index]") {
  headers_index index;
  constexpr int count = 10'000;
  std::uint64_t id = 0;
  const auto add = [&](bool any, field_table wanted) {
    const auto b = binding_of(++id, {any, false, std::move(wanted)});
    index.add(b->headers, "binding " + std::to_string(id), b);
  };
  SECTION("when they share one value and differ in another, in either order of their names") {
    for (int n = 0; n < count; ++n) {
      add(false, pair_of("kind", 1, "number", n));
      add(false, pair_of("number", n, "version", 1));
    }
    const field_table headers{{"version", field_value::of_int(1)},
                              {"number", field_value::of_int(77)},
                              {"kind", field_value::of_int(1)},
                              {"other", field_value::of_int(1)}};
    const auto answer = indexed(index, headers);
    CHECK(answer.matching == found{155, 156});
    CHECK(answer.candidates == 2);
  }
  SECTION("when each of their values is one that many others want") {
    for (int n = 0; n < count; ++n)
      add(false, {{"a", field_value::of_int(n % 10)},
                  {"b", field_value::of_int(n / 10 % 10)},
                  {"c", field_value::of_int(n / 100)}});
    const field_table headers{
        {"a", field_value::of_int(4)}, {"b", field_value::of_int(3)}, {"c", field_value::of_int(12)}};
    const auto answer = indexed(index, headers);
    CHECK(answer.matching == found{1235});
    CHECK(answer.candidates == 1);
  }
  SECTION("when one of their values is enough") {
    for (int n = 0; n < count; ++n) add(true, pair_of("a", n, "b", n + 1));
    const auto answer = indexed(index, pair_of("a", 5, "b", 5));
    CHECK(answer.matching == found{5, 6});
    CHECK(answer.candidates == 2);
  }
  SECTION("when the message has no headers, or only others") {
    for (int n = 0; n < count; ++n) add(n % 2 == 0, pair_of("a", n, "b", n));
    CHECK(indexed(index, {}).candidates == 0);
    CHECK(indexed(index, pair_of("c", 1, "d", 1)).candidates == 0);
  }
}

TEST_CASE("a binding may want thousands of headers, and a message offer as many", "[headers_index]") {
  headers_index index;
  field_table wanted;
  for (int n = 0; n < 5000; ++n) wanted.add("h" + std::to_string(n), field_value::of_int(n));
  const auto all = binding_of(1, {false, false, wanted}), any = binding_of(2, {true, false, wanted});
  index.add(all->headers, "all", all);
  index.add(any->headers, "any", any);
  CHECK(indexed(index, wanted).matching == found{1, 2});
  auto without_last = wanted;
  without_last.erase("h4999");
  CHECK(indexed(index, without_last).matching == found{2});
  index.remove(all->headers, "all");
  CHECK(indexed(index, wanted).matching == found{2});
  index.remove(any->headers, "any");
  CHECK(index.empty());
}
