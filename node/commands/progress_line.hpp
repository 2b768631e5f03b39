// One line of a terminal that is rewritten while something goes on, and gone when it is over.
//
// Threads   belongs to one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <ostream>
#include <string_view>

namespace posthorn {

class progress_line {
public:
  // `columns`: how wide the terminal is; 0: it is none, and nothing is written at all.
  progress_line(std::ostream& out, std::size_t columns) : out_{out}, columns_{columns} {}
  ~progress_line() { clear(); }
  progress_line(const progress_line&) = delete;
  progress_line& operator=(const progress_line&) = delete;

  [[nodiscard]] bool is_shown() const noexcept { return columns_ != 0; }
  // Plain characters; what does not fit the terminal is cut.
  void show(std::string_view text);
  // The same, but not more often than the eye can follow.
  void show_now_and_then(std::string_view text);
  void clear();

private:
  std::ostream& out_;
  std::size_t columns_;
  std::size_t width_ = 0;  // of what stands there
  std::chrono::steady_clock::time_point next_at_{};
};

// Of the terminal that standard error goes to, or 0.
[[nodiscard]] std::size_t columns_of_standard_error();

}  // namespace posthorn
