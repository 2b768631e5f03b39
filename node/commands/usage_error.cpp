#include "node/commands/usage_error.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace posthorn {

namespace {

// Letters to be changed, left out, put in or swapped with their neighbour, to make one of the other.
std::size_t slips_between(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const bool same = a[i - 1] == b[j - 1];
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0U : 1U)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

// Longer than any word we know: no need to compare it.
constexpr std::size_t word_size_max = 64;

std::vector<std::string> commands_of(const CLI::App& of) {
  std::vector<std::string> out;
  for (const auto* each : of.get_subcommands(nullptr)) out.push_back(each->get_name());
  return out;
}

std::vector<std::string> options_of(const CLI::App* of) {
  std::vector<std::string> out;
  for (; of != nullptr; of = of->get_parent()) {
    for (const auto* each : of->get_options(nullptr)) {
      for (const auto& name : each->get_lnames()) out.push_back("--" + name);
    }
  }
  return out;
}

std::string listed(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::string perhaps(std::string_view meant, const std::string& path) {
  const auto help = "`" + path + " --help`\n";
  return meant.empty() ? "; see " + help : ", did you mean '" + std::string{meant} + "'? See " + help;
}

}  // namespace

std::string_view closest_word(std::string_view written, const std::vector<std::string>& known) {
  if (written.size() > word_size_max) return {};
  std::string_view best;
  auto fewest = std::max<std::size_t>(1, written.size() / 3) + 1;
  for (const auto& word : known) {
    if (const auto slips = slips_between(written, word); slips < fewest) {
      fewest = slips;
      best = word;
    }
  }
  return best;
}

std::string usage_error(const CLI::App& app, const CLI::ParseError& failure) {
  const CLI::App* at = &app;
  std::string path = app.get_name();
  for (auto inner = at->get_subcommands(); !inner.empty(); inner = at->get_subcommands()) {
    at = inner.back();
    path += " " + at->get_name();
  }
  const auto commands = commands_of(*at);
  const auto rest = app.remaining(true);
  const auto is_option = [](const std::string& word) { return word.size() > 1 && word.front() == '-'; };
  const auto word = std::find_if_not(rest.begin(), rest.end(), is_option);
  const bool is_extra = failure.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
  const bool is_missing = failure.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError);
  if (!is_extra && !is_missing) return "posthorn: " + std::string{failure.what()} + perhaps({}, path);
  if (!commands.empty()) {
    if (word != rest.end()) {
      return "posthorn: unknown command '" + *word + "'" + perhaps(closest_word(*word, commands), path);
    }
    if (rest.empty())
      return "posthorn: `" + path + "` needs a command: " + listed(commands) + perhaps({}, path);
  }
  if (const auto option = std::find_if(rest.begin(), rest.end(), is_option); option != rest.end()) {
    const auto name = option->substr(0, option->find('='));
    return "posthorn: unknown option '" + name + "'" + perhaps(closest_word(name, options_of(at)), path);
  }
  if (word != rest.end()) return "posthorn: unexpected argument '" + *word + "'" + perhaps({}, path);
  return "posthorn: " + std::string{failure.what()} + perhaps({}, path);
}

}  // namespace posthorn
