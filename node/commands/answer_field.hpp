// What stands in a JSON answer of a node, read without trusting that it is there.
//
// Threads   pure functions.
#pragma once

#include <boost/json/value.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

// Null when it is not there, or `from` is no object.
[[nodiscard]] const boost::json::value& part(const boost::json::value& from, std::string_view key);
// 0 and "" when it is not there, or something else.
[[nodiscard]] std::uint64_t number_at(const boost::json::value& from, std::string_view key);
[[nodiscard]] std::string text_at(const boost::json::value& from, std::string_view key);
// Also of a number with a fraction.
[[nodiscard]] std::optional<double> decimal_at(const boost::json::value& from, std::string_view key);

}  // namespace posthorn
