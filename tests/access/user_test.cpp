#include "access/user.hpp"

#include "access/user_accounts.hpp"
#include "tests/mailbox/printed_result.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

user named(std::string name, std::vector<std::string> tags = {}) {
  user out;
  out.name = std::move(name);
  out.tags = std::move(tags);
  return out;
}

user_accounts some() {
  user_accounts out;
  REQUIRE(out.set(named("alice")).has_value());
  REQUIRE(out.set(named("bob")).has_value());
  REQUIRE(out.set_permissions("alice", "/", {".*", ".*", ".*"}).has_value());
  return out;
}

}  // namespace

TEST_CASE("tags let a user do what RabbitMQ's do", "[access]") {
  struct row {
    const char* tag;
    bool manage, policies, monitor, administer, impersonate;
  };
  for (const auto& [tag, manage, policies, monitor, administer, impersonate] : {
           row{"administrator", true, true, true, true, false},
           row{"monitoring", true, false, true, false, false},
           row{"policymaker", true, true, false, false, false},
           row{"management", true, false, false, false, false},
           row{"impersonator", false, false, false, false, true},
           row{"anything", false, false, false, false, false},
       }) {
    INFO(tag);
    const auto u = named("u", {tag});
    CHECK(u.may_manage() == manage);
    CHECK(u.may_make_policies() == policies);
    CHECK(u.may_monitor() == monitor);
    CHECK(u.may_administer() == administer);
    CHECK(u.may_impersonate() == impersonate);
  }
  CHECK_FALSE(named("u").may_manage());
}

TEST_CASE("tags are read as a list, and as one text", "[access]") {
  using tags = std::vector<std::string>;
  CHECK(*user_tags_of("administrator, monitoring") == tags{"administrator", "monitoring"});
  CHECK(user_tags_of("")->empty());
  CHECK(user_tags_of(",, ,")->empty());
  CHECK(user_tags_of("none")->empty());
  CHECK(*user_tags_of(tags{" a ", "b", "a", "", "none"}) == tags{"a", "b"});
  tags many;
  for (int i = 0; i < 32; ++i) many.push_back(std::to_string(i));
  CHECK(user_tags_of(many)->size() == 32);
  many.push_back("x");
  CHECK(user_tags_of(many).error().text == "a user has at most 32 tags, not 33");
}

TEST_CASE("a user without a name is refused", "[access]") {
  user_accounts all;
  CHECK(all.set(named("")).error().text == "a user must have a name");
  CHECK(all.size() == 0);
}

TEST_CASE("a snapshot does not see what changes later", "[access]") {
  auto now = some();
  const auto before = now;
  CHECK(now.erase("alice"));
  CHECK_FALSE(now.erase("alice"));
  CHECK(now.find("alice") == nullptr);
  CHECK_FALSE(now.permissions("alice", "/")->may_open());
  CHECK(before.find("alice") != nullptr);
  CHECK(before.permissions("alice", "/")->may_open());
  CHECK(now.version() > before.version());
}

TEST_CASE("permissions are of a user that is there, and stay when the user changes", "[access]") {
  auto all = some();
  CHECK(all.set_permissions("carol", "/", {}).error().text == "User carol does not exist");
  CHECK(all.set_topic_permissions("carol", "/", "x", {}).error().text == "User carol does not exist");
  REQUIRE(all.set(named("alice", {"monitoring"})).has_value());
  CHECK(all.find("alice")->may_monitor());
  CHECK(all.permissions("alice", "/")->may_open());
  CHECK_FALSE(all.permissions("alice", "other")->may_open());
  CHECK_FALSE(all.permissions("bob", "/")->may_open());
  CHECK(all.permissions("carol", "/")->user() == "carol");

  const auto version = all.version();
  CHECK(all.set_permissions("alice", "/", {"(", "", ""}).has_error());
  CHECK(all.version() == version);
  CHECK(all.permissions("alice", "/")->resources()->configure == ".*");

  CHECK(all.clear_permissions("alice", "/"));
  CHECK_FALSE(all.clear_permissions("alice", "/"));
  CHECK_FALSE(all.clear_permissions("carol", "/"));
  CHECK_FALSE(all.permissions("alice", "/")->may_open());
  // A user that comes back has nothing of what it had.
  REQUIRE(all.set_permissions("bob", "/", {".*", ".*", ".*"}).has_value());
  CHECK(all.erase("bob"));
  REQUIRE(all.set(named("bob")).has_value());
  CHECK_FALSE(all.permissions("bob", "/")->may_open());
}

TEST_CASE("topic permissions come and go without the others", "[access]") {
  auto all = some();
  REQUIRE(all.set_topic_permissions("bob", "/", "amq.topic", {"^a", ""}).has_value());
  CHECK_FALSE(all.permissions("bob", "/")->may_open());
  CHECK(all.permissions("bob", "/")->allows_topic(permission::write, "amq.topic", "a.b"));
  CHECK_FALSE(all.permissions("bob", "/")->allows_topic(permission::read, "amq.topic", "a.b"));
  REQUIRE(all.set_topic_permissions("bob", "/", "other", {".*", ".*"}).has_value());
  CHECK(all.clear_topic_permissions("bob", "/", "amq.topic"));
  CHECK_FALSE(all.clear_topic_permissions("bob", "/", "amq.topic"));
  CHECK(all.clear_topic_permissions("bob", "/"));
  CHECK_FALSE(all.clear_topic_permissions("bob", "/"));
  std::size_t count = 0;
  all.for_each_permissions([&](const vhost_permissions&) { ++count; });
  CHECK(count == 1);  // what is empty is not kept
}

TEST_CASE("a virtual host takes the permissions in it along", "[access]") {
  auto all = some();
  REQUIRE(all.set_permissions("alice", "v", {".*", ".*", ".*"}).has_value());
  REQUIRE(all.set_topic_permissions("bob", "v", "x", {"", ""}).has_value());
  all.erase_vhost("v");
  std::multiset<std::string> left;
  all.for_each_permissions([&](const vhost_permissions& p) { left.insert(p.user() + "@" + p.vhost()); });
  CHECK(left == std::multiset<std::string>{"alice@/"});
  std::multiset<std::string> users;
  all.for_each_user([&](const user& u) { users.insert(u.name); });
  CHECK(users == std::multiset<std::string>{"alice", "bob"});
}

TEST_CASE("a login is checked against the user's hash, or against none", "[access]") {
  constexpr password_cost cheap = {1, 8192};
  auto all = some();
  auto alice = named("alice");
  alice.password = *password_hash::of(secret{"x"}, cheap);
  REQUIRE(all.set(alice).has_value());
  CHECK(*all.check("alice", secret{"x"}, cheap).run());
  CHECK_FALSE(*all.check("alice", secret{"y"}, cheap).run());
  CHECK_FALSE(*all.check("bob", secret{"x"}, cheap).run());
  CHECK_FALSE(*all.check("carol", secret{"x"}, cheap).run());
  CHECK(all.check("alice", secret{"x"}, cheap).stored() == alice.password);
}
