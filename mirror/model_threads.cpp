// SPDX-License-Identifier: Apache-2.0
// Threads of the model's programs: one that waits for a futex while everything else goes on, and owners of robust
// mutexes that end without giving them back.
#include <errno.h>
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "mirror/model.h"
#include "mirror/test_locks.h"

namespace mirrorcl::mirror {

void Model::end_waiter() {
  waiter_.reset();
}

// What lies in `run` from now on is other memory than before.
void Model::replace(Run run) {
  if (waiter_ != nullptr && page_of(waiter_->address()) - run.first < run.count) waiter_->memory_is_the_same = false;
}

// Begins to wait, or wakes who waits: with another value, from the CPU or a device.
void Model::wait_or_wake(Bytes& bytes) {
  const Run run = trim(take_run(bytes), [](const Page& page) {
    return page.readable() && (page.kind == Kind::kAnonymous || page.kind == Kind::kSharedFile);
  });
  const unsigned how = bytes.u8();
  if (tolerant_) return;  // where system calls fail, nobody promises that sleepers are woken
  if (waiter_ == nullptr) {
    if (run.count == 0) return;
    const std::uint64_t address = kArena + run.first * kPageSize + how / 4 * 64;
    settle(address);
    history_.back() += fmt::format(" waits at {:#x}{}", address, how % 4 == 0 ? ", privately" : "");
    waiter_ = std::make_unique<FutexWaiter>(address, static_cast<std::uint32_t>(expected(address, 4)), how % 4 == 0);
    ++operations_;
    if (!waiter_->sleeps()) fail(fmt::format("a thread does not get to wait at {:#x}", address), run.first);
    return;
  }
  const std::uint64_t address = waiter_->address();
  const unsigned at = page_of(address);
  touch(at);
  history_.back() += fmt::format(" wakes at {:#x}", address);
  const Page& page = pages_[at];
  if (waiter_->memory_is_the_same && page.readable() && page.writable()) {
    settle(address);
    batch_.assign(1, {ModelAccess::Kind::kWrite, 4, address, waiter_->value() + 1});
    if (how % 2 == 0) launch(take_device(bytes), batch_);
    // The device may have been refused; and what others wrote may happen to be what the thread waits for.
    std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(address)).store(waiter_->value() + 1);
    store(address, 4, waiter_->value() + 1);
    ++operations_;
    if (!waiter_->wakes()) fail(fmt::format("who waits at {:#x} (page {}) is not woken", address, at), at);
  }
  end_waiter();
}

// A thread takes a robust mutex and ends; whoever waits for it, or comes next, must get it.
void Model::leave_lock(Bytes& bytes) {
  const Run run = trim(take_run(bytes), [](const Page& page) {
    return page.readable() && page.writable() && (page.kind == Kind::kAnonymous || page.kind == Kind::kSharedFile);
  });
  const unsigned how = bytes.u8();
  const unsigned place = bytes.u8();
  // Where the mirror has to help it takes up to a tenth of a second, so not each time.
  if (run.count == 0 || tolerant_ || how % 2 != 0) return;
  constexpr unsigned kStep = 64;
  static_assert(sizeof(pthread_mutex_t) <= kStep);
  const std::uint64_t page = kArena + run.first * kPageSize;
  const std::uint64_t address = page + place * kStep % kPageSize;
  const std::uint64_t beside = page + (place + 1) * kStep % kPageSize;
  const bool contended = (how & 64) != 0;
  const bool lives_long = (how & 128) != 0;
  history_.back() += fmt::format(" at {:#x}, how {:#x}", address, how);
  settle(address);

  RobustMutex mutex(reinterpret_cast<void*>(address));
  std::atomic<bool> taken{false};
  std::atomic<bool> may_end{false};
  std::thread owner([&] {
    taken = mutex.lock() == 0;
    while (!may_end) std::this_thread::sleep_for(std::chrono::microseconds(100));
  });
  if (!comes_true([&] { return taken.load(); })) fail("a fresh mutex cannot be locked", run.first);
  std::atomic<int> error{0};
  const auto take_over = [&] {
    error = mutex.lock_patiently();
    if (error != EOWNERDEAD) return;
    mutex.make_consistent();
    mutex.unlock();
  };
  std::thread next;
  if (contended) {
    next = std::thread(take_over);
    (void)comes_true([&] { return somebody_waits_at(mutex.word()) || error != 0; });
  }
  move_about(bytes, beside, how / 2 % 4);
  if (lives_long) std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until the mirror knows the thread
  may_end = true;
  owner.join();
  if (contended) {
    next.join();
  } else {
    take_over();
  }
  operations_ += 3;
  std::memcpy(contents_.data() + (address - kArena), reinterpret_cast<const void*>(address), sizeof(pthread_mutex_t));
  if (error != EOWNERDEAD) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(address);
    fail(fmt::format("a mutex at {:#x} whose owner has ended: {}; its words: {:#x} {:#x} {:#x} {:#x} {:#x}", address,
                     strerrordesc_np(error), words[0], words[1], words[2], words[3], words[4]),
         run.first);
  }
  compare_run("after a robust mutex", {run.first, 1});
}

// Has the page of `word` go to a device, or to and fro, or there and home.
void Model::move_about(Bytes& bytes, std::uint64_t word, unsigned how) {
  constexpr unsigned kThereAndHome = 2;
  constexpr unsigned kToAndFro = 3;
  const unsigned rounds = how == kToAndFro ? 6 : how == 0 ? 0 : 1;
  for (unsigned i = 0; i < rounds && !failed(); ++i) {
    batch_.assign(1, {ModelAccess::Kind::kAdd, 8, word, next_value()});
    launch(take_device(bytes), batch_);
    if (how != kToAndFro) continue;
    const std::uint64_t value = next_value();
    std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(word)).store(value);
    store(word, 8, value);
    ++operations_;
  }
  if (how == kThereAndHome) mirror_.bring_home({word, 8});
}

}  // namespace mirrorcl::mirror
