#include "mailbox/binding_choice.hpp"

#include "mailbox/topology.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

binding_ptr binding_to(const std::string& destination, std::uint64_t id,
                       destination_kind kind = destination_kind::queue) {
  auto made = std::make_shared<binding_definition>();
  made->id = {id};
  made->kind = kind;
  made->destination = destination;
  return made;
}

}  // namespace

TEST_CASE("all bindings have their turn by number, in the order of their destinations", "[binding_choice]") {
  binding_choice choice;
  CHECK(choice.empty());
  const auto c = binding_to("c", 1), a2 = binding_to("a", 3), b = binding_to("b", 2), a1 = binding_to("a", 1);
  const auto x = binding_to("a", 9, destination_kind::exchange);
  for (const auto& each : {x, c, a2, b, a1}) choice.add(each);
  CHECK(choice.size() == 5);
  const std::vector<binding_ptr> in_order{a1, a2, b, c, x};
  for (std::uint64_t n = 0; n < 20; ++n) CHECK(choice.at(n) == in_order[n % 5]);
  CHECK(choice.at(~std::uint64_t{0}) == in_order[~std::uint64_t{0} % 5]);
  choice.remove(*a2);
  choice.remove(*a2);
  CHECK(choice.size() == 4);
  CHECK(choice.at(1) == b);
  for (const auto& each : {x, c, b, a1}) choice.remove(*each);
  CHECK(choice.empty());
}

TEST_CASE("a choice by weight is as the weights say, from the lightest to the heaviest", "[binding_choice]") {
  std::mt19937_64 random{7};
  binding_choice choice;
  const std::map<std::string, std::uint32_t> weights{
      {"a", 1}, {"b", 10}, {"c", 100}, {"d", 1000}, {"e", 8889}};
  std::uint64_t id = 0;
  for (const auto& [name, weight] : weights) choice.add(binding_to(name, ++id), weight);
  constexpr int count = 200'000;
  std::map<std::string, int> got;
  for (int n = 0; n < count; ++n) ++got[choice.by_weight(random())->destination];
  for (const auto& [name, weight] : weights) {
    const auto expected = count * (weight / 10'000.0);
    CAPTURE(name, expected, got[name]);
    CHECK(std::abs(got[name] - expected) < 5 * std::sqrt(expected));
  }
}

TEST_CASE("hashes that are alike, as those of small numbers, are divided as well", "[binding_choice]") {
  binding_choice choice;
  for (std::uint64_t n = 0; n < 8; ++n) choice.add(binding_to("q" + std::to_string(n), n + 1), 3);
  for (const unsigned shift : {0U, 17U, 44U}) {
    std::map<std::string, int> got;
    for (std::uint64_t n = 0; n < 16'000; ++n) ++got[choice.by_weight(n << shift)->destination];
    CAPTURE(shift);
    CHECK(got.size() == 8);
    for (const auto& [name, share] : got) CHECK(std::abs(share - 2000) < 5 * std::sqrt(2000.0));
  }
}

TEST_CASE("whoever comes or goes moves nothing between the others, whatever the weights",
          "[binding_choice]") {
  std::mt19937_64 random{11};
  std::vector<std::uint64_t> hashes(3000);
  for (auto& hash : hashes) hash = random();
  binding_choice choice;
  std::map<std::uint64_t, binding_ptr> present;
  choice.add(present[0] = binding_to("q0", 1), 5);
  for (std::uint64_t step = 1; step < 60; ++step) {
    std::vector<std::string> before;
    for (const auto hash : hashes) before.push_back(choice.by_weight(hash)->destination);
    std::string changed;
    bool came = present.size() < 3 || random() % 2 == 0;
    if (came) {
      changed = "q" + std::to_string(step);
      choice.add(present[step] = binding_to(changed, step + 1),
                 static_cast<std::uint32_t>(1 + random() % 50));
    } else {
      auto gone = present.begin();
      std::advance(gone, random() % present.size());
      changed = gone->second->destination;
      choice.remove(*gone->second);
      present.erase(gone);
    }
    for (std::size_t n = 0; n < hashes.size(); ++n) {
      const auto& now = choice.by_weight(hashes[n])->destination;
      if (now == before[n]) continue;
      REQUIRE((came ? now : before[n]) == changed);
    }
  }
}
