// What the management API shows of this node: read from the broker's snapshots and counters, without waiting.
//
// Threads   `attach` from the thread that starts the broker; everything else from any.
#pragma once

#include "actors/broker.hpp"
#include "gateway/amqp091/server.hpp"
#include "gateway/http/api.hpp"

#include <atomic>
#include <chrono>

namespace posthorn {

class node_status final : public http::broker_view {
public:
  explicit node_status(std::string node_name) : node_name_{std::move(node_name)} {}

  // From here on there is something to show. Both stay until the HTTP server no longer calls its handler.
  void attach(broker& running, const amqp091::server& door) noexcept {
    door_ = &door;
    broker_ = &running;
  }

  [[nodiscard]] std::optional<std::vector<http::queue_summary>> list_queues(
      std::optional<std::string_view> vhost) const override;
  [[nodiscard]] http::node_summary overview() const override;
  [[nodiscard]] http::login authenticate(std::string_view user, std::string_view password,
                                         bool remote_is_loopback) const override;
  [[nodiscard]] std::optional<std::string> unhealthy_reason() const override;
  [[nodiscard]] std::string metrics() const override;

private:
  const std::string node_name_;
  const std::chrono::steady_clock::time_point started_at_ = std::chrono::steady_clock::now();
  const amqp091::server* door_ = nullptr;  // set before `broker_`
  std::atomic<broker*> broker_ = nullptr;  // null while the store is read
};

}  // namespace posthorn
