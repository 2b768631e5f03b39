// What a supervisor decides when children fail, come and go.
#include "actors/supervision.hpp"

#include "bench/micro/meter.hpp"

#include <cstdlib>
#include <string>

namespace posthorn::bench {

namespace {

using time_point = supervision::time_point;

supervision a_dynamic_one() {
  supervisor_spec spec;
  spec.how = strategy::dynamic;
  spec.intensity = {1'000'000'000, std::chrono::milliseconds{1}};
  auto made = supervision::make(std::move(spec), 1);
  if (!made) std::abort();
  return std::move(*made);
}

std::string child_name(std::uint64_t n) { return "child-" + std::to_string(n); }

void add(supervision& s, std::uint64_t n, time_point now, supervision_effects& fx,
         restart_kind restart = restart_kind::permanent) {
  child_spec child;
  child.restart = restart;
  child.name = child_name(n);
  if (!s.add_child(std::move(child), now, fx)) std::abort();
  s.started(child_name(n), now, fx);
}

}  // namespace

void measure_supervision(meter& m) {
  for (const std::uint64_t children : {std::uint64_t{1000}, std::uint64_t{100'000}}) {
    const auto among = " among " + std::to_string(children) + " children";
    auto s = a_dynamic_one();
    time_point now{};
    supervision_effects fx;
    s.start(now, fx);
    for (std::uint64_t n = 0; n < children; ++n) add(s, n, now, fx);
    m.measure("supervisor: a child fails and starts again," + among, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) {
        now += std::chrono::milliseconds{2};  // so that no two failures fall into one period
        fx.list.clear();
        const auto name = child_name(n * 7919 % children);
        s.ended(name, {exit_kind::error, "broken"}, now, fx);
        s.started(name, now, fx);
        keep(fx);
      }
    });
    m.measure("supervisor: a child comes, starts and ends," + among, [&](std::uint64_t count) {
      for (std::uint64_t n = 0; n < count; ++n) {
        now += std::chrono::milliseconds{2};
        fx.list.clear();
        add(s, children, now, fx, restart_kind::temporary);
        s.ended(child_name(children), {exit_kind::normal, ""}, now, fx);
        if (s.children_count() != children) std::abort();
        keep(fx);
      }
    });
  }
}

}  // namespace posthorn::bench
