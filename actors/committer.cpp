#include "actors/committer.hpp"

#include "actors/commit_share.hpp"
#include "actors/directory.hpp"
#include "actors/outgoing.hpp"
#include "actors/queue.hpp"
#include "actors/vhost.hpp"
#include "persist/message_record.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

namespace posthorn {

namespace {

// How many buried records one transaction erases: two milliseconds of work, so that nobody waits longer for it.
constexpr std::size_t burial_slice = 2000;
constexpr std::chrono::seconds disk_watch_interval{1};
constexpr std::chrono::seconds watch_interval_simulated{60};  // a test may let a month pass
constexpr std::uint64_t watch_tick = 1, bury_tick = 2, record_tick = 3, commit_tick = 4;
// An event of the tree waits so long for a commit that has something else to write.
constexpr auto record_delay = std::chrono::milliseconds{200};
// The store counts as shared until nobody but one mailbox wrote for so long.
constexpr auto sharing_is_over = std::chrono::milliseconds{100};

// See commit_share.
std::size_t work_of(const write_batch& b) {
  auto work = commit_share::batch_work;
  for (const auto& a : b.batch.appends) work += commit_share::record_work + a.message->bytes().size();
  for (const auto& range : b.batch.erasures) {
    const auto width = range.last.value - range.first.value;
    work += commit_share::erasure_work * (width < store::burial_width_min ? width + 1 : 1);
  }
  if (!b.with) return work;
  const auto& with = b.with->writes;
  for (const auto& t : with.transfers) work += commit_share::batch_work + t.message->bytes().size();
  for (const auto& s : with.states) work += commit_share::batch_work + s.now.state.size();
  for (const auto& e : with.events) work += commit_share::batch_work + e.bytes.size();
  return work + commit_share::batch_work *
                    (with.timers.size() + with.prune_events.size() + with.uses.size() + with.seen.size());
}

// visit(mailbox, sequence, envelope) for each message that a batch writes, always in the same order.
template <class Visit>
void each_message(const write_batch& b, Visit visit) {
  for (const auto& a : b.batch.appends) visit(b.mailbox, a.at, *a.message);
  if (!b.with) return;
  for (const auto& t : b.with->writes.transfers) visit(t.to, t.at, *t.message);
}

std::size_t part_count_of(const write_batch& b) {
  std::size_t count = 0;
  each_message(b, [&](mailbox_id, sequence, const envelope& message) { count += part_count(message); });
  return count;
}

// So many parts, of a page each, are one commit's work.
constexpr std::size_t parts_at_once = commit_share::work_max / (4096 + commit_share::record_work);

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
    burying_ = recording_ = finishing_ = deferred_ = no_room_ = false;
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
      take_in();
      if (finishing_ && node_.simulated == nullptr) return on_idle();
      commit();
    } else {
      on_bury_now();
    }
  }
  // What had arrived is one commit, or as much of it as commit_share says.
  void on_idle() {
    if (node_.simulated != nullptr && !finishing_) {
      // In one thread, nobody else would ever run between the arrival of a batch and its commit.
      if (!batches_.empty() && !std::exchange(deferred_, true)) self_->send(self_, tick{commit_tick});
      if (!deferred_) commit();
      return;
    }
    take_in();
    if (!finishing_) return commit();
    do {
      commit(true);
    } while (!batches_.empty() && !no_room_);
    self_->quit();
  }

private:
  struct waiting {
    explicit waiting(write_batch&& b) : batch{std::move(b)}, work{work_of(batch)} {
      if (work > commit_share::work_max) parts = part_count_of(batch);
    }

    [[nodiscard]] bool is_large() const noexcept {
      return work > commit_share::small_max || parts_done < parts;
    }

    write_batch batch;
    std::size_t work;  // that is left to do for it
    std::size_t parts =
        0;  // of its messages that are written ahead of it, because it is too large for one commit
    std::size_t parts_done = 0;
  };

  void handle(write_batch& message) {
    if (node_.faults.confirm_before_commit && message.from) message.from->post(journal_written{});
    batches_.push_back(waiting{std::move(message)});
  }
  void handle(write_topology& message) { topologies_.push_back(std::move(message)); }
  void handle(write_access& message) { accesses_.push_back(std::move(message)); }
  void handle(record_event& message) {
    message.event.number = ++node_.last_event;
    events_.push_back(std::move(message.event));
    if (std::exchange(recording_, true)) return;
    self_->delayed_send(self_, record_delay, tick{record_tick});
  }
  void handle(finish_committer&) { finishing_ = true; }

  // All that waits for this actor: its shell hands over so many at a time, and a small batch behind them would wait for
  // another commit.
  void take_in() {
    auto& port = *node_.journal_port;
    while (auto* message = port.in.next()) {
      on(*message);
      port.in.done();
      port.status.handled.fetch_add(1, std::memory_order_relaxed);
    }
  }

  void choose() {
    const auto large =
        std::count_if(batches_.begin(), batches_.end(), [](const waiting& w) { return w.is_large(); });
    const auto small = static_cast<std::ptrdiff_t>(batches_.size()) - large;
    if (large == 0 || (small == 0 && topologies_.empty()) || std::exchange(large_waited_, true)) {
      return choose(commit_share::large_ones::go);
    }
    choose(commit_share::large_ones::wait);
    // Small ones may stand behind large ones, for the sake of an order.
    if (writing_.empty() && topologies_.empty()) choose(commit_share::large_ones::go);
  }

  void choose(commit_share::large_ones what) {
    if (what == commit_share::large_ones::go) large_waited_ = false;
    commit_share share{what};
    std::vector<waiting> left;
    for (auto& w : batches_) {
      const bool ordered = w.batch.with || !w.batch.from;
      switch (share.offer(w.batch.mailbox, w.work, ordered, w.parts_done < w.parts)) {
        case commit_share::answer::whole: writing_.push_back(std::move(w)); break;
        case commit_share::answer::part: divide(w); [[fallthrough]];
        case commit_share::answer::wait: left.push_back(std::move(w)); break;
      }
    }
    batches_ = std::move(left);
  }

  // The next parts of its messages are in this commit. Until the last commit, which has the messages themselves, none of
  // it is there for anyone who reads.
  void divide(waiting& w) {
    auto done = w.parts_done, left = parts_at_once;
    each_message(w.batch, [&](mailbox_id mailbox, sequence at, const envelope& message) {
      const std::size_t count = part_count(message);
      const auto skipped = std::min(done, count);
      const auto taken = std::min(count - skipped, left);
      done -= skipped;
      left -= taken;
      if (taken == 0) return;
      parts_.push_back({mailbox, at, &message, static_cast<std::uint32_t>(skipped + 1),
                        static_cast<std::uint32_t>(taken)});
      w.parts_done += taken;
    });
    w.work -= std::min(w.work, (parts_at_once - left) * 4096);
  }

  // What was written of batches that are not whole, and has to go again.
  std::vector<std::pair<mailbox_id, journal_batch>> erasures_of_parts() const {
    std::vector<std::pair<mailbox_id, journal_batch>> out;
    for (const auto* list : {&batches_, &writing_}) {
      for (const auto& w : *list) {
        if (w.parts_done == 0) continue;
        each_message(w.batch, [&](mailbox_id mailbox, sequence at, const envelope& message) {
          if (part_count(message) != 0) out.push_back({mailbox, {{}, {{at, at}}}});
        });
      }
    }
    return out;
  }

  void commit(bool with_events_only = false) {
    if (batches_.empty() && topologies_.empty() && accesses_.empty() &&
        (events_.empty() || !with_events_only)) {
      return;
    }
    no_room_ = false;
    choose();
    std::vector<mailbox_write> writes;
    writes.reserve(writing_.size());
    for (auto& w : writing_) {
      auto& b = w.batch;
      writes.push_back({b.mailbox, &b.batch, b.with ? &b.with->writes : nullptr, w.parts != 0});
    }
    std::vector<store::topology_write> topologies;
    topologies.reserve(topologies_.size());
    for (const auto& t : topologies_) topologies.push_back({t.from->name(), t.changes});
    access_records_.clear();
    for (auto& a : accesses_) {
      access_records_.insert(access_records_.end(), std::make_move_iterator(a.records.begin()),
                             std::make_move_iterator(a.records.end()));
    }

    const auto begin = std::chrono::steady_clock::now();
    note_sharing(begin);
    node_.reached("commit.begun");
    const auto written = write(writes, topologies);
    const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    node_.counters.commit_seconds->observe(seconds);
    if (written) {
      node_.reached("commit.done");
      events_.clear();
      answer_written();
      forget_removed();
    } else if (written.error().code == errc::overloaded) {
      node_.counters.commit_failures->inc();
      no_room_ = true;
      // For want of room, the record is the first to give way.
      events_.clear();
      give_back(written.error(), writes);
    } else {
      node_.on_fatal("cannot write to the store: " + written.error().text);
    }
    writing_.clear();
    topologies_.clear();
    accesses_.clear();
    access_records_.clear();
    parts_.clear();
    // They keep their place before what came later.
    again_.insert(again_.end(), std::make_move_iterator(batches_.begin()),
                  std::make_move_iterator(batches_.end()));
    batches_ = std::exchange(again_, {});
    bury_if_needed();
    // Without room, what is left is tried again with whatever comes next, or in a while.
    if (!batches_.empty() && !no_room_ && !std::exchange(deferred_, true)) {
      self_->send(self_, tick{commit_tick});
    }
  }

  // A mailbox has one batch under way at a time. In a simulation, nothing may depend on the time that really passes.
  void note_sharing(std::chrono::steady_clock::time_point now) {
    if (node_.simulated != nullptr) return;
    if (writing_.size() + batches_.size() + topologies_.size() > 1) shared_at_ = now;
    const bool shared = now - shared_at_ < sharing_is_over;
    if (node_.journal_shared.load(std::memory_order_relaxed) != shared) node_.journal_shared = shared;
  }

  // What a removed queue still had to write would stay in the store, behind its grave, until the next start.
  void forget_removed() {
    for (const auto& t : topologies_) {
      for (const auto& change : t.changes) {
        const auto* removed = std::get_if<queue_removed>(&change);
        if (removed == nullptr) continue;
        for (auto& w : batches_) {
          if (w.batch.mailbox != removed->queue->id || !w.batch.from || w.batch.with) continue;
          w.batch.batch.appends.clear();
          w.batch.batch.erasures.clear();
          w = waiting{std::move(w.batch)};
        }
      }
    }
  }

  result<void> write(std::span<const mailbox_write> writes,
                     std::span<const store::topology_write> topologies) {
    if (node_.faults.slow_commits) std::this_thread::sleep_for(std::chrono::seconds{2});
    if (!node_.faults.split_turn) {
      return node_.journal.commit(writes, topologies, events_, parts_, access_records_);
    }
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
    if (auto r = node_.journal.commit(first, topologies, events_, parts_, access_records_); !r) return r;
    return node_.journal.commit(second);
  }

  void answer_written() {
    node_.counters.commits->inc();
    std::int64_t messages = 0, bytes = 0;
    bool reminders = false;
    for (auto& w : writing_) {
      auto& b = w.batch;
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
    for (const auto& a : accesses_) a.from->post(directory_written{});
    node_.counters.messages_written->inc(messages);
    node_.counters.bytes_written->inc(bytes);
  }

  // There is no room. What frees room still fits, mostly; the rest goes back to those who asked, who keep it.
  void give_back(const error& why, const std::vector<mailbox_write>& writes) {
    for (const auto& t : topologies_) t.from->post(topology_written{why});
    for (const auto& a : accesses_) a.from->post(directory_written{why});
    set_disk_low(true);
    auto all = writes;
    auto parts = erasures_of_parts();
    for (auto& [mailbox, erasures] : parts) all.push_back({mailbox, &erasures});
    const auto erased = node_.journal.commit_erasures(all);
    if (!erased && erased.error().code != errc::overloaded) {
      node_.on_fatal("cannot write to the store: " + erased.error().text);
    }
    // What was begun in parts goes back as a whole.
    std::vector<waiting> left;
    for (auto& w : batches_) (w.parts_done != 0 ? writing_ : left).push_back(std::move(w));
    batches_ = std::move(left);
    for (auto& w : writing_) {
      auto& b = w.batch;
      if (!b.from) {
        again_.push_back(waiting{std::move(b)});
        continue;
      }
      // Those of a batch in parts were not part of it.
      if (erased && !b.with && w.parts == 0) b.batch.erasures.clear();
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
    node_.journal.forget_dead_readers();
    commit();  // what found no room before
    bury_if_needed();
    bool low = short_of_room(node_.journal.space(false));
    // Pages that are free inside the file are room, too: the file itself never shrinks.
    if (low) low = short_of_room(node_.journal.space(true));
    set_disk_low(low);
    if (node_.on_watch) node_.on_watch();
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

  std::vector<waiting> batches_;   // the oldest first
  std::vector<waiting> writing_;   // in the commit of now
  std::vector<waiting> again_;     // of nobody, and without room
  std::vector<part_write> parts_;  // in the commit of now, of what waits
  std::vector<write_topology> topologies_;
  std::vector<write_access> accesses_;
  std::vector<access_record> access_records_;  // of those, in the commit of now
  std::vector<tree_event> events_;
  std::chrono::steady_clock::time_point shared_at_{};
  bool burying_ = false, finishing_ = false, recording_ = false;
  bool deferred_ = false;      // a tick will commit
  bool large_waited_ = false;  // the last commit was without large batches, though there were some
  bool no_room_ = false;       // the last commit found none
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
