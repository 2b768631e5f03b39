// How fast the actors are: durable turns, plain sends, restarts, and a great many that sleep. Prints a table.
//
// Everything runs in this one process, so a figure has the cost of whoever feeds the actors in it.
#include "actors/actor_house.hpp"
#include "counter.capnp.h"
#include "posthorn/node.hpp"

#include <caf/all.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;
using posthorn::turn;

struct settings {
  std::string directory;
  std::vector<std::string> cases{"turns", "passed", "sends", "restarts", "sleepers"};
  unsigned seconds = 5;
  std::uint32_t actors = 1000, sleepers = 1'000'000, feeders = 2;
  std::size_t window = 4000;
};

double seconds_since(steady::time_point then) {
  return std::chrono::duration<double>(steady::now() - then).count();
}
double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}
double at_99_percent(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(values.size() * 99 / 100);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}
void row(const char* what, const std::string& figure) {
  std::printf("| %-66s | %s |\n", what, figure.c_str());
  std::fflush(stdout);
}
std::string text(const char* format, auto... values) {
  char out[160];
  std::snprintf(out, sizeof out, format, values...);
  return out;
}
// In KiB, of this process.
std::uint64_t memory(const std::string& field) {
  std::ifstream status{"/proc/self/status"};
  for (std::string name; status >> name;) {
    if (name == field + ":") {
      std::uint64_t value = 0;
      status >> value;
      return value;
    }
  }
  return 0;
}

std::string counter(std::uint64_t n) { return "counter/" + std::to_string(n); }

struct counters_state {
  std::atomic<std::uint64_t> turns{0};
  std::atomic<bool> over{false};
  std::uint32_t actors = 0;
};

auto counters(counters_state& seen, std::chrono::milliseconds idle_after) {
  posthorn::child_spec rules = posthorn::actor_kind{}.supervision;
  rules.back_off = {};
  rules.budget = posthorn::restart_intensity{1'000'000, 10s};
  return posthorn::durable<counter::Counter>("counter")
      .on<counter::Tick>([&seen](turn<counter::Counter>& t, counter::Tick::Reader m) {
        auto mine = t.state();
        mine.setCount(mine.getCount() + 1);
        seen.turns.fetch_add(1, std::memory_order_relaxed);
        if (m.getPass() && !seen.over.load(std::memory_order_relaxed)) {
          const auto next = (std::stoul(std::string{t.id()}) + 7) % seen.actors;
          t.send<counter::Tick>(counter(next), [](auto tick) { tick.setPass(true); });
        }
      })
      .on<counter::Ask>([](turn<counter::Counter>& t, counter::Ask::Reader) {
        t.reply<counter::Answer>([&](auto answer) { answer.setCount(t.state().getCount()); });
      })
      .idle_after(idle_after)
      .supervision(rules);
}

// A node on a new directory, which goes with it.
struct bench_node {
  bench_node(const settings& s, const char* label, std::chrono::milliseconds idle_after = 0ms)
      : directory{std::filesystem::path{s.directory} / label} {
    std::filesystem::remove_all(directory);
    std::filesystem::create_directories(directory);
    seen.actors = s.actors;
    auto started = posthorn::node::start({.data_directory = directory});
    if (!started) throw std::runtime_error{started.error().text};
    node = std::move(*started);
    if (auto added = node->add(counters(seen, idle_after)); !added)
      throw std::runtime_error{added.error().text};
  }
  ~bench_node() {
    node.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  auto tick(std::uint64_t n, bool pass = false) {
    return node->send<counter::Tick>(counter(n), [&](auto m) { m.setPass(pass); });
  }
  bool ask(std::uint64_t n) {
    return static_cast<bool>(node->ask<counter::Ask, counter::Answer>(counter(n), 10s, [](auto) {}));
  }

  std::filesystem::path directory;
  counters_state seen;
  std::unique_ptr<posthorn::node> node;
};

void must(std::future<posthorn::result<void>>& sent) {
  if (auto done = sent.get(); !done) throw std::runtime_error{done.error().text};
}

// Messages from outside, each waited for: two commits lie on its way, of the message and of its turn.
void turns(const settings& s) {
  bench_node b{s, "turns"};
  std::atomic<bool> over{false};
  std::vector<std::jthread> feeders;
  for (std::uint32_t f = 0; f < s.feeders; ++f) {
    feeders.emplace_back([&, f] {
      std::deque<std::future<posthorn::result<void>>> waiting;
      for (std::uint64_t n = f * s.actors / s.feeders; !over; ++n) {
        waiting.push_back(b.tick(n % s.actors));
        while (waiting.size() >= s.window) {
          must(waiting.front());
          waiting.pop_front();
        }
      }
      for (auto& each : waiting) must(each);
    });
  }
  std::this_thread::sleep_for(1s);  // all are awake
  const auto before = b.seen.turns.load();
  const auto since = steady::now();
  std::this_thread::sleep_for(std::chrono::seconds{s.seconds});
  const auto rate = static_cast<double>(b.seen.turns.load() - before) / seconds_since(since);
  over = true;
  feeders.clear();
  row("durable turns, fed by 2 threads with 4,000 in flight each", text("%.0f/s", rate));
}

// Each turn sends to the next actor: ten messages for each actor go round for ever.
void passed(const settings& s) {
  bench_node b{s, "passed"};
  std::vector<std::future<posthorn::result<void>>> sent;
  for (std::uint64_t n = 0; n < std::uint64_t{10} * s.actors; ++n) sent.push_back(b.tick(n % s.actors, true));
  for (auto& each : sent) must(each);
  std::this_thread::sleep_for(1s);
  const auto before = b.seen.turns.load();
  const auto since = steady::now();
  std::this_thread::sleep_for(std::chrono::seconds{s.seconds});
  const auto rate = static_cast<double>(b.seen.turns.load() - before) / seconds_since(since);
  b.seen.over = true;
  row("durable turns that send on to another actor, 10,000 under way", text("%.0f/s", rate));
}

struct alignas(64) hop_count {
  std::atomic<std::uint64_t> value{0};
};

std::shared_ptr<posthorn::supervisor> plain_supervisor(posthorn::node& node) {
  posthorn::supervisor_spec spec;
  spec.how = posthorn::strategy::dynamic;
  spec.intensity = {1'000'000, 1s};
  auto made = posthorn::supervisor::make(node.system(), spec, {}, [](const posthorn::supervision_event&) {});
  if (!made) throw std::runtime_error{made.error().text};
  posthorn::child_definition place;
  place.spec.name = "plain";
  place.spec.is_supervisor = true;
  place.kind = "supervisor";
  place.as_supervisor = *made;
  node.tree().add(place);
  return *made;
}

void await(const std::function<bool()>& condition) {
  for (const auto until = steady::now() + 30s; !condition();) {
    if (steady::now() > until) throw std::runtime_error{"waited for too long"};
    std::this_thread::sleep_for(1ms);
  }
}

// A ring of plain CAF actors, which a supervisor started and watches; sixteen messages for each go round for ever.
void sends(const settings& s) {
  bench_node b{s, "sends"};
  const auto over = plain_supervisor(*b.node);
  std::vector<hop_count> hops(s.actors);
  for (std::uint32_t n = 0; n < s.actors; ++n) {
    posthorn::child_definition child;
    child.spec.name = std::to_string(n);
    child.kind = "plain";
    child.start = [&system = b.node->system(), &hops, n] {
      return system.spawn([&count = hops[n].value](caf::event_based_actor* self) -> caf::behavior {
        auto next = std::make_shared<caf::actor>();
        return {
            [next](const caf::actor& to) { *next = to; },
            [next, self, &count](std::uint64_t hop) {
              count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
              self->send(*next, hop + 1);
            },
            [next](bool) { *next = nullptr; },
        };
      });
    };
    over->add(child);
  }
  std::vector<caf::actor> ring(s.actors);
  for (std::uint32_t n = 0; n < s.actors; ++n) {
    await([&] { return static_cast<bool>(ring[n] = over->find("/" + std::to_string(n))); });
  }
  for (std::uint32_t n = 0; n < s.actors; ++n) caf::anon_send(ring[n], ring[(n + 7) % s.actors]);
  for (std::uint64_t n = 0; n < std::uint64_t{16} * s.actors; ++n) {
    caf::anon_send(ring[n % s.actors], std::uint64_t{0});
  }
  const auto count = [&] {
    std::uint64_t all = 0;
    for (const auto& each : hops) all += each.value.load(std::memory_order_relaxed);
    return all;
  };
  std::this_thread::sleep_for(1s);
  const auto before = count();
  const auto since = steady::now();
  std::this_thread::sleep_for(std::chrono::seconds{s.seconds});
  const auto rate = static_cast<double>(count() - before) / seconds_since(since);
  for (const auto& each : ring) caf::anon_send(each, true);  // sends to nobody end the round
  row("sends between plain supervised actors, 16,000 under way", text("%.0f/s", rate));
  for (std::uint32_t n = 0; n < s.actors; ++n) ring[n] = nullptr;
  b.node.reset();
}

// From the kill until the successor has been started, and until it has answered.
void restarts(const settings& s) {
  bench_node b{s, "restarts"};
  const auto over = plain_supervisor(*b.node);
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t starts = 0;
  steady::time_point started_at;
  posthorn::child_definition child;
  child.spec.name = "one";
  child.spec.budget = posthorn::restart_intensity{1'000'000, 1s};
  child.kind = "plain";
  child.start = [&, &system = b.node->system()] {
    auto actor =
        system.spawn([](caf::event_based_actor*) -> caf::behavior { return {[](std::uint64_t) {}}; });
    const std::lock_guard guard{mutex};
    started_at = steady::now();
    ++starts;
    changed.notify_all();
    return actor;
  };
  over->add(child);
  std::vector<double> plain, durable;
  std::uint64_t wanted = 1;
  await([&] { return static_cast<bool>(over->find("/one")); });
  for (int n = 0; n < 2000; ++n, ++wanted) {
    const auto since = steady::now();
    if (auto killed = b.node->tree().kill("/plain/one"); !killed)
      throw std::runtime_error{killed.error().text};
    std::unique_lock lock{mutex};
    if (!changed.wait_for(lock, 10s, [&] { return starts > wanted; })) throw std::runtime_error{"no restart"};
    plain.push_back(std::chrono::duration<double, std::milli>(started_at - since).count());
    lock.unlock();
    await([&] { return static_cast<bool>(over->find("/one")); });
  }
  (void)b.ask(1);
  std::vector<double> asked;
  for (int n = 0; n < 1000; ++n) {
    auto since = steady::now();
    (void)b.ask(1);
    asked.push_back(seconds_since(since) * 1000);
    since = steady::now();
    if (auto killed = b.node->tree().kill("/actors/" + counter(1)); !killed) continue;
    if (!b.ask(1)) throw std::runtime_error{"no answer after a kill"};
    durable.push_back(seconds_since(since) * 1000);
  }
  row("restart of a killed plain actor, from the kill to the new start",
      text("%.3f ms median, %.3f ms p99", median(plain), at_99_percent(plain)));
  row("question to a durable actor and its answer",
      text("%.3f ms median, %.3f ms p99", median(asked), at_99_percent(asked)));
  row("the same, with the actor killed just before",
      text("%.3f ms median, %.3f ms p99", median(durable), at_99_percent(durable)));
}

void sleepers(const settings& s) {
  bench_node b{s, "sleepers", 500ms};
  const auto rss_before = memory("RssAnon");
  const auto began = steady::now();
  std::deque<std::future<posthorn::result<void>>> waiting;
  std::uint64_t most = 0;
  for (std::uint64_t n = 0; n < s.sleepers; ++n) {
    waiting.push_back(b.tick(n));
    while (waiting.size() >= s.window) {
      must(waiting.front());
      waiting.pop_front();
    }
    if (n % 50'000 == 0) most = std::max(most, memory("RssAnon"));
  }
  for (auto& each : waiting) must(each);
  const auto made = seconds_since(began);
  const auto awake = [&] {
    std::size_t count = 0;
    b.node->broker().context().house->each_awake(
        [&](const std::string& name, const posthorn::queue_port&) { count += name.starts_with("counter/"); });
    return count;
  };
  for (const auto until = steady::now() + 120s; awake() > 0 && steady::now() < until;) {
    std::this_thread::sleep_for(50ms);
  }
  row("actors made by a first message each",
      text("%u in %.1f s, %zu still awake", s.sleepers, made, awake()));
  row("memory of the process while they sleep (while they are made, at most)",
      text("%llu MiB (%llu MiB), %llu MiB before", static_cast<unsigned long long>(memory("RssAnon") >> 10),
           static_cast<unsigned long long>(most >> 10), static_cast<unsigned long long>(rss_before >> 10)));
  row("pages of the store that the kernel counts as the process's",
      text("%llu MiB", static_cast<unsigned long long>(memory("RssFile") >> 10)));
  std::mt19937_64 random{1};
  std::vector<double> took;
  for (int n = 0; n < 2000; ++n) {
    const auto whom = random() % s.sleepers;
    const auto since = steady::now();
    if (!b.ask(whom)) throw std::runtime_error{"no answer of a sleeper"};
    took.push_back(seconds_since(since) * 1000);
  }
  row("first question to a sleeping actor and its answer",
      text("%.3f ms median, %.3f ms p99", median(took), at_99_percent(took)));
}

}  // namespace

int main(int argc, char** argv) {
  settings s;
  CLI::App app{"Measures actors."};
  app.add_option("--data-dir", s.directory, "a directory for the stores, on the disk to be measured")
      ->required();
  app.add_option("--case", s.cases, "turns, passed, sends, restarts, sleepers")->delimiter(',');
  app.add_option("--seconds", s.seconds, "of each rate")->capture_default_str();
  app.add_option("--actors", s.actors)->capture_default_str();
  app.add_option("--sleepers", s.sleepers)->capture_default_str();
  app.add_option("--window", s.window)->capture_default_str();
  app.add_option("--feeders", s.feeders)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    for (const auto& each : s.cases) {
      if (each == "turns") turns(s);
      if (each == "passed") passed(s);
      if (each == "sends") sends(s);
      if (each == "restarts") restarts(s);
      if (each == "sleepers") sleepers(s);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_actors: %s\n", e.what());
    return 1;
  }
  return 0;
}
