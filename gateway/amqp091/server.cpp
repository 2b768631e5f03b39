#include "gateway/amqp091/server.hpp"

#include "gateway/amqp091/connection.hpp"

#include <caf/actor_companion.hpp>

#include <algorithm>
#include <thread>

namespace posthorn::amqp091 {

namespace {

using boost::asio::ip::tcp;

std::string make_server_properties(const std::string& node_name, const std::string& version) {
  field_table capabilities;
  for (const auto* name :
       {"publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
        "connection.blocked", "authentication_failure_close", "per_consumer_qos"}) {
    capabilities.add(name, field_value::of_bool(true));
  }
  field_table properties;
  properties.add("capabilities", field_value::of_table(std::move(capabilities)));
  properties.add("cluster_name", field_value::of_string(node_name));
  properties.add("copyright", field_value::of_string("Posthorn contributors"));
  properties.add("information", field_value::of_string("Licensed under the BSD 3-Clause License"));
  properties.add("platform", field_value::of_string("C++"));
  properties.add("product", field_value::of_string("Posthorn"));
  properties.add("version", field_value::of_string(version));
  std::string out;
  encode_table(properties, out);
  return out.substr(4);
}

// Accepting fails when the process has no descriptors left; trying again at once would keep a core busy.
constexpr auto accept_retry_delay = std::chrono::milliseconds{100};

}  // namespace

struct server::impl {
  impl(broker& node, const server_settings& settings)
      : context{node, settings, make_server_properties(node.node_name(), settings.version), {}, {}, {}, {}},
        retry{acceptor_io} {}

  server_context context;

  struct worker {
    io_worker shared;
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard{shared.io.get_executor()};
    std::thread thread;
    std::unordered_map<connection*, std::shared_ptr<connection>> connections;  // touched by the thread only
  };
  std::vector<std::unique_ptr<worker>> workers;
  std::size_t next_worker = 0;

  // The listening sockets stay when the listener's actor is killed: clients that come meanwhile wait in their backlog.
  boost::asio::io_context acceptor_io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> acceptor_guard{
      acceptor_io.get_executor()};
  std::vector<tcp::acceptor> acceptors;
  boost::asio::steady_timer retry;
  std::thread acceptor_thread;
  caf::actor listener;  // the acceptor thread's
  std::uint16_t port = 0;

  std::shared_ptr<supervisor> amqp_tree;

  boost::system::error_code open(const tcp::endpoint& at, bool dual_stack) {
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
    port = acceptor.local_endpoint().port();
    acceptors.push_back(std::move(acceptor));
    return {};
  }

  void accept(tcp::acceptor& acceptor) {
    auto& w = *workers[next_worker++ % workers.size()];
    acceptor.async_accept(
        w.shared.io, [this, &acceptor, &w](const boost::system::error_code& failed, tcp::socket socket) {
          if (failed == boost::asio::error::operation_aborted || !listener) return;
          if (failed) {
            context.node.context().log(node_context::severity::warning,
                                       "cannot accept a connection: " + failed.message());
            retry.expires_after(accept_retry_delay);
            retry.async_wait([this, &acceptor](const auto& cancelled) {
              if (!cancelled && listener) accept(acceptor);
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
            boost::asio::post(w.shared.io, [this, &w, s = std::move(socket)]() mutable {
              auto made = std::make_shared<connection>(context, w.shared, std::move(s),
                                                       [&w](connection& c) { on_gone(w, c); });
              w.connections.emplace(made.get(), made);
              made->start();
            });
          }
          accept(acceptor);
        });
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
      for (auto& acceptor : acceptors) acceptor.cancel(ignored);
    });
    boost::asio::post(acceptor_io, [this, made] {
      listener = made;
      for (auto& acceptor : acceptors) accept(acceptor);
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
  const auto address = settings.host + ":" + std::to_string(settings.port);
  boost::system::error_code failed;
  if (settings.host == "*") {
    failed = made->open({tcp::v6(), settings.port}, true);
    // A machine without IPv6.
    if (failed == boost::asio::error::address_family_not_supported)
      failed = made->open({tcp::v4(), settings.port}, false);
  } else {
    tcp::resolver resolver{made->acceptor_io};
    const auto found =
        resolver.resolve(settings.host, std::to_string(settings.port), tcp::resolver::passive, failed);
    if (!failed) {
      for (const auto& entry : found) {
        failed = made->open(entry.endpoint(), false);
        if (failed) break;
      }
    }
  }
  if (failed) {
    return refused("cannot listen for AMQP on " + address + ": " + failed.message() +
                   "; stop what uses the port, or choose another one with --amqp HOST:PORT");
  }
  const unsigned threads =
      settings.threads != 0 ? settings.threads : std::max(1U, std::thread::hardware_concurrency() / 2);
  for (unsigned i = 0; i < threads; ++i) made->workers.push_back(std::make_unique<impl::worker>());
  for (auto& w : made->workers) w->thread = std::thread{[io = &w->shared.io] { io->run(); }};
  made->join_tree();
  made->acceptor_thread = std::thread{[io = &made->acceptor_io] { io->run(); }};
  node.on_alarm([self = made.get()](bool blocked, const std::string& reason) {
    self->each_connection([blocked, reason](connection& c) { c.alarm(blocked, reason); });
  });
  return std::unique_ptr<server>{new server{std::move(made)}};
}

server::server(std::unique_ptr<impl> made) : impl_{std::move(made)} {}

server::~server() { stop(std::chrono::milliseconds{0}); }

std::uint16_t server::port() const noexcept { return impl_->port; }

server_counts server::counts() const noexcept {
  return {impl_->context.connections.load(std::memory_order_relaxed),
          impl_->context.channels.load(std::memory_order_relaxed),
          impl_->context.turns_cut.load(std::memory_order_relaxed)};
}

void server::stop(std::chrono::milliseconds patience) {
  if (!impl_ || impl_->workers.empty()) return;
  impl_->context.node.on_alarm(nullptr);
  // First the listener ends, then each connection, when its client has answered.
  impl_->amqp_tree->shut_down();
  const bool in_time = impl_->amqp_tree->wait_until_finished(patience);
  for (auto& w : impl_->workers) w->shared.io.stop();
  for (auto& w : impl_->workers) w->thread.join();
  for (auto& w : impl_->workers) {
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
