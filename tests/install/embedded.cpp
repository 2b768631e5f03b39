// A program of somebody else's: it finds Posthorn with pkg-config alone, and has plain CAF actors and a durable one.
#include <posthorn/node.hpp>

#include "mailbox/envelope.capnp.h"

#include <caf/all.hpp>

#include <chrono>
#include <cstdio>
#include <filesystem>

namespace {

using namespace std::chrono_literals;
// Any Cap'n Proto struct will do as message and as state; this one is there.
using note = posthorn::wire::Envelope;

using doubler = caf::typed_actor<caf::result<int>(int)>;

doubler::behavior_type double_it() {
  return {[](int number) { return 2 * number; }};
}

posthorn::durable<note> notes() {
  return posthorn::durable<note>("notes").on<note>([](posthorn::turn<note>& turn, note::Reader message) {
    turn.state().setBody(message.getBody());
    turn.reply<note>([&](note::Builder answer) { answer.setBody(turn.state().getBody()); });
  });
}

}  // namespace

int main() {
  const auto directory = std::filesystem::temp_directory_path() / "posthorn-embedded";
  std::filesystem::remove_all(directory);
  int answer = 0;
  bool echoed = false;
  {
    auto started = posthorn::node::start({.data_directory = directory});
    if (!started || !(*started)->add(notes())) return 1;
    auto& node = **started;
    {
      caf::scoped_actor self{node.system()};
      self->request(node.system().spawn(double_it), 10s, 21)
          .receive([&answer](int number) { answer = number; }, [](const caf::error&) {});
    }
    auto got = node.ask<note, note>("notes/first", 10s,
                                    [](note::Builder m) { m.setBody(kj::StringPtr("hello").asBytes()); });
    echoed = got && (*got)->get().getBody() == kj::StringPtr("hello").asBytes();
  }
  std::filesystem::remove_all(directory);
  std::printf("%d %s\n", answer, echoed ? "hello" : "no answer");
  return answer == 42 && echoed ? 0 : 1;
}
