// Messages that wait for their time in exchanges of the type x-delayed-message, over HTTP. JSON, with basic authentication.
//
//   GET    /api/delayed/VHOST/EXCHANGE[?limit=N][&from=ID]
//                                          an array: those that wait, in the order in which they are due, from this one on;
//                                          100 of them, or so many, at most 500
//   DELETE /api/delayed/VHOST/EXCHANGE     } {"cancelled": N}, when it is durable: all that wait, or this one
//   DELETE /api/delayed/VHOST/EXCHANGE/ID  }
//
// Errors    400 wrong, and why; 404 there is none; 503 not just now.
// Threads   called on the HTTP server's threads; answers come on any.
#pragma once

#include "gateway/http/message.hpp"
#include "mailbox/delayed.hpp"
#include "mailbox/result.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace posthorn::http {

struct delayed_summary {
  delayed_id id;
  std::string routing_key, message_id;
  std::uint64_t size = 0;  // of the body, in bytes
};

// What these calls need from the broker. Functions never wait; each answers once, on any thread, or at once.
class delayed_view {
public:
  virtual ~delayed_view() = default;

  virtual void list_delayed(const std::string& vhost, const std::string& exchange, const delayed_id& from,
                            std::size_t count_max,
                            std::function<void(result<std::vector<delayed_summary>>)> answer) = 0;
  // This one, or all; says how many they were.
  virtual void cancel_delayed(const std::string& vhost, const std::string& exchange,
                              const std::optional<delayed_id>& which,
                              std::function<void(result<std::uint64_t>)> answer) = 0;
};

// Whether a path, split at its slashes, is one of these.
[[nodiscard]] bool is_about_delayed(const std::vector<std::string>& path);

// Of one who may ask for that.
void answer_about_delayed(delayed_view& node, const std::vector<std::string>& path, const request& asked,
                          const responder& answer);

}  // namespace posthorn::http
