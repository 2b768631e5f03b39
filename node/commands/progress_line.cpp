#include "node/commands/progress_line.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace posthorn {

void progress_line::show(std::string_view text) {
  if (!is_shown()) return;
  // A terminal whose last column is written to may go on in the next line.
  text = text.substr(0, columns_ - 1);
  std::string line{'\r'};
  line += text;
  line.append(width_ - std::min(width_, text.size()), ' ');
  out_ << line << std::flush;
  width_ = text.size();
}

void progress_line::show_now_and_then(std::string_view text) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_at_) return;
  next_at_ = now + std::chrono::milliseconds{200};
  show(text);
}

void progress_line::clear() {
  if (width_ == 0) return;
  show("");
  out_ << '\r' << std::flush;
  width_ = 0;
}

std::size_t columns_of_standard_error() {
  const char* const kind = std::getenv("TERM");
  if (::isatty(STDERR_FILENO) != 1 || kind == nullptr || std::string_view{kind} == "dumb") return 0;
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace posthorn
