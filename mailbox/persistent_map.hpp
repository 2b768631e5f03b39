// A map from names to values that is cheap to copy: copies share what they have in common, and none ever sees another
// one change.
//
// That is what a routing snapshot is made of: the owner changes its copy and publishes it, readers go on with theirs,
// and neither waits. It is a hash trie; a change copies the few small nodes on the way to it. Lookup, insertion and
// removal cost O(log n) with base 32.
//
// Threads   a copy may be read by any number of threads; different copies are independent.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
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

  // Null when there is none. The value lives as long as any copy of the map that holds it.
  [[nodiscard]] const Value* find(std::string_view key) const noexcept {
    const std::size_t hash = hash_of(key);
    unsigned shift = 0;
    for (const node* n = root_.get(); n != nullptr;) {
      const auto bit = bit_of(hash, shift);
      if ((n->leaf_bits & bit) != 0) {
        for (const leaf* l = n->leaves[index_of(n->leaf_bits, bit)].get(); l != nullptr; l = l->next.get()) {
          if (l->key == key) return &l->value;
        }
        return nullptr;
      }
      if ((n->child_bits & bit) == 0) return nullptr;
      n = n->children[index_of(n->child_bits, bit)].get();
      shift += bits;
    }
    return nullptr;
  }

  void set(std::string_view key, Value value) {
    bool added = true;
    root_ = with(root_.get(), hash_of(key), 0, key, std::move(value), added);
    if (added) ++size_;
  }

  bool erase(std::string_view key) {
    if (find(key) == nullptr) return false;
    root_ = without(*root_, hash_of(key), 0, key);
    --size_;
    return true;
  }

  // Calls `visit(key, value)` for all, in no particular but always the same order.
  template <class Visit>
  void for_each(Visit&& visit) const {
    if (root_) visit_all(*root_, visit);
  }

private:
  static constexpr unsigned bits = 5;
  static constexpr unsigned shift_max = 60;  // beyond, keys whose hashes are equal share a chain

  struct leaf {
    std::string key;
    Value value;
    std::shared_ptr<const leaf> next;
  };
  using leaf_ptr = std::shared_ptr<const leaf>;
  struct node;
  using node_ptr = std::shared_ptr<const node>;
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

  static node_ptr with(const node* old, std::size_t hash, unsigned shift, std::string_view key, Value value,
                       bool& added) {
    auto made = old == nullptr ? std::make_shared<node>() : std::make_shared<node>(*old);
    const auto bit = bit_of(hash, shift);
    if ((made->child_bits & bit) != 0) {
      auto& child = made->children[index_of(made->child_bits, bit)];
      child = with(child.get(), hash, shift + bits, key, std::move(value), added);
      return made;
    }
    if ((made->leaf_bits & bit) == 0) {
      made->leaves.insert(made->leaves.begin() + offset_of(made->leaf_bits, bit),
                          std::make_shared<leaf>(leaf{std::string{key}, std::move(value), nullptr}));
      made->leaf_bits |= bit;
      return made;
    }
    auto& present = made->leaves[index_of(made->leaf_bits, bit)];
    if (present->key == key || shift >= shift_max) {
      present = chain_with(present, key, std::move(value), added);
      return made;
    }
    // Two keys meet here: both move one level down.
    const auto moved = std::move(present);
    made->leaves.erase(made->leaves.begin() + offset_of(made->leaf_bits, bit));
    made->leaf_bits &= ~bit;
    auto below = std::make_shared<node>();
    below->leaf_bits = bit_of(hash_of(moved->key), shift + bits);
    below->leaves.push_back(moved);
    made->children.insert(made->children.begin() + offset_of(made->child_bits, bit),
                          with(below.get(), hash, shift + bits, key, std::move(value), added));
    made->child_bits |= bit;
    return made;
  }

  static leaf_ptr chain_with(const leaf_ptr& chain, std::string_view key, Value value, bool& added) {
    leaf_ptr rest = chain_without(chain, key);
    added = rest.get() == chain.get();
    return std::make_shared<leaf>(leaf{std::string{key}, std::move(value), std::move(rest)});
  }
  static leaf_ptr chain_without(const leaf_ptr& chain, std::string_view key) {
    if (!chain) return nullptr;
    if (chain->key == key) return chain->next;
    auto rest = chain_without(chain->next, key);
    if (rest == chain->next) return chain;
    return std::make_shared<leaf>(leaf{chain->key, chain->value, std::move(rest)});
  }

  static node_ptr without(const node& old, std::size_t hash, unsigned shift, std::string_view key) {
    auto made = std::make_shared<node>(old);
    const auto bit = bit_of(hash, shift);
    if ((made->leaf_bits & bit) != 0) {
      const auto index = offset_of(made->leaf_bits, bit);
      auto& chain = made->leaves[static_cast<std::size_t>(index)];
      chain = chain_without(chain, key);
      if (!chain) {
        made->leaves.erase(made->leaves.begin() + index);
        made->leaf_bits &= ~bit;
      }
    } else {
      const auto index = offset_of(made->child_bits, bit);
      auto& child = made->children[static_cast<std::size_t>(index)];
      child = without(*child, hash, shift + bits, key);
      if (!child) {
        made->children.erase(made->children.begin() + index);
        made->child_bits &= ~bit;
      }
    }
    if (made->leaf_bits == 0 && made->child_bits == 0) return nullptr;
    return made;
  }

  template <class Visit>
  static void visit_all(const node& n, Visit& visit) {
    for (const auto& chain : n.leaves) {
      for (const leaf* l = chain.get(); l != nullptr; l = l->next.get()) visit(l->key, l->value);
    }
    for (const auto& child : n.children) visit_all(*child, visit);
  }

  node_ptr root_;
  std::size_t size_ = 0;
};

}  // namespace posthorn
