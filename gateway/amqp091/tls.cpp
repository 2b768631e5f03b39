#include "gateway/amqp091/tls.hpp"

#include <boost/asio/error.hpp>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

namespace posthorn::amqp091 {

namespace {

// Suites of TLS 1.2 that keep old traffic secret when a key becomes known, and cannot be tampered with. Those of 1.3 all do.
constexpr const char* ciphers =
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP:!kRSA";
constexpr std::size_t user_size_max = 255;
// About two records for each call of the system; given back when all of it is read.
constexpr std::size_t read_ahead_size = std::size_t{32} << 10;

struct file_closer {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
struct free_with_openssl {
  void operator()(BIO* bio) const noexcept { BIO_free(bio); }
  void operator()(GENERAL_NAMES* names) const noexcept { GENERAL_NAMES_free(names); }
};
using bio_ptr = std::unique_ptr<BIO, free_with_openssl>;

// What OpenSSL complained of first; the rest follows from it.
std::string complaint() {
  const auto code = ERR_peek_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  std::string out = reason != nullptr ? reason : "unknown reason";
  ERR_clear_error();
  return out;
}

// A wrong path is told as what it is.
std::optional<error> unreadable(const char* what, const char* key, const std::string& path) {
  if (path.empty()) {
    return refused(std::string{"there is no "} + what + ": set " + key +
                   " to its file, or leave out all of tls");
  }
  const std::unique_ptr<std::FILE, file_closer> file{std::fopen(path.c_str(), "rb")};
  if (file && std::fgetc(file.get()) != EOF) return std::nullopt;
  return refused(std::string{"cannot read the "} + what + " " + path + " (" + key +
                 "): " + (file && std::ferror(file.get()) == 0 ? "it is empty" : std::strerror(errno)));
}

std::string text_of(BIO* out) {
  char* text = nullptr;
  const auto size = BIO_get_mem_data(out, &text);
  return size > 0 ? std::string{text, static_cast<std::size_t>(size)} : std::string{};
}

std::string text_of(const X509_NAME* name) {
  const bio_ptr out{BIO_new(BIO_s_mem())};
  X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  return text_of(out.get());
}

std::string time_text(const ASN1_TIME* time) {
  const bio_ptr out{BIO_new(BIO_s_mem())};
  ASN1_TIME_print(out.get(), time);
  return text_of(out.get());
}

std::string text_of(const ASN1_STRING* text) {
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(&utf8, text);
  if (size < 0) return {};
  std::string out{reinterpret_cast<const char*>(utf8), static_cast<std::size_t>(size)};
  OPENSSL_free(utf8);
  return out;
}

// Of several common names nobody can say which one logs in.
std::string common_name(const X509* certificate) {
  const auto* const name = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0) return {};
  return text_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
}

// The first of its kind.
std::string alternative_name(const X509* certificate, int kind) {
  const std::unique_ptr<GENERAL_NAMES, free_with_openssl> names{
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr))};
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* const value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type == kind) return text_of(static_cast<const ASN1_STRING*>(value));
  }
  return {};
}

std::string user_of(const X509* certificate, tls_login from) {
  switch (from) {
    case tls_login::common_name: return common_name(certificate);
    case tls_login::distinguished_name: return text_of(X509_get_subject_name(certificate));
    case tls_login::san_dns: return alternative_name(certificate, GEN_DNS);
    case tls_login::san_email: return alternative_name(certificate, GEN_EMAIL);
    case tls_login::san_uri: return alternative_name(certificate, GEN_URI);
  }
  return {};
}

}  // namespace

bool may_be_user(std::string_view name) noexcept {
  return !name.empty() && name.size() <= user_size_max && std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == '\x7F';
  });
}

// --- the node's side ----------------------------------------------------------------------------------------------

tls_context::tls_context(tls_login login) : context_{SSL_CTX_new(TLS_server_method())}, login_{login} {
  expects(context_ != nullptr, "OpenSSL has memory for a context");
}

tls_context::~tls_context() { SSL_CTX_free(context_); }

result<std::shared_ptr<const tls_context>> tls_context::load(const tls_settings& settings) {
  ERR_clear_error();
  if (auto wrong = unreadable("certificate", "tls.certificate", settings.certificate)) return *wrong;
  if (auto wrong = unreadable("key", "tls.key", settings.key)) return *wrong;
  const bool verifies = settings.verify != tls_verify::none;
  if (verifies || !settings.ca.empty()) {
    if (auto wrong = unreadable("file of trusted authorities", "tls.ca", settings.ca)) return *wrong;
  }
  std::shared_ptr<tls_context> made{new tls_context{settings.login}};
  auto* const context = made->context_;
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_cipher_list(context, ciphers);
  // AMQP says itself when it ends. Sessions are not resumed: so what verifies a client is always the present context.
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, read_ahead_size);
  // Or it would ask at the terminal.
  SSL_CTX_set_default_passwd_cb(context, [](char*, int, int, void*) { return -1; });

  if (SSL_CTX_use_certificate_chain_file(context, settings.certificate.c_str()) != 1) {
    return refused("the certificate " + settings.certificate +
                   " (tls.certificate) is none in PEM: " + complaint());
  }
  if (SSL_CTX_use_PrivateKey_file(context, settings.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    const auto code = ERR_peek_error();
    const bool mismatch = ERR_GET_REASON(code) == X509_R_KEY_VALUES_MISMATCH ||
                          ERR_GET_REASON(code) == X509_R_KEY_TYPE_MISMATCH;
    const auto why = complaint();
    return refused("the key " + settings.key + " (tls.key) " +
                   (mismatch ? "does not belong to the certificate " + settings.certificate
                             : "is none in PEM, or has a passphrase, which it must not: " + why));
  }
  if (SSL_CTX_check_private_key(context) != 1) {
    ERR_clear_error();
    return refused("the key " + settings.key + " (tls.key) does not belong to the certificate " +
                   settings.certificate);
  }
  if (verifies) {
    if (SSL_CTX_load_verify_file(context, settings.ca.c_str()) != 1) {
      return refused("the file of trusted authorities " + settings.ca +
                     " (tls.ca) holds no certificates in PEM: " + complaint());
    }
    // What a client with several certificates chooses by.
    SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(settings.ca.c_str()));
    const int must = settings.verify == tls_verify::required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | must, [](int is_sound, X509_STORE_CTX* store) {
      return tls_session::on_certificate(is_sound, store);
    });
  }
  const auto* const own = SSL_CTX_get0_certificate(context);
  made->description_ =
      text_of(X509_get_subject_name(own)) + ", valid until " + time_text(X509_get0_notAfter(own));
  int days = 0, seconds = 0;
  if (ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(own)) == 1) {
    made->days_left_ = days < 0 || seconds < 0 ? std::min(days, -1) : days;
  }
  ERR_clear_error();
  return std::shared_ptr<const tls_context>{std::move(made)};
}

// --- one client's -------------------------------------------------------------------------------------------------

struct tls_session::wire {
  static tls_session& session(BIO* bio) { return *static_cast<tls_session*>(BIO_get_data(bio)); }

  static int read(BIO* bio, char* into, int size) {
    auto& s = session(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0) return 0;
    if (s.first_used_ < s.first_.size()) {
      const auto count = s.first_.copy(into, static_cast<std::size_t>(size), s.first_used_);
      s.first_used_ += count;
      if (s.first_used_ == s.first_.size()) {
        s.first_ = {};
        s.first_used_ = 0;
      }
      return static_cast<int>(count);
    }
    const auto count = ::recv(s.descriptor_, into, static_cast<std::size_t>(size), 0);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_read(bio);
    s.at_end_ = count == 0;
    return static_cast<int>(count);
  }

  static int write(BIO* bio, const char* from, int size) {
    BIO_clear_retry_flags(bio);
    if (size <= 0) return 0;
    const auto count = ::send(session(bio).descriptor_, from, static_cast<std::size_t>(size), MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_write(bio);
    return static_cast<int>(count);
  }

  static long control(BIO* bio, int command, long, void*) {
    if (command == BIO_CTRL_EOF) return session(bio).at_end_ ? 1 : 0;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
  }

  // Made once, and never given back.
  static const BIO_METHOD* methods() {
    static const BIO_METHOD* const made = [] {
      auto* out = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "posthorn socket");
      expects(out != nullptr, "OpenSSL has memory for a method");
      BIO_meth_set_read(out, read);
      BIO_meth_set_write(out, write);
      BIO_meth_set_ctrl(out, control);
      return out;
    }();
    return made;
  }
};

tls_session::tls_session(std::shared_ptr<const tls_context> context, int descriptor, std::string first)
    : context_{std::move(context)},
      ssl_{SSL_new(context_->context_)},
      descriptor_{descriptor},
      first_{std::move(first)} {
  auto* const bio = BIO_new(wire::methods());
  expects(ssl_ != nullptr && bio != nullptr, "OpenSSL has memory for a session");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_, bio, bio);  // which owns it now
  SSL_set_app_data(ssl_, this);
  SSL_set_accept_state(ssl_);
}

tls_session::~tls_session() { SSL_free(ssl_); }

// Keeps what is wrong with which certificate: the error of the handshake itself tells neither.
int tls_session::on_certificate(int is_sound, void* store) {
  auto* const context = static_cast<X509_STORE_CTX*>(store);
  if (is_sound == 1) return 1;
  auto* const ssl =
      static_cast<SSL*>(X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto& self = *static_cast<tls_session*>(SSL_get_app_data(ssl));
  self.certificate_failure_ = X509_verify_cert_error_string(X509_STORE_CTX_get_error(context));
  if (const auto* const certificate = X509_STORE_CTX_get_current_cert(context)) {
    self.certificate_failure_ +=
        " ('" + text_of(X509_get_subject_name(certificate)).substr(0, user_size_max) + "', issued by '" +
        text_of(X509_get_issuer_name(certificate)).substr(0, user_size_max) + "')";
  }
  return 0;
}

tls_session::step tls_session::handshake() {
  ERR_clear_error();
  const int done = SSL_do_handshake(ssl_);
  if (done == 1) {
    is_greeted_ = true;
    has_more_ = true;  // perhaps: the client's first octets may have come along
    find_user();
    return step::done;
  }
  const int code = SSL_get_error(ssl_, done);
  if (code == SSL_ERROR_WANT_READ) return step::wants_read;
  if (code == SSL_ERROR_WANT_WRITE) return step::wants_write;
  note_failure(code);
  return step::failed;
}

void tls_session::note_failure(int code) {
  is_broken_ = true;
  if (!certificate_failure_.empty()) {
    failure_ = "its certificate is refused: " + certificate_failure_;
    ERR_clear_error();
  } else if (code == SSL_ERROR_SSL && ERR_peek_error() != 0) {
    failure_ = complaint();
  } else {
    failure_.clear();  // the client is gone
  }
}

void tls_session::find_user() {
  const auto* const certificate = SSL_get0_peer_certificate(ssl_);
  if (certificate == nullptr || SSL_get_verify_result(ssl_) != X509_V_OK) return;
  auto name = user_of(certificate, context_->login_);
  if (may_be_user(name)) user_ = std::move(name);
}

std::size_t tls_session::read_some(std::span<std::byte> into, boost::system::error_code& failed) {
  failed = {};
  has_more_ = read_waits_to_write_ = false;
  if (is_broken_) {
    failed = boost::asio::error::connection_reset;
    return 0;
  }
  ERR_clear_error();
  std::size_t size = 0;
  while (size < into.size()) {
    std::size_t count = 0;
    const int done = SSL_read_ex(ssl_, into.data() + size, into.size() - size, &count);
    if (done == 1) {
      size += count;
      continue;
    }
    const int code = SSL_get_error(ssl_, done);
    if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
      read_waits_to_write_ = code == SSL_ERROR_WANT_WRITE;
      if (size == 0) failed = boost::asio::error::would_block;
      return size;
    }
    if (code != SSL_ERROR_ZERO_RETURN) note_failure(code);
    has_more_ = size != 0;  // the end itself, which the next read finds again
    if (size == 0) {
      failed = is_broken_ ? boost::system::error_code{boost::asio::error::connection_reset}
                          : boost::system::error_code{boost::asio::error::eof};
    }
    return size;
  }
  has_more_ = true;
  return size;
}

std::size_t tls_session::write_some(std::span<const char> from, boost::system::error_code& failed) {
  failed = {};
  write_waits_to_read_ = false;
  if (from.empty()) return 0;
  if (is_broken_) {
    failed = boost::asio::error::broken_pipe;
    return 0;
  }
  ERR_clear_error();
  std::size_t count = 0;
  const int done = SSL_write_ex(ssl_, from.data(), std::min<std::size_t>(from.size(), INT_MAX), &count);
  if (done == 1) return count;
  const int code = SSL_get_error(ssl_, done);
  if (code == SSL_ERROR_WANT_READ || code == SSL_ERROR_WANT_WRITE) {
    write_waits_to_read_ = code == SSL_ERROR_WANT_READ;
    failed = boost::asio::error::would_block;
  } else {
    note_failure(code);
    failed = boost::asio::error::broken_pipe;
  }
  return 0;
}

void tls_session::say_goodbye() {
  if (!is_greeted_ || is_broken_) return;
  ERR_clear_error();
  SSL_shutdown(ssl_);
  ERR_clear_error();
}

std::string tls_session::description() const {
  return std::string{SSL_get_version(ssl_)} + ", " + SSL_get_cipher_name(ssl_);
}

}  // namespace posthorn::amqp091
