#include "actors/alarms.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

using namespace posthorn;

TEST_CASE("publishers are told of every other reason, and once that there is none", "[alarms]") {
  resource_alarms alarms;
  std::vector<std::string> told;
  alarms.listen([&](const std::string& reason) { told.push_back(reason); });
  CHECK(told.empty());
  CHECK(alarms.measured(resource::memory, true));
  CHECK_FALSE(alarms.measured(resource::memory, true));
  CHECK(alarms.measured(resource::disk, true));
  CHECK(alarms.measured(resource::memory, false));
  CHECK(alarms.measured(resource::disk, false));
  CHECK(told == std::vector<std::string>{"low on memory", "low on disk & memory", "low on disk", ""});
}

TEST_CASE("a drill does not end when the node measures that all is well", "[alarms]") {
  resource_alarms alarms;
  std::vector<std::string> told;
  CHECK(alarms.raised_by_hand(resource::disk, true));
  CHECK_FALSE(alarms.raised_by_hand(resource::disk, true));
  CHECK_FALSE(alarms.measured(resource::disk, false));
  CHECK(alarms.of(resource::disk).is_raised());
  CHECK_FALSE(alarms.of(resource::memory).is_raised());
  alarms.listen([&](const std::string& reason) { told.push_back(reason); });
  CHECK(alarms.measured(resource::disk, true));
  CHECK(alarms.raised_by_hand(resource::disk, false));
  CHECK(alarms.reason() == "low on disk");  // in fact
  CHECK(alarms.measured(resource::disk, false));
  CHECK(told == std::vector<std::string>{"low on disk", ""});
}

TEST_CASE("who listens no more is told nothing", "[alarms]") {
  resource_alarms alarms;
  int told = 0;
  alarms.listen([&](const std::string&) { ++told; });
  alarms.listen(nullptr);
  alarms.measured(resource::memory, true);
  CHECK(told == 0);
}

TEST_CASE("an alarm is called by its name", "[alarms]") {
  for (const auto what : all_resources) CHECK(parse_resource(to_string(what)) == what);
  CHECK_FALSE(parse_resource("cpu").has_value());
}
