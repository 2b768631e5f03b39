#include "persist/damage_guard.hpp"

#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <string>

namespace posthorn {

namespace {

constexpr std::array guarded = {SIGSEGV, SIGBUS, SIGABRT};

// Written before the handlers are set, and not while they stand: a handler may read nothing else.
std::array<char, 1024> sentence{};
std::size_t sentence_size = 0;
std::array<struct sigaction, guarded.size()> before{};

extern "C" void report_damage(int) {
  (void)!::write(STDERR_FILENO, sentence.data(), sentence_size);
  ::_exit(damage_guard::exit_code);
}

}  // namespace

damage_guard::damage_guard(const char* program, const std::filesystem::path& directory) {
  const auto text = std::string{program} + ": the store in " + directory.string() +
                    " is damaged and was left as it is; see what can still be read with `posthorn verify " +
                    directory.string() + "`, then restore a copy of the directory\n";
  sentence_size = std::min(text.size(), sentence.size());
  std::memcpy(sentence.data(), text.data(), sentence_size);
  struct sigaction action {};
  action.sa_handler = report_damage;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < guarded.size(); ++i) ::sigaction(guarded[i], &action, &before[i]);
}

damage_guard::~damage_guard() {
  for (std::size_t i = 0; i < guarded.size(); ++i) ::sigaction(guarded[i], &before[i], nullptr);
}

}  // namespace posthorn
