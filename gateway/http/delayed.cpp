#include "gateway/http/delayed.hpp"

#include "gateway/http/query.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <charconv>
#include <string_view>

namespace posthorn::http {

namespace {

namespace json = boost::json;

constexpr std::size_t limit_default = 100, limit_max = 500;

json::string text_of(std::string_view text) { return json::string(text.data(), text.size()); }

error no_id(std::string_view text) {
  return refused("'" + std::string{text} +
                 "' is no id of a delayed message: take one from the list, such as 1700000000000-42");
}

struct range {
  delayed_id from{};
  std::size_t count_max = limit_default;
};

result<range> range_of(std::string_view query) {
  const auto parameters = parse_query(query);
  if (!parameters) return refused("the query is not percent-encoded correctly: write % as %25");
  range out;
  for (const auto& [name, value] : *parameters) {
    if (name == "limit") {
      const auto* const end = value.data() + value.size();
      const auto read = std::from_chars(value.data(), end, out.count_max);
      if (read.ec != std::errc{} || read.ptr != end || out.count_max < 1 || out.count_max > limit_max)
        return refused("limit is a whole number from 1 to " + std::to_string(limit_max));
    } else if (name == "from") {
      const auto id = delayed_id_of(value);
      if (!id) return no_id(value);
      out.from = *id;
    } else {
      return refused("'" + name + "' is not known here: only limit and from are");
    }
  }
  return out;
}

response shown(const std::vector<delayed_summary>& waiting) {
  json::array body;
  for (const auto& m : waiting) {
    json::object one{{"id", to_string(m.id)},
                     {"due", m.id.due},
                     {"routing_key", text_of(m.routing_key)},
                     {"payload_bytes", m.size}};
    if (!m.message_id.empty()) one["message_id"] = text_of(m.message_id);
    body.push_back(std::move(one));
  }
  return {200, "application/json", json::serialize(body), {}};
}

}  // namespace

bool is_about_delayed(const std::vector<std::string>& path) {
  return path.size() >= 2 && path[0] == "api" && path[1] == "delayed";
}

void answer_about_delayed(delayed_view& node, const std::vector<std::string>& path, const request& asked,
                          const responder& answer) {
  if (path.size() != 4 && path.size() != 5) {
    return answer(error_response(404, "nothing is here: ask for /api/delayed/VHOST/EXCHANGE"));
  }
  const auto wrong_method = [&](const std::string& allowed) {
    auto out = error_response(405, "only " + allowed + " are possible here");
    out.headers.emplace_back("Allow", allowed);
    answer(std::move(out));
  };
  const auto &vhost = path[2], &exchange = path[3];
  if (asked.method == "DELETE") {
    std::optional<delayed_id> which;
    if (path.size() == 5) {
      which = delayed_id_of(path[4]);
      if (!which) return answer(error_response(no_id(path[4])));
    }
    const bool is_one = which.has_value();
    return node.cancel_delayed(vhost, exchange, which, [answer, is_one](result<std::uint64_t> count) {
      if (!count) return answer(error_response(count.error()));
      if (is_one && *count == 0) {
        return answer(error_response(404, "no message with this id waits there (any more)"));
      }
      answer({200, "application/json", json::serialize(json::object{{"cancelled", *count}}), {}});
    });
  }
  if (asked.method != "GET" && asked.method != "HEAD") return wrong_method("GET, HEAD, DELETE");
  if (path.size() == 5) return wrong_method("DELETE");
  const auto which = range_of(asked.query);
  if (!which) return answer(error_response(which.error()));
  node.list_delayed(vhost, exchange, which->from, which->count_max,
                    [answer](result<std::vector<delayed_summary>> found) {
                      answer(found ? shown(*found) : error_response(found.error()));
                    });
}

}  // namespace posthorn::http
