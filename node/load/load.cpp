#include "node/load/load.hpp"

#include "node/load/consumer.hpp"
#include "node/load/load_stage.hpp"
#include "node/load/load_thread.hpp"
#include "node/load/producer.hpp"
#include "node/load/topology_plan.hpp"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace posthorn {
namespace {

using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

// How often the director looks.
constexpr auto glance = 2ms;

double seconds_between(steady::time_point from, steady::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

load_counts operator-(const load_counts& a, const load_counts& b) {
  return {a.published - b.published, a.confirmed - b.confirmed, a.consumed - b.consumed};
}

latency_summary summary_of(const latency_histogram& histogram) {
  return {histogram.count(), histogram.quantile(0.5), histogram.quantile(0.99), histogram.max()};
}

// Gives the signals, and reads the tallies.
class director {
public:
  director(const load_options& options, const load_observer& observe, const std::atomic<bool>& interrupted)
      : options_{options}, observe_{observe}, interrupted_{interrupted}, stage_{options} {}

  result<load_report> run();

private:
  [[nodiscard]] result<load_report> load();
  [[nodiscard]] result<void> connect();
  [[nodiscard]] result<void> start();
  void measure();
  // What was published is also consumed, before the consumers leave.
  void drain();
  void observe_until(steady::time_point now);
  [[nodiscard]] load_report report() const;

  [[nodiscard]] bool may_go_on() const { return !interrupted_ && !stage_.has_failed; }
  [[nodiscard]] std::uint64_t sum(counter load_tally::*what) const;
  [[nodiscard]] load_counts counts() const;
  [[nodiscard]] latency_histogram latencies(latency_recorder load_tally::*what) const;
  // How many messages the queues got.
  [[nodiscard]] std::uint64_t expected() const;
  [[nodiscard]] bool is_all_done() const;

  const load_options& options_;
  const load_observer& observe_;
  const std::atomic<bool>& interrupted_;
  load_stage stage_;
  std::unique_ptr<message_heads> heads_;
  std::vector<std::unique_ptr<load_thread>> threads_;

  steady::time_point began_;
  load_counts first_;
  steady::time_point last_at_;
  load_counts last_;
  latency_histogram last_delivery_;
  latency_histogram last_confirm_;
  load_report report_;
};

std::uint64_t director::sum(counter load_tally::*what) const {
  std::uint64_t out = 0;
  for (const auto& thread : threads_) out += (thread->tally().*what).get();
  return out;
}

load_counts director::counts() const {
  return {sum(&load_tally::published), sum(&load_tally::confirmed), sum(&load_tally::consumed)};
}

latency_histogram director::latencies(latency_recorder load_tally::*what) const {
  latency_histogram out;
  for (const auto& thread : threads_) (thread->tally().*what).add_to(out);
  return out;
}

std::uint64_t director::expected() const {
  return (sum(&load_tally::published) - sum(&load_tally::nacked) - sum(&load_tally::returned)) *
         copies_of(options_);
}

// Every queue is new and has a consumer: then it can be told how many messages there will be.
bool is_countable(const load_options& options) { return !options.keep && options.consumers != 0; }

bool director::is_all_done() const {
  const auto consumed = sum(&load_tally::consumed);
  if (options_.producers == 0) return consumed >= options_.count;
  return stage_.producers_left == 0 && (!is_countable(options_) || consumed >= expected());
}

result<void> director::connect() {
  const auto connections = options_.producers + options_.consumers;
  const auto count = std::clamp(options_.threads, 1U, std::max(1U, connections));
  for (unsigned i = 0; i < count; ++i) threads_.push_back(std::make_unique<load_thread>(stage_));
  heads_ = std::make_unique<message_heads>(options_);
  std::size_t next = 0;
  const auto add = [&](auto made) -> result<void> {
    if (auto ok = made->connect(); !ok) return ok;
    threads_[next++ % count]->add(std::move(made));
    return {};
  };
  const auto tally = [&]() -> load_tally& { return threads_[next % count]->tally(); };
  for (unsigned i = 0; i < options_.consumers && may_go_on(); ++i) {
    if (auto ok = add(std::make_unique<consumer>(stage_, tally(), i)); !ok) return ok;
  }
  for (unsigned i = 0; i < options_.producers && may_go_on(); ++i) {
    if (auto ok = add(std::make_unique<producer>(stage_, tally(), *heads_, i)); !ok) return ok;
    ++stage_.producers_left;
  }
  return {};
}

result<void> director::start() {
  stage_.measure = options_.count != 0;
  stage_.began = steady::now();
  stage_.raise(stage_.may_publish);
  for (auto& thread : threads_) {
    if (auto ok = thread->start(); !ok) {
      stage_.fail(ok.error());
      return ok;
    }
  }
  const auto warm_until = stage_.began + options_.warm_up;
  while (options_.count == 0 && may_go_on() && steady::now() < warm_until)
    std::this_thread::sleep_for(glance);
  return {};
}

void director::observe_until(steady::time_point now) {
  const auto sum = counts();
  const auto delivery = latencies(&load_tally::delivery);
  const auto confirm = latencies(&load_tally::confirm);
  const load_second second{seconds_between(began_, now), seconds_between(last_at_, now), sum - last_,
                           delivery.since(last_delivery_), confirm.since(last_confirm_)};
  report_.series.push_back(
      {second.end, second.seconds, second.counts, summary_of(second.delivery), summary_of(second.confirm)});
  if (observe_) observe_(second);
  last_ = sum;
  last_at_ = now;
  last_delivery_ = delivery;
  last_confirm_ = confirm;
}

void director::measure() {
  stage_.measure = true;
  began_ = last_at_ = steady::now();
  // Of a number of messages, all are measured.
  if (options_.count == 0) first_ = last_ = counts();
  const auto end = options_.count == 0 ? began_ + options_.duration : steady::time_point::max();
  const auto is_over = [&] { return options_.count != 0 && is_all_done(); };
  auto last_progress = began_;
  auto last_seen = first_;
  for (unsigned second = 1; may_go_on(); ++second) {
    const auto until = std::min(began_ + std::chrono::seconds{second}, end);
    while (may_go_on() && !is_over() && steady::now() < until) {
      std::this_thread::sleep_for(std::min<steady::duration>(glance, until - steady::now()));
    }
    const auto now = steady::now();
    const auto seen = counts();
    const auto progress = seen - last_seen;
    if (progress.published + progress.confirmed + progress.consumed != 0) last_progress = now;
    last_seen = seen;
    const bool is_last = now >= end || is_over() || !may_go_on() ||
                         (options_.count != 0 && now - last_progress > options_.broker.answer_time);
    // The rest of a second is told only when it is long enough to be a rate.
    if (!is_last || now - last_at_ > 100ms) observe_until(now);
    if (is_last) break;
  }
  report_.seconds = seconds_between(began_, steady::now());
  report_.measured = counts() - first_;
  stage_.measure = false;
}

void director::drain() {
  auto last_progress = steady::now();
  for (auto before = counts(); may_go_on();) {
    const auto now = counts();
    const bool are_consumed = !is_countable(options_) || now.consumed >= expected();
    if (stage_.producers_left == 0 && are_consumed) return;
    if (now.consumed + now.confirmed != before.consumed + before.confirmed) last_progress = steady::now();
    // Producers give up by themselves; then there is nothing more to come from them.
    if (stage_.producers_left == 0 && steady::now() - last_progress > options_.broker.answer_time) return;
    before = now;
    std::this_thread::sleep_for(glance);
  }
}

load_report director::report() const {
  auto out = report_;
  out.total = counts();
  out.nacked = sum(&load_tally::nacked);
  out.returned = sum(&load_tally::returned);
  out.unconfirmed = sum(&load_tally::unconfirmed);
  out.unexpected = sum(&load_tally::unexpected);
  out.was_blocked = sum(&load_tally::was_blocked) != 0;
  out.delivery = latencies(&load_tally::delivery);
  out.confirm = latencies(&load_tally::confirm);
  if (is_countable(options_) && options_.producers != 0 && !interrupted_ && expected() > out.total.consumed) {
    out.missing = expected() - out.total.consumed;
  }
  return out;
}

result<load_report> director::run() {
  if (auto ok = make_topology(options_); !ok) return ok.error();
  auto out = load();
  if (options_.keep) return out;
  // After a failure, too, as far as the broker still lets us.
  if (!out && out.error().code == errc::unreachable) return out;
  auto client = amqp_client::open(options_.broker);
  auto removed = client ? remove_topology(options_, **client) : result<void>{client.error()};
  if (!out) return out;
  if (!removed) return removed.error();
  (*client)->close();
  return out;
}

result<load_report> director::load() {
  if (auto ok = connect(); !ok) return ok.error();
  if (interrupted_) return report();
  if (auto ok = start(); !ok) return ok.error();
  measure();
  stage_.raise(stage_.stop_publishing);
  drain();
  // Also those that nobody waits for end well, after an interrupt.
  stage_.raise(stage_.stop_consuming);
  for (auto& thread : threads_) thread->join();
  if (stage_.first_error) return *stage_.first_error;
  return report();
}

}  // namespace

result<load_report> run_load(const load_options& options, const load_observer& observe,
                             const std::atomic<bool>& interrupted) {
  const bool has_load = options.producers + options.consumers != 0;
  const std::uint64_t connections =
      std::uint64_t{options.producers} + options.consumers + options.idle.connections;
  if (auto ok = reserve_files(connections); !ok) return ok.error();
  idle_load idle{options.idle, options.broker, options.name, options.queue_type};
  const bool has_idle = options.idle.connections + options.idle.queues != 0 || options.idle.broker_pid != 0;
  if (has_idle) {
    if (auto ok = idle.open(interrupted); !ok) return ok.error();
  }
  load_report report;
  if (has_load) {
    auto done = director{options, observe, interrupted}.run();
    if (!done) return done;
    report = std::move(*done);
  } else {
    const auto until = steady::now() + options.duration;
    while (!interrupted && steady::now() < until) std::this_thread::sleep_for(glance);
  }
  if (has_idle) {
    if (auto ok = idle.close(); !ok) return ok.error();
    report.idle = idle.report();
  }
  return report;
}

}  // namespace posthorn
