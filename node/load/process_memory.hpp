// How much memory a process holds, as the system tells: to see what idle connections and queues cost a node.
//
// Threads   pure functions, but `settled_memory` waits.
#pragma once

#include "mailbox/result.hpp"

#include <chrono>
#include <cstdint>
#include <string_view>

namespace posthorn {

struct process_memory {
  std::uint64_t resident = 0;  // bytes
  std::uint64_t anonymous =
      0;  // of them, those that no file stands behind: without the pages of a mapped store

  // From the text of /proc/PID/status.
  static result<process_memory> from_status(std::string_view text);
};

[[nodiscard]] result<process_memory> memory_of(int pid);
// Waits until it changes no more; at most so long.
[[nodiscard]] result<process_memory> settled_memory(int pid, std::chrono::milliseconds patience);

}  // namespace posthorn
