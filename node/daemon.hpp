// The command line of posthornd.
#pragma once

#include "actors/node_context.hpp"

namespace posthorn {

// Returns what the process is to end with. The faults are for test programs; posthornd itself has none.
[[nodiscard]] int run_daemon(int argc, const char* const* argv, const fault_plan& faults);

}  // namespace posthorn
