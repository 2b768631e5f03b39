#include "node/load/declare_load.hpp"

#include "node/load/request_pipe.hpp"
#include "node/load/topology_plan.hpp"

#include <chrono>

namespace posthorn {
namespace {

using steady = std::chrono::steady_clock;

constexpr auto settling_time = std::chrono::seconds{3};
constexpr unsigned told_every = 100;

class declarer {
public:
  declarer(const declare_options& options, const declare_observer& observe,
           const std::atomic<bool>& interrupted, amqp_client& client)
      : options_{options}, observe_{observe}, interrupted_{interrupted}, client_{client} {}

  result<void> declare(unsigned first, unsigned window, const char* what, declare_phase& out) {
    const auto arguments = queue_arguments_of(options_.queue_type);
    return all(first, first + options_.queues, window, what, out,
               [&](request_pipe& pipe, const std::string& name) {
                 return pipe.add(durable_queue(name, arguments));
               });
  }

  result<void> remove(const char* what, declare_phase& out) {
    return all(0, 2 * options_.queues, options_.window, what, out,
               [](request_pipe& pipe, const std::string& name) {
                 amqp091::method::queue_delete request;
                 request.queue = name;
                 return pipe.add(request);
               });
  }

private:
  template <class Ask>
  result<void> all(unsigned first, unsigned end, unsigned window, const char* what, declare_phase& out,
                   Ask&& ask) {
    request_pipe pipe{client_, options_.broker.answer_time, window};
    const auto since = steady::now();
    for (unsigned i = first; i < end && !interrupted_; ++i) {
      if (auto ok = ask(pipe, options_.name + "-declare-" + std::to_string(i)); !ok) return ok;
      ++out.count;
      if (observe_ && out.count % told_every == 0) observe_(what, out.count);
    }
    if (auto ok = pipe.finish(); !ok) return ok;
    out.seconds = std::chrono::duration<double>(steady::now() - since).count();
    out.latency = pipe.latency();
    return {};
  }

  const declare_options& options_;
  const declare_observer& observe_;
  const std::atomic<bool>& interrupted_;
  amqp_client& client_;
};

}  // namespace

result<declare_report> run_declare(const declare_options& options, const declare_observer& observe,
                                   const std::atomic<bool>& interrupted) {
  auto client = amqp_client::open(options.broker);
  if (!client) return client.error();
  declarer work{options, observe, interrupted, **client};
  const auto read_memory = [&](std::optional<process_memory>& into) -> result<void> {
    if (options.broker_pid == 0) return {};
    auto memory = settled_memory(options.broker_pid, settling_time);
    if (!memory) return memory.error();
    into = *memory;
    return {};
  };
  declare_report out;
  // What is left of a run that was cut short would be found, and not made.
  declare_phase before;
  if (auto ok = work.remove("cleared", before); !ok) return ok.error();
  if (auto ok = read_memory(out.before); !ok) return ok.error();
  if (auto ok = work.declare(0, 1, "declared one by one", out.one_by_one); !ok) return ok.error();
  if (auto ok = work.declare(options.queues, options.window, "declared", out.pipelined); !ok)
    return ok.error();
  if (auto ok = read_memory(out.after); !ok) return ok.error();
  if (!options.keep) {
    const std::atomic<bool> never = false;
    declarer last{options, observe, never, **client};
    if (auto ok = last.remove("deleted", out.removed); !ok) return ok.error();
  }
  (*client)->close();
  return out;
}

}  // namespace posthorn
