#include "actors/supervisor.hpp"

#include <caf/event_based_actor.hpp>
#include <caf/logger.hpp>

#include <algorithm>
#include <random>

namespace posthorn {

namespace {

// How often the root looks for handlers that run longer than they may.
constexpr auto overrun_interval = std::chrono::seconds{1};
constexpr std::uint64_t overrun_tick = 1, time_tick = 2;

using shell_actor = caf::typed_actor<caf::result<void>(look_around), caf::result<void>(tick)>;

// A test's node, in virtual time.
bool is_simulated(const caf::actor_system& system) {
  return static_cast<bool>(caf::get_as<std::uint64_t>(system.config(), "posthorn.seed"));
}

// Of what supervisors leave to chance.
std::uint64_t seed_for(const caf::actor_system& system, const std::string& path) {
  if (const auto seed = caf::get_as<std::uint64_t>(system.config(), "posthorn.seed")) {
    return *seed ^ std::hash<std::string>{}(path);
  }
  return std::random_device{}();
}

// A virtual clock counts from 1970.
std::int64_t wall_clock(caf::actor_system& system) {
  const auto now = is_simulated(system) ? system.clock().now().time_since_epoch()
                                        : std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

std::int64_t wall_clock_of(caf::actor_system& system, supervision::time_point at) {
  const auto ago = system.clock().now() - at;
  return wall_clock(system) - std::chrono::duration_cast<std::chrono::milliseconds>(ago).count();
}

failure failure_from(const caf::error& why) {
  if (!why || why == caf::exit_reason::normal) return {exit_kind::normal, ""};
  if (why == caf::exit_reason::user_shutdown) return {exit_kind::shutdown, "it was asked to end"};
  if (why == caf::exit_reason::kill) return {exit_kind::killed, "it was killed"};
  if (why == caf::sec::runtime_error) {
    const auto context = why.context();
    if (context.match_elements<std::string>()) {
      return {exit_kind::exception, context.get_as<std::string>(0)};
    }
    return {exit_kind::exception, to_string(why)};
  }
  return {exit_kind::error, to_string(why)};
}

caf::error error_from(const failure& why) {
  switch (why.kind) {
    case exit_kind::normal: return {};
    case exit_kind::shutdown: return caf::exit_reason::user_shutdown;
    case exit_kind::killed: return caf::exit_reason::kill;
    default: return caf::make_error(caf::sec::runtime_error, why.reason);
  }
}

std::string join(const std::string& path, const std::string& name) {
  return path == "/" ? path + name : path + "/" + name;
}

}  // namespace

caf::error failure_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& e) {
    return caf::make_error(caf::sec::runtime_error, std::string{e.what()});
  } catch (...) {
    return caf::make_error(caf::sec::runtime_error,
                           std::string{"something that is no std::exception was thrown"});
  }
}

std::string path_part(std::string_view name) {
  static constexpr char digits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : name) {
    const auto octet = static_cast<unsigned char>(c);
    if (octet > 0x20 && octet != 0x7f && c != '/' && c != '%') {
      out += c;
    } else {
      out += '%';
      out += digits[octet >> 4];
      out += digits[octet & 15];
    }
  }
  return out;
}

// --- the actor ----------------------------------------------------------------------------------------------------

class supervisor::shell {
public:
  static inline const char* name = "posthorn.supervisor";

  shell(shell_actor::pointer self, std::weak_ptr<supervisor> of) : self_{self}, of_{std::move(of)} {
    self_->set_exception_handler([](std::exception_ptr& thrown) { return failure_of(thrown); });
  }

  shell_actor::behavior_type make_behavior() {
    // Virtual time does not pass while a handler runs.
    if (const auto of = of_.lock(); of && of->is_root_ && !is_simulated(of->system_)) {
      self_->delayed_send(self_, overrun_interval, tick{overrun_tick});
    }
    return {
        [this](look_around) { work(); },
        [this](const tick& t) {
          const auto of = of_.lock();
          if (of && t.number == overrun_tick) {
            of->look_for_overruns(busy_threads::longest(actor_status::now()));
            self_->delayed_send(self_, overrun_interval, tick{overrun_tick});
          } else {
            work();
          }
        },
    };
  }

private:
  void work() {
    const auto of = of_.lock();
    if (!of) return self_->quit();
    of->work([this](std::chrono::milliseconds after) { self_->delayed_send(self_, after, tick{time_tick}); },
             [this](const failure& why) { self_->quit(error_from(why)); });
  }

  shell_actor::pointer self_;
  std::weak_ptr<supervisor> of_;
};

// --- making and starting ------------------------------------------------------------------------------------------

supervisor::supervisor(caf::actor_system& system, supervisor_spec spec,
                       std::vector<child_definition> children, event_sink sink)
    : system_{system}, spec_{std::move(spec)}, sink_{std::move(sink)} {
  for (auto& c : children) {
    know(c);
    auto name = c.spec.name;
    auto made = std::make_unique<seat>();
    made->definition = std::move(c);
    seats_.emplace(std::move(name), std::move(made));
  }
}

result<std::shared_ptr<supervisor>> supervisor::make(caf::actor_system& system, supervisor_spec spec,
                                                     std::vector<child_definition> children,
                                                     event_sink sink) {
  spec.children.clear();
  for (auto& c : children) {
    if (c.as_supervisor) {
      c.spec.is_supervisor = true;
      c.kind = "supervisor";
    } else if (!c.start) {
      return refused("child '" + c.spec.name +
                     "' has nothing that starts it: give it `start` or `as_supervisor`");
    }
    spec.children.push_back(c.spec);
  }
  // Looked at now, so that a wrong specification never gets as far as running.
  if (auto checked = supervision::make(spec, 0); !checked) return checked.error();
  std::shared_ptr<supervisor> made{
      new supervisor{system, std::move(spec), std::move(children), std::move(sink)}};
  made->set_path("/");
  return made;
}

void supervisor::set_path(const std::string& path) {
  const std::lock_guard guard{mutex_};  // always the parent's before the child's
  path_ = path;
  for (auto& [name, s] : seats_) {
    if (s->definition.as_supervisor) s->definition.as_supervisor->set_path(join(path, name));
  }
}

caf::actor supervisor::start_actor(const std::shared_ptr<supervisor>& parent, const std::string& name) {
  const auto actor = system_.spawn<shell_actor::stateful_impl<shell>>(weak_from_this());
  // The last handle of an actor ends it, and its end is told to its supervisor, who locks: so none is dropped under a lock.
  std::vector<caf::actor> dropped;
  {
    const std::lock_guard guard{mutex_};
    parent_ = parent;
    name_ = name;
    if (!core_ || finished_) {
      const bool first = !core_;
      // Its predecessor's children may have been killed with it, and some may still be on their way out.
      for (const auto& n : notes_) {
        const auto* ended = std::get_if<ended_note>(&n);
        if (ended == nullptr) continue;
        const auto s = seats_.find(ended->name);
        if (s != seats_.end() && s->second->incarnation == ended->incarnation) {
          dropped.push_back(std::exchange(s->second->handle, {}));
        }
      }
      core_.emplace(std::move(supervision::make(spec_, seed_for(system_, path_)).value()));
      finished_ = false;
      starting_ = true;
      // Of what was said before, only new children are of interest to a supervisor that starts.
      // And one that was told to stop before it ever started will stop.
      std::erase_if(notes_, [first](const note& n) {
        return !std::holds_alternative<add_note>(n) && !(first && std::holds_alternative<shut_down_note>(n));
      });
      notes_.emplace_front(begin_note{});
      for (auto& add : std::exchange(refused_, {})) notes_.emplace_back(std::move(add));
      // Children that came at run time come back, too: they are what their supervisor is for.
      for (auto s = seats_.begin(); s != seats_.end();) {
        if (core_->find_child(s->first)) {
          ++s;
          continue;
        }
        const bool comes_back = s->second->definition.spec.restart != restart_kind::temporary;
        if (s->second->handle) {
          if (comes_back) waiting_for_end_[s->first].push_back(add_note{s->second->definition, {}});
          ++s;
          continue;
        }
        if (comes_back) notes_.emplace_back(add_note{std::move(s->second->definition), {}});
        s = seats_.erase(s);
      }
    }
    dropped.push_back(std::exchange(actor_, caf::actor_cast<caf::actor>(actor)));
    woken_ = true;
  }
  caf::anon_send(actor, look_around{});
  return caf::actor_cast<caf::actor>(actor);
}

void supervisor::start_as_root(std::function<void(const failure&)> on_finished) {
  {
    const std::lock_guard guard{mutex_};
    is_root_ = true;
    on_finished_ = std::move(on_finished);
  }
  become_root_actor();
  // Whoever spawns holds the system's logger from then on, and a system that ends waits until no thread does. This one
  // may be another than the one that will stop the system.
  caf::logger::set_current_actor_system(nullptr);
}

// Nobody watches the root but its place: a killed root has a successor at once.
void supervisor::become_root_actor() {
  const auto actor = start_actor(nullptr, "");
  actor->attach_functor([weak = weak_from_this()](const caf::error&) {
    const auto self = weak.lock();
    if (!self) return;
    {
      const std::lock_guard guard{self->mutex_};
      if (self->finished_) return;
    }
    self->report({wall_clock(self->system_), "/", supervision_effects::event_kind::restarted, {}, 1, false});
    self->become_root_actor();
  });
}

result<void> supervisor::wait_until_started() {
  std::unique_lock lock{mutex_};
  start_decided_.wait(lock, [this] { return !starting_ || finished_; });
  if (finished_) return refused("the node could not start: " + finished_with_.reason);
  return {};
}

bool supervisor::wait_until_finished(std::chrono::milliseconds patience) {
  std::unique_lock lock{mutex_};
  return start_decided_.wait_for(lock, patience, [this] { return finished_; });
}

void supervisor::shut_down() { tell(shut_down_note{}); }
void supervisor::wake(const std::string& name) { tell(wake_note{name}); }
void supervisor::started(const std::string& name) { tell(started_note{name}); }
void supervisor::add(child_definition child) { tell(add_note{std::move(child), {}}); }
void supervisor::remove(const std::string& name) { tell(remove_note{name}); }
void supervisor::adopt(child_definition child, const caf::actor& running) {
  tell(add_note{std::move(child), running});
}

void supervisor::tell(note n) {
  // Sent under the lock: whoever holds the handle of an actor when its system is gone, holds nothing.
  const std::lock_guard guard{mutex_};
  notes_.push_back(std::move(n));
  if (std::exchange(woken_, true)) return;
  if (actor_) caf::anon_send(caf::actor_cast<shell_actor>(actor_), look_around{});
}

// --- in the actor -------------------------------------------------------------------------------------------------

void supervisor::work(const std::function<void(std::chrono::milliseconds)>& wake_after,
                      const std::function<void(const failure&)>& quit) {
  supervision_effects fx;
  for (;;) {
    fx.list.clear();
    bool was_add = false;
    std::optional<supervision::time_point> wake;
    std::vector<caf::actor> dropped;  // see start_actor
    {
      const std::lock_guard guard{mutex_};
      if (!core_ || finished_) return;
      const auto now = system_.clock().now();
      if (const auto due = core_->wake_at(); due && *due <= now) {
        core_->on_time(now, fx);
      } else if (!notes_.empty()) {
        auto n = std::move(notes_.front());
        notes_.pop_front();
        was_add = std::holds_alternative<add_note>(n) || std::holds_alternative<remove_note>(n);
        apply(n, fx);
        dropped.swap(dropped_);
      } else {
        woken_ = false;
        wake = due;
        if (!wake) return;
      }
    }
    if (wake) {
      const auto left = *wake - system_.clock().now();
      wake_after(std::max(std::chrono::duration_cast<std::chrono::milliseconds>(left),
                          std::chrono::milliseconds{0}) +
                 std::chrono::milliseconds{1});
      return;
    }
    carry_out(fx, quit);
    report_start();
    const std::lock_guard guard{mutex_};
    if (!refused_.empty() && !was_add && !finished_) {
      for (auto& add : std::exchange(refused_, {})) notes_.emplace_back(std::move(add));
    }
  }
}

// Under the lock.
void supervisor::apply(note& n, supervision_effects& fx) {
  const auto now = system_.clock().now();
  if (std::holds_alternative<begin_note>(n)) {
    core_->start(now, fx);
  } else if (auto* started = std::get_if<started_note>(&n)) {
    core_->started(started->name, now, fx);
  } else if (auto* failed = std::get_if<start_failed_note>(&n)) {
    if (const auto s = seats_.find(failed->name); s != seats_.end()) {
      ++s->second->incarnation;
      dropped_.push_back(std::exchange(s->second->handle, {}));
    }
    ended_.push_back(failed->name);
    core_->start_failed(failed->name, std::move(failed->why), now, fx);
  } else if (auto* ended = std::get_if<ended_note>(&n)) {
    const auto found = seats_.find(ended->name);
    if (found == seats_.end() || found->second->incarnation != ended->incarnation) return;
    auto& s = *found->second;
    dropped_.push_back(std::exchange(s.handle, {}));
    ended_.push_back(ended->name);
    const auto status = core_->find_child(ended->name);
    if (std::exchange(s.start_waits, false)) {
      if (status && status->state == child_state::starting) {
        fx.list.emplace_back(supervision_effects::start_child{ended->name, 0});
      } else {
        core_->start_failed(ended->name, {exit_kind::shutdown, "it was not started any more"}, now, fx);
      }
      return;
    }
    const auto& sub = s.definition.as_supervisor;
    const bool only_its_actor = sub && sub->has_children_to_stop();
    if (only_its_actor && status &&
        (!core_->is_steady() || status->state == child_state::starting ||
         status->state == child_state::stopping)) {
      // In the middle of what it was told to do: another one goes on with that.
      to_revive_.push_back(ended->name);
      return;
    }
    if (status && status->state == child_state::starting) {
      core_->start_failed(ended->name, std::move(ended->why), now, fx);
    } else {
      core_->ended(ended->name, std::move(ended->why), now, fx);
    }
    if (only_its_actor) {
      // Nobody will look after its children any more: they end as it did.
      const auto now_is = core_->find_child(ended->name);
      if (!now_is || now_is->state == child_state::failed || now_is->state == child_state::stopped) {
        orphaned_.push_back(sub);
      }
    }
    if (s.removal_wanted) {
      (void)core_->delete_child(ended->name);
      return;
    }
    if (std::exchange(s.restart_wanted, false)) {
      if (const auto now_is = core_->find_child(ended->name);
          now_is && now_is->state == child_state::stopped) {
        (void)core_->restart_child(ended->name, now, fx);
      }
    }
  } else if (auto* add = std::get_if<add_note>(&n)) {
    const auto name = add->child.spec.name;
    if (seats_.contains(name)) {
      waiting_for_end_[name].push_back(std::move(*add));
      return;
    }
    if (add->child.as_supervisor) {
      add->child.spec.is_supervisor = true;
      add->child.kind = "supervisor";
      add->child.as_supervisor->set_path(join(path_, name));
    }
    const auto& is_wanted = add->child.is_wanted;
    const bool sleeps = core_->how() == strategy::dynamic && is_wanted && !is_wanted();
    const auto done = add->running ? core_->adopt_child(add->child.spec, now, fx)
                      : sleeps     ? core_->add_sleeping_child(add->child.spec, now, fx)
                                   : core_->add_child(add->child.spec, now, fx);
    if (!done && (done.error().code == errc::overloaded || core_->is_ending())) {
      refused_.emplace_back(std::move(*add));
      return;
    }
    if (!done) {
      fx.list.emplace_back(supervision_effects::event{supervision_effects::event_kind::start_failed,
                                                      name,
                                                      {exit_kind::start_failed, done.error().text},
                                                      0});
      return;
    }
    know(add->child);
    auto made = std::make_unique<seat>();
    made->definition = std::move(add->child);
    made->handle = add->running;
    made->incarnation = 1;
    seats_.emplace(name, std::move(made));
    if (add->running) adopted_.emplace_back(name, add->running);
  } else if (auto* leaves = std::get_if<remove_note>(&n)) {
    remove_child(leaves->name, fx);
  } else if (auto* wake = std::get_if<wake_note>(&n)) {
    // One that waits for the end of another of its name is asked when its turn comes.
    const auto found = seats_.find(wake->name);
    if (found == seats_.end()) return;
    const auto& is_wanted = found->second->definition.is_wanted;
    if (!is_wanted || is_wanted()) core_->wake_child(wake->name, now, fx);
  } else if (auto* restart = std::get_if<restart_note>(&n)) {
    restart_child(restart->name, fx);
  } else if (auto* overran = std::get_if<overran_note>(&n)) {
    core_->overran(overran->name, overran->took, now, fx);
  } else {
    core_->shut_down(now, fx);
  }
}

// Under the lock.
void supervisor::remove_child(const std::string& name, supervision_effects& fx) {
  const auto found = seats_.find(name);
  if (found == seats_.end()) return;
  found->second->removal_wanted = true;
  const auto done = core_->terminate_child(name, system_.clock().now(), fx);
  if (!done && done.error().code == errc::overloaded) {
    refused_.emplace_back(remove_note{name});
    return;
  }
  // One that still has to end is forgotten then.
  if (done) (void)core_->delete_child(name);
  ended_.push_back(name);
}

// Under the lock. By an operator's wish, so nothing of it counts as a failure.
void supervisor::restart_child(const std::string& name, supervision_effects& fx) {
  const auto now = system_.clock().now();
  const auto found = seats_.find(name);
  const auto status = core_->find_child(name);
  if (found == seats_.end() || !status) return;
  result<void> done;
  if (status->state == child_state::asleep) {
    found->second->definition.is_wanted = nullptr;  // by the operator, from now on
    core_->wake_child(name, now, fx);
  } else if (status->state == child_state::stopped || status->state == child_state::failed) {
    done = core_->restart_child(name, now, fx);
  } else if (core_->how() == strategy::dynamic) {
    // It is forgotten when it has ended, and added anew.
    done = core_->terminate_child(name, now, fx);
    if (done) {
      // It starts, wanted or not: one that slept would stand in the way of a later one of its name, which waits
      // for its end.
      auto again = found->second->definition;
      again.is_wanted = nullptr;
      waiting_for_end_[name].push_front(add_note{std::move(again), {}});
    }
    ended_.push_back(name);
  } else {
    found->second->restart_wanted = true;
    done = core_->terminate_child(name, now, fx);
    if (const auto now_is = core_->find_child(name);
        done && now_is && now_is->state == child_state::stopped) {
      found->second->restart_wanted = false;
      done = core_->restart_child(name, now, fx);
    }
  }
  if (done) return;
  found->second->restart_wanted = false;
  fx.list.emplace_back(supervision_effects::event{
      supervision_effects::event_kind::start_failed, name, {exit_kind::start_failed, done.error().text}, 0});
}

// What comes of an event is not the supervisor's business, and what throws there must not keep it from its own.
void supervisor::report(const supervision_event& event) const noexcept {
  if (!sink_) return;
  try {
    sink_(event);
  } catch (...) {
  }
}

void supervisor::carry_out(supervision_effects& fx, const std::function<void(const failure&)>& quit) {
  for (auto& e : fx.list) {
    if (auto* start = std::get_if<supervision_effects::start_child>(&e)) {
      start_child(start->name);
    } else if (auto* stop = std::get_if<supervision_effects::stop_child>(&e)) {
      stop_child(stop->name, false);
    } else if (auto* kill = std::get_if<supervision_effects::kill_child>(&e)) {
      stop_child(kill->name, true);
    } else if (auto* event = std::get_if<supervision_effects::event>(&e)) {
      report({wall_clock(system_), join(path_, event->name), event->kind, std::move(event->why),
              event->restarts, spec_.how == strategy::dynamic});
    } else {
      auto& end = std::get<supervision_effects::finished>(e);
      std::shared_ptr<supervisor> parent;
      bool was_starting = false;
      std::function<void(const failure&)> on_finished;
      {
        const std::lock_guard guard{mutex_};
        finished_ = true;
        finished_with_ = end.why;
        was_starting = std::exchange(starting_, false);
        parent = parent_.lock();
        on_finished = on_finished_;
        start_decided_.notify_all();
        // Those that were to be started again, and never were.
        for (const auto& [name, s] : seats_) {
          if (const auto& sub = s->definition.as_supervisor; sub && sub->has_children_to_stop()) {
            orphaned_.push_back(sub);
          }
        }
      }
      for (const auto& sub : std::exchange(orphaned_, {})) sub->kill_everything();
      if (was_starting && parent) parent->tell(start_failed_note{name_, end.why});
      quit(end.why);
      if (on_finished) on_finished(end.why);
    }
  }
  for (const auto& sub : std::exchange(orphaned_, {})) sub->kill_everything();
  for (const auto& [name, running] : std::exchange(adopted_, {})) watch(running, name, 1);
  for (const auto& name : std::exchange(to_revive_, {})) {
    seat& s = *seats_.at(name);
    const auto handle = s.definition.as_supervisor->start_actor(shared_from_this(), name);
    auto dropped = handle;
    {
      const std::lock_guard guard{mutex_};
      std::swap(s.handle, dropped);
    }
    watch(handle, name, s.incarnation);
  }
  // Children that the core has forgotten.
  std::vector<std::unique_ptr<seat>> forgotten;
  const std::lock_guard guard{mutex_};
  for (const auto& name : std::exchange(ended_, {})) {
    const auto found = seats_.find(name);
    if (finished_ || found == seats_.end() || core_->find_child(name)) continue;
    forgotten.push_back(std::move(found->second));
    seats_.erase(found);
    const auto waiting = waiting_for_end_.find(name);
    if (waiting == waiting_for_end_.end()) continue;
    notes_.emplace_back(std::move(waiting->second.front()));
    waiting->second.pop_front();
    if (waiting->second.empty()) waiting_for_end_.erase(waiting);
  }
}

void supervisor::start_child(const std::string& name) {
  seat* s = nullptr;
  std::uint64_t incarnation = 0;
  {
    const std::lock_guard guard{mutex_};
    const auto found = seats_.find(name);
    expects(found != seats_.end(), "a child that starts has a seat");
    s = found->second.get();
    if (s->handle && !s->definition.as_supervisor) {
      // One that was killed with its supervisor is not gone yet: there is never more than one.
      s->start_waits = true;
      return;
    }
    incarnation = ++s->incarnation;
  }
  const auto& d = s->definition;
  caf::actor handle;
  failure why;
  try {
    handle = d.as_supervisor ? d.as_supervisor->start_actor(shared_from_this(), name) : d.start();
  } catch (const std::exception& e) {
    why = {exit_kind::start_failed, e.what()};
  } catch (...) {
    why = {exit_kind::start_failed, "something that is no std::exception was thrown"};
  }
  if (!handle) {
    tell(start_failed_note{name, std::move(why)});
    return;
  }
  auto dropped = handle;
  {
    const std::lock_guard guard{mutex_};
    std::swap(s->handle, dropped);
    const bool kill_wanted = std::exchange(s->kill_wanted, false);
    // Everything was killed meanwhile, but for this one.
    if ((finished_ && !d.as_supervisor) || kill_wanted) {
      caf::anon_send_exit(handle, caf::exit_reason::kill);
    }
  }
  if (d.as_supervisor) {
    // It tells when its own children have started; one that only lost its actor has started already.
    bool running = false;
    {
      const std::lock_guard guard{d.as_supervisor->mutex_};
      running = !d.as_supervisor->starting_ && !d.as_supervisor->finished_;
    }
    if (running) tell(started_note{name});
  } else if (!d.reports_start) {
    tell(started_note{name});
  }
  // Last, for it may have ended already, and that has to be heard after its start.
  watch(handle, name, incarnation);
}

void supervisor::watch(const caf::actor& handle, const std::string& name, std::uint64_t incarnation) {
  handle->attach_functor([weak = weak_from_this(), name, incarnation](const caf::error& reason) {
    if (const auto self = weak.lock()) self->tell(ended_note{name, incarnation, failure_from(reason)});
  });
}

void supervisor::stop_child(const std::string& name, bool by_force) {
  caf::actor handle;
  std::shared_ptr<supervisor> sub;
  std::function<void(const caf::actor&)> stop;
  {
    const std::lock_guard guard{mutex_};
    const auto found = seats_.find(name);
    if (found == seats_.end()) return;
    handle = found->second->handle;
    sub = found->second->definition.as_supervisor;
    stop = found->second->definition.stop;
  }
  if (sub) {
    if (by_force) return sub->kill_everything();
    return sub->shut_down();
  }
  if (!handle) return;
  if (by_force) {
    caf::anon_send_exit(handle, caf::exit_reason::kill);
  } else if (stop) {
    try {
      stop(handle);
    } catch (...) {
      caf::anon_send_exit(handle, caf::exit_reason::kill);
    }
  } else {
    caf::anon_send_exit(handle, caf::exit_reason::user_shutdown);
  }
}

bool supervisor::has_children_to_stop() const {
  const std::lock_guard guard{mutex_};
  return core_ && !finished_;
}

void supervisor::kill_everything() {
  std::vector<caf::actor> handles;
  std::vector<std::shared_ptr<supervisor>> subs;
  caf::actor own;
  {
    const std::lock_guard guard{mutex_};
    finished_ = true;
    finished_with_ = {exit_kind::killed, "it did not stop in time"};
    own = actor_;
    for (auto& [name, s] : seats_) {
      if (s->definition.as_supervisor) {
        subs.push_back(s->definition.as_supervisor);
      } else if (s->handle) {
        handles.push_back(s->handle);
      }
    }
  }
  for (const auto& sub : subs) sub->kill_everything();
  for (const auto& handle : handles) caf::anon_send_exit(handle, caf::exit_reason::kill);
  if (own) caf::anon_send_exit(own, caf::exit_reason::kill);
}

void supervisor::report_start() {
  std::shared_ptr<supervisor> parent;
  {
    const std::lock_guard guard{mutex_};
    if (!starting_ || finished_) return;
    bool all = true;
    if (core_->is_ending()) return;  // a child did not start
    if (core_->how() != strategy::dynamic) {
      core_->for_each_child([&](const child_status& c) {
        if (c.state == child_state::waiting || c.state == child_state::starting) all = false;
      });
    }
    if (!all) return;
    starting_ = false;
    parent = parent_.lock();
    start_decided_.notify_all();
  }
  if (parent) parent->tell(started_note{name_});
}

// --- handlers that run too long -----------------------------------------------------------------------------------

// Under the lock, or before anybody else can. What the looks need to know of a child.
void supervisor::know(const child_definition& child) {
  if (child.as_supervisor) below_.insert(child.as_supervisor);
  const auto limit = child.spec.handler_limit;
  if (limit.count() == 0 || !child.figures) return;
  shortest_limit_ = shortest_limit_.count() == 0 ? limit : std::min(shortest_limit_, limit);
}

void supervisor::look_for_overruns(std::chrono::nanoseconds longest) {
  std::vector<std::shared_ptr<supervisor>> subs;
  bool some_may = false;
  {
    const std::lock_guard guard{mutex_};
    if (finished_) return;
    forget_ended_overruns();
    some_may = shortest_limit_.count() != 0 && longest > shortest_limit_;
    for (auto sub = below_.begin(); sub != below_.end();) {
      if (auto alive = sub->lock()) {
        subs.push_back(std::move(alive));
        ++sub;
      } else {
        sub = below_.erase(sub);
      }
    }
  }
  if (some_may) find_overruns();
  for (const auto& sub : subs) sub->look_for_overruns(longest);
}

// Under the lock. Their next ones will be told of.
void supervisor::forget_ended_overruns() {
  std::erase_if(overrunning_, [this](const std::string& name) {
    const auto found = seats_.find(name);
    if (found == seats_.end() || !found->second->overrun_told) return true;
    const auto& d = found->second->definition;
    if (d.figures().busy_for > d.spec.handler_limit) return false;
    found->second->overrun_told = false;
    return true;
  });
}

// Others need the lock, too: it is held for one part of the children at a time, a fraction of a millisecond. Whoever comes
// or moves in between may be missed, and is found the next time.
void supervisor::find_overruns() {
  constexpr std::size_t buckets_at_once = 256;
  for (std::size_t from = 0;; from += buckets_at_once) {
    std::vector<overran_note> over;
    {
      const std::lock_guard guard{mutex_};
      const auto end = std::min(from + buckets_at_once, seats_.bucket_count());
      if (from >= end) return;
      for (auto bucket = from; bucket < end; ++bucket) {
        for (auto one = seats_.begin(bucket); one != seats_.end(bucket); ++one) {
          auto& s = *one->second;
          const auto& d = s.definition;
          if (!d.figures || d.spec.handler_limit.count() == 0 || !s.handle || s.overrun_told) continue;
          const auto busy = d.figures().busy_for;
          if (busy <= d.spec.handler_limit) continue;
          s.overrun_told = true;
          overrunning_.push_back(one->first);
          over.push_back({one->first, std::chrono::duration_cast<std::chrono::milliseconds>(busy)});
        }
      }
    }
    for (auto& o : over) tell(std::move(o));
  }
}

// --- what an operator may do --------------------------------------------------------------------------------------

result<supervisor::place> supervisor::resolve(std::string_view path) const {
  if (!path.starts_with('/')) return error{errc::unreachable, "a path starts with '/': " + std::string{path}};
  auto of = shared_from_this();
  std::string_view rest = path.substr(1);
  while (rest.ends_with('/')) rest.remove_suffix(1);
  if (rest.empty()) return place{of, ""};
  for (;;) {
    const auto slash = rest.find('/');
    const std::string name{rest.substr(0, slash)};
    std::shared_ptr<supervisor> sub;
    std::string its_path;
    {
      const std::lock_guard guard{of->mutex_};
      its_path = join(of->path_, name);
      const auto found = of->seats_.find(name);
      if (found == of->seats_.end()) {
        return error{errc::unreachable, "no actor has the path " + std::string{path} + ": " + of->path_ +
                                            " has no child '" + name + "'; see `posthorn actors tree`"};
      }
      sub = found->second->definition.as_supervisor;
    }
    if (slash == std::string_view::npos) return place{of, name};
    if (!sub) {
      return error{errc::unreachable,
                   "no actor has the path " + std::string{path} + ": " + its_path + " is no supervisor"};
    }
    of = sub;
    rest = rest.substr(slash + 1);
  }
}

result<void> supervisor::kill(std::string_view path) {
  auto at = resolve(path);
  if (!at) return at.error();
  // Sent under the lock, as in `tell`.
  std::unique_lock lock{at->of->mutex_};
  const auto s = at->of->seats_.find(at->name);
  if (s != at->of->seats_.end() && !s->second->handle && !at->of->finished_ && at->of->core_) {
    const auto status = at->of->core_->find_child(at->name);
    if (status && status->state == child_state::asleep) {
      s->second->definition.is_wanted = nullptr;  // by the operator, from now on
      s->second->kill_wanted = true;
      lock.unlock();
      std::const_pointer_cast<supervisor>(at->of)->wake(at->name);
      return {};
    }
  }
  const auto* handle = at->name.empty()            ? &at->of->actor_
                       : s != at->of->seats_.end() ? &s->second->handle
                                                   : nullptr;
  if (handle == nullptr || !*handle || at->of->finished_) {
    return overloaded("the actor " + std::string{path} + " does not run just now");
  }
  caf::anon_send_exit(*handle, caf::exit_reason::kill);
  return {};
}

result<void> supervisor::restart(std::string_view path) {
  auto at = resolve(path);
  if (!at) return at.error();
  if (at->name.empty()) return kill(path);  // a root never ends but with the node
  const auto of = std::const_pointer_cast<supervisor>(at->of);
  {
    const std::lock_guard guard{of->mutex_};
    if (!of->seats_.contains(at->name))
      return overloaded("the actor " + std::string{path} + " has just ended");
  }
  of->tell(restart_note{at->name});
  return {};
}

actor_report supervisor::report_on(const child_status& status, const seat* s) const {
  actor_report out;
  const std::string name{status.name};
  out.path = join(path_, name);
  out.state = status.state;
  out.restarts = status.restarts;
  if (status.last_failure != nullptr) {
    out.last_failure = *status.last_failure;
    out.failed_at = wall_clock_of(system_, status.failed_at);
  }
  out.since = wall_clock_of(system_, status.since);
  out.rules = *status.rules;
  if (s == nullptr) return out;
  out.kind = s->definition.kind;
  if (s->definition.figures) out.figures = s->definition.figures();
  if (const auto& sub = s->definition.as_supervisor) {
    out.is_supervisor = true;
    out.how = sub->spec_.how;
    out.intensity = sub->spec_.intensity;
    out.shutdown_when = sub->spec_.shutdown_when;
    const std::lock_guard guard{sub->mutex_};
    out.children = sub->seats_.size();
  }
  return out;
}

actor_report supervisor::report_on_itself() const {
  actor_report out;
  const std::lock_guard guard{mutex_};
  out.path = path_;
  out.kind = "supervisor";
  out.is_supervisor = true;
  out.state = child_state::running;
  out.how = spec_.how;
  out.intensity = spec_.intensity;
  out.shutdown_when = spec_.shutdown_when;
  out.children = seats_.size();
  return out;
}

result<actor_report> supervisor::show(std::string_view path) const {
  auto at = resolve(path);
  if (!at) return at.error();
  if (at->name.empty()) return at->of->report_on_itself();
  const std::lock_guard guard{at->of->mutex_};
  const auto status = at->of->core_ ? at->of->core_->find_child(at->name) : std::nullopt;
  const auto s = at->of->seats_.find(at->name);
  if (!status) return error{errc::unreachable, "the actor " + std::string{path} + " has just ended"};
  return at->of->report_on(*status, s == at->of->seats_.end() ? nullptr : s->second.get());
}

result<void> supervisor::walk(std::string_view path, std::size_t count_max,
                              const std::function<void(const actor_report&)>& visit) const {
  auto at = resolve(path);
  if (!at) return at.error();
  auto of = at->of;
  if (!at->name.empty()) {
    auto own = at->of->show("/" + at->name);
    if (!own) return own.error();
    visit(*own);
    std::shared_ptr<const supervisor> sub;
    {
      const std::lock_guard guard{of->mutex_};
      if (const auto s = of->seats_.find(at->name); s != of->seats_.end())
        sub = s->second->definition.as_supervisor;
    }
    if (!sub) return {};
    of = sub;
  } else {
    visit(of->report_on_itself());
  }
  // The reports are gathered under the lock and given outside of it.
  const std::function<void(const supervisor&)> below = [&](const supervisor& s) {
    std::vector<std::pair<actor_report, std::shared_ptr<const supervisor>>> children;
    {
      const std::lock_guard guard{s.mutex_};
      if (!s.core_) return;
      s.core_->for_each_child([&](const child_status& status) {
        if (children.size() >= count_max) return;
        const auto found = s.seats_.find(std::string{status.name});
        const seat* its = found == s.seats_.end() ? nullptr : found->second.get();
        children.emplace_back(s.report_on(status, its),
                              its != nullptr ? its->definition.as_supervisor : nullptr);
      });
    }
    for (const auto& [report, sub] : children) {
      visit(report);
      if (sub) below(*sub);
    }
  };
  below(*of);
  return {};
}

caf::actor supervisor::find(std::string_view path) const {
  const auto at = resolve(path);
  if (!at) return {};
  const std::lock_guard guard{at->of->mutex_};
  if (at->name.empty()) return at->of->actor_;
  const auto s = at->of->seats_.find(at->name);
  return s == at->of->seats_.end() ? caf::actor{} : s->second->handle;
}

}  // namespace posthorn
