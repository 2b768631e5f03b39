// posthorn users, vhosts, permissions, policies, limits, connections and definitions: who may do what on a node, and what
// is laid down for its queues. docs/access.md says what it all means.
#include "node/commands/answer_field.hpp"
#include "node/commands/command.hpp"
#include "node/commands/text_table.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace posthorn {
namespace {

namespace json = boost::json;

struct access_options {
  std::string vhost = "/", name, password, description, queue_type, configure, write, read, exchange, limited;
  std::string pattern, definition, apply_to = "all", limit, reason, file;
  std::vector<std::string> tags;
  std::int64_t priority = 0, value = 0;
  bool of_operator = false, has_vhost = false, has_user = false;
};
using options_ptr = std::shared_ptr<access_options>;

json::string text_of(const std::string& text) { return json::string(text.data(), text.size()); }

// --- asking and ordering --------------------------------------------------------------------------------------------

std::string warning_text(const http_answer& answer) { return answer.warnings; }

exit_code order(const command_context& context, const char* method, const std::string& path,
                const std::optional<json::object>& body, const std::string& done,
                const std::string& reason = {}) {
  const auto answer =
      http_order_ok(context.access, {method, path, body ? json::serialize(*body) : std::string{}, reason});
  if (!answer) return context.fail(answer.error());
  if (!warning_text(*answer).empty())
    context.err << "posthorn: warning: " << printable(answer->warnings) << '\n';
  if (!context.is_json) context.out << printable(done) << '\n';
  return exit_code::ok;
}

std::string cell_of(const json::value& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return std::string{std::string_view{value.get_string()}};
  if (const auto* list = value.if_array()) {
    std::string out;
    for (const auto& each : *list) out += (out.empty() ? "" : ", ") + cell_of(each);
    return out.empty() ? "-" : out;
  }
  return json::serialize(value);
}

struct listed_column {
  const char *title, *key;
};

exit_code list(const command_context& context, const std::string& path,
               const std::vector<listed_column>& columns) {
  const auto answer = http_get_list(context.access, path);
  if (!answer) return context.fail(answer.error());
  if (context.is_json) {
    context.out << json::serialize(*answer) << '\n';
    return exit_code::ok;
  }
  std::vector<text_table::column> titles;
  for (const auto& c : columns) titles.push_back({c.title, text_table::align::left});
  text_table table{std::move(titles)};
  for (const auto& each : *answer) {
    std::vector<std::string> cells;
    for (const auto& c : columns) cells.push_back(cell_of(part(each, c.key)));
    table.add_row(std::move(cells));
  }
  context.out << table.to_string();
  return exit_code::ok;
}

// --- groups of commands ---------------------------------------------------------------------------------------------

class group {
public:
  group(CLI::App& app, command_context& context, const char* name, const char* help)
      : context_{context}, app_{app.add_subcommand(name, help)} {
    app_->require_subcommand(1);
    app_->fallthrough();
  }

  struct command {
    CLI::App* app;
    options_ptr options;

    command& needs(const char* name, std::string access_options::*to, const char* help) {
      app->add_option(name, *options.*to, help)->required()->option_text(" ");
      return *this;
    }
    command& takes(const char* name, std::string access_options::*to, const char* help) {
      app->add_option(name, *options.*to, help)->option_text(name[0] == '-' ? "TEXT" : " ");
      return *this;
    }
    command& of_operator() {
      app->add_flag("--operator", options->of_operator, "An operator policy, which caps the others");
      return *this;
    }
    command& in_vhost(bool must = false) {
      auto* option =
          app->add_option("--vhost", options->vhost, must ? "The virtual host" : "The virtual host (/)");
      option->option_text("NAME");
      option->each([o = options.get()](const std::string&) { o->has_vhost = true; });
      return *this;
    }
  };

  template <class Run>
  command add(const char* name, const char* help, Run run) {
    command made{app_->add_subcommand(name, help), std::make_shared<access_options>()};
    made.app->fallthrough();
    made.app->callback([&context = context_, options = made.options, run] {
      context.action = [&context, options, run] { return run(context, *options); };
    });
    return made;
  }

private:
  command_context& context_;
  CLI::App* app_;
};

// What a password is worth is known to others if it stands on a command line. So it may come in on standard input.
std::string password_of(const access_options& o) {
  if (!o.password.empty()) return o.password;
  std::string line;
  std::getline(std::cin, line);
  return line;
}

exit_code put_user(const command_context& c, const access_options& o, bool is_new) {
  const auto password = password_of(o);
  if (password.empty()) {
    c.err << "posthorn: the password is empty: give one behind the name, or on standard input\n";
    return exit_code::wrong_usage;
  }
  json::object body{{"password", text_of(password)}};
  if (is_new) {
    json::array tags;
    for (const auto& tag : o.tags) tags.push_back(text_of(tag));
    body["tags"] = std::move(tags);
  }
  return order(c, "PUT", "/api/users/" + percent_encoded(o.name) + (is_new ? "?if-new" : "?if-present"), body,
               is_new ? "added user " + o.name + ": give it permissions with `posthorn permissions set`"
                      : "user " + o.name + " has another password");
}

exit_code set_tags(const command_context& c, const access_options& o) {
  json::array tags;
  for (const auto& tag : o.tags) tags.push_back(text_of(tag));
  return order(c, "PUT", "/api/users/" + percent_encoded(o.name) + "?if-present",
               json::object{{"tags", std::move(tags)}}, "user " + o.name + " has other tags");
}

void add_users(CLI::App& app, command_context& context) {
  group users{app, context, "users", "Who may log in, with which tags"};
  users.add("list", "All users and their tags", [](const command_context& c, const access_options&) {
    return list(c, "/api/users", {{"NAME", "name"}, {"TAGS", "tags"}, {"LIMITS", "limits"}});
  });
  const auto with_tags = [](group::command& to, const char* name, bool must) {
    auto* option = to.app->add_option(name, to.options->tags,
                                      "administrator, monitoring, policymaker,\nmanagement, impersonator");
    option->delimiter(',')->option_text(must ? " " : "A,B");
    if (must) option->expected(0, -1);
  };
  auto added =
      users.add("add", "Add a user, who may do nothing yet",
                [](const command_context& c, const access_options& o) { return put_user(c, o, true); });
  added.needs("NAME", &access_options::name, "Of the user");
  added.takes("PASSWORD", &access_options::password, "Or one line on standard input");
  with_tags(added, "--tags", false);
  users
      .add("password", "Give a user another password",
           [](const command_context& c, const access_options& o) { return put_user(c, o, false); })
      .needs("NAME", &access_options::name, "Of the user")
      .takes("PASSWORD", &access_options::password, "Or one line on standard input");
  auto tagged = users.add("tags", "Set the tags of a user; without any: none", set_tags);
  tagged.needs("NAME", &access_options::name, "Of the user");
  with_tags(tagged, "TAGS", true);
  users
      .add("delete", "Delete a user with its permissions and connections",
           [](const command_context& c, const access_options& o) {
             return order(c, "DELETE", "/api/users/" + percent_encoded(o.name), std::nullopt,
                          "deleted user " + o.name);
           })
      .needs("NAME", &access_options::name, "Of the user");
}

void add_vhosts(CLI::App& app, command_context& context) {
  group vhosts{app, context, "vhosts", "Virtual hosts: exchanges and queues of their own"};
  vhosts.add("list", "All virtual hosts", [](const command_context& c, const access_options&) {
    return list(c, "/api/vhosts",
                {{"NAME", "name"}, {"DESCRIPTION", "description"}, {"DEFAULT TYPE", "default_queue_type"}});
  });
  vhosts
      .add("add", "Add a virtual host",
           [](const command_context& c, const access_options& o) {
             json::object body;
             if (!o.description.empty()) body["description"] = text_of(o.description);
             if (!o.queue_type.empty()) body["default_queue_type"] = text_of(o.queue_type);
             return order(c, "PUT", "/api/vhosts/" + percent_encoded(o.name) + "?if-new", body,
                          "added virtual host " + o.name);
           })
      .needs("NAME", &access_options::name, "Of the virtual host")
      .takes("--description", &access_options::description, "For people")
      .takes("--default-queue-type", &access_options::queue_type, "classic, quorum or stream");
  vhosts
      .add("delete", "Delete a virtual host with its queues and messages",
           [](const command_context& c, const access_options& o) {
             return order(c, "DELETE", "/api/vhosts/" + percent_encoded(o.name), std::nullopt,
                          "deleted virtual host " + o.name);
           })
      .needs("NAME", &access_options::name, "Of the virtual host");
}

std::string permission_path(const char* kind, const access_options& o) {
  return std::string{"/api/"} + kind + '/' + percent_encoded(o.vhost) + '/' + percent_encoded(o.name);
}

void add_permissions(CLI::App& app, command_context& context) {
  group permissions{app, context, "permissions", "What users may configure, write and read"};
  permissions.add("list", "All permissions", [](const command_context& c, const access_options&) {
    return list(c, "/api/permissions",
                {{"VHOST", "vhost"},
                 {"USER", "user"},
                 {"CONFIGURE", "configure"},
                 {"WRITE", "write"},
                 {"READ", "read"}});
  });
  permissions
      .add("set", "Set a user's patterns; '' is nothing, .* everything",
           [](const command_context& c, const access_options& o) {
             return order(c, "PUT", permission_path("permissions", o),
                          json::object{{"configure", text_of(o.configure)},
                                       {"write", text_of(o.write)},
                                       {"read", text_of(o.read)}},
                          "user " + o.name + " has permissions in virtual host " + o.vhost);
           })
      .in_vhost()
      .needs("USER", &access_options::name, "Whose")
      .needs("CONFIGURE", &access_options::configure, "Pattern of what it may declare and delete")
      .needs("WRITE", &access_options::write, "Pattern of what it may publish and bind to")
      .needs("READ", &access_options::read, "Pattern of what it may consume and bind from");
  permissions
      .add("clear", "Take a user's permissions away",
           [](const command_context& c, const access_options& o) {
             return order(c, "DELETE", permission_path("permissions", o), std::nullopt,
                          "user " + o.name + " has no permissions in virtual host " + o.vhost);
           })
      .in_vhost()
      .needs("USER", &access_options::name, "Whose");
  permissions.add("list-topic", "All topic permissions", [](const command_context& c, const access_options&) {
    return list(c, "/api/topic-permissions",
                {{"VHOST", "vhost"},
                 {"USER", "user"},
                 {"EXCHANGE", "exchange"},
                 {"WRITE", "write"},
                 {"READ", "read"}});
  });
  permissions
      .add("set-topic", "Set which keys a user may use at a topic exchange",
           [](const command_context& c, const access_options& o) {
             return order(c, "PUT", permission_path("topic-permissions", o),
                          json::object{{"exchange", text_of(o.exchange)},
                                       {"write", text_of(o.write)},
                                       {"read", text_of(o.read)}},
                          "user " + o.name + " has topic permissions in virtual host " + o.vhost);
           })
      .in_vhost()
      .needs("USER", &access_options::name, "Whose")
      .needs("EXCHANGE", &access_options::exchange, "Of type topic")
      .needs("WRITE", &access_options::write, "Pattern of the keys that it may publish with")
      .needs("READ", &access_options::read, "Pattern of the keys that it may bind with");
  permissions
      .add("clear-topic", "Take a user's topic permissions away",
           [](const command_context& c, const access_options& o) {
             json::object body;
             if (!o.exchange.empty()) body["exchange"] = text_of(o.exchange);
             return order(c, "DELETE", permission_path("topic-permissions", o), body,
                          "user " + o.name + " has fewer topic permissions in virtual host " + o.vhost);
           })
      .in_vhost()
      .needs("USER", &access_options::name, "Whose")
      .takes("EXCHANGE", &access_options::exchange, "Those of one exchange only");
}

std::string policies_path(const access_options& o) {
  return o.of_operator ? "/api/operator-policies" : "/api/policies";
}
std::string policy_path(const access_options& o) {
  return policies_path(o) + '/' + percent_encoded(o.vhost) + '/' + percent_encoded(o.name);
}

void add_policies(CLI::App& app, command_context& context) {
  group policies{app, context, "policies", "What is laid down for queues and exchanges by name"};
  policies
      .add("list", "All policies",
           [](const command_context& c, const access_options& o) {
             const auto which = o.has_vhost ? '/' + percent_encoded(o.vhost) : std::string{};
             return list(c, policies_path(o) + which,
                         {{"VHOST", "vhost"},
                          {"NAME", "name"},
                          {"PATTERN", "pattern"},
                          {"APPLY TO", "apply-to"},
                          {"PRIORITY", "priority"},
                          {"DEFINITION", "definition"}});
           })
      .in_vhost(true)
      .of_operator();
  auto set = policies.add("set", "Set a policy", [](const command_context& c, const access_options& o) {
    boost::system::error_code failure;
    auto definition = json::parse(o.definition, failure);
    if (failure || !definition.is_object()) {
      c.err << "posthorn: the definition is a JSON object, as '{\"max-length\": 1000}'\n";
      return exit_code::wrong_usage;
    }
    return order(c, "PUT", policy_path(o),
                 json::object{{"pattern", text_of(o.pattern)},
                              {"definition", std::move(definition)},
                              {"priority", o.priority},
                              {"apply-to", text_of(o.apply_to)}},
                 "set policy " + o.name + " in virtual host " + o.vhost);
  });
  set.in_vhost()
      .needs("NAME", &access_options::name, "Of the policy")
      .needs("PATTERN", &access_options::pattern, "Of the names that it is for")
      .needs("DEFINITION", &access_options::definition, "JSON, as '{\"max-length\": 1000}'")
      .takes("--apply-to", &access_options::apply_to,
             "all, queues, classic_queues, quorum_queues,\nstreams, exchanges")
      .of_operator();
  set.app->add_option("--priority", set.options->priority, "The highest one applies (0)")->option_text("N");
  policies
      .add("clear", "Delete a policy",
           [](const command_context& c, const access_options& o) {
             return order(c, "DELETE", policy_path(o), std::nullopt,
                          "deleted policy " + o.name + " of virtual host " + o.vhost);
           })
      .in_vhost()
      .needs("NAME", &access_options::name, "Of the policy")
      .of_operator();
}

// Of a virtual host or of a user, but not of both.
template <class Run>
exit_code with_limited(const command_context& c, const access_options& o, Run run) {
  if (o.has_vhost == o.has_user) {
    c.err << "posthorn: say whose limit it is: either --vhost NAME or --user NAME\n";
    return exit_code::wrong_usage;
  }
  return run((o.has_vhost ? "/api/vhost-limits/" + percent_encoded(o.vhost)
                          : "/api/user-limits/" + percent_encoded(o.limited)) +
             '/' + percent_encoded(o.limit));
}

void of_user(group::command& to, const char* help) {
  auto* option = to.app->add_option("--user", to.options->limited, help);
  option->option_text("NAME");
  option->each([o = to.options.get()](const std::string&) { o->has_user = true; });
}

void add_limits(CLI::App& app, command_context& context) {
  group limits{app, context, "limits", "How many connections, channels and queues"};
  auto listing =
      limits.add("list", "Those of virtual hosts, and those of users",
                 [](const command_context& c, const access_options&) {
                   const auto first = list(c, "/api/vhost-limits", {{"VHOST", "vhost"}, {"LIMITS", "value"}});
                   if (first != exit_code::ok) return first;
                   return list(c, "/api/user-limits", {{"USER", "user"}, {"LIMITS", "value"}});
                 });
  auto set = limits.add("set", "Set one; -1 is none", [](const command_context& c, const access_options& o) {
    return with_limited(c, o, [&](const std::string& path) {
      return order(c, "PUT", path, json::object{{"value", o.value}}, "set the limit " + o.limit);
    });
  });
  set.in_vhost(true).needs("LIMIT", &access_options::limit,
                           "max-connections, max-queues; of users max-channels");
  set.app->add_option("NUMBER", set.options->value, "How many; -1: no limit")->required()->option_text(" ");
  of_user(set, "The user");
  auto clear = limits.add("clear", "Take one away", [](const command_context& c, const access_options& o) {
    return with_limited(c, o, [&](const std::string& path) {
      return order(c, "DELETE", path, std::nullopt, "there is no limit " + o.limit);
    });
  });
  clear.in_vhost(true).needs("LIMIT", &access_options::limit, "As it was set");
  of_user(clear, "The user");
}

void add_connections(CLI::App& app, command_context& context) {
  group connections{app, context, "connections", "Those of clients"};
  auto close = connections.add(
      "close", "Close all of one virtual host or user",
      [](const command_context& c, const access_options& o) {
        if (o.has_vhost == o.has_user) {
          c.err << "posthorn: say whose: either --vhost NAME or --user NAME\n";
          return exit_code::wrong_usage;
        }
        const auto path =
            o.has_vhost ? "vhost/" + percent_encoded(o.vhost) : "username/" + percent_encoded(o.limited);
        return order(c, "DELETE", "/api/connections/" + path, std::nullopt, "asked them to go", o.reason);
      });
  close.in_vhost(true).needs("REASON", &access_options::reason, "What clients are told");
  of_user(close, "The user");
}

exit_code export_definitions(const command_context& c, const access_options& o) {
  const auto path = "/api/definitions" + (o.has_vhost ? '/' + percent_encoded(o.vhost) : std::string{});
  const auto body = http_get_ok(c.access, path, std::chrono::seconds{30});
  if (!body) return c.fail(body.error());
  if (o.file.empty() || o.file == "-") {
    c.out << *body << '\n';
    return exit_code::ok;
  }
  std::ofstream to{o.file, std::ios::binary};
  to << *body << '\n';
  to.flush();
  if (!to) return c.fail(refused("cannot write " + o.file + ": choose another file"));
  if (!c.is_json)
    c.out << "wrote " << printable(o.file) << "; it has hashes of passwords in it: keep it to yourself\n";
  return exit_code::ok;
}

exit_code read_definitions(const command_context& c, const access_options& o) {
  std::ifstream from{o.file, std::ios::binary};
  if (!from) return c.fail(refused("cannot read " + o.file + ": is it there, and may you read it?"));
  const std::string body{std::istreambuf_iterator<char>{from}, {}};
  const auto path = "/api/definitions" + (o.has_vhost ? '/' + percent_encoded(o.vhost) : std::string{});
  const auto done = http_order_ok(c.access, {"POST", path, body, ""}, std::chrono::minutes{10});
  if (!done) return c.fail(done.error());
  if (!warning_text(*done).empty()) c.err << "posthorn: warning: " << printable(done->warnings) << '\n';
  if (!c.is_json) c.out << "imported " << printable(o.file) << '\n';
  return exit_code::ok;
}

void add_definitions(CLI::App& app, command_context& context) {
  group definitions{app, context, "definitions", "All of that as a file, in RabbitMQ's format"};
  definitions.add("export", "Write users, virtual hosts, queues, bindings, …", export_definitions)
      .in_vhost(true)
      .takes("FILE", &access_options::file, "Without it: standard output");
  definitions.add("import", "Read such a file; what is there and not in it, stays", read_definitions)
      .in_vhost(true)
      .needs("FILE", &access_options::file, "As RabbitMQ or Posthorn has written it");
}

}  // namespace

void add_administration(CLI::App& app, command_context& context) {
  add_users(app, context);
  add_vhosts(app, context);
  add_permissions(app, context);
  add_policies(app, context);
  add_limits(app, context);
  add_connections(app, context);
  add_definitions(app, context);
}

}  // namespace posthorn
