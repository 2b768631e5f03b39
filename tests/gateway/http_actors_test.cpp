#include "gateway/http/actors.hpp"

#include "gateway/http/api.hpp"
#include "gateway/http/authorization.hpp"
#include "gateway/http/query.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>

using namespace posthorn;
using namespace posthorn::http;
using namespace std::chrono_literals;

namespace {

namespace json = boost::json;

class no_broker : public broker_view {
public:
  std::optional<listed_queues> list_queues(std::optional<std::string_view>, range) const override {
    return std::nullopt;
  }
  std::optional<queue_summary> show_queue(std::string_view, std::string_view) const override {
    return std::nullopt;
  }
  node_summary overview() const override { return {}; }
  login authenticate(std::string_view user, std::string_view password, bool) const override {
    return user == "guest" && password == "guest" ? login::accepted : login::refused;
  }
  std::optional<std::string> unhealthy_reason() const override { return {}; }
  std::string metrics() const override { return {}; }
};

actor_summary an_orders_queue() {
  actor_summary out;
  out.path = "/vhosts/%2F/queues/orders";
  out.kind = "queue";
  out.state = "backing_off";
  out.restarts = 3;
  out.last_failure = {"exception", "bad \xFF octet", 1'700'000'000'123};
  out.since = 1'700'000'000'456;
  out.work = {7, 4, 10us, 2ms};
  out.supervised_by.emplace();
  out.supervised_by->restart = "permanent";
  out.supervised_by->shutdown = "timeout";
  out.supervised_by->shutdown_time = 5s;
  out.supervised_by->handler_limit = 10s;
  out.supervised_by->backs_off = {100ms, 10s, 1min, 0.25};
  out.supervised_by->budget = {5, 30s};
  return out;
}

actor_summary a_root() {
  actor_summary out;
  out.path = "/";
  out.kind = "supervisor";
  out.state = "running";
  out.supervises = {"one_for_one", "never", {1, 5s}, 2};
  return out;
}

class fake_tree : public actor_tree_view {
public:
  [[nodiscard]] result<std::vector<actor_event_summary>> list_actor_events(
      std::size_t count_max) const override {
    std::vector<actor_event_summary> all{{2, 2000, "/b", "restarted", "", 1},
                                         {1, 1000, "/a", "failed", "why", 0}};
    if (count_max < all.size()) all.resize(count_max);
    return all;
  }
  mutable std::vector<std::string> asked;

  result<std::vector<actor_summary>> list_actors(std::string_view path, std::size_t depth,
                                                 std::size_t children_max,
                                                 std::size_t count_max) const override {
    const bool is_deep = depth > 1000;
    asked.push_back("list " + std::string{path} + ' ' + (is_deep ? "all" : std::to_string(depth)) + ' ' +
                    std::to_string(children_max) + (count_max == 0 ? " none" : ""));
    if (auto no = trouble_of(path)) return *no;
    return std::vector{a_root(), an_orders_queue()};
  }
  result<actor_summary> show_actor(std::string_view path) const override {
    asked.push_back("show " + std::string{path});
    if (auto no = trouble_of(path)) return *no;
    return path == "/" ? a_root() : an_orders_queue();
  }
  result<void> kill_actor(std::string_view path) override { return order("kill ", path); }
  result<void> restart_actor(std::string_view path) override { return order("restart ", path); }

private:
  result<void> order(std::string what, std::string_view path) {
    asked.push_back(what + std::string{path});
    if (auto no = trouble_of(path)) return *no;
    return {};
  }
  static std::optional<error> trouble_of(std::string_view path) {
    if (path == "/nowhere") return error{errc::unreachable, "no actor has the path /nowhere"};
    if (path == "/resting") return overloaded("the actor /resting does not run just now");
    if (!path.starts_with('/')) return refused("a path starts with '/'");
    return std::nullopt;
  }
};

struct api {
  no_broker broker;
  fake_tree tree;
  request_handler handle = make_api(broker, tree);

  request a_request(std::string method, const std::string& target) const {
    const auto mark = std::min(target.find('?'), target.size());
    request out;
    out.method = std::move(method);
    out.path = target.substr(0, mark);
    out.query = mark < target.size() ? target.substr(mark + 1) : "";
    out.authorization = basic_authorization({"guest", "guest"});
    out.remote = boost::asio::ip::make_address("127.0.0.1");
    out.host = "127.0.0.1:15672";
    return out;
  }
  response get(const std::string& target) const { return handle(a_request("GET", target)); }
  response post(const std::string& target) const { return handle(a_request("POST", target)); }
};

std::string reason_of(const response& answer) {
  return json::parse(answer.body).at("reason").as_string().c_str();
}

}  // namespace

TEST_CASE("an actor is shown with all its fields, and null for what it does not have", "[http][actors]") {
  const api api;
  const auto answer = api.get("/api/actors/show?path=/vhosts/%252F/queues/orders");
  REQUIRE(answer.status == 200);
  CHECK(api.tree.asked == std::vector<std::string>{"show /vhosts/%2F/queues/orders"});
  CHECK(json::parse(answer.body) == json::parse(R"({
    "path": "/vhosts/%2F/queues/orders", "kind": "queue", "state": "backing_off", "restarts": 3,
    "last_failure": {"kind": "exception", "reason": "bad \ufffd octet", "at": 1700000000123},
    "since": 1700000000456,
    "mailbox_depth": 7, "handled": 4, "processing_us": 10.0, "processing_mean_us": 2.5, "busy_for_us": 2000.0,
    "rules": {"restart": "permanent", "shutdown": "timeout", "shutdown_ms": 5000, "start_deadline_ms": null,
              "handler_limit_ms": 10000, "significant": false,
              "back_off": {"min_ms": 100, "max_ms": 10000, "jitter": 0.25, "reset_after_ms": 60000},
              "budget": {"restarts": 5, "period_ms": 30000}},
    "strategy": null, "intensity": null, "auto_shutdown": null, "children": null})"));
  CHECK(json::parse(api.get("/api/actors/show?path=/").body) == json::parse(R"({
    "path": "/", "kind": "supervisor", "state": "running", "restarts": 0, "last_failure": null, "since": null,
    "mailbox_depth": null, "handled": null, "processing_us": null, "processing_mean_us": null, "busy_for_us": null,
    "rules": null, "strategy": "one_for_one", "intensity": {"restarts": 1, "period_ms": 5000},
    "auto_shutdown": "never", "children": 2})"));
}

TEST_CASE("the tree is a flat array, and the whole of it unless the query says less", "[http][actors]") {
  const api api;
  const auto answer = api.get("/api/actors");
  REQUIRE(answer.status == 200);
  const auto all = json::parse(answer.body);
  REQUIRE(all.as_array().size() == 2);
  CHECK(all.as_array()[0].at("path") == "/");
  CHECK(api.get("/api/actors/?path=%2Fvhosts&depth=2&children_max=7").status == 200);
  CHECK(api.tree.asked == std::vector<std::string>{"list / all 1000", "list /vhosts 2 7"});
}

TEST_CASE("a wrong query about actors is 400, and says what is wrong with it", "[http][actors]") {
  const api api;
  const auto refused_with = [&](const std::string& target) {
    const auto answer = api.get(target);
    CHECK(answer.status == 400);
    return reason_of(answer);
  };
  CHECK(refused_with("/api/actors?depth=many") == "depth is a whole number from 0 to 1000");
  CHECK(refused_with("/api/actors?depth=-1") == "depth is a whole number from 0 to 1000");
  CHECK(refused_with("/api/actors?depth=") == "depth is a whole number from 0 to 1000");
  CHECK(refused_with("/api/actors?children_max=0") == "children_max is a whole number from 1 to 1000000");
  CHECK(refused_with("/api/actors?children_max=99999999999999999999").starts_with("children_max is"));
  CHECK(refused_with("/api/actors?deep=1") ==
        "unknown parameter deep: there are path, depth and children_max");
  CHECK(refused_with("/api/actors?path=/&path=/") == "path is given twice");
  CHECK(refused_with("/api/actors?path=%zz").starts_with("the query is not percent-encoded"));
  CHECK(refused_with("/api/actors/show") == "which actor? Give its path in the query, such as ?path=/vhosts");
  CHECK(refused_with("/api/actors/show?path=/&depth=1") == "unknown parameter depth: there is only path");
  CHECK(api.tree.asked.empty());
  CHECK(refused_with("/api/actors/show?path=") == "a path starts with '/'");
  CHECK(refused_with("/api/actors/show?path=vhosts") == "a path starts with '/'");
}

TEST_CASE("an order is a POST, and is answered with 204 and nothing", "[http][actors]") {
  const api api;
  const auto killed = api.post("/api/actors/kill?path=/vhosts");
  CHECK(killed.status == 204);
  CHECK(killed.body.empty());
  CHECK(api.post("/api/actors/restart?path=/vhosts").status == 204);
  CHECK(api.tree.asked == std::vector<std::string>{"kill /vhosts", "restart /vhosts"});
}

TEST_CASE("an order that cannot be carried out says why", "[http][actors]") {
  const api api;
  const auto unknown = api.post("/api/actors/kill?path=/nowhere");
  CHECK(unknown.status == 404);
  CHECK(reason_of(unknown) == "no actor has the path /nowhere");
  const auto resting = api.post("/api/actors/restart?path=/resting");
  CHECK(resting.status == 409);
  CHECK(reason_of(resting) == "the actor /resting does not run just now");
  CHECK(api.post("/api/actors/kill").status == 400);
}

TEST_CASE("orders by GET and questions by POST are 405, with what is allowed", "[http][actors]") {
  const api api;
  const auto by_get = api.get("/api/actors/kill?path=/vhosts");
  CHECK(by_get.status == 405);
  REQUIRE(by_get.headers.size() == 1);
  CHECK(by_get.headers[0] == std::pair<std::string, std::string>{"Allow", "POST"});
  const auto by_post = api.post("/api/actors");
  CHECK(by_post.status == 405);
  REQUIRE(by_post.headers.size() == 1);
  CHECK(by_post.headers[0].second == "GET, HEAD");
  CHECK(api.handle(api.a_request("DELETE", "/api/actors/kill?path=/vhosts")).status == 405);
  CHECK(api.get("/api/actors/murder?path=/vhosts").status == 404);
  CHECK(api.get("/api/actors/show/x?path=/vhosts").status == 404);
  CHECK(api.tree.asked.empty());
}

TEST_CASE("nobody sees or steers the tree without a user", "[http][actors]") {
  const api api;
  for (const auto* call : {"GET /api/actors", "GET /api/actors/show?path=/", "POST /api/actors/kill?path=/",
                           "POST /api/actors/restart?path=/"}) {
    const std::string text = call;
    const auto space = text.find(' ');
    auto asked = api.a_request(text.substr(0, space), text.substr(space + 1));
    CAPTURE(call);
    asked.authorization.clear();
    CHECK(api.handle(asked).status == 401);
    asked.authorization = basic_authorization({"guest", "guess"});
    CHECK(api.handle(asked).status == 401);
  }
  CHECK(api.tree.asked.empty());
}

TEST_CASE("a page from elsewhere cannot use a browser's password for an order", "[http][actors]") {
  const api api;
  auto asked = api.a_request("POST", "/api/actors/kill?path=/vhosts");
  for (const auto* origin :
       {"http://example.org", "null", "http://127.0.0.1", "http://127.0.0.1:15672.example.org"}) {
    CAPTURE(origin);
    asked.origin = origin;
    CHECK(api.handle(asked).status == 403);
  }
  CHECK(api.tree.asked.empty());
  asked.origin = "http://127.0.0.1:15672";
  CHECK(api.handle(asked).status == 204);
}

TEST_CASE("an order with a body is refused: nobody would read it", "[http][actors]") {
  const api api;
  auto asked = api.a_request("POST", "/api/actors/kill?path=/vhosts");
  asked.body = R"({"path":"/"})";
  CHECK(api.handle(asked).status == 400);
  CHECK(api.tree.asked.empty());
}

TEST_CASE("a query is split at '&' and '=' before it is decoded", "[http][query]") {
  CHECK(parse_query("") == query_parameters{});
  CHECK(parse_query("path=/a+b%26c%3Dd&&x&y=&=z") ==
        query_parameters{{"path", "/a+b&c=d"}, {"x", ""}, {"y", ""}, {"", "z"}});
  CHECK(parse_query("a=b=c") == query_parameters{{"a", "b=c"}});
  CHECK_FALSE(parse_query("a=%2"));
  CHECK_FALSE(parse_query("%=b"));
  CHECK(percent_decoded("%41%zz") == std::nullopt);
  CHECK(percent_decoded("100%") == std::nullopt);
  CHECK(percent_decoded("%252F") == "%2F");
}

TEST_CASE("what befell the actors is told, the newest first and no more than was asked for",
          "[http][actors]") {
  const api api;
  const auto both = json::parse(api.get("/api/actors/events").body).as_array();
  REQUIRE(both.size() == 2);
  CHECK(both[0].at("number") == 2);
  CHECK(both[1].at("path") == "/a");
  CHECK(both[1].at("kind") == "failed");
  CHECK(both[1].at("reason") == "why");
  CHECK(both[1].at("at") == 1000);
  CHECK(json::parse(api.get("/api/actors/events?count=1").body).as_array().size() == 1);
  CHECK(api.get("/api/actors/events?count=0").status == 400);
  CHECK(api.get("/api/actors/events?count=x").status == 400);
  CHECK(reason_of(api.get("/api/actors/events?path=/")).find("there is only count") != std::string::npos);
  CHECK(api.post("/api/actors/events").status == 405);
}
