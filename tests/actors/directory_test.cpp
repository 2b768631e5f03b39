#include "actors/directory.hpp"

#include "actors/login_desk.hpp"
#include "tests/actors/probed_broker.hpp"

#include <catch2/catch_test_macros.hpp>

#include <future>

using namespace posthorn;
using namespace posthorn::probed;

namespace {

result<directory_answer> change(node& n, directory_command command) {
  std::promise<result<directory_answer>> done;
  n.running->administrate(std::move(command), [&](const result<directory_answer>& a) { done.set_value(a); });
  return done.get_future().get();
}

broker::login log_in(node& n, const char* user, const char* password, bool is_near = true) {
  std::promise<broker::login> verdict;
  n.running->authenticate(user, secret{std::string{password}}, is_near,
                          [&](broker::login v) { verdict.set_value(v); });
  return verdict.get_future().get();
}

password_hash hash_of(node& n, const char* password) {
  std::promise<password_hash> made;
  n.running->hash(secret{std::string{password}},
                  [&](result<password_hash> h) { made.set_value(std::move(h).value()); });
  return made.get_future().get();
}

}  // namespace

TEST_CASE("a new node has the user guest, who may log in from this machine only", "[actors]") {
  node n;
  CHECK(log_in(n, "guest", "guest") == broker::login::accepted);
  CHECK(log_in(n, "guest", "guest") == broker::login::accepted);  // known by now
  CHECK(log_in(n, "guest", "guest", false) == broker::login::loopback_only);
  CHECK(log_in(n, "guest", "wrong") == broker::login::refused);
  CHECK(log_in(n, "nobody", "guest") == broker::login::refused);
}

TEST_CASE("what was answered is there after a restart", "[actors]") {
  node n;
  REQUIRE(change(n, put_user{"alice", hash_of(n, "wonder"), std::nullopt}).value() ==
          directory_answer::created);
  REQUIRE(change(n, put_vhost{"team", {}, {}, {}, true}));
  REQUIRE(change(n, put_permissions{"alice", "team", {".*", ".*", ".*"}}));
  REQUIRE(change(n, remove_user{"guest"}));
  CHECK(n.on_disk().access.size() == 3);
  n.restart();
  CHECK(log_in(n, "alice", "wonder", false) == broker::login::accepted);
  CHECK(log_in(n, "guest", "guest") == broker::login::refused);
  CHECK(n.running->find_vhost("team") != nullptr);
  CHECK(n.running->access()->users().permissions("alice", "team")->may_open());
}

TEST_CASE("another password makes the one before it void at once", "[actors]") {
  node n;
  REQUIRE(change(n, put_user{"alice", hash_of(n, "first"), std::nullopt}));
  CHECK(log_in(n, "alice", "first") == broker::login::accepted);
  REQUIRE(change(n, put_user{"alice", hash_of(n, "second"), std::nullopt}));
  CHECK(log_in(n, "alice", "first") == broker::login::refused);
  CHECK(log_in(n, "alice", "second") == broker::login::accepted);
}

TEST_CASE("a virtual host can be used when it was added, and is gone with its queues when it was deleted",
          "[actors]") {
  node n;
  std::string left;
  n.running->on_eviction(
      [&](const broker::eviction& who) { left = who.vhost.value_or("") + ": " + who.reason; });
  for (int round = 0; round < 2; ++round) {
    REQUIRE(change(n, put_vhost{"team", {}, {}, {}, true}).value() == directory_answer::created);
    {
      client who{*n};
      for (int i = 0; i < 300; ++i) {
        const auto token = who.ask_vhost(who.a_queue("q" + std::to_string(i)), "team");
        if (i == 299) (void)who.answer<queue_declared>(token);
      }
      CHECK(n.running->find_vhost("team")->snapshot()->queue_count() == 300);
    }
    REQUIRE(change(n, close_vhost{"team"}).value() == directory_answer::removed);
    CHECK(n.running->find_vhost("team") == nullptr);
    CHECK(left == "team: vhost 'team' is deleted");
    const auto stored = n.on_disk();
    CHECK((!stored.vhosts.contains("team") || stored.vhosts.at("team").queues.empty()));
    CHECK(eventually([&] { return !n.tree().show("/vhosts/team"); }));
  }
  CHECK(change(n, close_vhost{"/"}).error().code == errc::refused);
}

TEST_CASE("the limit of queues of a virtual host is kept", "[actors]") {
  node n;
  REQUIRE(change(n, put_vhost_limit{"/", "max-queues", 1}));
  client who{*n};
  (void)who.answer<queue_declared>(who.ask_vhost(who.a_queue("one")));
  const auto no = who.answer<refusal>(who.ask_vhost(who.a_queue("two")));
  CHECK(no.text == "cannot declare queue 'two': queue limit in vhost '/' (1) is reached");
  (void)who.answer<queue_declared>(who.ask_vhost(who.a_queue("one")));
  CHECK(n.snapshot()->queue_count() == 1);
  CHECK(n.snapshot()->find_queue("two") == nullptr);
}
