#include "actors/router.hpp"

#include "actors/actor_house.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"
#include "mailbox/balance.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <unordered_map>

namespace posthorn {

namespace {

// The name and the key of "routers/NAME/KEY".
struct address {
  std::string_view router;
  std::optional<std::string_view> key;
};

address parse(std::string_view name, std::string_view prefix) {
  name.remove_prefix(prefix.size());
  const auto slash = name.find('/');
  if (slash == std::string_view::npos) return {name, std::nullopt};
  return {name.substr(0, slash), name.substr(slash + 1)};
}

constexpr balance_algorithm algorithm_of(routing how) noexcept {
  switch (how) {
    case routing::round_robin: return balance_algorithm::round_robin;
    case routing::random: return balance_algorithm::random;
    case routing::weighted_round_robin: return balance_algorithm::weighted_round_robin;
    case routing::least_response_time: return balance_algorithm::least_response_time;
    case routing::consistent_hash: return balance_algorithm::consistent_hash;
    case routing::smallest_mailbox: return balance_algorithm::smallest_mailbox;
    case routing::broadcast: return balance_algorithm::broadcast;
  }
  return balance_algorithm::round_robin;
}

// The mailbox of a member, woken if it sleeps; null: it is not there.
std::shared_ptr<queue_port> reach(actor_house& house, const topology& where, const std::string& name) {
  const auto* queue = where.find_queue(name);
  return queue != nullptr && (*queue)->port ? house.taker_of(**queue) : house.find(name);
}

bool is_there(const actor_house& house, const topology& where, std::string_view name) {
  return where.find_queue(name) != nullptr || house.knows(name);
}

// What hears of a publish that was passed on to several mailboxes, and tells its publisher once, when all have answered.
//
// Threads   any; its actor only hears.
class collector : public std::enable_shared_from_this<collector> {
public:
  explicit collector(node_context& node)
      : id_{node_context::next_id<connection_id>(node.last_connection)}, by_{id_.value << 16 | 1} {}
  ~collector() { caf::anon_send_exit(handle_, caf::exit_reason::user_shutdown); }
  collector(const collector&) = delete;
  collector& operator=(const collector&) = delete;

  void begin(caf::actor_system& system) {
    handle_ =
        system.spawn([weak = weak_from_this()](connection_actor::pointer) -> connection_actor::behavior_type {
          return {
              [](deliver&) {},
              [weak](settled& m) {
                if (const auto alive = weak.lock()) alive->on_settled(m);
              },
              [](reply&) {},
              [](consumer_cancelled&) {},
              [](close_connection&) {},
              [](alarm_changed&) {},
          };
        });
  }

  void publish(const connection_actor& from, arrival& message,
               const std::vector<std::shared_ptr<queue_port>>& targets) {
    // Numbers go up in each mailbox, so they are given out and sent under the lock.
    const std::lock_guard guard{mutex_};
    const auto number = ++last_number_;
    waiting_.emplace(number, entry{from, message.from, message.number, targets.size(), false});
    for (const auto& to : targets) {
      publish_batch batch{handle_, id_, {}};
      batch.messages.push_back({message.message, by_, number});
      to->post(std::move(batch));
    }
  }

private:
  struct entry {
    connection_actor from;
    publisher_id by{};
    std::uint64_t number = 0;
    std::size_t mailboxes = 0;  // that have not answered
    bool rejected = false;
  };

  void on_settled(const settled& message) {
    std::vector<entry> done;
    {
      const std::lock_guard guard{mutex_};
      for (const auto& s : message.settlements) {
        for (auto n = s.first; n <= s.last; ++n) {
          const auto found = waiting_.find(n);
          if (found == waiting_.end()) continue;
          found->second.rejected = found->second.rejected || s.rejected;
          if (--found->second.mailboxes != 0) continue;
          done.push_back(std::move(found->second));
          waiting_.erase(found);
        }
      }
    }
    for (const auto& e : done) {
      settled answer;
      answer.settlements.push_back({e.by, e.number, e.number, e.rejected});
      caf::anon_send(e.from, std::move(answer));
    }
  }

  // fixed after `begin`
  connection_id id_;
  publisher_id by_;
  connection_actor handle_;

  std::mutex mutex_;  // guards what follows
  std::uint64_t last_number_ = 0;
  std::unordered_map<std::uint64_t, entry> waiting_;  // by number
};

}  // namespace

class router_place : public std::enable_shared_from_this<router_place> {
public:
  router_place(node_context& node, router_definition definition)
      : node_{node},
        definition_{std::move(definition)},
        balance_{algorithm_of(definition_.how), {definition_.half_life, definition_.virtual_nodes}},
        random_{stable_hash(definition_.name)} {}

  // Once, before anyone else knows it.
  void begin() {
    const auto name = "routers/" + definition_.name;
    doorway_ = make_doorway(node_context::next_id<mailbox_id>(node_.last_mailbox), name,
                            [weak = weak_from_this()](queue_message& message) {
                              const auto alive = weak.lock();
                              return alive && alive->pass_on(message);
                            });
    doorway_->described = "router '" + definition_.name + "'";
    if (definition_.how == routing::broadcast) {
      collector_ = std::make_shared<collector>(node_);
      collector_->begin(node_.system);
    }
    set_members(definition_.members);
  }

  // They are there, and no two are the same.
  void set_members(const std::vector<router_member>& members) {
    const std::lock_guard guard{mutex_};
    std::map<member_id, const router_member*> next;
    for (const auto& m : members) next.emplace(member_named(m.name), &m);
    std::erase_if(members_, [&](const auto& known) {
      const bool leaves = !next.contains(known.first);
      if (leaves) balance_.remove(known.first);
      return leaves;
    });
    for (const auto& m : members) {
      const auto id = member_named(m.name);
      const auto [found, added] = members_.try_emplace(id);
      found->second.name = m.name;
      found->second.weight = m.weight;
      found->second.present = true;
      if (added) {
        balance_.add(id, m.weight);
      } else {
        balance_.reweight(id, m.weight);
      }
    }
    seen_version_.reset();
  }

  std::vector<std::shared_ptr<queue_port>> choose(const envelope& message) {
    const auto where = topology_of_now();
    if (!where) return {};
    const std::lock_guard guard{mutex_};
    look_around(*where);
    return choose_for(*where, message);
  }

  [[nodiscard]] std::shared_ptr<queue_port> doorway() {
    const auto where = topology_of_now();
    if (!where) return nullptr;
    const std::lock_guard guard{mutex_};
    look_for_members(*where);
    const bool anyone = std::any_of(members_.begin(), members_.end(),
                                    [](const auto& m) { return m.second.present && m.second.weight != 0; });
    return anyone ? doorway_ : nullptr;
  }

  [[nodiscard]] router_report report() const {
    router_report out{definition_.name, definition_.how, {}};
    const std::lock_guard guard{mutex_};
    for (const auto& [id, m] : members_) out.members.push_back({m.name, m.weight, m.present, m.chosen});
    std::sort(out.members.begin(), out.members.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return out;
  }

private:
  struct member {
    std::string name;
    std::uint32_t weight = 1;
    bool present = true;
    std::uint64_t chosen = 0;
    // Of its mailbox, for those algorithms that look at it.
    std::weak_ptr<queue_port> port;
    std::uint64_t handled = 0;     // by the mailbox, when it was last looked at
    std::uint64_t unseen = 0;      // sent to it since; its counts may not show them yet
    std::uint64_t unanswered = 0;  // as the balance knows it
  };

  [[nodiscard]] topology_ptr topology_of_now() const {
    const auto vhost = node_.actors_vhost.lock();
    return vhost ? vhost->snapshot() : nullptr;
  }

  [[nodiscard]] bool looks_at_mailboxes() const noexcept {
    return definition_.how == routing::least_response_time || definition_.how == routing::smallest_mailbox;
  }

  // Under the lock, as all that follows but `pass_on`.

  void look_around(const topology& where) {
    look_for_members(where);
    if (!looks_at_mailboxes()) return;
    for (auto& [id, m] : members_) look_at(where, id, m);
  }

  // Queues come and go only when the topology changes.
  void look_for_members(const topology& where) {
    if (seen_version_ == where.version()) return;
    seen_version_ = where.version();
    for (auto& [id, m] : members_) {
      m.port.reset();
      const bool present = is_there(*node_.house, where, m.name);
      if (std::exchange(m.present, present) == present) continue;
      m.unanswered = 0;
      balance_.reweight(id, present ? m.weight : 0);
    }
  }

  void look_at(const topology& where, member_id id, member& m) {
    auto port = m.port.lock();
    if (!port) {
      const auto* queue = where.find_queue(m.name);
      const bool is_queue = queue != nullptr && (*queue)->port && !(*queue)->of_actor;
      port = is_queue ? port_of(**queue).shared_from_this() : node_.house->find_awake(m.name);
      m.port = port;
      m.unseen = 0;
    }
    std::uint64_t waits = 0;  // nothing does, for an actor that sleeps
    if (port) {
      const auto handled = port->status.handled.load(std::memory_order_relaxed);
      if (std::exchange(m.handled, handled) != handled) m.unseen = 0;
      waits = port->ready.load(std::memory_order_relaxed) + port->held.load(std::memory_order_relaxed);
    }
    waits += m.unseen;
    balance_.report_size(id, waits);
    if (definition_.how != routing::least_response_time) return;
    const std::chrono::nanoseconds took{port ? port->response.nanoseconds() : 0};
    for (; m.unanswered > waits; --m.unanswered) {
      if (took.count() == 0) {
        balance_.abandoned(id);
      } else {
        balance_.answered(id, took, now());
      }
    }
  }

  [[nodiscard]] std::chrono::nanoseconds now() const { return std::chrono::milliseconds{node_.now()}; }

  std::vector<std::shared_ptr<queue_port>> choose_for(const topology& where, const envelope& message) {
    std::vector<std::shared_ptr<queue_port>> out;
    choice by;
    std::string key;
    if (definition_.how == routing::random) by.random = next_random();
    if (definition_.how == routing::least_response_time) by.now = now();
    if (definition_.how == routing::consistent_hash) {
      key = key_of(message);
      by.key = key;
    }
    if (definition_.how == routing::broadcast) {
      for (const auto id : balance_.choose(by)) {
        auto& m = members_.at(id);
        if (auto port = reach(*node_.house, where, m.name)) {
          ++m.chosen;
          out.push_back(std::move(port));
        }
      }
      return out;
    }
    // One that cannot be reached is passed over until the topology changes.
    for (;;) {
      const auto chosen = balance_.choose(by);
      if (chosen.empty()) return out;
      const auto id = chosen.front();
      auto& m = members_.at(id);
      if (auto port = reach(*node_.house, where, m.name)) {
        ++m.chosen;
        ++m.unseen;
        ++m.unanswered;
        out.push_back(std::move(port));
        return out;
      }
      m.present = false;
      m.unanswered = 0;
      balance_.reweight(id, 0);
    }
  }

  // SplitMix64: the same numbers for a router of the same name, so that a simulation can be repeated.
  [[nodiscard]] std::uint64_t next_random() noexcept {
    auto z = random_ += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  [[nodiscard]] std::string key_of(const envelope& message) const {
    if (message.exchange().empty() && router_table::is_name(message.routing_key())) {
      if (const auto key = parse(message.routing_key(), "routers/").key) return std::string{*key};
    }
    const auto properties = message.properties();
    if (const auto headers = headers_of(properties); !headers.empty() && !definition_.key_header.empty()) {
      if (const auto table = decode_table(headers)) {
        if (const auto* value = table->find(definition_.key_header)) {
          if (const auto text = as_string(*value)) return std::string{*text};
          if (const auto number = as_integer(*value)) return std::to_string(*number);
        }
      }
    }
    if (const auto id = correlation_id_of(properties)) return std::string{*id};
    if (const auto id = message_id_of(properties)) return std::string{*id};
    const auto body = message.body();
    return {reinterpret_cast<const char*>(body.data()), body.size()};
  }

  // What came to the doorway. False: it is for queues only, and none has this name.
  bool pass_on(queue_message& message) {
    if (auto* batch = std::get_if<publish_batch>(&message)) {
      pass_on(*batch);
      return true;
    }
    if (auto* others = std::get_if<arrived>(&message)) {
      for (auto& m : others->unstored) {
        for (const auto& to : choose(*m.message)) {
          arrived one;
          one.unstored.push_back(m);
          to->post(std::move(one));
        }
      }
      return true;
    }
    return false;
  }

  void pass_on(publish_batch& batch) {
    struct part {
      std::shared_ptr<queue_port> to;
      publish_batch what;
    };
    std::vector<part> parts;
    std::unordered_map<queue_port*, std::size_t> index;
    settled refused;
    if (const auto where = topology_of_now()) {
      const std::lock_guard guard{mutex_};
      look_around(*where);
      for (auto& m : batch.messages) {
        const auto targets = choose_for(*where, *m.message);
        if (targets.empty()) {
          refused.settlements.push_back({m.from, m.number, m.number, true});
        } else if (collector_) {
          collector_->publish(batch.from, m, targets);
        } else {
          const auto [found, added] = index.try_emplace(targets.front().get(), parts.size());
          if (added) parts.push_back({targets.front(), {batch.from, batch.by, {}}});
          parts[found->second].what.messages.push_back(std::move(m));
        }
      }
    }
    for (auto& p : parts) p.to->post(std::move(p.what));
    if (refused.settlements.empty()) return;
    node_.counters.unroutable->inc(static_cast<std::int64_t>(refused.settlements.size()));
    caf::anon_send(batch.from, std::move(refused));
  }

  // fixed after `begin`
  node_context& node_;
  const router_definition definition_;  // its members are those of the start
  std::shared_ptr<queue_port> doorway_;
  std::shared_ptr<collector> collector_;  // of a broadcast

  mutable std::mutex mutex_;  // guards what follows
  balance balance_;
  std::unordered_map<member_id, member> members_;
  std::optional<std::uint64_t> seen_version_;  // of the topology
  std::uint64_t random_;
};

router_table::router_table(node_context& node) : node_{node} {}
router_table::~router_table() = default;

result<void> router_table::check(const std::string& router, const std::vector<router_member>& members) const {
  const auto wrong = [&](const std::string& member, const std::string& why) {
    return refused("member '" + member + "' of router '" + router + "': " + why);
  };
  if (members.size() > router_definition::members_max) {
    return refused("router '" + router + "' cannot have more than " +
                   std::to_string(router_definition::members_max) + " members");
  }
  const auto vhost = node_.actors_vhost.lock();
  if (!vhost) return overloaded("the node stops");
  const auto where = vhost->snapshot();
  std::set<std::string_view> names;
  std::set<member_id> ids;
  for (const auto& m : members) {
    if (!names.insert(m.name).second || !ids.insert(member_named(m.name)).second) {
      return wrong(m.name, "it is named twice; give it a weight of 2 instead");
    }
    if (is_name(m.name)) {
      return wrong(m.name, "a router cannot be a member of another: name that one's members");
    }
    if (is_there(*node_.house, *where, m.name)) continue;
    const auto slash = m.name.find('/');
    if (slash == std::string::npos) {
      return wrong(m.name, "there is no such queue in vhost '/': declare it before the router");
    }
    return wrong(m.name, "there is no such queue, and no kind '" + m.name.substr(0, slash) +
                             "' of actors whose id this could be: add the kind, or declare the queue, before "
                             "the router");
  }
  return {};
}

result<void> router_table::add(router_definition definition) {
  const auto& name = definition.name;
  if (name.empty() || path_part(name) != name) {
    return refused("'" + name + "' cannot be the name of a router: use a word without '/', '%' or spaces");
  }
  if (auto checked = check(name, definition.members); !checked) return checked.error();
  const std::lock_guard guard{mutex_};
  if (routers_.contains(name)) {
    return refused("a router named '" + name + "' is there already: resize it, or choose another name");
  }
  auto made = std::make_shared<router_place>(node_, definition);
  made->begin();
  routers_.emplace(name, std::move(made));
  return {};
}

result<void> router_table::resize(std::string_view name, std::vector<router_member> members) {
  const auto found = find(name);
  if (!found) return why_nowhere(std::string{prefix} + std::string{name});
  if (auto checked = check(std::string{name}, members); !checked) return checked.error();
  found->set_members(members);
  return {};
}

result<router_report> router_table::show(std::string_view name) const {
  const auto found = find(name);
  if (!found) return why_nowhere(std::string{prefix} + std::string{name});
  return found->report();
}

std::shared_ptr<router_place> router_table::find(std::string_view name) const {
  const std::lock_guard guard{mutex_};
  const auto found = routers_.find(name);
  return found == routers_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<queue_port>> router_table::choose(const envelope& message) {
  const auto found = find(parse(message.routing_key(), prefix).router);
  return found ? found->choose(message) : std::vector<std::shared_ptr<queue_port>>{};
}

std::shared_ptr<queue_port> router_table::doorway(std::string_view name) {
  const auto found = find(parse(name, prefix).router);
  return found ? found->doorway() : nullptr;
}

error router_table::why_nowhere(std::string_view name) const {
  const std::string wanted{parse(name, prefix).router};
  if (find(wanted)) {
    return refused("router '" + wanted +
                   "' has no members that could take a message: resize it, or declare its queues again");
  }
  return refused("there is no router '" + wanted + "': add it to the node first");
}

}  // namespace posthorn
