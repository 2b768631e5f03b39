#include "mailbox/journal_feed.hpp"

#include <algorithm>
#include <utility>

namespace posthorn {

namespace {

// The first of a sorted ring that stands at this place or behind it.
template <class Entries>
std::size_t index_of(const Entries& entries, sequence at) noexcept {
  std::size_t first = 0, end = entries.size();
  while (first < end) {
    const auto middle = first + (end - first) / 2;
    if (entries[middle].at < at) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first;
}

bool lies_in(const std::vector<sequence_range>& ranges, sequence at) noexcept {
  return std::any_of(ranges.begin(), ranges.end(),
                     [at](const sequence_range& r) { return r.first <= at && at <= r.last; });
}

}  // namespace

void journal_feed::settle(publisher_id from, std::uint64_t number, effects& out) {
  if (from != nobody) out.settle(from, number);
}

void journal_feed::append(entry e) {
  expects(unsent_.empty() || unsent_.back().at < e.at, "places grow");
  unsent_.push_back(std::move(e));
}

void journal_feed::pop_withdrawn() {
  for (; !unsent_.empty() && unsent_.front().withdrawn; unsent_.pop_front()) --withdrawn_;
}

void journal_feed::withdraw(sequence at, bool moves, effects& out) {
  if (moves) moves_ = true;
  if (const auto index = index_of(unsent_, at); index < unsent_.size() && unsent_[index].at == at) {
    auto& e = unsent_[index];
    if (moves) {
      if (e.from != nobody) moved_.push_back({e.from, e.number});
    } else {
      settle(e.from, e.number, out);
    }
    e.message.reset();
    e.withdrawn = true;
    ++withdrawn_;
    return pop_withdrawn();
  }
  if (const auto index = index_of(sent_, at); index < sent_.size() && sent_[index].at == at) {
    sent_[index].withdrawn = true;
    sent_[index].moves = moves;
  }
  erase({at, at});
}

void journal_feed::erase(sequence_range which) {
  if (!erasures_.empty()) {
    auto& last = erasures_.back();
    if (last.last.value + 1 == which.first.value) {
      last.last = which.last;
      return;
    }
  }
  erasures_.push_back(which);
}

journal_batch journal_feed::take_batch(const batch_limits& max, bool transient) {
  journal_batch batch;
  if (under_way_) return batch;
  std::size_t size = 0;
  for (; !unsent_.empty(); unsent_.pop_front()) {
    auto& e = unsent_.front();
    if (e.withdrawn) {
      --withdrawn_;
      continue;
    }
    const auto bytes = e.message->bytes().size();
    const bool full = batch.appends.size() >= max.count_max || size + bytes > max.size_max;
    if (!batch.appends.empty() && full) break;
    size += bytes;
    batch.appends.push_back({e.at, e.message, transient, e.stamp});
    sent_.push_back(std::move(e));
  }
  batch.moves = std::exchange(moves_, false);
  moved_under_way_ = std::exchange(moved_, {});
  auto range = erasures_.begin();
  for (std::uint64_t erased = 0; range != erasures_.end(); ++range) {
    const auto width = range->last.value - range->first.value;
    erased += width < wide_erasure_min ? width + 1 : 1;
    if (erased > max.count_max && range != erasures_.begin() && !batch.moves) break;
  }
  batch.erasures.assign(erasures_.begin(), range);
  erasures_.erase(erasures_.begin(), range);
  erasures_under_way_ = batch.erasures;
  under_way_ = !batch.empty();
  return batch;
}

std::vector<sequence> journal_feed::end_batch(effects& out) {
  std::vector<sequence> stored;
  stored.reserve(sent_.size());
  for (const auto& e : sent_) {
    settle(e.from, e.number, out);
    if (!e.withdrawn) stored.push_back(e.at);
  }
  sent_.clear();
  return stored;
}

std::vector<sequence> journal_feed::on_committed(effects& out) {
  expects(under_way_, "only a batch under way is committed");
  under_way_ = false;
  erasures_under_way_.clear();
  auto stored = end_batch(out);
  for (const auto& m : std::exchange(moved_under_way_, {})) settle(m.from, m.number, out);
  return stored;
}

std::vector<sequence> journal_feed::on_not_committed(journal_batch unwritten, effects& out) {
  expects(under_way_, "only a batch under way fails");
  under_way_ = false;
  erasures_under_way_.clear();
  if (unwritten.moves) {
    moves_ = true;
    moved_.insert(moved_.begin(), moved_under_way_.begin(), moved_under_way_.end());
    moved_under_way_.clear();
  }
  // What was withdrawn meanwhile and was not written never will be. That its erasure is written all the same does no harm.
  for (auto append = unwritten.appends.rbegin(); append != unwritten.appends.rend(); ++append) {
    const auto index = index_of(sent_, append->at);
    expects(index < sent_.size() && sent_[index].at == append->at, "only what was in the batch comes back");
    auto e = std::move(sent_[index]);
    sent_.erase(sent_.begin() + static_cast<std::ptrdiff_t>(index));
    if (!e.withdrawn) {
      unsent_.push_front(std::move(e));
    } else if (e.moves) {
      moved_.push_back({e.from, e.number});
    } else {
      settle(e.from, e.number, out);
    }
  }
  erasures_.insert(erasures_.begin(), unwritten.erasures.begin(), unwritten.erasures.end());
  auto stored = end_batch(out);
  for (const auto& m : std::exchange(moved_under_way_, {})) settle(m.from, m.number, out);
  return stored;
}

void journal_feed::settle_all(effects& out) {
  for (std::size_t i = 0; i < unsent_.size(); ++i) {
    if (!unsent_[i].withdrawn) settle(unsent_[i].from, unsent_[i].number, out);
  }
  for (const auto& e : sent_) settle(e.from, e.number, out);
  for (const auto* all : {&moved_, &moved_under_way_}) {
    for (const auto& m : *all) settle(m.from, m.number, out);
  }
  *this = journal_feed{};
}

bool journal_feed::is_erasing(sequence at) const noexcept {
  return lies_in(erasures_, at) || lies_in(erasures_under_way_, at);
}

envelope_ptr journal_feed::find_unstored(sequence at) const noexcept {
  if (const auto index = index_of(unsent_, at); index < unsent_.size() && unsent_[index].at == at)
    return unsent_[index].message;
  if (const auto index = index_of(sent_, at); index < sent_.size() && sent_[index].at == at)
    return sent_[index].message;
  return {};
}

}  // namespace posthorn
