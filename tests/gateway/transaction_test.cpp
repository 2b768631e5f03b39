#include "gateway/amqp091/transaction.hpp"

#include <catch2/catch_test_macros.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;
using namespace posthorn::amqp091;

namespace {

using step = transaction::step;

transaction::publish a_publish(std::string_view key, std::vector<queue_ptr> queues = {}) {
  return {make_envelope("", key, {}, true, {}), std::move(queues), {}, false};
}

queue_ptr a_queue(std::uint64_t id) {
  auto made = std::make_shared<queue_definition>();
  made->id = mailbox_id{id};
  made->name = "q" + std::to_string(id);
  return made;
}

std::vector<std::string> published(transaction& tx) {
  std::vector<std::string> out;
  while (auto next = tx.next_publish()) out.emplace_back(next->message->routing_key());
  return out;
}

std::vector<transaction::answer> answers(transaction& tx) {
  std::vector<transaction::answer> out;
  while (auto next = tx.next_answer()) out.push_back(*next);
  return out;
}

// Up to the answers, as if all had been settled at once.
void settle_all(transaction& tx) {
  tx.begin_commit(0);
  while (tx.next_publish()) {
  }
  tx.end_publishing(0);
  tx.settle(0, {});
  REQUIRE(tx.at() == step::answering);
}

}  // namespace

TEST_CASE("a transaction hands out its publishes in their order, and then its answers [27]",
          "[transaction]") {
  transaction tx;
  tx.add(a_publish("1"));
  tx.add(transaction::answer{{1, 3}, outcome::acknowledged});
  tx.add(a_publish("2"));
  CHECK(tx.at() == step::gathering);
  tx.begin_commit(7);
  CHECK(published(tx) == std::vector<std::string>{"1", "2"});
  tx.end_publishing(9);
  tx.settle(8, {});
  CHECK(tx.at() == step::settling);  // one is not safe yet: no answer may be given
  tx.settle(9, {});
  CHECK(tx.at() == step::answering);
  CHECK(answers(tx) == std::vector<transaction::answer>{{{1, 3}, outcome::acknowledged}});
  CHECK_FALSE(tx.take_verdict());
  tx.end_answering([](const queue_ptr&) { FAIL("no queue has anything to write"); });
  CHECK(tx.take_verdict() == transaction::verdict::complete);
  CHECK(tx.at() == step::gathering);
  CHECK(tx.size() == 0);
}

TEST_CASE("a commit is over when each queue with answers has written them, once each", "[transaction]") {
  transaction tx;
  tx.add(transaction::answer{{1, 9}, outcome::acknowledged});
  settle_all(tx);
  REQUIRE(tx.next_answer());
  const auto one = a_queue(1), two = a_queue(2);
  for (const auto& queue : {one, two, one, one}) tx.wait_for(queue);
  std::vector<std::string> asked;
  tx.end_answering([&](const queue_ptr& queue) { asked.push_back(queue->name); });
  CHECK(asked.size() == 2);
  CHECK_FALSE(tx.take_verdict());
  tx.on_written();
  CHECK_FALSE(tx.take_verdict());
  tx.on_written();
  CHECK(tx.take_verdict() == transaction::verdict::complete);
}

TEST_CASE("a commit of which a queue refused a part is partial, one after it is its own [27]",
          "[transaction]") {
  transaction tx;
  const auto commit = [&](std::uint64_t before, std::uint64_t last,
                          const std::vector<std::uint64_t>& rejected) {
    tx.add(a_publish("x"));
    tx.begin_commit(before);
    published(tx);
    tx.end_publishing(last);
    tx.settle(last, rejected);
    tx.end_answering([](const queue_ptr&) {});
    return tx.take_verdict();
  };
  CHECK(commit(0, 3, {2}) == transaction::verdict::partial);
  CHECK(commit(3, 4, {}) == transaction::verdict::complete);
  CHECK(commit(4, 5, {3, 4}) == transaction::verdict::complete);  // from before tx.select
  CHECK(commit(5, 7, {4, 6}) == transaction::verdict::partial);
}

TEST_CASE("what a transaction takes of memory is told until it is handed out or dropped", "[transaction]") {
  transaction tx;
  std::size_t sum = 0;
  for (int i = 0; i < 10; ++i) {
    auto next = a_publish("k", {a_queue(1), a_queue(2)});
    CHECK(next.size() >= next.message->footprint() + 2 * sizeof(queue_ptr));
    sum += next.size();
    tx.add(std::move(next));
  }
  CHECK(tx.size() == sum);
  tx.rollback();
  CHECK(tx.size() == 0);
  CHECK_FALSE(tx.next_publish());
  tx.add(a_publish("k"));
  tx.begin_commit(0);
  while (auto next = tx.next_publish()) sum = next->size();
  CHECK(tx.size() == 0);
}

TEST_CASE("answers of one kind to neighbours are kept as one, and no others", "[transaction]") {
  transaction tx;
  using answer = transaction::answer;
  constexpr auto ack = outcome::acknowledged, back = outcome::returned;
  for (std::uint64_t tag = 5; tag <= 1000; ++tag) tx.add(answer{{tag, tag}, ack});
  tx.add(answer{{4, 4}, ack});   // just before
  tx.add(answer{{1, 2}, ack});   // 3 lies between
  tx.add(answer{{3, 3}, back});  // of another kind
  tx.add(answer{{1, 0}, back});  // to nothing
  tx.add(answer{{1, 8}, ack});
  settle_all(tx);
  CHECK(answers(tx) == std::vector<answer>{{{4, 1000}, ack}, {{1, 2}, ack}, {{3, 3}, back}, {{1, 8}, ack}});
}
