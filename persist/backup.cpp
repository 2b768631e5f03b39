#include "persist/backup.hpp"

#include "persist/store.hpp"
#include "persist/transaction.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace posthorn {

namespace {

namespace fs = std::filesystem;

// Synced after each: a commit of the node never waits for more than this.
constexpr std::size_t piece = std::size_t{1} << 20;

class descriptor {
public:
  explicit descriptor(int number = -1) noexcept : number_{number} {}
  descriptor(descriptor&& other) noexcept : number_{std::exchange(other.number_, -1)} {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~descriptor() { close(); }
  void close() noexcept {
    if (number_ >= 0) ::close(std::exchange(number_, -1));
  }
  [[nodiscard]] int get() const noexcept { return number_; }

private:
  int number_;
};

error from_errno(const std::string& doing) {
  const int why = errno;
  auto text = doing + ": " + std::strerror(why);
  return why == ENOSPC || why == EDQUOT
             ? overloaded(std::move(text) + "; free some space, or choose another disk")
             : refused(std::move(text));
}

// All that comes, up to the size of `into`; less only at the end.
result<std::size_t> read_piece(int from, std::vector<std::byte>& into) {
  std::size_t filled = 0;
  while (filled < into.size()) {
    const auto got = ::read(from, into.data() + filled, into.size() - filled);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return from_errno("copying the store");
    filled += static_cast<std::size_t>(got);
  }
  return filled;
}

result<void> write_piece(int to, const std::byte* bytes, std::size_t size, const fs::path& path) {
  while (size != 0) {
    const auto written = ::write(to, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return from_errno("writing " + path.string());
    bytes += written;
    size -= static_cast<std::size_t>(written);
  }
  if (::fdatasync(to) != 0) return from_errno("syncing " + path.string());
  return {};
}

// What the pipe brings becomes the file, at the wanted rate.
result<std::uint64_t> write_all(int from, int to, const fs::path& path, std::uint64_t rate_max,
                                const std::function<void(std::uint64_t)>& on_progress) {
  std::vector<std::byte> buffer(piece);
  std::uint64_t total = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    const auto size = read_piece(from, buffer);
    if (!size) return size.error();
    if (*size == 0) return total;
    if (auto r = write_piece(to, buffer.data(), *size, path); !r) return r.error();
    // Nobody reads it again soon.
    (void)::posix_fadvise(to, static_cast<off_t>(total), static_cast<off_t>(*size), POSIX_FADV_DONTNEED);
    total += *size;
    if (on_progress) on_progress(total);
    if (rate_max == 0) continue;
    const std::chrono::duration<double> earliest{static_cast<double>(total) / static_cast<double>(rate_max)};
    std::this_thread::sleep_until(begin + std::chrono::duration_cast<std::chrono::nanoseconds>(earliest));
  }
}

result<std::uint64_t> copy_into(MDB_env* environment, const fs::path& path, const backup_request& request,
                                const std::function<void(std::uint64_t)>& on_progress) {
  descriptor file{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640)};
  if (file.get() < 0) return from_errno("cannot make " + path.string());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return from_errno("cannot make a pipe");
  descriptor out{ends[0]}, in{ends[1]};
  // LMDB writes into the pipe on a thread of its own, and holds one read transaction until it is through. When this end
  // is closed early, it ends with EPIPE; it blocks the signal itself.
  int copied = 0;
  std::thread reader{[&] {
    copied = mdb_env_copyfd2(environment, in.get(), MDB_CP_COMPACT);
    in.close();
  }};
  auto written = write_all(out.get(), file.get(), path, request.rate_max, on_progress);
  out.close();
  reader.join();
  if (!written) return written;
  if (auto r = check_lmdb(copied, "copying the store in " + request.from.string()); !r) return r.error();
  return written;
}

// Of a newer version, LMDB could copy it, too; but then this program would have to know that nothing else belongs to it.
result<void> check_version(MDB_env* environment, const fs::path& directory) {
  auto txn = read_transaction::begin(environment);
  if (!txn) return txn.error();
  MDB_dbi meta = 0;
  if (auto r = check_lmdb(mdb_dbi_open(txn->handle(), "meta", 0, &meta), "reading the version of the store");
      !r)
    return r;
  const std::string_view name{"version"};
  const auto stored = find(txn->handle(), meta, std::as_bytes(std::span{name}));
  if (!stored) return stored.error();
  std::uint32_t number = 0;
  if (!*stored || (*stored)->size() != sizeof number) {
    return corrupted("the store in " + directory.string() + " is damaged: it has no valid version");
  }
  std::memcpy(&number, (*stored)->data(), sizeof number);
  if (number <= store::version) return {};
  return refused("the store in " + directory.string() + " has version " + std::to_string(number) +
                 ", newer than this program, which knows versions up to " + std::to_string(store::version));
}

result<void> sync_directory(const fs::path& directory) {
  const descriptor opened{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (opened.get() < 0 || ::fsync(opened.get()) != 0) return from_errno("syncing " + directory.string());
  return {};
}

}  // namespace

result<std::uint64_t> back_up(const backup_request& request,
                              const std::function<void(std::uint64_t)>& on_progress) {
  std::error_code failed;
  if (!fs::exists(request.from / "data.mdb", failed)) {
    return refused("there is no store in " + request.from.string() + (failed ? ": " + failed.message() : "") +
                   "; name the data directory of a node");
  }
  if (fs::exists(request.to / "data.mdb", failed)) {
    return refused("there is a store in " + request.to.string() + " already; choose another directory");
  }
  fs::create_directories(request.to, failed);
  if (failed) return refused("cannot make " + request.to.string() + ": " + failed.message());

  auto environment = new_environment();
  if (!environment) return environment.error();
  const int opened = mdb_env_open(environment->get(), request.from.c_str(), MDB_RDONLY | MDB_NOTLS, 0640);
  if (opened == MDB_INVALID || opened == MDB_CORRUPTED || opened == MDB_VERSION_MISMATCH) {
    return corrupted("the store in " + request.from.string() + " is damaged: its first pages are not LMDB's");
  }
  if (auto r = check_lmdb(opened, "opening the store in " + request.from.string()); !r) return r.error();
  if (auto r = check_version(environment->get(), request.from); !r) return r.error();

  // A copy that was cut off never has the name of a store.
  const auto aside = request.to / "data.mdb.copying";
  auto written = copy_into(environment->get(), aside, request, on_progress);
  if (written) {
    fs::rename(aside, request.to / "data.mdb", failed);
    if (failed) written = refused("cannot make the copy in " + request.to.string() + ": " + failed.message());
  }
  if (!written) {
    fs::remove(aside, failed);
    return written;
  }
  if (auto r = sync_directory(request.to); !r) return r.error();
  return written;
}

}  // namespace posthorn
