// posthorn backup: copies the store of a node, which may run meanwhile, into a directory of its own.
#include "persist/backup.hpp"
#include "node/commands/command.hpp"
#include "node/commands/human_time.hpp"
#include "node/commands/progress_line.hpp"
#include "node/commands/text_table.hpp"
#include "persist/damage_guard.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace posthorn {
namespace {

struct backup_options {
  std::string from, to;
  std::uint64_t rate_mib = 64;
};

exit_code copy_store(const command_context& context, const backup_options& options) {
  const damage_guard guard{"posthorn", options.from};
  progress_line progress{context.err, context.is_json ? 0 : columns_of_standard_error()};
  const auto begin = std::chrono::steady_clock::now();
  const auto size = back_up({options.from, options.to, options.rate_mib << 20}, [&](std::uint64_t written) {
    progress.show_now_and_then(with_thousands(written >> 20) + " MiB copied");
  });
  progress.clear();
  if (!size) {
    const auto code = context.fail(size.error());
    return size.error().code == errc::overloaded ? exit_code::cannot_create : code;
  }
  const auto took = std::chrono::steady_clock::now() - begin;
  if (context.is_json) {
    boost::json::object out;
    out["directory"] = options.to;
    out["bytes"] = *size;
    out["seconds"] = std::chrono::duration<double>(took).count();
    context.out << boost::json::serialize(out) << '\n';
  } else {
    context.out << options.to << " is a copy of " << options.from << ": " << with_thousands(*size)
                << " bytes in " << human_duration(took) << '\n';
  }
  context.out.flush();
  return exit_code::ok;
}

}  // namespace

void add_backup(CLI::App& app, command_context& context) {
  auto* command = app.add_subcommand("backup", "Copy the store of a node, which may be running");
  const auto options = std::make_shared<backup_options>();
  command->add_option("DATA_DIR", options->from, "The node's data directory")->required()->option_text(" ");
  command->add_option("TARGET_DIR", options->to, "Becomes a data directory; holds no store yet")
      ->required()
      ->option_text(" ");
  command->add_option("--rate", options->rate_mib, "MiB per second (64; 0: no limit)")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 30))
      ->option_text("N");
  command->callback([&context, options] {
    context.action = [&context, options] { return copy_store(context, *options); };
  });
}

}  // namespace posthorn
