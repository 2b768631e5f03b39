// The actor of one queue: moves messages between its mailbox, the journal and the connections of its consumers.
//
// Owns      the mailbox, and who consumes from it. Nobody else touches either.
// Started   by its vhost's actor; what the store held of it comes in as a `recovered_mailbox`.
// Receives  publish_batch    from a connection  -> settled, as each becomes durable or need not
//           consume, cancel_consumer, fetch_message, purge_queue, inspect_queue, delete_queue
//                            from a connection  -> reply, in the order of the requests and among the deliveries
//           answer_held, release_holders from a connection -> nothing
//           journal_written, journal_unwritten from the committer
//           queue_removed_now, queue_not_removed from the vhost, answering `queue_removal`
//           finish_queue     from the broker, when the node stops
// Sends     deliver          to a connection, never beyond the credit that it gave
//           write_batch      to the committer, one at a time
//           queue_removal    to the vhost: deleted, or auto-deleted by losing its last consumer
// Stops     when it has finished, or was removed and nobody can reach it any more.
#pragma once

#include "actors/node_context.hpp"

#include <atomic>

namespace posthorn {

// How a queue is reached, and what others may read of it at any time. Owned by the topology and its copies.
struct queue_port final : mailbox_port {
  queue_actor handle;

  std::atomic<std::uint64_t> ready{0}, held{0}, consumers{0};
  std::atomic<std::uint64_t> ready_size{0};  // bytes of bodies
  std::atomic<std::uint64_t> resident{0};    // bytes of memory for messages
};

[[nodiscard]] inline queue_port& port_of(const queue_definition& queue) noexcept {
  return static_cast<queue_port&>(*queue.port);
}

// `vhost` outlives its queues.
[[nodiscard]] std::shared_ptr<queue_port> spawn_queue(node_context& node, const vhost_actor& vhost,
                                                      const queue_definition& queue,
                                                      const std::string& vhost_name,
                                                      const recovered_mailbox& recovered);

}  // namespace posthorn
