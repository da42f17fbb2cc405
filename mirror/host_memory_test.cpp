// SPDX-License-Identifier: Apache-2.0
// All kinds of memory of a real process, and what its threads and the kernel do with it while a device has pages of it.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "base/futex.h"
#include "base/running_time.h"
#include "base/sanitizers.h"
#include "mirror/address_space.h"
#include "mirror/ending_thread.h"
#include "mirror/followed_policies.h"
#include "mirror/mirror_fixture.h"
#include "mirror/pinned_arena.h"

extern "C" std::uint64_t* test_bss();
extern "C" std::uint64_t* test_thread_local();  // 1 MiB of each thread's

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

class HostMemoryTest : public MirrorTest {
 protected:
  // Lets application and device write in turn until `word` lies in memory of both; then it holds `value`.
  void make_coherent(std::uint64_t* word, std::uint64_t value) {
    std::atomic_ref<std::uint64_t> shared(*word);
    const auto is_coherent = [&] {
      const auto mapping = space_.query(reinterpret_cast<std::uint64_t>(word));
      return mapping && mapping->shared;
    };
    // What has just been unmapped stays private for a while.
    for (int i = 0; i < 5000 && !is_coherent(); ++i) {
      shared.fetch_add(1);
      device_.store(word, shared.load());
      usleep(1000);
    }
    ASSERT_TRUE(is_coherent());
    shared.store(value);
  }

  AddressSpace space_ = std::move(*AddressSpace::open());
};

TEST_F(HostMemoryTest, Heap) {
  std::vector<std::unique_ptr<std::uint64_t>> small;
  for (std::uint64_t i = 0; i < 200; ++i) small.push_back(std::make_unique<std::uint64_t>(i));
  for (auto& word : small) exchange(word.get(), 1000);
  std::vector<std::uint64_t> large(1 << 20);
  exchange(&large[12345], 5);
  exchange(&large[(1 << 20) - 1], 5);
}

TEST_F(HostMemoryTest, StacksOfMainAndOtherThreads) {
  std::uint64_t mine = 0;
  exchange(&mine, 3);
  std::thread([&] {
    std::uint64_t theirs = 0;
    exchange(&theirs, 4);
    exchange(&mine, 5);
  }).join();
  EXPECT_EQ(mine, 6U);
}

// libc takes it from the stacks, also from those of the mirror's own threads.
TEST_F(HostMemoryTest, MoreThreadLocalStorageThanAPinnedStackHolds) {
  static_assert(PinnedThread::kStackSize < 1 << 20);
  std::thread([&] { exchange(test_thread_local() + (512 << 10) / sizeof(std::uint64_t), 7); }).join();
}

TEST_F(HostMemoryTest, ThreadLocalAndBss) {
  static thread_local std::uint64_t local = 0;
  // The page also holds what the thread's owner touches all the time, so another thread plays the device.
  std::atomic<std::uint64_t*> address{nullptr};
  std::atomic<bool> stop{false};
  std::thread owner([&] {
    address = &local;
    while (!stop) std::this_thread::yield();
    local += 1;
    address = nullptr;
    while (stop) std::this_thread::yield();
  });
  while (address == nullptr) std::this_thread::yield();
  std::uint64_t* word = address;
  exchange(word, 8);
  stop = true;
  while (address != nullptr) std::this_thread::yield();
  EXPECT_EQ(device_.load(word), 10U);
  stop = false;
  owner.join();
  exchange(test_bss() + 512, 9);
}

// A thread waits for another's end on a futex in its control block, which shares a page with the frames it begins with.
TEST_F(HostMemoryTest, JoinOfAThreadWhoseStackPingPongs) {
  for (int round = 0; round < 20; ++round) {
    std::thread thread([&] {
      std::uint64_t word = 0;
      for (std::uint64_t i = 0; i < 10; ++i) exchange(&word, 10 * i);
    });
    thread.join();
  }
}

// With and without UFFDIO_MOVE; the device takes control blocks away, or copies them.
class ControlBlockTest : public HostMemoryTest, public ::testing::WithParamInterface<std::tuple<bool, bool>> {
 protected:
  void SetUp() override {
    if (kThreadSanitizer || kAddressSanitizer) GTEST_SKIP() << "its runtime must be told when a thread ends";
    MirrorOptions options;
    options.use_move = std::get<0>(GetParam());
    MirrorTest::start(options);
    policies_.emplace(*mirror_);
  }
  void TearDown() override { policies_.reset(); }
  pthread_t start(const pthread_attr_t* attributes = nullptr) {
    const pthread_t thread = EndingThread::start(attributes);
    const Range page{page_down(thread), kPageSize};
    if (std::get<1>(GetParam())) policies_->set(page, FollowedPolicies::read_mostly());
    return thread;
  }
  // The thread ends while its control block is on the device.
  void end_on_device(pthread_t thread) {
    const auto* block = reinterpret_cast<const std::uint64_t*>(thread);
    EXPECT_EQ(device_.load(block), reinterpret_cast<std::uint64_t>(block));
    EndingThread::end();
  }

  std::optional<FollowedPolicies> policies_;
};

TEST_P(ControlBlockTest, ThreadIsJoinedThatEndedWhileItWasOnTheDevice) {
  const pthread_t thread = start();
  end_on_device(thread);
  EXPECT_EQ(EndingThread::join(thread), 0);
}

TEST_P(ControlBlockTest, WhoWaitsForAThreadIsWokenThoughItIsOnTheDevice) {
  const pthread_t thread = start();
  std::thread waiter([thread] { EXPECT_EQ(EndingThread::join(thread), 0); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // mostly it sleeps by then
  end_on_device(thread);
  waiter.join();
}

// Its control block does not lie where libc's stacks have it: only who waits shows where its id is.
TEST_P(ControlBlockTest, WhoWaitsForAThreadWithAStackOfItsOwnIsWoken) {
  constexpr std::size_t kOdd = 64;
  TestMemory stack(1024);  // with thread-local memory
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstack(&attributes, stack.data(), stack.size() - kPageSize - kOdd), 0);
  const pthread_t thread = start(&attributes);
  pthread_attr_destroy(&attributes);
  std::thread waiter([thread] { EXPECT_EQ(EndingThread::join(thread), 0); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // mostly it sleeps by then
  end_on_device(thread);
  waiter.join();
}

// The kernel has cleared a thread's id, and then the page went to the device: it wakes nobody.
TEST_P(ControlBlockTest, WhoWaitsForAThreadIsWokenThoughTheKernelHasNot) {
  const auto self = reinterpret_cast<const char*>(pthread_self());
  const pid_t own = gettid();
  std::size_t id_offset = 0;
  while (std::memcmp(self + id_offset, &own, sizeof own) != 0) id_offset += sizeof own;
  TestMemory memory(1);
  std::uint64_t* const block = memory.word(0);
  block[0] = block[2] = reinterpret_cast<std::uint64_t>(block);
  auto* const word = reinterpret_cast<std::uint32_t*>(memory.data() + id_offset);
  std::atomic_ref id(*word);
  id = static_cast<std::uint32_t>(own);
  std::atomic<bool> woken{false};
  std::thread waiter([&] {
    while (id != 0 && syscall(SYS_futex, word, FUTEX_WAIT, own, nullptr) != 0) std::this_thread::yield();
    woken = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // mostly it sleeps by then
  id = 0;
  if (std::get<1>(GetParam())) {
    policies_->set({page_down(reinterpret_cast<std::uint64_t>(block)), kPageSize}, FollowedPolicies::read_mostly());
  }
  EXPECT_EQ(device_.load(block), reinterpret_cast<std::uint64_t>(block));
  for (RunningTime time; !woken && time.is_within(std::chrono::seconds(20));) std::this_thread::yield();
  EXPECT_TRUE(woken);
  syscall(SYS_futex, word, FUTEX_WAKE, 1);
  waiter.join();
}

INSTANTIATE_TEST_SUITE_P(MoveDuplicate, ControlBlockTest, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST_F(HostMemoryTest, SparseRangeTakesOnlyWhatIsTouched) {
  TestMemory memory((std::size_t{4} << 30) / kPageSize);
  for (std::size_t page = 0; page < memory.size() / kPageSize; page += 40000) exchange(memory.word(page), page);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  for (std::size_t page = 0; page < memory.size() / kPageSize; page += 40000) EXPECT_EQ(*memory.word(page), page + 1);
  EXPECT_LT(statistics().pages_zero_filled + statistics().pages_to_device, 100U);
}

TEST_F(HostMemoryTest, UnmapAndReuseOfTheSameAddress) {
  TestMemory memory(4);
  for (std::uint64_t round = 0; round < 100; ++round) {
    *memory.word(1) = round;
    ASSERT_EQ(device_.load(memory.word(1)), round);
    device_.store(memory.word(2), round);
    // Every third page becomes coherent on the way.
    for (std::uint64_t i = 0; i < 3 * (round % 2); ++i) {
      device_.store(memory.word(2), i);
      ASSERT_EQ(*memory.word(2), i);
    }
    ASSERT_EQ(munmap(memory.data(), memory.size()), 0);
    mirror_->drain_events();
    ASSERT_EQ(device_.snapshot(memory.word(1)), FakeDevice::kNone);
    if (round % 10 == 0) {
      device_.load(memory.word(1));
      ASSERT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
    }
    ASSERT_EQ(
        mmap(memory.data(), memory.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
        memory.data());
    ASSERT_EQ(device_.load(memory.word(2)), 0U) << "round " << round;
    ASSERT_EQ(*memory.word(1), 0U);
  }
  EXPECT_GE(statistics().events_unmap, 100U);
}

TEST_F(HostMemoryTest, PartialUnmap) {
  TestMemory memory(16);
  for (std::size_t page = 0; page < 16; ++page) device_.store(memory.word(page), std::uint64_t{page});
  ASSERT_EQ(munmap(memory.data() + 4 * kPageSize, 4 * kPageSize), 0);
  mirror_->drain_events();
  for (std::size_t page : {0U, 3U, 8U, 15U}) EXPECT_EQ(*memory.word(page), page);
  device_.load(memory.word(5));
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
}

TEST_F(HostMemoryTest, RemapCarriesDevicePages) {
  TestMemory from(4);
  TestMemory to(1024);
  *from.word(0) = 10;
  device_.store(from.word(1), std::uint64_t{11});
  for (std::uint64_t i = 0; i < 5; ++i) {
    device_.store(from.word(2), i + 20);
    ASSERT_EQ(*from.word(2), i + 20);
  }
  ASSERT_GE(statistics().coherent_upgrades, 1U);
  // The kernel moves one mapping at a time (before 6.17), and the coherent page is one of its own.
  for (std::size_t page = 0; page < 4; ++page) {
    ASSERT_NE(mremap(from.word(page), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to.word(600 + page)),
              MAP_FAILED)
        << page << ": " << std::strerror(errno);
  }
  EXPECT_EQ(*to.word(600), 10U);
  EXPECT_EQ(*to.word(601), 11U);
  EXPECT_EQ(*to.word(602), 24U);
  EXPECT_EQ(*to.word(603), 0U);
  for (std::size_t page = 600; page < 604; ++page) exchange(to.word(page), 100 + page);
  mirror_->drain_events();
  device_.load(from.word(1));
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
}

TEST_F(HostMemoryTest, CoherentMemoryGrowsByZeros) {
  TestMemory memory(4);
  for (std::uint64_t round = 1; round < 4; ++round) {
    for (std::size_t page = round == 1 ? 0 : 2; page < 4; ++page) make_coherent(memory.word(page), 10 + page);
    ASSERT_EQ(mremap(memory.data(), memory.size(), 2 * kPageSize, 0), memory.data());
    ASSERT_EQ(mremap(memory.data(), 2 * kPageSize, memory.size(), 0), memory.data());
    mirror_->drain_events();  // as before each launch
    EXPECT_EQ(*memory.word(1), 11U);
    // Who comes first finds nothing of before, and the other finds what he has left.
    if (round % 2 == 0) {
      EXPECT_EQ(device_.load(memory.word(2)), 0U) << round;
      EXPECT_EQ(*memory.word(3), 0U) << round;
    } else {
      EXPECT_EQ(*memory.word(2), 0U) << round;
      EXPECT_EQ(device_.load(memory.word(3)), 0U) << round;
    }
    exchange(memory.word(2), 100);
    exchange(memory.word(3), 200);
  }
}

TEST_F(HostMemoryTest, CoherentMemoryThatMovesAndGrowsShowsNothingOfItsOldNeighbours) {
  for (std::uint64_t round = 1; round < 4; ++round) {
    TestMemory from(4);
    TestMemory to(4);
    for (std::size_t page = 0; page < 2; ++page) make_coherent(from.word(page), page + 1);
    for (std::size_t page = 2; page < 4; ++page) device_.store(from.word(page), std::uint64_t{77});
    ASSERT_NE(mremap(from.data(), 2 * kPageSize, 4 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to.data()), MAP_FAILED)
        << std::strerror(errno);
    mirror_->drain_events();
    if (round % 2 == 0) {
      EXPECT_EQ(device_.load(to.word(2)), 0U) << round;
      EXPECT_EQ(*to.word(3), 0U) << round;
    } else {
      EXPECT_EQ(*to.word(2), 0U) << round;
      EXPECT_EQ(device_.load(to.word(3)), 0U) << round;
    }
    for (std::size_t page = 0; page < 4; ++page) {
      EXPECT_EQ(*to.word(page), page < 2 ? page + 1 : 0U);
      exchange(to.word(page), 300 + page);
    }
    EXPECT_EQ(*from.word(2), 77U);
    EXPECT_EQ(device_.load(from.word(3)), 77U);
  }
}

TEST_F(HostMemoryTest, WhatCoherentMemoryHasGrownByIsTheChildsOwnAfterAFork) {
  TestMemory memory(600);
  make_coherent(memory.word(0), 5);
  make_coherent(memory.word(1), 6);
  ASSERT_EQ(munmap(memory.data() + 2 * kPageSize, 598 * kPageSize), 0);
  // Beyond the block, too.
  ASSERT_EQ(mremap(memory.data(), 2 * kPageSize, 600 * kPageSize, 0), memory.data());
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  const pid_t child = fork();
  if (child == 0) {
    for (std::size_t page : {2U, 300U, 599U}) *memory.word(page) = 1;
    _exit(*memory.word(0) == 5 && *memory.word(1) == 6 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (std::size_t page : {2U, 300U, 599U}) EXPECT_EQ(*memory.word(page), 0U) << page;
}

TEST_F(HostMemoryTest, ReallocThatMoves) {
  std::size_t bytes = 1 << 20;
  auto* data = static_cast<std::uint64_t*>(std::malloc(bytes));
  for (std::size_t i = 0; i < bytes / 8; ++i) data[i] = i;
  for (int round = 0; round < 5; ++round) {
    for (std::size_t i = 0; i < bytes / 8; i += 700) device_.store(data + i, std::uint64_t{i + 1});
    data = static_cast<std::uint64_t*>(std::realloc(data, 2 * bytes));
    ASSERT_NE(data, nullptr);
    for (std::size_t i = 0; i < bytes / 8; ++i) ASSERT_EQ(data[i], i % 700 == 0 ? i + 1 : i) << "round " << round;
    for (std::size_t i = 0; i < 2 * bytes / 8; ++i) data[i] = i;
    bytes *= 2;
  }
  std::free(data);
}

TEST_F(HostMemoryTest, RemapThatGrowsInPlaceIsFollowed) {
  TestMemory memory(2);
  device_.store(memory.word(1), std::uint64_t{5});
  ASSERT_EQ(munmap(memory.data() + memory.size(), 500 * kPageSize), 0);
  ASSERT_EQ(mremap(memory.data(), memory.size(), 502 * kPageSize, 0), memory.data());
  for (std::size_t page = 2; page < 502; ++page) *memory.word(page) = page;
  EXPECT_EQ(*memory.word(1), 5U);
  for (std::size_t page = 2; page < 502; ++page) ASSERT_EQ(device_.load(memory.word(page)), page);
}

TEST_F(HostMemoryTest, DiscardedMemoryIsZeroOnBothSides) {
  TestMemory memory(8);
  for (std::uint64_t round = 0; round < 50; ++round) {
    *memory.word(0) = 1;                              // host page in a registered range
    device_.store(memory.word(1), std::uint64_t{2});  // device page
    for (std::uint64_t i = 0; i < 4; ++i) {           // coherent page
      device_.store(memory.word(2), i + 3);
      ASSERT_EQ(*memory.word(2), i + 3);
    }
    ASSERT_EQ(madvise(memory.data(), memory.size(), MADV_DONTNEED), 0);
    mirror_->drain_events();  // as before each launch
    if (round % 2 == 0) {
      for (std::size_t page = 0; page < 3; ++page) ASSERT_EQ(*memory.word(page), 0U) << page << " round " << round;
    }
    for (std::size_t page = 0; page < 3; ++page)
      ASSERT_EQ(device_.load(memory.word(page)), 0U) << page << " round " << round;
    for (std::size_t page = 0; page < 3; ++page) exchange(memory.word(page), 40 + page);
  }
  EXPECT_GE(statistics().events_remove, 50U);
}

TEST_F(HostMemoryTest, WritesAfterMadvFreeSurvive) {
  TestMemory memory(4);
  device_.store(memory.word(3), std::uint64_t{1});  // registers the range
  for (std::uint64_t round = 1; round < 50; ++round) {
    *memory.word(0) = 1;
    ASSERT_EQ(madvise(memory.data(), kPageSize, MADV_FREE), 0);
    *memory.word(0) = round;
    ASSERT_EQ(device_.load(memory.word(0)), round);
    mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), kPageSize});
    device_.store(memory.word(3), round);
  }
}

TEST_F(HostMemoryTest, SystemCallsOnDevicePages) {
  TestMemory memory(4);
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  device_.store(memory.word(0), std::uint64_t{0x1234});
  device_.store(memory.word(1), std::uint64_t{1});
  EXPECT_EQ(write(pipe_fds[1], memory.word(0), 8), 8);
  EXPECT_EQ(read(pipe_fds[0], memory.word(1), 8), 8);
  EXPECT_EQ(device_.load(memory.word(1)), 0x1234U);
  close(pipe_fds[0]);
  close(pipe_fds[1]);

  auto* futex = reinterpret_cast<FutexWord*>(memory.word(2));
  device_.store(reinterpret_cast<std::uint32_t*>(futex), std::uint32_t{7});
  EXPECT_EQ(futex_wait(futex, 6), -EAGAIN) << "the kernel sees the device's value";
  std::thread waiter([&] {
    while (futex->load() == 7) futex_wait(futex, 7, 1'000'000'000);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  device_.store(reinterpret_cast<std::uint32_t*>(futex), std::uint32_t{8});
  futex_wake(futex, 1);
  waiter.join();
  EXPECT_EQ(futex->load(), 8U);
}

TEST_F(HostMemoryTest, ReadOnlyFile) {
  char path[] = "/tmp/mirrorcl-test-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  std::uint64_t value = 0xf11e;
  ASSERT_EQ(write(fd, &value, sizeof value), 8);
  for (int flags : {MAP_PRIVATE, MAP_SHARED}) {
    auto* mapped = static_cast<std::uint64_t*>(mmap(nullptr, kPageSize, PROT_READ, flags, fd, 0));
    ASSERT_NE(mapped, MAP_FAILED);
    EXPECT_EQ(device_.load(mapped), value);
    device_.store(mapped, std::uint64_t{1});
    EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly);
    munmap(mapped, kPageSize);
    mirror_->drop_snapshots();
  }
  close(fd);
  unlink(path);
}

TEST_F(HostMemoryTest, LockedAndExecutableMemory) {
  TestMemory memory(2);
  *memory.word(0) = 1;
  ASSERT_EQ(mlock(memory.data(), kPageSize), 0);
  exchange(memory.word(0), 70);
  void* code = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(code, MAP_FAILED);
  exchange(static_cast<std::uint64_t*>(code), 71);
  for (std::uint64_t i = 0; i < 6; ++i) exchange(static_cast<std::uint64_t*>(code), 80 + i);
  munmap(code, kPageSize);
}

TEST_F(HostMemoryTest, HugePages) {
  TestMemory memory(2 * kBlockPages);
  madvise(memory.data(), memory.size(), MADV_HUGEPAGE);
  for (std::size_t page = 0; page < 2 * kBlockPages; ++page) *memory.word(page) = page;
  exchange(memory.word(100), 5);
  for (std::size_t page = 200; page < 2 * kBlockPages; ++page) ASSERT_EQ(device_.load(memory.word(page)), page);
  for (std::size_t page = 200; page < 2 * kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page);
}

TEST_F(HostMemoryTest, HugePagesAreKeptWhole) {
  TestMemory memory(2 * kBlockPages);
  madvise(memory.data(), memory.size(), MADV_HUGEPAGE);
  for (std::size_t page = 0; page < 2 * kBlockPages; ++page) *memory.word(page) = page;
  const Range range{reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
  if (!space_.is_huge(range)) GTEST_SKIP() << "the kernel has made no huge pages here, or does not tell";
  for (std::uint64_t round = 1; round < 4; ++round) {
    ASSERT_EQ(mirror_->bring_in(device_, range, Untouched::kSkip), 0);
    for (std::size_t page = 0; page < 2 * kBlockPages; ++page) {
      ASSERT_EQ(device_.load(memory.word(page)), round - 1 + page);
      device_.store(memory.word(page), round + page);
    }
    mirror_->bring_home(range);
    EXPECT_TRUE(space_.is_huge(range)) << "round " << round;
    for (std::size_t page = 0; page < 2 * kBlockPages; ++page) ASSERT_EQ(*memory.word(page), round + page);
  }
}

TEST_F(HostMemoryTest, NoWriteIsLostWhilePagesBecomeCoherent) {
  // However seldom the threads get to run.
  start({.coherent_window_ms = 60'000});
  constexpr std::size_t kPages = 64;
  TestMemory memory(kPages);
  std::atomic<bool> stop{false};
  std::vector<std::uint64_t> counts[2] = {std::vector<std::uint64_t>(kPages), std::vector<std::uint64_t>(kPages)};
  std::vector<std::thread> writers;
  for (std::size_t t = 0; t < 2; ++t) {
    writers.emplace_back([&, t] {
      // Each writer has a word of its own in each page; the device has a third one.
      for (std::size_t i = t; !stop; i = (i * 1103515245 + 12345) % kPages) {
        auto* mine = reinterpret_cast<volatile std::uint64_t*>(memory.word(i) + 1 + t);
        *mine = *mine + 1;
        ++counts[t][i];
      }
    });
  }
  std::vector<std::uint64_t> device_counts(kPages);
  RunningTime time;
  for (std::size_t i = 0; time.is_within(std::chrono::seconds(3)) ||
                          (statistics().coherent_upgrades == 0 && time.is_within(std::chrono::seconds(30)));
       i = (i * 48271 + 11) % kPages) {
    device_.store(memory.word(i), device_.load(memory.word(i)) + 1);
    ++device_counts[i];
    if (i == 5) mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  }
  stop = true;
  for (auto& writer : writers) writer.join();
  EXPECT_GT(statistics().coherent_upgrades, 0U);
  for (std::size_t i = 0; i < kPages; ++i) {
    ASSERT_EQ(memory.word(i)[0], device_counts[i]) << i;
    ASSERT_EQ(memory.word(i)[1], counts[0][i]) << i;
    ASSERT_EQ(memory.word(i)[2], counts[1][i]) << i;
  }
}

TEST_F(HostMemoryTest, AllocationStormBesideTheDevice) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> stormers;
  std::atomic<std::uint64_t> wrong{0};
  for (int t = 0; t < 3; ++t) {
    stormers.emplace_back([&] {
      while (!stop) {
        std::size_t size = 300 * 1024;
        auto* block = static_cast<std::uint64_t*>(std::malloc(size));
        for (std::size_t i = 0; i < size / 8; i += 512) block[i] = i;
        device_.store(block + 512, std::uint64_t{512});
        for (std::size_t i = 0; i < size / 8; i += 512) wrong += block[i] != i;
        std::free(block);
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::seconds(2));
  stop = true;
  for (auto& thread : stormers) thread.join();
  EXPECT_EQ(wrong, 0U);
}

TEST_F(HostMemoryTest, ForkedChildSeesPlainMemory) {
  TestMemory memory(4);
  device_.store(memory.word(0), std::uint64_t{21});
  for (std::uint64_t i = 0; i < 5; ++i) exchange(memory.word(1), 30);
  pid_t child = fork();
  if (child == 0) {
    bool right = *memory.word(0) == 21 && *memory.word(1) == 31 && *memory.word(2) == 0;
    *memory.word(0) = 1;
    mirror_->drain_events();
    mirror_->drop_snapshots();
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(*memory.word(0), 21U) << "private memory";
  // Pages shared with a living child cannot be moved until the sharing is broken.
  pid_t sleeper = fork();
  if (sleeper == 0) {
    pause();
    _exit(0);
  }
  for (std::size_t page = 0; page < 4; ++page) exchange(memory.word(page), 60);
  kill(sleeper, SIGKILL);
  waitpid(sleeper, &status, 0);
}

TEST_F(HostMemoryTest, MirrorEndsWithEverythingAtHome) {
  TestMemory memory(8);
  device_.store(memory.word(0), std::uint64_t{1});
  for (std::uint64_t i = 0; i < 5; ++i) exchange(memory.word(1), 2);
  mirror_.reset();
  EXPECT_EQ(*memory.word(0), 1U);
  EXPECT_EQ(*memory.word(1), 3U);
  EXPECT_EQ(device_.pages_in_use(), 0U);
  start({});
  exchange(memory.word(0), 9);
}

}  // namespace
}  // namespace mirrorcl::mirror
