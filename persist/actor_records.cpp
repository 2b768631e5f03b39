#include "persist/actor_records.hpp"

namespace posthorn {

namespace {

result<void> check_size(std::size_t size, std::string_view what, std::string_view path) {
  if (size <= actor_value_size_max) return {};
  return refused(std::string{what} + " of actor " + std::string{path} + " has " + std::to_string(size) +
                 " bytes; the limit is " + std::to_string(actor_value_size_max));
}

result<void> check_state(const state_write& write) {
  if (auto r = check_actor_path(write.now.path); !r) return r;
  if (write.now.mailbox == mailbox_id{}) return refused("actor " + write.now.path + " has no mailbox");
  return check_size(write.now.state.size(), "the state", write.now.path);
}

result<void> check_timer(const timer_write& write) {
  const auto& t = write.timer;
  if (auto r = check_actor_path(t.path); !r) return r;
  if (t.name.empty() || t.name.size() > timer_name_size_max) {
    return refused("a timer of actor " + t.path + " has a name of " + std::to_string(t.name.size()) +
                   " octets; it must have 1 to " + std::to_string(timer_name_size_max));
  }
  if (write.cancel) return {};
  if (t.due < 0 || t.period < 0) {
    return refused("timer " + t.name + " of actor " + t.path +
                   " is due before 1970, or has a negative period");
  }
  return check_size(t.message ? t.message->bytes().size() : 0, "the message of a timer", t.path);
}

}  // namespace

result<void> check_actor_path(std::string_view path) {
  if (path.empty()) return refused("an actor's path is empty");
  if (path.size() > actor_path_size_max) {
    return refused("an actor's path has " + std::to_string(path.size()) + " octets; the limit is " +
                   std::to_string(actor_path_size_max) + ": " + std::string{path.substr(0, 60)} + "...");
  }
  if (path.find('\0') != std::string_view::npos) return refused("an actor's path has a zero octet");
  return {};
}

result<void> check(const atomic_writes& writes) {
  for (const auto& t : writes.transfers) {
    if (t.to == mailbox_id{} || !t.message) return refused("a transfer has no mailbox or no message");
  }
  for (const auto& s : writes.states) {
    if (auto r = check_state(s); !r) return r;
  }
  for (const auto& t : writes.timers) {
    if (auto r = check_timer(t); !r) return r;
  }
  for (const auto& e : writes.events) {
    if (auto r = check_actor_path(e.path); !r) return r;
    if (auto r = check_size(e.bytes.size(), "an event", e.path); !r) return r;
  }
  for (const auto& [path, number] : writes.prune_events) {
    if (auto r = check_actor_path(path); !r) return r;
  }
  for (const auto& u : writes.uses) {
    if (auto r = check_actor_path(u.path); !r) return r;
    if (u.mailbox == mailbox_id{}) return refused("actor " + u.path + " has no mailbox");
  }
  return {};
}

}  // namespace posthorn
