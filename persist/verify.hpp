// Reads every record of a store that no node is using, and says what is wrong with it. Writes nothing.
//
// Errors   `refused`: it cannot be looked at (in use, not there, of a newer version). What is damaged is part of the
//          report. Damage that makes LMDB itself stumble ends the process: callers stand behind a `damage_guard`.
#pragma once

#include "mailbox/result.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace posthorn {

struct verify_report {
  std::uint32_t version = 0;
  std::uint64_t exchanges = 0, queues = 0, bindings = 0;
  std::uint64_t messages = 0, message_bytes = 0;  // bytes of bodies
  std::uint64_t actors = 0, timers = 0;
  std::uint64_t actor_events = 0;  // in the journals of actors
  std::uint64_t tree_events = 0;   // of the tree of actors
  std::uint64_t access = 0;        // records of users and virtual hosts
  std::uint64_t seen = 0;          // messages that exchanges remember, because nothing passes them twice
  std::uint64_t transient = 0;     // go at the next start
  std::uint64_t buried = 0;        // gone, and to be erased
  std::uint64_t unfinished = 0;    // messages cut off while they were written: go at the next start
  std::uint64_t problem_count = 0;
  std::vector<std::string> problems;  // the first hundred

  [[nodiscard]] bool clean() const noexcept { return problem_count == 0; }
};

[[nodiscard]] result<verify_report> verify(const std::filesystem::path& directory);

}  // namespace posthorn
