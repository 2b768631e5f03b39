#include "mailbox/ring.hpp"

#include <catch2/catch_test_macros.hpp>

#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>

using namespace posthorn;

namespace {

bool equal(const ring<std::string>& r, const std::deque<std::string>& d) {
  if (r.size() != d.size() || r.empty() != d.empty()) return false;
  for (std::size_t i = 0; i < d.size(); ++i) {
    if (r[i] != d[i]) return false;
  }
  return d.empty() || (r.front() == d.front() && r.back() == d.back());
}

}  // namespace

TEST_CASE("a ring behaves like a deque", "[ring]") {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    std::mt19937 random{seed};
    ring<std::string> r;
    std::deque<std::string> d;
    for (int step = 0; step < 5000; ++step) {
      // It grows and falls empty by turns.
      const bool growing = (step / 400) % 2 == 0;
      const auto value = "a text that is not short: " + std::to_string(step);
      switch (random() % (growing ? 5 : 9)) {
        case 0:
        case 1:
          r.push_back(value);
          d.push_back(value);
          break;
        case 2:
          r.push_front(value);
          d.push_front(value);
          break;
        case 3: {
          const auto index = random() % (d.size() + 1);
          r.insert(index, value);
          d.insert(d.begin() + static_cast<std::ptrdiff_t>(index), value);
          break;
        }
        case 4:
          if (random() % 100 == 0) {
            r.clear();
            d.clear();
          } else if (!d.empty()) {
            r.front() = value;
            d.front() = value;
          }
          break;
        case 5:
          if (!d.empty()) {
            r.pop_back();
            d.pop_back();
          }
          break;
        default:
          if (!d.empty()) {
            r.pop_front();
            d.pop_front();
          }
          break;
      }
      REQUIRE(equal(r, d));
    }
  }
}

TEST_CASE("a ring that was moved from is empty and can be used again", "[ring]") {
  ring<int> a;
  for (int n = 0; n < 20; ++n) a.push_back(n);
  ring<int> b{std::move(a)};
  CHECK(a.empty());  // NOLINT: that is the promise
  CHECK(b.size() == 20);
  a.push_back(7);
  CHECK(a.front() == 7);
  a = std::move(b);
  CHECK(a.size() == 20);
  CHECK(a.back() == 19);
  CHECK(b.empty());  // NOLINT: that is the promise
  b.push_front(1);
  CHECK(b.back() == 1);
}

TEST_CASE("a ring lets go of what is taken out of it at once", "[ring]") {
  const auto value = std::make_shared<int>(1);
  ring<std::shared_ptr<int>> r;
  for (int n = 0; n < 3; ++n) r.push_back(value);
  r.pop_front();
  CHECK(value.use_count() == 3);
  r.pop_back();
  CHECK(value.use_count() == 2);
  r.clear();
  CHECK(value.use_count() == 1);
}
