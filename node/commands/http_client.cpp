#include "node/commands/http_client.hpp"

#include "gateway/http/authorization.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

#include <optional>
#include <utility>

namespace posthorn {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;

struct target_url {
  std::string host;
  std::string port = "15672";
  std::string prefix;
};

result<target_url> parse_url(std::string_view url) {
  const auto wrong = [&](std::string_view why) {
    return refused("the URL " + std::string{url} + ' ' + std::string{why} +
                   ": expected http://HOST:PORT, such as http://127.0.0.1:15672");
  };
  std::string_view rest = url;
  if (rest.starts_with("https://")) return wrong("asks for TLS, which a node does not speak yet");
  if (rest.starts_with("http://"))
    rest.remove_prefix(7);
  else if (rest.find("://") != std::string_view::npos)
    return wrong("is not for HTTP");
  target_url out;
  const auto slash = std::min(rest.find('/'), rest.size());
  out.prefix = rest.substr(slash);
  while (out.prefix.ends_with('/')) out.prefix.pop_back();
  rest = rest.substr(0, slash);
  if (rest.find('@') != std::string_view::npos) return wrong("holds a user: give --user and --password");
  const auto colon = rest.rfind(':');
  if (colon != std::string_view::npos && rest.find(']', colon) == std::string_view::npos) {
    out.port = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
  }
  if (rest.starts_with('[') && rest.ends_with(']')) rest = rest.substr(1, rest.size() - 2);
  out.host = rest;
  if (out.host.empty() || out.port.empty() || out.port.find_first_not_of("0123456789") != std::string::npos) {
    return wrong("names no host and port");
  }
  return out;
}

// The question's way, in callbacks, because only asynchronous operations have a deadline.
struct exchange {
  asio::io_context io;
  tcp::resolver resolver{io};
  beast::tcp_stream stream{io};
  beast::http::request<beast::http::string_body> question;
  beast::http::response_parser<beast::http::string_body> parser;
  beast::flat_buffer buffer;
  beast::error_code failure = asio::error::timed_out;
  bool is_done = false;

  void start(const target_url& url) {
    resolver.async_resolve(
        url.host, url.port, [this](beast::error_code e, tcp::resolver::results_type found) {
          if (e) return finish(e);
          stream.async_connect(found, [this](beast::error_code e2, const tcp::endpoint&) {
            if (e2) return finish(e2);
            beast::http::async_write(stream, question, [this](beast::error_code, std::size_t) {
              // Who does not want all of it may have said why.
              beast::http::async_read(stream, buffer, parser,
                                      [this](beast::error_code e4, std::size_t) { finish(e4); });
            });
          });
        });
  }

  void finish(beast::error_code e) {
    failure = e;
    is_done = true;
  }
};

result<http_answer> talk_to(const node_access& access, beast::http::verb method, std::string_view path,
                            std::chrono::milliseconds timeout, const http_order* order = nullptr) {
  const auto url = parse_url(access.url);
  if (!url) return url.error();
  exchange talk;
  talk.question.method(method);
  talk.question.target(url->prefix + std::string{path});
  talk.question.version(11);
  if (order != nullptr) {
    if (!order->body.empty()) talk.question.set(beast::http::field::content_type, "application/json");
    if (!order->reason.empty()) talk.question.set("X-Reason", order->reason);
    talk.question.body() = order->body;
    talk.question.prepare_payload();
  }
  talk.question.set(beast::http::field::host, url->host);
  talk.question.set(beast::http::field::user_agent, "posthorn");
  talk.question.set(beast::http::field::authorization,
                    http::basic_authorization({access.user, access.password}));
  talk.question.keep_alive(false);
  if (order == nullptr && method == beast::http::verb::post) talk.question.content_length(0);
  talk.parser.body_limit(std::uint64_t{256} << 20U);
  talk.start(*url);
  talk.io.run_for(timeout);
  if (!talk.is_done || talk.failure) {
    const std::string why =
        talk.is_done ? talk.failure.message() : "no answer within " + std::to_string(timeout.count()) + " ms";
    return error{errc::unreachable, "no node answers at " + access.url +
                                        ": is posthornd running there, and is " +
                                        "this its --http address? (" + why + ')'};
  }
  auto answer = talk.parser.release();
  http_answer out{answer.result_int(), std::move(answer.body())};
  for (const auto& header : answer) {
    if (header.name() != beast::http::field::warning) continue;
    if (!out.warnings.empty()) out.warnings += "; ";
    std::string_view text{header.value().data(), header.value().size()};
    // RFC 9111: a code, who warns, and a text in quotation marks. Only the text is for people.
    const auto begin = text.find('"');
    if (begin != std::string_view::npos && text.size() > begin + 1 && text.back() == '"') {
      text = text.substr(begin + 1, text.size() - begin - 2);
    }
    out.warnings += text;
  }
  return out;
}

// What to do about an answer that is none to the question.
error refusal_of(const node_access& access, const http_answer& answer) {
  std::string reason = "status " + std::to_string(answer.status);
  boost::system::error_code failure;
  const auto body = boost::json::parse(answer.body, failure);
  if (!failure && body.is_object() && body.as_object().contains("reason") && body.at("reason").is_string()) {
    reason = body.at("reason").as_string().c_str();
  }
  if (answer.status == 401) {
    return refused("the node at " + access.url + " does not let the user " + access.user + " in: " + reason +
                   ". Give --user and --password, or ask from the node's own machine");
  }
  return refused("the node at " + access.url + " answered: " + reason);
}

error no_posthorn(const node_access& access) {
  return refused("what answers at " + access.url + " is no Posthorn node");
}

}  // namespace

result<http_answer> http_get(const node_access& access, std::string_view path,
                             std::chrono::milliseconds timeout) {
  return talk_to(access, beast::http::verb::get, path, timeout);
}

result<std::string> http_get_ok(const node_access& access, std::string_view path,
                                std::chrono::milliseconds timeout) {
  auto answer = http_get(access, path, timeout);
  if (!answer) return answer.error();
  if (answer->status == 200) return std::move(answer->body);
  return refusal_of(access, *answer);
}

result<boost::json::value> http_get_json(const node_access& access, std::string_view path) {
  const auto body = http_get_ok(access, path);
  if (!body) return body.error();
  boost::system::error_code failure;
  auto parsed = boost::json::parse(*body, failure);
  if (failure) return no_posthorn(access);
  return parsed;
}

result<boost::json::array> http_get_list(const node_access& access, std::string_view path) {
  auto parsed = http_get_json(access, path);
  if (!parsed) return parsed.error();
  if (!parsed->is_array()) return no_posthorn(access);
  return std::move(parsed->get_array());
}

result<void> http_post_ok(const node_access& access, std::string_view path,
                          std::chrono::milliseconds timeout) {
  const auto answer = talk_to(access, beast::http::verb::post, path, timeout);
  if (!answer) return answer.error();
  if (answer->status >= 200 && answer->status < 300) return {};
  return refusal_of(access, *answer);
}

result<http_answer> http_order_ok(const node_access& access, const http_order& order,
                                  std::chrono::milliseconds timeout) {
  // A header has one line.
  if (order.reason.find_first_of("\r\n") != std::string::npos) {
    return refused("the reason is one line");
  }
  auto answer = talk_to(access, beast::http::string_to_verb(order.method), order.path, timeout, &order);
  if (!answer) return answer.error();
  if (answer->status >= 200 && answer->status < 300) return answer;
  return refusal_of(access, *answer);
}

std::string percent_encoded(std::string_view segment) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string out;
  for (const char c : segment) {
    const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                          c == '-' || c == '_' || c == '.' || c == '~';
    if (is_plain) {
      out += c;
      continue;
    }
    const auto octet = static_cast<unsigned char>(c);
    out += {'%', digits[octet >> 4U], digits[octet & 15U]};
  }
  return out;
}

}  // namespace posthorn
