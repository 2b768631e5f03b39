// One node per data directory: an advisory lock on the file `node.lock` in it, held as long as this object lives, and
// given back by the system however the process ends.
#pragma once

#include "mailbox/result.hpp"

#include <filesystem>
#include <utility>

namespace posthorn {

class directory_lock {
public:
  // `refused` when another process holds it (its id is in the text) or the directory does not let us.
  static result<directory_lock> take(const std::filesystem::path& directory);

  directory_lock(directory_lock&& other) noexcept : descriptor_{std::exchange(other.descriptor_, -1)} {}
  directory_lock& operator=(directory_lock&&) = delete;
  ~directory_lock();

private:
  explicit directory_lock(int descriptor) noexcept : descriptor_{descriptor} {}
  int descriptor_;
};

}  // namespace posthorn
