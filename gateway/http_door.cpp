#include "gateway/http_door.hpp"

#include "actors/broker.hpp"
#include "gateway/http/management.hpp"
#include "gateway/http/server.hpp"
#include "gateway/node_administration.hpp"
#include "gateway/node_status.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <thread>
#include <utility>

namespace posthorn {

struct http_door::impl {
  explicit impl(std::string node_name) : status{std::move(node_name)} {}
  ~impl() {
    if (server) server->stop();
    work.reset();
    io.stop();
    if (thread.joinable()) thread.join();
  }

  node_status status;
  node_administration administration;
  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  std::unique_ptr<http::server> server;
  std::thread thread;
};

http_door::http_door(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
http_door::~http_door() = default;

result<std::unique_ptr<http_door>> http_door::listen(broker& node, const http_door_settings& settings,
                                                     const amqp091::server* amqp) {
  auto made = std::make_unique<impl>(node.node_name());
  made->status.attach(node, amqp);
  made->administration.attach(node);
  const auto later = [io = &made->io](std::function<void()> run) { boost::asio::post(*io, std::move(run)); };
  auto server = http::server::listen(
      made->io, settings.host, settings.port,
      http::make_management(made->status, made->status, &made->status, made->administration, later), {},
      http::make_body_gate(made->status, made->administration, later));
  if (!server) return server.error();
  made->server = std::move(*server);
  made->thread = std::thread{[io = &made->io] { io->run(); }};
  return std::unique_ptr<http_door>{new http_door{std::move(made)}};
}

std::uint16_t http_door::port() const {
  const auto endpoints = impl_->server->endpoints();
  return endpoints.empty() ? std::uint16_t{0} : endpoints.front().port();
}

}  // namespace posthorn
