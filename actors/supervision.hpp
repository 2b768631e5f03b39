// What a supervisor decides: when its children start, stop and start again. Erlang/OTP's `supervisor`, as a value.
//
// Events go in, with the time; effects come out, which the supervisor's actor carries out in order. The same spec,
// seed and events give the same effects. A child is known here by its name alone.
//
// A child's states (in a group, which is all or the rest of the children of one_for_all or rest_for_one, a child
// that is to start again is `waiting` for its turn):
//
//   waiting --start_child--> starting --started--> running --ended--> backing_off --on_time--> starting
//      running, starting --stop_child, kill_child--> stopping --ended--> waiting, stopped, or forgotten
//      running --ended--> stopped (it was its own wish), failed (it is not tried again), or forgotten
//   asleep --wake_child--> starting   (a dynamic supervisor's child that nobody needs yet)
//
// Where OTP waits inside one call, here other events arrive in between. What differs from OTP for that reason:
//   1. While a group starts or stops, add_child, terminate_child and restart_child are refused as `overloaded`:
//      OTP would have left them in its mailbox. Ask again after the next event.
//   2. A child that fails while its group starts makes the group start again at once; OTP starts the rest first.
//   3. During a back-off the failed child's group stands still, already stopped.
//
// Owns      names, rules, and the history of restarts; a child at rest takes less than 200 bytes and its name.
// Threads   none: it belongs to one actor. Copying is not possible, moving is.
// Costs     every event O(log n) for one_for_one and dynamic; a group's restart is linear in the group.
// Errors    what an operator may do wrong is a `result`; an event about an unknown child is late, and ignored.
#pragma once

#include "mailbox/result.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn {

// Who starts again with a child that failed, as in Erlang/OTP.
enum class strategy : std::uint8_t {
  one_for_one,   // only the failed child starts again
  one_for_all,   // all others are stopped, and all start again
  rest_for_one,  // those that were started after the failed one are stopped, and start again with it
  dynamic,       // OTP's simple_one_for_one: children come at run time, and are forgotten when they end
};
// When a child that ended is started again, as in Erlang/OTP.
enum class restart_kind : std::uint8_t {
  permanent,  // always restarted
  transient,  // restarted unless it ended as `normal` or `shutdown`
  temporary,  // never restarted, not even with its siblings
};
// Whether a supervisor ends with its significant children: with any of them, or with the last.
enum class auto_shutdown : std::uint8_t { never, any_significant, all_significant };
// What is to be done about a failure.
enum class directive : std::uint8_t {
  restart,  // do what the restart kind says
  resume,   // nothing happened; of a child that has already ended it means restart: nothing is left to resume
  stop,     // the child stays `failed`, whatever its restart kind
  escalate,  // the supervisor itself fails
};
// How a child ended, or failed to.
enum class exit_kind : std::uint8_t {
  normal,  // its work is done. As an answer to start_child: OTP's `ignore`, there is nothing to run
  shutdown,
  error,
  exception,
  killed,
  start_failed,
  start_timeout,
  overrun,
};

// As they are written here: "one_for_one".
[[nodiscard]] std::string_view to_string(strategy) noexcept;
[[nodiscard]] std::string_view to_string(restart_kind) noexcept;   // the same
[[nodiscard]] std::string_view to_string(auto_shutdown) noexcept;  // the same
[[nodiscard]] std::string_view to_string(directive) noexcept;      // the same
[[nodiscard]] std::string_view to_string(exit_kind) noexcept;      // the same

// How and why a child, or the supervisor, ended.
struct failure {
  exit_kind kind = exit_kind::normal;  // how
  std::string reason;                  // why: a sentence, empty for `normal`

  // Everything but `normal` and `shutdown`.
  [[nodiscard]] bool abnormal() const noexcept {
    return kind != exit_kind::normal && kind != exit_kind::shutdown;
  }
  friend bool operator==(const failure&, const failure&) = default;
};

// How a child is stopped: killed at once, or asked and killed when `time` is over, or asked and waited for.
struct shutdown_rule {
  // At once; asked, and killed when the time is over; asked, and waited for without end.
  enum class how : std::uint8_t { brutal_kill, timeout, infinity };
  how way = how::timeout;                // which of them
  std::chrono::milliseconds time{5000};  // for `timeout` only

  // Killed at once.
  static constexpr shutdown_rule brutal_kill() { return {how::brutal_kill, {}}; }
  // Asked to end, and killed when it has not after so long.
  static constexpr shutdown_rule within(std::chrono::milliseconds t) { return {how::timeout, t}; }
  // Asked to end, and waited for.
  static constexpr shutdown_rule infinity() { return {how::infinity, {}}; }
  friend bool operator==(const shutdown_rule&, const shutdown_rule&) = default;
};

// More than `restarts` within `period` are too many. One exactly as old as the period still counts, as in OTP.
struct restart_intensity {
  std::uint32_t restarts = 1;              // how many are still allowed
  std::chrono::milliseconds period{5000};  // and within which time
  friend bool operator==(const restart_intensity&, const restart_intensity&) = default;
};

// How long a failed child waits: min(maximum, minimum * 2^n) * (1 + jitter * random), n its failures in a row.
struct backoff {
  std::chrono::milliseconds minimum{0};      // 0: it starts again at once
  std::chrono::milliseconds maximum{0};      // the longest wait, before the jitter
  double jitter = 0.2;                       // 0 to 1
  std::chrono::milliseconds reset_after{0};  // n is 0 again when it ran for so long; 0: as long as `maximum`
  friend bool operator==(const backoff&, const backoff&) = default;
};

// What to do about a failure, asked before the restart kind is. Copies share the function, and are equal.
class decider {
public:
  decider() = default;
  // None: every failure means `directive::restart`.
  decider(std::nullptr_t) {}
  // `decide` is called as `directive(const failure&)`, in the supervisor's actor.
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, decider> &&
           std::is_invocable_r_v<directive, const F&, const failure&>) decider(F decide)
      : decide_{std::make_shared<const std::function<directive(const failure&)>>(std::move(decide))} {}

  // Whether there is one.
  explicit operator bool() const noexcept { return decide_ != nullptr && *decide_ != nullptr; }
  // What to do about this failure; without a decider, to restart.
  [[nodiscard]] directive operator()(const failure& why) const {
    return *this ? (*decide_)(why) : directive::restart;
  }
  friend bool operator==(const decider&, const decider&) = default;

private:
  std::shared_ptr<const std::function<directive(const failure&)>> decide_;
};

// One child. Specs that differ in nothing but the name share their memory.
struct child_spec {
  std::string name;                                // one part of its path: not empty, without '/'
  restart_kind restart = restart_kind::permanent;  // when it is started again
  std::optional<shutdown_rule> shutdown{};         // none: 5 s for a worker, infinity for a supervisor
  bool is_supervisor = false;                      // one is waited for as long as it takes to stop
  bool significant = false;                        // see auto_shutdown
  std::chrono::milliseconds start_deadline{0};     // 0: none. A child that has not started by then is killed
  std::chrono::milliseconds handler_limit{0};  // 0: none. Not looked at here, only kept for the actor's shell
  backoff back_off{};                          // how long it waits before it starts again
  decider decide{};                            // asked first about each failure
  std::optional<restart_intensity>
      budget{};  // its own, instead of the supervisor's. Over it, it is given up alone
  friend bool operator==(const child_spec&, const child_spec&) = default;
};

// A supervisor: its rules and, from top to bottom in the order in which they start, its children.
struct supervisor_spec {
  strategy how = strategy::one_for_one;                // who starts again with a failed child
  restart_intensity intensity{};                       // more restarts than this, and it fails itself
  auto_shutdown shutdown_when = auto_shutdown::never;  // whether it ends with its significant children
  std::vector<child_spec> children{};                  // none for `dynamic`
  std::size_t children_max = 1'000'000;                // more are refused as `overloaded`
};

// Where a child stands: see the picture at the top.
enum class child_state : std::uint8_t {
  waiting,      // will start when its turn comes
  starting,     // start_child is not answered yet
  running,      //
  backing_off,  // failed, starts again when its delay is over
  stopping,     // was asked to end, or killed, and is not gone yet
  stopped,      // ended by its own or an operator's wish: restart_child starts it
  failed,       // ended by a failure after which it is not restarted: restart_child starts it
  asleep,       // there is nothing for it to do yet, and nothing of it runs: wake_child starts it
};
// As it is written here: "backing_off".
[[nodiscard]] std::string_view to_string(child_state) noexcept;

// What a supervisor has to do, in order, and what it has to tell.
struct supervision_effects {
  // Answered by started() or start_failed(). There is at most one unanswered for a child.
  struct start_child {
    std::string name;
    std::uint32_t attempt;  // 1 for its first start, then one more for each
    friend bool operator==(const start_child&, const start_child&) = default;
  };
  // Ask it to end; answered by ended(), or by start_failed() when it was still starting. Comes a second time when
  // a child has started although it was to be stopped.
  struct stop_child {
    std::string name;
    friend bool operator==(const stop_child&, const stop_child&) = default;
  };
  // End it now; answered as stop_child is.
  struct kill_child {
    std::string name;
    friend bool operator==(const kill_child&, const kill_child&) = default;
  };
  // What befell a child, or its supervisor.
  enum class event_kind : std::uint8_t {
    started,       // for the first time, or by restart_child
    failed,        // ended, and the restart rules look at it
    restarted,     //
    escalated,     // the supervisor fails because of it
    stopped,       // ended, and nothing else follows from it
    start_failed,  //
    gave_up,       // its own budget is spent, it stays `failed`
    overran,       // a handler ran longer than its limit; it goes on
  };
  // To be published, kept and counted.
  struct event {
    event_kind kind;
    std::string name;
    failure why;  // of started and restarted: empty
    std::uint32_t restarts;
    friend bool operator==(const event&, const event&) = default;
  };
  // The supervisor ends with this. Always the last effect of all.
  struct finished {
    failure why;
    friend bool operator==(const finished&, const finished&) = default;
  };
  // Any of these.
  using effect = std::variant<start_child, stop_child, kill_child, event, finished>;

  std::vector<effect> list;  // in the order in which they are to be carried out
};
// As it is written here: "gave_up".
[[nodiscard]] std::string_view to_string(supervision_effects::event_kind) noexcept;

// A child as it stands now.
struct child_status {
  std::string_view name;  // valid until the next call that is not const, as is all that is pointed at
  child_state state;
  std::uint32_t restarts;       // how often it has started again after a failure, its own or a sibling's
  const failure* last_failure;  // null: it never failed
  std::chrono::steady_clock::time_point failed_at;  // of last_failure
  std::chrono::steady_clock::time_point since;      // when it came into this state
  const child_spec* rules;                          // with an empty name
};

class supervision {
public:
  using time_point = std::chrono::steady_clock::time_point;

  // Refuses what OTP refuses and what cannot be meant, with a text that says what to do. `seed` decides the jitter
  // of all delays: give each supervisor its own.
  [[nodiscard]] static result<supervision> make(supervisor_spec spec, std::uint64_t seed);

  supervision(supervision&&) noexcept;
  supervision& operator=(supervision&&) noexcept;
  ~supervision();

  // Events. Each appends its effects to `fx`. Time never goes backwards.

  // Starts the children from top to bottom, each after the one before has started. When one fails to start, those
  // that run are stopped in reverse order, and the supervisor finishes as start_failed.
  void start(time_point now, supervision_effects& fx);
  void started(std::string_view name, time_point now, supervision_effects& fx);
  // `why.kind` normal means `ignore`: the child has nothing to run, and that is no failure.
  void start_failed(std::string_view name, failure why, time_point now, supervision_effects& fx);
  // A child is gone, its last message has been seen.
  void ended(std::string_view name, failure why, time_point now, supervision_effects& fx);
  void overran(std::string_view name, std::chrono::milliseconds took, time_point now,
               supervision_effects& fx);
  // By the parent or an operator: stops the children in reverse order of their start, each with its own shutdown
  // rule (dynamic: all at once), then finishes as shutdown. More calls change nothing.
  void shut_down(time_point now, supervision_effects& fx);
  void on_time(time_point now, supervision_effects& fx);
  // When on_time is next needed; none: not before another event.
  [[nodiscard]] std::optional<time_point> wake_at() const;

  // Orders. `refused` says why never; `overloaded` means ask again after the next event, or when children are gone.

  // OTP's start_child. A start that fails forgets the child, and is not tried again.
  result<void> add_child(child_spec spec, time_point now, supervision_effects& fx);
  // The same for one that runs already.
  result<void> adopt_child(child_spec spec, time_point now, supervision_effects& fx);
  // The same for one that need not run before wake_child. Of a dynamic supervisor only.
  result<void> add_sleeping_child(child_spec spec, time_point now, supervision_effects& fx);
  // Starts a child that is asleep, as add_child does; late for any other, and ignored.
  void wake_child(std::string_view name, time_point now, supervision_effects& fx);
  // The child is stopped and stays so, or is forgotten when it is temporary or dynamic. Never an auto-shutdown.
  result<void> terminate_child(std::string_view name, time_point now, supervision_effects& fx);
  // Starts a child that is `stopped` or `failed`, with a clean history. A start that fails is not tried again.
  result<void> restart_child(std::string_view name, time_point now, supervision_effects& fx);
  // Forgets a child that is `stopped` or `failed`.
  result<void> delete_child(std::string_view name);

  // What is there.

  [[nodiscard]] strategy how() const noexcept;
  [[nodiscard]] std::size_t children_count() const noexcept;
  // Starting, running or stopping.
  [[nodiscard]] std::size_t active_count() const noexcept;
  // No group of children starts or stops just now.
  [[nodiscard]] bool is_steady() const noexcept;
  // It stops everything, and will finish.
  [[nodiscard]] bool is_ending() const noexcept;
  [[nodiscard]] bool is_finished() const noexcept;
  [[nodiscard]] std::optional<child_status> find_child(std::string_view name) const;
  // In the order in which they start.
  void for_each_child(const std::function<void(const child_status&)>& visit) const;

private:
  class core;
  explicit supervision(std::unique_ptr<core> c) noexcept;
  std::unique_ptr<core> core_;
};

}  // namespace posthorn
