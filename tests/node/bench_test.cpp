// `posthorn bench` as its users see it, against a broker that does what the case needs.
#include "node/command_line.hpp"
#include "node/commands/bench_report.hpp"
#include "node/commands/progress_line.hpp"
#include "tests/node/fake_amqp_broker.hpp"

#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_to.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace posthorn;
using posthorn::test::broker_faults;
using posthorn::test::fake_amqp_broker;

namespace {

struct outcome {
  int code = 0;
  std::string out;
  std::string err;
};

outcome run(std::vector<std::string> arguments) {
  std::ostringstream out;
  std::ostringstream err;
  const int code = run_command_line(std::move(arguments), out, err);
  return {code, out.str(), err.str()};
}

outcome bench(const fake_amqp_broker& broker, std::vector<std::string> options) {
  options.insert(options.begin(), {"bench", "--uri", broker.uri()});
  return run(std::move(options));
}

boost::json::value bench_as_json(const fake_amqp_broker& broker, std::vector<std::string> options) {
  options.emplace_back("--json");
  const auto shown = bench(broker, std::move(options));
  CAPTURE(shown.err);
  CHECK(shown.code == 0);
  return boost::json::parse(shown.out);
}

std::uint64_t number(const boost::json::value& value) { return boost::json::value_to<std::uint64_t>(value); }

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("every message of a load is published, confirmed and consumed", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench_as_json(broker, {"--count", "1000"});
  for (const auto* what : {"published", "confirmed", "consumed"}) {
    CAPTURE(what);
    CHECK(number(shown.at("total").at(what)) == 1000);
    CHECK(number(shown.at("measured").at(what)) == 1000);
  }
  CHECK(number(shown.at("latency_us").at("count")) == 1000);
  CHECK(number(shown.at("confirm_us").at("count")) == 1000);
  CHECK(shown.at("latency_us").at("p50").as_double() > 0);
  CHECK(broker.published == 1000);
  CHECK(broker.seen().sizes == std::set<std::size_t>{1024});
  CHECK(broker.seen().queues_left.empty());
}

TEST_CASE("several connections, channels and queues on one thread", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench_as_json(
      broker, {"--count", "2000", "--producers", "5", "--consumers", "4", "--channels", "3", "--queues", "7",
               "--threads", "1", "--confirm", "10", "--prefetch", "10", "--ack-every", "3"});
  CHECK(number(shown.at("total").at("consumed")) == 2000);
  CHECK(number(shown.at("total").at("confirmed")) == 2000);
  CHECK(broker.connections_max == 9);
  CHECK(broker.queues_max == 7);
  CHECK(broker.seen().channels == std::set<std::uint16_t>{1, 2, 3});
  CHECK(broker.seen().keys.size() == 7);
  CHECK(broker.acknowledged > 500);
}

TEST_CASE("a message gets to as many queues as its exchange says", "[bench]") {
  for (const auto* type : {"fanout", "direct", "topic", "headers"}) {
    CAPTURE(type);
    const bool is_fanout = std::string{type} == "fanout";
    fake_amqp_broker broker;
    std::vector<std::string> options{"--count", "300", "--queues", "4", "--exchange", type};
    if (!is_fanout) options.insert(options.end(), {"--fan-out", "3", "--keys", "2"});
    const auto shown = bench_as_json(broker, options);
    CHECK(number(shown.at("total").at("published")) == 300);
    CHECK(number(shown.at("total").at("consumed")) == (is_fanout ? 1200 : 900));
    CHECK(broker.seen().keys.size() == (is_fanout ? 4 : 8));
  }
}

TEST_CASE("bodies of several sizes arrive whole, empty and large ones too", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench_as_json(broker, {"--count", "40", "--size", "0,7,8,300000"});
  CHECK(number(shown.at("total").at("consumed")) == 40);
  // Those that are too small for the time have none.
  CHECK(number(shown.at("latency_us").at("count")) == 20);
  CHECK(broker.seen().sizes == std::set<std::size_t>{0, 7, 8, 300'000});
}

TEST_CASE("a rate is kept, by one producer as by several", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench_as_json(broker, {"--count", "100", "--rate", "400", "--producers", "3"});
  const double seconds = shown.at("seconds").as_double();
  CHECK(seconds > 0.2);
  CHECK(seconds < 2);
  // Slow consumers, and then a time instead of a number.
  const auto slow = bench_as_json(broker, {"--count", "100", "--consumer-rate", "400"});
  CHECK(slow.at("seconds").as_double() > 0.2);
}

TEST_CASE("a time series tells each second, and its sum is the whole", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench_as_json(broker, {"--seconds", "1.3", "--rate", "100:0.5,1000:0.5"});
  const auto& series = shown.at("series").as_array();
  REQUIRE(series.size() == 2);
  std::uint64_t consumed = 0;
  for (const auto& second : series) {
    consumed += number(second.at("counts").at("consumed"));
    CHECK(number(second.at("latency_us").at("count")) > 0);
    CHECK(second.at("latency_us").at("p99").as_double() >= second.at("latency_us").at("p50").as_double());
  }
  const auto measured = number(shown.at("measured").at("consumed"));
  CHECK(consumed <= measured);
  CHECK(consumed + 50 > measured);
  CHECK(measured > 400);
}

TEST_CASE("without confirms and acknowledgements nothing is waited for", "[bench]") {
  fake_amqp_broker broker;
  const auto shown =
      bench_as_json(broker, {"--count", "5000", "--confirm", "0", "--auto-ack", "--transient"});
  CHECK(number(shown.at("total").at("consumed")) == 5000);
  CHECK(number(shown.at("total").at("confirmed")) == 0);
  CHECK(broker.acknowledged == 0);
}

TEST_CASE("queues can be kept, filled by one run and emptied by the next", "[bench]") {
  fake_amqp_broker broker;
  CHECK(bench(broker, {"--count", "50", "--consumers", "0", "--keep"}).code == 0);
  CHECK(broker.seen().queues_left == std::set<std::string>{"posthorn-bench-0"});
  const auto shown = bench_as_json(broker, {"--count", "50", "--producers", "0", "--keep"});
  CHECK(number(shown.at("total").at("consumed")) == 50);
}

TEST_CASE("what the broker does wrong is told, and the exit code says it", "[bench]") {
  const auto with = [](const broker_faults& faults, std::vector<std::string> options = {}) {
    fake_amqp_broker broker{faults};
    options.insert(options.end(), {"--count", "100", "--timeout", "0.3"});
    const auto shown = bench(broker, options);
    CHECK(shown.code == 1);
    CHECK(shown.err.empty());
    return shown.out;
  };
  CHECK(has(with({.refuses_each = 10}), "10 messages were refused"));
  CHECK(has(with({.loses_each = 20}), "5 messages were published and never consumed"));
  CHECK(has(with({.confirms = false}), "100 messages were never confirmed"));
  CHECK(has(with({.confirms_twice_each = 50}), "2 confirms came for messages that did not wait for one"));
  CHECK(has(with({.finds_no_queue_each = 10}, {"--mandatory"}), "10 messages came back"));
}

TEST_CASE("a broker that goes away in the midst of a load ends it, with a reason", "[bench]") {
  fake_amqp_broker broker{{.dies_after_publishes = 500}};
  const auto shown = bench(broker, {"--seconds", "30", "--timeout", "1"});
  CHECK(shown.code == 69);
  CHECK(shown.out.empty());
  CHECK(has(shown.err, "the broker closed the connection"));
}

TEST_CASE("an interrupt ends a load early, in good order", "[bench]") {
  fake_amqp_broker broker;
  outcome shown;
  std::thread load{[&] { shown = bench(broker, {"--seconds", "600", "--rate", "1000"}); }};
  const auto give_up_at = std::chrono::steady_clock::now() + std::chrono::seconds{20};
  while (broker.published < 10 && std::chrono::steady_clock::now() < give_up_at) std::this_thread::yield();
  // Messages flow, so the signal is waited for.
  const bool is_running = broker.published >= 10;
  CHECK(is_running);
  if (is_running) std::raise(SIGINT);
  load.join();
  CHECK(shown.code == 0);
  CHECK(has(shown.out, "consumed"));
  CHECK(broker.seen().queues_left.empty());
}

TEST_CASE("nobody there, nobody who answers, nobody who knows us", "[bench]") {
  const auto nobody = run({"bench", "--uri", "amqp://127.0.0.1:1", "--seconds", "1"});
  CHECK(nobody.code == 69);
  CHECK(has(nobody.err, "no broker answers at amqp://127.0.0.1:1"));
  CHECK(run({"bench", "declare", "--uri", "amqp://127.0.0.1:1"}).code == 69);

  fake_amqp_broker mute{{.is_mute = true}};
  const auto unheard = bench(mute, {"--timeout", "0.1"});
  CHECK(unheard.code == 69);
  CHECK(has(unheard.err, "did not answer with connection.start within 100 ms"));

  fake_amqp_broker strict{{.password = "other"}};
  const auto refused = bench(strict, {});
  CHECK(refused.code == 1);
  CHECK(has(refused.err, "403 ACCESS_REFUSED"));
  CHECK(strict.published == 0);

  fake_amqp_broker broker;
  const auto channels = bench(broker, {"--channels", "65", "--count", "1"});
  CHECK(channels.code == 1);
  CHECK(has(channels.err, "the broker allows 64 channels per connection, not 65"));
  CHECK(broker.seen().queues_left.empty());
}

TEST_CASE("wrong usage is told before anything is sent", "[bench]") {
  fake_amqp_broker broker;
  const std::vector<std::vector<std::string>> wrong{
      {"--size", "-1"},
      {"--size", "many"},
      {"--size", "536870913"},
      {"--rate", "-5"},
      {"--rate", "10:0"},
      {"--producers", "-1"},
      {"--producers", "99999999999999999999"},
      {"--producers", "100001"},
      {"--channels", "0"},
      {"--channels", "70000"},
      {"--threads", "0"},
      {"--queues", "0"},
      {"--confirm", "-1"},
      {"--confirm", "16777216", "--producers", "100"},
      {"--prefetch", "65536"},
      {"--ack-every", "0"},
      {"--seconds", "0"},
      {"--seconds", "nan"},
      {"--count", "-1"},
      {"--timeout", "0"},
      {"--exchange", "x-delayed"},
      {"--fan-out", "2", "--queues", "2"},
      {"--fan-out", "2", "--queues", "2", "--exchange", "fanout"},
      {"--fan-out", "3", "--queues", "2", "--exchange", "direct"},
      {"--keys", "2"},
      {"--keys", "1000000", "--queues", "100", "--exchange", "topic"},
      {"--producers", "0"},
      {"--producers", "0", "--consumers", "0"},
      {"--broker-pid", "0"},
      {"--nonsense"},
      {"declare", "--queues", "0"},
      {"declare", "--window", "0"},
      {"declare", "--size", "100"},
      {"declare", "declare"}};
  for (const auto& options : wrong) {
    std::string all;
    for (const auto& each : options) all += each + ' ';
    CAPTURE(all);
    const auto shown = bench(broker, options);
    CHECK(shown.code == 2);
    CHECK(shown.out.empty());
    CHECK_FALSE(shown.err.empty());
  }
  CHECK(broker.connections_max == 0);
}

TEST_CASE("idle connections and queues are opened, kept and removed", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench_as_json(broker, {"--idle-connections", "150", "--idle-queues", "200", "--count",
                                            "10", "--broker-pid", std::to_string(::getpid())});
  CHECK(broker.connections_max >= 152);
  CHECK(broker.queues_max == 201);
  CHECK(broker.seen().queues_left.empty());
  const auto& idle = shown.at("idle");
  CHECK(number(idle.at("connections")) == 150);
  CHECK(number(idle.at("queues")) == 200);
  CHECK(number(idle.at("connections_closed")) == 0);
  CHECK(number(idle.at("memory_bytes").at("before").at("resident")) > 0);
  CHECK(idle.at("memory_bytes").as_object().contains("per_connection"));
  CHECK(idle.at("memory_bytes").as_object().contains("per_queue"));

  const auto only = bench(broker, {"--idle-connections", "3", "--producers", "0", "--consumers", "0"});
  CHECK(only.code == 0);
  CHECK(has(only.out, "3 idle connections"));
  CHECK(bench(broker, {"--idle-connections", "1000000", "--count", "1"}).code == 1);
  CHECK(bench(broker, {"--broker-pid", std::to_string(1 << 29), "--count", "1"}).code == 1);
}

TEST_CASE("idle connections that the broker closes are told", "[bench]") {
  fake_amqp_broker broker{{.dies_after_publishes = 5}};
  const auto shown = bench(broker, {"--idle-connections", "3", "--count", "10", "--timeout", "0.5"});
  CHECK(shown.code == 69);
  fake_amqp_broker drops{{.drops_idle = true}};
  const auto dropped = bench(drops, {"--idle-connections", "3", "--count", "10"});
  CHECK(dropped.code == 1);
  CHECK(has(dropped.out, "3 idle connections were closed by the broker"));
}

TEST_CASE("declaring queues is measured one by one and pipelined, and leaves none", "[bench]") {
  fake_amqp_broker broker;
  const auto shown =
      run({"--json", "bench", "declare", "--uri", broker.uri(), "--queues", "300", "--window", "50"});
  CAPTURE(shown.err);
  REQUIRE(shown.code == 0);
  const auto parsed = boost::json::parse(shown.out);
  CHECK(number(parsed.at("one_by_one").at("count")) == 300);
  CHECK(number(parsed.at("one_by_one").at("latency_us").at("count")) == 300);
  CHECK(number(parsed.at("pipelined").at("count")) == 300);
  CHECK(number(parsed.at("deleted").at("count")) == 600);
  CHECK(parsed.at("pipelined").at("per_second").as_double() > 0);
  CHECK(broker.queues_max == 600);
  CHECK(broker.seen().queues_left.empty());
  const auto text = run({"bench", "declare", "--uri", broker.uri(), "--queues", "10", "--keep"});
  CHECK(has(text.out, "declared one by one"));
  CHECK(has(text.out, "declared pipelined"));
  CHECK(broker.seen().queues_left.size() == 20);
}

TEST_CASE("the result for people names rates and latencies, and all of them if asked", "[bench]") {
  fake_amqp_broker broker;
  const auto shown = bench(broker, {"--count", "100", "--histogram"});
  CHECK(shown.err.empty());
  for (const auto* part :
       {"per second", "published", "publish to delivery", "p99.9", "1/(1-Percentile)", "#[Max = "}) {
    CAPTURE(part, shown.out);
    CHECK(has(shown.out, part));
  }
  const auto histogram = bench_as_json(broker, {"--count", "100", "--histogram"});
  std::uint64_t sum = 0;
  for (const auto& step : histogram.at("latency_histogram_us").as_array()) sum += number(step.at(1));
  CHECK(sum == 100);
}

TEST_CASE("the histogram for people ends with all values", "[bench]") {
  latency_histogram histogram;
  for (int i = 0; i < 3; ++i) histogram.record(1'000'000);
  histogram.record(2'000'000);
  const auto text = histogram_text(histogram);
  CAPTURE(text);
  CHECK(has(text, "0.750000000000          3           4.00\n"));
  CHECK(has(text, "       2.000 1.000000000000          4\n"));
  CHECK(has(text, "#[Max = 2.000, Total count = 4]\n"));
}

TEST_CASE("a line of progress is rewritten on a terminal, and never shown elsewhere", "[bench]") {
  std::ostringstream nowhere;
  {
    progress_line line{nowhere, 0};
    line.show("working");
  }
  CHECK(nowhere.str().empty());
  std::ostringstream screen;
  {
    progress_line line{screen, 10};
    line.show("a long line that is cut");
    line.show("short");
  }
  CHECK(screen.str() == "\ra long li\rshort    \r     \r");
  load_second second;
  second.end = 12;
  second.seconds = 2;
  second.counts.published = 2000;
  CHECK(progress_text(second) == "12 s  1,000 published/s");
}

TEST_CASE("help names every option with its unit", "[bench]") {
  const auto help = run({"bench", "--help"}).out;
  for (const auto* option : {"--uri",
                             "--timeout SECONDS",
                             "--producers N",
                             "--consumers N",
                             "--channels N",
                             "--threads N",
                             "--queues N",
                             "--queue-type",
                             "--exchange",
                             "--keys",
                             "--fan-out",
                             "--size BYTES",
                             "--rate",
                             "--consumer-rate",
                             "--confirm",
                             "--mandatory",
                             "--prefetch",
                             "--ack-every",
                             "--auto-ack",
                             "--transient",
                             "--seconds",
                             "--count",
                             "--idle-connections",
                             "--idle-queues",
                             "--broker-pid",
                             "--name",
                             "--keep",
                             "--histogram",
                             "--json"}) {
    CAPTURE(option);
    CHECK(has(help, option));
  }
  const auto declare_help = run({"bench", "declare", "--help"}).out;
  for (const auto* option :
       {"--uri", "--timeout", "--queues", "--window N", "--queue-type", "--name", "--broker-pid", "--keep"}) {
    CAPTURE(option);
    CHECK(has(declare_help, option));
  }
  for (const auto& text : {help, declare_help}) {
    CAPTURE(text);
    CHECK(std::count(text.begin(), text.end(), '\n') <= 24);
    std::istringstream lines{text};
    for (std::string line; std::getline(lines, line);) CHECK(line.size() <= 80);
  }
}
