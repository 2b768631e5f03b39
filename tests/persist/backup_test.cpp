#include "persist/backup.hpp"

#include "persist/verify.hpp"
#include "tests/persist/scratch.hpp"

namespace posthorn {
namespace {

// A store of some megabytes, of which half was erased again, so that it has free pages.
void fill(const scratch_directory& directory) {
  const auto s = open_store(directory);
  REQUIRE(write(*s, {a_queue({1}, "q")}).has_value());
  journal_batch batch;
  for (std::uint64_t at = 1; at <= 2000; ++at)
    batch.appends.push_back(append(at, std::string(1000, 'x') + std::to_string(at)));
  REQUIRE(write(*s, {1}, std::move(batch)).has_value());
  journal_batch erased;
  erased.erasures.push_back({{1}, {1000}});
  REQUIRE(write(*s, {1}, std::move(erased)).has_value());
  while (s->has_graves()) REQUIRE(s->bury(1000).has_value());
}

}  // namespace

TEST_CASE("a copy of a store holds what the store holds, without its free pages", "[backup]") {
  const scratch_directory from, to;
  fill(from);
  std::uint64_t told = 0;
  const auto size = back_up({from.path(), to.path(), 0}, [&](std::uint64_t written) { told = written; });
  REQUIRE(size.has_value());
  CHECK(told == *size);
  CHECK(std::filesystem::file_size(to.path() / "data.mdb") == *size);
  CHECK(*size < std::filesystem::file_size(from.path() / "data.mdb"));
  const auto report = verify(to.path());
  REQUIRE(report.has_value());
  CHECK(report->clean());
  CHECK(report->messages == 1000);
  const auto copy = open_store(to);
  const auto recovered = recover(*copy);
  CHECK(recovered.vhosts.at("/").queues.size() == 1);
  const auto all = bodies(*copy, {1});
  REQUIRE(all.size() == 1000);
  CHECK(all.front().ends_with("x1001"));
}

TEST_CASE("a copy never replaces a store, and there must be one to copy", "[backup]") {
  const scratch_directory from, to;
  const auto nothing = back_up({from.path(), to.path(), 0});
  REQUIRE(!nothing.has_value());
  CHECK(nothing.error().code == errc::refused);
  CHECK(nothing.error().text.find("there is no store in") != std::string::npos);

  fill(from);
  fill(to);
  const auto before = to.content();
  const auto onto = back_up({from.path(), to.path(), 0});
  REQUIRE(!onto.has_value());
  CHECK(onto.error().code == errc::refused);
  CHECK(to.content() == before);
  const auto onto_itself = back_up({from.path(), from.path(), 0});
  CHECK(!onto_itself.has_value());
}

TEST_CASE("a store of a newer version is not copied", "[backup]") {
  const scratch_directory from, to;
  fill(from);
  tamper(from, "meta", "version", version_value(store::version + 1));
  const auto copied = back_up({from.path(), to.path(), 0});
  REQUIRE(!copied.has_value());
  CHECK(copied.error().text.find("newer than this program") != std::string::npos);
  CHECK(std::filesystem::is_empty(to.path()));
}

TEST_CASE("a damaged store is not copied", "[backup]") {
  const scratch_directory from, to;
  from.set_content(std::string(100'000, 'x'));
  const auto copied = back_up({from.path(), to.path(), 0});
  REQUIRE(!copied.has_value());
  CHECK(copied.error().code == errc::corrupted);
  CHECK(!std::filesystem::exists(to.path() / "data.mdb"));
}

TEST_CASE("a copy whose disk is full says so and leaves nothing", "[backup]") {
  const scratch_directory from, to;
  fill(from);
  // Every write to it fails for want of room.
  std::filesystem::create_symlink("/dev/full", to.path() / "data.mdb.copying");
  const auto copied = back_up({from.path(), to.path(), 0});
  REQUIRE(!copied.has_value());
  CHECK(copied.error().code == errc::overloaded);
  CHECK(std::filesystem::is_empty(to.path()));
}

TEST_CASE("a copy takes the time that its rate asks for", "[backup]") {
  const scratch_directory from, to;
  fill(from);
  const auto begin = std::chrono::steady_clock::now();
  const auto size = back_up({from.path(), to.path(), 8 << 20});
  REQUIRE(size.has_value());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  CHECK(took.count() >= static_cast<double>(*size) / (8 << 20));
}

}  // namespace posthorn
