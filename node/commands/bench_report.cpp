#include "node/commands/bench_report.hpp"

#include "node/commands/text_table.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace posthorn {
namespace {

namespace json = boost::json;
using align = text_table::align;

double rate_of(std::uint64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

std::string per_second(std::uint64_t count, double seconds) {
  return with_thousands(static_cast<unsigned long long>(std::llround(rate_of(count, seconds))));
}

std::string milliseconds(std::uint64_t nanoseconds) {
  const auto micro = (nanoseconds + 500) / 1000;
  std::string fraction = std::to_string(micro % 1000);
  return std::to_string(micro / 1000) + '.' + std::string(3 - fraction.size(), '0') + fraction;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

json::object counts_json(const load_counts& counts) {
  json::object out;
  out["published"] = counts.published;
  out["confirmed"] = counts.confirmed;
  out["consumed"] = counts.consumed;
  return out;
}

json::object rates_json(const load_counts& counts, double seconds) {
  json::object out;
  out["published"] = rate_of(counts.published, seconds);
  out["confirmed"] = rate_of(counts.confirmed, seconds);
  out["consumed"] = rate_of(counts.consumed, seconds);
  return out;
}

double microseconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1000; }

json::object latency_json(const latency_histogram& histogram) {
  json::object out;
  out["count"] = histogram.count();
  out["p50"] = microseconds(histogram.quantile(0.5));
  out["p95"] = microseconds(histogram.quantile(0.95));
  out["p99"] = microseconds(histogram.quantile(0.99));
  out["p99.9"] = microseconds(histogram.quantile(0.999));
  out["max"] = microseconds(histogram.max());
  return out;
}

json::object summary_json(const latency_summary& summary) {
  json::object out;
  out["count"] = summary.count;
  out["p50"] = microseconds(summary.p50);
  out["p99"] = microseconds(summary.p99);
  out["max"] = microseconds(summary.max);
  return out;
}

json::array steps_json(const latency_histogram& histogram) {
  json::array out;
  histogram.each_step([&](std::uint64_t highest, std::uint64_t count) {
    out.push_back(json::array{microseconds(highest), count});
  });
  return out;
}

// What one of `count` things costs. Memory that was given back meanwhile makes it less than nothing.
double share_of_growth(std::uint64_t before, std::uint64_t after, unsigned count) {
  return count == 0 ? 0 : (static_cast<double>(after) - static_cast<double>(before)) / count;
}

json::object memory_json(const process_memory& memory) {
  json::object out;
  out["resident"] = memory.resident;
  out["anonymous"] = memory.anonymous;
  return out;
}

json::object growth_json(const process_memory& before, const process_memory& after, unsigned count) {
  json::object out;
  out["resident"] = share_of_growth(before.resident, after.resident, count);
  out["anonymous"] = share_of_growth(before.anonymous, after.anonymous, count);
  return out;
}

json::object idle_json(const idle_report& idle) {
  json::object out;
  out["connections"] = idle.connections;
  out["connect_seconds"] = idle.connect_seconds;
  out["connections_closed"] = idle.closed;
  out["queues"] = idle.queues;
  out["declare_seconds"] = idle.declare_seconds;
  if (!idle.before || !idle.with_connections) return out;
  json::object memory;
  memory["before"] = memory_json(*idle.before);
  if (idle.connections != 0) {
    memory["per_connection"] = growth_json(*idle.before, *idle.with_connections, idle.connections);
  }
  if (idle.with_queues && idle.queues != 0) {
    memory["per_queue"] = growth_json(*idle.with_connections, *idle.with_queues, idle.queues);
  }
  out["memory_bytes"] = std::move(memory);
  return out;
}

std::string growth_text(const process_memory& before, const process_memory& after, unsigned count) {
  const auto kilobytes = [&](std::uint64_t from, std::uint64_t to) {
    return fixed(share_of_growth(from, to, count) / 1000, 2);
  };
  return kilobytes(before.resident, after.resident) + " kB each, " +
         kilobytes(before.anonymous, after.anonymous) + " kB of it without the store's file";
}

std::string megabytes(std::uint64_t bytes) { return fixed(static_cast<double>(bytes) / 1e6, 1) + " MB"; }

std::string idle_text(const idle_report& idle) {
  std::string out;
  if (idle.before) {
    out += "\nthe broker held " + megabytes(idle.before->resident) + " before, " +
           megabytes(idle.before->anonymous) + " of it without the store's file\n";
  }
  if (idle.connections != 0) {
    out += with_thousands(idle.connections) + " idle connections, " +
           per_second(idle.connections, idle.connect_seconds) + " opened per second";
    if (idle.before && idle.with_connections) {
      out += ": " + growth_text(*idle.before, *idle.with_connections, idle.connections);
    }
    out += '\n';
  }
  if (idle.queues != 0) {
    out += with_thousands(idle.queues) + " idle queues, " + per_second(idle.queues, idle.declare_seconds) +
           " declared per second";
    if (idle.with_connections && idle.with_queues) {
      out += ": " + growth_text(*idle.with_connections, *idle.with_queues, idle.queues);
    }
    out += '\n';
  }
  if (idle.closed != 0) out += with_thousands(idle.closed) + " idle connections were closed by the broker\n";
  return out;
}

text_table latency_table() {
  return text_table{{{"latency in ms", align::left},
                     {"p50", align::right},
                     {"p95", align::right},
                     {"p99", align::right},
                     {"p99.9", align::right},
                     {"max", align::right}}};
}

void add_latency(text_table& table, const char* what, const latency_histogram& of) {
  if (of.count() == 0) return;
  table.add_row({what, milliseconds(of.quantile(0.5)), milliseconds(of.quantile(0.95)),
                 milliseconds(of.quantile(0.99)), milliseconds(of.quantile(0.999)), milliseconds(of.max())});
}

json::object phase_json(const declare_phase& phase) {
  json::object out;
  out["count"] = phase.count;
  out["seconds"] = phase.seconds;
  out["per_second"] = rate_of(phase.count, phase.seconds);
  out["latency_us"] = latency_json(phase.latency);
  return out;
}

}  // namespace

std::string bench_json(const load_report& report, bool has_load, bool histogram) {
  json::object out;
  if (has_load) {
    out["seconds"] = report.seconds;
    out["per_second"] = rates_json(report.measured, report.seconds);
    out["measured"] = counts_json(report.measured);
    out["total"] = counts_json(report.total);
    out["latency_us"] = latency_json(report.delivery);
    out["confirm_us"] = latency_json(report.confirm);
    out["nacked"] = report.nacked;
    out["returned"] = report.returned;
    out["unconfirmed"] = report.unconfirmed;
    out["unexpected_confirms"] = report.unexpected;
    out["missing"] = report.missing;
    out["blocked"] = report.was_blocked;
    json::array series;
    for (const auto& point : report.series) {
      json::object one;
      one["end"] = point.end;
      one["seconds"] = point.seconds;
      one["counts"] = counts_json(point.counts);
      one["per_second"] = rates_json(point.counts, point.seconds);
      one["latency_us"] = summary_json(point.delivery);
      one["confirm_us"] = summary_json(point.confirm);
      series.push_back(std::move(one));
    }
    out["series"] = std::move(series);
    if (histogram) {
      out["latency_histogram_us"] = steps_json(report.delivery);
      out["confirm_histogram_us"] = steps_json(report.confirm);
    }
  }
  if (report.idle) out["idle"] = idle_json(*report.idle);
  return json::serialize(out) + '\n';
}

std::string bench_text(const load_report& report, bool has_load, bool histogram) {
  std::string out;
  if (has_load) {
    text_table rates{{{"", align::left}, {"per second", align::right}, {"in all", align::right}}};
    const auto add = [&](const char* what, std::uint64_t measured, std::uint64_t total) {
      rates.add_row({what, per_second(measured, report.seconds), with_thousands(total)});
    };
    add("published", report.measured.published, report.total.published);
    add("confirmed", report.measured.confirmed, report.total.confirmed);
    add("consumed", report.measured.consumed, report.total.consumed);
    out += rates.to_string();
    auto latencies = latency_table();
    add_latency(latencies, "publish to delivery", report.delivery);
    add_latency(latencies, "publish to confirm", report.confirm);
    if (report.delivery.count() + report.confirm.count() != 0) out += '\n' + latencies.to_string();
  }
  if (report.idle) out += idle_text(*report.idle);
  if (histogram && report.delivery.count() != 0) {
    out += "\npublish to delivery\n" + histogram_text(report.delivery);
  }
  if (histogram && report.confirm.count() != 0)
    out += "\npublish to confirm\n" + histogram_text(report.confirm);
  const auto warn = [&](std::uint64_t count, const char* what) {
    if (count != 0) out += '\n' + with_thousands(count) + ' ' + what + '\n';
  };
  warn(report.nacked, "messages were refused (nack)");
  warn(report.returned, "messages came back, for no queue wanted them");
  warn(report.unconfirmed, "messages were never confirmed");
  warn(report.unexpected, "confirms came for messages that did not wait for one");
  warn(report.missing, "messages were published and never consumed");
  if (report.was_blocked) out += "\nthe broker blocked publishers for a while\n";
  return out;
}

std::string declare_json(const declare_report& report) {
  json::object out;
  out["one_by_one"] = phase_json(report.one_by_one);
  out["pipelined"] = phase_json(report.pipelined);
  out["deleted"] = phase_json(report.removed);
  if (report.before && report.after) {
    json::object memory;
    memory["before"] = memory_json(*report.before);
    memory["per_queue"] =
        growth_json(*report.before, *report.after, report.one_by_one.count + report.pipelined.count);
    out["memory_bytes"] = std::move(memory);
  }
  return json::serialize(out) + '\n';
}

std::string declare_text(const declare_report& report) {
  text_table rates{{{"durable queues", align::left}, {"per second", align::right}, {"in all", align::right}}};
  auto latencies = latency_table();
  const auto add = [&](const char* what, const declare_phase& phase) {
    if (phase.count == 0) return;
    rates.add_row({what, per_second(phase.count, phase.seconds), with_thousands(phase.count)});
    add_latency(latencies, what, phase.latency);
  };
  add("declared one by one", report.one_by_one);
  add("declared pipelined", report.pipelined);
  add("deleted pipelined", report.removed);
  auto out = rates.to_string() + '\n' + latencies.to_string();
  if (report.before && report.after) {
    out += "\nthe broker held " + megabytes(report.before->resident) + " before; a queue takes " +
           growth_text(*report.before, *report.after, report.one_by_one.count + report.pipelined.count) +
           '\n';
  }
  return out;
}

std::string progress_text(const load_second& second) {
  auto out = fixed(second.end, 0) + " s";
  const auto add = [&](std::uint64_t count, const char* what) {
    if (count != 0) out += "  " + per_second(count, second.seconds) + ' ' + what;
  };
  add(second.counts.published, "published/s");
  add(second.counts.confirmed, "confirmed/s");
  add(second.counts.consumed, "consumed/s");
  if (second.delivery.count() != 0) {
    out += "  p50 " + milliseconds(second.delivery.quantile(0.5)) + " p99 " +
           milliseconds(second.delivery.quantile(0.99)) + " ms";
  }
  return out;
}

std::string histogram_text(const latency_histogram& histogram) {
  std::string out = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n";
  std::uint64_t seen = 0;
  const auto all = static_cast<double>(histogram.count());
  histogram.each_step([&](std::uint64_t highest, std::uint64_t count) {
    seen += count;
    const double part = static_cast<double>(seen) / all;
    char line[128];
    std::snprintf(line, sizeof line, "%12.3f %2.12f %10llu", static_cast<double>(highest) / 1e6, part,
                  static_cast<unsigned long long>(seen));
    out += line;
    if (seen < histogram.count()) {
      std::snprintf(line, sizeof line, " %14.2f", 1 / (1 - part));
      out += line;
    }
    out += '\n';
  });
  out += "#[Max = " + milliseconds(histogram.max()) + ", Total count = " + std::to_string(histogram.count()) +
         "]\n";
  return out;
}

}  // namespace posthorn
