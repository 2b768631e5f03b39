// The mailbox against a model of it that is slow and obviously right, under long random sequences of commands: with a
// store that applies batches as persist does, batches that fail wholly or in part, crashes, restarts after which holders
// claim what they hold, the rules of a queue under a clock of its own, and budgets of memory so small that messages are
// folded away, spilled and read back all the time.
#include "mailbox/mailbox.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;

namespace {

struct wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void must(bool condition, const char* what) {
  if (!condition) throw wrong{what};
}

struct settings {
  bool durable = true;
  std::size_t resident_max = 2000;
  unsigned persistent_percent = 60;
  bool large_bodies = false;         // some do not fit the budget at all
  bool front_may_be_written = true;  // of a batch that failed
  bool budget_changes = true;
  unsigned expiring_percent = 0;  // of the messages have an expiration of their own
  bool restarts = false;          // of the actor around the mailbox
  bool crashes = true;
  unsigned priority_percent = 0;  // of the messages have a priority
  unsigned known_percent =
      0;  // of the messages were in a queue before, and came from there with what it had counted
  bool consumer_priorities = false;
  bool others_store = false;  // messages at places that were given away
  bool heard_late = false;    // and the mailbox hears of it when it has done something else in between
  std::chrono::milliseconds consumer_timeout{0};
  bool whose_turn = false;  // is checked: nothing expires, nothing is refused, and memory never ends
  mailbox_rules rules{};
};

class world {
public:
  world(std::uint64_t seed, settings s) : settings_{s}, random_{seed} {
    box_.emplace(s.durable, limits(), recovered_mailbox{}, s.rules);
    in_order_ = s.rules.single_active;
  }

  void run(std::size_t steps) {
    for (step_ = 0; step_ < steps; ++step_) {
      now_ += static_cast<std::int64_t>(below(8));
      random_command();
      look_at_consumers();
      if (chance(80)) dispatch();
      check();
    }
    drain();
  }

  [[nodiscard]] std::string where() const { return "step " + std::to_string(step_) + ", " + doing_; }

private:
  enum class place { ready, held, gone, aside };
  enum class kept { unsent, sent, stored };  // of a message that is persistent
  // The first is delivered first.
  struct ready_place {
    int rank = 0;
    bool fresh = true;
    std::uint64_t order = 0;
    sequence at{};

    friend auto operator<=>(const ready_place&, const ready_place&) = default;
  };
  struct message {
    std::uint64_t tag = 0;
    publisher_id from{};
    std::uint64_t number = 0;
    std::size_t body_size = 0, footprint = 0;
    bool persistent = false;
    place where = place::ready;
    kept journal = kept::unsent;
    bool returned = false, redelivered = false, settled = false;
    bool in_store = false;  // it need not survive, and is in the store all the same
    std::int64_t expires_at = 0;
    std::uint32_t attempts = 0;
    std::uint32_t returns = 0;
    bool counted = false;               // here, since the last start
    bool may_go_at_once = false;        // to somebody who does not hear that it was delivered before
    std::uint32_t attempts_before = 0;  // in an earlier queue
    std::optional<std::uint8_t> priority{};
    std::uint64_t key = 0;
    bool dead = false, copied = false;  // a dead letter, of which a copy is stored elsewhere
    ready_place stands{};               // while it is ready
    std::int64_t held_since = 0;
    std::int64_t due = 0;  // while it stands aside; 0: a dead letter that its owner has at hand
    bool dying = false;    // a dead letter that stands aside
    death_reason why = death_reason::expired;
    bool died_delivered = false;
    // While it is held: the order in which a quorum queue takes back what somebody held.
    std::pair<sequence, std::uint64_t> taken{};
  };
  struct dying {
    sequence at{};
    std::uint64_t tag = 0;
    death_reason why = death_reason::expired;
    bool delivered = false;
    std::uint32_t attempts = 0, returns = 0;
    bool waits = false;
  };
  struct consumer {
    consumer_spec spec;
    bool consuming = false;
    std::set<sequence> held;
    std::set<sequence> owed;  // it took too long for them
    bool suspended = false;
  };
  struct stored {
    envelope_ptr message;
    bool transient = false;
    std::int64_t expires_at = 0;
  };
  struct given_place {
    sequence at{};
    message what;
    envelope_ptr envelope;
    bool stored = false;
  };
  struct returning_holder {
    consumer_spec spec;
    bool consuming = false;
    std::vector<sequence> held;
  };

  // --- chance ---

  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }
  bool chance(unsigned percent) { return below(100) < percent; }

  [[nodiscard]] mailbox_limits limits() const {
    return {settings_.resident_max, settings_.consumer_timeout, dead_letter_retry};
  }
  static constexpr std::chrono::milliseconds dead_letter_retry{25};

  static constexpr std::size_t body_size_most = 300;
  static constexpr std::size_t footprint_max = sizeof(envelope) + 80 + body_size_most + 8;

  // --- commands ---

  void random_command() {
    const bool full = ready_.size() > 400;
    switch (below(20)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4: return full ? answer(true) : publish();
      case 5:
      case 6:
      case 7: return answer(true);
      case 8: return chance(40) ? reject() : answer(false);
      case 9: return fetch();
      case 10: return add_consumer();
      case 11: return settings_.others_store && chance(60) ? chance(50) ? give_place() : arrive() : grant();
      case 12: return chance(30) ? cancel() : grant();
      case 13: return chance(40) ? release() : dispatch();
      case 14:
      case 15:
      case 16: return journal();
      case 17: return chance(40) ? expire() : chance(70) ? resume() : limit();
      case 18: return chance(8) ? purge() : dispatch();
      default:
        if (!settings_.crashes || !chance(15)) return bury();
        return settings_.restarts && chance(60) ? restart() : crash();
    }
  }

  void publish() {
    // What happens by itself may need what is only in the store, for which a publish does not wait.
    if (something_is_due()) dispatch();
    doing_ = "publish";
    std::vector<arrival> arrivals;
    std::vector<message> made;
    const publisher_id from{1 + below(3) + generation_ * 10};
    for (auto left = 1 + below(8); left > 0; --left) {
      message m;
      m.tag = ++last_tag_;
      m.from = from;
      m.number = ++numbers_[from];
      m.body_size = 8 + below(body_size_most - 7);
      if (settings_.large_bodies && chance(5)) m.body_size = settings_.resident_max + below(2000);
      const bool asks = below(100) < settings_.persistent_percent;
      m.persistent = settings_.durable && asks;
      std::vector<std::byte> body(m.body_size);
      std::memcpy(body.data(), &m.tag, sizeof m.tag);
      basic_properties p;
      if (below(100) < settings_.priority_percent)
        p.priority = m.priority = static_cast<std::uint8_t>(below(40));
      m.key = below(6);
      field_table headers;
      if (settings_.rules.hash_header)
        headers.add("h", field_value::of_string("key " + std::to_string(m.key)));
      envelope_marks marks;
      if (below(100) < settings_.known_percent) {
        marks = {.dead_lettered = true, .delivered_before = true};
        m.redelivered = true;
        m.attempts_before = static_cast<std::uint32_t>(below(4));
        if (m.attempts_before != 0) headers.add("x-delivery-count", field_value::of_long(m.attempts_before));
      }
      if (!headers.empty()) p.headers = headers;
      auto ttl = settings_.rules.message_ttl;
      if (settings_.expiring_percent != 0 && below(100) < settings_.expiring_percent) {
        const std::chrono::milliseconds own{below(300)};
        p.expiration = std::to_string(own.count());
        ttl = ttl ? std::min(*ttl, own) : own;
      }
      if (ttl) m.expires_at = now_ + ttl->count();
      std::string properties;
      encode_properties(p, properties);
      const auto key = settings_.rules.hash_header ? "k" : "key " + std::to_string(m.key);
      arrivals.push_back(
          {make_envelope("x", key, std::as_bytes(std::span{properties}), asks, body, marks), from, m.number});
      m.footprint = arrivals.back().message->footprint();
      made.push_back(m);
    }
    box_->skip_to({next_});
    box_->publish(arrivals, fx_, now_);
    std::vector<sequence> here;
    for (auto& m : made) {
      const auto is_too_much = [&] {
        if (!refusing()) return false;
        if (!settings_.rules.quorum) return too_many(1, m.body_size);
        std::uint64_t size = 0;
        for (const auto at : dead_here_) size += messages_.at(at).body_size;
        return too_many(dead_here_.size(), size);
      };
      if (is_too_much()) {
        time_passes();
        take_deliveries({next_});
        if (!ready_.empty()) (void)next_in_turn();
        apply_rules();
        seen_up_to_ = next_;
      }
      if (is_too_much()) {
        must(refused_.insert({m.from, m.number}).second, "a publish is refused once");
        const bool dies = settings_.rules.on_overflow == mailbox_rules::overflow::reject_publish_dlx;
        if (dies && settings_.rules.dead_letter_exchange)
          deaths_.push_back({{}, m.tag, death_reason::maxlen, m.redelivered, 0, 0});
        continue;
      }
      const sequence at{next_++};
      m.may_go_at_once = m.redelivered && ready_.empty() && !settings_.rules.quorum;
      // Somebody is looked for who waits.
      if (m.may_go_at_once && !in_order_) (void)next_in_turn();
      messages_[at] = m;
      by_number_[{from, m.number}] = at;
      stand(at, true);
      here.push_back(at);
      if ((settings_.rules.quorum || settings_.rules.priority_max) && ready_.size() == 1) {
        time_passes();
        take_deliveries({next_});
        if (!ready_.empty()) (void)next_in_turn();
        apply_rules();
        seen_up_to_ = next_;
      }
    }
    take_effects();
    for (const auto at : here) {
      const auto& m = messages_[at];
      must((m.where != place::ready && m.where != place::aside) || m.settled != m.persistent,
           "I2: settled at once if it need not survive");
    }
  }

  // Somebody gets a place for a message, which he stores himself. When it is stored, the mailbox hears of it.
  void give_place() {
    doing_ = "give_place";
    if (given_.size() > 4) return;
    message m;
    m.tag = ++last_tag_;
    m.from = {500};
    m.number = ++numbers_[m.from];
    m.body_size = 8 + below(body_size_most - 7);
    m.persistent = m.settled = true;
    m.journal = kept::stored;
    m.key = below(6);
    std::vector<std::byte> body(m.body_size);
    std::memcpy(body.data(), &m.tag, sizeof m.tag);
    basic_properties p;
    if (below(100) < settings_.priority_percent)
      p.priority = m.priority = static_cast<std::uint8_t>(below(40));
    if (settings_.rules.hash_header)
      p.headers = field_table{{"h", field_value::of_string("key " + std::to_string(m.key))}};
    std::string properties;
    encode_properties(p, properties);
    const auto key = settings_.rules.hash_header ? "k" : "key " + std::to_string(m.key);
    const auto made = make_envelope("x", key, std::as_bytes(std::span{properties}), true, body);
    m.footprint = made->footprint();
    m.expires_at = expiry_of(&settings_.rules, *made, now_);
    given_.push_back({{next_++}, m, made});
  }

  void arrive() {
    doing_ = "arrive";
    if (given_.empty()) return;
    const auto which = given_.begin() + static_cast<std::ptrdiff_t>(below(given_.size()));
    if (!std::exchange(which->stored, true)) {
      store_[which->at] = {which->envelope, false, which->what.expires_at};
      if (settings_.heard_late && chance(50)) return;
    }
    const auto g = *which;
    given_.erase(which);
    std::vector<loaded_message> arrived{{g.at, g.envelope, g.what.expires_at}};
    box_->arrive(arrived);
    seen_up_to_ = std::min(seen_up_to_, g.at.value);
    messages_[g.at] = g.what;
    stand(g.at, true);
  }

  void dispatch() {
    doing_ = "dispatch";
    if (std::exchange(came_back_, false) && !settings_.rules.quorum) {
      while (!refusing() && too_many(0, 0)) drop_front(death_reason::maxlen);
    }
    box_->observe(std::chrono::milliseconds{now_}, random_());
    box_->dispatch(fx_, now_);
    while (load()) box_->dispatch(fx_, now_);
    time_passes();
    take_deliveries();
    if (!ready_.empty()) (void)next_in_turn();
    apply_rules();
    seen_up_to_ = next_;
    take_effects();
    if (ready_.empty()) return;
    std::size_t held_size = 0;
    for (const auto& [at, m] : messages_) held_size += m.where == place::held ? m.footprint : 0;
    if (held_size >= settings_.resident_max && box_->resident_size() >= settings_.resident_max) return;
    if (settings_.rules.single_active) {
      must(!active_ || gives_way_ || !able(consumers_.at(*active_)),
           "a ready message waits although the active consumer can take it");
      return;
    }
    if (hashes()) return;
    for (const auto& [id, c] : consumers_)
      must(!able(c), "a ready message waits although a consumer can take it");
  }

  void expire() {
    doing_ = "expire";
    const bool head_only = aside_.empty() && !may_take_too_long();
    const auto expected = box_->next_expiry();
    if (head_only && expected && *expected != 0) {
      must(front() != nullptr && front()->expires_at == *expected, "the head is the next to expire");
    }
    box_->expire(now_, fx_);
    while (load()) box_->expire(now_, fx_);
    apply_rules();
    take_effects();
    const auto next = box_->next_expiry();
    for (const auto& [due, at] : aside_) must(next && *next <= due, "when something happens next is known");
    for (const auto& [id, c] : consumers_) {
      for (const auto at : c.held) {
        const auto limit = time_limit_of(c);
        must(limit == 0 || (next && *next <= messages_.at(at).held_since + limit),
             "when somebody has taken too long is known");
      }
    }
    if (!head_only || !aside_.empty()) return;
    const auto* first = front();
    must(next.value_or(0) == (first == nullptr ? 0 : first->expires_at), "when the head expires is known");
  }

  // --- time ---

  [[nodiscard]] bool may_take_too_long() const {
    return settings_.rules.quorum &&
           (settings_.rules.consumer_timeout || settings_.consumer_timeout.count() != 0);
  }

  [[nodiscard]] bool something_is_due() const {
    if (!aside_.empty() && aside_.begin()->first <= now_) return true;
    return std::any_of(consumers_.begin(), consumers_.end(), [this](const auto& c) {
      const auto limit = time_limit_of(c.second);
      return limit != 0 && std::any_of(c.second.held.begin(), c.second.held.end(), [&](sequence at) {
               return messages_.at(at).held_since + limit <= now_;
             });
    });
  }

  // Milliseconds; 0: none.
  [[nodiscard]] std::int64_t time_limit_of(const consumer& c) const {
    const bool never_consumed = c.spec.id.value >= 1000 && c.spec.id.value < 1003;
    if (!settings_.rules.quorum || !c.spec.acknowledges || never_consumed) return 0;
    if (c.spec.timeout) return c.spec.timeout->count();
    return settings_.rules.consumer_timeout.value_or(settings_.consumer_timeout).count();
  }

  // What happens by itself at the beginning of a dispatch: who took too long gives back, and then those that stand aside go
  // on, in the order in which they are due.
  void time_passes() {
    std::vector<consumer_id> idle;
    for (auto& [id, c] : consumers_) {
      const auto limit = time_limit_of(c);
      std::vector<sequence> late;
      for (const auto at : c.held) {
        if (limit != 0 && messages_.at(at).held_since + limit <= now_) late.push_back(at);
      }
      if (late.empty()) continue;
      for (const auto at : late) {
        c.held.erase(at);
        take_back(at, false);
      }
      if (!c.consuming) {
        if (c.held.empty()) idle.push_back(id);
        continue;
      }
      c.owed.insert(late.begin(), late.end());
      if (std::exchange(c.suspended, true)) continue;
      std::erase(joined_, id);
      timeouts_.push_back(id);
    }
    for (const auto id : idle) consumers_.erase(id);
    while (!aside_.empty() && aside_.begin()->first <= now_) {
      const auto at = aside_.begin()->second;
      aside_.erase(aside_.begin());
      auto& m = messages_.at(at);
      m.due = 0;
      if (m.dying) {
        deaths_.push_back({at, m.tag, m.why, m.died_delivered, m.attempts, m.returns, true});
      } else {
        stand(at, false);
      }
    }
    if (settings_.rules.quorum) look_at_consumers();
  }

  // It is answered, late or not.
  void answer_owed(consumer& c, const std::vector<sequence_range>& ranges) {
    if (!c.suspended) return;
    for (const auto& r : ranges) c.owed.erase(c.owed.lower_bound(r.first), c.owed.upper_bound(r.last));
    if (!c.owed.empty()) return;
    c.suspended = false;
    if (c.consuming) joined_.push_back(c.spec.id);
  }

  // What the owner of the mailbox does with a dead letter that waits.
  void try_to_bury(const dying& d) {
    auto& m = messages_.at(d.at);
    if (!always_a_way_ && chance(50)) {
      m.due = now_ + dead_letter_retry.count();
      aside_.insert({m.due, d.at});
      box_->on_no_way(d.at, now_);
      return;
    }
    m.where = place::gone;
    m.dying = false;
    m.dead = true;
    dead_here_.erase(d.at);
    if (m.persistent && m.journal == kept::unsent) moved_.push_back(d.at);
    pending_.push_back(d);
    box_->on_buried(d.at, fx_);
  }

  // --- the rules ---

  [[nodiscard]] bool refusing() const {
    return settings_.rules.on_overflow != mailbox_rules::overflow::drop_head;
  }

  // With so much more than is ready now.
  [[nodiscard]] bool too_many(std::uint64_t more_count, std::uint64_t more_size) const {
    auto size = more_size;
    for (const auto& r : ready_) size += messages_.at(r.at).body_size;
    const auto count = ready_.size() + more_count;
    const auto& rules = settings_.rules;
    return (rules.length_max && count > *rules.length_max) || (rules.size_max && size > *rules.size_max);
  }

  [[nodiscard]] const message* front() const {
    return ready_.empty() ? nullptr : &messages_.at(ready_.begin()->at);
  }

  void drop_front(death_reason why) {
    const auto at = ready_.begin()->at;
    ready_.erase(ready_.begin());
    die(at, why);
  }

  void drop_what_expired(std::int64_t before) {
    while (front() != nullptr && front()->expires_at != 0 && front()->expires_at < before) {
      drop_front(death_reason::expired);
    }
  }

  // What nobody may get any more.
  void drop_too_late() {
    while (front() != nullptr && front()->expires_at != 0 &&
           (front()->expires_at < now_ ||
            (front()->expires_at == now_ && ready_.begin()->at.value < seen_up_to_)))
      drop_front(death_reason::expired);
  }

  // What stands at the head when nothing more can be delivered.
  void apply_rules() {
    for (;;) {
      drop_what_expired(now_ + 1);
      if (refusing() || front() == nullptr || !too_many(0, 0)) return;
      drop_front(death_reason::maxlen);
    }
  }

  [[nodiscard]] bool hashes() const {
    return settings_.rules.dispatch == balance_algorithm::consistent_hash && !settings_.rules.single_active;
  }

  [[nodiscard]] int level_of(const message& m) const {
    const auto& rules = settings_.rules;
    if (rules.quorum) return std::min<int>(m.priority.value_or(4), 31);
    return rules.priority_max ? std::min<int>(m.priority.value_or(0), *rules.priority_max) : 0;
  }

  void stand(sequence at, bool fresh) {
    auto& m = messages_.at(at);
    m.where = place::ready;
    m.stands = {-level_of(m), fresh, at.value, at};
    if (!fresh && settings_.rules.quorum) m.stands = {-1000, false, ++return_count_, at};
    ready_.insert(m.stands);
  }

  // --- whose turn it is ---

  // Nobody knows better than a list for each priority.
  std::optional<consumer_id> next_in_turn() {
    for (auto& [priority, row] : turns_) {
      while (!row.empty()) {
        if (able(consumers_.at(row.front()))) return row.front();
        row.erase(row.begin());
      }
    }
    return std::nullopt;
  }

  void leave_turns(consumer_id id) {
    for (auto& [priority, row] : turns_) std::erase(row, id);
  }

  // After everything that changes what consumers can take, and who there is.
  void look_at_consumers() {
    for (auto& [priority, row] : turns_) {
      std::erase_if(row, [&](consumer_id id) {
        const auto found = consumers_.find(id);
        if (found == consumers_.end() || !found->second.consuming) return true;
        return settings_.rules.quorum && !able(found->second);
      });
    }
    for (const auto& [id, c] : consumers_) {
      auto& row = turns_[-c.spec.priority];
      if (able(c) && std::find(row.begin(), row.end(), id) == row.end()) row.push_back(id);
    }
    if (!settings_.rules.single_active) return;
    if (active_ && (!consumers_.contains(*active_) || !consumers_.at(*active_).consuming ||
                    consumers_.at(*active_).suspended)) {
      active_.reset();
      gives_way_ = false;
    }
    // Ids grow in the order in which consumers come.
    std::optional<consumer_id> best;
    for (const auto id : joined_) {
      const auto found = consumers_.find(id);
      if (found == consumers_.end() || !found->second.consuming || found->second.suspended) continue;
      if (!best || found->second.spec.priority > consumers_.at(*best).spec.priority) best = id;
    }
    if (!active_) {
      active_ = best;
    } else if (settings_.rules.quorum) {
      const auto& now = consumers_.at(*active_);
      const bool higher = consumers_.at(*best).spec.priority > now.spec.priority;
      gives_way_ = higher && !now.held.empty();
      if (higher && now.held.empty()) active_ = best;
    }
    must(box_->active_consumer() == active_, "the one that is active is the one that has to be");
  }

  void die(sequence at, death_reason why, bool failed = false) {
    if (!settings_.rules.dead_letter_exchange) return end(at);
    auto& m = messages_.at(at);
    const bool delivered = failed || (settings_.rules.quorum && m.redelivered);
    if (settings_.rules.at_least_once) {
      m.where = place::aside;
      m.dying = true;
      m.due = 0;
      m.why = why;
      m.died_delivered = delivered;
      dead_here_.insert(at);
      deaths_.push_back({at, m.tag, why, delivered, m.attempts, m.returns, true});
      return;
    }
    m.where = place::gone;
    m.dead = true;
    deaths_.push_back({at, m.tag, why, delivered, m.attempts, m.returns});
    if (m.persistent && m.journal == kept::unsent) moved_.push_back(at);
  }

  bool load() {
    if (!fx_.load) return false;
    const auto request = *std::exchange(fx_.load, std::nullopt);
    must(request.where.first <= request.where.last, "a load names a range");
    std::vector<loaded_message> found;
    std::size_t size = 0;
    for (auto s = store_.lower_bound(request.where.first);
         s != store_.end() && s->first <= request.where.last; ++s) {
      if (buried(s->first)) continue;
      if (!found.empty() && (found.size() >= request.count_max || size >= request.size_max)) break;
      auto copy = envelope::read(s->second.message->bytes());
      must(copy.has_value(), "what was stored can be read");
      size += (*copy)->footprint();
      found.push_back({s->first, std::move(*copy), s->second.expires_at});
    }
    must(!found.empty(), "a message that the mailbox asks for is in the store");
    box_->on_loaded(found);
    return true;
  }

  void fetch() {
    doing_ = "fetch";
    const consumer_id id{1000 + below(3)};
    const bool acknowledges = chance(70);
    consumers_.try_emplace(id, consumer{{.id = id, .acknowledges = true}, false, {}, {}});
    fetching_ = acknowledges;
    bool got = box_->fetch(id, acknowledges, fx_, now_);
    while (!got && load()) got = box_->fetch(id, acknowledges, fx_, now_);
    drop_too_late();
    must(got == !ready_.empty(), "a fetch finds a message when there is one");
    must(fx_.deliveries.size() == (got ? 1 : 0), "a fetch delivers one message");
    must(!got || fx_.deliveries.front().to == id, "a fetch delivers to who fetched");
    take_deliveries();
    fetching_.reset();
    if (got) {
      box_->expire(now_, fx_);
      while (load()) box_->expire(now_, fx_);
      apply_rules();
    }
    take_effects();
    forget_if_idle(id);
  }

  void add_consumer() {
    if (consumers_.size() > 8) return;
    doing_ = "add_consumer";
    consumer_spec spec;
    spec.id = {++last_consumer_};
    spec.prefetch = static_cast<std::uint32_t>(below(6));
    spec.acknowledges = chance(80);
    spec.credit = static_cast<std::int64_t>(below(3000));
    if (settings_.consumer_priorities) spec.priority = static_cast<std::int64_t>(below(3)) - 1;
    spec.weight = static_cast<std::uint32_t>(1 + below(4));
    if (settings_.consumer_timeout.count() != 0 && chance(20))
      spec.timeout = std::chrono::milliseconds{chance(30) ? 0 : 1 + below(200)};
    enter(spec);
  }

  void enter(const consumer_spec& spec) {
    box_->add_consumer(spec);
    auto& c = consumers_[spec.id];
    c.spec = spec;
    c.consuming = true;
    turns_[-spec.priority].push_back(spec.id);
    joined_.push_back(spec.id);
    in_order_ = in_order_ || spec.priority != 0;
  }

  void grant() {
    doing_ = "grant";
    if (auto* c = any_consumer()) {
      const auto bytes = static_cast<std::int64_t>(below(4000));
      c->spec.credit += bytes;
      box_->grant(c->spec.id, bytes);
    }
    box_->grant({999'999}, 10);
  }

  void cancel() {
    doing_ = "cancel";
    auto* c = any_consumer();
    if (c == nullptr) return;
    const auto id = c->spec.id;
    c->consuming = false;
    box_->cancel_consumer(id);
    forget_if_idle(id);
  }

  void release() {
    doing_ = "release";
    auto* c = any_consumer();
    if (c == nullptr) return;
    const auto id = c->spec.id;
    const auto how = below(3);
    for (const auto at : in_order_of_taking(*c)) take_back(at, how == 0, how != 2);
    consumers_.erase(id);
    if (how == 2) {
      box_->release(id);
    } else {
      box_->release(id, fx_, how == 0 ? blame::yes : blame::no, now_);
    }
    take_effects();
    must(!box_->known(id), "a released holder is not known any more");
  }

  [[nodiscard]] std::vector<sequence> in_order_of_taking(const consumer& c) const {
    std::vector<sequence> out{c.held.begin(), c.held.end()};
    if (settings_.rules.quorum) {
      std::sort(out.begin(), out.end(),
                [&](sequence a, sequence b) { return messages_.at(a).taken < messages_.at(b).taken; });
    }
    return out;
  }

  void answer(bool acknowledge) {
    doing_ = acknowledge ? "acknowledge" : "give_back";
    auto* c = any_consumer();
    if (c == nullptr) return;
    const auto id = c->spec.id;
    const auto ranges = some_of(*c);
    const auto how = below(3);
    for_each_held(*c, ranges, [&](sequence at) {
      if (acknowledge) {
        end(at);
      } else {
        take_back(at, how == 0, how != 2);
      }
    });
    answer_owed(*c, ranges);
    if (acknowledge) {
      box_->acknowledge(id, ranges, fx_);
    } else if (how == 2) {
      box_->give_back(id, ranges);
    } else {
      box_->give_back(id, ranges, fx_, how == 0 ? blame::yes : blame::no, now_);
    }
    take_effects();
    forget_if_idle(id);
  }

  void reject() {
    doing_ = "reject";
    auto* c = any_consumer();
    if (c == nullptr) return;
    const auto id = c->spec.id;
    const auto ranges = some_of(*c);
    const bool blames = chance(50);
    for_each_held(*c, ranges, [&](sequence at) {
      if (blames) {
        count_failure(at);
        count_return(at);
      }
      die(at, death_reason::rejected, blames);
    });
    answer_owed(*c, ranges);
    box_->reject(id, ranges, fx_, blames ? blame::yes : blame::no);
    take_effects();
    forget_if_idle(id);
  }

  template <class Each>
  static void for_each_held(consumer& c, const std::vector<sequence_range>& ranges, Each each) {
    for (const auto& r : ranges) {
      for (auto held = c.held.lower_bound(r.first); held != c.held.end() && *held <= r.last;) {
        each(*held);
        held = c.held.erase(held);
      }
    }
  }

  // A random part of what a consumer holds, with unknown messages among it.
  std::vector<sequence_range> some_of(const consumer& of) {
    const auto* c = &of;
    std::vector<sequence_range> ranges;
    if (chance(30)) {
      const auto from = below(next_), to = from + below(20);
      ranges.push_back({{from}, {to}});
    } else if (chance(50) && !c->held.empty()) {
      // All up to one of them.
      const auto last = *std::next(c->held.begin(), static_cast<std::ptrdiff_t>(below(c->held.size())));
      ranges.push_back({*c->held.begin(), last});
    } else {
      for (const auto at : c->held) {
        if (chance(50)) ranges.push_back({at, at});
      }
      if (chance(10)) std::reverse(ranges.begin(), ranges.end());
      if (chance(20)) ranges.push_back({{next_ + 5}, {next_ + 9}});
    }
    return ranges;
  }

  void purge() {
    doing_ = "purge";
    auto count = ready_.size();
    for (const auto& r : ready_) end(r.at);
    ready_.clear();
    for (auto a = aside_.begin(); a != aside_.end();) {
      if (messages_.at(a->second).dying) {
        ++a;
        continue;
      }
      ++count;
      end(a->second);
      a = aside_.erase(a);
    }
    must(box_->purge(fx_) == count, "a purge says how many it forgot");
    take_effects();
  }

  void limit() {
    doing_ = "limit_memory";
    if (!settings_.budget_changes || chance(70)) return;
    settings_.resident_max = 200 + below(4000);
    box_->limit_memory(settings_.resident_max);
  }

  // --- the journal ---

  void journal() {
    if (!box_->batch_under_way()) return take_batch();
    if (chance(75)) return commit();
    not_commit();
  }

  void take_batch() {
    doing_ = "take_batch";
    const bool expected = box_->has_unsent();
    batch_ = box_->take_batch();
    must(batch_.empty() != expected, "has_unsent says whether there is a batch");
    must(box_->batch_under_way() == expected, "a batch that is not empty is under way");
    must(!box_->has_unsent(), "all that is to be written is in the batch");
    must(box_->batch_under_way() ? box_->take_batch().empty() : true, "I4: one batch at a time");
    std::set<sequence> unsent;
    for (const auto& [at, m] : messages_) {
      if (m.persistent && m.journal == kept::unsent && m.where != place::gone) unsent.insert(at);
    }
    std::set<sequence> named;
    for (const auto& a : batch_.appends) {
      must(named.insert(a.at).second, "a batch appends a message once");
      const auto found = messages_.find(a.at);
      must(found != messages_.end() && found->second.where != place::gone,
           "only what is still there is written");
      must(tag_of(*a.message) == found->second.tag, "a message is written under its own sequence");
      must(a.transient != found->second.persistent, "what need not survive is marked in the store");
      must(a.expires_at == found->second.expires_at, "the store knows when a message expires");
      must(a.transient || unsent.erase(a.at) == 1, "a message is written once");
      must(!store_.contains(a.at) && !buried(a.at), "a message gets no place that something else has");
      for (const auto& e : batch_.erasures)
        must(a.at < e.first || e.last < a.at, "I5: a batch never erases what it appends");
      if (!a.transient) found->second.journal = kept::sent;
    }
    must(unsent.empty(), "every message that has to survive is in the next batch");
    must(batch_.moves == !pending_.empty(), "I7: the copies of dead letters belong to the next batch");
    pending_under_way_ = std::exchange(pending_, {});
    moved_under_way_ = std::exchange(moved_, {});
    for (const auto& d : pending_under_way_) {
      must(!only_stored_.contains(d.at) || present(d.at),
           "a dead letter can be read until the batch that moves it");
    }
    only_stored_.clear();
    for (const auto& e : batch_.erasures) {
      for (const auto& g : given_)
        must(g.at < e.first || e.last < g.at, "a place that was given away is not erased");
      for (auto m = messages_.lower_bound(e.first); m != messages_.end() && m->first <= e.last; ++m) {
        must(m->second.where == place::gone || (!m->second.persistent && !store_.contains(m->first)),
             "only what is gone is erased");
        must(!m->second.dead || m->second.copied || moves_now(m->first),
             "I7: a dead letter is erased with its copy");
      }
    }
  }

  [[nodiscard]] bool moves_now(sequence at) const {
    return std::any_of(pending_under_way_.begin(), pending_under_way_.end(),
                       [&](const dying& d) { return d.at == at; });
  }

  void apply(const journal_batch& batch) {
    if (batch.moves) {
      for (const auto& d : pending_under_way_) {
        if (const auto found = messages_.find(d.at); found != messages_.end()) found->second.copied = true;
      }
    }
    for (const auto& a : batch.appends) store_[a.at] = {a.message, a.transient, a.expires_at};
    for (const auto& e : batch.erasures) {
      if (e.last.value - e.first.value >= burial_width_min) {
        graves_.push_back(e);
      } else {
        store_.erase(store_.lower_bound(e.first), store_.upper_bound(e.last));
      }
    }
  }

  // A wide erasure is only noted down, and what is in it erased later, in slices.
  static constexpr std::uint64_t burial_width_min = 6;
  [[nodiscard]] bool buried(sequence at) const {
    return std::any_of(graves_.begin(), graves_.end(),
                       [&](const sequence_range& g) { return g.first <= at && at <= g.last; });
  }
  [[nodiscard]] bool present(sequence at) const { return store_.contains(at) && !buried(at); }
  void bury() {
    doing_ = "bury";
    if (graves_.empty()) return;
    const auto grave = graves_.front();
    for (auto left = below(10); left > 0; --left) {
      const auto found = store_.lower_bound(grave.first);
      if (found == store_.end() || grave.last < found->first) {
        graves_.erase(graves_.begin());
        return;
      }
      store_.erase(found);
    }
  }

  void commit() {
    doing_ = "commit";
    apply(batch_);
    for (const auto& a : batch_.appends) mark_stored(a);
    settle_moved();
    batch_ = {};
    box_->on_committed(fx_);
    take_effects();
  }

  void not_commit() {
    doing_ = "not commit";
    journal_batch unwritten, written;
    const auto front = settings_.front_may_be_written && chance(30) ? below(batch_.appends.size() + 1) : 0;
    for (std::size_t i = 0; i < batch_.appends.size(); ++i) {
      (i < front ? written : unwritten).appends.push_back(std::move(batch_.appends[i]));
    }
    const bool moved = batch_.moves && chance(30);
    written.moves = moved;
    unwritten.moves = batch_.moves && !moved;
    (chance(50) && !unwritten.moves ? written : unwritten).erasures = std::move(batch_.erasures);
    batch_ = {};
    apply(written);
    if (unwritten.moves) {
      pending_.insert(pending_.begin(), pending_under_way_.begin(), pending_under_way_.end());
      moved_.insert(moved_.begin(), moved_under_way_.begin(), moved_under_way_.end());
      moved_under_way_.clear();
    } else {
      settle_moved();
    }
    for (const auto& a : written.appends) mark_stored(a);
    for (const auto& a : unwritten.appends) {
      auto& m = messages_.at(a.at);
      if (!m.persistent) continue;
      m.journal = kept::unsent;
      if (m.where != place::gone) continue;
      if (m.dead) {
        moved_.push_back(a.at);
      } else {
        must_settle(a.at);
      }
    }
    box_->on_not_committed(std::move(unwritten), fx_);
    take_effects();
  }

  void settle_moved() {
    for (const auto at : std::exchange(moved_under_way_, {})) must_settle(at);
  }

  void mark_stored(const journal_append& a) {
    auto& m = messages_.at(a.at);
    if (m.persistent) {
      m.journal = kept::stored;
      must_settle(a.at);
    } else {
      m.in_store = true;
    }
  }

  // What was under way may have been written or not. What need not survive is gone; so is what has not been written.
  void crash() {
    doing_ = "crash";
    if (box_->batch_under_way() && chance(50)) apply(batch_);
    batch_ = {};
    for (const auto& [at, m] : messages_) {
      if (!m.persistent || !m.settled) continue;
      must(m.where == place::gone || present(at),
           "a message that was confirmed and not acknowledged outlives a crash");
      must(!m.dead || m.copied || present(at), "I7: a dead letter that was confirmed outlives a crash");
    }
    std::erase_if(store_, [](const auto& s) { return s.second.transient; });
    forget_unheard();
    recover({});
  }

  // The actor around the mailbox is started again. The store is as it is, and holders are going to claim.
  void restart() {
    doing_ = "restart";
    if (box_->batch_under_way() && chance(50)) apply(batch_);
    batch_ = {};
    forget_unheard();
    returning_.clear();
    for (const auto& [id, c] : consumers_) {
      returning_.push_back({c.spec, c.consuming, {c.held.begin(), c.held.end()}});
    }
    recover({next_ - 1});
  }

  // What others have stored, and have not told, is found in the store.
  void forget_unheard() {
    for (const auto& g : std::exchange(given_, {})) {
      if (g.stored) messages_[g.at] = g.what;
    }
  }

  void recover(sequence used) {
    std::map<sequence, message> before;
    before.swap(messages_);
    ready_.clear();
    consumers_.clear();
    turns_.clear();
    joined_.clear();
    active_.reset();
    gives_way_ = came_back_ = false;
    in_order_ = settings_.rules.single_active;
    by_number_.clear();
    numbers_.clear();
    due_.clear();
    pending_.clear();
    pending_under_way_.clear();
    aside_.clear();
    dead_here_.clear();
    moved_.clear();
    moved_under_way_.clear();
    only_stored_.clear();
    recovered_mailbox recovered;
    for (const auto& [at, s] : store_) {
      if (buried(at)) continue;
      auto m = before.at(at);
      must(m.persistent != s.transient && tag_of(*s.message) == m.tag, "what is recovered was written");
      m.where = place::ready;
      m.journal = kept::stored;
      m.in_store = s.transient;
      m.settled = m.redelivered = true;
      m.returned = m.dead = m.copied = m.dying = false;
      m.due = 0;
      m.attempts = m.returns = 0;
      m.counted = false;
      messages_[at] = m;
      stand(at, true);
      recovered.count_message(at, *s.message, m.expires_at);
    }
    recovered.used = used;
    for (const auto& g : graves_) recovered.used = std::max(recovered.used, g.last);
    next_ = std::max(recovered.last, recovered.used).value + 1;
    ++generation_;
    fx_.clear();
    box_.emplace(settings_.durable, limits(), recovered, settings_.rules);
    seen_up_to_ = next_;
    taken_last_ = {};
    taken_count_ = 0;
  }

  // A holder from before the restart says what it holds, all at once or bit by bit.
  void resume() {
    doing_ = "resume";
    if (returning_.empty()) return;
    auto& r = returning_[below(returning_.size())];
    const auto id = r.spec.id;
    if (std::exchange(r.consuming, false)) {
      if (chance(50)) r.spec.credit = 0;
      enter(r.spec);
      if (chance(50)) {
        const auto credit = static_cast<std::int64_t>(below(3000));
        box_->set_credit(id, credit);
        consumers_[id].spec.credit = credit;
      }
    }
    consumers_.try_emplace(id, consumer{r.spec, false, {}, {}});
    std::vector<loaded_message> claimed;
    std::size_t left = chance(50) ? r.held.size() : below(r.held.size() + 1);
    for (; left > 0; --left) {
      const auto which = r.held.begin() + static_cast<std::ptrdiff_t>(below(r.held.size()));
      const auto at = *which;
      r.held.erase(which);
      if (!present(at) || !messages_.contains(at)) continue;
      const auto& s = store_.at(at);
      claimed.push_back({at, envelope::read(s.message->bytes()).value(), s.expires_at});
      auto& m = messages_.at(at);
      if (m.where != place::ready) continue;
      ready_.erase(m.stands);
      m.where = place::held;
      m.taken = {at, 0};
      consumers_[id].held.insert(at);
    }
    box_->claim(r.spec, claimed);
    for (const auto at : consumers_[id].held) must(box_->holds(id, at), "what was claimed is held");
    if (r.held.empty()) returning_.erase(returning_.begin() + (&r - returning_.data()));
    take_effects();
    forget_if_idle(id);
  }

  // Everything is handed out and acknowledged; then nothing may be left anywhere.
  void drain() {
    while (!given_.empty()) arrive();
    doing_ = "drain";
    always_a_way_ = true;
    now_ += 1'000'000;
    dispatch();
    doing_ = "drain";
    for (int round = 0; round < 3; ++round) {
      if (box_->batch_under_way()) commit();
      take_batch();
      if (box_->batch_under_way()) commit();
    }
    check();
    for (const auto& [at, m] : messages_) {
      must(m.settled, "I2: every publish is settled in the end");
      must(!m.dead || m.copied, "I7: every dead letter is moved in the end");
      must(!m.persistent || m.where == place::gone || present(at), "what has to survive is in the store");
    }
    for (const auto& [at, s] : store_) {
      if (buried(at)) continue;
      const auto found = messages_.find(at);
      must(found != messages_.end() && found->second.where != place::gone,
           "what is gone is not in the store");
    }
    while (!consumers_.empty()) {
      auto& c = consumers_.begin()->second;
      const auto id = c.spec.id;
      for (const auto at : in_order_of_taking(c)) take_back(at, false, false);
      consumers_.erase(id);
      box_->release(id);
    }
    while (!aside_.empty()) {
      now_ += 1'000'000;
      dispatch();
    }
    doing_ = "drain: consuming all";
    consumer_spec all;
    all.id = {5'000'000};
    all.credit = std::int64_t{1} << 40;
    all.timeout = std::chrono::milliseconds{0};
    enter(all);
    look_at_consumers();
    while (!ready_.empty()) {
      dispatch();
      auto& c = consumers_.at(all.id);
      if (c.held.empty() && front() == nullptr) break;
      must(!c.held.empty(), "a lone consumer gets something");
      std::vector<sequence_range> which{{*c.held.begin(), *c.held.rbegin()}};
      for (const auto at : c.held) end(at);
      c.held.clear();
      box_->acknowledge(all.id, which, fx_);
      take_effects();
      check();
    }
    for (int round = 0; round < 2; ++round) {
      take_batch();
      if (box_->batch_under_way()) commit();
    }
    while (!graves_.empty()) bury();
    must(store_.empty(), "what was acknowledged is erased");
    must(box_->resident_size() == 0, "an empty mailbox takes no memory");
    must(!box_->has_unsent(), "an empty mailbox has nothing to write");
  }

  // --- what the commands mean ---

  [[nodiscard]] static bool able(const consumer& c) {
    return c.consuming && !c.suspended && c.spec.credit > 0 &&
           (c.spec.prefetch == 0 || c.held.size() < c.spec.prefetch);
  }

  consumer* any_consumer() {
    if (consumers_.empty()) return nullptr;
    return &std::next(consumers_.begin(), static_cast<std::ptrdiff_t>(below(consumers_.size())))->second;
  }

  void forget_if_idle(consumer_id id) {
    const auto found = consumers_.find(id);
    if (found != consumers_.end() && !found->second.consuming && found->second.held.empty())
      consumers_.erase(found);
    must(box_->known(id) == consumers_.contains(id), "a holder is known while it consumes or holds");
  }

  void count_failure(sequence at) {
    auto& m = messages_.at(at);
    ++m.attempts;
    m.counted = true;
  }
  void count_return(sequence at) {
    auto& m = messages_.at(at);
    ++m.returns;
    m.counted = m.redelivered = true;
  }

  void take_back(sequence at, bool failed, bool may_stand_aside = true) {
    auto& m = messages_.at(at);
    if (failed) {
      count_failure(at);
      const auto limit = settings_.rules.delivery_limit;
      if (limit && m.attempts > *limit) {
        count_return(at);
        return die(at, death_reason::delivery_limit, true);
      }
    }
    m.returned = true;
    count_return(at);
    using delayed_retry = mailbox_rules::delayed_retry;
    const auto& rules = settings_.rules;
    if (may_stand_aside && rules.retry != delayed_retry::disabled &&
        (rules.retry == delayed_retry::all || (rules.retry == delayed_retry::failed) == failed)) {
      auto delay = rules.retry_min.count() * m.returns;
      if (rules.retry_max) delay = std::min<std::int64_t>(delay, rules.retry_max->count());
      if (delay != 0) {
        m.where = place::aside;
        m.due = now_ + delay;
        aside_.insert({m.due, at});
        return;
      }
    }
    came_back_ = true;
    stand(at, false);
  }

  void end(sequence at) {
    auto& m = messages_.at(at);
    m.where = place::gone;
    if (m.persistent && m.journal == kept::unsent) must_settle(at);
  }

  // Its publisher has to hear of it with this command.
  void must_settle(sequence at) {
    if (!messages_.at(at).settled) due_.insert(at);
  }

  // Those in front of the first one from `end` on.
  void take_deliveries(sequence end = {UINT64_MAX}) {
    auto d = fx_.deliveries.begin();
    for (; d != fx_.deliveries.end() && d->at < end; ++d) take_delivery(*d);
    fx_.deliveries.erase(fx_.deliveries.begin(), d);
  }

  void take_deaths() {
    must(fx_.dead_letters.size() == deaths_.size(), "what has to die does, and nothing else");
    for (std::size_t i = 0; i < deaths_.size(); ++i) {
      const auto& got = fx_.dead_letters[i];
      const auto& expected = deaths_[i];
      must(got.at == expected.at && got.why == expected.why,
           "dead letters come in order, each with its reason");
      must(got.delivered == expected.delivered, "a dead letter says whether somebody had it in his hands");
      must(got.attempts == expected.attempts && got.returns == expected.returns,
           "a dead letter says how often it came back, and how often a delivery failed");
      must(got.waits == expected.waits, "a dead letter waits where it has to");
      must(got.message || present(got.at), "a dead letter can be read");
      must(tag_of(got.message ? *got.message : *store_.at(got.at).message) == expected.tag,
           "a dead letter has the body that was published");
      if (!got.message) only_stored_.insert(got.at);
    }
    fx_.dead_letters.clear();
    for (const auto& d : std::exchange(deaths_, {})) {
      if (d.waits) {
        try_to_bury(d);
      } else {
        pending_.push_back(d);
      }
    }
  }

  void take_effects() {
    take_deliveries();
    look_at_consumers();
    take_deaths();
    must(fx_.timeouts == timeouts_, "who takes too long is told so, once");
    timeouts_.clear();
    fx_.timeouts.clear();
    for (const auto& s : fx_.settlements) {
      must(s.first <= s.last, "a settlement names a range");
      for (auto n = s.first; n <= s.last; ++n) {
        if (s.rejected) {
          must(refused_.erase({s.by, n}) == 1, "only what cannot be taken is refused");
          continue;
        }
        const auto found = by_number_.find({s.by, n});
        must(found != by_number_.end(), "only what was published is settled");
        auto& m = messages_.at(found->second);
        must(!m.settled, "I2: a publish is settled once");
        must(!m.persistent || due_.contains(found->second),
             "I2: a publish is settled when it is stored or gone");
        m.settled = true;
        due_.erase(found->second);
      }
    }
    fx_.settlements.clear();
    must(due_.empty(), "I2: a publish is settled as soon as it is stored or gone");
    must(refused_.empty(), "I2: a publish that is refused is told so at once");
  }

  void take_delivery(const delivery& d) {
    const auto found = messages_.find(d.at);
    must(found != messages_.end(), "only what was published is delivered");
    auto& m = found->second;
    must(m.where == place::ready, "I3: only a ready message is delivered");
    must(m.expires_at == 0 || now_ <= m.expires_at, "an expired message is not delivered");
    must(m.expires_at != now_ || d.at.value >= seen_up_to_,
         "what expires when it comes goes at once to who waits for it, or to nobody");
    drop_what_expired(now_);
    while (front() != nullptr && front() != &m && front()->expires_at != 0 && front()->expires_at <= now_)
      drop_front(death_reason::expired);
    must(tag_of(*d.message) == m.tag && d.message->body().size() == m.body_size,
         "a delivery has the body that was published");
    // What waits for a certain consumer may go, and then those behind it have their turn.
    while (hashes() && front() != &m) {
      if (front()->expires_at != 0 && front()->expires_at <= now_) {
        drop_front(death_reason::expired);
      } else if (!refusing() && too_many(0, 0)) {
        drop_front(death_reason::maxlen);
      } else {
        break;
      }
    }
    must(ready_.begin()->at == d.at, "I1: messages are delivered in order");
    if (ready_.begin()->fresh && taken_last_ < d.at) {
      taken_last_ = d.at;
      m.taken = {d.at, 0};
    } else {
      m.taken = {taken_last_, ++taken_count_};
    }
    if (std::exchange(m.may_go_at_once, false)) m.redelivered = d.redelivered;
    must(d.redelivered == m.redelivered, "a delivery says whether it may have been delivered before");
    if (settings_.rules.quorum && !m.counted && m.attempts_before != 0) {
      m.attempts = m.attempts_before;
      m.counted = true;
    }
    must(d.attempts == m.attempts, "a delivery says how many have failed");
    must(d.returns == m.returns, "a delivery says how often the message came back");
    ready_.erase(ready_.begin());
    if (!fetching_) check_choice(d, m);
    auto& c = consumers_.at(d.to);
    bool acknowledges = c.spec.acknowledges;
    if (fetching_) {
      acknowledges = *fetching_;
    } else {
      must(able(c), "a consumer gets no more than it can take");
    }
    c.spec.credit -= static_cast<std::int64_t>(m.footprint);
    if (acknowledges) {
      m.where = place::held;
      m.held_since = now_;
      c.held.insert(d.at);
    } else {
      end(d.at);
    }
  }

  void check_choice(const delivery& d, const message& m) {
    const auto& rules = settings_.rules;
    look_at_consumers_before_delivery();
    if (rules.single_active) {
      must(active_ == d.to && !gives_way_, "only the active consumer gets messages");
      return;
    }
    if (hashes()) {
      for (const auto& [id, c] : consumers_) {
        if (id == d.to || settings_.restarts || id.value >= 1000) continue;
        for (const auto at : c.held)
          must(messages_.at(at).key != m.key, "a key is with one consumer at a time");
      }
      return;
    }
    for (const auto& [id, c] : consumers_) {
      must(!able(c) || c.spec.priority <= consumers_.at(d.to).spec.priority,
           "who has a higher priority is served first");
    }
    if (!settings_.whose_turn) return;
    must(next_in_turn() == d.to, "consumers are served in turn");
    auto& row = turns_[-consumers_.at(d.to).spec.priority];
    row.erase(row.begin());
    row.push_back(d.to);
  }

  void look_at_consumers_before_delivery() {
    if (!settings_.rules.single_active && settings_.rules.quorum) look_at_consumers();
  }

  static std::uint64_t tag_of(const envelope& e) {
    std::uint64_t tag = 0;
    must(e.body().size() >= sizeof tag, "a body has its tag");
    std::memcpy(&tag, e.body().data(), sizeof tag);
    return tag;
  }

  void check() {
    std::uint64_t ready = 0, held = 0, ready_size = 0, delayed = 0;
    std::size_t unstored = 0;
    for (auto m = messages_.begin(); m != messages_.end();) {
      auto& value = m->second;
      if (value.where == place::gone) {
        // Forgotten when nothing can ask for it any more.
        const bool over = value.settled && (!value.dead || value.copied) && !store_.contains(m->first) &&
                          value.journal != kept::sent && !box_->batch_under_way();
        if (over) {
          by_number_.erase({value.from, value.number});
          m = messages_.erase(m);
          continue;
        }
      } else {
        if (value.where == place::ready) {
          ++ready;
          ready_size += value.body_size;
        } else if (value.where == place::held) {
          ++held;
        } else {
          delayed += value.dying ? 0 : 1;
        }
        const bool is_stored = value.persistent ? value.journal == kept::stored : value.in_store;
        if (!is_stored) unstored += value.footprint;
      }
      ++m;
    }
    must(box_->ready_count() == ready, "I3: ready_count");
    must(box_->held_count() == held, "I3: held_count");
    must(box_->delayed_count() == delayed, "I3: delayed_count");
    must(box_->waiting_dead_count() == dead_here_.size(), "I3: waiting_dead_count");
    must(box_->ready_size() == ready_size, "ready_size");
    std::size_t consuming = 0;
    for (const auto& [id, c] : consumers_) {
      consuming += c.consuming ? 1 : 0;
      must(box_->known(id), "a holder is known");
    }
    must(box_->consumer_count() == consuming, "consumer_count");
    if (settings_.rules.quorum && !settings_.restarts) {
      if (settings_.rules.single_active) consuming = active_ ? 1 : 0;
      for (const auto& [id, c] : consumers_) {
        const bool fetches = 1000 <= id.value && id.value < 1003;
        if (!c.consuming) consuming += fetches ? c.held.size() : 1;
      }
    }
    if (!settings_.restarts) must(box_->told_consumer_count() == consuming, "told_consumer_count");
    must(box_->resident_size() >= unstored, "what is not stored is in memory");
    if (settings_.large_bodies || settings_.front_may_be_written || settings_.budget_changes) return;
    // While the journal lags behind, what it has stored of a message that came later cannot go either.
    if (box_->batch_under_way() || box_->has_unsent()) return;
    // Ready messages have the budget, held ones half of it, and one read of the store comes on top.
    const auto read_once = settings_.resident_max / 4 + 1 + footprint_max;
    must(box_->resident_size() - unstored <= settings_.resident_max * 3 / 2 + read_once,
         "I6: memory is bounded");
  }

  settings settings_;
  std::mt19937_64 random_;
  std::size_t step_ = 0;
  const char* doing_ = "";

  std::optional<mailbox> box_;
  effects fx_;
  std::map<sequence, stored> store_;
  std::vector<sequence_range> graves_;
  journal_batch batch_;

  std::map<sequence, message> messages_;
  std::map<std::pair<publisher_id, std::uint64_t>, sequence> by_number_;
  std::map<publisher_id, std::uint64_t> numbers_;
  std::set<ready_place> ready_;
  std::uint64_t return_count_ = 0;
  std::uint64_t seen_up_to_ = 1;  // what came since consumers were looked at last stands from here on
  sequence taken_last_{};
  std::uint64_t taken_count_ = 0;
  bool came_back_ = false;
  std::set<sequence> due_;
  std::map<std::int64_t, std::vector<consumer_id>> turns_;  // by priority, the highest first
  std::vector<consumer_id> joined_;                         // all that ever did, in order
  std::optional<consumer_id> active_;
  bool gives_way_ = false;
  bool in_order_ = false;  // there are more than turns
  std::map<consumer_id, consumer> consumers_;
  std::set<std::pair<std::int64_t, sequence>> aside_;  // what is due at a time
  std::set<sequence> dead_here_;  // dead letters that wait, or that the owner has at hand
  std::vector<consumer_id> timeouts_;
  bool always_a_way_ = false;
  std::optional<bool> fetching_;
  std::vector<returning_holder> returning_;
  std::vector<given_place> given_;
  std::set<std::pair<publisher_id, std::uint64_t>> refused_;
  std::vector<dying> deaths_;                       // by the command that is being run
  std::vector<dying> pending_, pending_under_way_;  // their copies are to be written
  std::vector<sequence> moved_, moved_under_way_;   // settled with the copy
  std::set<sequence> only_stored_;                  // of pending_, those whose bodies have to be read
  std::int64_t now_ = 1'000'000;
  std::uint64_t next_ = 1, last_tag_ = 0, last_consumer_ = 0, generation_ = 0;
};

std::string outcome_of(std::uint64_t seed, const settings& s, std::size_t steps) {
  world w{seed, s};
  try {
    w.run(steps);
    return "as the model";
  } catch (const std::exception& e) {
    return "seed " + std::to_string(seed) + ", " + w.where() + ": " + e.what();
  }
}

// Every combination of rules comes up, among it none at all.
settings random_rules_without_time(std::uint64_t seed) {
  std::mt19937_64 random{seed};
  const auto chance = [&](unsigned percent) { return random() % 100 < percent; };
  settings s;
  s.durable = chance(80);
  s.resident_max = chance(70) ? 2000 : 100'000;
  s.persistent_percent = chance(30) ? 100 : 60;
  s.restarts = chance(60);
  s.others_store = s.durable && chance(30);
  s.heard_late = true;
  auto& rules = s.rules;
  if (chance(60)) rules.dead_letter_exchange = "dlx";
  if (chance(40)) rules.length_max = random() % 60;
  if (chance(30)) rules.size_max = random() % 8000;
  if (chance(40)) rules.delivery_limit = static_cast<std::uint32_t>(random() % 4);
  rules.quorum = chance(20);
  if (!rules.quorum && chance(30)) rules.priority_max = static_cast<std::uint8_t>(random() % 256);
  if (chance(50)) s.priority_percent = 1 + static_cast<unsigned>(random() % 100);
  s.consumer_priorities = chance(40);
  if (chance(20)) rules.expires = std::chrono::milliseconds{1 + random() % 100};  // the actor's business
  if (chance(30)) s.known_percent = 1 + static_cast<unsigned>(random() % 50);
  rules.single_active = chance(15);
  if (chance(35)) {
    constexpr balance_algorithm all[] = {balance_algorithm::random, balance_algorithm::weighted_round_robin,
                                         balance_algorithm::least_response_time,
                                         balance_algorithm::consistent_hash};
    rules.dispatch = all[random() % 4];
    if (rules.dispatch == balance_algorithm::consistent_hash && chance(50)) rules.hash_header = "h";
  }
  // Who is passed over between an arrival and a publish cannot be told from outside.
  if (rules.dispatch == balance_algorithm::round_robin && !s.others_store && chance(50)) {
    s.whose_turn = true;
    s.resident_max = 10'000'000;
    s.budget_changes = false;
    s.large_bodies = false;
    return s;
  }
  const bool limited = rules.length_max || rules.size_max;
  if (limited && chance(60)) {
    rules.on_overflow =
        chance(50) ? mailbox_rules::overflow::reject_publish : mailbox_rules::overflow::reject_publish_dlx;
    if (chance(50)) return s;
    // What a refusal depends on while messages expire cannot be told from outside, unless all of them are in memory.
    s.resident_max = 10'000'000;
    s.budget_changes = s.large_bodies = s.crashes = s.restarts = false;
  }
  if (chance(50)) rules.message_ttl = std::chrono::milliseconds{random() % 400};
  if (chance(50)) s.expiring_percent = 1 + static_cast<unsigned>(random() % 100);
  return s;
}

// What a quorum queue knows in addition.
settings random_rules(std::uint64_t seed) {
  settings s = random_rules_without_time(seed);
  std::mt19937_64 random{~seed};
  const auto chance = [&](unsigned percent) { return random() % 100 < percent; };
  auto& rules = s.rules;
  if (!rules.quorum) return s;
  rules.at_least_once = rules.dead_letter_exchange &&
                        rules.on_overflow == mailbox_rules::overflow::reject_publish && chance(60);
  if (!s.restarts) {
    if (chance(50)) s.consumer_timeout = std::chrono::milliseconds{1 + random() % 300};
    if (chance(30)) rules.consumer_timeout = std::chrono::milliseconds{random() % 100};
  }
  // What stands aside leaves memory as soon as the store has it: what a refusal depends on cannot be told then, either.
  const bool untold = rules.on_overflow != mailbox_rules::overflow::drop_head &&
                      (rules.message_ttl || s.expiring_percent != 0);
  if (!untold && chance(50)) {
    rules.retry = static_cast<mailbox_rules::delayed_retry>(1 + random() % 3);
    rules.retry_min = std::chrono::milliseconds{1 + random() % 50};
    if (chance(50)) rules.retry_max = std::chrono::milliseconds{random() % 200};
  }
  return s;
}

}  // namespace

TEST_CASE("a durable mailbox does what the model does, whatever comes", "[mailbox]") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) CHECK(outcome_of(seed, {}, 20'000) == "as the model");
  CHECK(outcome_of(7, {.persistent_percent = 100}, 20'000) == "as the model");
  for (std::uint64_t seed = 11; seed <= 13; ++seed) {
    CHECK(outcome_of(seed, {.resident_max = 400, .large_bodies = true}, 20'000) == "as the model");
  }
}

TEST_CASE("a mailbox that is not durable does what the model does, whatever comes", "[mailbox]") {
  for (std::uint64_t seed = 21; seed <= 23; ++seed) {
    CHECK(outcome_of(seed, {.durable = false}, 20'000) == "as the model");
  }
  CHECK(outcome_of(24, {.durable = false, .resident_max = 400, .large_bodies = true}, 20'000) ==
        "as the model");
}

TEST_CASE("I6: what the journal has stored takes no more memory than the budget allows, whatever the backlog",
          "[mailbox]") {
  for (std::uint64_t seed = 31; seed <= 34; ++seed) {
    CHECK(outcome_of(seed, {.front_may_be_written = false, .budget_changes = false}, 20'000) ==
          "as the model");
  }
  CHECK(outcome_of(35, {.durable = false, .front_may_be_written = false, .budget_changes = false}, 20'000) ==
        "as the model");
}

TEST_CASE("I6: a backlog of many levels takes no more memory than the budget allows, either", "[mailbox]") {
  for (std::uint64_t seed = 51; seed <= 58; ++seed) {
    settings s{.durable = seed % 4 != 0, .front_may_be_written = false, .budget_changes = false};
    s.priority_percent = 80;
    s.rules.quorum = seed % 2 == 0;
    if (!s.rules.quorum) s.rules.priority_max = 10;
    CHECK(outcome_of(seed, s, 5'000) == "as the model");
  }
}

TEST_CASE(
    "a mailbox whose actor is started again does what the model does, and its holders keep what they hold",
    "[mailbox]") {
  for (std::uint64_t seed = 41; seed <= 46; ++seed) {
    CHECK(outcome_of(seed, {.restarts = true}, 10'000) == "as the model");
  }
  CHECK(outcome_of(47, {.resident_max = 100'000, .restarts = true}, 10'000) == "as the model");
  CHECK(outcome_of(48, {.durable = false, .restarts = true}, 10'000) == "as the model");
}

// For a longer search than a build has time for: "[.long]".
TEST_CASE("a hundred thousand mailboxes with rules do what the model does", "[.long]") {
  for (std::uint64_t seed = 10'000; seed < 110'000; ++seed) {
    CHECK(outcome_of(seed, random_rules(seed), 200) == "as the model");
  }
}

TEST_CASE("a mailbox with rules does what the model does, whatever comes", "[mailbox]") {
  for (std::uint64_t seed = 1001; seed <= 1300; ++seed) {
    CHECK(outcome_of(seed, random_rules(seed), 500) == "as the model");
  }
}
