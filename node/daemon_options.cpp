#include "node/daemon_options.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <deque>

namespace posthorn {

result<daemon_options> parse_daemon_options(const std::vector<std::string>& arguments) {
  daemon_options out;
  CLI::App app{"", "posthornd"};
  app.set_help_flag();  // --help is written from the table of settings
  bool wants_help = false;
  bool wants_version = false;
  bool wants_config = false;
  app.add_flag("-h,--help", wants_help);
  app.add_flag("--version", wants_version);
  app.add_flag("--print-config", wants_config);
  std::string config_file;
  auto* config = app.add_option("--config", config_file);
  // Values are looked at by `load_settings`, so that a mistake reads the same wherever it was made.
  std::deque<std::string> values;
  std::vector<std::pair<CLI::Option*, const std::string*>> given;
  for (const auto& row : setting_table()) {
    auto& value = values.emplace_back();
    given.emplace_back(
        app.add_option(std::string{row.flag}, value)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast),
        &value);
  }
  std::vector<std::string> reversed{arguments.rbegin(), arguments.rend()};
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& failure) {
    std::string text = failure.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    return refused(text + "; `posthornd --help` shows what is possible");
  }
  using action = daemon_options::action;
  out.what = wants_help      ? action::help
             : wants_version ? action::version
             : wants_config  ? action::print_config
                             : action::run;
  if (config->count() != 0) out.config_file = config_file;
  const auto rows = setting_table();
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (given[i].first->count() != 0) out.settings.emplace_back(rows[i].flag, *given[i].second);
  }
  return out;
}

std::string daemon_help() {
  std::string out = "posthornd: one node of the Posthorn message broker\n";
  const auto line = [&](std::string option, std::string_view help) {
    if (option.size() < 32) option.append(32 - option.size(), ' ');
    out += "  " + option + ' ' + std::string{help} + '\n';
  };
  line("--config FILE", "settings in TOML (or POSTHORN_CONFIG)");
  line("--print-config", "print the settings and their origins");
  line("--version, -h, --help", "print that, and end");
  for (const auto& row : setting_table()) {
    std::string help{row.help};
    const bool shows_default =
        !row.default_text.empty() && row.default_text != "0" && row.default_text != "auto";
    if (shows_default) help += " (" + std::string{row.default_text} + ')';
    line(std::string{row.flag} + ' ' + std::string{row.placeholder}, help);
  }
  out += "Each setting also as variable POSTHORN_<TABLE>_<KEY>: docs/configuration.md\n";
  return out;
}

}  // namespace posthorn
