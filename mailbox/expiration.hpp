// What a client may write into the property `expiration` of a message [29]: a whole number of milliseconds, from 0
// to ten years. A sign before it is accepted.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace posthorn {

// Why a message with this expiration is refused (406), in RabbitMQ's words.
[[nodiscard]] std::optional<std::string> invalid_expiration(std::string_view expiration);

}  // namespace posthorn
