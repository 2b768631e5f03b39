#include "gateway/amqp091/server.hpp"

#include "gateway/amqp091/arrival.hpp"
#include "gateway/amqp091/connection.hpp"

#include <caf/actor_companion.hpp>

#include <algorithm>
#include <thread>

namespace posthorn::amqp091 {

namespace {

using boost::asio::ip::tcp;

// Whose behaviour this is: docs/amqp.md.
constexpr std::string_view compatible_version = "4.3.6";

std::string make_server_properties(const std::string& node_name, const server_settings& settings) {
  field_table capabilities;
  for (const auto* name : {"publisher_confirms", "exchange_exchange_bindings", "basic.nack",
                           "consumer_cancel_notify", "connection.blocked", "consumer_priorities",
                           "authentication_failure_close", "per_consumer_qos", "direct_reply_to"}) {
    capabilities.add(name, field_value::of_bool(true));
  }
  field_table properties;
  properties.add("capabilities", field_value::of_table(std::move(capabilities)));
  properties.add("cluster_name", field_value::of_string(node_name));
  properties.add("copyright", field_value::of_string("Posthorn contributors"));
  properties.add("information", field_value::of_string("This is Posthorn " + settings.version +
                                                       ", which speaks as RabbitMQ " +
                                                       std::string{compatible_version} + " does."));
  properties.add("platform", field_value::of_string("Posthorn " + settings.version));
  const bool as_rabbitmq = settings.speaks_as_rabbitmq;
  properties.add("product", field_value::of_string(as_rabbitmq ? "RabbitMQ" : "Posthorn"));
  properties.add("version",
                 field_value::of_string(as_rabbitmq ? std::string{compatible_version} : settings.version));
  std::string out;
  encode_table(properties, out);
  return out.substr(4);
}

// Accepting fails when the process has no descriptors left; trying again at once would keep a core busy.
constexpr auto accept_retry_delay = std::chrono::milliseconds{100};
constexpr int certificate_days_few = 14;

}  // namespace

struct server::impl {
  impl(broker& node, const server_settings& settings)
      : context{node, settings, make_server_properties(node.node_name(), settings), {}, {}, {}, {}},
        retry{acceptor_io} {}

  server_context context;

  struct worker {
    io_worker shared;
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard{shared.io.get_executor()};
    std::thread thread;
    // Touched by the thread only.
    std::unordered_map<arrival*, std::shared_ptr<arrival>> arrivals;
    std::unordered_map<connection*, std::shared_ptr<connection>> connections;
    bool is_closed = false;  // nobody becomes a connection any more
  };
  std::vector<std::unique_ptr<worker>> workers;
  std::size_t next_worker = 0;

  // The listening sockets stay when the listener's actor is killed: clients that come meanwhile wait in their backlog.
  boost::asio::io_context acceptor_io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> acceptor_guard{
      acceptor_io.get_executor()};
  struct listening_socket {
    tcp::acceptor acceptor;
    bool tls_only = false;
  };
  std::vector<listening_socket> acceptors;
  boost::asio::steady_timer retry;
  std::thread acceptor_thread;
  caf::actor listener;  // the acceptor thread's
  std::uint16_t port = 0, tls_port = 0;

  std::shared_ptr<supervisor> amqp_tree;

  boost::system::error_code open(const tcp::endpoint& at, bool dual_stack, bool tls_only) {
    boost::system::error_code failed;
    tcp::acceptor acceptor{acceptor_io};
    acceptor.open(at.protocol(), failed);
    if (failed) return failed;
    acceptor.set_option(tcp::acceptor::reuse_address{true}, failed);
    const bool mapped = at.address().is_v6() && at.address().to_v6().is_v4_mapped();
    if (at.protocol() == tcp::v6()) {
      acceptor.set_option(boost::asio::ip::v6_only{!dual_stack && !mapped}, failed);
    }
    if (failed) return failed;
    acceptor.bind(at, failed);
    if (failed) return failed;
    acceptor.listen(4096, failed);
    if (failed) return failed;
    (tls_only ? tls_port : port) = acceptor.local_endpoint().port();
    acceptors.push_back({std::move(acceptor), tls_only});
    return {};
  }

  boost::system::error_code open(const std::string& host, std::uint16_t wanted, bool tls_only) {
    boost::system::error_code failed;
    if (host == "*") {
      failed = open({tcp::v6(), wanted}, true, tls_only);
      // A machine without IPv6.
      if (failed == boost::asio::error::address_family_not_supported)
        failed = open({tcp::v4(), wanted}, false, tls_only);
      return failed;
    }
    tcp::resolver resolver{acceptor_io};
    const auto found = resolver.resolve(host, std::to_string(wanted), tcp::resolver::passive, failed);
    if (failed) return failed;
    for (const auto& entry : found) {
      failed = open(entry.endpoint(), false, tls_only);
      if (failed) break;
    }
    return failed;
  }

  void accept(listening_socket& from) {
    auto& w = *workers[next_worker++ % workers.size()];
    from.acceptor.async_accept(
        w.shared.io, [this, &from, &w](const boost::system::error_code& failed, tcp::socket socket) {
          if (failed == boost::asio::error::operation_aborted || !listener) return;
          if (failed) {
            context.node.context().log(node_context::severity::warning,
                                       "cannot accept a connection: " + failed.message());
            retry.expires_after(accept_retry_delay);
            retry.async_wait([this, &from](const auto& cancelled) {
              if (!cancelled && listener) accept(from);
            });
            return;
          }
          const auto limit = context.settings.connection_max;
          if (limit != 0 && context.connections.load(std::memory_order_relaxed) >= limit) {
            context.node.context().log(
                node_context::severity::warning,
                "a connection was refused: amqp.connection_max (" + std::to_string(limit) + ") is reached");
            boost::system::error_code ignored;
            socket.close(ignored);
          } else {
            boost::asio::post(w.shared.io, [this, &w, s = std::move(socket), tls = from.tls_only]() mutable {
              auto made = std::make_shared<arrival>(
                  context, w.shared, std::move(s), tls,
                  [this, &w](arrival& a, auto becomes) { on_arrived(w, a, std::move(becomes)); });
              w.arrivals.emplace(made.get(), made);
              made->start();
            });
          }
          accept(from);
        });
  }

  void on_arrived(worker& w, arrival& a, std::optional<arrival::amqp_client> becomes) {
    // Not now: its own functions are still on the stack.
    boost::asio::post(w.shared.io, [&w, key = &a] { w.arrivals.erase(key); });
    if (!becomes || w.is_closed) return;
    auto made =
        std::make_shared<connection>(context, w.shared, std::move(becomes->bytes), std::move(becomes->from),
                                     [&w](connection& c) { on_gone(w, c); });
    w.connections.emplace(made.get(), made);
    made->start(becomes->first, becomes->deadline);
  }

  // The listener: accepts as long as its actor lives. In the actor of its supervisor.
  caf::actor start_listener() {
    const auto made = context.node.system().spawn<caf::actor_companion>();
    auto* companion = caf::actor_cast<caf::actor_companion*>(made);
    companion->on_enqueue(
        [this, companion, kept = caf::actor_cast<caf::actor_addr>(made)](caf::mailbox_element_ptr element) {
          boost::asio::post(acceptor_io, [this, companion, kept, e = std::move(element)] {
            if (caf::actor_cast<caf::actor>(kept)) {
              companion->activate(context.node.system().dummy_execution_unit(), *e);
            }
          });
        });
    companion->on_exit([this] {
      listener = nullptr;
      boost::system::error_code ignored;
      retry.cancel();
      for (auto& from : acceptors) from.acceptor.cancel(ignored);
    });
    boost::asio::post(acceptor_io, [this, made] {
      listener = made;
      for (auto& from : acceptors) accept(from);
    });
    return made;
  }

  static void on_gone(worker& w, connection& c) {
    // Not now: its own functions are still on the stack.
    boost::asio::post(w.shared.io, [&w, key = &c] { w.connections.erase(key); });
  }

  void join_tree() {
    auto& system = context.node.system();
    const auto& on_event = context.node.context().on_supervision_event;
    context.connections_supervisor =
        supervisor::make(system, {.how = strategy::dynamic}, {}, on_event).value();
    child_definition all;
    all.spec.name = "connections";
    all.as_supervisor = context.connections_supervisor;
    child_definition own;
    own.spec.name = "listener";
    own.kind = "listener";
    own.start = [this] { return start_listener(); };
    child_definition amqp;
    amqp.spec.name = "amqp";
    amqp.spec.restart = restart_kind::transient;
    amqp.as_supervisor = supervisor::make(system, {.intensity = node_context::patience},
                                          {std::move(all), std::move(own)}, on_event)
                             .value();
    amqp_tree = amqp.as_supervisor;
    context.node.tree().add(std::move(amqp));
  }

  // Whatever is wrong with a certificate that can be used all the same is said.
  result<void> load_tls(const tls_settings& settings) {
    auto loaded = tls_context::load(settings);
    if (!loaded) return loaded.error();
    const auto days = (*loaded)->days_left();
    if (days < certificate_days_few) {
      context.node.context().log(
          node_context::severity::warning,
          "the certificate " + settings.certificate + " (" + (*loaded)->description() + ") " +
              (days < 0 ? "is no longer valid: clients will refuse it"
                        : "will soon be no longer valid: replace it, then send SIGHUP"));
    }
    context.tls.store(std::move(*loaded));
    return {};
  }

  template <class Visit>
  void each_connection(Visit visit) {
    for (auto& w : workers) {
      boost::asio::post(w->shared.io, [worker = w.get(), visit] {
        for (auto& [key, c] : worker->connections) visit(*c);
      });
    }
  }
};

result<std::unique_ptr<server>> server::listen(broker& node, const server_settings& settings) {
  auto made = std::make_unique<impl>(node, settings);
  const bool has_tls = settings.tls != tls_settings{};
  if (has_tls) {
    if (auto loaded = made->load_tls(settings.tls); !loaded) return loaded.error();
  }
  const auto cannot_listen = [](const std::string& host, std::uint16_t port, const char* option,
                                const boost::system::error_code& failed) {
    return refused("cannot listen for AMQP on " + host + ":" + std::to_string(port) + ": " +
                   failed.message() + "; stop what uses the port, or choose another one with " + option +
                   " HOST:PORT");
  };
  if (const auto failed = made->open(settings.host, settings.port, false)) {
    return cannot_listen(settings.host, settings.port, "--amqp", failed);
  }
  if (settings.tls_port) {
    if (!has_tls) {
      return refused(
          "there is a port for AMQP with TLS, but no certificate: set tls.certificate and tls.key to their "
          "files, or "
          "leave out amqp.tls_listen");
    }
    if (const auto failed = made->open(settings.tls_host, *settings.tls_port, true)) {
      return cannot_listen(settings.tls_host, *settings.tls_port, "--amqps", failed);
    }
  }
  const unsigned threads =
      settings.threads != 0 ? settings.threads : std::max(1U, std::thread::hardware_concurrency() / 2);
  for (unsigned i = 0; i < threads; ++i) made->workers.push_back(std::make_unique<impl::worker>());
  for (auto& w : made->workers) w->thread = std::thread{[io = &w->shared.io] { io->run(); }};
  made->join_tree();
  made->acceptor_thread = std::thread{[io = &made->acceptor_io] { io->run(); }};
  node.on_eviction([self = made.get()](const broker::eviction& who) {
    self->each_connection([who](connection& c) { c.evict(who); });
  });
  node.alarms().listen([self = made.get()](const std::string& reason) {
    self->each_connection([reason](connection& c) { c.alarm(reason); });
  });
  return std::unique_ptr<server>{new server{std::move(made)}};
}

server::server(std::unique_ptr<impl> made) : impl_{std::move(made)} {}

server::~server() { stop(std::chrono::milliseconds{0}); }

std::uint16_t server::port() const noexcept { return impl_->port; }

std::uint16_t server::tls_port() const noexcept { return impl_->tls_port; }

std::optional<std::pair<std::string, int>> server::certificate() const {
  const auto tls = impl_->context.tls.load();
  if (!tls) return std::nullopt;
  return std::pair{tls->description(), tls->days_left()};
}

result<void> server::reload_tls(const tls_settings& settings) { return impl_->load_tls(settings); }

server_counts server::counts() const noexcept {
  return {impl_->context.connections.load(std::memory_order_relaxed),
          impl_->context.channels.load(std::memory_order_relaxed),
          impl_->context.turns_cut.load(std::memory_order_relaxed)};
}

void server::stop(std::chrono::milliseconds patience) {
  if (!impl_ || impl_->workers.empty()) return;
  impl_->context.node.alarms().listen(nullptr);
  impl_->context.node.on_eviction(nullptr);
  // First the listener ends, then each connection, when its client has answered.
  impl_->amqp_tree->shut_down();
  for (auto& w : impl_->workers) {
    boost::asio::post(w->shared.io, [worker = w.get()] {
      worker->is_closed = true;
      for (auto& [key, a] : worker->arrivals) a->abandon();
    });
  }
  const bool in_time = impl_->amqp_tree->wait_until_finished(patience);
  for (auto& w : impl_->workers) w->shared.io.stop();
  for (auto& w : impl_->workers) w->thread.join();
  for (auto& w : impl_->workers) {
    for (auto& [key, a] : w->arrivals) a->abandon();
    for (auto& [key, c] : w->connections) c->abandon();
  }
  if (!in_time) impl_->amqp_tree->wait_until_finished(std::chrono::seconds{1});
  impl_->acceptor_io.stop();
  impl_->acceptor_thread.join();
  impl_->acceptors.clear();
  // An accept that was cancelled holds a socket of a worker, which it lets go of in its handler.
  impl_->acceptor_io.restart();
  impl_->acceptor_io.poll();
  impl_->workers.clear();
}

}  // namespace posthorn::amqp091
