// A kind of durable actors: what they do with which message, and the rules for their mailboxes and their supervisor.
//
// Its actors have names "kind/id". They need not be made: a message to a name makes the actor, and one that is idle
// leaves memory and comes back with its next message. The typed face of this is posthorn/durable.hpp.
//
// Ownership   shared and not changed any more, once it was added to a node.
// Threads     handlers run in the actor's own handlers, one at a time for each actor, on any of the node's threads.
#pragma once

#include "actors/supervision.hpp"
#include "mailbox/mailbox.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace capnp {
class MessageBuilder;
}

namespace posthorn {

class raw_turn;

// How a kind keeps events beside its state. The typed face sets the functions.
struct event_journal {
  // Changes a state by an event, a flat message. Throws what it likes.
  using applier = std::function<void(capnp::MessageBuilder& state, std::span<const std::byte> event)>;

  std::map<std::string, applier, std::less<>>
      appliers;  // by the type id of the event; empty: there is no journal
  // The state is written when so many events came since it was, at least; 0: never.
  std::uint32_t snapshot_every = 100;
  bool keep_events = false;  // also those that a written state has in it

  // Puts a stored state into an empty builder; no bytes: that of a new actor.
  std::function<void(capnp::MessageBuilder& to, std::span<const std::byte> stored)> load_state;
  // Whether two stored states say the same.
  std::function<bool(std::span<const std::byte> a, std::span<const std::byte> b)> same_state;

  [[nodiscard]] bool on() const noexcept { return !appliers.empty(); }
};

enum class body_format : std::uint8_t { capnp, json };

struct actor_kind {
  // Throws to fail the turn.
  using handler = std::function<void(raw_turn&, std::span<const std::byte> body, body_format format)>;

  std::string name;  // the first part of its actors' names: not empty, without '/'
  // By the type id of the message, as "0x…" in 16 hexadecimal digits, and by the name of its struct.
  std::map<std::string, handler, std::less<>> handlers;
  std::uint32_t schema_version = 0;  // of the state; a state of a newer one is refused
  event_journal journal;
  std::size_t stash_max = 1000;  // messages that one actor may set aside
  mailbox_rules rules{.delivery_limit = 20};
  std::chrono::milliseconds idle_after{60'000};  // 0: they stay in memory
  child_spec supervision{
      .name = "",
      .restart = restart_kind::transient,
      .shutdown = shutdown_rule::within(std::chrono::seconds{3}),
      .handler_limit = std::chrono::seconds{1},
      .back_off = {.minimum = std::chrono::milliseconds{5}, .maximum = std::chrono::milliseconds{1000}},
      .budget = restart_intensity{100, std::chrono::seconds{10}}};
};

}  // namespace posthorn
