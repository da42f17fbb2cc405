// SPDX-License-Identifier: Apache-2.0
// Parts of tests that need a process of their own: the test program starts itself as `--child=NAME`, with the ends of
// two pipes as standard input and output.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <set>
#include <string>

namespace mirrorcl::conformance {

class ChildProcess {
 public:
  explicit ChildProcess(const std::string& name);
  ~ChildProcess();  // kills it if it still runs
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t id() const { return id_; }
  // The next line the child prints, without its end; empty after `limit` or at the end of its output.
  std::string read_line(std::chrono::milliseconds limit);
  void write_line(const std::string& line);
  void kill();
  // Waits for the end: the exit code, or minus the signal's number. Kills the child after `limit`.
  int wait(std::chrono::milliseconds limit);

 private:
  pid_t id_ = -1;
  int input_ = -1, output_ = -1;
  std::string pending_;
};

// Child side: runs the body called `name`; the exit code.
int run_child(const std::string& name);

// Processes of MirrorCL that serve process `application`: the device processes that share its window, and its compiler
// service. Empty on other platforms.
std::set<pid_t> device_processes_of(pid_t application);
std::set<pid_t> children_of(pid_t parent);
// Not there, or only waiting to be reaped.
bool process_is_gone(pid_t id);

}  // namespace mirrorcl::conformance
