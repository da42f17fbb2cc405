// SPDX-License-Identifier: Apache-2.0
// Time in which this process ran, for the patience of tests: while a process is stopped (SIGSTOP, a machine that is
// paused) nobody in it can do what is waited for.
#pragma once

#include <algorithm>
#include <chrono>

namespace mirrorcl {

// From its construction on. One thread at a time.
class RunningTime {
 public:
  // Who waits looks at least as often. Of a longer time without a look twice as much counts.
  static constexpr std::chrono::nanoseconds kLook = std::chrono::milliseconds(100);

  std::chrono::nanoseconds elapsed() {
    const auto now = std::chrono::steady_clock::now();
    elapsed_ += std::min<std::chrono::nanoseconds>(now - last_, 2 * kLook);
    last_ = now;
    return elapsed_;
  }
  bool is_within(std::chrono::nanoseconds time) { return elapsed() < time; }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::chrono::nanoseconds elapsed_{0};
};

}  // namespace mirrorcl
