// Who of many workers takes which of many queues.
//
// Threads   a pure function.
#pragma once

#include <vector>

namespace posthorn {

// Worker i of n takes the queues i, i + n, ..., or, if there are fewer queues than workers, the one it shares.
[[nodiscard]] inline std::vector<unsigned> share_of(unsigned worker, unsigned workers, unsigned queues) {
  std::vector<unsigned> out;
  if (workers >= queues) return {worker % queues};
  for (unsigned queue = worker; queue < queues; queue += workers) out.push_back(queue);
  return out;
}

}  // namespace posthorn
