// The texts and the order of the checks are those of RabbitMQ 4.3.6. Numbers in brackets are those of
// docs/amqp.md.
#include "access/permissions.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <string>

using namespace posthorn;

namespace {

// Configure, write and read what has cfg, wr and rd in its name.
vhost_permissions a_user_with(resource_permissions given = {"cfg", "wr", "rd"}) {
  vhost_permissions out{"u", "v"};
  REQUIRE(out.set(std::move(given)).has_value());
  return out;
}

vhost_access access_with(vhost_permissions permissions) {
  return vhost_access{std::make_shared<const vhost_permissions>(std::move(permissions))};
}

std::string said(const vhost_access::answer& answer) {
  if (!answer) return "yes";
  CHECK(answer->why == refusal::kind::access_refused);
  return answer->text;
}

}  // namespace

TEST_CASE("declaring and deleting a queue needs configure [71]", "[access]") {
  const auto access = access_with(a_user_with());
  CHECK(said(access.declare_queue("cfg")) == "yes");
  CHECK(said(access.declare_queue("rd")) ==
        "configure access to queue 'rd' in vhost 'v' refused for user 'u'");
  CHECK(said(access.declare_queue("amq.gen-xyz")) ==
        "configure access to queue 'amq.gen-xyz' in vhost 'v' refused for user 'u'");
  CHECK(said(access.delete_queue("foo")) ==
        "configure access to queue 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.delete_queue("cfg")) == "yes");
}

TEST_CASE("a new queue with a dead-letter exchange needs read on it, and write on the exchange [18]",
          "[access]") {
  const auto access = access_with(a_user_with());
  CHECK(said(access.dead_letter("cfg2", "wr")) ==
        "read access to queue 'cfg2' in vhost 'v' refused for user 'u'");
  CHECK(said(access.dead_letter("cfgrd", "no")) ==
        "write access to exchange 'no' in vhost 'v' refused for user 'u'");
  CHECK(said(access.dead_letter("cfgrd", "")) ==
        "write access to exchange 'amq.default' in vhost 'v' refused for user 'u'");
  CHECK(said(access.dead_letter("cfgrd", "wr")) == "yes");
}

TEST_CASE("a passive declaration needs any permission, and says configure without one [7]", "[access]") {
  const auto access = access_with(a_user_with());
  for (const auto* name : {"cfg", "wr", "rd"}) {
    CHECK(said(access.find_queue(name)) == "yes");
    CHECK(said(access.find_exchange(name)) == "yes");
  }
  CHECK(said(access.find_queue("foo")) ==
        "configure access to queue 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.find_exchange("foo")) ==
        "configure access to exchange 'foo' in vhost 'v' refused for user 'u'");
}

TEST_CASE("reading and purging a queue needs read [71]", "[access]") {
  const auto access = access_with(a_user_with());
  CHECK(said(access.read_queue("foo")) == "read access to queue 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.purge_queue("foo")) == "read access to queue 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.read_queue("rd")) == "yes");
  CHECK(said(access.purge_queue("rd")) == "yes");
}

TEST_CASE("an exchange needs configure, and with an alternate read and write on that [18] [71]", "[access]") {
  const auto access = access_with(a_user_with());
  CHECK(said(access.declare_exchange("foo")) ==
        "configure access to exchange 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.delete_exchange("foo")) ==
        "configure access to exchange 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.alternate("cfg", "foo")) ==
        "read access to exchange 'cfg' in vhost 'v' refused for user 'u'");
  CHECK(said(access.alternate("cfgrd", "foo")) ==
        "write access to exchange 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.alternate("cfgrd", "wr")) == "yes");
}

TEST_CASE("binding needs write on the destination and read on the source [71]", "[access]") {
  const auto access = access_with(a_user_with());
  CHECK(said(access.bind_destination(resource_kind::queue, "foo")) ==
        "write access to queue 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.bind_destination(resource_kind::exchange, "foo")) ==
        "write access to exchange 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.bind_destination(resource_kind::queue, "wr")) == "yes");
  CHECK(said(access.bind_source("bar")) == "read access to exchange 'bar' in vhost 'v' refused for user 'u'");
  CHECK(said(access.bind_source("rd")) == "yes");
}

TEST_CASE("publishing needs write on the exchange; the default one is called amq.default [71]", "[access]") {
  const auto access = access_with(a_user_with());
  CHECK(said(access.publish("foo")) == "write access to exchange 'foo' in vhost 'v' refused for user 'u'");
  CHECK(said(access.publish("")) ==
        "write access to exchange 'amq.default' in vhost 'v' refused for user 'u'");
  CHECK(said(access.publish("wr")) == "yes");
  CHECK(said(access_with(a_user_with({"", "^amq\\.default$", ""})).publish("")) == "yes");
  // A queue is never the default exchange.
  CHECK(said(access_with(a_user_with({"^amq\\.default$", "", ""})).declare_queue("")) ==
        "configure access to queue '' in vhost 'v' refused for user 'u'");
}

TEST_CASE("an empty permission allows nothing", "[access]") {
  const auto access = access_with(a_user_with({"", "", ""}));
  CHECK(access.declare_queue("q"));
  CHECK(access.publish("x"));
  CHECK(access.publish(""));
  CHECK(access.read_queue("q"));
  CHECK(access.permissions().may_open());
  CHECK(access.permissions().allows(permission::read, ""));  // the empty name, which nothing has
}

TEST_CASE("without permissions, nobody opens a virtual host [70]", "[access]") {
  vhost_permissions permissions{"u", "v"};
  CHECK_FALSE(permissions.may_open());
  CHECK_FALSE(permissions.allows(permission::read, ""));
  REQUIRE(permissions.set({".*", ".*", ".*"}).has_value());
  CHECK(permissions.may_open());
  permissions.clear();
  CHECK_FALSE(permissions.may_open());
  CHECK_FALSE(permissions.allows(permission::read, "q"));
  CHECK(vhost_refused("v", "u") ==
        refusal{refusal::kind::not_allowed, "access to vhost 'v' refused for user 'u'"});
  CHECK(no_vhost("v") == refusal{refusal::kind::not_allowed, "vhost v not found"});
}

TEST_CASE("a login is refused without a reason [69]", "[access]") {
  CHECK(
      login_refused("PLAIN") ==
      refusal{refusal::kind::access_refused,
              "Login was refused using authentication mechanism PLAIN. For details see the broker logfile."});
}

TEST_CASE("a pattern that is none is refused, and changes nothing", "[access]") {
  auto permissions = a_user_with();
  const auto done = permissions.set({"cfg", "(", "rd"});
  REQUIRE(done.has_error());
  CHECK(done.error().text ==
        "the write permission '(' is not a valid regular expression: missing closing parenthesis: (");
  CHECK(*permissions.resources() == resource_permissions{"cfg", "wr", "rd"});
  CHECK_FALSE(permissions.set({std::string(1025, 'a'), "", ""}).has_value());
  CHECK_FALSE(permissions.set("x", {"", "(?!x)"}).has_value());
  CHECK_FALSE(permissions.set("x", {"", std::string(1025, 'a')}).has_value());
  CHECK_FALSE(permissions.has_topics("x"));
}

TEST_CASE("topic permissions are asked for the routing key, of their exchange only [71]", "[access]") {
  auto permissions = a_user_with();
  CHECK(said(access_with(permissions).publish_topic("x", "anything")) == "yes");
  REQUIRE(permissions.set("x", {"^{username}\\.w", "^{vhost}\\.r"}).has_value());
  const auto access = access_with(permissions);
  CHECK(access.permissions().has_topics("x"));
  CHECK_FALSE(access.permissions().has_topics("y"));
  CHECK(said(access.publish_topic("x", "x.y")) ==
        "write access to topic 'x.y' in exchange 'x' in vhost 'v' refused for user 'u'");
  CHECK(said(access.publish_topic("x", "u.w")) == "yes");
  CHECK(said(access.publish_topic("y", "x.y")) == "yes");
  CHECK(said(access.bind_topic("x", "k")) ==
        "read access to topic 'k' in exchange 'x' in vhost 'v' refused for user 'u'");
  CHECK(said(access.bind_topic("x", "v.r")) == "yes");

  REQUIRE(permissions.set("x", {"", ".*"}).has_value());
  CHECK(said(access_with(permissions).publish_topic("x", "u.w")) ==
        "write access to topic 'u.w' in exchange 'x' in vhost 'v' refused for user 'u'");
  CHECK(said(access_with(permissions).publish_topic("x", "")) == "yes");
  CHECK(permissions.clear_topic("x"));
  CHECK_FALSE(permissions.clear_topic("x"));
  CHECK(said(access_with(permissions).publish_topic("x", "u.w")) == "yes");
}

TEST_CASE("what stands in a topic pattern for a name is that name, whatever is in it", "[access]") {
  vhost_permissions permissions{"a.*{vhost}", "v|x"};
  REQUIRE(permissions.set("x", {"^{username}-{vhost}-{client_id}$", ".*"}).has_value());
  CHECK(permissions.allows_topic(permission::write, "x", "a.*{vhost}-v|x-{client_id}"));
  CHECK_FALSE(permissions.allows_topic(permission::write, "x", "abc{vhost}-v|x-{client_id}"));
  CHECK_FALSE(permissions.allows_topic(permission::write, "x", "x"));

  // A long name may make it longer than a pattern may be that somebody gave.
  vhost_permissions long_name{std::string(255, 'u'), "v"};
  REQUIRE(
      long_name.set("x", {"^({username}|{username}|{username}|{username}|{username}).k$", ""}).has_value());
  CHECK(long_name.allows_topic(permission::write, "x", std::string(255, 'u') + ".k"));
  CHECK_FALSE(long_name.allows_topic(permission::write, "x", "u.k"));
}
