// posthorn list queues: what stands in each queue.
#include "node/commands/command.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <memory>
#include <string>

namespace posthorn {
namespace {

namespace json = boost::json;

std::string cell(const json::object& queue, const char* key) {
  const auto* found = queue.if_contains(key);
  if (found == nullptr) return "-";
  if (found->is_string()) return found->as_string().c_str();
  if (found->is_bool()) return found->as_bool() ? "yes" : "no";
  return json::serialize(*found);
}

exit_code list_queues(const command_context& context, const std::string& vhost) {
  const std::string path = vhost.empty() ? "/api/queues" : "/api/queues/" + percent_encoded(vhost);
  const auto body = http_get_ok(context.access, path);
  if (!body) return context.fail(body.error());
  boost::system::error_code failure;
  const auto parsed = json::parse(*body, failure);
  if (failure || !parsed.is_array()) {
    return context.fail(refused("what answers at " + context.access.url + " is no Posthorn node"));
  }
  if (context.is_json) {
    context.out << json::serialize(parsed) << '\n';
    return exit_code::ok;
  }
  using align = text_table::align;
  text_table table{{{"VHOST", align::left},
                    {"NAME", align::left},
                    {"TYPE", align::left},
                    {"DURABLE", align::left},
                    {"STATE", align::left},
                    {"READY", align::right},
                    {"UNACKED", align::right},
                    {"TOTAL", align::right},
                    {"CONSUMERS", align::right}}};
  for (const auto& entry : parsed.as_array()) {
    const auto* queue = entry.if_object();
    if (queue == nullptr) continue;
    table.add_row({cell(*queue, "vhost"), cell(*queue, "name"), cell(*queue, "type"), cell(*queue, "durable"),
                   cell(*queue, "state"), cell(*queue, "messages_ready"),
                   cell(*queue, "messages_unacknowledged"), cell(*queue, "messages"),
                   cell(*queue, "consumers")});
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
  queues->callback(
      [&context, vhost] { context.action = [&context, vhost] { return list_queues(context, *vhost); }; });
}

}  // namespace posthorn
