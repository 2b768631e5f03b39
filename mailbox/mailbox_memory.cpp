// Of a mailbox: what memory cannot hold stands only in the store.
#include "mailbox/mailbox.hpp"

#include <algorithm>

namespace posthorn {

void mailbox::keep_within_memory() {
  shed_held();
  const bool over = resident_ - held_resident_ > limits_.resident_max;
  // The front half of the budget stays at hand; what stands behind goes where it can be folded away.
  std::size_t kept_size = 0;
  for_each_lane([&](lane& its) {
    auto& [head, hole, tail, passed] = its;
    if (over && (levels_ || (hole.count == 0 && tail.empty()))) {
      std::size_t index = 0;
      while (index < head.size() && (kept_size < limits_.resident_max / 2 || head[index].at <= passed)) {
        kept_size += head[index++].message->footprint();
      }
      while (head.size() > index) {
        // With levels, what was read from the store may have to go back, for others go first.
        if (hole.count != 0 && !stored(head.back())) break;
        entry e = std::move(head.back());
        head.pop_back();
        if (hole.count == 0) {
          tail.push_front(std::move(e));
          continue;
        }
        hole.first = e.at;
        hole.expires = hole.expires || e.expires_at != 0;
        ++hole.count;
        hole.size += e.size;
        resident_ -= e.message->footprint();
      }
    }
    fold(its);
  });
  if (resident_ - held_resident_ <= limits_.resident_max || !spills_.empty() || spills_under_way_) return;
  kept_size = 0;
  for_each_lane([&](lane& its) {
    std::size_t index = its.head.size();
    if (levels_) {
      index = 0;
      while (index < its.head.size() && kept_size < limits_.resident_max / 2) {
        kept_size += its.head[index++].message->footprint();
      }
    }
    spill(its, index);
  });
  if (book_) {
    for (const auto at : book_->unshed) {
      const auto found = book_->parked.find(at);
      if (found == book_->parked.end() || found->second.e.where != kept::in_memory) continue;
      entry& e = found->second.e;
      if (!e.message) continue;
      e.where = kept::being_stored;
      spills_.push_back({e.at, e.message, true, e.expires_at});
    }
  }
  if (levels_) {
    std::sort(spills_.begin(), spills_.end(),
              [](const journal_append& a, const journal_append& b) { return a.at < b.at; });
  }
}

// What stands behind the hole and is in the store becomes a part of it.
void mailbox::fold(lane& its) {
  auto& [head, hole, tail, passed] = its;
  while (!tail.empty() && stored(tail.front())) {
    const entry& e = tail.front();
    if (hole.count == 0) hole = {.first = e.at};
    hole.last = e.at;
    hole.expires = hole.expires || e.expires_at != 0;
    ++hole.count;
    hole.size += e.size;
    resident_ -= e.message->footprint();
    tail.pop_front();
  }
}

// What need not survive is to be written, from this place in the head on.
void mailbox::spill(lane& its, std::size_t from) {
  const auto write = [this](entry& e) {
    if (e.where != kept::in_memory) return;
    e.where = kept::being_stored;
    spills_.push_back({e.at, e.message, true, e.expires_at});
  };
  for (; from < its.head.size(); ++from) write(its.head[from]);
  for (std::size_t i = 0; i < its.tail.size(); ++i) write(its.tail[i]);
}

// Held messages that the store has need no body here. The newest stand at the back, and those in front of the first
// one without a body were looked at before.
void mailbox::shed_held() {
  if (held_resident_ <= limits_.resident_max / 2) return;
  for (auto& [id, h] : holders_) {
    for (std::size_t i = h->held.size(); i > 0; --i) {
      entry& e = h->held[i - 1];
      if (e.gone()) continue;
      if (!e.message) break;
      if (!stored(e)) continue;
      const auto footprint = e.message->footprint();
      held_resident_ -= footprint;
      resident_ -= footprint;
      e.message.reset();
    }
  }
}

}  // namespace posthorn
