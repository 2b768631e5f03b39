// A value that its copies share until one of them changes it.
//
// It is what a persistent map is made of (mailbox/persistent_map.hpp). A change copies what somebody else has as well, and
// happens in place where nobody has: of a thousand changes between two snapshots only the first ones copy the nodes near
// the root, where a copy costs most (64 atomic operations for a node of 32 children).
//
// Threads   copies are independent, and may be used and dropped by different threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

namespace posthorn {

template <class T>
class shared_value {
public:
  shared_value() noexcept = default;
  template <class... Arguments>
  static shared_value make(Arguments&&... arguments) {
    shared_value made;
    made.block_ = new block(std::forward<Arguments>(arguments)...);
    return made;
  }
  shared_value(const shared_value& other) noexcept : block_{other.block_} {
    if (block_ != nullptr) block_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  shared_value(shared_value&& other) noexcept : block_{std::exchange(other.block_, nullptr)} {}
  shared_value& operator=(const shared_value& other) noexcept {
    shared_value copy{other};
    std::swap(block_, copy.block_);
    return *this;
  }
  shared_value& operator=(shared_value&& other) noexcept {
    shared_value taken{std::move(other)};
    std::swap(block_, taken.block_);
    return *this;
  }
  ~shared_value() {
    if (block_ != nullptr && block_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete block_;
  }

  // Null when there is none.
  [[nodiscard]] const T* get() const noexcept { return block_ == nullptr ? nullptr : &block_->value; }
  [[nodiscard]] explicit operator bool() const noexcept { return block_ != nullptr; }
  const T& operator*() const noexcept { return block_->value; }
  const T* operator->() const noexcept { return &block_->value; }

  // Nobody else has it. What others read of it before they dropped it has happened before.
  [[nodiscard]] bool unique() const noexcept {
    return block_ != nullptr && block_->owners.load(std::memory_order_acquire) == 1;
  }
  // To change: made first if there is none, copied first if others have it. Valid until this is copied or assigned to.
  [[nodiscard]] T& edit() {
    if (block_ == nullptr) {
      block_ = new block();
    } else if (!unique()) {
      *this = make(block_->value);
    }
    return block_->value;
  }

private:
  struct block {
    template <class... Arguments>
    explicit block(Arguments&&... arguments) : value{std::forward<Arguments>(arguments)...} {}

    std::atomic<std::size_t> owners{1};
    T value;
  };
  block* block_ = nullptr;
};

}  // namespace posthorn
