// posthorn status: one node at a glance. Ends with 1 when the node says that it cannot do its work.
#include "node/commands/answer_field.hpp"
#include "node/commands/command.hpp"
#include "node/commands/human_time.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <chrono>
#include <string>
#include <string_view>

namespace posthorn {
namespace {

namespace json = boost::json;

std::string mebibytes(std::uint64_t bytes) {
  const auto tenths = bytes * 10 >> 20U;
  return with_thousands(tenths / 10) + (tenths < 1000 ? '.' + std::to_string(tenths % 10) : "") + " MiB";
}

std::string as_text(const json::value& overview, const std::string& health) {
  const auto& objects = part(overview, "object_totals");
  const auto& queues = part(overview, "queue_totals");
  const auto& messages = part(overview, "message_stats");
  const auto count = [](const json::value& from, std::string_view key) {
    return with_thousands(number_at(from, key));
  };
  const std::chrono::seconds uptime{number_at(overview, "uptime") / 1000};
  text_table table{{{"", text_table::align::left}, {"", text_table::align::left}}};
  table.add_row({"node", text_at(overview, "node")});
  table.add_row({"version", text_at(overview, "product_version")});
  table.add_row({"health", health});
  table.add_row({"uptime", human_duration(uptime)});
  table.add_row({"connections", count(objects, "connections")});
  table.add_row({"channels", count(objects, "channels")});
  table.add_row({"consumers", count(objects, "consumers")});
  table.add_row({"exchanges", count(objects, "exchanges")});
  table.add_row({"queues", count(objects, "queues")});
  table.add_row({"messages", count(queues, "messages") + " (" + count(queues, "messages_ready") + " ready, " +
                                 count(queues, "messages_unacknowledged") + " unacknowledged)"});
  table.add_row({"published", count(messages, "publish") + " since start"});
  table.add_row({"delivered", count(messages, "deliver") + " since start"});
  const auto memory_limit = number_at(overview, "mem_limit");
  table.add_row(
      {"memory",
       mebibytes(number_at(overview, "mem_used")) +
           (memory_limit == 0 ? std::string{} : " (publishers wait above " + mebibytes(memory_limit) + ')')});
  table.add_row({"store", mebibytes(number_at(overview, "store_used"))});
  table.add_row({"disk free", mebibytes(number_at(overview, "disk_free")) + " (writes wait below " +
                                  mebibytes(number_at(overview, "disk_free_limit")) + ')'});
  return table.to_string();
}

exit_code status(const command_context& context) {
  const auto health = http_get(context.access, "/healthz");
  if (!health) return context.fail(health.error());
  const bool is_healthy = health->status == 200;
  std::string reason = "ok";
  if (!is_healthy) {
    boost::system::error_code ignored;
    reason = text_at(json::parse(health->body, ignored), "reason");
    if (reason.empty()) reason = "status " + std::to_string(health->status);
  }
  const auto overview = http_get_json(context.access, "/api/overview");
  if (!overview) return context.fail(overview.error());
  if (context.is_json) {
    json::object out;
    out["healthy"] = is_healthy;
    out["health"] = reason;
    out["overview"] = *overview;
    context.out << json::serialize(out) << '\n';
  } else {
    context.out << as_text(*overview, reason);
  }
  return is_healthy ? exit_code::ok : exit_code::check_failed;
}

}  // namespace

void add_status(CLI::App& app, command_context& context) {
  auto* command = app.add_subcommand("status", "One node at a glance; ends with 1 if it is unhealthy");
  command->callback([&context] { context.action = [&context] { return status(context); }; });
}

}  // namespace posthorn
