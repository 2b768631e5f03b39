#include "node/log.hpp"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ostream_sink.h>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>

#include <algorithm>
#include <utility>

namespace posthorn {
namespace {

spdlog::level::level_enum to_spdlog(log_level level) {
  switch (level) {
    case log_level::debug: return spdlog::level::debug;
    case log_level::info: return spdlog::level::info;
    case log_level::warning: return spdlog::level::warn;
    case log_level::error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

bool is_control(char c) { return (c >= 0 && c < ' ') || c == '\x7f'; }

// Names come from clients, and may hold any octets: a log line stays a line.
std::string one_line(std::string_view text) {
  std::string out{text};
  std::replace_if(out.begin(), out.end(), is_control, ' ');
  return out;
}

std::string text_value(std::string_view value) {
  const bool is_plain = !value.empty() && std::none_of(value.begin(), value.end(), [](char c) {
    return is_control(c) || c == ' ' || c == '"' || c == '=';
  });
  if (is_plain) return std::string{value};
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += is_control(c) ? ' ' : c;
  }
  return out + '"';
}

// Octets that are no UTF-8 would make the whole line unreadable for what parses it.
std::string json_string(std::string_view text) {
  std::string valid;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t size = lead < 0x80                   ? 1
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xF0 && lead < 0xF5 ? 4
                                                           : 0;
    const auto piece = text.substr(i, size);
    const bool is_whole =
        size != 0 && piece.size() == size && std::all_of(piece.begin() + 1, piece.end(), [](char c) {
          return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
        });
    if (is_whole)
      valid += piece;
    else
      valid += "\xEF\xBF\xBD";  // U+FFFD
    i += is_whole ? size : 1;
  }
  return boost::json::serialize(boost::json::string{valid});
}

}  // namespace

node_log::node_log(std::ostream& to, log_level level, log_format format)
    : format_{format},
      logger_{std::make_unique<spdlog::logger>("posthorn",
                                               std::make_shared<spdlog::sinks::ostream_sink_mt>(to, true))} {
  if (format == log_format::json) {
    logger_->set_formatter(std::make_unique<spdlog::pattern_formatter>(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})", spdlog::pattern_time_type::utc));
  } else {
    logger_->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %-7l %v");
  }
  set_level(level);
}

node_log::~node_log() = default;

void node_log::set_level(log_level level) { logger_->set_level(to_spdlog(level)); }

void node_log::write(log_level level, std::string_view message, std::initializer_list<log_field> fields) {
  const auto spdlog_level = to_spdlog(level);
  if (!logger_->should_log(spdlog_level)) return;
  std::string line;
  if (format_ == log_format::json) {
    line = "\"message\":" + json_string(message);
    for (const auto& [key, value] : fields) line += ',' + json_string(key) + ':' + json_string(value);
  } else {
    line = one_line(message);
    for (const auto& [key, value] : fields) line += ' ' + std::string{key} + '=' + text_value(value);
  }
  logger_->log(spdlog_level, spdlog::string_view_t{line.data(), line.size()});
}

}  // namespace posthorn
