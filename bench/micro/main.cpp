// Micro-benchmarks of the parts that a message passes: nanoseconds per operation, as a table or as JSON.
#include "bench/micro/meter.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <system_error>

namespace posthorn::bench {

void meter::enter(const std::string& name, std::vector<double> each, std::uint64_t count) {
  std::sort(each.begin(), each.end());
  figures_.push_back({name, each[each.size() / 2], each.front(), count, each.size()});
  if (options_.is_quiet) return;
  const auto& f = figures_.back();
  std::printf("%-70s %14.1f ns %14.1f ns\n", f.name.c_str(), f.median, f.fastest);
  std::fflush(stdout);
}

namespace {

[[noreturn]] void usage(int code) {
  std::fputs(
      "bench_micro [--only TEXT] [--json] [--runs N] [--ms N] [--dir DIR]\n"
      "  --only TEXT  cases whose name has TEXT in it\n"
      "  --json       one JSON document instead of the table\n"
      "  --runs N     runs of each case (5); the median counts\n"
      "  --ms N       how long a run takes, in milliseconds (60)\n"
      "  --dir DIR    where stores are made, and removed again (the directory for temporary files)\n",
      code == 0 ? stdout : stderr);
  std::exit(code);
}

// The names are ours, and need no escapes.
void print_json(const std::vector<figure>& figures) {
  std::puts("[");
  for (std::size_t n = 0; n < figures.size(); ++n) {
    const auto& f = figures[n];
    std::printf(
        R"(  {"name": "%s", "median_ns": %.2f, "fastest_ns": %.2f, "operations": %llu, "runs": %zu}%s)"
        "\n",
        f.name.c_str(), f.median, f.fastest, static_cast<unsigned long long>(f.operations), f.runs,
        n + 1 == figures.size() ? "" : ",");
  }
  std::puts("]");
}

int run(int argc, char** argv) {
  meter_options options;
  options.directory = std::filesystem::temp_directory_path();
  for (int n = 1; n < argc; ++n) {
    const std::string_view option = argv[n];
    if (option == "--help") usage(0);
    if (option == "--json") {
      options.is_quiet = true;
      continue;
    }
    if (n + 1 == argc) usage(2);
    const char* value = argv[++n];
    if (option == "--only") {
      options.only = value;
    } else if (option == "--runs") {
      options.runs = std::max<std::size_t>(1, std::strtoul(value, nullptr, 10));
    } else if (option == "--ms") {
      options.run_time = std::chrono::milliseconds{std::max(1L, std::strtol(value, nullptr, 10))};
    } else if (option == "--dir") {
      options.directory = value;
    } else {
      usage(2);
    }
  }
  meter m{options};
  if (!options.is_quiet) std::printf("%-70s %17s %17s\n", "an operation", "median", "fastest");
  measure_wire(m);
  measure_envelope(m);
  measure_routing(m);
  measure_mailbox(m);
  measure_supervision(m);
  measure_store(m);
  if (options.is_quiet) print_json(m.figures());
  return m.figures().empty() ? 1 : 0;
}

}  // namespace

}  // namespace posthorn::bench

int main(int argc, char** argv) {
  try {
    return posthorn::bench::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_micro: %s\n", e.what());
    return 1;
  }
}
