#include "access/password.hpp"

#include "tests/mailbox/printed_result.hpp"

#include <sodium.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

using namespace posthorn;
using namespace std::chrono_literals;

namespace {

constexpr password_cost cheap = {1, 8192};  // the least that libsodium takes
constexpr std::string_view sha256 = "rabbit_password_hashing_sha256";
constexpr std::string_view sha512 = "rabbit_password_hashing_sha512";

// Of the user b3u with the password secret1, as RabbitMQ 4.3.6 exported it.
constexpr std::string_view exported = "fZAlDJJAZkTLZ3+gbEOOk25SHHCBhrIZXpNHDFoBhFAJtcLz";
// base64(00 01 02 03, SHA-512(00 01 02 03 "secret1"))
constexpr std::string_view exported512 =
    "AAECA0GEPD+g6SH684FrZUkEMTZmnYKctr0FNgqcON7bSjbcCkEwF98v2Hv0a2XE9zS8fGrKp4zjlsCRsJgkAnFf7wI=";

secret of(std::string_view text) { return secret{std::string{text}}; }

bool checks(const password_hash& stored, std::string_view password) {
  const auto answer = password_check{stored, of(password), cheap}.run();
  REQUIRE(answer.has_value());
  return *answer;
}

std::string complaint(std::string_view algorithm, std::string_view text) {
  const auto imported = password_hash::imported(algorithm, text);
  if (imported) return "";
  CHECK(imported.error().code == errc::refused);
  return imported.error().text;
}

}  // namespace

TEST_CASE("a new password is hashed with Argon2id, and only it is right", "[access]") {
  const auto hash = password_hash::of(of("correct horse"), cheap);
  REQUIRE(hash.has_value());
  CHECK(hash->kind() == password_hash::scheme::argon2id);
  CHECK(hash->text().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
  CHECK(checks(*hash, "correct horse"));
  CHECK_FALSE(checks(*hash, "correct horsf"));
  CHECK_FALSE(checks(*hash, ""));
  // Another salt each time.
  CHECK(password_hash::of(of("correct horse"), cheap)->text() != hash->text());

  const auto again = password_hash::imported(hash->algorithm(), hash->text());
  REQUIRE(again.has_value());
  CHECK(*again == *hash);
}

TEST_CASE("new passwords cost what OWASP recommends at least", "[access]") {
  const auto hash = password_hash::of(of("x"));
  REQUIRE(hash.has_value());
  CHECK(hash->text().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
}

TEST_CASE("an empty password is never hashed, and never right", "[access]") {
  CHECK(password_hash::of(secret{}, cheap).error().text == "the password must not be empty");
  CHECK_FALSE(checks(password_hash{}, ""));
  CHECK_FALSE(checks(password_hash{}, "x"));
  CHECK_FALSE(checks(*password_hash::imported(sha256, exported), ""));

  // Somebody else may have hashed one.
  std::array<char, crypto_pwhash_STRBYTES> text{};
  REQUIRE(crypto_pwhash_str(text.data(), "", 0, cheap.passes, cheap.memory) == 0);
  const auto of_nothing = password_hash::imported("argon2id", text.data());
  REQUIRE(of_nothing.has_value());
  CHECK_FALSE(checks(*of_nothing, ""));
  // base64(00 01 02 03, SHA-256(00 01 02 03))
  CHECK_FALSE(
      checks(*password_hash::imported(sha256, "AAECAwVO3sHQIR9iT+0MvKnU+UALDkkcQ3Qq8sWwq+vwyZDY"), ""));
}

TEST_CASE("RabbitMQ's hashes are accepted as they are", "[access]") {
  for (const auto& [algorithm, text] : {std::pair{sha256, exported}, {sha512, exported512}}) {
    const auto hash = password_hash::imported(algorithm, text);
    INFO(algorithm);
    REQUIRE(hash.has_value());
    CHECK(checks(*hash, "secret1"));
    CHECK_FALSE(checks(*hash, "secret2"));
    CHECK_FALSE(checks(*hash, "secret1x"));
    CHECK(hash->algorithm() == algorithm);
    CHECK(hash->text() == text);
    CHECK(hash->outdated(cheap));
  }
  // Without an algorithm it is RabbitMQ's default.
  CHECK(checks(*password_hash::imported("", exported), "secret1"));
}

TEST_CASE("a user without a password has no hash, and gets none", "[access]") {
  const auto none = password_hash::imported(sha256, "");
  REQUIRE(none.has_value());
  CHECK(none->kind() == password_hash::scheme::none);
  CHECK(none->text().empty());
  CHECK(none->algorithm() == sha256);
  CHECK_FALSE(none->outdated(cheap));
}

TEST_CASE("what is no hash is refused, and not repeated", "[access]") {
  CHECK(complaint("rabbit_password_hashing_md5", "x")
            .starts_with("passwords hashed with MD5 are not accepted"));
  CHECK(complaint("rot13", exported).starts_with("the password hashing algorithm is unknown"));
  CHECK(complaint(sha256, "!!") == "the password hash is not valid base64, or too long");
  CHECK(complaint(sha256, exported512) == "the password hash is not valid base64, or too long");
  CHECK(complaint(sha512, exported) ==
        "the password hash has 36 bytes, but salt and digest of rabbit_password_hashing_sha512 have 68");
  CHECK(complaint(sha256, "AAAA").starts_with("the password hash has 3 bytes"));
  const auto* const wrong = "the password hash is not what the algorithm argon2id makes";
  for (const std::string text :
       {"$", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA",
        "$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAA", "x"}) {
    CHECK(complaint("argon2id", text) == wrong);
  }
  CHECK(complaint("argon2id", std::string(200, 'a')) == wrong);
  CHECK(complaint("argon2id", std::string("$argon2id$\0", 11)) == wrong);

  // Real, but made to keep a worker busy for long.
  auto text = password_hash::of(of("x"), cheap)->text();
  const auto dear = [&](std::string_view m, std::string_view t) {
    const auto rest = text.substr(text.find(",p="));
    return "$argon2id$v=19$m=" + std::string{m} + ",t=" + std::string{t} + rest;
  };
  CHECK(complaint("argon2id", dear("8", "1")).empty());
  CHECK(complaint("argon2id", dear("262144", "16")).empty());
  CHECK(complaint("argon2id", dear("262145", "1")).starts_with("the password hash takes too long to check"));
  CHECK(complaint("argon2id", dear("8", "17")).starts_with("the password hash takes too long to check"));
  CHECK_FALSE(complaint("argon2id", dear("99999999999", "1")).empty());
  CHECK_FALSE(complaint("argon2id", dear("0", "1")).empty());
}

TEST_CASE("any octets are a hash or are refused", "[access]") {
  std::mt19937 random{3};
  const auto real = password_hash::of(of("x"), cheap)->text();
  for (int round = 0; round < 5000; ++round) {
    for (const auto algorithm : {sha256, sha512, std::string_view{"argon2id"}}) {
      auto text = algorithm == "argon2id" ? real : std::string{algorithm == sha256 ? exported : exported512};
      for (auto i = 1 + random() % 3; i > 0; --i) {
        switch (random() % 3) {
          case 0: text[random() % text.size()] = static_cast<char>(random() % 256); break;
          case 1: text.erase(random() % text.size(), 1); break;
          default: text.insert(random() % text.size(), 1, static_cast<char>(random() % 256));
        }
      }
      if (const auto hash = password_hash::imported(algorithm, text)) {
        CHECK(password_hash::imported(hash->algorithm(), hash->text()) == *hash);
      } else {
        // No error repeats what it was given: it may be a password in the wrong field.
        CHECK(hash.error().text.find(text) == std::string::npos);
      }
    }
  }
}

TEST_CASE("a hash of another cost is outdated", "[access]") {
  const auto hash = *password_hash::of(of("x"), cheap);
  CHECK_FALSE(hash.outdated(cheap));
  CHECK(hash.outdated({2, 8192}));
  CHECK(hash.outdated({1, 16384}));
}

TEST_CASE("a check takes as long for an unknown user, and for a fast hash, as for a known one", "[access]") {
  constexpr password_cost cost = {1, std::size_t{4} << 20};
  const auto known = *password_hash::of(of("x"), cost);
  const auto fast = *password_hash::imported(sha256, exported);
  // The least processor time of some: what else runs on the machine does not count.
  const auto least = [&](const std::optional<password_hash>& stored) {
    std::clock_t out = std::numeric_limits<std::clock_t>::max();
    for (int i = 0; i < 9; ++i) {
      const password_check check{stored, of("y"), cost};
      const auto start = std::clock();
      REQUIRE_FALSE(*check.run());
      out = std::min(out, std::clock() - start);
    }
    return out;
  };
  const auto expected = least(known);
  // Without the run for nothing they would be a thousand times faster. A machine under load is given a factor
  // of three.
  for (const auto& stored :
       {std::optional<password_hash>{}, std::optional{fast}, std::optional{password_hash{}}}) {
    CHECK(least(stored) > expected / 3);
  }
}

TEST_CASE("a cost that cannot be met is an error, not a refusal", "[access]") {
  constexpr password_cost monstrous = {1, std::size_t{1} << 45};
  const auto answer = password_check{std::nullopt, of("x"), monstrous}.run();
  REQUIRE(answer.has_error());
  CHECK(answer.error().code == errc::overloaded);
  CHECK(password_hash::of(of("x"), monstrous).error().code == errc::overloaded);
}

TEST_CASE("a secret is nobody's to copy or print, and a moved one is empty", "[access]") {
  static_assert(!std::is_copy_constructible_v<secret> && !std::is_copy_assignable_v<secret>);
  static_assert(!std::is_convertible_v<secret, std::string> && !std::is_convertible_v<std::string, secret>);
  auto a = of("short");
  const auto b = std::move(a);
  CHECK(a.empty());  // NOLINT: that is what is tested
  CHECK(b.reveal() == "short");
  auto c = of(std::string(100, 'x'));
  c = of("y");
  CHECK(c.reveal() == "y");
}

TEST_CASE("who has shown the password lately need not be checked again", "[access]") {
  login_cache cache{login_cache::new_key(), {.entries_max = 3, .lifetime = 10min}};
  const auto hash = *password_hash::of(of("x"), cheap);
  CHECK_FALSE(cache.knows("u", hash, of("x"), 0min));
  cache.remember("u", hash, of("x"), 0min);
  CHECK(cache.knows("u", hash, of("x"), 0min));
  CHECK(cache.knows("u", hash, of("x"), 10min - 1ms));
  CHECK_FALSE(cache.knows("u", hash, of("x"), 10min));
  CHECK_FALSE(cache.knows("u", hash, of("y"), 0min));
  CHECK_FALSE(cache.knows("v", hash, of("x"), 0min));

  SECTION("a new password makes it void") {
    CHECK_FALSE(cache.knows("u", *password_hash::of(of("x"), cheap), of("x"), 0min));
  }
  SECTION("it forgets the oldest when it is full, and never grows") {
    cache.remember("a", hash, of("x"), 1min);
    cache.remember("b", hash, of("x"), 2min);
    CHECK(cache.knows("u", hash, of("x"), 2min));
    cache.remember("c", hash, of("x"), 3min);
    CHECK_FALSE(cache.knows("u", hash, of("x"), 3min));
    CHECK(cache.knows("a", hash, of("x"), 3min));
    CHECK(cache.size() == 3);
    for (int i = 0; i < 100; ++i) cache.remember(std::to_string(i), hash, of("x"), 4min);
    CHECK(cache.size() == 3);
  }
  SECTION("it lets go of what is over") {
    cache.remember("a", hash, of("x"), 20min);
    CHECK(cache.size() == 1);
  }
  SECTION("remembered again, it counts from then") {
    cache.remember("u", hash, of("x"), 5min);
    CHECK(cache.knows("u", hash, of("x"), 14min));
    cache.remember("a", hash, of("x"), 10min);  // the first entry is over
    CHECK(cache.knows("u", hash, of("x"), 14min));
  }
  SECTION("nothing that runs together is the same") {
    CHECK_FALSE(cache.knows("ux", hash, secret{}, 0min));
    cache.remember("a", hash, of(hash.bytes() + "p"), 0min);
    CHECK_FALSE(cache.knows("a" + hash.bytes(), hash, of("p"), 0min));
  }
  SECTION("without a password there is nothing to remember") {
    cache.remember("n", password_hash{}, of("x"), 0min);
    cache.remember("n", hash, secret{}, 0min);
    CHECK(cache.size() == 1);
    CHECK_FALSE(cache.knows("n", password_hash{}, of("x"), 0min));
  }
  SECTION("another process has another key") {
    login_cache other{login_cache::new_key()};
    CHECK_FALSE(other.knows("u", hash, of("x"), 0min));
    CHECK(login_cache::new_key() != login_cache::new_key());
  }
}
