#include "mailbox/recent_history.hpp"

#include "mailbox/erlang_term.hpp"
#include "mailbox/properties.hpp"

#include <string_view>

namespace posthorn {

namespace {

constexpr std::string_view length_argument = "x-recent-history-length";
constexpr std::string_view no_store_header = "x-recent-history-no-store";

bool may_be_stored(const envelope& message) {
  const auto headers = headers_of(message.properties());
  const std::string_view octets{reinterpret_cast<const char*>(headers.data()), headers.size()};
  if (octets.find(no_store_header) == std::string_view::npos) return true;
  const auto decoded = decode_table(headers);
  const auto* value = decoded ? decoded->find(no_store_header) : nullptr;
  return value == nullptr || as_bool(*value) != true;
}

}  // namespace

std::uint64_t recent_history::length_of(const field_table& arguments) {
  const auto* value = arguments.find(length_argument);
  const auto length = value != nullptr ? as_integer(*value) : std::nullopt;
  return length && *length > 0 ? static_cast<std::uint64_t>(*length) : length_default;
}

std::optional<std::string> recent_history::invalid(const field_table& arguments) {
  const auto* value = arguments.find(length_argument);
  if (value == nullptr) return std::nullopt;
  if (const auto length = as_integer(*value); length && *length > 0) return std::nullopt;
  return "Invalid argument " + erlang_term(*value) + ", 'x-recent-history-length' must be a positive integer";
}

void recent_history::forget_oldest() {
  bytes_ -= messages_.front()->footprint();
  messages_.pop_front();
}

void recent_history::remember(const envelope_ptr& message) {
  if (length_max_ == 0 || message->footprint() > bytes_max_ || !may_be_stored(*message)) return;
  messages_.push_back(message);
  bytes_ += message->footprint();
  while (messages_.size() > length_max_ || bytes_ > bytes_max_) forget_oldest();
}

}  // namespace posthorn
