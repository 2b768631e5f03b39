// What the actors of a node say to each other inside the process. A message belongs to the actor that receives it; the
// headers of the actors say who sends what. All are named types; what crosses to another node will have a schema.
//
// Ownership   messages are moved from sender to receiver; the envelopes in them are shared and never change.
#pragma once

#include "mailbox/ids.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/stream_arguments.hpp"
#include "mailbox/topology.hpp"
#include "persist/access_table.hpp"
#include "persist/tree_events.hpp"

#include <caf/all.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace posthorn {

struct work;
struct tick;
struct look_around;
struct deliver;
struct settled;
struct reply;
struct consumer_cancelled;
struct close_connection;
struct alarm_changed;

}  // namespace posthorn

CAF_BEGIN_TYPE_ID_BLOCK(posthorn, first_custom_type_id)
CAF_ADD_TYPE_ID(posthorn, (posthorn::work))
CAF_ADD_TYPE_ID(posthorn, (posthorn::tick))
CAF_ADD_TYPE_ID(posthorn, (posthorn::look_around))
CAF_ADD_TYPE_ID(posthorn, (posthorn::deliver))
CAF_ADD_TYPE_ID(posthorn, (posthorn::settled))
CAF_ADD_TYPE_ID(posthorn, (posthorn::reply))
CAF_ADD_TYPE_ID(posthorn, (posthorn::consumer_cancelled))
CAF_ADD_TYPE_ID(posthorn, (posthorn::close_connection))
CAF_ADD_TYPE_ID(posthorn, (posthorn::alarm_changed))
CAF_END_TYPE_ID_BLOCK(posthorn)

#define POSTHORN_LOCAL_MESSAGE(name) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(posthorn::name)
POSTHORN_LOCAL_MESSAGE(work)
POSTHORN_LOCAL_MESSAGE(tick)
POSTHORN_LOCAL_MESSAGE(look_around)
POSTHORN_LOCAL_MESSAGE(deliver)
POSTHORN_LOCAL_MESSAGE(settled)
POSTHORN_LOCAL_MESSAGE(reply)
POSTHORN_LOCAL_MESSAGE(consumer_cancelled)
POSTHORN_LOCAL_MESSAGE(close_connection)
POSTHORN_LOCAL_MESSAGE(alarm_changed)
#undef POSTHORN_LOCAL_MESSAGE

namespace posthorn {

// --- handles ----------------------------------------------------------------------------------------------------

using connection_actor =
    caf::typed_actor<caf::result<void>(deliver), caf::result<void>(settled), caf::result<void>(reply),
                     caf::result<void>(consumer_cancelled), caf::result<void>(close_connection),
                     caf::result<void>(alarm_changed)>;

// An actor whose messages stand in an inbox (actors/inbox.hpp): through CAF it is only told that there are some, and,
// by itself, that time has passed.
using worker_actor = caf::typed_actor<caf::result<void>(work), caf::result<void>(tick)>;

struct work {};
struct tick {
  std::uint64_t number = 0;  // of the timer that was set; an actor ignores those that it has set anew since
};
// To a supervisor.
struct look_around {};

// The places of actors, which outlive them: headers queue.hpp, vhost.hpp, directory.hpp.
struct queue_port;
class vhost_port;
class directory_port;
struct outgoing;

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
  std::shared_ptr<const stream_reading> reading{};  // what only a stream looks at; null: the next messages
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
  rejected,   // for good, as a failed delivery
  returned,   // back to where it stood, as a failed delivery
  discarded,  // for good
  released,  // back to where it stood; only a quorum queue makes a difference between this and `returned` [47]
};
[[nodiscard]] constexpr bool comes_back(outcome how) noexcept {
  return how == outcome::returned || how == outcome::released;
}
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
// Is answered, like a purge of nothing, when what is gone by now is gone from the store, too.
struct await_erased {
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
// To one actor of the mailbox, and not to its successor: write what is still to be written, then end.
struct finish_queue {
  caf::actor_addr who;
};
// The vhost has removed the queue durably: tell everyone, then end. Nobody else may have the port any more.
struct queue_removed_now {
  std::shared_ptr<queue_port> self;
};
struct queue_not_removed {
  refusal why;
};
// Messages from other actors: those that the store has, at the places that they were given; and others.
struct arrived {
  std::vector<loaded_message> stored;
  std::vector<arrival> unstored;
};
// The rules in its port are others.
struct change_rules {};
// An operator's, to an exchange that keeps messages: header exchange_keeper.hpp.
struct keeper_order;
struct ask_keeper {
  std::shared_ptr<keeper_order> order;
};
struct journal_written {};
// This part of the batch was not written and will not be; the rest was.
struct journal_unwritten {
  journal_batch batch;
};

using queue_message =
    std::variant<publish_batch, answer_held, journal_written, journal_unwritten, consume, cancel_consumer,
                 fetch_message, release_holders, purge_queue, await_erased, inspect_queue, delete_queue,
                 finish_queue, queue_removed_now, queue_not_removed, arrived, change_rules, ask_keeper>;

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
// Its queue is gone, or it `took_too_long`: then it goes on being a consumer, which gets nothing until it has answered
// what it was told [54].
struct consumer_cancelled {
  consumer_id consumer{};
  bool took_too_long = false;
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
  std::shared_ptr<queue_port> queue;
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
// Of a file of definitions: exchanges, queues and bindings, in this order. What is there already stays as it is.
struct import_topology {
  std::vector<decltype(topology_request::command)> commands;
  // In the vhost's actor, when all is durable: what was refused, a sentence for each. An error: not all could be made
  // durable.
  std::function<void(result<std::vector<std::string>>)> when_done;
};

// Messages that passed exchanges with a recent history: mailbox/recent_history.hpp.
struct remember {
  struct passage_of {
    std::string exchange;
    envelope_ptr message;
  };
  std::vector<passage_of> passed;
};

// It is being deleted: everything in it goes. The function is called in the vhost's actor, when all is gone durably.
struct empty_vhost {
  std::function<void()> when_empty;
};
// Policies of it have changed: the directory's snapshot has them. Whoever waits for them to be applied hears of it when
// nobody has this any more.
struct apply_policies {
  std::shared_ptr<void> until_applied{};
};

using vhost_message = std::variant<topology_request, queue_removal, release_owner, topology_written, remember,
                                   empty_vhost, apply_policies, import_topology>;

// --- to the committer -------------------------------------------------------------------------------------------

struct write_batch {
  std::shared_ptr<queue_port> from;
  mailbox_id mailbox{};
  journal_batch batch;
  std::shared_ptr<outgoing> with;  // in the same transaction; null: nothing
  // `from` null: nobody is answered, and what finds no room is tried again by the committer.
  std::function<void()> when_written{};  // any thread; may be null
};
struct write_topology {
  std::shared_ptr<vhost_port> from;
  std::vector<topology_change> changes;
};
struct write_access {
  std::shared_ptr<directory_port> from;
  std::vector<access_record> records;
};
// The node stops: commit what came before, then end.
struct finish_committer {};

// For the record; written with the next commit, or a little later.
struct record_event {
  tree_event event;
};

using committer_message =
    std::variant<write_batch, write_topology, write_access, record_event, finish_committer>;

}  // namespace posthorn
