#include "actors/exchange_keeper.hpp"

#include "actors/actor_house.hpp"
#include "actors/outgoing.hpp"
#include "actors/queue_peers.hpp"
#include "actors/removed_queue.hpp"
#include "actors/supervisor.hpp"
#include "actors/vhost.hpp"
#include "mailbox/deduplication.hpp"
#include "mailbox/properties.hpp"

#include <algorithm>
#include <deque>
#include <limits>
#include <unordered_map>
#include <utility>

namespace posthorn {

namespace {

// What goes on with one batch: about two milliseconds of a commit. One message may be larger.
constexpr std::size_t due_count_max = 512, due_size_max = std::size_t{1} << 20;
// What an operator cancels in one step.
constexpr std::size_t cancelled_at_once_max = 1000;
// Of what is remembered, so much is looked at after each batch, whether it can be forgotten.
constexpr std::size_t looked_at_max = 256;

constexpr auto retry_delay = std::chrono::milliseconds{200};
// The clock may be set: nothing is waited for longer than this without another look at it.
constexpr std::int64_t look_delay = 60'000;  // milliseconds
constexpr std::uint64_t retry_tick = 1, go_on_tick = 2, first_due_tick = 3;

// As those of a queue.
const child_spec keeper_rules{.name = "",
                              .restart = restart_kind::transient,
                              .shutdown = shutdown_rule::within(std::chrono::seconds{3}),
                              .handler_limit = std::chrono::seconds{1},
                              .budget = restart_intensity{1000, std::chrono::seconds{10}}};

// Of those messages that wait and have to be known again when they are stored.
constexpr publisher_id own_tickets{std::numeric_limits<std::uint64_t>::max()};

std::optional<deduplication_rules> rules_of(const exchange_definition& exchange) {
  const auto arguments = decode_table(std::as_bytes(std::span{exchange.arguments}));
  if (!arguments) return std::nullopt;
  auto type = exchange.type;
  if (type == exchange_type::delayed) {
    const auto inner = delayed_type_of(*arguments);
    if (const auto* known = std::get_if<exchange_type>(&inner)) type = *known;
  }
  const auto rules = deduplication_of_exchange(to_string(type), *arguments);
  const auto* valid = std::get_if<std::optional<deduplication_rules>>(&rules);
  return valid != nullptr ? *valid : std::nullopt;
}

class keeper_logic final : public mailbox_logic {
public:
  keeper_logic(queue_port& port, const exchange_definition& exchange, const recovered_mailbox& recovered,
               const recovered_keeper& kept)
      : port_{port}, origin_{*port.origin}, node_{origin_.node}, waiting_{port.durable} {
    // Those that come in order are entered at the end.
    auto sorted = kept.waiting;
    std::sort(sorted.begin(), sorted.end());
    for (const auto& id : sorted) waiting_.restore(id.at, id.due);
    waiting_.skip_to({std::max(recovered.last, recovered.used).value + 1});
    if (const auto rules = rules_of(exchange)) {
      seen_.emplace(*rules);
      is_on_disk_ = rules->on_disk && port.durable;
      for (const auto& s : kept.seen) seen_->restore(s);
      if (!is_on_disk_) (void)seen_->changes();
    }
    publish_counts();
  }

  void begin(worker_actor::pointer self, bool after_failure) override {
    self_ = self;
    if (is_gone_) return self_->quit();
    if (after_failure) {
      // What it knows may be half changed, and the store is whole: the process starts again from there.
      node_.on_fatal("a bug ended the actor of " + port_.described);
    }
    is_retrying_ = is_finishing_ = is_going_on_ = false;  // the predecessor's timers died with it
    armed_for_ = 0;
    peers_.watch_all(self_);
    run();
  }

  void on(queue_message& message) override {
    std::visit([this](auto& m) { handle(m); }, message);
  }
  void discard(queue_message& message) override { std::visit(removed_queue{port_.described}, message); }
  void on_idle() override {}
  void on_tick(const tick& t) override {
    if (t.number == retry_tick) {
      is_retrying_ = false;
    } else if (t.number == go_on_tick) {
      is_going_on_ = false;
    } else if (t.number != first_due_tick + timer_) {
      return;  // it was set anew since
    } else {
      armed_for_ = 0;
    }
    run();
  }
  void on_down(const caf::down_msg& down) override { (void)peers_.remove(down); }

private:
  // A publish that goes on, or waits under a ticket.
  struct publish {
    publisher_id from{};
    std::uint64_t number = 0;
    std::optional<deduplication_key> key;
  };

  // Nobody asks these of an exchange.
  template <class Message>
  void handle(Message& message) {
    removed_queue{port_.described}(message);
  }

  // --- messages come ---

  void handle(publish_batch& message) {
    if (is_removed_) return removed_queue{port_.described}(message);
    peers_.at(self_, message.by, message.from);
    node_.reached("publish.received");
    take_in(message.messages);
    node_.reached("publish.accepted");
    run();
  }

  void handle(arrived& message) {
    if (!message.stored.empty()) {
      const std::lock_guard guard{port_.places_mutex};
      port_.expected -= static_cast<std::uint32_t>(message.stored.size());
    }
    if (is_removed_) return;
    waiting_.arrive(message.stored);
    node_.reached("arrived");
    let_wait(message.unstored);
    run();
  }

  void take_in(std::vector<arrival>& messages) {
    const auto now = node_.now();
    std::vector<arrival> to_wait;
    for (auto& m : messages) {
      publish p{m.from, m.number, std::nullopt};
      if (seen_ && !is_new(*m.message, p, now)) continue;
      if (!port_.delays || delay_of(m.message->properties()) == 0) {
        pass(m.message, p, now);
        continue;
      }
      if (p.key) {
        tickets_.emplace(++last_ticket_, p);
        m.from = own_tickets;
        m.number = last_ticket_;
      }
      to_wait.push_back(std::move(m));
    }
    let_wait(to_wait);
  }

  // Of a duplicate, its publisher is told now, or with the original's.
  bool is_new(const envelope& message, publish& p, std::int64_t now) {
    p.key = deduplication_key_of(message.properties());
    if (!p.key) return true;
    switch (seen_->see(*p.key, now, deduplication_ttl_of(message.properties()))) {
      case seen_messages::verdict::fresh: return true;
      case seen_messages::verdict::duplicate: fx_.settle(p.from, p.number); break;
      case seen_messages::verdict::pending: duplicates_.emplace(*p.key, p); break;
    }
    node_.counters.deduplicated->inc();
    return false;
  }

  // Their places are taken from the port, where others take theirs.
  void let_wait(std::vector<arrival>& messages) {
    if (messages.empty()) return;
    const auto last = port_.last_sequence.fetch_add(messages.size(), std::memory_order_relaxed);
    waiting_.skip_to({last + 1});
    waiting_.publish(messages, node_.now());
  }

  // --- messages go on ---

  // The queues that it goes to from here; each of them with the port that takes it.
  std::vector<std::shared_ptr<queue_port>> targets_of(const envelope_ptr& message) {
    std::vector<std::shared_ptr<queue_port>> out;
    const auto vhost = origin_.vhost.lock();
    if (!vhost) return out;
    const auto where = vhost->snapshot();
    const auto* exchange = where->find_exchange(origin_.name);
    if (exchange == nullptr || exchange->definition.id != port_.id) return out;
    std::vector<queue_ptr> queues;
    std::vector<std::string_view> histories;
    where->route(*exchange, message->routing_key(), message->properties(), queues,
                 {.chance = node_.next_chance(),
                  .histories = &histories,
                  .by_key_alone = message->by_key_alone(),
                  .is_first = true});
    outgoing_.note_passage(vhost, histories, message);
    for (const auto& queue : queues) {
      if (queue->port == nullptr) continue;
      if (auto taker = node_.house->taker_of(*queue)) out.push_back(std::move(taker));
    }
    return out;
  }

  void send_on(const envelope_ptr& message, const std::vector<std::shared_ptr<queue_port>>& targets,
               std::int64_t now) {
    // One that closes meanwhile goes with what it has.
    for (const auto& to : targets) (void)outgoing_.add(*to, message, now);
    if (targets.empty()) node_.counters.unroutable->inc();
    waiting_.demand_batch();
  }

  // At once: with the next batch.
  void pass(const envelope_ptr& message, const publish& p, std::int64_t now) {
    const auto targets = targets_of(message);
    const bool is_refused =
        std::any_of(targets.begin(), targets.end(), [](const auto& to) { return to->is_full(); });
    if (is_refused) return settle(p, true);
    // What went nowhere is not remembered.
    if (targets.empty() && p.key) seen_->on_refused(*p.key);
    send_on(message, targets, now);
    passing_.push_back(p);
  }

  // Those that are due, as many as go into a batch.
  void take_due(std::int64_t now) {
    std::size_t count = 0, size = 0;
    while (count < due_count_max && size < due_size_max) {
      auto taken = waiting_.take_due(now, 1, fx_);
      if (taken.empty()) return;
      auto& due = taken.front();
      if (!due.message) due.message = load(due.id.at);
      ++count;
      size += due.message->bytes().size();
      auto next = released(*due.message);
      if (!next) {
        node_.log(node_context::severity::warning,
                  "a message of " + port_.described + " was dropped: " + next.error().text);
        continue;
      }
      send_on(*next, targets_of(*next), now);
    }
  }

  envelope_ptr load(sequence at) {
    auto messages = node_.journal.load(port_.id, {{at, at}, 1, 0});
    if (!messages)
      node_.on_fatal("cannot read from the store: " + port_.described + ": " + messages.error().text);
    if (messages->empty() || messages->front().at != at) {
      node_.on_fatal("message " + std::to_string(at.value) + " of " + port_.described +
                     " is not in the store any more");
    }
    return std::move(messages->front().message);
  }

  // --- what publishers are told ---

  void settle(const publish& p, bool is_refused = false) {
    fx_.settle(p.from, p.number, is_refused);
    if (!p.key) return;
    if (is_refused) {
      seen_->on_refused(*p.key);
    } else {
      seen_->on_stored(*p.key);
    }
    const auto [first, end] = duplicates_.equal_range(*p.key);
    for (auto d = first; d != end; ++d) fx_.settle(d->second.from, d->second.number, is_refused);
    duplicates_.erase(first, end);
  }

  // What the waiting messages' journal says of tickets, it says of those who have them.
  void settle_tickets() {
    auto said = std::exchange(fx_.settlements, {});
    for (const auto& s : said) {
      if (s.by != own_tickets) {
        fx_.settlements.push_back(s);
        continue;
      }
      for (auto number = s.first; number <= s.last; ++number) {
        const auto found = tickets_.find(number);
        if (found == tickets_.end()) continue;
        const auto p = found->second;
        tickets_.erase(found);
        settle(p);
      }
    }
  }

  // --- operators ---

  void handle(ask_keeper& message) {
    auto& order = *message.order;
    if (is_removed_) return;
    using kind = keeper_order::kind;
    if (order.what == kind::list) return order.answer(list(order));
    pending_order asked{std::move(message.order)};
    if (asked.order->what == kind::cancel_all) {
      asked.left = waiting_.count();
      clearing_.push_back(std::move(asked));
    } else {
      for (const auto& id : asked.order->which) asked.count += waiting_.cancel(id, fx_) ? 1U : 0U;
      orders_.push_back(std::move(asked));
    }
    run();
  }

  result<std::vector<waiting_message>> list(const keeper_order& order) {
    std::vector<waiting_message> out;
    for (const auto& id : waiting_.list(order.from, order.count_max)) {
      auto message = waiting_.find_unstored(id.at);
      if (!message) message = load(id.at);
      out.push_back({id, std::string{message->routing_key()},
                     std::string{message_id_of(message->properties()).value_or("")}, message->body().size()});
    }
    return out;
  }

  void clear_some() {
    auto& asked = clearing_.front();
    const auto count = waiting_.purge(std::min<std::uint64_t>(asked.left, cancelled_at_once_max), fx_);
    asked.count += count;
    asked.left = count == 0 ? 0 : asked.left - count;
    if (asked.left != 0) return;
    orders_.push_back(std::move(asked));
    clearing_.pop_front();
  }

  void answer_orders() {
    auto unanswered = std::exchange(orders_, {});
    for (auto& o : unanswered) {
      if (o.is_sent) {
        o.order->answer(result<std::uint64_t>{o.count});
      } else {
        orders_.push_back(std::move(o));
      }
    }
  }

  // --- removal ---

  // What has been taken from publishers to go on at once still goes on: it was here before the exchange went.
  void handle(queue_removed_now& message) {
    const auto until_done = std::move(message.self);
    is_removed_ = true;
    waiting_.settle_all(fx_);
    settle_tickets();
    waiting_ = delayed_messages{port_.durable};
    orders_.clear();
    clearing_.clear();
    outgoing_.writes.seen.clear();
    port_.close_places();
    publish_counts();
    send_rest();
  }

  void send_rest() {
    if (!is_writing_ && !is_retrying_) {
      if (outgoing_.empty()) return end();
      journal_batch last;
      last.moves = true;
      send_batch(std::move(last));
    }
    peers_.send(self_, fx_);
  }

  void end() {
    is_gone_ = true;
    for (const auto& p : std::exchange(passing_, {})) settle(p);
    for (const auto& [key, p] : std::exchange(duplicates_, {})) fx_.settle(p.from, p.number);
    peers_.send(self_, fx_);
    peers_.clear();
    port_.close();
    self_->quit();
  }

  void handle(finish_queue& message) {
    if (message.who != self_->address()) return;
    is_finishing_ = true;
    run();
  }

  // --- the journal ---

  void handle(journal_written&) {
    if (!std::exchange(is_writing_, false)) return;
    under_way_.reset();
    if (!is_removed_) waiting_.on_committed(fx_);
    for (const auto& p : std::exchange(passing_under_way_, {})) settle(p);
    if (is_removed_) return send_rest();
    settle_tickets();
    answer_orders();
    if (seen_) seen_->expire(node_.now(), looked_at_max);
    run();
  }

  void handle(journal_unwritten& message) {
    if (!std::exchange(is_writing_, false)) return;
    if (under_way_) {
      // What it has for others stands before what came since.
      under_way_->append(std::move(outgoing_));
      outgoing_ = std::move(*under_way_);
      under_way_.reset();
    }
    passing_.insert(passing_.begin(), passing_under_way_.begin(), passing_under_way_.end());
    passing_under_way_.clear();
    for (auto& o : orders_) o.is_sent = false;
    is_retrying_ = true;
    self_->delayed_send(self_, retry_delay, tick{retry_tick});
    if (is_removed_) return outgoing_.writes.seen.clear();
    waiting_.on_not_committed(std::move(message.batch), fx_);
    settle_tickets();
    run();
  }

  void send_batch(journal_batch batch) {
    is_writing_ = true;
    passing_under_way_ = std::exchange(passing_, {});
    if (!outgoing_.empty()) under_way_ = std::make_shared<outgoing>(std::exchange(outgoing_, {}));
    node_.to_journal(write_batch{port_.shared_from_this(), port_.id, std::move(batch), under_way_});
    node_.reached("batch.sent");
  }

  // What is new among the remembered belongs to the batch that has the messages themselves.
  void note_seen() {
    auto changes = seen_->changes();
    if (!is_on_disk_ || changes.empty()) return;
    for (const auto& c : changes) outgoing_.writes.seen.push_back({port_.id, c});
    waiting_.demand_batch();
  }

  // After every handler.
  void run() {
    if (is_removed_) return send_rest();
    const auto now = node_.now();
    if (!clearing_.empty()) clear_some();
    if (!is_writing_ && !is_retrying_) {
      take_due(now);
      if (seen_) note_seen();
      // With what is remembered, all of the messages that it is about.
      constexpr batch_limits all{std::numeric_limits<std::size_t>::max(),
                                 std::numeric_limits<std::size_t>::max()};
      auto batch = waiting_.take_batch(seen_ && is_on_disk_ ? all : batch_limits{});
      if (!waiting_.has_unsent_erasures()) {
        for (auto& o : orders_) o.is_sent = true;
      }
      if (!batch.empty()) {
        send_batch(std::move(batch));
      } else {
        answer_orders();
        if (is_finishing_ && clearing_.empty()) self_->quit();
      }
    }
    settle_tickets();
    peers_.send(self_, fx_);
    fx_.clear();
    publish_counts();
    arm(now);
  }

  // What is due while a batch is written goes on when it is.
  void arm(std::int64_t now) {
    if (!clearing_.empty() && !std::exchange(is_going_on_, true)) self_->send(self_, tick{go_on_tick});
    const auto due = waiting_.next_due();
    if (!due || is_writing_ || is_retrying_) return;
    const auto next = std::min(std::max(*due, now), now + look_delay);
    if (armed_for_ != 0 && armed_for_ <= next) return;
    armed_for_ = next;
    self_->delayed_send(self_, std::chrono::milliseconds{next - now}, tick{first_due_tick + ++timer_});
  }

  void publish_counts() {
    port_.ready.store(waiting_.count(), std::memory_order_relaxed);
    port_.resident.store(waiting_.footprint(), std::memory_order_relaxed);
  }

  struct pending_order {
    std::shared_ptr<keeper_order> order;
    std::uint64_t count = 0, left = 0;
    bool is_sent = false;  // its erasures are in the batch under way
  };

  worker_actor::pointer self_ = nullptr;  // the actor of now

  // fixed after start
  queue_port& port_;
  const queue_origin& origin_;
  node_context& node_;
  bool is_on_disk_ = false;  // what is remembered

  delayed_messages waiting_;
  std::optional<seen_messages> seen_;  // none: it remembers nothing
  queue_peers peers_;
  effects fx_;
  std::unordered_map<std::uint64_t, publish> tickets_;
  std::uint64_t last_ticket_ = 0;
  std::unordered_multimap<deduplication_key, publish> duplicates_;  // of what is not stored yet

  outgoing outgoing_;                                 // goes with the next batch
  std::shared_ptr<outgoing> under_way_;               // went with the batch under way
  std::vector<publish> passing_, passing_under_way_;  // whose messages those are
  std::vector<pending_order> orders_;                 // to be answered
  std::deque<pending_order> clearing_;
  std::uint64_t timer_ = 0;     // the last that was set
  std::int64_t armed_for_ = 0;  // milliseconds since 1970; 0: it is not
  bool is_writing_ = false;     // a batch is under way
  bool is_retrying_ = false;    // the next batch waits for room
  bool is_going_on_ = false, is_finishing_ = false;
  bool is_removed_ = false, is_gone_ = false;
};

error not_there() { return {errc::unreachable, "there is no such exchange (any more)"}; }

}  // namespace

keeper_order::~keeper_order() {
  if (on_list) on_list(not_there());
  if (on_cancelled) on_cancelled(not_there());
}

void keeper_order::answer(result<std::vector<waiting_message>> found) {
  if (const auto tell = std::exchange(on_list, nullptr)) tell(std::move(found));
}

void keeper_order::answer(result<std::uint64_t> cancelled) {
  if (const auto tell = std::exchange(on_cancelled, nullptr)) tell(cancelled);
}

std::shared_ptr<queue_port> add_keeper(node_context& node, const std::shared_ptr<vhost_port>& vhost,
                                       const exchange_definition& exchange,
                                       const recovered_mailbox& recovered, const recovered_keeper& kept) {
  auto port = std::make_shared<queue_port>();
  port->origin = std::make_unique<const queue_origin>(queue_origin{node, vhost, exchange.name, false});
  port->described = "exchange '" + exchange.name + "' in vhost '" + vhost->name() + "'";
  port->id = exchange.id;
  port->durable = exchange.durable;
  port->delays = exchange.type == exchange_type::delayed;
  port->last_sequence = std::max(recovered.last, recovered.used).value;
  port->memory = std::make_unique<keeper_logic>(*port, exchange, recovered, kept);
  child_definition child;
  child.spec = keeper_rules;
  child.spec.name = path_part(exchange.name);
  child.kind = "exchange";
  const std::weak_ptr<queue_port> weak = port;
  child.start = [&node, weak]() -> caf::actor {
    const auto alive = weak.lock();
    return alive ? start_worker(node.system, alive) : caf::actor{};
  };
  child.stop = [weak](const caf::actor& running) {
    if (const auto alive = weak.lock()) alive->post(finish_queue{running.address()});
  };
  child.figures = [weak]() -> actor_figures {
    const auto alive = weak.lock();
    return alive ? figures_of(*alive) : actor_figures{};
  };
  vhost->exchanges->add(std::move(child));
  return port;
}

}  // namespace posthorn
