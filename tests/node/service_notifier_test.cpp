#include "node/service_notifier.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

using namespace posthorn;

namespace {

// Sets the variable for as long as it lives.
struct notify_socket {
  explicit notify_socket(const std::string& name) { ::setenv("NOTIFY_SOCKET", name.c_str(), 1); }
  ~notify_socket() { ::unsetenv("NOTIFY_SOCKET"); }
  notify_socket(const notify_socket&) = delete;
  notify_socket& operator=(const notify_socket&) = delete;
};

}  // namespace

TEST_CASE("without a service manager nothing is told, and nothing is wrong", "[service_notifier]") {
  ::unsetenv("NOTIFY_SOCKET");
  CHECK(notify_service("READY=1").has_value());
}

TEST_CASE("the state is one datagram to the socket in the abstract name space", "[service_notifier]") {
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM, 0);
  REQUIRE(fd >= 0);
  const std::string name = "@posthorn-notify-test-" + std::to_string(::getpid());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.data(), name.size());
  address.sun_path[0] = '\0';
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address),
                 static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())) == 0);
  const notify_socket variable{name};
  CHECK(notify_service("READY=1\nSTATUS=ready").has_value());
  char received[64];
  const auto size = ::recv(fd, received, sizeof received, MSG_DONTWAIT);
  ::close(fd);
  REQUIRE(size > 0);
  CHECK(std::string(received, static_cast<std::size_t>(size)) == "READY=1\nSTATUS=ready");
}

TEST_CASE("a service manager that is not there is an error, not a crash", "[service_notifier]") {
  const notify_socket variable{"/nonexistent/notify"};
  CHECK(notify_service("READY=1").has_error());
  const notify_socket nonsense{"nonsense"};
  CHECK(notify_service("READY=1").has_error());
}
