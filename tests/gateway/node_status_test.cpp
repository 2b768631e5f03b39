#include "gateway/node_status.hpp"

#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

// A node on a free port, over a store of its own.
struct running_node {
  running_node() {
    std::string name = (std::filesystem::temp_directory_path() / "posthorn-status-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    directory = name;
    broker_settings wanted;
    wanted.data_directory = directory;
    wanted.map_size = std::uint64_t{64} << 20;
    wanted.disk_free_min = 1;
    wanted.threads = 1;
    auto started = broker::start(std::move(wanted));
    REQUIRE(started.has_value());
    running = std::move(*started);
    amqp091::server_settings door_settings;
    door_settings.host = "127.0.0.1";
    door_settings.port = 0;
    door_settings.threads = 1;
    auto listening = amqp091::server::listen(*running, door_settings);
    REQUIRE(listening.has_value());
    door = std::move(*listening);
    status.attach(*running, door.get());
  }
  ~running_node() {
    door->stop(1s);
    running->stop();
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  running_node(const running_node&) = delete;
  running_node& operator=(const running_node&) = delete;

  // Looks at an actor until it is as wanted; false when it is not within ten seconds.
  template <class Predicate>
  bool comes_true(const std::string& path, Predicate wanted) const {
    const auto give_up_at = std::chrono::steady_clock::now() + 10s;
    while (std::chrono::steady_clock::now() < give_up_at) {
      if (const auto actor = status.show_actor(path); actor && wanted(*actor)) return true;
      std::this_thread::yield();
    }
    return false;
  }

  std::filesystem::path directory;
  std::unique_ptr<broker> running;
  std::unique_ptr<amqp091::server> door;
  node_status status{"node@test"};
};

bool is_running(const http::actor_summary& actor) { return actor.state == "running"; }

}  // namespace

TEST_CASE("a path is brought into the form of the tree, or refused with what is wrong", "[node_status]") {
  CHECK(canonical_actor_path("/").value() == "/");
  CHECK(canonical_actor_path("/vhosts/").value() == "/vhosts");
  CHECK(canonical_actor_path("/vhosts/%2f/queues/a b%25").value() == "/vhosts/%2F/queues/a%20b%25");
  CHECK(canonical_actor_path("/%41").value() == "/A");
  const auto text = [](std::string_view path) {
    const auto refused = canonical_actor_path(path);
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == errc::refused);
    return refused.error().text;
  };
  CHECK(text("").starts_with("the path is empty"));
  CHECK(text("vhosts") == "a path starts with '/': did you mean /vhosts?");
  CHECK(text("/a/%zz").find("'%' that is no escape") != std::string::npos);
  CHECK(text("/a/%2").find("'%' that is no escape") != std::string::npos);
  CHECK(text("//").find("empty part") != std::string::npos);
  CHECK(text("/vhosts///queues").find("%252F") != std::string::npos);
}

TEST_CASE("a node that is starting has no tree yet, and says so", "[node_status]") {
  node_status status{"node@test"};
  const auto listed = status.list_actors("/", 1, 1, 1);
  REQUIRE(listed.has_error());
  CHECK(listed.error().code == errc::overloaded);
  CHECK(status.show_actor("/").error().code == errc::overloaded);
  CHECK(status.kill_actor("/").error().code == errc::overloaded);
  CHECK(status.restart_actor("/").error().code == errc::overloaded);
}

TEST_CASE("the tree of a node holds its actors, as deep and as wide as asked", "[node_status]") {
  const running_node node;
  REQUIRE(node.comes_true("/amqp/listener", is_running));
  const auto all = node.status.list_actors("/", 1000, 1000, 1000);
  REQUIRE(all.has_value());
  const auto has = [&](std::string_view path) {
    return std::any_of(all->begin(), all->end(), [&](const auto& actor) { return actor.path == path; });
  };
  CHECK(all->front().path == "/");
  CHECK_FALSE(all->front().supervised_by);
  CHECK(has("/vhosts/%2F/queues"));
  CHECK(has("/amqp/listener"));
  CHECK(node.status.list_actors("/", 0, 1000, 1000)->size() == 1);
  CHECK(node.status.list_actors("/vhosts", 1, 1000, 1000)->size() == 2);
  CHECK(node.status.list_actors("/", 1, 1, 1000)->size() == 2);
  CHECK(node.status.list_actors("/", 1000, 1000, 3)->size() == 3);
  CHECK(node.status.list_actors("/", 0, 1, 1)->front().supervises->children >= 3);
  CHECK(node.status.metrics().find("\nposthorn_actors " + std::to_string(all->size()) + '\n') !=
        std::string::npos);
}

TEST_CASE("a killed actor is back, with its failure told", "[node_status]") {
  running_node node;
  const std::string path = "/vhosts/%2F/topology";
  REQUIRE(node.comes_true(path, is_running));
  REQUIRE(node.status.kill_actor("/vhosts/%2f/topology").has_value());
  CHECK(node.comes_true(path, [](const auto& actor) { return actor.restarts == 1 && is_running(actor); }));
  const auto shown = node.status.show_actor(path);
  REQUIRE(shown.has_value());
  REQUIRE(shown->last_failure.has_value());
  CHECK(shown->last_failure->kind == "killed");
  CHECK(shown->last_failure->at > 0);
  CHECK(shown->work.has_value());
  CHECK(shown->supervised_by->restart == "permanent");
  CHECK(shown->supervised_by->shutdown == "timeout");
}

TEST_CASE("a restarted actor is back", "[node_status]") {
  running_node node;
  const std::string path = "/vhosts/%2F/topology";
  REQUIRE(node.comes_true(path, is_running));
  REQUIRE(node.status.restart_actor(path).has_value());
  // An operator's wish is no failure, so the record tells of two starts.
  CHECK(node.comes_true(path, [&](const auto& actor) {
    const auto events = node.status.list_actor_events(100);
    if (!events || !is_running(actor)) return false;
    return std::count_if(events->begin(), events->end(), [&](const auto& event) {
             return event.path == path && event.kind == "started";
           }) == 2;
  }));
  CHECK(node.status.show_actor(path)->restarts == 0);
}

TEST_CASE("an unknown path says which part of it does not exist", "[node_status]") {
  running_node node;
  for (const auto& outcome :
       {node.status.kill_actor("/vhosts/nope/queues"), node.status.restart_actor("/vhosts/nope")}) {
    REQUIRE(outcome.has_error());
    CHECK(outcome.error().code == errc::unreachable);
    CHECK(outcome.error().text.find("/vhosts has no child 'nope'") != std::string::npos);
  }
  CHECK(node.status.show_actor("/nope").error().code == errc::unreachable);
  CHECK(node.status.list_actors("/nope", 1, 1, 1).error().code == errc::unreachable);
}

TEST_CASE("pages of queues are in the order of their names, and make up the whole", "[node_status]") {
  const running_node node;
  const auto vhost = node.running->find_vhost("/");
  REQUIRE(vhost);
  constexpr std::size_t count = 25;
  for (std::size_t i = 0; i < count; ++i) {
    declare_queue command;
    command.name = "q" + std::to_string(i * 7 % count);
    vhost->post(topology_request{{}, i, command});
  }
  const auto give_up_at = std::chrono::steady_clock::now() + 10s;
  while (vhost->snapshot()->queue_count() < count && std::chrono::steady_clock::now() < give_up_at) {
    std::this_thread::yield();
  }
  const auto all = node.status.list_queues("/", {});
  REQUIRE(all.has_value());
  REQUIRE(all->queues.size() == count);
  CHECK(std::is_sorted(all->queues.begin(), all->queues.end(),
                       [](const auto& a, const auto& b) { return a.name < b.name; }));
  for (std::size_t first = 0; first < count; first += 10) {
    const auto page = node.status.list_queues(std::nullopt, {first, 10});
    REQUIRE(page->total == count);
    REQUIRE(page->queues.size() == std::min<std::size_t>(10, count - first));
    for (std::size_t i = 0; i < page->queues.size(); ++i) {
      CHECK(page->queues[i].name == all->queues[first + i].name);
    }
  }
  CHECK(node.status.list_queues("/", {count + 5, 10})->queues.empty());
  CHECK(node.status.show_queue("/", "q7")->name == "q7");
  CHECK_FALSE(node.status.show_queue("/", "q99").has_value());
  CHECK_FALSE(node.status.show_queue("nowhere", "q7").has_value());
  CHECK_FALSE(node.status.list_queues("nowhere", {}).has_value());
}
