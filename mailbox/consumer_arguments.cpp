#include "mailbox/consumer_arguments.hpp"

#include "mailbox/balance.hpp"

#include <algorithm>

namespace posthorn {

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
  return std::nullopt;
}

consumer_wishes wishes_of(const field_table& arguments) {
  const auto whole = [&](std::string_view name) -> std::optional<std::int64_t> {
    const auto* value = arguments.find(name);
    return value == nullptr ? std::nullopt : as_integer(*value);
  };
  consumer_wishes wishes;
  wishes.priority = whole("x-priority").value_or(0);
  const auto weight = std::clamp<std::int64_t>(whole("x-weight").value_or(1), 1, balance::weight_max);
  wishes.weight = static_cast<std::uint32_t>(weight);
  return wishes;
}

}  // namespace posthorn
