// What posthornd was asked to do.
//
// Threads   plain values.
#pragma once

#include "mailbox/result.hpp"
#include "node/settings.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {

struct daemon_options {
  enum class action { run, help, version, print_config };
  action what = action::run;
  std::optional<std::string> config_file;
  std::vector<std::pair<std::string, std::string>> settings;  // flag and value
};

// The arguments without the program's name. An error is one line for the operator.
[[nodiscard]] result<daemon_options> parse_daemon_options(const std::vector<std::string>& arguments);

// Fits a screen of 40 lines by 80 columns.
[[nodiscard]] std::string daemon_help();

}  // namespace posthorn
