// SPDX-License-Identifier: Apache-2.0
#include "conformance/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "conformance/harness.h"
#include "device/window.h"

namespace mirrorcl::conformance {
namespace {

// Device and inode of the file that application and device process share at the start of their control blocks
// (docs/architecture.md), which tells whose a device process is; "" if there is none.
std::string window_file_of(pid_t id) {
  std::ostringstream start;
  start << std::hex << window::kSharedControl.start << '-';
  std::ifstream maps("/proc/" + std::to_string(id) + "/maps");
  std::string range, mode, offset, device, inode, rest;
  while (maps >> range >> mode >> offset >> device >> inode) {
    std::getline(maps, rest);
    if (range.rfind(start.str(), 0) == 0) return inode == "0" ? "" : device + ":" + inode;
  }
  return "";
}

template <typename Accept>
std::set<pid_t> processes_where(Accept accept) {
  std::set<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    pid_t id = std::stoi(name);
    if (accept(id)) found.insert(id);
  }
  return found;
}

// The fields of /proc/ID/stat after the command name: state, parent, ...
bool read_state(pid_t id, char* state, pid_t* parent) {
  std::ifstream stat("/proc/" + std::to_string(id) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return false;
  std::size_t end = text.rfind(')');
  return end != std::string::npos && std::sscanf(text.c_str() + end + 1, " %c %d", state, parent) == 2;
}

}  // namespace

ChildProcess::ChildProcess(const std::string& name) {
  int to_child[2], from_child[2];
  if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(from_child, O_CLOEXEC) != 0) {
    ADD_FAILURE() << "pipe2 failed";
    return;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], 1);
  std::string flag = "--child=" + name;
  char program[] = "/proc/self/exe";
  char* arguments[] = {program, flag.data(), nullptr};
  int error = posix_spawn(&id_, program, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(to_child[0]);
  close(from_child[1]);
  input_ = to_child[1];
  output_ = from_child[0];
  if (error != 0) {
    id_ = -1;
    ADD_FAILURE() << "posix_spawn: " << error;
  }
}

ChildProcess::~ChildProcess() {
  if (id_ > 0) {
    kill();
    waitpid(id_, nullptr, 0);
  }
  if (input_ >= 0) close(input_);
  if (output_ >= 0) close(output_);
}

std::string ChildProcess::read_line(std::chrono::milliseconds limit) {
  auto end = std::chrono::steady_clock::now() + limit;
  for (;;) {
    if (std::size_t newline = pending_.find('\n'); newline != std::string::npos) {
      std::string line = pending_.substr(0, newline);
      pending_.erase(0, newline + 1);
      return line;
    }
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    pollfd wait_for{output_, POLLIN, 0};
    if (left <= 0 || poll(&wait_for, 1, static_cast<int>(left)) <= 0) return "";
    char chunk[512];
    ssize_t got = read(output_, chunk, sizeof chunk);
    if (got <= 0) return "";
    pending_.append(chunk, static_cast<std::size_t>(got));
  }
}

void ChildProcess::write_line(const std::string& line) {
  std::string text = line + "\n";
  EXPECT_EQ(write(input_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

void ChildProcess::kill() {
  ::kill(id_, SIGKILL);
}

int ChildProcess::wait(std::chrono::milliseconds limit) {
  int status = 0;
  bool ended = wait_until([&] { return waitpid(id_, &status, WNOHANG) == id_; }, limit);
  if (!ended) {
    ADD_FAILURE() << "the child did not end in time";
    kill();
    waitpid(id_, &status, 0);
  }
  id_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::set<pid_t> device_processes_of(pid_t application) {
  std::string file = window_file_of(application);
  if (file.empty()) return {};
  return processes_where([&](pid_t id) { return id != application && window_file_of(id) == file; });
}

std::set<pid_t> children_of(pid_t parent) {
  return processes_where([&](pid_t id) {
    char state = 0;
    pid_t its_parent = 0;
    return read_state(id, &state, &its_parent) && its_parent == parent;
  });
}

bool process_is_gone(pid_t id) {
  char state = 0;
  pid_t parent = 0;
  return !read_state(id, &state, &parent) || state == 'Z' || state == 'X';
}

}  // namespace mirrorcl::conformance
