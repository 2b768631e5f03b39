// A map from names to values that is cheap to copy: copies share what they have in common, and none ever sees another
// one change.
//
// That is what a routing snapshot is made of: the owner changes its copy and publishes it, readers go on with theirs,
// and neither waits. It is a hash trie; a change copies the few small nodes on the way to it, unless no copy has them
// (mailbox/shared_value.hpp). Lookup, insertion and removal cost O(log n) with base 32.
//
// Threads   a copy may be read by any number of threads; different copies are independent.
#pragma once

#include "mailbox/shared_value.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

template <class Value>
class persistent_map {
public:
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }

  // Null when there is none. The value lives as long as any copy of the map that holds it and is not changed.
  [[nodiscard]] const Value* find(std::string_view key) const noexcept {
    const std::size_t hash = hash_of(key);
    unsigned shift = 0;
    for (const node* n = root_.get(); n != nullptr; shift += bits) {
      if (shift > shift_max) {
        const auto found = place_in(n->leaves, key);
        return found == n->leaves.end() ? nullptr : &(*found)->value;
      }
      const auto bit = bit_of(hash, shift);
      if ((n->leaf_bits & bit) != 0) {
        const auto& l = *n->leaves[index_of(n->leaf_bits, bit)];
        return l.key == key ? &l.value : nullptr;
      }
      if ((n->child_bits & bit) == 0) return nullptr;
      n = n->children[index_of(n->child_bits, bit)].get();
    }
    return nullptr;
  }

  void set(std::string_view key, Value value) {
    auto& place = place_for(key);
    if (place.unique()) {
      place.edit().value = std::move(value);
    } else {
      place = leaf_ptr::make(std::string{key}, std::move(value));
    }
  }

  // The value of that key, to change; an empty one is added first if there is none. Valid until the map is changed or
  // copied.
  [[nodiscard]] Value& edit(std::string_view key) {
    auto& place = place_for(key);
    if (!place) place = leaf_ptr::make(std::string{key}, Value{});
    return place.edit().value;
  }

  bool erase(std::string_view key) {
    if (find(key) == nullptr) return false;
    erase_below(root_, hash_of(key), 0, key);
    --size_;
    return true;
  }

  // Calls `visit(key, value)` for all, in no particular order, which is the same for the same history.
  template <class Visit>
  void for_each(Visit&& visit) const {
    if (root_) visit_all(*root_, visit);
  }

private:
  static constexpr unsigned bits = 5;
  static constexpr unsigned shift_max =
      60;  // the nodes beyond hold keys whose hashes are equal, one after the other

  struct leaf {
    std::string key;
    Value value;
  };
  using leaf_ptr = shared_value<leaf>;
  struct node;
  using node_ptr = shared_value<node>;
  struct node {
    std::uint32_t leaf_bits = 0, child_bits = 0;
    std::vector<leaf_ptr> leaves;
    std::vector<node_ptr> children;
  };

  static std::size_t hash_of(std::string_view key) noexcept { return std::hash<std::string_view>{}(key); }
  static std::uint32_t bit_of(std::size_t hash, unsigned shift) noexcept {
    return std::uint32_t{1} << ((hash >> shift) & 31U);
  }
  static std::ptrdiff_t offset_of(std::uint32_t map, std::uint32_t bit) noexcept {
    return std::popcount(map & (bit - 1));
  }
  static std::size_t index_of(std::uint32_t map, std::uint32_t bit) noexcept {
    return static_cast<std::size_t>(offset_of(map, bit));
  }
  template <class Leaves>
  static auto place_in(Leaves& leaves, std::string_view key) noexcept {
    return std::find_if(leaves.begin(), leaves.end(), [key](const leaf_ptr& l) { return l->key == key; });
  }

  // Where the key's leaf stands, or a new place for one, which is counted already and has to be filled at once.
  leaf_ptr& place_for(std::string_view key) {
    const std::size_t hash = hash_of(key);
    node_ptr* at = &root_;
    for (unsigned shift = 0;; shift += bits) {
      node& n = at->edit();
      if (shift > shift_max) {
        if (const auto found = place_in(n.leaves, key); found != n.leaves.end()) return *found;
        ++size_;
        return n.leaves.emplace_back();
      }
      const auto bit = bit_of(hash, shift);
      if ((n.child_bits & bit) == 0) {
        const auto offset = offset_of(n.leaf_bits, bit);
        if ((n.leaf_bits & bit) == 0) {
          ++size_;
          n.leaf_bits |= bit;
          return *n.leaves.emplace(n.leaves.begin() + offset);
        }
        auto& present = n.leaves[static_cast<std::size_t>(offset)];
        if (present->key == key) return present;
        // Two keys meet here: both move one level down.
        node below;
        if (shift + bits <= shift_max) below.leaf_bits = bit_of(hash_of(present->key), shift + bits);
        below.leaves.push_back(std::move(present));
        n.leaves.erase(n.leaves.begin() + offset);
        n.leaf_bits &= ~bit;
        n.children.insert(n.children.begin() + offset_of(n.child_bits, bit),
                          node_ptr::make(std::move(below)));
        n.child_bits |= bit;
      }
      at = &n.children[index_of(n.child_bits, bit)];
    }
  }

  // The key is there.
  static void erase_below(node_ptr& at, std::size_t hash, unsigned shift, std::string_view key) {
    node& n = at.edit();
    if (shift > shift_max) {
      n.leaves.erase(place_in(n.leaves, key));
    } else if (const auto bit = bit_of(hash, shift); (n.leaf_bits & bit) != 0) {
      n.leaves.erase(n.leaves.begin() + offset_of(n.leaf_bits, bit));
      n.leaf_bits &= ~bit;
    } else {
      const auto index = offset_of(n.child_bits, bit);
      auto& child = n.children[static_cast<std::size_t>(index)];
      erase_below(child, hash, shift + bits, key);
      if (!child) {
        n.children.erase(n.children.begin() + index);
        n.child_bits &= ~bit;
      }
    }
    if (n.leaves.empty() && n.children.empty()) at = {};
  }

  template <class Visit>
  static void visit_all(const node& n, Visit& visit) {
    for (const auto& l : n.leaves) visit(l->key, l->value);
    for (const auto& child : n.children) visit_all(*child, visit);
  }

  node_ptr root_;
  std::size_t size_ = 0;
};

}  // namespace posthorn
