// What a durable actor leaves in the store: its state, its timers, the events of its journal, and what its turns send.
//
// Plain values. docs/store.md has how they stand on disk, persist/actor_tables.hpp reads and writes them.
#pragma once

#include "mailbox/deduplication.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

// In octets. Neither a path nor a timer's name is empty; a path has no zero octet. Together they fit into a key.
inline constexpr std::size_t actor_path_size_max = 400;
inline constexpr std::size_t timer_name_size_max = 100;
// Of one state, of one event, and of the message of a timer, in bytes.
inline constexpr std::size_t actor_value_size_max = std::size_t{256} << 20;

// A message appended to another mailbox. That mailbox must belong to a durable queue or an actor, or its messages are
// buried at the next start: the first message to a new actor comes with the actor's first state.
struct transfer {
  mailbox_id to{};
  sequence at{};
  envelope_ptr message;
  std::int64_t expires_at = 0;  // milliseconds since 1970; 0: never
};

// An actor as its last turn left it.
struct actor_state {
  std::string path;
  mailbox_id mailbox{};  // one actor, one mailbox: neither changes while the actor is known
  sequence used{};       // the last sequence of its mailbox that was ever used
  std::uint64_t schema_version = 0;
  std::uint64_t turn = 0;
  std::vector<std::byte> state;  // a flat Cap'n Proto message; may be empty
  std::uint64_t last_event = 0;  // the last event of its journal that the state has in it; 0: none

  friend bool operator==(const actor_state&, const actor_state&) = default;
};

struct state_write {
  actor_state now;
  // The actor is no more. With it go its state, its timers, its event journal and the messages of its mailbox. Only
  // path and mailbox are looked at.
  bool forget = false;
};

// One path and name have at most one timer; setting it again replaces it.
struct timer_record {
  std::string path, name;
  std::int64_t due = 0;     // milliseconds since 1970
  std::int64_t period = 0;  // milliseconds; 0: once
  envelope_ptr message;     // may be null
};

struct timer_write {
  timer_record timer;
  bool cancel = false;  // only path and name are looked at
};

// One event of an actor's journal. Numbers grow; the actor chooses them.
struct actor_event {
  std::string path;
  std::uint64_t number = 0;
  std::vector<std::byte> bytes;

  friend bool operator==(const actor_event&, const actor_event&) = default;
};

// How far an actor's mailbox was used by a turn that leaves the stored state as it is. The actor is known already.
struct mailbox_use {
  std::string path;
  mailbox_id mailbox{};
  sequence used{};
};

// What an exchange remembers of a message that it has seen, or has forgotten.
struct seen_write {
  mailbox_id exchange{};
  seen_messages::change what;
};

// What is written in one transaction with a mailbox's batch, whole or not at all. Writing it again changes nothing, as
// long as nothing newer of the same actor was written in between. Forgotten actors are forgotten first, so that one
// turn may replace an actor; then comes the rest, in the order of the fields.
struct atomic_writes {
  std::vector<transfer> transfers;
  std::vector<state_write> states;
  std::vector<timer_write> timers;
  std::vector<actor_event> events;
  // (path, number): events up to this number, which a snapshot (the state) has made needless.
  std::vector<std::pair<std::string, std::uint64_t>> prune_events;
  std::vector<mailbox_use> uses;
  std::vector<seen_write> seen;
};

[[nodiscard]] result<void> check_actor_path(std::string_view path);

// `refused`, with what is wrong: a store never writes such a thing, so whoever builds `atomic_writes` out of what
// others ask for looks here first.
[[nodiscard]] result<void> check(const atomic_writes& writes);

}  // namespace posthorn
