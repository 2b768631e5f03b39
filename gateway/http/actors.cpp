#include "gateway/http/actors.hpp"

#include "gateway/http/query.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <charconv>
#include <limits>

namespace posthorn::http {
namespace {

namespace json = boost::json;

constexpr std::size_t children_default = 1000;
constexpr std::size_t children_limit = 1'000'000;
// One answer is made in memory, and on a thread that others wait for.
constexpr std::size_t actors_max = 100'000;

// A reason may be any text that was thrown; JSON is UTF-8. What is none becomes U+FFFD.
std::string as_utf8(std::string_view text) {
  const auto octet = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = octet(i);
    const std::size_t size = lead < 0x80   ? 1
                             : lead < 0xC2 ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF5 ? 4
                                           : 0;
    bool is_sound = size != 0 && i + size <= text.size();
    for (std::size_t k = 1; is_sound && k < size; ++k) is_sound = (octet(i + k) & 0xC0U) == 0x80U;
    if (is_sound && size == 3)
      is_sound = !(lead == 0xE0 && octet(i + 1) < 0xA0) && !(lead == 0xED && octet(i + 1) > 0x9F);
    if (is_sound && size == 4)
      is_sound = !(lead == 0xF0 && octet(i + 1) < 0x90) && !(lead == 0xF4 && octet(i + 1) > 0x8F);
    if (is_sound) {
      out += text.substr(i, size);
      i += size;
    } else {
      out += "\xEF\xBF\xBD";
      ++i;
    }
  }
  return out;
}

json::value milliseconds_or_null(std::chrono::milliseconds time) {
  // Not in braces: they would make an array of one.
  return time.count() == 0 ? json::value(nullptr) : json::value(time.count());
}

double microseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::micro>{time}.count();
}

json::object to_json(const actor_summary::intensity& intensity) {
  json::object out;
  out["restarts"] = intensity.restarts;
  out["period_ms"] = intensity.period.count();
  return out;
}

json::object to_json(const actor_summary::rules& rules) {
  json::object out;
  out["restart"] = rules.restart;
  out["shutdown"] = rules.shutdown;
  out["shutdown_ms"] =
      rules.shutdown == "timeout" ? json::value(rules.shutdown_time.count()) : json::value(nullptr);
  out["start_deadline_ms"] = milliseconds_or_null(rules.start_deadline);
  out["handler_limit_ms"] = milliseconds_or_null(rules.handler_limit);
  out["significant"] = rules.significant;
  out["back_off"] = nullptr;
  if (rules.backs_off) {
    json::object back_off;
    back_off["min_ms"] = rules.backs_off->minimum.count();
    back_off["max_ms"] = rules.backs_off->maximum.count();
    back_off["jitter"] = rules.backs_off->jitter;
    back_off["reset_after_ms"] = rules.backs_off->reset_after.count();
    out["back_off"] = std::move(back_off);
  }
  out["budget"] = nullptr;
  if (rules.budget) out["budget"] = to_json(*rules.budget);
  return out;
}

// The same keys for every actor; what it does not have is null.
json::object to_json(const actor_summary& actor) {
  json::object out;
  out["path"] = as_utf8(actor.path);
  out["kind"] = actor.kind;
  out["state"] = actor.state;
  out["restarts"] = actor.restarts;
  out["last_failure"] = nullptr;
  if (actor.last_failure) {
    json::object failure;
    failure["kind"] = actor.last_failure->kind;
    failure["reason"] = as_utf8(actor.last_failure->reason);
    failure["at"] = actor.last_failure->at;
    out["last_failure"] = std::move(failure);
  }
  out["since"] = actor.since == 0 ? json::value(nullptr) : json::value(actor.since);
  for (const auto* key : {"mailbox_depth", "handled", "processing_us", "processing_mean_us", "busy_for_us"}) {
    out[key] = nullptr;
  }
  if (const auto& work = actor.work) {
    out["mailbox_depth"] = work->mailbox_depth;
    out["handled"] = work->handled;
    out["processing_us"] = microseconds(work->processing_time);
    if (work->handled != 0) {
      out["processing_mean_us"] = microseconds(work->processing_time) / static_cast<double>(work->handled);
    }
    out["busy_for_us"] = microseconds(work->busy_for);
  }
  out["rules"] = nullptr;
  if (actor.supervised_by) out["rules"] = to_json(*actor.supervised_by);
  for (const auto* key : {"strategy", "intensity", "auto_shutdown", "children"}) out[key] = nullptr;
  if (const auto& supervisor = actor.supervises) {
    out["strategy"] = supervisor->strategy;
    out["intensity"] = to_json(supervisor->limit);
    out["auto_shutdown"] = supervisor->auto_shutdown;
    out["children"] = supervisor->children;
  }
  return out;
}

response error_of(const error& failure) {
  switch (failure.code) {
    case errc::refused: return error_response(400, failure.text);
    case errc::unreachable: return error_response(404, failure.text);
    case errc::overloaded: return error_response(409, failure.text);
    case errc::corrupted: break;
  }
  return error_response(500, failure.text);
}

struct question {
  std::optional<std::string> path;
  std::size_t depth = std::numeric_limits<std::size_t>::max();
  std::size_t children_max = children_default;
  std::size_t count = 20;
};

result<std::size_t> whole_number(const std::string& name, const std::string& text, std::size_t min,
                                 std::size_t max) {
  std::size_t out = 0;
  const auto* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, out);
  if (read.ec != std::errc{} || read.ptr != end || out < min || out > max) {
    return refused(name + " is a whole number from " + std::to_string(min) + " to " + std::to_string(max));
  }
  return out;
}

result<question> question_of(actor_call call, const request& asked) {
  const auto parameters = parse_query(asked.query);
  if (!parameters) return refused("the query is not percent-encoded correctly: write % as %25");
  question out;
  std::vector<std::string_view> seen;
  for (const auto& [name, value] : *parameters) {
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) return refused(name + " is given twice");
    seen.push_back(name);
    if (call == actor_call::events && name == "count") {
      const auto count = whole_number(name, value, 1, 10'000);
      if (!count) return count.error();
      out.count = *count;
    } else if (call == actor_call::events) {
      return refused("unknown parameter " + as_utf8(name) + ": there is only count");
    } else if (name == "path") {
      out.path = value;
    } else if (call == actor_call::list && name == "depth") {
      const auto depth = whole_number(name, value, 0, 1000);
      if (!depth) return depth.error();
      out.depth = *depth;
    } else if (call == actor_call::list && name == "children_max") {
      const auto count = whole_number(name, value, 1, children_limit);
      if (!count) return count.error();
      out.children_max = *count;
    } else {
      return refused(
          "unknown parameter " + as_utf8(name) +
          (call == actor_call::list ? ": there are path, depth and children_max" : ": there is only path"));
    }
  }
  if (!out.path && call != actor_call::list && call != actor_call::events) {
    return refused("which actor? Give its path in the query, such as ?path=/vhosts");
  }
  return out;
}

}  // namespace

std::optional<actor_call> actor_call_of(const std::vector<std::string>& path) {
  if (path.size() < 2 || path.size() > 3 || path[0] != "api" || path[1] != "actors") return std::nullopt;
  if (path.size() == 2) return actor_call::list;
  if (path[2] == "show") return actor_call::show;
  if (path[2] == "events") return actor_call::events;
  if (path[2] == "kill") return actor_call::kill;
  if (path[2] == "restart") return actor_call::restart;
  return std::nullopt;
}

response answer_about_actors(actor_tree_view& tree, actor_call call, const request& asked) {
  const auto what = question_of(call, asked);
  if (!what) return error_of(what.error());
  const auto done = [](const result<void>& outcome) {
    return outcome ? response{204, {}, {}, {}} : error_of(outcome.error());
  };
  switch (call) {
    case actor_call::list: {
      const auto found =
          tree.list_actors(what->path.value_or("/"), what->depth, what->children_max, actors_max);
      if (!found) return error_of(found.error());
      json::array all;
      all.reserve(found->size());
      for (const auto& actor : *found) all.push_back(to_json(actor));
      return {200, "application/json", json::serialize(all), {}};
    }
    case actor_call::show: {
      const auto found = tree.show_actor(*what->path);
      if (!found) return error_of(found.error());
      return {200, "application/json", json::serialize(to_json(*found)), {}};
    }
    case actor_call::events: {
      const auto found = tree.list_actor_events(what->count);
      if (!found) return error_of(found.error());
      json::array all;
      for (const auto& event : *found) {
        json::object one;
        one["number"] = event.number;
        one["at"] = event.at;
        one["path"] = as_utf8(event.path);
        one["kind"] = event.kind;
        one["reason"] = as_utf8(event.reason);
        one["restarts"] = event.restarts;
        all.push_back(std::move(one));
      }
      return {200, "application/json", json::serialize(all), {}};
    }
    case actor_call::kill: return done(tree.kill_actor(*what->path));
    case actor_call::restart: return done(tree.restart_actor(*what->path));
  }
  return error_response(404, "nothing is here");
}

}  // namespace posthorn::http
