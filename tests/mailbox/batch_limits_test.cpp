// A batch for the journal is bounded, and what is beyond the bound comes with the next ones.
#include "mailbox/mailbox.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

using namespace posthorn;

namespace {

constexpr publisher_id alice{1};
constexpr consumer_id bob{7};

envelope_ptr of_size(std::size_t size, bool persistent = true) {
  const std::string body(size, 'x');
  return make_envelope("x", "key", {}, persistent, std::as_bytes(std::span{body}));
}

struct desk {
  mailbox box{true, {}};
  effects out;
  std::uint64_t published = 0;

  void publish(std::size_t count, std::size_t size, bool persistent = true) {
    std::vector<arrival> messages;
    for (std::size_t n = 0; n < count; ++n)
      messages.push_back({of_size(size, persistent), alice, ++published});
    box.publish(messages, out);
  }
  std::uint64_t settled() const {
    std::uint64_t count = 0;
    for (const auto& s : out.settlements) count += s.last - s.first + 1;
    return count;
  }
  // Everything there is goes to a consumer.
  void deliver() {
    consumer_spec spec;
    spec.id = bob;
    spec.credit = std::int64_t{1} << 40;
    box.add_consumer(spec);
    box.dispatch(out);
  }
  void store_all() {
    while (!box.take_batch().empty()) box.on_committed(out);
  }
};

std::uint64_t width(const journal_batch& batch) {
  std::uint64_t all = 0;
  for (const auto& r : batch.erasures) all += r.last.value - r.first.value + 1;
  return all;
}

}  // namespace

TEST_CASE("a batch has no more messages than its limit, and the rest follows in order", "[mailbox]") {
  desk d;
  d.publish(10, 10);
  std::uint64_t last = 0, batches = 0;
  for (;; ++batches) {
    const auto batch = d.box.take_batch({.count_max = 4});
    if (batch.empty()) break;
    CHECK(batch.appends.size() <= 4);
    for (const auto& a : batch.appends) CHECK(a.at == sequence{++last});
    CHECK(d.settled() == batches * 4);
    d.box.on_committed(d.out);
    CHECK(d.settled() == last);
  }
  CHECK(batches == 3);
  CHECK(last == 10);
  CHECK_FALSE(d.box.has_unsent());
}

TEST_CASE("a batch has no more bytes than its limit, but at least one message", "[mailbox]") {
  desk d;
  const auto one = of_size(1000)->bytes().size();
  d.publish(5, 1000);
  CHECK(d.box.take_batch({.size_max = 2 * one}).appends.size() == 2);
  d.box.on_committed(d.out);
  CHECK(d.box.take_batch({.size_max = 2 * one - 1}).appends.size() == 1);
  d.box.on_committed(d.out);
  CHECK(d.box.take_batch({.size_max = 0}).appends.size() == 1);
  d.box.on_committed(d.out);
  CHECK(d.box.take_batch({.size_max = 1 << 20}).appends.size() == 1);
}

TEST_CASE("with the limits that a queue has, a batch is bounded whatever came", "[mailbox]") {
  constexpr batch_limits limits;
  desk d;
  d.publish(3 * limits.count_max, 10);
  CHECK(d.box.take_batch().appends.size() == limits.count_max);
  desk large;
  large.publish(40, 100'000);
  std::size_t size = 0;
  for (const auto& a : large.box.take_batch().appends) size += a.message->bytes().size();
  CHECK(size <= limits.size_max);
  CHECK(size > limits.size_max / 2);
}

TEST_CASE("what is gone before its batch is taken counts for nothing", "[mailbox]") {
  desk d;
  d.publish(10, 10);
  d.deliver();
  const std::vector<sequence_range> most{{{2}, {8}}};
  d.box.acknowledge(bob, most, d.out);
  const auto batch = d.box.take_batch({.count_max = 2});
  REQUIRE(batch.appends.size() == 2);
  CHECK(batch.appends[0].at == sequence{1});
  CHECK(batch.appends[1].at == sequence{9});
  CHECK(batch.erasures.empty());
  d.box.on_committed(d.out);
  CHECK(d.box.take_batch({.count_max = 2}).appends.size() == 1);
}

TEST_CASE("acknowledgements in bulk are erased in several batches, and a wide range is one step",
          "[mailbox]") {
  desk d;
  d.publish(100, 10);
  d.store_all();
  d.deliver();
  for (std::uint64_t n = 1; n <= 100; n += 2) {
    const std::vector<sequence_range> one{{{n}, {n}}};
    d.box.acknowledge(bob, one, d.out);
  }
  std::uint64_t erased = 0, batches = 0;
  for (; d.box.has_unsent(); ++batches) {
    CHECK(d.box.has_unsent_erasures());
    const auto batch = d.box.take_batch({.count_max = 20});
    CHECK(width(batch) <= 20);
    erased += width(batch);
    d.box.on_committed(d.out);
  }
  CHECK(erased == 50);
  CHECK(batches == 3);
  CHECK_FALSE(d.box.has_unsent_erasures());

  desk wide;
  wide.publish(10'000, 1);
  wide.store_all();
  wide.box.purge(wide.out);
  const auto batch = wide.box.take_batch({.count_max = 20});
  CHECK(width(batch) == 10'000);
  CHECK_FALSE(wide.box.has_unsent_erasures());
}

TEST_CASE("a batch that was not written comes back before what stands behind it", "[mailbox]") {
  desk d;
  d.publish(6, 10);
  auto batch = d.box.take_batch({.count_max = 2});
  d.box.on_not_committed(std::move(batch), d.out);
  CHECK(d.settled() == 0);
  std::uint64_t last = 0;
  for (auto next = d.box.take_batch({.count_max = 3}); !next.empty();
       next = d.box.take_batch({.count_max = 3})) {
    for (const auto& a : next.appends) CHECK(a.at == sequence{++last});
    d.box.on_committed(d.out);
  }
  CHECK(last == 6);
  CHECK(d.settled() == 6);
}

TEST_CASE(
    "messages that are stored for want of memory come in several batches, and none counts as stored before",
    "[mailbox]") {
  desk d;
  d.box.limit_memory(0);
  d.publish(10, 1000, false);
  std::uint64_t written = 0;
  for (int n = 0; n < 10 && d.box.has_unsent(); ++n) {
    const auto batch = d.box.take_batch({.count_max = 3});
    CHECK(batch.appends.size() <= 3);
    for (const auto& a : batch.appends) CHECK(a.transient);
    const auto before = d.box.resident_size();
    d.box.on_committed(d.out);
    written += batch.appends.size();
    // What was not written yet is still in memory.
    CHECK(d.box.resident_size() >= (10 - written) * 1000);
    CHECK(d.box.resident_size() <= before);
  }
  CHECK(written > 3);
}

TEST_CASE("dead letters are erased by one batch, whatever the limit", "[mailbox]") {
  mailbox_rules rules;
  rules.dead_letter_exchange = "graveyard";
  desk d;
  d.box = mailbox{true, {}, {}, rules};
  d.publish(50, 10);
  d.store_all();
  d.deliver();
  for (std::uint64_t n = 1; n <= 50; n += 2) {
    const std::vector<sequence_range> one{{{n}, {n}}};
    d.box.reject(bob, one, d.out);
  }
  const auto batch = d.box.take_batch({.count_max = 5});
  CHECK(batch.moves);
  CHECK(width(batch) == 25);
}
