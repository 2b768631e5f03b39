// The further routing keys that a message names in its headers, and what becomes of those headers [31].
//
//   CC    array of strings: the message is routed by these keys, too; receivers see the header
//   BCC   the same, but no receiver sees it: it is removed whenever the message leaves the node
//
// A message keeps both headers for as long as it is inside, because a dead letter without a key of its own is routed by
// all of them once more [64]. Elements that are not strings (`S`) are no keys, and no error either; as RabbitMQ 4.3.
//
// Everything here is a function of a message's properties, as they came. Headers that cannot be read name no keys.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace posthorn {

// False only if there is neither header. One pass over the octets of the headers, no allocation: to be asked of every
// message, before the others are.
[[nodiscard]] bool may_name_copies(std::span<const std::byte> properties) noexcept;

// The keys of CC, then those of BCC, as often as they stand there.
[[nodiscard]] std::vector<std::string> copy_keys(std::span<const std::byte> properties);

// Why a client's message is refused (406), in RabbitMQ's words: one of the headers is not an array.
[[nodiscard]] std::optional<std::string> invalid_copies(std::span<const std::byte> properties);

// The properties without BCC, everything else byte for byte as it came; nothing when there is no BCC. The headers stay
// there when nothing is left in them.
[[nodiscard]] std::optional<std::string> without_blind_copies(std::span<const std::byte> properties);

}  // namespace posthorn
