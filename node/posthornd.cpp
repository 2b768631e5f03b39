#include "node/daemon.hpp"

int main(int argc, char** argv) { return posthorn::run_daemon(argc, argv, {}); }
