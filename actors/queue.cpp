#include "actors/queue.hpp"

#include "actors/actor_house.hpp"
#include "actors/inhabitant.hpp"
#include "actors/outgoing.hpp"
#include "actors/simulation.hpp"
#include "actors/supervisor.hpp"
#include "actors/turns.hpp"
#include "actors/vhost.hpp"
#include "mailbox/dead_letter.hpp"
#include "mailbox/queue_arguments.hpp"

#include <algorithm>
#include <random>
#include <stdexcept>
#include <unordered_map>

namespace posthorn {

namespace {

// What a queue keeps at hand when the node is short of memory: enough to keep its consumers busy.
constexpr std::size_t resident_when_pressed = std::size_t{256} << 10;

// A queue that fails has its own budget, so that a bad one never takes the others down. An operator may kill it as fast
// as he can type.
const child_spec queue_rules{.name = "",
                             .restart = restart_kind::transient,
                             .shutdown = shutdown_rule::within(std::chrono::seconds{3}),
                             .handler_limit = std::chrono::seconds{1},
                             .budget = restart_intensity{1000, std::chrono::seconds{10}}};

// What one batch holds when others write, too: about a millisecond of a commit.
constexpr batch_limits beside_others{1024, std::size_t{256} << 10};
// How long a batch that found no room waits before it is sent again: there will be none a moment later either.
constexpr auto retry_delay = std::chrono::milliseconds{200};
constexpr std::uint64_t retry_tick = 1, expiry_tick = 2, idle_tick = 3;

// Answers for a queue that is not there any more. A target that goes while a publish is pending counts as positive: [26].
// An actor whose kind this program does not know may come back with a program that does: its senders are told.
struct removed_queue {
  const std::string& described;
  bool rejects = false;

  void operator()(const arrived&) const {}
  void operator()(const change_rules&) const {}
  void operator()(const publish_batch& message) const {
    settled answer;
    for (const auto& m : message.messages) {
      answer.settlements.push_back({m.from, m.number, m.number, rejects});
    }
    caf::anon_send(message.from, std::move(answer));
  }
  void operator()(const cancel_consumer& request) const {
    caf::anon_send(request.from, reply{request.token, done{}});
  }
  void operator()(const delete_queue& request) const {
    caf::anon_send(request.from, reply{request.token, messages_removed{0}});
  }
  template <class Message>
  void operator()(const Message& message) const {
    if constexpr (requires { message.token; }) {
      caf::anon_send(message.from,
                     reply{message.token, refusal{refusal::kind::not_found, "no " + described}});
    }
  }
};

// A publisher's id holds that of its connection.
connection_id connection_of(publisher_id by) noexcept { return {by.value >> 16}; }

}  // namespace

// What stands in the port before there is an actor, and never changes.
struct queue_origin {
  node_context& node;
  std::weak_ptr<vhost_port> vhost;  // upward
  std::string name;
  bool auto_delete = false;
};

class queue_logic {
public:
  queue_logic(queue_port& port, const recovered_mailbox& recovered)
      : port_{port},
        origin_{*port.origin},
        node_{origin_.node},
        box_{port.durable, node_.limits, recovered, port.rules},
        last_used_{node_.now()} {
    publish_counts();
  }
  // Of a durable actor.
  queue_logic(queue_port& port, const recovered_mailbox& recovered, const backoff& pause,
              std::unique_ptr<inhabitant> who)
      : queue_logic{port, recovered} {
    turns_ = std::make_unique<turns>(node_, port_, box_, pause, std::move(who));
  }
  ~queue_logic() { node_.resident.fetch_sub(counted_, std::memory_order_relaxed); }
  queue_logic(const queue_logic&) = delete;
  queue_logic& operator=(const queue_logic&) = delete;

  void begin(worker_actor::pointer self, bool after_failure) {
    self_ = self;
    if (removed_) return self_->quit();
    if (after_failure) {
      // What it knows may be half changed, and the store is whole: the process starts again from there.
      node_.on_fatal("a bug ended the actor of " + port_.described);
    }
    retrying_ = finishing_ = false;
    expiry_armed_ = 0;
    if (turns_) {
      turns_->begin(self_, fx());
      arm_idle();
    } else {
      for (auto& [id, p] : peers_) self_->monitor(p.handle);
    }
    run();
  }

  void on(queue_message& message) {
    if (box_.observes()) [[unlikely]]
      box_.observe(clock_now(), next_random());
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(queue_message& message) { std::visit(removed_queue{port_.described}, message); }
  void on_idle() {}
  void on_tick(const tick& t) {
    if (t.number == retry_tick) {
      retrying_ = false;
    } else if (t.number == idle_tick) {
      return sleep_if_idle();
    } else if (t.number == turns::timer_tick) {
      turns_->on_timer_tick();
    } else if (t.number == expiry_tick) {
      expiry_armed_ = 0;
      if (const auto unused = unused_at(); unused && node_.now() >= *unused) ask_for_removal();
    }
    run();
  }
  void on_down(const caf::down_msg& down) {
    const auto found = watched_peers_.find(down.source.id());
    if (found == watched_peers_.end()) return;
    peer& gone = *found->second;
    for (const auto id : std::exchange(gone.consumers, {})) {
      if (watched_.by == id) watched_ = {};
      box_.release(id, fx());
      if (exclusive_consumer_ == id) exclusive_consumer_.reset();
      consumers_.erase(id);
    }
    watched_peers_.erase(found);
    peers_.erase(connection_id{gone.id});
    run();
    remove_if_unused();
  }

private:
  // A connection that publishes to this queue or consumes from it, and what is about to be sent to it.
  struct peer {
    connection_id id{};
    connection_actor handle;
    std::vector<consumer_id> consumers;  // those in consumers_ that are its own
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

  void handle(publish_batch& message) {
    peer_of(message.by, message.from);
    node_.counters.published->inc(static_cast<std::int64_t>(message.messages.size()));
    node_.reached("publish.received");
    publish(message.messages);
    node_.reached("publish.accepted");
    run();
  }

  void handle(change_rules&) {}

  void handle(arrived& message) {
    node_.counters.published->inc(static_cast<std::int64_t>(message.stored.size() + message.unstored.size()));
    if (!message.stored.empty()) {
      const std::lock_guard guard{port_.places_mutex};
      port_.expected -= static_cast<std::uint32_t>(message.stored.size());
    }
    box_.arrive(message.stored);
    node_.reached("arrived");
    if (!message.unstored.empty()) publish(message.unstored);
    run();
  }

  // Their places are taken from the port, where others take theirs.
  void publish(std::vector<arrival>& messages) {
    const auto last = port_.last_sequence.fetch_add(messages.size(), std::memory_order_relaxed);
    box_.skip_to({last + 1});
    box_.publish(messages, fx(), node_.now());
  }

  void handle(answer_held& message) {
    for (const auto& a : message.answers) {
      if (a.holder == watched_.by) look_for_watched(a);
      switch (a.how) {
        case outcome::acknowledged: box_.acknowledge(a.holder, a.which, fx()); break;
        case outcome::rejected: box_.reject(a.holder, a.which, fx(), blame::yes); break;
        case outcome::discarded: box_.reject(a.holder, a.which, fx()); break;
        case outcome::returned: box_.give_back(a.holder, a.which, fx()); break;
        // Only a quorum queue tells apart what failed and what was not dealt with [47].
        case outcome::released:
          box_.give_back(a.holder, a.which, fx(), port_.is_quorum ? blame::no : blame::yes);
          break;
      }
    }
    for (const auto& g : message.grants) box_.grant(g.to, g.bytes);
    run();
  }

  void handle(fetch_message& request) {
    if (turns_) return refuse_to_share(request);
    if (port_.is_quorum && port_.rules.single_active) {  // [43]
      refuse(request, refusal::kind::resource_locked,
             "cannot obtain access to locked " + port_.described +
                 ". basic.get operations are not supported by <<\"quorum\">> queues with single active "
                 "consumer");
      return;
    }
    peer& p = peer_of(request.by, request.from);
    consumer_of(p, request.holder);
    fetched answer;
    last_used_ = node_.now();
    while (!box_.fetch(request.holder, request.acknowledges, fx(), last_used_) && fx().load) load();
    if (!fx().deliveries.empty()) {
      answer.message = std::move(fx().deliveries.back());
      fx().deliveries.pop_back();
      node_.counters.delivered->inc();
    }
    answer.remaining = box_.ready_count();
    if (!box_.known(request.holder)) forget_consumer(request.holder);
    self_->send(request.from, reply{request.token, std::move(answer)});
    run();
  }

  void handle(purge_queue& request) {
    // Of a durable actor, what waits for its turn or was set aside goes, too.
    if (turns_) turns_->give_back_all(fx());
    const auto count = box_.purge(fx());
    // Answered when the journal has it, so that nothing purged comes back.
    purges_.push_back({{request.from, request.token}, count});
    run();
  }

  void handle(await_erased& request) {
    purges_.push_back({{request.from, request.token}, 0});
    run();
  }

  void handle(inspect_queue& request) {
    last_used_ = node_.now();
    self_->send(request.from,
                reply{request.token, queue_counts{box_.ready_count(), box_.told_consumer_count()}});
  }

  // The response time is that of one message at a time, so that it costs a look for a batch.
  void watch(const delivery& d) {
    if (watched_.by != consumer_id{} || !box_.holds(d.to, d.at)) return;
    watched_ = {d.to, d.at, actor_status::now()};
  }
  void look_for_watched(const held_answer& answer) {
    const bool is_there = std::any_of(
        answer.which.begin(), answer.which.end(),
        [this](const sequence_range& r) { return r.first <= watched_.at && watched_.at <= r.last; });
    if (!is_there) return;
    if (!comes_back(answer.how)) port_.response.note(actor_status::now() - watched_.since);
    watched_ = {};
  }

  // --- consumers ---

  template <class Request>
  void refuse(const Request& request, refusal::kind why, std::string text) {
    self_->send(request.from, reply{request.token, refusal{why, std::move(text)}});
  }
  // A durable actor takes its messages itself, and stays as long as it is known.
  template <class Request>
  void refuse_to_share(const Request& request) {
    refuse(request, refusal::kind::access_refused,
           port_.described +
               " handles its messages itself: bind a queue of your own to where it gets them "
               "from");
  }

  // Steady, and chance, for the rules by which consumers are chosen. Of a test's node, both repeat themselves.
  [[nodiscard]] std::chrono::nanoseconds clock_now() const {
    if (node_.simulated != nullptr) return std::chrono::milliseconds{node_.now()};
    return std::chrono::nanoseconds{actor_status::now()};
  }
  [[nodiscard]] std::uint64_t next_random() const {
    if (node_.simulated != nullptr) return node_.simulated->choose(UINT64_MAX);
    thread_local std::mt19937_64 random{std::random_device{}()};
    return random();
  }

  void handle(consume& request) {
    if (turns_) return refuse_to_share(request);
    const bool exclusive = request.exclusive && !port_.is_quorum;  // which ignores it [38]
    const bool taken =
        exclusive_consumer_ || (exclusive && (box_.consumer_count() > 0 || port_.rules.single_active));
    if (taken) return refuse(request, refusal::kind::access_refused, port_.described + " in exclusive use");
    peer& p = peer_of(request.by, request.from);
    if (exclusive) exclusive_consumer_ = request.consumer.id;
    consumer_of(p, request.consumer.id).consuming = true;
    had_consumer_ = true;
    self_->send(request.from, reply{request.token, done{}});
    box_.add_consumer(request.consumer);
    run();
  }

  void handle(cancel_consumer& request) {
    box_.cancel_consumer(request.consumer);
    lost_consumer(request.consumer);
    self_->send(request.from, reply{request.token, done{}});
    run();
    remove_if_unused();
  }

  void handle(release_holders& message) {
    for (const auto id : message.holders) {
      box_.release(id, fx());
      lost_consumer(id);
      forget_consumer(id);
    }
    run();
    remove_if_unused();
  }

  void lost_consumer(consumer_id id) {
    if (watched_.by == id) watched_ = {};
    last_used_ = node_.now();
    if (exclusive_consumer_ == id) exclusive_consumer_.reset();
    if (const auto found = consumers_.find(id); found != consumers_.end()) {
      found->second.consuming = false;
      if (!box_.known(id)) forget_consumer(id);
    }
  }

  consumer& consumer_of(peer& p, consumer_id id) {
    const auto [found, added] = consumers_.try_emplace(id, consumer{&p, false});
    if (added) p.consumers.push_back(id);
    return found->second;
  }
  void forget_consumer(consumer_id id) {
    const auto found = consumers_.find(id);
    if (found == consumers_.end()) return;
    auto& siblings = found->second.of->consumers;
    // The newest are the most likely to go.
    const auto own = std::find(siblings.rbegin(), siblings.rend(), id);
    *own = siblings.back();
    siblings.pop_back();
    consumers_.erase(found);
  }

  // --- removal ---

  void handle(delete_queue& request) {
    if (turns_) return refuse_to_share(request);
    if (port_.is_quorum && (request.if_unused || request.if_empty)) {  // [13]
      refuse(request, refusal::kind::not_implemented,
             "cannot delete " + port_.described + ". queue.delete operations with " +
                 (request.if_unused ? "if-unused" : "if-empty") +
                 " flag set are not supported by quorum queues");
      return;
    }
    constexpr auto failed = refusal::kind::precondition_failed;
    if (request.if_unused && box_.consumer_count() > 0)
      return refuse(request, failed, port_.described + " in use");
    if (request.if_empty && box_.ready_count() > 0)
      return refuse(request, failed, port_.described + " not empty");
    deletions_.push_back({request.from, request.token});
    ask_for_removal();
  }

  // An auto-delete queue goes with its last consumer, once it had one: [16].
  void remove_if_unused() {
    if (origin_.auto_delete && had_consumer_ && box_.consumer_count() == 0) ask_for_removal();
  }

  void ask_for_removal() {
    if (std::exchange(removal_asked_, true)) return;
    if (const auto vhost = origin_.vhost.lock()) {
      vhost->post(queue_removal{port_.shared_from_this(), {port_.id, origin_.name}});
    }
  }

  // A connection may still route by an older snapshot, or have asked before it heard. From here on, the port answers.
  void handle(queue_removed_now& message) {
    const auto until_done = std::move(message.self);
    removed_ = true;
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
    {
      const std::lock_guard guard{port_.places_mutex};
      port_.closed = true;
    }
    publish_counts();
    consumers_.clear();
    watched_peers_.clear();
    peers_.clear();
    deletions_.clear();
    purges_.clear();
    for (const auto& unheard : port_.in.close()) std::visit(removed_queue{port_.described}, unheard);
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
    if (!box_.batch_under_way()) return;
    node_.reached("commit.answered");
    under_way_.reset();
    box_.on_committed(fx());
    answer_purges();
    run();
  }

  void handle(journal_unwritten& message) {
    if (!box_.batch_under_way()) return;
    const bool erased = message.batch.erasures.empty();
    if (under_way_) {
      // What it has for others stands before what came since.
      under_way_->append(std::move(outgoing_));
      outgoing_ = std::move(*under_way_);
      under_way_.reset();
    }
    box_.on_not_committed(std::move(message.batch), fx());
    if (erased) answer_purges();
    for (auto& p : purges_) p.sent = false;
    retrying_ = true;
    self_->delayed_send(self_, retry_delay, tick{retry_tick});
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

  // --- a durable actor ---

  // A new actor takes the message again. It starts at once, so that the mailbox goes on, and waits before the next turn.
  void fail(const std::string& why) {
    port_.status.ending = true;
    self_->quit(caf::make_error(caf::sec::runtime_error, why));
  }

  void arm_idle() {
    if (const auto after = turns_->idle_after(); after.count() > 0) {
      self_->delayed_send(self_, after, tick{idle_tick});
    }
  }

  // Nothing of it stays in memory. The store has its state, and whoever sends to its name wakes it.
  void sleep_if_idle() {
    const auto idle_for = std::chrono::milliseconds{node_.now() - last_used_};
    const bool at_rest = box_.ready_count() + box_.held_count() == 0 && !box_.batch_under_way() &&
                         !box_.has_unsent() && outgoing_.empty() && !under_way_ && consumers_.empty() &&
                         turns_->at_rest();
    if (!at_rest || idle_for < turns_->idle_after() || !node_.house->go_to_sleep(port_)) return arm_idle();
    removed_ = true;
    port_.status.ending = true;
    self_->quit();
  }

  // --- effects ---

  friend void drop_unfinished_effects();

  // Each worker thread runs one handler at a time, and every handler leaves it empty: so all queues of a thread share
  // one, and an idle queue holds no buffers.
  static effects& fx() {
    static thread_local effects shared;
    return shared;
  }

  void load() {
    const auto request = *std::exchange(fx().load, std::nullopt);
    auto messages = node_.journal.load(port_.id, request);
    if (!messages)
      node_.on_fatal("cannot read from the store: " + port_.described + ": " + messages.error().text);
    box_.on_loaded(*messages);
  }

  void dispatch(std::int64_t now) {
    box_.dispatch(fx(), now);
    while (fx().load) {
      load();
      box_.dispatch(fx(), now);
    }
  }

  // After every handler: hands out what can go, in the order in which it came about.
  void run() {
    const auto now = node_.now();
    dispatch(now);
    if (turns_) {
      if (turns_->take(fx(), outgoing_, now)) last_used_ = now;
      dispatch(now);  // dead letters, and messages for the next turns
      turns_->keep(fx());
    }
    for (auto& d : fx().dead_letters) bury(d, now);
    send_out();
    arm_expiry(now);
    if (!box_.batch_under_way() && !retrying_) {
      auto batch = box_.take_batch(node_.journal_shared.load(std::memory_order_relaxed) ? beside_others
                                                                                        : batch_limits{});
      if (!box_.has_unsent_erasures()) {
        for (auto& p : purges_) p.sent = true;
      }
      if (batch.empty()) {
        answer_purges();
        if (finishing_) self_->quit();
      } else {
        if (turns_) turns_->on_batch_taken();
        if (!outgoing_.empty()) under_way_ = std::make_shared<outgoing>(std::exchange(outgoing_, {}));
        node_.to_journal(write_batch{port_.shared_from_this(), port_.id, std::move(batch), under_way_});
        node_.reached("batch.sent");
      }
    }
    publish_counts();
    if (!turns_) return;
    if (const auto why = turns_->failure()) {
      fail(*why);
    } else if (turns_->wants_turn(now)) {
      self_->send(self_, tick{turns::next_turn_tick});
    }
  }

  // A dead letter's copies go to where its exchange leads now, in the transaction that erases it here.
  void bury(dead_letter& dead, std::int64_t now) {
    node_.counters.dead_lettered->inc();
    const auto vhost = origin_.vhost.lock();
    if (!vhost || !port_.rules.dead_letter_exchange) return;
    if (!dead.message) {
      auto messages = node_.journal.load(port_.id, {{dead.at, dead.at}, 1, 0});
      if (!messages) {
        node_.on_fatal("cannot read from the store: " + port_.described + ": " + messages.error().text);
      }
      dead.message = std::move(messages->front().message);
    }
    death event;
    event.queue = origin_.name;
    event.reason = dead.why;
    event.exchange = *port_.rules.dead_letter_exchange;
    event.time = std::chrono::seconds{now / 1000};
    event.dead_lettered_before = dead.message->dead_lettered();
    event.delivered = dead.delivered || dead.message->delivered_before();
    if (port_.is_quorum) {
      event.returns = dead.returns;
      event.attempts = dead.attempts;
    }
    if (port_.rules.dead_letter_routing_key) event.routing_key = *port_.rules.dead_letter_routing_key;
    const auto copy = make_dead_letter(*dead.message, event);
    if (!copy) {
      node_.log(node_context::severity::warning,
                "a dead letter of " + port_.described + " was dropped: " + copy.error().text);
      return;
    }
    bool led_somewhere = false;
    std::vector<std::string_view> histories;
    const auto where = vhost->snapshot();
    const auto targets = route_of(*where, **copy, {.chance = node_.next_chance(), .histories = &histories});
    outgoing_.note_passage(vhost, histories, *copy);
    for (const auto& to : targets) {
      led_somewhere = true;
      if (would_cycle(**copy, to->name, dead.why)) continue;
      // One that closes meanwhile goes with what it has.
      if (const auto taker = node_.house->taker_of(*to)) (void)outgoing_.add(*taker, *copy, now);
    }
    if (!led_somewhere && event.exchange.empty() && !would_cycle(**copy, (*copy)->routing_key(), dead.why)) {
      // The default exchange leads to durable actors, too.
      if (const auto actor = node_.house->find((*copy)->routing_key()))
        (void)outgoing_.add(*actor, *copy, now);
    }
  }

  // When it will have been without use for too long. A durable actor stays.
  [[nodiscard]] std::optional<std::int64_t> unused_at() const {
    if (turns_ || !port_.rules.expires || box_.consumer_count() != 0) return std::nullopt;
    return last_used_ + port_.rules.expires->count();
  }

  // The next time at which something happens by itself: a message expires, or the queue does.
  void arm_expiry(std::int64_t now) {
    auto due = box_.next_expiry();
    if (const auto unused = unused_at()) due = std::min(due.value_or(INT64_MAX), *unused);
    if (!due || (expiry_armed_ != 0 && expiry_armed_ <= *due)) return;
    expiry_armed_ = std::max<std::int64_t>(*due, 1);
    self_->delayed_send(self_, std::chrono::milliseconds{std::max<std::int64_t>(0, *due - now) + 1},
                        tick{expiry_tick});
  }

  void send_out() {
    std::vector<peer*> touched;
    const auto touch = [&](peer& p) {
      if (p.deliveries.empty() && p.settlements.empty()) touched.push_back(&p);
    };
    consumer_id last_consumer{};
    peer* to = nullptr;
    if (!fx().deliveries.empty()) watch(fx().deliveries.front());
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
      // A durable actor has no consumers that might be lost; and each watch would stay with the watched connection when
      // the actor has long fallen asleep.
      if (!turns_) {
        self_->monitor(handle);
        watched_peers_.emplace(handle.id(), &found->second);
      }
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
    auto& port = port_;
    port.ready.store(box_.ready_count(), std::memory_order_relaxed);
    port.held.store(box_.held_count(), std::memory_order_relaxed);
    port.consumers.store(box_.consumer_count(), std::memory_order_relaxed);
    port.ready_size.store(box_.ready_size(), std::memory_order_relaxed);
    port.resident.store(box_.resident_size(), std::memory_order_relaxed);
  }

  worker_actor::pointer self_ = nullptr;  // the actor of now

  // fixed after start
  queue_port& port_;
  const queue_origin& origin_;
  node_context& node_;

  mailbox box_;
  std::unordered_map<connection_id, peer> peers_;
  // By actor, so that a thousand connections that end at once are a thousand look-ups, and not a million.
  std::unordered_map<caf::actor_id, peer*> watched_peers_;
  std::unordered_map<consumer_id, consumer> consumers_;
  std::optional<consumer_id> exclusive_consumer_;
  bool had_consumer_ = false;
  struct watched_delivery {
    consumer_id by{};  // none: nothing is watched
    sequence at{};
    std::int64_t since = 0;  // steady clock, nanoseconds
  };
  watched_delivery watched_;

  struct waiting_purge {
    waiting who;
    std::uint64_t count = 0;
    bool sent = false;  // its erasures are in the batch under way
  };
  std::vector<waiting_purge> purges_;
  std::vector<waiting> deletions_;
  bool removal_asked_ = false, removed_ = false, finishing_ = false;
  bool retrying_ = false;                // the next batch waits for room
  std::unique_ptr<turns> turns_;         // null: a queue
  std::int64_t last_used_;               // milliseconds since 1970
  std::int64_t expiry_armed_ = 0;        // when the next tick is due; 0: none is
  outgoing outgoing_;                    // goes with the next batch
  std::shared_ptr<outgoing> under_way_;  // went with the batch under way
  std::int64_t counted_ = 0;             // our part of node_.resident
};

queue_port::queue_port() = default;
queue_port::~queue_port() = default;

// What it was about to send holds other ports, which may hold this one.
void queue_port::abandon() {
  elsewhere = nullptr;
  (void)in.close();
  memory.reset();
}

void drop_unfinished_effects() { queue_logic::fx() = effects{}; }

void queue_port::post(queue_message message) {
  if (in.post(std::move(message))) {
    if (!is_wanted.load(std::memory_order_relaxed)) [[unlikely]]
      wake();
    return;
  }
  const bool unreachable = elsewhere && !elsewhere(message);
  if (!elsewhere || unreachable) std::visit(removed_queue{described, unreachable}, message);
}

// Several may come here with the first messages: one of them tells the supervisor.
void queue_port::wake() {
  if (is_wanted.exchange(true)) return;
  if (const auto vhost = origin->vhost.lock()) vhost->queues->wake(path_part(origin->name));
}

bool queue_port::is_full() const noexcept {
  return rules.on_overflow != mailbox_rules::overflow::drop_head &&
         ((rules.length_max && ready.load(std::memory_order_relaxed) >= *rules.length_max) ||
          (rules.size_max && ready_size.load(std::memory_order_relaxed) >= *rules.size_max));
}

std::optional<sequence> queue_port::reserve() {
  const std::lock_guard guard{places_mutex};
  if (closed) return std::nullopt;
  ++expected;
  return sequence{last_sequence.fetch_add(1, std::memory_order_relaxed) + 1};
}

namespace {

// What its supervisor has to know of a mailbox's actor.
child_definition child_of(node_context& node, const std::shared_ptr<queue_port>& port,
                          const child_spec& rules, const std::string& name, const char* kind) {
  child_definition child;
  child.spec = rules;
  child.spec.name = path_part(name);
  child.kind = kind;
  const std::weak_ptr<queue_port> weak = port;
  child.start = [&node, weak]() -> caf::actor {
    const auto alive = weak.lock();
    if (!alive) return {};
    if (!alive->memory) alive->memory = std::make_unique<queue_logic>(*alive, recovered_mailbox{});
    return start_worker(node.system, alive);
  };
  child.stop = [weak](const caf::actor& running) {
    if (const auto alive = weak.lock()) alive->post(finish_queue{running.address()});
  };
  child.figures = [weak]() -> actor_figures {
    const auto alive = weak.lock();
    return alive ? figures_of(*alive) : actor_figures{};
  };
  return child;
}

}  // namespace

std::shared_ptr<queue_port> add_actor(node_context& node, supervisor& under, const actor_place& place,
                                      const recovered_mailbox& recovered,
                                      const std::function<std::unique_ptr<inhabitant>(queue_port&)>& who) {
  auto port = std::make_shared<queue_port>();
  port->id = place.id;
  port->durable = place.durable;
  port->rules = place.rules;
  port->path = place.path;
  port->described = "actor '" + place.name + "'";
  port->last_sequence = std::max(recovered.last, recovered.used).value;
  port->origin = std::make_unique<const queue_origin>(queue_origin{node, node.actors_vhost, place.name});
  port->memory = std::make_unique<queue_logic>(*port, recovered, place.supervision.back_off, who(*port));
  auto rules = place.supervision;
  rules.back_off = {};
  const auto id_in_kind = place.path.substr(place.path.rfind('/') + 1);
  under.add(child_of(node, port, rules, id_in_kind, "durable actor"));
  return port;
}

std::shared_ptr<queue_port> make_doorway(mailbox_id id, const std::string& actor,
                                         std::function<bool(queue_message&)> elsewhere) {
  auto port = std::make_shared<queue_port>();
  port->id = id;
  port->durable = true;
  port->described = "actor '" + actor + "'";
  port->elsewhere = std::move(elsewhere);
  port->closed = true;
  (void)port->in.close();
  return port;
}

std::shared_ptr<queue_port> add_queue(node_context& node, const std::shared_ptr<vhost_port>& vhost,
                                      const queue_definition& queue, const recovered_mailbox& recovered) {
  auto port = std::make_shared<queue_port>();
  port->origin =
      std::make_unique<const queue_origin>(queue_origin{node, vhost, queue.name, queue.auto_delete});
  port->described = "queue '" + queue.name + "' in vhost '" + vhost->name() + "'";
  port->id = queue.id;
  port->durable = queue.durable;
  port->last_sequence = std::max(recovered.last, recovered.used).value;
  if (!queue.arguments.empty()) {
    if (const auto arguments = decode_table(std::as_bytes(std::span{queue.arguments}))) {
      port->rules = rules_of(*arguments);
      port->is_quorum = port->rules.quorum;
    }
  }
  auto child = child_of(node, port, queue_rules, queue.name, "queue");
  if (recovered.count == 0 && !port->rules.expires) {
    port->is_wanted = false;
    child.is_wanted = [weak = std::weak_ptr<queue_port>{port}] {
      const auto alive = weak.lock();
      return alive && alive->is_wanted;
    };
  } else {
    port->memory = std::make_unique<queue_logic>(*port, recovered);
  }
  vhost->queues->add(std::move(child));
  return port;
}

}  // namespace posthorn
