// Whose turn it is among the consumers of a queue that asks for more than one after the other: consumer priorities,
// a single active consumer, and the rules of x-dispatch. A mailbox makes one only when it is asked for; without it, its
// consumers take plain turns. Numbers in brackets are those of docs/amqp.md.
//
//   priorities            those of the highest priority get all messages as long as one of them is able [53]. Within a
//                         priority, the rule decides.
//   single active         one consumer gets all; the others wait, in the order in which they came, those of a higher
//                         priority first [52]. In a quorum queue, one of a higher priority becomes the active one as soon
//                         as the active one holds nothing, and that gets nothing new until then. No rule counts.
//   round-robin           as RabbitMQ: whoever cannot take the message when it is its turn goes out of the row, and
//                         stands at its end again when it can. In a quorum queue, it goes as soon as it can take none.
//   random, weighted,     as `balance` says, among those that are able.
//   least-response-time
//   hash                  a key has one consumer: the one that holds messages of that key, else the one that the ring of
//                         `balance` names. As long as that one is not able, or was cancelled and still holds some, the
//                         message waits, and what stands behind it, too: so the messages of one key are with one
//                         consumer at a time, and in order, whoever comes and goes. Messages without a key go in turn.
//                         Only consumers of the highest priority have places on the ring.
//
// A plain value; chance and a steady clock come in by `observe`.
// Threads   none of its own; whoever owns it calls it from one thread at a time.
#pragma once

#include "mailbox/balance.hpp"
#include "mailbox/ids.hpp"
#include "mailbox/ring.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace posthorn {

struct consumer_order_settings {
  balance_algorithm rule = balance_algorithm::round_robin;
  bool single_active = false;
  bool quorum = false;
};

// How a message left its holder.
enum class left : bool { answered, unanswered };

class consumer_order {
public:
  explicit consumer_order(const consumer_order_settings& settings) : settings_{settings} {}

  // Once for each; it is able when `update` says so.
  void add(consumer_id id, std::int64_t priority, std::uint32_t weight, bool in_turn = true);
  void remove(consumer_id id);
  // Whether it can take a message now, and whether it holds none. Whoever is no consumer (any more) is skipped.
  void update(consumer_id id, bool able, bool idle);

  // For what follows: now, since a moment that stays the same, and any of the 2^64 numbers, all as likely.
  void observe(std::chrono::nanoseconds now, std::uint64_t random) noexcept {
    now_ = now;
    random_ = random;
  }

  // Whether there is anybody to ask for. The key is that of the message, by which `keyed` rules decide; empty: none.
  [[nodiscard]] bool anybody() const noexcept;
  [[nodiscard]] bool can_take(std::string_view key) const;
  // Who is to get the next message. Its turn ends with this.
  [[nodiscard]] std::optional<consumer_id> choose(std::string_view key);
  [[nodiscard]] bool keyed() const noexcept {
    return settings_.rule == balance_algorithm::consistent_hash && !settings_.single_active;
  }

  // It holds this message now, as it was chosen to or from before; and holds it no more. Looked at only by rules that
  // care: see `follows`.
  [[nodiscard]] bool follows() const noexcept {
    return keyed() || (settings_.rule == balance_algorithm::least_response_time && !settings_.single_active);
  }
  // There is a message, and nobody for it: in their turns, they cannot take it.
  void pass_over();
  void took(consumer_id id, sequence at, std::string_view key);
  void let_go(sequence at, left how);

  // All of them, in the order in which they came.
  [[nodiscard]] std::vector<consumer_id> members() const;

  // Of a single active consumer. None: there is no consumer, or it is not that kind of queue.
  [[nodiscard]] std::optional<consumer_id> active() const noexcept { return active_; }

private:
  struct member {
    std::int64_t priority = 0;
    std::uint32_t weight = 1;
    std::uint64_t joined = 0;
    std::chrono::nanoseconds latency{};  // 0: not known; a moving average
    bool able = false, idle = true;
    bool in_turn = false;
  };
  struct priority_class {
    explicit priority_class(balance_algorithm rule) : chooser{rule} {}

    ring<consumer_id> turns;  // for round robin and for messages without a key
    balance chooser;          // those who are able; of a hash, all
    std::size_t member_count = 0, able_count = 0;
  };
  struct holding {
    consumer_id by{};
    std::uint64_t key = 0;             // its hash
    std::chrono::nanoseconds since{};  // when it was handed out
  };
  struct group {
    consumer_id with{};
    std::uint64_t count = 0;  // messages of this key that it holds
  };

  [[nodiscard]] bool plain() const noexcept { return settings_.rule == balance_algorithm::round_robin; }
  void elect();
  void leave(priority_class& its, consumer_id id);
  [[nodiscard]] std::optional<consumer_id> next_in_turn(priority_class& among);
  [[nodiscard]] std::optional<consumer_id> owner_of(std::string_view key) const;

  consumer_order_settings settings_;
  std::unordered_map<consumer_id, member> members_;
  // The highest priority first. To ask the ring of a hash changes nothing that anybody could tell.
  mutable std::map<std::int64_t, priority_class, std::greater<>> classes_;
  std::size_t able_count_ = 0;
  std::uint64_t joined_ = 0;

  std::optional<consumer_id> active_;
  bool gives_way_ = false;  // the active one, when it is idle

  std::unordered_map<sequence, holding> held_;
  std::unordered_map<std::uint64_t, group> groups_;  // by the hash of the key

  std::chrono::nanoseconds now_{};
  std::uint64_t random_ = 0;
};

}  // namespace posthorn
