#include "mailbox/persistent_map.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace posthorn;

namespace {

using content = std::map<std::string, int>;

content content_of(const persistent_map<int>& m) {
  content out;
  m.for_each([&](const std::string& key, int value) { REQUIRE(out.emplace(key, value).second); });
  return out;
}

// Keys that collide in all 64 bits of libstdc++'s hash (MurmurHash64A, whose seed is fixed): of two neighbouring words
// of a key, what the first does to the highest bit of the state, the second takes back. Each pair of words can be
// written in two ways.
std::vector<std::string> colliding_keys(unsigned pairs) {
  constexpr std::uint64_t m = 0xc6a4a7935bd1e995ULL;
  std::uint64_t inverse = m;  // of m, modulo 2^64, by Newton's iteration
  for (int n = 0; n < 6; ++n) inverse *= 2 - m * inverse;
  // The hash mixes a word as k*m, k^(k>>47), k*m. This is the word that is mixed to `mixed`.
  const auto unmixed = [&](std::uint64_t mixed) {
    std::uint64_t k = mixed * inverse;
    k ^= k >> 47;
    return k * inverse;
  };
  const std::uint64_t words[2] = {unmixed(0x0123456789abcdefULL),
                                  unmixed(0x0123456789abcdefULL ^ (1ULL << 63))};
  std::vector<std::string> keys;
  for (unsigned choice = 0; choice < (1U << pairs); ++choice) {
    std::string key;
    for (unsigned p = 0; p < pairs; ++p) {
      const auto word = words[(choice >> p) & 1U];
      for (int twice = 0; twice < 2; ++twice) key.append(reinterpret_cast<const char*>(&word), sizeof word);
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

void behaves_like_a_map(const std::vector<std::string>& keys, unsigned seed, int steps) {
  CAPTURE(seed);
  std::mt19937 random{seed};
  persistent_map<int> map;
  content model;
  std::vector<std::pair<persistent_map<int>, content>> copies;
  for (int step = 0; step < steps; ++step) {
    const auto& key = keys[random() % keys.size()];
    switch (random() % 6) {
      case 0:
      case 1:
      case 2:
        map.set(key, step);
        model[key] = step;
        break;
      case 3: REQUIRE(map.erase(key) == (model.erase(key) == 1)); break;
      case 4:
        map.edit(key) += step;
        model[key] += step;
        break;
      default:
        if (copies.size() < 20) copies.emplace_back(map, model);
        break;
    }
    REQUIRE(map.size() == model.size());
    REQUIRE(map.empty() == model.empty());
    const auto* found = map.find(key);
    const auto expected = model.find(key);
    REQUIRE((found != nullptr) == (expected != model.end()));
    if (found != nullptr) REQUIRE(*found == expected->second);
  }
  CHECK(content_of(map) == model);
  for (const auto& [copy, then] : copies) {
    CHECK(copy.size() == then.size());
    CHECK(content_of(copy) == then);
  }
  for (const auto& key : keys) map.erase(key);
  CHECK(map.empty());
  CHECK(content_of(map).empty());
}

}  // namespace

TEST_CASE("an empty persistent map has nothing", "[persistent_map]") {
  persistent_map<int> m;
  CHECK(m.empty());
  CHECK(m.find("") == nullptr);
  CHECK_FALSE(m.erase("a"));
  m.set("", 1);
  CHECK(*m.find("") == 1);
  CHECK(m.erase(""));
  CHECK(m.empty());
}

TEST_CASE("a persistent map behaves like a map, and its copies never change", "[persistent_map]") {
  for (const std::size_t count : {3U, 40U, 3000U}) {
    std::vector<std::string> keys;
    for (std::size_t n = 0; n < count; ++n) keys.push_back("key " + std::to_string(n));
    for (unsigned seed = 1; seed <= 3; ++seed) behaves_like_a_map(keys, seed, 10'000);
  }
}

TEST_CASE("keys whose hashes are equal are told apart", "[persistent_map]") {
  const auto keys = colliding_keys(4);
  REQUIRE(keys.size() == 16);
  const std::hash<std::string_view> hash;
  for (const auto& key : keys) {
    if (hash(key) != hash(keys.front())) SKIP("this library's hash is another one");
  }
  behaves_like_a_map(keys, 1, 5000);
  auto mixed = keys;
  for (int n = 0; n < 100; ++n) mixed.push_back("key " + std::to_string(n));
  behaves_like_a_map(mixed, 2, 10'000);
}

TEST_CASE("a map of maps is changed deep inside, and its copies do not see it", "[persistent_map]") {
  persistent_map<persistent_map<int>> map;
  map.edit("a").set("x", 1);
  const auto* place = map.find("a")->find("x");
  map.edit("a").edit("x") = 2;
  CHECK(map.find("a")->find("x") == place);  // nobody else has it: it changes where it is
  const auto copy = map;
  map.edit("a").edit("x") = 3;
  map.edit("a").set("y", 4);
  map.edit("b").set("z", 5);
  CHECK(copy.size() == 1);
  CHECK(copy.find("a")->size() == 1);
  CHECK(copy.find("a")->find("x") == place);
  CHECK(*place == 2);
  CHECK(*map.find("a")->find("x") == 3);
}

TEST_CASE("copies are read and dropped by one thread while another one changes the map", "[persistent_map]") {
  persistent_map<int> map;
  for (int n = 0; n < 100; ++n) map.set(std::to_string(n), 0);
  std::mutex mutex;
  std::vector<persistent_map<int>> published;
  bool done = false;
  int torn = 0, seen = 0;
  std::thread reader{[&] {
    for (bool last = false; !last;) {
      std::vector<persistent_map<int>> taken;
      {
        const std::lock_guard guard{mutex};
        taken.swap(published);
        last = done;
      }
      for (const auto& copy : taken) {
        const int version = *copy.find("0");
        copy.for_each([&](const std::string&, int value) { torn += value == version ? 0 : 1; });
        ++seen;
      }
    }
  }};
  for (int version = 1; version <= 2000; ++version) {
    for (int n = 0; n < 100; ++n) map.edit(std::to_string(n)) = version;
    const std::lock_guard guard{mutex};
    published.push_back(map);
    done = version == 2000;
  }
  reader.join();
  CHECK(seen == 2000);
  CHECK(torn == 0);
}

TEST_CASE("a value lives as long as some copy holds it", "[persistent_map]") {
  const auto value = std::make_shared<int>(5);
  persistent_map<std::shared_ptr<int>> map;
  map.set("a", value);
  {
    auto copy = map;
    map.erase("a");
    CHECK(value.use_count() == 2);
    copy.set("a", nullptr);
    CHECK(value.use_count() == 1);
  }
  CHECK(map.empty());
}
