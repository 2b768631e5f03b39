// The actor of one queue: moves messages between its mailbox, the journal and the connections of its consumers.
//
// Owns      the mailbox, and who consumes from it, which stand in its port: a killed actor's successor finds them there
//           (actors/worker.hpp). Nobody else touches either.
// Started   by the supervisor of its vhost's queues: with the first message that comes for it (an idle queue that was only
//           declared has no actor and no mailbox: 2.2 KB in all instead of 4.8), or at once if the store held messages of
//           it, which come in as a `recovered_mailbox`, or if it expires by itself.
// Receives  publish_batch    from a connection  -> settled, as each becomes durable or need not
//           consume, cancel_consumer, fetch_message, purge_queue, inspect_queue, delete_queue
//                            from a connection  -> reply, in the order of the requests and among the deliveries
//           answer_held, release_holders from a connection -> nothing
//           journal_written, journal_unwritten from the committer
//           arrived          from the committer: what other actors sent, and the store has by now
//           queue_removed_now, queue_not_removed from the vhost, answering `queue_removal`
//           finish_queue     from its supervisor, when it is to stop
// Sends     deliver          to a connection, never beyond the credit that it gave
//           write_batch      to the committer, one at a time, with the copies of its dead letters for other queues
//           queue_removal    to the vhost: deleted, or auto-deleted by losing its last consumer
// Stops     when it has finished, or was removed.
#pragma once

#include "actors/node_context.hpp"
#include "actors/worker.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace posthorn {

struct queue_port;

// What stands in the port before there is an actor, and never changes.
struct queue_origin {
  node_context& node;
  std::weak_ptr<vhost_port> vhost;  // upward
  std::string name;
  bool auto_delete = false;
};

// What an actor does with what comes to the port, and all that it knows: header worker.hpp. One is behind queues and
// durable actors, another behind streams (stream.hpp).
class mailbox_logic {
public:
  mailbox_logic() = default;
  virtual ~mailbox_logic() = default;
  mailbox_logic(const mailbox_logic&) = delete;
  mailbox_logic& operator=(const mailbox_logic&) = delete;

  virtual void begin(worker_actor::pointer self, bool after_failure) = 0;
  virtual void on(queue_message& message) = 0;
  virtual void discard(queue_message& message) = 0;
  virtual void on_idle() = 0;
  virtual void on_tick(const tick& t) = 0;
  virtual void on_down(const caf::down_msg& down) = 0;
};

// What others see of a stream, beside what they see of every queue: as it was a moment ago. Written by its actor.
struct stream_figures {
  std::atomic<std::uint64_t> segments{0};
  std::atomic<std::uint64_t> first_offset{0}, next_offset{0};  // equal: nothing can be read
  std::atomic<std::uint64_t> lag_max{0};  // offsets that the last of its readers has to go

  // The same for each reader; any thread.
  [[nodiscard]] std::vector<std::uint64_t> lags() const {
    const std::lock_guard guard{mutex_};
    return lags_;
  }
  void set_lags(std::vector<std::uint64_t> now) {
    const std::lock_guard guard{mutex_};
    lags_ = std::move(now);
  }

private:
  mutable std::mutex mutex_;
  std::vector<std::uint64_t> lags_;  // descending; the longest ones
};

// How long messages take, on the average: from when one was handed to whoever handles it until it was done with.
// Written by the mailbox's actor, read by anyone.
class response_time {
public:
  // One took so long. A negative time, by a clock that was set, counts as none.
  void note(std::int64_t nanoseconds) noexcept {
    const auto known = average_.load(std::memory_order_relaxed);
    const auto took = nanoseconds > 0 ? nanoseconds : 1;
    average_.store(known == 0 ? took : known + (took - known) / 8, std::memory_order_relaxed);
  }
  // Moving; 0: none was done with yet.
  [[nodiscard]] std::int64_t nanoseconds() const noexcept { return average_.load(std::memory_order_relaxed); }

private:
  std::atomic<std::int64_t> average_{0};
};

// How a queue is reached, and what others may read of it at any time. Owned by the topology and its copies. A connection
// with an older copy may still send to a removed queue: the port itself then answers, as the queue would have.
struct queue_port final : mailbox_port, std::enable_shared_from_this<queue_port> {
  static constexpr const char* kind = "posthorn.queue";

  queue_port();
  ~queue_port() override;

  // Any thread.
  void post(queue_message message);
  // A place for a message that another actor will store here. Nothing: the mailbox is closed.
  [[nodiscard]] std::optional<sequence> reserve();
  [[nodiscard]] mailbox_logic& logic() noexcept { return *memory; }
  // Of a mailbox that is removed, by its actor. From now on, no place in it is given away; and with the second, the port
  // answers itself, what its actor has not heard included.
  void close_places();
  void close();
  // It gives away no place any more. Any thread.
  [[nodiscard]] bool is_closed();
  // Of a node that is dropped as by a crash: forgets everything. Nobody works on it any more.
  void abandon();

  inbox<queue_message> in;
  actor_status status;
  std::unique_ptr<mailbox_logic> memory;  // its actor's; null before the first one

  // False: there is nothing to do yet, and it has no actor. Changes once, by the first message.
  std::atomic<bool> is_wanted{true};

  // fixed after construction
  std::unique_ptr<const queue_origin> origin;  // what its actor begins with; null of a doorway
  mailbox_id id{};
  bool durable = false;
  bool is_quorum = false;  // its type, which no policy changes
  bool delays = false;     // of an exchange (exchange_keeper.hpp): what comes waits until its time has come
  std::unique_ptr<stream_figures> stream;  // null: it is none
  std::string described;                   // "queue 'q' in vhost '/'"

  std::string path;  // of a durable actor, whose mailbox this is; empty for a queue
  // What comes when a durable actor has gone to sleep is for whoever has its name then. False, and the message is left
  // as it was: there is no such kind of actors in this program. Null for a queue.
  std::function<bool(queue_message&)> elsewhere;

  // The last place that was given to a message, by the queue's actor or by another that stores it here.
  std::atomic<std::uint64_t> last_sequence{0};
  std::mutex places_mutex;     // guards the two below
  std::uint32_t expected = 0;  // places that were given away, and whose messages have not arrived
  bool closed = false;
  // Only a way to an actor (see make_doorway).
  [[nodiscard]] bool is_doorway() const noexcept { return origin == nullptr; }
  // What it has to do, by its arguments and the policies of now. Any thread; never null.
  [[nodiscard]] std::shared_ptr<const mailbox_rules> rules() const noexcept { return rules_.load(); }
  // By its vhost's actor, which then tells its own.
  void set_rules(mailbox_rules rules) { rules_ = std::make_shared<const mailbox_rules>(std::move(rules)); }
  // It refuses messages just now.
  [[nodiscard]] bool is_full() const noexcept;

  std::atomic<std::uint64_t> ready{0}, held{0}, consumers{0};
  std::atomic<std::uint64_t> delayed{0}, dead_waiting{0};  // messages that stand aside: see mailbox.hpp
  std::atomic<std::uint64_t> ready_size{0};                // bytes of bodies
  std::atomic<std::uint64_t> resident{0};                  // bytes of memory for messages
  response_time response;

private:
  void wake();

  std::atomic<std::shared_ptr<const mailbox_rules>> rules_ = std::make_shared<const mailbox_rules>();
};

[[nodiscard]] inline queue_port& port_of(const queue_definition& queue) noexcept {
  return static_cast<queue_port&>(*queue.port);
}

// A way to a durable actor that stays when the actor falls asleep: what is posted here goes to whoever has its name. It
// gives no places.
[[nodiscard]] std::shared_ptr<queue_port> make_doorway(mailbox_id id, const std::string& actor,
                                                       std::function<bool(queue_message&)> elsewhere);

// After a handler was left in the middle, on its thread: the next one starts with nothing left over.
void drop_unfinished_effects();

class inhabitant;
class supervisor;

// The mailbox of a durable actor; `under` is the supervisor of its kind.
struct actor_place {
  mailbox_id id{};
  std::string name, path;
  mailbox_rules rules;
  child_spec supervision;
  bool durable = true;
};
[[nodiscard]] std::shared_ptr<queue_port> add_actor(
    node_context& node, supervisor& under, const actor_place& place, const recovered_mailbox& recovered,
    const std::function<std::unique_ptr<inhabitant>(queue_port&)>& who);

// What is laid down for the queue has changed, perhaps. By its vhost's actor.
void apply_policies_to(const queue_definition& queue, const std::string& vhost, node_context& node);

// Makes the port, and tells the supervisor `queues` to start the actor. Messages may be posted at once. `vhost` outlives
// its queues.
[[nodiscard]] std::shared_ptr<queue_port> add_queue(node_context& node,
                                                    const std::shared_ptr<vhost_port>& vhost,
                                                    const queue_definition& queue,
                                                    const recovered_mailbox& recovered);

}  // namespace posthorn
