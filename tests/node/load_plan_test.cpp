#include "node/load/latency_recorder.hpp"
#include "node/load/process_memory.hpp"
#include "node/load/rate_plan.hpp"
#include "node/load/size_plan.hpp"
#include "node/load/worker_share.hpp"

#include <unistd.h>

#include <catch2/catch_test_macros.hpp>

#include <set>
#include <thread>

using namespace posthorn;

TEST_CASE("one rate is due evenly, and zero is no limit", "[load_plan]") {
  const auto plan = rate_plan::parse("1000").value();
  CHECK(plan.is_limited());
  CHECK(plan.due(0) == 0);
  CHECK(plan.due(0.0105) == 10);
  CHECK(plan.due(3600) == 3'600'000);
  CHECK_FALSE(rate_plan::parse("0").value().is_limited());
  CHECK(rate_plan::parse("0.5").value().due(4) == 2);
}

TEST_CASE("rates in steps follow each other, and begin anew", "[load_plan]") {
  const auto plan = rate_plan::parse("100:2,0:1,1000:0.5").value();
  CHECK(plan.due(1) == 100);
  CHECK(plan.due(2) == 200);
  CHECK(plan.due(2.9) == 200);
  CHECK(plan.due(3.25) == 450);
  CHECK(plan.due(3.5) == 700);
  CHECK(plan.due(4.5) == 800);
}

TEST_CASE("what is due at a time is due no later", "[load_plan]") {
  for (const auto* text : {"1000", "7", "100:2,0:1,1000:0.5", "0.25:3,3:0.1"}) {
    CAPTURE(text);
    const auto plan = rate_plan::parse(text).value();
    for (std::uint64_t count = 1; count < 3000; count += 7) {
      CAPTURE(count, plan.time_of(count));
      CHECK(plan.due(plan.time_of(count)) >= count);
      CHECK(plan.due(plan.time_of(count) * 0.999 - 1e-4) < count);
    }
  }
}

TEST_CASE("a rate that is none is refused", "[load_plan]") {
  for (const auto* bad : {"", "-1", "many", "1e10", "nan", "inf", "10:", "10,20", "10:5,20", ":5", "10:0",
                          "0:5", "10:-1", "10:5,", "10 "}) {
    CAPTURE(bad);
    CHECK(rate_plan::parse(bad).has_error());
  }
}

TEST_CASE("bodies are all alike, in turn, or at random within bounds", "[load_plan]") {
  CHECK(size_plan{}.size_of(5) == 1024);
  CHECK(size_plan::parse("0").value().size_of(1) == 0);
  const auto cycle = size_plan::parse("10,200,3000").value();
  CHECK(cycle.size_of(0) == 10);
  CHECK(cycle.size_of(2) == 3000);
  CHECK(cycle.size_of(3) == 10);
  CHECK(cycle.largest() == 3000);
  const auto random = size_plan::parse("8-12").value();
  std::set<std::size_t> seen;
  for (std::uint64_t i = 0; i < 1000; ++i) seen.insert(random.size_of(i));
  CHECK(seen == std::set<std::size_t>{8, 9, 10, 11, 12});
  CHECK(size_plan::parse("7-7").value().size_of(99) == 7);
  for (const auto* bad :
       {"", "-", "-5", "5-", "9-8", "1,,2", "x", "536870913", "1k", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK(size_plan::parse(bad).has_error());
  }
}

TEST_CASE("workers share all queues, or queues their workers", "[load_plan]") {
  CHECK(share_of(1, 2, 5) == std::vector<unsigned>{1, 3});
  CHECK(share_of(4, 8, 3) == std::vector<unsigned>{1});
}

TEST_CASE("a histogram tells what came since an earlier state of it", "[load_plan]") {
  latency_recorder recorder;
  const auto now = [&] {
    latency_histogram out;
    recorder.add_to(out);
    return out;
  };
  for (int i = 0; i < 100; ++i) recorder.record(1'000'000);
  const auto before = now();
  for (int i = 0; i < 10; ++i) recorder.record(20);
  const auto since = now().since(before);
  CHECK(since.count() == 10);
  CHECK(since.max() == 20);
  CHECK(since.quantile(0.5) == 20);
  CHECK(now().count() == 110);
  CHECK(now().max() == 1'000'000);
  CHECK(now().since(now()).count() == 0);
}

TEST_CASE("a histogram that is read while it is written misses nothing in the end", "[load_plan]") {
  latency_recorder recorder;
  std::thread writer{[&] {
    for (std::uint64_t i = 0; i < 200'000; ++i) recorder.record(i);
  }};
  std::uint64_t last = 0;
  for (int i = 0; i < 50; ++i) {
    latency_histogram sum;
    recorder.add_to(sum);
    CHECK(sum.count() >= last);
    last = sum.count();
  }
  writer.join();
  latency_histogram sum;
  recorder.add_to(sum);
  CHECK(sum.count() == 200'000);
  CHECK(sum.max() == 199'999);
}

TEST_CASE("the memory of a process is read from what the system tells", "[load_plan]") {
  const auto memory =
      process_memory::from_status("Name:\tx\nVmRSS:\t   12345 kB\nRssAnon:\t 345 kB\n").value();
  CHECK(memory.resident == 12345 * 1024);
  CHECK(memory.anonymous == 345 * 1024);
  CHECK(process_memory::from_status("VmRSS:\t 8 kB\n").value().anonymous == 8192);
  CHECK(process_memory::from_status("").has_error());
  CHECK(process_memory::from_status("VmRSS:\tmuch\n").has_error());
  CHECK(memory_of(::getpid()).value().resident > 100'000);
  CHECK(memory_of(1 << 29).error().text.find("no process") != std::string::npos);
}
