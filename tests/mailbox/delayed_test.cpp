#include "mailbox/delayed.hpp"

#include "mailbox/properties.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace posthorn;

namespace {

constexpr auto latest = std::numeric_limits<std::int64_t>::max();

envelope_ptr message(const field_table& headers, const std::string& body = "body", bool persistent = false) {
  basic_properties p;
  p.headers = headers;
  std::string properties;
  encode_properties(p, properties);
  return make_envelope("x", "k", std::as_bytes(std::span{properties}), persistent,
                       std::as_bytes(std::span{body}));
}

std::int64_t delay_with(field_value value) {
  return delay_of(message({{"x-delay", std::move(value)}})->properties());
}

std::optional<field_value> delay_header_of(const envelope& e) {
  const auto headers = decode_table(headers_of(e.properties()));
  const auto* value = headers->find("x-delay");
  return value == nullptr ? std::nullopt : std::optional{*value};
}

struct wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void must(bool condition, const char* what) {
  if (!condition) throw wrong{what};
}

// Waiting messages against a model of them that is slow and obviously right.
class world {
public:
  world(std::uint64_t seed, bool survives) : random_{seed}, survives_{survives} {
    waiting_.emplace(survives);
  }

  void run(std::size_t steps) {
    for (step_ = 0; step_ < steps; ++step_) {
      now_ += static_cast<std::int64_t>(below(30));
      command();
      check();
    }
    drain();
  }

  [[nodiscard]] std::string where() const { return "step " + std::to_string(step_) + ", " + doing_; }

private:
  struct entry {
    std::uint64_t tag = 0;
    bool stored = false;
  };
  struct publish_of {
    publisher_id by{};
    std::uint64_t number = 0;
  };
  struct stored_message {
    envelope_ptr message;
    std::int64_t due = 0;
  };

  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }
  bool chance(unsigned percent) { return below(100) < percent; }

  void command() {
    switch (below(12)) {
      case 0:
      case 1:
      case 2: return publish();
      case 3: return arrive();
      case 4:
      case 5: return take();
      case 6:
      case 7:
      case 8: return journal();
      case 9: return cancel();
      case 10: return chance(10) ? purge() : list();
      default: return chance(15) ? crash() : take();
    }
  }

  envelope_ptr new_message(std::uint64_t tag, std::int64_t delay) {
    std::string body(8 + below(40), 'x');
    std::memcpy(body.data(), &tag, sizeof tag);
    return message({{"x-delay", field_value::of_long(delay)}}, body, chance(50));
  }

  std::int64_t some_delay() {
    if (chance(3)) return latest - static_cast<std::int64_t>(below(5));
    if (chance(10)) return -static_cast<std::int64_t>(below(100));
    return static_cast<std::int64_t>(below(chance(50) ? 60 : 3000));
  }

  void publish() {
    doing_ = "publish";
    std::vector<arrival> arrivals;
    waiting_->skip_to({last_place_ + 1});
    for (auto left = 1 + below(8); left > 0; --left) {
      const auto tag = ++last_tag_;
      const auto delay = some_delay();
      const publisher_id from{1 + below(3)};
      const auto number = ++numbers_[from];
      const sequence at{++last_place_};
      arrivals.push_back({new_message(tag, delay), from, number});
      const auto due = delay <= 0 ? now_ : delay > latest - now_ ? latest : now_ + delay;
      entries_[{due, at}] = {tag, false};
      unsettled_[at] = {from, number};
    }
    waiting_->publish(arrivals, now_);
  }

  void arrive() {
    doing_ = "arrive";
    const sequence at{++last_place_};
    const auto tag = ++last_tag_;
    const auto due = now_ + static_cast<std::int64_t>(below(500));
    store_[at] = {new_message(tag, 5), due};
    const std::vector<loaded_message> arrived{{at, store_[at].message, due}};
    waiting_->arrive(arrived);
    entries_[{due, at}] = {tag, true};
  }

  void take() {
    doing_ = "take_due";
    const auto count_max = 1 + below(20);
    const auto taken = waiting_->take_due(now_, count_max, fx_);
    for (const auto& t : taken) {
      must(!entries_.empty() && entries_.begin()->first == t.id, "D1: what is due first comes first");
      must(t.id.due <= now_, "D1: nothing is due before its time");
      const auto e = entries_.begin()->second;
      must(t.message || store_.contains(t.id.at), "what is due can be read");
      must(tag_of(t.message ? *t.message : *store_.at(t.id.at).message) == e.tag,
           "what is due is what was published");
      moving_.push_back(t.id.at);
      if (!e.stored) (sending_.contains(t.id.at) ? moving_sent_ : moving_unsent_).insert(t.id.at);
      entries_.erase(entries_.begin());
    }
    must(taken.size() == count_max || entries_.empty() || entries_.begin()->first.due > now_,
         "D1: what is due comes out");
    settle({});
  }

  void cancel() {
    doing_ = "cancel";
    delayed_id id{now_ + static_cast<std::int64_t>(below(100)), {1 + below(last_place_ + 1)}};
    if (!entries_.empty() && chance(80))
      id = std::next(entries_.begin(), static_cast<std::ptrdiff_t>(below(entries_.size())))->first;
    const auto found = entries_.find(id);
    must(waiting_->cancel(id, fx_) == (found != entries_.end()), "what waits can be cancelled, once");
    std::set<sequence> gone;
    if (found != entries_.end()) {
      if (!found->second.stored && !sending_.contains(id.at)) gone.insert(id.at);
      entries_.erase(found);
    }
    settle(gone);
  }

  void purge() {
    doing_ = "purge";
    std::set<sequence> gone;
    const auto count_max = 1 + below(100);
    const auto count = std::min(count_max, entries_.size());
    for (std::size_t i = 0; i < count; ++i) {
      const auto e = entries_.begin();
      if (!e->second.stored && !sending_.contains(e->first.at)) gone.insert(e->first.at);
      entries_.erase(e);
    }
    must(waiting_->purge(count_max, fx_) == count, "a purge says how many it forgot");
    settle(gone);
  }

  void list() {
    doing_ = "list";
    delayed_id from;
    if (!entries_.empty() && chance(70))
      from = std::next(entries_.begin(), static_cast<std::ptrdiff_t>(below(entries_.size())))->first;
    if (chance(30)) from.at.value += 1;
    const auto count_max = below(50);
    std::vector<delayed_id> expected;
    for (auto e = entries_.lower_bound(from); e != entries_.end() && expected.size() < count_max; ++e)
      expected.push_back(e->first);
    must(waiting_->list(from, count_max) == expected, "what waits is listed in order");
  }

  // --- the journal ---

  void journal() {
    if (!waiting_->batch_under_way()) return take_batch();
    if (chance(70)) return commit();
    not_commit();
  }

  void take_batch() {
    doing_ = "take_batch";
    const bool expected = waiting_->has_unsent();
    batch_ = waiting_->take_batch({1 + below(10), 200 + below(2000)});
    must(batch_.empty() != expected, "has_unsent says whether there is a batch");
    must(batch_.moves == !moving_.empty(), "I7: what is due moves with the next batch");
    sending_.clear();
    for (const auto& a : batch_.appends) {
      const auto found = entries_.find({a.expires_at, a.at});
      must(found != entries_.end() && !found->second.stored, "what waits is written, once, with its time");
      must(a.transient != survives_, "what survives a restart is that of a durable exchange");
      must(tag_of(*a.message) == found->second.tag, "a message is written at its own place");
      sending_.insert(a.at);
      for (const auto& e : batch_.erasures)
        must(a.at < e.first || e.last < a.at, "I5: a batch never erases what it appends");
    }
    for (const auto& e : batch_.erasures) {
      for (const auto& [id, waits] : entries_)
        must(id.at < e.first || e.last < id.at, "D2: what waits is not erased");
    }
    for (const auto at : moving_) {
      if (store_.contains(at)) {
        must(std::any_of(batch_.erasures.begin(), batch_.erasures.end(),
                         [at = at](const auto& e) { return e.first <= at && at <= e.last; }),
             "I7: what is due is erased with the batch that moves it");
      }
    }
    moving_under_way_ = std::exchange(moving_, {});
    unsent_under_way_ = std::exchange(moving_unsent_, {});
  }

  void apply(const journal_batch& batch) {
    for (const auto& a : batch.appends) store_[a.at] = {a.message, a.expires_at};
    for (const auto& e : batch.erasures)
      store_.erase(store_.lower_bound(e.first), store_.upper_bound(e.last));
  }

  void commit() {
    doing_ = "commit";
    apply(batch_);
    auto due = std::exchange(unsent_under_way_, {});
    for (const auto& a : batch_.appends) {
      due.insert(a.at);
      if (const auto e = entries_.find({a.expires_at, a.at}); e != entries_.end()) e->second.stored = true;
    }
    moving_sent_.clear();
    moving_under_way_.clear();
    sending_.clear();
    waiting_->on_committed(fx_);
    settle(due);
  }

  // Nothing of it was written.
  void not_commit() {
    doing_ = "not commit";
    moving_.insert(moving_.begin(), moving_under_way_.begin(), moving_under_way_.end());
    moving_under_way_.clear();
    moving_unsent_.merge(unsent_under_way_);
    unsent_under_way_.clear();
    moving_unsent_.merge(moving_sent_);
    moving_sent_.clear();
    std::set<sequence> gone;
    for (const auto& a : batch_.appends) {
      const bool waits = entries_.contains({a.expires_at, a.at});
      if (!waits && !moving_unsent_.contains(a.at)) gone.insert(a.at);  // cancelled meanwhile
    }
    sending_.clear();
    waiting_->on_not_committed(std::move(batch_), fx_);
    batch_ = {};
    settle(gone);
  }

  void crash() {
    doing_ = "crash";
    if (waiting_->batch_under_way() && chance(50)) apply(batch_);
    batch_ = {};
    std::map<delayed_id, entry> before;
    before.swap(entries_);
    if (!survives_) store_.clear();
    waiting_.emplace(survives_);
    for (const auto& [at, s] : store_) {
      waiting_->restore(at, s.due);
      entries_[{s.due, at}] = {tag_of(*s.message), true};
    }
    for (const auto& [id, e] : before)
      must(!survives_ || !e.stored || entries_.contains(id), "what was confirmed outlives a crash");
    unsettled_.clear();
    sending_.clear();
    moving_.clear();
    moving_under_way_.clear();
    moving_unsent_.clear();
    moving_sent_.clear();
    unsent_under_way_.clear();
    fx_.clear();
  }

  // Exactly these are settled by the last command.
  void settle(const std::set<sequence>& which) {
    std::set<std::pair<std::uint64_t, std::uint64_t>> expected, got;
    for (const auto at : which) {
      const auto found = unsettled_.find(at);
      must(found != unsettled_.end(), "I2: a publish is settled once");
      expected.insert({found->second.by.value, found->second.number});
      unsettled_.erase(found);
    }
    for (const auto& s : fx_.settlements) {
      for (auto n = s.first; n <= s.last; ++n)
        must(got.insert({s.by.value, n}).second && !s.rejected, "I2: a publish is settled once");
    }
    must(got == expected, "I2: a publish is settled when it is stored, moved or gone");
    fx_.clear();
  }

  static std::uint64_t tag_of(const envelope& e) {
    std::uint64_t tag = 0;
    std::memcpy(&tag, e.body().data(), sizeof tag);
    return tag;
  }

  void check() {
    must(waiting_->count() == entries_.size(), "D2: count");
    const auto next = waiting_->next_due();
    must(next.has_value() == !entries_.empty(), "whether anything waits is known");
    must(!next || *next == entries_.begin()->first.due, "when the next is due is known");
  }

  void drain() {
    now_ = latest;
    while (!entries_.empty()) take();
    for (int round = 0; round < 400 && (waiting_->has_unsent() || waiting_->batch_under_way()); ++round) {
      if (!waiting_->batch_under_way()) take_batch();
      commit();
    }
    must(!waiting_->has_unsent(), "everything is written in the end");
    must(unsettled_.empty(), "I2: every publish is settled in the end");
    must(store_.empty(), "what went on is erased");
    check();
  }

  std::mt19937_64 random_;
  bool survives_;
  std::size_t step_ = 0;
  const char* doing_ = "";
  std::optional<delayed_messages> waiting_;
  effects fx_;
  journal_batch batch_;
  std::map<sequence, stored_message> store_;
  std::map<delayed_id, entry> entries_;
  std::map<sequence, publish_of> unsettled_;
  std::map<publisher_id, std::uint64_t> numbers_;
  std::set<sequence> sending_;
  std::vector<sequence> moving_, moving_under_way_;  // due, with copies to be written
  // Of these, the ones whose publishers hear of it with the copy: never sent; and those in the batch under way.
  std::set<sequence> moving_unsent_, unsent_under_way_, moving_sent_;
  std::int64_t now_ = 1'000'000;
  std::uint64_t last_place_ = 0, last_tag_ = 0;
};

std::string outcome_of(std::uint64_t seed, std::size_t steps) {
  world w{seed, seed % 4 != 0};
  try {
    w.run(steps);
    return "as the model";
  } catch (const std::exception& e) {
    return "seed " + std::to_string(seed) + ", " + w.where() + ": " + e.what();
  }
}

}  // namespace

TEST_CASE("messages that wait do what the model does, whatever comes", "[delayed]") {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) CHECK(outcome_of(seed, 400) == "as the model");
}

TEST_CASE("ten thousand exchanges with messages that wait do what the model does", "[.long]") {
  for (std::uint64_t seed = 1'000; seed < 11'000; ++seed) CHECK(outcome_of(seed, 300) == "as the model");
}

TEST_CASE("a delay is any whole number of milliseconds, however it is written", "[delayed]") {
  CHECK(delay_of(message({})->properties()) == 0);
  CHECK(delay_of({}) == 0);
  CHECK(delay_with(field_value::of_int(5000)) == 5000);
  CHECK(delay_with({'b', std::int64_t{5}}) == 5);
  CHECK(delay_with(field_value::of_long(latest)) == latest);
  CHECK(delay_with(field_value::of_long(std::int64_t{1} << 40)) == std::int64_t{1} << 40);
  CHECK(delay_with(field_value::of_int(0)) == 0);
  CHECK(delay_with(field_value::of_int(-5000)) == 0);
  CHECK(delay_with(field_value::of_long(std::numeric_limits<std::int64_t>::min())) == 0);
  CHECK(delay_with(field_value::of_string("1500")) == 1500);
  CHECK(delay_with(field_value::of_string("99999999999999999999999")) == latest);
  CHECK(delay_with(field_value::of_string("soon")) == 0);
  CHECK(delay_with(field_value::of_string("")) == 0);
  CHECK(delay_with(field_value::of_double(1500.9)) == 1500);
  CHECK(delay_with(field_value::of_double(1e300)) == latest);
  CHECK(delay_with({'D', decimal{1, 15'005}}) == 1500);
  CHECK(delay_with(field_value::of_bool(true)) == 0);
  CHECK(delay_of(message({{"other", field_value::of_string("x-delay")}})->properties()) == 0);
}

TEST_CASE("a delay beyond the end of time lasts until then", "[delayed]") {
  const auto m = message({{"x-delay", field_value::of_long(latest)}});
  CHECK(due_time_of(*m, 1'700'000'000'000) == latest);
  CHECK(due_time_of(*message({{"x-delay", field_value::of_int(10)}}), 1'700'000'000'000) ==
        1'700'000'000'010);
  CHECK(due_time_of(*message({}), 1'700'000'000'000) == 1'700'000'000'000);
}

TEST_CASE("a message that waited says so by a negative delay, and waits nowhere again", "[delayed]") {
  const auto m = message(
      {{"a", field_value::of_int(1)}, {"x-delay", field_value::of_long(5000)}, {"b", field_value::of_int(2)}},
      "body", true);
  const auto on = released(*m);
  REQUIRE(on.has_value());
  CHECK(delay_header_of(**on) == field_value::of_int(-5000));
  CHECK(delay_of((*on)->properties()) == 0);
  CHECK((*on)->persistent());
  CHECK((*on)->exchange() == "x");
  CHECK((*on)->routing_key() == "k");
  CHECK(std::equal((*on)->body().begin(), (*on)->body().end(), m->body().begin(), m->body().end()));
  CHECK(delay_header_of(**released(**on)) == field_value::of_int(-5000));
  const auto far = message({{"x-delay", field_value::of_long(std::int64_t{1} << 40)}});
  CHECK(delay_header_of(**released(*far)) == field_value::of_long(-(std::int64_t{1} << 40)));
  CHECK(delay_header_of(**released(*message({{"x-delay", field_value::of_string("25")}}))) ==
        field_value::of_int(-25));
}

TEST_CASE("a delaying exchange says as what it routes", "[delayed]") {
  const auto answer = [](std::optional<field_value> type) {
    field_table arguments;
    if (type) arguments.add("x-delayed-type", *std::move(type));
    const auto read = delayed_type_of(arguments);
    const auto* found = std::get_if<exchange_type>(&read);
    return found != nullptr ? std::string{to_string(*found)} : std::get<std::string>(read);
  };
  const std::string missing = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
  CHECK(answer(field_value::of_string("direct")) == "direct");
  CHECK(answer(field_value::of_string("x-consistent-hash")) == "x-consistent-hash");
  CHECK(answer(std::nullopt) == missing);
  CHECK(answer(field_value::of_int(1)) == missing);
  CHECK(answer(field_value::of_string("x-delayed-message")) == missing);
  CHECK(answer(field_value::of_string("foo")) == "invalid exchange type 'foo'");
}

TEST_CASE("the id of a message that waits is written and read", "[delayed]") {
  const delayed_id id{1'700'000'000'000, {42}};
  CHECK(to_string(id) == "1700000000000-42");
  CHECK(delayed_id_of("1700000000000-42") == id);
  for (const auto* text : {"", "42", "1700000000000-", "-42", "a-b", "1-2x", "1-2-3", "1 - 2"})
    CHECK_FALSE(delayed_id_of(text).has_value());
}

TEST_CASE("a message that waits takes 33 bytes of memory at most, wherever it is due", "[delayed]") {
  constexpr std::size_t count = 200'000;
  std::mt19937_64 random{7};
  delayed_ids in_order, at_random;
  for (std::size_t i = 0; i < count; ++i) {
    in_order.insert({static_cast<std::int64_t>(i), {i}});
    at_random.insert({static_cast<std::int64_t>(random() % 1'000'000'000), {i}});
  }
  CHECK(in_order.footprint() < count * 33);
  CHECK(at_random.footprint() < count * 33);
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 8 != 0) in_order.erase({static_cast<std::int64_t>(i), {i}});
  }
  CHECK(in_order.size() == count / 8);
  CHECK(in_order.footprint() < count * 33 / 2);
}

TEST_CASE("ids that wait are in order, whatever comes and goes", "[delayed]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    std::mt19937_64 random{seed};
    delayed_ids ids;
    std::set<delayed_id> model;
    const auto any = [&] {
      const delayed_id id{static_cast<std::int64_t>(random() % 5000), {random() % 3}};
      const auto found = model.lower_bound(id);
      return random() % 4 == 0 || found == model.end() ? id : *found;
    };
    bool same = true;
    for (int step = 0; step < 20'000 && same; ++step) {
      const bool fills = step / 4000 % 2 == 0;
      switch (random() % 8) {
        case 0:
        case 1:
        case 2: {
          const delayed_id id{static_cast<std::int64_t>(random() % 5000), {random() % 3}};
          same = ids.insert(id) == model.insert(id).second;
          break;
        }
        case 3: {
          const auto id = any();
          if (!fills) same = ids.erase(id) == (model.erase(id) == 1);
          break;
        }
        case 4: {
          const auto from = any();
          const auto end = model.end();
          std::vector<delayed_id> expected;
          for (auto m = model.lower_bound(from); m != end && expected.size() < 300; ++m)
            expected.push_back(*m);
          same = ids.list(from, 300) == expected;
          break;
        }
        case 5:
        case 6: {
          for (auto left = fills ? random() % 2 : random() % 6; left > 0 && !model.empty() && same; --left) {
            same = ids.front() == *model.begin();
            ids.pop_front();
            model.erase(model.begin());
          }
          break;
        }
        default: {
          const auto id = any();
          same = ids.erase(id) == (model.erase(id) == 1);
        }
      }
      same = same && ids.size() == model.size() && (model.empty() || ids.front() == *model.begin());
    }
    CHECK(same);
    CHECK(ids.list({}, 100'000) == std::vector<delayed_id>(model.begin(), model.end()));
  }
}
