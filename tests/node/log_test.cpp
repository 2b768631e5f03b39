#include "node/log.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>

#include <sstream>

using namespace posthorn;

TEST_CASE("as text, a line has a time, a level, the message and its fields", "[log]") {
  std::ostringstream out;
  node_log log{out, log_level::info, log_format::text};
  log.write(log_level::warning, "low on disk", {{"free", "5"}, {"directory", "/a \"b\""}});
  const auto line = out.str();
  CAPTURE(line);
  CHECK(line.starts_with("20"));
  CHECK(line.ends_with(" warning low on disk free=5 directory=\"/a \\\"b\\\"\"\n"));
}

TEST_CASE("as JSON, each line is one object, whatever the message holds", "[log]") {
  std::ostringstream out;
  node_log log{out, log_level::info, log_format::json};
  log.write(log_level::error, "a \"quoted\"\nname %d {}", {{"queue", "\xff\x01\xc3\xa9"}});
  log.write(log_level::info, "second");
  std::istringstream lines{out.str()};
  std::string line;
  REQUIRE(std::getline(lines, line));
  const auto first = boost::json::parse(line);
  CHECK(first.at("level") == "error");
  CHECK(first.at("message") == "a \"quoted\"\nname %d {}");
  CHECK(first.at("queue") == "\xEF\xBF\xBD\x01\xc3\xa9");
  CHECK(first.at("time").as_string().ends_with("Z"));
  REQUIRE(std::getline(lines, line));
  CHECK(boost::json::parse(line).at("message") == "second");
  CHECK_FALSE(std::getline(lines, line));
}

TEST_CASE("a name from outside cannot forge a second line", "[log]") {
  std::ostringstream out;
  node_log log{out, log_level::info, log_format::text};
  log.write(log_level::info, "a\nb", {{"c", "d\ne"}});
  CHECK(out.str().find('\n') == out.str().size() - 1);
}

TEST_CASE("below its level nothing is logged, and the level can change", "[log]") {
  std::ostringstream out;
  node_log log{out, log_level::warning, log_format::text};
  log.write(log_level::info, "quiet");
  CHECK(out.str().empty());
  log.set_level(log_level::debug);
  log.write(log_level::debug, "loud");
  CHECK(out.str().find("loud") != std::string::npos);
}
