// A queue that takes no message while the same is in it: what its publishers are told, and when.
#include "mailbox/deduplication.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;

namespace {

constexpr publisher_id alice{1}, bert{2};
constexpr consumer_id carla{1};

envelope_ptr message(const std::string& key, const std::string& body = "x") {
  basic_properties p;
  p.delivery_mode = 2;
  if (!key.empty()) p.headers.emplace().add("x-deduplication-header", field_value::of_string(key));
  std::string properties;
  encode_properties(p, properties);
  return make_envelope("", "q", std::as_bytes(std::span{properties}), true, std::as_bytes(std::span{body}));
}

mailbox_rules once() {
  mailbox_rules rules;
  rules.deduplicates = true;
  return rules;
}

struct box {
  explicit box(mailbox_rules rules = once(), const recovered_mailbox& recovered = {})
      : m{true, {}, recovered, std::move(rules)} {}

  void publish(publisher_id by, std::uint64_t number, const std::string& key) {
    std::vector<arrival> one{{message(key), by, number}};
    m.publish(one, out);
  }
  // Who was told what since the last time.
  std::vector<std::pair<publisher_id, std::uint64_t>> told() {
    std::vector<std::pair<publisher_id, std::uint64_t>> all;
    for (const auto& s : out.settlements) {
      for (auto n = s.first; n <= s.last; ++n) all.emplace_back(s.by, n);
    }
    out.settlements.clear();
    return all;
  }
  std::vector<sequence> written() {
    std::vector<sequence> places;
    auto batch = m.take_batch();
    for (const auto& a : batch.appends) places.push_back(a.at);
    return places;
  }
  std::optional<sequence> fetch() {
    effects got;
    if (!m.fetch(carla, true, got)) return std::nullopt;
    return got.deliveries.front().at;
  }

  mailbox m;
  effects out;
};

using answers = std::vector<std::pair<publisher_id, std::uint64_t>>;

}  // namespace

TEST_CASE("a duplicate's publisher is told when the original is stored", "[mailbox][deduplication]") {
  box b;
  b.publish(alice, 1, "k");
  b.publish(bert, 1, "k");
  b.publish(bert, 2, "other");
  CHECK(b.told().empty());
  CHECK(b.written().size() == 2);
  b.publish(bert, 3, "k");
  CHECK(b.told().empty());
  b.m.on_committed(b.out);
  CHECK(b.told() == answers{{alice, 1}, {bert, 2}, {bert, 1}, {bert, 3}});
  b.publish(bert, 4, "k");
  CHECK(b.told() == answers{{bert, 4}});
  CHECK(b.m.ready_count() == 2);
}

TEST_CASE("messages without the header are like no others", "[mailbox][deduplication]") {
  box b;
  b.publish(alice, 1, "");
  b.publish(alice, 2, "");
  CHECK(b.m.ready_count() == 2);
}

TEST_CASE("what is acknowledged before it was written settles its duplicates", "[mailbox][deduplication]") {
  box b;
  b.publish(alice, 1, "k");
  b.publish(bert, 1, "k");
  const auto at = b.fetch();
  REQUIRE(at);
  b.publish(bert, 2, "k");  // it is held: it is still there
  CHECK(b.m.ready_count() == 0);
  const std::vector<sequence_range> all{{*at, *at}};
  b.m.acknowledge(carla, all, b.out);
  CHECK(b.told() == answers{{alice, 1}, {bert, 1}, {bert, 2}});
  b.publish(bert, 3, "k");
  CHECK(b.m.ready_count() == 1);
}

TEST_CASE("a batch that failed leaves duplicates waiting", "[mailbox][deduplication]") {
  box b;
  b.publish(alice, 1, "k");
  b.publish(bert, 1, "k");
  auto batch = b.m.take_batch();
  b.m.on_not_committed(std::move(batch), b.out);
  CHECK(b.told().empty());
  CHECK(b.written().size() == 1);
  b.m.on_committed(b.out);
  CHECK(b.told() == answers{{alice, 1}, {bert, 1}});
}

TEST_CASE("a purge makes room for the same", "[mailbox][deduplication]") {
  recovered_mailbox recovered;
  recovered.keys = std::make_shared<recovered_keys>();
  for (std::uint64_t n = 1; n <= 3; ++n) recovered.count_message({n}, *message("k" + std::to_string(n)), 0);
  box b{once(), recovered};
  b.publish(alice, 1, "k2");
  CHECK(b.told() == answers{{alice, 1}});
  CHECK(b.m.ready_count() == 3);
  CHECK(b.m.purge(b.out) == 3);  // they are only in the store
  b.publish(alice, 2, "k2");
  CHECK(b.m.ready_count() == 1);
}

TEST_CASE("a refused message is not remembered", "[mailbox][deduplication]") {
  auto rules = once();
  rules.length_max = 1;
  rules.on_overflow = mailbox_rules::overflow::reject_publish;
  box b{rules};
  b.publish(alice, 1, "a");
  b.publish(alice, 2, "b");
  REQUIRE(b.out.settlements.size() == 1);
  CHECK(b.out.settlements.front().rejected);
  b.out.settlements.clear();
  b.publish(bert, 1, "a");  // is there
  CHECK(b.m.ready_count() == 1);
  b.m.purge(b.out);
  b.out.settlements.clear();
  b.publish(alice, 3, "b");
  CHECK(b.m.ready_count() == 1);
}

TEST_CASE("a dead letter's duplicates are told when its copy is written", "[mailbox][deduplication]") {
  auto rules = once();
  rules.dead_letter_exchange = "dead";
  box b{rules};
  b.publish(alice, 1, "k");
  b.publish(bert, 1, "k");
  const auto at = b.fetch();
  REQUIRE(at);
  const std::vector<sequence_range> all{{*at, *at}};
  b.m.reject(carla, all, b.out);
  CHECK(b.out.dead_letters.size() == 1);
  CHECK(b.told().empty());
  auto batch = b.m.take_batch();
  CHECK(batch.moves);
  b.m.on_committed(b.out);
  CHECK(b.told() == answers{{alice, 1}, {bert, 1}});
}

TEST_CASE("what others stored here twice is there once", "[mailbox][deduplication]") {
  box b;
  b.m.skip_to({3});
  std::vector<loaded_message> stored{{{1}, message("k"), 0}, {{2}, message("k"), 0}};
  b.m.arrive(stored);
  CHECK(b.m.ready_count() == 1);
  const auto batch = b.m.take_batch();
  CHECK(batch.erasures == std::vector<sequence_range>{{{2}, {2}}});
}

TEST_CASE("what others stored here twice is not read from between others", "[mailbox][deduplication]") {
  recovered_mailbox recovered;
  recovered.keys = std::make_shared<recovered_keys>();
  recovered.count_message({1}, *message("a"), 0);
  recovered.count_message({3}, *message("c"), 0);
  box b{once(), recovered};
  std::vector<loaded_message> stored{{{2}, message("a"), 0}};
  b.m.arrive(stored);
  effects asked;
  CHECK_FALSE(b.m.fetch(carla, true, asked));
  REQUIRE(asked.load);
  std::vector<loaded_message> read{{{1}, message("a"), 0}, {{2}, message("a"), 0}, {{3}, message("c"), 0}};
  b.m.on_loaded(read);
  CHECK(b.fetch() == sequence{1});
  CHECK(b.fetch() == sequence{3});
  CHECK_FALSE(b.fetch());
}
