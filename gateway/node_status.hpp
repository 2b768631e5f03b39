// What the management API shows of this node: read from the broker's snapshots, counters and tree, without waiting;
// and what it may do to the tree's actors.
//
// Threads   `attach` from the thread that starts the broker; everything else from any.
#pragma once

#include "actors/broker.hpp"
#include "gateway/amqp091/server.hpp"
#include "gateway/http/api.hpp"

#include <atomic>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn {

class node_status final : public http::broker_view, public http::actor_tree_view, public http::alarm_view {
public:
  explicit node_status(std::string node_name) : node_name_{std::move(node_name)} {}

  // From here on there is something to show. Both stay until the HTTP server no longer calls its handler; there need
  // not be an AMQP door.
  void attach(broker& running, const amqp091::server* door) noexcept {
    door_ = door;
    broker_ = &running;
  }

  [[nodiscard]] std::optional<listed_queues> list_queues(std::optional<std::string_view> vhost,
                                                         range which) const override;
  [[nodiscard]] std::optional<http::queue_summary> show_queue(std::string_view vhost,
                                                              std::string_view name) const override;
  [[nodiscard]] http::node_summary overview() const override;
  // Waits for the check of the password: where that matters, `check_login` is asked.
  [[nodiscard]] http::login authenticate(std::string_view user, std::string_view password,
                                         bool remote_is_loopback) const override;
  void check_login(std::string user, std::string password, bool remote_is_loopback,
                   std::function<void(http::login)> answer) const override;
  [[nodiscard]] std::optional<std::string> unhealthy_reason() const override;
  [[nodiscard]] std::string metrics() const override;

  [[nodiscard]] result<std::vector<http::actor_summary>> list_actors(std::string_view path, std::size_t depth,
                                                                     std::size_t children_max,
                                                                     std::size_t count_max) const override;
  [[nodiscard]] result<http::actor_summary> show_actor(std::string_view path) const override;
  [[nodiscard]] result<std::vector<http::actor_event_summary>> list_actor_events(
      std::size_t count_max) const override;
  result<void> kill_actor(std::string_view path) override;
  result<void> restart_actor(std::string_view path) override;

  [[nodiscard]] std::vector<http::alarm_summary> list_alarms() const override;
  result<void> set_alarm(std::string_view resource, bool is_raised) override;

private:
  const std::string node_name_;
  const std::chrono::steady_clock::time_point started_at_ = std::chrono::steady_clock::now();
  const amqp091::server* door_ = nullptr;  // set before `broker_`
  std::atomic<broker*> broker_ = nullptr;  // null while the store is read
};

// A path as the tree writes it: "/vhosts/%2f/" → "/vhosts/%2F". `refused` when it cannot be one.
[[nodiscard]] result<std::string> canonical_actor_path(std::string_view path);

}  // namespace posthorn
