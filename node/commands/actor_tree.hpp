// The tree of a node's actors, drawn: one line for each, with columns.
//
// Threads   pure functions.
#pragma once

#include "node/commands/terminal.hpp"

#include <boost/json/array.hpp>

#include <string>

namespace posthorn {

// The answer of /api/actors: parents before children. Of a supervisor whose children are not all there, it says how
// many more there are. On a terminal, long names are cut so that a line stays a line.
[[nodiscard]] std::string draw_actor_tree(const boost::json::array& actors, const terminal& on);

}  // namespace posthorn
