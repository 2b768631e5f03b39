#include "mailbox/expiration.hpp"

#include "mailbox/erlang_term.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>

namespace posthorn {

namespace {

constexpr std::uint64_t milliseconds_max = 315'360'000'000;  // ten years

}  // namespace

std::optional<std::string> invalid_expiration(std::string_view expiration) {
  const auto invalid = [&](const std::string& why) {
    return "invalid expiration '" + std::string{expiration} + "': " + why;
  };
  const bool negative = expiration.starts_with('-');
  const bool has_sign = negative || expiration.starts_with('+');
  const auto unsigned_text = expiration.substr(has_sign ? 1 : 0);
  const auto digits =
      unsigned_text.substr(0, std::min(unsigned_text.find_first_not_of("0123456789"), unsigned_text.size()));
  if (digits.empty()) return invalid("no_integer");
  if (digits.size() < unsigned_text.size()) {
    return invalid("{leftover_string," + erlang_string(unsigned_text.substr(digits.size())) + "}");
  }
  // As a number is written that was read: without zeros before it.
  const auto number = digits.substr(std::min(digits.find_first_not_of('0'), digits.size() - 1));
  if (number == "0") return std::nullopt;
  if (negative) return invalid("{value_negative,-" + std::string{number} + "}");
  std::uint64_t value = 0;
  const auto read = std::from_chars(number.data(), number.data() + number.size(), value);
  if (read.ec == std::errc{} && value <= milliseconds_max) return std::nullopt;
  return invalid("{value_too_large," + std::string{number} + "}");
}

}  // namespace posthorn
