// How a message stands in the table `messages`: a record whose content is the envelope, with the time at which it
// expires in front of it, if it does. docs/store.md has the format.
#pragma once

#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/result.hpp"
#include "persist/transaction.hpp"

#include <cstdint>
#include <span>

namespace posthorn {

struct message_record {
  bool transient = false;       // does not survive a restart
  std::int64_t expires_at = 0;  // milliseconds since 1970; 0: never
  envelope_ptr message;
};

[[nodiscard]] result<void> put_message(cursor& messages, mailbox_id mailbox, sequence at,
                                       const message_record& m);

// `corrupted`: damaged, of another place, not an envelope, or with flags that this version does not know.
[[nodiscard]] result<message_record> read_message(std::span<const std::byte> value, mailbox_id mailbox,
                                                  sequence at);

}  // namespace posthorn
