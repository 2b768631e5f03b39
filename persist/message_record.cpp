#include "persist/message_record.hpp"

#include "persist/keys.hpp"
#include "persist/record.hpp"

#include <cstring>

namespace posthorn {

namespace {

constexpr std::size_t expiry_size = sizeof(std::int64_t);

}  // namespace

result<void> put_message(cursor& messages, mailbox_id mailbox, sequence at, const message_record& m) {
  const auto bytes = m.message->bytes();
  const auto before = m.expires_at == 0 ? 0 : expiry_size;
  const auto place = messages.reserve(message_key{mailbox, at}, record::header_size + before + bytes.size());
  if (!place) return place.error();
  auto* to = place->data() + record::header_size;
  if (before != 0) std::memcpy(to, &m.expires_at, expiry_size);
  std::memcpy(to + before, bytes.data(), bytes.size());
  const auto flags = (m.transient ? record::transient : 0U) | (before != 0 ? record::expires : 0U);
  seal_record(*place, flags, seed_of(mailbox, at));
  return {};
}

result<message_record> read_message(std::span<const std::byte> value, mailbox_id mailbox, sequence at) {
  const auto r = read_record(value, seed_of(mailbox, at));
  if (!r) return r.error();
  if ((r->flags & ~(record::transient | record::expires)) != 0) {
    return corrupted("a message has flags that this version does not know");
  }
  message_record out;
  out.transient = (r->flags & record::transient) != 0;
  auto bytes = r->bytes;
  if ((r->flags & record::expires) != 0) {
    if (bytes.size() < expiry_size) return corrupted("a message that expires is too short");
    std::memcpy(&out.expires_at, bytes.data(), expiry_size);
    bytes = bytes.subspan(expiry_size);
  }
  auto message = envelope::read(bytes);
  if (!message) return message.error();
  out.message = std::move(*message);
  return out;
}

}  // namespace posthorn
