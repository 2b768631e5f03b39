#include "actors/memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

namespace {

std::optional<std::uint64_t> number_in(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with('\t')) text.remove_prefix(1);
  std::uint64_t out = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), out);
  if (read.ec != std::errc{}) return std::nullopt;
  return out;
}

std::optional<std::uint64_t> number_in_file(const std::filesystem::path& path) {
  std::ifstream in{path};
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  return number_in(line);  // "max" is none
}

// The least limit of a group and of those that it is in. In a container, its own may be what stands at the top.
void limit_by_groups(const std::filesystem::path& top, std::string_view group, const char* file,
                     std::uint64_t& limit) {
  while (group.starts_with('/')) group.remove_prefix(1);
  for (std::filesystem::path at{group};; at = at.parent_path()) {
    if (const auto bytes = number_in_file(top / at / file); bytes && *bytes != 0)
      limit = std::min(limit, *bytes);
    if (at.empty()) return;
  }
}

}  // namespace

std::uint64_t own_memory() {
  std::ifstream in{"/proc/self/statm"};
  std::uint64_t size = 0, resident = 0, of_files = 0;
  if (!(in >> size >> resident >> of_files) || of_files > resident) return 0;
  static const auto page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return (resident - of_files) * page_size;
}

std::uint64_t memory_at_hand(const std::filesystem::path& root) {
  std::uint64_t limit = UINT64_MAX;
  std::ifstream machine{root / "proc/meminfo"};
  constexpr std::string_view total = "MemTotal:";
  for (std::string line; std::getline(machine, line);) {
    if (!line.starts_with(total)) continue;
    if (const auto kib = number_in(std::string_view{line}.substr(total.size()))) limit = *kib << 10U;
    break;
  }
  // "0::/a/b" of the second version; "4:memory:/a/b" of the first.
  std::ifstream groups{root / "proc/self/cgroup"};
  const auto mounted = root / "sys/fs/cgroup";
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = ',' + line.substr(first + 1, second - first - 1) + ',';
    const auto group = std::string_view{line}.substr(second + 1);
    if (controllers == ",,") {
      limit_by_groups(mounted, group, "memory.max", limit);
    } else if (controllers.find(",memory,") != std::string::npos) {
      limit_by_groups(mounted / "memory", group, "memory.limit_in_bytes", limit);
    }
  }
  return limit == UINT64_MAX ? 0 : limit;
}

}  // namespace posthorn
