#include "actors/vhost.hpp"

#include "actors/actor_house.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"

#include <algorithm>
#include <map>

namespace posthorn {

namespace {

using request = std::variant<topology_request, queue_removal, release_owner>;

}  // namespace

class vhost_logic {
public:
  vhost_logic(node_context& node, vhost_port& port) : node_{node}, port_{&port} {}

  // A step that is being written will be answered to the successor. After a failure, the process starts from the store.
  void begin(worker_actor::pointer self, bool after_failure) {
    self_ = self;
    if (after_failure) {
      node_.on_fatal("a bug ended the actor of vhost '" + port_->name() + "'");
    }
  }

  void on(vhost_message& message) {
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(vhost_message&) {}
  void on_idle() {}
  void on_tick(const tick&) {}
  void on_down(const caf::down_msg&) {}

private:
  // An answer that stands after the write that it depends on.
  struct pending_answer {
    connection_actor to;
    reply what;
    std::string declared;  // the queue that the answer is about; filled in when it has an actor
  };

  // All requests that arrived while the last write was under way are one write. They are applied to a copy, which
  // becomes the snapshot when the write has succeeded, and vanishes without a trace when it has not.
  struct step {
    std::vector<request> requests;
    topology next;
    topology::changes changes;
    std::vector<pending_answer> answers;
    std::vector<std::shared_ptr<queue_port>> removed;
    std::map<connection_id, std::vector<std::string>> owned;
  };

  // Choices come in with the command, so that it gives the same result wherever it is applied.
  void handle(topology_request& message) {
    if (auto* declare = std::get_if<declare_queue>(&message.command)) {
      declare->id = node_context::next_id<mailbox_id>(node_.last_mailbox);
      if (const auto actor = actor_named(declare->name)) declare->actor = actor->id;
    } else if (auto* binding = std::get_if<bind>(&message.command)) {
      binding->id = node_context::next_id<binding_id>(node_.last_binding);
      if (binding->kind == destination_kind::queue) binding->actor = actor_named(binding->destination);
    }
    on_request(std::move(message));
  }

  // Queues come before actors of the same name.
  [[nodiscard]] queue_ptr actor_named(const std::string& name) const {
    if (node_.actors_vhost.lock().get() != port_ || port_->snapshot()->find_queue(name) != nullptr) {
      return nullptr;
    }
    return node_.house->definition_of(name);
  }

  void handle(queue_removal& message) { on_request(std::move(message)); }
  void handle(release_owner& message) { on_request(std::move(message)); }

  template <class Message>
  void on_request(Message&& message) {
    waiting_.emplace_back(std::in_place_type<std::remove_cvref_t<Message>>, std::move(message));
    if (!step_) begin();
  }

  void begin() {
    step_.emplace(step{std::exchange(waiting_, {}), *port_->snapshot(), {}, {}, {}, {}});
    for (const auto& r : step_->requests) {
      std::visit([this](const auto& message) { apply(message); }, r);
    }
    const bool durable = std::any_of(step_->changes.begin(), step_->changes.end(), needs_writing);
    if (durable) {
      node_.to_journal(write_topology{port_->shared_from_this(), step_->changes});
    } else {
      finish();
    }
  }

  static bool needs_writing(const topology_change& change) {
    if (const auto* c = std::get_if<queue_added>(&change)) return c->queue->durable;
    if (const auto* c = std::get_if<exchange_added>(&change)) return c->exchange.durable;
    if (const auto* c = std::get_if<exchange_removed>(&change)) return c->exchange.durable;
    if (const auto* c = std::get_if<binding_added>(&change)) return c->binding->durable;
    if (const auto* c = std::get_if<binding_removed>(&change)) return c->binding->durable;
    return true;  // a removed queue may have written messages for want of memory
  }

  void apply(const topology_request& message) {
    auto& s = *step_;
    const auto changes_before = s.changes.size();
    auto refused =
        std::visit([&](const auto& command) { return s.next.on(command, s.changes); }, message.command);
    pending_answer answer{message.from, {message.token, done{}}, {}};
    if (refused) {
      answer.what.what = std::move(*refused);
    } else if (const auto* declared = std::get_if<declare_queue>(&message.command)) {
      const bool created = s.changes.size() != changes_before;
      answer.what.what = queue_declared{nullptr, created};
      answer.declared = declared->name;
      if (created && declared->exclusive) s.owned[declared->by].push_back(declared->name);
    }
    s.answers.push_back(std::move(answer));
    note_removed(changes_before);
  }

  void apply(const queue_removal& message) {
    const auto before = step_->changes.size();
    step_->next.on(message.command, step_->changes);
    note_removed(before);
    // It was removed already, with its owner or by another request of its own.
    if (step_->changes.size() == before) step_->removed.push_back(message.queue);
  }

  void apply(const release_owner& message) {
    auto& s = *step_;
    const auto before = s.changes.size();
    std::vector<std::string> names;
    for (auto* owned : {&owned_, &s.owned}) {
      if (const auto found = owned->find(message.owner); found != owned->end()) {
        names.insert(names.end(), found->second.begin(), found->second.end());
      }
    }
    for (const auto& owned_name : names) {
      const auto* queue = s.next.find_queue(owned_name);
      if (queue == nullptr || (*queue)->owner != message.owner) continue;
      const remove_queue command{(*queue)->id, owned_name};
      s.next.on(command, s.changes);
    }
    note_removed(before);
    if (message.from) s.answers.push_back({message.from, {message.token, done{}}, {}});
  }

  // Queues that this step removes and that have an actor already.
  void note_removed(std::size_t changes_before) {
    for (std::size_t i = changes_before; i < step_->changes.size(); ++i) {
      if (const auto* removed = std::get_if<queue_removed>(&step_->changes[i]);
          removed && removed->queue->port) {
        step_->removed.push_back(port_of(*removed->queue).shared_from_this());
      }
    }
  }

  void handle(topology_written& message) {
    if (!step_) return;
    if (message.failed) {
      undo(*message.failed);
    } else {
      finish();
    }
  }

  void finish() {
    step s = std::move(*step_);
    step_.reset();
    for (const auto& change : s.changes) {
      if (const auto* added = std::get_if<queue_added>(&change)) {
        const auto& q = *added->queue;
        const auto* still = s.next.find_queue(q.name);
        if (still == nullptr || (*still)->id != q.id) continue;  // removed again in the same step
        s.next.attach(q.id, q.name, add_queue(node_, port_->shared_from_this(), q, {}));
      } else if (const auto* removed = std::get_if<queue_removed>(&change);
                 removed && removed->queue->owner) {
        forget_owned(*removed->queue->owner, removed->queue->name);
      }
    }
    for (auto& [owner, names] : s.owned) {
      for (auto& owned_name : names) {
        const auto* queue = s.next.find_queue(owned_name);
        if (queue != nullptr && (*queue)->owner == owner) owned_[owner].push_back(std::move(owned_name));
      }
    }
    s.next.count_version();
    const auto published = std::make_shared<const topology>(std::move(s.next));
    port_->publish(published);
    for (const auto& queue : s.removed) queue->post(queue_removed_now{queue});
    for (auto& a : s.answers) {
      if (auto* declared = std::get_if<queue_declared>(&a.what.what)) {
        const auto* queue = published->find_queue(a.declared);
        declared->queue = queue != nullptr ? *queue : actor_named(a.declared);
      }
      self_->send(a.to, std::move(a.what));
    }
    if (!waiting_.empty()) begin();
  }

  void undo(const error& why) {
    step s = std::move(*step_);
    step_.reset();
    const refusal text{refusal::kind::resource_error, "the change could not be made durable: " + why.text +
                                                          "; free some space and try again"};
    node_.log(node_context::severity::warning,
              "a change of vhost '" + port_->name() + "' could not be made durable: " + why.text);
    for (const auto& r : s.requests) {
      if (const auto* asked = std::get_if<topology_request>(&r)) {
        self_->send(asked->from, reply{asked->token, text});
      } else if (const auto* removal = std::get_if<queue_removal>(&r)) {
        removal->queue->post(queue_not_removed{text});
      } else if (const auto* released = std::get_if<release_owner>(&r); released && released->from) {
        // Its queues do not survive a restart anyway, and nobody else can reach them.
        self_->send(released->from, reply{released->token, done{}});
      }
    }
    if (!waiting_.empty()) begin();
  }

  void forget_owned(connection_id owner, const std::string& queue) {
    const auto found = owned_.find(owner);
    if (found == owned_.end()) return;
    std::erase(found->second, queue);
    if (found->second.empty()) owned_.erase(found);
  }

  worker_actor::pointer self_ = nullptr;  // the actor of now
  node_context& node_;
  vhost_port* port_;  // whose snapshot is the topology

  std::map<connection_id, std::vector<std::string>> owned_;  // exclusive queues
  std::vector<request> waiting_;
  std::optional<step> step_;
};

vhost_port::vhost_port(node_context& node, std::string name, topology_ptr first)
    : memory{std::make_unique<vhost_logic>(node, *this)},
      name_{std::move(name)},
      snapshot_{std::move(first)} {}
vhost_port::~vhost_port() = default;

namespace {

// What a binding leads to that leads to no queue. The actor was there before it could be bound.
queue_ptr bound_actor(node_context& node, const binding_definition& binding) {
  const auto state = node.journal.read_state(actor_house::path_of(binding.destination));
  if (state && *state) return actor_definition(node, (*state)->mailbox, binding.destination);
  node.log(node_context::severity::warning,
           "the binding of exchange '" + binding.source + "' to '" + binding.destination +
               "' leads to nothing that the store knows: messages for it are unroutable; unbind it");
  return nullptr;
}

}  // namespace

made_vhost make_vhost(node_context& node, const std::string& name, recovered_vhost recovered,
                      const std::map<mailbox_id, recovered_mailbox>& mailboxes) {
  topology first{name};
  for (auto& e : recovered.exchanges) first.restore(std::move(e));
  for (const auto& q : recovered.queues) first.restore(q);
  for (const auto& b : recovered.bindings) {
    if (b.kind != destination_kind::queue || first.find_queue(b.destination) != nullptr) continue;
    if (auto actor = bound_actor(node, b)) first.restore(*actor);
  }
  for (auto& b : recovered.bindings) first.restore(std::move(b));
  auto port = std::make_shared<vhost_port>(node, name, std::make_shared<const topology>(first));
  port->queues =
      supervisor::make(node.system, {.how = strategy::dynamic}, {}, node.on_supervision_event).value();
  for (const auto& q : recovered.queues) {
    const auto found = mailboxes.find(q.id);
    first.attach(q.id, q.name,
                 add_queue(node, port, q, found == mailboxes.end() ? recovered_mailbox{} : found->second));
  }
  first.count_version();
  port->publish(std::make_shared<const topology>(std::move(first)));

  child_definition queues;
  queues.spec.name = "queues";
  queues.as_supervisor = port->queues;
  child_definition own;
  own.spec.name = "topology";
  own.spec.handler_limit = std::chrono::seconds{1};
  own.kind = "vhost";
  const std::weak_ptr<vhost_port> weak = port;
  own.start = [&node, weak]() -> caf::actor {
    const auto alive = weak.lock();
    return alive ? start_worker(node.system, alive) : caf::actor{};
  };
  own.figures = [weak]() -> actor_figures {
    const auto alive = weak.lock();
    return alive ? figures_of(*alive) : actor_figures{};
  };
  // The vhost's actor, which adds queues, stops first.
  auto tree = supervisor::make(node.system, {.intensity = node_context::patience},
                               {std::move(queues), std::move(own)}, node.on_supervision_event);
  return {std::move(port), std::move(tree).value()};
}

}  // namespace posthorn
