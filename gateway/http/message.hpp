// What was asked over HTTP, and what is answered, freed of the protocol's details.
//
// Threads   plain values.
#pragma once

#include "mailbox/result.hpp"

#include <boost/asio/ip/address.hpp>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn::http {

struct request {
  std::string method;         // "GET"
  std::string path;           // as it came, percent-encoded, without the query
  std::string query;          // what stands after the first '?'
  std::string authorization;  // the header's value, or empty
  std::string body;
  boost::asio::ip::address remote;
  std::string host{};    // "127.0.0.1:15672", the header's value
  std::string origin{};  // "http://example.org", where a browser's page came from; or empty
  std::string reason{};  // of the header X-Reason, or empty
  // Who asks was found out before: see management.hpp.
  bool is_authenticated = false;
};

struct response {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // further ones
};

// Runs on the server's I/O threads, several at a time: it reads snapshots, and never waits.
using request_handler = std::function<response(const request&)>;

// May be called once, on any thread.
using responder = std::function<void(response)>;
// One that may answer later, without keeping a thread.
using deferring_handler = std::function<void(const request&, responder)>;

// {"error":"Not Found","reason":"..."}, as RabbitMQ's management API answers.
[[nodiscard]] response error_response(unsigned status, std::string_view reason);
// With the status that fits the error.
[[nodiscard]] response error_response(const error& failure);

}  // namespace posthorn::http
