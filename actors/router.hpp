// Routers: names that lead to one of several mailboxes, or to all of them.
//
// A router has the name "routers/NAME" and stands wherever an actor's name may stand: in turns, for clients of this
// process, and as the routing key of AMQP's default exchange. Its members are durable actors ("kind/id") and queues of the
// vhost "/". How they are chosen is mailbox/balance.hpp's.
//
// A router is configuration of the program: nothing of it is stored. It holds no messages either; once a member is chosen,
// the message is that member's, with all that its mailbox promises.
//
// A consistent hash needs a key. It is the first of these that a message has:
//   1. what stands behind the router's name: "routers/NAME/KEY";
//   2. the header `key_header`, text or a whole number;
//   3. its correlation id;
//   4. its message id;
//   5. its body.
//
// A member whose queue is deleted is passed over until the queue is declared again; with a consistent hash, only its own
// keys move. Actors are always there: they wake when something is sent to them.
//
// Owns      the routers; each its members and what is known of them, under a mutex of its own.
// Threads   any. Choosing may wake an actor, which reads its state from the store on the thread that asks.
// Errors    `refused`, with a text that says what to do.
#pragma once

#include "actors/queue.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

// One of those that a router chooses from.
// What each does, and whether weights count, says mailbox/balance.hpp at `balance_algorithm`.
enum class routing : std::uint8_t {
  round_robin,
  random,
  weighted_round_robin,
  least_response_time,
  consistent_hash,
  smallest_mailbox,
  broadcast,
};

// Whom a router may choose: a durable actor ("kind/id") or a queue.
struct router_member {
  // A name alone has the weight 1.
  router_member(std::string member, std::uint32_t its_weight = 1)
      : name{std::move(member)}, weight{its_weight} {}
  // The same.
  router_member(const char* member, std::uint32_t its_weight = 1) : name{member}, weight{its_weight} {}

  std::string name;          // an actor, "kind/id", or a queue, which comes first when both have the name
  std::uint32_t weight = 1;  // 0: it gets nothing, whatever the algorithm, and keeps its place
};

struct router_definition {
  static constexpr std::size_t members_max = 10'000;

  std::string name;  // one part of a path: not empty, without '/'
  routing how = routing::round_robin;
  std::vector<router_member> members{};
  std::string key_header = "x-routing-hash";
  std::uint32_t virtual_nodes = 100;  // of a consistent hash: of a member of weight 1
  std::chrono::nanoseconds half_life = std::chrono::seconds{5};  // of least response time
};

// A router as it stands.
struct router_report {
  // One member as it stands.
  struct member {
    std::string name;          // as it was added
    std::uint32_t weight = 1;  // 0: it gets nothing
    bool present = true;       // false: its queue was deleted
    std::uint64_t chosen = 0;  // messages, since it joined
  };
  std::string name;             // without "routers/"
  routing how{};                // how it chooses
  std::vector<member> members;  // in the order of their names
};

class router_place;

class router_table {
public:
  explicit router_table(node_context& node);
  ~router_table();
  router_table(const router_table&) = delete;
  router_table& operator=(const router_table&) = delete;

  // A name that only a router can have.
  [[nodiscard]] static bool is_name(std::string_view name) noexcept { return name.starts_with(prefix); }

  // Error: its name cannot be one or is taken, or a member is not there.
  result<void> add(router_definition definition);
  // From now on these are its members. Those that stay keep their places, and what is known of them. Error: there is no
  // such router, or a member is not there; then nothing has changed.
  result<void> resize(std::string_view name, std::vector<router_member> members);
  [[nodiscard]] result<router_report> show(std::string_view name) const;

  // For a message to "routers/…", its routing key. Empty: nobody can take it, and `why_nowhere` says why.
  [[nodiscard]] std::vector<std::shared_ptr<queue_port>> choose(const envelope& message);
  // A mailbox that passes on what is published to it, and gives no places; the same one as long as the router is there.
  // Null: there is no such router, or none of its members is there.
  [[nodiscard]] std::shared_ptr<queue_port> doorway(std::string_view name);
  [[nodiscard]] error why_nowhere(std::string_view name) const;

private:
  static constexpr std::string_view prefix = "routers/";

  [[nodiscard]] std::shared_ptr<router_place> find(std::string_view name) const;
  [[nodiscard]] result<void> check(const std::string& router,
                                   const std::vector<router_member>& members) const;

  node_context& node_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, std::shared_ptr<router_place>, std::less<>> routers_;
};

}  // namespace posthorn
