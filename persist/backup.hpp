// A copy of a store at one moment, also of one that a node is using: whatever was confirmed before it began is in it, and
// nothing half. The copy has no free pages; as a data directory of its own it is started, or verified, like any other.
//
// The node goes on meanwhile. Pages that it frees are not used again until the copy is finished, so that its file grows by
// what is written in that time. The copy is written at a bounded rate and synced as it goes: what another process writes
// to the same disk is what every commit of the node waits for.
//
// Errors   `refused`: there is no store to copy, or something stands where the copy is to be; `overloaded`: no room. What
//          was written of the copy is removed. Damage that makes LMDB stumble ends the process: see damage_guard.
#pragma once

#include "mailbox/result.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>

namespace posthorn {

struct backup_request {
  std::filesystem::path from;  // a data directory
  std::filesystem::path to;    // made if it is not there; holds no store yet
  std::uint64_t rate_max = 0;  // bytes per second; 0: as fast as the disk takes it
};

// The size of the copy, in bytes. `on_progress` is called with the bytes written so far, on the thread that calls.
[[nodiscard]] result<std::uint64_t> back_up(const backup_request& request,
                                            const std::function<void(std::uint64_t)>& on_progress = {});

}  // namespace posthorn
