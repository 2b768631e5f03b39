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
// Invariants (the tests name them):
//   I1  Messages of one publisher that were never returned are delivered in the order of their sequences.
//   I2  A publish is settled exactly once: when it is stored or gone, or at once if it need not survive.
//   I3  Every message is in one place: ready, held, or gone. ready_count and held_count say how many.
//   I4  At most one journal batch is under way. What it wrote and is now gone is erased by a later batch.
//   I5  A batch never erases what it appends, so that either half can be written alone.
//   I6  Memory for bodies that the journal has stored does not exceed `resident_max`, whatever the backlog.
//
// Threads   none of its own; whoever owns it calls it from one thread at a time.
#pragma once

#include "mailbox/envelope.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/ring.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace posthorn {

struct mailbox_limits {
  std::size_t resident_max = std::size_t{64} << 20;  // bytes of message bodies kept in memory
};

// What the store held of a mailbox when the node started.
struct recovered_mailbox {
  std::uint64_t count = 0;
  std::uint64_t size = 0;  // bytes of all bodies
  sequence first{}, last{};
  // The last sequence that was ever used, as far as the store knows: what it still has to erase counts, too.
  sequence used{};
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
};

// A message read back from the store.
struct loaded_message {
  sequence at{};
  envelope_ptr message;
};

// --- effects ----------------------------------------------------------------------------------------------------

struct delivery {
  consumer_id to{};
  sequence at{};
  envelope_ptr message;
  bool redelivered = false;
};

// Publishes first..last of one publisher: stored, gone, or kept as far as they have to be.
struct settlement {
  publisher_id by{};
  std::uint64_t first = 0, last = 0;
};

// The mailbox can go on only with these messages, to be read from the store and given to `on_loaded`.
struct load_request {
  sequence_range where{};
  std::size_t count_max = 0, size_max = 0;
};

// Collected over several commands, run by the actor, then cleared. Keeps its memory, so that a busy queue does not
// allocate.
struct effects {
  std::vector<delivery> deliveries;
  std::vector<settlement> settlements;
  std::optional<load_request> load;

  void settle(publisher_id by, std::uint64_t number);
  void clear() noexcept;
};

struct journal_append {
  sequence at{};
  envelope_ptr message;
  bool transient = false;  // kept in the store for want of memory; does not survive a restart
};

// What the journal writes for one mailbox in one transaction: first the appends, then the erasures.
struct journal_batch {
  std::vector<journal_append> appends;
  std::vector<sequence_range> erasures;  // may name messages that were never written

  [[nodiscard]] bool empty() const noexcept { return appends.empty() && erasures.empty(); }
};

// ----------------------------------------------------------------------------------------------------------------

class mailbox {
public:
  // `durable`: persistent messages are journaled. A mailbox that is not durable writes only what memory cannot hold.
  mailbox(bool durable, mailbox_limits limits, const recovered_mailbox& recovered = {});

  // Takes the messages in order; hands out nothing yet (see `dispatch`).
  void publish(std::span<arrival> messages, effects& out);

  // Hands ready messages to consumers that can take them, turn by turn. When it needs a message that is only in the
  // store, it stops and asks for it in `out.load`; the caller answers with `on_loaded` and calls again.
  void dispatch(effects& out);
  void on_loaded(std::span<loaded_message> messages);

  // One ready message for `holder`, delivered into `out`. False: there is none, or `out.load` asks for it first.
  bool fetch(consumer_id holder, bool acknowledges, effects& out);

  void add_consumer(const consumer_spec& spec);
  // No more deliveries. What it holds, it goes on holding, until `release`.
  void cancel_consumer(consumer_id id);
  // It and its holdings are no more: all go back to where they stood, in order.
  void release(consumer_id id);
  // `bytes` more may be on their way to it.
  void grant(consumer_id id, std::int64_t bytes);

  // Messages that the holder does not hold (any more) are skipped.
  void acknowledge(consumer_id holder, std::span<const sequence_range> which, effects& out);
  void give_back(consumer_id holder, std::span<const sequence_range> which);

  // Forgets all ready messages, and says how many they were.
  std::uint64_t purge(effects& out);

  // The next batch for the journal, empty when there is nothing to write or one is under way.
  journal_batch take_batch();
  // The batch under way is stored.
  void on_committed(effects& out);
  // Of the batch under way, this was not written and will not be: it is unsent again. All of its appends come back, or
  // none; its erasures come back unless they were written.
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
  [[nodiscard]] std::uint64_t ready_count() const noexcept;
  [[nodiscard]] std::uint64_t ready_size() const noexcept { return ready_size_; }  // bytes of bodies
  [[nodiscard]] std::uint64_t held_count() const noexcept { return held_count_; }
  [[nodiscard]] std::size_t consumer_count() const noexcept { return consumer_count_; }
  [[nodiscard]] std::size_t resident_size() const noexcept {
    return resident_;
  }  // bytes of memory for messages
  [[nodiscard]] bool known(consumer_id id) const { return holders_.contains(id); }

private:
  // A message that need not survive is written only for want of memory, and must then be erased when it is gone.
  enum class kept : std::uint8_t { in_memory, being_stored, in_store };
  struct entry {
    sequence at{};
    envelope_ptr message;          // null: only in the store
    std::uint32_t size = 0;        // of the body, in bytes
    bool persistent = false;       // to be written, because it has to survive
    kept where = kept::in_memory;  // if it need not survive
    bool redelivered = false;
    bool gone = false;  // settled while it stood between others in a ring
  };
  struct unsent_entry {
    sequence at{};
    envelope_ptr message;  // null: elided
    publisher_id from{};
    std::uint64_t number = 0;
  };
  struct sent_entry {
    sequence at{};
    publisher_id from{};
    std::uint64_t number = 0;
  };
  struct holder {
    consumer_spec spec;
    ring<entry> held;  // sorted by sequence; entries in the middle may be `gone`
    std::uint32_t held_count = 0;
    bool consuming = false;  // false: cancelled, or never more than a fetcher
    bool in_turn = false;    // stands in turns_
  };
  // The part of the ready messages that is only in the store: contiguous in order, between head_ and tail_.
  struct hole {
    std::uint64_t count = 0, size = 0;
    sequence first{}, last{};
  };

  [[nodiscard]] bool able(const holder& h) const noexcept;
  void join_turns(holder& h);
  [[nodiscard]] bool stored(const entry& e) const noexcept;
  [[nodiscard]] holder& holder_of(const consumer_spec& spec);
  entry* next_ready(effects& out);
  entry take_next();
  void hand_out(holder& h, entry e, effects& out);
  template <class Take>
  void take_held(holder& h, std::span<const sequence_range> which, Take take);
  void after_taking(holder& h);
  void drop_if_idle(holder& h);
  void leave_turns(holder& h);
  void forget(const entry& e, effects& out);
  void elide(sequence at, effects& out);
  void erase_later(sequence_range which);
  void put_back(entry e);
  void keep_within_memory();
  void shed_held();

  // fixed after construction
  bool durable_;
  mailbox_limits limits_;
  // For held bodies that only an acknowledgement frees. Never lowered, or a consumer that answers in large batches
  // could wait for ever.
  std::size_t held_max_;
  sequence recovered_last_{};  // all up to here come from before the restart: they may have been delivered

  // the ready messages, in this order
  std::map<sequence, entry> returned_;
  ring<entry> head_;
  hole hole_;
  ring<entry> tail_;  // used only while there is a hole
  std::uint64_t ready_size_ = 0;

  // who holds what
  std::unordered_map<consumer_id, std::unique_ptr<holder>> holders_;
  ring<holder*> turns_;  // consumers that may be able to take more, in turn
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

}  // namespace posthorn
