// posthorn list queues: what stands in each queue.
#include "node/commands/command.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn {
namespace {

namespace json = boost::json;

std::string cell(const json::object& queue, const char* key) {
  const auto* found = queue.if_contains(key);
  if (found == nullptr || found->is_null()) return "-";
  if (found->is_string()) return found->as_string().c_str();
  if (found->is_bool()) return found->as_bool() ? "yes" : "no";
  return json::serialize(*found);
}

// Columns beyond those that are always there.
constexpr std::array<std::pair<std::string_view, const char*>, 3> further_columns{{
    {"policy", "POLICY"},
    {"operator_policy", "OPERATOR POLICY"},
    {"effective_policy_definition", "DEFINITION"},
}};

// What stands in their field `stream`.
constexpr std::array<std::pair<std::string_view, const char*>, 4> stream_columns{{
    {"first_offset", "FIRST OFFSET"},
    {"next_offset", "NEXT OFFSET"},
    {"segments", "SEGMENTS"},
    {"reader_lag_max", "LAG"},
}};

exit_code list_queues(const command_context& context, const std::string& vhost, bool with_policies,
                      bool streams) {
  const std::string path = vhost.empty() ? "/api/queues" : "/api/queues/" + percent_encoded(vhost);
  const auto answer = http_get_list(context.access, path);
  if (!answer) return context.fail(answer.error());
  if (context.is_json) {
    context.out << json::serialize(*answer) << '\n';
    return exit_code::ok;
  }
  using align = text_table::align;
  std::vector<text_table::column> columns{
      {"VHOST", align::left},    {"NAME", align::left},   {"TYPE", align::left},
      {"DURABLE", align::left},  {"STATE", align::left},  {"READY", align::right},
      {"UNACKED", align::right}, {"TOTAL", align::right}, {"CONSUMERS", align::right}};
  if (with_policies) {
    for (const auto& [key, title] : further_columns) columns.push_back({title, align::left});
  }
  if (streams) {
    columns.push_back({"BYTES", align::right});
    for (const auto& [key, title] : stream_columns) columns.push_back({title, align::right});
  }
  text_table table{std::move(columns)};
  for (const auto& entry : *answer) {
    const auto* queue = entry.if_object();
    if (queue == nullptr) continue;
    const auto* stream = queue->if_contains("stream");
    if (streams && (stream == nullptr || !stream->is_object())) continue;
    std::vector<std::string> row{cell(*queue, "vhost"),
                                 cell(*queue, "name"),
                                 cell(*queue, "type"),
                                 cell(*queue, "durable"),
                                 cell(*queue, "state"),
                                 cell(*queue, "messages_ready"),
                                 cell(*queue, "messages_unacknowledged"),
                                 cell(*queue, "messages"),
                                 cell(*queue, "consumers")};
    if (with_policies) {
      for (const auto& [key, title] : further_columns) row.push_back(cell(*queue, key.data()));
    }
    if (streams) {
      row.push_back(cell(*queue, "message_bytes"));
      for (const auto& [key, title] : stream_columns) row.push_back(cell(stream->get_object(), key.data()));
    }
    table.add_row(std::move(row));
  }
  context.out << table.to_string();
  return exit_code::ok;
}

}  // namespace

void add_list(CLI::App& app, command_context& context) {
  auto* list = app.add_subcommand("list", "What a node has: list queues");
  list->require_subcommand(1);
  list->fallthrough();
  auto* queues = list->add_subcommand("queues", "All queues, with their messages and consumers");
  queues->fallthrough();
  const auto vhost = std::make_shared<std::string>();
  queues->add_option("--vhost", *vhost, "Of one virtual host only")->option_text("NAME");
  const auto with_policies = std::make_shared<bool>(false);
  queues->add_flag("--policies", *with_policies, "And which policies apply to them");
  const auto streams = std::make_shared<bool>(false);
  queues->add_flag("--streams", *streams, "Streams only: offsets, and the lag of readers");
  queues->callback([&context, vhost, with_policies, streams] {
    context.action = [&context, vhost, with_policies, streams] {
      return list_queues(context, *vhost, *with_policies, *streams);
    };
  });
}

}  // namespace posthorn
