// posthorn alarms: why publishers have to wait; and a drill, to see what programs do then.
#include "node/commands/answer_field.hpp"
#include "node/commands/command.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <memory>
#include <string>

namespace posthorn {
namespace {

namespace json = boost::json;

bool is_true(const json::value& from, std::string_view key) {
  const auto& value = part(from, key);
  return value.is_bool() && value.get_bool();
}

exit_code list_alarms(const command_context& context) {
  const auto answer = http_get_list(context.access, "/api/alarms");
  if (!answer) return context.fail(answer.error());
  if (context.is_json) {
    context.out << json::serialize(*answer) << '\n';
    return exit_code::ok;
  }
  using align = text_table::align;
  text_table table{
      {{"alarm", align::left}, {"state", align::left}, {"is", align::right}, {"limit", align::right}}};
  const auto mebibytes = [](std::uint64_t bytes) { return with_thousands(bytes >> 20U) + " MiB"; };
  for (const auto& alarm : *answer) {
    const bool is_disk = text_at(alarm, "resource") == "disk";
    const auto limit = number_at(alarm, "limit");
    std::string state = "clear";
    if (is_true(alarm, "measured")) state = "raised";
    if (is_true(alarm, "by_hand"))
      state = is_true(alarm, "measured") ? "raised, also by hand" : "raised by hand";
    table.add_row({text_at(alarm, "resource"), state,
                   mebibytes(number_at(alarm, is_disk ? "free" : "used")) + (is_disk ? " free" : " used"),
                   limit == 0 ? "none" : mebibytes(limit)});
  }
  context.out << table.to_string();
  return exit_code::ok;
}

exit_code set_alarm(const command_context& context, const std::string& resource, const char* how) {
  const auto done = http_post_ok(context.access, "/api/alarms/" + percent_encoded(resource) + '/' + how);
  return done ? exit_code::ok : context.fail(done.error());
}

}  // namespace

void add_alarms(CLI::App& app, command_context& context) {
  auto* group = app.add_subcommand("alarms", "Why publishers have to wait; and a drill");
  group->require_subcommand(1);
  auto* list = group->add_subcommand("list", "The alarms, and what is measured");
  list->callback([&context] { context.action = [&context] { return list_alarms(context); }; });
  for (const char* how : {"raise", "clear"}) {
    const auto resource = std::make_shared<std::string>();
    auto* order = group->add_subcommand(how, std::string{how} == "raise"
                                                 ? "Makes publishers wait, until it is cleared by hand"
                                                 : "Takes back what was raised by hand");
    order->add_option("ALARM", *resource, "memory or disk")->required()->option_text(" ");
    order->callback([&context, resource, how] {
      context.action = [&context, resource, how] { return set_alarm(context, *resource, how); };
    });
  }
}

}  // namespace posthorn
