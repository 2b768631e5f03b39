// A node inside of a test, without types: posthorn/testing.hpp has what tests use, and says what it is for.
//
// Ownership   owns the broker, and makes another one after each crash; what was added is added to that one again.
// Threads     one: everything runs in `run`, `advance` and what calls them.
// Errors      `test_failure` for what a test must not go on after.
#pragma once

#include "actors/actor_kind.hpp"
#include "actors/broker.hpp"
#include "actors/client.hpp"
#include "actors/simulation.hpp"
#include "actors/turn.hpp"
#include "persist/actor_records.hpp"

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace posthorn {

// Something is not as the test says, or the test asks for what cannot be. Any test framework reports its text.
class test_failure : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

// What a test node is made with.
struct test_settings {
  std::uint64_t seed = 1;             // for the order in which actors run; another seed, another order
  std::filesystem::path directory{};  // empty: one of its own, which goes with the node
  std::int64_t start_at =
      1'893'456'000'000;    // milliseconds since 1970, where virtual time begins: the year 2030
  bool keep_trace = false;  // every event, for `trace`
  std::function<void(node_context::severity, const std::string&)> log{};  // none: nothing is told
  fault_plan defects{};  // for tests of the tests: see actors/node_context.hpp
};

// What became of a message that the test has sent.
class sent_message {
public:
  // All that can become of it.
  enum class fate : std::uint8_t {
    open,       // nobody knows: the node has not run, or has crashed
    confirmed,  // it is durable
    refused,    // the mailbox did not take it
  };

  // By the node.
  explicit sent_message(std::shared_ptr<const fate> of) : fate_{std::move(of)} {}
  // What is known by now.
  [[nodiscard]] fate what() const noexcept { return *fate_; }
  // It is durable.
  [[nodiscard]] bool confirmed() const noexcept { return *fate_ == fate::confirmed; }
  // The mailbox did not take it.
  [[nodiscard]] bool refused() const noexcept { return *fate_ == fate::refused; }

private:
  std::shared_ptr<const fate> fate_;
};

// What came to an address of the test and was not looked at.
struct probe_state {
  std::string name;
  std::deque<envelope_ptr> messages;
};

// A node in virtual time, for messages without types; posthorn/testing.hpp adds them.
class raw_test_node {
public:
  // Starts it.
  explicit raw_test_node(test_settings settings);
  ~raw_test_node();
  raw_test_node(const raw_test_node&) = delete;
  raw_test_node& operator=(const raw_test_node&) = delete;

  // --- time and order ---

  // Until nothing is left to do at this time.
  void run();
  // Virtual time passes; what falls due meanwhile happens when it is due, in order.
  void advance(std::chrono::milliseconds time);
  // Milliseconds since 1970.
  [[nodiscard]] std::int64_t now() const noexcept { return simulation_.now(); }

  // --- failures ---

  // The node crashes when it comes to this point for the so-manieth time from now on: one of `fault_points`.
  void fail_at(std::string_view point, unsigned on = 1);
  // It has crashed at such a point. Nothing of it runs until `crash_and_restart`.
  [[nodiscard]] bool has_crashed() const noexcept { return simulation_.crashed().has_value(); }
  // As kill -9 and a new start so much later: what was not committed is gone.
  void crash_and_restart(std::chrono::milliseconds down_for = {});
  // An orderly stop and a new start.
  void restart();
  // An actor dies, such as "/actors/account/anna"; its supervisor does what its rules say.
  void kill(std::string_view path);
  // The next turn of this actor ("kind/id") throws, before its handler; so many of them.
  void fail_next_turn(std::string_view name, std::string why, unsigned times = 1);

  // --- what it is made of ---

  // A kind of actors, also for the nodes after a crash.
  void add(const std::shared_ptr<const actor_kind>& kind);
  // Called now, and again after each restart: for exchanges, queues and actors of the test's own.
  void at_start(std::function<void(posthorn::broker&)> prepare);
  // The one of now: not the same after a restart.
  [[nodiscard]] posthorn::broker& broker();
  // The same.
  [[nodiscard]] caf::actor_system& system() { return broker().system(); }
  // The same.
  [[nodiscard]] supervisor& tree() { return broker().tree(); }

  // As in the settings: with it, a failing test fails again.
  [[nodiscard]] std::uint64_t seed() const noexcept { return simulation_.seed(); }
  // What has happened, in order, if the settings say `keep_trace`; and the same in one number, always.
  [[nodiscard]] const std::vector<std::string>& trace() const noexcept { return simulation_.trace(); }
  // Equal for runs in which the same happened in the same order.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept { return simulation_.fingerprint(); }

protected:
  // To an actor, a probe or a queue.
  sent_message send_raw(std::string_view to, const typed_message& m, std::string_view reply_to = {},
                        std::string_view correlation = {});
  // What came to the probe of this name, which is made if it is not there.
  [[nodiscard]] std::shared_ptr<probe_state> probe_named(std::string_view name);
  // Runs until the answer has come. Throws `test_failure` when none has by the deadline.
  [[nodiscard]] envelope_ptr ask_raw(std::string_view to, const typed_message& m,
                                     std::chrono::milliseconds deadline);
  // Runs until the future is ready, and gives what it has. Throws when it has an error.
  template <class T>
  T done(std::future<result<T>> when) {
    must_run();
    const auto is_ready = [&] { return when.wait_for(std::chrono::seconds{0}) == std::future_status::ready; };
    if (!simulation_.advance_until(std::chrono::minutes{1}, is_ready)) {
      must_run();
      throw test_failure{"it was not done after a minute of virtual time"};
    }
    auto got = when.get();
    if (!got) throw test_failure{got.error().text};
    if constexpr (!std::is_void_v<T>) return std::move(*got);
  }
  // Of the broker of now.
  [[nodiscard]] posthorn::client& client();
  // Nothing if the actor was never committed.
  [[nodiscard]] std::optional<actor_state> stored(std::string_view name);

private:
  class clerk;
  struct planned_failure {
    std::string why;
    unsigned times = 1;
  };

  void start();
  void drop();
  void open_probe(const std::shared_ptr<probe_state>& probe);
  void must_run();

  test_settings settings_;
  bool own_directory_ = false;
  simulation simulation_;
  std::vector<std::shared_ptr<const actor_kind>> kinds_;
  std::vector<std::function<void(posthorn::broker&)>> at_start_;
  std::map<std::string, std::shared_ptr<probe_state>, std::less<>> probes_;
  std::shared_ptr<std::map<std::string, planned_failure, std::less<>>> failing_;  // by actor
  std::uint64_t last_question_ = 0;
  std::unique_ptr<posthorn::broker> broker_;
  std::shared_ptr<clerk> clerk_;  // of the broker of now, as is the client
  std::unique_ptr<posthorn::client> client_;
};

}  // namespace posthorn
