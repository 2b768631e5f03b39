#include "gateway/http/api.hpp"

#include "gateway/http/authorization.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>

using namespace posthorn::http;

namespace {

namespace json = boost::json;

class fake_broker : public broker_view {
public:
  std::optional<std::string> trouble;

  std::size_t more = 0;  // queues of the virtual host /, beside orders/eu

  std::optional<listed_queues> list_queues(std::optional<std::string_view> vhost,
                                           range which) const override {
    if (vhost && *vhost != "/" && *vhost != "other") return std::nullopt;
    listed_queues found;
    if (vhost == "other") return found;
    found.total = 1 + more;
    for (auto i = which.first; i < found.total && found.queues.size() < which.count; ++i) {
      auto& made = found.queues.emplace_back(*show_queue("/", "orders/eu"));
      if (i > 0) made.name = "more" + std::to_string(i);
    }
    return found;
  }
  std::optional<queue_summary> show_queue(std::string_view vhost, std::string_view name) const override {
    if (vhost != "/" || name != "orders/eu") return std::nullopt;
    queue_summary orders;
    orders.name = "orders/eu";
    orders.durable = true;
    orders.arguments = {{"x-message-ttl", std::int64_t{5000}}, {"x-queue-type", std::string{"classic"}}};
    orders.messages_ready = 5;
    orders.messages_unacknowledged = 2;
    orders.consumers = 1;
    return orders;
  }
  node_summary overview() const override {
    node_summary node;
    node.name = "posthorn@brass";
    node.queues = 1;
    node.messages_ready = 5;
    return node;
  }
  login authenticate(std::string_view user, std::string_view password,
                     bool remote_is_loopback) const override {
    if (user != "guest" || password != "guest") return login::refused;
    return remote_is_loopback ? login::accepted : login::loopback_only;
  }
  std::optional<std::string> unhealthy_reason() const override { return trouble; }
  std::string metrics() const override { return "posthorn_up 1\n"; }
};

class no_tree : public actor_tree_view {
public:
  [[nodiscard]] posthorn::result<std::vector<actor_event_summary>> list_actor_events(
      std::size_t count_max) const override {
    std::vector<actor_event_summary> all{{2, 2000, "/b", "restarted", "", 1},
                                         {1, 1000, "/a", "failed", "why", 0}};
    if (count_max < all.size()) all.resize(count_max);
    return all;
  }
  posthorn::result<std::vector<actor_summary>> list_actors(std::string_view, std::size_t, std::size_t,
                                                           std::size_t) const override {
    return posthorn::refused("not here");
  }
  posthorn::result<actor_summary> show_actor(std::string_view) const override {
    return posthorn::refused("not here");
  }
  posthorn::result<void> kill_actor(std::string_view) override { return posthorn::refused("not here"); }
  posthorn::result<void> restart_actor(std::string_view) override { return posthorn::refused("not here"); }
};

struct api {
  fake_broker broker;
  no_tree tree;
  request_handler handle = make_api(broker, tree);

  response get(std::string path, const char* remote = "127.0.0.1", std::string query = "") const {
    return handle({"GET", std::move(path), std::move(query), basic_authorization({"guest", "guest"}), "",
                   boost::asio::ip::make_address(remote)});
  }
  response anonymous(std::string method, std::string path) const {
    return handle(
        {std::move(method), std::move(path), "", "", "", boost::asio::ip::make_address("10.0.0.1")});
  }
};

}  // namespace

TEST_CASE("health is asked without a user", "[http][api]") {
  api api;
  CHECK(api.anonymous("GET", "/healthz").status == 200);
  CHECK(api.anonymous("GET", "/healthz").body == "ok\n");
  api.broker.trouble = "the disk is full";
  const auto answer = api.anonymous("GET", "/healthz");
  CHECK(answer.status == 503);
  CHECK(json::parse(answer.body).at("reason") == "the disk is full");
}

TEST_CASE("metrics are Prometheus text, and need no user", "[http][api]") {
  const auto answer = api{}.anonymous("GET", "/metrics");
  CHECK(answer.status == 200);
  CHECK(answer.content_type.starts_with("text/plain; version=0.0.4"));
  CHECK(answer.body == "posthorn_up 1\n");
}

TEST_CASE("queues are listed in the shape of RabbitMQ's management API", "[http][api]") {
  const auto answer = api{}.get("/api/queues");
  REQUIRE(answer.status == 200);
  const auto all = json::parse(answer.body);
  REQUIRE(all.as_array().size() == 1);
  const auto& queue = all.as_array()[0];
  CHECK(queue.at("name") == "orders/eu");
  CHECK(queue.at("vhost") == "/");
  CHECK(queue.at("durable") == true);
  CHECK(queue.at("auto_delete") == false);
  CHECK(queue.at("exclusive") == false);
  CHECK(queue.at("type") == "classic");
  CHECK(queue.at("state") == "running");
  CHECK(queue.at("messages") == 7);
  CHECK(queue.at("messages_ready") == 5);
  CHECK(queue.at("messages_unacknowledged") == 2);
  CHECK(queue.at("consumers") == 1);
  CHECK(queue.at("arguments").at("x-message-ttl") == 5000);
  CHECK(queue.at("arguments").at("x-queue-type") == "classic");
}

TEST_CASE("a virtual host and a queue are named in the path, percent-encoded", "[http][api]") {
  api api;
  CHECK(json::parse(api.get("/api/queues/%2F").body).as_array().size() == 1);
  CHECK(json::parse(api.get("/api/queues/%2f/").body).as_array().size() == 1);
  CHECK(json::parse(api.get("/api/queues/other").body).as_array().empty());
  CHECK(json::parse(api.get("/api/queues/%2F/orders%2Feu").body).at("name") == "orders/eu");
  CHECK(api.get("/api/queues/%2F/nope").status == 404);
  CHECK(api.get("/api/queues/nowhere").status == 404);
  CHECK(api.get("/api/queues/%2F/orders/eu").status == 404);
  CHECK(api.get("/api/queues/%2").status == 400);
  CHECK(api.get("/api/queues/%zz").status == 400);
}

TEST_CASE("queues are listed page by page for who asks for a page", "[http][api]") {
  api api;
  api.broker.more = 249;
  const auto page = [&](std::string query) {
    return json::parse(api.get("/api/queues/%2F", "127.0.0.1", std::move(query)).body);
  };
  CHECK(json::parse(api.get("/api/queues").body).as_array().size() == 250);
  const auto first = page("page=1");
  CHECK(first.at("items").as_array().size() == 100);
  CHECK(first.at("items").as_array()[0].at("name") == "orders/eu");
  CHECK(first.at("item_count") == 100);
  CHECK(first.at("page") == 1);
  CHECK(first.at("page_count") == 3);
  CHECK(first.at("page_size") == 100);
  CHECK(first.at("filtered_count") == 250);
  CHECK(first.at("total_count") == 250);
  CHECK(page("page=3").at("items").as_array().size() == 50);
  CHECK(page("page=3").at("items").as_array()[0].at("name") == "more200");
  CHECK(page("page_size=200&page=2").at("item_count") == 50);
  CHECK(json::parse(api.get("/api/queues/other", "127.0.0.1", "page=1").body).at("page_count") == 1);
  for (const auto* wrong : {"page=4", "page=0", "page=x", "page_size=501", "page_size=", "page=%zz"}) {
    CAPTURE(wrong);
    CHECK(api.get("/api/queues", "127.0.0.1", wrong).status == 400);
  }
}

TEST_CASE("the overview tells the node's name and totals", "[http][api]") {
  const auto answer = json::parse(api{}.get("/api/overview").body);
  CHECK(answer.at("node") == "posthorn@brass");
  CHECK(answer.at("object_totals").at("queues") == 1);
  CHECK(answer.at("queue_totals").at("messages") == 5);
}

TEST_CASE("the API asks for a user, and guest is welcome from this machine only", "[http][api]") {
  const api api;
  const auto answer = api.anonymous("GET", "/api/overview");
  CHECK(answer.status == 401);
  REQUIRE(answer.headers.size() == 1);
  CHECK(answer.headers[0].first == "WWW-Authenticate");
  CHECK(api.get("/api/overview", "10.0.0.1").status == 401);
  CHECK(api.get("/api/overview", "::ffff:10.0.0.1").status == 401);
  CHECK(api.get("/api/overview", "::ffff:127.0.0.1").status == 200);
  CHECK(api.get("/api/overview", "::1").status == 200);
  auto wrong = request{"GET", "/api/overview",
                       "",    basic_authorization({"guest", "guess"}),
                       "",    boost::asio::ip::make_address("127.0.0.1")};
  CHECK(api.handle(wrong).status == 401);
  wrong.authorization = "Bearer x";
  CHECK(api.handle(wrong).status == 401);
}

TEST_CASE("other paths are 404, other methods 405, as JSON", "[http][api]") {
  const api api;
  for (const auto* path : {"/", "/api", "/api/", "/healthz/x", "/metrics2", "/api/overview/x", "//healthz"}) {
    CAPTURE(path);
    const auto answer = api.get(path);
    CHECK(answer.status == 404);
    CHECK(json::parse(answer.body).at("error") == "Not Found");
  }
  CHECK(api.anonymous("POST", "/healthz").status == 405);
  CHECK(api.anonymous("DELETE", "/api/queues").status == 405);
  CHECK(api.anonymous("HEAD", "/healthz").status == 200);
}
