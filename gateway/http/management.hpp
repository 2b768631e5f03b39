// The whole of what a node answers over HTTP: gateway/http/api.hpp, and, for those who administrate,
// gateway/http/administration.hpp.
//
// Who asks is found out first, without keeping a thread: checking a password takes tens of milliseconds, on a thread of
// its own. What comes after a login may take long, too, and so goes on where `later` runs it.
//
// Threads   the handler is called on the HTTP server's threads; `later` may be called from any thread.
#pragma once

#include "gateway/http/administration.hpp"
#include "gateway/http/api.hpp"
#include "gateway/http/server.hpp"

#include <functional>

namespace posthorn::http {

using run_later = std::function<void(std::function<void()>)>;

// All of them must outlive the handler, and what `later` still has to run.
[[nodiscard]] deferring_handler make_management(const broker_view& broker, actor_tree_view& tree,
                                                alarm_view* alarms, administration& node, run_later later);

// Who may send a large body: administrators, a file of definitions.
[[nodiscard]] body_gate make_body_gate(const broker_view& broker, administration& node, run_later later);

}  // namespace posthorn::http
