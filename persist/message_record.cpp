#include "persist/message_record.hpp"

#include "persist/record.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

namespace posthorn {

namespace {

constexpr std::size_t expiry_size = sizeof(std::int64_t);
constexpr std::size_t total_size = sizeof(std::uint64_t);
// What LMDB puts on one page of its own: 4096 octets less its header.
constexpr std::size_t page_room = 4096 - 16;
constexpr std::size_t whole_size_max = page_room - record::header_size - expiry_size;  // of an envelope
// Of an envelope in parts: so many octets stand in its own record, and so many in every part but the last.
constexpr std::size_t own_size = whole_size_max - total_size;
constexpr std::size_t part_size = page_room - record::header_size;

// What a record says of the message that it is, or begins.
struct own_record {
  message_record m;
  std::optional<std::uint64_t> total;  // it goes on in parts, and has so many octets in all
  std::span<const std::byte> bytes;
};

result<own_record> read_own(std::span<const std::byte> value, mailbox_id mailbox, sequence at) {
  const auto r = read_record(value, seed_of(mailbox, at));
  if (!r) return r.error();
  if ((r->flags & ~(record::transient | record::expires | record::in_parts)) != 0) {
    return corrupted("a message has flags that this version does not know");
  }
  own_record out;
  out.m.transient = (r->flags & record::transient) != 0;
  out.bytes = r->bytes;
  if ((r->flags & record::expires) != 0) {
    if (out.bytes.size() < expiry_size) return corrupted("a message that expires is too short");
    std::memcpy(&out.m.expires_at, out.bytes.data(), expiry_size);
    out.bytes = out.bytes.subspan(expiry_size);
  }
  if ((r->flags & record::in_parts) == 0) return out;
  if (out.bytes.size() < total_size) return corrupted("a message in parts is too short");
  out.total.emplace();
  std::memcpy(&*out.total, out.bytes.data(), total_size);
  out.bytes = out.bytes.subspan(total_size);
  if (*out.total <= out.bytes.size() ||
      *out.total > envelope::body_size_max + envelope::properties_size_max + 1024) {
    return corrupted("a message in parts cannot have " + std::to_string(*out.total) + " octets");
  }
  return out;
}

result<message_record> made_of(own_record own, std::span<const std::byte> bytes) {
  auto message = envelope::read(bytes);
  if (!message) return message.error();
  own.m.message = std::move(*message);
  return std::move(own.m);
}

}  // namespace

std::uint32_t part_count(const envelope& message) noexcept {
  const auto size = message.bytes().size();
  if (size <= whole_size_max) return 0;
  return static_cast<std::uint32_t>((size - own_size + part_size - 1) / part_size);
}

result<void> put_message(cursor& messages, mailbox_id mailbox, sequence at, const message_record& m,
                         bool parts_are_there) {
  const auto parts = part_count(*m.message);
  const auto all = m.message->bytes();
  const auto bytes = parts == 0 ? all : all.first(own_size);
  const auto before = (m.expires_at == 0 ? 0 : expiry_size) + (parts == 0 ? 0 : total_size);
  const auto place = messages.reserve(message_key{mailbox, at}, record::header_size + before + bytes.size());
  if (!place) return place.error();
  auto* to = place->data() + record::header_size;
  if (m.expires_at != 0) {
    std::memcpy(to, &m.expires_at, expiry_size);
    to += expiry_size;
  }
  if (parts != 0) {
    const std::uint64_t total = all.size();
    std::memcpy(to, &total, total_size);
    to += total_size;
  }
  std::memcpy(to, bytes.data(), bytes.size());
  const auto flags = (m.transient ? record::transient : 0U) | (m.expires_at != 0 ? record::expires : 0U) |
                     (parts != 0 ? record::in_parts : 0U);
  seal_record(*place, flags, seed_of(mailbox, at));
  if (parts == 0 || parts_are_there) return {};
  return put_parts(messages, mailbox, at, *m.message, 1, parts);
}

result<void> put_parts(cursor& messages, mailbox_id mailbox, sequence at, const envelope& message,
                       std::uint32_t first, std::uint32_t count) {
  for (auto number = first; number < first + count; ++number) {
    const auto rest = message.bytes().subspan(own_size + std::size_t{number - 1} * part_size);
    const auto bytes = rest.first(std::min(rest.size(), part_size));
    const auto place = messages.reserve(part_key{mailbox, at, number}, record::header_size + bytes.size());
    if (!place) return place.error();
    write_record(*place, {0, bytes}, seed_of(mailbox, at, number));
  }
  return {};
}

result<message_record> read_message(cursor& messages, const cursor::item& own) {
  const auto mailbox = message_key::mailbox_of(own.key);
  const auto at = message_key::sequence_of(own.key);
  auto first = read_own(own.value, mailbox, at);
  if (!first) return first.error();
  if (!first->total) {
    const auto bytes = first->bytes;
    return made_of(std::move(*first), bytes);
  }
  const auto total = static_cast<std::size_t>(*first->total);
  const std::unique_ptr<std::byte[]> all{new std::byte[total]};  // not zeroed: it may be large
  std::memcpy(all.get(), first->bytes.data(), first->bytes.size());
  auto size = first->bytes.size();
  for (std::uint32_t number = 1; size < total; ++number) {
    const auto item = messages.next();
    if (!item) return item.error();
    const part_key wanted{mailbox, at, number};
    const std::span<const std::byte> key{wanted};
    if (!*item || !std::equal(key.begin(), key.end(), (*item)->key.begin(), (*item)->key.end())) {
      // Whoever goes on walks over what follows, which is not its part.
      if (auto back = *item ? messages.previous() : messages.last(); !back) return back.error();
      return corrupted("its part " + std::to_string(number) + " is missing");
    }
    const auto bytes = read_plain_record((*item)->value, seed_of(mailbox, at, number));
    if (!bytes) return corrupted("its part " + std::to_string(number) + ": " + bytes.error().text);
    if (bytes->empty() || bytes->size() > total - size) {
      return corrupted("its part " + std::to_string(number) + " has an odd size");
    }
    std::memcpy(all.get() + size, bytes->data(), bytes->size());
    size += bytes->size();
  }
  return made_of(std::move(*first), {all.get(), total});
}

result<message_record> read_message(std::span<const std::byte> value, mailbox_id mailbox, sequence at) {
  auto own = read_own(value, mailbox, at);
  if (!own) return own.error();
  if (own->total) return corrupted("a message goes on in parts that are not here");
  const auto bytes = own->bytes;
  return made_of(std::move(*own), bytes);
}

}  // namespace posthorn
