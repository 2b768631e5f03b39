#include "node/load/amqp_client.hpp"

#include "mailbox/field_table.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace posthorn {

namespace amqp = amqp091;

namespace {

using namespace std::chrono_literals;

std::string reason(int code) { return std::generic_category().message(code); }

error gone(std::string why) {
  return {errc::unreachable, "the broker closed the connection: " + std::move(why)};
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'                     ? c - '0'
             : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                      : -1;
    };
    const int high = digit(text[i + 1]);
    const int low = digit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// A table as the methods take it: without its length.
std::string table_body(const field_table& table) {
  std::string out;
  encode_table(table, out);
  return out.substr(4);
}

// Connects, but for no longer than `patience`; 0, or what went wrong.
int connect_within(int fd, const addrinfo& to, std::chrono::milliseconds patience) {
  const int flags = ::fcntl(fd, F_GETFL);
  ::fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  if (::connect(fd, to.ai_addr, to.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return errno;
    const auto give_up_at = std::chrono::steady_clock::now() + patience;
    pollfd waiting{fd, POLLOUT, 0};
    while (true) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(give_up_at - std::chrono::steady_clock::now());
      const int ready = left.count() <= 0 ? 0 : ::poll(&waiting, 1, static_cast<int>(left.count()));
      if (ready > 0) break;
      if (ready == 0) return ETIMEDOUT;
      if (errno != EINTR) return errno;
    }
    int code = 0;
    socklen_t size = sizeof code;
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) != 0) return errno;
    if (code != 0) return code;
  }
  ::fcntl(fd, F_SETFL, flags);
  return 0;
}

struct address_list {
  addrinfo* first = nullptr;
  ~address_list() {
    if (first != nullptr) ::freeaddrinfo(first);
  }
};

}  // namespace

result<amqp_address> parse_amqp_uri(std::string_view uri) {
  const auto wrong = [&](std::string_view why) {
    return refused("the URI " + std::string{uri} + ' ' + std::string{why} +
                   ": expected amqp://USER:PASSWORD@HOST:PORT/VHOST");
  };
  std::string_view rest = uri;
  if (rest.starts_with("amqps://")) return wrong("asks for TLS, which is not possible yet");
  if (!rest.starts_with("amqp://")) return wrong("is none of AMQP");
  rest.remove_prefix(7);
  amqp_address out;
  const auto slash = std::min(rest.find('/'), rest.size());
  // "amqp://host" leaves the virtual host open, "amqp://host/" too, as most clients read it.
  if (slash + 1 < rest.size()) {
    auto vhost = percent_decoded(rest.substr(slash + 1));
    if (!vhost) return wrong("has a virtual host that is not percent-encoded correctly");
    out.vhost = std::move(*vhost);
  }
  rest = rest.substr(0, slash);
  if (const auto at = rest.rfind('@'); at != std::string_view::npos) {
    const auto who = rest.substr(0, at);
    const auto colon = std::min(who.find(':'), who.size());
    auto user = percent_decoded(who.substr(0, colon));
    auto password = percent_decoded(who.substr(std::min(colon + 1, who.size())));
    if (!user || !password) return wrong("has a user that is not percent-encoded correctly");
    out.user = std::move(*user);
    out.password = std::move(*password);
    rest = rest.substr(at + 1);
  }
  const auto colon = rest.rfind(':');
  if (colon != std::string_view::npos && rest.find(']', colon) == std::string_view::npos) {
    out.port = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    if (out.port.empty() || out.port.find_first_not_of("0123456789") != std::string::npos) {
      return wrong("has a port that is no number");
    }
  }
  if (rest.starts_with('[') && rest.ends_with(']')) rest = rest.substr(1, rest.size() - 2);
  if (!rest.empty()) out.host = rest;
  return out;
}

result<std::unique_ptr<amqp_client>> amqp_client::open(const amqp_address& address) {
  const auto unreachable = [&](const std::string& why) {
    return error{errc::unreachable, "no broker answers at amqp://" + address.host + ':' + address.port +
                                        ": is it running? (" + why + ')'};
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  address_list found;
  if (const int failure = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found.first);
      failure != 0) {
    return unreachable(::gai_strerror(failure));
  }
  std::string why = "it has no address";
  for (const auto* one = found.first; one != nullptr; one = one->ai_next) {
    const int fd = ::socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      why = reason(errno);
      continue;
    }
    std::unique_ptr<amqp_client> made{new amqp_client{fd}};
    made->answer_time_ = address.answer_time;
    if (const int failure = connect_within(fd, *one, address.answer_time); failure != 0) {
      why = reason(failure);
      continue;
    }
    const int yes = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (auto done = made->handshake(address); !done) return done.error();
    return made;
  }
  return unreachable(why);
}

amqp_client::~amqp_client() { ::close(fd_); }

result<void> amqp_client::handshake(const amqp_address& address) {
  namespace method = amqp::method;
  amqp::buffer bytes{amqp::protocol_header.data(), amqp::protocol_header.size()};
  if (auto sent = send(bytes); !sent) return sent;
  if (auto ok = expect(amqp::id_of<method::connection_start>); !ok) return ok;

  field_table capabilities;
  capabilities.add("publisher_confirms", field_value::of_bool(true));
  capabilities.add("basic.nack", field_value::of_bool(true));
  capabilities.add("connection.blocked", field_value::of_bool(true));
  capabilities.add("consumer_cancel_notify", field_value::of_bool(true));
  capabilities.add("authentication_failure_close", field_value::of_bool(true));
  field_table properties;
  properties.add("product", field_value::of_string("posthorn bench"));
  properties.add("capabilities", field_value::of_table(std::move(capabilities)));
  const auto client_properties = table_body(properties);
  const std::string plain = std::string{'\0'} + address.user + '\0' + address.password;
  method::connection_start_ok start_ok;
  start_ok.client_properties = as_bytes(client_properties);
  start_ok.mechanism = "PLAIN";
  start_ok.response = plain;
  start_ok.locale = "en_US";
  bytes.clear();
  amqp::encode(0, start_ok, bytes);
  if (auto sent = send(bytes); !sent) return sent;

  if (auto ok = expect(amqp::id_of<method::connection_tune>); !ok) return ok;
  method::connection_tune tune;
  if (!amqp::decode_as(answer_, tune)) return gone("its connection.tune is malformed");
  frame_max_ = tune.frame_max == 0 ? 131072 : std::min<std::uint32_t>(tune.frame_max, 131072);
  channel_max_ = tune.channel_max;
  bytes.clear();
  method::connection_tune_ok tune_ok;
  tune_ok.channel_max = tune.channel_max;
  tune_ok.frame_max = frame_max_;
  tune_ok.heartbeat =
      0;  // under load there is always something to hear, and a paused producer stays connected
  amqp::encode(0, tune_ok, bytes);
  method::connection_open open;
  open.virtual_host = address.vhost;
  amqp::encode(0, open, bytes);
  if (auto sent = send(bytes); !sent) return sent;
  if (auto ok = expect(amqp::id_of<method::connection_open_ok>); !ok) return ok;
  return call<method::channel_open_ok>(method::channel_open{});
}

result<void> amqp_client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return why_gone(errno);
    pollfd waiting{fd_, POLLIN | POLLOUT, 0};
    if (::poll(&waiting, 1, -1) < 0 && errno != EINTR) return gone(reason(errno));
    if ((waiting.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      if (auto received = fill(); !received) return received.error();
    }
  }
  return {};
}

result<bool> amqp_client::receive(std::chrono::milliseconds timeout) {
  pollfd waiting{fd_, POLLIN, 0};
  const int ready = ::poll(&waiting, 1, static_cast<int>(timeout.count()));
  if (ready < 0 && errno != EINTR) return gone(reason(errno));
  return ready > 0 ? fill() : result<bool>{false};
}

result<void> amqp_client::send_some(std::string_view& rest) {
  while (!rest.empty()) {
    const auto count = ::send(fd_, rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      rest.remove_prefix(static_cast<std::size_t>(count));
      continue;
    }
    if (errno == EAGAIN) return {};
    if (errno != EINTR) return why_gone(errno);
  }
  return {};
}

// Why the other side closed may stand in what it sent before.
error amqp_client::why_gone(int code) {
  if (auto received = fill(); received && *received) {
    while (true) {
      auto frame = next();
      if (!frame) return frame.error();
      if (!*frame) break;
    }
  }
  return gone(reason(code));
}

// Reads what there is behind what was received before. What was looked at makes room for it; a frame that needs more
// room gets it.
result<bool> amqp_client::fill() {
  if (at_ == end_) at_ = end_ = 0;
  if (capacity_ - end_ < receive_size_) {
    const auto kept = end_ - at_;
    if (capacity_ - kept < receive_size_) {
      const auto capacity = std::max(kept * 2, receive_size_ + kept);
      auto larger = std::make_unique_for_overwrite<char[]>(capacity);
      if (kept != 0) std::memcpy(larger.get(), received_.get() + at_, kept);
      received_ = std::move(larger);
      capacity_ = capacity;
    } else if (kept != 0) {
      std::memmove(received_.get(), received_.get() + at_, kept);
    }
    at_ = 0;
    end_ = kept;
  }
  const auto count = ::recv(fd_, received_.get() + end_, capacity_ - end_, MSG_DONTWAIT);
  if (count > 0) {
    end_ += static_cast<std::size_t>(count);
    return true;
  }
  if (count == 0) return gone("without a word");
  if (errno == EAGAIN || errno == EINTR) return false;
  return gone(reason(errno));
}

void amqp_client::shrink() {
  if (at_ != end_) return;
  received_.reset();
  capacity_ = at_ = end_ = 0;
}

result<void> amqp_client::open_channels(std::uint16_t last) {
  if (channel_max_ != 0 && last > channel_max_) {
    return refused("the broker allows " + std::to_string(channel_max_) + " channels per connection, not " +
                   std::to_string(last));
  }
  for (std::uint16_t number = channel + 1; number <= last && number != 0; ++number) {
    if (auto ok = call<amqp::method::channel_open_ok>(amqp::method::channel_open{}, number); !ok) return ok;
  }
  return {};
}

result<std::optional<amqp::frame>> amqp_client::next() {
  while (true) {
    amqp::frame frame;
    const std::string_view unread{received_.get() + at_, end_ - at_};
    const auto bytes = as_bytes(unread);
    // A broker that answers our protocol header with its own speaks another version.
    if (unread.starts_with("AMQP")) {
      return refused("the broker does not speak AMQP 0-9-1");
    }
    const auto status = amqp::decode_frame(bytes, std::max(frame_max_, 131072U), frame);
    if (status == amqp::frame_status::incomplete) return std::optional<amqp::frame>{};
    if (status != amqp::frame_status::complete) {
      return corrupted("the broker sent a malformed frame: " + std::string{to_string(status)});
    }
    at_ += frame.size;
    if (frame.type == amqp::frame_type::heartbeat) continue;
    if (frame.type == amqp::frame_type::method) {
      const auto id = amqp::method_id_of(frame.payload);
      if (id.class_ == 10 || id.class_ == 20) {
        if (auto ok = on_connection_method(frame.payload); !ok) return ok.error();
      }
    }
    return std::optional{frame};
  }
}

result<void> amqp_client::on_connection_method(std::span<const std::byte> payload) {
  const auto closed = [](const auto& close) {
    return refused("closed by the broker: " + std::to_string(static_cast<int>(close.reply_code)) + ' ' +
                   std::string{close.reply_text});
  };
  if (amqp::method::connection_close close; amqp::decode_as(payload, close)) return closed(close);
  if (amqp::method::channel_close close; amqp::decode_as(payload, close)) return closed(close);
  if (amqp::method::connection_blocked blocked; amqp::decode_as(payload, blocked)) is_blocked_ = true;
  if (amqp::method::connection_unblocked unblocked; amqp::decode_as(payload, unblocked)) is_blocked_ = false;
  return {};
}

result<void> amqp_client::expect(amqp::method_id id) {
  const auto give_up_at = std::chrono::steady_clock::now() + answer_time_;
  while (true) {
    auto frame = next();
    if (!frame) return frame.error();
    if (*frame) {
      if ((*frame)->type == amqp::frame_type::method && amqp::method_id_of((*frame)->payload) == id) {
        answer_ = (*frame)->payload;
        return {};
      }
      continue;
    }
    if (std::chrono::steady_clock::now() > give_up_at) {
      return error{errc::unreachable, "the broker did not answer with " + std::string{amqp::method_name(id)} +
                                          " within " + std::to_string(answer_time_.count()) + " ms"};
    }
    if (auto received = receive(std::min(100ms, answer_time_)); !received) return received.error();
  }
}

result<void> amqp_client::close() {
  amqp::method::connection_close goodbye;
  goodbye.reply_text = "done";
  return call<amqp::method::connection_close_ok>(goodbye, 0);
}

}  // namespace posthorn
