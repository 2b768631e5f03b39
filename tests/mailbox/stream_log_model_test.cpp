// A stream against a model of it that is slow and obviously right, under long random sequences of commands: with a store that
// applies batches as persist does, batches that fail wholly or in part, messages that others store, crashes, readers who come
// and go at any place, and budgets of memory so small that nearly everything is read back from the store.
#include "mailbox/stream_log.hpp"

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
  std::size_t resident_max = 1500;
  bool others_store = true;          // messages at places that were given away
  bool clock_goes_back = false;      // now and then; only without others, whose clocks are not the stream's
  bool front_may_be_written = true;  // of a batch that failed
  bool crashes = true;
  stream_rules rules{.segment_size_max = 2000};
};

class world {
public:
  world(std::uint64_t seed, settings s) : settings_{s}, random_{seed} {
    make(stream_segments{s.rules.segment_size_max}, {});
  }

  void run(std::size_t steps) {
    for (step_ = 0; step_ < steps; ++step_) {
      move_clock();
      random_command();
      if (chance(70)) dispatch();
      check();
    }
    drain();
  }

  [[nodiscard]] std::string where() const { return "step " + std::to_string(step_) + ", " + doing_; }
  [[nodiscard]] std::uint64_t delivered() const { return delivered_; }

private:
  struct message {
    std::uint64_t tag = 0;
    std::size_t size = 0;
    std::int64_t came_at = 0;
    bool stored = false;
    std::string filter;
  };
  struct stored_message {
    envelope_ptr message;
    std::int64_t stamp = 0;
  };
  struct reader {
    consumer_spec spec;
    stream_filter filter;
    sequence next{};
    std::set<sequence> held;
  };
  struct publish_of {
    publisher_id by{};
    std::uint64_t number = 0;

    friend auto operator<=>(const publish_of&, const publish_of&) = default;
  };

  // --- chance and time ---

  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }
  bool chance(unsigned percent) { return below(100) < percent; }

  void move_clock() {
    now_ += static_cast<std::int64_t>(below(20));
    if (settings_.clock_goes_back && chance(5)) now_ -= static_cast<std::int64_t>(below(500));
  }

  // --- commands ---

  void random_command() {
    switch (below(20)) {
      case 0:
      case 1:
      case 2:
      case 3: return publish();
      case 4: return reserve();
      case 5: return arrive();
      case 6:
      case 7: return journal();
      case 8: return journal();
      case 9: return add_reader();
      case 10: return chance(30) ? remove_reader() : grant();
      case 11:
      case 12: return grant();
      case 13:
      case 14:
      case 15: return answer();
      case 16: return retain();
      case 17: return chance(20) ? change() : limit();
      case 18: return settings_.crashes && chance(10) ? crash() : dispatch();
      default: return chance(50) ? set_credit() : dispatch();
    }
  }

  envelope_ptr new_message(message& m) {
    m.tag = ++last_tag_;
    m.size = 8 + below(250);
    basic_properties p;
    if (chance(60)) {
      m.filter = std::string(1, static_cast<char>('a' + below(3)));
      p.headers = field_table{{"x-stream-filter-value", field_value::of_string(m.filter)}};
    }
    std::vector<std::byte> body(m.size);
    std::memcpy(body.data(), &m.tag, sizeof m.tag);
    std::string properties;
    encode_properties(p, properties);
    auto made = make_envelope("x", "k", std::as_bytes(std::span{properties}), chance(50), body);
    m.size = made->bytes().size();
    return made;
  }

  std::int64_t stamp() { return last_time_ = std::max(last_time_, now_); }

  void publish() {
    doing_ = "publish";
    std::vector<arrival> arrivals;
    const publisher_id from{1 + below(3)};
    log_->skip_to({last_place_ + 1});
    for (auto left = 1 + below(6); left > 0; --left) {
      message m;
      auto made = new_message(m);
      m.came_at = stamp();
      const sequence at{++last_place_};
      const auto number = ++numbers_[from];
      unsettled_[{from, number}] = at;
      messages_[at] = m;
      arrivals.push_back({std::move(made), from, number});
    }
    log_->publish(arrivals, now_);
  }

  // Somebody gets a place, and stores his message there himself, now or later.
  void reserve() {
    doing_ = "reserve";
    if (!settings_.others_store || reserved_.size() > 5) return;
    message m;
    auto made = new_message(m);
    reserved_.push_back({{++last_place_}, {std::move(made), stamp()}});
  }

  void arrive() {
    doing_ = "arrive";
    if (reserved_.empty()) return;
    const auto which =
        reserved_.begin() + static_cast<std::ptrdiff_t>(chance(70) ? 0 : below(reserved_.size()));
    const auto [at, what] = *which;
    reserved_.erase(which);
    if (chance(10)) return;  // it never comes
    store_[at] = what;
    std::vector<loaded_message> arrived{{at, what.message, what.stamp}};
    auto late = log_->arrive(arrived, now_);
    const bool gone = at < first_, passed = !gone && at <= readable_last_;
    must(late.empty() != passed, "what comes too late to be read is published again, and nothing else");
    if (gone) return retain_now();
    message m;
    m.tag = tag_of(*what.message);
    m.size = what.message->bytes().size();
    m.filter = filter_of(*what.message);
    if (!passed) {
      m.came_at = what.stamp;
      m.stored = true;
      messages_[at] = m;
      advance();
      retain_now();
      return;
    }
    ++again_;
    m.came_at = stamp();
    log_->skip_to({last_place_ + 1});
    messages_[{++last_place_}] = m;
    late_[at] = {last_place_};
    log_->publish(late, now_);
    retain_now();
  }

  void dispatch() {
    doing_ = "dispatch";
    log_->dispatch(fx_);
    take_effects();
    while (fx_.load) {
      if (chance(3)) {  // its owner has no time for it now
        fx_.load.reset();
        return;
      }
      load();
      log_->dispatch(fx_);
      take_effects();
    }
    for (const auto& [id, r] : readers_) {
      must(!able(r) || !expected(r), "S1: a reader who can take a message gets it");
    }
  }

  void load() {
    const auto request = *std::exchange(fx_.load, std::nullopt);
    must(request.where.first <= request.where.last, "a load names a range");
    std::vector<loaded_message> found;
    std::size_t size = 0;
    for (auto s = store_.lower_bound(request.where.first);
         s != store_.end() && s->first <= request.where.last; ++s) {
      if (!found.empty() && (found.size() >= request.count_max || size >= request.size_max)) break;
      size += s->second.message->footprint();
      found.push_back({s->first, s->second.message, s->second.stamp});
    }
    must(!found.empty(), "something of what is asked for is in the store");
    ++loads_;
    log_->on_loaded(found);
  }

  void add_reader() {
    doing_ = "add_reader";
    if (readers_.size() > 6) return;
    consumer_spec spec;
    spec.id = {++last_reader_};
    spec.prefetch = static_cast<std::uint32_t>(1 + below(chance(20) ? 200 : 8));
    spec.credit = static_cast<std::int64_t>(below(5000));
    stream_start start;
    start.where = static_cast<stream_start::from>(below(5));
    if (start.where == stream_start::from::offset) start.value = below(last_place_ + 5);
    if (start.where == stream_start::from::time)
      start.value = static_cast<std::uint64_t>(now_ + 50) - below(chance(50) ? 200 : 20'000);
    reader r;
    r.spec = spec;
    if (chance(30)) {
      r.filter.values = {"a"};
      r.filter.unfiltered = chance(50);
    }
    r.next = place_of(start);
    log_->add_reader(spec, start, r.filter);
    readers_[spec.id] = r;
  }

  [[nodiscard]] sequence place_of(const stream_start& start) const {
    const auto oldest = messages_.begin();
    switch (start.where) {
      case stream_start::from::first: return {1};
      case stream_start::from::last: return readable() == 0 ? sequence{log_next()} : readable_last_;
      case stream_start::from::next: return {log_next()};
      case stream_start::from::offset: return {start.value + 1};
      case stream_start::from::time: break;
    }
    for (auto m = oldest; m != messages_.end(); ++m) {
      if (m->second.came_at >= static_cast<std::int64_t>(start.value)) return m->first;
    }
    return {log_next()};
  }

  // Behind all that the stream knows: places that were given away and from which nothing came may follow.
  [[nodiscard]] std::uint64_t log_next() const {
    return messages_.empty() ? 1 : messages_.rbegin()->first.value + 1;
  }
  [[nodiscard]] std::size_t readable() const {
    return static_cast<std::size_t>(std::distance(messages_.begin(), messages_.upper_bound(readable_last_)));
  }

  reader* any_reader() {
    if (readers_.empty()) return nullptr;
    return &std::next(readers_.begin(), static_cast<std::ptrdiff_t>(below(readers_.size())))->second;
  }

  void remove_reader() {
    doing_ = "remove_reader";
    auto* r = any_reader();
    if (r == nullptr) return;
    const auto id = r->spec.id;
    log_->remove_reader(id);
    readers_.erase(id);
    must(!log_->known(id), "a reader that was removed is not known");
  }

  void grant() {
    doing_ = "grant";
    if (auto* r = any_reader()) {
      const auto bytes = static_cast<std::int64_t>(below(6000));
      r->spec.credit += bytes;
      log_->grant(r->spec.id, bytes);
    }
    log_->grant({999'999}, 10);
  }

  void set_credit() {
    doing_ = "set_credit";
    if (auto* r = any_reader()) {
      r->spec.credit = static_cast<std::int64_t>(below(3000));
      log_->set_credit(r->spec.id, r->spec.credit);
    }
  }

  void answer() {
    doing_ = "answer";
    auto* r = any_reader();
    if (r == nullptr) return;
    std::vector<sequence_range> ranges;
    if (chance(50) && !r->held.empty()) {
      ranges.push_back(
          {{1}, *std::next(r->held.begin(), static_cast<std::ptrdiff_t>(below(r->held.size())))});
    } else {
      for (const auto at : r->held) {
        if (chance(40)) ranges.push_back({at, at});
      }
      if (chance(30)) std::reverse(ranges.begin(), ranges.end());
      if (chance(20)) {
        const auto from = below(last_place_ + 2);
        ranges.push_back({{from}, {from + below(15)}});
      }
    }
    for (const auto& range : ranges)
      r->held.erase(r->held.lower_bound(range.first), r->held.upper_bound(range.last));
    log_->answer(r->spec.id, ranges);
  }

  void retain() {
    doing_ = "retain";
    if (chance(30)) now_ += static_cast<std::int64_t>(below(3000));
    log_->retain(now_);
    retain_now();
  }

  void change() {
    doing_ = "change";
    settings_.rules = random_rules(random_());
    log_->change(settings_.rules, now_);
    retain_now();
  }

  void limit() {
    doing_ = "limit_memory";
    if (chance(80)) return;
    settings_.resident_max = below(6000);
    log_->limit_memory(settings_.resident_max);
  }

public:
  static stream_rules random_rules(std::uint64_t seed) {
    std::mt19937_64 random{seed};
    stream_rules rules;
    rules.segment_size_max = 500 + random() % 4000;
    if (random() % 3 != 0) rules.size_max = 2000 + random() % 30'000;
    if (random() % 3 == 0) rules.age_max = std::chrono::milliseconds{500 + random() % 20'000};
    return rules;
  }

private:
  // --- the journal ---

  void journal() {
    if (!log_->batch_under_way()) return take_batch();
    if (chance(75)) return commit();
    not_commit();
  }

  void take_batch() {
    doing_ = "take_batch";
    const bool expected = log_->has_unsent();
    batch_ = log_->take_batch({1 + below(20), 100 + below(4000)});
    must(batch_.empty() != expected, "has_unsent says whether there is a batch");
    for (const auto& a : batch_.appends) {
      const auto found = messages_.find(a.at);
      must(found != messages_.end() && !found->second.stored, "what is to be stored is written, once");
      must(!a.transient && a.expires_at == found->second.came_at, "the store knows when a message came");
      must(tag_of(*a.message) == found->second.tag, "a message is written at its own place");
      for (const auto& e : batch_.erasures)
        must(a.at < e.first || e.last < a.at, "I5: a batch never erases what it appends");
    }
    for (const auto& e : batch_.erasures) {
      for (auto m = messages_.lower_bound(e.first); m != messages_.end() && m->first <= e.last; ++m)
        must(false, "S4: what can be read is not erased");
      for (const auto& [old, now] : late_) {
        const auto again = messages_.find(now);
        must(old < e.first || e.last < old || again == messages_.end() || again->second.stored,
             "what came late is not erased before it is stored again");
      }
    }
  }

  void apply(const journal_batch& batch) {
    for (const auto& a : batch.appends) store_[a.at] = {a.message, a.expires_at};
    for (const auto& e : batch.erasures)
      store_.erase(store_.lower_bound(e.first), store_.upper_bound(e.last));
  }

  void mark_stored(const journal_batch& batch) {
    for (const auto& a : batch.appends) {
      messages_.at(a.at).stored = true;
      due_.insert(a.at);
    }
  }

  void commit() {
    doing_ = "commit";
    apply(batch_);
    mark_stored(batch_);
    log_->on_committed(fx_, now_);
    after_storing();
  }

  void not_commit() {
    doing_ = "not commit";
    journal_batch written, unwritten;
    const auto front = settings_.front_may_be_written && chance(30) ? below(batch_.appends.size() + 1) : 0;
    for (std::size_t i = 0; i < batch_.appends.size(); ++i)
      (i < front ? written : unwritten).appends.push_back(batch_.appends[i]);
    (chance(50) ? written : unwritten).erasures = batch_.erasures;
    apply(written);
    mark_stored(written);
    log_->on_not_committed(std::move(unwritten), fx_, now_);
    after_storing();
  }

  void after_storing() {
    batch_ = {};
    advance();
    retain_now();
    take_effects();
    must(due_.empty(), "I2: a publish is settled when it is stored");
  }

  void crash() {
    doing_ = "crash";
    const bool keeps_readers =
        chance(50);  // only the actor starts again: who was connected tells it what he holds
    if (log_->batch_under_way() && chance(50)) apply(batch_);
    batch_ = {};
    stream_segments recovered{settings_.rules.segment_size_max};
    std::map<sequence, message> before;
    before.swap(messages_);
    segments_.clear();
    first_ = store_.empty() ? sequence{1} : store_.begin()->first;
    readable_last_ = {};
    last_time_ = 0;
    for (const auto& [at, s] : store_) {
      message m;
      m.tag = tag_of(*s.message);
      m.size = s.message->bytes().size();
      m.filter = filter_of(*s.message);
      m.stored = true;
      m.came_at = last_time_ = std::max(last_time_, s.stamp);
      messages_[at] = m;
      recovered.add(at, m.size, s.stamp);
    }
    for (const auto& [at, m] : before)
      must(!m.stored || messages_.contains(at), "a message that was confirmed outlives a crash");
    const auto readers = std::exchange(readers_, {});
    unsettled_.clear();
    due_.clear();
    reserved_.clear();
    late_.clear();
    fx_.clear();
    make(std::move(recovered), {last_place_});
    advance();
    log_->retain(now_);
    retain_now();
    if (!keeps_readers) return;
    for (const auto& [id, r] : readers) {
      auto back = r;
      log_->add_reader(r.spec, {stream_start::from::offset, r.next.value - 1}, r.filter);
      std::vector<sequence_range> held;
      for (const auto at : r.held) held.push_back({at, at});
      log_->claim(id, held);
      readers_[id] = back;
    }
  }

  void make(stream_segments recovered, sequence used) {
    log_.emplace(settings_.rules, mailbox_limits{settings_.resident_max}, std::move(recovered), used);
  }

  // --- what it means ---

  // The message of a place can be read when all that stand before it are stored.
  void advance() {
    for (auto m = messages_.upper_bound(readable_last_); m != messages_.end() && m->second.stored; ++m) {
      readable_last_ = m->first;
      if (segments_.empty() || sum(segments_.back()) >= settings_.rules.segment_size_max)
        segments_.emplace_back();
      segments_.back().push_back(m->first);
    }
  }

  [[nodiscard]] std::size_t sum(const std::vector<sequence>& segment) const {
    std::size_t size = 0;
    for (const auto at : segment) size += messages_.at(at).size;
    return size;
  }

  void retain_now() {
    while (segments_.size() > 1) {
      std::size_t all = 0;
      for (const auto& s : segments_) all += sum(s);
      const auto& rules = settings_.rules;
      const bool too_large = rules.size_max && all > *rules.size_max;
      const bool too_old =
          rules.age_max && messages_.at(segments_.front().back()).came_at + rules.age_max->count() <= now_;
      if (!too_large && !too_old) break;
      first_ = {segments_.front().back().value + 1};
      for (const auto at : segments_.front()) messages_.erase(at);
      segments_.erase(segments_.begin());
      ++dropped_;
    }
  }

  [[nodiscard]] static bool able(const reader& r) {
    return r.spec.credit > 0 && r.held.size() < r.spec.prefetch;
  }

  [[nodiscard]] static bool wants(const reader& r, const message& m) {
    if (r.filter.values.empty()) return true;
    if (m.filter.empty()) return r.filter.unfiltered;
    return std::find(r.filter.values.begin(), r.filter.values.end(), m.filter) != r.filter.values.end();
  }

  // What the reader gets next.
  [[nodiscard]] std::optional<sequence> expected(const reader& r) const {
    for (auto m = messages_.lower_bound(r.next); m != messages_.end() && m->first <= readable_last_; ++m) {
      if (wants(r, m->second)) return m->first;
    }
    return std::nullopt;
  }

  void take_effects() {
    for (const auto& d : fx_.deliveries) {
      auto& r = readers_.at(d.to);
      must(able(r), "S3: a reader gets no more than it can take");
      must(expected(r) == d.at, "S1, S2: a reader gets what comes next, and nothing that is not stored");
      const auto& m = messages_.at(d.at);
      must(tag_of(*d.message) == m.tag, "a delivery has the body that was published");
      must(!d.redelivered && d.returns == 0 && d.attempts == 0, "nothing in a stream is delivered again");
      r.next = {d.at.value + 1};
      r.held.insert(d.at);
      r.spec.credit -= static_cast<std::int64_t>(d.message->footprint());
      ++delivered_;
    }
    fx_.deliveries.clear();
    for (const auto& s : fx_.settlements) {
      for (auto n = s.first; n <= s.last; ++n) {
        const auto found = unsettled_.find({s.by, n});
        must(found != unsettled_.end() && !s.rejected, "I2: what was published is settled, once");
        must(due_.contains(found->second), "I2: a publish is settled when it is stored");
        due_.erase(found->second);
        unsettled_.erase(found);
      }
    }
    fx_.settlements.clear();
    std::erase_if(due_, [this](sequence at) {
      return std::none_of(unsettled_.begin(), unsettled_.end(),
                          [at](const auto& u) { return u.second == at; });
    });
  }

  static std::uint64_t tag_of(const envelope& e) {
    std::uint64_t tag = 0;
    std::memcpy(&tag, e.body().data(), sizeof tag);
    return tag;
  }

  static std::string filter_of(const envelope& e) {
    const auto headers = decode_table(headers_of(e.properties()));
    const auto* value = headers ? headers->find("x-stream-filter-value") : nullptr;
    return value == nullptr ? std::string{} : std::string{*as_string(*value)};
  }

  void check() {
    must(log_->message_count() == messages_.size(), "message_count");
    must(log_->reader_count() == readers_.size(), "reader_count");
    must(log_->segment_count() == segments_.size(), "S4: whole steps go, and no others");
    std::size_t size = 0, held = 0, unstored = 0;
    for (const auto& s : segments_) size += sum(s);
    must(log_->stored_size() == size, "stored_size");
    for (const auto& [id, r] : readers_) held += r.held.size();
    must(log_->held_count() == held, "held_count");
    for (const auto& [at, m] : messages_) {
      if (readable_last_ < at) unstored += sizeof(envelope) + m.size;
    }
    must(log_->resident_size() >= unstored, "what cannot be read yet is in memory");
    must(log_->resident_size() <= std::max(settings_.resident_max, unstored), "memory is bounded");
    const auto range = log_->readable();
    must(range.has_value() == (readable() != 0), "whether anything can be read is known");
    must(!range || (range->first == messages_.begin()->first && range->last == readable_last_),
         "what can be read is known");
  }

  // Everything is stored, and everybody reads to the end.
  void drain() {
    doing_ = "drain";
    for (int round = 0; round < 200 && (log_->batch_under_way() || log_->has_unsent()); ++round) {
      if (!log_->batch_under_way()) take_batch();
      commit();
    }
    must(unsettled_.empty(), "I2: every publish is settled in the end");
    must(!log_->has_unsent(), "everything is written in the end");
    must(store_.size() == messages_.size(), "the store has what can be read, and nothing else");
    for (const auto& [at, m] : messages_) must(store_.contains(at), "what can be read is in the store");
    consumer_spec all;
    all.id = {1'000'000};
    all.prefetch = 50;
    all.credit = std::int64_t{1} << 40;
    reader r;
    r.spec = all;
    log_->add_reader(all, {stream_start::from::first});
    readers_[all.id] = r;
    for (std::size_t round = 0; round <= messages_.size(); ++round) {
      dispatch();
      auto& mine = readers_.at(all.id);
      if (mine.held.empty()) continue;
      const sequence_range which{*mine.held.begin(), *mine.held.rbegin()};
      mine.held.clear();
      log_->answer(all.id, {&which, 1});
      check();
    }
    must(!expected(readers_.at(all.id)), "a reader comes to the end");
  }

  settings settings_;
  std::mt19937_64 random_;
  std::size_t step_ = 0;
  const char* doing_ = "";

  std::optional<stream_log> log_;
  effects fx_;
  journal_batch batch_;
  std::map<sequence, stored_message> store_;

  std::map<sequence, message> messages_;  // that can be read, or will be
  std::vector<std::vector<sequence>> segments_;
  sequence first_{1}, readable_last_{};
  std::map<sequence, sequence> late_;  // where it stood, where it stands
  std::vector<std::pair<sequence, stored_message>> reserved_;
  std::map<consumer_id, reader> readers_;
  std::map<publisher_id, std::uint64_t> numbers_;
  std::map<publish_of, sequence> unsettled_;
  std::set<sequence> due_;
  std::int64_t now_ = 1'000'000, last_time_ = 0;
  std::uint64_t last_place_ = 0, last_tag_ = 0, last_reader_ = 0;
  std::uint64_t delivered_ = 0, loads_ = 0, dropped_ = 0, again_ = 0;
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

settings random_settings(std::uint64_t seed) {
  std::mt19937_64 random{seed};
  settings s;
  s.resident_max = random() % 4 == 0 ? 0 : random() % 8000;
  s.others_store = random() % 2 == 0;
  s.clock_goes_back = !s.others_store && random() % 2 == 0;
  s.front_may_be_written = random() % 2 == 0;
  s.crashes = random() % 4 != 0;
  s.rules = world::random_rules(random());
  return s;
}

}  // namespace

TEST_CASE("a stream does what the model does, whatever comes", "[stream]") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) CHECK(outcome_of(seed, {}, 5'000) == "as the model");
  for (std::uint64_t seed = 101; seed <= 160; ++seed)
    CHECK(outcome_of(seed, random_settings(seed), 500) == "as the model");
}

TEST_CASE("twenty thousand streams do what the model does", "[.long]") {
  for (std::uint64_t seed = 10'000; seed < 30'000; ++seed)
    CHECK(outcome_of(seed, random_settings(seed), 200) == "as the model");
}
