// The messages that wait for an actor. They outlive it: what a failed actor has not handled, its successor handles.
//
// CAF's own mailbox dies with its actor. So the actors of the node, whose senders cannot send again, keep their messages
// here, and are only woken through CAF: one `work` for all that came since they last looked.
//
// Ownership   stands in the place that outlives the actor (a port). Holds the actor that works on it, strongly.
// Threads     `post`, `depth` and `attach` from any; `next`, `done` and `close` from the actor that is attached.
#pragma once

#include "actors/messages.hpp"

#include <caf/send.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace posthorn {

template <class Message>
class inbox {
public:
  // False: nobody will ever handle it (see `close`), and it was not taken.
  [[nodiscard]] bool post(Message&& message) {
    worker_actor to_wake;
    {
      const std::lock_guard guard{mutex_};
      if (closed_) return false;
      waiting_.push_back(std::move(message));
      if (std::exchange(woken_, true)) return true;
      to_wake = worker_;
    }
    if (to_wake) caf::anon_send(to_wake, work{});
    return true;
  }

  // From now on this actor is the one that works. It is woken for what its predecessor left.
  void attach(const worker_actor& worker) {
    {
      const std::lock_guard guard{mutex_};
      worker_ = worker;
      woken_ = true;
    }
    caf::anon_send(worker, work{});
  }

  // The oldest message that is not done; null when there is none, and then the next one wakes the actor.
  [[nodiscard]] Message* next() {
    if (closed_) return nullptr;
    if (next_ == current_.size()) {
      current_.clear();
      next_ = 0;
      const std::lock_guard guard{mutex_};
      current_.swap(waiting_);
      if (current_.empty()) {
        in_hand_.store(0, std::memory_order_relaxed);
        woken_ = false;
        // A burst must not hold memory for ever.
        if (current_.capacity() > capacity_kept) current_.shrink_to_fit();
        if (waiting_.capacity() > capacity_kept) waiting_.shrink_to_fit();
        return nullptr;
      }
    }
    ++attempts_;
    in_hand_.store(current_.size() - next_, std::memory_order_relaxed);
    return &current_[next_];
  }
  // How often the message of now was given out.
  [[nodiscard]] std::uint32_t attempts() const noexcept { return attempts_; }
  void done() noexcept {
    if (!closed_) ++next_;
    attempts_ = 0;
  }

  // Nothing is taken any more. Gives what stands behind the message of now.
  std::vector<Message> close() {
    std::vector<Message> rest;
    const std::lock_guard guard{mutex_};
    closed_ = true;
    worker_ = nullptr;
    // Whoever closes is handling the message of now.
    if (next_ < current_.size()) ++next_;
    rest.assign(std::make_move_iterator(current_.begin() + static_cast<std::ptrdiff_t>(next_)),
                std::make_move_iterator(current_.end()));
    rest.insert(rest.end(), std::make_move_iterator(waiting_.begin()),
                std::make_move_iterator(waiting_.end()));
    current_.clear();
    waiting_.clear();
    next_ = 0;
    in_hand_.store(0, std::memory_order_relaxed);
    return rest;
  }

  // The same, but only if nothing waits. By the actor, between two messages.
  bool close_if_idle() {
    const std::lock_guard guard{mutex_};
    if (!waiting_.empty() || next_ < current_.size()) return false;
    closed_ = true;
    worker_ = nullptr;
    current_.clear();
    return true;
  }

  // How many wait, about, with the one that is being handled.
  [[nodiscard]] std::size_t depth() const {
    const std::lock_guard guard{mutex_};
    return waiting_.size() + in_hand_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] worker_actor worker() const {
    const std::lock_guard guard{mutex_};
    return worker_;
  }

private:
  static constexpr std::size_t capacity_kept = 64;

  mutable std::mutex mutex_;
  std::vector<Message> waiting_;
  worker_actor worker_;
  bool woken_ = false;
  bool closed_ = false;  // changed by the actor

  // the actor's own
  std::vector<Message> current_;
  std::size_t next_ = 0;
  std::uint32_t attempts_ = 0;
  std::atomic<std::size_t> in_hand_{0};  // of current_, for others to see
};

}  // namespace posthorn
