// SPDX-License-Identifier: Apache-2.0
// Locks whose owners end, and waits of the kind that the kernel files under the memory behind a futex, in memory that
// goes to a device and becomes coherent.
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#include <functional>

#include "base/sanitizers.h"
#include "mirror/evacuation.h"
#include "mirror/mirror_fixture.h"
#include "mirror/test_locks.h"

namespace mirrorcl::mirror {
namespace {

// A thread that takes locks and then waits to be told to end without giving them back.
class Owner {
 public:
  explicit Owner(std::function<void()> take) {
    thread_ = std::thread([this, take = std::move(take)] {
      take();
      id_ = gettid();
      while (!may_end_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    while (id_ == 0) std::this_thread::yield();
  }
  ~Owner() { end(); }
  void end() {
    may_end_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<pid_t> id_{0};
  std::atomic<bool> may_end_{false};
  std::thread thread_;
};

void wait_until_somebody_waits_at(const void* address) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!somebody_waits_at(address)) {
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

class RobustMutexTest : public MirrorTest {
 protected:
  // The device has the page from then on.
  void take_away(std::uint64_t* word) {
    std::uint64_t* beside = word + 256;
    device_.store(beside, device_.load(beside) + 1);
    ASSERT_EQ(device_.last_error(), device::FaultKind::kNone);
    ASSERT_TRUE(is_away(word));
  }
  bool is_away(std::uint64_t* word) {
    return mirror_->device_pages(device_, reinterpret_cast<std::uint64_t>(word))
        .test(page_in_block(reinterpret_cast<std::uint64_t>(word)));
  }
  // Until the mirror has looked after the threads again, after what has moved so far.
  static void let_it_look() { std::this_thread::sleep_for(std::chrono::milliseconds(100)); }

  TestMemory memory_{8};
};

TEST_F(RobustMutexTest, IsLeftByAThreadThatEndsWhileItIsOnTheDevice) {
  RobustMutex mutex(memory_.word(0));
  Owner owner([&] { EXPECT_EQ(mutex.lock(), 0); });
  take_away(mutex.word());
  let_it_look();
  owner.end();
  EXPECT_EQ(mutex.lock_patiently(), EOWNERDEAD);
  EXPECT_EQ(statistics().locks_left, 1U);
}

TEST_F(RobustMutexTest, WakesWhoWaitsThoughItIsOnTheDevice) {
  RobustMutex mutex(memory_.word(0));
  Owner owner([&] { EXPECT_EQ(mutex.lock(), 0); });
  std::thread waiter([&] { EXPECT_EQ(mutex.lock(), EOWNERDEAD); });
  wait_until_somebody_waits_at(mutex.word());
  take_away(mutex.word());
  let_it_look();
  owner.end();
  waiter.join();
}

TEST_F(RobustMutexTest, AllOfAThreadAreLeftThoughOneIsOnTheDevice) {
  RobustMutex first(memory_.word(0));
  RobustMutex second(memory_.word(2));
  RobustMutex third(memory_.word(4));
  Owner owner([&] {
    EXPECT_EQ(first.lock(), 0);
    EXPECT_EQ(second.lock(), 0);
    EXPECT_EQ(third.lock(), 0);
  });
  take_away(second.word());
  let_it_look();
  owner.end();
  // In this order: who takes one over changes the list.
  for (RobustMutex* mutex : {&third, &second, &first}) EXPECT_EQ(mutex->lock_patiently(), EOWNERDEAD);
}

TEST_F(RobustMutexTest, IsLeftThoughTheControlBlockOfItsOwnerIsOnTheDevice) {
  if (kThreadSanitizer || kAddressSanitizer) GTEST_SKIP() << "its runtime must be told when a thread ends";
  RobustMutex mutex(memory_.word(0));
  std::atomic<const std::uint64_t*> block{nullptr};
  std::atomic<bool> may_end{false};
  std::thread owner([&] {
    EXPECT_EQ(mutex.lock(), 0);
    block = reinterpret_cast<const std::uint64_t*>(pthread_self());
    while (!may_end) cpu_relax();
    // Nothing that touches the control block any more.
    syscall(SYS_exit, 0);
  });
  while (block == nullptr) std::this_thread::yield();
  (void)device_.load(block.load());
  let_it_look();
  (void)device_.load(block.load());
  take_away(mutex.word());
  may_end = true;
  EXPECT_EQ(mutex.lock_patiently(), EOWNERDEAD);
  owner.join();
}

// Of a thread that nobody has seen, and for a lock for which nobody waits before the mirror has looked for the last
// time after a move.
TEST_F(RobustMutexTest, IsFoundByWhoComesLater) {
  RobustMutex mutex(memory_.word(0));
  for (int round = 0; round < 5; ++round) {
    take_away(memory_.word(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // it looks; the next look is some time off
    std::atomic<bool> taken{false};
    std::atomic<bool> may_end{false};
    std::thread owner([&] {
      EXPECT_EQ(mutex.lock(), 0);
      taken = true;
      while (!may_end) cpu_relax();
    });
    while (!taken) cpu_relax();
    take_away(mutex.word());
    may_end = true;
    owner.join();
    mirror_->bring_home({reinterpret_cast<std::uint64_t>(mutex.word()), kPageSize});
    let_it_look();
    // ThreadSanitizer (GCC 12) overlooks that a lock with a time limit gets what its owner has left, and would report
    // the unlock.
    EXPECT_EQ(kThreadSanitizer ? mutex.lock() : mutex.lock_patiently(), EOWNERDEAD);
    mutex.make_consistent();
    ASSERT_EQ(mutex.unlock(), 0);
    mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), memory_.size()});
  }
}

TEST_F(RobustMutexTest, WithPriorityInheritanceIsLeftWhileItIsOnTheDevice) {
  RobustMutex mutex(memory_.word(0), PTHREAD_PRIO_INHERIT);
  Owner owner([&] { EXPECT_EQ(mutex.lock(), 0); });
  take_away(mutex.word());
  let_it_look();
  owner.end();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  int result;
  while ((result = mutex.try_lock()) == EBUSY && std::chrono::steady_clock::now() < end) {
    // It comes home with each try, and with the mirror's look for good.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(result, EOWNERDEAD);
}

TEST_F(RobustMutexTest, OthersThanTheDeadOnesStayLocked) {
  RobustMutex left(memory_.word(0));
  RobustMutex held(memory_.word(1));
  EXPECT_EQ(held.lock(), 0);
  Owner owner([&] { EXPECT_EQ(left.lock(), 0); });
  take_away(left.word());
  take_away(held.word());
  let_it_look();
  owner.end();
  EXPECT_EQ(left.lock_patiently(), EOWNERDEAD);
  std::thread other([&] { EXPECT_EQ(held.try_lock(), EBUSY); });
  other.join();
  EXPECT_EQ(held.unlock(), 0);
}

// --- memory that becomes coherent, and ceases to be

TEST_F(RobustMutexTest, WhoWaitsIsFoundThoughThePageGoesBackAndForth) {
  for (const bool ends : {false, true}) {
    RobustMutex mutex(memory_.word(ends ? 1 : 0));
    std::atomic<bool> give_back{false};
    std::atomic<bool> taken{false};
    std::thread owner([&] {
      EXPECT_EQ(mutex.lock(), 0);
      taken = true;
      while (!give_back) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (ends) return;
      EXPECT_EQ(mutex.unlock(), 0);
    });
    while (!taken) std::this_thread::yield();
    std::thread waiter([&] { EXPECT_EQ(mutex.lock_patiently(), ends ? EOWNERDEAD : 0); });
    wait_until_somebody_waits_at(mutex.word());
    for (std::uint64_t i = 0; i < 20; ++i) exchange(mutex.word() + 256, 10 * i);
    give_back = true;
    owner.join();
    waiter.join();
  }
}

long wait_shared(std::atomic<std::uint32_t>* word, std::uint32_t expected) {
  const timespec patience{20, 0};
  return syscall(SYS_futex, word, FUTEX_WAIT, expected, &patience);
}

TEST_F(RobustMutexTest, WhoWaitsInACoherentPageIsWokenAfterItHasCeasedToBe) {
  auto* word = reinterpret_cast<std::atomic<std::uint32_t>*>(memory_.word(0));
  for (std::uint64_t i = 0; i < 20; ++i) exchange(memory_.word(0) + 256, 10 * i);
  ASSERT_GT(statistics().coherent_upgrades, 0U);
  std::atomic<bool> timed_out{false};
  std::thread waiter([&] {
    while (word->load() == 0 && !timed_out) timed_out = wait_shared(word, 0) != 0 && errno == ETIMEDOUT;
  });
  wait_until_somebody_waits_at(word);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), memory_.size()});
  word->store(1);
  syscall(SYS_futex, word, FUTEX_WAKE, 1);
  waiter.join();
  EXPECT_FALSE(timed_out);
}

TEST_F(RobustMutexTest, SurvivesEvacuation) {
  SKIP_UNDER_THREAD_SANITIZER();
  struct alignas(kPageSize) Page {
    pthread_mutex_t mutex;
    std::uint64_t value;
  };
  auto page = std::make_unique<Page>();
  RobustMutex mutex(&page->mutex);
  DeviceOperations* devices[] = {&device_};
  Evacuation evacuation(*mirror_, devices);
  for (int round = 0; round < 30; ++round) {
    std::thread waiter;
    {
      Owner owner([&] { EXPECT_EQ(mutex.lock(), 0); });
      const std::uint64_t sweeps = evacuation.sweeps();
      waiter = std::thread([&] {
        EXPECT_EQ(mutex.lock_patiently(), EOWNERDEAD);
        EXPECT_EQ(mutex.make_consistent(), 0);
        ++page->value;
        EXPECT_EQ(mutex.unlock(), 0);
      });
      while (evacuation.sweeps() < sweeps + 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    waiter.join();
  }
  EXPECT_EQ(page->value, 30U);
}

TEST(BlockedCall, IsReadFromItsText) {
  BlockedCall call{};
  EXPECT_TRUE(parse_blocked_call("202 0x7ffe12 0x80 0x2 0x0 0xa 0xffffffffffffffff 0x7ffd 0x7f00\n", &call));
  EXPECT_EQ(call.number, 202);
  EXPECT_EQ(call.arguments, (std::array<std::uint64_t, 6>{0x7ffe12, 0x80, 2, 0, 10, ~std::uint64_t{0}}));
  EXPECT_FALSE(parse_blocked_call("running\n", &call));
  EXPECT_FALSE(parse_blocked_call("-1 0x7ffd 0x7f00\n", &call));
  EXPECT_FALSE(parse_blocked_call("202 0x1\n", &call));
}

}  // namespace
}  // namespace mirrorcl::mirror
