// posthorn delayed: the messages that wait for their time in an exchange of the type x-delayed-message.
#include "node/commands/answer_field.hpp"
#include "node/commands/command.hpp"
#include "node/commands/human_time.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace posthorn {
namespace {

namespace json = boost::json;

struct delayed_options {
  std::string vhost = "/", exchange, from;
  std::vector<std::string> ids;
  std::uint64_t limit = 100;
  bool all = false;
};

constexpr std::int64_t end_of_calendars = 253'402'300'799'999;  // the year 9999, in milliseconds since 1970

std::string time_of(const json::value& due) {
  const auto at = due.is_int64() ? due.get_int64() : std::int64_t{0};
  return at > end_of_calendars ? "after the year 9999" : human_time(at);
}

std::string path_of(const delayed_options& o) {
  return "/api/delayed/" + percent_encoded(o.vhost) + '/' + percent_encoded(o.exchange);
}

exit_code list_delayed(const command_context& context, const delayed_options& o) {
  auto path = path_of(o) + "?limit=" + std::to_string(o.limit);
  if (!o.from.empty()) path += "&from=" + percent_encoded(o.from);
  const auto answer = http_get_list(context.access, path);
  if (!answer) return context.fail(answer.error());
  if (context.is_json) {
    context.out << json::serialize(*answer) << '\n';
    return exit_code::ok;
  }
  using align = text_table::align;
  text_table table{{{"ID", align::left},
                    {"DUE", align::left},
                    {"ROUTING KEY", align::left},
                    {"MESSAGE ID", align::left},
                    {"BYTES", align::right}}};
  for (const auto& m : *answer) {
    table.add_row({text_at(m, "id"), time_of(part(m, "due")), text_at(m, "routing_key"),
                   text_at(m, "message_id"), with_thousands(number_at(m, "payload_bytes"))});
  }
  context.out << table.to_string();
  return exit_code::ok;
}

exit_code report(const command_context& context, std::uint64_t count) {
  if (context.is_json) {
    context.out << json::serialize(json::object{{"cancelled", count}}) << '\n';
  } else {
    context.out << with_thousands(count) << (count == 1 ? " message was" : " messages were")
                << " cancelled\n";
  }
  return exit_code::ok;
}

// One after the other; the first that is not there ends it, and those before it are cancelled.
exit_code cancel_delayed(const command_context& context, const delayed_options& o) {
  if (o.all != o.ids.empty()) {
    context.err << "posthorn: "
                << (o.all ? "--all cancels every message: leave out the ids, or --all"
                          : "name the messages by their ids, or say --all")
                << '\n';
    return exit_code::wrong_usage;
  }
  const auto cancel = [&](const std::string& path) -> result<std::uint64_t> {
    const auto answer = http_order_ok(context.access, {"DELETE", path});
    if (!answer) return answer.error();
    boost::system::error_code failure;
    return number_at(json::parse(answer->body, failure), "cancelled");
  };
  if (o.all) {
    const auto count = cancel(path_of(o));
    return count ? report(context, *count) : context.fail(count.error());
  }
  std::uint64_t cancelled = 0;
  for (const auto& id : o.ids) {
    const auto count = cancel(path_of(o) + '/' + percent_encoded(id));
    if (!count) {
      auto why = count.error();
      why.text = id + ": " + why.text + " (cancelled before it: " + std::to_string(cancelled) + ")";
      return context.fail(why);
    }
    cancelled += *count;
  }
  return report(context, cancelled);
}

}  // namespace

void add_delayed(CLI::App& app, command_context& context) {
  auto* group = app.add_subcommand("delayed", "Messages that wait for their time in an exchange");
  group->require_subcommand(1);
  group->fallthrough();
  const auto add = [&](const char* name, const char* help, const std::shared_ptr<delayed_options>& o) {
    auto* command = group->add_subcommand(name, help);
    command->add_option("EXCHANGE", o->exchange, "One of the type x-delayed-message")
        ->required()
        ->option_text(" ");
    command->add_option("--vhost", o->vhost, "The virtual host (/)")->option_text("VHOST");
    return command;
  };
  const auto listed = std::make_shared<delayed_options>();
  auto* list = add("list", "Those that wait, in the order in which they are due", listed);
  list->add_option("--limit", listed->limit, "At most so many (100; up to 500)")
      ->check(CLI::Range(1, 500))
      ->option_text("N");
  list->add_option("--from", listed->from, "From this one on")->option_text("ID");
  list->callback(
      [&context, listed] { context.action = [&context, listed] { return list_delayed(context, *listed); }; });
  const auto cancelled = std::make_shared<delayed_options>();
  auto* cancel = add("cancel", "Forgets messages: they go nowhere any more", cancelled);
  cancel->add_option("ID", cancelled->ids, "As `list` shows them")->option_text("...");
  cancel->add_flag("--all", cancelled->all, "All that wait there, instead");
  cancel->callback([&context, cancelled] {
    context.action = [&context, cancelled] { return cancel_delayed(context, *cancelled); };
  });
}

}  // namespace posthorn
