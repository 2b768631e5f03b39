// What a transactional channel was told since its last commit or rollback [27].
//
//   gathering --begin_commit--> publishing --end_publishing--> settling --settle--> answering --end_answering--> writing
//       ^---rollback                                                                                                |
//       ^----------------------------------------take_verdict-------------------------------------------------------'
//
// A publish is routed when it comes, and waits here with its queues; the answer to deliveries waits here, too, while the
// deliveries are set aside in the channel's ledger. A commit hands out the publishes in their order; then, when the queues
// have settled all of them, the answers; and is over when those are written as well. So a client that loses the node in the
// midst of a commit may see a part of it: publishes without its acknowledgements, but never the other way round. What was
// committed is on disk as a whole.
// There is no atomicity across queues: one that refuses its part leaves the others theirs, and the client is told that the
// transaction is complete in part only.
//
// Limits    what the publishes take is told by `size`, for whoever sets the limit. Answers take no more than the deliveries.
// Threads   a plain value, of one connection.
#pragma once

#include "actors/messages.hpp"
#include "gateway/amqp091/ledgers.hpp"
#include "gateway/amqp091/reply_to.hpp"
#include "mailbox/envelope.hpp"
#include "mailbox/topology.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace posthorn::amqp091 {

class transaction {
public:
  enum class step : std::uint8_t { gathering, publishing, settling, answering, writing };

  struct publish {
    envelope_ptr message;
    std::vector<queue_ptr> queues;  // none: it is returned if it is mandatory
    reply_route replies;
    bool mandatory = false;

    // Bytes of memory.
    [[nodiscard]] std::size_t size() const noexcept;
  };
  struct answer {
    tag_range which;
    outcome how = outcome::acknowledged;
    friend bool operator==(const answer&, const answer&) = default;
  };

  [[nodiscard]] step at() const noexcept { return step_; }

  // --- gathering ---
  void add(publish next);
  void add(answer next);
  // Bytes that the publishes take, which were not handed out yet.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  // Forgets everything.
  void rollback();
  // The channel's publishes before this commit have numbers up to `last_before`.
  void begin_commit(std::uint64_t last_before);

  // --- publishing ---
  // In their order; nothing: no more.
  [[nodiscard]] std::optional<publish> next_publish();
  // All were handed out; the last one has this number.
  void end_publishing(std::uint64_t last);

  // --- from publishing on ---
  // The channel's publishes up to `answered` are settled. Of those since the last call, `rejected` were refused, in order.
  void settle(std::uint64_t answered, std::span<const std::uint64_t> rejected);

  // --- answering ---
  [[nodiscard]] std::optional<answer> next_answer();
  // This queue was given some that it has to write.
  void wait_for(const queue_ptr& queue) { written_by_.try_emplace(queue->id, queue); }
  // All were handed out. Calls `ask(queue)` for each queue that has to say when it has written them.
  template <class Ask>
  void end_answering(Ask&& ask) {
    step_ = step::writing;
    unwritten_ = written_by_.size();
    for (const auto& [id, queue] : written_by_) ask(queue);
    written_by_.clear();
  }

  // --- writing ---
  // One of those queues says so.
  void on_written() {
    if (unwritten_ != 0) --unwritten_;
  }
  // How the commit ended; nothing: it has not. From then on the transaction gathers again.
  enum class verdict : std::uint8_t { complete, partial };
  [[nodiscard]] std::optional<verdict> take_verdict();

private:
  step step_ = step::gathering;
  std::deque<publish> publishes_;
  std::vector<answer> answers_;
  std::size_t size_ = 0;

  // of the commit
  std::uint64_t before_ = 0, last_ = 0;
  bool refused_ = false;
  std::size_t next_ = 0;  // of the answers
  std::unordered_map<mailbox_id, queue_ptr> written_by_;
  std::size_t unwritten_ = 0;
};

}  // namespace posthorn::amqp091
