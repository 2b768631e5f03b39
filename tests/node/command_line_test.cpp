#include "node/command_line.hpp"

#include "gateway/http/api.hpp"
#include "gateway/http/server.hpp"
#include "node/daemon_options.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <sstream>
#include <thread>

using namespace posthorn;

namespace {

struct outcome {
  int code = 0;
  std::string out;
  std::string err;
};

outcome posthorn_command(std::vector<std::string> arguments) {
  std::ostringstream out;
  std::ostringstream err;
  const int code = run_command_line(std::move(arguments), out, err);
  return {code, out.str(), err.str()};
}

void check_fits_a_screen(const std::string& text, std::ptrdiff_t lines_max = 24) {
  CAPTURE(text);
  CHECK(std::count(text.begin(), text.end(), '\n') <= lines_max);
  std::istringstream lines{text};
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    CHECK(line.size() <= 80);
  }
}

class fake_broker : public http::broker_view {
public:
  std::optional<std::string> trouble;

  std::optional<listed_queues> list_queues(std::optional<std::string_view> vhost, range) const override {
    if (vhost && *vhost != "/") return std::nullopt;
    http::queue_summary orders;
    orders.name = "orders";
    orders.durable = true;
    orders.messages_ready = 1234;
    orders.messages_unacknowledged = 1;
    http::queue_summary mail;
    mail.name = "mail\x1b[2J";  // a name may hold anything, a terminal must not obey it
    return listed_queues{{orders, mail}, 2};
  }
  std::optional<http::queue_summary> show_queue(std::string_view, std::string_view) const override {
    return std::nullopt;
  }
  http::node_summary overview() const override {
    http::node_summary node;
    node.name = "posthorn@brass";
    node.uptime_ms = 90'000;
    node.queues = 2;
    node.messages_ready = 1234;
    return node;
  }
  http::login authenticate(std::string_view user, std::string_view, bool) const override {
    return user == "guest" ? http::login::accepted : http::login::refused;
  }
  std::optional<std::string> unhealthy_reason() const override { return trouble; }
  std::string metrics() const override { return {}; }
};

// /, /vhosts, and /vhosts/%2F with a queue; the fourth has failed.
class fake_tree : public http::actor_tree_view {
public:
  [[nodiscard]] result<std::vector<http::actor_event_summary>> list_actor_events(
      std::size_t count_max) const override {
    if (count_max == 1) return std::vector<http::actor_event_summary>{};
    return std::vector<http::actor_event_summary>{
        {7, 1'000, "/vhosts/%2F/queues/orders", "failed", "it was killed", 3}};
  }
  mutable std::vector<std::string> asked;

  result<std::vector<http::actor_summary>> list_actors(std::string_view path, std::size_t depth,
                                                       std::size_t children_max, std::size_t) const override {
    asked.push_back("list " + std::string{path} + (depth > 1000 ? "" : " depth " + std::to_string(depth)) +
                    " children " + std::to_string(children_max));
    if (path != "/" && path != "/vhosts") return unknown(path);
    std::vector<http::actor_summary> out;
    if (path == "/") out.push_back(a_supervisor("/", 1));
    out.push_back(a_supervisor("/vhosts", 3));
    out.push_back(a_supervisor("/vhosts/%2F", 0));
    out.push_back(a_queue());
    return out;
  }
  result<http::actor_summary> show_actor(std::string_view path) const override {
    asked.push_back("show " + std::string{path});
    if (path == "/" || path == "/vhosts") return a_supervisor(std::string{path}, 1);
    if (path != "/vhosts/mail%1B[2J") return unknown(path);
    return a_queue();
  }
  result<void> kill_actor(std::string_view path) override {
    asked.push_back("kill " + std::string{path});
    return {};
  }
  result<void> restart_actor(std::string_view path) override {
    asked.push_back("restart " + std::string{path});
    if (path == "/vhosts") return overloaded("the actor /vhosts has just ended");
    return {};
  }

private:
  static error unknown(std::string_view path) {
    return {errc::unreachable, "no actor has the path " + std::string{path} + ": / has no child 'x'"};
  }
  static http::actor_summary a_supervisor(const std::string& path, std::uint64_t children) {
    http::actor_summary out;
    out.path = path;
    out.kind = "supervisor";
    out.state = "running";
    out.supervises = {"one_for_one", "never", {3, std::chrono::seconds{5}}, children};
    if (path != "/")
      out.supervised_by = http::actor_summary::rules{"permanent", "infinity", {}, {}, {}, false, {}, {}};
    return out;
  }
  static http::actor_summary a_queue() {
    http::actor_summary out;
    out.path = "/vhosts/mail%1B[2J";
    out.kind = "queue";
    out.state = "failed";
    out.restarts = 1234;
    out.last_failure = {"exception", "a \x1b[31m reason", 1'700'000'000'000};
    out.since = 1'700'000'000'000;
    out.work = {1, 4, std::chrono::microseconds{10}, std::chrono::nanoseconds{0}};
    out.supervised_by =
        http::actor_summary::rules{"temporary", "timeout", std::chrono::seconds{5}, {}, {}, false, {}, {}};
    return out;
  }
};

struct fake_node {
  fake_node() : thread{[this] { io.run(); }} {}
  ~fake_node() {
    server->stop();
    thread.join();
  }
  fake_node(const fake_node&) = delete;
  fake_node& operator=(const fake_node&) = delete;

  outcome ask(std::vector<std::string> arguments) const {
    arguments.push_back("--url");
    arguments.push_back("http://127.0.0.1:" + std::to_string(server->endpoints().front().port()));
    return posthorn_command(std::move(arguments));
  }

  fake_broker broker;
  fake_tree tree;
  boost::asio::io_context io;
  std::unique_ptr<http::server> server =
      std::move(http::server::listen(io, "127.0.0.1", 0, http::make_api(broker, tree))).value();
  std::thread thread;
};

}  // namespace

TEST_CASE("every help is that of its command and fits a screen", "[command_line]") {
  check_fits_a_screen(daemon_help(), 40);  // of today: it has a line for every setting
  std::size_t seen = 0;
  const auto check = [&](const auto& again, const std::vector<std::string>& path) -> void {
    auto arguments = path;
    arguments.emplace_back("--help");
    const auto shown = posthorn_command(arguments);
    CAPTURE(arguments);
    CHECK(shown.code == 0);
    CHECK(shown.err.empty());
    std::string usage = "Usage: posthorn";
    for (const auto& word : path) usage += ' ' + word;
    CHECK(shown.out.find(usage + " [OPTIONS]") != std::string::npos);
    // A command has a line there, and there are many.
    check_fits_a_screen(shown.out, path.empty() ? 40 : 24);
    ++seen;
    bool is_command = false;
    std::istringstream lines{shown.out};
    for (std::string line; std::getline(lines, line);) {
      if (is_command && line.starts_with("  ") && line[2] != ' ') {
        auto command = path;
        command.push_back(line.substr(2, line.find(' ', 2) - 2));
        again(again, command);
      }
      if (!line.starts_with(' ')) is_command = line == "Subcommands:";
    }
  };
  check(check, {});
  check(check, {"bench", "declare"});  // whose parent's help is written by hand
  CHECK(seen > 40);
}

TEST_CASE("what the command line does not know is wrong usage", "[command_line]") {
  for (const auto& arguments : std::vector<std::vector<std::string>>{{},
                                                                     {"nonsense"},
                                                                     {"list"},
                                                                     {"status", "--nonsense"},
                                                                     {"verify"},
                                                                     {"actors"},
                                                                     {"actors", "show"},
                                                                     {"actors", "kill"},
                                                                     {"actors", "restart"},
                                                                     {"actors", "tree", "/", "/"},
                                                                     {"actors", "events", "--count", "0"},
                                                                     {"actors", "tree", "--depth", "-1"},
                                                                     {"actors", "tree", "--children", "0"},
                                                                     {"actors", "show", ""},
                                                                     {"actors", "kill", "vhosts"},
                                                                     {"actors", "tree", ""},
                                                                     {"bench", "--producers", "many"}}) {
    const auto shown = posthorn_command(arguments);
    CHECK(shown.code == 2);
    CHECK(shown.out.empty());
    CHECK_FALSE(shown.err.empty());
  }
  CHECK(posthorn_command({"bench", "--uri", "http://x"}).code == 2);
}

TEST_CASE("status tells what the node tells", "[command_line]") {
  fake_node node;
  const auto healthy = node.ask({"status"});
  CHECK(healthy.err.empty());
  CHECK(healthy.code == 0);
  CHECK(healthy.out.find("posthorn@brass") != std::string::npos);
  CHECK(healthy.out.find("1 min 30 s") != std::string::npos);
  CHECK(healthy.out.find("1,234 ready") != std::string::npos);
  const auto machine_readable = boost::json::parse(node.ask({"status", "--json"}).out);
  CHECK(machine_readable.at("healthy") == true);
  CHECK(machine_readable.at("overview").at("node") == "posthorn@brass");
}

TEST_CASE("status of an unhealthy node ends with 1 and the reason", "[command_line]") {
  fake_node node;
  node.broker.trouble = "the disk is gone";
  const auto shown = node.ask({"status"});
  CHECK(shown.code == 1);
  CHECK(shown.out.find("the disk is gone") != std::string::npos);
}

TEST_CASE("queues are listed as an aligned table, or as JSON", "[command_line]") {
  const fake_node node;
  const auto shown = node.ask({"list", "queues"});
  CHECK(shown.code == 0);
  CHECK(shown.out ==
        "VHOST  NAME      TYPE     DURABLE  STATE    READY  UNACKED  TOTAL  CONSUMERS\n"
        "/      orders    classic  yes      running   1234        1   1235          0\n"
        "/      mail?[2J  classic  no       running      0        0      0          0\n");
  CHECK(boost::json::parse(node.ask({"--json", "list", "queues"}).out).as_array().size() == 2);
  CHECK(node.ask({"list", "queues", "--vhost", "/"}).code == 0);
  const auto nowhere = node.ask({"list", "queues", "--vhost", "nowhere"});
  CHECK(nowhere.code == 1);
  CHECK(nowhere.err.find("no virtual host nowhere") != std::string::npos);
}

TEST_CASE("the tree of actors is drawn, and says what it leaves out", "[command_line][actors]") {
  const fake_node node;
  const auto shown = node.ask({"actors", "tree"});
  CHECK(shown.err.empty());
  CHECK(shown.code == 0);
  CHECK(shown.out ==
        "ACTOR             KIND        STATE    RESTARTS  MAILBOX\n"
        "/                 supervisor  running         0        -\n"
        "`- vhosts         supervisor  running         0        -\n"
        "   |- %2F         supervisor  running         0        -\n"
        "   |- mail%1B[2J  queue       failed      1,234        1\n"
        "   `- ... and 1 more\n");
  CHECK(node.tree.asked.back() == "list / children 20");
  CHECK(node.ask({"actors", "tree", "/vhosts", "--depth", "2", "--children", "5"}).code == 0);
  CHECK(node.tree.asked.back() == "list /vhosts depth 2 children 5");
  CHECK(boost::json::parse(node.ask({"actors", "tree", "--json"}).out).as_array().size() == 4);
  CHECK(node.tree.asked.back() == "list / children 1000000");
}

TEST_CASE("an actor is shown with its failure, its work and its rules", "[command_line][actors]") {
  const fake_node node;
  const auto shown = node.ask({"actors", "show", "/vhosts/mail%1B[2J"});
  CHECK(shown.code == 0);
  for (const auto* part : {"/vhosts/mail%1B[2J\n", "failed since 2023-11-1", "exception: a ?[31m reason\n",
                           "1,234\n", "1 message waits\n", "10 µs in all, 2.5 µs each on average\n",
                           "temporary\n", "asked to end, killed after 5 s\n"}) {
    CAPTURE(part, shown.out);
    CHECK(shown.out.find(part) != std::string::npos);
  }
  const auto supervisor = node.ask({"actors", "show", "/vhosts"});
  CHECK(supervisor.out.find("gives up if children fail more than 3 times in 5 s\n") != std::string::npos);
  CHECK(supervisor.out.find("never\n") != std::string::npos);
  CHECK(boost::json::parse(node.ask({"actors", "show", "/vhosts", "--json"}).out).at("children") == 1);
}

TEST_CASE("kill and restart say what was done and what follows", "[command_line][actors]") {
  const fake_node node;
  const auto killed = node.ask({"actors", "kill", "/vhosts"});
  CHECK(killed.code == 0);
  CHECK(killed.out == "killed /vhosts; its supervisor / starts it again, and its children go on\n");
  CHECK(node.tree.asked.back() == "kill /vhosts");
  CHECK(node.ask({"actors", "kill", "/vhosts/mail%1B[2J"}).out ==
        "killed /vhosts/mail%1B[2J; it is not started again\n");
  CHECK(node.tree.asked.back() == "kill /vhosts/mail%1B[2J");
  CHECK(node.ask({"actors", "restart", "/"}).out ==
        "asked to end: /; the node starts it again, and its children go on\n");
  CHECK(node.tree.asked.back() == "restart /");
  CHECK(boost::json::parse(node.ask({"actors", "kill", "/", "--json"}).out).at("done") == "killed");
}

TEST_CASE("an order that the node refuses ends with 1 and the node's reason", "[command_line][actors]") {
  const fake_node node;
  const auto unknown = node.ask({"actors", "kill", "/x"});
  CHECK(unknown.code == 1);
  CHECK(unknown.out.empty());
  CHECK(unknown.err.find("no actor has the path /x: / has no child 'x'\n") != std::string::npos);
  CHECK(node.tree.asked.back() == "show /x");  // and nothing was killed
  const auto busy = node.ask({"actors", "restart", "/vhosts"});
  CHECK(busy.code == 1);
  CHECK(busy.err.find("the actor /vhosts has just ended\n") != std::string::npos);
  CHECK(node.ask({"actors", "tree", "/x"}).code == 1);
  CHECK(posthorn_command({"actors", "show", "vhosts"}).err ==
        "posthorn: a path starts with '/': did you mean /vhosts?\n");
  CHECK(posthorn_command({"actors", "tree", "--url", "http://127.0.0.1:1"}).code == 69);
  CHECK(posthorn_command({"actors", "kill", "/", "--url", "http://127.0.0.1:1"}).code == 69);
}

TEST_CASE("errors say what to do", "[command_line]") {
  std::string gone;
  {
    const fake_node node;
    gone = "http://127.0.0.1:" + std::to_string(node.server->endpoints().front().port());
    const auto shown = node.ask({"status", "--user", "nobody"});
    CHECK(shown.code == 1);
    CHECK(shown.err.find("does not let the user nobody in") != std::string::npos);
  }
  const auto shown = posthorn_command({"status", "--url", gone});
  CHECK(shown.code == 69);
  CHECK(shown.err.starts_with("posthorn: no node answers at " + gone + ": is posthornd running there"));
  CHECK(std::count(shown.err.begin(), shown.err.end(), '\n') == 1);
  CHECK(posthorn_command({"status", "--url", "https://x"}).err.find("TLS") != std::string::npos);
}

TEST_CASE("posthornd's options are the settings' flags", "[command_line]") {
  const auto parsed =
      parse_daemon_options({"--config", "a.toml", "--amqp=*:1", "--amqp", "*:2", "--log-level", "debug"});
  REQUIRE(parsed.has_value());
  CHECK(parsed->what == daemon_options::action::run);
  CHECK(parsed->config_file == "a.toml");
  CHECK(parsed->settings ==
        std::vector<std::pair<std::string, std::string>>{{"--amqp", "*:2"}, {"--log-level", "debug"}});
  CHECK(parse_daemon_options({"--print-config"})->what == daemon_options::action::print_config);
  CHECK(parse_daemon_options({"-h"})->what == daemon_options::action::help);
  const auto stray = parse_daemon_options({"stray"});
  REQUIRE(stray.has_error());
  CHECK(stray.error().text.find("stray") != std::string::npos);
}

TEST_CASE("actors events tells what befell whom, and why", "[command_line]") {
  const fake_node node;
  const auto shown = node.ask({"actors", "events"});
  CHECK(shown.code == 0);
  CHECK(shown.out.find("/vhosts/%2F/queues/orders") != std::string::npos);
  CHECK(shown.out.find("it was killed") != std::string::npos);
  CHECK(node.ask({"actors", "events", "--count", "1"}).out == "nothing has befallen any actor yet\n");
  CHECK(node.ask({"actors", "events", "--json"}).out.find("\"number\":7") != std::string::npos);
}
