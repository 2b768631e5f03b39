// What a node answers over HTTP.
//
//   GET /healthz                      200 "ok", or 503 with the reason; no user needed
//   GET /metrics                      Prometheus text; no user needed
//   GET /api/overview                 the node at a glance          } JSON, shaped as RabbitMQ's management API,
//   GET /api/queues[/VHOST[/NAME]]    queues and their counts       } with basic authentication
//       …?page=N&page_size=N            some of them: an object with `items`, `page`, `page_count`, `page_size` (100,
//                                       at most 500), `item_count`, `filtered_count` and `total_count`
//       /api/actors…                  the tree of actors: gateway/http/actors.hpp
//       /api/alarms…                  why publishers have to wait: gateway/http/alarms.hpp
//
// Threads   the handler is called on the HTTP server's threads, several at a time.
#pragma once

#include "gateway/http/actors.hpp"
#include "gateway/http/alarms.hpp"
#include "gateway/http/message.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn::http {

// An argument of a queue, as far as JSON can say it.
using argument_value = std::variant<std::nullptr_t, bool, std::int64_t, double, std::string>;

// What is known of a stream beside what is known of every queue; as it was a moment ago.
struct stream_summary {
  std::uint64_t segments = 0;
  std::uint64_t first_offset = 0, next_offset = 0;  // equal: nothing can be read
  std::uint64_t lag_max = 0;                        // messages that the last of the readers has to go
  std::vector<std::uint64_t> lags;                  // of each reader, descending; of many, the longest ones
};

struct queue_summary {
  std::string name;
  std::string vhost = "/";
  std::string type = "classic";
  std::string state = "running";
  std::string node;
  bool durable = false;
  bool auto_delete = false;
  bool exclusive = false;
  std::vector<std::pair<std::string, argument_value>> arguments;
  // What is laid down for it: the names of the policies that apply, and what they say together.
  std::optional<std::string> policy, operator_policy;
  std::vector<std::pair<std::string, argument_value>> policy_definition;
  std::uint64_t messages_ready = 0;
  std::uint64_t messages_unacknowledged = 0;
  std::uint64_t messages_delayed = 0;       // came back, and wait for their next try
  std::uint64_t messages_dead_waiting = 0;  // dead letters that wait for a way
  std::uint64_t message_bytes = 0;
  std::uint64_t consumers = 0;
  std::uint64_t memory = 0;  // bytes that the queue holds in memory
  std::optional<stream_summary> stream;
};

struct node_summary {
  std::string name;
  std::string product_version;
  std::string cluster_name;
  std::uint64_t uptime_ms = 0;
  std::uint64_t connections = 0;
  std::uint64_t channels = 0;
  std::uint64_t consumers = 0;
  std::uint64_t exchanges = 0;
  std::uint64_t queues = 0;
  std::uint64_t messages_ready = 0;
  std::uint64_t messages_unacknowledged = 0;
  // Since the start.
  std::uint64_t published = 0;
  std::uint64_t confirmed = 0;
  std::uint64_t delivered = 0;
  std::uint64_t acknowledged = 0;
  // The process and its store, in bytes.
  std::uint64_t memory_used = 0;
  std::uint64_t store_used = 0;
  std::uint64_t disk_free = 0;
  std::uint64_t disk_free_min = 0;
  bool disk_alarm = false;
  std::uint64_t memory_limit = 0;  // 0: none
  bool memory_alarm = false;
};

enum class login : std::uint8_t {
  accepted,
  refused,        // no such user, or another password
  loopback_only,  // the user may come in from this machine only
  overloaded,     // too many passwords wait to be checked
};

// What the API needs from the broker. Every function is called on the HTTP server's threads, several at a time, and
// answers from what it has: it never waits for an actor, the disk or a lock that is held over either.
class broker_view {
public:
  virtual ~broker_view() = default;

  // All virtual hosts' queues, if none is named; nothing, if there is no such virtual host. In the order of their
  // names, from `which.first` on, `which.count` of them at most.
  struct range {
    std::size_t first = 0;
    std::size_t count = SIZE_MAX;
  };
  struct listed_queues {
    std::vector<queue_summary> queues;
    std::size_t total = 0;  // with those before and behind
  };
  [[nodiscard]] virtual std::optional<listed_queues> list_queues(std::optional<std::string_view> vhost,
                                                                 range which) const = 0;
  // Nothing, if there is no such virtual host or queue.
  [[nodiscard]] virtual std::optional<queue_summary> show_queue(std::string_view vhost,
                                                                std::string_view name) const = 0;
  [[nodiscard]] virtual node_summary overview() const = 0;
  [[nodiscard]] virtual login authenticate(std::string_view user, std::string_view password,
                                           bool remote_is_loopback) const = 0;
  // The same without waiting: the answer comes on any thread.
  virtual void check_login(std::string user, std::string password, bool remote_is_loopback,
                           std::function<void(login)> answer) const {
    answer(authenticate(user, password, remote_is_loopback));
  }
  // Nothing, while the node can do its work.
  [[nodiscard]] virtual std::optional<std::string> unhealthy_reason() const = 0;
  // In the Prometheus text format.
  [[nodiscard]] virtual std::string metrics() const = 0;
};

// The views must outlive the handler. Without `alarms`, they are not there.
[[nodiscard]] request_handler make_api(const broker_view& broker, actor_tree_view& tree,
                                       alarm_view* alarms = nullptr);

}  // namespace posthorn::http
