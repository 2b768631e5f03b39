#include "mailbox/mailbox_rules.hpp"

#include "mailbox/properties.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>

namespace posthorn {

namespace {

// Longer than anything lives: a sum with it does not overflow.
constexpr std::int64_t ttl_max = std::int64_t{1} << 60;

// Milliseconds. Whatever is no number was let in by somebody else, and does not expire.
std::optional<std::int64_t> ttl_of(std::string_view expiration) {
  std::uint64_t value = 0;
  const auto* end = expiration.data() + expiration.size();
  const auto [rest, failed] = std::from_chars(expiration.data(), end, value);
  if (rest != end || expiration.empty()) return std::nullopt;
  if (failed == std::errc::result_out_of_range) return ttl_max;
  return static_cast<std::int64_t>(std::min(value, static_cast<std::uint64_t>(ttl_max)));
}

}  // namespace

std::int64_t expiry_of(const mailbox_rules* rules, const envelope& message, std::int64_t now) {
  std::optional<std::int64_t> ttl;
  if (const auto text = expiration_of(message.properties())) ttl = ttl_of(*text);
  if (rules != nullptr && rules->message_ttl) {
    const auto all = std::min(std::int64_t{rules->message_ttl->count()}, ttl_max);
    ttl = ttl ? std::min(*ttl, all) : all;
  }
  return ttl ? std::max(now + *ttl, std::int64_t{1}) : 0;
}

}  // namespace posthorn
