#include "actors/broker.hpp"

#include "actors/actor_house.hpp"
#include "actors/committer.hpp"
#include "actors/event_bus.hpp"
#include "actors/login_desk.hpp"
#include "actors/memory.hpp"
#include "actors/queue.hpp"
#include "actors/simulation.hpp"
#include "actors/supervisor.hpp"

#include <malloc.h>
#include <caf/telemetry/collector/prometheus.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <thread>

namespace posthorn {

namespace {

constexpr std::uint64_t disk_free_default = 50'000'000;
// Of virtual time, until a test's node has stopped.
constexpr auto stop_patience = std::chrono::minutes{10};

// Who is in the directory from the start, with a password that everybody knows: only from this machine [69].
constexpr std::string_view guest = "guest";

child_definition vhost_child(const std::string& name, std::shared_ptr<supervisor> tree) {
  child_definition child;
  child.spec.name = path_part(name);
  child.as_supervisor = std::move(tree);
  return child;
}

struct node_config : caf::actor_system_config {
  node_config(unsigned threads, const simulation* simulated) {
    // A worker that has nothing to do sleeps until it is woken. CAF's default, work stealing, polls with sleeps of
    // 50 µs in between, which every message that crosses an idle node would wait for.
    set("caf.scheduler.policy", simulated != nullptr ? "testing" : "sharing");
    if (simulated != nullptr) caf::put(content, "posthorn.seed", simulated->seed());
    if (threads != 0) set("caf.scheduler.max-threads", static_cast<std::uint64_t>(threads));
    set("caf.logger.console.verbosity", "quiet");
    set("caf.logger.file.verbosity", "quiet");
  }
};

}  // namespace

node_counters::node_counters(caf::actor_system& system) {
  auto& registry = system.metrics();
  const auto counter = [&](const char* name, const char* help, const char* unit = "1") {
    return registry.counter_singleton("posthorn", name, help, unit, true);
  };
  published = counter("messages-published", "Messages that reached a queue, once for each queue.");
  delivered = counter("messages-delivered", "Messages handed to consumers.");
  acknowledged =
      counter("messages-acknowledged", "Messages that consumers acknowledged or rejected for good.");
  confirmed = counter("messages-confirmed", "Publishes answered with a confirm.");
  dead_lettered =
      counter("messages-dead-lettered", "Messages that a queue gave up to its dead-letter exchange.");
  consumer_timeouts =
      counter("consumer-timeouts", "Times that a consumer left deliveries unanswered for too long.");
  dead_letter_retries = counter("dead-letter-retries",
                                "Times that a dead letter found no way, and was kept to be tried again.");
  unroutable = counter("messages-unroutable", "Publishes that reached no queue.");
  deduplicated = counter("messages-deduplicated", "Publishes that an exchange had seen before.");
  connections_opened = counter("connections-opened", "Connections accepted.");
  connections_closed = counter("connections-closed", "Connections that ended.");
  commits = counter("store-commits", "Transactions of the store.");
  commit_failures = counter("store-commit-failures", "Transactions that found no room.");
  messages_written = counter("store-messages-written", "Messages written to the store.");
  using kind = supervision_effects::event_kind;
  auto* events = registry.counter_family("posthorn", "actor-events", {"kind"},
                                         "What befell actors of the supervision tree.", "1", true);
  for (const auto k : {kind::started, kind::failed, kind::restarted, kind::escalated, kind::stopped,
                       kind::start_failed, kind::gave_up, kind::overran}) {
    actor_events[static_cast<std::size_t>(k)] = events->get_or_add({{"kind", to_string(k)}});
  }
  bytes_written = counter("store-written", "Bytes of messages written to the store.", "bytes");
  constexpr double bounds[] = {0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0};
  commit_seconds = registry.histogram_singleton<double>(
      "posthorn", "store-commit-duration", bounds, "Time from the begin of a transaction to its end on disk.",
      "seconds");
}

struct broker::runtime {
  runtime(unsigned threads, store& journal, simulation* simulated)
      : config{threads, simulated},
        system{std::make_unique<caf::actor_system>(config)},
        context{*system, journal},
        bus{context} {
    if (simulated == nullptr) return;
    context.simulated = simulated;
    context.clock = [simulated] { return simulated->now(); };
    simulated->attach(*system);
    // What a test has spawned and forgotten ends with it.
    system->await_actors_before_shutdown(false);
  }
  // The system waits for the last actor, and actors use the context: so the system goes first.
  ~runtime() {
    root.reset();
    vhosts.reset();
    context.directory.reset();
    context.on_reminders = nullptr;
    context.house.reset();
    context.journal_port.reset();
    if (context.simulated != nullptr) context.simulated->detach();
    system.reset();
  }

  node_config config;
  std::unique_ptr<caf::actor_system> system;
  node_context context;
  event_bus bus;
  std::shared_ptr<supervisor> root;
  std::shared_ptr<supervisor> vhosts;
  std::promise<failure> finished;  // the root
  std::atomic<bool> stopping{false};
};

broker::broker(broker_settings settings) : settings_{std::move(settings)} {
  if (!settings_.log) settings_.log = [](node_context::severity, const std::string&) {};
}

broker::~broker() {
  if (settings_.simulated != nullptr) {
    abandon();
  } else {
    stop();
  }
}

caf::actor_system& broker::system() noexcept { return *runtime_->system; }
node_context& broker::context() noexcept { return runtime_->context; }

result<std::unique_ptr<broker>> broker::start(broker_settings settings) {
  static const bool types_known = [] {
    caf::init_global_meta_objects<caf::id_block::posthorn>();
    caf::core::init_global_meta_objects();
    return true;
  }();
  expects(types_known, "CAF knows the messages before the first actor system");

  std::unique_ptr<broker> made{new broker{std::move(settings)}};
  const auto& s = made->settings_;
  std::function<void(std::string_view)> at_point;
  if (!s.faults.crash_at.empty() || s.simulated != nullptr) {
    at_point = [self = made.get()](std::string_view point) {
      if (self->runtime_) self->runtime_->context.reached(point);
    };
  }
  auto opened = store::open({s.data_directory, s.map_size, !s.faults.skip_fsync, std::move(at_point)});
  if (!opened) return opened.error();
  made->store_ = std::move(*opened);
  auto recovered = made->store_->recover();
  if (!recovered) return recovered.error();
  made->messages_at_start_ = recovered->message_count;

  const unsigned threads = s.threads != 0 ? s.threads : std::max(1U, std::thread::hardware_concurrency());
  made->runtime_ = std::make_unique<runtime>(threads, *made->store_, s.simulated);
  auto& node = made->runtime_->context;
  node.faults = s.faults;
  node.limits.resident_max = s.memory_messages_max;
  node.limits.consumer_timeout = s.consumer_timeout;
  node.limits.dead_letter_retry = s.dead_letter_retry;
  node.disk_free_min = s.disk_free_min;
  if (node.disk_free_min == 0) {
    node.disk_free_min = std::min(disk_free_default, made->store_->space(false).disk_size / 20);
  }
  node.log = s.log;
  node.on_fatal = [log = s.log, simulated = s.simulated](const std::string& what) {
    log(node_context::severity::error, what);
    if (simulated != nullptr) simulated->give_up(what);
    std::_Exit(70);  // EX_SOFTWARE: what is on disk is consistent, so the next start goes on from there
  };
  node.on_disk_low = [self = made.get()](bool low) {
    self->settings_.log(low ? node_context::severity::warning : node_context::severity::info,
                        low ? "the disk is nearly full: publishers wait until space returns"
                            : "the disk has room again: publishers go on");
    self->alarms_.measured(resource::disk, low);
  };
  if (s.memory_high_watermark != 0) node.on_watch = [self = made.get()] { self->watch_memory(); };
  node.last_mailbox = recovered->last_mailbox.value;
  node.last_event = recovered->last_event;
  node.last_binding = recovered->last_binding.value;
  node.on_supervision_event = [self = made.get()](const supervision_event& event) {
    self->on_supervision_event(event);
  };
  node.journal_port = std::make_shared<committer_port>(node);
  auto access = made->first_access(*recovered);
  if (!access) return access.error();
  node.directory = std::make_shared<directory_port>(node, std::move(*access));
  node.directory->follow = {[self = made.get()](const std::string& vhost) { self->start_vhost(vhost); },
                            [self = made.get()](const std::string& vhost) {
                              self->evict({vhost, std::nullopt, "vhost '" + vhost + "' is deleted"});
                            },
                            [self = made.get()](const std::string& vhost) { self->stop_vhost(vhost); },
                            [self = made.get()](const std::string& user) {
                              self->evict({std::nullopt, user, "user '" + user + "' is deleted"});
                            },
                            [self = made.get()](std::string_view name) { return self->find_vhost(name); }};
  made->logins_ = std::make_unique<login_desk>(node.directory, s.passwords, s.simulated == nullptr);
  for (const auto& entry : node.directory->snapshot()->vhosts()) {
    recovered->vhosts.try_emplace(entry->what.name);
  }
  std::vector<child_definition> vhosts;
  vhost_map ports;
  for (auto& [name, content] : recovered->vhosts) {
    auto vhost = make_vhost(node, name, std::move(content), recovered->mailboxes, recovered->keepers);
    ports.emplace(name, std::move(vhost.port));
    vhosts.push_back(vhost_child(name, std::move(vhost.tree)));
  }
  node.actors_vhost = ports.at("/");
  made->vhosts_ = std::make_shared<const vhost_map>(std::move(ports));
  node.house =
      std::make_shared<actor_house>(node, std::move(recovered->actors), std::move(recovered->mailboxes));
  child_definition all_actors;
  all_actors.spec.name = "actors";
  all_actors.as_supervisor = node.house->tree();
  child_definition all_vhosts;
  all_vhosts.spec.name = "vhosts";
  all_vhosts.as_supervisor = supervisor::make(node.system, {.intensity = node_context::patience},
                                              std::move(vhosts), node.on_supervision_event)
                                 .value();
  made->runtime_->vhosts = all_vhosts.as_supervisor;
  made->runtime_->root = supervisor::make(node.system, {.intensity = node_context::patience},
                                          {committer_child(node), directory_child(node),
                                           std::move(all_vhosts), std::move(all_actors)},
                                          node.on_supervision_event)
                             .value();
  made->runtime_->root->start_as_root([r = made->runtime_.get(), fatal = node.on_fatal](const failure& why) {
    if (!r->stopping) fatal("the supervision tree gave up: " + why.reason);
    r->finished.set_value(why);
  });
  if (s.simulated != nullptr) s.simulated->run();
  if (auto started = made->runtime_->root->wait_until_started(); !started) return started.error();
  return made;
}

void broker::stop() {
  if (!runtime_) return;
  logins_->stop();
  runtime_->stopping = true;
  runtime_->root->shut_down();
  auto finished = runtime_->finished.get_future();
  if (auto* simulated = settings_.simulated) {
    const auto is_finished = [&] {
      return finished.wait_for(std::chrono::seconds{0}) == std::future_status::ready;
    };
    expects(simulated->advance_until(stop_patience, is_finished), "a node that is told to stop stops");
  }
  finished.wait();
  runtime_->bus.close();  // what subscribers do may still need the rest
  vhosts_ = std::make_shared<const vhost_map>();
  logins_.reset();
  runtime_.reset();
  store_.reset();
}

void broker::abandon() {
  if (!runtime_) return;
  drop_unfinished_effects();
  auto& house = runtime_->context.house;
  std::vector<std::shared_ptr<queue_port>> ports;
  if (house) {
    std::vector<std::string> names;
    house->each_awake([&](const std::string& name, const queue_port&) { names.push_back(name); });
    for (const auto& name : names) ports.push_back(house->find(name));
  }
  for (const auto& vhost : vhosts()) {
    vhost->snapshot()->for_each_queue([&](const queue_ptr& queue) {
      if (queue->port && !queue->of_actor) ports.push_back(port_of(*queue).shared_from_this());
    });
    vhost->snapshot()->for_each_exchange([&](const exchange_state& exchange) {
      if (exchange.keeper) ports.push_back(port_of(*exchange.keeper).shared_from_this());
    });
  }
  for (const auto& port : ports) port->abandon();
  ports.clear();
  vhosts_ = std::make_shared<const vhost_map>();
  logins_.reset();
  runtime_.reset();
  store_.reset();
}

supervisor& broker::tree() noexcept { return *runtime_->root; }

void broker::on_supervision_event(const supervision_event& event) {
  using kind = supervision_effects::event_kind;
  auto& node = runtime_->context;
  node.counters.count(event.kind);
  runtime_->bus.publish(event);
  const bool comes_and_goes = event.kind == kind::started || event.kind == kind::stopped;
  // That one of many came or went would crowd out what matters.
  if (!comes_and_goes || !event.of_dynamic) {
    node.to_journal(record_event{
        {0, node.now(), event.path, std::string{to_string(event.kind)}, event.why.reason, event.restarts}});
  }
  if (comes_and_goes) {
    // Connections come and go; only what has failed once is worth a line when it starts.
    return;
  }
  const bool expected = event.why.kind == exit_kind::killed || event.kind == kind::restarted;
  std::string text = "actor " + event.path + " " + std::string{to_string(event.kind)};
  if (!event.why.reason.empty()) text += ": " + event.why.reason;
  node.log(expected ? node_context::severity::info : node_context::severity::warning, text);
}

std::shared_ptr<vhost_port> broker::find_vhost(std::string_view name) const {
  const auto all = vhosts_.load();
  const auto found = all->find(name);
  return found == all->end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<vhost_port>> broker::vhosts() const {
  std::vector<std::shared_ptr<vhost_port>> out;
  const auto all = vhosts_.load();
  for (const auto& [name, port] : *all) out.push_back(port);
  return out;
}

void broker::authenticate(std::string user, secret password, bool from_loopback,
                          std::function<void(login)> answer) const {
  const bool is_far = !from_loopback && user == guest;
  logins_->check(std::move(user), std::move(password),
                 [answer = std::move(answer), is_far](login_desk::verdict verdict) {
                   switch (verdict) {
                     case login_desk::verdict::accepted:
                       return answer(is_far ? login::loopback_only : login::accepted);
                     case login_desk::verdict::refused: return answer(login::refused);
                     case login_desk::verdict::overloaded: break;
                   }
                   answer(login::overloaded);
                 });
}

directory_ptr broker::access() const noexcept { return runtime_->context.directory->snapshot(); }

void broker::administrate(directory_command command,
                          std::function<void(const result<directory_answer>&)> answer) {
  if (const auto* closing = std::get_if<close_vhost>(&command); closing && closing->name == "/") {
    if (answer) {
      answer(refused("the virtual host '/' cannot be deleted: the durable actors of the node live in it"));
    }
    return;
  }
  runtime_->context.directory->post(directory_request{std::move(command), std::move(answer)});
}

void broker::hash(secret password, std::function<void(result<password_hash>)> answer) const {
  logins_->hash(std::move(password), std::move(answer));
}

void broker::evict(const eviction& who) const {
  const std::lock_guard guard{eviction_mutex_};
  if (eviction_listener_) eviction_listener_(who);
}

void broker::on_eviction(std::function<void(const eviction&)> listener) {
  const std::lock_guard guard{eviction_mutex_};
  eviction_listener_ = std::move(listener);
}

// In the directory's actor, as the next one.
void broker::start_vhost(const std::string& name) {
  auto made = make_vhost(runtime_->context, name, {}, {}, {});
  auto all = *vhosts_.load();
  all.insert_or_assign(name, std::move(made.port));
  vhosts_ = std::make_shared<const vhost_map>(std::move(all));
  runtime_->vhosts->add(vhost_child(name, std::move(made.tree)));
}

void broker::stop_vhost(const std::string& name) {
  auto all = *vhosts_.load();
  all.erase(name);
  vhosts_ = std::make_shared<const vhost_map>(std::move(all));
  runtime_->vhosts->remove(path_part(name));
}

// What the store held. A store without any gets virtual host "/" and its user guest; one of a version that had no
// directory, its virtual hosts too.
result<directory> broker::first_access(const recovered_store& recovered) {
  directory out;
  directory::touched touched;
  if (recovered.access.empty()) {
    // A test's node is made by the thousand.
    const password_cost cheap{1, 8192};
    auto password = password_hash::of(secret{std::string{guest}},
                                      settings_.simulated != nullptr ? cheap : settings_.passwords);
    if (!password) return password.error();
    out = first_directory(std::string{guest}, std::move(*password), touched);
  }
  for (const auto& r : recovered.access) {
    if (auto restored = out.restore(r.name, *r.text); !restored) {
      return corrupted("the store in " + settings_.data_directory.string() +
                       " is damaged and was left as it is: " + restored.error().text);
    }
  }
  for (const auto& [name, content] : recovered.vhosts) {
    if (!out.find_vhost(name)) (void)out.on(put_vhost{name, {}, {}, {}, true}, touched);
  }
  if (touched.empty()) return out;
  std::vector<access_record> records;
  for (const auto& name : touched) records.push_back({name, out.record(name)});
  if (auto written = store_->commit({}, {}, {}, {}, records); !written) return written.error();
  return out;
}

broker::login broker::authenticate_certified(std::string_view user, bool from_loopback) const {
  if (!access()->users().find(user)) return login::refused;
  return from_loopback || user != guest ? login::accepted : login::loopback_only;
}

// In the committer, once a second.
void broker::watch_memory() {
  const auto limit = settings_.memory_high_watermark;
  const auto& messages = runtime_->context.resident;
  const auto used = [&] {
    return std::max(own_memory(), static_cast<std::uint64_t>(std::max<std::int64_t>(0, messages.load())));
  };
  auto now = used();
  if (now > limit) {
    // What the allocator keeps and nobody uses must not hold up anybody.
    ::malloc_trim(0);
    now = used();
  }
  const bool is_low = now > limit;
  if (!alarms_.measured(resource::memory, is_low)) return;
  const auto mebibytes = [](std::uint64_t bytes) { return std::to_string(bytes >> 20U) + " MiB"; };
  settings_.log(is_low ? node_context::severity::warning : node_context::severity::info,
                (is_low ? "the memory is nearly used up: publishers wait until consumers have made room ("
                        : "there is memory again: publishers go on (") +
                    mebibytes(now) + " used, of them " +
                    mebibytes(static_cast<std::uint64_t>(messages.load())) +
                    " by messages; memory.high_watermark is " + mebibytes(limit) + ")");
}

event_bus& broker::bus() noexcept { return runtime_->bus; }

result<std::vector<tree_event>> broker::events(std::size_t count_max) const {
  return store_->read_events(UINT64_MAX, count_max);
}

broker_totals broker::totals() const {
  const auto& c = runtime_->context.counters;
  const auto value = [](const caf::telemetry::int_counter* counter) {
    return static_cast<std::uint64_t>(counter->value());
  };
  return {value(c.published), value(c.confirmed), value(c.delivered), value(c.acknowledged),
          value(c.commits)};
}

store_space broker::space() const { return store_->space(false); }

std::string broker::metrics() const {
  caf::telemetry::collector::prometheus collector;
  const auto text = collector.collect_from(runtime_->system->metrics());
  std::string out{text.begin(), text.end()};
  const auto line = [&](const char* name, const char* type, const char* help, std::uint64_t value) {
    out += std::string{"# HELP "} + name + " " + help + "\n# TYPE " + name + " " + type + "\n" + name + " " +
           std::to_string(value) + "\n";
  };
  std::uint64_t delayed = 0, dead_waiting = 0;
  std::uint64_t queues = 0, ready = 0, held = 0, consumers = 0, resident = 0, exchanges = 0, bindings = 0;
  std::uint64_t in_exchanges = 0;
  const auto add = [&](const queue_port& port) {
    ready += port.ready.load(std::memory_order_relaxed);
    held += port.held.load(std::memory_order_relaxed);
    delayed += port.delayed.load(std::memory_order_relaxed);
    dead_waiting += port.dead_waiting.load(std::memory_order_relaxed);
    consumers += port.consumers.load(std::memory_order_relaxed);
    resident += port.resident.load(std::memory_order_relaxed);
  };
  std::uint64_t streams = 0, stream_segments = 0, stream_bytes = 0, stream_readers = 0, lag_max = 0;
  const auto add_stream = [&](const queue_port& port) {
    ++streams;
    stream_segments += port.stream->segments.load(std::memory_order_relaxed);
    stream_bytes += port.ready_size.load(std::memory_order_relaxed);
    stream_readers += port.consumers.load(std::memory_order_relaxed);
    lag_max = std::max(lag_max, port.stream->lag_max.load(std::memory_order_relaxed));
  };
  const auto all_vhosts = vhosts_.load();
  for (const auto& [name, vhost] : *all_vhosts) {
    const auto snapshot = vhost->snapshot();
    queues += snapshot->queue_count();
    exchanges += snapshot->exchange_count();
    bindings += snapshot->binding_count();
    snapshot->for_each_exchange([&](const exchange_state& exchange) {
      if (!exchange.delays || !exchange.keeper) return;
      in_exchanges += port_of(*exchange.keeper).ready.load(std::memory_order_relaxed);
    });
    snapshot->for_each_queue([&](const queue_ptr& queue) {
      if (queue->of_actor) --queues;
      if (queue->of_actor || !queue->port) return;
      add(port_of(*queue));
      if (port_of(*queue).stream) add_stream(port_of(*queue));
    });
  }
  std::uint64_t awake = 0;
  runtime_->context.house->each_awake([&](const std::string&, const queue_port& port) {
    if (!port.durable) return;  // of a client that waits for answers
    ++awake;
    add(port);
  });
  line("posthorn_queues", "gauge", "Queues.", queues);
  line("posthorn_durable_actors_awake", "gauge", "Durable actors that are in memory.", awake);
  line("posthorn_exchanges", "gauge", "Exchanges.", exchanges);
  line("posthorn_bindings", "gauge", "Bindings.", bindings);
  line("posthorn_exchange_messages_delayed", "gauge", "Messages that wait in exchanges for their time.",
       in_exchanges);
  line("posthorn_consumers", "gauge", "Consumers.", consumers);
  line("posthorn_messages_ready", "gauge", "Messages that wait for a consumer.", ready);
  line("posthorn_messages_unacknowledged", "gauge", "Messages that consumers hold.", held);
  line("posthorn_messages_delayed", "gauge", "Messages that came back and wait for their next try.", delayed);
  line("posthorn_dead_letters_waiting", "gauge", "Dead letters that wait for a way.", dead_waiting);
  line("posthorn_streams", "gauge", "Queues of the type stream.", streams);
  line("posthorn_stream_segments", "gauge", "Segments of all streams.", stream_segments);
  line("posthorn_stream_bytes", "gauge", "Bytes of messages that can be read in streams.", stream_bytes);
  line("posthorn_stream_readers", "gauge", "Consumers of streams.", stream_readers);
  line("posthorn_stream_reader_lag_max", "gauge",
       "Messages that the reader has to go who is farthest behind the end of its stream.", lag_max);
  line("posthorn_messages_resident_bytes", "gauge", "Memory that messages take.", resident);
  const auto s = store_->space(false);
  line("posthorn_store_file_bytes", "gauge", "Size of the store's file.", s.file_size);
  line("posthorn_store_map_bytes", "gauge", "Size that the store may grow to.", s.map_size);
  line("posthorn_disk_free_bytes", "gauge", "Free space of the store's file system.", s.disk_free);
  line("posthorn_disk_free_min_bytes", "gauge", "Free space below which publishers wait.",
       runtime_->context.disk_free_min);
  line("posthorn_disk_alarm", "gauge", "1 while publishers wait for disk space.",
       alarms_.of(resource::disk).is_raised() ? 1 : 0);
  line("posthorn_memory_high_watermark_bytes", "gauge", "Memory beyond which publishers wait; 0: any.",
       settings_.memory_high_watermark);
  line("posthorn_memory_alarm", "gauge", "1 while publishers wait for memory.",
       alarms_.of(resource::memory).is_raised() ? 1 : 0);
  return out;
}

}  // namespace posthorn
