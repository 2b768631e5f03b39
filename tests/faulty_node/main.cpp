// posthornd with defects on demand, by which the crash tests prove that they notice. Never installed.
//
//   POSTHORN_FAULT=confirm_before_commit   confirms are sent before anything is on disk
//   POSTHORN_FAULT=skip_fsync              what is written is never forced to disk
//   POSTHORN_FAULT=slow_commits            what is to be written waits for two seconds before each commit
#include "node/daemon.hpp"

#include <cstdlib>
#include <iostream>
#include <string>

int main(int argc, char** argv) {
  posthorn::fault_plan faults;
  const char* const value = std::getenv("POSTHORN_FAULT");
  const std::string fault = value == nullptr ? "" : value;
  if (fault == "confirm_before_commit") {
    faults.confirm_before_commit = true;
  } else if (fault == "skip_fsync") {
    faults.skip_fsync = true;
  } else if (fault == "slow_commits") {
    faults.slow_commits = true;
  } else if (!fault.empty()) {
    std::cerr << "faulty_node: POSTHORN_FAULT=" << fault
              << " is no fault: confirm_before_commit, skip_fsync, slow_commits\n";
    return 64;
  }
  return posthorn::run_daemon(argc, argv, faults);
}
