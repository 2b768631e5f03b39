#include "node/daemon.hpp"

#include "gateway/version.hpp"
#include "node/daemon_options.hpp"
#include "node/exit_code.hpp"
#include "node/run.hpp"

#include <iostream>

namespace posthorn {

int run_daemon(int argc, const char* const* argv, const fault_plan& faults) {
  const auto fail = [](exit_code code, std::string_view text) {
    std::cerr << "posthornd: " << text << '\n';
    return to_int(code);
  };
  const auto options = parse_daemon_options({argv + 1, argv + argc});
  if (!options) return fail(exit_code::usage, options.error().text);
  if (options->what == daemon_options::action::help) {
    std::cout << daemon_help();
    return to_int(exit_code::ok);
  }
  if (options->what == daemon_options::action::version) {
    std::cout << "posthornd " << product_version << '\n';
    return to_int(exit_code::ok);
  }

  auto sources = sources_of_process();
  if (options->config_file) sources.file = *options->config_file;
  sources.command_line = options->settings;
  const auto effective = load_settings(sources);
  if (!effective) {
    // One line for each mistake, which names its place itself.
    std::cerr << effective.error().text << '\n';
    return to_int(exit_code::bad_config);
  }
  if (options->what == daemon_options::action::print_config) {
    std::cout << print_config(*effective);
    return to_int(exit_code::ok);
  }
  return run_node(
      effective->values, [sources] { return load_settings(sources); }, faults);
}

}  // namespace posthorn
