// The actor of the durable reminders: when one is due, its message goes to its actor's mailbox in the transaction that
// takes it off the list, or sets it anew.
//
// Owns      nothing: the store has the reminders.
// Receives  look_at_reminders  from whoever set one; reminders_moved from the committer
// Sends     write_batch        to the committer, one at a time
#pragma once

#include "actors/node_context.hpp"
#include "actors/supervisor.hpp"

#include <memory>
#include <variant>

namespace posthorn {

struct look_at_reminders {};
struct reminders_moved {};
using reminder_message = std::variant<look_at_reminders, reminders_moved>;
class reminder_logic;

struct reminder_port : std::enable_shared_from_this<reminder_port> {
  static constexpr const char* kind = "posthorn.reminders";

  explicit reminder_port(node_context& node);
  ~reminder_port();
  void post(reminder_message message) { (void)in.post(std::move(message)); }
  [[nodiscard]] reminder_logic& logic() noexcept { return *memory; }

  inbox<reminder_message> in;
  actor_status status;
  std::unique_ptr<reminder_logic> memory;  // its actor's
};

[[nodiscard]] child_definition reminders_child(node_context& node,
                                               const std::shared_ptr<reminder_port>& port);

}  // namespace posthorn
