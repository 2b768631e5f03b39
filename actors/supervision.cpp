#include "actors/supervision.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <iterator>
#include <list>
#include <map>
#include <unordered_map>

namespace posthorn {

namespace {

using std::chrono::milliseconds;
using time_point = supervision::time_point;
using event_kind = supervision_effects::event_kind;

constexpr time_point never = time_point::max();
// Longer times are mistakes, and their sums would leave the clock.
constexpr milliseconds duration_max = std::chrono::hours{24 * 365 * 10};

std::string quoted(std::string_view name) { return "'" + std::string{name} + "'"; }
std::string text_of(milliseconds t) { return std::to_string(t.count()) + " ms"; }
std::string text_of(const failure& why) {
  return std::string{to_string(why.kind)} + (why.reason.empty() ? "" : ": " + why.reason);
}
std::string text_of(const restart_intensity& most) {
  return "more than " + std::to_string(most.restarts) + " restarts within " + text_of(most.period);
}

// Empty when all is well, else what is wrong and what to do.
std::string wrong_with(milliseconds t, std::string_view what) {
  if (t < milliseconds::zero())
    return std::string{what} + " is " + text_of(t) + ": give a time that is not negative";
  if (t > duration_max)
    return std::string{what} + " is " + text_of(t) + ": give at most " + text_of(duration_max);
  return {};
}

std::string wrong_with(const restart_intensity& most, std::string_view what) {
  if (most.period == milliseconds::zero())
    return std::string{what} + " allows " + std::to_string(most.restarts) +
           " restarts within 0 ms: give a period above 0 (0 restarts mean that the first failure is too "
           "many)";
  return wrong_with(most.period, std::string{what} + "'s period");
}

std::string wrong_with(const backoff& b) {
  for (const auto& [time, what] : {std::pair{b.minimum, "the back-off's minimum"},
                                   {b.maximum, "the back-off's maximum"},
                                   {b.reset_after, "the back-off's reset_after"}})
    if (auto wrong = wrong_with(time, what); !wrong.empty()) return wrong;
  if (b.maximum < b.minimum)
    return "the back-off's maximum (" + text_of(b.maximum) + ") is below its minimum (" + text_of(b.minimum) +
           "): swap or raise it";
  if (b.minimum == milliseconds::zero() && b.maximum != milliseconds::zero())
    return "the back-off has a maximum (" + text_of(b.maximum) + ") but no minimum: give both, or neither";
  if (!(b.jitter >= 0 && b.jitter <= 1))
    return "the back-off's jitter is " + std::to_string(b.jitter) + ": give a share from 0 to 1";
  return {};
}

std::string wrong_with(const child_spec& spec, strategy how, auto_shutdown shutdown_when) {
  if (spec.name.empty()) return "a child has no name: give it one, it is a part of its path";
  const auto named = "child " + quoted(spec.name) + ": ";
  if (spec.name.find('/') != std::string::npos)
    return named + "a name is one part of a path: leave out the '/'";
  if (spec.significant && shutdown_when == auto_shutdown::never)
    return named +
           "it is significant, but auto_shutdown is never: choose any_significant or all_significant, or "
           "leave "
           "significant out";
  if (spec.significant && spec.restart == restart_kind::permanent)
    return named +
           "it is significant, but permanent children never end for good: make it transient or temporary";
  if (spec.budget && (how == strategy::one_for_all || how == strategy::rest_for_one))
    return named + "it has a budget of its own, but under " + std::string{to_string(how)} +
           " its failures are its siblings' too: leave the budget out, or choose one_for_one or dynamic";
  if (spec.budget)
    if (auto wrong = wrong_with(*spec.budget, "its budget"); !wrong.empty()) return named + wrong;
  if (spec.shutdown && spec.shutdown->way == shutdown_rule::how::timeout)
    if (auto wrong = wrong_with(spec.shutdown->time, "its shutdown time"); !wrong.empty())
      return named + wrong;
  if (auto wrong = wrong_with(spec.start_deadline, "its start_deadline"); !wrong.empty())
    return named + wrong;
  if (auto wrong = wrong_with(spec.handler_limit, "its handler_limit"); !wrong.empty()) return named + wrong;
  if (auto wrong = wrong_with(spec.back_off); !wrong.empty()) return named + wrong;
  return {};
}

// Why a child is being started decides what a start that fails means.
enum class start_reason : std::uint8_t { opening, added, asked, restart };
// Why a child is being stopped decides what it is when it is gone.
enum class stop_reason : std::uint8_t { with_others, terminated, start_deadline };

// What only a child that has failed needs.
struct past {
  failure last;
  time_point failed_at;
  std::vector<time_point>
      restarts;                // those that its own budget still counts; few, and an empty deque is large
  std::uint32_t in_a_row = 0;  // failures since it was calm
};

struct child {
  std::string name;
  std::shared_ptr<const child_spec> rules;
  std::uint64_t order;     // ascends along the list
  time_point since{};      // when it came into its state
  time_point due = never;  // when on_time does something about it
  std::unique_ptr<past> trouble{};
  std::uint32_t restarts = 0;
  std::uint32_t attempts = 0;
  child_state state = child_state::waiting;
  start_reason start_for = start_reason::opening;
  stop_reason stop_for = stop_reason::with_others;
  bool has_started = false;
  bool killed = false;  // while stopping

  // Something runs, or may.
  [[nodiscard]] bool active() const {
    return state == child_state::starting || state == child_state::running || state == child_state::stopping;
  }
  // It runs, or will by itself.
  [[nodiscard]] bool live() const {
    return state != child_state::stopped && state != child_state::failed && state != child_state::asleep;
  }
  [[nodiscard]] shutdown_rule shutdown() const {
    if (rules->shutdown) return *rules->shutdown;
    return rules->is_supervisor ? shutdown_rule::infinity() : shutdown_rule{};
  }
  past& troubled() {
    if (!trouble) trouble = std::make_unique<past>();
    return *trouble;
  }
};

using children_list = std::list<child>;
using position = children_list::iterator;

// The supervisor's phases:
//
//   made --start--> regrouping --end_of_group--> working --restart_group--> regrouping
//   each but gone --finish--> ending --conclude--> gone
struct made {};
struct working {};
// A group is stopped in reverse order, waits for its back-off, and starts in order. The first start of all is a
// group with nothing to stop.
struct regrouping {
  enum class step : std::uint8_t { stopping, waiting, starting };
  position first;  // the group goes from here to the end of the list
  position at;     // stopping: all from here on are gone. starting: all before have started
  step now;
};
struct ending {
  failure why;
  position at;  // as in regrouping
};
struct gone {};
using supervisor_phase = std::variant<made, working, regrouping, ending, gone>;

struct moment {
  time_point now;
  supervision_effects& fx;
};

}  // namespace

class supervision::core {
public:
  core(supervisor_spec spec, std::uint64_t seed)
      : how_{spec.how},
        intensity_{spec.intensity},
        shutdown_when_{spec.shutdown_when},
        children_max_{spec.children_max},
        random_{seed} {
    for (auto& one : spec.children) insert(std::move(one));
  }

  void start(moment m);
  void started(position it, moment m);
  void start_failed(position it, failure why, moment m);
  void ended(position it, failure why, moment m);
  void overran(child& c, milliseconds took, moment m);
  void shut_down(moment m);
  void on_time(moment m);

  enum class entry : std::uint8_t { to_start, runs_already, asleep };
  result<void> add(child_spec spec, entry as, moment m);
  void wake(position it, moment m);
  result<void> terminate(std::string_view name, moment m);
  result<void> restart(std::string_view name, moment m);
  result<void> remove(std::string_view name);

  [[nodiscard]] std::optional<position> find(std::string_view name) const {
    const auto found = index_.find(name);
    if (found == index_.end()) return std::nullopt;
    return found->second;
  }

private:
  friend class supervision;

  [[nodiscard]] bool grouped() const {
    return how_ == strategy::one_for_all || how_ == strategy::rest_for_one;
  }
  [[nodiscard]] bool forgettable(const child& c) const {
    return how_ == strategy::dynamic || c.rules->restart == restart_kind::temporary;
  }
  [[nodiscard]] bool must_stop(const child& c) const;
  [[nodiscard]] result<void> takes_orders(std::string_view order) const;

  position insert(child_spec spec);
  std::shared_ptr<const child_spec> shared(child_spec rules);
  void erase(position it);
  void set_state(child& c, child_state next, time_point now);
  void set_due(position it, time_point when);
  void count(const child& c, bool in);

  void begin_start(position it, start_reason reason, moment m);
  void stop(position it, stop_reason reason, moment m);
  void stopped(position it, const failure& why, moment m);
  void did_not_start(position it, failure why, moment m);
  void failed(position it, const failure& why, moment m);
  void left(position it, const failure& why, child_state rest, moment m);
  void restart_after(position it, milliseconds ran, moment m);
  void finish(failure why, moment m);
  void proceed(moment m);
  void proceed_group(moment m);
  void proceed_ending(moment m);

  [[nodiscard]] std::chrono::nanoseconds delay_of(child& c, milliseconds ran);
  template <class Times>
  static bool too_many(Times& restarts, const restart_intensity& most, time_point now);
  static void remember(child& c, const failure& why, time_point now);
  static void report(event_kind kind, const child& c, const failure& why, moment m) {
    m.fx.list.emplace_back(supervision_effects::event{kind, c.name, why, c.restarts});
  }

  // Fixed.
  strategy how_;
  restart_intensity intensity_;
  auto_shutdown shutdown_when_;
  std::size_t children_max_;

  std::uint64_t random_;
  supervisor_phase phase_;
  std::deque<time_point> restarts_;  // those that the intensity still counts

  children_list children_;
  std::unordered_map<std::string_view, position> index_;  // the keys are the children's names
  std::map<std::pair<time_point, std::uint64_t>, position> deadlines_;
  std::uint64_t last_order_ = 0;
  std::vector<std::shared_ptr<const child_spec>> known_rules_;  // some recent ones, to be shared
  std::size_t oldest_rules_ = 0;

  std::size_t active_ = 0, backing_off_ = 0, significant_ = 0;  // significant and live
};

// ---- the list of children

position supervision::core::insert(child_spec spec) {
  std::string name = std::move(spec.name);
  spec.name.clear();
  children_.push_back({.name = std::move(name), .rules = shared(std::move(spec)), .order = ++last_order_});
  const auto it = std::prev(children_.end());
  index_.emplace(it->name, it);
  count(*it, true);
  return it;
}

std::shared_ptr<const child_spec> supervision::core::shared(child_spec rules) {
  constexpr std::size_t known_max = 16;
  for (const auto& known : known_rules_)
    if (*known == rules) return known;
  auto fresh = std::make_shared<const child_spec>(std::move(rules));
  if (known_rules_.size() < known_max) {
    known_rules_.push_back(fresh);
  } else {
    known_rules_[oldest_rules_] = fresh;
    oldest_rules_ = (oldest_rules_ + 1) % known_max;
  }
  return fresh;
}

void supervision::core::erase(position it) {
  set_due(it, never);
  count(*it, false);
  if (auto* group = std::get_if<regrouping>(&phase_)) {
    if (group->first == it) ++group->first;
    if (group->at == it) ++group->at;
  }
  index_.erase(it->name);
  children_.erase(it);
}

void supervision::core::count(const child& c, bool in) {
  const auto change = [in](std::size_t& n) { in ? ++n : --n; };
  if (c.active()) change(active_);
  if (c.state == child_state::backing_off) change(backing_off_);
  if (c.rules->significant && c.live()) change(significant_);
}

void supervision::core::set_state(child& c, child_state next, time_point now) {
  count(c, false);
  c.state = next;
  c.since = now;
  count(c, true);
}

void supervision::core::set_due(position it, time_point when) {
  if (it->due != never) deadlines_.erase({it->due, it->order});
  it->due = when;
  if (when != never) deadlines_.emplace(std::pair{when, it->order}, it);
}

// ---- starting

void supervision::core::start(moment m) {
  if (!std::holds_alternative<made>(phase_)) return;
  phase_ = regrouping{children_.begin(), children_.begin(), regrouping::step::starting};
  proceed(m);
}

void supervision::core::begin_start(position it, start_reason reason, moment m) {
  expects(!it->active(), "a child is started only when none of it runs");
  set_state(*it, child_state::starting, m.now);
  const auto deadline = it->rules->start_deadline;
  set_due(it, deadline == milliseconds::zero() ? never : m.now + deadline);
  it->start_for = reason;
  ++it->attempts;
  m.fx.list.emplace_back(supervision_effects::start_child{it->name, it->attempts});
}

void supervision::core::started(position it, moment m) {
  auto& c = *it;
  if (c.state == child_state::stopping) {
    // Its start could not be cut short, and what was sent to it before may have missed it.
    if (c.killed)
      m.fx.list.emplace_back(supervision_effects::kill_child{c.name});
    else
      m.fx.list.emplace_back(supervision_effects::stop_child{c.name});
    return;
  }
  if (c.state != child_state::starting) return;
  set_due(it, never);
  set_state(c, child_state::running, m.now);
  c.has_started = true;
  if (c.start_for == start_reason::restart) {
    ++c.restarts;
    report(event_kind::restarted, c, {}, m);
  } else {
    report(event_kind::started, c, {}, m);
  }
  proceed(m);
}

void supervision::core::start_failed(position it, failure why, moment m) {
  if (it->state == child_state::starting)
    did_not_start(it, std::move(why), m);
  else
    ended(it, std::move(why), m);
}

void supervision::core::did_not_start(position it, failure why, moment m) {
  auto& c = *it;
  set_due(it, never);
  if (why.kind == exit_kind::normal) {  // OTP's `ignore`
    report(event_kind::stopped, c, why, m);
    if (forgettable(c))
      erase(it);
    else
      set_state(c, child_state::stopped, m.now);
    return proceed(m);
  }
  remember(c, why, m.now);
  report(event_kind::start_failed, c, why, m);
  if (std::holds_alternative<ending>(phase_)) {  // its turn to be stopped had not come yet
    set_state(c, child_state::stopped, m.now);
    return proceed(m);
  }
  switch (c.start_for) {
    case start_reason::opening:
      set_state(c, child_state::failed, m.now);
      finish(
          {exit_kind::start_failed, "failed_to_start_child: " + quoted(c.name) + " (" + text_of(why) + ")"},
          m);
      break;
    case start_reason::added:
      erase(it);
      proceed(m);
      break;
    case start_reason::asked:
      set_state(c, child_state::failed, m.now);
      proceed(m);
      break;
    case start_reason::restart: failed(it, why, m); break;
  }
}

// ---- ending

// Whatever it does now, it is being stopped with others.
bool supervision::core::must_stop(const child& c) const {
  if (std::holds_alternative<ending>(phase_)) return true;
  const auto* group = std::get_if<regrouping>(&phase_);
  return group != nullptr && group->now == regrouping::step::stopping && c.order >= group->first->order;
}

void supervision::core::ended(position it, failure why, moment m) {
  auto& c = *it;
  switch (c.state) {
    case child_state::stopping: return stopped(it, why, m);
    case child_state::starting:
      if (!why.abnormal()) why = {exit_kind::start_failed, "it ended before it had started"};
      return did_not_start(it, std::move(why), m);
    case child_state::running:
      if (why.abnormal()) remember(c, why, m.now);
      if (must_stop(c)) {
        c.stop_for = stop_reason::with_others;
        return stopped(it, why, m);
      }
      if (why.abnormal() || c.rules->restart == restart_kind::permanent) {
        report(event_kind::failed, c, why, m);
        return failed(it, why, m);
      }
      report(event_kind::stopped, c, why, m);
      return left(it, why, child_state::stopped, m);
    case child_state::waiting:
    case child_state::backing_off:
    case child_state::stopped:
    case child_state::failed:
    case child_state::asleep: return;  // known already
  }
}

// A child is gone that was to be stopped.
void supervision::core::stopped(position it, const failure& why, moment m) {
  auto& c = *it;
  set_due(it, never);
  switch (c.stop_for) {
    case stop_reason::start_deadline:
      did_not_start(
          it, {exit_kind::start_timeout, "it did not start within " + text_of(c.rules->start_deadline)}, m);
      return;
    case stop_reason::terminated:
      report(event_kind::stopped, c, why, m);
      if (forgettable(c))
        erase(it);
      else
        set_state(c, child_state::stopped, m.now);
      break;
    case stop_reason::with_others:
      report(event_kind::stopped, c, why, m);
      if (std::holds_alternative<ending>(phase_))
        set_state(c, child_state::stopped, m.now);
      else if (c.rules->restart == restart_kind::temporary)
        erase(it);
      else
        set_state(c, child_state::waiting, m.now);
      break;
  }
  proceed(m);
}

// A child has ended or not started, and its restart kind, its decider and the limits say what follows.
void supervision::core::failed(position it, const failure& why, moment m) {
  auto& c = *it;
  const auto ran = c.state == child_state::running ? std::chrono::duration_cast<milliseconds>(m.now - c.since)
                                                   : milliseconds::zero();
  const auto what = why.abnormal() ? c.rules->decide(why) : directive::restart;
  if (what == directive::escalate) {
    set_state(c, child_state::failed, m.now);
    report(event_kind::escalated, c, why, m);
    return finish({exit_kind::error, "escalated by child " + quoted(c.name) + " (" + text_of(why) + ")"}, m);
  }
  if (what == directive::stop || c.rules->restart == restart_kind::temporary)
    return left(it, why, child_state::failed, m);
  if (c.rules->budget) {
    if (too_many(c.troubled().restarts, *c.rules->budget, m.now)) {
      report(event_kind::gave_up, c, why, m);
      return left(it, why, child_state::failed, m);
    }
  } else if (too_many(restarts_, intensity_, m.now)) {
    set_state(c, child_state::failed, m.now);
    report(event_kind::escalated, c, why, m);
    return finish(
        {exit_kind::shutdown, "reached_max_restart_intensity: " + text_of(intensity_) +
                                  "; the last is of child " + quoted(c.name) + " (" + text_of(why) + ")"},
        m);
  }
  restart_after(it, ran, m);
}

// A child has ended by itself and is not restarted.
void supervision::core::left(position it, const failure& why, child_state rest, moment m) {
  const auto& rules = it->rules;
  const bool ends_all = rules->significant &&
                        (shutdown_when_ == auto_shutdown::any_significant ||
                         (shutdown_when_ == auto_shutdown::all_significant && significant_ == 1));  // itself
  std::string reason;
  if (ends_all)
    reason = "auto_shutdown: significant child " + quoted(it->name) + " ended (" + text_of(why) + ")";
  if (rules->restart == restart_kind::temporary ||
      (how_ == strategy::dynamic && rest == child_state::stopped))
    erase(it);
  else
    set_state(*it, rest, m.now);
  if (ends_all) return finish({exit_kind::shutdown, std::move(reason)}, m);
  proceed(m);
}

void supervision::core::restart_after(position it, milliseconds ran, moment m) {
  const auto delay = delay_of(*it, ran);
  set_state(*it, child_state::waiting, m.now);
  if (delay > delay.zero()) {
    set_state(*it, child_state::backing_off, m.now);
    set_due(it, m.now + delay);
  } else if (!grouped()) {
    return begin_start(it, start_reason::restart, m);
  }
  if (!grouped()) return;
  phase_ = regrouping{how_ == strategy::one_for_all ? children_.begin() : it, children_.end(),
                      regrouping::step::stopping};
  proceed(m);
}

std::chrono::nanoseconds supervision::core::delay_of(child& c, milliseconds ran) {
  const auto& rule = c.rules->back_off;
  if (rule.minimum == milliseconds::zero()) return {};
  auto& in_a_row = c.troubled().in_a_row;
  const auto calm = rule.reset_after == milliseconds::zero() ? rule.maximum : rule.reset_after;
  if (ran >= calm) in_a_row = 0;
  auto delay = rule.minimum;
  for (std::uint32_t n = 0; n < in_a_row && delay < rule.maximum; ++n) delay *= 2;
  delay = std::min(delay, rule.maximum);
  ++in_a_row;

  // SplitMix64: small, and the same everywhere.
  random_ += 0x9e3779b97f4a7c15U;
  auto bits = random_;
  bits = (bits ^ (bits >> 30U)) * 0xbf58476d1ce4e5b9U;
  bits = (bits ^ (bits >> 27U)) * 0x94d049bb133111ebU;
  bits ^= bits >> 31U;
  const double random = static_cast<double>(bits >> 11U) * 0x1p-53;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double, std::milli>{
      static_cast<double>(delay.count()) * (1 + rule.jitter * random)});
}

template <class Times>
bool supervision::core::too_many(Times& restarts, const restart_intensity& most, time_point now) {
  restarts.push_back(now);
  const auto counts = [&](time_point then) { return now - then <= most.period; };
  restarts.erase(restarts.begin(), std::find_if(restarts.begin(), restarts.end(), counts));
  return restarts.size() > most.restarts;
}

void supervision::core::remember(child& c, const failure& why, time_point now) {
  c.troubled().last = why;
  c.troubled().failed_at = now;
}

void supervision::core::overran(child& c, milliseconds took, moment m) {
  if (c.state != child_state::running) return;
  const failure why{exit_kind::overrun, "a handler ran for " + text_of(took) + ", its limit is " +
                                            text_of(c.rules->handler_limit)};
  remember(c, why, m.now);
  report(event_kind::overran, c, why, m);
}

// ---- stopping

void supervision::core::stop(position it, stop_reason reason, moment m) {
  auto& c = *it;
  c.stop_for = reason;
  if (c.state == child_state::stopping) return;
  const auto rule = c.shutdown();
  set_state(c, child_state::stopping, m.now);
  c.killed = rule.way == shutdown_rule::how::brutal_kill;
  set_due(it, rule.way == shutdown_rule::how::timeout ? m.now + rule.time : never);
  if (c.killed)
    m.fx.list.emplace_back(supervision_effects::kill_child{c.name});
  else
    m.fx.list.emplace_back(supervision_effects::stop_child{c.name});
}

void supervision::core::shut_down(moment m) {
  if (std::holds_alternative<ending>(phase_) || std::holds_alternative<gone>(phase_)) return;
  finish({exit_kind::shutdown, "it was asked to shut down"}, m);
}

void supervision::core::finish(failure why, moment m) {
  phase_ = ending{std::move(why), children_.end()};
  for (auto it = children_.begin(); it != children_.end(); ++it) {
    if (it->state != child_state::waiting && it->state != child_state::backing_off &&
        it->state != child_state::asleep)
      continue;
    set_due(it, never);
    set_state(*it, child_state::stopped, m.now);
  }
  if (how_ == strategy::dynamic)
    for (auto it = children_.end(); it != children_.begin();)
      if ((--it)->active()) stop(it, stop_reason::with_others, m);
  proceed(m);
}

void supervision::core::on_time(moment m) {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= m.now) {
    const auto it = deadlines_.begin()->second;
    auto& c = *it;
    set_due(it, never);
    switch (c.state) {
      case child_state::starting:
        set_state(c, child_state::stopping, m.now);
        c.stop_for = stop_reason::start_deadline;
        [[fallthrough]];
      case child_state::stopping:
        c.killed = true;
        m.fx.list.emplace_back(supervision_effects::kill_child{c.name});
        break;
      case child_state::backing_off:
        if (grouped())
          set_state(c, child_state::waiting, m.now);
        else
          begin_start(it, start_reason::restart, m);
        break;
      case child_state::waiting:
      case child_state::running:
      case child_state::stopped:
      case child_state::failed:
      case child_state::asleep: expects(false, "only a child that starts, stops or backs off has a deadline");
    }
  }
  proceed(m);
}

// ---- groups

// Goes as far as it can without another event.
void supervision::core::proceed(moment m) {
  if (std::holds_alternative<regrouping>(phase_)) proceed_group(m);
  if (std::holds_alternative<ending>(phase_)) proceed_ending(m);
}

void supervision::core::proceed_group(moment m) {
  auto& group = std::get<regrouping>(phase_);
  using step = regrouping::step;
  while (group.now == step::stopping) {
    if (group.at == group.first) {
      group.now = step::waiting;
      break;
    }
    const auto it = std::prev(group.at);
    if (it->active()) return stop(it, stop_reason::with_others, m);
    group.at = it;
    if (it->rules->restart == restart_kind::temporary && it->attempts > 0)
      erase(it);
    else if (it->state != child_state::backing_off)
      set_state(*it, child_state::waiting, m.now);
  }
  if (group.now == step::waiting) {
    if (backing_off_ > 0) return;
    group.now = step::starting;
    group.at = group.first;
  }
  for (; group.at != children_.end(); ++group.at) {
    auto& c = *group.at;
    if (c.state == child_state::starting || c.state == child_state::stopping) return;
    if (c.state != child_state::waiting) continue;
    const bool first_time = !c.has_started && c.start_for == start_reason::opening;
    return begin_start(group.at, first_time ? start_reason::opening : start_reason::restart, m);
  }
  phase_ = working{};
}

void supervision::core::proceed_ending(moment m) {
  auto& end = std::get<ending>(phase_);
  if (how_ == strategy::dynamic) {
    if (active_ > 0) return;
  } else {
    for (; end.at != children_.begin(); --end.at) {
      const auto it = std::prev(end.at);
      if (it->active()) return stop(it, stop_reason::with_others, m);
    }
  }
  m.fx.list.emplace_back(supervision_effects::finished{std::move(end.why)});
  phase_ = gone{};
}

// ---- orders

result<void> supervision::core::takes_orders(std::string_view order) const {
  const auto text = "the supervisor cannot " + std::string{order} + ": ";
  if (std::holds_alternative<made>(phase_)) return refused(text + "it was not started yet, start it first");
  if (std::holds_alternative<ending>(phase_)) return refused(text + "it is shutting down");
  if (std::holds_alternative<gone>(phase_)) return refused(text + "it has finished");
  if (std::holds_alternative<regrouping>(phase_))
    return overloaded(text + "it is starting or restarting its children, ask again when they run");
  return {};
}

namespace {

error no_child(std::string_view name) { return refused("there is no child named " + quoted(name)); }

}  // namespace

result<void> supervision::core::add(child_spec spec, entry as, moment m) {
  if (auto wrong = wrong_with(spec, how_, shutdown_when_); !wrong.empty()) return refused(std::move(wrong));
  if (const auto there = find(spec.name))
    return refused("a child named " + quoted(spec.name) + " is " +
                   ((*there)->active() ? "already_started" : "already_present") + " (" +
                   std::string{to_string((*there)->state)} +
                   "): choose another name, or restart or delete it");
  if (auto ready = takes_orders("add child " + quoted(spec.name)); !ready) return ready;
  if (children_.size() >= children_max_)
    return overloaded("the supervisor has " + std::to_string(children_.size()) +
                      " children, as many as children_max allows: raise it, or wait until some have ended");
  const auto it = insert(std::move(spec));
  if (as == entry::to_start) {
    begin_start(it, start_reason::added, m);
    return {};
  }
  if (as == entry::asleep) {
    set_state(*it, child_state::asleep, m.now);
    return {};
  }
  it->attempts = 1;
  it->has_started = true;
  it->start_for = start_reason::added;
  set_state(*it, child_state::running, m.now);
  report(event_kind::started, *it, {}, m);
  return {};
}

void supervision::core::wake(position it, moment m) {
  if (it->state == child_state::asleep) begin_start(it, start_reason::added, m);
}

result<void> supervision::core::terminate(std::string_view name, moment m) {
  const auto found = find(name);
  if (!found) return no_child(name);
  const auto it = *found;
  const auto* group = std::get_if<regrouping>(&phase_);
  // A group in its back-off, perhaps a long one, stands still: a child can be taken out of it.
  if (group == nullptr || group->now != regrouping::step::waiting)
    if (auto ready = takes_orders("terminate child " + quoted(name)); !ready) return ready;
  switch (it->state) {
    case child_state::starting:
    case child_state::running:
    case child_state::stopping: stop(it, stop_reason::terminated, m); return {};
    case child_state::waiting:
    case child_state::backing_off:
      set_due(it, never);
      report(event_kind::stopped, *it, {exit_kind::shutdown, "it was terminated while it waited to restart"},
             m);
      [[fallthrough]];
    case child_state::failed:
    case child_state::asleep:
      if (forgettable(*it))
        erase(it);
      else
        set_state(*it, child_state::stopped, m.now);
      proceed(m);
      return {};
    case child_state::stopped: return {};
  }
  return {};
}

result<void> supervision::core::restart(std::string_view name, moment m) {
  const auto found = find(name);
  if (!found) return no_child(name);
  if (auto ready = takes_orders("restart child " + quoted(name)); !ready) return ready;
  auto& c = **found;
  if (c.active())
    return refused("child " + quoted(name) + " is " + std::string{to_string(c.state)} +
                   ": terminate it first");
  if (c.live())
    return refused("child " + quoted(name) + " is restarting (" + std::string{to_string(c.state)} +
                   "): wait for it, or terminate it first");
  if (c.trouble) {
    c.trouble->restarts.clear();
    c.trouble->in_a_row = 0;
  }
  begin_start(*found, start_reason::asked, m);
  return {};
}

result<void> supervision::core::remove(std::string_view name) {
  const auto found = find(name);
  if (!found) return no_child(name);
  if (std::holds_alternative<ending>(phase_)) return refused("the supervisor is shutting down");
  if ((*found)->live())
    return refused("child " + quoted(name) + " is " + std::string{to_string((*found)->state)} +
                   ": terminate it before it is deleted");
  erase(*found);
  return {};
}

// ---- the face

supervision::supervision(std::unique_ptr<core> c) noexcept : core_{std::move(c)} {}
supervision::supervision(supervision&&) noexcept = default;
supervision& supervision::operator=(supervision&&) noexcept = default;
supervision::~supervision() = default;

result<supervision> supervision::make(supervisor_spec spec, std::uint64_t seed) {
  if (auto wrong = wrong_with(spec.intensity, "the supervisor's restart intensity"); !wrong.empty())
    return refused(std::move(wrong));
  if (spec.how == strategy::dynamic && !spec.children.empty())
    return refused("a dynamic supervisor has no children in its spec, but there is " +
                   quoted(spec.children.front().name) + ": add it with add_child after the start");
  if (spec.children_max == 0) return refused("children_max is 0: allow at least one child");
  if (spec.children.size() > spec.children_max)
    return refused("the spec has " + std::to_string(spec.children.size()) +
                   " children, more than children_max allows (" + std::to_string(spec.children_max) +
                   "): raise it");
  std::unordered_map<std::string_view, bool> names;
  for (const auto& one : spec.children) {
    if (auto wrong = wrong_with(one, spec.how, spec.shutdown_when); !wrong.empty())
      return refused(std::move(wrong));
    if (!names.emplace(one.name, true).second)
      return refused("two children are named " + quoted(one.name) + ": give each a name of its own");
  }
  return supervision{std::make_unique<core>(std::move(spec), seed)};
}

void supervision::start(time_point now, supervision_effects& fx) { core_->start({now, fx}); }

void supervision::started(std::string_view name, time_point now, supervision_effects& fx) {
  if (const auto it = core_->find(name)) core_->started(*it, {now, fx});
}

void supervision::start_failed(std::string_view name, failure why, time_point now, supervision_effects& fx) {
  if (const auto it = core_->find(name)) core_->start_failed(*it, std::move(why), {now, fx});
}

void supervision::ended(std::string_view name, failure why, time_point now, supervision_effects& fx) {
  if (const auto it = core_->find(name)) core_->ended(*it, std::move(why), {now, fx});
}

void supervision::overran(std::string_view name, milliseconds took, time_point now, supervision_effects& fx) {
  if (const auto it = core_->find(name)) core_->overran(**it, took, {now, fx});
}

void supervision::shut_down(time_point now, supervision_effects& fx) { core_->shut_down({now, fx}); }
void supervision::on_time(time_point now, supervision_effects& fx) { core_->on_time({now, fx}); }

std::optional<time_point> supervision::wake_at() const {
  if (core_->deadlines_.empty()) return std::nullopt;
  return core_->deadlines_.begin()->first.first;
}

result<void> supervision::add_child(child_spec spec, time_point now, supervision_effects& fx) {
  return core_->add(std::move(spec), core::entry::to_start, {now, fx});
}
result<void> supervision::adopt_child(child_spec spec, time_point now, supervision_effects& fx) {
  return core_->add(std::move(spec), core::entry::runs_already, {now, fx});
}
result<void> supervision::add_sleeping_child(child_spec spec, time_point now, supervision_effects& fx) {
  if (core_->how_ != strategy::dynamic)
    return refused("child " + quoted(spec.name) + " sleeps: only a dynamic supervisor has such children");
  return core_->add(std::move(spec), core::entry::asleep, {now, fx});
}
void supervision::wake_child(std::string_view name, time_point now, supervision_effects& fx) {
  if (const auto it = core_->find(name)) core_->wake(*it, {now, fx});
}
result<void> supervision::terminate_child(std::string_view name, time_point now, supervision_effects& fx) {
  return core_->terminate(name, {now, fx});
}
result<void> supervision::restart_child(std::string_view name, time_point now, supervision_effects& fx) {
  return core_->restart(name, {now, fx});
}
result<void> supervision::delete_child(std::string_view name) { return core_->remove(name); }

strategy supervision::how() const noexcept { return core_->how_; }
std::size_t supervision::children_count() const noexcept { return core_->children_.size(); }
std::size_t supervision::active_count() const noexcept { return core_->active_; }
bool supervision::is_steady() const noexcept { return std::holds_alternative<working>(core_->phase_); }
bool supervision::is_ending() const noexcept { return std::holds_alternative<ending>(core_->phase_); }
bool supervision::is_finished() const noexcept { return std::holds_alternative<gone>(core_->phase_); }

namespace {

child_status status_of(const child& c) {
  const bool ok = c.trouble == nullptr || c.trouble->last.kind == exit_kind::normal;
  return {c.name,
          c.state,
          c.restarts,
          ok ? nullptr : &c.trouble->last,
          ok ? time_point{} : c.trouble->failed_at,
          c.since,
          c.rules.get()};
}

}  // namespace

std::optional<child_status> supervision::find_child(std::string_view name) const {
  const auto it = core_->find(name);
  if (!it) return std::nullopt;
  return status_of(**it);
}

void supervision::for_each_child(const std::function<void(const child_status&)>& visit) const {
  for (const auto& c : core_->children_) visit(status_of(c));
}

// ---- names

namespace {

template <std::size_t N, class E>
std::string_view name_of(const std::array<std::string_view, N>& names, E value) noexcept {
  const auto n = static_cast<std::size_t>(value);
  return n < N ? names[n] : "unknown";
}

}  // namespace

std::string_view to_string(strategy s) noexcept {
  return name_of(std::array<std::string_view, 4>{"one_for_one", "one_for_all", "rest_for_one", "dynamic"}, s);
}
std::string_view to_string(restart_kind r) noexcept {
  return name_of(std::array<std::string_view, 3>{"permanent", "transient", "temporary"}, r);
}
std::string_view to_string(auto_shutdown a) noexcept {
  return name_of(std::array<std::string_view, 3>{"never", "any_significant", "all_significant"}, a);
}
std::string_view to_string(directive d) noexcept {
  return name_of(std::array<std::string_view, 4>{"restart", "resume", "stop", "escalate"}, d);
}
std::string_view to_string(exit_kind e) noexcept {
  return name_of(std::array<std::string_view, 8>{"normal", "shutdown", "error", "exception", "killed",
                                                 "start_failed", "start_timeout", "overrun"},
                 e);
}
std::string_view to_string(child_state s) noexcept {
  return name_of(std::array<std::string_view, 8>{"waiting", "starting", "running", "backing_off", "stopping",
                                                 "stopped", "failed", "asleep"},
                 s);
}
std::string_view to_string(supervision_effects::event_kind k) noexcept {
  return name_of(std::array<std::string_view, 8>{"started", "failed", "restarted", "escalated", "stopped",
                                                 "start_failed", "gave_up", "overran"},
                 k);
}

}  // namespace posthorn
