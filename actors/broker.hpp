// One node's broker: the store, the actor system and the actors on it. Doors to the outside stand on top of it.
//
// Ownership   owns everything below the gateways. Gateways stop before it does.
// Threads     start and stop from one thread; everything else from any.
// Errors      a broker that cannot start says why in one sentence.
#pragma once

#include "actors/node_context.hpp"
#include "actors/vhost.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace posthorn {

class event_bus;
class supervisor;

// What a node is started with; the defaults are those of a node of its own on its machine.
struct broker_settings {
  std::string node_name = "posthorn";      // as operators see it
  std::filesystem::path data_directory{};  // made if it is not there; of one node at a time
  std::uint64_t map_size = 0;              // bytes; 0: as much as the file system has
  std::uint64_t disk_free_min = 0;         // bytes; 0: the smaller of 50 MB and 5 % of the file system
  std::uint64_t memory_messages_max = std::uint64_t{128} << 20;  // bytes that messages may take of memory
  unsigned threads = 0;  // that run actors; 0: as many as there are cores
  fault_plan faults{};   // for tests: where the node fails on purpose
  // Called on any thread; none: nothing is told.
  std::function<void(node_context::severity, const std::string&)> log{};
  // Of a test's node (posthorn/testing.hpp): it runs on the test's thread, in virtual time. Outlives the broker.
  simulation* simulated = nullptr;
};

// What the broker did since it was started.
struct broker_totals {
  std::uint64_t published = 0;     // messages that came to queues and actors
  std::uint64_t confirmed = 0;     // to publishers, as durable or gone
  std::uint64_t delivered = 0;     // to consumers, each time that they were
  std::uint64_t acknowledged = 0;  // by consumers
  std::uint64_t commits = 0;       // of the store, whatever was in them
};

class broker {
public:
  // Opens the store and brings back what it holds. Returns when every durable queue can be used.
  static result<std::unique_ptr<broker>> start(broker_settings settings);
  ~broker();
  broker(const broker&) = delete;
  broker& operator=(const broker&) = delete;

  // Writes what the queues still have to write, ends all actors and closes the store. Gateways have stopped before.
  void stop();
  // Of a test's node: drops everything at once, as a crash does. The store stays as the last commit left it.
  void abandon();

  // CAF's, where all actors of the node run.
  [[nodiscard]] caf::actor_system& system() noexcept;
  // What the node's own actors share; its type is none of a program's business.
  [[nodiscard]] node_context& context() noexcept;
  // Everything that runs.
  [[nodiscard]] supervisor& tree() noexcept;
  // What befell the actors of the tree, the newest first.
  [[nodiscard]] result<std::vector<tree_event>> events(std::size_t count_max) const;
  // The same as it happens.
  [[nodiscard]] event_bus& bus() noexcept;
  // As it was started with.
  [[nodiscard]] const std::string& node_name() const noexcept { return settings_.node_name; }

  // Null when there is none.
  [[nodiscard]] std::shared_ptr<vhost_port> find_vhost(std::string_view name) const;
  // All of them, by name.
  [[nodiscard]] std::vector<std::shared_ptr<vhost_port>> vhosts() const;

  // What is said to somebody who logs in; `loopback_only`: not from another machine.
  enum class login : std::uint8_t { accepted, refused, loopback_only };
  // The user guest may come in from this machine only: [69].
  [[nodiscard]] login authenticate(std::string_view user, std::string_view password,
                                   bool from_loopback) const;

  // Called on any thread, whenever publishers have to wait, or need no longer.
  void on_alarm(std::function<void(bool blocked, const std::string& reason)> listener);

  // How many messages the store held when the node started.
  [[nodiscard]] std::uint64_t message_count_at_start() const noexcept { return messages_at_start_; }
  // Counted since the start, over all queues.
  [[nodiscard]] broker_totals totals() const;
  // What the store takes of the disk, and what is left.
  [[nodiscard]] store_space space() const;
  // All metrics in the Prometheus text format.
  [[nodiscard]] std::string metrics() const;

private:
  struct runtime;
  explicit broker(broker_settings settings);
  void on_supervision_event(const supervision_event& event);

  broker_settings settings_;
  std::unique_ptr<store> store_;
  std::unique_ptr<runtime> runtime_;
  std::map<std::string, std::shared_ptr<vhost_port>, std::less<>> vhosts_;  // fixed after start
  std::mutex alarm_mutex_;
  std::function<void(bool, const std::string&)> alarm_listener_;
  std::uint64_t messages_at_start_ = 0;
};

}  // namespace posthorn
