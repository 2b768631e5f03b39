#include "access/user.hpp"

#include <algorithm>

namespace posthorn {

bool user::has_tag(std::string_view tag) const noexcept {
  return std::find(tags.begin(), tags.end(), tag) != tags.end();
}

result<std::vector<std::string>> user_tags_of(const std::vector<std::string>& given) {
  if (given.size() > user::tags_max) {
    return refused("a user has at most " + std::to_string(user::tags_max) + " tags, not " +
                   std::to_string(given.size()));
  }
  std::vector<std::string> out;
  for (const std::string_view tag : given) {
    const auto first = tag.find_first_not_of(' ');
    if (first == std::string_view::npos) continue;
    const auto trimmed = tag.substr(first, tag.find_last_not_of(' ') + 1 - first);
    if (trimmed == "none" || std::find(out.begin(), out.end(), trimmed) != out.end()) continue;
    out.emplace_back(trimmed);
  }
  return out;
}

result<std::vector<std::string>> user_tags_of(std::string_view given) {
  std::vector<std::string> parts;
  while (!given.empty()) {
    const auto comma = std::min(given.find(','), given.size());
    if (comma > 0) parts.emplace_back(given.substr(0, comma));
    given.remove_prefix(std::min(comma + 1, given.size()));
  }
  return user_tags_of(parts);
}

}  // namespace posthorn
