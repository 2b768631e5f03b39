// A table for a terminal: columns as wide as their widest cell, words to the left, numbers to the right.
//
// Threads   a plain value.
#pragma once

#include <string>
#include <vector>

namespace posthorn {

class text_table {
public:
  enum class align { left, right };
  struct column {
    std::string title;
    align side = align::left;
  };

  explicit text_table(std::vector<column> columns) : columns_{std::move(columns)} {}

  // As many cells as there are columns. Characters that would move the terminal's cursor are shown as '?'.
  void add_row(std::vector<std::string> cells);

  // Titles, unless all of them are empty, and rows; each line ends with a line feed and has no spaces before it.
  [[nodiscard]] std::string to_string() const;

private:
  std::vector<column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// 1234567 → "1,234,567"
[[nodiscard]] std::string with_thousands(unsigned long long number);

}  // namespace posthorn
