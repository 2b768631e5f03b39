// What one node is told to do: every setting, its default, and where its value came from.
//
// The table behind `setting_table()` is the only place that knows a setting. The configuration file, the
// environment, the command line, --help, --print-config and docs/configuration.md are all read from it.
//
// A setting is taken from, in rising order: its default, the file, the environment, the command line. What is
// unknown or malformed in any of them is an error: a node never starts with a setting that it did not understand.
//
// Threads   everything here is a plain value.
#pragma once

#include "gateway/amqp091/network.hpp"
#include "mailbox/result.hpp"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn {

// Where to listen. The host "*" means every address of this machine, IPv6 and IPv4; the port 0, any free one.
struct listen_address {
  std::string host;
  std::uint16_t port = 0;

  friend bool operator==(const listen_address&, const listen_address&) = default;
};

// "HOST:PORT", with an IPv6 host in brackets.
[[nodiscard]] std::string to_string(const listen_address& address);

struct byte_size {
  std::uint64_t bytes = 0;

  friend auto operator<=>(const byte_size&, const byte_size&) = default;
};

// How much memory the node may take before publishers wait: a part of the machine's, or a size; neither: as much as there is.
struct memory_limit {
  double fraction = 0;  // of what the machine or the control group of the process has
  std::uint64_t bytes = 0;

  friend bool operator==(const memory_limit&, const memory_limit&) = default;
};

// Who may say for whom it connects.
struct network_list {
  std::vector<amqp091::network> networks;

  friend bool operator==(const network_list&, const network_list&) = default;
};

// Whether clients have to show a certificate, and what of it is the user's name: gateway/amqp091/tls.hpp.
enum class certificate_check : std::uint8_t { none, peer, required };
enum class login_source : std::uint8_t { common_name, distinguished_name, san_dns, san_email, san_uri };

// What the node calls itself to AMQP clients: gateway/amqp091/server.hpp.
enum class product_name : std::uint8_t { rabbitmq, posthorn };

enum class log_level : std::uint8_t { debug, info, warning, error };
enum class log_format : std::uint8_t { text, json };

[[nodiscard]] std::string_view to_string(log_level level) noexcept;

// Fixed after start, except where the table says `live`. An empty optional is "auto", or "none" of an address or a path.
struct settings {
  std::string node_name;
  std::filesystem::path node_data_dir;

  listen_address amqp_listen;
  std::chrono::seconds amqp_heartbeat{};
  std::uint64_t amqp_channel_max = 0;
  std::uint64_t amqp_consumer_max = 0;
  std::uint64_t amqp_frame_max = 0;
  byte_size amqp_message_size_max;
  std::uint64_t amqp_connection_max = 0;
  std::chrono::milliseconds amqp_handshake_timeout{};
  std::chrono::milliseconds amqp_consumer_timeout{};
  std::chrono::milliseconds amqp_dead_letter_retry{};
  std::optional<listen_address> amqp_tls_listen;
  network_list amqp_proxy_trusted;
  product_name amqp_product = product_name::rabbitmq;

  std::optional<std::filesystem::path> tls_certificate, tls_key, tls_ca;
  certificate_check tls_verify = certificate_check::none;
  login_source tls_login_from = login_source::common_name;

  listen_address http_listen;
  byte_size http_definitions_size_max;

  log_level level = log_level::info;
  log_format format = log_format::text;

  std::optional<byte_size> store_map_size;
  std::optional<byte_size> store_disk_free_min;

  byte_size memory_messages_max;
  memory_limit memory_high_watermark;

  std::uint64_t threads_io = 0;
  std::uint64_t threads_actors = 0;
};

// The member that a setting fills. Its type says how the setting is written.
using setting_member =
    std::variant<std::string settings::*, std::filesystem::path settings::*, listen_address settings::*,
                 std::uint64_t settings::*, std::chrono::seconds settings::*,
                 std::chrono::milliseconds settings::*, byte_size settings::*,
                 std::optional<byte_size> settings::*, log_level settings::*, log_format settings::*,
                 std::optional<listen_address> settings::*, std::optional<std::filesystem::path> settings::*,
                 network_list settings::*, memory_limit settings::*, certificate_check settings::*,
                 login_source settings::*, product_name settings::*>;

// One row of the table.
struct setting {
  std::string_view table;  // of the file: [amqp]
  std::string_view key;    // in that table: heartbeat
  std::string_view flag;   // --amqp-heartbeat
  std::string_view placeholder;
  std::string_view
      default_text;       // as it is written in the environment; "" for node.name: from the host's name
  std::string_view help;  // one sentence fragment that fits a line of --help
  setting_member member;
  // For whole numbers, sizes and durations (in seconds, bytes and milliseconds).
  std::uint64_t min = 0;
  std::uint64_t max = UINT64_MAX;
  bool live = false;  // applied by SIGHUP, without a restart

  [[nodiscard]] std::string name() const;      // amqp.heartbeat
  [[nodiscard]] std::string variable() const;  // POSTHORN_AMQP_HEARTBEAT
  [[nodiscard]] std::string expected() const;  // "a whole number of seconds from 0 to 65535"
};

[[nodiscard]] std::span<const setting> setting_table();

enum class origin_kind : std::uint8_t { built_in, file, environment, command_line };

struct origin {
  origin_kind kind = origin_kind::built_in;
  std::string where;  // "posthorn.toml:7", "POSTHORN_AMQP_HEARTBEAT", "--amqp-heartbeat"; empty if built in
};

// The settings in effect, and for each row of the table, in its order, where its value came from.
struct effective_settings {
  settings values;
  std::vector<origin> origins;
};

// What is read besides the defaults. Plain values, so that a test needs no process around it.
struct setting_sources {
  std::optional<std::filesystem::path> file;
  std::map<std::string, std::string> environment;  // only what begins with POSTHORN_ is looked at
  std::vector<std::pair<std::string, std::string>> command_line;  // flag and value; a later one wins
  std::string host_name = "localhost";                            // for the default of node.name
};

// An error here is one sentence (or several lines of one sentence each) for the operator.
[[nodiscard]] result<effective_settings> load_settings(const setting_sources& sources);

// The same, of a file's text. `file_name` is used in errors and origins.
[[nodiscard]] result<effective_settings> load_settings(const setting_sources& sources,
                                                       std::string_view file_text,
                                                       std::string_view file_name);

// What this process was given: its environment and its host's name.
[[nodiscard]] setting_sources sources_of_process();

// The rows whose values differ.
[[nodiscard]] std::vector<const setting*> changed_settings(const settings& before, const settings& after);

// A configuration file that says the same, with each value's origin as a comment.
[[nodiscard]] std::string print_config(const effective_settings& effective);

// The table of all settings as docs/configuration.md carries it; a test compares the two.
[[nodiscard]] std::string setting_reference();

}  // namespace posthorn
