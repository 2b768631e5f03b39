#include "access/directory.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>

#include <string>

using namespace posthorn;

namespace {

const password_cost cheap{1, 8192};

password_hash hash_of(const char* password) {
  return password_hash::of(secret{std::string{password}}, cheap).value();
}

directory first(directory::touched& touched) { return first_directory("guest", hash_of("guest"), touched); }
directory first() {
  directory::touched ignored;
  return first(ignored);
}

result<directory_answer> apply(directory& to, const directory_command& command) {
  directory::touched ignored;
  return to.on(command, ignored);
}

policy length_policy(const char* name, std::int64_t length) {
  boost::json::object fields{{"pattern", "^q"}, {"definition", boost::json::object{{"max-length", length}}}};
  return policy_of(policy_kind::ordinary, name, fields).value().value;
}

// What a restart makes of it.
directory stored_and_restored(const directory& from) {
  directory out;
  const auto back = [&](const std::string& name) {
    const auto text = from.record(name);
    REQUIRE(text.has_value());
    REQUIRE(out.restore(name, *text).has_value());
  };
  for (const auto& entry : from.vhosts()) back("v" + entry->what.name);
  from.users().for_each_user([&](const user& who) { back("u" + who.name); });
  return out;
}

}  // namespace

TEST_CASE("a node begins with a virtual host and a user who may do everything", "[access]") {
  directory::touched touched;
  const auto made = first(touched);
  CHECK(touched == directory::touched{"uguest", "v/"});
  REQUIRE(made.find_vhost("/") != nullptr);
  const auto guest = made.users().find("guest");
  REQUIRE(guest != nullptr);
  CHECK(guest->may_administer());
  CHECK(made.users().permissions("guest", "/")->allows(permission::configure, "anything"));
  CHECK(made.users().check("guest", secret{"guest"}, cheap).run().value());
  CHECK_FALSE(made.users().check("guest", secret{"other"}, cheap).run().value());
}

TEST_CASE("what is stored comes back as it was", "[access]") {
  auto made = first();
  REQUIRE(apply(made, put_vhost{"team", "of ours", {}, "quorum", true}));
  REQUIRE(apply(made, put_user{"alice", hash_of("wonder"), std::vector<std::string>{"monitoring"}}));
  REQUIRE(apply(made, put_permissions{"alice", "team", {"^a", "", ".*"}}));
  REQUIRE(apply(made, put_topic_permissions{"alice", "team", "events", {"^w", "^r"}}));
  REQUIRE(apply(made, put_vhost_limit{"team", "max-queues", 7}));
  REQUIRE(apply(made, put_user_limit{"alice", "max-channels", 3}));
  REQUIRE(apply(made, put_policy{policy_kind::ordinary, "team", length_policy("short", 5)}));
  REQUIRE(apply(made, put_policy{policy_kind::of_operator, "team", length_policy("cap", 9)}));

  const auto back = stored_and_restored(made);
  const auto team = back.find_vhost("team");
  REQUIRE(team != nullptr);
  CHECK(team->what == made.find_vhost("team")->what);
  CHECK(team->what.limits.queues_max == 7);
  REQUIRE(team->policies.ordinary.find("short") != nullptr);
  REQUIRE(team->policies.of_operator.find("cap") != nullptr);
  REQUIRE(back.users().find("alice") != nullptr);
  CHECK(*back.users().find("alice") == *made.users().find("alice"));
  const auto allowed = back.users().permissions("alice", "team");
  CHECK(allowed->allows(permission::configure, "abc"));
  CHECK_FALSE(allowed->allows(permission::write, "abc"));
  CHECK(allowed->allows_topic(permission::write, "events", "w1"));
  CHECK_FALSE(allowed->allows_topic(permission::write, "events", "r1"));
}

TEST_CASE("a command that is refused changes nothing", "[access]") {
  auto made = first();
  const auto before = made.record("uguest");
  directory::touched touched;
  CHECK(made.on(put_permissions{"nobody", "/", {}}, touched).error().code == errc::unreachable);
  CHECK(made.on(put_permissions{"guest", "nowhere", {}}, touched).error().code == errc::unreachable);
  CHECK(made.on(put_permissions{"guest", "/", {"(", "", ""}}, touched).error().code == errc::refused);
  CHECK(made.on(put_user{"guest", {}, {}, put_user::when::if_new}, touched).error().code == errc::refused);
  CHECK(made.on(put_user{"", {}, {}}, touched).error().code == errc::refused);
  CHECK(made.on(put_user{"\xff", {}, {}}, touched).error().code == errc::refused);
  CHECK(made.on(put_user{std::string(256, 'n'), {}, {}}, touched).error().code == errc::refused);
  CHECK(made.on(put_vhost_limit{"/", "max-nothing", 1}, touched).error().code == errc::refused);
  CHECK(made.on(remove_policy{policy_kind::ordinary, "/", "none"}, touched).error().code ==
        errc::unreachable);
  CHECK(touched.empty());
  CHECK(made.record("uguest") == before);
}

TEST_CASE("a virtual host that is being deleted is nobody's, and cannot be added again before it is gone",
          "[access]") {
  auto made = first();
  REQUIRE(apply(made, put_vhost{"team", {}, {}, {}, true}));
  REQUIRE(apply(made, put_permissions{"guest", "team", {".*", ".*", ".*"}}));
  directory::touched touched;
  REQUIRE(made.on(close_vhost{"team"}, touched));
  CHECK(touched == directory::touched{"uguest", "vteam"});
  CHECK_FALSE(made.users().permissions("guest", "team")->may_open());
  CHECK(apply(made, put_vhost{"team", {}, {}, {}, false}).error().code == errc::overloaded);
  CHECK(apply(made, put_permissions{"guest", "team", {}}).error().code == errc::overloaded);
  CHECK(stored_and_restored(made).find_vhost("team")->closing);
  REQUIRE(apply(made, forget_vhost{"team"}));
  CHECK(made.find_vhost("team") == nullptr);
  CHECK_FALSE(made.record("vteam").has_value());
  CHECK(apply(made, put_vhost{"team", {}, {}, {}, true}).value() == directory_answer::created);
}

TEST_CASE("definitions are imported as a whole, or not at all", "[access]") {
  auto made = first();
  auto all = definitions_of(R"({"vhosts": [{"name": "v"}],
    "users": [{"name": "u", "tags": ["management"], "password_hash": ""}],
    "permissions": [{"user": "u", "vhost": "v", "configure": "", "write": ".*", "read": ""}],
    "policies": [{"vhost": "v", "name": "p", "pattern": ".*", "definition": {"max-length": 3}}]})");
  REQUIRE(all.has_value());
  const auto good = std::make_shared<const definitions>(std::move(*all));
  directory::touched touched;
  REQUIRE(made.on(import_definitions{good}, touched));
  CHECK(touched == directory::touched{"uu", "vv"});
  CHECK(made.users().permissions("u", "v")->allows(permission::write, "x"));
  CHECK(made.find_vhost("v")->policies.ordinary.find("p") != nullptr);

  auto wrong = definitions_of(R"({"vhosts": [{"name": "w"}],
    "permissions": [{"user": "nobody", "vhost": "w", "configure": "", "write": "", "read": ""}]})");
  REQUIRE(wrong.has_value());
  CHECK_FALSE(apply(made, import_definitions{std::make_shared<const definitions>(std::move(*wrong))}));
  CHECK(made.find_vhost("w") == nullptr);
}

TEST_CASE("what is exported is imported again as it was", "[access]") {
  auto made = first();
  REQUIRE(apply(made, put_vhost{"team", {}, {}, {}, true}));
  REQUIRE(apply(made, put_user{"alice", hash_of("wonder"), std::vector<std::string>{"monitoring"}}));
  REQUIRE(apply(made, put_permissions{"alice", "team", {"^a", "", ".*"}}));
  const auto text = boost::json::serialize(to_json(made.exported(), "4.3.6"));
  CHECK(text.find("wonder") == std::string::npos);
  auto read = definitions_of(text);
  REQUIRE(read.has_value());
  directory other;
  REQUIRE(apply(other, import_definitions{std::make_shared<const definitions>(std::move(*read))}));
  CHECK(boost::json::serialize(to_json(other.exported(), "4.3.6")) == text);
}
