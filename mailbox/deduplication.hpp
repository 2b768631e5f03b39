// Messages that are published twice, and are to be there once.
//
// Two messages are the same when their headers x-deduplication-header are; a message without it is like no other. There are
// two who look at it, as in the plugin that RabbitMQ had:
//
//   an exchange   remembers what passed it, up to x-cache-size of them, each for x-cache-ttl milliseconds (or what its own
//                 header x-cache-ttl says), and lets nothing pass that it remembers: `seen_messages`. When there are too
//                 many, the one goes that was not seen for longest.
//   a queue       with the argument x-message-deduplication takes no message while the same is in it, ready or held:
//                 `kept_messages`.
//
// A publisher who sends again because he was never answered must not be told that his message is safe because somebody
// remembers it: it may be on its way to the disk still. So whoever answers asks for more than "seen": a duplicate is answered
// when its original is stored, and an original that is refused is forgotten.
//
// On disk   nothing for a queue: its messages have their headers. For an exchange with x-cache-persistence "disk", what
//           `changes` gives: key, time and order of each that it remembers, to be written in the transaction that writes the
//           messages, and given to `restore` at the start, the oldest first. Its table needs the exchange's id (8), the key
//           (16) -> when it is forgotten (8), the number of its order (8). That a duplicate was seen is not written.
// Memory    about 100 bytes for each that is remembered, whatever the value's size: of it, 128 bits of a hash are kept. Two
//           values that are not the same have one hash with a chance below one in 10^20, among a billion of them.
//
// Time      milliseconds since 1970.
// Threads   plain values of their owners.
#pragma once

#include "mailbox/field_table.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/ring.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace posthorn {

// What the value of the header comes to. Numbers are the same by value, whatever their width, and so are text and bytes;
// a number and its text are not.
struct deduplication_key {
  std::uint64_t high = 0, low = 0;

  friend auto operator<=>(const deduplication_key&, const deduplication_key&) = default;
};

}  // namespace posthorn

template <>
struct std::hash<posthorn::deduplication_key> {
  std::size_t operator()(const posthorn::deduplication_key& key) const noexcept { return key.low; }
};

namespace posthorn {

// Of a message, from its properties as they came. Nothing: it has no such header.
[[nodiscard]] std::optional<deduplication_key> deduplication_key_of(std::span<const std::byte> properties);
// How long this message is remembered, if it says so itself: its header x-cache-ttl, in milliseconds.
[[nodiscard]] std::optional<std::int64_t> deduplication_ttl_of(std::span<const std::byte> properties);

// --- arguments --------------------------------------------------------------------------------------------------

inline constexpr std::string_view deduplication_exchange_type = "x-message-deduplication";
inline constexpr std::string_view deduplication_argument = "x-message-deduplication";

struct deduplication_rules {
  // What an exchange of another type remembers that has the argument x-message-deduplication, and says no more.
  static constexpr std::uint64_t size_default = 128;
  static constexpr std::uint64_t size_most = UINT32_MAX - 1;

  std::uint64_t size_max = size_default;  // messages
  std::optional<std::int64_t>
      ttl{};  // milliseconds; without it, they are remembered until there are too many
  bool on_disk = false;

  friend bool operator==(const deduplication_rules&, const deduplication_rules&) = default;
};

// What an exchange of this type has to remember: one of the type x-message-deduplication, which routes as a fanout exchange
// and has to say how much; or one of any type with the argument x-message-deduplication. Nothing: it remembers nothing. Or
// why it may not be declared (406), in the plugin's words.
[[nodiscard]] std::variant<std::optional<deduplication_rules>, std::string> deduplication_of_exchange(
    std::string_view type, const field_table& arguments);

// Whether a queue takes a message only once: its argument x-message-deduplication.
[[nodiscard]] bool deduplicates(const field_table& queue_arguments);

// --- an exchange ------------------------------------------------------------------------------------------------

class seen_messages {
public:
  explicit seen_messages(const deduplication_rules& rules) : rules_{rules} {}

  enum class verdict : std::uint8_t {
    fresh,  // it passes, and is remembered: say `on_stored` or `on_refused` when it is known what became of it
    duplicate,  // it does not pass, and its original is safe: whoever published it may be told so
    pending,    // it does not pass; whoever published it is told what is told of the original
  };
  // `ttl`: what the message says itself. A duplicate is used, and not forgotten before others; how long it is remembered
  // does not change.
  verdict see(const deduplication_key& key, std::int64_t now, std::optional<std::int64_t> ttl = {});
  void on_stored(const deduplication_key& key);
  // The next one like it passes.
  void on_refused(const deduplication_key& key);

  // Forgets what has expired, looking at so many: to be called now and then.
  void expire(std::int64_t now, std::size_t count_max);

  struct change {
    deduplication_key key{};
    std::int64_t expires_at = 0;  // 0: never
    std::uint64_t order = 0;
    bool forgotten = false;  // only the key is looked at
  };
  // What has changed since the last time, of what has to be on disk; nothing if it is in memory only.
  [[nodiscard]] std::vector<change> changes();
  void restore(const change& remembered);

  [[nodiscard]] std::size_t size() const noexcept { return places_.size(); }

private:
  static constexpr std::uint32_t none = UINT32_MAX;
  struct entry {
    deduplication_key key{};
    std::int64_t expires_at = 0;
    std::uint64_t order = 0;
    std::uint32_t older = none, newer = none;  // by use
    bool used = false, stored = false;
  };

  [[nodiscard]] static bool expired(const entry& e, std::int64_t now) noexcept {
    return e.expires_at != 0 && e.expires_at <= now;
  }
  std::uint32_t add(const deduplication_key& key, std::int64_t expires_at, std::uint64_t order);
  void forget(std::uint32_t index);
  void put_newest(std::uint32_t index);
  void take_out(std::uint32_t index);
  void note(change c);

  // fixed after construction
  deduplication_rules rules_;

  std::vector<entry> entries_;  // those not used are in free_
  std::vector<std::uint32_t> free_;
  std::unordered_map<deduplication_key, std::uint32_t> places_;
  std::uint32_t oldest_ = none, newest_ = none;
  std::size_t looked_at_ = 0;  // where `expire` goes on
  std::uint64_t order_ = 0;
  std::vector<change> changes_;
};

// --- a queue ----------------------------------------------------------------------------------------------------

// Of the messages that the store held of a queue, those that have one.
struct recovered_keys {
  std::vector<std::pair<sequence, deduplication_key>> all;
};

class kept_messages {
public:
  // The message in the queue that is the same.
  [[nodiscard]] std::optional<sequence> original_of(const deduplication_key& key) const;
  // It came into the queue; there is no other like it. Places mostly grow.
  void add(const deduplication_key& key, sequence at);
  // Messages that are not in the queue any more; those without a key are skipped.
  void remove(sequence_range which);

  // A duplicate, whose publisher is told when the original is stored, or gone for good.
  void wait_for(sequence original, publisher_id by, std::uint64_t number);
  // Of what stands up to this place, nothing is on its way to the journal.
  void on_stored(sequence up_to, effects& out);
  // Those that wait for this one; nobody waits for it any more.
  struct waiting {
    publisher_id by{};
    std::uint64_t number = 0;
  };
  [[nodiscard]] std::vector<waiting> take_waiting(sequence original);

  [[nodiscard]] std::size_t size() const noexcept { return originals_.size(); }

private:
  struct kept {
    sequence at{};
    deduplication_key key{};
    bool gone = false;
  };

  [[nodiscard]] std::size_t index_of(sequence at) const noexcept;
  void drop_gone();

  ring<kept> places_;  // sorted by place; those in the middle may be gone
  std::size_t gone_ = 0;
  std::unordered_map<deduplication_key, sequence> originals_;
  std::multimap<sequence, waiting> waiting_;
};

}  // namespace posthorn
