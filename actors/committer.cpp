#include "actors/committer.hpp"

#include <algorithm>
#include <chrono>

namespace posthorn {

namespace {

// How many buried messages one transaction erases: a few milliseconds of work, so that nobody waits longer for it.
constexpr std::size_t burial_slice = 4000;
constexpr auto disk_watch_interval = std::chrono::seconds{1};
// What could not be written for want of room waits this long before it is tried again.
constexpr auto retry_delay = std::chrono::milliseconds{200};

class committer_state {
public:
  static inline const char* name = "posthorn.committer";

  committer_state(committer_actor::pointer self, node_context* node) : self_{self}, node_{*node} {}

  committer_actor::behavior_type make_behavior() {
    self_->send(self_, watch_disk{});
    return {
        [this](write_batch& message) { on_write_batch(message); },
        [this](write_topology& message) { on_write_topology(message); },
        [this](commit_now) { on_commit_now(); },
        [this](bury_now) { on_bury_now(); },
        [this](watch_disk) { on_watch_disk(); },
        [this](finish_committer) { on_finish(); },
    };
  }

private:
  void on_write_batch(write_batch& message) {
    if (node_.faults.confirm_before_commit) self_->send(message.from, journal_written{});
    batches_.push_back(std::move(message));
    schedule();
  }

  void on_write_topology(write_topology& message) {
    topologies_.push_back(std::move(message));
    schedule();
  }

  void schedule() {
    if (std::exchange(scheduled_, true)) return;
    self_->send(self_, commit_now{});
  }

  void on_commit_now() {
    scheduled_ = false;
    if (batches_.empty() && topologies_.empty()) return;
    std::vector<mailbox_write> writes;
    writes.reserve(batches_.size());
    for (auto& b : batches_) writes.push_back({b.mailbox, &b.batch});
    std::vector<store::topology_write> topologies;
    topologies.reserve(topologies_.size());
    for (const auto& t : topologies_) topologies.push_back({t.vhost, t.changes});

    const auto begin = std::chrono::steady_clock::now();
    const auto written = node_.journal.commit(writes, topologies);
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    node_.counters.commit_seconds->observe(seconds);
    if (written) {
      answer_written();
    } else if (written.error().code == errc::overloaded) {
      node_.counters.commit_failures->inc();
      give_back(written.error(), writes);
    } else {
      node_.on_fatal("cannot write to the store: " + written.error().text);
    }
    batches_.clear();
    topologies_.clear();
    bury_if_needed();
  }

  void answer_written() {
    node_.counters.commits->inc();
    std::int64_t messages = 0, bytes = 0;
    for (const auto& b : batches_) {
      messages += static_cast<std::int64_t>(b.batch.appends.size());
      for (const auto& a : b.batch.appends) bytes += static_cast<std::int64_t>(a.message->bytes().size());
      if (!node_.faults.confirm_before_commit) self_->send(b.from, journal_written{});
    }
    for (const auto& t : topologies_) self_->send(t.from, topology_written{});
    node_.counters.messages_written->inc(messages);
    node_.counters.bytes_written->inc(bytes);
  }

  // There is no room. What frees room still fits, mostly; the rest goes back to those who asked, who keep it.
  void give_back(const error& why, const std::vector<mailbox_write>& writes) {
    for (const auto& t : topologies_) self_->send(t.from, topology_written{why});
    set_disk_low(true);
    const auto erased = node_.journal.commit_erasures(writes);
    if (!erased && erased.error().code != errc::overloaded) {
      node_.on_fatal("cannot write to the store: " + erased.error().text);
    }
    for (auto& b : batches_) {
      if (erased) b.batch.erasures.clear();
      if (b.batch.empty()) {
        self_->send(b.from, journal_written{});
      } else {
        // Not at once: there will be no room a moment later either.
        self_->delayed_send(b.from, retry_delay, journal_unwritten{std::move(b.batch)});
      }
    }
  }

  void bury_if_needed() {
    if (burying_ || !node_.journal.has_graves()) return;
    burying_ = true;
    self_->send(self_, bury_now{});
  }

  void on_bury_now() {
    burying_ = false;
    const auto buried = node_.journal.bury(burial_slice);
    if (buried) {
      bury_if_needed();
    } else if (buried.error().code == errc::overloaded) {
      burying_ = true;
      self_->delayed_send(self_, disk_watch_interval, bury_now{});
    } else {
      node_.on_fatal("cannot write to the store: " + buried.error().text);
    }
  }

  void on_watch_disk() {
    self_->delayed_send(self_, disk_watch_interval, watch_disk{});
    bury_if_needed();
    bool low = short_of_room(node_.journal.space(false));
    // Pages that are free inside the file are room, too: the file itself never shrinks.
    if (low) low = short_of_room(node_.journal.space(true));
    set_disk_low(low);
  }

  // Of the disk, or of the map, which may be set smaller.
  bool short_of_room(const store_space& space) const {
    const auto map_free = space.map_size - std::min(space.map_size, space.file_size);
    return space.disk_free + space.reusable < node_.disk_free_min ||
           map_free + space.reusable < std::min(node_.disk_free_min, space.map_size / 20);
  }

  void set_disk_low(bool low) {
    if (node_.disk_low.exchange(low) == low) return;
    node_.on_disk_low(low);
  }

  void on_finish() {
    on_commit_now();
    self_->quit();
  }

  committer_actor::pointer self_;
  node_context& node_;

  std::vector<write_batch> batches_;
  std::vector<write_topology> topologies_;
  bool scheduled_ = false, burying_ = false;
};

}  // namespace

committer_actor spawn_committer(node_context& node) {
  return node.system.spawn<committer_actor::stateful_impl<committer_state>, caf::detached>(&node);
}

}  // namespace posthorn
