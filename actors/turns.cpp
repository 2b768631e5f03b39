#include "actors/turns.hpp"

#include "mailbox/result.hpp"

#include <algorithm>
#include <vector>

namespace posthorn {

namespace {

// Turns that one handler takes before others have their turn, and messages that are at hand.
constexpr std::size_t turns_max = 256, unwritten_max = 4096;
constexpr std::int64_t plenty = std::int64_t{1} << 40;
// A tick keeps its actor in memory after it has ended, so a timer that is further off is looked at again meanwhile.
constexpr std::int64_t tick_delay_max = 60'000;

}  // namespace

turns::turns(node_context& node, queue_port& port, mailbox& box, const backoff& pause,
             std::unique_ptr<inhabitant> who)
    : node_{node},
      port_{port},
      box_{box},
      pause_{pause},
      who_{std::move(who)},
      own_{node_context::next_id<consumer_id>(node.last_consumer)},
      aside_{node_context::next_id<consumer_id>(node.last_consumer)} {
  consumer_spec spec;
  spec.id = own_;
  spec.prefetch = turns_max;
  spec.credit = plenty;
  box_.add_consumer(spec);
}

void turns::begin(worker_actor::pointer self, effects& fx) {
  self_ = self;
  timers_.clear();
  armed_ = 0;
  if (stashed_ != 0) give_back_all(fx);
  if (from_ != 0) {
    const auto left = std::max<std::int64_t>(0, from_ - node_.now());
    self_->delayed_send(self_, std::chrono::milliseconds{left + 1}, tick{next_turn_tick});
  }
  if (const auto begun = who_->begin(); !begun) {
    // Its mailbox goes on taking messages; its supervisor hears once why nobody handles them.
    if (!std::exchange(unable_, true)) failed_ = begun.error().text;
  }
}

void turns::keep(effects& from) {
  for (auto& d : from.deliveries) to_take_.push_back(std::move(d));
  node_.counters.delivered->inc(static_cast<std::int64_t>(from.deliveries.size()));
  from.deliveries.clear();
}

bool turns::take(effects& fx, outgoing& to, std::int64_t now) {
  keep(fx);
  if (!may_take(now)) return false;
  if (!timers_.empty()) timers_.fall_due(now, {port_.last_sequence.load(std::memory_order_relaxed)});
  // In virtual time, a turn takes none.
  const auto clock = [this] { return node_.simulated != nullptr ? 0 : actor_status::now(); };
  auto begun = clock();
  for (std::size_t taken = 0; taken < turns_max; ++taken) {
    // The mailbox has just handed out what it could; when all of that is taken, there may be more.
    const bool timer = timer_is_next(taken == 0 || box_.ready_count() == 0);
    if (!timer && to_take_.empty()) break;
    ++unwritten_;
    const bool went_well = timer ? take_timer(fx, to, now) : take_message(fx, to, now);
    // The end of one turn is the begin of the next.
    const auto ended = clock();
    port_.response.note(ended - std::exchange(begun, ended));
    if (!went_well) {
      wait_after_failure(now);
      break;
    }
  }
  box_.set_credit(own_, plenty);
  if (std::exchange(changed_, false)) {
    who_->save(to, {port_.last_sequence.load(std::memory_order_relaxed)});
  }
  node_.reached("turn.finished");
  arm_timers(now);
  return true;
}

// A message of a timer has its turn behind the messages that are older.
bool turns::timer_is_next(bool none_ready) const {
  const auto* waiting = timers_.waiting();
  if (waiting == nullptr) return false;
  return to_take_.empty() ? none_ready : waiting->behind < to_take_.front().at;
}

inhabitant::answer turns::run(const delivery& message, outgoing& sent, const occasion& when) {
  node_.reached("turn.taken");
  auto answer = who_->take(message, sent, when);
  node_.reached("turn.handled");
  return answer;
}

bool turns::take_message(effects& fx, outgoing& to, std::int64_t now) {
  const auto message = std::move(to_take_.front());
  to_take_.pop_front();
  const sequence_range which[] = {{message.at, message.at}};
  outgoing sent;
  auto answer = run(message, sent, {now, stashed_, &timers_, {}, 0});
  switch (answer.what) {
    case inhabitant::verdict::done:
      box_.finish(own_, which, fx);
      carry_out(std::move(sent), answer, to, fx);
      failures_in_row_ = 0;
      return true;
    case inhabitant::verdict::stashed:
      carry_out(std::move(sent), answer, to, fx);
      box_.set_aside(own_, aside_, which);
      ++stashed_;
      return true;
    case inhabitant::verdict::rejected:
      node_.log(node_context::severity::info, port_.described + " rejected a message: " + answer.why);
      box_.reject(own_, which, fx);
      return true;
    case inhabitant::verdict::failed: break;
  }
  // Those behind it keep their order, and are not to blame.
  give_back_untaken(fx);
  box_.give_back(own_, which, fx, blame::yes);
  failed_ = std::move(answer.why);
  return false;
}

bool turns::take_timer(effects& fx, outgoing& to, std::int64_t now) {
  const auto due = timers_.take();
  delivery message;
  message.to = own_;
  message.message = due.message;
  outgoing sent;
  auto answer = run(message, sent, {now, stashed_, &timers_, due.timer, due.due});
  switch (answer.what) {
    case inhabitant::verdict::done:
      carry_out(std::move(sent), answer, to, fx);
      failures_in_row_ = 0;
      return true;
    case inhabitant::verdict::rejected:
      node_.log(node_context::severity::warning, port_.described + " rejected the message of its timer '" +
                                                     due.timer + "', which is gone: " + answer.why);
      return true;
    case inhabitant::verdict::stashed:
      expects(false, "the message of a timer is not set aside");
      [[fallthrough]];
    case inhabitant::verdict::failed: break;
  }
  failed_ = "the turn of the timer '" + due.timer + "' failed, and its message is gone: " + answer.why;
  return false;
}

// What comes of a turn besides its message.
void turns::carry_out(outgoing&& sent, inhabitant::answer& answer, outgoing& to, effects& fx) {
  if (answer.changed) {
    to.append(std::move(sent));
    changed_ = true;
    box_.demand_batch();
  }
  for (auto& t : answer.timers) timers_.apply(std::move(t));
  if (answer.unstash && stashed_ != 0) give_back_all(fx);
}

void turns::give_back_all(effects& fx) {
  box_.release(aside_, fx, blame::no);
  stashed_ = 0;
  give_back_untaken(fx);
}

void turns::give_back_untaken(effects& fx) {
  std::vector<sequence_range> behind;
  for (std::size_t i = 0; i < to_take_.size(); ++i) behind.push_back({to_take_[i].at, to_take_[i].at});
  to_take_.clear();
  box_.give_back(own_, behind, fx, blame::no);
}

void turns::wait_after_failure(std::int64_t now) {
  const auto delay = std::min<std::chrono::milliseconds>(
      pause_.maximum, pause_.minimum * (std::int64_t{1} << std::min(failures_in_row_++, 20U)));
  from_ = now + delay.count();
  self_->delayed_send(self_, delay + std::chrono::milliseconds{1}, tick{next_turn_tick});
}

void turns::arm_timers(std::int64_t now) {
  const auto due = timers_.next_due();
  if (!due || (armed_ != 0 && armed_ <= *due)) return;
  const auto wait = std::clamp<std::int64_t>(*due - now, 0, tick_delay_max);
  armed_ = std::max<std::int64_t>(now + wait, 1);
  self_->delayed_send(self_, std::chrono::milliseconds{wait + 1}, tick{timer_tick});
}

// While a batch is under way, the turns behind it gather for the next one, but not without end.
bool turns::may_take(std::int64_t now) const {
  return !unable_ && now >= from_ && !(box_.batch_under_way() && unwritten_ >= unwritten_max);
}

}  // namespace posthorn
