// One node, from its settings to its end: the store, the broker, the doors to it, the signals.
#pragma once

#include "actors/node_context.hpp"
#include "node/settings.hpp"

#include <functional>

namespace posthorn {

// Reads the settings again, as on SIGHUP.
using settings_reader = std::function<result<effective_settings>()>;

// Returns what the process is to end with, once a signal ended the node or it could not start; then it has said why,
// in one sentence, on standard error. Installs signal handlers, so it is called once in a process.
//
//   SIGTERM, SIGINT   stop: no new connections, clients are told, what is under way is finished; at most 5 s
//   the same again    end at once; what was confirmed is safe
//   SIGHUP            read the settings again, and apply those that can change while the node runs
[[nodiscard]] int run_node(const settings& chosen, const settings_reader& read_again,
                           const fault_plan& faults);

}  // namespace posthorn
