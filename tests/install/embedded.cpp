// A program of somebody else's: it finds Posthorn with pkg-config alone, and uses CAF through it.
#include "mailbox/envelope.hpp"

#include <caf/all.hpp>

#include <chrono>
#include <cstdio>

namespace {

using doubler = caf::typed_actor<caf::result<int>(int)>;

doubler::behavior_type double_it() {
  return {[](int number) { return 2 * number; }};
}

}  // namespace

int main() {
  caf::core::init_global_meta_objects();
  caf::actor_system_config config;
  caf::actor_system system{config};
  caf::scoped_actor self{system};
  int answer = 0;
  self->request(system.spawn(double_it), std::chrono::seconds{10}, 21)
      .receive([&answer](int number) { answer = number; }, [](const caf::error&) {});
  std::printf("%d\n", answer);
  return answer == 42 ? 0 : 1;
}
