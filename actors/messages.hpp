// What the actors of a node say to each other inside the process. A message belongs to the actor that receives it; the
// headers of the actors say who sends what. All are named types; what crosses to another node will have a schema.
//
// Ownership   messages are moved from sender to receiver; the envelopes in them are shared and never change.
#pragma once

#include "mailbox/ids.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/topology.hpp"

#include <caf/all.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace posthorn {

struct publish_batch;
struct consume;
struct cancel_consumer;
struct fetch_message;
struct answer_held;
struct release_holders;
struct purge_queue;
struct inspect_queue;
struct delete_queue;
struct finish_queue;
struct queue_removed_now;
struct queue_not_removed;
struct journal_written;
struct journal_unwritten;
struct deliver;
struct settled;
struct reply;
struct consumer_cancelled;
struct close_connection;
struct alarm_changed;
struct topology_request;
struct queue_removal;
struct release_owner;
struct topology_written;
struct write_batch;
struct write_topology;
struct commit_now;
struct bury_now;
struct watch_disk;
struct finish_committer;

}  // namespace posthorn

CAF_BEGIN_TYPE_ID_BLOCK(posthorn, first_custom_type_id)
CAF_ADD_TYPE_ID(posthorn, (posthorn::publish_batch))
CAF_ADD_TYPE_ID(posthorn, (posthorn::consume))
CAF_ADD_TYPE_ID(posthorn, (posthorn::cancel_consumer))
CAF_ADD_TYPE_ID(posthorn, (posthorn::fetch_message))
CAF_ADD_TYPE_ID(posthorn, (posthorn::answer_held))
CAF_ADD_TYPE_ID(posthorn, (posthorn::release_holders))
CAF_ADD_TYPE_ID(posthorn, (posthorn::purge_queue))
CAF_ADD_TYPE_ID(posthorn, (posthorn::inspect_queue))
CAF_ADD_TYPE_ID(posthorn, (posthorn::delete_queue))
CAF_ADD_TYPE_ID(posthorn, (posthorn::finish_queue))
CAF_ADD_TYPE_ID(posthorn, (posthorn::queue_removed_now))
CAF_ADD_TYPE_ID(posthorn, (posthorn::queue_not_removed))
CAF_ADD_TYPE_ID(posthorn, (posthorn::journal_written))
CAF_ADD_TYPE_ID(posthorn, (posthorn::journal_unwritten))
CAF_ADD_TYPE_ID(posthorn, (posthorn::deliver))
CAF_ADD_TYPE_ID(posthorn, (posthorn::settled))
CAF_ADD_TYPE_ID(posthorn, (posthorn::reply))
CAF_ADD_TYPE_ID(posthorn, (posthorn::consumer_cancelled))
CAF_ADD_TYPE_ID(posthorn, (posthorn::close_connection))
CAF_ADD_TYPE_ID(posthorn, (posthorn::alarm_changed))
CAF_ADD_TYPE_ID(posthorn, (posthorn::topology_request))
CAF_ADD_TYPE_ID(posthorn, (posthorn::queue_removal))
CAF_ADD_TYPE_ID(posthorn, (posthorn::release_owner))
CAF_ADD_TYPE_ID(posthorn, (posthorn::topology_written))
CAF_ADD_TYPE_ID(posthorn, (posthorn::write_batch))
CAF_ADD_TYPE_ID(posthorn, (posthorn::write_topology))
CAF_ADD_TYPE_ID(posthorn, (posthorn::commit_now))
CAF_ADD_TYPE_ID(posthorn, (posthorn::bury_now))
CAF_ADD_TYPE_ID(posthorn, (posthorn::watch_disk))
CAF_ADD_TYPE_ID(posthorn, (posthorn::finish_committer))
CAF_END_TYPE_ID_BLOCK(posthorn)

#define POSTHORN_LOCAL_MESSAGE(name) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(posthorn::name)
POSTHORN_LOCAL_MESSAGE(publish_batch)
POSTHORN_LOCAL_MESSAGE(consume)
POSTHORN_LOCAL_MESSAGE(cancel_consumer)
POSTHORN_LOCAL_MESSAGE(fetch_message)
POSTHORN_LOCAL_MESSAGE(answer_held)
POSTHORN_LOCAL_MESSAGE(release_holders)
POSTHORN_LOCAL_MESSAGE(purge_queue)
POSTHORN_LOCAL_MESSAGE(inspect_queue)
POSTHORN_LOCAL_MESSAGE(delete_queue)
POSTHORN_LOCAL_MESSAGE(finish_queue)
POSTHORN_LOCAL_MESSAGE(queue_removed_now)
POSTHORN_LOCAL_MESSAGE(queue_not_removed)
POSTHORN_LOCAL_MESSAGE(journal_written)
POSTHORN_LOCAL_MESSAGE(journal_unwritten)
POSTHORN_LOCAL_MESSAGE(deliver)
POSTHORN_LOCAL_MESSAGE(settled)
POSTHORN_LOCAL_MESSAGE(reply)
POSTHORN_LOCAL_MESSAGE(consumer_cancelled)
POSTHORN_LOCAL_MESSAGE(close_connection)
POSTHORN_LOCAL_MESSAGE(alarm_changed)
POSTHORN_LOCAL_MESSAGE(topology_request)
POSTHORN_LOCAL_MESSAGE(queue_removal)
POSTHORN_LOCAL_MESSAGE(release_owner)
POSTHORN_LOCAL_MESSAGE(topology_written)
POSTHORN_LOCAL_MESSAGE(write_batch)
POSTHORN_LOCAL_MESSAGE(write_topology)
POSTHORN_LOCAL_MESSAGE(commit_now)
POSTHORN_LOCAL_MESSAGE(bury_now)
POSTHORN_LOCAL_MESSAGE(watch_disk)
POSTHORN_LOCAL_MESSAGE(finish_committer)
#undef POSTHORN_LOCAL_MESSAGE

namespace posthorn {

// --- handles ----------------------------------------------------------------------------------------------------

using connection_actor =
    caf::typed_actor<caf::result<void>(deliver), caf::result<void>(settled), caf::result<void>(reply),
                     caf::result<void>(consumer_cancelled), caf::result<void>(close_connection),
                     caf::result<void>(alarm_changed)>;

using queue_actor =
    caf::typed_actor<caf::result<void>(publish_batch), caf::result<void>(consume),
                     caf::result<void>(cancel_consumer), caf::result<void>(fetch_message),
                     caf::result<void>(answer_held), caf::result<void>(release_holders),
                     caf::result<void>(purge_queue), caf::result<void>(inspect_queue),
                     caf::result<void>(delete_queue), caf::result<void>(finish_queue),
                     caf::result<void>(queue_removed_now), caf::result<void>(queue_not_removed),
                     caf::result<void>(journal_written), caf::result<void>(journal_unwritten)>;

using vhost_actor = caf::typed_actor<caf::result<void>(topology_request), caf::result<void>(queue_removal),
                                     caf::result<void>(release_owner), caf::result<void>(topology_written)>;

using committer_actor = caf::typed_actor<caf::result<void>(write_batch), caf::result<void>(write_topology),
                                         caf::result<void>(commit_now), caf::result<void>(bury_now),
                                         caf::result<void>(watch_disk), caf::result<void>(finish_committer)>;

// A request carries a token of its asker's, and the answer carries it back. Answers are messages of their own rather
// than CAF responses, so that they keep their order among the deliveries.
using request_token = std::uint64_t;

// --- to a queue -------------------------------------------------------------------------------------------------

struct publish_batch {
  connection_actor from;
  connection_id by{};
  std::vector<arrival> messages;
};
struct consume {
  connection_actor from;
  connection_id by{};
  request_token token = 0;
  consumer_spec consumer;
  bool exclusive = false;
};
struct cancel_consumer {
  connection_actor from;
  request_token token = 0;
  consumer_id consumer{};
};
struct fetch_message {
  connection_actor from;
  connection_id by{};
  request_token token = 0;
  consumer_id holder{};
  bool acknowledges = true;
};
enum class outcome : std::uint8_t {
  acknowledged,
  rejected,  // for good
  returned,  // back to where it stood
};
struct held_answer {
  consumer_id holder{};
  outcome how = outcome::acknowledged;
  std::vector<sequence_range> which;
};
struct credit_grant {
  consumer_id to{};
  std::int64_t bytes = 0;
};
struct answer_held {
  std::vector<held_answer> answers;
  std::vector<credit_grant> grants;  // bytes that left for the consumers' sockets
};
// Their channel is closed: what they hold goes back.
struct release_holders {
  std::vector<consumer_id> holders;
};
struct purge_queue {
  connection_actor from;
  request_token token = 0;
};
struct inspect_queue {
  connection_actor from;
  request_token token = 0;
};
struct delete_queue {
  connection_actor from;
  request_token token = 0;
  bool if_unused = false, if_empty = false;
};
// The node stops: write what is still to be written, then end.
struct finish_queue {};
// The vhost has removed the queue durably: tell everyone, then end.
struct queue_removed_now {};
struct queue_not_removed {
  refusal why;
};
struct journal_written {};
// This part of the batch was not written and will not be; the rest was.
struct journal_unwritten {
  journal_batch batch;
};

// --- to a connection --------------------------------------------------------------------------------------------

struct deliver {
  std::vector<delivery> deliveries;
};
struct settled {
  std::vector<settlement> settlements;
};
struct done {};
struct queue_declared {
  queue_ptr queue;
  bool created = false;
};
struct queue_counts {
  std::uint64_t ready = 0, consumers = 0;
};
struct messages_removed {
  std::uint64_t count = 0;
};
struct fetched {
  std::optional<delivery> message;
  std::uint64_t remaining = 0;
};
struct reply {
  request_token token = 0;
  std::variant<done, refusal, queue_declared, queue_counts, messages_removed, fetched> what;
};
struct consumer_cancelled {
  consumer_id consumer{};
};
struct close_connection {
  std::string reason;
};
// Whether publishers have to wait, and why.
struct alarm_changed {
  bool blocked = false;
  std::string reason;
};

// --- to a vhost -------------------------------------------------------------------------------------------------

struct topology_request {
  connection_actor from;
  request_token token = 0;
  std::variant<declare_exchange, delete_exchange, declare_queue, bind, unbind> command;
};
struct queue_removal {
  queue_actor queue;
  remove_queue command;
};
// The connection is gone, or about to be: its exclusive queues go with it.
struct release_owner {
  connection_actor from;  // null: nobody waits for an answer
  request_token token = 0;
  connection_id owner{};
};
struct topology_written {
  std::optional<error> failed;
};

// --- to the committer -------------------------------------------------------------------------------------------

struct write_batch {
  queue_actor from;
  mailbox_id mailbox{};
  journal_batch batch;
};
struct write_topology {
  vhost_actor from;
  std::string vhost;
  std::vector<topology_change> changes;
};
// To itself: everything that arrived before this is one commit.
struct commit_now {};
struct bury_now {};
struct watch_disk {};
struct finish_committer {};

}  // namespace posthorn
