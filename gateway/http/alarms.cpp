#include "gateway/http/alarms.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

namespace posthorn::http {

std::optional<alarm_call> alarm_call_of(const std::vector<std::string>& path) {
  if (path.size() < 2 || path[0] != "api" || path[1] != "alarms") return std::nullopt;
  if (path.size() == 2) return alarm_call{};
  if (path.size() != 4 || path[2].empty() || (path[3] != "raise" && path[3] != "clear")) return std::nullopt;
  return alarm_call{path[2], path[3] == "raise"};
}

response answer_about_alarms(alarm_view& alarms, const alarm_call& call) {
  if (call.is_order()) {
    const auto done = alarms.set_alarm(call.resource, call.raises);
    if (done) return {204, {}, {}, {}};
    return error_response(done.error().code == errc::unreachable ? 404 : 409, done.error().text);
  }
  boost::json::array body;
  for (const auto& alarm : alarms.list_alarms()) {
    boost::json::object one;
    one["resource"] = alarm.resource;
    one["raised"] = alarm.is_low || alarm.is_by_hand;
    one["measured"] = alarm.is_low;
    one["by_hand"] = alarm.is_by_hand;
    one[alarm.resource == "disk" ? "free" : "used"] = alarm.is;
    one["limit"] = alarm.limit;
    body.push_back(std::move(one));
  }
  return {200, "application/json", boost::json::serialize(body), {}};
}

}  // namespace posthorn::http
