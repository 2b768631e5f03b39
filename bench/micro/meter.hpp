// How long one operation takes, in nanoseconds.
//
// Each figure is the median of several runs, each long enough that the clock does not matter. Nothing else: what is
// measured is called in a loop that the case writes itself, so that a call costs nothing that the code under test does
// not cost.
//
// Threads   one.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace posthorn::bench {

// The compiler must believe that somebody looks at the value.
template <class T>
inline void keep(const T& value) noexcept {
  asm volatile("" : : "r"(&value) : "memory");
}

struct figure {
  std::string name;
  double median = 0, fastest = 0;  // nanoseconds per operation
  std::uint64_t operations = 0;    // in each run
  std::size_t runs = 0;
};

struct meter_options {
  std::string only;  // cases whose name has this in it; empty: all
  std::chrono::milliseconds run_time{60};
  std::size_t runs = 5;
  std::filesystem::path directory;  // for stores, on the disk that is to be measured
  bool is_quiet = false;            // no line for each figure when it is there
};

class meter {
public:
  explicit meter(meter_options options) : options_{std::move(options)} {}

  [[nodiscard]] const std::filesystem::path& directory() const noexcept { return options_.directory; }
  [[nodiscard]] const std::vector<figure>& figures() const noexcept { return figures_; }
  [[nodiscard]] bool wants(std::string_view name) const noexcept {
    return name.find(options_.only) != std::string_view::npos;
  }

  // `run(count)` does the operation `count` times.
  template <class Run>
  void measure(const std::string& name, Run run) {
    if (!wants(name)) return;
    std::uint64_t count = 1;
    for (;;) {
      const auto took = time([&] { run(count); });
      if (took >= options_.run_time / 4) {
        const auto more = static_cast<double>(nanoseconds(options_.run_time)) / nanoseconds(took);
        count = static_cast<std::uint64_t>(static_cast<double>(count) * more) + 1;
        break;
      }
      count *= 2;
    }
    std::vector<double> each;
    for (std::size_t n = 0; n < options_.runs; ++n)
      each.push_back(nanoseconds(time([&] { run(count); })) / static_cast<double>(count));
    enter(name, std::move(each), count);
  }

  // For what cannot be done twice in the same place: `run(prepare())` does `count` operations, and only it is measured.
  template <class Prepare, class Run>
  void measure_once_each(const std::string& name, std::uint64_t count, Prepare prepare, Run run) {
    if (!wants(name)) return;
    std::vector<double> each;
    for (std::size_t n = 0; n < options_.runs; ++n) {
      auto prepared = prepare();
      each.push_back(nanoseconds(time([&] { run(prepared); })) / static_cast<double>(count));
    }
    enter(name, std::move(each), count);
  }

private:
  using clock = std::chrono::steady_clock;

  static double nanoseconds(clock::duration d) noexcept {
    return std::chrono::duration<double, std::nano>{d}.count();
  }
  template <class Work>
  static clock::duration time(Work work) {
    const auto began = clock::now();
    work();
    return clock::now() - began;
  }
  void enter(const std::string& name, std::vector<double> each, std::uint64_t count);

  meter_options options_;
  std::vector<figure> figures_;
};

// The cases, one function for each file.
void measure_wire(meter& m);
void measure_envelope(meter& m);
void measure_routing(meter& m);
void measure_mailbox(meter& m);
void measure_store(meter& m);
void measure_supervision(meter& m);

}  // namespace posthorn::bench
