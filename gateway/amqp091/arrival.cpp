#include "gateway/amqp091/arrival.hpp"

#include "gateway/amqp091/proxy_protocol.hpp"

#include <boost/asio/write.hpp>

#include <span>
#include <utility>

namespace posthorn::amqp091 {

namespace {

// A header of the PROXY protocol is the longest that has to be there as a whole.
constexpr std::size_t octets_max = proxy_block_size_max;

// To one who says hello and cannot be answered: fatal, handshake_failure. Its library knows what to say of that.
constexpr std::string_view handshake_failure{"\x15\x03\x03\x00\x02\x02\x28", 7};

ip_address address_of(const boost::asio::ip::address& address) {
  if (address.is_v4()) return ip_address_of_v4(address.to_v4().to_bytes());
  return {address.to_v6().to_bytes()};
}

boost::asio::ip::address to_asio(const ip_address& address) {
  const boost::asio::ip::address_v6 v6{address.octets};
  if (address.is_v4()) return boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, v6);
  return v6;
}

}  // namespace

arrival::arrival(server_context& server, io_worker& worker, socket from, bool tls_only, ending on_end)
    : server_{server},
      worker_{worker},
      socket_{std::move(from)},
      timer_{worker.io},
      deadline_{std::chrono::steady_clock::now() + server.settings.handshake_timeout},
      tls_only_{tls_only},
      on_end_{std::move(on_end)} {
  server_.connections.fetch_add(1, std::memory_order_relaxed);
}

arrival::~arrival() = default;

void arrival::start() {
  boost::system::error_code failed;
  const auto remote = socket_.remote_endpoint(failed);
  if (failed) return end();
  neighbour_ = address_of(remote.address());
  from_ = {remote.address().to_string() + ':' + std::to_string(remote.port()), neighbour_.is_loopback()};
  socket_.set_option(boost::asio::ip::tcp::no_delay{true}, failed);
  socket_.non_blocking(true, failed);
  timer_.expires_at(deadline_);
  timer_.async_wait([weak = weak_from_this()](const auto& cancelled) {
    const auto self = weak.lock();
    if (cancelled || !self) return;
    const bool is_idle =
        self->octets_.empty() && !self->tls_;  // as one who only looks whether the port is open
    self->refuse(is_idle ? node_context::severity::debug : node_context::severity::info,
                 is_idle ? "it sent nothing in time" : "the handshake was not finished in time");
  });
  wait_to_read();
}

void arrival::abandon() {
  if (on_end_) end();
}

void arrival::wait_to_read() {
  socket_.async_wait(socket::wait_read,
                     [self = shared_from_this()](const auto& failed) { self->on_readable(failed); });
}

void arrival::on_readable(const boost::system::error_code& failed) {
  if (!on_end_) return;
  if (failed) return refuse(node_context::severity::debug, failed.message());
  boost::system::error_code error;
  const auto room = std::span{worker_.chunk}.first(octets_max - octets_.size());
  const auto size = socket_.read_some(boost::asio::buffer(room.data(), room.size()), error);
  if (error == boost::asio::error::would_block) return wait_to_read();
  if (error == boost::asio::error::eof) {
    return refuse(node_context::severity::debug, "the client closed the socket");
  }
  if (error) return refuse(node_context::severity::debug, error.message());
  octets_.append(reinterpret_cast<const char*>(room.data()), size);
  look();
}

void arrival::look() {
  const auto what = recognise(std::as_bytes(std::span{octets_}));
  if (what == spoken::incomplete) return wait_to_read();
  if (what == spoken::proxy && !is_proxied_) return on_proxy_header();
  if (what == spoken::tls) return begin_tls();
  if (tls_only_) {
    return refuse(
        node_context::severity::info,
        "it does not speak TLS, and this port is for nothing else: send it to the port of amqp.listen");
  }
  if (what == spoken::http && server_.settings.on_http) return pass_to_http();
  pass_on(nullptr);  // who speaks nothing that is known here is told what is: [68]
}

void arrival::on_proxy_header() {
  if (!contains(server_.settings.proxy_trusted, neighbour_)) {
    return refuse(node_context::severity::warning,
                  "it begins with a header of the PROXY protocol, which " + to_string(neighbour_) +
                      " is not trusted to send: if it is a proxy of yours, add it to amqp.proxy_trusted");
  }
  proxy_header header;
  std::string_view why;
  const auto status = parse_proxy_header(std::as_bytes(std::span{octets_}), header, why);
  if (status == proxy_status::incomplete) return wait_to_read();
  if (status == proxy_status::malformed) {
    return refuse(node_context::severity::warning,
                  "its header of the PROXY protocol is malformed: " + std::string{why});
  }
  is_proxied_ = true;
  octets_.erase(0, header.size);
  const auto proxy = std::exchange(from_.name, {});
  switch (header.whom) {
    case proxy_header::speaks_for::client:
      from_.name = to_string(header.source, header.source_port);
      // The proxy's own machine is this one only if the proxy is here, too.
      from_.is_local = from_.is_local && header.source.is_loopback();
      from_.address = header.source;
      from_.via = proxy;
      break;
    case proxy_header::speaks_for::nobody: from_.name = proxy; break;
    case proxy_header::speaks_for::unknown:
      from_.name = proxy + " (for an unknown client)";
      from_.is_local = false;
      break;
  }
  octets_.empty() ? wait_to_read() : look();
}

void arrival::begin_tls() {
  auto context = server_.tls.load();
  if (!context) {
    boost::system::error_code ignored;
    boost::asio::write(socket_, boost::asio::buffer(handshake_failure), ignored);
    return refuse(node_context::severity::info,
                  "it speaks TLS, for which this node has no certificate: set tls.certificate and tls.key");
  }
  tls_ =
      std::make_unique<tls_session>(std::move(context), socket_.native_handle(), std::exchange(octets_, {}));
  greet();
}

void arrival::greet() {
  const auto again = [self = shared_from_this()](const auto& failed) {
    if (!self->on_end_) return;
    if (failed) return self->refuse(node_context::severity::debug, failed.message());
    self->greet();
  };
  switch (tls_->handshake()) {
    case tls_session::step::done: return pass_on(std::move(tls_));
    case tls_session::step::wants_read: return socket_.async_wait(socket::wait_read, again);
    case tls_session::step::wants_write: return socket_.async_wait(socket::wait_write, again);
    case tls_session::step::failed: break;
  }
  const auto& why = tls_->failure();
  if (why.empty()) {
    return refuse(node_context::severity::debug, "the client closed the socket in the TLS handshake");
  }
  refuse(node_context::severity::warning, "the TLS handshake failed: " + why);
}

void arrival::pass_to_http() {
  boost::system::error_code ignored;
  timer_.cancel();
  // Whom the HTTP door may take for one on this machine.
  auto asker = from_.address.value_or(neighbour_);
  if (asker.is_loopback() && !from_.is_local) asker = {};
  server_.settings.on_http(std::move(socket_), std::exchange(octets_, {}), to_asio(asker));
  end();
}

void arrival::pass_on(std::unique_ptr<tls_session> session) {
  if (session) {
    log(node_context::severity::debug, "connection " + from_.name + ": " + session->description());
  }
  end(amqp_client{transport{std::move(socket_), std::move(session)}, std::move(from_), std::move(octets_),
                  deadline_});
}

void arrival::refuse(node_context::severity level, const std::string& why) {
  if (!on_end_) return;  // the timer may have run out in the very moment
  log(level, "connection " + from_.name + " ended: " + why);
  end();
}

void arrival::end(std::optional<amqp_client> becomes) {
  if (!on_end_) return;
  timer_.cancel();
  boost::system::error_code ignored;
  if (socket_.is_open()) {
    socket_.shutdown(socket::shutdown_both, ignored);
    socket_.close(ignored);
  }
  server_.connections.fetch_sub(1, std::memory_order_relaxed);
  const auto keep = shared_from_this();
  std::exchange(on_end_, nullptr)(*this, std::move(becomes));
}

void arrival::log(node_context::severity level, const std::string& text) const {
  server_.node.context().log(level, text);
}

}  // namespace posthorn::amqp091
