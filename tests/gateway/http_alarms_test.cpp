#include "gateway/http/alarms.hpp"

#include <boost/json/parse.hpp>
#include <catch2/catch_test_macros.hpp>

#include <set>

using namespace posthorn;

namespace {

class fake_alarms : public http::alarm_view {
public:
  std::set<std::string> raised{};
  bool disk_is_low = false;

  std::vector<http::alarm_summary> list_alarms() const override {
    return {{"memory", false, raised.contains("memory"), 100, 1000},
            {"disk", disk_is_low, raised.contains("disk"), 200, 50}};
  }
  result<void> set_alarm(std::string_view resource, bool is_raised) override {
    if (resource != "memory" && resource != "disk") return error{errc::unreachable, "no such alarm"};
    if (is_raised) {
      raised.emplace(resource);
    } else {
      raised.erase(std::string{resource});
    }
    if (!is_raised && resource == "disk" && disk_is_low) return overloaded("it stays");
    return {};
  }
};

unsigned status_of(http::alarm_view& alarms, const std::vector<std::string>& path) {
  const auto call = http::alarm_call_of(path);
  REQUIRE(call.has_value());
  return http::answer_about_alarms(alarms, *call).status;
}

}  // namespace

TEST_CASE("alarms are listed with what is measured", "[http][alarms]") {
  fake_alarms alarms;
  alarms.raised = {"memory"};
  const auto answer = http::answer_about_alarms(alarms, *http::alarm_call_of({"api", "alarms"}));
  CHECK(answer.status == 200);
  const auto body = boost::json::parse(answer.body);
  CHECK(body == boost::json::parse(R"([
    {"resource":"memory","raised":true,"measured":false,"by_hand":true,"used":100,"limit":1000},
    {"resource":"disk","raised":false,"measured":false,"by_hand":false,"free":200,"limit":50}])"));
}

TEST_CASE("an alarm is raised and cleared by an order", "[http][alarms]") {
  fake_alarms alarms;
  CHECK(http::alarm_call_of({"api", "alarms", "disk", "raise"})->is_order());
  CHECK_FALSE(http::alarm_call_of({"api", "alarms"})->is_order());
  CHECK(status_of(alarms, {"api", "alarms", "disk", "raise"}) == 204);
  CHECK(alarms.raised.contains("disk"));
  CHECK(status_of(alarms, {"api", "alarms", "disk", "clear"}) == 204);
  CHECK(alarms.raised.empty());
  CHECK(status_of(alarms, {"api", "alarms", "cpu", "raise"}) == 404);
  alarms.disk_is_low = true;
  CHECK(status_of(alarms, {"api", "alarms", "disk", "clear"}) == 409);
}

TEST_CASE("other paths are none of the alarms' business", "[http][alarms]") {
  for (const auto& path : std::vector<std::vector<std::string>>{{"api"},
                                                                {"api", "queues"},
                                                                {"alarms"},
                                                                {"api", "alarms", "disk"},
                                                                {"api", "alarms", "disk", "drop"},
                                                                {"api", "alarms", "", "raise"},
                                                                {"api", "alarms", "disk", "raise", "x"}}) {
    CHECK_FALSE(http::alarm_call_of(path).has_value());
  }
}
