// How much memory the process takes, and how much it may.
//
// Threads   from any. Reads files of the kernel, which takes some microseconds and never waits for a disk.
#pragma once

#include <cstdint>
#include <filesystem>

namespace posthorn {

// What is the process's own, in bytes: pages of files, such as the store's map, can be dropped at any time and do not count.
// 0: the system does not tell.
[[nodiscard]] std::uint64_t own_memory();

// In bytes: what the machine has, or the control group that the process is in, or one above it, if that is less. `root` is
// where /proc and /sys stand; a test has its own. 0: the system does not tell.
[[nodiscard]] std::uint64_t memory_at_hand(const std::filesystem::path& root = "/");

}  // namespace posthorn
