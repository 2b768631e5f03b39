// What a queue is: messages in order, who holds which, and what must become durable.
//
// A plain value. Commands go in, with every choice that chance or a clock would make; effects come out. The same
// commands give the same effects on every node. The actor around it runs the effects: it hands deliveries to the
// consumers' connections, settlements to the publishers' connections, and journal batches to the journal.
//
// A message goes through these places, always forward but for a return:
//
//   arrived --> ready --> held by a consumer --> gone (acknowledged, rejected)
//                 ^______________|  (returned: rejected with requeue, its holder is gone)
//
// and, at its own pace, if it has to survive:
//
//   unsent --> sent (in the batch that the journal is writing) --> stored
//
// A message that is gone while it is unsent is never written ("elided"), and its publisher is answered at once.
//
// What the queue's arguments ask for is in `mailbox_rules`: messages expire at the head, the oldest give way or the newest
// are refused when there are too many, and what was given back too often goes. With a dead-letter exchange, such a
// message is not just gone: it is an effect, a copy goes elsewhere in the transaction that erases it here, and its
// publisher hears of it no earlier than that.
//
// A queue with priorities stands in levels: the messages of one level are in order, and no message goes before one of a
// higher level is gone. A level is what a queue without priorities is as a whole, its part that is only in the store
// included. The level is in the message's properties, so that nothing else has to be stored: what the store counted for
// each priority (`recovered_mailbox`) says which levels there are, and what is read back is told apart by its own.
//
// Who gets a message is the next in turn of those that can take it, unless the queue or a consumer asks for more; see
// `consumer_order`.
//
// Invariants (the tests name them):
//   I1  Messages of one publisher and level that were never returned are delivered in the order of their sequences.
//   I2  A publish is settled exactly once: when it is stored or gone, or at once if it need not survive.
//   I3  Every message is in one place: ready, held, or gone. ready_count and held_count say how many.
//   I4  At most one journal batch is under way. What it wrote and is now gone is erased by a later batch.
//   I5  A batch never erases what it appends, so that either half can be written alone.
//   I6  Memory for bodies that the journal has stored does not exceed `resident_max`, whatever the backlog.
//   I7  A dead letter is erased and settled by the first batch that is taken after it came out, and that batch `moves`.
//
// The code stands in parts: mailbox.cpp has how it begins and how messages come in; _dispatch how they go out; _holders what
// consumers do and answer, and how long they may take; _aside what is neither ready nor held; _journal what becomes
// durable; _memory what memory cannot hold.
//
// Time      is told by the caller, in milliseconds since 1970. A message that expires in the very millisecond in which it
//           comes reaches a consumer that waits for it; nobody gets it later, in that millisecond or after it.
// Threads   none of its own; whoever owns it calls it from one thread at a time.
#pragma once

#include "mailbox/balance.hpp"
#include "mailbox/consumer_order.hpp"
#include "mailbox/dead_letter.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/mailbox_effects.hpp"
#include "mailbox/mailbox_rules.hpp"
#include "mailbox/ring.hpp"
#include "mailbox/stream_segments.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace posthorn {

class kept_messages;
struct recovered_keys;

// What the store held of a mailbox when the node started, or when the actor around the mailbox was started again. Then
// there may be messages among it that need not survive, in a mailbox that is not durable, too.
struct recovered_level {
  std::uint64_t count = 0;
  std::uint64_t size = 0;  // bytes of all bodies
  sequence first{}, last{};
};
struct recovered_mailbox {
  std::uint64_t count = 0;
  std::uint64_t size = 0;  // bytes of all bodies
  sequence first{}, last{};
  // The last sequence that was ever used, as far as the store knows: what it still has to erase counts, too.
  sequence used{};
  bool expires = false;  // some of them have a time at which they expire
  // Of those whose properties have a priority, by that priority; the others are the rest. Only a mailbox with levels
  // needs them, and it needs all of them.
  std::map<std::uint8_t, recovered_level> priorities{};
  // Of a stream, and only of one: how its messages can be cut into steps.
  std::shared_ptr<stream_segments> segments{};
  // Of a queue that takes no message twice, and only of one: mailbox/deduplication.hpp.
  std::shared_ptr<recovered_keys> keys{};

  // The next message, in order: all of the above but `used`.
  void count_message(sequence at, const envelope& message, std::int64_t expires_at);
};

// --- commands ---------------------------------------------------------------------------------------------------

struct arrival {
  envelope_ptr message;
  publisher_id from{};
  std::uint64_t number = 0;  // the publisher's own count; comes back in the settlement
};

struct consumer_spec {
  consumer_id id{};
  std::uint32_t prefetch = 0;  // how many it may hold; 0: no limit
  bool acknowledges = true;    // false: a delivery is gone as soon as it is handed out
  std::int64_t credit = 0;     // bytes that may be on their way to it; one message may exceed it
  std::int64_t priority = 0;   // those of a higher one are served first, as long as they can take more [53]
  std::uint32_t weight = 1;    // for the rules of dispatch that know weights
  // Of a quorum queue: how long it may leave a delivery unanswered, whatever the queue says; 0: for ever [54].
  std::optional<std::chrono::milliseconds> timeout{};
};

// A message read back from the store.
struct loaded_message {
  sequence at{};
  envelope_ptr message;
  std::int64_t expires_at = 0;  // milliseconds since 1970; 0: never
};

// Whether a message that comes back counts this as a failed delivery.
enum class blame : bool { no, yes };

// ----------------------------------------------------------------------------------------------------------------

class mailbox {
public:
  // `durable`: persistent messages are journaled. A mailbox that is not durable writes only what memory cannot hold.
  mailbox(bool durable, mailbox_limits limits, const recovered_mailbox& recovered = {},
          mailbox_rules rules = {});

  // Others than before, by a policy. What the mailbox was made with stays: its type, its priorities, whether one consumer
  // gets all. What is there already expires when it would have; what is too many now goes with the next `dispatch`. Another
  // rule of dispatch begins as if all consumers had just come, in the order in which they did; of a hash, messages that are
  // held keep their keys where they are as far as their bodies are in memory.
  void change_rules(mailbox_rules rules, std::int64_t now = 0);

  // Takes the messages in order, or refuses them; hands out nothing yet (see `dispatch`), unless it could not take
  // another one otherwise.
  void publish(std::span<arrival> messages, effects& out, std::int64_t now = 0);

  // The next messages stand behind this place: others up to it were given to senders who store them themselves.
  void skip_to(sequence next) {
    if (next_ < next) [[unlikely]]
      give_away(next);
  }
  // Messages that the store has already, at places that were skipped.
  void arrive(std::span<loaded_message> messages);

  // Hands ready messages to consumers that can take them, turn by turn; what then stands at the head and has expired, or
  // is too many, goes. What is too many because messages came back goes before anything is handed out. When it needs a message that is only in the store, it stops and asks for it in `out.load`; the
  // caller answers with `on_loaded` and calls again.
  void dispatch(effects& out, std::int64_t now = 0);
  void on_loaded(std::span<loaded_message> messages);

  // One ready message for `holder`, delivered into `out`. False: there is none, or `out.load` asks for it first. What then
  // stands at the head and has expired, goes, as far as it is in memory, so that it is not counted any more.
  bool fetch(consumer_id holder, bool acknowledges, effects& out, std::int64_t now = 0);

  // When something happens by itself, for which `dispatch` is to be called, in milliseconds since 1970; none: nothing does.
  // The message at the head expires (those behind it wait), one that stands aside is ready again, a dead letter is tried
  // again, or a consumer has taken too long. A time long past: only `dispatch` can find out.
  [[nodiscard]] std::optional<std::int64_t> next_expiry() const;
  // What `dispatch` does at its end. May ask in `out.load`, as `dispatch` does.
  void expire(std::int64_t now, effects& out);

  void add_consumer(const consumer_spec& spec);
  // What chance and a clock say, for the rules of dispatch that ask for them, and commands that follow: now, since a
  // moment that stays the same, and any of the 2^64 numbers, all as likely.
  void observe(std::chrono::nanoseconds now, std::uint64_t random) noexcept {
    if (order_) order_->observe(now, random);
  }
  // Whether anything comes of it.
  [[nodiscard]] bool observes() const noexcept { return order_ != nullptr; }
  // No more deliveries. What it holds, it goes on holding, until `release`.
  void cancel_consumer(consumer_id id);
  // It and its holdings are no more: all go back to where they stood, in order. Those that were delivered too often go;
  // without effects, nobody is blamed.
  void release(consumer_id id, effects& out, blame why = blame::yes, std::int64_t now = 0);
  void release(consumer_id id);
  // `bytes` more may be on their way to it.
  void grant(consumer_id id, std::int64_t bytes);
  // So many may be on their way to it from now on, whatever was granted before.
  void set_credit(consumer_id id, std::int64_t bytes);

  // After a restart of the actor around it: the mailbox was made from what the store has, and `as.id` still holds
  // these messages, which were read from the store. They go from ready to held; those that are not ready (any more)
  // are skipped. A holder that is not there is made, but it does not consume.
  void claim(const consumer_spec& as, std::span<loaded_message> messages);

  // Messages that the holder does not hold (any more) are skipped.
  void acknowledge(consumer_id holder, std::span<const sequence_range> which, effects& out);
  // Like an acknowledgement, but what became of the messages is written with the next batch, which then `moves`: their
  // publishers hear of it no earlier.
  void finish(consumer_id holder, std::span<const sequence_range> which, effects& out);
  // Like an acknowledgement, but the messages become dead letters. With blame, it is a failed delivery of which they tell.
  void reject(consumer_id holder, std::span<const sequence_range> which, effects& out, blame why = blame::no);
  // Back to where they stood. Those that were delivered too often go; without effects, nobody is blamed.
  void give_back(consumer_id holder, std::span<const sequence_range> which, effects& out,
                 blame why = blame::yes, std::int64_t now = 0);
  void give_back(consumer_id holder, std::span<const sequence_range> which);

  // From `holder` to `keeper`, who consumes nothing: they go on being held, and `holder` has room for others. No one is
  // blamed, and nothing is written.
  void set_aside(consumer_id holder, consumer_id keeper, std::span<const sequence_range> which);

  // Of a dead letter that `waits`: its copies go with the next batch, in which it is erased; or it found no way, and comes
  // out again after a while. Neither may be said of any other message.
  void on_buried(sequence at, effects& out);
  void on_no_way(sequence at, std::int64_t now);

  // Forgets all ready messages and those that stand aside for a time, and says how many they were.
  std::uint64_t purge(effects& out);

  // Something of the owner's is to be written with the next batch, which therefore `moves`, even if nothing else is in it.
  void demand_batch();
  // The next batch for the journal, empty when there is nothing to write or one is under way. The oldest come first.
  journal_batch take_batch(batch_limits max = {});
  // The batch under way is stored.
  void on_committed(effects& out);
  // Of the batch under way, this was not written and will not be: it is unsent again. All of its appends come back, or
  // none; its erasures come back unless they were written. If it `moves` still, the copies of its dead letters were not
  // written either, nor the erasures, and the next batch is theirs.
  void on_not_committed(journal_batch unwritten, effects& out);

  // How much it may keep in memory from now on; applied with the next messages that come.
  void limit_memory(std::size_t resident_max) noexcept {
    limits_.resident_max = resident_max;
    held_max_ = std::max(held_max_, resident_max);
  }

  // The mailbox goes: nobody waits for what becomes of its messages.
  void settle_all(effects& out);

  [[nodiscard]] bool batch_under_way() const noexcept { return under_way_; }
  [[nodiscard]] bool has_unsent() const noexcept;
  // Something is gone whose erasure is not in a batch yet.
  [[nodiscard]] bool has_unsent_erasures() const noexcept { return !erasures_.empty(); }
  [[nodiscard]] std::uint64_t ready_count() const noexcept;
  [[nodiscard]] std::uint64_t ready_size() const noexcept { return ready_size_; }  // bytes of bodies
  [[nodiscard]] std::uint64_t held_count() const noexcept { return held_count_; }
  [[nodiscard]] std::size_t consumer_count() const noexcept { return consumer_count_; }
  // Neither ready nor held: those that came back and stand aside for a time, and dead letters that wait for a way.
  [[nodiscard]] std::uint64_t delayed_count() const noexcept {
    return book_ ? book_->parked.size() - book_->dead_count : 0;
  }
  [[nodiscard]] std::uint64_t waiting_dead_count() const noexcept { return book_ ? book_->dead_count : 0; }
  // As a queue says when it is asked. Of a quorum queue with a single active consumer, only that one counts [52], and in
  // every quorum queue who has been cancelled, as long as he holds something, and each message that was fetched.
  [[nodiscard]] std::size_t told_consumer_count() const noexcept;
  // Of a queue with a single active consumer, that one.
  [[nodiscard]] std::optional<consumer_id> active_consumer() const noexcept {
    return order_ ? order_->active() : std::nullopt;
  }
  [[nodiscard]] std::size_t resident_size() const noexcept {
    return resident_;
  }  // bytes of memory for messages
  [[nodiscard]] bool known(consumer_id id) const { return holders_.contains(id); }
  [[nodiscard]] bool holds(consumer_id id, sequence at) const;

private:
  // A message that need not survive is written only for want of memory, and must then be erased when it is gone.
  enum class kept : std::uint8_t {
    journaled,  // it has to survive: sent_last_ and sent_ say how far it is
    in_memory,
    being_stored,
    in_store,
    gone,  // settled while it stood between others in a ring
  };
  struct entry {
    sequence at{};
    envelope_ptr message;         // null: only in the store
    std::int64_t expires_at = 0;  // 0: never
    std::uint32_t size = 0;       // of the body, in bytes
    std::uint16_t since = 0;      // when it was handed out, in units of its holder's; see `time_limit`
    std::uint8_t level = 0;
    kept where : 4 = kept::in_memory;
    bool redelivered : 1 = false;
    bool counted : 1 = false;  // return_counts_ has it

    [[nodiscard]] bool persistent() const noexcept { return where == kept::journaled; }
    [[nodiscard]] bool gone() const noexcept { return where == kept::gone; }
  };
  static_assert(sizeof(entry) == 32, "a backlog is made of these");
  // How often a message came back; neither counts further than it can.
  struct return_counts {
    std::uint16_t attempts = 0;  // failed deliveries
    std::uint16_t returns = 0;   // these, and all others
    // Of a quorum queue: the highest place that had been handed out when this one, which stands before it, was; and how
    // many such there were. 0: it was handed out when its turn came.
    sequence taken_after{};
    std::uint64_t taken = 0;
  };
  struct unsent_entry {
    sequence at{};
    envelope_ptr message;  // null: elided
    publisher_id from{};
    std::uint64_t number = 0;
    std::int64_t expires_at = 0;
  };
  struct sent_entry {
    sequence at{};
    publisher_id from{};
    std::uint64_t number = 0;
  };
  // How long a holder may take. What it holds tells its time in units that are a small part of the limit, so that two
  // bytes are enough for four times as long.
  struct time_limit {
    std::int64_t all = 0;   // milliseconds; 0: none
    std::int64_t unit = 0;  // milliseconds; 0: none
    std::int64_t look = 0;  // when one may have been held for too long, and none before; 0: none is held
  };
  struct holder {
    consumer_spec spec;
    time_limit limit;
    std::vector<sequence>
        owed;          // sorted: what it took too long for, and has not answered; while it is `suspended`
    ring<entry> held;  // sorted by sequence; entries in the middle may be `gone`
    std::uint32_t held_count = 0;
    bool consuming = false;  // false: cancelled, or never more than a fetcher
    bool in_turn = false;    // stands in turns_
    bool fetches = false;    // was never a consumer
    bool suspended = false;  // gets nothing until it has answered what it owes
  };
  // The part of the ready messages of one lane that is only in the store: contiguous in order, between head and tail.
  // Messages of other levels, and what became of them, may lie between them.
  struct stored_part {
    std::uint64_t count = 0, size = 0;
    sequence first{}, last{};
    bool expires = false;  // some of it may
  };
  // Ready messages in order: all that were not returned, or those of one level.
  struct lane {
    ring<entry> head;
    stored_part hole;
    ring<entry> tail;  // used only while there is a hole, or what is to be one
    // The highest place of those that have left it. What arrives behind time stands in front of it and is no part of a
    // hole, for the store may still have what was between.
    sequence passed{};

    [[nodiscard]] bool empty() const noexcept { return head.empty() && hole.count == 0 && tail.empty(); }
    [[nodiscard]] std::uint64_t count() const noexcept { return head.size() + hole.count + tail.size(); }
  };
  // Only of a mailbox with priorities.
  struct level_book {
    std::map<std::uint8_t, lane, std::greater<>> lanes;
    std::optional<std::uint8_t> asked;  // the level whose messages were asked for in the store last
  };
  // Where a returned message stands: the highest level first, then in order. Of a quorum queue, all are of one level, and
  // the order is that in which they came back.
  struct return_place {
    std::uint64_t below_top = 0, order = 0;

    friend auto operator<=>(const return_place&, const return_place&) = default;
  };
  // A publish whose message became a dead letter before it was sent.
  struct moved_publish {
    publisher_id by{};
    std::uint64_t number = 0;
  };
  // It stands aside: until `due`, when it is ready again; or as a dead letter, until there is a way for it.
  struct parked_entry {
    entry e;  // without its body, as soon as the store has it
    std::int64_t
        due{};  // milliseconds since 1970; of a dead letter, for the next try; 0: its owner has it at hand
    bool dead = false;
    death_reason why = death_reason::expired;
    bool delivered = false;
  };
  // Only of a mailbox that has rules.
  struct rule_book {
    mailbox_rules rules;
    bool moves = false;                // dead letters came out since the last batch was taken
    std::vector<moved_publish> moved;  // settled by the next batch
    std::vector<moved_publish> moved_under_way;
    std::vector<sequence> moved_sent;  // of the batch under way, and dead letters since
    bool came_back = false;            // something did, and what is too many now has not gone yet
    std::uint64_t return_count = 0;    // of a quorum queue, all that came back
    std::uint64_t taken_count = 0;     // of a quorum queue, how often one was handed out behind its turn
    sequence taken_last{};             // of a quorum queue, the highest place that was handed out
    std::map<sequence, parked_entry> parked;
    std::set<std::pair<std::int64_t, sequence>> wakes;  // of those that are due at a time
    std::vector<sequence> unshed;                 // of those whose bodies are still in memory, and others
    std::uint64_t dead_count = 0, dead_size = 0;  // of parked, the dead letters; bytes of bodies
    std::int64_t look = 0;                        // the first of the holders' times to look; 0: none
    std::shared_ptr<kept_messages> kept;          // null: the same may be there twice. Nobody else has it
  };

  void give_away(sequence end);
  void take_given(sequence at);
  [[nodiscard]] bool given(sequence at) const noexcept;
  [[nodiscard]] bool able(const holder& h) const noexcept;
  void join_turns(holder& h);
  void make_order();
  void change_order();
  void dispatch_in_order(effects& out, std::int64_t now);
  void hand_out_in_order(effects& out, std::int64_t now);
  [[nodiscard]] bool can_take_at_once(const envelope& message);
  [[nodiscard]] bool goes_at_once(const envelope& message);
  [[nodiscard]] std::string key_of(const envelope& message) const;
  [[nodiscard]] std::uint8_t level_of(const envelope& message) const noexcept;
  [[nodiscard]] lane& lane_of(std::uint8_t level) { return levels_ ? levels_->lanes[level] : lane_; }
  template <class Each>
  void for_each_lane(Each each);
  [[nodiscard]] lane* first_lane() noexcept;
  [[nodiscard]] bool returned_first() const noexcept;
  [[nodiscard]] std::map<return_place, entry>::iterator find_returned(sequence at);
  void recover_levels(const recovered_mailbox& recovered);
  [[nodiscard]] sequence first_unreturned() const noexcept;
  [[nodiscard]] bool stored(const entry& e) const noexcept;
  [[nodiscard]] holder& holder_of(const consumer_spec& spec);
  entry* next_ready(effects& out);
  entry take_next();
  void hand_out_next(holder& h, entry& next, effects& out, std::int64_t now);
  void hand_out(holder& h, entry&& e, effects& out, std::int64_t now);
  [[nodiscard]] std::int64_t timeout_of(const consumer_spec& spec) const noexcept;
  void set_timeout(holder& h, std::int64_t now);
  void stamp(holder& h, entry& e, std::int64_t now);
  void look_at_holders(std::int64_t now, effects& out);
  void look_at(holder& h, std::int64_t now, effects& out);
  void answer_owed(holder& h, std::span<const sequence_range> which);
  [[nodiscard]] bool stands_aside(blame why) const noexcept;
  void stand_aside(entry e, std::int64_t now);
  void park(parked_entry p);
  void wake_parked(std::int64_t now, effects& out);
  void tell_dead(const parked_entry& p, const envelope_ptr& message, effects& out);
  void shed_parked();
  [[nodiscard]] std::optional<std::int64_t> head_expiry() const;
  [[nodiscard]] entry entry_of(loaded_message& m) const;
  void hold(holder& h, entry&& e);
  void erase_holes();
  void erase_between(sequence_range part, std::span<const sequence> spared);
  template <class Take>
  void take_held(holder& h, std::span<const sequence_range> which, left how, Take take);
  void after_taking(holder& h);
  void drop_if_idle(holder& h);
  void leave_turns(holder& h);
  entry* front(effects& out, bool load);
  [[nodiscard]] bool is_too_late(const entry& e, std::int64_t now) const noexcept;
  void note_taking(entry& e, bool returned);
  void inherit_counts(entry& e);
  void drop_front(death_reason why, effects& out);
  [[nodiscard]] bool refuses(const envelope& message, effects& out, std::int64_t now);
  [[nodiscard]] bool is_there(const arrival& m, effects& out);
  [[nodiscard]] bool is_there(const loaded_message& m);
  [[nodiscard]] sequence settled_up_to() const noexcept;
  void tell_duplicates(effects& out);
  void remember(sequence at, const envelope& message);
  void erase_unread(sequence_range which);
  void refuse(arrival& m, effects& out);
  [[nodiscard]] bool too_many(std::uint64_t count, std::uint64_t size) const noexcept;
  [[nodiscard]] bool has_too_many() const noexcept;
  template <class Back>
  void release_to(consumer_id id, Back back);
  void come_back(entry e, effects& out, blame why, std::int64_t now);
  void count_failure(entry& e);
  void count_return(entry& e);
  void end(const entry& e, death_reason why, effects& out, blame whose = blame::no);
  void forget(const entry& e, effects& out, bool moved = false);
  void elide(sequence at, effects& out, bool moved);
  void erase_later(sequence_range which);
  void put_back(entry e);
  void put_ready(entry e);
  [[nodiscard]] return_counts& counts_of(entry& e);
  void keep_within_memory();
  void fold(lane& its);
  void spill(lane& its, std::size_t from);
  void shed_held();

  // fixed after construction
  bool durable_;
  mailbox_limits limits_;
  // For held bodies that only an acknowledgement frees. Never lowered, or a consumer that answers in large batches
  // could wait for ever.
  std::size_t held_max_;
  sequence recovered_last_{};  // all up to here come from before the restart: they may have been delivered

  std::unique_ptr<rule_book> book_;  // null: no rules

  // the ready messages, in this order
  std::map<return_place, entry> returned_;  // with levels, each before those of its own level
  std::unordered_map<sequence, return_counts> return_counts_;  // of those, ready or held, that came back
  lane lane_;                                                  // without levels
  std::unique_ptr<level_book> levels_;                         // null: no levels
  // Sorted: messages that were claimed from between others, and are still in the store there. No part of the hole, not
  // even if what stands around them is folded away again.
  std::vector<sequence> claimed_;
  // Sorted: places that were given away, and whose messages have not arrived. The store may have them already: they are
  // neither read nor erased.
  std::vector<sequence_range> given_;
  std::uint64_t ready_size_ = 0;
  bool may_expire_ = false;  // some message may; otherwise nobody looks
  // From here on, messages came since consumers were looked at last: they may be handed out even if they expire at once.
  sequence fresh_{};

  // who holds what
  std::unordered_map<consumer_id, std::unique_ptr<holder>> holders_;
  ring<holder*> turns_;                    // consumers that may be able to take more, in turn
  std::unique_ptr<consumer_order> order_;  // null: nobody asked for more than turns
  std::uint64_t held_count_ = 0;
  std::size_t consumer_count_ = 0;

  // towards the journal
  ring<unsent_entry> unsent_;           // sorted by sequence
  std::vector<sent_entry> sent_;        // sorted by sequence; settled when the batch is stored
  sequence sent_last_{};                // every persistent message up to here is sent or stored
  std::vector<journal_append> spills_;  // messages that need not survive, to be written for want of memory
  bool spills_under_way_ = false;
  std::vector<sequence_range> erasures_;
  std::size_t elided_ = 0;  // of unsent_
  bool under_way_ = false;

  sequence next_{1};
  std::size_t resident_ = 0;
  std::size_t held_resident_ = 0;  // the part of it that is held
};

// --- what more than one part of it uses, on the way of every message --------------------------------------------------

// The highest level first.
template <class Each>
void mailbox::for_each_lane(Each each) {
  if (!levels_) return each(lane_);
  for (auto& [level, its] : levels_->lanes) each(its);
}

[[gnu::always_inline]] inline void mailbox::hold(holder& h, entry&& e) {
  ++h.held_count;
  ++held_count_;
  if (h.held.empty() || h.held.back().at < e.at) {
    h.held.push_back(std::move(e));
    return;
  }
  // A returned message is older than what the holder got since. Rare, so the entries behind may move.
  std::size_t index = h.held.size();
  while (index > 0 && e.at < h.held[index - 1].at) --index;
  h.held.insert(index, std::move(e));
}

inline bool mailbox::stored(const entry& e) const noexcept {
  if (!e.persistent()) return e.where == kept::in_store;
  return e.at <= sent_last_ && (sent_.empty() || e.at < sent_.front().at);
}

}  // namespace posthorn
