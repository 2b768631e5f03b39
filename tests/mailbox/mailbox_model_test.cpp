// The mailbox against a model of it that is slow and obviously right, under long random sequences of commands: with a
// store that applies batches as persist does, batches that fail wholly or in part, crashes, and budgets of memory so
// small that messages are folded away, spilled and read back all the time.
#include "mailbox/mailbox.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
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
};

class world {
public:
  world(std::uint64_t seed, settings s) : settings_{s}, random_{seed} { box_.emplace(s.durable, limits()); }

  void run(std::size_t steps) {
    for (step_ = 0; step_ < steps; ++step_) {
      random_command();
      if (chance(80)) dispatch();
      check();
    }
    drain();
  }

  [[nodiscard]] std::string where() const { return "step " + std::to_string(step_) + ", " + doing_; }

private:
  enum class place { ready, held, gone };
  enum class kept { unsent, sent, stored };  // of a message that is persistent
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
  };
  struct consumer {
    consumer_spec spec;
    bool consuming = false;
    std::set<sequence> held;
  };
  struct stored {
    envelope_ptr message;
    bool transient = false;
  };

  // --- chance ---

  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }
  bool chance(unsigned percent) { return below(100) < percent; }

  [[nodiscard]] mailbox_limits limits() const { return {settings_.resident_max}; }

  static constexpr std::size_t body_size_most = 300;
  static constexpr std::size_t footprint_max = sizeof(envelope) + 80 + body_size_most + 8;

  // --- commands ---

  void random_command() {
    const auto ready = fresh_.size() + returned_.size();
    const bool full = ready > 400;
    switch (below(20)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4: return full ? answer(true) : publish();
      case 5:
      case 6:
      case 7: return answer(true);
      case 8: return answer(false);
      case 9: return fetch();
      case 10: return add_consumer();
      case 11: return grant();
      case 12: return chance(30) ? cancel() : grant();
      case 13: return chance(40) ? release() : dispatch();
      case 14:
      case 15:
      case 16: return journal();
      case 17: return limit();
      case 18: return chance(8) ? purge() : dispatch();
      default: return chance(15) ? crash() : bury();
    }
  }

  void publish() {
    doing_ = "publish";
    std::vector<arrival> arrivals;
    std::vector<sequence> here;
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
      auto made = make_envelope("x", "key", {}, asks, body);
      m.footprint = made->footprint();
      const sequence at{next_++};
      arrivals.push_back({std::move(made), from, m.number});
      messages_[at] = m;
      by_number_[{from, m.number}] = at;
      fresh_.insert(at);
      here.push_back(at);
    }
    box_->publish(arrivals, fx_);
    take_effects();
    for (const auto at : here)
      must(messages_[at].settled != messages_[at].persistent, "I2: settled at once if it need not survive");
  }

  void dispatch() {
    doing_ = "dispatch";
    box_->dispatch(fx_);
    take_effects();
    while (load()) {
      box_->dispatch(fx_);
      take_effects();
    }
    if (fresh_.empty() && returned_.empty()) return;
    std::size_t held_size = 0;
    for (const auto& [at, m] : messages_) held_size += m.where == place::held ? m.footprint : 0;
    if (held_size >= settings_.resident_max && box_->resident_size() >= settings_.resident_max) return;
    for (const auto& [id, c] : consumers_)
      must(!able(c), "a ready message waits although a consumer can take it");
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
      found.push_back({s->first, std::move(*copy)});
    }
    must(!found.empty(), "a message that the mailbox asks for is in the store");
    box_->on_loaded(found);
    return true;
  }

  void fetch() {
    doing_ = "fetch";
    const consumer_id id{1000 + below(3)};
    const bool acknowledges = chance(70);
    consumers_.try_emplace(id, consumer{{.id = id, .acknowledges = true}, false, {}});
    fetching_ = acknowledges;
    bool got = box_->fetch(id, acknowledges, fx_);
    while (!got && load()) got = box_->fetch(id, acknowledges, fx_);
    must(got == !(fresh_.empty() && returned_.empty()), "a fetch finds a message when there is one");
    must(fx_.deliveries.size() == (got ? 1 : 0), "a fetch delivers one message");
    must(!got || fx_.deliveries.front().to == id, "a fetch delivers to who fetched");
    take_effects();
    fetching_.reset();
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
    box_->add_consumer(spec);
    consumers_[spec.id] = {spec, true, {}};
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
    for (const auto at : c->held) take_back(at);
    consumers_.erase(id);
    box_->release(id);
    must(!box_->known(id), "a released holder is not known any more");
  }

  // An answer to a random part of what a consumer holds, with unknown messages among it.
  void answer(bool acknowledge) {
    doing_ = acknowledge ? "acknowledge" : "give_back";
    auto* c = any_consumer();
    if (c == nullptr) return;
    const auto id = c->spec.id;
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
    for (const auto& r : ranges) {
      for (auto held = c->held.lower_bound(r.first); held != c->held.end() && *held <= r.last;) {
        if (acknowledge) {
          end(*held);
        } else {
          take_back(*held);
        }
        held = c->held.erase(held);
      }
    }
    if (acknowledge) {
      box_->acknowledge(id, ranges, fx_);
    } else {
      box_->give_back(id, ranges);
    }
    take_effects();
    forget_if_idle(id);
  }

  void purge() {
    doing_ = "purge";
    const auto count = fresh_.size() + returned_.size();
    for (const auto* part : {&fresh_, &returned_}) {
      for (const auto at : *part) end(at);
    }
    fresh_.clear();
    returned_.clear();
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
      must(a.transient || unsent.erase(a.at) == 1, "a message is written once");
      must(!store_.contains(a.at) && !buried(a.at), "a message gets no place that something else has");
      for (const auto& e : batch_.erasures)
        must(a.at < e.first || e.last < a.at, "I5: a batch never erases what it appends");
      if (!a.transient) found->second.journal = kept::sent;
    }
    must(unsent.empty(), "every message that has to survive is in the next batch");
    for (const auto& e : batch_.erasures) {
      for (auto m = messages_.lower_bound(e.first); m != messages_.end() && m->first <= e.last; ++m) {
        must(m->second.where == place::gone || (!m->second.persistent && !store_.contains(m->first)),
             "only what is gone is erased");
      }
    }
  }

  void apply(const journal_batch& batch) {
    for (const auto& a : batch.appends) store_[a.at] = {a.message, a.transient};
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
    (chance(50) ? written : unwritten).erasures = std::move(batch_.erasures);
    batch_ = {};
    apply(written);
    for (const auto& a : written.appends) mark_stored(a);
    for (const auto& a : unwritten.appends) {
      auto& m = messages_.at(a.at);
      if (!m.persistent) continue;
      m.journal = kept::unsent;
      if (m.where == place::gone) must_settle(a.at);
    }
    box_->on_not_committed(std::move(unwritten), fx_);
    take_effects();
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
      must(!(m.persistent && m.settled && m.where != place::gone) || present(at),
           "a message that was confirmed and not acknowledged outlives a crash");
    }
    std::erase_if(store_, [](const auto& s) { return s.second.transient; });
    std::map<sequence, message> before;
    before.swap(messages_);
    fresh_.clear();
    returned_.clear();
    consumers_.clear();
    by_number_.clear();
    numbers_.clear();
    due_.clear();
    recovered_mailbox recovered;
    for (const auto& [at, s] : store_) {
      if (buried(at)) continue;
      auto m = before.at(at);
      must(m.persistent && tag_of(*s.message) == m.tag, "only what has to survive does");
      m.where = place::ready;
      m.journal = kept::stored;
      m.settled = m.redelivered = true;
      m.returned = false;
      messages_[at] = m;
      fresh_.insert(at);
      if (recovered.count++ == 0) recovered.first = at;
      recovered.last = at;
      recovered.size += m.body_size;
    }
    for (const auto& g : graves_) recovered.used = std::max(recovered.used, g.last);
    next_ = std::max(recovered.last, recovered.used).value + 1;
    ++generation_;
    fx_.clear();
    box_.emplace(settings_.durable, limits(), recovered);
  }

  // Everything is handed out and acknowledged; then nothing may be left anywhere.
  void drain() {
    doing_ = "drain";
    for (int round = 0; round < 3; ++round) {
      if (box_->batch_under_way()) commit();
      take_batch();
      if (box_->batch_under_way()) commit();
    }
    check();
    for (const auto& [at, m] : messages_) {
      must(m.settled, "I2: every publish is settled in the end");
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
      for (const auto at : c.held) take_back(at);
      consumers_.erase(id);
      box_->release(id);
    }
    doing_ = "drain: consuming all";
    consumer_spec all;
    all.id = {5'000'000};
    all.credit = std::int64_t{1} << 40;
    consumers_[all.id] = {all, true, {}};
    box_->add_consumer(all);
    while (!fresh_.empty() || !returned_.empty()) {
      dispatch();
      auto& c = consumers_.at(all.id);
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
    return c.consuming && c.spec.credit > 0 && (c.spec.prefetch == 0 || c.held.size() < c.spec.prefetch);
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

  void take_back(sequence at) {
    auto& m = messages_.at(at);
    m.where = place::ready;
    m.returned = m.redelivered = true;
    returned_.insert(at);
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

  void take_effects() {
    for (const auto& d : fx_.deliveries) take_delivery(d);
    fx_.deliveries.clear();
    for (const auto& s : fx_.settlements) {
      must(s.first <= s.last, "a settlement names a range");
      for (auto n = s.first; n <= s.last; ++n) {
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
  }

  void take_delivery(const delivery& d) {
    const auto found = messages_.find(d.at);
    must(found != messages_.end(), "only what was published is delivered");
    auto& m = found->second;
    must(m.where == place::ready, "I3: only a ready message is delivered");
    must(tag_of(*d.message) == m.tag && d.message->body().size() == m.body_size,
         "a delivery has the body that was published");
    auto& ready = returned_.empty() ? fresh_ : returned_;
    must(*ready.begin() == d.at, "I1: messages are delivered in order");
    must(d.redelivered == m.redelivered, "a delivery says whether it may have been delivered before");
    ready.erase(ready.begin());
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
      c.held.insert(d.at);
    } else {
      end(d.at);
    }
  }

  static std::uint64_t tag_of(const envelope& e) {
    std::uint64_t tag = 0;
    must(e.body().size() >= sizeof tag, "a body has its tag");
    std::memcpy(&tag, e.body().data(), sizeof tag);
    return tag;
  }

  void check() {
    std::uint64_t ready = 0, held = 0, ready_size = 0;
    std::size_t unstored = 0;
    for (auto m = messages_.begin(); m != messages_.end();) {
      auto& value = m->second;
      if (value.where == place::gone) {
        // Forgotten when nothing can ask for it any more.
        const bool over = value.settled && !store_.contains(m->first) && value.journal != kept::sent &&
                          !box_->batch_under_way();
        if (over) {
          by_number_.erase({value.from, value.number});
          m = messages_.erase(m);
          continue;
        }
      } else {
        if (value.where == place::ready) {
          ++ready;
          ready_size += value.body_size;
        } else {
          ++held;
        }
        const bool is_stored = value.persistent ? value.journal == kept::stored : value.in_store;
        if (!is_stored) unstored += value.footprint;
      }
      ++m;
    }
    must(box_->ready_count() == ready, "I3: ready_count");
    must(box_->held_count() == held, "I3: held_count");
    must(box_->ready_size() == ready_size, "ready_size");
    std::size_t consuming = 0;
    for (const auto& [id, c] : consumers_) {
      consuming += c.consuming ? 1 : 0;
      must(box_->known(id), "a holder is known");
    }
    must(box_->consumer_count() == consuming, "consumer_count");
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
  std::set<sequence> fresh_, returned_, due_;
  std::map<consumer_id, consumer> consumers_;
  std::optional<bool> fetching_;
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
