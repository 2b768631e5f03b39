// A regular expression that came from outside: of a permission or a policy. It is bounded in time and memory.
//
// RabbitMQ has PCRE, which backtracks. Here it is RE2: the time is linear in what is looked at, whatever the
// pattern, and the memory has a limit. That costs some of PCRE's syntax, which is refused with a sentence
// that names it:
//
//   refused    lookahead that is not at the start, lookbehind, backreferences, atomic groups, possessive
//              quantifiers, conditions, recursion, callouts and verbs, the flag x, \h \K \R \N \G \Z, control
//              escapes like \e, more than 1000 repetitions, and {,3}, which is a quantifier for newer
//              versions of PCRE and plain text for older ones
//   matched    lookahead at the start, as in `^(?!amq\.).*`, which many policies have: it is a pattern of its
//   apart      own. Up to eight may follow each other; no `|` may stand beside them
//   rewritten  (?<name>…) to (?P<name>…)
//   different  `$` matches only at the very end, in PCRE also before a line feed there; \s is without the
//              vertical tab. Neither can be seen in the names of queues and exchanges, which have no line
//              feeds
//   the same   a pattern matches anywhere in a name unless it is anchored; names are bytes, so that `.` is
//              one octet, not a letter of several; an empty pattern matches everything (a permission's empty
//              pattern is another matter, see access/permissions.hpp)
//
// Measured on one core at 2.6 GHz: 30 to 80 ns for a name of 17 octets; an answer is therefore not worth a
// cache. `.*` and the empty pattern, which nearly every user has, cost one comparison.
//
// Threads   a plain value; any number of threads may match with it at once.
#pragma once

#include "mailbox/result.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace posthorn {

struct pattern_program;

class pattern {
public:
  // Octets, as in RabbitMQ.
  static constexpr std::size_t length_max = 1024;
  // Bytes that a compiled pattern and its working memory may take, and as much again for each lookahead.
  static constexpr std::size_t memory_max = std::size_t{1} << 20;
  static constexpr std::size_t lookaheads_max = 8;

  // Matches everything.
  pattern() noexcept = default;

  // Refuses with what is wrong, in words that end a sentence: "missing closing parenthesis: (".
  [[nodiscard]] static result<pattern> compile(std::string text);

  // The same for a text that was put together from a checked one and so may be longer.
  [[nodiscard]] static result<pattern> compile_of_any_length(std::string text);

  [[nodiscard]] bool matches(std::string_view name) const;

  // As it was given.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  // `text` as a pattern that matches just it.
  [[nodiscard]] static std::string quote(std::string_view text);

  friend bool operator==(const pattern& a, const pattern& b) noexcept { return a.text_ == b.text_; }

private:
  std::string text_;
  std::shared_ptr<const pattern_program> compiled_;  // null: matches everything
};

}  // namespace posthorn
