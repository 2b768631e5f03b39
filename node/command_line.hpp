// The `posthorn` command: asks a running node, checks a store that no node uses, and loads a broker.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace posthorn {

// The arguments without the program's name. Returns what the process is to end with.
[[nodiscard]] int run_command_line(std::vector<std::string> arguments, std::ostream& out, std::ostream& err);

}  // namespace posthorn
