// The node's log: one line for each event, to standard error, as text or as one JSON object.
//
// Threads   `write` and `set_level` may be called from any.
#pragma once

#include "node/settings.hpp"

#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

namespace spdlog {
class logger;
}

namespace posthorn {

struct log_field {
  std::string_view key;
  std::string value;
};

class node_log {
public:
  // The stream outlives the log.
  node_log(std::ostream& to, log_level level, log_format format);
  ~node_log();
  node_log(const node_log&) = delete;
  node_log& operator=(const node_log&) = delete;

  // text   2026-01-31T12:00:00.000+01:00 info     opened the store messages=5 directory="/a b"
  // json   {"time":"2026-01-31T11:00:00.000Z","level":"info","message":"opened the store","messages":"5",…}
  void write(log_level level, std::string_view message, std::initializer_list<log_field> fields = {});
  void set_level(log_level level);

private:
  const log_format format_;
  const std::unique_ptr<spdlog::logger> logger_;
};

}  // namespace posthorn
