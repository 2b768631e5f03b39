// The actor that writes: it makes everything durable that queues and vhosts send, many at a time (group commit).
//
// Owns      the right to write to the store. Nobody else begins a write transaction.
// Runs      on a thread of its own, because a commit waits for the disk.
// Started   by the root of the tree, before any vhost. What a killed one had not written, its successor writes: writing
//           a batch twice is as good as once.
// Receives  write_batch     from a queue  -> journal_written when all of it is on disk; journal_unwritten for what
//                                            found no room there
//           write_topology  from a vhost  -> topology_written
//           finish_committer from its supervisor: commits what came before, then ends
//           record_event    from the broker: an event of the tree, kept in the store with the next commit
// Stops     the process when the store cannot be trusted any more.
//
// All that arrived while the last commit ran is in the next one.
#pragma once

#include "actors/node_context.hpp"
#include "actors/supervisor.hpp"

namespace posthorn {

[[nodiscard]] child_definition committer_child(node_context& node);

}  // namespace posthorn
