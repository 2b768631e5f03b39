// LMDB trusts its file. A damaged one can make it read outside of its map, and the process ends with a signal that
// tells an operator nothing. While this guard stands, such an end says in one sentence what is wrong and what to do.
//
// Threads   for the whole process; one guard at a time. The handler only writes and ends the process.
#pragma once

#include <filesystem>

namespace posthorn {

class damage_guard {
public:
  // The exit code of a process that found its store damaged (EX_DATAERR).
  static constexpr int exit_code = 65;

  damage_guard(const char* program, const std::filesystem::path& directory);
  ~damage_guard();
  damage_guard(const damage_guard&) = delete;
  damage_guard& operator=(const damage_guard&) = delete;
};

}  // namespace posthorn
