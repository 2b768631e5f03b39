// Where passwords are checked and hashed: on one thread of its own, for that takes tens of milliseconds on purpose
// (access/password.hpp).
//
// A user who has shown the right password lately is let in at once, on the thread that asks; so clients that come back
// all at once do not wait for a check each. What waits has a limit: beyond it, the answer is `overloaded`.
//
// Owns      the thread, and who logged in lately. Never writes a password anywhere.
// Threads   `check` and `hash` from any; they never wait. Answers come on the thread of the desk, or on the asker's. After
//           `stop`, nobody is answered any more.
#pragma once

#include "access/password.hpp"
#include "actors/directory.hpp"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace posthorn {

class login_desk {
public:
  static constexpr std::size_t waiting_max = 1000;

  enum class verdict : std::uint8_t { accepted, refused, overloaded };
  using check_answer = std::function<void(verdict)>;
  using hash_answer = std::function<void(result<password_hash>)>;

  // Without a thread, it does everything at once: of a test's node, where nothing runs beside.
  login_desk(std::shared_ptr<const directory_port> users, password_cost cost, bool with_thread);
  ~login_desk() { stop(); }
  login_desk(const login_desk&) = delete;
  login_desk& operator=(const login_desk&) = delete;

  // Costs the same time whether the user is there or not.
  void check(std::string user, secret password, check_answer answer);
  // Of a new password.
  void hash(secret password, hash_answer answer);
  void stop();

private:
  struct task {
    std::string user{};
    secret password{};
    check_answer checked{};  // either of them
    hash_answer hashed{};
  };

  // False: too many wait.
  bool enter(task& t);
  void work();
  void run(task& t);
  [[nodiscard]] bool is_known(const std::string& user, const secret& password);

  // fixed after construction
  std::shared_ptr<const directory_port> users_;
  password_cost cost_;
  bool with_thread_;

  std::mutex cache_mutex_;
  login_cache cache_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<task> waiting_;
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace posthorn
