// The actor of one exchange that keeps something: messages that wait for their time (x-delayed-message), what it remembers
// of those that passed it (deduplication), or both. Nobody has a look at the messages of any other exchange.
//
// It stands behind a port as that of a queue (queue.hpp), which the routing snapshot has as the exchange's `keeper`: what
// has to wait, or may have passed already, is routed there instead of to queues.
//
// Owns      the messages that wait and what is remembered, which stand in its port and outlive it.
// Started   by the supervisor of its vhost's exchanges, as soon as the exchange is there.
// Receives  publish_batch    from a connection  -> settled: when the message is stored to wait; or when it is in all
//                            queues that it goes to. Of a duplicate, the same is told as of its original
//           arrived          from the committer: what other actors sent here to wait, and the store has by now
//           ask_keeper       from an operator -> the order's answer
//           journal_written, journal_unwritten from the committer
//           queue_removed_now from the vhost: the exchange is gone, and what waits with it
//           finish_queue     from its supervisor, when it is to stop
// Sends     write_batch      to the committer, one at a time, with the copies for the queues: what is due moves there in the
//                            transaction that erases it here, and what is new is remembered in the one that stores it
// Steps     take so many messages that are due, erase so many that an operator cancels; what is left is another's turn.
//
// What passes an exchange that remembers goes into every queue or nowhere: if one of them is full and refuses messages, its
// publisher is told so, nobody has it, and it may be sent again. What the node itself sends on (dead letters, what actors
// send) passes without a look.
#pragma once

#include "actors/queue.hpp"
#include "mailbox/delayed.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace posthorn {

// What an operator sees of a message that waits.
struct waiting_message {
  delayed_id id;
  std::string routing_key, message_id;
  std::uint64_t size = 0;  // of the body, in bytes
};

// An operator's wish, and who is told what came of it, on any thread and exactly once: if the exchange goes meanwhile, that
// it is not there.
struct keeper_order {
  enum class kind : std::uint8_t { list, cancel, cancel_all };

  kind what = kind::list;
  delayed_id from{};                // of a list: those from this one on,
  std::size_t count_max = 0;        // and so many at most
  std::vector<delayed_id> which{};  // to be cancelled
  std::function<void(result<std::vector<waiting_message>>)> on_list{};
  std::function<void(result<std::uint64_t>)> on_cancelled{};  // how many, when it is durable

  keeper_order() = default;
  ~keeper_order();
  keeper_order(const keeper_order&) = delete;
  keeper_order& operator=(const keeper_order&) = delete;
  void answer(result<std::vector<waiting_message>> found);
  void answer(result<std::uint64_t> cancelled);
};

// Makes the port, and tells the supervisor `exchanges` of the vhost to start the actor.
[[nodiscard]] std::shared_ptr<queue_port> add_keeper(node_context& node,
                                                     const std::shared_ptr<vhost_port>& vhost,
                                                     const exchange_definition& exchange,
                                                     const recovered_mailbox& recovered,
                                                     const recovered_keeper& kept);

}  // namespace posthorn
