// The actor of one queue of the type `stream`: moves messages between its log, the journal and the connections of its
// readers. It stands behind the same port as that of a queue (queue.hpp), is started in the same way, and receives the
// same messages.
//
// Owns      the log, and who reads it, which stand in its port and outlive it.
// Receives  what a queue's actor does. A stream has no purge and gives no single messages: who asks is refused [55].
//           Acknowledged, rejected and returned are the same to it.
// Sends     deliver          to a connection, never beyond its prefetch and the credit that it gave
//           write_batch      to the committer, one at a time; there are no dead letters
//           queue_removal    to the vhost: deleted
// Steps     one handler reads a few chunks of the store at most, of a megabyte each; what is left is another's turn.
#pragma once

#include "actors/queue.hpp"

#include <memory>

namespace posthorn {

// `port` has the rules of a stream, and outlives it.
[[nodiscard]] std::unique_ptr<mailbox_logic> make_stream_logic(queue_port& port,
                                                               const recovered_mailbox& recovered);

}  // namespace posthorn
