#include "persist/directory_lock.hpp"

#include "tests/persist/scratch.hpp"

#include <utility>

using namespace posthorn;

TEST_CASE("a directory has one holder at a time, and the refusal names its process", "[persist]") {
  scratch_directory directory;
  {
    auto held = directory_lock::take(directory.path());
    REQUIRE(held);
    const auto refused = directory_lock::take(directory.path());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::refused);
    CHECK(refused.error().text.find("(process " + std::to_string(::getpid()) + ")") != std::string::npos);
    const auto moved = std::move(*held);
    CHECK_FALSE(directory_lock::take(directory.path()));
  }
  CHECK(directory_lock::take(directory.path()));
}

TEST_CASE("a directory that is not there cannot be locked", "[persist]") {
  scratch_directory directory;
  const auto refused = directory_lock::take(directory.path() / "nowhere");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::refused);
}
