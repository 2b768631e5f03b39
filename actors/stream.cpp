#include "actors/stream.hpp"

#include "actors/outgoing.hpp"
#include "actors/queue_peers.hpp"
#include "actors/removed_queue.hpp"
#include "actors/vhost.hpp"
#include "mailbox/stream_log.hpp"

#include <algorithm>
#include <functional>
#include <utility>

namespace posthorn {

namespace {

// As for a queue (queue.cpp): what is kept at hand when the node is short of memory, what one batch holds when others write,
// too, and how long one waits that found no room.
constexpr std::size_t resident_when_pressed = std::size_t{256} << 10;
constexpr batch_limits beside_others{1024, std::size_t{256} << 10};
constexpr auto retry_delay = std::chrono::milliseconds{200};

// How much of the store one handler reads: a few milliseconds of work.
constexpr int chunks_at_once_max = 4;

// What operators see of readers is not older than this; and they see the last ones of many.
constexpr auto figures_delay = std::chrono::milliseconds{250};
constexpr std::size_t lags_shown_max = 100;

constexpr std::uint64_t retry_tick = 1, retention_tick = 2, go_on_tick = 3, figures_tick = 4;

stream_log recovered_log(const stream_rules& rules, const mailbox_limits& limits,
                         const recovered_mailbox& recovered) {
  const auto used = std::max(recovered.used, recovered.last);
  if (!recovered.segments) return stream_log{rules, limits, stream_segments{rules.segment_size_max}, used};
  return stream_log{rules, limits, recovered.segments->joined(rules.segment_size_max), used};
}

class stream_logic final : public mailbox_logic {
public:
  stream_logic(queue_port& port, const recovered_mailbox& recovered)
      : port_{port},
        origin_{*port.origin},
        node_{origin_.node},
        log_{recovered_log(rules_of_port(), node_.limits, recovered)} {
    publish_counts();
  }
  ~stream_logic() override { node_.resident.fetch_sub(counted_, std::memory_order_relaxed); }

  void begin(worker_actor::pointer self, bool after_failure) override {
    self_ = self;
    if (removed_) return self_->quit();
    if (after_failure) {
      // What it knows may be half changed, and the store is whole: the process starts again from there.
      node_.on_fatal("a bug ended the actor of " + port_.described);
    }
    retrying_ = finishing_ = going_on_ = figures_due_ = false;  // the predecessor's timers died with it
    retention_armed_ = 0;
    peers_.watch_all(self_);
    log_.retain(node_.now());
    run();
  }

  void on(queue_message& message) override {
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(queue_message& message) override { std::visit(removed_queue{port_.described}, message); }
  void on_idle() override {}
  void on_tick(const tick& t) override {
    switch (t.number) {
      case retry_tick: retrying_ = false; break;
      case go_on_tick: going_on_ = false; break;
      case retention_tick:
        retention_armed_ = 0;
        log_.retain(node_.now());
        break;
      case figures_tick: return show_readers();
      default: break;
    }
    run();
  }
  void on_down(const caf::down_msg& down) override {
    const auto readers = peers_.remove(down);
    if (!readers) return;
    for (const auto id : *readers) log_.remove_reader(id);
    run();
  }

private:
  struct waiting {
    connection_actor from;
    request_token token = 0;
  };

  [[nodiscard]] stream_rules rules_of_port() const { return port_.rules()->stream.value_or(stream_rules{}); }

  // --- messages come ---

  void handle(publish_batch& message) {
    peers_.at(self_, message.by, message.from);
    node_.counters.published->inc(static_cast<std::int64_t>(message.messages.size()));
    node_.reached("publish.received");
    publish(message.messages);
    node_.reached("publish.accepted");
    run();
  }

  void handle(arrived& message) {
    node_.counters.published->inc(static_cast<std::int64_t>(message.stored.size() + message.unstored.size()));
    if (!message.stored.empty()) {
      const std::lock_guard guard{port_.places_mutex};
      port_.expected -= static_cast<std::uint32_t>(message.stored.size());
    }
    auto late = log_.arrive(message.stored, node_.now());
    node_.reached("arrived");
    if (!late.empty()) publish(late);
    if (!message.unstored.empty()) publish(message.unstored);
    run();
  }

  // Their places are taken from the port, where others take theirs.
  void publish(std::vector<arrival>& messages) {
    const auto last = port_.last_sequence.fetch_add(messages.size(), std::memory_order_relaxed);
    log_.skip_to({last + 1});
    log_.publish(messages, node_.now());
  }

  void handle(ask_keeper&) {}
  void handle(change_rules&) {
    log_.change(rules_of_port(), node_.now());
    run();
  }

  // --- readers ---

  template <class Request>
  void refuse(const Request& request, refusal why) {
    self_->send(request.from, reply{request.token, std::move(why)});
  }

  // Any number of them: `exclusive` means nothing here.
  void handle(consume& request) {
    const auto& spec = request.consumer;
    if (auto no = check_stream_reader({}, spec.prefetch, spec.acknowledges, port_.described))
      return refuse(request, std::move(*no));
    auto& p = peers_.at(self_, request.by, request.from);
    peers_.consumer_of(p, spec.id).consuming = true;
    self_->send(request.from, reply{request.token, done{}});
    const auto wishes = request.reading ? *request.reading : stream_reading{};
    log_.add_reader(spec, wishes.start, wishes.filter);
    run();
  }

  // What it still holds needs no answer: nobody else waits for it.
  void handle(cancel_consumer& request) {
    log_.remove_reader(request.consumer);
    peers_.forget(request.consumer);
    self_->send(request.from, reply{request.token, done{}});
    run();
  }

  void handle(release_holders& message) {
    for (const auto id : message.holders) {
      log_.remove_reader(id);
      peers_.forget(id);
    }
    run();
  }

  void handle(answer_held& message) {
    for (const auto& a : message.answers) log_.answer(a.holder, a.which);
    for (const auto& g : message.grants) log_.grant(g.to, g.bytes);
    run();
  }

  // --- requests ---

  void handle(fetch_message& request) { refuse(request, not_of_streams("basic.get", port_.described)); }
  void handle(purge_queue& request) { refuse(request, not_of_streams("queue.purge", port_.described)); }

  // An answer to a delivery erases nothing.
  void handle(await_erased& request) { self_->send(request.from, reply{request.token, messages_removed{0}}); }

  void handle(inspect_queue& request) {
    self_->send(request.from, reply{request.token, queue_counts{log_.message_count(), log_.reader_count()}});
  }

  // --- removal ---

  void handle(delete_queue& request) {
    constexpr auto failed = refusal::kind::precondition_failed;
    if (request.if_unused && log_.reader_count() > 0)
      return refuse(request, {failed, port_.described + " in use"});
    if (request.if_empty && log_.message_count() > 0)
      return refuse(request, {failed, port_.described + " not empty"});
    deletions_.push_back({request.from, request.token});
    if (std::exchange(removal_asked_, true)) return;
    if (const auto vhost = origin_.vhost.lock())
      vhost->post(queue_removal{port_.shared_from_this(), {port_.id, origin_.name}});
  }

  // A connection may still route by an older snapshot, or have asked before it heard. From here on, the port answers.
  void handle(queue_removed_now& message) {
    const auto until_done = std::move(message.self);
    removed_ = true;
    port_.close_places();  // before anybody hears of it
    const auto count = log_.message_count();
    for (const auto& w : deletions_) self_->send(w.from, reply{w.token, messages_removed{count}});
    peers_.tell_cancelled(self_);
    log_.settle_all(out_);
    send_out();
    log_ = stream_log{stream_rules{}, node_.limits};
    publish_counts();
    show_readers();
    peers_.clear();
    deletions_.clear();
    port_.close();
    self_->quit();
  }

  void handle(queue_not_removed& message) {
    removal_asked_ = false;
    for (const auto& w : std::exchange(deletions_, {})) self_->send(w.from, reply{w.token, message.why});
  }

  void handle(finish_queue& message) {
    if (message.who != self_->address()) return;
    finishing_ = true;
    run();
  }

  // --- the journal ---

  void handle(journal_written&) {
    if (!log_.batch_under_way()) return;
    node_.reached("commit.answered");
    log_.on_committed(out_, node_.now());
    run();
  }

  void handle(journal_unwritten& message) {
    if (!log_.batch_under_way()) return;
    log_.on_not_committed(std::move(message.batch), out_, node_.now());
    retrying_ = true;
    self_->delayed_send(self_, retry_delay, tick{retry_tick});
    run();
  }

  void write() {
    if (log_.batch_under_way() || retrying_) return;
    auto batch = log_.take_batch(node_.journal_shared.load(std::memory_order_relaxed) ? beside_others
                                                                                      : batch_limits{});
    if (batch.empty()) {
      if (finishing_) self_->quit();
      return;
    }
    node_.to_journal(write_batch{port_.shared_from_this(), port_.id, std::move(batch), nullptr});
    node_.reached("batch.sent");
  }

  // --- effects ---

  // After every handler. The disk has its work before the readers have theirs.
  void run() {
    write();
    dispatch();
    send_out();
    arm_retention();
    publish_counts();
    if (std::exchange(figures_due_, true)) return;
    self_->delayed_send(self_, figures_delay, tick{figures_tick});
  }

  void dispatch() {
    log_.dispatch(out_);
    for (int n = 0; out_.load && n < chunks_at_once_max; ++n) {
      load();
      log_.dispatch(out_);
    }
    if (!out_.load) return;
    // It asks again when its turn comes.
    out_.load.reset();
    if (!std::exchange(going_on_, true)) self_->send(self_, tick{go_on_tick});
  }

  void load() {
    const auto request = *std::exchange(out_.load, std::nullopt);
    auto messages = node_.journal.load(port_.id, request);
    if (!messages)
      node_.on_fatal("cannot read from the store: " + port_.described + ": " + messages.error().text);
    log_.on_loaded(*messages);
  }

  void send_out() {
    node_.counters.delivered->inc(static_cast<std::int64_t>(out_.deliveries.size()));
    peers_.send(self_, out_);
  }

  void arm_retention() {
    const auto due = log_.next_retention();
    if (!due || (retention_armed_ != 0 && retention_armed_ <= *due)) return;
    retention_armed_ = std::max<std::int64_t>(*due, 1);
    const auto wait = std::clamp<std::int64_t>(*due - node_.now(), 0, retention_wait_max);
    self_->delayed_send(self_, std::chrono::milliseconds{wait + 1}, tick{retention_tick});
  }

  // The budget is the node's. When all queues together exceed it, each keeps only a little at hand.
  void share_memory() {
    const auto mine = static_cast<std::int64_t>(log_.resident_size());
    const auto all = node_.resident.fetch_add(mine - counted_, std::memory_order_relaxed) + mine - counted_;
    counted_ = mine;
    const bool pressed = all > static_cast<std::int64_t>(node_.limits.resident_max);
    log_.limit_memory(pressed ? std::min(resident_when_pressed, node_.limits.resident_max)
                              : node_.limits.resident_max);
  }

  void publish_counts() {
    share_memory();
    port_.ready.store(log_.message_count(), std::memory_order_relaxed);
    port_.held.store(log_.held_count(), std::memory_order_relaxed);
    port_.consumers.store(log_.reader_count(), std::memory_order_relaxed);
    port_.ready_size.store(log_.stored_size(), std::memory_order_relaxed);
    port_.resident.store(log_.resident_size(), std::memory_order_relaxed);
    auto& shown = *port_.stream;
    const auto readable = log_.readable();
    shown.segments.store(log_.segment_count(), std::memory_order_relaxed);
    shown.first_offset.store(readable ? offset_of(readable->first) : 0, std::memory_order_relaxed);
    shown.next_offset.store(readable ? offset_of(readable->last) + 1 : 0, std::memory_order_relaxed);
  }

  void show_readers() {
    figures_due_ = false;
    std::vector<std::uint64_t> lags;
    for (const auto& [id, c] : peers_.consumers()) {
      if (log_.known(id)) lags.push_back(log_.lag_of(id));
    }
    std::sort(lags.begin(), lags.end(), std::greater<>{});
    port_.stream->lag_max.store(lags.empty() ? 0 : lags.front(), std::memory_order_relaxed);
    if (lags.size() > lags_shown_max) lags.resize(lags_shown_max);
    port_.stream->set_lags(std::move(lags));
  }

  // A timer that waits longer is set again.
  static constexpr std::int64_t retention_wait_max = std::int64_t{24} * 3600 * 1000;

  worker_actor::pointer self_ = nullptr;  // the actor of now

  // fixed after start
  queue_port& port_;
  const queue_origin& origin_;
  node_context& node_;

  stream_log log_;
  queue_peers peers_;
  std::vector<waiting> deletions_;
  bool removal_asked_ = false, removed_ = false, finishing_ = false;
  bool retrying_ = false;             // the next batch waits for room
  bool going_on_ = false;             // a tick goes on with reading
  bool figures_due_ = false;          // a tick looks at the readers
  std::int64_t retention_armed_ = 0;  // when the next tick is due; 0: none is
  std::int64_t counted_ = 0;          // our part of node_.resident
  effects out_;                       // of the handler of now
};

}  // namespace

std::unique_ptr<mailbox_logic> make_stream_logic(queue_port& port, const recovered_mailbox& recovered) {
  return std::make_unique<stream_logic>(port, recovered);
}

}  // namespace posthorn
