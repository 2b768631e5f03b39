#include "gateway/http/server.hpp"

#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

using namespace posthorn;
using namespace std::chrono_literals;
namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

http::response echo(const http::request& asked) {
  if (asked.path == "/done") return {204, {}, {}, {}};
  if (asked.path == "/from") return {200, "text/plain", asked.host + " and " + asked.origin, {}};
  return {200,
          "text/plain",
          asked.method + ' ' + asked.path + " ?" + asked.query + ' ' + asked.authorization + ' ' +
              std::to_string(asked.body.size()) + ' ' + asked.remote.to_string(),
          {{"X-Test", "yes"}}};
}

// A server on a free port of this machine, with its thread.
struct running_server {
  explicit running_server(http::server_limits limits = {}, const char* host = "127.0.0.1",
                          http::body_gate gate = nullptr) {
    const http::deferring_handler handle = [](const http::request& asked, const http::responder& answer) {
      answer(echo(asked));
    };
    auto listening = http::server::listen(io, host, 0, handle, limits, std::move(gate));
    REQUIRE(listening.has_value());
    server = std::move(*listening);
    thread = std::thread{[this] { io.run(); }};
  }
  ~running_server() {
    server->stop();
    thread.join();  // so `stop` leaves nothing behind that would keep the io_context running
  }
  running_server(const running_server&) = delete;
  running_server& operator=(const running_server&) = delete;

  std::uint16_t port() const { return server->endpoints().front().port(); }

  asio::io_context io;
  std::unique_ptr<http::server> server;
  std::thread thread;
};

// One connection, with blocking calls that give up after five seconds.
struct client {
  explicit client(std::uint16_t port, const char* host = "127.0.0.1") {
    socket.connect({asio::ip::make_address(host), port});
    const timeval limit{5, 0};
    ::setsockopt(socket.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }

  void send(std::string_view bytes) {
    boost::system::error_code ignored;  // the server may have closed before it read everything
    asio::write(socket, asio::buffer(bytes.data(), bytes.size()), ignored);
  }
  // One answer, by its content-length; "" when the connection was closed first.
  std::string answer(bool has_body = true) {
    boost::system::error_code failure;
    const auto head = asio::read_until(socket, asio::dynamic_buffer(received), "\r\n\r\n", failure);
    if (failure) return {};
    const auto at = received.find("Content-Length: ");
    const auto size = head + (has_body ? std::stoul(received.substr(at + 16)) : 0);
    while (received.size() < size) {
      char piece[4096];
      const auto count = socket.read_some(asio::buffer(piece), failure);
      if (failure) return {};
      received.append(piece, count);
    }
    auto out = received.substr(0, size);
    received.erase(0, size);
    return out;
  }
  bool is_closed() {
    char octet = 0;
    boost::system::error_code failure;
    asio::read(socket, asio::buffer(&octet, 1), failure);
    return failure == asio::error::eof || failure == asio::error::connection_reset;
  }

  asio::io_context io;
  tcp::socket socket{io};
  std::string received;
};

}  // namespace

TEST_CASE("a request is handed over with its parts, and answered", "[http][server]") {
  const running_server running;
  client c{running.port()};
  c.send("GET /a%2Fb?x=1?y HTTP/1.1\r\nHost: h\r\nAuthorization: Basic abc\r\n\r\n");
  const auto answer = c.answer();
  CHECK(answer.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(answer.find("X-Test: yes\r\n") != std::string::npos);
  CHECK(answer.ends_with("GET /a%2Fb ?x=1?y Basic abc 0 127.0.0.1"));
}

TEST_CASE("a connection is kept alive, also for requests that came together", "[http][server]") {
  const running_server running;
  client c{running.port()};
  c.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(c.answer().find("GET /1 ") != std::string::npos);
  CHECK(c.answer().find("GET /2 ") != std::string::npos);
  c.send("POST /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
  CHECK(c.answer().find("POST /3 ?  3 ") != std::string::npos);
  CHECK(c.is_closed());
}

TEST_CASE("204 has no length, and the connection goes on", "[http][server]") {
  const running_server running;
  client c{running.port()};
  c.send("POST /done HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
  const auto done = c.answer(false);
  CHECK(done.starts_with("HTTP/1.1 204 No Content\r\n"));
  CHECK(done.find("Content-Length") == std::string::npos);
  CHECK(done.find("Content-Type") == std::string::npos);
  c.send("GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(c.answer().find("GET /2 ") != std::string::npos);
}

TEST_CASE("where a request goes to and comes from is handed over", "[http][server]") {
  const running_server running;
  client c{running.port()};
  c.send("GET /from HTTP/1.1\r\nHost: here:1\r\nOrigin: http://there:2\r\n\r\n");
  CHECK(c.answer().ends_with("here:1 and http://there:2"));
}

TEST_CASE("HEAD is answered with the length and without the body", "[http][server]") {
  const running_server running;
  client c{running.port()};
  c.send("HEAD /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
  const auto head = c.answer(false);
  CHECK(head.find("Content-Length: ") != std::string::npos);
  CHECK(c.answer().find("GET /2 ") != std::string::npos);
}

TEST_CASE("what is too large or no HTTP is refused, and the connection closed", "[http][server]") {
  const running_server running;
  SECTION("header") {
    client c{running.port()};
    c.send("GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(9000, 'x') + "\r\n\r\n");
    CHECK(c.answer().starts_with("HTTP/1.1 431 "));
    CHECK(c.is_closed());
  }
  SECTION("announced body") {
    client c{running.port()};
    c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n");
    CHECK(c.answer().starts_with("HTTP/1.1 413 "));
  }
  SECTION("chunked body") {
    client c{running.port()};
    c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n110000\r\n");
    c.send(std::string(0x110000, 'x'));
    CHECK(c.answer().starts_with("HTTP/1.1 413 "));
  }
  SECTION("an AMQP client at the wrong port") {
    client c{running.port()};
    c.send(std::string{"AMQP\0\0\x09\x01", 8} + "\r\n\r\n");
    CHECK(c.answer().starts_with("HTTP/1.1 400 "));
    CHECK(c.is_closed());
  }
}

TEST_CASE("a large body needs the gate's leave, and has a limit, too", "[http][server]") {
  http::server_limits limits;
  limits.body_size_max = 100;
  limits.large_body_size_max = 100'000;
  limits.large_bodies_max = 1;
  const running_server running{limits, "127.0.0.1",
                               [](const http::request& head, const std::function<void(bool)>& answer) {
                                 CHECK(head.body.empty());
                                 answer(head.path == "/large" && head.authorization == "yes");
                               }};
  const auto head = [](std::string_view path, std::size_t size, std::string_view who = "yes") {
    return "POST " + std::string{path} + " HTTP/1.1\r\nHost: h\r\nAuthorization: " + std::string{who} +
           "\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n";
  };
  const std::string body(100'000, 'x');
  SECTION("it is taken, and the connection goes on") {
    client c{running.port()};
    for (int n = 0; n < 2; ++n) {
      c.send(head("/large", body.size()));
      c.send(body);
      CHECK(c.answer().find(" 100000 ") != std::string::npos);
    }
    c.send(
        "POST /large HTTP/1.1\r\nHost: h\r\nAuthorization: yes\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3e8\r\n" +
        std::string(1000, 'x') + "\r\n0\r\n\r\n");
    CHECK(c.answer().find(" 1000 ") != std::string::npos);
  }
  SECTION("others get no more than before") {
    for (const auto& asked : {head("/large", 101, "no"), head("/other", 101), head("/large", 100'001)}) {
      client c{running.port()};
      c.send(asked);
      CHECK(c.answer().starts_with("HTTP/1.1 413 "));
    }
    client c{running.port()};
    c.send("POST /other HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" +
           std::string(101, 'x'));
    CHECK(c.answer().starts_with("HTTP/1.1 413 "));
    client small{running.port()};
    small.send(head("/other", 100) + std::string(100, 'x'));
    CHECK(small.answer().find(" 100 ") != std::string::npos);
  }
  SECTION("not too many at a time") {
    client first{running.port()}, second{running.port()};
    first.send(head("/large", body.size()) + "x");
    // It has come as far as the gate when the second one is refused.
    std::string told;
    for (int n = 0; n < 200 && !told.starts_with("HTTP/1.1 503 "); ++n) {
      client next{running.port()};
      next.send(head("/large", 101));
      next.send(std::string(101, 'x'));
      told = next.answer();
    }
    CHECK(told.starts_with("HTTP/1.1 503 "));
    first.send(body.substr(1));
    CHECK(first.answer().find(" 100000 ") != std::string::npos);
    second.send(head("/large", 101) + std::string(101, 'x'));
    CHECK(second.answer().find(" 101 ") != std::string::npos);
  }
}

TEST_CASE("a slow or silent client is cut off", "[http][server]") {
  http::server_limits limits;
  limits.idle_timeout = 100ms;
  limits.request_timeout = 100ms;
  const running_server running{limits};
  client silent{running.port()};
  client slow{running.port()};
  slow.send("GET / HT");
  CHECK(silent.is_closed());
  CHECK(slow.is_closed());
}

TEST_CASE("beyond its limit of connections the server says so, and serves again later", "[http][server]") {
  http::server_limits limits;
  limits.connections_max = 2;
  const running_server running{limits};
  const auto ask = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
  client first{running.port()};
  {
    client second{running.port()};
    first.send(ask);
    second.send(ask);
    CHECK(first.answer().starts_with("HTTP/1.1 200"));
    CHECK(second.answer().starts_with("HTTP/1.1 200"));
    client third{running.port()};
    CHECK(third.answer().starts_with("HTTP/1.1 503"));
    CHECK(third.is_closed());
  }
  const auto give_up_at = std::chrono::steady_clock::now() + 5s;
  bool is_served = false;
  while (!is_served && std::chrono::steady_clock::now() < give_up_at) {
    client later{running.port()};
    later.send(ask);
    is_served = later.answer().starts_with("HTTP/1.1 200");
  }
  CHECK(is_served);
}

TEST_CASE("every address is listened on, IPv4 too", "[http][server]") {
  const running_server running{{}, "*"};
  client c{running.port()};
  c.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(c.answer().find("127.0.0.1") != std::string::npos);
}

TEST_CASE("a port in use is an error that names it", "[http][server]") {
  const running_server running;
  asio::io_context io;
  const auto second = http::server::listen(io, "127.0.0.1", running.port(), echo);
  REQUIRE(second.has_error());
  CHECK(second.error().code == errc::unreachable);
  CHECK(second.error().text ==
        "cannot listen on 127.0.0.1:" + std::to_string(running.port()) + " for HTTP: the port is in use");
}

TEST_CASE("stopping ends open connections and leaves nothing running", "[http][server]") {
  asio::io_context io;
  auto server = std::move(http::server::listen(io, "127.0.0.1", 0, echo)).value();
  std::thread thread{[&] { io.run(); }};
  client idle{server->endpoints().front().port()};
  idle.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK_FALSE(idle.answer().empty());
  server->stop();
  CHECK(idle.is_closed());
  thread.join();
}

TEST_CASE("a client that came in by another door is served with what was read there", "[http][server]") {
  const running_server running;
  asio::io_context elsewhere;
  tcp::acceptor door{elsewhere, {asio::ip::make_address("127.0.0.1"), 0}};
  client c{door.local_endpoint().port()};
  auto passed = door.accept();
  running.server->serve(std::move(passed), "GET /ne", asio::ip::make_address("192.0.2.7"));
  c.send("ar HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(c.answer().find("GET /near ?  0 192.0.2.7") != std::string::npos);
  c.send("GET /again HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(c.answer().find("GET /again ?  0 192.0.2.7") != std::string::npos);
}

TEST_CASE("a stopped server takes no client of another door", "[http][server]") {
  const running_server running;
  asio::io_context elsewhere;
  tcp::acceptor door{elsewhere, {asio::ip::make_address("127.0.0.1"), 0}};
  client c{door.local_endpoint().port()};
  auto passed = door.accept();
  running.server->stop();
  running.server->serve(std::move(passed), "GET / HTTP/1.1\r\n\r\n", asio::ip::make_address("127.0.0.1"));
  CHECK(c.is_closed());
}
