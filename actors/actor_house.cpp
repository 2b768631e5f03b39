#include "actors/actor_house.hpp"

#include "actors/durable_actor.hpp"
#include "actors/reminders.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"

namespace posthorn {

actor_house::actor_house(node_context& node, std::map<mailbox_id, std::string> with_messages,
                         std::map<mailbox_id, recovered_mailbox> mailboxes)
    : node_{node},
      reminders_{std::make_shared<reminder_port>(node)},
      with_messages_{std::move(with_messages)},
      mailboxes_{std::move(mailboxes)} {
  node_.on_reminders = [port = reminders_] { port->post(look_at_reminders{}); };
  clients_ = supervisor::make(node.system, {.how = strategy::dynamic}, {}, node.on_supervision_event).value();
  child_definition clients;
  clients.spec.name = "clients";
  clients.as_supervisor = clients_;
  tree_ = supervisor::make(node.system, {.intensity = node_context::patience},
                           {reminders_child(node, reminders_), std::move(clients)}, node.on_supervision_event)
              .value();
}

actor_house::~actor_house() = default;

result<void> actor_house::add(std::shared_ptr<const actor_kind> kind) {
  const auto& name = kind->name;
  if (name.empty() || name.find('/') != std::string::npos || path_part(name) != name || name == "reminders" ||
      name == "clients") {
    return refused(
        "'" + name +
        "' cannot be the name of a kind of actors: use a word without '/', '%' or spaces, other than "
        "'reminders' and 'clients'");
  }
  if (kind->handlers.empty()) {
    return refused("the kind '" + name + "' has no handlers: add one with on<Message>(…)");
  }
  kind_entry entry;
  entry.kind = kind;
  auto members = supervisor::make(node_.system, {.how = strategy::dynamic}, {}, node_.on_supervision_event);
  if (!members) return members.error();
  entry.members = *members;
  std::vector<std::pair<std::string, recovered_mailbox>> to_wake;
  {
    const std::lock_guard guard{mutex_};
    if (!kinds_.try_emplace(name, entry).second) {
      return refused("a kind of actors named '" + name + "' is there already");
    }
    const auto prefix = path_of(name) + "/";
    for (auto m = with_messages_.begin(); m != with_messages_.end();) {
      if (!m->second.starts_with(prefix)) {
        ++m;
        continue;
      }
      to_wake.emplace_back(m->second.substr(path_of("").size()), mailboxes_[m->first]);
      mailboxes_.erase(m->first);
      m = with_messages_.erase(m);
    }
  }
  child_definition child;
  child.spec.name = name;
  child.as_supervisor = entry.members;
  tree_->add(std::move(child));
  const std::lock_guard guard{mutex_};
  for (auto& [actor, recovered] : to_wake) {
    if (!awake_.contains(actor)) wake(entry, actor, recovered);
  }
  reminders_->post(look_at_reminders{});
  return {};
}

// Under the lock.
std::shared_ptr<queue_port> actor_house::wake(const kind_entry& of, const std::string& name,
                                              recovered_mailbox recovered) {
  const auto path = path_of(name);
  auto stored = node_.journal.read_state(path);
  if (!stored) {
    if (stored.error().code != errc::refused) {
      node_.on_fatal("cannot read from the store: the state of " + path + ": " + stored.error().text);
    }
    return nullptr;  // no name of an actor
  }
  actor_state state;
  const bool is_new = !*stored;
  if (*stored) {
    state = std::move(**stored);
  } else {
    state.path = path;
    state.mailbox = node_context::next_id<mailbox_id>(node_.last_mailbox);
  }
  recovered.used = std::max(recovered.used, state.used);
  auto port =
      add_actor(node_, *of.members, {state.mailbox, name, path, of.kind->rules, of.kind->supervision},
                recovered, [&](queue_port& p) { return make_durable_actor(node_, of.kind, name, p, state); });
  port->elsewhere = [this, name](queue_message message) {
    if (const auto awake = find(name)) awake->post(std::move(message));
  };
  if (is_new) {
    // Before any message for it can be written, the store knows whose mailbox this is.
    auto first = std::make_shared<outgoing>();
    first->writes.states.push_back({state, false});
    node_.to_journal(write_batch{nullptr, state.mailbox, {}, std::move(first)});
  }
  awake_.emplace(name, port);
  return port;
}

std::shared_ptr<queue_port> actor_house::find(std::string_view name) {
  const auto slash = name.find('/');
  if (slash == std::string_view::npos || slash + 1 == name.size()) return nullptr;
  const std::lock_guard guard{mutex_};
  std::string key{name};
  if (const auto found = awake_.find(key); found != awake_.end()) return found->second;
  const auto kind = kinds_.find(name.substr(0, slash));
  // The id is one part of a path as it stands.
  if (kind == kinds_.end() || path_part(name.substr(slash + 1)) != name.substr(slash + 1)) return nullptr;
  return wake(kind->second, key, {});
}

std::vector<std::shared_ptr<queue_port>> actor_house::route(const topology& where, const envelope& message) {
  std::vector<std::shared_ptr<queue_port>> out;
  for (const auto& queue : route_of(where, message)) out.push_back(port_of(*queue).shared_from_this());
  if (out.empty() && message.exchange().empty()) {
    if (auto port = find(message.routing_key())) out.push_back(std::move(port));
  }
  return out;
}

void actor_house::keep(const std::string& name, std::shared_ptr<queue_port> port) {
  const std::lock_guard guard{mutex_};
  awake_[name] = std::move(port);
}

std::shared_ptr<queue_port> actor_house::release(const std::string& name) {
  const std::lock_guard guard{mutex_};
  const auto found = awake_.find(name);
  if (found == awake_.end()) return nullptr;
  auto port = std::move(found->second);
  awake_.erase(found);
  return port;
}

bool actor_house::go_to_sleep(queue_port& port) {
  const std::lock_guard guard{mutex_};
  {
    const std::lock_guard places{port.places_mutex};
    if (port.expected != 0 || !port.in.close_if_idle()) return false;
    port.closed = true;
  }
  awake_.erase(port.path.substr(path_of("").size()));
  return true;
}

std::size_t actor_house::awake_count() const {
  const std::lock_guard guard{mutex_};
  return awake_.size();
}

void actor_house::each_awake(
    const std::function<void(const std::string& name, const queue_port& port)>& visit) const {
  const std::lock_guard guard{mutex_};
  for (const auto& [name, port] : awake_) visit(name, *port);
}

}  // namespace posthorn
