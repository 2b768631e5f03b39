// How many messages are to be sent by when: one rate for ever, or steps that follow each other and begin anew after the
// last one.
//
// Threads   a plain value.
#pragma once

#include "mailbox/result.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

namespace posthorn {

class rate_plan {
public:
  // "1000" is a rate, in messages per second, and "0" no limit; "1000:5,20000:2.5" are 1,000 per second for 5 seconds,
  // then 20,000 for 2.5. A step of rate 0 is a pause; not all of them can be.
  static result<rate_plan> parse(std::string_view text);

  [[nodiscard]] bool is_limited() const noexcept { return !steps_.empty(); }
  // How many messages are due once so many seconds have passed; only if it is limited.
  [[nodiscard]] std::uint64_t due(double seconds) const noexcept;
  // After how many seconds as many messages are due; only if it is limited.
  [[nodiscard]] double time_of(std::uint64_t count) const noexcept;

private:
  struct step {
    double rate = 0;
    double seconds = 0;
  };

  std::vector<step> steps_;   // a single rate is one step; its length does not matter
  double round_seconds_ = 0;  // of all steps
  double round_count_ = 0;
};

}  // namespace posthorn
