// A thread that drives some connections of a load: it steps those that have something to do, and waits for the others.
//
// Owns      its connections, once it runs. The tally outlives it.
// Threads   `add` before `start`; then everything belongs to its own thread until `join`.
#pragma once

#include "node/load/load_connection.hpp"
#include "node/load/load_stage.hpp"

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

namespace posthorn {

class load_thread {
public:
  explicit load_thread(load_stage& stage) : stage_{stage} {}
  ~load_thread();
  load_thread(const load_thread&) = delete;
  load_thread& operator=(const load_thread&) = delete;

  [[nodiscard]] load_tally& tally() noexcept { return tally_; }
  void add(std::unique_ptr<load_connection> connection) { seats_.push_back({std::move(connection)}); }
  [[nodiscard]] result<void> start();
  // Once all connections are over, or the load has failed.
  void join();

private:
  using time_point = std::chrono::steady_clock::time_point;

  struct seat {
    std::unique_ptr<load_connection> connection;
    unsigned interest = 0;  // what the system watches it for
    bool is_watched = false;
    bool is_ready = false;  // it is in `ready_`
    bool is_readable = false;
    time_point wakes_at = time_point::max();  // the earliest of its entries in `timers_`
  };

  void run();
  // Waits until a connection is ready, but not when one is already.
  [[nodiscard]] result<void> wait();
  [[nodiscard]] result<void> step(std::size_t index);
  [[nodiscard]] result<void> watch(std::size_t index, unsigned interest);
  void make_ready(std::size_t index);

  load_stage& stage_;
  load_tally tally_;
  std::vector<seat> seats_;
  std::vector<std::size_t> ready_;
  // Those that changed their mind wake once too often.
  using timer = std::pair<time_point, std::size_t>;
  std::priority_queue<timer, std::vector<timer>, std::greater<>> timers_;
  std::size_t left_ = 0;
  unsigned signals_ = 0;  // of the stage, as they were seen last
  int epoll_ = -1;
  std::thread thread_;
};

}  // namespace posthorn
