#include "gateway/http/delayed.hpp"

#include <catch2/catch_test_macros.hpp>

#include <optional>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

// One exchange, "later" in "/", where one message waits.
class fake_delayed : public http::delayed_view {
public:
  void list_delayed(const std::string& vhost, const std::string& exchange, const delayed_id& from,
                    std::size_t count_max,
                    std::function<void(result<std::vector<http::delayed_summary>>)> answer) override {
    asked_from = from;
    asked_count = count_max;
    if (vhost != "/" || exchange != "later") return answer(error{errc::unreachable, "there is none"});
    answer(std::vector<http::delayed_summary>{{{5000, {7}}, "key", "id", 3}});
  }
  void cancel_delayed(const std::string&, const std::string&, const std::optional<delayed_id>& which,
                      std::function<void(result<std::uint64_t>)> answer) override {
    answer(!which || *which == delayed_id{5000, {7}} ? std::uint64_t{1} : std::uint64_t{0});
  }

  delayed_id asked_from{};
  std::size_t asked_count = 0;
};

http::response ask(fake_delayed& node, const std::string& method, const std::vector<std::string>& path,
                   const std::string& query = {}) {
  http::request asked;
  asked.method = method;
  asked.query = query;
  http::response got;
  REQUIRE(http::is_about_delayed(path));
  http::answer_about_delayed(node, path, asked, [&](http::response r) { got = std::move(r); });
  return got;
}

const std::vector<std::string> later{"api", "delayed", "/", "later"};
std::vector<std::string> one(const std::string& id) { return {"api", "delayed", "/", "later", id}; }

}  // namespace

TEST_CASE("messages that wait are listed", "[http][delayed]") {
  fake_delayed node;
  const auto got = ask(node, "GET", later);
  CHECK(got.status == 200);
  CHECK(got.body ==
        R"([{"id":"5000-7","due":5000,"routing_key":"key","payload_bytes":3,"message_id":"id"}])");
  CHECK(node.asked_count == 100);
  CHECK(ask(node, "GET", later, "limit=500&from=12-3").status == 200);
  CHECK(node.asked_count == 500);
  CHECK(node.asked_from == delayed_id{12, {3}});
  CHECK(ask(node, "GET", {"api", "delayed", "/", "other"}).status == 404);
}

TEST_CASE("messages that wait are cancelled", "[http][delayed]") {
  fake_delayed node;
  CHECK(ask(node, "DELETE", later).body == R"({"cancelled":1})");
  CHECK(ask(node, "DELETE", one("5000-7")).body == R"({"cancelled":1})");
  CHECK(ask(node, "DELETE", one("5000-8")).status == 404);
}

TEST_CASE("a wrong request about messages that wait is told what is wrong", "[http][delayed]") {
  fake_delayed node;
  for (const auto* query : {"limit=0", "limit=501", "limit=x", "from=1", "from=1-", "size=3", "limit=%"}) {
    INFO(query);
    CHECK(ask(node, "GET", later, query).status == 400);
  }
  CHECK(ask(node, "DELETE", one("all")).status == 400);
  CHECK(ask(node, "POST", later).status == 405);
  CHECK(ask(node, "GET", one("5000-7")).status == 405);
  CHECK(ask(node, "GET", {"api", "delayed"}).status == 404);
  CHECK_FALSE(http::is_about_delayed({"api", "queues"}));
}
