// A layer under the store that can cut the power. Preloaded into a process, it lets every write to a file below
// POSTHORN_POWERCUT_DIR through, so that the process and its maps see what they wrote, but keeps what each page held
// when it was last synced. At the cut it puts back what a disk might have kept:
//
//   all       every write since the last sync is gone
//   some      each unsynced page was kept or lost by chance
//   prefix    the first unsynced pages were kept, the next is torn at a 512-octet sector, the rest is lost
//
// A page counts as synced when fsync, fdatasync, msync or syncfs on its file returned, or when it was written through a
// descriptor with O_SYNC or O_DSYNC (LMDB writes its meta pages so). Not modelled: writes through a shared map (LMDB
// without MDB_WRITEMAP makes none to its data file), and directory entries, which are taken as durable at once.
//
//   POSTHORN_POWERCUT_DIR      the directory; without it the layer does nothing
//   POSTHORN_POWERCUT_TRIGGER  a FIFO: an octet written to it cuts
//   POSTHORN_POWERCUT_AFTER    the number of writes after which to cut
//   POSTHORN_POWERCUT_SEED     the seed of the chances
//   POSTHORN_POWERCUT_REPORT   the file that tells, when all is done, what was done; never below the directory
//
// The cut holds the layer's lock, under which every hooked call runs, forks, and the child kills the process before it
// touches the files: nobody reads a file that is half put back.
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr off_t page_size = 4096;
constexpr off_t sector_size = 512;
using page = std::array<char, page_size>;

// What the disk holds of one file where that differs from what the process sees.
struct disk_file {
  std::string path;
  off_t size = -1;  // -1: the size is synced
  std::map<off_t, page> pages;
  std::vector<off_t> order;  // of first writing; may name pages that were synced since
};

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

struct real_calls {
  decltype(&::pwrite) pwrite = next<decltype(&::pwrite)>("pwrite");
  decltype(&::pwritev) pwritev = next<decltype(&::pwritev)>("pwritev");
  decltype(&::write) write = next<decltype(&::write)>("write");
  decltype(&::writev) writev = next<decltype(&::writev)>("writev");
  decltype(&::fsync) fsync = next<decltype(&::fsync)>("fsync");
  decltype(&::fdatasync) fdatasync = next<decltype(&::fdatasync)>("fdatasync");
  decltype(&::syncfs) syncfs = next<decltype(&::syncfs)>("syncfs");
  decltype(&::msync) msync = next<decltype(&::msync)>("msync");
  decltype(&::ftruncate) ftruncate = next<decltype(&::ftruncate)>("ftruncate");
};

// Never destroyed: other threads may write while the process exits.
real_calls& real() {
  static auto& calls = *new real_calls;
  return calls;
}

struct layer {
  std::string directory;
  std::string report;
  std::mt19937_64 chance;
  uint64_t writes_left = 0;  // 0: no limit
  uint64_t write_count = 0;
  uint64_t sync_count = 0;
  std::map<std::pair<dev_t, ino_t>, disk_file> files;
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
};

layer& the_layer() {
  static auto& only = *new layer;
  return only;
}

class guard {
public:
  explicit guard(layer& in) : in_(in) { pthread_mutex_lock(&in_.lock); }
  ~guard() { pthread_mutex_unlock(&in_.lock); }
  guard(const guard&) = delete;
  guard& operator=(const guard&) = delete;

private:
  layer& in_;
};

// The descriptor's path when it is a file below the directory.
bool watched(const layer& in, int fd, std::string& path) {
  if (in.directory.empty()) return false;
  char link[64], target[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, target, sizeof target);
  if (size <= 0) return false;
  path.assign(target, static_cast<size_t>(size));
  return path.size() > in.directory.size() && path.compare(0, in.directory.size(), in.directory) == 0 &&
         path[in.directory.size()] == '/';
}

disk_file* file_of(layer& in, int fd) {
  std::string path;
  struct stat status {};
  if (!watched(in, fd, path) || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return nullptr;
  disk_file& file = in.files[{status.st_dev, status.st_ino}];
  file.path = std::move(path);
  return &file;
}

off_t size_of(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? status.st_size : 0;
}

// Keeps what stands on the disk in these pages, unless an older write has kept it already.
void keep_pages(disk_file& file, off_t from, off_t end) {
  int fd = -1;
  for (off_t number = from / page_size; number * page_size < end; ++number) {
    if (file.pages.count(number) != 0) continue;
    // A descriptor that may only write cannot show what stands there; the layer reads through one of its own.
    if (fd < 0) fd = open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
    page before{};
    if (fd < 0 || pread(fd, before.data(), page_size, number * page_size) < 0) before.fill(0);
    file.pages.emplace(number, before);
    file.order.push_back(number);
  }
  if (fd >= 0) close(fd);
}

void before_write(disk_file& file, int fd, off_t at, size_t size) {
  if (size == 0) return;
  const off_t old_size = size_of(fd), end = at + static_cast<off_t>(size);
  if (end > old_size && file.size < 0) file.size = old_size;
  keep_pages(file, at, end);
}

void forget(disk_file& file) {
  file.size = -1;
  file.pages.clear();
  file.order.clear();
}

bool writes_through(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & (O_SYNC | O_DSYNC)) != 0;
}

void after_write(disk_file& file, int fd, off_t at, ssize_t done) {
  if (done <= 0 || !writes_through(fd)) return;
  const off_t end = at + static_cast<off_t>(done);
  for (off_t number = at / page_size; number * page_size < end; ++number) file.pages.erase(number);
  if (file.size >= 0 && end > file.size) file.size = end;
}

// Puts the disk's view back. Runs in the forked child, when the process is dead.
void put_back(layer& in, std::string& told) {
  static const char* const names[] = {"all", "some", "prefix"};
  const auto way = in.chance() % 3;
  uint64_t lost = 0, kept = 0, torn = 0;
  for (auto& [key, file] : in.files) {
    if (file.pages.empty() && file.size < 0) continue;
    const int fd = open(file.path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;  // deleted since
    std::vector<off_t> order;
    std::set<off_t> seen;
    for (off_t number : file.order)
      if (file.pages.count(number) != 0 && seen.insert(number).second) order.push_back(number);
    const size_t prefix = order.empty() ? 0 : in.chance() % order.size();
    off_t end = file.size;
    for (size_t at = 0; at < order.size(); ++at) {
      const off_t offset = order[at] * page_size;
      const bool keep = way == 1 ? (in.chance() & 1) != 0 : way == 2 && at < prefix;
      off_t from = 0;
      if (keep) {
        from = page_size;
        ++kept;
      } else if (way == 2 && at == prefix) {
        from = static_cast<off_t>(in.chance() % (page_size / sector_size)) * sector_size;
        ++torn;
      } else {
        ++lost;
      }
      if (from < page_size)
        (void)!real().pwrite(fd, file.pages[order[at]].data() + from, static_cast<size_t>(page_size - from),
                             offset + from);
      if (file.size >= 0 && from > 0) end = std::max(end, offset + from);
    }
    // Kept pages beyond the synced size took the size with them; what lies between reads as zeros, or as it was kept.
    if (file.size >= 0 && end < size_of(fd)) (void)!real().ftruncate(fd, end);
    close(fd);
  }
  char line[256];
  std::snprintf(line, sizeof line,
                "cut %s lost %llu kept %llu torn %llu pages after %llu writes %llu syncs\n", names[way],
                static_cast<unsigned long long>(lost), static_cast<unsigned long long>(kept),
                static_cast<unsigned long long>(torn), static_cast<unsigned long long>(in.write_count),
                static_cast<unsigned long long>(in.sync_count));
  told = line;
}

// Called with the lock held; never returns, and never gives the lock back.
[[noreturn]] void cut(layer& in) {
  const pid_t process = getpid();
  if (fork() == 0) {
    kill(process, SIGKILL);
    while (getppid() == process) usleep(100);
    std::string told;
    put_back(in, told);
    if (!in.report.empty()) {
      const std::string draft = in.report + ".part";
      const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
      if (fd >= 0) {
        (void)!real().write(fd, told.data(), told.size());
        close(fd);
        rename(draft.c_str(), in.report.c_str());
      }
    }
    _exit(0);
  }
  for (;;) pause();
}

// Counts one write. Half of the cuts that a count asks for come before the write, half after it.
class counted_write {
public:
  explicit counted_write(layer& in) : in_(in) {
    ++in_.write_count;
    due_ = in_.writes_left != 0 && --in_.writes_left == 0;
    if (due_ && (in_.chance() & 1) != 0) cut(in_);
  }
  ~counted_write() {
    if (due_) cut(in_);
  }
  counted_write(const counted_write&) = delete;
  counted_write& operator=(const counted_write&) = delete;

private:
  layer& in_;
  bool due_;
};

template <class Call>
ssize_t logged(int fd, off_t at, size_t size, Call call) {
  layer& in = the_layer();
  guard hold(in);
  disk_file* file = file_of(in, fd);
  if (file == nullptr) return call();
  counted_write counted(in);
  before_write(*file, fd, at, size);
  const ssize_t done = call();
  const int error = errno;
  after_write(*file, fd, at, done);
  errno = error;
  return done;
}

// Sockets and logs take this way too, so it costs them one readlink and no lock.
bool uninteresting(int fd) {
  std::string path;
  return !watched(the_layer(), fd, path);
}

off_t position(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_APPEND) != 0 ? size_of(fd) : lseek(fd, 0, SEEK_CUR);
}

size_t total(const iovec* parts, int count) {
  size_t size = 0;
  for (int at = 0; at < count; ++at) size += parts[at].iov_len;
  return size;
}

template <class Call>
int synced(int fd, Call call) {
  if (uninteresting(fd)) return call();
  layer& in = the_layer();
  guard hold(in);
  const int answer = call();
  if (disk_file* file = answer == 0 ? file_of(in, fd) : nullptr; file != nullptr) {
    ++in.sync_count;
    forget(*file);
  }
  return answer;
}

void* wait_for_trigger(void* path) {
  const std::unique_ptr<std::string> trigger(static_cast<std::string*>(path));
  const int fd = open(trigger->c_str(), O_RDONLY | O_CLOEXEC);
  char octet = 0;
  if (fd >= 0 && read(fd, &octet, 1) == 1) {
    layer& in = the_layer();
    pthread_mutex_lock(&in.lock);
    cut(in);
  }
  return nullptr;
}

// Takes a variable out of the environment: the process refuses settings that it does not know.
std::string setting(const char* name) {
  const char* value = std::getenv(name);
  std::string text = value == nullptr ? "" : value;
  unsetenv(name);
  return text;
}

__attribute__((constructor)) void start() {
  real();
  layer& in = the_layer();
  const std::string directory = setting("POSTHORN_POWERCUT_DIR");
  const std::string trigger = setting("POSTHORN_POWERCUT_TRIGGER");
  in.report = setting("POSTHORN_POWERCUT_REPORT");
  in.chance.seed(std::strtoull(setting("POSTHORN_POWERCUT_SEED").c_str(), nullptr, 10));
  in.writes_left = std::strtoull(setting("POSTHORN_POWERCUT_AFTER").c_str(), nullptr, 10);
  char resolved[4096];
  if (directory.empty() || realpath(directory.c_str(), resolved) == nullptr) return;
  in.directory = resolved;
  if (!trigger.empty()) {
    // The thread takes no signal: those belong to the process that does not know of it.
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_t thread;
    if (pthread_create(&thread, nullptr, wait_for_trigger, new std::string(trigger)) == 0)
      pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
}

}  // namespace

extern "C" {

ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  if (uninteresting(fd)) return real().pwrite(fd, data, size, at);
  return logged(fd, at, size, [&] { return real().pwrite(fd, data, size, at); });
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) { return pwrite(fd, data, size, at); }

ssize_t pwritev(int fd, const iovec* parts, int count, off_t at) {
  if (uninteresting(fd)) return real().pwritev(fd, parts, count, at);
  return logged(fd, at, total(parts, count), [&] { return real().pwritev(fd, parts, count, at); });
}

ssize_t pwritev64(int fd, const iovec* parts, int count, off64_t at) { return pwritev(fd, parts, count, at); }

ssize_t write(int fd, const void* data, size_t size) {
  if (uninteresting(fd)) return real().write(fd, data, size);
  return logged(fd, position(fd), size, [&] { return real().write(fd, data, size); });
}

ssize_t writev(int fd, const iovec* parts, int count) {
  if (uninteresting(fd)) return real().writev(fd, parts, count);
  return logged(fd, position(fd), total(parts, count), [&] { return real().writev(fd, parts, count); });
}

int fsync(int fd) {
  return synced(fd, [&] { return real().fsync(fd); });
}

int fdatasync(int fd) {
  return synced(fd, [&] { return real().fdatasync(fd); });
}

int syncfs(int fd) noexcept {
  layer& in = the_layer();
  guard hold(in);
  const int answer = real().syncfs(fd);
  if (answer == 0)
    for (auto& [key, file] : in.files) forget(file);
  return answer;
}

// LMDB calls it in MDB_WRITEMAP alone. Whose map it is is not asked: the layer would rather lose too little.
int msync(void* address, size_t size, int flags) {
  layer& in = the_layer();
  guard hold(in);
  const int answer = real().msync(address, size, flags);
  if (answer == 0 && (flags & MS_SYNC) != 0)
    for (auto& [key, file] : in.files) forget(file);
  return answer;
}

int ftruncate(int fd, off_t size) noexcept {
  if (uninteresting(fd)) return real().ftruncate(fd, size);
  layer& in = the_layer();
  guard hold(in);
  disk_file* file = file_of(in, fd);
  if (file == nullptr) return real().ftruncate(fd, size);
  counted_write counted(in);
  const off_t before = size_of(fd);
  if (file->size < 0) file->size = before;
  keep_pages(*file, size, before);
  return real().ftruncate(fd, size);
}

int ftruncate64(int fd, off64_t size) noexcept { return ftruncate(fd, size); }

}  // extern "C"
