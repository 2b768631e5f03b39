// The shell of an actor whose messages and memory outlive it.
//
// What an actor knows, and what it has not handled, stand in its port; the actor itself is only the one who works on
// them. When it ends for whatever reason, its supervisor starts a successor over the same port, which takes up the next
// message. Nobody who has the port notices. (Erlang's idiom for this is a table with an heir.)
//
// A successor trusts the memory only if its predecessor ended between two messages, as a killed actor always does. If
// it failed in the middle of one, the logic is told so (`begin`), and must put its memory in order first.
//
// A port is a class with
//
//   inbox<Message> in;            what waits
//   actor_status status;          what others may see of it
//   Logic& logic();               with
//     void begin(worker_actor::pointer self, bool after_failure);   a new actor starts
//     void on(Message&);          once for each message, in order
//     void discard(Message&);     instead of `on`: an actor failed at it
//     void on_idle();             everything that was there is handled
//     void on_tick(tick);         a timer that `begin` or a message set
//     void on_down(caf::down_msg&)
#pragma once

#include "actors/busy_threads.hpp"
#include "actors/inbox.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>

namespace posthorn {

// What an actor can tell about its work, beyond what its supervisor knows.
struct actor_figures {
  std::uint64_t mailbox_depth = 0;  // messages that wait for it
  std::uint64_t handled = 0;        // messages since the node started
  std::chrono::nanoseconds busy_time{0};
  std::chrono::nanoseconds busy_for{0};  // with what it does now; 0: it waits
};

// What an actor says of itself while it runs. Written by the actor, read by anyone.
struct actor_status {
  std::atomic<std::uint64_t> handled{0};    // messages
  std::atomic<std::uint64_t> busy_time{0};  // nanoseconds spent on them
  std::atomic<std::int64_t> busy_since{0};  // steady clock, nanoseconds; 0: it waits for messages
  std::atomic<bool> in_message{false};      // it is in the middle of one, or failed there
  std::atomic<bool> ending{false};          // it has decided to end: no further message is for it

  static std::int64_t now() noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

// An exception that ends an actor becomes the reason that its supervisor sees. CAF's own handler prints it.
[[nodiscard]] caf::error failure_of(const std::exception_ptr& thrown);

template <class Port>
class worker_shell {
public:
  static inline const char* name = Port::kind;

  worker_shell(worker_actor::pointer self, std::weak_ptr<Port> port) : self_{self}, port_{std::move(port)} {
    self_->set_exception_handler([](std::exception_ptr& thrown) { return failure_of(thrown); });
    self_->set_down_handler(
        [this](caf::down_msg& down) { with_port([&](Port& p) { p.logic().on_down(down); }); });
  }

  worker_actor::behavior_type make_behavior() {
    bool after_failure = false;
    if (const auto port = port_.lock()) after_failure = port->status.in_message;
    with_port([&](Port& p) {
      p.status.ending = false;
      p.logic().begin(self_, after_failure);
    });
    return {
        [this](work) { on_work(); },
        [this](const tick& t) { with_port([&](Port& p) { p.logic().on_tick(t); }); },
    };
  }

private:
  // A message at which an actor failed is not tried again: it may have been taken apart.
  static constexpr std::uint32_t attempts_max = 1;
  // Others on the same thread have their turn after so many messages.
  static constexpr int messages_per_turn = 256;

  void on_work() {
    with_port([&](Port& p) {
      for (int n = 0; n < messages_per_turn; ++n) {
        auto* message = p.in.next();
        if (message == nullptr) return p.logic().on_idle();
        p.status.busy_since.store(actor_status::now(), std::memory_order_relaxed);
        if (p.in.attempts() > attempts_max) {
          p.logic().discard(*message);
        } else {
          p.logic().on(*message);
        }
        p.in.done();
        if (p.status.ending.load(std::memory_order_relaxed)) return;
        p.status.handled.fetch_add(1, std::memory_order_relaxed);
      }
      p.logic().on_idle();
      self_->send(self_, work{});
    });
  }

  template <class Visit>
  void with_port(Visit visit) {
    const auto port = port_.lock();
    if (!port) return self_->quit();
    auto& status = port->status;
    const auto began = actor_status::now();
    const busy_threads::stay busy{began};
    status.busy_since.store(began, std::memory_order_relaxed);
    status.in_message.store(true, std::memory_order_relaxed);
    visit(*port);
    status.in_message.store(false, std::memory_order_relaxed);
    status.busy_since.store(0, std::memory_order_relaxed);
    status.busy_time.fetch_add(static_cast<std::uint64_t>(actor_status::now() - began),
                               std::memory_order_relaxed);
  }

  worker_actor::pointer self_;
  std::weak_ptr<Port> port_;
};

// What a port says of its actor.
template <class Port>
actor_figures figures_of(const Port& port) {
  actor_figures out;
  out.mailbox_depth = port.in.depth();
  out.handled = port.status.handled.load(std::memory_order_relaxed);
  out.busy_time = std::chrono::nanoseconds{port.status.busy_time.load(std::memory_order_relaxed)};
  const auto since = port.status.busy_since.load(std::memory_order_relaxed);
  if (since != 0)
    out.busy_for = std::chrono::nanoseconds{std::max<std::int64_t>(0, actor_status::now() - since)};
  return out;
}

// Starts an actor that works on the port, and is woken for what already waits there.
template <class Port, caf::spawn_options Options = caf::no_spawn_options>
caf::actor start_worker(caf::actor_system& system, const std::shared_ptr<Port>& port) {
  const auto worker =
      system.spawn<worker_actor::stateful_impl<worker_shell<Port>>, Options>(std::weak_ptr<Port>{port});
  port->in.attach(worker);
  return caf::actor_cast<caf::actor>(worker);
}

}  // namespace posthorn
