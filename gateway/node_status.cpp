#include "gateway/node_status.hpp"

#include "actors/actor_house.hpp"
#include "actors/queue.hpp"
#include "actors/supervisor.hpp"
#include "gateway/http/query.hpp"
#include "gateway/version.hpp"
#include "mailbox/field_table.hpp"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <future>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>

namespace posthorn {
namespace {

constexpr const char* actor_type = "actor";

http::argument_value to_argument(const field_value& value) {
  if (const auto number = as_integer(value)) return *number;
  if (const auto flag = as_bool(value)) return *flag;
  if (const auto text = as_string(value)) return std::string{*text};
  if (const auto* number = std::get_if<double>(&value.value)) return *number;
  if (const auto* number = std::get_if<float>(&value.value)) return double{*number};
  if (std::holds_alternative<std::monostate>(value.value)) return nullptr;
  return to_string(value);
}

std::uint64_t value_of(const std::atomic<std::uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

void add_counts(http::queue_summary& out, const queue_port& port) {
  out.messages_ready = value_of(port.ready);
  out.messages_unacknowledged = value_of(port.held);
  out.messages_delayed = value_of(port.delayed);
  out.messages_dead_waiting = value_of(port.dead_waiting);
  out.message_bytes = value_of(port.ready_size);
  out.consumers = value_of(port.consumers);
  out.memory = value_of(port.resident);
}

http::queue_summary summary_of(const queue_definition& queue, const std::string& vhost,
                               const std::string& node) {
  http::queue_summary out;
  out.name = queue.name;
  out.vhost = vhost;
  out.node = node;
  out.durable = queue.durable;
  out.auto_delete = queue.auto_delete;
  out.exclusive = queue.owner.has_value();
  if (const auto arguments = decode_table(std::as_bytes(std::span{queue.arguments}))) {
    for (const auto& [name, value] : *arguments) out.arguments.emplace_back(name, to_argument(value));
  }
  if (!queue.port) {
    out.state = "starting";
    return out;
  }
  if (!queue.of_actor && port_of(queue).is_quorum) out.type = "quorum";
  if (!queue.of_actor && port_of(queue).stream) {
    const auto& figures = *port_of(queue).stream;
    out.type = "stream";
    out.stream =
        http::stream_summary{value_of(figures.segments), value_of(figures.first_offset),
                             value_of(figures.next_offset), value_of(figures.lag_max), figures.lags()};
  }
  if (queue.of_actor) {
    out.type = actor_type;
    out.state = "asleep";
  } else {
    add_counts(out, port_of(queue));
  }
  return out;
}

// What is laid down for it. As long as there are no policies, nothing is looked up.
void add_policies(http::queue_summary& out, const queue_definition& queue, const directory& now) {
  const auto vhost = queue.of_actor ? nullptr : now.find_vhost(out.vhost);
  if (!vhost || vhost->policies.ordinary.size() + vhost->policies.of_operator.size() == 0) return;
  const auto arguments = decode_table(std::as_bytes(std::span{queue.arguments}));
  auto applied =
      apply(vhost->policies, policy_subject_of(arguments ? *arguments : field_table{}), queue.name);
  out.policy = std::move(applied.policy);
  out.operator_policy = std::move(applied.operator_policy);
  for (const auto& [name, value] : applied.definition) {
    out.policy_definition.emplace_back(name, to_argument(value));
  }
}

// Durable actors' mailboxes are listed when they are awake, or bound to an exchange.
constexpr std::string_view actors_vhost_name = "/";

// Durable ones; the others are those of clients that wait for answers.
template <class Visit>
void each_awake_actor(broker& running, Visit&& visit) {
  running.context().house->each_awake([&](const std::string& name, const queue_port& port) {
    if (port.durable) visit(name, port);
  });
}

http::queue_summary summary_of_actor(const std::string& name, const queue_port& port,
                                     const std::string& node) {
  http::queue_summary out;
  out.name = name;
  out.vhost = actors_vhost_name;
  out.type = actor_type;
  out.node = node;
  out.durable = true;
  add_counts(out, port);
  return out;
}

void add_counts(http::queue_summary& out, const http::queue_summary& awake) {
  out.state = awake.state;
  out.messages_ready = awake.messages_ready;
  out.messages_unacknowledged = awake.messages_unacknowledged;
  out.messages_delayed = awake.messages_delayed;
  out.messages_dead_waiting = awake.messages_dead_waiting;
  out.message_bytes = awake.message_bytes;
  out.consumers = awake.consumers;
  out.memory = awake.memory;
}

// A queue that is listed, an actor that is awake, or one that is bound and awake. What it says of itself is only put
// together when it is shown: for a page of 100 out of 100,000, that is what takes no time.
struct listed {
  std::string_view vhost, name;
  const queue_definition* queue = nullptr;
  const http::queue_summary* awake = nullptr;
};

// The memory that is this process's own: pages of the store's map do not count.
std::uint64_t anonymous_memory() {
  std::ifstream in{"/proc/self/status"};
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("RssAnon:")) return std::strtoull(line.c_str() + 8, nullptr, 10) * 1024;
  }
  return 0;
}

http::actor_summary::intensity summary_of(const restart_intensity& intensity) {
  return {intensity.restarts, intensity.period};
}

http::actor_summary::rules summary_of(const child_spec& rules, bool is_supervisor) {
  http::actor_summary::rules out;
  out.restart = to_string(rules.restart);
  const auto shutdown = rules.shutdown.value_or(is_supervisor ? shutdown_rule::infinity() : shutdown_rule{});
  switch (shutdown.way) {
    case shutdown_rule::how::brutal_kill: out.shutdown = "brutal_kill"; break;
    case shutdown_rule::how::timeout: out.shutdown = "timeout"; break;
    case shutdown_rule::how::infinity: out.shutdown = "infinity"; break;
  }
  out.shutdown_time = shutdown.time;
  out.start_deadline = rules.start_deadline;
  out.handler_limit = rules.handler_limit;
  out.significant = rules.significant;
  if (const auto& b = rules.back_off; b.minimum.count() != 0) {
    const auto reset_after = b.reset_after.count() != 0 ? b.reset_after : b.maximum;
    out.backs_off = {b.minimum, b.maximum, reset_after, b.jitter};
  }
  if (rules.budget) out.budget = summary_of(*rules.budget);
  return out;
}

http::actor_summary summary_of(const actor_report& actor) {
  http::actor_summary out;
  out.path = actor.path;
  out.kind = actor.kind;
  out.state = to_string(actor.state);
  out.restarts = actor.restarts;
  if (actor.last_failure) {
    out.last_failure = {std::string{to_string(actor.last_failure->kind)}, actor.last_failure->reason,
                        actor.failed_at};
  }
  out.since = actor.since;
  if (actor.figures) {
    out.work = {actor.figures->mailbox_depth, actor.figures->handled, actor.figures->busy_time,
                actor.figures->busy_for};
  }
  if (actor.path != "/") out.supervised_by = summary_of(actor.rules, actor.is_supervisor);
  if (actor.is_supervisor) {
    out.supervises = {std::string{to_string(actor.how)}, std::string{to_string(actor.shutdown_when)},
                      summary_of(actor.intensity), actor.children};
  }
  return out;
}

// How many levels stand above: 0 for "/", 1 for "/vhosts".
std::size_t level_of(std::string_view path) {
  return path == "/" ? 0 : static_cast<std::size_t>(std::count(path.begin(), path.end(), '/'));
}

error not_yet() { return overloaded("the node is starting: ask again when /healthz says ok"); }

// All actors: each supervisor tells how many children it has, so that only supervisors need be visited. They are few,
// and come first among their siblings.
std::uint64_t count_actors(const supervisor& tree) {
  constexpr std::size_t siblings_max = 256;
  std::uint64_t out = 1;
  const auto walked = tree.walk("/", siblings_max, [&](const actor_report& actor) { out += actor.children; });
  return walked ? out : 0;
}

}  // namespace

std::optional<http::broker_view::listed_queues> node_status::list_queues(
    std::optional<std::string_view> vhost, range which) const {
  broker* const running = broker_;
  listed_queues out;
  if (running == nullptr) return out;
  std::vector<listed> all;
  std::deque<std::pair<std::string, topology_ptr>> looked_at;  // whose names and queues `all` refers to
  std::deque<http::queue_summary> awake;
  for (const auto& port : running->vhosts()) {
    if (vhost && port->name() != *vhost) continue;
    const auto& [name, snapshot] = looked_at.emplace_back(port->name(), port->snapshot());
    const std::string_view its_name = name;
    snapshot->for_each_queue([&](const queue_ptr& queue) {
      all.push_back({its_name, queue->name, queue.get(), nullptr});
    });
  }
  if (looked_at.empty()) return std::nullopt;
  if (!vhost || *vhost == actors_vhost_name) {
    std::unordered_map<std::string_view, std::size_t> bound;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].queue->of_actor) bound.emplace(all[i].name, i);
    }
    each_awake_actor(*running, [&](const std::string& name, const queue_port& port) {
      const auto& one = awake.emplace_back(summary_of_actor(name, port, node_name_));
      if (const auto found = bound.find(name); found != bound.end()) {
        all[found->second].awake = &one;
      } else {
        all.push_back({one.vhost, one.name, nullptr, &one});
      }
    });
  }
  out.total = all.size();
  const auto first = std::min(which.first, all.size());
  const auto count = std::min(which.count, all.size() - first);
  const auto by_name = [](const listed& a, const listed& b) {
    return std::tie(a.vhost, a.name) < std::tie(b.vhost, b.name);
  };
  // A page is put in order without those before and behind it: three looks at each name instead of twenty.
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first);
  if (first > 0 && count > 0) std::nth_element(all.begin(), begin, all.end(), by_name);
  if (count == all.size()) {
    std::sort(all.begin(), all.end(), by_name);
  } else {
    std::partial_sort(begin, begin + static_cast<std::ptrdiff_t>(count), all.end(), by_name);
  }
  out.queues.reserve(count);
  const auto laid_down = running->access();
  for (std::size_t i = first; i < first + count; ++i) {
    const auto& one = all[i];
    if (one.queue == nullptr) {
      out.queues.push_back(*one.awake);
      continue;
    }
    auto& made = out.queues.emplace_back(summary_of(*one.queue, std::string{one.vhost}, node_name_));
    add_policies(made, *one.queue, *laid_down);
    if (one.awake != nullptr) add_counts(made, *one.awake);
  }
  return out;
}

std::optional<http::queue_summary> node_status::show_queue(std::string_view vhost,
                                                           std::string_view name) const {
  broker* const running = broker_;
  if (running == nullptr) return std::nullopt;
  std::optional<http::queue_summary> out;
  bool is_queue = false;
  for (const auto& port : running->vhosts()) {
    if (port->name() != vhost) continue;
    const auto snapshot = port->snapshot();
    if (const auto* found = snapshot->find_queue(name)) {
      out = summary_of(**found, port->name(), node_name_);
      add_policies(*out, **found, *running->access());
      is_queue = !(*found)->of_actor;
    }
  }
  if (is_queue || vhost != actors_vhost_name) return out;
  each_awake_actor(*running, [&](const std::string& awake, const queue_port& port) {
    if (awake != name) return;
    const auto counts = summary_of_actor(awake, port, node_name_);
    if (out) {
      add_counts(*out, counts);
    } else {
      out = counts;
    }
  });
  return out;
}

http::node_summary node_status::overview() const {
  http::node_summary out;
  out.name = node_name_;
  out.product_version = posthorn::product_version;
  out.cluster_name = node_name_;
  out.uptime_ms = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - started_at_)
          .count());
  out.memory_used = anonymous_memory();
  broker* const running = broker_;
  if (running == nullptr) return out;
  for (const auto& port : running->vhosts()) {
    const auto snapshot = port->snapshot();
    out.queues += snapshot->queue_count();
    out.exchanges += snapshot->exchange_count();
    const auto add = [&](const queue_port& numbers) {
      out.messages_ready += value_of(numbers.ready);
      out.messages_unacknowledged += value_of(numbers.held);
      out.consumers += value_of(numbers.consumers);
    };
    snapshot->for_each_queue([&](const queue_ptr& queue) {
      if (queue->of_actor) --out.queues;
      if (!queue->of_actor && queue->port) add(port_of(*queue));
    });
    if (port->name() != actors_vhost_name) continue;
    running->context().house->each_awake([&](const std::string&, const queue_port& actor) {
      if (actor.durable) add(actor);
    });
  }
  const auto totals = running->totals();
  out.published = totals.published;
  out.confirmed = totals.confirmed;
  out.delivered = totals.delivered;
  out.acknowledged = totals.acknowledged;
  if (door_ != nullptr) {
    const auto counts = door_->counts();
    out.connections = counts.connections;
    out.channels = counts.channels;
  }
  auto& context = running->context();
  const auto space = running->space();
  out.store_used = space.file_size;
  out.disk_free = space.disk_free;
  out.disk_free_min = context.disk_free_min;
  out.disk_alarm = running->alarms().of(resource::disk).is_raised();
  out.memory_limit = running->memory_high_watermark();
  out.memory_alarm = running->alarms().of(resource::memory).is_raised();
  return out;
}

http::login node_status::authenticate(std::string_view user, std::string_view password,
                                      bool remote_is_loopback) const {
  std::promise<http::login> verdict;
  check_login(std::string{user}, std::string{password}, remote_is_loopback,
              [&verdict](http::login answer) { verdict.set_value(answer); });
  return verdict.get_future().get();
}

void node_status::check_login(std::string user, std::string password, bool remote_is_loopback,
                              std::function<void(http::login)> answer) const {
  broker* const running = broker_;
  if (running == nullptr) return answer(http::login::refused);
  running->authenticate(std::move(user), secret{std::move(password)}, remote_is_loopback,
                        [answer = std::move(answer)](broker::login verdict) {
                          switch (verdict) {
                            case broker::login::accepted: return answer(http::login::accepted);
                            case broker::login::loopback_only: return answer(http::login::loopback_only);
                            case broker::login::overloaded: return answer(http::login::overloaded);
                            case broker::login::refused: break;
                          }
                          answer(http::login::refused);
                        });
}

std::optional<std::string> node_status::unhealthy_reason() const {
  if (broker_ == nullptr) return "the node is starting: it reads its store";
  return std::nullopt;
}

std::string node_status::metrics() const {
  broker* const running = broker_;
  std::string out =
      "# HELP posthorn_up 1 when the node can be used, 0 while it starts.\n# TYPE posthorn_up gauge\n";
  out += running == nullptr ? "posthorn_up 0\n" : "posthorn_up 1\n";
  out += "# HELP posthorn_build_info The version that runs.\n# TYPE posthorn_build_info gauge\n";
  out += "posthorn_build_info{version=\"" + std::string{product_version} + "\"} 1\n";
  out += "# HELP posthorn_process_memory_bytes Memory that is the process's own.\n";
  out += "# TYPE posthorn_process_memory_bytes gauge\n";
  out += "posthorn_process_memory_bytes " + std::to_string(anonymous_memory()) + '\n';
  if (running == nullptr) return out;
  out += "# HELP posthorn_actors Actors in the supervision tree.\n# TYPE posthorn_actors gauge\n";
  out += "posthorn_actors " + std::to_string(count_actors(running->tree())) + '\n';
  std::size_t ordinary = 0, of_operator = 0;
  for (const auto& vhost : running->access()->vhosts()) {
    ordinary += vhost->policies.ordinary.size();
    of_operator += vhost->policies.of_operator.size();
  }
  out += "# HELP posthorn_policies Policies of all virtual hosts.\n# TYPE posthorn_policies gauge\n";
  out += "posthorn_policies{kind=\"policy\"} " + std::to_string(ordinary) + '\n';
  out += "posthorn_policies{kind=\"operator_policy\"} " + std::to_string(of_operator) + '\n';
  out += running->metrics();
  return out;
}

result<std::string> canonical_actor_path(std::string_view path) {
  if (path.empty()) return refused("the path is empty: / is the whole tree, /vhosts a part of it");
  if (path.front() != '/') {
    return refused("a path starts with '/': did you mean /" + std::string{path} + '?');
  }
  std::string out;
  std::string_view rest = path.substr(1);
  while (!rest.empty()) {
    const auto end = std::min(rest.find('/'), rest.size());
    const auto part = http::percent_decoded(rest.substr(0, end));
    if (!part) {
      return refused("the path " + std::string{path} +
                     " has a '%' that is no escape: %25 is a '%', %2F is a '/' in a name");
    }
    if (part->empty()) {
      return refused("the path " + std::string{path} +
                     " has an empty part: a '/' in a name is written %2F, and that in a URL is %252F");
    }
    out += '/' + path_part(*part);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out.empty() ? std::string{'/'} : out;
}

result<std::vector<http::actor_summary>> node_status::list_actors(std::string_view path, std::size_t depth,
                                                                  std::size_t children_max,
                                                                  std::size_t count_max) const {
  broker* const running = broker_;
  if (running == nullptr) return not_yet();
  const auto top = canonical_actor_path(path);
  if (!top) return top.error();
  if (depth == 0) {
    auto own = running->tree().show(*top);
    if (!own) return own.error();
    return std::vector{summary_of(*own)};
  }
  std::vector<http::actor_summary> out;
  const auto own_level = level_of(*top);
  const auto walked = running->tree().walk(*top, children_max, [&](const actor_report& actor) {
    if (out.size() < count_max && level_of(actor.path) - own_level <= depth) out.push_back(summary_of(actor));
  });
  if (!walked) return walked.error();
  return out;
}

result<http::actor_summary> node_status::show_actor(std::string_view path) const {
  broker* const running = broker_;
  if (running == nullptr) return not_yet();
  const auto which = canonical_actor_path(path);
  if (!which) return which.error();
  const auto found = running->tree().show(*which);
  if (!found) return found.error();
  return summary_of(*found);
}

result<std::vector<http::actor_event_summary>> node_status::list_actor_events(std::size_t count_max) const {
  broker* const running = broker_;
  if (running == nullptr) return not_yet();
  auto found = running->events(count_max);
  if (!found) return found.error();
  std::vector<http::actor_event_summary> out;
  for (auto& e : *found) {
    out.push_back({e.number, e.at, std::move(e.path), std::move(e.kind), std::move(e.reason), e.restarts});
  }
  return out;
}

result<void> node_status::kill_actor(std::string_view path) {
  broker* const running = broker_;
  if (running == nullptr) return not_yet();
  const auto which = canonical_actor_path(path);
  if (!which) return which.error();
  return running->tree().kill(*which);
}

result<void> node_status::restart_actor(std::string_view path) {
  broker* const running = broker_;
  if (running == nullptr) return not_yet();
  const auto which = canonical_actor_path(path);
  if (!which) return which.error();
  return running->tree().restart(*which);
}

std::vector<http::alarm_summary> node_status::list_alarms() const {
  broker* const running = broker_;
  std::vector<http::alarm_summary> out;
  if (running == nullptr) return out;
  for (const auto what : all_resources) {
    const auto state = running->alarms().of(what);
    const bool is_disk = what == resource::disk;
    out.push_back({std::string{to_string(what)}, state.is_low, state.by_hand,
                   is_disk ? running->space().disk_free : anonymous_memory(),
                   is_disk ? running->context().disk_free_min : running->memory_high_watermark()});
  }
  return out;
}

result<void> node_status::set_alarm(std::string_view name, bool is_raised) {
  broker* const running = broker_;
  if (running == nullptr) return not_yet();
  const auto what = parse_resource(name);
  if (!what) {
    return error{errc::unreachable,
                 "no alarm is called " + std::string{name.substr(0, 64)} + ": there are memory and disk"};
  }
  auto& alarms = running->alarms();
  if (alarms.raised_by_hand(*what, is_raised)) {
    running->context().log(node_context::severity::warning,
                           "an operator has " + std::string{is_raised ? "raised" : "cleared"} +
                               " the alarm for " + std::string{to_string(*what)} +
                               (is_raised ? ": publishers wait until it is cleared by hand" : ""));
  }
  if (!is_raised && alarms.of(*what).is_low) {
    return overloaded("the alarm for " + std::string{to_string(*what)} +
                      " stays, for the node measures that it is low: it goes when there is room again");
  }
  return {};
}

}  // namespace posthorn
