#include "gateway/http/server.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

namespace posthorn::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;

namespace {

// What is thrown away, in bytes, of a client that is told that it sends too much.
constexpr std::uint64_t drained_max = 4U << 20U;

beast::http::response<beast::http::string_body> to_beast(response answer, unsigned version, bool keep_alive,
                                                         bool is_head) {
  beast::http::response<beast::http::string_body> out{static_cast<beast::http::status>(answer.status),
                                                      version};
  out.set(beast::http::field::server, "Posthorn");
  if (!answer.body.empty()) out.set(beast::http::field::content_type, answer.content_type);
  for (const auto& [name, value] : answer.headers) out.insert(name, value);  // of Warning, several
  out.keep_alive(keep_alive);
  if (answer.status == 204) return out;  // has neither a body nor the length of one
  // A HEAD is answered with the length that a GET would have had.
  const auto size = answer.body.size();
  if (!is_head) out.body() = std::move(answer.body);
  out.content_length(size);
  return out;
}

std::string_view view(beast::string_view text) { return {text.data(), text.size()}; }

// What went wrong before there was a request. Nothing: the other side is merely gone.
std::optional<response> answer_to(beast::error_code failure) {
  using error = beast::http::error;
  if (failure == error::header_limit) return error_response(431, "the header is too large");
  if (failure == error::body_limit) return error_response(413, "the body is too large");
  if (failure == error::end_of_stream || failure == error::partial_message) return std::nullopt;
  if (failure.category() == beast::http::make_error_code(error::end_of_stream).category()) {
    return error_response(400, "not an HTTP/1.1 request: " + failure.message());
  }
  return std::nullopt;
}

}  // namespace

class session;

// Shared by the server and what it started, so that a connection never outlives what it needs.
struct server_state : std::enable_shared_from_this<server_state> {
  server_state(asio::io_context& context, deferring_handler h, server_limits l, body_gate g)
      : io{context}, handle{std::move(h)}, limits{l}, gate{std::move(g)} {}

  void accept(std::size_t index);
  void open(tcp::socket socket, std::string_view first, const asio::ip::address& client);
  void stop();

  asio::io_context& io;
  const deferring_handler handle;
  const server_limits limits;
  const body_gate gate;
  std::atomic<std::size_t> large_bodies = 0;  // that sessions hold

  // An acceptor is touched by its strand only, after `listen` returned.
  struct listener {
    asio::strand<asio::io_context::executor_type> strand;
    tcp::acceptor acceptor;
    tcp::endpoint endpoint;  // fixed after start
    std::optional<asio::steady_timer> pause;
  };
  std::vector<listener> listeners;

  std::atomic<bool> is_stopped = false;
  std::mutex mutex;  // guards `sessions`
  std::unordered_set<session*> sessions;
};

//   reading --on_request--> writing --on_written--> reading, when kept alive; else gone
class session : public std::enable_shared_from_this<session> {
public:
  // `first`: what was read of it before.
  session(tcp::socket socket, std::shared_ptr<server_state> owner, bool is_welcome, std::string_view first,
          const asio::ip::address& client)
      : stream_{std::move(socket)}, owner_{std::move(owner)}, is_welcome_{is_welcome}, remote_{client} {
    beast::error_code ignored;
    stream_.socket().set_option(tcp::no_delay{true}, ignored);
    buffer_.commit(asio::buffer_copy(buffer_.prepare(first.size()), asio::buffer(first)));
  }

  ~session() {
    leave_gate();
    const std::lock_guard lock{owner_->mutex};
    owner_->sessions.erase(this);
  }

  void start() {
    asio::dispatch(stream_.get_executor(), [self = shared_from_this()] {
      if (self->is_welcome_)
        self->wait_for_request();
      else
        self->write(error_response(503, "too many connections"), 11, false, false);
    });
  }

  void cut() {
    asio::post(stream_.get_executor(), [self = shared_from_this()] { self->stream_.close(); });
  }

private:
  // Idle until the first byte; from there on a request has its time.
  void wait_for_request() {
    if (buffer_.size() > 0) return read();  // it came along with the one before
    stream_.expires_after(owner_->limits.idle_timeout);
    stream_.async_read_some(buffer_.prepare(4096),
                            [self = shared_from_this()](beast::error_code failure, std::size_t size) {
                              if (failure) return;
                              self->buffer_.commit(size);
                              self->read();
                            });
  }

  void read() {
    parser_.emplace();
    parser_->header_limit(owner_->limits.header_size_max);
    parser_->body_limit(boost::none);  // which it is to be is known when the header is
    stream_.expires_after(owner_->limits.request_timeout);
    beast::http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code failure, std::size_t) { self->on_header(failure); });
  }

  void on_header(beast::error_code failure) {
    if (failure) return on_request(failure);
    const auto small = owner_->limits.body_size_max;
    const bool may_be_large = parser_->chunked() || parser_->content_length().value_or(0) > small;
    if (!may_be_large || !owner_->gate || owner_->is_stopped) return read_body(small);
    // What the gate asks for may take a while, and nothing is read meanwhile.
    stream_.expires_never();
    owner_->gate(head_of(parser_->get()), [self = shared_from_this()](bool may) {
      asio::dispatch(self->stream_.get_executor(), [self, may] {
        const auto& limits = self->owner_->limits;
        if (!may) return self->read_body(limits.body_size_max);
        if (!self->enter_gate()) {
          return self->write(error_response(503, "too many large requests at a time: try again"), 11, false,
                             false);
        }
        self->read_body(limits.large_body_size_max);
      });
    });
  }

  bool enter_gate() {
    if (owner_->large_bodies.fetch_add(1) < owner_->limits.large_bodies_max) return holds_large_ = true;
    owner_->large_bodies.fetch_sub(1);
    return false;
  }
  void leave_gate() {
    if (std::exchange(holds_large_, false)) owner_->large_bodies.fetch_sub(1);
  }

  void read_body(std::uint64_t size_max) {
    if (parser_->content_length().value_or(0) > size_max) return on_request(beast::http::error::body_limit);
    parser_->body_limit(size_max);
    stream_.expires_after(holds_large_ ? owner_->limits.large_body_timeout : owner_->limits.request_timeout);
    beast::http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code failure, std::size_t) { self->on_request(failure); });
  }

  using message_type = beast::http::request<beast::http::string_body>;

  // All but the body.
  [[nodiscard]] request head_of(const message_type& message) const {
    request asked;
    asked.method = view(message.method_string());
    const std::string_view target = view(message.target());
    const auto question_mark = std::min(target.find('?'), target.size());
    asked.path = target.substr(0, question_mark);
    if (question_mark < target.size()) asked.query = target.substr(question_mark + 1);
    asked.authorization = view(message[beast::http::field::authorization]);
    asked.host = view(message[beast::http::field::host]);
    asked.origin = view(message[beast::http::field::origin]);
    asked.reason = view(message["X-Reason"]);
    asked.remote = remote_;
    return asked;
  }

  void on_request(beast::error_code failure) {
    if (failure) {
      // After a request that could not be read nobody knows where the next one begins.
      if (auto answer = answer_to(failure)) write(std::move(*answer), 11, false, false);
      return;
    }
    if (owner_->is_stopped) return;  // what the handler looks at may be gone
    auto message = parser_->release();
    request asked = head_of(message);
    asked.body = std::move(message.body());
    const bool keep_alive = message.keep_alive() && !owner_->is_stopped;
    const bool is_head = message.method() == beast::http::verb::head;
    if (!asked.path.starts_with('/')) {
      return write(error_response(400, "the target is not a path"), message.version(), keep_alive, is_head);
    }
    owner_->handle(asked, [self = shared_from_this(), version = message.version(), keep_alive,
                           is_head](response answer) {
      asio::dispatch(self->stream_.get_executor(),
                     [self, version, keep_alive, is_head, a = std::move(answer)]() mutable {
                       self->write(std::move(a), version, keep_alive && !self->owner_->is_stopped, is_head);
                     });
    });
  }

  void write(response answer, unsigned version, bool keep_alive, bool is_head) {
    leave_gate();
    stream_.expires_after(owner_->limits.request_timeout);
    answer_ = to_beast(std::move(answer), version, keep_alive, is_head);
    serializer_.emplace(answer_);
    serializer_->split(is_head);
    auto written = [self = shared_from_this()](beast::error_code failure, std::size_t) {
      self->on_written(failure);
    };
    if (is_head)
      beast::http::async_write_header(stream_, *serializer_, std::move(written));
    else
      beast::http::async_write(stream_, *serializer_, std::move(written));
  }

  void on_written(beast::error_code failure) {
    if (failure) return;
    if (answer_.keep_alive()) return wait_for_request();
    beast::error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    drain();
  }

  // Closing with unread bytes would reset the connection, and the answer might be lost with it. So what the other
  // side still sends is thrown away until it closes, within the time of a request.
  void drain() {
    buffer_.clear();
    stream_.async_read_some(buffer_.prepare(4096),
                            [self = shared_from_this()](beast::error_code failure, std::size_t size) {
                              self->drained_ += size;
                              if (!failure && self->drained_ < drained_max) self->drain();
                            });
  }

  beast::tcp_stream stream_;
  std::shared_ptr<server_state> owner_;
  const bool is_welcome_;
  asio::ip::address remote_;
  beast::flat_buffer buffer_;
  std::optional<beast::http::request_parser<beast::http::string_body>> parser_;
  beast::http::response<beast::http::string_body> answer_;
  std::optional<beast::http::response_serializer<beast::http::string_body>> serializer_;
  std::uint64_t drained_ = 0;
  bool holds_large_ = false;  // counts among owner_->large_bodies
};

namespace {

error cannot_listen(std::string_view host, std::uint16_t port, const beast::error_code& failure) {
  const std::string where = std::string{host} + ':' + std::to_string(port);
  if (failure == asio::error::address_in_use) {
    return {errc::unreachable, "cannot listen on " + where + " for HTTP: the port is in use"};
  }
  const bool is_forbidden = failure == asio::error::access_denied;
  return {is_forbidden ? errc::refused : errc::unreachable,
          "cannot listen on " + where + " for HTTP: " + failure.message()};
}

}  // namespace

void server_state::accept(std::size_t index) {
  auto& from = listeners[index];
  from.acceptor.async_accept(
      asio::make_strand(io),
      asio::bind_executor(from.strand,
                          [self = shared_from_this(), index](beast::error_code failure, tcp::socket socket) {
                            if (self->is_stopped) return;
                            auto& source = self->listeners[index];
                            if (failure) {
                              if (failure == asio::error::operation_aborted) return;
                              // Out of descriptors, most likely. Accepting again at once would only spin.
                              source.pause->expires_after(std::chrono::milliseconds{100});
                              source.pause->async_wait([self, index](beast::error_code aborted) {
                                if (!aborted) self->accept(index);
                              });
                              return;
                            }
                            beast::error_code ignored;
                            const auto client = socket.remote_endpoint(ignored).address();
                            self->open(std::move(socket), {}, client);
                            self->accept(index);
                          }));
}

void server_state::open(tcp::socket socket, std::string_view first, const asio::ip::address& client) {
  std::size_t count = 0;
  {
    const std::lock_guard lock{mutex};
    count = sessions.size();
  }
  // Somewhat beyond the limit others are still told why they are not served; then they are only closed.
  if (count >= limits.connections_max + 16) return;
  auto opened = std::make_shared<session>(std::move(socket), shared_from_this(),
                                          count < limits.connections_max, first, client);
  {
    const std::lock_guard lock{mutex};
    sessions.insert(opened.get());
  }
  opened->start();
  if (is_stopped) opened->cut();  // `stop` may have looked just before it was in the list
}

void server_state::stop() {
  if (is_stopped.exchange(true)) return;
  for (std::size_t i = 0; i < listeners.size(); ++i) {
    asio::post(listeners[i].strand, [self = shared_from_this(), i] {
      beast::error_code ignored;
      self->listeners[i].acceptor.close(ignored);
      self->listeners[i].pause->cancel();
    });
  }
  std::vector<std::shared_ptr<session>> open;
  {
    const std::lock_guard lock{mutex};
    for (auto* one : sessions) {
      // One that is just ending can no longer be held, and need not be cut.
      if (auto held = one->weak_from_this().lock()) open.push_back(std::move(held));
    }
  }
  for (const auto& one : open) one->cut();
}

result<std::unique_ptr<server>> server::listen(asio::io_context& io, std::string_view host,
                                               std::uint16_t port, request_handler handle,
                                               server_limits limits) {
  deferring_handler at_once = [handle = std::move(handle)](const request& asked, const responder& answer) {
    answer(handle(asked));
  };
  return listen(io, host, port, std::move(at_once), limits);
}

result<std::unique_ptr<server>> server::listen(asio::io_context& io, std::string_view host,
                                               std::uint16_t port, deferring_handler handle,
                                               server_limits limits, body_gate gate) {
  std::vector<tcp::endpoint> wanted;
  const bool is_any = host == "*";
  if (is_any) {
    wanted.emplace_back(tcp::v6(), port);
  } else {
    beast::error_code failure;
    tcp::resolver resolver{io};
    const auto found = resolver.resolve(std::string{host}, std::to_string(port),
                                        tcp::resolver::passive | tcp::resolver::numeric_service, failure);
    if (failure) return cannot_listen(host, port, failure);
    for (const auto& entry : found) {
      if (std::find(wanted.begin(), wanted.end(), entry.endpoint()) == wanted.end()) {
        wanted.push_back(entry.endpoint());
      }
    }
  }

  auto made = std::make_shared<server_state>(io, std::move(handle), limits, std::move(gate));
  made->listeners.reserve(wanted.size());
  std::optional<error> first_error;
  for (auto endpoint : wanted) {
    beast::error_code failure;
    auto strand = asio::make_strand(io);
    tcp::acceptor acceptor{strand};
    const auto open = [&] {
      acceptor.open(endpoint.protocol(), failure);
      if (!failure) acceptor.set_option(tcp::acceptor::reuse_address{true}, failure);
      if (!failure && endpoint.protocol() == tcp::v6()) {
        acceptor.set_option(asio::ip::v6_only{false}, failure);
      }
      if (!failure) acceptor.bind(endpoint, failure);
      if (!failure) acceptor.listen(asio::socket_base::max_listen_connections, failure);
    };
    open();
    // A machine without IPv6, as many containers are.
    if (is_any && (failure == asio::error::address_family_not_supported ||
                   failure == beast::errc::address_not_available)) {
      beast::error_code ignored;
      acceptor.close(ignored);
      failure = {};
      endpoint = tcp::endpoint{tcp::v4(), port};
      open();
    }
    if (failure) {
      // "localhost" names ::1 also where there is no IPv6: one address that works is enough, unless it is taken.
      if (failure == asio::error::address_in_use || failure == asio::error::access_denied) {
        return cannot_listen(host, port, failure);
      }
      if (!first_error) first_error = cannot_listen(host, port, failure);
      continue;
    }
    const auto local = acceptor.local_endpoint(failure);
    asio::steady_timer pause{strand};
    made->listeners.push_back({strand, std::move(acceptor), local, std::move(pause)});
  }
  if (made->listeners.empty()) {
    return first_error ? *first_error
                       : error{errc::unreachable,
                               "cannot listen on " + std::string{host} + " for HTTP: it names no address"};
  }
  for (std::size_t i = 0; i < made->listeners.size(); ++i) {
    asio::post(made->listeners[i].strand, [made, i] {
      if (!made->is_stopped) made->accept(i);
    });
  }
  return std::unique_ptr<server>{new server{std::move(made)}};
}

server::server(std::shared_ptr<server_state> state) : state_{std::move(state)} {}

server::~server() { stop(); }

std::vector<tcp::endpoint> server::endpoints() const {
  std::vector<tcp::endpoint> out;
  for (const auto& listener : state_->listeners) out.push_back(listener.endpoint);
  return out;
}

void server::serve(tcp::socket from, std::string_view first, const asio::ip::address& client) {
  if (state_->is_stopped) return;
  // It belongs to another io_context, and moves to ours.
  beast::error_code failure;
  const auto local = from.local_endpoint(failure);
  if (failure) return;
  const auto descriptor = from.release(failure);
  if (failure) return;
  tcp::socket socket{asio::make_strand(state_->io)};
  socket.assign(local.protocol(), descriptor, failure);
  if (failure) {
    ::close(descriptor);
    return;
  }
  state_->open(std::move(socket), first, client);
}

void server::stop() { state_->stop(); }

response error_response(unsigned status, std::string_view reason) {
  const auto name = beast::http::obsolete_reason(static_cast<beast::http::status>(status));
  boost::json::object body;
  body["error"] = boost::json::string_view{name.data(), name.size()};
  body["reason"] = boost::json::string_view{reason.data(), reason.size()};
  return {status, "application/json", boost::json::serialize(body), {}};
}

response error_response(const error& failure) {
  switch (failure.code) {
    case errc::refused: return error_response(400, failure.text);
    case errc::unreachable: return error_response(404, failure.text);
    case errc::overloaded: return error_response(503, failure.text);
    case errc::corrupted: break;
  }
  return error_response(500, failure.text);
}

}  // namespace posthorn::http
