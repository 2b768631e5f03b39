// Whether a store whose file is shorter than LMDB's count of its pages can be read to its end.
//
// It may: LMDB counts pages at the end that it allocated and never wrote. Or it was cut short, and reading it would end
// the process with a signal. So a child process reads it, and what becomes of the child is the answer.
#pragma once

#include <lmdb.h>

#include <filesystem>

namespace posthorn {

// True at once if the file is as long as it should be. `environment` is open for reading.
[[nodiscard]] bool readable_to_its_end(MDB_env* environment, const std::filesystem::path& directory);

}  // namespace posthorn
