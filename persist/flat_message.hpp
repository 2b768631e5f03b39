// Cap'n Proto messages as the store keeps them: flat, with their segment table, in a record of their own.
//
// Bytes become values in one place, where Cap'n Proto's exceptions become errors.
#pragma once

#include "mailbox/result.hpp"
#include "persist/record.hpp"
#include "persist/transaction.hpp"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>
#include <kj/io.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

namespace posthorn {

// What `read` makes of the message's root. `corrupted`: the bytes are not such a message; `what` says what they should
// have been.
template <class Struct, class Read>
result<std::invoke_result_t<Read, typename Struct::Reader>> read_flat(std::span<const std::byte> bytes,
                                                                      const char* what, Read read) {
  if (bytes.size() % sizeof(capnp::word) != 0) return corrupted(std::string{what} + " has an odd size");
  auto words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
  if (!bytes.empty()) std::memcpy(words.asBytes().begin(), bytes.data(), bytes.size());
  capnp::ReaderOptions options;
  options.traversalLimitInWords = std::max<std::uint64_t>(options.traversalLimitInWords, 2 * words.size());
  try {
    capnp::FlatArrayMessageReader message{words, options};
    return read(message.getRoot<Struct>());
  } catch (const kj::Exception& e) {
    return corrupted("not " + std::string{what} + ": " + e.getDescription().cStr());
  }
}

// Writes a record whose checksum is seeded with its key, straight into its place. `fill` gets the message's root;
// `content_size` is about what its texts and data take, in bytes.
template <class Struct, class Fill>
result<void> put_flat(write_transaction& txn, table_id table, std::span<const std::byte> key,
                      std::size_t content_size, Fill fill) {
  const auto put = [&](capnp::MallocMessageBuilder& message) -> result<void> {
    fill(message.initRoot<Struct>());
    const auto size = capnp::computeSerializedSizeInWords(message) * sizeof(capnp::word);
    const auto place = txn.reserve(table, key, record::header_size + size);
    if (!place) return place.error();
    kj::ArrayOutputStream to{
        kj::arrayPtr(reinterpret_cast<kj::byte*>(place->data()) + record::header_size, size)};
    capnp::writeMessage(to, message);
    seal_record(*place, 0, seed_of_key(key));
    return {};
  };
  constexpr std::size_t small = 128, room_for_pointers = 32;  // in words
  const auto words = content_size / sizeof(capnp::word) + room_for_pointers;
  if (words <= small) {
    std::array<capnp::word, small> scratch{};
    capnp::MallocMessageBuilder message{kj::arrayPtr(scratch.data(), words)};
    return put(message);
  }
  capnp::MallocMessageBuilder message{static_cast<unsigned>(words)};
  return put(message);
}

}  // namespace posthorn
