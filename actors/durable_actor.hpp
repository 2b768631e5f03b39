// A durable actor: the inhabitant of a mailbox who runs the handlers of its kind, one turn for each message.
//
// Its state is what its last turn left, as bytes; the store has it as of the last commit. A turn works on a copy, so that
// one that fails changes nothing.
#pragma once

#include "actors/actor_kind.hpp"
#include "actors/inhabitant.hpp"
#include "actors/queue.hpp"
#include "persist/actor_records.hpp"

namespace posthorn {

[[nodiscard]] std::unique_ptr<inhabitant> make_durable_actor(node_context& node,
                                                             std::shared_ptr<const actor_kind> kind,
                                                             std::string name, queue_port& port,
                                                             actor_state state);

}  // namespace posthorn
