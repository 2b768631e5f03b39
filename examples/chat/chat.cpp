// A chat: rooms are fanout exchanges, members are durable actors bound to them. See README.md.
#include "chat.capnp.h"

#include <posthorn/amqp.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace chat;
using namespace std::chrono_literals;
using member_turn = posthorn::turn<Member>;

constexpr unsigned lines_max = 4;  // that a member remembers

std::string room_name(std::string_view room) { return "room." + std::string{room}; }
std::string member_name(std::string_view member) { return "member/" + std::string{member}; }

// ---- what a member does

// Everybody in the room gets it in the same turn, whoever says it too. Nobody is known here.
void on_say(member_turn& t, Say::Reader m) {
  capnp::MallocMessageBuilder builder;
  auto said = builder.initRoot<Said>();
  said.setRoom(m.getRoom());
  said.setFrom(std::string{t.id()});
  said.setText(m.getText());
  const auto json = capnp::JsonCodec{}.encode(said.asReader());
  t.raw().publish_raw(
      room_name(m.getRoom().cStr()), "",
      {"Said", std::as_bytes(std::span{json.cStr(), json.size()}), posthorn::body_format::json});
  t.reply<Spoken>([](auto) {});
}

void on_said(member_turn& t, Said::Reader m) {
  const auto old = t.state().disownLines();
  const auto seen = old.getReader();
  const auto kept = std::min(seen.size(), lines_max - 1);
  auto lines = t.state().initLines(kept + 1);
  for (unsigned n = 0; n < kept; ++n) lines.setWithCaveats(n, seen[seen.size() - kept + n]);
  lines.setWithCaveats(kept, m);
}

void on_ask_screen(member_turn& t, AskScreen::Reader) {
  t.reply<Screen>([&](auto screen) { screen.setLines(t.state().asReader().getLines()); });
}

void on_clear_screen(member_turn& t, ClearScreen::Reader) { t.state().initLines(0); }

// ---- a play in two acts that looks whether it goes as it should

template <class T>
T must(posthorn::result<T> r) {
  if (!r) throw std::runtime_error{r.error().text};
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

std::unique_ptr<posthorn::node> open_house(const std::string& directory) {
  auto node = must(posthorn::node::start({.data_directory = directory}));
  must(node->add(posthorn::durable<Member>("member")
                     .on<Say>(on_say)
                     .on<Said>(on_said)
                     .on<AskScreen>(on_ask_screen)
                     .on<ClearScreen>(on_clear_screen)));
  for (const auto* room : {"garden", "kitchen"}) {
    must(node->declare_exchange(room_name(room), posthorn::exchange_type::fanout));
  }
  return node;
}

class play {
public:
  explicit play(posthorn::node& node) : node_{node} {}

  void join(std::string_view member, std::string_view room) {
    must(node_.bind(member_name(member), room_name(room)));
    note(std::string{member} + " comes into the " + std::string{room});
  }
  void leave(std::string_view member, std::string_view room) {
    must(node_.unbind(member_name(member), room_name(room)));
    note(std::string{member} + " leaves the " + std::string{room});
  }
  // When the answer is there, so is the turn: everybody in the room has it, although perhaps not read it yet.
  void say(std::string_view member, const char* room, const char* text) {
    (void)must(node_.ask<Say, Spoken>(member_name(member), 10s, [&](auto m) {
      m.setRoom(room);
      m.setText(text);
    }));
    note(std::string{member} + " says in the " + room + ": " + text);
  }
  void clear(std::string_view member) {
    must(node_.send<ClearScreen>(member_name(member), [](auto) {}).get());
  }

  // The question stands behind all that was said before in the member's mailbox.
  void sees(std::string_view member, const std::vector<std::string>& expected) {
    auto screen = must(node_.ask<AskScreen, Screen>(member_name(member), 10s, [](auto) {}));
    std::vector<std::string> lines;
    for (const auto line : screen->get().getLines()) {
      lines.push_back("[" + std::string{line.getRoom().cStr()} + "] " + line.getFrom().cStr() + ": " +
                      line.getText().cStr());
    }
    note(std::string{member} + " sees");
    for (const auto& line : lines) note("    " + line);
    if (lines.empty()) note("    nothing");
    if (lines == expected) return;
    right_ = false;
    note("  which is WRONG; it should be");
    for (const auto& line : expected) note("    " + line);
  }

  [[nodiscard]] bool went_right() const { return right_; }

private:
  static void note(const std::string& line) {
    std::fputs((line + "\n").c_str(), stdout);
    std::fflush(stdout);
  }

  posthorn::node& node_;
  bool right_ = true;
};

bool first_act(posthorn::node& node) {
  play p{node};
  for (const auto* member : {"anna", "ben", "carla"}) p.clear(member);  // the play may have been given before
  must(node.unbind(member_name("carla"), room_name("garden")));
  p.join("anna", "garden");
  p.join("ben", "garden");
  p.join("carla", "kitchen");
  p.say("anna", "garden", "Good morning!");
  p.say("ben", "garden", "Is it?");
  p.say("carla", "kitchen", "Who took the salt?");
  p.sees("ben", {"[garden] anna: Good morning!", "[garden] ben: Is it?"});
  p.sees("carla", {"[kitchen] carla: Who took the salt?"});
  p.leave("ben", "garden");
  p.join("carla", "garden");
  p.say("carla", "garden", "Ben, the salt!");
  p.sees("ben", {"[garden] anna: Good morning!", "[garden] ben: Is it?"});
  return p.went_right();
}

// After a restart: who was in a room still is.
bool second_act(posthorn::node& node) {
  play p{node};
  p.say("anna", "garden", "He has left.");
  p.say("carla", "garden", "With the salt.");
  p.sees("anna", {"[garden] ben: Is it?", "[garden] carla: Ben, the salt!", "[garden] anna: He has left.",
                  "[garden] carla: With the salt."});
  p.sees("carla", {"[kitchen] carla: Who took the salt?", "[garden] carla: Ben, the salt!",
                   "[garden] anna: He has left.", "[garden] carla: With the salt."});
  return p.went_right();
}

void stay_open(posthorn::node& node, std::uint16_t port, const sigset_t& until) {
  posthorn::amqp_settings settings;
  settings.host = "127.0.0.1";
  settings.port = port;
  const auto door = must(posthorn::listen_for_amqp(node, settings));
  std::printf("the rooms are open at amqp://guest:guest@127.0.0.1:%u\n", unsigned{door->port()});
  std::fflush(stdout);
  int signal = 0;
  sigwait(&until, &signal);
  door->stop(1s);
}

}  // namespace

int main(int argc, char** argv) {
  std::string directory = "chat-data";
  std::optional<std::uint16_t> port;
  CLI::App app{"A chat whose rooms are exchanges and whose members are durable actors."};
  app.add_option("--data", directory, "where rooms and members are kept")->capture_default_str();
  app.add_option("--port", port,
                 "stay open for AMQP clients after the play, until SIGTERM; 0: any free port");
  CLI11_PARSE(app, argc, argv);

  sigset_t until;
  sigemptyset(&until);
  sigaddset(&until, SIGINT);
  sigaddset(&until, SIGTERM);
  if (port) pthread_sigmask(SIG_BLOCK, &until, nullptr);
  try {
    auto node = open_house(directory);
    bool right = first_act(*node);
    node.reset();
    std::printf("-- the node stops, and starts again --\n");
    node = open_house(directory);
    right = second_act(*node) && right;
    if (port) stay_open(*node, *port, until);
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "chat: %s\n", e.what());
    return EXIT_FAILURE;
  }
}
