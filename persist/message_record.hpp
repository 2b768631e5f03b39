// How a message stands in the table `messages`: a record whose content is the envelope, with the time at which it
// expires in front of it, if it does. docs/store.md has the format.
//
// What does not fit into a page goes on in parts, each a record of one page, which stand right behind the message's own.
// Without that, LMDB would have to find free pages that lie side by side. In a store of which much was erased it looks
// through its whole list of free pages for them, and writes back what it looked through: a commit of one body of 64 KiB
// took 9 ms in the median and 139 ms at most, and takes 0.1 ms and 8 ms in parts; bodies of 2 pages suffer already.
#pragma once

#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/result.hpp"
#include "persist/keys.hpp"
#include "persist/transaction.hpp"

#include <cstdint>
#include <span>

namespace posthorn {

struct message_record {
  bool transient = false;       // does not survive a restart
  std::int64_t expires_at = 0;  // milliseconds since 1970; 0: never
  envelope_ptr message;
};

// How many parts go on behind the record of such a message; 0: it needs none.
[[nodiscard]] std::uint32_t part_count(const envelope& message) noexcept;

// `parts_are_there`: they were written by `put_parts` before, and only the message's own record is missing.
[[nodiscard]] result<void> put_message(cursor& messages, mailbox_id mailbox, sequence at,
                                       const message_record& m, bool parts_are_there = false);
// The parts first .. first + count - 1, counted from 1. A message whose own record is not there does not count: its parts
// may be written ahead, in transactions of their own, and what a crash leaves of them is erased at the next start.
[[nodiscard]] result<void> put_parts(cursor& messages, mailbox_id mailbox, sequence at,
                                     const envelope& message, std::uint32_t first, std::uint32_t count);

// The message whose own record stands at the cursor, which then stands at its last part. Or at the first record that is
// wrong.
// `corrupted`: damaged, of another place, not an envelope, or with flags that this version does not know.
[[nodiscard]] result<message_record> read_message(cursor& messages, const cursor::item& own);
// The same for one that has no parts.
[[nodiscard]] result<message_record> read_message(std::span<const std::byte> value, mailbox_id mailbox,
                                                  sequence at);

}  // namespace posthorn
