// SPDX-License-Identifier: Apache-2.0
// Locks and waits of tests that have their memory taken away meanwhile.
#pragma once

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "mirror/threads.h"

namespace mirrorcl::mirror {

inline constexpr std::chrono::seconds kLockPatience{60};  // only what is lost for good takes so long

// False: it has not come true within kLockPatience.
template <typename Condition>
bool comes_true(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kLockPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

// A robust mutex at `place`.
class RobustMutex {
 public:
  explicit RobustMutex(void* place, int protocol = PTHREAD_PRIO_NONE) : mutex_(static_cast<pthread_mutex_t*>(place)) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setprotocol(&attributes, protocol);
    if (pthread_mutex_init(mutex_, &attributes) != 0) std::abort();
    pthread_mutexattr_destroy(&attributes);
  }
  int lock() { return pthread_mutex_lock(mutex_); }
  int try_lock() { return pthread_mutex_trylock(mutex_); }
  int unlock() { return pthread_mutex_unlock(mutex_); }
  int make_consistent() { return pthread_mutex_consistent(mutex_); }
  // ETIMEDOUT after kLockPatience.
  int lock_patiently() {
    timespec patience{};
    clock_gettime(CLOCK_REALTIME, &patience);
    patience.tv_sec += kLockPatience.count();
    return pthread_mutex_timedlock(mutex_, &patience);
  }
  std::uint64_t* word() { return reinterpret_cast<std::uint64_t*>(mutex_); }

 private:
  pthread_mutex_t* mutex_;
};

// A thread of this process sleeps in futex(2) at `address`.
inline bool somebody_waits_at(const void* address) {
  Threads threads;
  threads.open();
  bool found = false;
  threads.for_each_blocked([&](const BlockedCall& call) {
    found = found || (call.number == SYS_futex && call.arguments[0] == reinterpret_cast<std::uint64_t>(address));
  });
  return found;
}

// A thread that waits for a futex to hold another value. Woken for no reason it looks again, as every user of futexes
// must. It touches the memory in the system call only, which may fail where a load would be fatal.
class FutexWaiter {
 public:
  FutexWaiter(std::uint64_t address, std::uint32_t value, bool private_futex)
      : address_(address),
        value_(value),
        operation_(FUTEX_WAIT | (private_futex ? FUTEX_PRIVATE_FLAG : 0)),
        thread_([this] { wait(); }) {}
  ~FutexWaiter() {
    give_up_ = true;
    while (!ended_) {
      interrupt();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    thread_.join();
  }
  FutexWaiter(const FutexWaiter&) = delete;
  FutexWaiter& operator=(const FutexWaiter&) = delete;

  std::uint64_t address() const { return address_; }
  std::uint32_t value() const { return value_; }
  // Returns once it sleeps; false: it does not.
  bool sleeps() const {
    return comes_true([this] { return ended_ || somebody_waits_at(reinterpret_cast<const void*>(address_)); });
  }
  // Wakes one waiter there; false: it sleeps all the same.
  bool wakes() const {
    const int wake = FUTEX_WAKE | (operation_ & FUTEX_PRIVATE_FLAG);
    syscall(SYS_futex, address_, wake, 1);
    return comes_true([this] { return ended_.load(); });
  }

  // The memory at the address is the one that it began to wait in.
  bool memory_is_the_same = true;

 private:
  void wait() {
    long error;
    do {
      error = syscall(SYS_futex, address_, operation_, value_, nullptr) == 0 ? 0 : errno;
    } while (!give_up_ && (error == 0 || error == EINTR));
    ended_ = true;
  }
  void interrupt() {
    static const bool installed = [] {
      struct sigaction nothing {};
      nothing.sa_handler = [](int) {};
      return sigaction(SIGUSR1, &nothing, nullptr) == 0;
    }();
    if (installed) pthread_kill(thread_.native_handle(), SIGUSR1);
  }

  const std::uint64_t address_;
  const std::uint32_t value_;
  const int operation_;
  std::atomic<bool> give_up_{false};
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace mirrorcl::mirror
