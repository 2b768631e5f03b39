// A supervisor: the place of its children, and the actor that starts, watches, restarts and stops them.
//
// What is decided stands in actors/supervision.hpp. Here, effects become actors. All supervisors of a node, with their
// children, are its tree; every actor of it has a path, made of the names on the way, such as /vhosts/%2F/queues/orders.
//
// Like the other actors of the node, a supervisor is a place that outlives its actor: when the actor is killed, its
// parent starts another, which finds the children as they are. So no child ends because its supervisor was killed; this
// differs from Erlang, whose children are linked to it.
//
// Owns      its children, by strong handles, and how to start them again.
// Threads   everything here may be called from any thread; starters and stoppers run in the supervisor's actor.
// Errors    a wrong specification is an error at once. A starter throws when it cannot start its child.
#pragma once

#include "actors/supervision.hpp"
#include "actors/worker.hpp"

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

namespace posthorn {

class supervisor;

// A child as a program gives it: its rules, and how it is started and stopped.
struct child_definition {
  child_spec spec;             // its name and its rules
  std::string kind = "actor";  // what it is: "queue", "connection", …
  // Starts it and gives its handle. A null handle means that there is nothing to run (any more), which is no failure.
  std::function<caf::actor()> start;
  // Asks it to end. None: an exit message with the reason `user_shutdown`.
  std::function<void(const caf::actor&)> stop;
  std::function<actor_figures()> figures;  // any thread; none: nobody knows
  // Of one that a dynamic supervisor is given by `add`: false, and it sleeps. It has no actor, and is only listed, until
  // `wake` finds that it is wanted. Any thread; answers at once. None: it starts when it is added.
  std::function<bool()> is_wanted;
  std::shared_ptr<supervisor> as_supervisor;  // instead of `start` and `stop`
  // It has started only when `supervisor::started` says so; meanwhile its `start_deadline` runs.
  bool reports_start = false;
};

// What happened to an actor of the tree.
struct supervision_event {
  std::int64_t at = 0;                     // milliseconds since 1970
  std::string path;                        // whose
  supervision_effects::event_kind kind{};  // what
  failure why;                             // empty of what is no failure
  std::uint32_t restarts = 0;              // how often it has started again by now
  bool of_dynamic = false;                 // one of many children of a dynamic supervisor
};

// One actor of the tree, as an operator sees it.
struct actor_report {
  std::string path;                          // from the root
  std::string kind;                          // "queue", "connection", …
  bool is_supervisor = false;                // then what stands at the end is set
  child_state state = child_state::waiting;  // where it stands
  std::uint32_t restarts = 0;  // how often it has started again after a failure, its own or a sibling's
  std::optional<failure> last_failure;   // none: it never failed
  std::int64_t failed_at = 0;            // of last_failure, in milliseconds since 1970
  std::int64_t since = 0;                // when it came into this state, in milliseconds since 1970
  std::optional<actor_figures> figures;  // mailbox and processing time; none: nobody knows
  child_spec rules;                      // without name
  // of a supervisor
  strategy how{};
  restart_intensity intensity;    // its limit of restarts
  std::size_t children = 0;       // how many there are now
  auto_shutdown shutdown_when{};  // whether it ends with its significant children
};

// '/' and '%' and what a terminal would not show, as %XX: one part of a path.
[[nodiscard]] std::string path_part(std::string_view name);

class supervisor : public std::enable_shared_from_this<supervisor> {
public:
  // Called in a supervisor's actor, for each event.
  using event_sink = std::function<void(const supervision_event&)>;

  // The children come in `children`; those of `spec` are ignored.
  static result<std::shared_ptr<supervisor>> make(caf::actor_system& system, supervisor_spec spec,
                                                  std::vector<child_definition> children, event_sink sink);
  supervisor(const supervisor&) = delete;
  supervisor& operator=(const supervisor&) = delete;

  // As the root of the tree: starts everything. `on_finished` is called once, when it gives up or was shut down.
  void start_as_root(std::function<void(const failure&)> on_finished);
  // Waits for the end of the start of a root. An error when it could not be started.
  result<void> wait_until_started();
  // Stops everything below, in reverse order of its start.
  void shut_down();
  // False: it was not finished after so long.
  bool wait_until_finished(std::chrono::milliseconds patience);

  // Starts one more child, soon. One of the same name that is just ending is waited for.
  void add(child_definition child);
  // One more that runs already.
  void adopt(child_definition child, const caf::actor& running);

  // Ends a child, soon, and forgets it: one of its name may be added again. Nothing happens if there is none.
  void remove(const std::string& name);

  // Somebody has work for a child that sleeps: its `is_wanted` says so by now.
  void wake(const std::string& name);

  // A child that reports its start has started.
  void started(const std::string& name);

  // What an operator may do. `path` is relative to this supervisor: "/vhosts/%2F/queues/orders" from the root.
  // `unreachable`: nothing has this path. One that sleeps is started by both; and then killed, by the first.
  result<void> kill(std::string_view path);
  // Asks it to end, and starts it again; also one that has failed for good.
  result<void> restart(std::string_view path);
  // One actor as it stands now. `unreachable`: nothing has this path.
  [[nodiscard]] result<actor_report> show(std::string_view path) const;
  // Calls `visit` for everything below `path`, parents before children, in the order in which they start; not more
  // than `count_max` children of any one supervisor.
  result<void> walk(std::string_view path, std::size_t count_max,
                    const std::function<void(const actor_report&)>& visit) const;
  // The actor of a path now; null when it does not run.
  [[nodiscard]] caf::actor find(std::string_view path) const;
  // From the root: "/", or "/vhosts/%2F".
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
  struct seat {
    child_definition definition;
    caf::actor handle;
    std::uint64_t incarnation = 0;
    bool overrun_told = false;  // of the handler that it is in; then it stands in overrunning_
    bool restart_wanted = false;
    bool kill_wanted = false;  // as soon as it has an actor
    bool start_waits = false;  // for the end of the one before
    bool removal_wanted = false;
  };
  struct begin_note {};
  struct started_note {
    std::string name;
  };
  struct start_failed_note {
    std::string name;
    failure why;
  };
  struct ended_note {
    std::string name;
    std::uint64_t incarnation = 0;
    failure why;
  };
  struct add_note {
    child_definition child;
    caf::actor running;
  };
  struct remove_note {
    std::string name;
  };
  struct wake_note {
    std::string name;
  };
  struct restart_note {
    std::string name;
  };
  struct overran_note {
    std::string name;
    std::chrono::milliseconds took{0};
  };
  struct shut_down_note {};
  using note = std::variant<begin_note, started_note, start_failed_note, ended_note, add_note, remove_note,
                            wake_note, restart_note, overran_note, shut_down_note>;
  class shell;
  using time_point = supervision::time_point;

  supervisor(caf::actor_system& system, supervisor_spec spec, std::vector<child_definition> children,
             event_sink sink);

  void tell(note n);
  // Makes the actor, over what there is, or anew after it has finished.
  caf::actor start_actor(const std::shared_ptr<supervisor>& parent, const std::string& name);
  void become_root_actor();
  void set_path(const std::string& path);
  void kill_everything();

  // in the actor
  void work(const std::function<void(std::chrono::milliseconds)>& wake_after,
            const std::function<void(const failure&)>& quit);
  void apply(note& n, supervision_effects& fx);
  void carry_out(supervision_effects& fx, const std::function<void(const failure&)>& quit);
  void start_child(const std::string& name);
  void restart_child(const std::string& name, supervision_effects& fx);
  void remove_child(const std::string& name, supervision_effects& fx);
  void watch(const caf::actor& handle, const std::string& name, std::uint64_t incarnation);
  void stop_child(const std::string& name, bool by_force);
  void report_start();
  void know(const child_definition& child);
  // Of handlers that run for `longest` by now, no one runs for longer.
  void look_for_overruns(std::chrono::nanoseconds longest);
  void forget_ended_overruns();
  void find_overruns();
  void report(const supervision_event& event) const noexcept;
  // It was started, and has not finished: whether it has an actor or not.
  [[nodiscard]] bool has_children_to_stop() const;

  [[nodiscard]] actor_report report_on(const child_status& status, const seat* s) const;
  [[nodiscard]] actor_report report_on_itself() const;
  // The supervisor that has the child, and its name; the name is empty when the path is this supervisor itself.
  struct place {
    std::shared_ptr<const supervisor> of;
    std::string name;
  };
  [[nodiscard]] result<place> resolve(std::string_view path) const;

  // fixed after construction, but for the path, which is set when its parent starts it
  caf::actor_system& system_;
  supervisor_spec spec_;
  event_sink sink_;
  std::string path_ = "/";

  mutable std::mutex mutex_;  // guards all that follows; never held while anything foreign is called
  std::optional<supervision> core_;
  std::unordered_map<std::string, std::unique_ptr<seat>> seats_;           // changed in the actor only
  std::unordered_map<std::string, std::deque<add_note>> waiting_for_end_;  // of the one that has their name
  std::deque<note> notes_;
  std::vector<std::pair<std::string, caf::actor>> adopted_;  // to be watched
  std::vector<std::string> ended_;                           // and may be forgotten by the core
  std::vector<std::string> to_revive_;  // supervisors that lost their actor in the middle of something
  std::vector<std::shared_ptr<supervisor>> orphaned_;  // without an actor, and will have none: to be killed
  std::deque<note> refused_;  // for now: children to be added or removed when the core can do it
  std::chrono::milliseconds shortest_limit_{0};  // of a handler of any child; 0: none has one
  std::vector<std::string> overrunning_;         // and were told of
  std::set<std::weak_ptr<supervisor>, std::owner_less<>> below_;  // supervisors; some may be gone
  caf::actor actor_;
  std::weak_ptr<supervisor> parent_;
  std::string name_;
  bool woken_ = false, starting_ = false, finished_ = false, is_root_ = false;
  failure finished_with_;
  std::function<void(const failure&)> on_finished_;
  std::condition_variable start_decided_;
  std::vector<caf::actor> dropped_;  // handles that are given up when nobody holds the lock
};

}  // namespace posthorn
