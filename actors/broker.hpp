// One node's broker: the store, the actor system and the actors on it. Doors to the outside stand on top of it.
//
// Ownership   owns everything below the gateways. Gateways stop before it does.
// Threads     start and stop from one thread; everything else from any.
// Errors      a broker that cannot start says why in one sentence.
#pragma once

#include "access/password.hpp"
#include "actors/alarms.hpp"
#include "actors/directory.hpp"
#include "actors/node_context.hpp"
#include "actors/vhost.hpp"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

class event_bus;
class login_desk;
class supervisor;

// What a node is started with; the defaults are those of a node of its own on its machine.
struct broker_settings {
  std::string node_name = "posthorn";             // as operators see it
  std::filesystem::path data_directory{};         // made if it is not there; of one node at a time
  std::uint64_t map_size = 0;                     // bytes; 0: as much as the file system has
  std::uint64_t disk_free_min = 0;                // bytes; 0: the smaller of 50 MB and 5 % of the file system
  std::chrono::milliseconds consumer_timeout{0};  // of quorum queues that say nothing else; 0: none [54]
  std::chrono::milliseconds dead_letter_retry{5000};             // of dead letters that found no way [64]
  std::uint64_t memory_messages_max = std::uint64_t{128} << 20;  // bytes that messages may take of memory
  std::uint64_t memory_high_watermark =
      0;                      // bytes of the process's own beyond which publishers wait; 0: never
  unsigned threads = 0;       // that run actors; 0: as many as there are cores
  password_cost passwords{};  // of those that are hashed from now on
  fault_plan faults{};        // for tests: where the node fails on purpose
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

  // What is said to somebody who logs in; `loopback_only`: not from another machine; `overloaded`: too many passwords
  // wait to be checked.
  enum class login : std::uint8_t { accepted, refused, loopback_only, overloaded };
  // The user guest may come in from this machine only: [69]. Checking a password takes tens of milliseconds on a thread of
  // its own: the answer comes there, or at once on this thread, if the user has shown the password lately. Nobody is
  // answered after `stop`.
  void authenticate(std::string user, secret password, bool from_loopback,
                    std::function<void(login)> answer) const;
  // Of a user whom the client's certificate names, so that no password is needed.
  [[nodiscard]] login authenticate_certified(std::string_view user, bool from_loopback) const;

  // Users, virtual hosts, and what is laid down for them, as it is now: all that was ever answered.
  [[nodiscard]] directory_ptr access() const noexcept;
  // Changes it. The answer comes in the directory's actor, when the change is durable and holds.
  void administrate(directory_command command,
                    std::function<void(const result<directory_answer>&)> answer = nullptr);
  // The hash of a new password; on the thread of the passwords, in tens of milliseconds.
  void hash(secret password, std::function<void(result<password_hash>)> answer) const;

  // Clients that have to go, with the reason that they are told.
  struct eviction {
    std::optional<std::string> vhost{};  // of this one; of any, if there is none
    std::optional<std::string> user{};   // the same
    std::string reason;                  // as they are told
  };
  // Tells them, soon.
  void evict(const eviction& who) const;
  // Called on any thread.
  void on_eviction(std::function<void(const eviction&)> listener);

  // Whether publishers have to wait, and why.
  [[nodiscard]] resource_alarms& alarms() noexcept { return alarms_; }
  // Bytes that the process may take before they have to; 0: any number.
  [[nodiscard]] std::uint64_t memory_high_watermark() const noexcept {
    return settings_.memory_high_watermark;
  }

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
  void watch_memory();

  broker_settings settings_;
  std::unique_ptr<store> store_;
  std::unique_ptr<runtime> runtime_;
  using vhost_map = std::map<std::string, std::shared_ptr<vhost_port>, std::less<>>;
  void start_vhost(const std::string& name);
  void stop_vhost(const std::string& name);
  result<directory> first_access(const recovered_store& recovered);

  // Changed by the directory's actor, and before it.
  std::atomic<std::shared_ptr<const vhost_map>> vhosts_ = std::make_shared<const vhost_map>();
  std::unique_ptr<login_desk> logins_;
  mutable std::mutex eviction_mutex_;
  std::function<void(const eviction&)> eviction_listener_;
  resource_alarms alarms_;
  std::uint64_t messages_at_start_ = 0;
};

}  // namespace posthorn
