#include "mailbox/binding_choice.hpp"

#include "mailbox/balance.hpp"
#include "mailbox/result.hpp"
#include "mailbox/topology.hpp"

#include <algorithm>
#include <bit>
#include <tuple>

namespace posthorn {

namespace {

__extension__ using wide = unsigned __int128;

auto order_of(const binding_definition& b) { return std::tie(b.kind, b.destination, b.id.value); }

// What one destination draws for one message: all numbers are as likely, and independent of what others draw.
std::uint64_t draw_of(std::uint64_t place, std::uint64_t hash) noexcept {
  auto x = place ^ (hash * 0x9e3779b97f4a7c15ULL);
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
  return x ^ (x >> 32);
}

// -log2(draw / 2^64), with 32 bits behind the point, digit by digit: squaring a number doubles its logarithm.
std::uint64_t distance_of(std::uint64_t draw) noexcept {
  if (draw == 0) draw = 1;
  const auto zeros = static_cast<unsigned>(std::countl_zero(draw));
  auto mantissa = draw << zeros;  // from 1/2 up to 1, as a part of 2^64
  std::uint64_t digits = 0;
  for (int n = 0; n < 32; ++n) {
    mantissa = static_cast<std::uint64_t>((wide{mantissa} * mantissa) >> 64U);  // from 1/4 up to 1
    const bool over = (mantissa >> 63U) != 0;
    digits = (digits << 1U) | (over ? 1U : 0U);
    if (!over) mantissa <<= 1U;
  }
  return ((std::uint64_t{zeros} + 1) << 32U) - digits;
}

// Never more than distance_of, and near it for the draws that win: -ln(u) is at least 1 - u.
std::uint64_t least_distance_of(std::uint64_t draw) noexcept {
  const auto missing = ~draw >> 32U;
  return missing + (missing >> 2U) + (missing >> 3U);  // log2(e) is a little more
}

}  // namespace

void binding_choice::add(const binding_ptr& binding, std::uint32_t weight) {
  expects(weight > 0, "a binding has a weight");
  std::string name{binding->kind == destination_kind::queue ? 'q' : 'e'};
  name += binding->destination;
  auto& all = entries_.edit();
  const auto place = std::lower_bound(all.begin(), all.end(), *binding, [](const entry& e, const auto& b) {
    return order_of(*e.binding) < order_of(b);
  });
  all.insert(place, {stable_hash(name), weight, binding});
}

void binding_choice::remove(const binding_definition& binding) {
  if (empty()) return;
  auto& all = entries_.edit();
  const auto place = std::lower_bound(all.begin(), all.end(), binding, [](const entry& e, const auto& b) {
    return order_of(*e.binding) < order_of(b);
  });
  if (place != all.end() && order_of(*place->binding) == order_of(binding)) all.erase(place);
  if (all.empty()) entries_ = {};
}

const binding_ptr& binding_choice::at(std::uint64_t number) const {
  expects(!empty(), "one of the bindings can be chosen");
  return (*entries_)[static_cast<std::size_t>(number % entries_->size())].binding;
}

const binding_ptr& binding_choice::by_weight(std::uint64_t hash) const {
  expects(!empty(), "one of the bindings can be chosen");
  const auto& all = *entries_;
  const auto* best = &all.front();
  auto best_distance = distance_of(draw_of(best->place, hash));
  for (std::size_t n = 1; n < all.size(); ++n) {
    const auto& e = all[n];
    const auto draw = draw_of(e.place, hash);
    const auto is_nearer = [&](std::uint64_t distance) {
      return wide{distance} * best->weight < wide{best_distance} * e.weight;
    };
    if (!is_nearer(least_distance_of(draw))) continue;  // most are passed by without a logarithm
    const auto distance = distance_of(draw);
    if (!is_nearer(distance)) continue;
    best = &e;
    best_distance = distance;
  }
  return best->binding;
}

}  // namespace posthorn
