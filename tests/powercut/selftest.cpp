// Proves the power cut layer against itself: run with it preloaded, this writes files in known ways and asks for the cut;
// the test then looks at what is left.
//
//   selftest DIRECTORY FIFO
//
//   synced     written, fsynced                          -> must be there
//   lost       written, never synced                     -> may be gone, whole or in pages
//   through    written with O_DSYNC                      -> must be there
//   rewritten  "old" fsynced, then "new" without a sync  -> each page old or new, torn only between sectors
//   vectored   as synced, by pwritev and fdatasync       -> must be there
//   grown      a page fsynced, then ftruncate to more    -> its first page must be there
//   shrunk     two pages fsynced, then ftruncate to none -> both must be back when the cut loses all
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

std::string directory;

int open_file(const char* name, int flags = 0) {
  const int fd = open((directory + "/" + name).c_str(), O_RDWR | O_CREAT | flags, 0644);
  if (fd < 0) std::exit(2);
  return fd;
}

void put(int fd, char letter, size_t size, off_t at) {
  const std::string data(size, letter);
  if (pwrite(fd, data.data(), size, at) != static_cast<ssize_t>(size)) std::exit(3);
}

void check(bool good) {
  if (!good) std::exit(4);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  directory = argv[1];
  const int synced = open_file("synced");
  put(synced, 's', 10'000, 0);
  check(fsync(synced) == 0);
  put(open_file("lost"), 'l', 100'000, 0);
  put(open_file("through", O_DSYNC), 't', 10'000, 0);
  const int rewritten = open_file("rewritten");
  put(rewritten, 'o', 40'960, 0);
  check(fdatasync(rewritten) == 0);
  put(rewritten, 'n', 40'960, 0);
  const int vectored = open_file("vectored");
  std::string half(5000, 'v');
  const iovec parts[] = {{half.data(), half.size()}, {half.data(), half.size()}};
  check(pwritev(vectored, parts, 2, 0) == 10'000);
  check(fdatasync(vectored) == 0);
  const int grown = open_file("grown");
  put(grown, 'g', 4096, 0);
  check(fsync(grown) == 0);
  check(ftruncate(grown, 20'000) == 0);
  const int shrunk = open_file("shrunk");
  check(write(shrunk, std::string(8192, 'k').data(), 8192) == 8192);
  check(fsync(shrunk) == 0);
  check(ftruncate(shrunk, 0) == 0);
  // The process itself must see all that it wrote.
  char seen = 0;
  check(pread(rewritten, &seen, 1, 20'000) == 1 && seen == 'n');
  const int trigger = open(argv[2], O_WRONLY);
  check(trigger >= 0 && write(trigger, "x", 1) == 1);
  for (;;) pause();
}
