#include "actors/memory.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

using namespace posthorn;

namespace {

// A machine as the kernel shows it, with 4 GiB.
struct machine {
  machine() {
    std::string name = (std::filesystem::temp_directory_path() / "posthorn-machine-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    root = name;
    write("proc/meminfo", "MemTotal:        4194304 kB\nMemFree:         1000 kB\n");
  }
  ~machine() {
    std::error_code ignored;
    std::filesystem::remove_all(root, ignored);
  }
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;

  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream{root / path} << text;
  }

  std::filesystem::path root;
};

constexpr std::uint64_t gibibyte = std::uint64_t{1} << 30;

}  // namespace

TEST_CASE("without control groups the machine's memory is at hand", "[memory]") {
  const machine m;
  CHECK(memory_at_hand(m.root) == 4 * gibibyte);
}

TEST_CASE("the least limit of the groups that hold the process counts", "[memory]") {
  const machine m;
  m.write("proc/self/cgroup", "0::/system.slice/posthorn.service\n");
  m.write("sys/fs/cgroup/system.slice/posthorn.service/memory.max", "max\n");
  CHECK(memory_at_hand(m.root) == 4 * gibibyte);
  m.write("sys/fs/cgroup/system.slice/memory.max", "2147483648\n");
  CHECK(memory_at_hand(m.root) == 2 * gibibyte);
  m.write("sys/fs/cgroup/system.slice/posthorn.service/memory.max", "1073741824\n");
  CHECK(memory_at_hand(m.root) == gibibyte);
}

TEST_CASE("in a container the limit stands at the top", "[memory]") {
  const machine m;
  m.write("proc/self/cgroup", "0::/\n");
  m.write("sys/fs/cgroup/memory.max", "1073741824\n");
  CHECK(memory_at_hand(m.root) == gibibyte);
}

TEST_CASE("control groups of the first version count as well", "[memory]") {
  const machine m;
  m.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n");
  // In the container only the top is mounted, and that is its own.
  m.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
  CHECK(memory_at_hand(m.root) == gibibyte);
  m.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  CHECK(memory_at_hand(m.root) == 4 * gibibyte);
}

TEST_CASE("a system that tells nothing is no limit", "[memory]") {
  CHECK(memory_at_hand("/nonexistent") == 0);
}

TEST_CASE("what the process takes for itself shows in its memory", "[memory]") {
  const auto before = own_memory();
  REQUIRE(before > 0);
  const std::vector<char> taken(std::size_t{64} << 20, 'x');
  CHECK(own_memory() >= before + (std::size_t{60} << 20));
}
