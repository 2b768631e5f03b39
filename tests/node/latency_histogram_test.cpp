#include "node/load/latency_histogram.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <limits>

using posthorn::latency_histogram;

TEST_CASE("quantiles are exact to 3 %, over the whole range", "[latency_histogram]") {
  for (std::uint64_t value = 1; value < (std::uint64_t{1} << 62U); value = value * 3 + 1) {
    latency_histogram histogram;
    histogram.record(value);
    histogram.record(std::numeric_limits<std::uint64_t>::max());
    CAPTURE(value);
    CHECK(histogram.quantile(0.0) >= value);
    CHECK(static_cast<double>(histogram.quantile(0.0)) <= static_cast<double>(value) * 1.032);
  }
}

TEST_CASE("a quantile is the value that so many do not exceed", "[latency_histogram]") {
  latency_histogram histogram;
  CHECK(histogram.quantile(0.5) == 0);
  for (std::uint64_t i = 1; i <= 50; ++i) histogram.record(i);
  CHECK(histogram.quantile(0.5) == 26);
  CHECK(histogram.quantile(0.98) == 50);
  CHECK(histogram.quantile(1.0) == 50);
  CHECK(histogram.max() == 50);
}

TEST_CASE("two histograms are joined", "[latency_histogram]") {
  latency_histogram a;
  latency_histogram b;
  for (int i = 0; i < 99; ++i) a.record(10);
  b.record(1'000'000);
  a.add(b);
  CHECK(a.count() == 100);
  CHECK(a.max() == 1'000'000);
  CHECK(a.quantile(0.5) == 10);
  CHECK(a.quantile(0.999) == 1'000'000);
}
