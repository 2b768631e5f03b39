// posthorn actors: the supervision tree of a node, seen and steered. docs/supervision.md says what it all means.
#include "node/commands/actor_tree.hpp"
#include "node/commands/answer_field.hpp"
#include "node/commands/command.hpp"
#include "node/commands/human_time.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>

namespace posthorn {
namespace {

namespace json = boost::json;

// A terminal is not helped by ten thousand lines; a program may want them all.
constexpr std::uint64_t children_drawn = 20, children_limit = 1'000'000;

struct actors_options {
  std::string path = "/";
  std::optional<std::uint64_t> depth, children;
};

// Seen before the node is asked, because they are slips of the command line. Everything else the node knows better.
std::optional<std::string> fault_of(const std::string& path) {
  if (path.empty()) return "the path is empty: / is the whole tree, /vhosts a part of it";
  if (path.front() != '/') return "a path starts with '/': did you mean /" + printable(path) + '?';
  return std::nullopt;
}

exit_code wrong_path(const command_context& context, const std::string& fault) {
  context.err << "posthorn: " << fault << '\n';
  return exit_code::wrong_usage;
}

// The last part of a path is the actor; what stands before it is its supervisor.
std::string supervisor_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

std::chrono::milliseconds ms_at(const json::value& from, std::string_view key) {
  return std::chrono::milliseconds{static_cast<std::int64_t>(number_at(from, key))};
}

std::string from_microseconds(std::optional<double> us) {
  if (!us) return "-";
  return human_duration(std::chrono::nanoseconds{std::llround(*us * 1000)});
}

std::string times(std::uint64_t count) { return with_thousands(count) + (count == 1 ? " time" : " times"); }

std::string intensity_text(const json::value& intensity) {
  return times(number_at(intensity, "restarts")) + " in " + human_duration(ms_at(intensity, "period_ms"));
}

// 3 min ago, by this machine's clock.
std::string ago(std::uint64_t milliseconds_since_1970) {
  const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  const auto then = static_cast<std::int64_t>(milliseconds_since_1970);
  return human_duration(std::chrono::seconds{std::max<std::int64_t>(0, now - then) / 1000});
}

std::string when(std::uint64_t milliseconds_since_1970) {
  return human_time(static_cast<std::int64_t>(milliseconds_since_1970)) + " (" +
         ago(milliseconds_since_1970) + " ago)";
}

std::string shutdown_text(const json::value& rules) {
  const auto way = text_at(rules, "shutdown");
  if (way == "brutal_kill") return "killed at once";
  if (way == "infinity") return "asked to end, and waited for";
  return "asked to end, killed after " + human_duration(ms_at(rules, "shutdown_ms"));
}

std::string back_off_text(const json::value& back_off) {
  if (back_off.is_null()) return "none: it starts again at once";
  std::string out =
      human_duration(ms_at(back_off, "min_ms")) + " to " + human_duration(ms_at(back_off, "max_ms"));
  if (const auto jitter = decimal_at(back_off, "jitter"); jitter && *jitter > 0) {
    out += ", up to " + std::to_string(std::llround(*jitter * 100)) + " % more by chance";
  }
  return out + ", the first again after " + human_duration(ms_at(back_off, "reset_after_ms"));
}

std::string limit_text(const json::value& rules, std::string_view key) {
  return part(rules, key).is_null() ? "none" : human_duration(ms_at(rules, key));
}

std::string as_text(const json::value& actor) {
  text_table table{{{"", text_table::align::left}, {"", text_table::align::left}}};
  table.add_row({"path", text_at(actor, "path")});
  table.add_row({"kind", text_at(actor, "kind")});
  const auto since = number_at(actor, "since");
  table.add_row({"state", text_at(actor, "state") + (since == 0 ? "" : " since " + when(since))});
  table.add_row({"restarts", with_thousands(number_at(actor, "restarts"))});
  const auto& failed = part(actor, "last_failure");
  if (failed.is_null()) {
    table.add_row({"last failure", "never"});
  } else {
    const auto reason = text_at(failed, "reason");
    table.add_row({"last failure", text_at(failed, "kind") + (reason.empty() ? "" : ": " + reason)});
    table.add_row({"", when(number_at(failed, "at"))});
  }
  if (!part(actor, "mailbox_depth").is_null()) {
    const auto waiting = number_at(actor, "mailbox_depth");
    table.add_row(
        {"mailbox", with_thousands(waiting) + (waiting == 1 ? " message waits" : " messages wait")});
    table.add_row(
        {"handled", with_thousands(number_at(actor, "handled")) + " messages since the node started"});
    const auto mean = decimal_at(actor, "processing_mean_us");
    table.add_row({"processing", from_microseconds(decimal_at(actor, "processing_us")) + " in all" +
                                     (mean ? ", " + from_microseconds(mean) + " each on average" : "")});
    const auto busy = decimal_at(actor, "busy_for_us").value_or(0);
    table.add_row({"busy", busy > 0 ? "for " + from_microseconds(busy) + " now" : "no"});
  }
  const auto& rules = part(actor, "rules");
  if (!rules.is_null()) {
    table.add_row({"restart", text_at(rules, "restart")});
    table.add_row({"back-off", back_off_text(part(rules, "back_off"))});
    const auto& budget = part(rules, "budget");
    table.add_row({"budget", budget.is_null() ? "its supervisor's" : intensity_text(budget)});
    table.add_row({"shutdown", shutdown_text(rules)});
    table.add_row({"start deadline", limit_text(rules, "start_deadline_ms")});
    table.add_row({"handler limit", limit_text(rules, "handler_limit_ms")});
    if (part(rules, "significant") == true) table.add_row({"significant", "yes"});
  }
  if (!part(actor, "children").is_null()) {
    table.add_row({"children", with_thousands(number_at(actor, "children"))});
    table.add_row({"strategy", text_at(actor, "strategy")});
    table.add_row(
        {"intensity", "gives up if children fail more than " + intensity_text(part(actor, "intensity"))});
    table.add_row({"auto shutdown", text_at(actor, "auto_shutdown")});
  }
  return table.to_string();
}

exit_code show_tree(const command_context& context, const actors_options& options) {
  if (const auto fault = fault_of(options.path)) return wrong_path(context, *fault);
  std::string question = "/api/actors?path=" + percent_encoded(options.path);
  if (options.depth) question += "&depth=" + std::to_string(*options.depth);
  question += "&children_max=" +
              std::to_string(options.children.value_or(context.is_json ? children_limit : children_drawn));
  const auto actors = http_get_list(context.access, question);
  if (!actors) return context.fail(actors.error());
  context.out << (context.is_json ? json::serialize(*actors) + '\n'
                                  : draw_actor_tree(*actors, context.screen));
  return exit_code::ok;
}

exit_code show_actor(const command_context& context, const std::string& path) {
  if (const auto fault = fault_of(path)) return wrong_path(context, *fault);
  const auto actor = http_get_json(context.access, "/api/actors/show?path=" + percent_encoded(path));
  if (!actor) return context.fail(actor.error());
  context.out << (context.is_json ? json::serialize(*actor) + '\n' : as_text(*actor));
  return exit_code::ok;
}

// What the order leads to, as the rules of the actor say.
std::string consequence(const json::value& actor, bool is_kill) {
  const auto path = text_at(actor, "path");
  const auto& rules = part(actor, "rules");
  const bool is_supervisor = !part(actor, "children").is_null();
  if (rules.is_null()) return "the node starts it again, and its children go on";
  const std::string by = "its supervisor " + supervisor_of(path);
  if (text_at(rules, "restart") == "temporary") return "it is not started again";
  if (is_kill) return by + (is_supervisor ? " starts it again, and its children go on" : " starts it again");
  return by + (is_supervisor ? " starts it again when it and its children have ended" : " starts it again");
}

exit_code give_order(const command_context& context, const std::string& path, bool is_kill) {
  if (const auto fault = fault_of(path)) return wrong_path(context, *fault);
  const auto actor = http_get_json(context.access, "/api/actors/show?path=" + percent_encoded(path));
  if (!actor) return context.fail(actor.error());
  const auto done =
      http_post_ok(context.access, std::string{"/api/actors/"} + (is_kill ? "kill" : "restart") +
                                       "?path=" + percent_encoded(path));
  if (!done) return context.fail(done.error());
  const auto shown = text_at(*actor, "path");
  const auto follows = consequence(*actor, is_kill);
  if (context.is_json) {
    json::object out;
    out["path"] = shown;
    out["done"] = is_kill ? "killed" : "asked to end";
    out["then"] = follows;
    context.out << json::serialize(out) << '\n';
  } else {
    context.out << (is_kill ? "killed " : "asked to end: ") << printable(shown) << "; " << printable(follows)
                << '\n';
  }
  return exit_code::ok;
}

exit_code show_events(const command_context& context, std::uint64_t count) {
  const auto events = http_get_list(context.access, "/api/actors/events?count=" + std::to_string(count));
  if (!events) return context.fail(events.error());
  if (context.is_json) {
    context.out << json::serialize(*events) << '\n';
    return exit_code::ok;
  }
  if (events->empty()) {
    context.out << "nothing has befallen any actor yet\n";
    return exit_code::ok;
  }
  using align = text_table::align;
  text_table table{
      {{"TIME", align::left}, {"ACTOR", align::left}, {"WHAT", align::left}, {"WHY", align::left}}};
  for (const auto& event : *events) {
    table.add_row({human_time(static_cast<std::int64_t>(number_at(event, "at"))), text_at(event, "path"),
                   text_at(event, "kind"), text_at(event, "reason")});
  }
  context.out << table.to_string();
  return exit_code::ok;
}

void add_actors_events(CLI::App& actors, command_context& context) {
  auto* events = actors.add_subcommand("events", "What befell them, the newest first");
  events->fallthrough();
  const auto count = std::make_shared<std::uint64_t>(20);
  events->add_option("--count", *count, "How many (20)")->check(CLI::Range(1, 10'000))->option_text("N");
  events->callback(
      [&context, count] { context.action = [&context, count] { return show_events(context, *count); }; });
}

}  // namespace

void add_actors(CLI::App& app, command_context& context) {
  auto* actors = app.add_subcommand("actors", "The supervision tree: see it, kill or restart a part");
  actors->require_subcommand(1);
  actors->fallthrough();
  const auto options = std::make_shared<actors_options>();

  auto* tree = actors->add_subcommand("tree", "Draw the tree, or what is below one actor");
  tree->fallthrough();
  tree->add_option("PATH", options->path, "Such as /vhosts/%2F/queues (/: everything)")->option_text(" ");
  tree->add_option("--depth", options->depth, "Levels below it (all; 0: only itself)")
      ->check(CLI::Range(0, 1000))
      ->option_text("N");
  tree->add_option("--children", options->children, "Of each supervisor (20; with --json: all)")
      ->check(CLI::Range(std::uint64_t{1}, children_limit))
      ->option_text("N");
  tree->callback(
      [&context, options] { context.action = [&context, options] { return show_tree(context, *options); }; });

  const auto with_path = [&](const char* name, const char* help, auto run) {
    auto* command = actors->add_subcommand(name, help);
    command->fallthrough();
    const auto path = std::make_shared<std::string>();
    command->add_option("PATH", *path, "As `posthorn actors tree` writes it")->required()->option_text(" ");
    command->callback(
        [&context, path, run] { context.action = [&context, path, run] { return run(context, *path); }; });
  };
  with_path("show", "All that is known of one actor",
            [](const command_context& c, const std::string& path) { return show_actor(c, path); });
  add_actors_events(*actors, context);
  with_path("kill", "End one now; its supervisor goes by its rules",
            [](const command_context& c, const std::string& path) { return give_order(c, path, true); });
  with_path("restart", "Have one end, and start it again",
            [](const command_context& c, const std::string& path) { return give_order(c, path, false); });
}

}  // namespace posthorn
