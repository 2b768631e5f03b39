#include "node/command_line.hpp"

#include <iostream>

int main(int argc, char** argv) {
  return posthorn::run_command_line({argv + 1, argv + argc}, std::cout, std::cerr);
}
