#include "node/load/load_thread.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>

namespace posthorn {
namespace {

using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

// After which a signal from the stage is seen, even if nothing else happens.
constexpr std::chrono::nanoseconds glance = 20ms;

error system_failure(const char* what) {
  return refused(std::string{what} + ": " + std::generic_category().message(errno));
}

}  // namespace

load_thread::~load_thread() {
  join();
  if (epoll_ >= 0) ::close(epoll_);
}

void load_thread::join() {
  if (thread_.joinable()) thread_.join();
}

result<void> load_thread::start() {
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return system_failure("the connections cannot be watched");
  try {
    thread_ = std::thread{[this] { run(); }};
  } catch (const std::system_error& failure) {
    return refused("a thread of the load cannot be started: " + std::string{failure.what()});
  }
  return {};
}

void load_thread::run() {
  left_ = seats_.size();
  for (std::size_t i = 0; i < seats_.size(); ++i) {
    if (auto ok = watch(i, EPOLLIN); !ok) return stage_.fail(ok.error());
    make_ready(i);
  }
  std::vector<std::size_t> turn;
  while (left_ != 0 && !stage_.has_failed) {
    if (auto ok = wait(); !ok) return stage_.fail(ok.error());
    turn.swap(ready_);
    for (const auto index : turn) {
      if (auto ok = step(index); !ok) return stage_.fail(ok.error());
    }
    turn.clear();
  }
}

void load_thread::make_ready(std::size_t index) {
  auto& one = seats_[index];
  if (one.is_ready || !one.connection) return;
  one.is_ready = true;
  ready_.push_back(index);
}

result<void> load_thread::wait() {
  std::array<epoll_event, 256> events;
  int count = 0;
  if (!ready_.empty()) {
    count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
  } else {
    auto patience = glance;
    if (!timers_.empty()) {
      patience = std::clamp(std::chrono::nanoseconds{timers_.top().first - steady::now()}, 0ns, glance);
    }
    if (patience == glance) {
      count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()),
                           static_cast<int>(std::chrono::milliseconds{glance / 1ms}.count()));
    } else {
      // Milliseconds, as epoll_wait takes them, are too coarse for a rate.
      pollfd any{epoll_, POLLIN, 0};
      const timespec time{0, static_cast<long>(patience.count())};
      if (::ppoll(&any, 1, &time, nullptr) > 0) {
        count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
      }
    }
  }
  if (count < 0 && errno != EINTR) return system_failure("the connections cannot be watched");
  for (int i = 0; i < count; ++i) {
    const auto& event = events[static_cast<std::size_t>(i)];
    const auto index = static_cast<std::size_t>(event.data.u64);
    if ((event.events & ~static_cast<unsigned>(EPOLLOUT)) != 0) seats_[index].is_readable = true;
    make_ready(index);
  }
  if (!timers_.empty()) {
    for (const auto now = steady::now(); !timers_.empty() && timers_.top().first <= now;) {
      const auto index = timers_.top().second;
      timers_.pop();
      seats_[index].wakes_at = time_point::max();
      make_ready(index);
    }
  }
  if (const auto signals = stage_.signals.load(); signals != signals_) {
    signals_ = signals;
    for (std::size_t i = 0; i < seats_.size(); ++i) make_ready(i);
  }
  return {};
}

result<void> load_thread::step(std::size_t index) {
  auto& one = seats_[index];
  one.is_ready = false;
  const auto pause = one.connection->step(std::exchange(one.is_readable, false));
  if (!pause) return pause.error();
  if (pause->is_over) {
    one.connection.reset();
    --left_;
    return {};
  }
  if (pause->is_again) make_ready(index);
  if (pause->until < one.wakes_at) {
    one.wakes_at = pause->until;
    timers_.emplace(pause->until, index);
  }
  return watch(index, (pause->wants_read ? static_cast<unsigned>(EPOLLIN) : 0U) |
                          (pause->wants_write ? static_cast<unsigned>(EPOLLOUT) : 0U));
}

result<void> load_thread::watch(std::size_t index, unsigned interest) {
  auto& one = seats_[index];
  if (one.interest == interest) return {};
  epoll_event event{};
  event.events = interest;
  event.data.u64 = index;
  const int how = one.is_watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (::epoll_ctl(epoll_, how, one.connection->socket(), &event) != 0) {
    return system_failure("a connection cannot be watched");
  }
  one.interest = interest;
  one.is_watched = true;
  return {};
}

}  // namespace posthorn
