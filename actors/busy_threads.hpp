// Since when each thread is in a worker's handler: for whoever looks for handlers that run too long, so that he need not ask
// every actor as long as no thread has been in one for long. (Asking 100,000 actors took 77 to 103 ms, each second.)
//
// Owns      nothing; a slot per thread, which comes and goes with the thread. Nodes of one process share them: a look too
//           many at one of them costs less than to tell them apart.
// Threads   `stay` marks the thread that makes it; `longest` from any.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace posthorn {

class busy_threads {
public:
  // As long as it lives, its thread is in a handler. Within another, it changes nothing: the outer one is the longer.
  class stay {
  public:
    // `since` in nanoseconds of the steady clock, not 0.
    explicit stay(std::int64_t since) noexcept
        : slot_{mine()}, before_{slot_.load(std::memory_order_relaxed)} {
      if (before_ == 0) slot_.store(since, std::memory_order_relaxed);
    }
    ~stay() { slot_.store(before_, std::memory_order_relaxed); }
    stay(const stay&) = delete;
    stay& operator=(const stay&) = delete;

  private:
    std::atomic<std::int64_t>& slot_;
    const std::int64_t before_;
  };

  // How long that thread is in a handler by `now` (nanoseconds of the steady clock) which is so for longest; 0: none is.
  [[nodiscard]] static std::chrono::nanoseconds longest(std::int64_t now) {
    auto& known = all();
    const std::lock_guard guard{known.mutex};
    std::int64_t out = 0;
    for (const auto* s : known.slots) {
      const auto since = s->load(std::memory_order_relaxed);
      if (since != 0) out = std::max(out, now - since);
    }
    return std::chrono::nanoseconds{out};
  }

private:
  using slot = std::atomic<std::int64_t>;
  struct registry {
    std::mutex mutex;
    std::vector<const slot*> slots;
  };
  struct registered {
    registered() {
      auto& known = all();
      const std::lock_guard guard{known.mutex};
      known.slots.push_back(&since);
    }
    ~registered() {
      auto& known = all();
      const std::lock_guard guard{known.mutex};
      std::erase(known.slots, &since);
    }
    registered(const registered&) = delete;
    registered& operator=(const registered&) = delete;

    slot since{0};
  };

  // Never destroyed: the last thread may end after everything else.
  static registry& all() {
    static auto* const the_one = new registry;
    return *the_one;
  }
  static slot& mine() {
    static thread_local registered own;
    return own.since;
  }
};

}  // namespace posthorn
