// posthorn bench: loads a broker, any that speaks AMQP 0-9-1, and tells how fast it was. Ends with 1 when a message was
// refused, never confirmed, or lost.
#include "node/commands/command.hpp"
#include "node/commands/text_table.hpp"
#include "node/load/load.hpp"

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <memory>
#include <string>

namespace posthorn {
namespace {

namespace json = boost::json;

// Interrupting ends the load in good order, so that the queues are deleted. A second time ends it at once.
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");

void on_interrupt(int signal) {
  interrupted = true;
  std::signal(signal, SIG_DFL);
}

struct bench_options {
  load_options load;
  std::string uri = "amqp://127.0.0.1:5672";
  double seconds = 10;
};

std::string per_second(std::uint64_t count, double seconds) {
  return with_thousands(
      static_cast<unsigned long long>(std::llround(static_cast<double>(count) / std::max(seconds, 1e-9))));
}

std::string milliseconds(std::uint64_t nanoseconds) {
  const auto micro = (nanoseconds + 500) / 1000;
  std::string fraction = std::to_string(micro % 1000);
  return std::to_string(micro / 1000) + '.' + std::string(3 - fraction.size(), '0') + fraction;
}

json::object latency_json(const latency_histogram& histogram) {
  json::object out;
  out["count"] = histogram.count();
  out["p50"] = histogram.quantile(0.5) / 1000;
  out["p95"] = histogram.quantile(0.95) / 1000;
  out["p99"] = histogram.quantile(0.99) / 1000;
  out["p99.9"] = histogram.quantile(0.999) / 1000;
  out["max"] = histogram.max() / 1000;
  return out;
}

json::object counts_json(const load_counts& counts) {
  json::object out;
  out["published"] = counts.published;
  out["confirmed"] = counts.confirmed;
  out["consumed"] = counts.consumed;
  return out;
}

std::string as_json(const load_report& report) {
  const auto rate = [&](std::uint64_t count) {
    return static_cast<double>(count) / std::max(report.seconds, 1e-9);
  };
  json::object per_second;
  per_second["published"] = rate(report.measured.published);
  per_second["confirmed"] = rate(report.measured.confirmed);
  per_second["consumed"] = rate(report.measured.consumed);
  json::object out;
  out["seconds"] = report.seconds;
  out["per_second"] = std::move(per_second);
  out["measured"] = counts_json(report.measured);
  out["total"] = counts_json(report.total);
  out["latency_us"] = latency_json(report.delivery);
  out["confirm_us"] = latency_json(report.confirm);
  out["nacked"] = report.nacked;
  out["unconfirmed"] = report.unconfirmed;
  out["unexpected_confirms"] = report.unexpected;
  out["missing"] = report.missing;
  out["blocked"] = report.was_blocked;
  return json::serialize(out);
}

std::string as_text(const load_report& report) {
  using align = text_table::align;
  text_table rates{{{"", align::left}, {"per second", align::right}, {"in all", align::right}}};
  const auto add = [&](const char* what, std::uint64_t measured, std::uint64_t total) {
    rates.add_row({what, per_second(measured, report.seconds), with_thousands(total)});
  };
  add("published", report.measured.published, report.total.published);
  add("confirmed", report.measured.confirmed, report.total.confirmed);
  add("consumed", report.measured.consumed, report.total.consumed);
  text_table latencies{{{"latency in ms", align::left},
                        {"p50", align::right},
                        {"p95", align::right},
                        {"p99", align::right},
                        {"p99.9", align::right},
                        {"max", align::right}}};
  const auto add_latency = [&](const char* what, const latency_histogram& of) {
    if (of.count() == 0) return;
    latencies.add_row({what, milliseconds(of.quantile(0.5)), milliseconds(of.quantile(0.95)),
                       milliseconds(of.quantile(0.99)), milliseconds(of.quantile(0.999)),
                       milliseconds(of.max())});
  };
  add_latency("publish to delivery", report.delivery);
  add_latency("publish to confirm", report.confirm);
  std::string out = '\n' + rates.to_string();
  if (report.delivery.count() + report.confirm.count() != 0) out += '\n' + latencies.to_string();
  const auto warn = [&](std::uint64_t count, const char* what) {
    if (count != 0) out += '\n' + with_thousands(count) + ' ' + what + '\n';
  };
  warn(report.nacked, "messages were refused (nack)");
  warn(report.unconfirmed, "messages were never confirmed");
  warn(report.unexpected, "confirms came for messages that did not wait for one");
  warn(report.missing, "messages were published and never consumed");
  if (report.was_blocked) out += "\nthe broker blocked publishers for a while\n";
  return out;
}

exit_code bench(const command_context& context, bench_options options) {
  auto address = parse_amqp_uri(options.uri);
  if (!address) {
    context.err << "posthorn: " << address.error().text << '\n';
    return exit_code::wrong_usage;
  }
  options.load.broker = std::move(*address);
  options.load.duration = std::chrono::milliseconds{std::llround(options.seconds * 1000)};
  if (options.load.producers == 0 && options.load.count == 0) {
    context.err << "posthorn: without producers, --count must say how many messages to consume\n";
    return exit_code::wrong_usage;
  }
  interrupted = false;
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  load_observer observe;
  if (!context.is_json) {
    observe = [&](unsigned second, const load_counts& delta, double seconds) {
      std::string line = std::to_string(second) + " s";
      line.insert(0, line.size() < 6 ? 6 - line.size() : 0, ' ');
      const auto add = [&](std::uint64_t count, const char* what) {
        std::string rate = per_second(count, seconds);
        rate.insert(0, rate.size() < 10 ? 10 - rate.size() : 0, ' ');
        line += ' ' + rate + ' ' + what;
      };
      add(delta.published, "published/s");
      add(delta.confirmed, "confirmed/s");
      add(delta.consumed, "consumed/s");
      context.out << line << std::endl;
    };
  }
  const auto report = run_load(options.load, observe, interrupted);
  if (!report) return context.fail(report.error());
  context.out << (context.is_json ? as_json(*report) + '\n' : as_text(*report));
  const auto wrong = report->nacked + report->unconfirmed + report->unexpected + report->missing;
  return wrong == 0 ? exit_code::ok : exit_code::check_failed;
}

}  // namespace

void add_bench(CLI::App& app, command_context& context) {
  auto* command = app.add_subcommand("bench", "Load a broker and measure it");
  const auto options = std::make_shared<bench_options>();
  auto& load = options->load;
  const auto number = [&](const char* name, auto& value, const char* help, double min, double max) {
    command->add_option(name, value, help)->check(CLI::Range(min, max))->option_text("N");
  };
  command->add_option("--uri", options->uri, "amqp://USER:PASSWORD@HOST:PORT/VHOST")->option_text("URI");
  number("--producers", load.producers, "Publishing connections (1)", 0, 1000);
  number("--consumers", load.consumers, "Consuming connections (1)", 0, 1000);
  number("--queues", load.queues, "Durable queues to spread over (1)", 1, 10'000);
  number("--size", load.size, "Bytes of a body (1024)", 0, 512 << 20);
  number("--rate", load.rate, "Messages per second in all (0: as many as go)", 0.0, 1e9);
  number("--confirm", load.confirm_window, "Unconfirmed per producer (1000; 0: no confirms)", 0, 1 << 24);
  number("--prefetch", load.prefetch, "Unacknowledged per consumer (1000)", 0, 65535);
  number("--ack-every", load.ack_every, "Messages per acknowledgement (100)", 1, 65535);
  number("--seconds", options->seconds, "Time to measure (10)", 0.1, 1e6);
  number("--count", load.count, "Messages to send, instead of a time", 0, 10'000'000'000);
  command->add_flag("--auto-ack", load.is_auto_ack, "Consume without acknowledgements");
  command->add_flag("--transient", load.is_transient, "Messages that need not survive");
  command->add_option("--exchange", load.exchange_type, "direct, fanout, topic, headers (default exchange)")
      ->check(CLI::IsMember({"direct", "fanout", "topic", "headers"}))
      ->option_text("TYPE");
  command->add_option("--queue-type", load.queue_type, "classic, quorum, ... (x-queue-type)")
      ->option_text("TYPE");
  command->add_option("--name", load.name, "Queues are called NAME-0 ... (posthorn-bench)")
      ->option_text("NAME");
  command->add_flag("--keep", load.keep, "Use the queues as they are, and leave them");
  command->callback(
      [&context, options] { context.action = [&context, options] { return bench(context, *options); }; });
}

}  // namespace posthorn
