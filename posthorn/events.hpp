// What befalls the actors of the tree: started, failed, restarted, escalated, stopped, start_failed, gave_up, overran.
//
//   auto subscription = node.on_event(
//       [](const posthorn::event& e) { std::cerr << e.path << ' ' << to_string(e.kind) << ' ' << e.why.reason << '\n'; },
//       {.below = "/user", .kinds = {posthorn::event_kind::failed, posthorn::event_kind::escalated}});
//
// See actors/event_bus.hpp for who calls when, and docs/supervision.md for what the kinds mean.
//
// Ownership   keep the subscription: its end is the end of the events. It may outlive the node.
// Threads     the callback has a thread of its own. It may call the node, and take its time; what does not fit into its
//             queue meanwhile is dropped, and `event::dropped_before` says how much.
// Errors      an exception of the callback is logged, and the next event comes as usual.
#pragma once

#include "actors/event_bus.hpp"
