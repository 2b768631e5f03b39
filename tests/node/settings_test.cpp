#include "node/settings.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr auto file_name = "posthorn.toml";

setting_sources nothing_set() {
  setting_sources sources;
  sources.host_name = "brass";
  return sources;
}

settings from_file(std::string_view text) {
  return load_settings(nothing_set(), text, file_name).value().values;
}

std::string error_of_file(std::string_view text) {
  const auto loaded = load_settings(nothing_set(), text, file_name);
  REQUIRE(loaded.has_error());
  return loaded.error().text;
}

std::string error_of_environment(const std::string& variable, const std::string& value) {
  auto sources = nothing_set();
  sources.environment[variable] = value;
  const auto loaded = load_settings(sources);
  REQUIRE(loaded.has_error());
  return loaded.error().text;
}

std::size_t index_of(std::string_view name) {
  const auto rows = setting_table();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const setting& r) { return r.name() == name; });
  REQUIRE(row != rows.end());
  return static_cast<std::size_t>(row - rows.begin());
}

}  // namespace

TEST_CASE("without any source every setting has its default", "[settings]") {
  const auto loaded = load_settings(nothing_set()).value();
  const settings& s = loaded.values;
  CHECK(s.node_name == "posthorn@brass");
  CHECK(s.node_data_dir == "/var/lib/posthorn");
  CHECK(s.amqp_listen == listen_address{"*", 5672});
  CHECK(s.amqp_heartbeat == 60s);
  CHECK(s.amqp_channel_max == 2047);
  CHECK(s.amqp_consumer_max == 0);
  CHECK(s.amqp_frame_max == 131072);
  CHECK(s.amqp_message_size_max == byte_size{16ULL << 20});
  CHECK(s.amqp_connection_max == 0);
  CHECK(s.amqp_handshake_timeout == 10s);
  CHECK(s.amqp_consumer_timeout == 30min);
  CHECK(s.amqp_dead_letter_retry == 5s);
  CHECK(s.amqp_product == product_name::rabbitmq);
  CHECK(s.http_listen == listen_address{"*", 15672});
  CHECK(s.level == log_level::info);
  CHECK(s.format == log_format::text);
  CHECK_FALSE(s.store_map_size.has_value());
  CHECK_FALSE(s.store_disk_free_min.has_value());
  CHECK(s.memory_messages_max == byte_size{128ULL << 20});
  CHECK(s.threads_io == 0);
  CHECK(s.threads_actors == 0);
  CHECK(std::all_of(loaded.origins.begin(), loaded.origins.end(),
                    [](const origin& o) { return o.kind == origin_kind::built_in; }));
}

TEST_CASE("the command line wins over the environment, and that over the file", "[settings]") {
  auto sources = nothing_set();
  const auto text = "[amqp]\nheartbeat = 1\nchannel_max = 2\nframe_max = 5000\n[log]\nlevel = \"error\"\n";
  sources.environment = {{"POSTHORN_AMQP_HEARTBEAT", "10"}, {"POSTHORN_AMQP_CHANNEL_MAX", "20"}};
  sources.command_line = {{"--amqp-heartbeat", "99"}, {"--amqp-heartbeat", "100"}};
  const auto loaded = load_settings(sources, text, file_name).value();
  CHECK(loaded.values.amqp_heartbeat == 100s);
  CHECK(loaded.values.amqp_channel_max == 20);
  CHECK(loaded.values.amqp_frame_max == 5000);
  CHECK(loaded.values.level == log_level::error);
  CHECK(loaded.origins[index_of("amqp.heartbeat")].where == "--amqp-heartbeat");
  CHECK(loaded.origins[index_of("amqp.channel_max")].where == "POSTHORN_AMQP_CHANNEL_MAX");
  CHECK(loaded.origins[index_of("amqp.frame_max")].where == "posthorn.toml:4");
  CHECK(loaded.origins[index_of("threads.io")].kind == origin_kind::built_in);
}

TEST_CASE("sizes are plain bytes or have a unit", "[settings]") {
  CHECK(from_file("memory.messages_max = 2000000").memory_messages_max == byte_size{2'000'000});
  CHECK(from_file("memory.messages_max = \"2000000\"").memory_messages_max == byte_size{2'000'000});
  CHECK(from_file("memory.messages_max = \"2000 kB\"").memory_messages_max == byte_size{2'000'000});
  CHECK(from_file("memory.messages_max = \"2MB\"").memory_messages_max == byte_size{2'000'000});
  CHECK(from_file("memory.messages_max = \"2 GB\"").memory_messages_max == byte_size{2'000'000'000});
  CHECK(from_file("memory.messages_max = \"1024 KiB\"").memory_messages_max == byte_size{1ULL << 20});
  CHECK(from_file("memory.messages_max = \"3 GiB\"").memory_messages_max == byte_size{3ULL << 30});
  CHECK(from_file("store.map_size = \"1 GiB\"").store_map_size == byte_size{1ULL << 30});
  CHECK(from_file("store.map_size = \"auto\"").store_map_size == std::nullopt);
  for (const auto* bad : {"\"2 mb\"", "\"MB\"", "\"\"", "\"-1\"", "-1", "2.5", "\"99999999999999999999\"",
                          "\"99999999999 GiB\"", "\"2 MB \"", "true", "[1]"}) {
    CAPTURE(bad);
    CHECK(load_settings(nothing_set(), std::string{"memory.messages_max = "} + bad, file_name).has_error());
  }
}

TEST_CASE("times have a unit", "[settings]") {
  CHECK(from_file("amqp.handshake_timeout = \"1500 ms\"").amqp_handshake_timeout == 1500ms);
  CHECK(from_file("amqp.handshake_timeout = \"2s\"").amqp_handshake_timeout == 2s);
  CHECK(from_file("amqp.handshake_timeout = \"3 min\"").amqp_handshake_timeout == 3min);
  for (const auto* bad : {"10", "\"10\"", "\"10 h\"", "\"0 s\"", "\"s\""}) {
    CAPTURE(bad);
    CHECK(
        load_settings(nothing_set(), std::string{"amqp.handshake_timeout = "} + bad, file_name).has_error());
  }
}

TEST_CASE("an address is a host and a port", "[settings]") {
  CHECK(from_file("amqp.listen = \"127.0.0.1:0\"").amqp_listen == listen_address{"127.0.0.1", 0});
  CHECK(from_file("amqp.listen = \"[::1]:5672\"").amqp_listen == listen_address{"::1", 5672});
  CHECK(to_string(listen_address{"::1", 5672}) == "[::1]:5672");
  for (const auto* bad : {"5672", "\"5672\"", "\":5672\"", "\"::1:5672\"", "\"host:\"", "\"host:65536\"",
                          "\"[]:1\"", "\"a b:1\""}) {
    CAPTURE(bad);
    CHECK(load_settings(nothing_set(), std::string{"amqp.listen = "} + bad, file_name).has_error());
  }
}

TEST_CASE("a bad value is named by file, line and key, with what was expected", "[settings]") {
  CHECK(error_of_file("# one\n\n[node]\nname = \"a\"\n\n[amqp]\nheartbeat = \"fast\"\n") ==
        "posthorn.toml:7: amqp.heartbeat = \"fast\": expected a whole number of seconds from 0 to 65535");
  CHECK(error_of_file("log.level = \"loud\"") ==
        "posthorn.toml:1: log.level = \"loud\": expected \"debug\", \"info\", \"warning\" or \"error\"");
  CHECK(error_of_file("amqp.frame_max = 4095") ==
        "posthorn.toml:1: amqp.frame_max = 4095: expected a whole number from 4096 to 134217728");
  CHECK(error_of_environment("POSTHORN_AMQP_HEARTBEAT", "-1") ==
        "environment: POSTHORN_AMQP_HEARTBEAT = \"-1\": expected a whole number of seconds from 0 to 65535");
  auto sources = nothing_set();
  sources.command_line = {{"--amqp", "5672"}};
  CHECK(load_settings(sources).error().text ==
        "command line: --amqp \"5672\": expected HOST:PORT, such as \"*:5672\", \"127.0.0.1:5672\" or "
        "\"[::1]:5672\"");
}

TEST_CASE("an unknown key is an error that suggests the known one", "[settings]") {
  CHECK(error_of_file("[amqp]\nheartbeet = 5\n") ==
        "posthorn.toml:2: unknown key amqp.heartbeet: did you mean amqp.heartbeat?");
  CHECK(error_of_file("data_dir = \"/x\"") ==
        "posthorn.toml:1: unknown key data_dir: did you mean node.data_dir?");
  CHECK(error_of_file("[broker]\nspeed = 5\n") ==
        "posthorn.toml:2: unknown key broker.speed: `posthornd --print-config` shows all there are");
  CHECK(error_of_file("[broker]\n") ==
        "posthorn.toml:1: unknown key broker: `posthornd --print-config` shows all there are");
  CHECK(error_of_file("vm_memory_high_watermark.relative = 5").find("did you mean") == std::string::npos);
  CHECK(error_of_file("disk_free_limit.absolute = \"2GB\"") ==
        "posthorn.toml:1: unknown key disk_free_limit.absolute: what RabbitMQ calls so is "
        "store.disk_free_min here");
  CHECK(error_of_environment("POSTHORN_AMQP_HEARTBEET", "5") ==
        "environment: unknown variable POSTHORN_AMQP_HEARTBEET: did you mean POSTHORN_AMQP_HEARTBEAT?");
  CHECK(error_of_environment("POSTHORN_LOGLEVEL", "info") ==
        "environment: unknown variable POSTHORN_LOGLEVEL: did you mean POSTHORN_LOG_LEVEL?");
}

TEST_CASE("all that is wrong is told at once, in the file's order", "[settings]") {
  CHECK(error_of_file("[log]\nlevel = 3\n[amqp]\nheartbeat = 70000\n") ==
        "posthorn.toml:2: log.level = 3: expected \"debug\", \"info\", \"warning\" or \"error\"\n"
        "posthorn.toml:4: amqp.heartbeat = 70000: expected a whole number of seconds from 0 to 65535");
}

TEST_CASE("a file that is not TOML is named with its line", "[settings]") {
  CHECK(error_of_file("[log]\nlevel = \n").starts_with("posthorn.toml:2: not TOML: "));
}

TEST_CASE("the variables that Kubernetes sets for a service called posthorn are no settings", "[settings]") {
  auto sources = nothing_set();
  sources.environment = {{"POSTHORN_PORT", "tcp://10.0.0.1:5672"},
                         {"POSTHORN_PORT_5672_TCP_ADDR", "10.0.0.1"},
                         {"POSTHORN_AMQP_SERVICE_HOST", "10.0.0.1"},
                         {"POSTHORN_AMQP_SERVICE_PORT_AMQP", "5672"},
                         {"POSTHORN_HTTP_PORT", "tcp://10.0.0.1:15672"},
                         {"POSTHORN_URL", "http://127.0.0.1:15672"},
                         {"POSTHORN_RELEASE", "blue"}};
  CHECK(load_settings(sources).has_value());
}

TEST_CASE("what --print-config prints is a configuration file that says the same", "[settings]") {
  auto sources = nothing_set();
  sources.environment["POSTHORN_NODE_DATA_DIR"] = "/srv/a \"quoted\" \\ name";
  sources.command_line = {{"--store-map-size", "3 GiB"},
                          {"--amqp", "[::1]:1"},
                          {"--log-format", "json"},
                          {"--amqp-handshake-timeout", "90 s"},
                          {"--store-disk-free-min", "1000001"}};
  const auto loaded = load_settings(sources).value();
  const auto printed = print_config(loaded);
  CAPTURE(printed);
  const auto again = load_settings(nothing_set(), printed, file_name);
  REQUIRE(again.has_value());
  CHECK(changed_settings(loaded.values, again->values).empty());
  CHECK(printed.find("# from POSTHORN_NODE_DATA_DIR") != std::string::npos);
  CHECK(printed.find("# from --store-map-size") != std::string::npos);
  CHECK(printed.find("# default") != std::string::npos);
}

TEST_CASE("changed settings are those that differ, and only log.level needs no restart", "[settings]") {
  const auto before = from_file("");
  const auto after = from_file("log.level = \"debug\"\namqp.listen = \"*:1\"\n");
  const auto changed = changed_settings(before, after);
  REQUIRE(changed.size() == 2);
  CHECK(changed[0]->name() == "amqp.listen");
  CHECK_FALSE(changed[0]->live);
  CHECK(changed[1]->name() == "log.level");
  CHECK(changed[1]->live);
}

TEST_CASE("an unreadable configuration file is an error that names it", "[settings]") {
  auto sources = nothing_set();
  sources.file = "/nonexistent/posthorn.toml";
  CHECK(load_settings(sources).error().text ==
        "cannot read the configuration file /nonexistent/posthorn.toml: No such file or directory");
  sources.file = "/";
  CHECK(load_settings(sources).error().text == "cannot read the configuration file /: it is a directory");
}

TEST_CASE("docs/configuration.md lists every setting as the table has it", "[settings][docs]") {
  // Tests run somewhere in the tree: in its root, or in a build directory.
  std::ifstream in;
  for (auto at = std::filesystem::current_path(); !in.is_open(); at = at.parent_path()) {
    in.open(at / "docs" / "configuration.md");
    REQUIRE((in.is_open() || at.has_relative_path()));
  }
  std::ostringstream text;
  text << in.rdbuf();
  CHECK(text.str().find(setting_reference()) != std::string::npos);
}

TEST_CASE("how much memory may be used is a part, a size, or anything", "[settings]") {
  CHECK(from_file("").memory_high_watermark == memory_limit{0.6, 0});
  CHECK(from_file("memory.high_watermark = 0.25").memory_high_watermark == memory_limit{0.25, 0});
  CHECK(from_file("memory.high_watermark = \"0.25\"").memory_high_watermark == memory_limit{0.25, 0});
  CHECK(from_file("memory.high_watermark = 1.0").memory_high_watermark == memory_limit{1, 0});
  CHECK(from_file("memory.high_watermark = \"2 GB\"").memory_high_watermark ==
        memory_limit{0, 2'000'000'000});
  CHECK(from_file("memory.high_watermark = \"off\"").memory_high_watermark == memory_limit{});
  for (const auto* wrong :
       {"0.0", "1.5", "-0.5", "1", "nan", "inf", "\"60%\"", "\"0.6x\"", "\"1 MiB\"", "true"}) {
    CAPTURE(wrong);
    CHECK(error_of_file(std::string{"memory.high_watermark = "} + wrong).find("expected \"off\"") !=
          std::string::npos);
  }
  CHECK(error_of_file("amqp.heartbeat = 0.5").find("expected a whole number") != std::string::npos);
  CHECK(error_of_file("node.name = 0.5").find("expected a name") != std::string::npos);
}

TEST_CASE("trusted proxies are networks", "[settings]") {
  CHECK(from_file("").amqp_proxy_trusted.networks.empty());
  const auto some = from_file("amqp.proxy_trusted = \"10.0.0.0/8, ::1\"").amqp_proxy_trusted;
  CHECK(amqp091::to_string(some.networks) == "10.0.0.0/8, ::1");
  CHECK(error_of_file("amqp.proxy_trusted = \"proxy.example\"") ==
        "posthorn.toml:1: amqp.proxy_trusted = \"proxy.example\": expected \"none\", or addresses and "
        "networks with "
        "commas between them, such as \"10.0.0.0/8, ::1\"");
}

TEST_CASE("TLS is left out, or has its files and its port", "[settings]") {
  const auto without = from_file("");
  CHECK_FALSE(without.tls_certificate.has_value());
  CHECK_FALSE(without.amqp_tls_listen.has_value());
  const auto with = from_file(
      "amqp.tls_listen = \"*:5671\"\n[tls]\ncertificate = \"/a\"\nkey = \"/b\"\nca = \"none\"\nverify = "
      "\"required\"\nlogin_from = \"san_dns\"\n");
  CHECK(with.amqp_tls_listen == listen_address{"*", 5671});
  CHECK(with.tls_certificate == std::filesystem::path{"/a"});
  CHECK_FALSE(with.tls_ca.has_value());
  CHECK(with.tls_verify == certificate_check::required);
  CHECK(with.tls_login_from == login_source::san_dns);
  CHECK(error_of_file("tls.verify = \"maybe\"") ==
        "posthorn.toml:1: tls.verify = \"maybe\": expected \"none\", \"peer\" or \"required\"");
  CHECK(error_of_file("ssl_options.certfile = \"/a\"") ==
        "posthorn.toml:1: unknown key ssl_options.certfile: what RabbitMQ calls so is tls.certificate here");
}
