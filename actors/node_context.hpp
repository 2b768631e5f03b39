// What the actors of one node share. Made by the broker before the first actor, and outlives the last.
//
// Threads   everything here may be used from any thread.
#pragma once

#include "actors/messages.hpp"
#include "actors/supervision.hpp"
#include "actors/worker.hpp"
#include "mailbox/mailbox.hpp"
#include "persist/store.hpp"

#include <caf/telemetry/counter.hpp>
#include <caf/telemetry/histogram.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>

namespace posthorn {

// Deliberate defects, by which the crash tests prove that they notice. The shipped program has no way to set them.
struct fault_plan {
  bool confirm_before_commit = false;
  bool skip_fsync = false;
  bool slow_commits = false;  // two seconds pass before each
  bool split_turn = false;    // state and acknowledgement in one transaction, what was sent in the next
  std::string crash_at{};     // one of `fault_points`: the process ends there, when it comes there for the
  unsigned crash_on = 1;      // so-manieth time
};

// In the order in which a publish to a durable actor and the turn that it leads to pass them.
inline constexpr std::string_view fault_points[] = {
    "publish.received",         // the mailbox's actor has it, the mailbox does not
    "publish.accepted",         // the mailbox has it
    "batch.sent",               // the committer has the batch
    "commit.begun",             // nothing is written
    "commit.topology_written",  // inside of the transaction
    "commit.messages_written",
    "commit.actors_written",
    "commit.all_written",
    "commit.done",         // it is on disk, and nobody knows
    "commit.handed_over",  // the receivers of what was sent have heard, the sender has not
    "commit.answered",     // the sender's mailbox has heard
    "turn.taken",          // before the handler
    "turn.handled",        // after it
    "turn.finished",       // state and sent messages wait for the next batch
    "arrived",             // a message of another actor stands in the mailbox
};

struct node_context;

struct node_counters {
  explicit node_counters(caf::actor_system& system);

  caf::telemetry::int_counter* published;  // messages that reached a queue, once for each queue
  caf::telemetry::int_counter* delivered;
  caf::telemetry::int_counter* acknowledged;
  caf::telemetry::int_counter* confirmed;      // publishes answered
  caf::telemetry::int_counter* dead_lettered;  // messages that a queue gave up
  caf::telemetry::int_counter* consumer_timeouts;
  caf::telemetry::int_counter* dead_letter_retries;  // found no way, and were kept to be tried again
  caf::telemetry::int_counter* unroutable;           // publishes that reached no queue
  caf::telemetry::int_counter* deduplicated;         // publishes that an exchange had seen before
  caf::telemetry::int_counter* connections_opened;
  caf::telemetry::int_counter* connections_closed;
  caf::telemetry::int_counter* commits;
  caf::telemetry::int_counter* commit_failures;
  caf::telemetry::int_counter* messages_written;
  caf::telemetry::int_counter* bytes_written;
  caf::telemetry::dbl_histogram* commit_seconds;
  caf::telemetry::int_counter* actor_events[8];  // by supervision_effects::event_kind

  void count(supervision_effects::event_kind kind) noexcept {
    actor_events[static_cast<std::size_t>(kind)]->inc();
  }
};

struct supervision_event;
class simulation;
class actor_house;
class committer_logic;

// Where the committer's work stands.
struct committer_port {
  static constexpr const char* kind = "posthorn.committer";

  explicit committer_port(node_context& node);
  ~committer_port();
  void post(committer_message message) { (void)in.post(std::move(message)); }
  [[nodiscard]] committer_logic& logic() noexcept { return *memory; }

  inbox<committer_message> in;
  actor_status status;
  std::unique_ptr<committer_logic> memory;  // its actor's
};

struct node_context {
  explicit node_context(caf::actor_system& s, store& st) : system{s}, journal{st}, counters{s} {}

  caf::actor_system& system;
  store& journal;
  node_counters counters;
  fault_plan faults;
  mailbox_limits limits;                  // resident_max is for all mailboxes together
  std::atomic<std::int64_t> resident{0};  // bytes of memory that messages take
  std::uint64_t disk_free_min = 0;        // bytes
  std::atomic<bool> disk_low{false};
  std::shared_ptr<committer_port> journal_port;
  // More than one mailbox writes, or a vhost does: each hands over less at a time, so that none waits long for another's
  // commit. The committer says so.
  std::atomic<bool> journal_shared{false};
  // Any thread: to the committer.
  void to_journal(committer_message message) { journal_port->post(std::move(message)); }

  // Who may do what, and what is laid down for queues: header directory.hpp. Fixed before the first actor.
  std::shared_ptr<directory_port> directory;

  // Of durable actors: where their messages are routed, and where they live.
  std::weak_ptr<vhost_port> actors_vhost;
  std::shared_ptr<actor_house> house;
  std::function<void()> on_reminders;  // some were set or cancelled; in the committer

  // What befalls an actor of the tree; called in supervisors' actors.
  std::function<void(const supervision_event&)> on_supervision_event;
  // How often the node's own actors may fail before the node gives up and starts again from disk. Killing them as fast
  // as an operator can is not often.
  static constexpr restart_intensity patience{1000, std::chrono::seconds{10}};

  // Milliseconds since 1970. A test may give it another clock, before the first actor.
  std::function<std::int64_t()> clock;
  [[nodiscard]] std::int64_t now() const {
    if (clock) return clock();
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  // The last id of its kind that was given out. Those of consumers and connections need not survive a restart.
  std::atomic<std::uint64_t> last_event{0};  // of the record of the tree; the committer's
  std::atomic<std::uint64_t> last_mailbox{0}, last_binding{0}, last_connection{0}, last_consumer{0};
  template <class Id>
  [[nodiscard]] static Id next_id(std::atomic<std::uint64_t>& last) noexcept {
    return {last.fetch_add(1, std::memory_order_relaxed) + 1};
  }

  // For exchanges that choose by chance: see passage.
  std::atomic<std::uint64_t> last_chance{0};
  [[nodiscard]] std::uint64_t next_chance() noexcept {
    return last_chance.fetch_add(1, std::memory_order_relaxed);
  }

  // A point at which tests end the process; or only this node, by an exception that its actor does not catch.
  void reached(std::string_view point) {
    if (faults.crash_at.empty() && simulated == nullptr) [[likely]]
      return;
    at_fault_point(point);
  }
  void at_fault_point(std::string_view point);
  std::atomic<unsigned> times_reached{0};

  // Of a test's node: everything runs on the thread that drives it, in virtual time. Null otherwise.
  simulation* simulated = nullptr;

  // Logs one line; any thread.
  enum class severity : std::uint8_t { debug, info, warning, error };
  std::function<void(severity, const std::string&)> log;
  // The store cannot be trusted any more: logs it and ends the process. Does not return.
  std::function<void(const std::string&)> on_fatal;
  // The disk has become low, or is no longer.
  std::function<void(bool)> on_disk_low;
  // Once a second, in the committer, so that it must not take long. May be none.
  std::function<void()> on_watch;
};

}  // namespace posthorn
