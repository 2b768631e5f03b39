// Passwords: how they are kept, and how one is checked.
//
// New ones are hashed with Argon2id (libsodium): 19 MiB and two passes, which is the least that OWASP
// recommends. That takes 21 ms of a core at 2.6 GHz, on purpose. RabbitMQ's salted hashes are accepted as
// they are, so that its definitions can be imported.
//
// A check therefore never runs on a thread that serves connections. It comes in three steps:
//
//   1. the owner of the accounts asks its `login_cache`, which takes 0.5 microseconds. A user who has shown
//      this password in the last ten minutes is in.
//   2. else it makes a `password_check`, a value that knows all it needs, and hands it to a worker thread,
//      which calls run(). How many of them wait is for the owner to limit: a core does 47 a second. It asks
//      the cache again before a check that has waited is handed over: of a thousand connections of one user
//      that come at once, only the first are then checked this way.
//   3. the answer goes back to the owner, which remembers a success.
//
// The cache is what makes thousands of logins a second possible, as when every client comes back after a
// restart of the network: one slow check for each user in ten minutes, not one for each connection. It holds
// keyed hashes, no passwords; the key is made anew by every process. Failures are not cached: they cost the
// full time, and cannot fill it.
//
// How long a check takes does not tell whether there is such a user: each runs Argon2id once, with the
// current cost. No text here ever has a password in it.
//
// Threads   plain values. What takes long says so; everything else takes microseconds.
#pragma once

#include "mailbox/result.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace posthorn {

// A text that is wiped from memory at its end, and that nothing prints.
class secret {
public:
  secret() noexcept = default;
  explicit secret(std::string text) noexcept : text_(std::move(text)) {}
  secret(secret&& other) noexcept;
  secret& operator=(secret&& other) noexcept;
  ~secret() { wipe(); }

  // For whoever has to look inside. Valid as long as this is.
  [[nodiscard]] std::string_view reveal() const noexcept { return text_; }
  [[nodiscard]] bool empty() const noexcept { return text_.empty(); }

private:
  void wipe() noexcept;

  std::string text_;
};

// What one run of Argon2id takes.
struct password_cost {
  std::uint64_t passes = 2;
  std::size_t memory = std::size_t{19} << 20;  // bytes
};

class password_hash {
public:
  enum class scheme : std::uint8_t {
    none,      // nobody logs in with a password; with a certificate, perhaps
    argon2id,  // libsodium's text, "$argon2id$v=19$m=19456,t=2,p=1$…"
    sha256,    // RabbitMQ's: four octets of salt, and the digest of salt and password
    sha512,    // the same
  };

  password_hash() noexcept = default;

  // Takes tens of milliseconds and `cost.memory`. Refuses an empty password.
  [[nodiscard]] static result<password_hash> of(const secret& password, password_cost cost = {});

  // From a file of definitions: the user's `hashing_algorithm` and `password_hash`. Without an algorithm it
  // is SHA-256, RabbitMQ's default. MD5, which RabbitMQ had until 3.6, is refused; so is a hash that costs
  // more than a check may.
  [[nodiscard]] static result<password_hash> imported(std::string_view algorithm, std::string_view text);

  // Those two again. RabbitMQ cannot import argon2id.
  [[nodiscard]] std::string_view algorithm() const noexcept;
  [[nodiscard]] std::string text() const;

  [[nodiscard]] scheme kind() const noexcept { return scheme_; }

  // Whether it was made with another scheme or another cost than new ones are.
  [[nodiscard]] bool outdated(password_cost cost) const;

  // What is kept: no password can be read off it, but it belongs into no log either.
  [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }

  friend bool operator==(const password_hash&, const password_hash&) noexcept = default;

private:
  password_hash(scheme kind, std::string bytes) noexcept : scheme_(kind), bytes_(std::move(bytes)) {}

  scheme scheme_ = scheme::none;
  std::string bytes_;  // argon2id: the text; else salt and digest
};

// One login that has to be checked the slow way.
class password_check {
public:
  // `stored` is nothing if there is no such user.
  password_check(std::optional<password_hash> stored, secret password, password_cost cost = {}) noexcept;

  // Takes tens of milliseconds and `cost.memory`: never on a thread that serves connections. An empty
  // password is always wrong. Without the memory the answer is an error (overloaded), not a refusal.
  [[nodiscard]] result<bool> run() const;

  [[nodiscard]] const std::optional<password_hash>& stored() const noexcept { return stored_; }
  [[nodiscard]] const secret& password() const noexcept { return password_; }

private:
  std::optional<password_hash> stored_;
  secret password_;
  password_cost cost_;
};

// Who has shown the right password lately. It forgets the oldest when it is full. A new password makes what
// it knows of the user void by itself, because the stored hash is part of the key.
class login_cache {
public:
  using key = std::array<unsigned char, 32>;
  struct options {
    std::size_t entries_max = 10'000;  // about 2 MB
    std::chrono::milliseconds lifetime = std::chrono::minutes{10};
  };

  // From the system's source of randomness.
  [[nodiscard]] static key new_key();

  explicit login_cache(const key& k) : login_cache(k, options{}) {}
  login_cache(const key& k, options o) : key_(k), options_(o) {}
  login_cache(const login_cache&) = delete;
  login_cache& operator=(const login_cache&) = delete;
  ~login_cache();

  // `now` is any clock that never goes back.
  [[nodiscard]] bool knows(std::string_view user, const password_hash& stored, const secret& password,
                           std::chrono::milliseconds now) const;

  // After a check that succeeded, with the very hash that was checked.
  void remember(std::string_view user, const password_hash& stored, const secret& password,
                std::chrono::milliseconds now);

  [[nodiscard]] std::size_t size() const noexcept { return known_.size(); }

private:
  using proof = std::array<unsigned char, 32>;
  struct proof_hash {
    std::size_t operator()(const proof& p) const noexcept;
  };

  [[nodiscard]] proof prove(std::string_view user, const password_hash& stored, const secret& password) const;

  key key_;
  options options_;
  std::unordered_map<proof, std::chrono::milliseconds, proof_hash> known_;  // until when
  std::deque<std::pair<std::chrono::milliseconds, proof>> order_;           // by that time
};

}  // namespace posthorn
