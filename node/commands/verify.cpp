// posthorn verify: reads every record of a store that no node is using. Ends with 65 when one is damaged.
#include "persist/verify.hpp"
#include "node/commands/command.hpp"
#include "node/commands/text_table.hpp"
#include "persist/damage_guard.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <memory>
#include <string>

namespace posthorn {
namespace {

namespace json = boost::json;

std::string as_json(const verify_report& report) {
  json::object out;
  out["clean"] = report.clean();
  out["version"] = report.version;
  out["exchanges"] = report.exchanges;
  out["queues"] = report.queues;
  out["bindings"] = report.bindings;
  out["messages"] = report.messages;
  out["message_bytes"] = report.message_bytes;
  out["actors"] = report.actors;
  out["timers"] = report.timers;
  out["actor_events"] = report.actor_events;
  out["tree_events"] = report.tree_events;
  out["access"] = report.access;
  out["seen"] = report.seen;
  out["transient"] = report.transient;
  out["buried"] = report.buried;
  out["unfinished"] = report.unfinished;
  out["problem_count"] = report.problem_count;
  json::array problems;
  for (const auto& problem : report.problems) problems.emplace_back(problem);
  out["problems"] = std::move(problems);
  return json::serialize(out);
}

std::string as_text(const verify_report& report) {
  using align = text_table::align;
  text_table table{{{"", align::left}, {"", align::right}, {"", align::left}}};
  const auto add = [&](const char* what, std::uint64_t count, const char* note = "") {
    table.add_row({what, with_thousands(count), note});
  };
  add("exchanges", report.exchanges);
  add("queues", report.queues);
  add("bindings", report.bindings);
  add("messages", report.messages);
  add("bytes", report.message_bytes, "in their bodies");
  add("actors", report.actors, "with a durable state");
  add("timers", report.timers, "of theirs");
  add("actor events", report.actor_events, "in their journals");
  add("tree events", report.tree_events, "failures, restarts and alike, the latest");
  add("access", report.access, "users, virtual hosts and what is laid down for them");
  if (report.seen != 0) add("seen", report.seen, "messages that exchanges remember");
  if (report.transient != 0) add("transient", report.transient, "go at the next start");
  if (report.buried != 0) add("buried", report.buried, "consumed, and still to be erased");
  if (report.unfinished != 0)
    add("unfinished", report.unfinished, "cut off while written, go at the next start");
  add("problems", report.problem_count);
  return table.to_string();
}

exit_code verify_store(const command_context& context, const std::string& directory) {
  const damage_guard guard{"posthorn", directory};
  const auto report = verify(directory);
  if (!report) return context.fail(report.error());
  context.out << (context.is_json ? as_json(*report) + '\n' : as_text(*report));
  context.out.flush();
  if (report->clean()) return exit_code::ok;
  for (const auto& problem : report->problems) context.err << "posthorn: " << problem << '\n';
  context.err << "posthorn: the store in " << directory
              << " is damaged: " << with_thousands(report->problem_count)
              << " problems; restore a copy of the directory\n";
  return exit_code::data_damaged;
}

}  // namespace

void add_verify(CLI::App& app, command_context& context) {
  auto* command = app.add_subcommand("verify", "Read every record of a store that no node is using");
  const auto directory = std::make_shared<std::string>();
  command->add_option("DATA_DIR", *directory, "The data directory of a stopped node")
      ->required()
      ->option_text(" ");
  command->callback([&context, directory] {
    context.action = [&context, directory] { return verify_store(context, *directory); };
  });
}

}  // namespace posthorn
