// What befalls the actors of the tree, told to whoever wants to know: a program's own log, an alarm, a test.
//
// Subscribers never hold up the tree: each has a thread of its own, and a queue in between with a limit. What does not fit
// is dropped and counted; the next event that fits says how many are missing before it, and the metric
// `posthorn_events_dropped_total` counts them all. Events come in the order in which they happened to one actor.
//
// Owns      the queues. The subscriber's `subscription` ends it; so does the end of the node, after what waits was told.
// Threads   `subscribe` and `publish` from any. A callback runs on its subscriber's thread, never twice at a time; in a
//           test's node (posthorn/testing.hpp), at once, on the thread of the test.
// Errors    a callback that throws is logged and called again for the next event.
#pragma once

#include "actors/node_context.hpp"
#include "actors/supervision.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace posthorn {

// What can happen to an actor.
using event_kind = supervision_effects::event_kind;

// One thing that happened to an actor of the tree.
struct event {
  std::int64_t at = 0;         // milliseconds since 1970
  std::string path;            // of the actor: "/vhosts/%2F/queues/orders"
  event_kind kind{};           // what happened
  failure why;                 // of started and restarted: empty
  std::uint32_t restarts = 0;  // of the actor so far
  std::uint64_t dropped_before =
      0;  // events that this subscriber has missed between the one before and this one
};

// Which events a subscriber wants, and how many may wait for it.
struct event_filter {
  std::string below = "/";          // the actor of this path, and all below it
  std::vector<event_kind> kinds{};  // none: all
  std::size_t waiting_max = 1024;   // events that may wait for the subscriber; at least 1
};

namespace detail {
struct event_subscriber;
struct event_subscribers;
}  // namespace detail

// Ends with its last breath: after the destructor, or `cancel`, the callback does not run and never will, unless it is
// the callback itself that ends it. Events that still wait are not told.
class [[nodiscard]] subscription {
public:
  subscription() = default;
  subscription(subscription&&) noexcept = default;
  // Ends the one that stood here.
  subscription& operator=(subscription&& other) noexcept;
  ~subscription() { cancel(); }

  // Ends it now.
  void cancel();
  // Events that did not fit, so far.
  [[nodiscard]] std::uint64_t dropped() const;

private:
  friend class event_bus;
  std::shared_ptr<detail::event_subscriber> who_;
  std::weak_ptr<detail::event_subscribers> among_;
};

class event_bus {
public:
  using callback = std::function<void(const event&)>;

  explicit event_bus(node_context& node);
  ~event_bus();
  event_bus(const event_bus&) = delete;
  event_bus& operator=(const event_bus&) = delete;

  subscription subscribe(event_filter filter, callback tell);
  void publish(const supervision_event& event);
  // No more events. Returns when all that waited was told.
  void close();

private:
  node_context& node_;
  caf::telemetry::int_counter* dropped_;
  std::shared_ptr<detail::event_subscribers> subscribers_;
};

}  // namespace posthorn
