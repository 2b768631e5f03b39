// What the terminal that is written to can show.
//
// Threads   plain values.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace posthorn {

struct terminal {
  bool draws_boxes = false;  // │ ├ └ and …: its text is UTF-8
  bool has_colour = false;
  std::size_t columns = 0;  // 0: lines may be as long as they need
};

// Reads a variable of the environment: null when there is none.
using environment_reader = std::function<const char*(const char*)>;

// `columns` is what the terminal says, or 0. Colours need a terminal that is not dumb, and no NO_COLOR; boxes a locale
// of UTF-8, also when the output goes into a pipe.
[[nodiscard]] terminal terminal_from(bool is_terminal, std::size_t columns,
                                     const environment_reader& variable);
[[nodiscard]] terminal terminal_of_standard_output();

// How many characters it takes: octets that go on with a character in UTF-8 take no room.
[[nodiscard]] std::size_t width_of(std::string_view text);
// What would move the cursor or change the colour becomes '?'.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace posthorn
