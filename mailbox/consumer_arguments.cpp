#include "mailbox/consumer_arguments.hpp"

#include "mailbox/balance.hpp"

#include <algorithm>
#include <array>

namespace posthorn {

namespace {

// Ten years, in milliseconds; what is longer, is as long.
constexpr std::int64_t timeout_max = 315'360'000'000;

}  // namespace

std::optional<std::string> check_consumer_arguments(const field_table& arguments,
                                                    std::string_view described) {
  const auto invalid = [&](std::string_view name, const std::string& what) {
    return "invalid arg '" + std::string{name} + "' for " + std::string{described} + ": " + what;
  };
  for (const std::string_view name : {"x-priority", "x-weight"}) {
    const auto* value = arguments.find(name);
    if (value == nullptr || as_integer(*value)) continue;
    return invalid(name, "\"expected integer, got " + std::string{type_name(value->type)} + "\"");
  }
  if (const auto* weight = arguments.find("x-weight"); weight != nullptr && *as_integer(*weight) < 1) {
    const auto number = *as_integer(*weight);
    return invalid("x-weight", std::string{number == 0 ? "{value_zero," : "{value_negative,"} +
                                   std::to_string(number) + "}");
  }
  if (const auto* timeout = arguments.find("x-consumer-timeout")) {
    const auto number = as_integer(*timeout);
    if (!number)
      return invalid("x-consumer-timeout",
                     "\"expected integer, got " + std::string{type_name(timeout->type)} + "\"");
    if (*number < 0) return invalid("x-consumer-timeout", "{value_negative," + std::to_string(*number) + "}");
  }
  return std::nullopt;
}

std::optional<std::string> check_consumer_of_type(const field_table& arguments, std::string_view type,
                                                  std::string_view described) {
  constexpr std::array<std::string_view, 4> not_of_classic = {"x-consumer-timeout", "x-stream-filter",
                                                              "x-stream-match-unfiltered", "x-stream-offset"};
  constexpr std::array<std::string_view, 3> not_of_quorum = {"x-stream-filter", "x-stream-match-unfiltered",
                                                             "x-stream-offset"};
  constexpr std::array<std::string_view, 3> not_of_stream = {"x-consumer-timeout", "x-priority", "x-weight"};
  const auto check = [&](const auto& names) -> std::optional<std::string> {
    for (const auto name : names) {
      if (!arguments.contains(name)) continue;
      return "invalid arg '" + std::string{name} + "' for " + std::string{described} +
             " of queue type rabbit_" + std::string{type} + "_queue";
    }
    return std::nullopt;
  };
  if (type == "stream") return check(not_of_stream);
  return type == "quorum" ? check(not_of_quorum) : check(not_of_classic);
}

consumer_wishes wishes_of(const field_table& arguments) {
  const auto whole = [&](std::string_view name) -> std::optional<std::int64_t> {
    const auto* value = arguments.find(name);
    return value == nullptr ? std::nullopt : as_integer(*value);
  };
  consumer_wishes wishes;
  if (const auto timeout = whole("x-consumer-timeout"); timeout && 0 <= *timeout)
    wishes.timeout = std::chrono::milliseconds{std::min(*timeout, timeout_max)};
  wishes.priority = whole("x-priority").value_or(0);
  const auto weight = std::clamp<std::int64_t>(whole("x-weight").value_or(1), 1, balance::weight_max);
  wishes.weight = static_cast<std::uint32_t>(weight);
  return wishes;
}

}  // namespace posthorn
