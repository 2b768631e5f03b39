#include "actors/actor_house.hpp"

#include "actors/durable_actor.hpp"
#include "actors/reminders.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"

namespace posthorn {

namespace {

// To whoever has the name now.
std::function<bool(queue_message&)> way_to(node_context& node, const std::string& name) {
  return [&node, name](queue_message& message) {
    const auto awake = node.house ? node.house->find(name) : nullptr;
    if (awake) awake->post(std::move(message));
    return awake != nullptr;
  };
}

}  // namespace

queue_ptr actor_definition(node_context& node, mailbox_id id, std::string name) {
  auto made = std::make_shared<queue_definition>();
  made->id = id;
  made->durable = made->of_actor = true;
  made->port = make_doorway(id, name, way_to(node, name));
  made->name = std::move(name);
  return made;
}

actor_house::actor_house(node_context& node, std::map<mailbox_id, std::string> with_messages,
                         std::map<mailbox_id, recovered_mailbox> mailboxes)
    : node_{node},
      reminders_{std::make_shared<reminder_port>(node)},
      routers_{node},
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

namespace {

result<void> check_kind(const actor_kind& kind) {
  const auto& name = kind.name;
  if (name.empty() || name.find('/') != std::string::npos || path_part(name) != name || name == "reminders" ||
      name == "clients" || name == "routers") {
    return refused(
        "'" + name +
        "' cannot be the name of a kind of actors: use a word without '/', '%' or spaces, other than "
        "'reminders', 'clients' and 'routers'");
  }
  if (kind.handlers.empty()) {
    return refused("the kind '" + name + "' has no handlers: add one with on<Message>(…)");
  }
  return {};
}

}  // namespace

result<void> actor_house::add(std::vector<std::shared_ptr<const actor_kind>> kinds) {
  std::vector<std::shared_ptr<supervisor>> members;
  for (const auto& kind : kinds) {
    if (auto checked = check_kind(*kind); !checked) return checked;
    auto made = supervisor::make(node_.system, {.how = strategy::dynamic}, {}, node_.on_supervision_event);
    if (!made) return made.error();
    members.push_back(std::move(*made));
  }
  {
    // Nobody finds an actor of theirs before those that have messages are awake with them.
    const std::lock_guard guard{mutex_};
    std::vector<const kind_entry*> added;
    for (std::size_t n = 0; n < kinds.size(); ++n) {
      const auto& name = kinds[n]->name;
      const auto [entry, is_new] = kinds_.try_emplace(name, kind_entry{kinds[n], members[n]});
      if (!is_new) {
        for (const auto* earlier : added) kinds_.erase(kinds_.find(earlier->kind->name));
        return refused("a kind of actors named '" + name + "' is there already");
      }
      added.push_back(&entry->second);
    }
    for (const auto* entry : added) {
      child_definition child;
      child.spec.name = entry->kind->name;
      child.as_supervisor = entry->members;
      tree_->add(std::move(child));
    }
    for (const auto* entry : added) wake_all(*entry);
  }
  reminders_->post(look_at_reminders{});
  return {};
}

// Under the lock: those that have messages in the store.
void actor_house::wake_all(const kind_entry& of) {
  const auto prefix = path_of(of.kind->name) + "/";
  for (auto m = with_messages_.begin(); m != with_messages_.end();) {
    if (!m->second.starts_with(prefix)) {
      ++m;
      continue;
    }
    wake(of, std::string{name_of(m->second)}, mailboxes_[m->first]);
    mailboxes_.erase(m->first);
    m = with_messages_.erase(m);
  }
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
  port->elsewhere = way_to(node_, name);
  if (is_new) {
    // Before any message for it can be written, the store knows whose mailbox this is.
    auto first = std::make_shared<outgoing>();
    first->writes.states.push_back({state, false});
    node_.to_journal(write_batch{nullptr, state.mailbox, {}, std::move(first)});
  }
  awake_.emplace(name, port);
  return port;
}

// Under the lock. The id is one part of a path as it stands.
const actor_house::kind_entry* actor_house::kind_of(std::string_view name) const {
  const auto slash = name.find('/');
  if (slash == std::string_view::npos || slash + 1 == name.size()) return nullptr;
  const auto found = kinds_.find(name.substr(0, slash));
  if (found == kinds_.end() || path_part(name.substr(slash + 1)) != name.substr(slash + 1)) return nullptr;
  return &found->second;
}

std::shared_ptr<queue_port> actor_house::find(std::string_view name) {
  if (name.find('/') == std::string_view::npos) return nullptr;
  if (router_table::is_name(name)) return routers_.doorway(name);
  const std::lock_guard guard{mutex_};
  std::string key{name};
  if (const auto found = awake_.find(key); found != awake_.end()) return found->second;
  const auto* kind = kind_of(name);
  return kind == nullptr ? nullptr : wake(*kind, key, {});
}

std::shared_ptr<queue_port> actor_house::find_awake(std::string_view name) const {
  const std::lock_guard guard{mutex_};
  const auto found = awake_.find(std::string{name});
  return found == awake_.end() ? nullptr : found->second;
}

bool actor_house::knows(std::string_view name) const {
  const std::lock_guard guard{mutex_};
  return kind_of(name) != nullptr;
}

queue_ptr actor_house::definition_of(std::string_view name) {
  if (!knows(name)) return nullptr;
  const auto awake = find(name);
  return awake ? actor_definition(node_, awake->id, std::string{name}) : nullptr;
}

std::shared_ptr<queue_port> actor_house::taker_of(const queue_definition& queue) {
  return queue.of_actor ? find(queue.name) : port_of(queue).shared_from_this();
}

std::vector<std::shared_ptr<queue_port>> actor_house::route(const topology& where, const envelope& message,
                                                            const passage& with) {
  std::vector<std::shared_ptr<queue_port>> out;
  for (const auto& queue : route_of(where, message, with)) {
    auto port = taker_of(*queue);
    out.push_back(port ? std::move(port) : port_of(*queue).shared_from_this());
  }
  if (out.empty() && message.exchange().empty()) {
    if (router_table::is_name(message.routing_key())) return routers_.choose(message);
    if (auto port = find(message.routing_key())) out.push_back(std::move(port));
  }
  return out;
}

error actor_house::why_nowhere(std::string_view name) const {
  if (router_table::is_name(name)) return routers_.why_nowhere(name);
  return refused(
      "nothing has the name '" + std::string{name} +
      "': send to an actor of a known kind (\"kind/id\"), to a router (\"routers/name\"), or to a queue "
      "that was declared");
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
