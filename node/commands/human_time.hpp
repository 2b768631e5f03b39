// Durations and times as people read them.
//
// Threads   pure functions, but for the time zone, which is the process's.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace posthorn {

// The two largest units that matter: "0 s", "830 ns", "12.5 µs", "950 ms", "3.2 s", "59 s", "1 min 30 s", "2 h 5 min",
// "3 d 4 h".
[[nodiscard]] std::string human_duration(std::chrono::nanoseconds duration);

// "2026-01-31 12:00:00", in the local time zone.
[[nodiscard]] std::string human_time(std::int64_t milliseconds_since_1970);

}  // namespace posthorn
