// What `posthorn bench` prints: for people, and for programs.
//
// Threads   pure functions.
#pragma once

#include "node/load/declare_load.hpp"
#include "node/load/load.hpp"

#include <cstdint>
#include <string>

namespace posthorn {

// The same facts in two forms; each ends with a line feed. With `histogram`, all values that were measured.
[[nodiscard]] std::string bench_text(const load_report& report, bool has_load, bool histogram);
[[nodiscard]] std::string bench_json(const load_report& report, bool has_load, bool histogram);
[[nodiscard]] std::string declare_text(const declare_report& report);
[[nodiscard]] std::string declare_json(const declare_report& report);

// "12 s  1,234 published/s ..."
[[nodiscard]] std::string progress_text(const load_second& second);

// As HdrHistogram prints it, and its plotter reads it: value in ms, the part of all that does not exceed it, how many
// that are, and 1/(1 - part).
[[nodiscard]] std::string histogram_text(const latency_histogram& histogram);

}  // namespace posthorn
