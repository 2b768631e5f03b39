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

void check_fits_a_screen(const std::string& text) {
  CAPTURE(text);
  CHECK(std::count(text.begin(), text.end(), '\n') <= 24);
  std::istringstream lines{text};
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    CHECK(line.size() <= 80);
  }
}

class fake_broker : public http::broker_view {
public:
  std::optional<std::string> trouble;

  std::optional<std::vector<http::queue_summary>> list_queues(
      std::optional<std::string_view> vhost) const override {
    if (vhost && *vhost != "/") return std::nullopt;
    http::queue_summary orders;
    orders.name = "orders";
    orders.durable = true;
    orders.messages_ready = 1234;
    orders.messages_unacknowledged = 1;
    http::queue_summary mail;
    mail.name = "mail\x1b[2J";  // a name may hold anything, a terminal must not obey it
    return std::vector{orders, mail};
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
  boost::asio::io_context io;
  std::unique_ptr<http::server> server =
      std::move(http::server::listen(io, "127.0.0.1", 0, http::make_api(broker))).value();
  std::thread thread;
};

}  // namespace

TEST_CASE("every help fits a screen", "[command_line]") {
  check_fits_a_screen(daemon_help());
  for (const auto& arguments : std::vector<std::vector<std::string>>{{"--help"},
                                                                     {"status", "--help"},
                                                                     {"list", "--help"},
                                                                     {"list", "queues", "--help"},
                                                                     {"verify", "--help"},
                                                                     {"bench", "--help"}}) {
    const auto shown = posthorn_command(arguments);
    CHECK(shown.code == 0);
    CHECK(shown.err.empty());
    check_fits_a_screen(shown.out);
  }
}

TEST_CASE("what the command line does not know is wrong usage", "[command_line]") {
  for (const auto& arguments : std::vector<std::vector<std::string>>{{},
                                                                     {"nonsense"},
                                                                     {"list"},
                                                                     {"status", "--nonsense"},
                                                                     {"verify"},
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
