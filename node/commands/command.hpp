// What all sub-commands of `posthorn` share. Each adds itself to the command line, and sets `action` when it is the
// one that was asked for; `run_command_line` then runs it.
#pragma once

#include "mailbox/result.hpp"
#include "node/commands/http_client.hpp"
#include "node/commands/terminal.hpp"
#include "node/exit_code.hpp"

#include <functional>
#include <ostream>

namespace CLI {
class App;
}

namespace posthorn {

struct command_context {
  node_access access;
  bool is_json = false;
  std::ostream& out;
  std::ostream& err;
  terminal screen;  // that `out` is shown on
  std::function<exit_code()> action;

  // One line to `err`; the exit code that fits the error.
  [[nodiscard]] exit_code fail(const error& failure) const;
};

void add_status(CLI::App& app, command_context& context);
void add_list(CLI::App& app, command_context& context);
void add_actors(CLI::App& app, command_context& context);
void add_alarms(CLI::App& app, command_context& context);
void add_delayed(CLI::App& app, command_context& context);
void add_administration(CLI::App& app, command_context& context);
void add_backup(CLI::App& app, command_context& context);
void add_verify(CLI::App& app, command_context& context);
void add_bench(CLI::App& app, command_context& context);

}  // namespace posthorn
