#include "access/pattern.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <random>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

// What is wrong with a pattern; empty: nothing.
std::string complaint(std::string text) {
  const auto compiled = pattern::compile(std::move(text));
  return compiled ? "" : compiled.error().text;
}

bool matches(std::string text, std::string_view name) {
  const auto compiled = pattern::compile(text);
  INFO(text);
  REQUIRE(compiled.has_value());
  CHECK(compiled->text() == text);
  return compiled->matches(name);
}

}  // namespace

TEST_CASE("a pattern matches anywhere in a name unless it is anchored", "[access]") {
  CHECK(matches("b", "abc"));
  CHECK_FALSE(matches("^b", "abc"));
  CHECK(matches("^a.*c$", "abc"));
  CHECK_FALSE(matches("^a$", "abc"));
  CHECK(matches("^(orders|amq\\.gen.*)$", "amq.gen-x"));
  CHECK_FALSE(matches("^(orders|amq\\.gen.*)$", "amqXgen-x"));
}

TEST_CASE("an empty pattern and those that take everything match every name", "[access]") {
  for (const auto* text : {"", ".*", "^", "^.*"}) {
    CHECK(matches(text, ""));
    CHECK(matches(text, "anything at all"));
    CHECK(matches(text, std::string_view{"\0\xff\n", 3}));
  }
  CHECK(pattern{}.matches("x"));
  CHECK_FALSE(matches("^$", "x"));
  CHECK(matches("^$", ""));
}

// Each of these was given to RabbitMQ 4.3.6, too, and matched.
TEST_CASE("what PCRE and RE2 have in common means the same", "[access]") {
  CHECK(matches("^{client_id}$", "{client_id}"));
  CHECK(matches("^\\Qx-y\\E$", "x-y"));
  CHECK(matches("^\\x61$", "a"));
  CHECK(matches("(?i)^A$", "a"));
  CHECK(matches("^(?<n>a)$", "a"));  // spelled another way in RE2
  CHECK(matches("^(?P<n>a)$", "a"));
  CHECK(matches("^]$", "]"));
  CHECK(matches("^[a]]$", "a]"));
  CHECK(matches("^[]a]+$", "a]"));
  CHECK(matches("^\\p{L}$", "a"));
  CHECK(matches("^a{$", "a{"));
  CHECK(matches("^\\w+$", "a_b"));
  CHECK(matches("^\\-\\_$", "-_"));
  CHECK(matches("^a(?#a comment)b$", "ab"));
  CHECK(matches("^[+*?{]+?$", "+*"));
  CHECK(matches("^[[:digit:]a]+$", "1a"));
  CHECK(matches("^a{2}?$", "aa"));
}

// The matches are those of RabbitMQ 4.3.6.
TEST_CASE("a lookahead at the start is a pattern of its own", "[access]") {
  CHECK(matches("^(?!amq\\.).*", "orders"));
  CHECK(matches("^(?!amq\\.).*", ""));
  CHECK_FALSE(matches("^(?!amq\\.).*", "amq.gen-x"));
  CHECK(matches("^(?!amq\\.).*", "x.amq."));
  CHECK(matches("^(?!a|b)(?!.*z$).y", "cy"));
  CHECK_FALSE(matches("^(?!a|b)(?!.*z$).y", "by"));
  CHECK_FALSE(matches("^(?!a|b)(?!.*z$).y", "cyz"));
  CHECK_FALSE(matches("^(?!a|b)(?!.*z$).y", "xcy"));
  CHECK(matches("^(?=.*z)a", "abz"));
  CHECK_FALSE(matches("^(?=.*z)a", "ab"));
  CHECK(matches("^(?![)])(a|b)$", "a"));
  CHECK(matches("^(?!\\Q)\\E)a", "a"));
  CHECK(matches("^(?!(a|b)c)[a-z]+$", "ad"));
  CHECK_FALSE(matches("^(?!(a|b)c)[a-z]+$", "bc"));
  CHECK_FALSE(matches("^(?!)a", "a"));
  CHECK(complaint("^(?!a)b|c") ==
        "lookahead at offset 1 with | beside it cannot be matched in linear time: put a group around what "
        "follows it");
  CHECK(complaint("^(?!a)[|]\\|(b|c)").empty());
  CHECK(complaint("^(?!a)*b") == "a quantifier of a lookahead at offset 6 is not supported");
  CHECK(complaint("^(?!a") == "missing closing parenthesis: (?!a");
  CHECK(complaint("^(?!a))b") == "unmatched closing parenthesis: )b");
  std::string many = "^";
  for (std::size_t i = 0; i < pattern::lookaheads_max; ++i) many += "(?!b)";
  CHECK(complaint(many + "a").empty());
  CHECK(complaint(many + "(?!b)a") == "more than 8 lookaheads");
}

TEST_CASE("names are octets", "[access]") {
  CHECK_FALSE(matches("^.$", "\xc3\xa9"));
  CHECK(matches("^..$", "\xc3\xa9"));
  CHECK(matches("^\xc3\xa9$", "\xc3\xa9"));
  CHECK(matches("^\xff", "\xff\xfe"));  // no UTF-8 at all
}

TEST_CASE("what cannot be matched in linear time is refused by its name", "[access]") {
  CHECK(complaint("a(?!b)") == "lookahead at offset 1 cannot be matched in linear time: (?!");
  CHECK(complaint("(?!amq)") == "lookahead at offset 0 cannot be matched in linear time: (?!");
  CHECK(complaint("^(?!a(?=b))c") == "lookahead at offset 5 cannot be matched in linear time: (?=");
  CHECK(complaint("^(?!a)b(?=c)") == "lookahead at offset 7 cannot be matched in linear time: (?=");
  CHECK(complaint("a(?=b)") == "lookahead at offset 1 cannot be matched in linear time: (?=");
  CHECK(complaint("(?<=a)b") == "lookbehind at offset 0 cannot be matched in linear time: (?<=");
  CHECK(complaint("(?<!a)b") == "lookbehind at offset 0 cannot be matched in linear time: (?<!");
  CHECK(complaint("(a)\\1") == "a backreference at offset 3 cannot be matched in linear time: \\1");
  CHECK(complaint("(?>a)") == "an atomic group at offset 0 cannot be matched in linear time: (?>");
  CHECK(complaint("a++") == "a possessive quantifier at offset 2 cannot be matched in linear time: +");
  CHECK(complaint("a{2}+") == "a possessive quantifier at offset 4 cannot be matched in linear time: +");
  CHECK(complaint("(?(1)a|b)") == "a condition at offset 0 cannot be matched in linear time: (?(");
  CHECK(complaint("(?R)") == "recursion at offset 0 cannot be matched in linear time: (?R");
  CHECK(complaint("(*COMMIT)") == "a verb at offset 0 cannot be matched in linear time: (*");
  CHECK(complaint("a\\Z") == "\\Z at offset 1 is not supported; use \\z");
  CHECK(complaint("^a{,3}$") == "a quantifier without its lower bound at offset 2 is ambiguous: write {0,3}");
  CHECK(complaint("\\h") == "invalid escape sequence: \\h");
  // Not what they look like.
  CHECK(complaint("[(?=]").empty());
  CHECK(complaint("[](?=]").empty());  // the first ] is a member
  CHECK(complaint("[^](?=]").empty());
  CHECK(complaint("\\(?=").empty());
  CHECK(complaint("\\Q(?=x)\\1\\E").empty());
  CHECK(complaint("a?+").starts_with("a possessive quantifier"));
  CHECK(complaint("a+?").empty());
}

TEST_CASE("what is wrong for PCRE is wrong here, in its words", "[access]") {
  CHECK(complaint("(") == "missing closing parenthesis: (");
  CHECK(complaint(")") == "unmatched closing parenthesis: )");
  CHECK(complaint("[a") == "missing terminating ] for character class: [a");
  CHECK(complaint("*a") == "quantifier does not follow a repeatable item: *");
  CHECK(complaint("a\\") == "\\ at end of pattern");
  CHECK(complaint("a{2,1}") == "invalid repetition size: {2,1}");
  CHECK(complaint("(?#x") == "missing ) after comment at offset 0");
}

TEST_CASE("a pattern has a bound in length, memory and time", "[access]") {
  CHECK(complaint(std::string(1024, 'a')).empty());
  CHECK(complaint(std::string(1025, 'a')) == "regular expression must not exceed 1024 bytes");
  CHECK(complaint("a{1001}") == "invalid repetition size: {1001}");
  CHECK_FALSE(complaint("((((a{10}){10}){10}){10})").empty());
  std::string big;
  while (big.size() + 7 <= pattern::length_max) big += "a{999}b";
  CHECK(complaint(big) == "regular expression is too large");

  // For PCRE, this takes exponential time; so bad that RabbitMQ gives up and says "no match".
  const std::string name(254, 'a');
  const auto start = std::chrono::steady_clock::now();
  CHECK_FALSE(matches("^(a+)+$", name + "b"));
  CHECK(matches("^(a|a)*(a|a)*(a|a)*$", name));
  CHECK_FALSE(matches("(.*a.{12}){4}x", name));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds{5});
}

TEST_CASE("quoted, any text matches just itself", "[access]") {
  std::mt19937 random{7};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (auto i = random() % 12; i > 0; --i) text += static_cast<char>(random() % 256);
    const auto compiled = pattern::compile("^" + pattern::quote(text) + "$");
    INFO(text);
    REQUIRE(compiled.has_value());
    CHECK(compiled->matches(text));
    CHECK_FALSE(compiled->matches(text + "x"));
  }
}

TEST_CASE("any octets are a pattern or are refused", "[access]") {
  std::mt19937 random{11};
  const std::vector<std::string> pieces = {"(", ")",  "[",    "]",   "{",   "}",  "?",  "*",
                                           "+", "\\", "^",    "$",   "|",   ".",  "a",  "-",
                                           ",", "1",  "^(?!", "\\Q", "\\E", "[:", ":]", "(?"};
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (auto i = random() % 10; i > 0; --i) {
      text += random() % 8 == 0 ? std::string(1, static_cast<char>(random() % 256))
                                : pieces[random() % pieces.size()];
    }
    const auto compiled = pattern::compile(text);
    if (compiled) {
      ++accepted;
      static_cast<void>(compiled->matches("a[]{}1-"));
    } else {
      CHECK_FALSE(compiled.error().text.empty());
    }
  }
  CHECK(accepted > 1000);
  CHECK(accepted < 19'000);
}
