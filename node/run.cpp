#include "node/run.hpp"

#include "actors/broker.hpp"
#include "actors/memory.hpp"
#include "gateway/amqp091/server.hpp"
#include "gateway/http/management.hpp"
#include "gateway/http/server.hpp"
#include "gateway/node_administration.hpp"
#include "gateway/node_status.hpp"
#include "gateway/version.hpp"
#include "node/exit_code.hpp"
#include "node/log.hpp"
#include "node/service_notifier.hpp"
#include "persist/damage_guard.hpp"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include <csignal>
#include <cstdlib>
#include <future>
#include <iostream>
#include <thread>
#include <utility>

namespace posthorn {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;

// How often an idle node looks whether it keeps memory that nobody uses, and how much of it is worth giving back.
constexpr auto idle_interval = 1s;
constexpr std::size_t idle_memory_max = std::size_t{8} << 20;

// Stopping takes no longer: what is durable by then is durable, and nothing else was promised.
constexpr auto stop_time = 4500ms;
// How long clients may take to answer connection.close.
constexpr auto client_patience = 1000ms;

log_level to_level(node_context::severity severity) {
  switch (severity) {
    case node_context::severity::debug: return log_level::debug;
    case node_context::severity::info: return log_level::info;
    case node_context::severity::warning: return log_level::warning;
    case node_context::severity::error: return log_level::error;
  }
  return log_level::info;
}

exit_code exit_code_of(const error& failure) {
  switch (failure.code) {
    case errc::corrupted: return exit_code::data_damaged;
    case errc::overloaded: return exit_code::cannot_create;
    case errc::refused:
    case errc::unreachable: break;
  }
  return exit_code::unavailable;
}

// Each connection is a file. What the administrator allows is there to be used.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Where clients on this machine find it: nobody can connect to "*".
std::string address_to_use(const std::string& scheme, const listen_address& wanted, std::uint16_t port) {
  const bool is_any = wanted.host == "*" || wanted.host == "0.0.0.0" || wanted.host == "::";
  return scheme + "://" + to_string(listen_address{is_any ? "127.0.0.1" : wanted.host, port});
}

std::uint64_t bytes_of(const memory_limit& limit) {
  if (limit.fraction == 0) return limit.bytes;
  return static_cast<std::uint64_t>(static_cast<double>(memory_at_hand()) * limit.fraction);
}

amqp091::tls_settings tls_of(const settings& chosen) {
  const auto file = [](const std::optional<std::filesystem::path>& path) {
    return path ? path->string() : std::string{};
  };
  amqp091::tls_settings out{file(chosen.tls_certificate), file(chosen.tls_key), file(chosen.tls_ca)};
  switch (chosen.tls_verify) {
    case certificate_check::none: out.verify = amqp091::tls_verify::none; break;
    case certificate_check::peer: out.verify = amqp091::tls_verify::peer; break;
    case certificate_check::required: out.verify = amqp091::tls_verify::required; break;
  }
  switch (chosen.tls_login_from) {
    case login_source::common_name: out.login = amqp091::tls_login::common_name; break;
    case login_source::distinguished_name: out.login = amqp091::tls_login::distinguished_name; break;
    case login_source::san_dns: out.login = amqp091::tls_login::san_dns; break;
    case login_source::san_email: out.login = amqp091::tls_login::san_email; break;
    case login_source::san_uri: out.login = amqp091::tls_login::san_uri; break;
  }
  return out;
}

// Everything of one node that runs. Built from top to bottom, and taken down from bottom to top.
class running_node {
public:
  running_node(const settings& chosen, const settings_reader& read_again, const fault_plan& faults)
      : settings_{chosen},
        read_again_{read_again},
        faults_{faults},
        log_{std::cerr, chosen.level, chosen.format},
        status_{chosen.node_name} {}

  ~running_node() {
    outside_.stop();
    if (outside_thread_.joinable()) outside_thread_.join();
  }
  running_node(const running_node&) = delete;
  running_node& operator=(const running_node&) = delete;

  int run() {
    raise_file_limit();
    std::signal(SIGPIPE, SIG_IGN);
    if (const auto code = prepare_data_directory(); code != exit_code::ok) return to_int(code);
    // HTTP comes first: while the store is read, /healthz says so.
    const auto later = [this](std::function<void()> run) {
      asio::post(outside_, [this, r = std::move(run)] {
        if (is_watching_) r();
      });
    };
    http::server_limits limits;
    limits.large_body_size_max = settings_.http_definitions_size_max.bytes;
    auto http =
        http::server::listen(outside_, settings_.http_listen.host, settings_.http_listen.port,
                             http::make_management(status_, status_, &status_, administration_, later),
                             limits, http::make_body_gate(status_, administration_, later));
    if (!http)
      return to_int(fail(exit_code_of(http.error()), http.error().text + "; choose another with --http"));
    http_ = std::move(*http);
    wait_for_signal();
    outside_thread_ = std::thread{[this] { outside_.run(); }};

    if (const auto code = start_broker(); code != exit_code::ok) return to_int(code);
    if (const auto code = start_amqp(); code != exit_code::ok) return to_int(code);
    announce();
    asio::post(outside_, [this] { watch_idle_memory(); });
    stop_asked_.get_future().wait();
    stop();
    return to_int(exit_code::ok);
  }

private:
  exit_code fail(exit_code code, const std::string& text) {
    if (settings_.format == log_format::json)
      log_.write(log_level::error, text);
    else
      std::cerr << "posthornd: " << text << '\n';
    return code;
  }

  exit_code prepare_data_directory() {
    const auto& directory = settings_.node_data_dir;
    std::error_code failure;
    std::filesystem::create_directories(directory, failure);
    if (!failure && !std::filesystem::is_directory(directory, failure) && !failure) {
      failure = std::make_error_code(std::errc::not_a_directory);
    }
    const bool is_forbidden =
        failure == std::errc::permission_denied || failure == std::errc::operation_not_permitted;
    if (failure) {
      return fail(is_forbidden ? exit_code::no_permission : exit_code::cannot_create,
                  "cannot make the data directory " + directory.string() + ": " + failure.message() +
                      "; choose another with --data-dir");
    }
    if (::access(directory.c_str(), R_OK | W_OK | X_OK) != 0) {
      return fail(exit_code::no_permission,
                  "the data directory " + directory.string() +
                      " may not be read and written by this user: change its owner, or "
                      "choose another with --data-dir");
    }
    return exit_code::ok;
  }

  exit_code start_broker() {
    broker_settings wanted;
    wanted.node_name = settings_.node_name;
    wanted.data_directory = settings_.node_data_dir;
    wanted.map_size = settings_.store_map_size.value_or(byte_size{0}).bytes;
    // For the broker, 0 means "auto"; who wrote 0 wants no reserve.
    wanted.disk_free_min =
        settings_.store_disk_free_min ? std::max<std::uint64_t>(1, settings_.store_disk_free_min->bytes) : 0;
    wanted.memory_messages_max = settings_.memory_messages_max.bytes;
    wanted.consumer_timeout = settings_.amqp_consumer_timeout;
    wanted.dead_letter_retry = settings_.amqp_dead_letter_retry;
    wanted.memory_high_watermark = bytes_of(settings_.memory_high_watermark);
    wanted.threads = static_cast<unsigned>(settings_.threads_actors);
    wanted.faults = faults_;
    wanted.log = [this](node_context::severity severity, const std::string& text) {
      log_.write(to_level(severity), text);
    };
    const auto began = std::chrono::steady_clock::now();
    const damage_guard guard{"posthornd", settings_.node_data_dir};
    auto started = broker::start(std::move(wanted));
    if (!started) return fail(exit_code_of(started.error()), started.error().text);
    broker_ = std::move(*started);
    const auto took =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began);
    log_.write(log_level::info, "the store is open",
               {{"directory", settings_.node_data_dir.string()},
                {"messages", std::to_string(broker_->message_count_at_start())},
                {"milliseconds", std::to_string(took.count())}});
    return exit_code::ok;
  }

  exit_code start_amqp() {
    amqp091::server_settings wanted;
    wanted.version = product_version;
    wanted.speaks_as_rabbitmq = settings_.amqp_product == product_name::rabbitmq;
    wanted.host = settings_.amqp_listen.host;
    wanted.port = settings_.amqp_listen.port;
    wanted.heartbeat = settings_.amqp_heartbeat;
    wanted.channel_max = static_cast<std::uint16_t>(settings_.amqp_channel_max);
    wanted.consumer_max = settings_.amqp_consumer_max;
    wanted.frame_max = static_cast<std::uint32_t>(settings_.amqp_frame_max);
    wanted.message_size_max = settings_.amqp_message_size_max.bytes;
    wanted.connection_max = settings_.amqp_connection_max;
    wanted.handshake_timeout = settings_.amqp_handshake_timeout;
    wanted.threads = static_cast<unsigned>(settings_.threads_io);
    wanted.tls = tls_of(settings_);
    if (settings_.amqp_tls_listen) {
      wanted.tls_host = settings_.amqp_tls_listen->host;
      wanted.tls_port = settings_.amqp_tls_listen->port;
    }
    wanted.proxy_trusted = settings_.amqp_proxy_trusted.networks;
    wanted.on_http = [this](asio::ip::tcp::socket from, const std::string& first,
                            const asio::ip::address& client) {
      http_->serve(std::move(from), first, client);
    };
    if (wanted.tls != amqp091::tls_settings{}) {
      // A file that is not what it should be is a wrong setting, and no trouble with a port.
      if (const auto loaded = amqp091::tls_context::load(wanted.tls); !loaded) {
        return fail(exit_code::bad_config, loaded.error().text);
      }
    }
    auto listening = amqp091::server::listen(*broker_, wanted);
    if (!listening) return fail(exit_code_of(listening.error()), listening.error().text);
    amqp_ = std::move(*listening);
    return exit_code::ok;
  }

  void announce() {
    status_.attach(*broker_, amqp_.get());
    administration_.attach(*broker_);
    is_starting_ = false;
    const auto http = address_to_use("http", settings_.http_listen, http_->endpoints().front().port());
    const auto amqp = address_to_use("amqp", settings_.amqp_listen, amqp_->port());
    log_.write(log_level::info, "the node is ready",
               {{"node", settings_.node_name},
                {"version", std::string{product_version}},
                {"amqp", amqp},
                {"http", http}});
    std::string amqps;
    if (settings_.amqp_tls_listen) {
      amqps = address_to_use("amqps", *settings_.amqp_tls_listen, amqp_->tls_port());
    }
    if (const auto certificate = amqp_->certificate()) {
      log_.write(
          log_level::info, "the node speaks TLS",
          {{"certificate", certificate->first}, {"amqps", amqps.empty() ? "on the port of AMQP" : amqps}});
    }
    if (settings_.format == log_format::text) {
      std::cout << settings_.node_name << " is ready\n  AMQP   " << amqp
                << (amqps.empty() ? std::string{} : "\n  AMQPS  " + amqps) << "\n  HTTP   " << http
                << "/healthz, /metrics, /api\n"
                << std::flush;
    }
    notify("READY=1\nSTATUS=ready");
  }

  // What a burst has left free between what is still in use, the allocator keeps. A node that carried no message and wrote
  // nothing since the last look gives it back; a busy one would only ask for it again.
  void watch_idle_memory() {
    idle_.expires_after(idle_interval);
    idle_.async_wait([this](boost::system::error_code aborted) {
      if (aborted || !is_watching_) return;
      const auto totals = broker_->totals();
      const auto moved = totals.published + totals.delivered + totals.acknowledged + totals.commits;
      if (moved == std::exchange(moved_, moved) && ::mallinfo2().fordblks > idle_memory_max) ::malloc_trim(0);
      watch_idle_memory();
    });
  }

  void notify(std::string_view state) {
    if (const auto told = notify_service(state); !told) log_.write(log_level::warning, told.error().text);
  }

  void wait_for_signal() {
    signals_.async_wait([this](boost::system::error_code aborted, int signal) {
      if (aborted) return;
      if (signal == SIGHUP)
        reload();
      else
        on_stop_signal(signal);
      wait_for_signal();
    });
  }

  void on_stop_signal(int signal) {
    const std::string name = signal == SIGINT ? "SIGINT" : "SIGTERM";
    if (is_stopping_) {
      log_.write(log_level::warning, name + " again: the node ends at once");
      std::_Exit(128 + signal);
    }
    log_.write(log_level::info, name + ": the node stops");
    is_stopping_ = true;
    // Nobody was promised anything yet, and the store is sound at every moment.
    if (is_starting_) std::_Exit(to_int(exit_code::ok));
    deadline_.expires_after(stop_time);
    deadline_.async_wait([this](boost::system::error_code aborted) {
      if (aborted) return;
      log_.write(log_level::error, "the node could not stop in time, and ends; what was confirmed is safe");
      std::_Exit(to_int(exit_code::internal));
    });
    stop_asked_.set_value();
  }

  void reload() {
    const auto read = read_again_();
    if (!read) {
      log_.write(log_level::error, "SIGHUP: nothing was changed: " + read.error().text);
      return;
    }
    bool has_change = false;
    for (const auto* row : changed_settings(settings_, read->values)) {
      has_change = true;
      if (row->live) continue;
      log_.write(log_level::warning, "SIGHUP: a changed setting needs a restart", {{"key", row->name()}});
    }
    if (read->values.level != settings_.level) {
      settings_.level = read->values.level;
      log_.set_level(settings_.level);
      log_.write(log_level::info, "SIGHUP: the log level is changed",
                 {{"now", std::string{to_string(settings_.level)}}});
    }
    if (!has_change) log_.write(log_level::info, "SIGHUP: the settings are as they were");
    reload_certificates(read->values);
  }

  // The files may be others behind the same names.
  void reload_certificates(const settings& now) {
    if (is_starting_) return;  // which reads them
    const auto wanted = tls_of(now);
    if (wanted == amqp091::tls_settings{}) {
      if (amqp_->certificate()) {
        log_.write(log_level::warning,
                   "SIGHUP: the certificate in use stays: to be without TLS needs a restart");
      }
      return;
    }
    if (const auto loaded = amqp_->reload_tls(wanted); !loaded) {
      log_.write(log_level::error, "SIGHUP: the certificate in use stays: " + loaded.error().text);
      return;
    }
    settings_.tls_certificate = now.tls_certificate;
    settings_.tls_key = now.tls_key;
    settings_.tls_ca = now.tls_ca;
    settings_.tls_verify = now.tls_verify;
    settings_.tls_login_from = now.tls_login_from;
    log_.write(log_level::info, "SIGHUP: new connections get the certificate as it is now",
               {{"certificate", amqp_->certificate()->first}});
  }

  void stop() {
    notify("STOPPING=1\nSTATUS=stopping");
    close_http();
    amqp_->stop(client_patience);
    broker_->stop();
    log_.write(log_level::info, "the node has stopped");
  }

  // After this no handler looks at the broker any more.
  void close_http() {
    http_->stop();
    std::promise<void> is_quiet;
    asio::post(outside_, [this, &is_quiet] {
      is_watching_ = false;
      idle_.cancel();
      is_quiet.set_value();
    });
    is_quiet.get_future().wait();
  }

  settings settings_;  // from the start of `outside_thread_` on, its level is that thread's
  const settings_reader& read_again_;
  const fault_plan faults_;
  node_log log_;
  node_status status_;
  node_administration administration_;

  // HTTP and signals: one thread, so that their handlers never meet.
  asio::io_context outside_{1};
  asio::signal_set signals_{outside_, SIGTERM, SIGINT, SIGHUP};
  asio::steady_timer deadline_{outside_}, idle_{outside_};
  bool is_watching_ = true;   // that thread's; what it is to do for the broker is done only as long
  std::uint64_t moved_ = 0;   // messages, when idle_ last fired
  bool is_stopping_ = false;  // that thread's
  std::atomic<bool> is_starting_ = true;
  std::promise<void> stop_asked_;
  std::unique_ptr<http::server> http_;
  std::unique_ptr<broker> broker_;
  std::unique_ptr<amqp091::server> amqp_;
  std::thread outside_thread_;
};

}  // namespace

int run_node(const settings& chosen, const settings_reader& read_again, const fault_plan& faults) {
  return running_node{chosen, read_again, faults}.run();
}

}  // namespace posthorn
