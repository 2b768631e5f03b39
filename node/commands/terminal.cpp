#include "node/commands/terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace posthorn {

terminal terminal_from(bool is_terminal, std::size_t columns, const environment_reader& variable) {
  const auto value = [&](const char* name) {
    const char* const found = variable(name);
    return std::string{found == nullptr ? "" : found};
  };
  // The first that is set decides, as POSIX says.
  std::string locale = value("LC_ALL");
  if (locale.empty()) locale = value("LC_CTYPE");
  if (locale.empty()) locale = value("LANG");
  std::transform(locale.begin(), locale.end(), locale.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool is_dumb = is_terminal && (value("TERM") == "dumb" || value("TERM").empty());
  terminal out;
  out.draws_boxes =
      !is_dumb && (locale.find("utf-8") != std::string::npos || locale.find("utf8") != std::string::npos);
  out.has_colour = is_terminal && !is_dumb && value("NO_COLOR").empty();
  out.columns = is_terminal ? columns : 0;
  return out;
}

terminal terminal_of_standard_output() {
  winsize size{};
  const bool is_terminal = ::isatty(STDOUT_FILENO) == 1;
  const bool has_size = is_terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
  return terminal_from(is_terminal, has_size ? size.ws_col : 0,
                       [](const char* name) { return std::getenv(name); });
}

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto octet = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0U;
    if (octet < 0x20 || octet == 0x7f) {
      out += '?';
    } else if (octet == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080 to U+009F: controls of eight bits
      out += '?';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace posthorn
