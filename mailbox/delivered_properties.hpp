// What a receiver sees of a message's properties: without the header BCC [31], and with what a quorum queue has counted of
// earlier deliveries [48]. Numbers in brackets are those of docs/amqp.md.
//
//   x-acquired-count   l   how often it was handed out and came back; absent on the first delivery
//   x-delivery-count   l   how often of these a delivery had failed; absent while none has
//
// Everything here is a function of its arguments.
#pragma once

#include "mailbox/field_table.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace posthorn {

inline constexpr std::string_view acquired_count_header = "x-acquired-count";
inline constexpr std::string_view delivery_count_header = "x-delivery-count";

// Behind the headers that are there; what an earlier queue has said goes.
void add_delivery_counts(field_table& headers, std::uint16_t returns, std::uint16_t attempts);

// Nothing: they go out as they are. `returns` is 0 for whatever does not come from a quorum queue. Headers that cannot be
// read are left alone.
[[nodiscard]] std::optional<std::string> delivered_properties(std::span<const std::byte> properties,
                                                              std::uint16_t returns, std::uint16_t attempts);

}  // namespace posthorn
