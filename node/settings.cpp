#include "node/settings.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>
#include <type_traits>

#include <toml++/toml.h>
#include <unistd.h>

namespace posthorn {
namespace {

constexpr std::uint64_t day_ms = 24ULL * 60 * 60 * 1000;

constexpr std::array<std::pair<std::string_view, log_level>, 4> log_levels{{
    {"debug", log_level::debug},
    {"info", log_level::info},
    {"warning", log_level::warning},
    {"error", log_level::error},
}};

constexpr std::array<std::pair<std::string_view, log_format>, 2> log_formats{{
    {"text", log_format::text},
    {"json", log_format::json},
}};

constexpr std::array<std::pair<std::string_view, product_name>, 2> product_names{{
    {"RabbitMQ", product_name::rabbitmq},
    {"Posthorn", product_name::posthorn},
}};

constexpr std::array<std::pair<std::string_view, certificate_check>, 3> certificate_checks{{
    {"none", certificate_check::none},
    {"peer", certificate_check::peer},
    {"required", certificate_check::required},
}};

constexpr std::array<std::pair<std::string_view, login_source>, 5> login_sources{{
    {"common_name", login_source::common_name},
    {"distinguished_name", login_source::distinguished_name},
    {"san_dns", login_source::san_dns},
    {"san_email", login_source::san_email},
    {"san_uri", login_source::san_uri},
}};

struct unit {
  std::string_view name;
  std::uint64_t factor;
};

constexpr std::array<unit, 11> size_units{{
    {"B", 1},
    {"kB", 1'000},
    {"KB", 1'000},
    {"MB", 1'000'000},
    {"GB", 1'000'000'000},
    {"TB", 1'000'000'000'000},
    {"KiB", 1ULL << 10},
    {"kiB", 1ULL << 10},
    {"MiB", 1ULL << 20},
    {"GiB", 1ULL << 30},
    {"TiB", 1ULL << 40},
}};

constexpr std::array<unit, 3> duration_units{{{"ms", 1}, {"s", 1'000}, {"min", 60'000}}};

const std::array<setting, 30>& table() {
  static const std::array<setting, 30> rows{{
      {"node", "name", "--node-name", "NAME", "", "name of this node (default posthorn@HOST)",
       &settings::node_name},
      {"node", "data_dir", "--data-dir", "DIR", "/var/lib/posthorn", "directory of the store",
       &settings::node_data_dir},
      {"amqp", "listen", "--amqp", "HOST:PORT", "*:5672", "where AMQP clients connect",
       &settings::amqp_listen},
      {"amqp", "heartbeat", "--amqp-heartbeat", "SECONDS", "60", "offered to clients; 0: none",
       &settings::amqp_heartbeat, 0, 65535},
      {"amqp", "channel_max", "--amqp-channel-max", "N", "2047", "channels per connection",
       &settings::amqp_channel_max, 1, 65535},
      {"amqp", "consumer_max", "--amqp-consumer-max", "N", "0", "consumers per channel (0: no limit)",
       &settings::amqp_consumer_max, 0, 10'000'000},
      {"amqp", "frame_max", "--amqp-frame-max", "BYTES", "131072", "largest frame", &settings::amqp_frame_max,
       4096, 1ULL << 27},
      {"amqp", "message_size_max", "--amqp-message-size-max", "SIZE", "16 MiB", "largest message body",
       &settings::amqp_message_size_max, 1, 512ULL << 20},
      {"amqp", "connection_max", "--amqp-connection-max", "N", "0", "connections at a time (0: no limit)",
       &settings::amqp_connection_max, 0, 10'000'000},
      {"amqp", "handshake_timeout", "--amqp-handshake-timeout", "TIME", "10 s", "time to open a connection",
       &settings::amqp_handshake_timeout, 100, day_ms},
      {"amqp", "consumer_timeout", "--amqp-consumer-timeout", "TIME", "30 min",
       "for consumers to answer; 0 ms: none", &settings::amqp_consumer_timeout, 0, 366 * day_ms},
      {"amqp", "dead_letter_retry", "--amqp-dead-letter-retry", "TIME", "5 s",
       "between tries of kept dead letters", &settings::amqp_dead_letter_retry, 100, day_ms},
      {"amqp", "tls_listen", "--amqps", "HOST:PORT", "none", "a further port, for TLS alone",
       &settings::amqp_tls_listen},
      {"amqp", "proxy_trusted", "--amqp-proxy-trusted", "NETWORKS", "none",
       "proxies that may name their clients", &settings::amqp_proxy_trusted},
      {"amqp", "product", "--amqp-product", "NAME", "RabbitMQ", "what clients are told it is",
       &settings::amqp_product},
      {"tls", "certificate", "--tls-certificate", "FILE", "none", "the node's certificates, in PEM",
       &settings::tls_certificate, 0, 0, true},
      {"tls", "key", "--tls-key", "FILE", "none", "their key, in PEM", &settings::tls_key, 0, 0, true},
      {"tls", "ca", "--tls-ca", "FILE", "none", "who vouches for clients, in PEM", &settings::tls_ca, 0, 0,
       true},
      {"tls", "verify", "--tls-verify", "WHAT", "none", "clients' certificates", &settings::tls_verify, 0, 0,
       true},
      {"tls", "login_from", "--tls-login-from", "WHAT", "common_name", "the user for EXTERNAL",
       &settings::tls_login_from, 0, 0, true},
      {"http", "listen", "--http", "HOST:PORT", "*:15672", "health, metrics and the API",
       &settings::http_listen},
      {"http", "definitions_size_max", "--http-definitions-size-max", "SIZE", "16 MiB",
       "largest file of definitions", &settings::http_definitions_size_max, 64ULL << 10, 512ULL << 20},
      {"log", "level", "--log-level", "LEVEL", "info", "debug, info, warning or error", &settings::level, 0,
       0, true},
      {"log", "format", "--log-format", "FORMAT", "text", "text or json, to standard error",
       &settings::format},
      {"store", "map_size", "--store-map-size", "SIZE", "auto", "bound of the store (auto: its file system)",
       &settings::store_map_size, 1ULL << 20, 1ULL << 46},
      {"store", "disk_free_min", "--store-disk-free-min", "SIZE", "auto", "free disk below which writes wait",
       &settings::store_disk_free_min, 0, 1ULL << 50},
      {"memory", "messages_max", "--memory-messages-max", "SIZE", "128 MiB", "message bodies kept in memory",
       &settings::memory_messages_max, 1ULL << 20, 1ULL << 46},
      {"memory", "high_watermark", "--memory-high-watermark", "LIMIT", "0.6",
       "memory beyond which publishers wait", &settings::memory_high_watermark, 16ULL << 20, 1ULL << 46},
      {"threads", "io", "--threads-io", "N", "0", "threads for sockets (0: by processors)",
       &settings::threads_io, 0, 1024},
      {"threads", "actors", "--threads-actors", "N", "0", "threads for actors (0: by processors)",
       &settings::threads_actors, 0, 1024},
  }};
  return rows;
}

// What operators who come from RabbitMQ write first, and its name here.
struct foreign_key {
  std::string_view theirs;
  std::string_view ours;
};

constexpr std::array<foreign_key, 27> foreign_keys{{
    {"listeners.tcp.default", "amqp.listen"},
    {"listeners.tcp", "amqp.listen"},
    {"management.tcp.port", "http.listen"},
    {"management.tcp.ip", "http.listen"},
    {"management.listener.port", "http.listen"},
    {"prometheus.tcp.port", "http.listen"},
    {"heartbeat", "amqp.heartbeat"},
    {"channel_max", "amqp.channel_max"},
    {"consumer_max_per_channel", "amqp.consumer_max"},
    {"frame_max", "amqp.frame_max"},
    {"connection_max", "amqp.connection_max"},
    {"max_message_size", "amqp.message_size_max"},
    {"handshake_timeout", "amqp.handshake_timeout"},
    {"consumer_timeout", "amqp.consumer_timeout"},
    {"disk_free_limit.absolute", "store.disk_free_min"},
    {"disk_free_limit", "store.disk_free_min"},
    {"vm_memory_high_watermark", "memory.high_watermark"},
    {"vm_memory_high_watermark.relative", "memory.high_watermark"},
    {"vm_memory_high_watermark.absolute", "memory.high_watermark"},
    {"listeners.ssl.default", "amqp.tls_listen"},
    {"ssl_options.certfile", "tls.certificate"},
    {"ssl_options.keyfile", "tls.key"},
    {"ssl_options.cacertfile", "tls.ca"},
    {"ssl_options.verify", "tls.verify"},
    {"ssl_cert_login_from", "tls.login_from"},
    {"proxy_protocol", "amqp.proxy_trusted"},
    {"log.console.level", "log.level"},
}};

// What operates the command line tool or names the file; not settings of the node.
constexpr std::array<std::string_view, 4> other_variables{"POSTHORN_CONFIG", "POSTHORN_URL", "POSTHORN_USER",
                                                          "POSTHORN_PASSWORD"};

// How many letters must be changed, added or removed to make one word of the other.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string upper(std::string_view text) {
  std::string out{text};
  for (char& c : out) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return out;
}

bool ends_with_key(std::string_view name, std::string_view key) {
  return name == key || (name.ends_with(key) && name[name.size() - key.size() - 1] == '.');
}

// The row that somebody who wrote `name` most likely meant.
template <class NameOf>
std::optional<std::string> nearest(std::string_view name, NameOf name_of) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 4) + 1;
  for (const auto& row : table()) {
    std::string candidate{name_of(row)};
    const std::size_t d = distance(name, candidate);
    if (d < best_distance) {
      best_distance = d;
      best = std::move(candidate);
    }
  }
  return best;
}

// One value as it was found: in a file it has a type, elsewhere it is text.
struct found_value {
  std::variant<std::monostate, std::string, std::int64_t, double>
      value;  // monostate: of a type that no setting has
  bool is_typed = false;
  std::string shown;  // as it was written, for errors

  [[nodiscard]] const std::string* text() const { return std::get_if<std::string>(&value); }
};

found_value from_text(std::string_view text) {
  return {std::string{text}, false, '"' + std::string{text} + '"'};
}

std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return number;
}

std::optional<std::uint64_t> whole_number(const found_value& found) {
  if (const auto* number = std::get_if<std::int64_t>(&found.value)) {
    if (*number < 0) return std::nullopt;
    return static_cast<std::uint64_t>(*number);
  }
  if (found.is_typed || found.text() == nullptr) return std::nullopt;
  return whole_number(*found.text());
}

// "16 MiB", "16MiB".
template <std::size_t N>
std::optional<std::uint64_t> with_unit(std::string_view text, const std::array<unit, N>& units) {
  const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = whole_number(text.substr(0, digits));
  if (!number) return std::nullopt;
  text.remove_prefix(digits);
  while (text.starts_with(' ')) text.remove_prefix(1);
  for (const auto& u : units) {
    if (u.name != text) continue;
    if (*number > std::numeric_limits<std::uint64_t>::max() / u.factor) return std::nullopt;
    return *number * u.factor;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> size_in_bytes(const found_value& found) {
  if (const auto* text = found.text()) {
    if (auto plain = whole_number(*text)) return plain;
    return with_unit(*text, size_units);
  }
  return whole_number(found);
}

std::string show_size(std::uint64_t bytes) {
  static constexpr std::array<unit, 4> shown{
      {{"TiB", 1ULL << 40}, {"GiB", 1ULL << 30}, {"MiB", 1ULL << 20}, {"KiB", 1ULL << 10}}};
  for (const auto& u : shown) {
    if (bytes != 0 && bytes % u.factor == 0)
      return std::to_string(bytes / u.factor) + ' ' + std::string{u.name};
  }
  return std::to_string(bytes);
}

std::string show_duration(std::chrono::milliseconds duration) {
  const auto ms = duration.count();
  if (ms % 60'000 == 0 && ms != 0) return std::to_string(ms / 60'000) + " min";
  if (ms % 1'000 == 0) return std::to_string(ms / 1'000) + " s";
  return std::to_string(ms) + " ms";
}

template <class Enum, std::size_t N>
std::string names_of(const std::array<std::pair<std::string_view, Enum>, N>& names) {
  std::string out;
  for (std::size_t i = 0; i < N; ++i) {
    out += i == 0 ? "" : i + 1 == N ? " or " : ", ";
    out += '"' + std::string{names[i].first} + '"';
  }
  return out;
}

template <class Enum, std::size_t N>
std::optional<Enum> named(const found_value& found,
                          const std::array<std::pair<std::string_view, Enum>, N>& names) {
  if (found.text() == nullptr) return std::nullopt;
  for (const auto& [name, value] : names) {
    if (name == *found.text()) return value;
  }
  return std::nullopt;
}

bool in_range(const setting& row, std::uint64_t number) { return number >= row.min && number <= row.max; }

// One overload per type that a setting may have. Each says nothing but whether the value is one; what was
// expected instead is said by `setting::expected`.
bool read(const setting&, const found_value& found, std::string& out) {
  const auto* text = found.text();
  if (text == nullptr || text->empty() || text->size() > 255) return false;
  if (!std::all_of(text->begin(), text->end(), [](char c) { return c > ' ' && c < '\x7f'; })) return false;
  out = *text;
  return true;
}

bool read(const setting&, const found_value& found, std::filesystem::path& out) {
  const auto* text = found.text();
  if (text == nullptr || text->empty()) return false;
  out = *text;
  return true;
}

bool read(const setting&, const found_value& found, listen_address& out) {
  if (found.text() == nullptr) return false;
  std::string_view text = *found.text();
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  const auto port = whole_number(text.substr(colon + 1));
  if (!port || *port > 65535) return false;
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[')) {
    if (!host.ends_with(']') || host.size() < 4) return false;
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return false;  // an IPv6 address without its brackets: which colon begins the port?
  }
  if (host.find_first_of(" \t/[]") != std::string_view::npos) return false;
  out = {std::string{host}, static_cast<std::uint16_t>(*port)};
  return true;
}

bool read(const setting& row, const found_value& found, std::uint64_t& out) {
  const auto number = whole_number(found);
  if (!number || !in_range(row, *number)) return false;
  out = *number;
  return true;
}

bool read(const setting& row, const found_value& found, std::chrono::seconds& out) {
  const auto number = whole_number(found);
  if (!number || !in_range(row, *number)) return false;
  out = std::chrono::seconds{static_cast<std::int64_t>(*number)};
  return true;
}

bool read(const setting& row, const found_value& found, std::chrono::milliseconds& out) {
  if (found.text() == nullptr) return false;
  const auto number = with_unit(*found.text(), duration_units);
  if (!number || !in_range(row, *number)) return false;
  out = std::chrono::milliseconds{static_cast<std::int64_t>(*number)};
  return true;
}

bool read(const setting& row, const found_value& found, byte_size& out) {
  const auto number = size_in_bytes(found);
  if (!number || !in_range(row, *number)) return false;
  out = {*number};
  return true;
}

bool read(const setting& row, const found_value& found, std::optional<byte_size>& out) {
  if (found.text() != nullptr && *found.text() == "auto") {
    out.reset();
    return true;
  }
  byte_size size;
  if (!read(row, found, size)) return false;
  out = size;
  return true;
}

// What may be left out.
template <class Value>
bool read_unless_none(const setting& row, const found_value& found, std::optional<Value>& out) {
  if (found.text() != nullptr && *found.text() == "none") {
    out.reset();
    return true;
  }
  Value value;
  if (!read(row, found, value)) return false;
  out = std::move(value);
  return true;
}

bool read(const setting& row, const found_value& found, std::optional<listen_address>& out) {
  return read_unless_none(row, found, out);
}

bool read(const setting& row, const found_value& found, std::optional<std::filesystem::path>& out) {
  return read_unless_none(row, found, out);
}

bool read(const setting&, const found_value& found, network_list& out) {
  if (found.text() == nullptr) return false;
  auto networks = amqp091::parse_networks(*found.text());
  if (!networks) return false;
  out.networks = std::move(*networks);
  return true;
}

// "off", a fraction, or a size.
bool read(const setting& row, const found_value& found, memory_limit& out) {
  const auto* text = found.text();
  if (text != nullptr && *text == "off") {
    out = {};
    return true;
  }
  double fraction = 0;
  if (const auto* number = std::get_if<double>(&found.value)) {
    fraction = *number;
  } else if (text != nullptr && text->find('.') != std::string::npos) {
    const auto* const end = text->data() + text->size();
    const auto read_part = std::from_chars(text->data(), end, fraction);
    if (read_part.ec != std::errc{} || read_part.ptr != end) return false;
  } else {
    byte_size size;
    if (!read(row, found, size)) return false;
    out = {0, size.bytes};
    return true;
  }
  if (!(fraction > 0 && fraction <= 1)) return false;
  out = {fraction, 0};
  return true;
}

bool read(const setting&, const found_value& found, certificate_check& out) {
  const auto value = named(found, certificate_checks);
  if (value) out = *value;
  return value.has_value();
}

bool read(const setting&, const found_value& found, login_source& out) {
  const auto value = named(found, login_sources);
  if (value) out = *value;
  return value.has_value();
}

bool read(const setting&, const found_value& found, log_level& out) {
  const auto value = named(found, log_levels);
  if (value) out = *value;
  return value.has_value();
}

bool read(const setting&, const found_value& found, log_format& out) {
  const auto value = named(found, log_formats);
  if (value) out = *value;
  return value.has_value();
}

bool read(const setting&, const found_value& found, product_name& out) {
  const auto value = named(found, product_names);
  if (value) out = *value;
  return value.has_value();
}

// The same types, written as a configuration file writes them.
std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (const auto octet = static_cast<unsigned char>(c); octet < 0x20 || octet == 0x7F) {
      constexpr std::string_view digits = "0123456789ABCDEF";
      out += "\\u00";
      out += {digits[octet >> 4U], digits[octet & 15U]};
    } else {
      out += c;
    }
  }
  return out + '"';
}
std::string show(const std::string& value) { return toml_string(value); }
std::string show(const std::filesystem::path& value) { return toml_string(value.string()); }
std::string show(const listen_address& value) { return toml_string(to_string(value)); }
std::string show(std::uint64_t value) { return std::to_string(value); }
std::string show(std::chrono::seconds value) { return std::to_string(value.count()); }
std::string show(std::chrono::milliseconds value) { return toml_string(show_duration(value)); }
std::string show(byte_size value) {
  const std::string text = show_size(value.bytes);
  return text.find(' ') == std::string::npos ? text : toml_string(text);
}
std::string show(const std::optional<byte_size>& value) { return value ? show(*value) : toml_string("auto"); }
std::string show(const std::optional<listen_address>& value) {
  return value ? show(*value) : toml_string("none");
}
std::string show(const std::optional<std::filesystem::path>& value) {
  return value ? show(*value) : toml_string("none");
}
std::string show(const network_list& value) { return toml_string(amqp091::to_string(value.networks)); }
std::string show(const memory_limit& value) {
  if (value.bytes != 0) return show(byte_size{value.bytes});
  if (value.fraction == 0) return toml_string("off");
  std::array<char, 32> digits{};
  const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), value.fraction);
  std::string out{digits.data(), written.ptr};
  return out.find('.') == std::string::npos ? out + ".0" : out;
}
template <class Enum, std::size_t N>
std::string name_of(Enum value, const std::array<std::pair<std::string_view, Enum>, N>& names) {
  for (const auto& [name, named_value] : names) {
    if (named_value == value) return toml_string(name);
  }
  return {};
}
std::string show(certificate_check value) { return name_of(value, certificate_checks); }
std::string show(login_source value) { return name_of(value, login_sources); }
std::string show(product_name value) { return name_of(value, product_names); }
std::string show(log_level value) { return toml_string(to_string(value)); }
std::string show(log_format value) { return toml_string(value == log_format::json ? "json" : "text"); }

std::string shown_value(const setting& row, const settings& values) {
  return std::visit([&](auto member) { return show(values.*member); }, row.member);
}

bool assign(const setting& row, const found_value& found, settings& values) {
  return std::visit([&](auto member) { return read(row, found, values.*member); }, row.member);
}

// One line of the file that sets something.
struct file_entry {
  std::string name;  // amqp.heartbeat
  found_value value;
  std::size_t line;
};

void flatten(const toml::table& from, const std::string& prefix, std::vector<file_entry>& out) {
  for (const auto& [key, node] : from) {
    std::string name = prefix.empty() ? std::string{key.str()} : prefix + '.' + std::string{key.str()};
    if (const auto* inner = node.as_table()) {
      // An empty table is looked at too: a header that nobody knows is a mistake, even before its first key.
      if (inner->empty())
        out.push_back({std::move(name), {}, node.source().begin.line});
      else
        flatten(*inner, name, out);
      continue;
    }
    found_value found{{}, true, {}};
    if (const auto* text = node.as_string()) found.value = text->get();
    if (const auto* number = node.as_integer()) found.value = number->get();
    if (const auto* number = node.as_floating_point()) found.value = number->get();
    if (found.text() != nullptr) {
      found.shown = toml_string(*found.text());
    } else {
      std::ostringstream shown;
      node.visit([&](const auto& concrete) { shown << concrete; });
      found.shown = shown.str();
    }
    out.push_back({std::move(name), std::move(found), node.source().begin.line});
  }
}

bool is_known_table(std::string_view name) {
  return std::any_of(table().begin(), table().end(), [&](const setting& row) { return row.table == name; });
}

std::string unknown_key(std::string_view name) {
  std::string text = "unknown key " + std::string{name};
  for (const auto& foreign : foreign_keys) {
    if (name == foreign.theirs) {
      return text + ": what RabbitMQ calls so is " + std::string{foreign.ours} + " here";
    }
  }
  if (auto near = nearest(name, [](const setting& row) { return row.name(); })) {
    return text + ": did you mean " + *near + "?";
  }
  // The right key under the wrong table, or under none.
  const auto last = name.substr(name.rfind('.') == std::string_view::npos ? 0 : name.rfind('.') + 1);
  for (const auto& row : table()) {
    if (ends_with_key(name, row.key) || last == row.key) return text + ": did you mean " + row.name() + "?";
  }
  return text + ": `posthornd --print-config` shows all there are";
}

std::string bad_value(const setting& row, std::string_view name, const found_value& found) {
  return std::string{name} + " = " + found.shown + ": expected " + row.expected();
}

// Collects everything that is wrong, so that an operator need not find it one start at a time.
class complaints {
public:
  void add(std::string text) {
    if (!text_.empty()) text_ += '\n';
    text_ += text;
  }
  [[nodiscard]] bool any() const { return !text_.empty(); }
  [[nodiscard]] error as_error() && { return refused(std::move(text_)); }

private:
  std::string text_;
};

void apply_file(const toml::table& parsed, std::string_view file_name, effective_settings& effective,
                complaints& wrong) {
  std::vector<file_entry> entries;
  flatten(parsed, {}, entries);
  std::stable_sort(entries.begin(), entries.end(),
                   [](const file_entry& a, const file_entry& b) { return a.line < b.line; });
  for (const auto& entry : entries) {
    std::string where = std::string{file_name} + ':' + std::to_string(entry.line);
    if (!entry.value.is_typed && is_known_table(entry.name)) continue;
    const auto row = std::find_if(table().begin(), table().end(),
                                  [&](const setting& candidate) { return candidate.name() == entry.name; });
    if (row == table().end()) {
      wrong.add(where + ": " + unknown_key(entry.name));
    } else if (!assign(*row, entry.value, effective.values)) {
      wrong.add(where + ": " + bad_value(*row, entry.name, entry.value));
    } else {
      effective.origins[static_cast<std::size_t>(row - table().begin())] = {origin_kind::file,
                                                                            std::move(where)};
    }
  }
}

// Kubernetes gives every container the addresses of the services around it, as POSTHORN_PORT_5672_TCP and alike
// for a service that is called posthorn. These are no settings, and no mistakes.
bool is_service_link(std::string_view variable) {
  return variable.ends_with("_PORT") || variable.find("_PORT_") != std::string_view::npos ||
         variable.ends_with("_SERVICE_HOST") || variable.find("_SERVICE_PORT") != std::string_view::npos;
}

void apply_environment(const std::map<std::string, std::string>& environment, effective_settings& effective,
                       complaints& wrong) {
  for (const auto& [variable, value] : environment) {
    if (!variable.starts_with("POSTHORN_")) continue;
    const auto row = std::find_if(table().begin(), table().end(),
                                  [&](const setting& candidate) { return candidate.variable() == variable; });
    if (row != table().end()) {
      const auto found = from_text(value);
      if (assign(*row, found, effective.values)) {
        effective.origins[static_cast<std::size_t>(row - table().begin())] = {origin_kind::environment,
                                                                              variable};
      } else {
        wrong.add("environment: " + bad_value(*row, variable, found));
      }
      continue;
    }
    const bool is_ours_otherwise =
        std::find(other_variables.begin(), other_variables.end(), variable) != other_variables.end();
    if (is_ours_otherwise || is_service_link(variable)) continue;
    // A variable of a table that we have is meant for us. One of another table only if it is nearly a known one:
    // the prefix may well be somebody else's too.
    const bool is_ours = std::any_of(table().begin(), table().end(), [&](const setting& candidate) {
      return variable.starts_with("POSTHORN_" + upper(candidate.table) + '_');
    });
    const auto near = nearest(variable, [](const setting& candidate) { return candidate.variable(); });
    if (near && (is_ours || distance(*near, variable) <= 2)) {
      wrong.add("environment: unknown variable " + variable + ": did you mean " + *near + "?");
    } else if (is_ours) {
      wrong.add("environment: unknown variable " + variable +
                ": `posthornd --print-config` shows all settings");
    }
  }
}

void apply_command_line(const std::vector<std::pair<std::string, std::string>>& command_line,
                        effective_settings& effective, complaints& wrong) {
  for (const auto& [flag, value] : command_line) {
    const auto row = std::find_if(table().begin(), table().end(),
                                  [&](const setting& candidate) { return candidate.flag == flag; });
    if (row == table().end()) {
      const auto near = nearest(flag, [](const setting& candidate) { return candidate.flag; });
      wrong.add("command line: unknown option " + flag + (near ? ": did you mean " + *near + "?" : ""));
      continue;
    }
    const auto found = from_text(value);
    if (assign(*row, found, effective.values)) {
      effective.origins[static_cast<std::size_t>(row - table().begin())] = {origin_kind::command_line, flag};
    } else {
      wrong.add("command line: " + flag + ' ' + found.shown + ": expected " + row->expected());
    }
  }
}

effective_settings defaults(const std::string& host_name) {
  effective_settings effective;
  effective.origins.resize(table().size());
  for (const auto& row : table()) {
    if (row.default_text.empty()) continue;
    expects(assign(row, from_text(row.default_text), effective.values),
            "every default is a value of its setting");
  }
  effective.values.node_name = "posthorn@" + host_name;
  return effective;
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

}  // namespace

std::string to_string(const listen_address& address) {
  const bool is_v6 = address.host.find(':') != std::string::npos;
  return (is_v6 ? '[' + address.host + ']' : address.host) + ':' + std::to_string(address.port);
}

std::string_view to_string(log_level level) noexcept {
  for (const auto& [name, value] : log_levels) {
    if (value == level) return name;
  }
  return "info";
}

std::string setting::name() const { return std::string{table} + '.' + std::string{key}; }

std::string setting::variable() const { return "POSTHORN_" + upper(table) + '_' + upper(key); }

std::string setting::expected() const {
  const setting& row = *this;
  return std::visit(
      [&](auto chosen) -> std::string {
        using type = std::remove_reference_t<decltype(std::declval<settings&>().*chosen)>;
        if constexpr (std::is_same_v<type, std::string>) {
          return "a name of 1 to 255 visible ASCII characters without spaces";
        } else if constexpr (std::is_same_v<type, std::filesystem::path>) {
          return "a path";
        } else if constexpr (std::is_same_v<type, listen_address>) {
          return R"(HOST:PORT, such as "*:5672", "127.0.0.1:5672" or "[::1]:5672")";
        } else if constexpr (std::is_same_v<type, std::uint64_t>) {
          return "a whole number from " + std::to_string(row.min) + " to " + std::to_string(row.max);
        } else if constexpr (std::is_same_v<type, std::chrono::seconds>) {
          return "a whole number of seconds from " + std::to_string(row.min) + " to " +
                 std::to_string(row.max);
        } else if constexpr (std::is_same_v<type, std::chrono::milliseconds>) {
          const auto shown = [](std::uint64_t ms) {
            return show_duration(std::chrono::milliseconds{static_cast<std::int64_t>(ms)});
          };
          return R"(a time with its unit (ms, s or min), such as "10 s", from )" + shown(row.min) + " to " +
                 shown(row.max);
        } else if constexpr (std::is_same_v<type, byte_size>) {
          return R"(a size in bytes, or with its unit, such as "16 MiB" or "2 GB", from )" +
                 show_size(row.min) + " to " + show_size(row.max);
        } else if constexpr (std::is_same_v<type, std::optional<byte_size>>) {
          return R"("auto", or a size in bytes, or with its unit, such as "16 MiB" or "2 GB", from )" +
                 show_size(row.min) + " to " + show_size(row.max);
        } else if constexpr (std::is_same_v<type, std::optional<listen_address>>) {
          return R"("none", or HOST:PORT, such as "*:5671")";
        } else if constexpr (std::is_same_v<type, std::optional<std::filesystem::path>>) {
          return R"("none", or a path)";
        } else if constexpr (std::is_same_v<type, network_list>) {
          return R"("none", or addresses and networks with commas between them, such as "10.0.0.0/8, ::1")";
        } else if constexpr (std::is_same_v<type, memory_limit>) {
          return R"("off", a part of the memory there is, such as 0.6, or a size such as "2 GB", from )" +
                 show_size(row.min) + " to " + show_size(row.max);
        } else if constexpr (std::is_same_v<type, certificate_check>) {
          return names_of(certificate_checks);
        } else if constexpr (std::is_same_v<type, login_source>) {
          return names_of(login_sources);
        } else if constexpr (std::is_same_v<type, product_name>) {
          return names_of(product_names);
        } else if constexpr (std::is_same_v<type, log_level>) {
          return names_of(log_levels);
        } else {
          return names_of(log_formats);
        }
      },
      member);
}

std::span<const setting> setting_table() { return table(); }

result<effective_settings> load_settings(const setting_sources& sources, std::string_view file_text,
                                         std::string_view file_name) {
  auto effective = defaults(sources.host_name);
  complaints wrong;
  // The library tells of a syntax error by an exception, and is asked only here.
  try {
    const toml::table parsed = toml::parse(file_text, file_name);
    apply_file(parsed, file_name, effective, wrong);
  } catch (const toml::parse_error& failure) {
    wrong.add(std::string{file_name} + ':' + std::to_string(failure.source().begin.line) +
              ": not TOML: " + std::string{failure.description()});
  }
  apply_environment(sources.environment, effective, wrong);
  apply_command_line(sources.command_line, effective, wrong);
  if (wrong.any()) return std::move(wrong).as_error();
  return effective;
}

result<effective_settings> load_settings(const setting_sources& sources) {
  if (!sources.file) return load_settings(sources, {}, {});
  const std::string name = sources.file->string();
  std::error_code failure;
  if (std::filesystem::is_directory(*sources.file, failure)) {
    return refused("cannot read the configuration file " + name + ": it is a directory");
  }
  std::ifstream in{*sources.file, std::ios::binary};
  if (!in) {
    return refused("cannot read the configuration file " + name + ": " +
                   std::error_code{errno, std::generic_category()}.message());
  }
  std::ostringstream text;
  text << in.rdbuf();
  return load_settings(sources, std::move(text).str(), name);
}

setting_sources sources_of_process() {
  setting_sources sources;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text{*entry};
    const auto equals = text.find('=');
    if (equals == std::string_view::npos || !text.starts_with("POSTHORN_")) continue;
    sources.environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  if (const auto config = sources.environment.find("POSTHORN_CONFIG");
      config != sources.environment.end() && !config->second.empty()) {
    sources.file = config->second;
  }
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) == 0 && host[0] != '\0') sources.host_name = host.data();
  return sources;
}

std::vector<const setting*> changed_settings(const settings& before, const settings& after) {
  std::vector<const setting*> changed;
  for (const auto& row : table()) {
    const bool is_same = std::visit([&](auto member) { return before.*member == after.*member; }, row.member);
    if (!is_same) changed.push_back(&row);
  }
  return changed;
}

std::string print_config(const effective_settings& effective) {
  std::string out =
      "# The settings in effect, and where each comes from. This is a valid configuration file.\n";
  std::string_view current_table;
  for (std::size_t i = 0; i < table().size(); ++i) {
    const setting& row = table()[i];
    if (row.table != current_table) {
      current_table = row.table;
      out += "\n[" + std::string{current_table} + "]\n";
    }
    const origin& from = effective.origins[i];
    out += padded(std::string{row.key} + " = " + shown_value(row, effective.values), 40) + "  # " +
           (from.kind == origin_kind::built_in ? "default" : "from " + from.where) + '\n';
  }
  return out;
}

std::string setting_reference() {
  std::string out =
      "| key | default | command line | environment | meaning |\n"
      "| --- | --- | --- | --- | --- |\n";
  const auto host_independent = defaults("HOST");
  for (const auto& row : table()) {
    out += "| `" + row.name() + "` | `" + shown_value(row, host_independent.values) + "` | `" +
           std::string{row.flag} + ' ' + std::string{row.placeholder} + "` | `" + row.variable() + "` | " +
           std::string{row.help} + "; " + row.expected() + (row.live ? "; read again on SIGHUP" : "") +
           " |\n";
  }
  return out;
}

}  // namespace posthorn
