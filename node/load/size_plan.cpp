#include "node/load/size_plan.hpp"

#include "node/load/number_list.hpp"

#include <algorithm>
#include <string>

namespace posthorn {

result<size_plan> size_plan::parse(std::string_view text) {
  const auto wrong = [&] {
    return refused(
        "the size " + std::string{text} +
        " is none: expected bytes, at most 536870912, several as A,B,... or random ones as MIN-MAX");
  };
  size_plan out;
  out.sizes_.clear();
  const auto add = [&](std::string_view part) {
    const auto size = number_from<std::size_t>(part);
    if (!size || *size > size_max) return false;
    out.sizes_.push_back(*size);
    return true;
  };
  if (const auto dash = text.find('-'); dash != std::string_view::npos) {
    if (!add(text.substr(0, dash)) || !add(text.substr(dash + 1)) || out.sizes_[0] > out.sizes_[1])
      return wrong();
    out.is_random_ = true;
    return out;
  }
  for (const auto part : parts_of(text)) {
    if (!add(part)) return wrong();
  }
  return out;
}

std::size_t size_plan::largest() const noexcept { return *std::max_element(sizes_.begin(), sizes_.end()); }

}  // namespace posthorn
