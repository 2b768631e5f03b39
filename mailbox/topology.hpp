// Which exchanges, queues and bindings a virtual host has, and where a message goes.
//
// A plain value that is cheap to copy (mailbox/persistent_map.hpp). Its owner, the vhost's actor, applies commands to a
// copy, makes the changes durable, and publishes the copy as the new routing snapshot; if the changes cannot be made
// durable, it drops the copy, and nothing has happened. Connections route with the snapshot, on their own threads.
//
// Error texts and the order of the checks are RabbitMQ's; numbers in brackets are those of docs/amqp.md.
//
// Threads   a copy may be read by any number of threads.
#pragma once

#include "mailbox/binding_choice.hpp"
#include "mailbox/field_table.hpp"
#include "mailbox/headers_index.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/persistent_map.hpp"
#include "mailbox/shared_value.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace posthorn {

// Why a client's request is refused. A gateway turns it into its protocol's code.
struct refusal {
  enum class kind : std::uint8_t {
    not_found,
    access_refused,
    resource_locked,
    precondition_failed,
    command_invalid,
    not_allowed,
    not_implemented,
    resource_error,
    internal_error,
  };
  kind why = kind::internal_error;
  std::string text;

  friend bool operator==(const refusal&, const refusal&) = default;
};

// What stands behind a queue where it is alive, and what others may read of it at any time. The actors' floor
// derives from it; here, nobody looks inside.
struct mailbox_port {
  virtual ~mailbox_port() = default;
};

enum class exchange_type : std::uint8_t {
  direct,
  fanout,
  topic,
  headers,
  // Each message to one binding: by a hash of the key, a header or a property, as often as the weight says that is the
  // binding's key;
  consistent_hash,
  modulus_hash,  // by a hash of the keys, modulo the number of bindings;
  random,        // by chance;
  local_random,  // the same among queues of this node. All are of this node.
  // A fanout exchange whose last messages also go to whatever is bound later: mailbox/recent_history.hpp.
  recent_history,
  delayed,        // as the type in its argument says, when a message's time has come: mailbox/delayed.hpp
  deduplicating,  // a fanout exchange that nothing passes twice: mailbox/deduplication.hpp
};
inline constexpr exchange_type exchange_types[] = {
    exchange_type::direct,  exchange_type::fanout,          exchange_type::topic,
    exchange_type::headers, exchange_type::consistent_hash, exchange_type::modulus_hash,
    exchange_type::random,  exchange_type::local_random,    exchange_type::recent_history,
    exchange_type::delayed, exchange_type::deduplicating};
// As clients declare it: "direct", "x-consistent-hash", …
[[nodiscard]] std::string_view to_string(exchange_type type) noexcept;
[[nodiscard]] std::optional<exchange_type> exchange_type_of(std::string_view name) noexcept;

struct exchange_definition {
  std::string name;
  exchange_type type = exchange_type::direct;
  bool durable = false, auto_delete = false, internal = false;
  std::string arguments;  // field table as it came, without its length
  // Under which stands what it keeps in the store: of one that delays messages or remembers them. 0: of all others.
  mailbox_id id{};
};

struct queue_definition {
  mailbox_id id{};
  std::string name;
  bool durable = false, auto_delete = false;
  std::optional<connection_id> owner;  // of an exclusive queue; such a queue never survives a restart
  std::string arguments;               // field table as it came, without its length
  std::shared_ptr<mailbox_port> port;  // null until its actor was started
  // The mailbox of a durable actor. It stands here only as long as something is bound to it, and is not stored: the
  // bindings to its name are, and the actor's state.
  bool of_actor = false;
};
using queue_ptr = std::shared_ptr<const queue_definition>;

enum class destination_kind : std::uint8_t { queue, exchange };

struct binding_definition {
  binding_id id{};
  std::string source;
  destination_kind kind = destination_kind::queue;
  std::string destination;
  std::string routing_key;
  std::string arguments;  // field table as it came, without its length
  bool durable = false;   // both ends are

  header_match headers;  // what a headers exchange matches on, decoded once
};

// The words of a topic exchange's patterns, as a trie.
struct topic_node {
  persistent_map<topic_node> words;
  shared_value<topic_node> star, hash;
  binding_set here;

  [[nodiscard]] bool empty() const noexcept { return words.empty() && !star && !hash && here.empty(); }
};

// What a consistent hash looks at. A message that does not have it counts as if it were empty.
struct hash_source {
  enum class part : std::uint8_t { routing_key, header, message_id, correlation_id, timestamp };
  part of = part::routing_key;
  std::string header;  // its name
};

struct exchange_state {
  exchange_definition definition;
  exchange_type routes_as = exchange_type::direct;  // a plain type, whatever the exchange does besides
  bool delays = false, remembers = false;
  // The exchange's own actor, which takes what has to wait and what may have passed already. Null: it has none.
  std::shared_ptr<const queue_definition> keeper;
  std::string alternate;               // where unroutable messages go; empty: nowhere
  hash_source hashed;                  // consistent hash
  binding_set bindings;                // all of which it is the source
  bool leads_to_exchanges = false;     // some binding does, or did
  persistent_map<binding_set> by_key;  // direct
  shared_value<topic_node> patterns;   // topic
  headers_index headers;               // headers
  binding_choice choice;               // consistent hash, modulus hash, random, local random

  // Whether messages with the same routing keys go the same way from here, and leave no trace: as long as nothing is
  // bound or unbound, and no other exchange stands behind it, a caller may route one of them and send others after it.
  [[nodiscard]] bool key_decides() const noexcept;
};

// What goes with a message through the exchanges, beyond itself.
struct passage {
  // What decides where an exchange by chance leads: another number for each message. With the same number, the same
  // message goes the same way. The numbers need not look random; to count is enough.
  std::uint64_t chance = 0;
  // If given, the names of the exchanges with a recent history that it passed are appended. They live as long as the
  // exchanges.
  std::vector<std::string_view>* histories = nullptr;
  // The headers CC and BCC name no keys: see envelope::by_key_alone.
  bool by_key_alone = false;
  // No exchange asks whether it has seen the message before: that was asked, or it comes from the node itself.
  bool is_first = false;
};

// --- commands ---------------------------------------------------------------------------------------------------

struct declare_exchange {
  std::string name, type;
  bool passive = false, durable = false, auto_delete = false, internal = false;
  std::string arguments;
  mailbox_id id{};  // of what the new exchange keeps, if it keeps anything; never used before on this node
};
struct delete_exchange {
  std::string name;
  bool if_unused = false;
};
struct declare_queue {
  mailbox_id id{};   // of the new mailbox, if it comes to one; never used before on this node
  std::string name;  // never empty: whoever asks has chosen a name
  bool durable = false, exclusive = false, auto_delete = false;
  bool server_named = false;
  std::string arguments;
  connection_id by{};
  mailbox_id actor{};  // of the durable actor of this name, if there is one: it is as good as declared
};
// The queue's own actor asks for it, when it knows that nothing speaks against it.
struct remove_queue {
  mailbox_id id{};
  std::string name;
};
struct bind {
  binding_id id{};  // of the new binding, if it comes to one; never used before on this node
  destination_kind kind = destination_kind::queue;
  std::string source, destination, routing_key, arguments;
  connection_id by{};
  queue_ptr actor{};  // the durable actor of the destination's name, if there is one
};
struct unbind {
  destination_kind kind = destination_kind::queue;
  std::string source, destination, routing_key, arguments;
  connection_id by{};
};

// --- changes: what has to be durable before the command is answered, and who has to be started or stopped -----------

struct queue_added {
  queue_ptr queue;
};
struct queue_removed {
  queue_ptr queue;
};
struct exchange_added {
  exchange_definition exchange;
};
struct exchange_removed {
  exchange_definition exchange;
};
struct binding_added {
  binding_ptr binding;
};
struct binding_removed {
  binding_ptr binding;
};
using topology_change = std::variant<queue_added, queue_removed, exchange_added, exchange_removed,
                                     binding_added, binding_removed>;

// ----------------------------------------------------------------------------------------------------------------

class topology {
public:
  // With the exchanges that every virtual host has: the default exchange and amq.*
  explicit topology(std::string vhost);

  using changes = std::vector<topology_change>;

  // Each applies the command to this value and appends what changed, or refuses and changes nothing.
  std::optional<refusal> on(const declare_exchange& command, changes& out);
  std::optional<refusal> on(const delete_exchange& command, changes& out);
  std::optional<refusal> on(const declare_queue& command, changes& out);
  std::optional<refusal> on(const bind& command, changes& out);
  std::optional<refusal> on(const unbind& command, changes& out);
  void on(const remove_queue& command, changes& out);

  // Puts back what the store held, without a check: exchanges first, then queues, then bindings.
  void restore(exchange_definition exchange);
  void restore(queue_definition queue);
  void restore(binding_definition binding);

  // Ties a queue to what stands behind it.
  void attach(mailbox_id id, std::string_view name, std::shared_ptr<mailbox_port> port);
  // The same for an exchange that keeps something.
  void attach_keeper(std::string_view exchange, std::shared_ptr<mailbox_port> port);

  // Where the exchange's unroutable messages go from now on: by a policy.
  void set_alternate(std::string_view exchange, std::string alternate);

  // Tells published snapshots apart; never 0. Its owner counts it up before it publishes.
  [[nodiscard]] std::uint64_t version() const noexcept { return version_; }
  void count_version() noexcept { ++version_; }

  [[nodiscard]] const std::string& vhost() const noexcept { return vhost_; }
  // Null when there is none. Valid as long as this value, or a copy that was not changed since, lives.
  [[nodiscard]] const queue_ptr* find_queue(std::string_view name) const noexcept {
    return queues_.find(name);
  }
  [[nodiscard]] const exchange_state* find_exchange(std::string_view name) const noexcept;
  [[nodiscard]] std::size_t queue_count() const noexcept { return queues_.size(); }
  [[nodiscard]] std::size_t exchange_count() const noexcept { return exchanges_.size(); }
  [[nodiscard]] std::size_t binding_count() const noexcept { return binding_count_; }

  // The queue of that name, if the connection may touch it: [5] [7].
  [[nodiscard]] std::variant<queue_ptr, refusal> access_queue(std::string_view name, connection_id by) const;

  template <class Visit>
  void for_each_queue(Visit&& visit) const {
    queues_.for_each([&](const std::string&, const queue_ptr& queue) { visit(queue); });
  }
  template <class Visit>
  void for_each_exchange(Visit&& visit) const {
    exchanges_.for_each([&](const std::string&, const exchange_state& exchange) { visit(exchange); });
  }
  template <class Visit>
  void for_each_binding(Visit&& visit) const {
    exchanges_.for_each([&](const std::string&, const exchange_state& exchange) {
      exchange.bindings.for_each([&](const std::string&, const binding_ptr& binding) { visit(*binding); });
    });
  }

  // Appends every queue that a message published to `exchange` goes to, each once [15]. The exchange must exist.
  // `properties` are the message's, as they came: a message goes by its routing key and by all keys of its headers CC
  // and BCC [31], through each exchange that looks at keys. Headers that are not valid name no keys: whoever takes a
  // message from a client asks invalid_copies (mailbox/carbon_copies.hpp) first.
  void route(const exchange_state& exchange, std::string_view routing_key,
             std::span<const std::byte> properties, std::vector<queue_ptr>& out,
             const passage& with = {}) const;

private:
  void add_exchange(exchange_definition definition);
  // It goes to the exchange's own actor, and not on its way yet.
  [[nodiscard]] bool is_kept(const exchange_state& exchange, std::string_view routing_key,
                             std::span<const std::byte> properties, const passage& with) const;
  std::optional<refusal> add_binding(const bind& command, changes& out);
  // `key` tells it apart from the other bindings of its source.
  void add_binding(const binding_ptr& binding, const std::string& key);
  // Says whether its source is an auto-delete exchange that has lost its last binding, and must go too.
  bool remove_binding(const binding_ptr& binding, const std::string& key, changes& out);
  // All its bindings go at once, and it is not there any more.
  void forget_source(const exchange_state& exchange);
  // `key` is that of the binding's destination, which something led to.
  void forget_destination_if_unused(const binding_definition& binding, const std::string& key);
  // The names of the exchanges that must go too.
  std::vector<std::string> remove_bindings_to(destination_kind kind, const std::string& name, changes& out);
  void remove_exchanges(std::vector<std::string> names, changes& out);
  [[nodiscard]] std::optional<refusal> check_equivalent(const queue_definition& present,
                                                        const declare_queue& c,
                                                        const field_table& arguments) const;
  // Whether both ends of a binding are there, in RabbitMQ's order. Whether the queue may be touched is asked later.
  [[nodiscard]] std::optional<refusal> check_ends(destination_kind kind, const std::string& source,
                                                  const std::string& destination) const;
  [[nodiscard]] std::optional<refusal> check_local_random(const bind& command) const;

  std::string vhost_;
  persistent_map<exchange_state> exchanges_;
  persistent_map<queue_ptr> queues_;
  // By kind and name of what the bindings lead to, by their source, by their id.
  persistent_map<persistent_map<binding_set>> by_destination_;
  std::size_t binding_count_ = 0;
  std::uint64_t version_ = 1;
};

}  // namespace posthorn
