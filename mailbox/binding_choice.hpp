// The bindings of an exchange that gives each message to one of them: by a hash, by its weight, or by chance.
//
// They stand in the order of their destinations, so that the same bindings, made in any order and on any node, divide
// the messages in the same way.
//
// `by_weight` is rendezvous hashing: each destination draws a number from the message's hash, heavier ones a better
// one, and the best draw wins. So the shares are exactly as the weights, a destination that comes takes from each of
// the others only what is its own now, and one that goes leaves only what was its own. Two bindings to one destination
// count as the heavier of them. There is no ring of points to be kept: a snapshot of the bindings shares one array
// with the next. A choice among ten takes less than a microsecond, and among a thousand about seven.
//
// All arithmetic is done with integers: the same on every machine.
//
// Threads   a plain value that is cheap to copy; a copy may be read by any number of threads.
#pragma once

#include "mailbox/shared_value.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace posthorn {

struct binding_definition;
using binding_ptr = std::shared_ptr<const binding_definition>;

class binding_choice {
public:
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  [[nodiscard]] std::size_t size() const noexcept { return entries_ ? entries_->size() : 0; }

  // `weight` is at least 1. The binding must not be there yet.
  void add(const binding_ptr& binding, std::uint32_t weight = 1);
  void remove(const binding_definition& binding);

  // To be asked only if there are any. All bindings count the same, whatever their weight: the one whose index is the
  // number modulo their count.
  [[nodiscard]] const binding_ptr& at(std::uint64_t number) const;
  // `hash` is that of what decides about the message; all of its bits count.
  [[nodiscard]] const binding_ptr& by_weight(std::uint64_t hash) const;

private:
  struct entry {
    std::uint64_t place = 0;  // the hash of its destination
    std::uint32_t weight = 1;
    binding_ptr binding;
  };

  shared_value<std::vector<entry>> entries_;
};

}  // namespace posthorn
