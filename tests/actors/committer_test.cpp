// Which batches share a commit: nobody's small one waits behind a large one, and what has an order keeps it.
#include "actors/commit_share.hpp"
#include "mailbox/ids.hpp"
#include "tests/actors/probed_broker.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstddef>
#include <vector>

using namespace posthorn;

namespace {

using answer = commit_share::answer;
constexpr auto small = commit_share::small_max;
constexpr auto large = commit_share::work_max / 2;
constexpr auto huge = commit_share::work_max * 10;

}  // namespace

TEST_CASE("a small batch goes with the next commit, though large ones stand before it", "[committer]") {
  commit_share share;
  CHECK(share.offer({1}, large, false) == answer::whole);
  CHECK(share.offer({2}, large, false) == answer::wait);
  CHECK(share.offer({3}, large, false) == answer::wait);
  CHECK(share.offer({4}, small, false) == answer::whole);
  CHECK(share.offer({5}, small, false) == answer::whole);
}

TEST_CASE("every commit has the oldest large batch, however large, and others only while they fit",
          "[committer]") {
  commit_share share;
  CHECK(share.offer({1}, huge, false) == answer::whole);
  CHECK(share.offer({2}, small + 1, false) == answer::wait);

  commit_share other;
  CHECK(other.offer({1}, large / 2, false) == answer::whole);
  CHECK(other.offer({2}, large / 2, false) == answer::whole);
  CHECK(other.offer({3}, small + 1, false) == answer::wait);
}

TEST_CASE("many small batches are several commits", "[committer]") {
  constexpr std::size_t count = 100;
  std::size_t taken = 0;
  commit_share share;
  for (std::size_t n = 0; n < count; ++n) taken += share.offer({n}, small, false) == answer::whole ? 1U : 0U;
  CHECK(taken == commit_share::work_max / small);
  CHECK(taken < count);
}

TEST_CASE("what is larger than a commit goes in parts, and no other large batch beside it", "[committer]") {
  commit_share share;
  CHECK(share.offer({1}, huge, false, true) == answer::part);
  CHECK(share.offer({2}, large, false) == answer::wait);
  CHECK(share.offer({3}, huge, false, true) == answer::wait);
  CHECK(share.offer({4}, small, false) == answer::whole);
  // Its last parts are parts, too: it is not whole before all are written.
  commit_share last;
  CHECK(last.offer({1}, 1, false, true) == answer::part);
}

TEST_CASE("batches of one mailbox stay in order", "[committer]") {
  commit_share share;
  CHECK(share.offer({1}, large, false) == answer::whole);
  CHECK(share.offer({2}, large, false) == answer::wait);
  CHECK(share.offer({2}, small, false) == answer::wait);
  CHECK(share.offer({1}, small, false) == answer::whole);

  commit_share parts;
  CHECK(parts.offer({1}, huge, false, true) == answer::part);
  CHECK(parts.offer({1}, small, false) == answer::wait);
}

TEST_CASE("what durable actors do stays in order", "[committer]") {
  commit_share share;
  CHECK(share.offer({1}, small, true) == answer::whole);
  CHECK(share.offer({2}, huge, true, true) == answer::part);
  CHECK(share.offer({3}, small, true) == answer::wait);
  CHECK(share.offer({4}, small, false) == answer::whole);
}

TEST_CASE("a commit for small batches passes large ones, and what must not overtake them", "[committer]") {
  commit_share share{commit_share::large_ones::wait};
  CHECK(share.offer({1}, large, false) == answer::wait);
  CHECK(share.offer({2}, huge, false, true) == answer::wait);
  CHECK(share.offer({1}, small, false) == answer::wait);
  CHECK(share.offer({3}, small, false) == answer::whole);
}

TEST_CASE("who writes alone hands over much at a time, and little beside others", "[actors][committer]") {
  probed::node n;
  probed::client c{*n};
  auto& context = n.running->context();
  const auto busy = c.declare("busy"), other = c.declare("other");
  const auto commits_of = [&](std::size_t count) {
    const auto before = context.counters.commits->value();
    c.publish(busy, count);
    REQUIRE(c.all_settled());
    return context.counters.commits->value() - before;
  };
  // The declares are forgotten after a while. On a slow machine, so is the other's message: then it comes again.
  CHECK(probed::eventually([&] { return commits_of(4096) == 1 && !context.journal_shared; }));
  CHECK(probed::eventually([&] {
    c.publish(busy, 1000);
    c.publish(other, 1);
    REQUIRE(c.all_settled());
    return context.journal_shared && commits_of(4096) >= 4;
  }));
}
