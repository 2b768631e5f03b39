// Why publishers have to wait, over HTTP: seen, and raised for a drill. JSON, with basic authentication.
//
//   GET  /api/alarms                      an array, one object for each resource
//   POST /api/alarms/{memory|disk}/raise  } 204. An alarm that was raised by hand stays until it is cleared by hand; what the
//   POST /api/alarms/{memory|disk}/clear  } node measures, nobody can clear: 409, and what was raised by hand is cleared
//
// Threads   called on the HTTP server's threads, several at a time.
#pragma once

#include "gateway/http/message.hpp"
#include "mailbox/result.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace posthorn::http {

struct alarm_summary {
  std::string resource;     // "memory" or "disk"
  bool is_low = false;      // as the node measures
  bool is_by_hand = false;  // raised by an operator
  std::uint64_t is = 0;     // bytes: of memory, those in use; of the disk, those that are free
  std::uint64_t limit = 0;  // beyond which, or below which, it is low; 0: it never is
};

class alarm_view {
public:
  virtual ~alarm_view() = default;

  // Empty, while the node starts.
  [[nodiscard]] virtual std::vector<alarm_summary> list_alarms() const = 0;
  // `unreachable`: there is no such resource; `overloaded`: it cannot be just now, or the alarm stays all the same.
  virtual result<void> set_alarm(std::string_view resource, bool is_raised) = 0;
};

struct alarm_call {
  std::string resource{};  // of an order; else empty
  bool raises = false;
  [[nodiscard]] bool is_order() const noexcept { return !resource.empty(); }
};

// The call that a path asks for, split at its slashes: {"api", "alarms", "memory", "raise"}.
[[nodiscard]] std::optional<alarm_call> alarm_call_of(const std::vector<std::string>& path);

// Of one who may ask, with the right method.
[[nodiscard]] response answer_about_alarms(alarm_view& alarms, const alarm_call& call);

}  // namespace posthorn::http
