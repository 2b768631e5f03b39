#include "node/commands/actor_tree.hpp"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <sstream>

using namespace posthorn;

namespace {

boost::json::array actors(const char* text) { return boost::json::parse(text).as_array(); }

boost::json::array a_tree_with(const std::string& queue, const char* state = "running") {
  auto out = actors(R"([
    {"path": "/", "kind": "supervisor", "state": "running", "restarts": 0, "mailbox_depth": null, "children": 2},
    {"path": "/committer", "kind": "committer", "state": "running", "restarts": 1, "mailbox_depth": 12345,
     "children": null},
    {"path": "/queues", "kind": "supervisor", "state": "running", "restarts": 0, "mailbox_depth": null,
     "children": 10000}])");
  boost::json::object child;
  child["path"] = "/queues/" + queue;
  child["kind"] = "queue";
  child["state"] = state;
  out.push_back(child);
  return out;
}

}  // namespace

TEST_CASE("a terminal of UTF-8 sees lines that meet", "[actor_tree]") {
  CHECK(draw_actor_tree(a_tree_with("orders"), {.draws_boxes = true, .has_colour = false, .columns = 0}) ==
        "ACTOR         KIND        STATE    RESTARTS  MAILBOX\n"
        "/             supervisor  running         0        -\n"
        "├─ committer  committer   running         1   12,345\n"
        "└─ queues     supervisor  running         0        -\n"
        "   ├─ orders  queue       running         0        -\n"
        "   └─ … and 9,999 more\n");
}

TEST_CASE("what is not asked for is counted behind the name", "[actor_tree]") {
  const auto shown =
      draw_actor_tree(actors(R"([{"path": "/a/b", "kind": "supervisor", "state": "running", "children": 2},
                 {"path": "/a/b/c", "kind": "supervisor", "state": "running", "children": 1},
                 {"path": "/a/b/d", "kind": "supervisor", "state": "running", "children": 0}])"),
                      {});
  CHECK(shown ==
        "ACTOR           KIND        STATE    RESTARTS  MAILBOX\n"
        "/a/b            supervisor  running         0        -\n"
        "|- c (1 child)  supervisor  running         0        -\n"
        "`- d            supervisor  running         0        -\n");
}

TEST_CASE("on a narrow terminal long names are cut, and no line is wider than it", "[actor_tree]") {
  const std::string name =
      "a-very-long-name-of-a-queue-that-nobody-can-read-in-one-breath-ÄÖÜ-and-on-it-goes";
  for (const std::size_t columns : {61U, 80U, 120U}) {
    std::istringstream lines{draw_actor_tree(a_tree_with(name), {true, false, columns})};
    std::size_t widest = 0;
    for (std::string line; std::getline(lines, line);) widest = std::max(widest, width_of(line));
    CAPTURE(columns);
    CHECK(widest <= columns);
    CHECK(widest + 3 >= std::min<std::size_t>(columns, width_of(name) + 40));
  }
  CHECK(draw_actor_tree(a_tree_with(name), {true, false, 80}).find("a-very-long") != std::string::npos);
  CHECK(draw_actor_tree(a_tree_with(name), {true, false, 80}).find("on-it-goes  queue") != std::string::npos);
  CHECK(draw_actor_tree(a_tree_with(name), {true, false, 0}).find(name) != std::string::npos);
}

TEST_CASE("colours are switched off again, and stand only where something is not as it should be",
          "[actor_tree]") {
  const auto shown = draw_actor_tree(a_tree_with("orders", "failed"), {true, true, 80});
  CHECK(shown.find("\x1b[31mfailed") != std::string::npos);
  CHECK(shown.find("\x1b[31mrunning") == std::string::npos);
  std::istringstream lines{shown};
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    const auto last = line.rfind("\x1b[");
    CHECK((last == std::string::npos || line.compare(last, 4, "\x1b[0m") == 0));
  }
  CHECK(draw_actor_tree(a_tree_with("orders", "failed"), {true, false, 80}).find('\x1b') ==
        std::string::npos);
}

TEST_CASE("a name cannot take hold of the terminal", "[actor_tree]") {
  const auto shown = draw_actor_tree(a_tree_with("\x1b[2J\xC2\x9B"
                                                 "31mx"),
                                     {});
  CHECK(shown.find("?[2J?31mx") != std::string::npos);
  CHECK(shown.find('\x1b') == std::string::npos);
}

TEST_CASE("an answer that is no tree draws what there is of it", "[actor_tree]") {
  CHECK(draw_actor_tree({}, {}).empty());
  CHECK(draw_actor_tree(actors(R"([1, {"path": 3}, {}])"), {}).empty());
  const auto shown =
      draw_actor_tree(actors(R"([{"path": "/a"}, {"path": "/b/c"}, {"path": "/a"}, {"path": "/a/d"}])"), {});
  CHECK(std::count(shown.begin(), shown.end(), '\n') == 3);  // titles, /a and d
}
