// Of a mailbox: messages that stand aside, neither ready nor held. They came back and wait for their time [67], or are
// dead letters that wait for a way [64].
#include "mailbox/mailbox.hpp"

#include <algorithm>

namespace posthorn {

namespace {

// Messages that go on in one step.
constexpr std::size_t wakes_max = 256;

}  // namespace

bool mailbox::stands_aside(blame why) const noexcept {
  using delayed_retry = mailbox_rules::delayed_retry;
  if (!book_) return false;
  switch (book_->rules.retry) {
    case delayed_retry::disabled: return false;
    case delayed_retry::all: return true;
    case delayed_retry::failed: return why == blame::yes;
    case delayed_retry::returned: return why == blame::no;
  }
  return false;
}

// From a holder.
void mailbox::stand_aside(entry e, std::int64_t now) {
  if (e.message) held_resident_ -= e.message->footprint();
  count_return(e);
  const auto& rules = book_->rules;
  auto delay = rules.retry_min * counts_of(e).returns;
  if (rules.retry_max) delay = std::min(delay, *rules.retry_max);
  if (delay.count() == 0) return put_ready(std::move(e));
  park({.e = std::move(e), .due = now + delay.count()});
}

// Its body counts as in memory, if it has one.
void mailbox::park(parked_entry p) {
  const auto at = p.e.at;
  if (p.dead) {
    ++book_->dead_count;
    book_->dead_size += p.e.size;
  }
  if (p.due != 0) book_->wakes.emplace(p.due, at);
  if (p.e.message) book_->unshed.push_back(at);
  book_->parked.emplace(at, std::move(p));
  shed_parked();
}

// What the store has by now needs no body in memory.
void mailbox::shed_parked() {
  auto& unshed = book_->unshed;
  std::size_t left = 0;
  for (const auto at : unshed) {
    const auto found = book_->parked.find(at);
    if (found == book_->parked.end() || !found->second.e.message) continue;
    entry& e = found->second.e;
    if (stored(e)) {
      resident_ -= e.message->footprint();
      e.message.reset();
    } else {
      unshed[left++] = at;
    }
  }
  unshed.resize(left);
}

// Whose time has come; the rest of many with the next call.
void mailbox::wake_parked(std::int64_t now, effects& out) {
  auto& wakes = book_->wakes;
  for (std::size_t count = 0; count < wakes_max && !wakes.empty() && wakes.begin()->first <= now; ++count) {
    const auto found = book_->parked.find(wakes.begin()->second);
    wakes.erase(wakes.begin());
    if (found->second.dead) {
      found->second.due = 0;
      tell_dead(found->second, found->second.e.message, out);
    } else {
      entry e = std::move(found->second.e);
      book_->parked.erase(found);
      put_ready(std::move(e));
    }
  }
}

void mailbox::tell_dead(const parked_entry& p, const envelope_ptr& message, effects& out) {
  dead_letter dead{p.e.at, message, p.why, p.delivered};
  if (p.e.counted) {
    const auto counts = return_counts_.at(p.e.at);
    dead.attempts = counts.attempts;
    dead.returns = counts.returns;
  }
  dead.waits = p.dead;
  out.dead_letters.push_back(std::move(dead));
}

void mailbox::on_buried(sequence at, effects& out) {
  const auto found = book_->parked.find(at);
  expects(found != book_->parked.end() && found->second.dead, "a dead letter that waits is buried once");
  const entry e = std::move(found->second.e);
  if (found->second.due != 0) book_->wakes.erase({found->second.due, at});
  book_->parked.erase(found);
  --book_->dead_count;
  book_->dead_size -= e.size;
  if (e.message) resident_ -= e.message->footprint();
  book_->moves = true;
  forget(e, out, true);
}

void mailbox::on_no_way(sequence at, std::int64_t now) {
  const auto found = book_->parked.find(at);
  expects(found != book_->parked.end() && found->second.dead && found->second.due == 0,
          "a dead letter that came out finds no way");
  found->second.due = std::max<std::int64_t>(now + limits_.dead_letter_retry.count(), 1);
  book_->wakes.emplace(found->second.due, at);
}

}  // namespace posthorn
