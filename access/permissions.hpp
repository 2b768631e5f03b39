// What a user may do in a virtual host, and which operation asks for what. Numbers in brackets are those of
// docs/amqp.md.
//
// A user has a pattern each for what it may configure, write and read, and may have, for a topic exchange,
// patterns for the routing keys. A pattern matches anywhere in a name, unless it is anchored; an empty one
// matches the empty name only, so nothing. A user without permissions in a virtual host may not open it at
// all [70].
//
//   operation                     asks for, in this order                                 [7] [18] [71]
//   queue.declare                 configure on the queue, whether or not it is there; of one that its user
//                                 did not name, on the name that the server chose. If it would create with
//                                 x-dead-letter-exchange: read on the queue, write on that exchange
//   queue.declare, passive        any of read, write, configure on the queue
//   queue.delete                  configure on the queue
//   queue.purge                   read on the queue
//   queue.bind, queue.unbind      write on the queue, read on the exchange; if that is there and of type
//                                 topic, the user's topic pattern for read on the routing key
//   exchange.declare              configure on the exchange. If it would create with alternate-exchange: read
//                                 on the exchange, write on the alternate
//   exchange.declare, passive     any of read, write, configure on the exchange
//   exchange.delete               configure on the exchange
//   exchange.bind, .unbind        write on the destination, read on the source; topic as above
//   basic.publish                 write on the exchange, before it is looked for; if it is of type topic, the
//                                 user's topic pattern for write on the routing key and on every one in CC
//                                 and BCC
//   basic.get, basic.consume      read on the queue
//   all others                    nothing
//
// The default exchange is asked for as 'amq.default'. Checks of names and arguments come before or after:
// exchange.* refuses the default exchange first, queue.bind after the permission on the queue ("operation not
// permitted on the default exchange"). What a policy brings (dead-letter-exchange, alternate-exchange) and
// what dead-lettering itself publishes is not asked for.
//
// A user without topic permissions for an exchange may use every routing key. Topic patterns may have
// {username} and {vhost} in them, which stand for just these texts, and {client_id}, which only MQTT has: for
// AMQP it stays as it is.
//
// Threads   plain values, that any number of threads may ask at once.
#pragma once

#include "access/pattern.hpp"
#include "mailbox/result.hpp"
#include "mailbox/topology.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

enum class permission : std::uint8_t { configure, write, read };
[[nodiscard]] std::string_view to_string(permission which) noexcept;

enum class resource_kind : std::uint8_t { exchange, queue };

// The three texts of one permission, as they were given.
struct resource_permissions {
  std::string configure, write, read;

  friend bool operator==(const resource_permissions&, const resource_permissions&) = default;
};

struct topic_permissions {
  std::string write, read;

  friend bool operator==(const topic_permissions&, const topic_permissions&) = default;
};

// One user's permissions in one virtual host, ready to be asked.
class vhost_permissions {
public:
  vhost_permissions(std::string user, std::string vhost) : user_(std::move(user)), vhost_(std::move(vhost)) {}

  // Refuses a pattern that is none, and then changes nothing.
  result<void> set(resource_permissions permissions);
  void clear() noexcept { resources_.reset(); }
  result<void> set(std::string_view exchange, topic_permissions permissions);
  bool clear_topic(std::string_view exchange);
  void clear_topics() noexcept { topics_.clear(); }

  [[nodiscard]] const std::string& user() const noexcept { return user_; }
  [[nodiscard]] const std::string& vhost() const noexcept { return vhost_; }
  // Neither permissions nor topic permissions.
  [[nodiscard]] bool empty() const noexcept { return !resources_ && topics_.empty(); }

  // [70]: Without them, nobody opens the virtual host.
  [[nodiscard]] bool may_open() const noexcept { return resources_.has_value(); }
  [[nodiscard]] const resource_permissions* resources() const noexcept {
    return resources_ ? &resources_->given : nullptr;
  }

  [[nodiscard]] bool allows(permission which, std::string_view name) const;
  [[nodiscard]] bool allows_topic(permission which, std::string_view exchange,
                                  std::string_view routing_key) const;
  // Whether there is something to ask for the routing keys of that exchange: else nobody has to decode CC and
  // BCC for it.
  [[nodiscard]] bool has_topics(std::string_view exchange) const noexcept {
    return !topics_.empty() && topics_.find(exchange) != topics_.end();
  }

  // By exchange, in order.
  template <class Visit>
  void for_each_topic(Visit&& visit) const {
    for (const auto& [exchange, rules] : topics_) visit(exchange, rules.given);
  }

private:
  struct matched_resources {
    resource_permissions given;
    pattern configure, write, read;
  };
  struct matched_topics {
    topic_permissions given;
    pattern write, read;
  };

  std::string user_, vhost_;
  std::optional<matched_resources> resources_;
  std::map<std::string, matched_topics, std::less<>> topics_;  // by exchange
};

// A connection's access to its virtual host: a method for each operation, which says why it is refused.
// Nothing: it may go on. Names are as they are used: stripped, and chosen if the client left them empty.
class vhost_access {
public:
  using answer = std::optional<refusal>;

  explicit vhost_access(std::shared_ptr<const vhost_permissions> permissions)
      : permissions_(std::move(permissions)) {}

  [[nodiscard]] answer declare_queue(std::string_view queue) const;
  // For a queue that would be created with x-dead-letter-exchange.
  [[nodiscard]] answer dead_letter(std::string_view queue, std::string_view exchange) const;
  [[nodiscard]] answer find_queue(std::string_view queue) const;  // queue.declare, passive
  [[nodiscard]] answer delete_queue(std::string_view queue) const;
  [[nodiscard]] answer purge_queue(std::string_view queue) const;
  [[nodiscard]] answer read_queue(std::string_view queue) const;  // basic.get, basic.consume

  [[nodiscard]] answer declare_exchange(std::string_view exchange) const;
  // For an exchange that would be created with alternate-exchange.
  [[nodiscard]] answer alternate(std::string_view exchange, std::string_view alternate) const;
  [[nodiscard]] answer find_exchange(std::string_view exchange) const;  // exchange.declare, passive
  [[nodiscard]] answer delete_exchange(std::string_view exchange) const;

  // Of bind and unbind, in this order: what is bound, then, if the source is not the default exchange, the
  // source; then, if there is one of that name and it is of type topic, the routing key.
  [[nodiscard]] answer bind_destination(resource_kind kind, std::string_view name) const;
  [[nodiscard]] answer bind_source(std::string_view exchange) const;
  [[nodiscard]] answer bind_topic(std::string_view exchange, std::string_view routing_key) const;

  [[nodiscard]] answer publish(std::string_view exchange) const;
  // For each of a message's routing keys, if the exchange is of type topic.
  [[nodiscard]] answer publish_topic(std::string_view exchange, std::string_view routing_key) const;

  [[nodiscard]] const vhost_permissions& permissions() const noexcept { return *permissions_; }

private:
  [[nodiscard]] answer ask(permission which, resource_kind kind, std::string_view name) const;
  [[nodiscard]] answer ask_any(resource_kind kind, std::string_view name) const;
  [[nodiscard]] answer ask_topic(permission which, std::string_view exchange, std::string_view key) const;

  std::shared_ptr<const vhost_permissions> permissions_;
};

// What connection.open is refused with [70]: there is no such virtual host, or the user has nothing to do
// there.
[[nodiscard]] refusal no_vhost(std::string_view vhost);
[[nodiscard]] refusal vhost_refused(std::string_view vhost, std::string_view user);

// What a wrong name, a wrong password, or an address that is not allowed is refused with [69].
[[nodiscard]] refusal login_refused(std::string_view mechanism);

}  // namespace posthorn
