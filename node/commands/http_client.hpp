// One question to a node's management API, with a deadline.
//
// Threads   each call does its work on the calling thread, and is over when it returns.
#pragma once

#include "mailbox/result.hpp"

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>

#include <chrono>
#include <string>
#include <string_view>

namespace posthorn {

struct node_access {
  std::string url = "http://127.0.0.1:15672";
  std::string user = "guest";
  std::string password = "guest";
};

struct http_answer {
  unsigned status = 0;
  std::string body;
  std::string warnings{};  // the texts of headers Warning, with semicolons between them
};

// Any answer is an answer, whatever its status. `unreachable` when there is none, `refused` when the URL is none.
[[nodiscard]] result<http_answer> http_get(const node_access& access, std::string_view path,
                                           std::chrono::milliseconds timeout = std::chrono::seconds{5});

// The body of an answer with status 200; the other statuses as errors that say what to do.
[[nodiscard]] result<std::string> http_get_ok(const node_access& access, std::string_view path,
                                              std::chrono::milliseconds timeout = std::chrono::seconds{5});

// The same, read as JSON, or as a list of it; `refused` when it is none.
[[nodiscard]] result<boost::json::value> http_get_json(const node_access& access, std::string_view path);
[[nodiscard]] result<boost::json::array> http_get_list(const node_access& access, std::string_view path);

// An order, with an empty body. Nothing, when it was carried out; else an error that says what to do.
result<void> http_post_ok(const node_access& access, std::string_view path,
                          std::chrono::milliseconds timeout = std::chrono::seconds{5});

struct http_order {
  std::string method, path;
  std::string body{};    // JSON, or nothing
  std::string reason{};  // for the header X-Reason
};
// Its answer, when it was carried out; else an error that says what to do.
result<http_answer> http_order_ok(const node_access& access, const http_order& order,
                                  std::chrono::milliseconds timeout = std::chrono::seconds{30});

// For one segment of a path: "/" becomes "%2F".
[[nodiscard]] std::string percent_encoded(std::string_view segment);

}  // namespace posthorn
