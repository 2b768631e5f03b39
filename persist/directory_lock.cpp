#include "persist/directory_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace posthorn {

result<directory_lock> directory_lock::take(const std::filesystem::path& directory) {
  const auto path = directory / "node.lock";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  if (descriptor < 0) {
    const int why = errno;
    auto text = "cannot open " + path.string() + ": " + std::strerror(why) +
                "; the node needs to read and write its data directory";
    return why == ENOSPC ? overloaded(std::move(text)) : refused(std::move(text));
  }
  directory_lock lock{descriptor};
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const auto size = ::pread(descriptor, holder, sizeof holder - 1, 0);
    std::string pid{holder, size > 0 ? static_cast<std::size_t>(size) : 0};
    while (!pid.empty() && pid.back() == '\n') pid.pop_back();
    return refused("the data directory " + directory.string() + " is in use by another node" +
                   (pid.empty() ? "" : " (process " + pid + ")") +
                   "; stop it, or give this one a directory of its own with --data-dir");
  }
  // For whoever is refused. Not being able to write it is no reason not to start.
  const auto pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(descriptor, 0) == 0) (void)!::pwrite(descriptor, pid.data(), pid.size(), 0);
  return lock;
}

directory_lock::~directory_lock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace posthorn
