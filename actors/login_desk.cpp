#include "actors/login_desk.hpp"

#include <chrono>
#include <utility>

namespace posthorn {

namespace {

std::chrono::milliseconds steady_now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

login_desk::login_desk(std::shared_ptr<const directory_port> users, password_cost cost, bool with_thread)
    : users_{std::move(users)}, cost_{cost}, with_thread_{with_thread}, cache_{login_cache::new_key()} {
  if (with_thread_) thread_ = std::thread{[this] { work(); }};
}

void login_desk::stop() {
  std::deque<task> dropped;
  {
    const std::lock_guard guard{mutex_};
    stopping_ = true;
    dropped.swap(waiting_);
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool login_desk::is_known(const std::string& user, const secret& password) {
  const auto who = users_->snapshot()->users().find(user);
  if (!who) return false;
  const std::lock_guard guard{cache_mutex_};
  return cache_.knows(user, who->password, password, steady_now());
}

void login_desk::check(std::string user, secret password, check_answer answer) {
  if (is_known(user, password)) return answer(verdict::accepted);
  task t{std::move(user), std::move(password), std::move(answer), nullptr};
  if (!enter(t)) t.checked(verdict::overloaded);
}

void login_desk::hash(secret password, hash_answer answer) {
  task t{{}, std::move(password), nullptr, std::move(answer)};
  if (!enter(t)) t.hashed(overloaded("too many passwords wait to be checked: try again"));
}

bool login_desk::enter(task& t) {
  if (!with_thread_) {
    run(t);
    return true;
  }
  {
    const std::lock_guard guard{mutex_};
    if (waiting_.size() >= waiting_max || stopping_) return false;
    waiting_.push_back(std::move(t));
  }
  changed_.notify_one();
  return true;
}

void login_desk::work() {
  for (;;) {
    task next;
    {
      std::unique_lock lock{mutex_};
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    run(next);
  }
}

void login_desk::run(task& t) {
  if (t.hashed) return t.hashed(password_hash::of(t.password, cost_));
  // Of many that came at once, the first has been checked meanwhile.
  if (is_known(t.user, t.password)) return t.checked(verdict::accepted);
  const auto check = users_->snapshot()->users().check(t.user, std::move(t.password), cost_);
  const auto right = check.run();
  if (!right) return t.checked(verdict::overloaded);
  if (*right) {
    const std::lock_guard guard{cache_mutex_};
    cache_.remember(t.user, *check.stored(), check.password(), steady_now());
  }
  t.checked(*right ? verdict::accepted : verdict::refused);
}

}  // namespace posthorn
