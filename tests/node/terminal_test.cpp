#include "node/commands/terminal.hpp"

#include "node/commands/human_time.hpp"

#include <catch2/catch_test_macros.hpp>

#include <map>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

terminal terminal_with(bool is_terminal, std::map<std::string, std::string> variables) {
  return terminal_from(is_terminal, 80, [&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

}  // namespace

TEST_CASE("colours are for terminals without NO_COLOR only", "[terminal]") {
  CHECK(terminal_with(true, {{"TERM", "xterm"}}).has_colour);
  CHECK_FALSE(terminal_with(true, {{"TERM", "xterm"}, {"NO_COLOR", "1"}}).has_colour);
  CHECK(terminal_with(true, {{"TERM", "xterm"}, {"NO_COLOR", ""}}).has_colour);  // as no-color.org has it
  CHECK_FALSE(terminal_with(true, {{"TERM", "dumb"}}).has_colour);
  CHECK_FALSE(terminal_with(true, {}).has_colour);
  CHECK_FALSE(terminal_with(false, {{"TERM", "xterm"}}).has_colour);
}

TEST_CASE("boxes need a locale of UTF-8, the first that is set", "[terminal]") {
  CHECK(terminal_with(true, {{"TERM", "xterm"}, {"LANG", "de_DE.UTF-8"}}).draws_boxes);
  CHECK(terminal_with(true, {{"TERM", "xterm"}, {"LC_CTYPE", "C.utf8"}}).draws_boxes);
  CHECK(terminal_with(false, {{"LANG", "C.UTF-8"}}).draws_boxes);
  CHECK_FALSE(terminal_with(true, {{"TERM", "xterm"}, {"LC_ALL", "C"}, {"LANG", "C.UTF-8"}}).draws_boxes);
  CHECK_FALSE(terminal_with(true, {{"TERM", "dumb"}, {"LANG", "C.UTF-8"}}).draws_boxes);
  CHECK_FALSE(terminal_with(true, {{"TERM", "xterm"}}).draws_boxes);
}

TEST_CASE("a pipe has no width", "[terminal]") {
  CHECK(terminal_with(true, {}).columns == 80);
  CHECK(terminal_with(false, {}).columns == 0);
}

TEST_CASE("controls are not printable, letters are", "[terminal]") {
  CHECK(printable("a\x1b[0m\n\x7f") == "a?[0m??");
  CHECK(printable("ä\xC2\x9B\xC2\xA0") == "ä?\xC2\xA0");
  CHECK(printable("\xC2") == "\xC2");
  CHECK(width_of("…ä") == 2);
}

TEST_CASE("durations are told in the two units that matter", "[human_time]") {
  CHECK(human_duration(0s) == "0 s");
  CHECK(human_duration(-1s) == "0 s");
  CHECK(human_duration(830ns) == "830 ns");
  CHECK(human_duration(2500ns) == "2.5 µs");
  CHECK(human_duration(12'345us) == "12 ms");
  CHECK(human_duration(999'999us) == "999 ms");
  CHECK(human_duration(5s) == "5 s");
  CHECK(human_duration(5900ms) == "5.9 s");
  CHECK(human_duration(59'999ms) == "59 s");
  CHECK(human_duration(90s) == "1 min 30 s");
  CHECK(human_duration(125min) == "2 h 5 min");
  CHECK(human_duration(76h) == "3 d 4 h");
}
