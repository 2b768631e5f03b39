#include "actors/plain_actors.hpp"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

namespace posthorn {

namespace detail {

// Where one actor of a program stands; its successors come here, too.
struct actor_place_of_user {
  explicit actor_place_of_user(std::string p) : path{std::move(p)} {}

  const std::string path;
  mutable std::mutex mutex;   // guards what follows
  caf::actor now;             // null: none runs
  bool unwanted = false;      // it was stopped, and is not to be started again
  bool has_declined = false;  // and when it was asked to start all the same, it did not
  bool is_nothing = false;    // its starter gave no actor

  void gone(const caf::actor_addr& who) {
    const std::lock_guard guard{mutex};
    if (now && now.address() == who) now = nullptr;
  }
};

// What all groups of a node share.
struct user_tree {
  user_tree(caf::actor_system& s, supervisor::event_sink f) : system{s}, forward{std::move(f)} {}

  caf::actor_system& system;
  const supervisor::event_sink forward;

  std::mutex mutex;  // guards what follows
  std::condition_variable news;
  // Of those that somebody waits for: whether it has started, as soon as that is known.
  struct start_of {
    std::function<bool()> is_nothing;  // there was nothing to run
    std::optional<result<void>> known{};
  };
  std::map<std::string, start_of, std::less<>> starting;
  bool closed = false;

  void on_event(const supervision_event& e) {
    {
      const std::lock_guard guard{mutex};
      if (const auto waiting = starting.find(e.path); waiting != starting.end() && !waiting->second.known) {
        auto& known = waiting->second.known;
        if (e.kind == event_kind::started || e.kind == event_kind::restarted) {
          known = result<void>{};
        } else if (e.kind == event_kind::start_failed) {
          known = refused("'" + e.path + "' did not start: " + e.why.reason);
        } else if (e.kind == event_kind::stopped && waiting->second.is_nothing()) {
          // Else it tells of the one that had the name before.
          known = refused("'" + e.path + "' did not start: there was nothing to run");
        }
      }
    }
    news.notify_all();
    if (forward) forward(e);
  }

  // Runs `begin`, and waits for what becomes of the actor of this path.
  result<void> start(const std::string& path, std::function<bool()> is_nothing,
                     const std::function<void()>& begin) {
    std::unique_lock lock{mutex};
    if (closed) return overloaded("the node stops");
    if (!starting.try_emplace(path, start_of{std::move(is_nothing)}).second)
      return overloaded("'" + path + "' is being started just now");
    lock.unlock();
    begin();
    lock.lock();
    news.wait_for(lock, supervised_group::patience, [&] { return closed || starting.at(path).known; });
    const auto node = starting.extract(path);
    if (node.mapped().known) return *node.mapped().known;
    return overloaded(closed ? "the node stops"
                             : "'" + path + "' has not started in time; it may still do so");
  }

private:
  using event_kind = supervision_effects::event_kind;
};

struct group_place : std::enable_shared_from_this<group_place> {
  group_place(std::shared_ptr<user_tree> of, std::string p) : tree{std::move(of)}, path{std::move(p)} {}

  const std::shared_ptr<user_tree> tree;
  const std::string path;
  strategy how{};
  restart_intensity intensity;
  bool stands_alone = true;  // one of many in a dynamic group

  mutable std::mutex mutex;                 // guards what follows
  std::shared_ptr<supervisor> supervising;  // null: the node has stopped
  std::map<std::string, std::shared_ptr<actor_place_of_user>, std::less<>> actors;  // by name
  std::map<std::string, std::shared_ptr<group_place>, std::less<>> groups;

  [[nodiscard]] std::shared_ptr<supervisor> running() const {
    const std::lock_guard guard{mutex};
    return supervising;
  }

  [[nodiscard]] error nothing_named(std::string_view name) const {
    return {errc::unreachable, "'" + path + "' has no child '" + std::string{name} + "'"};
  }

  // The child as its supervisor starts it. What it is remembered by comes into `actors` or `groups`.
  result<child_definition> define(const plain_child& child) {
    child_definition out;
    out.spec = child.group ? child.group->rules : child.rules;
    out.spec.name = path_part(out.spec.name);
    const auto name = out.spec.name;
    // Each of many has a budget of its own.
    if (how == strategy::dynamic && !out.spec.budget) out.spec.budget = intensity;
    if (child.group) {
      auto made = std::make_shared<group_place>(tree, path + "/" + name);
      if (auto done = made->fill(*child.group); !done) return done.error();
      // One that fails too often ends as `shutdown`, as in OTP: what it stands in has to answer for that, unless it is one
      // of many.
      out.spec.restart = how == strategy::dynamic ? restart_kind::transient : restart_kind::permanent;
      made->stands_alone = how == strategy::dynamic;
      out.as_supervisor = made->supervising;
      const std::lock_guard guard{mutex};
      groups[name] = std::move(made);
      actors.erase(name);
      return out;
    }
    if (!child.start) {
      return refused("child '" + child.rules.name + "' of '" + path + "' has nothing that starts it");
    }
    auto place = std::make_shared<actor_place_of_user>(path + "/" + name);
    out.start = [place, starter = child.start, &system = tree->system]() -> caf::actor {
      {
        const std::lock_guard guard{place->mutex};
        place->has_declined = place->unwanted;
        if (place->unwanted) return nullptr;
      }
      auto started = starter(system);
      {
        const std::lock_guard guard{place->mutex};
        place->is_nothing = !started;
        if (!started) return nullptr;
        place->now = started;
      }
      started->attach_functor([place, who = started.address()](const caf::error&) { place->gone(who); });
      return started;
    };
    const std::lock_guard guard{mutex};
    actors[name] = std::move(place);
    groups.erase(name);
    return out;
  }

  // Makes the supervisor and everything below it; nothing runs yet.
  result<void> fill(const plain_group& from) {
    how = from.how.how;
    intensity = from.how.intensity;
    std::vector<child_definition> definitions;
    for (const auto& child : from.children) {
      auto defined = define(child);
      if (!defined) return defined.error();
      definitions.push_back(std::move(*defined));
    }
    auto made = supervisor::make(tree->system, from.how, std::move(definitions),
                                 [t = tree](const supervision_event& e) { t->on_event(e); });
    if (!made) return error{made.error().code, "the group '" + path + "': " + made.error().text};
    supervising = std::move(*made);
    return {};
  }

  [[nodiscard]] std::optional<child_state> state_of(const std::string& name) const {
    const auto by = running();
    if (!by) return std::nullopt;
    const auto report = by->show("/" + name);
    return report ? std::optional{report->state} : std::nullopt;
  }

  result<void> start(const plain_child& child) {
    const auto by = running();
    if (!by) return overloaded("the node has stopped");
    const auto& given = child.group ? child.group->rules.name : child.rules.name;
    const auto name = path_part(given);
    if (name.empty()) return refused("a child of '" + path + "' needs a name: one part of its path");
    if (const auto state = state_of(name)) {
      return refused("'" + path + "' has a child '" + given + "', which is " +
                     std::string{to_string(*state)} + ": stop or restart that one, or choose another name");
    }
    auto defined = define(child);
    if (!defined) return defined.error();
    std::shared_ptr<actor_place_of_user> place;
    {
      const std::lock_guard guard{mutex};
      if (const auto found = actors.find(name); found != actors.end()) place = found->second;
    }
    const auto is_nothing = [place] {
      if (!place) return false;  // a group
      const std::lock_guard guard{place->mutex};
      return place->is_nothing;
    };
    return tree->start(path + "/" + name, is_nothing, [&] { by->add(std::move(*defined)); });
  }

  result<void> stop_actor(const std::string& name, actor_place_of_user& place) {
    {
      const std::lock_guard guard{place.mutex};
      place.unwanted = true;
    }
    // What ends a child by its shutdown rule and is no failure is an operator's restart; that it does not come back is the
    // starter's doing. While the group itself starts or stops, the order is not taken, and is given again.
    constexpr auto order_again_after = std::chrono::milliseconds{200};
    const auto give_up_at = std::chrono::steady_clock::now() + supervised_group::patience;
    auto order_at = std::chrono::steady_clock::now();
    // Between its end and the start that it declines, nothing stands there for a moment. One that nobody asks to start
    // again is over when that lasts.
    constexpr auto over_after = std::chrono::milliseconds{250};
    constexpr std::chrono::steady_clock::time_point never{};
    auto ended_at = never;
    const auto is_over = [&] {
      const auto state = state_of(name);
      const bool rests = state && (*state == child_state::stopped || *state == child_state::failed);
      if (state && (how == strategy::dynamic || !rests)) {
        ended_at = never;
        return false;
      }
      const auto now = std::chrono::steady_clock::now();
      if (ended_at == never) ended_at = now;
      const std::lock_guard guard{place.mutex};
      return place.has_declined || now - ended_at >= over_after;
    };
    while (!is_over()) {
      const auto by = running();
      if (!by) return {};
      if (const auto now = std::chrono::steady_clock::now(); now >= order_at) {
        if (state_of(name) != child_state::stopping) (void)by->restart("/" + name);
        order_at = now + order_again_after;
      }
      std::unique_lock lock{tree->mutex};
      // Events come a little before what they tell of can be seen.
      tree->news.wait_for(lock, std::chrono::milliseconds{5});
      if (std::chrono::steady_clock::now() > give_up_at) {
        return overloaded("'" + place.path + "' has not ended in time; it is still asked to");
      }
    }
    return {};
  }

  result<void> stop() {
    const auto by = running();
    if (!by) return {};
    if (!stands_alone) {
      return refused("the group '" + path + "' is a part of the one that it stands in: stop that one");
    }
    by->shut_down();
    if (!by->wait_until_finished(supervised_group::patience)) {
      return overloaded("'" + path + "' has not ended in time; it is still asked to");
    }
    return {};
  }

  // Nothing of the system of actors may be held when it goes.
  void forget() {
    std::map<std::string, std::shared_ptr<group_place>, std::less<>> below;
    std::shared_ptr<supervisor> by;
    {
      const std::lock_guard guard{mutex};
      by.swap(supervising);
      below.swap(groups);
      for (auto& [name, place] : actors) {
        const std::lock_guard of_place{place->mutex};
        place->now = nullptr;
      }
      actors.clear();
    }
    for (auto& [name, group] : below) group->forget();
  }
};

}  // namespace detail

caf::actor actor_reference::get() const {
  if (!place_) return nullptr;
  const std::lock_guard guard{place_->mutex};
  return place_->now;
}

const std::string& actor_reference::path() const noexcept {
  static const std::string none;
  return place_ ? place_->path : none;
}

const std::string& supervised_group::path() const noexcept { return place_->path; }

result<actor_reference> supervised_group::start(plain_child child) const {
  if (auto done = place_->start(child); !done) return done.error();
  return find(child.rules.name);
}

result<supervised_group> supervised_group::start(plain_group group) const {
  const auto name = group.rules.name;
  if (auto done = place_->start({{}, {}, std::make_shared<const plain_group>(std::move(group))}); !done) {
    return done.error();
  }
  return this->group(name);
}

result<void> supervised_group::stop(std::string_view child) const {
  const auto name = path_part(child);
  std::shared_ptr<detail::actor_place_of_user> actor;
  std::shared_ptr<detail::group_place> group;
  {
    const std::lock_guard guard{place_->mutex};
    if (const auto found = place_->actors.find(name); found != place_->actors.end()) actor = found->second;
    if (const auto found = place_->groups.find(name); found != place_->groups.end()) group = found->second;
  }
  if (actor) return place_->stop_actor(name, *actor);
  if (group) return group->stop();
  return place_->nothing_named(child);
}

result<void> supervised_group::restart(std::string_view child) const {
  const auto name = path_part(child);
  const auto by = place_->running();
  if (!by) return overloaded("the node has stopped");
  {
    const std::lock_guard guard{place_->mutex};
    if (const auto found = place_->actors.find(name); found != place_->actors.end()) {
      const std::lock_guard of_actor{found->second->mutex};
      found->second->unwanted = found->second->has_declined = false;
    }
  }
  return by->restart("/" + name);
}

result<void> supervised_group::stop() const { return place_->stop(); }

result<actor_reference> supervised_group::find(std::string_view child) const {
  const std::lock_guard guard{place_->mutex};
  const auto found = place_->actors.find(path_part(child));
  if (found == place_->actors.end()) return place_->nothing_named(child);
  return actor_reference{found->second};
}

result<supervised_group> supervised_group::group(std::string_view name) const {
  const std::lock_guard guard{place_->mutex};
  const auto found = place_->groups.find(path_part(name));
  if (found == place_->groups.end()) return place_->nothing_named(name);
  return supervised_group{found->second};
}

plain_actors::plain_actors(caf::actor_system& system, supervisor& root, supervisor::event_sink forward)
    : root_{root}, tree_{std::make_shared<detail::user_tree>(system, std::move(forward))} {}

plain_actors::~plain_actors() {
  {
    const std::lock_guard guard{tree_->mutex};
    tree_->closed = true;
  }
  tree_->news.notify_all();
  const std::lock_guard guard{mutex_};
  if (!user_) return;
  // Each child's shutdown rule says how long that may take; without an end, if so it says.
  if (const auto all = user_->running()) {
    all->shut_down();
    while (!all->wait_until_finished(supervised_group::patience)) {
    }
  }
  user_->forget();
}

result<supervised_group> plain_actors::supervise(plain_group group) {
  std::shared_ptr<detail::group_place> user;
  {
    const std::lock_guard guard{mutex_};
    if (!user_) {
      auto made = std::make_shared<detail::group_place>(tree_, "/user");
      plain_group all;
      all.rules.name = "user";
      all.how.how = strategy::dynamic;
      all.how.intensity = budget_default;
      if (auto done = made->fill(all); !done) return done.error();
      child_definition child;
      child.spec.name = "user";
      child.spec.restart = restart_kind::transient;
      child.as_supervisor = made->supervising;
      root_.add(std::move(child));
      user_ = std::move(made);
    }
    user = user_;
  }
  return supervised_group{user}.start(std::move(group));
}

result<actor_reference> plain_actors::find(std::string_view path) const {
  const auto nothing = [&] {
    return error{errc::unreachable, "no actor of this program has the path '" + std::string{path} +
                                        "'; see `posthorn actors tree /user`"};
  };
  std::shared_ptr<detail::group_place> at;
  {
    const std::lock_guard guard{mutex_};
    at = user_;
  }
  constexpr std::string_view prefix = "/user/";
  if (!at || !path.starts_with(prefix)) return nothing();
  auto rest = path.substr(prefix.size());
  for (auto slash = rest.find('/'); slash != std::string_view::npos; slash = rest.find('/')) {
    std::shared_ptr<detail::group_place> next;
    {
      const std::lock_guard guard{at->mutex};
      const auto found = at->groups.find(rest.substr(0, slash));
      if (found == at->groups.end()) return nothing();
      next = found->second;
    }
    at = std::move(next);
    rest = rest.substr(slash + 1);
  }
  const std::lock_guard guard{at->mutex};
  const auto found = at->actors.find(rest);
  if (found == at->actors.end()) return nothing();
  return actor_reference{found->second};
}

}  // namespace posthorn
