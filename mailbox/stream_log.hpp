// What a queue of the type `stream` is: a log of messages that many read, each at its own place, and that nobody empties by
// reading [55]. Numbers in brackets are those of docs/amqp.md.
//
// A plain value, as `mailbox` is: commands go in, with the time; effects come out, and the actor around it runs them. What
// comes out has the same shape, so that the same actor can hold either.
//
// A message is unsent, sent, stored, as in `journal_feed`; every message is, whatever its delivery mode. It can be read when
// it and all before it are stored: so an offset that a reader has seen never means another message after a crash. Places that
// were skipped, and are empty when something behind them can be read, stay empty for readers: what comes there late has to be
// published again (see `arrive`).
//
// On disk   are the messages, under the mailbox's id and their place, and nothing else. A message's offset is its place
//           without one. Where others have the time at which a message expires (journal_append::expires_at) stands the time at
//           which it came. Where steps begin and end is found out again when the node reads its store (`stream_segments`).
//           Where a reader is, it knows itself: RabbitMQ keeps nothing for it, either.
// Memory    What is not stored, which its publishers' credit bounds; of what is stored, the youngest messages up to
//           `resident_max`; one chunk read from the store, in the call that hands it out; and for each reader its place
//           and the ranges that it holds, at most `prefetch` of them.
// Reading   Whoever is behind what is in memory asks in `out.load` for the next chunk, no larger than what the reader can
//           take. The owner may leave a request unanswered: the next `dispatch` asks again, for the same reader. Readers
//           have turns, so an owner who reads only some chunks in one step treats them alike.
//
// Invariants (the tests name them):
//   S1  A reader gets every message from its start on, in the order of the offsets, each once: except for what retention
//       has taken in the meantime, and what its filter leaves out.
//   S2  A reader gets no message before it is stored, together with all that stand before it.
//   S3  A reader never holds more than its prefetch, and gets nothing without credit.
//   S4  Only whole steps go, the oldest first, and only what is stored.
//   I2 I4 I5, as for a mailbox.
//
// Time      milliseconds since 1970. One that goes back counts as standing still.
// Threads   none of its own; whoever owns it calls it from one thread at a time.
#pragma once

#include "mailbox/journal_feed.hpp"
#include "mailbox/mailbox.hpp"
#include "mailbox/stream_arguments.hpp"
#include "mailbox/stream_segments.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace posthorn {

class stream_log {
public:
  // `recovered`: every message that the store has, in order. `used`: the last place that was ever used, as far as the store
  // knows.
  explicit stream_log(const stream_rules& rules, mailbox_limits limits = {},
                      stream_segments recovered = stream_segments{}, sequence used = {});

  // Takes the messages in order. Whoever published them hears of it when they are stored.
  void publish(std::span<arrival> messages, std::int64_t now);
  // The next messages stand behind this place: others up to it were given to senders who store them themselves.
  void skip_to(sequence next) noexcept { next_ = std::max(next_, next); }
  // Messages that the store has already, at places that were skipped. Those that came too late to be read there come back:
  // the owner publishes them again at once, at places of its own. They are erased where they stand when that is stored; a
  // crash before that leaves them in both places. What comes to a place that retention has passed is gone.
  [[nodiscard]] std::vector<arrival> arrive(std::span<loaded_message> messages, std::int64_t now);

  // Prefetch and credit count; no_ack, priority and weight do not.
  void add_reader(const consumer_spec& spec, const stream_start& start, stream_filter filter = {});
  // After a restart of the actor around it: it was handed these before, and goes on behind the last of them.
  void claim(consumer_id id, std::span<const sequence_range> which);
  // It gets nothing more, and what it holds is forgotten.
  void remove_reader(consumer_id id);
  // `bytes` more may be on their way to it.
  void grant(consumer_id id, std::int64_t bytes);
  void set_credit(consumer_id id, std::int64_t bytes);
  // Acknowledged, rejected or returned: a stream makes no difference, the reader has room for others. What it does not hold
  // is skipped.
  void answer(consumer_id id, std::span<const sequence_range> which);

  // Hands out what readers can take and is in memory. When the next in turn needs what is only in the store, it stops and
  // asks for it in `out.load`; the caller answers with `on_loaded`, and calls again.
  void dispatch(effects& out);
  void on_loaded(std::span<loaded_message> messages);

  // Lets go what is more, or older, than may be.
  void retain(std::int64_t now);
  // When there is something to do for `retain` at the latest; nothing: not before something comes.
  [[nodiscard]] std::optional<std::int64_t> next_retention() const noexcept {
    return segments_.next_retention(rules_);
  }
  // Other limits, from a policy.
  void change(const stream_rules& rules, std::int64_t now);

  // As those of a mailbox.
  journal_batch take_batch(const batch_limits& max = {}) { return feed_.take_batch(max); }
  void on_committed(effects& out, std::int64_t now);
  void on_not_committed(journal_batch unwritten, effects& out, std::int64_t now);
  void limit_memory(std::size_t resident_max);
  void settle_all(effects& out) { feed_.settle_all(out); }

  [[nodiscard]] bool batch_under_way() const noexcept { return feed_.under_way(); }
  [[nodiscard]] bool has_unsent() const noexcept { return feed_.has_unsent(); }
  // What a declaration is told: all messages, those that are not stored yet included.
  [[nodiscard]] std::uint64_t message_count() const noexcept {
    return segments_.count() + tail_.size() - seen_;
  }
  // Bytes of the envelopes that can be read.
  [[nodiscard]] std::uint64_t stored_size() const noexcept { return segments_.size(); }
  [[nodiscard]] std::size_t segment_count() const noexcept { return segments_.segment_count(); }
  [[nodiscard]] std::size_t reader_count() const noexcept { return readers_.size(); }
  [[nodiscard]] bool known(consumer_id id) const { return readers_.contains(id); }
  [[nodiscard]] std::uint64_t held_count() const noexcept { return held_count_; }
  [[nodiscard]] std::size_t resident_size() const noexcept { return resident_; }
  // The oldest and the youngest message that can be read; nothing: there is none.
  [[nodiscard]] std::optional<sequence_range> readable() const noexcept;
  // Offsets that the reader has still to go, as far as places can tell: for the figures that operators look at.
  [[nodiscard]] std::uint64_t lag_of(consumer_id id) const;

private:
  struct tail_entry {
    sequence at{};
    envelope_ptr message;
    std::int64_t came_at = 0;
    bool stored = false;
  };
  // Looks for the first message that came at a time or later: it is in [low, high), or stands first at high or behind it.
  struct search {
    std::int64_t came_at = 0;
    sequence low{}, high{};
    sequence there{};  // a message in the store, at high or behind it
  };
  // Able and with something to read; able, and waits for something; not able.
  enum class turn : std::uint8_t { reading, waiting, none };
  struct reader {
    consumer_spec spec;
    stream_filter filter;
    sequence next{};  // it has all before
    std::optional<search> looking;
    std::map<sequence, sequence> held;  // last -> first, of ranges without a hole
    std::uint64_t held_count = 0;
    turn stands = turn::none;
  };

  [[nodiscard]] static bool able(const reader& r) noexcept;
  [[nodiscard]] static std::uint32_t room_of(const reader& r) noexcept;
  [[nodiscard]] bool has_more(const reader& r) const noexcept;
  [[nodiscard]] reader* find(consumer_id id) const;
  [[nodiscard]] std::size_t tail_index(sequence at) const noexcept;
  void begin(reader& r, const stream_start& start);
  void look_for(reader& r, std::int64_t came_at);
  void take_turn(reader& r);
  void leave_turns(reader& r);
  void wake_waiting();
  // What a reader does when it is its turn: goes out of `reading_`, stands behind the others, or has asked for a chunk.
  enum class outcome_of_turn : std::uint8_t { leaves, waits_behind, asks };
  outcome_of_turn read(reader& r, effects& out);
  // False: it needs another message from the store, and has asked for it.
  bool search_on(reader& r, effects& out);
  void read_tail(reader& r, effects& out);
  [[nodiscard]] bool in_chunk(sequence at) const noexcept;
  void read_chunk(reader& r, effects& out);
  void ask(reader& r, sequence_range where, bool searches, effects& out);
  void offer(reader& r, sequence at, const envelope_ptr& message, effects& out);
  void hold(reader& r, sequence_range which);
  void let_go(reader& r, sequence_range which);
  void on_stored(std::span<const sequence> which, std::int64_t now);
  void advance();
  void trim();
  void erase_but_late(sequence_range which);
  [[nodiscard]] bool hidden(sequence at) const noexcept;

  // fixed, but for policies
  stream_rules rules_;
  mailbox_limits limits_;

  // what can be read, and what cannot yet
  stream_segments segments_;     // of all that can be read
  sequence first_{1};            // nothing before it can be read any more
  sequence readable_last_{};     // everything up to it is stored, or never will be
  ring<tail_entry> tail_;        // the youngest messages, those that cannot be read yet at its end
  std::size_t seen_ = 0;         // of the tail, those that can be read
  sequence stored_only_last_{};  // everything that can be read behind it is in the tail
  std::size_t resident_ = 0;     // bytes of the tail's envelopes
  std::int64_t last_time_ = 0;
  sequence next_{1};
  // A message that came too late to be read there, and is not known to be erased.
  struct late_message {
    sequence at{};
    sequence again_at{};  // where it was published again; 0: not yet
    bool stored_again = false;
  };
  std::vector<late_message> late_;  // sorted by place; nearly always empty

  // who reads
  std::unordered_map<consumer_id, std::unique_ptr<reader>> readers_;
  ring<reader*> reading_;
  std::vector<reader*> waiting_;
  std::uint64_t held_count_ = 0;

  // The chunk that was asked for, and for whom; empty between two calls of the owner.
  struct chunk {
    consumer_id by{};
    sequence_range where{};
    bool searches = false;
    bool had_turn = false;  // who asked has taken from it what it could
    std::vector<loaded_message> messages;
  };
  std::optional<chunk> chunk_;

  journal_feed feed_;
};

}  // namespace posthorn
