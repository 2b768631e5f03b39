// Supervisors for your own CAF actors, in the node's tree at /user, as Erlang/OTP has them.
//
//   auto workers = node.supervise(
//       posthorn::group("workers", posthorn::strategy::one_for_all)
//           .intensity(5, std::chrono::seconds{10})
//           .with(posthorn::child("parser", [](caf::actor_system& system) { return system.spawn(parse); }))
//           .with(posthorn::child("writer", [](caf::actor_system& system) { return system.spawn(write); })
//                     .restart(posthorn::restart_kind::transient)
//                     .back_off({.minimum = 10ms, .maximum = 1s}))
//           .with(posthorn::group("uploads", posthorn::strategy::dynamic)));
//   if (!workers) { … workers.error().text says what to do … }
//
//   auto parser = workers->find("parser");          // stays valid over restarts
//   parser->send("some text");
//   auto uploads = workers->group("uploads");
//   uploads->start(posthorn::child("upload-7", …)); // at run time
//   uploads->stop("upload-7");
//
// What the rules mean stands in docs/supervision.md and at their types in actors/supervision.hpp. A starter that throws, or
// whose deadline has passed, has not started its child. A limit for handlers is not known for plain actors.
//
// Ownership   values, until they are given to the node; what they return owns nothing.
// Threads     starters run in the supervisor's actor: they must not wait.
// Errors      see actors/plain_actors.hpp.
#pragma once

#include "actors/plain_actors.hpp"

#include <chrono>
#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace posthorn {

// One actor of a group, and its rules.
class child {
public:
  // `start(caf::actor_system&)` spawns the actor and gives its handle, typed or not; each restart calls it again.
  template <class Start>
  requires std::invocable<Start&, caf::actor_system&> child(std::string name, Start start) {
    made_.rules.name = std::move(name);
    made_.start = [start = std::move(start)](caf::actor_system& system) mutable {
      return caf::actor_cast<caf::actor>(start(system));
    };
  }

  // Default: permanent.
  child&& restart(restart_kind kind) && {
    made_.rules.restart = kind;
    return std::move(*this);
  }
  // Default: within 5 seconds, then it is killed. It is asked by an exit message with the reason `user_shutdown`.
  child&& shutdown(shutdown_rule rule) && {
    made_.rules.shutdown = rule;
    return std::move(*this);
  }
  // How long it waits after a failure. Default: not at all.
  child&& back_off(backoff pause) && {
    made_.rules.back_off = pause;
    return std::move(*this);
  }
  // What to do about a failure, asked before the restart kind is: `directive(const failure&)`.
  child&& decide(decider by) && {
    made_.rules.decide = std::move(by);
    return std::move(*this);
  }
  // Its own restarts in a period, instead of its group's: over it, it alone is given up. In a dynamic group, each has one:
  // by default as much as the group's intensity.
  child&& budget(std::uint32_t restarts, std::chrono::milliseconds period) && {
    made_.rules.budget = restart_intensity{restarts, period};
    return std::move(*this);
  }
  // Its end may end its group: see group::auto_shutdown. A permanent one never ends so.
  child&& significant() && {
    made_.rules.significant = true;
    return std::move(*this);
  }

  // What a node is given of it.
  [[nodiscard]] const plain_child& definition() const noexcept { return made_; }
  // The same.
  operator const plain_child&() const noexcept { return made_; }

private:
  plain_child made_;
};

// A supervisor, and its children.
class group {
public:
  // `name`: one part of its path, not empty. `how`: who starts again with a child that failed.
  explicit group(std::string name, strategy how = strategy::one_for_one) {
    made_.rules.name = std::move(name);
    made_.how.how = how;
  }

  // The next child; they start in this order, and stop in reverse. A dynamic group has none before it runs.
  group&& with(const child& next) && {
    made_.children.push_back(next.definition());
    return std::move(*this);
  }
  // The next child is a group, with a supervisor of its own.
  group&& with(const group& next) && {
    made_.children.push_back({{}, {}, std::make_shared<const plain_group>(next.made_)});
    return std::move(*this);
  }
  // More failures than this within the period, and the group ends; if it stands in another group that is not dynamic, as
  // that one's failure. Default: 1 in 5 seconds, as in Erlang/OTP.
  group&& intensity(std::uint32_t restarts, std::chrono::milliseconds period) && {
    made_.how.intensity = {restarts, period};
    return std::move(*this);
  }
  // The group ends when a significant child, or all of them, ended by themselves. Default: never.
  group&& auto_shutdown(posthorn::auto_shutdown when) && {
    made_.how.shutdown_when = when;
    return std::move(*this);
  }
  // Of a group in another group: how long it waits before it starts again after it has failed. Default: not at all.
  group&& back_off(backoff pause) && {
    made_.rules.back_off = pause;
    return std::move(*this);
  }
  // Its end may end the group that it stands in: see `auto_shutdown`.
  group&& significant() && {
    made_.rules.significant = true;
    return std::move(*this);
  }

  // What a node is given of it.
  [[nodiscard]] const plain_group& definition() const noexcept { return made_; }
  // The same.
  operator const plain_group&() const noexcept { return made_; }

private:
  plain_group made_;
};

}  // namespace posthorn
