#include "persist/tree_events.hpp"

#include "persist/keys.hpp"
#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

#include <limits>

using namespace posthorn;

namespace {

constexpr auto newest = std::numeric_limits<std::uint64_t>::max();

tree_event event(std::uint64_t number, std::string kind = "failed") {
  return {number,
          1'790'000'000'000 + static_cast<std::int64_t>(number),
          "/vhosts/%2F/queues/q",
          std::move(kind),
          "reason \xff " + std::to_string(number),
          number / 2};
}

result<void> write(store& s, std::uint64_t first, std::uint64_t last) {
  std::vector<tree_event> events;
  for (auto number = first; number <= last; ++number) events.push_back(event(number));
  return s.commit({}, {}, events);
}

std::vector<std::uint64_t> numbers(const store& s, std::uint64_t from, std::size_t count_max) {
  std::vector<std::uint64_t> out;
  for (const auto& e : s.read_events(from, count_max).value()) out.push_back(e.number);
  return out;
}

using list = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("events of the tree are read newest first, and outlive a restart", "[persist]") {
  scratch_directory directory;
  {
    auto s = open_store(directory);
    CHECK(recover(*s).last_event == 0);
    CHECK(numbers(*s, newest, 10).empty());
    REQUIRE(write(*s, 1, 5));
  }
  auto s = open_store(directory);
  CHECK(recover(*s).last_event == 5);
  CHECK(numbers(*s, newest, 10) == list{5, 4, 3, 2, 1});
  CHECK(numbers(*s, newest, 2) == list{5, 4});
  CHECK(numbers(*s, 3, 2) == list{3, 2});
  CHECK(numbers(*s, 0, 2).empty());
  CHECK(numbers(*s, newest, 0).empty());
  REQUIRE(write(*s, 8, 9));
  CHECK(numbers(*s, 7, 2) == list{5, 4});
  CHECK(s->read_events(4, 1).value().front() == event(4));
}

TEST_CASE("only the last events are kept, and writing them again changes nothing", "[persist]") {
  scratch_directory directory;
  auto s = open_store(directory);
  recover(*s);
  REQUIRE(write(*s, 1, events_max));
  CHECK(numbers(*s, newest, 2 * events_max).size() == events_max);
  for (int time = 0; time < 2; ++time) {
    REQUIRE(write(*s, events_max + 1, events_max + 7));
    const auto kept = numbers(*s, newest, 2 * events_max);
    CHECK(kept.size() == events_max);
    CHECK(kept.front() == events_max + 7);
    CHECK(kept.back() == 8);
  }
  REQUIRE(write(*s, 3, 4));  // long gone
  CHECK(numbers(*s, newest, 2 * events_max).back() == 8);
  REQUIRE(write(*s, 3 * events_max, 3 * events_max));
  CHECK(numbers(*s, newest, 10) == list{3 * events_max});
  s.reset();
  const auto report = verify(directory.path()).value();
  CHECK(report.clean());
  CHECK(report.tree_events == 1);
}

TEST_CASE("the texts of an event are bounded", "[persist]") {
  scratch_directory directory;
  auto s = open_store(directory);
  const tree_event wide{1, 0, std::string(9'000, 'p'), std::string(9'000, 'k'), std::string(1'000'000, 'r'),
                        0};
  REQUIRE(s->commit({}, {}, {&wide, 1}));
  const auto read = s->read_events(newest, 1).value();
  REQUIRE(read.size() == 1);
  CHECK(read.front().path == std::string(400, 'p'));
  CHECK(read.front().kind == std::string(100, 'k'));
  CHECK(read.front().reason == std::string(2'000, 'r'));
}

TEST_CASE("an event that is garbage is an error to its readers and to verify", "[persist]") {
  scratch_directory directory;
  {
    auto s = open_store(directory);
    REQUIRE(write(*s, 1, 3));
  }
  tamper(directory, "events", as_text(id_key{2}), "garbage");
  const auto report = verify(directory.path()).value();
  CHECK(report.problem_count == 1);
  CHECK(report.problems.front().find("event 2") != std::string::npos);
  CHECK(report.tree_events == 3);
  auto s = open_store(directory);
  CHECK(numbers(*s, newest, 1) == list{3});
  const auto read = s->read_events(newest, 3);
  REQUIRE_FALSE(read);
  CHECK(read.error().code == errc::corrupted);
}
