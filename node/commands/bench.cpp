// posthorn bench: loads a broker, any that speaks AMQP 0-9-1, and tells how fast it was. Ends with 1 when a message was
// refused, never confirmed, or lost.
#include "node/commands/bench_report.hpp"
#include "node/commands/command.hpp"
#include "node/commands/progress_line.hpp"
#include "node/commands/text_table.hpp"
#include "node/load/declare_load.hpp"
#include "node/load/load.hpp"
#include "node/load/number_list.hpp"

#include <CLI/CLI.hpp>

#include <atomic>
#include <bit>
#include <charconv>
#include <cmath>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

namespace posthorn {
namespace {

// Interrupting ends the load in good order, so that the queues are deleted. A second time ends it at once.
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");

void on_interrupt(int signal) {
  interrupted = true;
  std::signal(signal, SIG_DFL);
}

// While it stands, an interrupt is a wish.
class interruptible {
public:
  interruptible() {
    interrupted = false;
    before_int_ = std::signal(SIGINT, on_interrupt);
    before_term_ = std::signal(SIGTERM, on_interrupt);
  }
  ~interruptible() {
    std::signal(SIGINT, before_int_);
    std::signal(SIGTERM, before_term_);
  }
  interruptible(const interruptible&) = delete;
  interruptible& operator=(const interruptible&) = delete;

private:
  void (*before_int_)(int);
  void (*before_term_)(int);
};

// CLI11 gives each option a line of its own; these would not fit a screen.
constexpr const char* bench_help = R"(Load a broker, any that speaks AMQP 0-9-1, and measure it
Usage: posthorn bench [OPTIONS]           see docs/cli.md for examples
       posthorn bench declare [OPTIONS]   measures declaring; has its own --help
  --uri URI                     amqp://USER:PASSWORD@HOST:PORT/VHOST
  --timeout SECONDS             Longest wait for an answer of the broker (30)
  --producers N --consumers N   Connections that publish (1), that consume (1)
  --channels N --threads N      Channels of each (1), threads for all (8)
  --queues N --queue-type TYPE  Durable queues (1); classic, quorum, ...
  --exchange TYPE               direct, fanout, topic, headers (the default one)
  --keys N --fan-out N          Keys per queue (1), queues per message (1)
  --size BYTES                  1024; in turn 100,5000; at random 100-5000
  --rate N                      Messages per second of all (0: as many as go),
                                or in steps RATE:SECONDS,RATE:SECONDS,...
  --consumer-rate N             Messages per second of all (0: as they come)
  --confirm N --mandatory       Unconfirmed per channel (1000; 0: no confirms)
  --prefetch N --ack-every N    Unacknowledged messages (1000), per ack (100)
  --auto-ack --transient        No acks; messages that need not survive
  --seconds N --count N         Seconds to measure (10), or messages to send
  --idle-connections N          Others that do nothing meanwhile (0)
  --idle-queues N               Others that nobody uses (0)
  --broker-pid PID              Tell its memory, and that of each idle one in kB
  --name NAME --keep            Of queues (posthorn-bench); use and leave them
  --histogram --json            All latencies, in ms; JSON, latencies in us
)";

struct bench_options {
  load_options load;
  std::string uri = "amqp://127.0.0.1:5672";
  std::string size = "1024";
  std::string rate = "0";
  std::optional<double> seconds;
  double timeout = 30;
  bool histogram = false;

  declare_options declare;
};

// What no broker would be to blame for; empty when all is well.
std::string contradiction_in(const load_options& load) {
  const auto workers = load.producers + load.consumers;
  if (workers == 0 && load.idle.connections + load.idle.queues == 0) {
    return "there is nothing to do without producers, consumers, idle connections or idle queues";
  }
  if (load.producers == 0 && load.consumers != 0 && load.count == 0) {
    return "without producers, --count must say how many messages to consume";
  }
  const bool has_own_exchange = !load.exchange_type.empty();
  if (load.fan_out > 1 && (!has_own_exchange || load.exchange_type == "fanout")) {
    return "--fan-out needs an --exchange of type direct, topic or headers; one of type fanout reaches all "
           "queues";
  }
  if (load.fan_out > load.queues) return "--fan-out cannot be more than --queues";
  if (load.keys > 1 && (!has_own_exchange || load.exchange_type == "fanout")) {
    return "--keys needs an --exchange of type direct, topic or headers";
  }
  constexpr std::uint64_t bindings_max = 5'000'000;
  if (std::uint64_t{load.queues} * load.keys > bindings_max / load.fan_out) {
    return "--queues times --keys times --fan-out must not be more than " + with_thousands(bindings_max);
  }
  constexpr std::uint64_t memory_max = std::uint64_t{1} << 30U;
  const auto window = std::uint64_t{std::bit_ceil(load.confirm_window + 1)} * 32;
  if (load.confirm_window != 0 && window * load.channels * load.producers > memory_max) {
    return "so many channels with so large a --confirm need more than 1 GiB of memory";
  }
  return {};
}

exit_code wrong_usage(const command_context& context, const std::string& why) {
  context.err << "posthorn: " << why << '\n';
  return exit_code::wrong_usage;
}

std::chrono::milliseconds as_milliseconds(double seconds) {
  return std::chrono::milliseconds{std::llround(seconds * 1000)};
}

// Only a person who watches needs it.
std::size_t progress_columns(const command_context& context) {
  return &context.err == &std::cerr ? columns_of_standard_error() : 0;
}

exit_code bench(const command_context& context, bench_options options) {
  auto& load = options.load;
  auto address = parse_amqp_uri(options.uri);
  if (!address) return wrong_usage(context, address.error().text);
  load.broker = std::move(*address);
  load.broker.answer_time = as_milliseconds(options.timeout);
  auto size = size_plan::parse(options.size);
  if (!size) return wrong_usage(context, size.error().text);
  load.size = std::move(*size);
  auto rate = rate_plan::parse(options.rate);
  if (!rate) return wrong_usage(context, rate.error().text);
  load.rate = std::move(*rate);
  const bool has_load = load.producers + load.consumers != 0;
  load.duration = as_milliseconds(options.seconds.value_or(has_load ? 10 : 0));
  if (const auto why = contradiction_in(load); !why.empty()) return wrong_usage(context, why);

  const interruptible while_here;
  progress_line line{context.err, progress_columns(context)};
  line.show("connecting ...");
  const auto report = run_load(
      load, [&](const load_second& second) { line.show(progress_text(second)); }, interrupted);
  line.clear();
  if (!report) return context.fail(report.error());
  context.out << (context.is_json ? bench_json(*report, has_load, options.histogram)
                                  : bench_text(*report, has_load, options.histogram));
  auto wrong = report->nacked + report->returned + report->unconfirmed + report->unexpected + report->missing;
  if (report->idle) wrong += report->idle->closed;
  return wrong == 0 ? exit_code::ok : exit_code::check_failed;
}

exit_code declare(const command_context& context, bench_options options) {
  auto address = parse_amqp_uri(options.uri);
  if (!address) return wrong_usage(context, address.error().text);
  options.declare.broker = std::move(*address);
  options.declare.broker.answer_time = as_milliseconds(options.timeout);
  const interruptible while_here;
  progress_line line{context.err, progress_columns(context)};
  const auto observe = [&](const char* what, unsigned done) {
    if (line.is_shown()) line.show_now_and_then(with_thousands(done) + ' ' + what);
  };
  const auto report = run_declare(options.declare, observe, interrupted);
  line.clear();
  if (!report) return context.fail(report.error());
  context.out << (context.is_json ? declare_json(*report) : declare_text(*report));
  return exit_code::ok;
}

// "0.1" and "1000000", not "0.100000".
std::string shortest(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value, std::chars_format::fixed).ptr};
}

template <class Value>
void add_number(CLI::App& command, const char* name, Value& value, const char* help, double min, double max) {
  // CLI11's own range takes what is not a number for one within.
  const auto check = [min, max](const std::string& text) -> std::string {
    const auto given = number_from<double>(text);
    if (given && *given >= min && *given <= max) return {};
    return "expected a number from " + shortest(min) + " to " + shortest(max) + ", not " + text;
  };
  command.add_option(name, value, help)->check(check)->option_text("N");
}

void add_declare(CLI::App& bench, command_context& context, const std::shared_ptr<bench_options>& options) {
  auto* command =
      bench.add_subcommand("declare", "Measure declaring durable queues, one by one and pipelined");
  auto& chosen = options->declare;
  command->add_option("--uri", options->uri, "amqp://USER:PASSWORD@HOST:PORT/VHOST")->option_text("URI");
  add_number(*command, "--timeout", options->timeout, "Longest wait for an answer, in seconds (30)", 0.01,
             86400);
  add_number(*command, "--queues", chosen.queues, "Queues in each of the two ways (5000)", 1, 1'000'000);
  add_number(*command, "--window", chosen.window, "Requests ahead of their answers (1000)", 1, 100'000);
  command->add_option("--queue-type", chosen.queue_type, "classic, quorum, ... (x-queue-type)")
      ->option_text("TYPE");
  command->add_option("--name", chosen.name, "Queues are NAME-declare-0 ... (posthorn-bench)")
      ->option_text("NAME");
  command->add_option("--broker-pid", chosen.broker_pid, "Process whose memory per queue is told, in kB")
      ->check(CLI::Range(1, 1 << 30))
      ->option_text("PID");
  command->add_flag("--keep", chosen.keep, "Leave the queues");
  command->callback([&context, options, &bench] {
    // What belongs to a load would be taken, and do nothing.
    for (const auto* option : bench.get_options()) {
      if (option->count() == 0) continue;
      throw CLI::ExtrasError{"bench declare", {option->get_name()}};
    }
    context.action = [&context, options] { return declare(context, *options); };
  });
}

}  // namespace

void add_bench(CLI::App& app, command_context& context) {
  auto* command = app.add_subcommand("bench", "Load a broker and measure it");
  const auto options = std::make_shared<bench_options>();
  auto& load = options->load;
  const auto number = [&](const char* name, auto& value, double min, double max) {
    add_number(*command, name, value, "", min, max);
  };
  command->add_option("--uri", options->uri);
  number("--timeout", options->timeout, 0.01, 86400);
  number("--producers", load.producers, 0, 100'000);
  number("--consumers", load.consumers, 0, 100'000);
  number("--channels", load.channels, 1, 2047);
  number("--threads", load.threads, 1, 256);
  number("--queues", load.queues, 1, 1'000'000);
  command->add_option("--queue-type", load.queue_type);
  command->add_option("--exchange", load.exchange_type)
      ->check(CLI::IsMember({"direct", "fanout", "topic", "headers"}));
  number("--keys", load.keys, 1, 1'000'000);
  number("--fan-out", load.fan_out, 1, 1'000'000);
  command->add_option("--size", options->size);
  command->add_option("--rate", options->rate);
  number("--consumer-rate", load.consume_rate, 0.0, 1e9);
  number("--confirm", load.confirm_window, 0, 1 << 24);
  command->add_flag("--mandatory", load.is_mandatory);
  number("--prefetch", load.prefetch, 0, 65535);
  number("--ack-every", load.ack_every, 1, 65535);
  command->add_flag("--auto-ack", load.is_auto_ack);
  command->add_flag("--transient", load.is_transient);
  number("--seconds", options->seconds, 0.1, 1e6);
  number("--count", load.count, 0, 10'000'000'000);
  number("--idle-connections", load.idle.connections, 0, 1'000'000);
  number("--idle-queues", load.idle.queues, 0, 10'000'000);
  command->add_option("--broker-pid", load.idle.broker_pid)->check(CLI::Range(1, 1 << 30));
  command->add_option("--name", load.name);
  command->add_flag("--keep", load.keep);
  command->add_flag("--histogram", options->histogram);
  add_declare(*command, context, options);  // first, or its --help would be the one of `bench`
  command->formatter_fn([](const CLI::App*, const std::string&, CLI::AppFormatMode mode) -> std::string {
    return mode == CLI::AppFormatMode::Normal ? bench_help
                                              : "  bench                    Load a broker and measure it\n";
  });
  command->require_subcommand(0, 1);
  command->callback([&context, command, options] {
    if (!command->get_subcommands().empty()) return;
    context.action = [&context, options] { return bench(context, *options); };
  });
}

}  // namespace posthorn
