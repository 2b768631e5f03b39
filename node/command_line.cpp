#include "node/command_line.hpp"

#include "gateway/version.hpp"
#include "node/commands/command.hpp"
#include "node/commands/usage_error.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <iostream>
#include <string>

namespace posthorn {

exit_code command_context::fail(const error& failure) const {
  err << "posthorn: " << failure.text << '\n';
  switch (failure.code) {
    case errc::unreachable:
    case errc::overloaded: return exit_code::unavailable;
    case errc::corrupted: return exit_code::data_damaged;
    case errc::refused: break;
  }
  return exit_code::check_failed;
}

int run_command_line(std::vector<std::string> arguments, std::ostream& out, std::ostream& err) {
  CLI::App app{"Looks after a Posthorn node, checks a store, loads a broker.", "posthorn"};
  app.set_version_flag("--version", "posthorn " + std::string{product_version});
  app.get_formatter()->column_width(27);
  app.require_subcommand(1);
  app.fallthrough();

  command_context context{{}, false, out, err, {}, {}};
  if (&out == &std::cout) context.screen = terminal_of_standard_output();
  app.add_option("--url", context.access.url, "The node's --http address")
      ->envname("POSTHORN_URL")
      ->option_text("URL");
  app.add_option("--user", context.access.user, "Who asks (guest: only from this machine)")
      ->envname("POSTHORN_USER")
      ->option_text("NAME");
  app.add_option("--password", context.access.password, "Better given as POSTHORN_PASSWORD")
      ->envname("POSTHORN_PASSWORD")
      ->option_text("WORD");
  app.add_flag("--json", context.is_json, "Machine-readable output");
  add_status(app, context);
  add_list(app, context);
  add_actors(app, context);
  add_alarms(app, context);
  add_delayed(app, context);
  add_administration(app, context);
  add_backup(app, context);
  add_verify(app, context);
  add_bench(app, context);

  // CLI11 takes the arguments from the back.
  std::reverse(arguments.begin(), arguments.end());
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& failure) {
    // Help and version come this way, too.
    if (failure.get_exit_code() == 0) return app.exit(failure, out, err);
    err << usage_error(app, failure);
    return to_int(exit_code::wrong_usage);
  }
  return to_int(context.action());
}

}  // namespace posthorn
