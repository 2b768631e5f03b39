// Policies reach what is there, and definitions become durable, before who asked is answered.
#include "access/topology_definitions.hpp"
#include "actors/directory.hpp"
#include "actors/queue.hpp"
#include "actors/vhost.hpp"
#include "tests/actors/probed_broker.hpp"

#include <boost/json/parse.hpp>
#include <catch2/catch_test_macros.hpp>

#include <future>

using namespace posthorn;
using namespace posthorn::probed;

namespace {

void change(node& n, directory_command command) {
  std::promise<result<directory_answer>> done;
  n.running->administrate(std::move(command), [&](const result<directory_answer>& a) { done.set_value(a); });
  REQUIRE(done.get_future().get().has_value());
}

policy a_policy(const std::string& text) {
  return policy_of(policy_kind::ordinary, "p", boost::json::parse(text).get_object())->value;
}

result<std::vector<std::string>> import(node& n, const std::string& text) {
  const auto all = definitions_of(text);
  auto what = topology_of(*all, "/");
  std::promise<result<std::vector<std::string>>> done;
  n.running->find_vhost("/")->post(
      import_topology{std::move(what->commands.at("/")),
                      [&](result<std::vector<std::string>> a) { done.set_value(std::move(a)); }});
  return done.get_future().get();
}

}  // namespace

TEST_CASE("policies are with all queues of a virtual host when they are answered", "[actors]") {
  node n;
  constexpr int count = 1500;  // more than are looked at in one go
  {
    client c{*n};
    for (int i = 0; i < count; ++i) c.answer<queue_declared>(c.ask_vhost(c.a_queue("q" + std::to_string(i))));
  }
  for (const auto length : {7, 8}) {
    change(n, put_policy{policy_kind::ordinary, "/",
                         a_policy(R"({"pattern": "^q", "definition": {"max-length": )" +
                                  std::to_string(length) + "}}")});
    const auto now = n.snapshot();
    int right = 0;
    now->for_each_queue([&](const queue_ptr& queue) {
      if (port_of(*queue).rules()->length_max == static_cast<std::uint64_t>(length)) ++right;
    });
    CHECK(right == count);
  }
  n.restart();
  CHECK(port_of(**n.snapshot()->find_queue("q77")).rules()->length_max == 8);
  change(n, remove_policy{policy_kind::ordinary, "/", "p"});
  CHECK_FALSE(port_of(**n.snapshot()->find_queue("q77")).rules()->length_max);
}

TEST_CASE("policies that are laid down while queues come reach them all", "[actors]") {
  node n;
  client c{*n};
  request_token last = 0;
  for (int i = 0; i < 1000; ++i) last = c.ask_vhost(c.a_queue("q" + std::to_string(i)));
  change(n, put_policy{policy_kind::ordinary, "/",
                       a_policy(R"({"pattern": "^q", "definition": {"max-length": 7}})")});
  c.answer<queue_declared>(last);
  int wrong = 0;
  n.snapshot()->for_each_queue([&](const queue_ptr& queue) {
    if (port_of(*queue).rules()->length_max != 7U) ++wrong;
  });
  CHECK(wrong == 0);
  CHECK(n.snapshot()->queue_count() == 1000);
}

TEST_CASE("an import of many is durable when it is answered, and tells what was refused", "[actors]") {
  node n;
  std::string text =
      R"({"exchanges": [{"name": "e", "type": "fanout"}, {"name": "f", "type": "unknown-type"}], "queues": [)";
  for (int i = 0; i < 2000; ++i) text += R"({"name": "q)" + std::to_string(i) + R"("},)";
  text +=
      R"({"name": "last", "arguments": {"x-max-length": -1}}],)"
      R"("bindings": [{"source": "e", "destination": "q1", "destination_type": "queue", "routing_key": ""}]})";
  const auto refused = import(n, text);
  REQUIRE(refused.has_value());
  CHECK(refused->size() == 2);
  CHECK(n.snapshot()->queue_count() == 2000);
  // What is there is left as it is.
  CHECK(import(n, text)->size() == 2);
  n.restart();
  CHECK(n.snapshot()->queue_count() == 2000);
  CHECK(n.snapshot()->find_exchange("e") != nullptr);
  CHECK(n.snapshot()->binding_count() == 1);
}

TEST_CASE("a declaration without a type asks for that of its virtual host", "[actors]") {
  node n;
  change(n, put_vhost{"/", {}, {}, "quorum", false});
  client c{*n};
  c.answer<queue_declared>(c.ask_vhost(c.a_queue("q")));
  CHECK(port_of(**n.snapshot()->find_queue("q")).is_quorum);
  c.answer<queue_declared>(c.ask_vhost(c.a_queue("q")));
  auto own = c.a_queue("own");
  own.exclusive = true;
  c.answer<queue_declared>(c.ask_vhost(own));
  CHECK_FALSE(port_of(**n.snapshot()->find_queue("own")).is_quorum);
}
