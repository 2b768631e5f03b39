#include "actors/queue.hpp"

#include "actors/actor_house.hpp"
#include "actors/directory.hpp"
#include "actors/inhabitant.hpp"
#include "actors/outgoing.hpp"
#include "actors/queue_peers.hpp"
#include "actors/removed_queue.hpp"
#include "actors/simulation.hpp"
#include "actors/stream.hpp"
#include "actors/supervisor.hpp"
#include "actors/turns.hpp"
#include "actors/vhost.hpp"
#include "mailbox/dead_letter.hpp"
#include "mailbox/queue_arguments.hpp"

#include <algorithm>
#include <random>
#include <stdexcept>

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

}  // namespace

class queue_logic final : public mailbox_logic {
public:
  queue_logic(queue_port& port, const recovered_mailbox& recovered)
      : port_{port},
        origin_{*port.origin},
        node_{origin_.node},
        rules_{port.rules()},
        box_{port.durable, node_.limits, recovered, *rules_},
        last_used_{node_.now()} {
    publish_counts();
  }
  // Of a durable actor.
  queue_logic(queue_port& port, const recovered_mailbox& recovered, const backoff& pause,
              std::unique_ptr<inhabitant> who)
      : queue_logic{port, recovered} {
    turns_ = std::make_unique<turns>(node_, port_, box_, pause, std::move(who));
  }
  ~queue_logic() override { node_.resident.fetch_sub(counted_, std::memory_order_relaxed); }

  void begin(worker_actor::pointer self, bool after_failure) override {
    self_ = self;
    if (removed_) return self_->quit();
    if (after_failure) {
      // What it knows may be half changed, and the store is whole: the process starts again from there.
      node_.on_fatal("a bug ended the actor of " + port_.described);
    }
    retrying_ = finishing_ = false;
    expiries_armed_.clear();
    if (turns_) {
      turns_->begin(self_, fx());
      arm_idle();
    } else {
      peers_.watch_all(self_);
    }
    run();
  }

  void on(queue_message& message) override {
    if (box_.observes()) [[unlikely]]
      box_.observe(clock_now(), next_random());
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(queue_message& message) override { std::visit(removed_queue{port_.described}, message); }
  void on_idle() override {}
  void on_tick(const tick& t) override {
    if (t.number == retry_tick) {
      retrying_ = false;
    } else if (t.number == idle_tick) {
      return sleep_if_idle();
    } else if (t.number == turns::timer_tick) {
      turns_->on_timer_tick();
    } else if (t.number == expiry_tick) {
      if (!expiries_armed_.empty()) expiries_armed_.pop_back();
      if (const auto unused = unused_at(); unused && node_.now() >= *unused) ask_for_removal();
    }
    run();
  }
  void on_down(const caf::down_msg& down) override {
    const auto consumers = peers_.remove(down);
    if (!consumers) return;
    for (const auto id : *consumers) {
      if (watched_.by == id) watched_ = {};
      box_.release(id, fx(), blame::yes, node_.now());
      if (exclusive_consumer_ == id) exclusive_consumer_.reset();
    }
    run();
    remove_if_unused();
  }

private:
  struct waiting {
    connection_actor from;
    request_token token = 0;
  };

  // --- messages come and go ---

  void handle(publish_batch& message) {
    peer_of(message.by, message.from);
    node_.counters.published->inc(static_cast<std::int64_t>(message.messages.size()));
    node_.reached("publish.received");
    // What expires at once goes to whoever waits for it: both are at one moment.
    const auto now = node_.now();
    publish(message.messages, now);
    node_.reached("publish.accepted");
    run(now);
  }

  void handle(ask_keeper&) {}
  void handle(change_rules&) {
    const auto before = std::exchange(rules_, port_.rules());
    // As in RabbitMQ, the time without use begins with the policy that gives one.
    if (rules_->expires && rules_->expires != before->expires) last_used_ = node_.now();
    box_.change_rules(*rules_, node_.now());
    run();
  }

  void handle(arrived& message) {
    node_.counters.published->inc(static_cast<std::int64_t>(message.stored.size() + message.unstored.size()));
    if (!message.stored.empty()) {
      const std::lock_guard guard{port_.places_mutex};
      port_.expected -= static_cast<std::uint32_t>(message.stored.size());
    }
    box_.arrive(message.stored);
    node_.reached("arrived");
    const auto now = node_.now();
    if (!message.unstored.empty()) publish(message.unstored, now);
    run(now);
  }

  // Their places are taken from the port, where others take theirs.
  void publish(std::vector<arrival>& messages, std::int64_t now) {
    const auto last = port_.last_sequence.fetch_add(messages.size(), std::memory_order_relaxed);
    box_.skip_to({last + 1});
    box_.publish(messages, fx(), now);
  }

  void handle(answer_held& message) {
    for (const auto& a : message.answers) {
      if (a.holder == watched_.by) look_for_watched(a);
      switch (a.how) {
        case outcome::acknowledged: box_.acknowledge(a.holder, a.which, fx()); break;
        case outcome::rejected: box_.reject(a.holder, a.which, fx(), blame::yes); break;
        case outcome::discarded: box_.reject(a.holder, a.which, fx()); break;
        case outcome::returned: box_.give_back(a.holder, a.which, fx(), blame::yes, node_.now()); break;
        // Only a quorum queue tells apart what failed and what was not dealt with [47].
        case outcome::released:
          box_.give_back(a.holder, a.which, fx(), port_.is_quorum ? blame::no : blame::yes, node_.now());
          break;
      }
      // As in RabbitMQ, what one consumer gave back goes out again before another one's comes back.
      if (comes_back(a.how) && &a != &message.answers.back()) dispatch(node_.now());
    }
    for (const auto& g : message.grants) box_.grant(g.to, g.bytes);
    run();
  }

  void handle(fetch_message& request) {
    if (turns_) return refuse_to_share(request);
    if (port_.is_quorum && rules_->single_active) {  // [43]
      refuse(request, refusal::kind::resource_locked,
             "cannot obtain access to locked " + port_.described +
                 ". basic.get operations are not supported by <<\"quorum\">> queues with single active "
                 "consumer");
      return;
    }
    peers_.consumer_of(peer_of(request.by, request.from), request.holder);
    fetched answer;
    last_used_ = node_.now();
    while (!box_.fetch(request.holder, request.acknowledges, fx(), last_used_) && fx().load) load();
    if (!fx().deliveries.empty()) {
      answer.message = std::move(fx().deliveries.back());
      fx().deliveries.pop_back();
      node_.counters.delivered->inc();
    }
    answer.remaining = box_.ready_count();
    if (!box_.known(request.holder)) peers_.forget(request.holder);
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
        exclusive_consumer_ || (exclusive && (box_.consumer_count() > 0 || rules_->single_active));
    if (taken) return refuse(request, refusal::kind::access_refused, port_.described + " in exclusive use");
    auto& p = peer_of(request.by, request.from);
    if (exclusive) exclusive_consumer_ = request.consumer.id;
    peers_.consumer_of(p, request.consumer.id).consuming = true;
    had_consumer_ = true;
    self_->send(request.from, reply{request.token, done{}});
    box_.add_consumer(request.consumer);
    run();
  }

  void handle(cancel_consumer& request) {
    box_.cancel_consumer(request.consumer);
    lost_consumer(request.consumer);
    // Who hears that the last consumer is gone finds no auto-delete queue any more: [16].
    if (is_unused()) {
      cancellations_.push_back({request.from, request.token});
    } else {
      self_->send(request.from, reply{request.token, done{}});
    }
    run();
    remove_if_unused();
  }

  void handle(release_holders& message) {
    for (const auto id : message.holders) {
      box_.release(id, fx(), blame::yes, node_.now());
      lost_consumer(id);
      peers_.forget(id);
    }
    run();
    remove_if_unused();
  }

  void lost_consumer(consumer_id id) {
    if (watched_.by == id) watched_ = {};
    last_used_ = node_.now();
    if (exclusive_consumer_ == id) exclusive_consumer_.reset();
    if (auto* found = peers_.find(id)) {
      found->consuming = false;
      if (!box_.known(id)) peers_.forget(id);
    }
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
  [[nodiscard]] bool is_unused() const noexcept {
    return origin_.auto_delete && had_consumer_ && box_.consumer_count() == 0;
  }
  void remove_if_unused() {
    if (is_unused()) ask_for_removal();
  }
  void answer_cancellations() {
    for (const auto& w : std::exchange(cancellations_, {})) self_->send(w.from, reply{w.token, done{}});
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
    port_.close_places();  // before anybody hears of it
    const auto count = box_.ready_count();
    for (const auto& w : deletions_) self_->send(w.from, reply{w.token, messages_removed{count}});
    answer_cancellations();
    for (const auto& p : purges_) self_->send(p.who.from, reply{p.who.token, messages_removed{p.count}});
    peers_.tell_cancelled(self_);
    // A target that goes while a publish is pending counts as positive: [26].
    box_.settle_all(fx());
    send_out();
    box_ = mailbox{false, {}};
    publish_counts();
    peers_.clear();
    deletions_.clear();
    purges_.clear();
    port_.close();
    self_->quit();
  }

  void handle(queue_not_removed& message) {
    removal_asked_ = false;
    for (const auto& w : std::exchange(deletions_, {})) self_->send(w.from, reply{w.token, message.why});
    answer_cancellations();
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
                         !box_.has_unsent() && outgoing_.empty() && !under_way_ &&
                         peers_.consumers().empty() && turns_->at_rest();
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
  void run() { run(node_.now()); }
  void run(std::int64_t now) {
    dispatch(now);
    if (turns_) {
      if (turns_->take(fx(), outgoing_, now)) last_used_ = now;
      dispatch(now);  // dead letters, and messages for the next turns
      turns_->keep(fx());
    }
    for (auto& d : fx().dead_letters) bury(d, now);
    for (const auto id : fx().timeouts) tell_timeout(id);
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

  void tell_timeout(consumer_id id) {
    node_.counters.consumer_timeouts->inc();
    if (const auto* found = peers_.find(id)) self_->send(found->of->handle, consumer_cancelled{id, true});
  }

  // One that waits stays until all of its copies can go; those of others go as far as they can.
  void bury(dead_letter& dead, std::int64_t now) {
    if (!dead.waits) {
      node_.counters.dead_lettered->inc();
      (void)send_copies(dead, false, now);
      return;
    }
    if (send_copies(dead, rules_->at_least_once, now)) {
      node_.counters.dead_lettered->inc();
      box_.on_buried(dead.at, fx());
      if (box_.waiting_dead_count() == 0) lacks_way_ = false;
      return;
    }
    node_.counters.dead_letter_retries->inc();
    box_.on_no_way(dead.at, now);
    if (std::exchange(lacks_way_, true)) return;
    node_.log(node_context::severity::warning,
              "dead letters of " + port_.described + " are kept and tried again every " +
                  std::to_string(node_.limits.dead_letter_retry.count()) + " ms: exchange '" +
                  rules_->dead_letter_exchange.value_or("") +
                  "' leads nowhere for them, or to a queue that is full");
  }

  // A dead letter's copies go to where its exchange leads now, in the transaction that erases it here. False, and none
  // goes: with `all_or_none`, there is no way, or somebody on it takes no more.
  [[nodiscard]] bool send_copies(dead_letter& dead, bool all_or_none, std::int64_t now) {
    const auto vhost = origin_.vhost.lock();
    if (!vhost) return !all_or_none;
    if (!rules_->dead_letter_exchange) return true;
    const auto where = vhost->snapshot();
    if (all_or_none && where->find_exchange(*rules_->dead_letter_exchange) == nullptr) return false;
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
    event.exchange = *rules_->dead_letter_exchange;
    event.time = std::chrono::seconds{now / 1000};
    event.dead_lettered_before = dead.message->dead_lettered();
    event.delivered = dead.delivered || dead.message->delivered_before();
    if (port_.is_quorum) {
      event.returns = dead.returns;
      event.attempts = dead.attempts;
    }
    if (rules_->dead_letter_routing_key) event.routing_key = *rules_->dead_letter_routing_key;
    const auto copy = make_dead_letter(*dead.message, event);
    if (!copy) {
      if (all_or_none) return false;
      node_.log(node_context::severity::warning,
                "a dead letter of " + port_.described + " was dropped: " + copy.error().text);
      return true;
    }
    std::vector<std::string_view> histories;
    const auto targets = route_of(*where, **copy, {.chance = node_.next_chance(), .histories = &histories});
    bool led_somewhere = false, all_take = true;
    std::vector<std::shared_ptr<queue_port>> takers;
    const auto add = [&](const std::shared_ptr<queue_port>& taker) {
      // One that closes meanwhile goes with what it has.
      all_take = all_take && taker != nullptr && (!all_or_none || !taker->is_full());
      if (taker != nullptr) takers.push_back(taker);
    };
    for (const auto& to : targets) {
      led_somewhere = true;
      if (!would_cycle(**copy, to->name, dead.why)) add(node_.house->taker_of(*to));
    }
    if (!led_somewhere && event.exchange.empty() && !would_cycle(**copy, (*copy)->routing_key(), dead.why)) {
      // The default exchange leads to durable actors, too.
      if (const auto actor = node_.house->find((*copy)->routing_key())) add(actor);
    }
    if (all_or_none && (takers.empty() || !all_take)) return false;
    outgoing_.note_passage(vhost, histories, *copy);
    bool all_added = true;
    for (const auto& taker : takers) all_added = outgoing_.add(*taker, *copy, now) && all_added;
    return all_added || !all_or_none;
  }

  // When it will have been without use for too long. A durable actor stays.
  [[nodiscard]] std::optional<std::int64_t> unused_at() const {
    if (turns_ || !rules_->expires || box_.consumer_count() != 0) return std::nullopt;
    return last_used_ + rules_->expires->count();
  }

  // The next time at which something happens by itself: in the mailbox, or the queue expires.
  void arm_expiry(std::int64_t now) {
    auto due = box_.next_expiry();
    if (const auto unused = unused_at()) due = std::min(due.value_or(INT64_MAX), *unused);
    if (!due || (!expiries_armed_.empty() && expiries_armed_.back() <= *due)) return;
    expiries_armed_.push_back(*due);
    self_->delayed_send(self_, std::chrono::milliseconds{std::max<std::int64_t>(0, *due - now) + 1},
                        tick{expiry_tick});
  }

  void send_out() {
    if (!fx().deliveries.empty()) watch(fx().deliveries.front());
    node_.counters.delivered->inc(static_cast<std::int64_t>(fx().deliveries.size()));
    peers_.send(self_, fx());
    fx().clear();
  }

  // A durable actor has no consumers that might be lost; and each watch would stay with the watched connection when the
  // actor has long fallen asleep.
  queue_peers::peer& peer_of(connection_id id, const connection_actor& handle) {
    return peers_.at(self_, id, handle, !turns_);
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
    port.delayed.store(box_.delayed_count(), std::memory_order_relaxed);
    port.dead_waiting.store(box_.waiting_dead_count(), std::memory_order_relaxed);
    port.consumers.store(box_.consumer_count(), std::memory_order_relaxed);
    port.ready_size.store(box_.ready_size(), std::memory_order_relaxed);
    port.resident.store(box_.resident_size(), std::memory_order_relaxed);
  }

  worker_actor::pointer self_ = nullptr;  // the actor of now

  // fixed after start
  queue_port& port_;
  const queue_origin& origin_;
  node_context& node_;

  std::shared_ptr<const mailbox_rules> rules_;  // those that the mailbox has
  mailbox box_;
  queue_peers peers_;
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
  std::vector<waiting> deletions_, cancellations_;
  bool removal_asked_ = false, removed_ = false, finishing_ = false;
  bool retrying_ = false;                     // the next batch waits for room
  std::unique_ptr<turns> turns_;              // null: a queue
  std::int64_t last_used_;                    // milliseconds since 1970
  std::vector<std::int64_t> expiries_armed_;  // when ticks are due, the first one last
  bool lacks_way_ = false;                    // a dead letter was kept, which is in the log
  outgoing outgoing_;                         // goes with the next batch
  std::shared_ptr<outgoing> under_way_;       // went with the batch under way
  std::int64_t counted_ = 0;                  // our part of node_.resident
};

queue_port::queue_port() = default;
queue_port::~queue_port() = default;

// What it was about to send holds other ports, which may hold this one.
void queue_port::abandon() {
  elsewhere = nullptr;
  (void)in.close();
  memory.reset();
}

void queue_port::close_places() {
  const std::lock_guard guard{places_mutex};
  closed = true;
}

bool queue_port::is_closed() {
  const std::lock_guard guard{places_mutex};
  return closed;
}

void queue_port::close() {
  for (const auto& unheard : in.close()) std::visit(removed_queue{described}, unheard);
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
  const auto now = rules();
  return now->on_overflow != mailbox_rules::overflow::drop_head &&
         ((now->length_max && ready.load(std::memory_order_relaxed) >= *now->length_max) ||
          (now->size_max && ready_size.load(std::memory_order_relaxed) >= *now->size_max));
}

std::optional<sequence> queue_port::reserve() {
  const std::lock_guard guard{places_mutex};
  if (closed) return std::nullopt;
  ++expected;
  return sequence{last_sequence.fetch_add(1, std::memory_order_relaxed) + 1};
}

namespace {

// Of a queue, by its type.
std::unique_ptr<mailbox_logic> logic_of(queue_port& port, const recovered_mailbox& recovered) {
  if (port.stream) return make_stream_logic(port, recovered);
  return std::make_unique<queue_logic>(port, recovered);
}

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
    if (!alive->memory) alive->memory = logic_of(*alive, {});
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
  port->set_rules(place.rules);
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

namespace {

// By its arguments, and the policies that apply to it [20].
mailbox_rules rules_now(const queue_definition& queue, const std::string& vhost, node_context& node) {
  field_table arguments;
  if (!queue.arguments.empty()) {
    if (auto decoded = decode_table(std::as_bytes(std::span{queue.arguments})))
      arguments = std::move(*decoded);
  }
  const auto laid_down = node.directory->snapshot()->find_vhost(vhost);
  if (!laid_down ||
      (laid_down->policies.ordinary.size() == 0 && laid_down->policies.of_operator.size() == 0)) {
    return rules_of(arguments);
  }
  return effective_rules(arguments,
                         apply(laid_down->policies, policy_subject_of(arguments), queue.name).definition);
}

}  // namespace

void apply_policies_to(const queue_definition& queue, const std::string& vhost, node_context& node) {
  if (!queue.port || queue.of_actor) return;
  auto& port = port_of(queue);
  auto next = rules_now(queue, vhost, node);
  if (next == *port.rules()) return;
  const bool may_end = next.expires.has_value();
  port.set_rules(std::move(next));
  // One that nobody has used yet looks at them when it begins.
  if (may_end || port.is_wanted) port.post(change_rules{});
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
  port->set_rules(rules_now(queue, vhost->name(), node));
  port->is_quorum = port->rules()->quorum;
  if (port->rules()->stream) port->stream = std::make_unique<stream_figures>();
  auto child = child_of(node, port, queue_rules, queue.name, "queue");
  if (recovered.count == 0 && !port->rules()->expires) {
    port->is_wanted = false;
    child.is_wanted = [weak = std::weak_ptr<queue_port>{port}] {
      const auto alive = weak.lock();
      return alive && alive->is_wanted;
    };
  } else {
    port->memory = logic_of(*port, recovered);
  }
  vhost->queues->add(std::move(child));
  return port;
}

}  // namespace posthorn
