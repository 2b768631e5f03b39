#include "actors/committer.hpp"

#include "actors/outgoing.hpp"
#include "actors/queue.hpp"
#include "actors/vhost.hpp"

#include <algorithm>
#include <chrono>

namespace posthorn {

namespace {

// How many buried messages one transaction erases: a few milliseconds of work, so that nobody waits longer for it.
constexpr std::size_t burial_slice = 4000;
constexpr std::chrono::seconds disk_watch_interval{1};
constexpr std::chrono::seconds watch_interval_simulated{60};  // a test may let a month pass
constexpr std::uint64_t watch_tick = 1, bury_tick = 2, record_tick = 3, commit_tick = 4;
// An event of the tree waits so long for a commit that has something else to write.
constexpr auto record_delay = std::chrono::milliseconds{200};

}  // namespace

class committer_logic {
public:
  explicit committer_logic(node_context& node) : node_{node} {}

  void begin(worker_actor::pointer self, bool after_failure) {
    self_ = self;
    if (after_failure) {
      // What waited for the batch in its hands would wait for ever, and the store is whole.
      node_.on_fatal("a bug ended the committer of the store");
    }
    burying_ = recording_ = finishing_ = deferred_ = false;
    on_idle();
    on_watch_disk();
  }

  void on(committer_message& message) {
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(committer_message&) {}
  void on_down(const caf::down_msg&) {}
  void on_tick(const tick& t) {
    if (t.number == watch_tick) {
      on_watch_disk();
    } else if (t.number == record_tick) {
      recording_ = false;
      commit(true);
    } else if (t.number == commit_tick) {
      deferred_ = false;
      commit();
    } else {
      on_bury_now();
    }
  }
  // All that had arrived is one commit.
  void on_idle() {
    if (node_.simulated != nullptr && !finishing_) {
      // In one thread, nobody else would ever run between the arrival of a batch and its commit.
      if (!batches_.empty() && !std::exchange(deferred_, true)) self_->send(self_, tick{commit_tick});
      if (!deferred_) commit();
      return;
    }
    commit(finishing_);
    if (finishing_) self_->quit();
  }

private:
  void handle(write_batch& message) {
    if (node_.faults.confirm_before_commit && message.from) message.from->post(journal_written{});
    batches_.push_back(std::move(message));
  }
  void handle(write_topology& message) { topologies_.push_back(std::move(message)); }
  void handle(record_event& message) {
    message.event.number = ++node_.last_event;
    events_.push_back(std::move(message.event));
    if (std::exchange(recording_, true)) return;
    self_->delayed_send(self_, record_delay, tick{record_tick});
  }
  void handle(finish_committer&) { finishing_ = true; }

  void commit(bool with_events_only = false) {
    if (batches_.empty() && topologies_.empty() && (events_.empty() || !with_events_only)) return;
    std::vector<mailbox_write> writes;
    writes.reserve(batches_.size());
    for (auto& b : batches_) writes.push_back({b.mailbox, &b.batch, b.with ? &b.with->writes : nullptr});
    std::vector<store::topology_write> topologies;
    topologies.reserve(topologies_.size());
    for (const auto& t : topologies_) topologies.push_back({t.from->name(), t.changes});

    const auto begin = std::chrono::steady_clock::now();
    node_.reached("commit.begun");
    const auto written = write(writes, topologies);
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    node_.counters.commit_seconds->observe(seconds);
    if (written) {
      node_.reached("commit.done");
      events_.clear();
      answer_written();
    } else if (written.error().code == errc::overloaded) {
      node_.counters.commit_failures->inc();
      // For want of room, the record is the first to give way.
      events_.clear();
      give_back(written.error(), writes);
    } else {
      node_.on_fatal("cannot write to the store: " + written.error().text);
    }
    batches_ = std::exchange(again_, {});
    topologies_.clear();
    bury_if_needed();
  }

  result<void> write(std::span<const mailbox_write> writes,
                     std::span<const store::topology_write> topologies) {
    if (!node_.faults.split_turn) return node_.journal.commit(writes, topologies, events_);
    // The defect by which tests prove that they notice.
    std::vector<mailbox_write> first, second;
    std::vector<atomic_writes> states(writes.size()), sent(writes.size());
    for (std::size_t i = 0; i < writes.size(); ++i) {
      first.push_back(writes[i]);
      if (writes[i].with == nullptr) continue;
      states[i] = sent[i] = *writes[i].with;
      states[i].transfers.clear();
      sent[i].states.clear();
      first.back().with = &states[i];
      second.push_back({writes[i].mailbox, nullptr, &sent[i]});
    }
    if (auto r = node_.journal.commit(first, topologies, events_); !r) return r;
    return node_.journal.commit(second);
  }

  void answer_written() {
    node_.counters.commits->inc();
    std::int64_t messages = 0, bytes = 0;
    bool reminders = false;
    for (auto& b : batches_) {
      messages += static_cast<std::int64_t>(b.batch.appends.size());
      for (const auto& a : b.batch.appends) bytes += static_cast<std::int64_t>(a.message->bytes().size());
      if (b.with) {
        messages += static_cast<std::int64_t>(b.with->writes.transfers.size());
        reminders = reminders || !b.with->writes.timers.empty();
        b.with->hand_over();
      }
      node_.reached("commit.handed_over");
      if (!node_.faults.confirm_before_commit && b.from) b.from->post(journal_written{});
      if (b.when_written) b.when_written();
    }
    if (reminders && node_.on_reminders) node_.on_reminders();
    for (const auto& t : topologies_) t.from->post(topology_written{});
    node_.counters.messages_written->inc(messages);
    node_.counters.bytes_written->inc(bytes);
  }

  // There is no room. What frees room still fits, mostly; the rest goes back to those who asked, who keep it.
  void give_back(const error& why, const std::vector<mailbox_write>& writes) {
    for (const auto& t : topologies_) t.from->post(topology_written{why});
    set_disk_low(true);
    const auto erased = node_.journal.commit_erasures(writes);
    if (!erased && erased.error().code != errc::overloaded) {
      node_.on_fatal("cannot write to the store: " + erased.error().text);
    }
    for (auto& b : batches_) {
      if (!b.from) {
        again_.push_back(std::move(b));
        continue;
      }
      if (erased && !b.with) b.batch.erasures.clear();
      if (b.batch.empty() && !b.with) {
        b.from->post(journal_written{});
      } else {
        b.from->post(journal_unwritten{std::move(b.batch)});
      }
    }
  }

  void bury_if_needed() {
    if (burying_ || !node_.journal.has_graves()) return;
    burying_ = true;
    self_->send(self_, tick{bury_tick});
  }

  void on_bury_now() {
    burying_ = false;
    const auto buried = node_.journal.bury(burial_slice);
    if (buried) {
      bury_if_needed();
    } else if (buried.error().code == errc::overloaded) {
      burying_ = true;
      self_->delayed_send(self_, disk_watch_interval, tick{bury_tick});
    } else {
      node_.on_fatal("cannot write to the store: " + buried.error().text);
    }
  }

  void on_watch_disk() {
    self_->delayed_send(self_, node_.simulated != nullptr ? watch_interval_simulated : disk_watch_interval,
                        tick{watch_tick});
    commit();  // what found no room before
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

  worker_actor::pointer self_ = nullptr;  // the actor of now
  node_context& node_;

  std::vector<write_batch> batches_;
  std::vector<write_batch> again_;  // of nobody, and without room
  std::vector<write_topology> topologies_;
  std::vector<tree_event> events_;
  bool burying_ = false, finishing_ = false, recording_ = false;
  bool deferred_ = false;  // a tick will commit; of a test's node
};

committer_port::committer_port(node_context& node) : memory{std::make_unique<committer_logic>(node)} {}
committer_port::~committer_port() = default;

child_definition committer_child(node_context& node) {
  child_definition child;
  child.spec.name = "journal";
  child.spec.shutdown = shutdown_rule::infinity();  // a commit ends, or the process does
  child.spec.handler_limit = std::chrono::seconds{2};
  child.kind = "committer";
  child.start = [&node] {
    return node.simulated != nullptr
               ? start_worker(node.system, node.journal_port)
               : start_worker<committer_port, caf::detached>(node.system, node.journal_port);
  };
  child.stop = [&node](const caf::actor&) { node.journal_port->post(finish_committer{}); };
  child.figures = [&node] { return figures_of(*node.journal_port); };
  return child;
}

}  // namespace posthorn
