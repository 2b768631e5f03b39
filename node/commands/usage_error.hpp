// What to tell somebody whose command line `posthorn` cannot make sense of: which word is wrong, what may have been meant,
// and where the right ones are listed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace posthorn {

// The one of these that is written almost like it: one slip of the finger for every three letters, two swapped letters
// being one. Empty: none is.
[[nodiscard]] std::string_view closest_word(std::string_view written, const std::vector<std::string>& known);

// One line, with its end. `app` has tried to parse the command line, and failed with `failure`.
[[nodiscard]] std::string usage_error(const CLI::App& app, const CLI::ParseError& failure);

}  // namespace posthorn
