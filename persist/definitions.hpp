// The durable part of a topology as records: Cap'n Proto (persist/schema.capnp) to and from the plain values.
// Bytes that are not such a record are an error, never a crash.
#pragma once

#include "mailbox/topology.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace posthorn {

using record_bytes = std::vector<std::byte>;

[[nodiscard]] record_bytes encode(std::string_view vhost, const exchange_definition& exchange);
[[nodiscard]] record_bytes encode(std::string_view vhost, const queue_definition& queue);
[[nodiscard]] record_bytes encode(std::string_view vhost, const binding_definition& binding);

// The vhost, and what stands in it. The id, which is the key, is filled in by the caller.
[[nodiscard]] result<std::pair<std::string, exchange_definition>> decode_exchange(
    std::span<const std::byte> bytes);
[[nodiscard]] result<std::pair<std::string, queue_definition>> decode_queue(std::span<const std::byte> bytes);
[[nodiscard]] result<std::pair<std::string, binding_definition>> decode_binding(
    std::span<const std::byte> bytes);

}  // namespace posthorn
