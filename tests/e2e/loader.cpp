// Fills and drains one queue as fast as a broker can take it, from frames built beforehand; every body carries its
// number, so that the drain proves order and content.
//
//   loader fill  PORT QUEUE COUNT SIZE WINDOW   declares the durable queue, publishes with confirms
//   loader drain PORT QUEUE COUNT SIZE          consumes with acknowledgements; ends when COUNT came, and no more is ready
//
// Prints one line of JSON at the end. Exit code 1: what came was wrong, or the broker closed.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

constexpr int patience_ms = 60'000;
constexpr size_t chunk_size = size_t{1} << 18;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "loader: %s\n", what.c_str());
  std::exit(1);
}

template <class Int>
void put(std::string& out, Int value) {
  for (size_t at = sizeof value; at-- > 0;) out.push_back(static_cast<char>(value >> (8 * at)));
}

template <class Int>
Int take(std::string_view data, size_t at) {
  if (at + sizeof(Int) > data.size()) fail("the broker sent a method that ends too early");
  Int value = 0;
  for (size_t i = 0; i < sizeof value; ++i)
    value = static_cast<Int>(value << 8 | static_cast<unsigned char>(data[at + i]));
  return value;
}

void put_short_string(std::string& out, std::string_view text) {
  put(out, static_cast<uint8_t>(text.size()));
  out += text;
}

std::string frame(uint8_t kind, uint16_t channel, std::string_view payload) {
  std::string out;
  put(out, kind);
  put(out, channel);
  put(out, static_cast<uint32_t>(payload.size()));
  out += payload;
  out.push_back('\xce');
  return out;
}

constexpr uint32_t id_of(uint16_t class_id, uint16_t method_id) {
  return uint32_t{class_id} << 16 | method_id;
}

std::string method(uint16_t channel, uint32_t id, std::string_view arguments) {
  std::string payload;
  put(payload, id);
  payload += arguments;
  return frame(1, channel, payload);
}

struct view {
  uint8_t kind = 0;
  std::string_view payload;
};

// One connection with channel 1 open. Frames are views into the input buffer, valid until the next read.
class connection {
public:
  explicit connection(int port) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail("cannot connect");
    int one = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    send(std::string_view("AMQP\0\0\x09\x01", 8));
    expect(id_of(10, 10));
    std::string out;
    put(out, uint32_t{0});
    put_short_string(out, "PLAIN");
    put(out, uint32_t{12});
    out += std::string_view("\0guest\0guest", 12);
    put_short_string(out, "en_US");
    send(method(0, id_of(10, 11), out));
    const std::string tune = expect(id_of(10, 30));
    out.clear();
    put(out, take<uint16_t>(tune, 4));
    put(out, uint32_t{131072});
    put(out, uint16_t{0});
    send(method(0, id_of(10, 31), out));
    send(method(0, id_of(10, 40), std::string_view("\1/\0\0", 4)));
    expect(id_of(10, 41));
    send(method(1, id_of(20, 10), std::string_view("\0", 1)));
    expect(id_of(20, 11));
  }

  void send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t sent = ::send(fd_, data.data(), data.size(), MSG_NOSIGNAL);
      if (sent < 0) fail("cannot send: " + std::string(std::strerror(errno)));
      data.remove_prefix(static_cast<size_t>(sent));
    }
  }

  // Reads what has arrived; waits for it if `wait`. False: nothing was there.
  bool read(bool wait) {
    pollfd ready{fd_, POLLIN, 0};
    if (poll(&ready, 1, wait ? patience_ms : 0) <= 0) {
      if (wait) fail("the broker was silent for a minute");
      return false;
    }
    input_.erase(0, at_);
    at_ = 0;
    const size_t old = input_.size();
    input_.resize(old + chunk_size);
    const ssize_t got = recv(fd_, input_.data() + old, chunk_size, 0);
    if (got <= 0) fail("the broker ended the connection");
    input_.resize(old + static_cast<size_t>(got));
    return true;
  }

  bool next(view& out) {
    if (input_.size() - at_ < 8) return false;
    const std::string_view rest(input_.data() + at_, input_.size() - at_);
    const size_t size = take<uint32_t>(rest, 3);
    if (rest.size() < size + 8) return false;
    if (rest[size + 7] != '\xce') fail("the broker sent a wrong frame end");
    out.kind = static_cast<uint8_t>(rest[0]);
    out.payload = rest.substr(7, size);
    at_ += size + 8;
    if (out.kind == 1) {
      const uint32_t id = take<uint32_t>(out.payload, 0);
      if (id == id_of(10, 50) || id == id_of(20, 40))
        fail("closed by the broker: " +
             std::string(out.payload.substr(7, static_cast<uint8_t>(out.payload[6]))));
    }
    return true;
  }

  std::string expect(uint32_t id) {
    for (view got;;) {
      while (next(got))
        if (got.kind == 1 && take<uint32_t>(got.payload, 0) == id) return std::string(got.payload);
      read(true);
    }
  }

  uint32_t declare(std::string_view queue) {
    std::string out;
    put(out, uint16_t{0});
    put_short_string(out, queue);
    put(out, uint8_t{2});  // durable
    put(out, uint32_t{0});
    send(method(1, id_of(50, 10), out));
    const std::string answer = expect(id_of(50, 11));
    return take<uint32_t>(answer, 5 + static_cast<uint8_t>(answer[4]));
  }

private:
  int fd_ = -1;
  std::string input_;
  size_t at_ = 0;
};

// The body of message `number`: the number, then letters that differ from message to message.
void write_body(char* to, size_t size, uint64_t number) {
  std::memset(to, static_cast<int>('a' + number % 26), size);
  for (size_t at = 0; at < 8; ++at) to[at] = static_cast<char>(number >> (56 - 8 * at));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void fill(connection& link, const std::string& queue, uint64_t count, size_t size, uint64_t window) {
  link.declare(queue);
  link.send(method(1, id_of(85, 10), std::string_view("\0", 1)));
  link.expect(id_of(85, 11));
  std::string arguments;
  put(arguments, uint16_t{0});
  put_short_string(arguments, "");
  put_short_string(arguments, queue);
  put(arguments, uint8_t{0});
  std::string header;
  put(header, uint32_t{60} << 16);
  put(header, static_cast<uint64_t>(size));
  put(header, uint16_t{0x1000});
  put(header, uint8_t{2});
  const std::string head = method(1, id_of(60, 40), arguments) + frame(2, 1, header);
  std::string message = head + frame(3, 1, std::string(size, ' '));
  const size_t body_at = head.size() + 7;
  const uint64_t per_send = std::max<uint64_t>(1, chunk_size / message.size());
  uint64_t sent = 0, confirmed = 0;
  std::string out;
  view got;
  while (confirmed < count) {
    const uint64_t room = std::min({count - sent, window - (sent - confirmed), per_send});
    out.clear();
    for (uint64_t i = 0; i < room; ++i) {
      write_body(message.data() + body_at, size, sent++);
      out += message;
    }
    link.send(out);
    link.read(sent == count || sent - confirmed >= window);
    while (link.next(got)) {
      if (got.kind != 1) continue;
      const uint32_t id = take<uint32_t>(got.payload, 0);
      if (id == id_of(60, 120)) fail("the broker refused a message");
      if (id != id_of(60, 80)) continue;
      // Single confirms may come in any order; counting them is enough to keep the window.
      const uint64_t tag = take<uint64_t>(got.payload, 4);
      confirmed = (got.payload[12] & 1) != 0 ? std::max(confirmed, tag) : confirmed + 1;
    }
  }
}

void drain(connection& link, const std::string& queue, uint64_t count, size_t size) {
  const uint32_t ready = link.declare(queue);
  if (ready != count)
    fail("the queue has " + std::to_string(ready) + " messages, not " + std::to_string(count));
  std::string out;
  put(out, uint32_t{0});
  put(out, uint16_t{10'000});
  put(out, uint8_t{0});
  link.send(method(1, id_of(60, 10), out));
  link.expect(id_of(60, 11));
  out.clear();
  put(out, uint16_t{0});
  put_short_string(out, queue);
  put_short_string(out, "drain");
  put(out, uint8_t{0});
  put(out, uint32_t{0});
  link.send(method(1, id_of(60, 20), out));
  link.expect(id_of(60, 21));
  uint64_t expected = 0, tag = 0;
  std::string body, wanted(size, ' ');
  for (view got; expected < count;) {
    while (expected < count && link.next(got)) {
      if (got.kind == 1 && take<uint32_t>(got.payload, 0) == id_of(60, 60)) {
        tag = take<uint64_t>(got.payload, 5 + static_cast<uint8_t>(got.payload[4]));
        body.clear();
      } else if (got.kind == 3) {
        body += got.payload;
        if (body.size() < size) continue;
        write_body(wanted.data(), size, expected);
        if (body != wanted)
          fail("message " + std::to_string(expected) + " expected, message " +
               std::to_string(take<uint64_t>(body, 0)) + " came, or its body is wrong");
        ++expected;
        if (expected % 1000 == 0 || expected == count) {
          out.clear();
          put(out, tag);
          put(out, uint8_t{1});
          link.send(method(1, id_of(60, 80), out));
        }
      }
    }
    if (expected < count) link.read(true);
  }
  if (const uint32_t left = link.declare(queue); left != 0) fail(std::to_string(left) + " messages too many");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) fail("fill PORT QUEUE COUNT SIZE WINDOW, or drain PORT QUEUE COUNT SIZE");
  const std::string what = argv[1], queue = argv[3];
  const uint64_t count = std::strtoull(argv[4], nullptr, 10);
  const size_t size = std::max<size_t>(8, std::strtoull(argv[5], nullptr, 10));
  const auto start = std::chrono::steady_clock::now();
  connection link(std::atoi(argv[2]));
  if (what == "fill")
    fill(link, queue, count, size, argc > 6 ? std::strtoull(argv[6], nullptr, 10) : 10'000);
  else
    drain(link, queue, count, size);
  const double took = seconds_since(start);
  std::printf("{\"what\":\"%s\",\"messages\":%llu,\"seconds\":%.3f,\"per_second\":%.0f}\n", what.c_str(),
              static_cast<unsigned long long>(count), took, static_cast<double>(count) / took);
}
