#include "mailbox/mailbox_effects.hpp"

namespace posthorn {

void effects::settle(publisher_id by, std::uint64_t number, bool rejected) {
  if (!settlements.empty()) {
    auto& last = settlements.back();
    if (last.by == by && last.last + 1 == number && last.rejected == rejected) {
      last.last = number;
      return;
    }
  }
  settlements.push_back({by, number, number, rejected});
}

void effects::clear() noexcept {
  deliveries.clear();
  settlements.clear();
  dead_letters.clear();
  timeouts.clear();
  load.reset();
}

}  // namespace posthorn
