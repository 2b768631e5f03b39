#include "gateway/http/api.hpp"

#include "gateway/http/authorization.hpp"
#include "gateway/http/query.hpp"

#include <boost/json/monotonic_resource.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <charconv>
#include <span>

namespace posthorn::http {
namespace {

namespace json = boost::json;

json::string_view view(std::string_view text) { return {text.data(), text.size()}; }

json::value to_json(const argument_value& value) {
  return std::visit([](const auto& concrete) { return json::value(concrete); }, value);
}

json::object to_json(const queue_summary& queue, const json::storage_ptr& memory = {}) {
  json::object arguments{memory};
  for (const auto& [name, value] : queue.arguments) arguments[name] = to_json(value);
  json::object out{memory};
  out["name"] = queue.name;
  out["vhost"] = queue.vhost;
  out["type"] = queue.type;
  out["durable"] = queue.durable;
  out["auto_delete"] = queue.auto_delete;
  out["exclusive"] = queue.exclusive;
  out["arguments"] = std::move(arguments);
  json::object definition{memory};
  for (const auto& [name, value] : queue.policy_definition) definition[name] = to_json(value);
  out["policy"] = queue.policy ? json::value(view(*queue.policy)) : json::value(nullptr);
  out["operator_policy"] =
      queue.operator_policy ? json::value(view(*queue.operator_policy)) : json::value(nullptr);
  out["effective_policy_definition"] = std::move(definition);
  out["node"] = queue.node;
  out["state"] = queue.state;
  out["messages"] = queue.messages_ready + queue.messages_unacknowledged + queue.messages_delayed +
                    queue.messages_dead_waiting;
  out["messages_ready"] = queue.messages_ready;
  out["messages_unacknowledged"] = queue.messages_unacknowledged;
  out["messages_delayed"] = queue.messages_delayed;
  out["messages_dead_waiting"] = queue.messages_dead_waiting;
  out["message_bytes"] = queue.message_bytes;
  out["consumers"] = queue.consumers;
  out["memory"] = queue.memory;
  if (queue.stream) {
    json::object stream{memory};
    stream["segments"] = queue.stream->segments;
    stream["first_offset"] = queue.stream->first_offset;
    stream["next_offset"] = queue.stream->next_offset;
    stream["reader_lag_max"] = queue.stream->lag_max;
    stream["reader_lags"] = json::array(queue.stream->lags.begin(), queue.stream->lags.end());
    out["stream"] = std::move(stream);
  }
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
  out["mem_limit"] = node.memory_limit;
  out["mem_alarm"] = node.memory_alarm;
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
  if (asked.is_authenticated) return std::nullopt;
  if (asked.authorization.empty()) return unauthorized("a user and a password are needed");
  const auto who = parse_basic_authorization(asked.authorization);
  if (!who) return unauthorized("the authorization is not of the kind Basic");
  switch (broker.authenticate(who->user, who->password, is_loopback(asked.remote))) {
    case login::accepted: return std::nullopt;
    case login::loopback_only:
      return unauthorized("the user " + who->user + " may log in from the node's own machine only");
    case login::overloaded: return error_response(503, "too many passwords wait to be checked: try again");
    case login::refused: break;
  }
  // A node that is starting knows no users yet.
  if (const auto reason = broker.unhealthy_reason()) return error_response(503, *reason);
  return unauthorized("wrong user or password");
}

constexpr std::size_t page_size_default = 100, page_size_max = 500;

struct page {
  std::size_t number = 1, size = page_size_default;
};

std::optional<std::size_t> whole_number(std::string_view text, std::size_t max) {
  std::size_t out = 0;
  const auto* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, out);
  if (read.ec != std::errc{} || read.ptr != end || out < 1 || out > max) return std::nullopt;
  return out;
}

// Nothing within: the query does not ask for a page, and all is listed. What it says beyond that is ignored, as ever.
result<std::optional<page>> page_of(std::string_view query) {
  const auto parameters = parse_query(query);
  if (!parameters) return refused("the query is not percent-encoded correctly: write % as %25");
  std::optional<page> out;
  for (const auto& [name, value] : *parameters) {
    if (name != "page" && name != "page_size") continue;
    if (!out) out.emplace();
    const auto max = name == "page" ? std::size_t{1'000'000'000} : page_size_max;
    const auto number = whole_number(value, max);
    if (!number) return refused(name + " is a whole number from 1 to " + std::to_string(max));
    (name == "page" ? out->number : out->size) = *number;
  }
  return out;
}

// One queue after the other, each in the same piece of memory: a tree of all of them took 1.4 s for 100,000 queues.
std::string to_json(const std::vector<queue_summary>& queues) {
  std::string out = "[";
  unsigned char memory[8192];
  for (const auto& queue : queues) {
    json::monotonic_resource one{memory};
    if (out.size() > 1) out += ',';
    out += json::serialize(to_json(queue, &one));
  }
  out += ']';
  return out;
}

response queues(const broker_view& broker, std::span<const std::string> path, std::string_view query) {
  if (path.size() == 2) {
    const auto queue = broker.show_queue(path[0], path[1]);
    if (!queue) return error_response(404, "no queue " + path[1] + " in virtual host " + path[0]);
    return json_response(to_json(*queue));
  }
  const auto wanted = page_of(query);
  if (!wanted) return error_response(400, wanted.error().text);
  const auto vhost = path.empty() ? std::nullopt : std::optional<std::string_view>{path[0]};
  broker_view::range which;
  if (*wanted) which = {((*wanted)->number - 1) * (*wanted)->size, (*wanted)->size};
  const auto found = broker.list_queues(vhost, which);
  if (!found) return error_response(404, "no virtual host " + path[0]);
  auto items = to_json(found->queues);
  if (!*wanted) return {200, "application/json", std::move(items), {}};
  const auto size = (*wanted)->size;
  const auto page_count = std::max<std::size_t>(1, (found->total + size - 1) / size);
  if ((*wanted)->number > page_count) {
    return error_response(400,
                          "page " + std::to_string((*wanted)->number) + " of " + std::to_string(page_count));
  }
  std::string body = "{\"filtered_count\":" + std::to_string(found->total);
  body += ",\"item_count\":" + std::to_string(found->queues.size()) + ",\"items\":" + items;
  body += ",\"page\":" + std::to_string((*wanted)->number) + ",\"page_count\":" + std::to_string(page_count);
  body += ",\"page_size\":" + std::to_string(size) + ",\"total_count\":" + std::to_string(found->total) + '}';
  return {200, "application/json", std::move(body), {}};
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

// Of a question, or of an order, which is whole without a body.
std::optional<response> refusal(const broker_view& broker, const request& asked, bool is_order) {
  if (is_order) {
    if (asked.method != "POST") return wrong_method("POST");
    if (is_from_elsewhere(asked))
      return error_response(403, "a page of " + asked.origin + " may not give orders here");
    if (!asked.body.empty())
      return error_response(400, "no body is expected here: the path stands in the query");
  } else if (asked.method != "GET" && asked.method != "HEAD") {
    return wrong_method("GET, HEAD");
  }
  return refusal(broker, asked);
}

response actors(const broker_view& broker, actor_tree_view& tree, actor_call call, const request& asked) {
  if (auto no = refusal(broker, asked, is_order(call))) return std::move(*no);
  return answer_about_actors(tree, call, asked);
}

response answer(const broker_view& broker, actor_tree_view& tree, alarm_view* alarms, const request& asked) {
  const auto path = path_segments(asked.path);
  if (!path) return error_response(400, "the path is not percent-encoded correctly");
  if (const auto call = actor_call_of(*path)) return actors(broker, tree, *call, asked);
  if (const auto call = alarm_call_of(*path); call && alarms != nullptr) {
    if (auto no = refusal(broker, asked, call->is_order())) return std::move(*no);
    return answer_about_alarms(*alarms, *call);
  }
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
  return is_overview ? json_response(to_json(broker.overview()))
                     : queues(broker, segments.subspan(2), asked.query);
}

}  // namespace

request_handler make_api(const broker_view& broker, actor_tree_view& tree, alarm_view* alarms) {
  return [&broker, &tree, alarms](const request& asked) { return answer(broker, tree, alarms, asked); };
}

}  // namespace posthorn::http
