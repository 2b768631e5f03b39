// What exchanges keep in the store: what waits in them, and what they have seen.
#include "persist/seen_table.hpp"

#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <vector>

using namespace posthorn;

namespace {

constexpr mailbox_id exchange{7}, other{8};

exchange_definition a_keeper(mailbox_id id = exchange, bool durable = true) {
  field_table arguments;
  arguments.add("x-delayed-type", field_value::of_string("fanout"));
  std::string encoded;
  encode_table(arguments, encoded);
  return {"later", exchange_type::delayed, durable, false, false, encoded.substr(4), id};
}

void change(store& s, topology_change what) {
  const std::vector<topology_change> changes{std::move(what)};
  const std::vector<store::topology_write> writes{{"/", changes}};
  REQUIRE(s.commit({}, writes).has_value());
}

seen_write seen(mailbox_id of, std::uint64_t key, std::uint64_t order, bool forgotten = false) {
  return {of, {{key, ~key}, static_cast<std::int64_t>(order * 10), order, forgotten}};
}

// With a message that waits, if it has a place.
void write(store& s, mailbox_id of, std::vector<seen_write> what, std::uint64_t place = 0,
           std::int64_t due = 0) {
  journal_batch batch;
  if (place != 0) batch.appends.push_back({{place}, make_envelope("later", "k", {}, true, {}), false, due});
  atomic_writes with;
  with.seen = std::move(what);
  const std::vector<mailbox_write> writes{{of, &batch, &with}};
  REQUIRE(s.commit(writes).has_value());
}

std::vector<std::uint64_t> orders(const recovered_keeper& kept) {
  std::vector<std::uint64_t> out;
  for (const auto& c : kept.seen) out.push_back(c.order);
  return out;
}

}  // namespace

TEST_CASE("what an exchange keeps is recovered with it", "[persist][seen]") {
  const scratch_directory directory;
  {
    auto s = open_store(directory);
    (void)s->recover();
    change(*s, exchange_added{a_keeper()});
    // The keys are in another order than the numbers.
    write(*s, exchange, {seen(exchange, 5, 1), seen(exchange, 3, 2), seen(exchange, 9, 3)}, 1, 5000);
    write(*s, exchange, {seen(exchange, 3, 2, true)}, 2, 4000);
  }
  auto s = open_store(directory);
  const auto found = s->recover().value();
  REQUIRE(found.vhosts.at("/").exchanges.size() == 1);
  CHECK(found.vhosts.at("/").exchanges[0].id == exchange);
  CHECK(found.last_mailbox == exchange);
  const auto& kept = found.keepers.at(exchange);
  CHECK(kept.waiting == std::vector<delayed_id>{{5000, {1}}, {4000, {2}}});
  CHECK(orders(kept) == std::vector<std::uint64_t>{1, 3});
  CHECK(kept.seen[0].key == deduplication_key{5, ~std::uint64_t{5}});
  CHECK(kept.seen[0].expires_at == 10);
  CHECK(found.mailboxes.at(exchange).last == sequence{2});
}

TEST_CASE("with an exchange goes what it kept, in slices", "[persist][seen]") {
  const scratch_directory directory;
  {
    auto s = open_store(directory);
    (void)s->recover();
    change(*s, exchange_added{a_keeper()});
    std::vector<seen_write> many;
    for (std::uint64_t n = 1; n <= 50; ++n) many.push_back(seen(exchange, n, n));
    many.push_back(seen(other, 1, 1));
    write(*s, exchange, many, 1, 5000);
    change(*s, exchange_removed{a_keeper()});
    CHECK(s->has_graves());
    int steps = 0;
    for (; s->has_graves() && steps < 100; ++steps) REQUIRE(s->bury(10).has_value());
    CHECK(steps > 5);
    CHECK(steps < 100);
  }
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.messages == 0);
  CHECK(report.seen == 0);
  CHECK(report.buried == 1);  // of an exchange that never was
  auto s = open_store(directory);
  CHECK(s->recover().value().keepers.empty());
  CHECK(s->has_graves());
  REQUIRE(s->bury(10).has_value());
  CHECK_FALSE(s->has_graves());
}

TEST_CASE("what a crash left of a removed exchange is found at the start", "[persist][seen]") {
  const scratch_directory directory;
  {
    auto s = open_store(directory);
    (void)s->recover();
    change(*s, exchange_added{a_keeper()});
    write(*s, exchange, {seen(exchange, 1, 1)}, 1, 5000);
    change(*s, exchange_removed{a_keeper()});
  }
  auto s = open_store(directory);
  const auto found = s->recover().value();
  CHECK(found.keepers.empty());
  CHECK(found.message_count == 0);
  while (s->has_graves()) REQUIRE(s->bury(100).has_value());
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.buried == 0);
}

TEST_CASE("an exchange that is not durable leaves nothing", "[persist][seen]") {
  const scratch_directory directory;
  auto s = open_store(directory);
  (void)s->recover();
  change(*s, exchange_added{a_keeper(exchange, false)});
  write(*s, exchange, {}, 1, 5000);
  change(*s, exchange_removed{a_keeper(exchange, false)});
  while (s->has_graves()) REQUIRE(s->bury(100).has_value());
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.messages + report.buried == 0);
}

TEST_CASE("a damaged record of what was seen is found", "[persist][seen]") {
  const std::vector<std::byte> key(24), value(32);
  CHECK_FALSE(read_seen_record(key, value).has_value());
  CHECK_FALSE(read_seen_record(std::vector<std::byte>(23), value).has_value());
}
