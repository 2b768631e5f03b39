#include "actors/queue.hpp"

#include <algorithm>
#include <unordered_map>

namespace posthorn {

namespace {

// What a queue keeps at hand when the node is short of memory: enough to keep its consumers busy.
constexpr std::size_t resident_when_pressed = std::size_t{256} << 10;

struct queue_origin {
  node_context* node = nullptr;
  caf::actor_addr vhost;  // upward: by address only
  mailbox_id id{};
  std::string name, described;  // "queue 'q' in vhost '/'"
  bool durable = false, auto_delete = false;
  recovered_mailbox recovered;
  std::shared_ptr<queue_port> port;
};

// A publisher's id holds that of its connection.
connection_id connection_of(publisher_id by) noexcept { return {by.value >> 16}; }

class queue_state {
public:
  static inline const char* name = "posthorn.queue";

  queue_state(queue_actor::pointer self, queue_origin origin)
      : self_{self},
        origin_{std::move(origin)},
        node_{*origin_.node},
        box_{origin_.durable, node_.limits, origin_.recovered} {
    self_->set_down_handler([this](const caf::down_msg& down) { on_down(down); });
    publish_counts();
  }

  ~queue_state() { node_.resident.fetch_sub(counted_, std::memory_order_relaxed); }

  queue_actor::behavior_type make_behavior() {
    return {
        [this](publish_batch& message) { on_publish(message); },
        [this](consume& request) { on_consume(request); },
        [this](cancel_consumer& request) { on_cancel(request); },
        [this](fetch_message& request) { on_fetch(request); },
        [this](answer_held& message) { on_answer_held(message); },
        [this](release_holders& message) { on_release(message); },
        [this](purge_queue& request) { on_purge(request); },
        [this](inspect_queue& request) { on_inspect(request); },
        [this](delete_queue& request) { on_delete(request); },
        [this](finish_queue) { on_finish(); },
        [this](queue_removed_now) { on_removed(); },
        [this](queue_not_removed& message) { on_not_removed(message); },
        [this](journal_written) { on_journal_written(); },
        [this](journal_unwritten& message) { on_journal_unwritten(message); },
    };
  }

private:
  // A connection that publishes to this queue or consumes from it, and what is about to be sent to it.
  struct peer {
    connection_id id{};
    connection_actor handle;
    std::vector<delivery> deliveries;
    std::vector<settlement> settlements;
  };
  struct consumer {
    peer* of = nullptr;
    bool consuming = false;
  };
  struct waiting {
    connection_actor from;
    request_token token = 0;
  };

  // --- messages come and go ---

  void on_publish(publish_batch& message) {
    if (removed_) return settle_unheard(message);
    peer_of(message.by, message.from);
    node_.counters.published->inc(static_cast<std::int64_t>(message.messages.size()));
    box_.publish(message.messages, fx());
    run();
  }

  void on_answer_held(answer_held& message) {
    if (removed_) return;
    for (const auto& a : message.answers) {
      if (a.how == outcome::returned) {
        box_.give_back(a.holder, a.which);
      } else {
        box_.acknowledge(a.holder, a.which, fx());
      }
    }
    for (const auto& g : message.grants) box_.grant(g.to, g.bytes);
    run();
  }

  void on_fetch(fetch_message& request) {
    if (removed_) return refuse_removed(request);
    peer& p = peer_of(request.by, request.from);
    consumers_.try_emplace(request.holder, consumer{&p, false});
    fetched answer;
    while (!box_.fetch(request.holder, request.acknowledges, fx()) && fx().load) load();
    if (!fx().deliveries.empty()) {
      answer.message = std::move(fx().deliveries.back());
      fx().deliveries.pop_back();
      node_.counters.delivered->inc();
    }
    answer.remaining = box_.ready_count();
    if (!box_.known(request.holder)) consumers_.erase(request.holder);
    self_->send(request.from, reply{request.token, std::move(answer)});
    run();
  }

  void on_purge(purge_queue& request) {
    if (removed_) return refuse_removed(request);
    const auto count = box_.purge(fx());
    // Answered when the journal has it, so that nothing purged comes back.
    purges_.push_back({{request.from, request.token}, count});
    run();
  }

  void on_inspect(inspect_queue& request) {
    if (removed_) return refuse_removed(request);
    self_->send(request.from, reply{request.token, queue_counts{box_.ready_count(), box_.consumer_count()}});
  }

  // --- consumers ---

  void on_consume(consume& request) {
    if (removed_) return refuse_removed(request);
    const bool taken = exclusive_consumer_ || (request.exclusive && box_.consumer_count() > 0);
    if (taken) {
      self_->send(request.from, reply{request.token, refusal{refusal::kind::access_refused,
                                                             origin_.described + " in exclusive use"}});
      return;
    }
    peer& p = peer_of(request.by, request.from);
    if (request.exclusive) exclusive_consumer_ = request.consumer.id;
    consumers_[request.consumer.id] = {&p, true};
    had_consumer_ = true;
    self_->send(request.from, reply{request.token, done{}});
    box_.add_consumer(request.consumer);
    run();
  }

  void on_cancel(cancel_consumer& request) {
    if (removed_) return self_->send(request.from, reply{request.token, done{}});
    box_.cancel_consumer(request.consumer);
    lost_consumer(request.consumer);
    self_->send(request.from, reply{request.token, done{}});
    run();
    remove_if_unused();
  }

  void on_release(release_holders& message) {
    if (removed_) return;
    for (const auto id : message.holders) {
      box_.release(id);
      lost_consumer(id);
      consumers_.erase(id);
    }
    run();
    remove_if_unused();
  }

  void lost_consumer(consumer_id id) {
    if (exclusive_consumer_ == id) exclusive_consumer_.reset();
    if (const auto found = consumers_.find(id); found != consumers_.end()) {
      found->second.consuming = false;
      if (!box_.known(id)) consumers_.erase(found);
    }
  }

  void on_down(const caf::down_msg& down) {
    if (removed_) return;
    for (auto p = peers_.begin(); p != peers_.end();) {
      if (p->second.handle.address() != down.source) {
        ++p;
        continue;
      }
      for (auto c = consumers_.begin(); c != consumers_.end();) {
        if (c->second.of != &p->second) {
          ++c;
          continue;
        }
        box_.release(c->first);
        if (exclusive_consumer_ == c->first) exclusive_consumer_.reset();
        c = consumers_.erase(c);
      }
      p = peers_.erase(p);
    }
    run();
    remove_if_unused();
  }

  // --- removal ---

  void on_delete(delete_queue& request) {
    if (removed_) return self_->send(request.from, reply{request.token, messages_removed{0}});
    const auto refuse = [&](const char* why) {
      self_->send(request.from,
                  reply{request.token, refusal{refusal::kind::precondition_failed, origin_.described + why}});
    };
    if (request.if_unused && box_.consumer_count() > 0) return refuse(" in use");
    if (request.if_empty && box_.ready_count() > 0) return refuse(" not empty");
    deletions_.push_back({request.from, request.token});
    ask_for_removal();
  }

  // An auto-delete queue goes with its last consumer, once it had one: [16].
  void remove_if_unused() {
    if (origin_.auto_delete && had_consumer_ && box_.consumer_count() == 0) ask_for_removal();
  }

  void ask_for_removal() {
    if (std::exchange(removal_asked_, true)) return;
    if (auto vhost = caf::actor_cast<vhost_actor>(origin_.vhost)) {
      self_->send(vhost, queue_removal{queue_actor{self_}, {origin_.id, origin_.name}});
    }
  }

  // A connection may still route by an older snapshot, or have asked before it heard. So the actor stays, without a
  // mailbox, and answers for the queue that is not there, until the last of them lets go of its handle.
  void on_removed() {
    if (std::exchange(removed_, true)) return;
    const auto count = box_.ready_count();
    for (const auto& w : deletions_) self_->send(w.from, reply{w.token, messages_removed{count}});
    for (const auto& p : purges_) self_->send(p.who.from, reply{p.who.token, messages_removed{p.count}});
    for (const auto& [id, c] : consumers_) {
      if (c.consuming) self_->send(c.of->handle, consumer_cancelled{id});
    }
    // A target that goes while a publish is pending counts as positive: [26].
    box_.settle_all(fx());
    send_out();
    box_ = mailbox{false, {}};
    publish_counts();
    origin_.port.reset();  // which holds our own handle
    consumers_.clear();
    peers_.clear();
    deletions_.clear();
    purges_.clear();
  }

  void settle_unheard(const publish_batch& message) {
    settled answer;
    for (const auto& m : message.messages) answer.settlements.push_back({m.from, m.number, m.number});
    self_->send(message.from, std::move(answer));
  }

  template <class Request>
  void refuse_removed(const Request& request) {
    self_->send(request.from,
                reply{request.token, refusal{refusal::kind::not_found, "no " + origin_.described}});
  }

  void on_not_removed(queue_not_removed& message) {
    removal_asked_ = false;
    for (const auto& w : std::exchange(deletions_, {})) self_->send(w.from, reply{w.token, message.why});
  }

  void on_finish() {
    if (removed_) return self_->quit();
    finishing_ = true;
    run();
  }

  // --- the journal ---

  void on_journal_written() {
    if (removed_ || !box_.batch_under_way()) return;
    box_.on_committed(fx());
    answer_purges();
    run();
  }

  void on_journal_unwritten(journal_unwritten& message) {
    if (removed_ || !box_.batch_under_way()) return;
    const bool erased = message.batch.erasures.empty();
    box_.on_not_committed(std::move(message.batch), fx());
    if (erased) answer_purges();
    for (auto& p : purges_) p.sent = false;
    run();
  }

  void answer_purges() {
    auto unanswered = std::exchange(purges_, {});
    for (auto& p : unanswered) {
      if (p.sent) {
        self_->send(p.who.from, reply{p.who.token, messages_removed{p.count}});
      } else {
        purges_.push_back(std::move(p));
      }
    }
  }

  // --- effects ---

  // Each worker thread runs one handler at a time, and every handler leaves it empty: so all queues of a thread share
  // one, and an idle queue holds no buffers.
  static effects& fx() {
    static thread_local effects shared;
    return shared;
  }

  void load() {
    const auto request = *std::exchange(fx().load, std::nullopt);
    auto messages = node_.journal.load(origin_.id, request);
    if (!messages)
      node_.on_fatal("cannot read from the store: " + origin_.described + ": " + messages.error().text);
    box_.on_loaded(*messages);
  }

  // After every handler: hands out what can go, in the order in which it came about.
  void run() {
    box_.dispatch(fx());
    while (fx().load) {
      load();
      box_.dispatch(fx());
    }
    send_out();
    if (!box_.batch_under_way()) {
      auto batch = box_.take_batch();
      for (auto& p : purges_) p.sent = true;
      if (batch.empty()) {
        answer_purges();
        if (finishing_) self_->quit();
      } else {
        self_->send(node_.committer, write_batch{queue_actor{self_}, origin_.id, std::move(batch)});
      }
    }
    publish_counts();
  }

  void send_out() {
    std::vector<peer*> touched;
    const auto touch = [&](peer& p) {
      if (p.deliveries.empty() && p.settlements.empty()) touched.push_back(&p);
    };
    consumer_id last_consumer{};
    peer* to = nullptr;
    for (auto& d : fx().deliveries) {
      if (to == nullptr || d.to != last_consumer) {
        last_consumer = d.to;
        const auto found = consumers_.find(d.to);
        to = found == consumers_.end() ? nullptr : found->second.of;
        if (to == nullptr)
          continue;  // its connection went in this very step; `release` has put the message back
      }
      touch(*to);
      to->deliveries.push_back(std::move(d));
    }
    node_.counters.delivered->inc(static_cast<std::int64_t>(fx().deliveries.size()));
    for (const auto& s : fx().settlements) {
      const auto found = peers_.find(connection_of(s.by));
      if (found == peers_.end()) continue;  // nobody waits for it any more
      touch(found->second);
      found->second.settlements.push_back(s);
    }
    for (auto* p : touched) {
      if (!p->deliveries.empty()) self_->send(p->handle, deliver{std::exchange(p->deliveries, {})});
      if (!p->settlements.empty()) self_->send(p->handle, settled{std::exchange(p->settlements, {})});
    }
    fx().clear();
  }

  peer& peer_of(connection_id id, const connection_actor& handle) {
    const auto [found, added] = peers_.try_emplace(id);
    if (added) {
      found->second.id = id;
      found->second.handle = handle;
      self_->monitor(handle);
    }
    return found->second;
  }

  // The budget is the node's. When all queues together exceed it, each keeps only a little at hand.
  void share_memory() {
    const auto mine = static_cast<std::int64_t>(box_.resident_size());
    const auto all = node_.resident.fetch_add(mine - counted_, std::memory_order_relaxed) + mine - counted_;
    counted_ = mine;
    const bool pressed = all > static_cast<std::int64_t>(node_.limits.resident_max);
    box_.limit_memory(pressed ? std::min(resident_when_pressed, node_.limits.resident_max)
                              : node_.limits.resident_max);
  }

  void publish_counts() {
    share_memory();
    auto& port = *origin_.port;
    port.ready.store(box_.ready_count(), std::memory_order_relaxed);
    port.held.store(box_.held_count(), std::memory_order_relaxed);
    port.consumers.store(box_.consumer_count(), std::memory_order_relaxed);
    port.ready_size.store(box_.ready_size(), std::memory_order_relaxed);
    port.resident.store(box_.resident_size(), std::memory_order_relaxed);
  }

  queue_actor::pointer self_;

  // fixed after start
  queue_origin origin_;
  node_context& node_;

  mailbox box_;
  std::unordered_map<connection_id, peer> peers_;
  std::unordered_map<consumer_id, consumer> consumers_;
  std::optional<consumer_id> exclusive_consumer_;
  bool had_consumer_ = false;

  struct waiting_purge {
    waiting who;
    std::uint64_t count = 0;
    bool sent = false;  // its erasures are in the batch under way
  };
  std::vector<waiting_purge> purges_;
  std::vector<waiting> deletions_;
  bool removal_asked_ = false, removed_ = false, finishing_ = false;
  std::int64_t counted_ = 0;  // our part of node_.resident
};

}  // namespace

std::shared_ptr<queue_port> spawn_queue(node_context& node, const vhost_actor& vhost,
                                        const queue_definition& queue, const std::string& vhost_name,
                                        const recovered_mailbox& recovered) {
  auto port = std::make_shared<queue_port>();
  queue_origin origin;
  origin.node = &node;
  origin.vhost = vhost.address();
  origin.id = queue.id;
  origin.name = queue.name;
  origin.described = "queue '" + queue.name + "' in vhost '" + vhost_name + "'";
  origin.durable = queue.durable;
  origin.auto_delete = queue.auto_delete;
  origin.recovered = recovered;
  origin.port = port;
  port->handle =
      node.system.spawn<queue_actor::stateful_impl<queue_state>, caf::lazy_init>(std::move(origin));
  return port;
}

}  // namespace posthorn
