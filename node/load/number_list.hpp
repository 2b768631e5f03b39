// Reads the numbers of an option that takes more than one.
//
// Threads   pure functions.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

namespace posthorn {

// All of the text must be the number.
template <class Number>
[[nodiscard]] std::optional<Number> number_from(std::string_view text) {
  Number out{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return out;
}

// "a,b" → "a", "b". An empty text is one empty part.
[[nodiscard]] inline std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> out;
  while (true) {
    const auto comma = text.find(',');
    out.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace posthorn
