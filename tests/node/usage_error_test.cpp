#include "node/commands/usage_error.hpp"

#include "node/command_line.hpp"
#include "node/exit_code.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sstream>

using namespace posthorn;

namespace {

// What it says of a command line that it must not run.
std::string complaint(std::vector<std::string> arguments) {
  std::ostringstream out, err;
  CHECK(run_command_line(std::move(arguments), out, err) == to_int(exit_code::wrong_usage));
  CHECK(out.str().empty());
  return err.str();
}

}  // namespace

TEST_CASE("the word that was meant is found in spite of a slip", "[usage]") {
  const std::vector<std::string> known{"status", "list", "users", "permissions"};
  CHECK(closest_word("stauts", known) == "status");
  CHECK(closest_word("statu", known) == "status");
  CHECK(closest_word("user", known) == "users");
  CHECK(closest_word("permisions", known) == "permissions");
  CHECK(closest_word("lsit", known) == "list");
  CHECK(closest_word("frobnicate", known).empty());
  CHECK(closest_word("xy", known).empty());
  CHECK(closest_word("", known).empty());
  CHECK(closest_word(std::string(100'000, 's'), known).empty());
}

TEST_CASE("a command that does not exist is named, and the one that was meant", "[usage]") {
  CHECK(complaint({"stauts"}) ==
        "posthorn: unknown command 'stauts', did you mean 'status'? See `posthorn --help`\n");
  CHECK(complaint({"--json", "stauts"}) ==
        "posthorn: unknown command 'stauts', did you mean 'status'? See `posthorn --help`\n");
  CHECK(complaint({"frobnicate"}) == "posthorn: unknown command 'frobnicate'; see `posthorn --help`\n");
}

TEST_CASE("a command of a command that does not exist is named, too", "[usage]") {
  CHECK(complaint({"users", "dleete", "anna"}) ==
        "posthorn: unknown command 'dleete', did you mean 'delete'? See `posthorn users --help`\n");
  CHECK(complaint({"users", "frobnicate"}) ==
        "posthorn: unknown command 'frobnicate'; see `posthorn users --help`\n");
}

TEST_CASE("who names no command is told which there are", "[usage]") {
  const auto none = complaint({});
  CHECK(none.starts_with("posthorn: `posthorn` needs a command: "));
  CHECK(none.find("status") != std::string::npos);
  const auto users = complaint({"users"});
  CHECK(users.starts_with("posthorn: `posthorn users` needs a command: "));
  CHECK(users.find("delete") != std::string::npos);
  CHECK(users.ends_with("; see `posthorn users --help`\n"));
}

TEST_CASE("an option that does not exist is named, and the one that was meant", "[usage]") {
  CHECK(complaint({"status", "--jsno"}) ==
        "posthorn: unknown option '--jsno', did you mean '--json'? See `posthorn status --help`\n");
  CHECK(complaint({"status", "--frobnicate=1"}) ==
        "posthorn: unknown option '--frobnicate'; see `posthorn status --help`\n");
  CHECK(complaint({"status", "twice"}) ==
        "posthorn: unexpected argument 'twice'; see `posthorn status --help`\n");
  CHECK(complaint({"status", "--url"}).starts_with("posthorn: --url"));
}
