// Plain CAF actors of a program, under supervisors of the node's tree, at /user. The typed face is
// posthorn/supervision.hpp.
//
// They are in the tree like the node's own: `posthorn actors tree` shows them, an operator may kill and restart them, and
// what befalls them is an event. Their mailboxes are CAF's and die with them; an actor that has to keep what it was sent is
// a durable one.
//
// A restarted actor is another actor, with another handle. An `actor_reference` stays: it leads to whichever actor stands at
// its place now.
//
// Owns      the supervisors below /user, while the node runs.
// Threads   any, but not a handler of an actor: `supervise`, `start` and `stop` wait until it is done.
// Errors    `refused`: a specification that is wrong, a starter that threw, a name that is taken; `unreachable`: nothing has
//           this name; `overloaded`: it took too long and may still come to be, or the node stops.
#pragma once

#include "actors/supervision.hpp"
#include "actors/supervisor.hpp"

#include <caf/actor.hpp>
#include <caf/actor_cast.hpp>
#include <caf/actor_system.hpp>
#include <caf/send.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

namespace detail {
struct actor_place_of_user;
struct group_place;
struct user_tree;
}  // namespace detail

struct plain_group;

// What is written down of an actor, or of a group instead.
struct plain_child {
  child_spec rules;
  std::function<caf::actor(caf::actor_system&)> start{};
  std::shared_ptr<const plain_group> group{};
};

// A supervisor and its children, from top to bottom in the order in which they start.
struct plain_group {
  child_spec rules;     // as a child of what is above it; its restart kind is not looked at
  supervisor_spec how;  // without children
  std::vector<plain_child> children{};
};

// The actor that stands at a place of the tree now. Cheap to copy; may outlive the node, and then leads nowhere.
class actor_reference {
public:
  actor_reference() = default;

  // Null while it does not run: between a failure and the restart, or when it has ended.
  [[nodiscard]] caf::actor get() const;
  // The same as a typed handle; the type is not checked.
  template <class Handle>
  [[nodiscard]] Handle as() const {
    return caf::actor_cast<Handle>(get());
  }
  // False: nobody is there just now, and it was not sent. True is no promise either, as everywhere in CAF.
  template <class... Parts>
  bool send(Parts&&... parts) const {
    const auto to = get();
    if (to) caf::anon_send(to, std::forward<Parts>(parts)...);
    return static_cast<bool>(to);
  }
  // Where it stands: "/user/workers/parser".
  [[nodiscard]] const std::string& path() const noexcept;

private:
  friend class supervised_group;
  friend class plain_actors;
  explicit actor_reference(std::shared_ptr<const detail::actor_place_of_user> place)
      : place_{std::move(place)} {}

  std::shared_ptr<const detail::actor_place_of_user> place_;
};

// A group that runs. Cheap to copy; owns nothing: the group stays until it is stopped or ends by its rules.
class supervised_group {
public:
  // How long the functions below wait for a start or an end.
  static constexpr std::chrono::milliseconds patience{30'000};

  // From the root: "/user/workers".
  [[nodiscard]] const std::string& path() const noexcept;

  // One more child, at run time; returns when it has started. It stands behind those that are there.
  result<actor_reference> start(plain_child child) const;
  // The same for a group.
  result<supervised_group> start(plain_group group) const;
  // Asks the child to end by its shutdown rule; returns when it has, and it is not started again. In a dynamic group it is
  // forgotten, also if it had failed for good; in another it stays, `stopped`, and `restart` starts it. A group that
  // stands in another one can be stopped alone only if that is dynamic.
  result<void> stop(std::string_view child) const;
  // Also one that was stopped, or has failed for good. Returns at once; see its events.
  result<void> restart(std::string_view child) const;
  // All children in reverse order of their start, then the group itself.
  result<void> stop() const;

  // A child that is an actor. Error: there is none of this name.
  [[nodiscard]] result<actor_reference> find(std::string_view child) const;
  // A child that is a group. Error: there is none of this name.
  [[nodiscard]] result<supervised_group> group(std::string_view name) const;

private:
  friend class plain_actors;
  explicit supervised_group(std::shared_ptr<detail::group_place> place) : place_{std::move(place)} {}

  std::shared_ptr<detail::group_place> place_;
};

// All groups of a node.
class plain_actors {
public:
  // Of /user itself, for groups that are killed: those that fail too often are given up alone, and never end the node.
  static constexpr restart_intensity budget_default{10, std::chrono::seconds{60}};

  // `root`: the root of the tree; outlives this, as does `forward`'s target, to which all events go.
  plain_actors(caf::actor_system& system, supervisor& root, supervisor::event_sink forward);
  // Stops them all, in reverse order of their start, and waits for their end.
  ~plain_actors();
  plain_actors(const plain_actors&) = delete;
  plain_actors& operator=(const plain_actors&) = delete;

  // Returns when the whole group has started; if a child does not start, those before it are stopped again.
  result<supervised_group> supervise(plain_group group);
  // By path, "/user/workers/parser".
  [[nodiscard]] result<actor_reference> find(std::string_view path) const;

private:
  supervisor& root_;
  std::shared_ptr<detail::user_tree> tree_;
  std::shared_ptr<detail::group_place> user_;  // null until it is needed
  mutable std::mutex mutex_;                   // guards user_
};

}  // namespace posthorn
