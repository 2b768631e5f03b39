// A queue in one block of memory that grows by doubling and gives the block back when it falls empty.
//
// `std::deque` holds more than half a KiB even when it is empty; a node has several of these for each of a hundred
// thousand idle queues, so an empty one must cost nothing.
#pragma once

#include <bit>
#include <cstddef>
#include <memory>
#include <utility>

namespace posthorn {

template <class T>
class ring {
public:
  ring() noexcept = default;
  ring(ring&& other) noexcept
      : slots_{std::move(other.slots_)},
        capacity_{std::exchange(other.capacity_, 0)},
        first_{std::exchange(other.first_, 0)},
        size_{std::exchange(other.size_, 0)} {}
  ring& operator=(ring&& other) noexcept {
    slots_ = std::move(other.slots_);
    capacity_ = std::exchange(other.capacity_, 0);
    first_ = std::exchange(other.first_, 0);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  [[nodiscard]] T& operator[](std::size_t index) noexcept {
    return slots_[(first_ + index) & (capacity_ - 1)];
  }
  [[nodiscard]] const T& operator[](std::size_t index) const noexcept {
    return slots_[(first_ + index) & (capacity_ - 1)];
  }
  [[nodiscard]] T& front() noexcept { return (*this)[0]; }
  [[nodiscard]] const T& front() const noexcept { return (*this)[0]; }
  [[nodiscard]] T& back() noexcept { return (*this)[size_ - 1]; }
  [[nodiscard]] const T& back() const noexcept { return (*this)[size_ - 1]; }

  T& push_back(T value) {
    if (size_ == capacity_) grow();
    T& slot = slots_[(first_ + size_) & (capacity_ - 1)];
    slot = std::move(value);
    ++size_;
    return slot;
  }
  void push_front(T value) {
    if (size_ == capacity_) grow();
    first_ = (first_ + capacity_ - 1) & (capacity_ - 1);
    slots_[first_] = std::move(value);
    ++size_;
  }
  void pop_front() {
    slots_[first_] = T{};
    first_ = (first_ + 1) & (capacity_ - 1);
    if (--size_ == 0) rest();
  }
  void pop_back() {
    slots_[(first_ + size_ - 1) & (capacity_ - 1)] = T{};
    if (--size_ == 0) rest();
  }
  void clear() noexcept { *this = ring{}; }

  // Opens a gap at `index` and puts `value` there; what stands behind moves by one. O(size).
  void insert(std::size_t index, T value) {
    push_back(std::move(value));
    for (std::size_t i = size_ - 1; i > index; --i) std::swap((*this)[i], (*this)[i - 1]);
  }

private:
  // A block up to this many slots is kept when the ring falls empty: the next message is likely to come soon.
  static constexpr std::size_t kept_max = 64;

  void rest() noexcept {
    first_ = 0;
    if (capacity_ > kept_max) {
      slots_.reset();
      capacity_ = 0;
    }
  }
  void grow() {
    const std::size_t capacity = capacity_ == 0 ? 8 : capacity_ * 2;
    auto slots = std::make_unique<T[]>(capacity);
    for (std::size_t i = 0; i < size_; ++i) slots[i] = std::move((*this)[i]);
    slots_ = std::move(slots);
    capacity_ = capacity;
    first_ = 0;
  }

  std::unique_ptr<T[]> slots_;
  std::size_t capacity_ = 0;  // a power of two, or 0
  std::size_t first_ = 0, size_ = 0;
};

}  // namespace posthorn
