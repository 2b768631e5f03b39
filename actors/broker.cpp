#include "actors/broker.hpp"

#include "actors/committer.hpp"
#include "actors/queue.hpp"

#include <caf/telemetry/collector/prometheus.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace posthorn {

namespace {

// How long a stopping node waits for its queues to write what they have.
constexpr auto finish_patience = std::chrono::seconds{3};
constexpr std::uint64_t disk_free_default = 50'000'000;

struct node_config : caf::actor_system_config {
  explicit node_config(unsigned threads) {
    // A worker that has nothing to do sleeps until it is woken. CAF's default, work stealing, polls with sleeps of
    // 50 µs in between, which every message that crosses an idle node would wait for.
    set("caf.scheduler.policy", "sharing");
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
  unroutable = counter("messages-unroutable", "Publishes that reached no queue.");
  connections_opened = counter("connections-opened", "Connections accepted.");
  connections_closed = counter("connections-closed", "Connections that ended.");
  commits = counter("store-commits", "Transactions of the store.");
  commit_failures = counter("store-commit-failures", "Transactions that found no room.");
  messages_written = counter("store-messages-written", "Messages written to the store.");
  bytes_written = counter("store-written", "Bytes of messages written to the store.", "bytes");
  constexpr double bounds[] = {0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0};
  commit_seconds = registry.histogram_singleton<double>(
      "posthorn", "store-commit-duration", bounds, "Time from the begin of a transaction to its end on disk.",
      "seconds");
}

struct broker::runtime {
  runtime(unsigned threads, store& journal)
      : config{threads}, system{std::make_unique<caf::actor_system>(config)}, context{*system, journal} {}
  // The system waits for the last actor, and actors use the context: so the system goes first.
  ~runtime() {
    context.committer = nullptr;
    system.reset();
  }

  node_config config;
  std::unique_ptr<caf::actor_system> system;
  node_context context;
};

broker::broker(broker_settings settings) : settings_{std::move(settings)} {
  if (!settings_.log) settings_.log = [](node_context::severity, const std::string&) {};
}

broker::~broker() { stop(); }

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
  auto opened = store::open({s.data_directory, s.map_size, !s.faults.skip_fsync});
  if (!opened) return opened.error();
  made->store_ = std::move(*opened);
  auto recovered = made->store_->recover();
  if (!recovered) return recovered.error();
  made->messages_at_start_ = recovered->message_count;

  const unsigned threads = s.threads != 0 ? s.threads : std::max(1U, std::thread::hardware_concurrency());
  made->runtime_ = std::make_unique<runtime>(threads, *made->store_);
  auto& node = made->runtime_->context;
  node.faults = s.faults;
  node.limits.resident_max = s.memory_messages_max;
  node.disk_free_min = s.disk_free_min;
  if (node.disk_free_min == 0) {
    node.disk_free_min = std::min(disk_free_default, made->store_->space(false).disk_size / 20);
  }
  node.log = s.log;
  node.on_fatal = [log = s.log](const std::string& what) {
    log(node_context::severity::error, what);
    std::_Exit(70);  // EX_SOFTWARE: what is on disk is consistent, so the next start goes on from there
  };
  node.on_disk_low = [self = made.get()](bool low) {
    self->settings_.log(low ? node_context::severity::warning : node_context::severity::info,
                        low ? "the disk is nearly full: publishers wait until space returns"
                            : "the disk has room again: publishers go on");
    const std::lock_guard guard{self->alarm_mutex_};
    if (self->alarm_listener_) self->alarm_listener_(low, low ? "low on disk" : "");
  };
  node.last_mailbox = recovered->last_mailbox.value;
  node.last_binding = recovered->last_binding.value;
  node.committer = spawn_committer(node);
  recovered->vhosts.try_emplace("/");
  for (auto& [name, content] : recovered->vhosts) {
    made->vhosts_.emplace(name, spawn_vhost(node, name, std::move(content), recovered->mailboxes));
  }
  return made;
}

void broker::stop() {
  if (!runtime_) return;
  {
    caf::scoped_actor self{*runtime_->system};
    const auto give_up_at = std::chrono::steady_clock::now() + finish_patience;
    // Waits for that many of the actors that `self` monitors; says how many have not ended in time.
    const auto await_end_of = [&](std::size_t running) {
      for (bool in_time = true; running > 0 && in_time;) {
        const auto left = give_up_at - std::chrono::steady_clock::now();
        if (left <= left.zero()) break;
        self->receive([&](const caf::down_msg&) { --running; },
                      caf::after(std::chrono::duration_cast<std::chrono::milliseconds>(left)) >>
                          [&] { in_time = false; });
      }
      return running;
    };
    // First those who start queues; then the queues that there are.
    for (const auto& [name, vhost] : vhosts_) {
      self->monitor(vhost->handle);
      caf::anon_send_exit(vhost->handle, caf::exit_reason::user_shutdown);
    }
    std::size_t running = await_end_of(vhosts_.size());
    for (const auto& [name, vhost] : vhosts_) {
      vhost->snapshot()->for_each_queue([&](const queue_ptr& queue) {
        if (!queue->port) return;
        self->monitor(port_of(*queue).handle);
        self->send(port_of(*queue).handle, finish_queue{});
        ++running;
      });
    }
    running = await_end_of(running);
    if (running > 0) {
      settings_.log(node_context::severity::warning,
                    std::to_string(running) + " actors could not end before the node stopped");
      for (const auto& [name, vhost] : vhosts_) {
        vhost->snapshot()->for_each_queue([&](const queue_ptr& queue) {
          if (queue->port) caf::anon_send_exit(port_of(*queue).handle, caf::exit_reason::kill);
        });
      }
    }
    self->monitor(runtime_->context.committer);
    self->send(runtime_->context.committer, finish_committer{});
    self->receive([](const caf::down_msg&) {});  // a commit ends, or the process does
  }
  vhosts_.clear();
  runtime_.reset();
  store_.reset();
}

std::shared_ptr<vhost_port> broker::find_vhost(std::string_view name) const {
  const auto found = vhosts_.find(name);
  return found == vhosts_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<vhost_port>> broker::vhosts() const {
  std::vector<std::shared_ptr<vhost_port>> out;
  for (const auto& [name, port] : vhosts_) out.push_back(port);
  return out;
}

broker::login broker::authenticate(std::string_view user, std::string_view password,
                                   bool from_loopback) const {
  if (user != "guest" || password != "guest") return login::refused;
  return from_loopback ? login::accepted : login::loopback_only;
}

void broker::on_alarm(std::function<void(bool, const std::string&)> listener) {
  const std::lock_guard guard{alarm_mutex_};
  alarm_listener_ = std::move(listener);
  if (alarm_listener_ && runtime_->context.disk_low) alarm_listener_(true, "low on disk");
}

broker_totals broker::totals() const {
  const auto& c = runtime_->context.counters;
  const auto value = [](const caf::telemetry::int_counter* counter) {
    return static_cast<std::uint64_t>(counter->value());
  };
  return {value(c.published), value(c.confirmed), value(c.delivered), value(c.acknowledged)};
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
  std::uint64_t queues = 0, ready = 0, held = 0, consumers = 0, resident = 0, exchanges = 0, bindings = 0;
  for (const auto& [name, vhost] : vhosts_) {
    const auto snapshot = vhost->snapshot();
    queues += snapshot->queue_count();
    exchanges += snapshot->exchange_count();
    bindings += snapshot->binding_count();
    snapshot->for_each_queue([&](const queue_ptr& queue) {
      if (!queue->port) return;
      const auto& port = port_of(*queue);
      ready += port.ready.load(std::memory_order_relaxed);
      held += port.held.load(std::memory_order_relaxed);
      consumers += port.consumers.load(std::memory_order_relaxed);
      resident += port.resident.load(std::memory_order_relaxed);
    });
  }
  line("posthorn_queues", "gauge", "Queues.", queues);
  line("posthorn_exchanges", "gauge", "Exchanges.", exchanges);
  line("posthorn_bindings", "gauge", "Bindings.", bindings);
  line("posthorn_consumers", "gauge", "Consumers.", consumers);
  line("posthorn_messages_ready", "gauge", "Messages that wait for a consumer.", ready);
  line("posthorn_messages_unacknowledged", "gauge", "Messages that consumers hold.", held);
  line("posthorn_messages_resident_bytes", "gauge", "Memory that messages take.", resident);
  const auto s = store_->space(false);
  line("posthorn_store_file_bytes", "gauge", "Size of the store's file.", s.file_size);
  line("posthorn_store_map_bytes", "gauge", "Size that the store may grow to.", s.map_size);
  line("posthorn_disk_free_bytes", "gauge", "Free space of the store's file system.", s.disk_free);
  line("posthorn_disk_free_min_bytes", "gauge", "Free space below which publishers wait.",
       runtime_->context.disk_free_min);
  line("posthorn_disk_alarm", "gauge", "1 while publishers wait for disk space.",
       runtime_->context.disk_low.load() ? 1 : 0);
  return out;
}

}  // namespace posthorn
