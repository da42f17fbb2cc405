// SPDX-License-Identifier: Apache-2.0
// What tests of the device's and the application's life and death share: looking at processes, and forking an
// application that starts a device of its own.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "device/cpu/cpu_device.h"

namespace mirrorcl::device {

// Gone, not even a zombie. Polls for at most ten seconds.
inline bool is_gone(int pid) {
  for (int i = 0; i < 1000; ++i) {
    if (kill(pid, 0) != 0 && errno == ESRCH) return true;
    usleep(10'000);
  }
  return false;
}

inline bool is_running(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  auto after_name = text.rfind(')');
  return after_name != std::string::npos && text[after_name + 2] != 'Z';
}

// Gone, or waiting for init to notice. Polls for at most ten seconds.
inline bool has_ended(int pid) {
  for (int i = 0; i < 10'000 && is_running(pid); ++i) usleep(1000);
  return !is_running(pid);
}

inline int count_open_files() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

// What the files that `pid` holds open are, other than sockets and pidfds: nothing of the application's may be there.
inline std::set<std::string> files_held_by(int pid) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code closed;
    const std::string name = std::filesystem::read_symlink(entry.path(), closed).string();
    if (closed || name.starts_with("socket:") || name.find("pidfd") != std::string::npos) continue;
    files.insert(name);
  }
  return files;
}

inline void kill_and_reap(int child) {
  EXPECT_EQ(kill(child, SIGKILL), 0);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

// Waits for `child`, which must exit with code 0.
inline void expect_success(int child) {
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// Runs `body` in a forked child, which must not return; the parent waits for the pid of the D that it announces.
inline int fork_application(int* device_pid, void (*body)(int announce)) {
  int pipe_fds[2];
  EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  int child = fork();
  if (child == 0) {
    body(pipe_fds[1]);
    _exit(1);
  }
  close(pipe_fds[1]);
  EXPECT_EQ(read(pipe_fds[0], device_pid, sizeof *device_pid), static_cast<ssize_t>(sizeof *device_pid));
  close(pipe_fds[0]);
  // The callers kill these; -1 would be everybody.
  if (child <= 1 || *device_pid <= 1) {
    fprintf(stderr, "no application or no device process: %d, %d\n", child, *device_pid);
    std::abort();
  }
  return child;
}

// In that child: tells the parent about the device it has started.
inline std::unique_ptr<CpuDevice> announce_device(int announce, Result<std::unique_ptr<CpuDevice>> device) {
  int pid = device ? (*device)->process_id() : -1;
  if (write(announce, &pid, sizeof pid) != static_cast<ssize_t>(sizeof pid) || pid < 0) _exit(2);
  return std::move(*device);
}

}  // namespace mirrorcl::device
