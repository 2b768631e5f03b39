// A program of somebody else's with a schema of its own: a durable actor whose total survives the node.
#include "tally.capnp.h"

#include <posthorn/node.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>

namespace {

posthorn::durable<outside::Tally> tallies() {
  return posthorn::durable<outside::Tally>("tally").on<outside::Add>(
      [](posthorn::turn<outside::Tally>& turn, outside::Add::Reader add) {
        turn.state().setTotal(turn.state().getTotal() + add.getNumber());
        turn.reply<outside::Tally>([&](auto answer) { answer.setTotal(turn.state().getTotal()); });
      });
}

// The total after this number was added, by a node that lives no longer than that; -1: something failed, and was told.
std::int64_t add(const std::filesystem::path& directory, std::int64_t number) {
  auto node = posthorn::node::start({.data_directory = directory});
  if (!node) {
    std::fprintf(stderr, "%s\n", node.error().text.c_str());
    return -1;
  }
  if (!(*node)->add(tallies())) return -1;
  auto answer = (*node)->ask<outside::Add, outside::Tally>("tally/one", std::chrono::seconds{30},
                                                           [&](auto m) { m.setNumber(number); });
  if (!answer) {
    std::fprintf(stderr, "%s\n", answer.error().text.c_str());
    return -1;
  }
  return (*answer)->get().getTotal();
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const auto first = add(arguments[1], 40);
  const auto second = add(arguments[1], 2);
  std::printf("%lld %lld\n", static_cast<long long>(first), static_cast<long long>(second));
  return first == 40 && second == 42 ? 0 : 1;
}
