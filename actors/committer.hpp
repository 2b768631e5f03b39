// The actor that writes: it makes everything durable that queues and vhosts send, many at a time (group commit).
//
// Owns      the right to write to the store. Nobody else begins a write transaction.
// Runs      on a thread of its own, because a commit waits for the disk.
// Started   by the broker, before any vhost.
// Receives  write_batch     from a queue  -> journal_written when all of it is on disk; journal_unwritten for what
//                                            found no room there
//           write_topology  from a vhost  -> topology_written
//           finish_committer from the broker: commits what came before, then ends
// Sends     commit_now, bury_now, watch_disk to itself
// Stops     the process when the store cannot be trusted any more.
//
// The first write after a commit sends `commit_now` to itself. It stands behind all that arrived while the last commit
// ran, so that all of it is in the next one.
#pragma once

#include "actors/node_context.hpp"

namespace posthorn {

[[nodiscard]] committer_actor spawn_committer(node_context& node);

}  // namespace posthorn
