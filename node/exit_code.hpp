// With what posthornd and posthorn end. The numbers from 64 on are those of sysexits.h; docs/cli.md lists them all.
#pragma once

namespace posthorn {

enum class exit_code : int {
  ok = 0,
  check_failed = 1,    // posthorn: what was asked for is not so: unhealthy, damaged, not confirmed
  wrong_usage = 2,     // posthorn
  usage = 64,          // posthornd
  data_damaged = 65,   // the store cannot be trusted
  unavailable = 69,    // the port or the data directory is in use; no node answers
  internal = 70,       // a bug
  cannot_create = 73,  // the data directory cannot be made
  no_permission = 77,
  bad_config = 78,
};

[[nodiscard]] constexpr int to_int(exit_code code) noexcept { return static_cast<int>(code); }

}  // namespace posthorn
