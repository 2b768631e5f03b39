#include "access/password.hpp"

#include <sodium.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace posthorn {

namespace {

using scheme = password_hash::scheme;

constexpr std::string_view sha256_name = "rabbit_password_hashing_sha256";
constexpr std::string_view sha512_name = "rabbit_password_hashing_sha512";
constexpr std::string_view md5_name = "rabbit_password_hashing_md5";
constexpr std::string_view argon2id_name = "argon2id";
constexpr std::size_t salt_size = 4;

// What a hash from outside may ask of whoever checks it.
constexpr password_cost imported_cost_max = {16, std::size_t{256} << 20};

// Idempotent, from any thread; before it, libsodium may not be used.
void start_sodium() { expects(sodium_init() >= 0, "libsodium cannot be started"); }

const unsigned char* octets(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// Compares without telling where the first difference is. The sizes are no secret.
bool same(std::string_view a, std::string_view b) {
  return a.size() == b.size() && sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string digest256(std::string_view salt, std::string_view password) {
  std::string out(crypto_hash_sha256_BYTES, '\0');
  crypto_hash_sha256_state state;
  crypto_hash_sha256_init(&state);
  crypto_hash_sha256_update(&state, octets(salt), salt.size());
  crypto_hash_sha256_update(&state, octets(password), password.size());
  crypto_hash_sha256_final(&state, reinterpret_cast<unsigned char*>(out.data()));
  sodium_memzero(&state, sizeof state);
  return out;
}

std::string digest512(std::string_view salt, std::string_view password) {
  std::string out(crypto_hash_sha512_BYTES, '\0');
  crypto_hash_sha512_state state;
  crypto_hash_sha512_init(&state);
  crypto_hash_sha512_update(&state, octets(salt), salt.size());
  crypto_hash_sha512_update(&state, octets(password), password.size());
  crypto_hash_sha512_final(&state, reinterpret_cast<unsigned char*>(out.data()));
  sodium_memzero(&state, sizeof state);
  return out;
}

error no_memory() { return overloaded("there is no memory to check a password"); }

// One run of Argon2id, for nothing but its time.
result<void> spend(const secret& password, password_cost cost) {
  static constexpr std::array<unsigned char, crypto_pwhash_SALTBYTES> salt{};
  std::array<unsigned char, 32> out{};
  if (crypto_pwhash(out.data(), out.size(), password.reveal().data(), password.reveal().size(), salt.data(),
                    cost.passes, cost.memory, crypto_pwhash_ALG_ARGON2ID13) != 0) {
    return no_memory();
  }
  return {};
}

// The cost that stands in libsodium's text, "$argon2id$v=19$m=19456,t=2,p=1$salt$digest". Nothing: it is
// none.
std::optional<password_cost> cost_of(std::string_view text) {
  const auto skip = [&](std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
  };
  const auto number = [&]() -> std::optional<std::uint32_t> {
    std::uint32_t value = 0;
    const auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (wrong != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
  };
  if (!skip("$argon2id$v=19$m=")) return std::nullopt;
  const auto kibibytes = number();
  if (!kibibytes || !skip(",t=")) return std::nullopt;
  const auto passes = number();
  if (!passes || !skip(",p=1$")) return std::nullopt;
  return password_cost{*passes, std::size_t{*kibibytes} << 10};
}

// libsodium wants a zero after the text, within its usual length.
std::optional<std::array<char, crypto_pwhash_STRBYTES>> as_sodium_text(std::string_view text) {
  std::array<char, crypto_pwhash_STRBYTES> out{};
  if (text.size() >= out.size() || text.find('\0') != std::string_view::npos) return std::nullopt;
  std::copy(text.begin(), text.end(), out.begin());
  return out;
}

}  // namespace

secret::secret(secret&& other) noexcept : text_(other.text_) { other.wipe(); }

secret& secret::operator=(secret&& other) noexcept {
  if (this != &other) {
    wipe();
    text_ = other.text_;
    other.wipe();
  }
  return *this;
}

void secret::wipe() noexcept {
  text_.resize(text_.capacity());  // a text that was longer once
  sodium_memzero(text_.data(), text_.size());
  text_.clear();
}

result<password_hash> password_hash::of(const secret& password, password_cost cost) {
  start_sodium();
  if (password.empty()) return refused("the password must not be empty");
  std::array<char, crypto_pwhash_STRBYTES> out{};
  if (crypto_pwhash_str(out.data(), password.reveal().data(), password.reveal().size(), cost.passes,
                        cost.memory) != 0) {
    return overloaded("there is no memory to hash a password");
  }
  return password_hash{scheme::argon2id, std::string{out.data()}};
}

result<password_hash> password_hash::imported(std::string_view algorithm, std::string_view text) {
  start_sodium();
  if (text.empty()) return password_hash{};
  if (algorithm == argon2id_name) {
    const auto cost = cost_of(text);
    const auto padded = as_sodium_text(text);
    // libsodium reads the whole text when it is asked whether its cost is the wanted one.
    if (!cost || !padded || crypto_pwhash_str_needs_rehash(padded->data(), cost->passes, cost->memory) != 0) {
      return refused("the password hash is not what the algorithm argon2id makes");
    }
    if (cost->passes > imported_cost_max.passes || cost->memory > imported_cost_max.memory) {
      return refused("the password hash takes too long to check: at most " +
                     std::to_string(imported_cost_max.passes) + " passes over " +
                     std::to_string(imported_cost_max.memory >> 20) + " MiB are allowed");
    }
    return password_hash{scheme::argon2id, std::string{text}};
  }
  if (algorithm == md5_name) {
    return refused(
        "passwords hashed with MD5 are not accepted: set the password anew, or import it from a "
        "RabbitMQ that has hashed it with SHA-256");
  }
  if (!algorithm.empty() && algorithm != sha256_name && algorithm != sha512_name) {
    return refused("the password hashing algorithm is unknown; it should be " + std::string{sha256_name} +
                   ", " + std::string{sha512_name} + " or " + std::string{argon2id_name});
  }
  const bool long_one = algorithm == sha512_name;
  const auto size = salt_size + (long_one ? crypto_hash_sha512_BYTES : crypto_hash_sha256_BYTES);
  std::string bytes(size + 4, '\0');
  std::size_t decoded = 0;
  const char* end = nullptr;
  if (sodium_base642bin(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size(), text.data(),
                        text.size(), "\r\n", &decoded, &end, sodium_base64_VARIANT_ORIGINAL) != 0 ||
      end != text.data() + text.size()) {
    return refused("the password hash is not valid base64, or too long");
  }
  if (decoded != size) {
    return refused("the password hash has " + std::to_string(decoded) + " bytes, but salt and digest of " +
                   std::string{long_one ? sha512_name : sha256_name} + " have " + std::to_string(size));
  }
  bytes.resize(size);
  return password_hash{long_one ? scheme::sha512 : scheme::sha256, std::move(bytes)};
}

std::string_view password_hash::algorithm() const noexcept {
  switch (scheme_) {
    case scheme::argon2id: return argon2id_name;
    case scheme::sha512: return sha512_name;
    case scheme::none:
    case scheme::sha256: break;
  }
  return sha256_name;
}

std::string password_hash::text() const {
  if (scheme_ == scheme::none || scheme_ == scheme::argon2id) return bytes_;
  std::string out(sodium_base64_encoded_len(bytes_.size(), sodium_base64_VARIANT_ORIGINAL), '\0');
  sodium_bin2base64(out.data(), out.size(), octets(bytes_), bytes_.size(), sodium_base64_VARIANT_ORIGINAL);
  out.resize(std::strlen(out.c_str()));
  return out;
}

bool password_hash::outdated(password_cost cost) const {
  if (scheme_ == scheme::none) return false;
  if (scheme_ != scheme::argon2id) return true;
  const auto has = cost_of(bytes_);
  return !has || has->passes != cost.passes || has->memory != cost.memory;
}

password_check::password_check(std::optional<password_hash> stored, secret password,
                               password_cost cost) noexcept
    : stored_(std::move(stored)), password_(std::move(password)), cost_(cost) {}

result<bool> password_check::run() const {
  start_sodium();
  const auto kind = stored_ ? stored_->kind() : scheme::none;
  const auto given = password_.reveal();
  if (kind == scheme::argon2id) {
    const auto text = as_sodium_text(stored_->bytes());
    expects(text.has_value(), "a stored hash has the length that it was checked for");
    errno = 0;
    const bool right = crypto_pwhash_str_verify(text->data(), given.data(), given.size()) == 0;
    if (!right && errno == ENOMEM) return no_memory();
    return right && !given.empty();
  }
  // What takes microseconds, or nothing at all, must not be seen from outside.
  if (auto spent = spend(password_, cost_); !spent) return spent.error();
  if (kind == scheme::none || given.empty()) return false;
  const std::string_view stored = stored_->bytes();
  const auto salt = stored.substr(0, salt_size);
  return same(kind == scheme::sha256 ? digest256(salt, given) : digest512(salt, given),
              stored.substr(salt_size));
}

login_cache::key login_cache::new_key() {
  start_sodium();
  key out{};
  randombytes_buf(out.data(), out.size());
  return out;
}

login_cache::~login_cache() { sodium_memzero(key_.data(), key_.size()); }

std::size_t login_cache::proof_hash::operator()(const proof& p) const noexcept {
  std::size_t out = 0;
  std::memcpy(&out, p.data(), sizeof out);
  return out;
}

login_cache::proof login_cache::prove(std::string_view user, const password_hash& stored,
                                      const secret& password) const {
  proof out{};
  crypto_generichash_state state;
  crypto_generichash_init(&state, key_.data(), key_.size(), out.size());
  // Each with its length before it, so that no two logins run together into the same octets.
  for (const std::string_view part : {user, std::string_view{stored.bytes()}, password.reveal()}) {
    const std::uint64_t size = part.size();
    crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(&size), sizeof size);
    crypto_generichash_update(&state, octets(part), part.size());
  }
  crypto_generichash_final(&state, out.data(), out.size());
  sodium_memzero(&state, sizeof state);
  return out;
}

bool login_cache::knows(std::string_view user, const password_hash& stored, const secret& password,
                        std::chrono::milliseconds now) const {
  if (stored.kind() == scheme::none || password.empty()) return false;
  const auto found = known_.find(prove(user, stored, password));
  return found != known_.end() && now < found->second;
}

void login_cache::remember(std::string_view user, const password_hash& stored, const secret& password,
                           std::chrono::milliseconds now) {
  if (stored.kind() == scheme::none || password.empty()) return;
  const auto forget_oldest = [&] {
    const auto& [until, which] = order_.front();
    // Remembered again since: then a later entry speaks for it.
    if (const auto found = known_.find(which); found != known_.end() && found->second <= until)
      known_.erase(found);
    order_.pop_front();
  };
  while (!order_.empty() && order_.front().first <= now) forget_oldest();
  if (options_.entries_max == 0) return;
  while (order_.size() >= options_.entries_max) forget_oldest();
  const auto which = prove(user, stored, password);
  const auto until = now + options_.lifetime;
  known_[which] = until;
  order_.emplace_back(until, which);
}

}  // namespace posthorn
