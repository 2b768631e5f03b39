#include "actors/vhost.hpp"

#include "actors/queue.hpp"

#include <algorithm>
#include <map>

namespace posthorn {

namespace {

using request = std::variant<topology_request, queue_removal, release_owner>;

class vhost_state {
public:
  static inline const char* name = "posthorn.vhost";

  vhost_state(vhost_actor::pointer self, node_context* node, std::shared_ptr<vhost_port> port)
      : self_{self}, node_{*node}, port_{std::move(port)} {}

  // A removed queue answers as long as somebody has its handle. When the node stops, that is long enough.
  ~vhost_state() {
    for (const auto& address : lingering_) {
      if (const auto queue = caf::actor_cast<queue_actor>(address)) caf::anon_send(queue, finish_queue{});
    }
  }

  vhost_actor::behavior_type make_behavior() {
    return {
        [this](topology_request& message) { on_topology_request(message); },
        [this](queue_removal& message) { on_request(std::move(message)); },
        [this](release_owner& message) { on_request(std::move(message)); },
        [this](topology_written& message) { on_written(message); },
    };
  }

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
    std::vector<std::pair<queue_actor, mailbox_id>> removed;
    std::map<connection_id, std::vector<std::string>> owned;
  };

  // Choices come in with the command, so that it gives the same result wherever it is applied.
  void on_topology_request(topology_request& message) {
    if (auto* declare = std::get_if<declare_queue>(&message.command)) {
      declare->id = node_context::next_id<mailbox_id>(node_.last_mailbox);
    } else if (auto* binding = std::get_if<bind>(&message.command)) {
      binding->id = node_context::next_id<binding_id>(node_.last_binding);
    }
    on_request(std::move(message));
  }

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
      self_->send(node_.committer, write_topology{vhost_actor{self_}, port_->name(), step_->changes});
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
    if (step_->changes.size() == before) step_->removed.emplace_back(message.queue, message.command.id);
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
        step_->removed.emplace_back(port_of(*removed->queue).handle, removed->queue->id);
      }
    }
  }

  void on_written(const topology_written& message) {
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
        s.next.attach(q.id, q.name, spawn_queue(node_, vhost_actor{self_}, q, port_->name(), {}));
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
    for (const auto& [queue, id] : s.removed) {
      self_->send(queue, queue_removed_now{});
      remember_lingering(queue);
    }
    for (auto& a : s.answers) {
      if (auto* declared = std::get_if<queue_declared>(&a.what.what)) {
        if (const auto* queue = published->find_queue(a.declared)) declared->queue = *queue;
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
        self_->send(removal->queue, queue_not_removed{text});
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

  void remember_lingering(const queue_actor& queue) {
    if (lingering_.size() >= lingering_looked_at_ * 2) {
      std::erase_if(lingering_,
                    [](const caf::actor_addr& a) { return caf::actor_cast<queue_actor>(a) == nullptr; });
      lingering_looked_at_ = std::max<std::size_t>(lingering_.size(), 64);
    }
    lingering_.push_back(queue.address());
  }

  vhost_actor::pointer self_;
  node_context& node_;
  std::shared_ptr<vhost_port> port_;  // its snapshot is the topology

  std::map<connection_id, std::vector<std::string>> owned_;  // exclusive queues
  std::vector<request> waiting_;
  std::vector<caf::actor_addr> lingering_;  // removed queues; most of them are gone
  std::size_t lingering_looked_at_ = 64;
  std::optional<step> step_;
};

}  // namespace

std::shared_ptr<vhost_port> spawn_vhost(node_context& node, const std::string& name,
                                        recovered_vhost recovered,
                                        const std::map<mailbox_id, recovered_mailbox>& mailboxes) {
  topology first{name};
  for (auto& e : recovered.exchanges) first.restore(std::move(e));
  for (const auto& q : recovered.queues) first.restore(q);
  for (auto& b : recovered.bindings) first.restore(std::move(b));
  auto port = std::make_shared<vhost_port>(name, std::make_shared<const topology>(first));
  port->handle = node.system.spawn<vhost_actor::stateful_impl<vhost_state>, caf::lazy_init>(&node, port);
  for (const auto& q : recovered.queues) {
    const auto found = mailboxes.find(q.id);
    first.attach(q.id, q.name,
                 spawn_queue(node, port->handle, q, name,
                             found == mailboxes.end() ? recovered_mailbox{} : found->second));
  }
  first.count_version();
  port->publish(std::make_shared<const topology>(std::move(first)));
  return port;
}

}  // namespace posthorn
