#include "actors/vhost.hpp"

#include "actors/actor_house.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <set>

namespace posthorn {

namespace {

// A connection's exclusive queues go; a step that is full leaves the rest of them to the next one.
struct release {
  release_owner what;
  std::string after;  // the queues up to this name are gone
};
using request = std::variant<topology_request, queue_removal, release>;

// A step holds no more requests, and begins none beyond so many changes: 128 queues are declared in about 2 ms, of which
// the actor works half and the committer the rest, and deleted in 4. Others wait no longer than that for the thread and
// for the disk, and a commit is shared by enough that its sync weighs little.
constexpr std::size_t step_size_max = 128;

constexpr std::uint64_t go_on_tick = 1;

}  // namespace

class vhost_logic {
public:
  vhost_logic(node_context& node, vhost_port& port) : node_{node}, port_{&port} {}

  // A step that is being written will be answered to the successor. After a failure, the process starts from the store.
  void begin(worker_actor::pointer self, bool after_failure) {
    self_ = self;
    if (after_failure) {
      node_.on_fatal("a bug ended the actor of vhost '" + port_->name() + "'");
      return;
    }
    going_on_ = false;  // a tick that the predecessor had set died with it
    on_idle();
  }

  void on(vhost_message& message) {
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(vhost_message&) {}
  // What has arrived together is one step.
  void on_idle() {
    if (!step_ && !going_on_ && !waiting_.empty()) begin();
  }
  void on_tick(const tick&) {
    going_on_ = false;
    on_idle();
  }
  void on_down(const caf::down_msg&) {}

private:
  // An answer that stands after the write that it depends on.
  struct pending_answer {
    connection_actor to;
    reply what;
    std::string declared;  // the queue that the answer is about; filled in when it has an actor
  };

  using names = std::set<std::string, std::less<>>;

  // The requests that arrived while the last write was under way are one write, up to the step's size. They are applied
  // to a copy, which becomes the snapshot when the write has succeeded, and vanishes without a trace when it has not.
  struct step {
    std::vector<request> requests;
    topology next;
    topology::changes changes;
    std::vector<pending_answer> answers;
    std::vector<std::shared_ptr<queue_port>> removed;
    std::map<connection_id, names> owned;
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
    waiting_.emplace_back(std::move(message));
  }

  // Queues come before actors of the same name.
  [[nodiscard]] queue_ptr actor_named(const std::string& name) const {
    if (node_.actors_vhost.lock().get() != port_ || port_->snapshot()->find_queue(name) != nullptr) {
      return nullptr;
    }
    return node_.house->definition_of(name);
  }

  void handle(queue_removal& message) { waiting_.emplace_back(std::move(message)); }
  void handle(release_owner& message) { waiting_.emplace_back(release{std::move(message), {}}); }

  void begin() {
    step_.emplace(step{{}, *port_->snapshot(), {}, {}, {}, {}});
    auto& s = *step_;
    while (!waiting_.empty() && s.requests.size() < step_size_max && s.changes.size() < step_size_max) {
      s.requests.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
      std::visit([this](auto& message) { apply(message); }, s.requests.back());
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
      if (created && declared->exclusive) s.owned[declared->by].insert(declared->name);
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

  void apply(release& message) {
    auto& s = *step_;
    const auto before = s.changes.size();
    const auto owner = message.what.owner;
    names all;
    std::string up_to = message.after;
    std::optional<std::string> known_up_to;  // beyond, `all` may lack some
    for (const auto* owned : {&owned_, &s.owned}) {
      const auto found = owned->find(owner);
      if (found == owned->end()) continue;
      auto name = found->second.upper_bound(message.after);
      for (std::size_t n = 0; name != found->second.end() && n < step_size_max; ++name, ++n)
        all.insert(*name);
      if (name != found->second.end()) {
        known_up_to = known_up_to ? std::min(*known_up_to, *std::prev(name)) : *std::prev(name);
      }
    }
    bool rest = known_up_to.has_value();
    for (const auto& name : all) {
      if (known_up_to && name > *known_up_to) break;
      if (s.changes.size() >= step_size_max) {
        rest = true;
        break;
      }
      up_to = name;
      const auto* queue = s.next.find_queue(name);
      if (queue == nullptr || (*queue)->owner != owner) continue;
      const remove_queue command{(*queue)->id, name};
      s.next.on(command, s.changes);
    }
    if (rest) {
      waiting_.emplace_front(release{message.what, std::move(up_to)});
      message.what.from = nullptr;  // who asked is answered when all are gone
    }
    note_removed(before);
    if (message.what.from) s.answers.push_back({message.what.from, {message.what.token, done{}}, {}});
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
    for (const auto& [owner, created] : s.owned) {
      for (const auto& name : created) {
        const auto* queue = s.next.find_queue(name);
        if (queue != nullptr && (*queue)->owner == owner) owned_[owner].insert(name);
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
    go_on();
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
      } else if (const auto* released = std::get_if<release>(&r); released && released->what.from) {
        // Its queues do not survive a restart anyway, and nobody else can reach them.
        self_->send(released->what.from, reply{released->what.token, done{}});
      }
    }
    go_on();
  }

  // The next step is another message's work: others on this thread have their turn before.
  void go_on() {
    if (waiting_.empty() || std::exchange(going_on_, true)) return;
    self_->send(self_, tick{go_on_tick});
  }

  void forget_owned(connection_id owner, const std::string& queue) {
    const auto found = owned_.find(owner);
    if (found == owned_.end()) return;
    found->second.erase(queue);
    if (found->second.empty()) owned_.erase(found);
  }

  worker_actor::pointer self_ = nullptr;  // the actor of now
  node_context& node_;
  vhost_port* port_;  // whose snapshot is the topology

  std::map<connection_id, names> owned_;  // exclusive queues
  std::deque<request> waiting_;
  std::optional<step> step_;
  bool going_on_ = false;  // a tick will begin the next step
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
