#include "actors/event_bus.hpp"

#include "actors/supervisor.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

namespace posthorn {

namespace detail {

struct event_subscriber {
  // fixed after construction
  event_filter filter;
  event_bus::callback tell;
  std::function<void(node_context::severity, const std::string&)> log;
  bool at_once = false;  // it has no thread

  std::mutex mutex;  // guards what follows
  std::condition_variable news;
  std::deque<event> waiting;
  std::uint64_t dropped = 0, dropped_since = 0;  // since the last one that fitted
  bool ended = false;

  std::thread thread;  // of whoever ends it first; see `end`

  [[nodiscard]] bool wants(const supervision_event& e) const {
    const auto& kinds = filter.kinds;
    if (!kinds.empty() && std::find(kinds.begin(), kinds.end(), e.kind) == kinds.end()) return false;
    const std::string_view below{filter.below};
    if (below.empty()) return true;
    if (!e.path.starts_with(below)) return false;
    return e.path.size() == below.size() || e.path[below.size()] == '/';
  }

  void call(const event& e) const {
    try {
      tell(e);
    } catch (const std::exception& thrown) {
      log(node_context::severity::warning, "a subscriber of events threw at " + e.path + " " +
                                               std::string{to_string(e.kind)} + ": " + thrown.what());
    } catch (...) {
      log(node_context::severity::warning,
          "a subscriber of events threw something that is no std::exception");
    }
  }

  // False: it was dropped.
  bool put(event e) {
    if (at_once) {
      call(e);
      return true;
    }
    {
      const std::lock_guard guard{mutex};
      if (ended) return true;
      if (waiting.size() >= filter.waiting_max) {
        ++dropped;
        ++dropped_since;
        return false;
      }
      e.dropped_before = std::exchange(dropped_since, 0);
      waiting.push_back(std::move(e));
    }
    news.notify_one();
    return true;
  }

  // In its thread.
  void run() {
    std::unique_lock lock{mutex};
    for (;;) {
      news.wait(lock, [this] { return ended || !waiting.empty(); });
      if (waiting.empty()) return;
      const auto e = std::move(waiting.front());
      waiting.pop_front();
      lock.unlock();
      call(e);
      lock.lock();
    }
  }

  void end(bool tell_the_rest) {
    std::thread to_join;
    {
      const std::lock_guard guard{mutex};
      ended = true;
      if (!tell_the_rest) waiting.clear();
      to_join.swap(thread);
    }
    news.notify_one();
    if (!to_join.joinable()) return;
    if (to_join.get_id() == std::this_thread::get_id()) {
      to_join.detach();
    } else {
      to_join.join();
    }
  }
};

struct event_subscribers {
  using list = std::vector<std::shared_ptr<event_subscriber>>;

  std::mutex mutex;  // guards what follows
  std::shared_ptr<const list> all = std::make_shared<const list>();
  bool closed = false;

  [[nodiscard]] std::shared_ptr<const list> now() {
    const std::lock_guard guard{mutex};
    return all;
  }
};

}  // namespace detail

subscription& subscription::operator=(subscription&& other) noexcept {
  if (this == &other) return *this;
  cancel();
  who_ = std::move(other.who_);
  among_ = std::move(other.among_);
  return *this;
}

void subscription::cancel() {
  const auto who = std::exchange(who_, nullptr);
  if (!who) return;
  if (const auto among = std::exchange(among_, {}).lock()) {
    const std::lock_guard guard{among->mutex};
    auto rest = std::make_shared<detail::event_subscribers::list>(*among->all);
    std::erase(*rest, who);
    among->all = std::move(rest);
  }
  who->end(false);
}

std::uint64_t subscription::dropped() const {
  if (!who_) return 0;
  const std::lock_guard guard{who_->mutex};
  return who_->dropped;
}

event_bus::event_bus(node_context& node)
    : node_{node},
      dropped_{node.system.metrics().counter_singleton(
          "posthorn", "events-dropped", "Events that did not fit into a subscriber's queue.", "1", true)},
      subscribers_{std::make_shared<detail::event_subscribers>()} {}

event_bus::~event_bus() { close(); }

subscription event_bus::subscribe(event_filter filter, callback tell) {
  auto who = std::make_shared<detail::event_subscriber>();
  while (filter.below.ends_with('/')) filter.below.pop_back();
  filter.waiting_max = std::max<std::size_t>(filter.waiting_max, 1);
  who->filter = std::move(filter);
  who->tell = std::move(tell);
  who->log = node_.log;
  who->at_once = node_.simulated != nullptr;
  subscription out;
  out.who_ = who;
  const std::lock_guard guard{subscribers_->mutex};
  if (subscribers_->closed) return out;
  if (!who->at_once) who->thread = std::thread{[who] { who->run(); }};
  auto next = std::make_shared<detail::event_subscribers::list>(*subscribers_->all);
  next->push_back(who);
  subscribers_->all = std::move(next);
  out.among_ = subscribers_;
  return out;
}

void event_bus::publish(const supervision_event& e) {
  for (const auto all = subscribers_->now(); const auto& who : *all) {
    if (who->wants(e) && !who->put({node_.now(), e.path, e.kind, e.why, e.restarts, 0})) dropped_->inc();
  }
}

void event_bus::close() {
  std::shared_ptr<const detail::event_subscribers::list> all;
  {
    const std::lock_guard guard{subscribers_->mutex};
    subscribers_->closed = true;
    all = std::exchange(subscribers_->all, std::make_shared<const detail::event_subscribers::list>());
  }
  for (const auto& who : *all) who->end(true);
}

}  // namespace posthorn
