// SPDX-License-Identifier: Apache-2.0
// The standard library's locks, annotated (thread_annotations.h). Usage:
//
//   mutable Mutex mutex_;
//   std::vector<int> values_ MIRRORCL_GUARDED_BY(mutex_);
//   void add_locked(int value) MIRRORCL_REQUIRES(mutex_);
//
//   ScopedLock lock(mutex_);
//   add_locked(1);
//
// For application threads; what pinned threads may try is in futex_lock.h.
#pragma once

#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#include "base/thread_annotations.h"

namespace mirrorcl {

class MIRRORCL_LOCK_TYPE("mutex") Mutex {
 public:
  void lock() MIRRORCL_ACQUIRE() { mutex_.lock(); }
  void unlock() MIRRORCL_RELEASE() { mutex_.unlock(); }

 private:
  friend class ConditionVariable;
  std::mutex mutex_;
};

class MIRRORCL_LOCK_TYPE("mutex") SharedMutex {
 public:
  void lock() MIRRORCL_ACQUIRE() { mutex_.lock(); }
  void unlock() MIRRORCL_RELEASE() { mutex_.unlock(); }
  void lock_shared() MIRRORCL_ACQUIRE_SHARED() { mutex_.lock_shared(); }
  void unlock_shared() MIRRORCL_RELEASE_SHARED() { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
};

// Holds a lock as long as it lives.
template <typename Lockable>
class MIRRORCL_SCOPED_LOCK_TYPE ScopedLock {
 public:
  explicit ScopedLock(Lockable& lockable) MIRRORCL_ACQUIRE(lockable) : lockable_(lockable) { lockable_.lock(); }
  ~ScopedLock() MIRRORCL_RELEASE() { lockable_.unlock(); }
  ScopedLock(const ScopedLock&) = delete;
  ScopedLock& operator=(const ScopedLock&) = delete;

 private:
  Lockable& lockable_;
};

// Holds a lock together with others that hold it so.
class MIRRORCL_SCOPED_LOCK_TYPE ScopedSharedLock {
 public:
  explicit ScopedSharedLock(SharedMutex& mutex) MIRRORCL_ACQUIRE_SHARED(mutex) : mutex_(mutex) { mutex_.lock_shared(); }
  ~ScopedSharedLock() MIRRORCL_RELEASE() { mutex_.unlock_shared(); }
  ScopedSharedLock(const ScopedSharedLock&) = delete;
  ScopedSharedLock& operator=(const ScopedSharedLock&) = delete;

 private:
  SharedMutex& mutex_;
};

// Lets go of a lock, which the caller holds, as long as this lives.
class MIRRORCL_SCOPED_LOCK_TYPE ScopedUnlock {
 public:
  explicit ScopedUnlock(Mutex& mutex) MIRRORCL_RELEASE(mutex) : mutex_(mutex) { mutex_.unlock(); }
  ~ScopedUnlock() MIRRORCL_RELEASE() { mutex_.lock(); }  // ends what the constructor did
  ScopedUnlock(const ScopedUnlock&) = delete;
  ScopedUnlock& operator=(const ScopedUnlock&) = delete;

 private:
  Mutex& mutex_;
};

class ConditionVariable {
 public:
  // Lets go of the mutex while it sleeps; may wake without reason.
  void wait(Mutex& mutex) MIRRORCL_REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  void notify_one() noexcept { condition_.notify_one(); }
  void notify_all() noexcept { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace mirrorcl
