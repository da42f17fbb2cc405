// SPDX-License-Identifier: Apache-2.0
// For tests: a thread that ends without touching its stack or its control block any more, when it is told to. One at a
// time.
#pragma once

#include <errno.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/raw_syscall.h"
#include "base/running_time.h"

namespace mirrorcl::mirror {

class EndingThread {
 public:
  static pthread_t start(const pthread_attr_t* attributes = nullptr) {
    may_end_ = 0;
    id_ = 0;
    pthread_t thread{};
    const int error = pthread_create(&thread, attributes, run, nullptr);
    EXPECT_EQ(error, 0);
    while (error == 0 && id_ == 0) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return thread;
  }
  // Lets it end, and returns when it is gone. Pinned threads may call this too.
  static void end() {
    may_end_ = 1;
    while (raw_syscall(SYS_tgkill, raw_syscall(SYS_getpid), id_.load(), 0) == 0) raw_syscall(SYS_sched_yield);
  }
  // ETIMEDOUT: it has not been seen to end in a long time.
  static int join(pthread_t thread) {
    int error = ETIMEDOUT;
    for (RunningTime time; error == ETIMEDOUT && time.is_within(std::chrono::seconds(20));) {
      const auto ns = (std::chrono::system_clock::now().time_since_epoch() + RunningTime::kLook).count();
      const timespec until{ns / 1'000'000'000, ns % 1'000'000'000};
      error = pthread_timedjoin_np(thread, nullptr, &until);
    }
    return error;
  }

 private:
  static void* run(void*) {
    // Restartable sequences would write to the control block at each preemption.
    syscall(SYS_rseq, static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset, 32, RSEQ_FLAG_UNREGISTER,
            RSEQ_SIG);
    id_ = gettid();
    asm volatile(
        "1: pause\n cmpl $0, %0\n je 1b\n"
        "mov $60, %%eax\n xor %%edi, %%edi\n syscall\n"
        :
        : "m"(may_end_)
        : "rax", "rdi", "rcx", "r11", "memory");
    return nullptr;
  }

  static inline std::atomic<int> may_end_{0};
  static inline std::atomic<pid_t> id_{0};
};

}  // namespace mirrorcl::mirror
