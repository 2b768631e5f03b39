// TLS for the AMQP door: what the node shows of itself and asks of its clients, and one client's session.
//
// OpenSSL does it on the socket itself, without the streams of Boost.Asio: a connection reads when its socket can be read,
// straight into its thread's chunk, so an idle one keeps no buffers.
//
// Threads     a context is never changed once it is loaded, and any thread may use it. A session belongs to its connection.
// Errors      tell the file and what is wrong with it, never what is in it.
#pragma once

#include "mailbox/result.hpp"

#include <boost/system/error_code.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_st SSL;

namespace posthorn::amqp091 {

// Whether a client has to show a certificate. Of `peer`, it may; one that it shows must be sound.
enum class tls_verify : std::uint8_t { none, peer, required };

// What of a client's certificate is the user's name, for EXTERNAL.
enum class tls_login : std::uint8_t { common_name, distinguished_name, san_dns, san_email, san_uri };

struct tls_settings {
  std::string
      certificate{};  // file, in PEM: the node's, and those between it and its root. Empty: there is no TLS
  std::string key{};  // file, in PEM, without a passphrase
  std::string ca{};   // file, in PEM: whose clients' certificates are good
  tls_verify verify = tls_verify::none;
  tls_login login = tls_login::common_name;

  friend bool operator==(const tls_settings&, const tls_settings&) = default;
};

class tls_context {
public:
  // Reads the files. `refused`: they are not there, or not what they should be.
  static result<std::shared_ptr<const tls_context>> load(const tls_settings& settings);
  ~tls_context();
  tls_context(const tls_context&) = delete;
  tls_context& operator=(const tls_context&) = delete;

  // "CN=node, valid until Nov 21 23:00:00 2027 GMT", for the log.
  [[nodiscard]] const std::string& description() const noexcept { return description_; }
  // Days until the node's certificate is no longer valid; negative: since when it is not.
  [[nodiscard]] int days_left() const noexcept { return days_left_; }
  [[nodiscard]] tls_login login() const noexcept { return login_; }

private:
  friend class tls_session;
  explicit tls_context(tls_login login);

  SSL_CTX* context_ = nullptr;
  tls_login login_;
  std::string description_;
  int days_left_ = 0;
};

// The server's side of one connection.
class tls_session {
public:
  enum class step : std::uint8_t { done, wants_read, wants_write, failed };

  // On a socket that does not block, and stays the caller's. `first`: what was read of it before, in which the client's
  // side begins.
  tls_session(std::shared_ptr<const tls_context> context, int descriptor, std::string first);
  ~tls_session();
  tls_session(const tls_session&) = delete;
  tls_session& operator=(const tls_session&) = delete;

  // To be called again when the socket can do what is wanted. After `failed`, `failure` says why.
  step handshake();
  [[nodiscard]] const std::string& failure() const noexcept { return failure_; }

  // After the handshake. As the socket's own, with `would_block` and `eof`; a read fills all that it can.
  std::size_t read_some(std::span<std::byte> into, boost::system::error_code& failed);
  std::size_t write_some(std::span<const char> from, boost::system::error_code& failed);
  // More can be read at once, whatever the socket says.
  [[nodiscard]] bool has_more() const noexcept { return has_more_; }
  // The last read or write waits for the other direction.
  [[nodiscard]] bool read_waits_to_write() const noexcept { return read_waits_to_write_; }
  [[nodiscard]] bool write_waits_to_read() const noexcept { return write_waits_to_read_; }
  // Tells the client that no more will come, as far as the socket takes it now.
  void say_goodbye();

  // "TLSv1.3, TLS_AES_256_GCM_SHA384".
  [[nodiscard]] std::string description() const;
  // The user that a client's verified certificate names; empty when there is none.
  [[nodiscard]] const std::string& user() const noexcept { return user_; }

private:
  struct wire;  // reads and writes the socket for OpenSSL
  friend struct wire;
  friend class tls_context;
  static int on_certificate(int is_sound, void* store);
  void note_failure(int code);
  void find_user();

  std::shared_ptr<const tls_context> context_;
  SSL* ssl_ = nullptr;
  const int descriptor_;
  std::string first_;
  std::size_t first_used_ = 0;
  bool at_end_ = false;      // of what the client sends
  bool is_broken_ = false;   // OpenSSL must not be asked any more
  bool is_greeted_ = false;  // the handshake is done
  bool has_more_ = false;
  bool read_waits_to_write_ = false, write_waits_to_read_ = false;
  std::string failure_, certificate_failure_;
  std::string user_;
};

// Whether what a certificate says can be a user's name: not empty, at most 255 octets, and nothing in it that does not print.
[[nodiscard]] bool may_be_user(std::string_view name) noexcept;

}  // namespace posthorn::amqp091
