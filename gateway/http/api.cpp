#include "gateway/http/api.hpp"

#include "gateway/http/authorization.hpp"
#include "gateway/http/query.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <span>

namespace posthorn::http {
namespace {

namespace json = boost::json;

json::string_view view(std::string_view text) { return {text.data(), text.size()}; }

// The segments of a path, each decoded by itself: the virtual host "/" is written %2F.
std::optional<std::vector<std::string>> segments_of(std::string_view path) {
  std::vector<std::string> segments;
  while (!path.empty()) {
    path.remove_prefix(1);  // the slash
    const auto end = std::min(path.find('/'), path.size());
    auto segment = percent_decoded(path.substr(0, end));
    if (!segment) return std::nullopt;
    segments.push_back(std::move(*segment));
    path.remove_prefix(end);
  }
  if (!segments.empty() && segments.back().empty()) segments.pop_back();  // /api/queues/ is /api/queues
  return segments;
}

json::value to_json(const argument_value& value) {
  return std::visit([](const auto& concrete) { return json::value(concrete); }, value);
}

json::object to_json(const queue_summary& queue) {
  json::object arguments;
  for (const auto& [name, value] : queue.arguments) arguments[name] = to_json(value);
  json::object out;
  out["name"] = queue.name;
  out["vhost"] = queue.vhost;
  out["type"] = queue.type;
  out["durable"] = queue.durable;
  out["auto_delete"] = queue.auto_delete;
  out["exclusive"] = queue.exclusive;
  out["arguments"] = std::move(arguments);
  out["node"] = queue.node;
  out["state"] = queue.state;
  out["messages"] = queue.messages_ready + queue.messages_unacknowledged;
  out["messages_ready"] = queue.messages_ready;
  out["messages_unacknowledged"] = queue.messages_unacknowledged;
  out["message_bytes"] = queue.message_bytes;
  out["consumers"] = queue.consumers;
  out["memory"] = queue.memory;
  return out;
}

json::object to_json(const node_summary& node) {
  json::object totals;
  totals["messages"] = node.messages_ready + node.messages_unacknowledged;
  totals["messages_ready"] = node.messages_ready;
  totals["messages_unacknowledged"] = node.messages_unacknowledged;
  json::object objects;
  objects["connections"] = node.connections;
  objects["channels"] = node.channels;
  objects["consumers"] = node.consumers;
  objects["exchanges"] = node.exchanges;
  objects["queues"] = node.queues;
  json::object messages;
  messages["publish"] = node.published;
  messages["confirm"] = node.confirmed;
  messages["deliver"] = node.delivered;
  messages["ack"] = node.acknowledged;
  json::object out;
  out["product_name"] = "Posthorn";
  out["product_version"] = node.product_version;
  out["management_version"] = node.product_version;
  out["cluster_name"] = node.cluster_name;
  out["node"] = node.name;
  out["uptime"] = node.uptime_ms;
  out["object_totals"] = std::move(objects);
  out["queue_totals"] = std::move(totals);
  out["message_stats"] = std::move(messages);
  out["mem_used"] = node.memory_used;
  out["store_used"] = node.store_used;
  out["disk_free"] = node.disk_free;
  out["disk_free_limit"] = node.disk_free_min;
  out["disk_free_alarm"] = node.disk_alarm;
  return out;
}

response json_response(const json::value& body) {
  return {200, "application/json", json::serialize(body), {}};
}

response unauthorized(std::string_view reason) {
  auto answer = error_response(401, reason);
  answer.headers.emplace_back("WWW-Authenticate", "Basic realm=\"Posthorn\"");
  return answer;
}

// Nothing, when the asker may look.
std::optional<response> refusal(const broker_view& broker, const request& asked) {
  if (asked.authorization.empty()) return unauthorized("a user and a password are needed");
  const auto who = parse_basic_authorization(asked.authorization);
  if (!who) return unauthorized("the authorization is not of the kind Basic");
  switch (broker.authenticate(who->user, who->password, is_loopback(asked.remote))) {
    case login::accepted: return std::nullopt;
    case login::loopback_only:
      return unauthorized("the user " + who->user + " may log in from the node's own machine only");
    case login::refused: break;
  }
  // A node that is starting knows no users yet.
  if (const auto reason = broker.unhealthy_reason()) return error_response(503, *reason);
  return unauthorized("wrong user or password");
}

response queues(const broker_view& broker, std::span<const std::string> path) {
  const auto vhost = path.empty() ? std::nullopt : std::optional<std::string_view>{path[0]};
  const auto found = broker.list_queues(vhost);
  if (!found) return error_response(404, "no virtual host " + path[0]);
  if (path.size() == 2) {
    const auto queue = std::find_if(found->begin(), found->end(), [&](const queue_summary& candidate) {
      return candidate.name == path[1];
    });
    if (queue == found->end())
      return error_response(404, "no queue " + path[1] + " in virtual host " + path[0]);
    return json_response(to_json(*queue));
  }
  json::array all;
  for (const auto& queue : *found) all.push_back(to_json(queue));
  return json_response(all);
}

response health(const broker_view& broker) {
  if (const auto reason = broker.unhealthy_reason()) {
    json::object body;
    body["status"] = "failed";
    body["reason"] = view(*reason);
    return {503, "application/json", json::serialize(body), {}};
  }
  return {200, "text/plain; charset=utf-8", "ok\n", {}};
}

response wrong_method(const std::string& allowed) {
  auto refused_method = error_response(
      405, allowed == "POST" ? "only POST is possible here" : "only GET and HEAD are possible here");
  refused_method.headers.emplace_back("Allow", allowed);
  return refused_method;
}

// A browser that knows the password sends it with whatever a page of somebody else makes it post.
bool is_from_elsewhere(const request& asked) {
  if (asked.origin.empty()) return false;
  const auto scheme_end = asked.origin.find("://");
  return scheme_end == std::string::npos || asked.origin.substr(scheme_end + 3) != asked.host;
}

response actors(const broker_view& broker, actor_tree_view& tree, actor_call call, const request& asked) {
  if (is_order(call)) {
    if (asked.method != "POST") return wrong_method("POST");
    if (is_from_elsewhere(asked))
      return error_response(403, "a page of " + asked.origin + " may not give orders here");
    if (!asked.body.empty())
      return error_response(400, "no body is expected here: the path stands in the query");
  } else if (asked.method != "GET" && asked.method != "HEAD") {
    return wrong_method("GET, HEAD");
  }
  if (auto no = refusal(broker, asked)) return std::move(*no);
  return answer_about_actors(tree, call, asked);
}

response answer(const broker_view& broker, actor_tree_view& tree, const request& asked) {
  const auto path = segments_of(asked.path);
  if (!path) return error_response(400, "the path is not percent-encoded correctly");
  if (const auto call = actor_call_of(*path)) return actors(broker, tree, *call, asked);
  const std::span<const std::string> segments{*path};
  const auto is = [&](std::string_view a, std::string_view b = {}) {
    return segments.size() >= (b.empty() ? 1U : 2U) && segments[0] == a && (b.empty() || segments[1] == b);
  };
  const bool is_health = is("healthz") && segments.size() == 1;
  const bool is_metrics = is("metrics") && segments.size() == 1;
  const bool is_overview = is("api", "overview") && segments.size() == 2;
  const bool is_queues = is("api", "queues") && segments.size() <= 4;
  if (!is_health && !is_metrics && !is_overview && !is_queues) return error_response(404, "nothing is here");
  if (asked.method != "GET" && asked.method != "HEAD") return wrong_method("GET, HEAD");
  if (is_health) return health(broker);
  if (is_metrics) return {200, "text/plain; version=0.0.4; charset=utf-8", broker.metrics(), {}};
  if (auto no = refusal(broker, asked)) return std::move(*no);
  return is_overview ? json_response(to_json(broker.overview())) : queues(broker, segments.subspan(2));
}

}  // namespace

request_handler make_api(const broker_view& broker, actor_tree_view& tree) {
  return [&broker, &tree](const request& asked) { return answer(broker, tree, asked); };
}

}  // namespace posthorn::http
