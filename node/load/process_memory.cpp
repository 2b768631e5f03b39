#include "node/load/process_memory.hpp"

#include "node/load/number_list.hpp"

#include <fstream>
#include <iterator>
#include <string>
#include <thread>

namespace posthorn {

result<process_memory> process_memory::from_status(std::string_view text) {
  const auto kibibytes = [&](std::string_view name) -> std::optional<std::uint64_t> {
    const auto at = text.find(name);
    if (at == std::string_view::npos || (at != 0 && text[at - 1] != '\n')) return std::nullopt;
    auto line = text.substr(at + name.size());
    line = line.substr(0, line.find('\n'));
    const auto first = line.find_first_of("0123456789");
    if (first == std::string_view::npos) return std::nullopt;
    line.remove_prefix(first);
    return number_from<std::uint64_t>(line.substr(0, line.find(' ')));
  };
  const auto resident = kibibytes("VmRSS:");
  if (!resident) return refused("the system does not tell how much memory the process has");
  return process_memory{*resident * 1024, kibibytes("RssAnon:").value_or(*resident) * 1024};
}

result<process_memory> memory_of(int pid) {
  std::ifstream file{"/proc/" + std::to_string(pid) + "/status"};
  const std::string text{std::istreambuf_iterator<char>{file}, {}};
  if (text.empty()) return refused("there is no process " + std::to_string(pid) + " to read the memory of");
  return process_memory::from_status(text);
}

result<process_memory> settled_memory(int pid, std::chrono::milliseconds patience) {
  const auto give_up_at = std::chrono::steady_clock::now() + patience;
  auto last = memory_of(pid);
  for (int same = 0; last && same < 4 && std::chrono::steady_clock::now() < give_up_at;) {
    std::this_thread::sleep_for(std::chrono::milliseconds{50});
    auto now = memory_of(pid);
    same = now && now->resident == last->resident ? same + 1 : 0;
    last = std::move(now);
  }
  return last;
}

}  // namespace posthorn
