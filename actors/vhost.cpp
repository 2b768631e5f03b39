#include "actors/vhost.hpp"

#include "actors/actor_house.hpp"
#include "actors/directory.hpp"
#include "actors/exchange_keeper.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"
#include "mailbox/recent_history.hpp"

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
// Everything goes, step by step; it is in its place again until nothing is left.
struct emptying {
  std::function<void()> when_empty;
};
// Step by step, too.
struct importing {
  import_topology what;
  std::size_t next = 0;
  std::vector<std::string> refused;
  std::optional<error> failed;
};
using importing_ptr = std::shared_ptr<importing>;
using request = std::variant<topology_request, queue_removal, release, emptying, importing_ptr>;

// A step holds no more requests, and begins none beyond so many changes: 128 queues are declared in about 2 ms, of which
// the actor works half and the committer the rest, and deleted in 4. Others wait no longer than that for the thread and
// for the disk, and a commit is shared by enough that its sync weighs little.
constexpr std::size_t step_size_max = 128;

constexpr std::uint64_t go_on_tick = 1, policy_tick = 2;

// Queues whose policies are looked up at once, or entries of a file: about a millisecond.
constexpr std::size_t looked_at_once_max = 512;

// Where the unroutable messages of an exchange go, by its arguments and what is laid down for it.
std::string alternate_of(const exchange_definition& exchange, const vhost_policies& laid_down) {
  field_table arguments;
  if (!exchange.arguments.empty()) {
    if (auto decoded = decode_table(std::as_bytes(std::span{exchange.arguments}))) {
      arguments = std::move(*decoded);
    }
  }
  const auto applied = apply(laid_down, policy_subject::exchange, exchange.name);
  return effective_alternate_exchange(arguments, applied.definition).value_or("");
}

// Of all exchanges: policies may give one, or have given one.
void set_alternates(topology& to, const vhost_policies& laid_down) {
  std::vector<std::pair<std::string, std::string>> changed;
  to.for_each_exchange([&](const exchange_state& exchange) {
    if (exchange.definition.name.empty()) return;
    auto alternate = alternate_of(exchange.definition, laid_down);
    if (alternate != exchange.alternate) changed.emplace_back(exchange.definition.name, std::move(alternate));
  });
  for (auto& [name, alternate] : changed) to.set_alternate(name, std::move(alternate));
}

// How long the deletion of a virtual host waits for room in the store.
constexpr auto retry_delay = std::chrono::milliseconds{200};

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
    look_at_queues();
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
  void on_tick(const tick& t) {
    if (t.number == policy_tick) return look_at_queues();
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
    std::vector<std::function<void()>> emptied;
    std::vector<importing_ptr> imported;
  };

  void handle(topology_request& message) {
    choose(message.command);
    waiting_.emplace_back(std::move(message));
  }
  void handle(import_topology& message) {
    waiting_.emplace_back(std::make_shared<importing>(importing{std::move(message), 0, {}, {}}));
  }

  // Choices come in with the command, so that it gives the same result wherever it is applied.
  void choose(decltype(topology_request::command)& command) {
    if (auto* exchange = std::get_if<declare_exchange>(&command)) {
      exchange->id = node_context::next_id<mailbox_id>(node_.last_mailbox);
    } else if (auto* declare = std::get_if<declare_queue>(&command)) {
      declare->id = node_context::next_id<mailbox_id>(node_.last_mailbox);
      if (const auto actor = actor_named(declare->name)) declare->actor = actor->id;
      choose_type(*declare);
    } else if (auto* binding = std::get_if<bind>(&command)) {
      binding->id = node_context::next_id<binding_id>(node_.last_binding);
      if (binding->kind == destination_kind::queue) binding->actor = actor_named(binding->destination);
    }
  }

  // A declaration that names no type asks for the virtual host's, as if it had named it; unless that type cannot be what
  // was asked for.
  void choose_type(declare_queue& command) const {
    const auto laid_down = node_.directory->snapshot()->find_vhost(port_->name());
    if (!laid_down || !laid_down->what.default_queue_type) return;
    const auto& type = *laid_down->what.default_queue_type;
    if (type != "classic" && (!command.durable || command.exclusive || command.auto_delete)) return;
    auto arguments = decode_table(std::as_bytes(std::span{command.arguments}));
    if (!arguments || arguments->contains("x-queue-type")) return;
    arguments->add("x-queue-type", field_value::of_string(type));
    std::string encoded;
    encode_table(*arguments, encoded);
    command.arguments = encoded.substr(4);  // behind its length
  }

  // Queues come before actors of the same name.
  [[nodiscard]] queue_ptr actor_named(const std::string& name) const {
    if (node_.actors_vhost.lock().get() != port_ || port_->snapshot()->find_queue(name) != nullptr) {
      return nullptr;
    }
    return node_.house->definition_of(name);
  }

  void handle(queue_removal& message) { waiting_.emplace_back(std::move(message)); }
  void handle(empty_vhost& message) {
    is_closing_ = true;
    waiting_.emplace_back(emptying{std::move(message.when_empty)});
  }
  // Queues in slices, for there may be many.
  void handle(apply_policies& message) {
    applying_.push_back(std::move(message.until_applied));
    to_look_at_.clear();
    port_->snapshot()->for_each_queue([&](const queue_ptr& queue) { to_look_at_.push_back(queue); });
    alternates_due_ = true;
    if (!step_) change_alternates();
    look_at_queues();
  }

  // A step that is under way begins with what was there before: it changes what it publishes.
  void change_alternates() {
    alternates_due_ = false;
    const auto laid_down = node_.directory->snapshot()->find_vhost(port_->name());
    if (!laid_down) return;
    topology next{*port_->snapshot()};
    set_alternates(next, laid_down->policies);
    next.count_version();
    port_->publish(std::make_shared<const topology>(std::move(next)));
  }

  void look_at_queues() {
    for (std::size_t n = 0; n < looked_at_once_max && !to_look_at_.empty(); ++n) {
      apply_policies_to(*to_look_at_.back(), port_->name(), node_);
      to_look_at_.pop_back();
    }
    if (!to_look_at_.empty()) {
      self_->send(self_, tick{policy_tick});
    } else if (!alternates_due_) {
      applying_.clear();
    }
  }
  void handle(release_owner& message) { waiting_.emplace_back(release{std::move(message), {}}); }

  void begin() {
    step_.emplace(step{{}, *port_->snapshot(), {}, {}, {}, {}, {}, {}});
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
    // One that keeps something has written it, even if it does not survive a restart.
    if (const auto* c = std::get_if<exchange_removed>(&change))
      return c->exchange.durable || c->exchange.id.value != 0;
    if (const auto* c = std::get_if<binding_added>(&change)) return c->binding->durable;
    if (const auto* c = std::get_if<binding_removed>(&change)) return c->binding->durable;
    return true;  // a removed queue may have written messages for want of memory
  }

  void apply(const topology_request& message) {
    auto& s = *step_;
    const auto changes_before = s.changes.size();
    auto refused = apply_to(s.next, message.command, s.changes);
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

  std::optional<refusal> apply_to(topology& next, const decltype(topology_request::command)& command,
                                  topology::changes& changes) const {
    if (is_closing_) {
      return refusal{refusal::kind::not_allowed, "vhost '" + port_->name() + "' is being deleted"};
    }
    if (const auto* declare = std::get_if<declare_queue>(&command)) return apply_to(next, *declare, changes);
    return std::visit([&](const auto& c) { return next.on(c, changes); }, command);
  }

  // The limit is the last thing that is looked at, and only if there would be one more queue [19].
  std::optional<refusal> apply_to(topology& next, const declare_queue& command,
                                  topology::changes& changes) const {
    const auto laid_down = node_.directory->snapshot()->find_vhost(port_->name());
    if (!laid_down || !laid_down->what.limits.queues_max || next.find_queue(command.name) != nullptr) {
      return next.on(command, changes);
    }
    const auto before = next;
    const auto changes_before = changes.size();
    auto refused = next.on(command, changes);
    if (refused || changes.size() == changes_before) return refused;
    auto full = check_queue(laid_down->what.limits, before.queue_count(), command.name, port_->name());
    if (full) {
      next = before;
      changes.erase(changes.begin() + static_cast<std::ptrdiff_t>(changes_before), changes.end());
    }
    return full;
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

  // Queues first, with what is bound to them; then exchanges; then what is bound between those that stay.
  void apply(emptying& message) {
    auto& s = *step_;
    const auto before = s.changes.size();
    const auto has_room = [&] { return s.changes.size() - before < step_size_max; };
    std::vector<remove_queue> queues;
    s.next.for_each_queue([&](const queue_ptr& queue) {
      if (queues.size() < step_size_max) queues.push_back({queue->id, queue->name});
    });
    for (std::size_t i = 0; i < queues.size() && has_room(); ++i) s.next.on(queues[i], s.changes);
    if (has_room()) {
      std::vector<delete_exchange> exchanges;
      s.next.for_each_exchange([&](const exchange_state& exchange) {
        const auto& name = exchange.definition.name;
        if (name.empty() || name.starts_with("amq.")) return;
        if (exchanges.size() < step_size_max) exchanges.push_back({name, false});
      });
      for (std::size_t i = 0; i < exchanges.size() && has_room(); ++i) s.next.on(exchanges[i], s.changes);
    }
    if (has_room()) {
      std::vector<unbind> bindings;
      s.next.for_each_binding([&](const binding_definition& b) {
        if (bindings.size() >= step_size_max || b.source.empty()) return;
        bindings.push_back({b.kind, b.source, b.destination, b.routing_key, b.arguments, {}});
      });
      for (std::size_t i = 0; i < bindings.size() && has_room(); ++i) s.next.on(bindings[i], s.changes);
    }
    note_removed(before);
    if (s.changes.size() != before) {
      waiting_.emplace_front(std::move(message));
      message.when_empty = nullptr;
    } else {
      s.emptied.push_back(message.when_empty);
    }
  }

  // Each that is new is declared as a client would. A step that cannot be written ends it.
  void apply(importing_ptr& import) {
    auto& s = *step_;
    const auto before = s.changes.size();
    auto& commands = import->what.commands;
    for (std::size_t n = 0; n < looked_at_once_max && s.changes.size() - before < step_size_max; ++n) {
      if (import->next == commands.size() || import->failed) break;
      auto& command = commands[import->next++];
      const auto [name, is_there] = subject_of(s.next, command);
      if (is_there) continue;
      choose(command);
      if (auto refused = apply_to(s.next, command, s.changes)) {
        import->refused.push_back(name + ": " + refused->text);
      }
      command = unbind{};  // its memory is not needed any more
    }
    if (import->next == commands.size() || import->failed) {
      s.imported.push_back(import);
    } else {
      waiting_.emplace_front(import);
    }
  }

  // What an imported command makes, and whether it is there already.
  static std::pair<std::string, bool> subject_of(const topology& next,
                                                 const decltype(topology_request::command)& command) {
    if (const auto* exchange = std::get_if<declare_exchange>(&command)) {
      return {"exchange '" + exchange->name + "'", next.find_exchange(exchange->name) != nullptr};
    }
    if (const auto* queue = std::get_if<declare_queue>(&command)) {
      return {"queue '" + queue->name + "'", next.find_queue(queue->name) != nullptr};
    }
    const auto* binding = std::get_if<bind>(&command);
    if (binding == nullptr) return {"", true};
    return {"binding of '" + binding->destination + "' to exchange '" + binding->source + "'", false};
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

  // --- recent histories: mailbox/recent_history.hpp ---

  void handle(remember& message) {
    const auto where = port_->snapshot();
    for (const auto& p : message.passed) note_passage(*where, p.exchange, p.message);
  }

  void note_passage(const topology& where, std::string_view name, const envelope_ptr& message) {
    const auto* exchange = where.find_exchange(name);  // it may be gone, or another one
    if (exchange == nullptr || exchange->routes_as != exchange_type::recent_history) return;
    auto history = histories_.find(name);
    if (history == histories_.end()) {
      const auto arguments = decode_table(std::as_bytes(std::span{exchange->definition.arguments}));
      const recent_history made{recent_history::length_of(arguments ? *arguments : field_table{})};
      history = histories_.emplace(name, made).first;
    }
    history->second.remember(message);
  }

  // What is new behind such an exchange gets what it remembers.
  void replay(const binding_definition& to, const topology& where) {
    const auto history = histories_.find(to.source);
    if (history == histories_.end()) return;
    const auto* next = to.kind == destination_kind::exchange ? where.find_exchange(to.destination) : nullptr;
    const auto messages = history->second.messages();  // it may pass the same exchange once more
    std::map<std::shared_ptr<queue_port>, arrived> parcels;
    for (const auto& message : messages) {
      std::vector<queue_ptr> targets;
      std::vector<std::string_view> passed;
      if (next != nullptr) {
        where.route(*next, message->routing_key(), message->properties(), targets,
                    {.chance = node_.next_chance(),
                     .histories = &passed,
                     .by_key_alone = message->by_key_alone(),
                     .is_first = true});
      } else if (const auto* queue = where.find_queue(to.destination)) {
        targets.push_back(*queue);
      }
      for (const auto& queue : targets) {
        if (!queue->port) continue;
        if (auto taker = node_.house->taker_of(*queue)) {
          parcels[std::move(taker)].unstored.push_back({message, {}, 0});
        }
      }
      for (const auto name : passed) note_passage(where, name, message);
    }
    for (auto& [port, parcel] : parcels) port->post(std::move(parcel));
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
      } else if (const auto* bound = std::get_if<binding_added>(&change)) {
        if (!histories_.empty()) replay(*bound->binding, s.next);
      } else if (const auto* gone = std::get_if<exchange_removed>(&change)) {
        histories_.erase(gone->exchange.name);
        remove_keeper(gone->exchange, s);
      } else if (const auto* made = std::get_if<exchange_added>(&change)) {
        start_keeper(made->exchange, s.next);
      }
    }
    for (const auto& [owner, created] : s.owned) {
      for (const auto& name : created) {
        const auto* queue = s.next.find_queue(name);
        if (queue != nullptr && (*queue)->owner == owner) owned_[owner].insert(name);
      }
    }
    apply_policies_to_exchanges(s);
    s.next.count_version();
    const auto published = std::make_shared<const topology>(std::move(s.next));
    port_->publish(published);
    if (to_look_at_.empty()) applying_.clear();
    for (const auto& queue : s.removed) queue->post(queue_removed_now{queue});
    for (const auto& emptied : s.emptied) emptied();
    for (const auto& import : s.imported) answer(*import);
    for (auto& a : s.answers) {
      if (auto* declared = std::get_if<queue_declared>(&a.what.what)) {
        const auto* queue = published->find_queue(a.declared);
        declared->queue = queue != nullptr ? *queue : actor_named(a.declared);
      }
      self_->send(a.to, std::move(a.what));
    }
    go_on();
  }

  static void answer(importing& import) {
    if (const auto when_done = std::exchange(import.what.when_done, nullptr)) {
      when_done(import.failed ? result<std::vector<std::string>>{*import.failed} : std::move(import.refused));
    }
  }

  // A policy may give a new exchange an alternate one; and all, if policies have changed since the step began.
  void apply_policies_to_exchanges(step& s) {
    const auto laid_down = node_.directory->snapshot()->find_vhost(port_->name());
    const bool all = std::exchange(alternates_due_, false);
    if (laid_down && all) {
      set_alternates(s.next, laid_down->policies);
    } else if (laid_down && laid_down->policies.ordinary.size() != 0) {
      for (const auto& change : s.changes) {
        const auto* added = std::get_if<exchange_added>(&change);
        if (added == nullptr) continue;
        s.next.set_alternate(added->exchange.name, alternate_of(added->exchange, laid_down->policies));
      }
    }
  }

  // The exchange's own actor, of one that keeps something.
  void start_keeper(const exchange_definition& exchange, topology& next) {
    if (exchange.id.value == 0) return;
    const auto* still = next.find_exchange(exchange.name);
    if (still == nullptr || still->definition.id != exchange.id) return;  // removed again in the same step
    next.attach_keeper(exchange.name, add_keeper(node_, port_->shared_from_this(), exchange, {}, {}));
  }
  void remove_keeper(const exchange_definition& exchange, step& s) {
    const auto before = port_->snapshot();
    const auto* known = exchange.id.value == 0 ? nullptr : before->find_exchange(exchange.name);
    if (known == nullptr || known->definition.id != exchange.id || !known->keeper) return;
    s.removed.push_back(port_of(*known->keeper).shared_from_this());
  }

  void undo(const error& why) {
    step s = std::move(*step_);
    step_.reset();
    if (alternates_due_) change_alternates();
    if (to_look_at_.empty()) applying_.clear();
    const refusal text{refusal::kind::resource_error, "the change could not be made durable: " + why.text +
                                                          "; free some space and try again"};
    node_.log(node_context::severity::warning,
              "a change of vhost '" + port_->name() + "' could not be made durable: " + why.text);
    bool empties = std::any_of(waiting_.begin(), waiting_.end(),
                               [](const auto& w) { return std::holds_alternative<emptying>(w); });
    for (const auto& r : s.requests) {
      if (const auto* all = std::get_if<emptying>(&r); all && all->when_empty) {
        waiting_.emplace_front(*all);
        empties = true;
      }
      if (const auto* asked = std::get_if<topology_request>(&r)) {
        self_->send(asked->from, reply{asked->token, text});
      } else if (const auto* removal = std::get_if<queue_removal>(&r)) {
        removal->queue->post(queue_not_removed{text});
      } else if (const auto* import = std::get_if<importing_ptr>(&r)) {
        // What comes after it in the file would miss what was not written.
        (*import)->failed = overloaded(text.text);
      } else if (const auto* released = std::get_if<release>(&r); released && released->what.from) {
        // Its queues do not survive a restart anyway, and nobody else can reach them.
        self_->send(released->what.from, reply{released->what.token, done{}});
      }
    }
    for (const auto& import : s.imported) answer(*import);
    if (empties) {
      if (!std::exchange(going_on_, true)) self_->delayed_send(self_, retry_delay, tick{go_on_tick});
      return;
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
  std::map<std::string, recent_history, std::less<>>
      histories_;  // by exchange; only those that something passed
  std::deque<request> waiting_;
  std::optional<step> step_;
  bool going_on_ = false;                        // a tick will begin the next step
  bool is_closing_ = false;                      // the virtual host is being deleted
  bool alternates_due_ = false;                  // policies changed while a step was written
  std::vector<queue_ptr> to_look_at_;            // whose policies may be others
  std::vector<std::shared_ptr<void>> applying_;  // of those who wait until all of it is done
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
                      const std::map<mailbox_id, recovered_mailbox>& mailboxes,
                      const std::map<mailbox_id, recovered_keeper>& keepers) {
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
  port->exchanges =
      supervisor::make(node.system, {.how = strategy::dynamic}, {}, node.on_supervision_event).value();
  std::vector<exchange_definition> keeping;
  first.for_each_exchange([&](const exchange_state& exchange) {
    if (exchange.definition.id.value != 0) keeping.push_back(exchange.definition);
  });
  for (const auto& e : keeping) {
    const auto found = mailboxes.find(e.id);
    const auto kept = keepers.find(e.id);
    first.attach_keeper(
        e.name, add_keeper(node, port, e, found == mailboxes.end() ? recovered_mailbox{} : found->second,
                           kept == keepers.end() ? recovered_keeper{} : kept->second));
  }
  for (const auto& q : recovered.queues) {
    const auto found = mailboxes.find(q.id);
    first.attach(q.id, q.name,
                 add_queue(node, port, q, found == mailboxes.end() ? recovered_mailbox{} : found->second));
  }
  if (const auto laid_down = node.directory->snapshot()->find_vhost(name)) {
    set_alternates(first, laid_down->policies);
  }
  first.count_version();
  port->publish(std::make_shared<const topology>(std::move(first)));

  child_definition queues;
  queues.spec.name = "queues";
  queues.as_supervisor = port->queues;
  child_definition exchanges;
  exchanges.spec.name = "exchanges";
  exchanges.as_supervisor = port->exchanges;
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
  auto tree =
      supervisor::make(node.system, {.intensity = node_context::patience},
                       {std::move(queues), std::move(exchanges), std::move(own)}, node.on_supervision_event);
  return {std::move(port), std::move(tree).value()};
}

}  // namespace posthorn
