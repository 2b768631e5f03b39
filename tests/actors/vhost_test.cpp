// How the vhost's actor divides its work: no step is so long that others notice.
#include "actors/vhost.hpp"

#include "tests/actors/probed_broker.hpp"

#include <algorithm>

using namespace posthorn;
using namespace posthorn::probed;

namespace {

constexpr std::int64_t step_size_max = 128;  // as in actors/vhost.cpp

std::int64_t commits(const node& n) { return n.running->context().counters.commits->value(); }

}  // namespace

TEST_CASE("thousands of declares at once are many writes, and are answered in their order",
          "[actors][vhost]") {
  node n;
  client c{*n};
  constexpr int count = 5000;
  const auto before = commits(n);
  std::vector<request_token> asked;
  for (int i = 0; i < count; ++i) asked.push_back(c.ask_vhost(c.a_queue("q" + std::to_string(i))));
  c.answer<queue_declared>(asked.back());
  CHECK(commits(n) - before >= count / step_size_max);
  // Nor does each have a write of its own.
  CHECK(commits(n) - before < count / 4);
  CHECK(n.snapshot()->queue_count() == count);
  const std::lock_guard guard{c.heard->mutex};
  CHECK(c.heard->order == asked);
}

TEST_CASE("thousands of requests that need no disk are answered in their order", "[actors][vhost]") {
  node n;
  client c{*n};
  std::vector<request_token> asked;
  for (int i = 0; i < 3000; ++i) {
    auto command = c.a_queue("q" + std::to_string(i / 2));  // every second one is there already
    command.durable = false;
    asked.push_back(c.ask_vhost(command));
  }
  c.answer<queue_declared>(asked.back());
  CHECK(n.snapshot()->queue_count() == 1500);
  const std::lock_guard guard{c.heard->mutex};
  REQUIRE(c.heard->order == asked);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto& declared = std::get<queue_declared>(c.heard->replies.at(asked[i]).front().what);
    CHECK(declared.created == (i % 2 == 0));
    CHECK(declared.queue != nullptr);
  }
}

TEST_CASE("a connection with thousands of exclusive queues is answered when the last one is gone",
          "[actors][vhost]") {
  node n;
  client owner{*n}, other{*n};
  constexpr int count = 3000;
  const auto exclusive = [&](int i) {
    auto command = owner.a_queue("mine " + std::to_string(i));
    command.exclusive = true;
    return command;
  };
  request_token last = 0;
  for (int i = 0; i < count; ++i) last = owner.ask_vhost(exclusive(i));
  owner.answer<queue_declared>(last);
  other.answer<queue_declared>(other.ask_vhost(other.a_queue("another's")));
  // Some more come in the same breath, and one of the old ones is not there any more.
  const auto gone = owner.queue("mine 7");
  owner.answer<messages_removed>(owner.ask(gone, delete_queue{}));
  const auto before = commits(n);
  for (int i = count; i < count + 100; ++i) owner.ask_vhost(exclusive(i));
  n.running->find_vhost("/")->post(release_owner{owner.handle, 100'000, owner.id});
  const auto after = other.ask_vhost(other.a_queue("later"));
  owner.answer<done>(100'000);
  const auto left = n.snapshot();
  CHECK(left->queue_count() <= 2);
  CHECK(left->find_queue("another's") != nullptr);
  other.answer<queue_declared>(after);
  CHECK(n.snapshot()->queue_count() == 2);
  CHECK(commits(n) - before >= count / step_size_max);
  const std::lock_guard guard{owner.heard->mutex};
  CHECK(owner.heard->replies.at(100'000).size() == 1);
}

TEST_CASE("a killed vhost's actor leaves no request without an answer", "[actors][vhost]") {
  node n;
  client c{*n};
  for (int round = 0; round < 10; ++round) {
    std::vector<request_token> asked;
    for (int i = 0; i < 1000; ++i) {
      auto command = c.a_queue("q " + std::to_string(round) + " " + std::to_string(i));
      command.durable = round % 2 == 0;
      asked.push_back(c.ask_vhost(command));
    }
    CHECK(n.kill("/vhosts/%2F/topology"));
    for (const auto token : asked) c.answer<queue_declared>(token);
  }
  CHECK(n.snapshot()->queue_count() == 10'000);
}
