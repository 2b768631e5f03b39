#include "access/pattern.hpp"

#include <re2/re2.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace posthorn {

namespace {

using re2::RE2;

// What RE2 says of lookaround and its like is just "invalid perl operator". This walks over the pattern,
// finds what belongs to PCRE only, and says its name; and it rewrites what has another spelling. Whatever
// else is wrong, RE2 finds.
class translation {
public:
  // `offset` is where it stands in what was given.
  explicit translation(std::string_view from, std::size_t offset) : from_(from), offset_(offset) {}

  result<std::string> run() {
    while (at_ < from_.size()) {
      if (auto wrong = step()) return refused(std::move(*wrong));
    }
    return std::move(to_);
  }

private:
  using complaint = std::optional<std::string>;

  [[nodiscard]] bool sees(std::string_view text) const { return from_.substr(at_).starts_with(text); }
  void copy(std::size_t count) {
    to_ += from_.substr(at_, count);
    at_ += std::min(count, from_.size() - at_);
  }
  [[nodiscard]] complaint unsupported(std::string_view what, std::size_t length) const {
    return std::string{what} + " at offset " + std::to_string(offset_ + at_) +
           " cannot be matched in linear time: " + std::string{from_.substr(at_, length)};
  }

  complaint step() {
    switch (from_[at_]) {
      case '\\': return on_escape();
      case '[': return on_class();
      case '(': return on_group();
      case '{': return on_brace();
      case '*':
      case '+':
      case '?': return on_quantifier(1);
      default: copy(1); return std::nullopt;
    }
  }

  complaint on_escape() {
    if (sees("\\Q")) {
      const auto end = from_.find("\\E", at_);
      copy(end == std::string_view::npos ? from_.size() - at_ : end + 2 - at_);
      return std::nullopt;
    }
    if (at_ + 1 < from_.size()) {
      const char next = from_[at_ + 1];
      if ((next >= '1' && next <= '9') || next == 'k' || next == 'g')
        return unsupported("a backreference", 2);
      if (next == 'Z') return "\\Z at offset " + std::to_string(offset_ + at_) + " is not supported; use \\z";
    }
    copy(2);
    return std::nullopt;
  }

  complaint on_class() {
    copy(1);
    if (sees("^")) copy(1);
    if (sees("]")) copy(1);  // the first one is a member
    while (at_ < from_.size() && from_[at_] != ']') {
      if (sees("[:")) {
        const auto end = from_.find(":]", at_);
        copy(end == std::string_view::npos ? 2 : end + 2 - at_);
      } else {
        copy(from_[at_] == '\\' ? 2 : 1);
      }
    }
    copy(1);
    return std::nullopt;
  }

  complaint on_group() {
    if (sees("(*")) return unsupported("a verb", 2);
    if (!sees("(?")) {
      copy(1);
      return std::nullopt;
    }
    if (sees("(?=") || sees("(?!")) return unsupported("lookahead", 3);
    if (sees("(?<=") || sees("(?<!")) return unsupported("lookbehind", 4);
    if (sees("(?>")) return unsupported("an atomic group", 3);
    if (sees("(?(")) return unsupported("a condition", 3);
    if (sees("(?|")) return unsupported("a branch reset", 3);
    if (sees("(?R") || sees("(?&") || sees("(?P>") || sees("(?0")) return unsupported("recursion", 3);
    if (sees("(?P=")) return unsupported("a backreference", 4);
    if (sees("(?C")) return unsupported("a callout", 3);
    if (sees("(?#")) {
      const auto end = from_.find(')', at_);
      if (end == std::string_view::npos)
        return "missing ) after comment at offset " + std::to_string(offset_ + at_);
      at_ = end + 1;
      return std::nullopt;
    }
    if (sees("(?<")) {
      to_ += "(?P<";
      at_ += 3;
      return std::nullopt;
    }
    copy(2);
    return std::nullopt;
  }

  complaint on_brace() {
    if (sees("{,")) {
      const auto end = from_.find_first_not_of("0123456789", at_ + 2);
      if (end != std::string_view::npos && end > at_ + 2 && from_[end] == '}') {
        return "a quantifier without its lower bound at offset " + std::to_string(offset_ + at_) +
               " is ambiguous: write {0" + std::string{from_.substr(at_ + 1, end - at_)};
      }
    }
    // The end of {2} or {2,} or {2,3}: then what follows may make it lazy or possessive.
    const auto end = from_.find_first_not_of("0123456789,", at_ + 1);
    if (end != std::string_view::npos && end > at_ + 1 && from_[end] == '}')
      return on_quantifier(end + 1 - at_);
    copy(1);
    return std::nullopt;
  }

  complaint on_quantifier(std::size_t length) {
    copy(length);
    if (sees("+")) return unsupported("a possessive quantifier", 1);
    if (sees("?")) copy(1);
    return std::nullopt;
  }

  std::string_view from_;
  std::size_t offset_;
  std::size_t at_ = 0;
  std::string to_;
};

// In PCRE's words where it has some.
std::string described(const RE2& compiled) {
  std::string text;
  switch (compiled.error_code()) {
    case RE2::ErrorMissingParen: text = "missing closing parenthesis"; break;
    case RE2::ErrorUnexpectedParen: text = "unmatched closing parenthesis"; break;
    case RE2::ErrorMissingBracket: text = "missing terminating ] for character class"; break;
    case RE2::ErrorRepeatArgument: text = "quantifier does not follow a repeatable item"; break;
    case RE2::ErrorTrailingBackslash: return "\\ at end of pattern";
    case RE2::ErrorPatternTooLarge: return "regular expression is too large";
    default: return compiled.error();
  }
  return text + ": " + compiled.error_arg();
}

// Where the next item begins: after an escape, a quoted run, a class, a comment, or one octet.
std::size_t after_item(std::string_view text, std::size_t at) {
  const auto after = [&](std::string_view end, std::size_t from) {
    const auto found = text.find(end, from);
    return found == std::string_view::npos ? text.size() : found + end.size();
  };
  const auto rest = text.substr(at);
  if (rest.starts_with("\\Q")) return after("\\E", at + 2);
  if (rest.starts_with("\\")) return std::min(at + 2, text.size());
  if (rest.starts_with("(?#")) return after(")", at);
  if (!rest.starts_with("[")) return at + 1;
  ++at;
  if (text.substr(at).starts_with("^")) ++at;
  if (text.substr(at).starts_with("]")) ++at;
  while (at < text.size() && text[at] != ']') {
    if (text.substr(at).starts_with("[:")) {
      at = after(":]", at + 2);
    } else {
      at += text[at] == '\\' ? 2 : 1;
    }
  }
  return std::min(at + 1, text.size());
}

// Where the group ends whose inside begins at `at`; nothing if it does not.
std::optional<std::size_t> end_of_group(std::string_view text, std::size_t at) {
  for (int depth = 1; at < text.size(); at = after_item(text, at)) {
    if (text[at] == '(' && !text.substr(at).starts_with("(?#")) ++depth;
    if (text[at] == ')' && --depth == 0) return at;
  }
  return std::nullopt;
}

bool has_alternatives(std::string_view text) {
  int depth = 0;
  for (std::size_t at = 0; at < text.size(); at = after_item(text, at)) {
    if (text[at] == '(' && !text.substr(at).starts_with("(?#")) ++depth;
    if (text[at] == ')') --depth;
    if (text[at] == '|' && depth == 0) return true;
  }
  return false;
}

result<std::unique_ptr<RE2>> compiled(std::string_view text, std::size_t offset, std::string_view before,
                                      std::string_view after) {
  auto translated = translation{text, offset}.run();
  if (!translated) return translated.error();
  RE2::Options options;
  options.set_encoding(RE2::Options::EncodingLatin1);
  options.set_log_errors(false);  // it would write to the standard error
  options.set_never_capture(true);
  options.set_max_mem(static_cast<std::int64_t>(pattern::memory_max));
  // By itself first: what is put around it must not make a pattern of it.
  auto out = std::make_unique<RE2>(*translated, options);
  if (!out->ok()) return refused(described(*out));
  if (before.empty()) return out;
  out = std::make_unique<RE2>(std::string{before} + *translated + std::string{after}, options);
  if (!out->ok()) return refused(described(*out));
  return out;
}

bool finds(const RE2& what, std::string_view name) {
  return what.Match(re2::StringPiece{name.data(), name.size()}, 0, name.size(), RE2::UNANCHORED, nullptr, 0);
}

bool takes_everything(std::string_view text) {
  return text.empty() || text == ".*" || text == "^" || text == "^.*";
}

}  // namespace

struct pattern_program {
  struct lookahead {
    std::unique_ptr<RE2> what;  // anchored at the start
    bool wanted = false;
  };
  std::vector<lookahead> lookaheads;
  std::unique_ptr<RE2> rest;
};

result<pattern> pattern::compile(std::string text) {
  if (text.size() > length_max) {
    return refused("regular expression must not exceed " + std::to_string(length_max) + " bytes");
  }
  return compile_of_any_length(std::move(text));
}

result<pattern> pattern::compile_of_any_length(std::string text) {
  pattern out;
  if (takes_everything(text)) {
    out.text_ = std::move(text);
    return out;
  }
  auto program = std::make_shared<pattern_program>();
  const std::string_view whole = text;
  std::size_t at = 0;
  if (whole.starts_with("^(?!") || whole.starts_with("^(?=")) {
    at = 1;
    while (whole.substr(at).starts_with("(?!") || whole.substr(at).starts_with("(?=")) {
      const auto inside = at + 3;
      const auto end = end_of_group(whole, inside);
      if (!end) return refused("missing closing parenthesis: " + std::string{whole.substr(at)});
      if (program->lookaheads.size() == lookaheads_max) {
        return refused("more than " + std::to_string(lookaheads_max) + " lookaheads");
      }
      auto what = compiled(whole.substr(inside, *end - inside), inside, "^(?:", ")");
      if (!what) return what.error();
      program->lookaheads.push_back({std::move(*what), whole[inside - 1] == '='});
      at = *end + 1;
    }
    const auto rest = whole.substr(at);
    if (has_alternatives(rest)) {
      return refused(
          "lookahead at offset 1 with | beside it cannot be matched in linear time: put a group around "
          "what follows it");
    }
    if (!rest.empty() && std::string_view{"*+?{"}.find(rest.front()) != std::string_view::npos) {
      return refused("a quantifier of a lookahead at offset " + std::to_string(at) + " is not supported");
    }
  }
  auto rest = at == 0 ? compiled(whole, 0, {}, {}) : compiled(whole.substr(at), at, "^", {});
  if (!rest) return rest.error();
  program->rest = std::move(*rest);
  out.compiled_ = std::move(program);
  out.text_ = std::move(text);
  return out;
}

bool pattern::matches(std::string_view name) const {
  if (compiled_ == nullptr) return true;
  for (const auto& [what, wanted] : compiled_->lookaheads) {
    if (finds(*what, name) != wanted) return false;
  }
  return finds(*compiled_->rest, name);
}

std::string pattern::quote(std::string_view text) { return RE2::QuoteMeta({text.data(), text.size()}); }

}  // namespace posthorn
