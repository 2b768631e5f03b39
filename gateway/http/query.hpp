// What stands behind a '?' in a URL, and the escapes of URLs.
//
// Threads   pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn::http {

// "%2F" → "/". Nothing, when a '%' does not stand before two hexadecimal digits. A '+' is a plus, as in RFC 3986.
[[nodiscard]] std::optional<std::string> percent_decoded(std::string_view text);

// The segments of a path, each decoded by itself: "/api/queues/%2F/" → api, queues and /. Nothing, when an escape is
// wrong.
[[nodiscard]] std::optional<std::vector<std::string>> path_segments(std::string_view path);

using query_parameters = std::vector<std::pair<std::string, std::string>>;

// "path=%2Fvhosts&depth=2" → path and depth, in this order, decoded. Nothing, when an escape is wrong.
[[nodiscard]] std::optional<query_parameters> parse_query(std::string_view query);

}  // namespace posthorn::http
