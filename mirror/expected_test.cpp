// SPDX-License-Identifier: Apache-2.0
// Memory that comes to a device while a launch that names it waits: how much of it, and when it does not.
#include "mirror/expected.h"

#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/sanitizers.h"
#include "mirror/followed_policies.h"
#include "mirror/heap_extent.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

std::uint64_t address_of(const void* pointer) {
  return reinterpret_cast<std::uint64_t>(pointer);
}

// As the mirror reads: what is not mapped is an error.
int read_memory(std::uint64_t address, void* destination, std::uint64_t size) {
  iovec to{destination, size};
  iovec from{reinterpret_cast<void*>(address), size};
  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == static_cast<ssize_t>(size) ? 0 : -errno;
}

Range extent_of(const void* pointer) {
  return heap_extent(address_of(pointer), read_memory);
}

using Memory = std::unique_ptr<std::uint64_t, decltype(&std::free)>;

#define SKIP_WITHOUT_MALLOC_OF_LIBC() \
  if (!kMallocOfLibc) GTEST_SKIP() << "only libc's malloc tells the size of an allocation"

Memory allocate(std::size_t bytes) {
  return {static_cast<std::uint64_t*>(std::malloc(bytes)), std::free};
}

// --- how much a pointer stands for

TEST(HeapExtent, IsTheWholePagesOfAnAllocation) {
  SKIP_WITHOUT_MALLOC_OF_LIBC();
  for (std::size_t kib : {16U, 64U, 100U, 127U, 128U, 500U, 3000U, 40'000U}) {
    const std::size_t bytes = kib * 1024 + 24;
    // In the heap or a mapping of their own; freed ones leave gaps, and make later ones come from the heap.
    const Memory before = allocate(bytes);
    Memory gap = allocate(bytes);
    const Memory memory = allocate(bytes);
    const Memory after = allocate(bytes);
    gap.reset();
    for (const Memory* one : {&before, &memory, &after}) {
      const Range found = extent_of(one->get());
      const std::uint64_t start = address_of(one->get());
      ASSERT_NE(found.size, 0U) << kib;
      EXPECT_LE(found.start, page_up(start)) << kib;
      EXPECT_GE(found.start, page_down(start)) << kib;
      EXPECT_GE(found.end(), page_down(start + bytes)) << kib;
      EXPECT_LE(found.end(), page_up(start + bytes + heap::kAlignment)) << kib;
    }
  }
}

TEST(HeapExtent, KnowsAlignedAllocations) {
  SKIP_WITHOUT_MALLOC_OF_LIBC();
  constexpr std::size_t kBytes = std::size_t{4} << 20;
  for (const std::size_t alignment : {32U, 64U, 4096U, 65536U}) {
    const Memory memory(static_cast<std::uint64_t*>(std::aligned_alloc(alignment, kBytes)), std::free);
    const Range found = extent_of(memory.get());
    EXPECT_LE(found.start, page_up(address_of(memory.get()))) << alignment;
    EXPECT_GE(found.size, kBytes - 2 * kPageSize) << alignment;
    EXPECT_LE(found.size, kBytes + alignment + 2 * kPageSize) << alignment;
  }
}

// Ascending numbers look like sizes, and lead from one to the next.
TEST(HeapExtent, IsHardlyEverKnownWithin) {
  constexpr std::size_t kWords = 100'000;
  const Memory memory = allocate(kWords * sizeof(std::uint64_t));
  for (std::size_t i = 0; i < kWords; ++i) memory.get()[i] = i;
  const std::uint64_t start = address_of(memory.get());
  std::size_t believed = 0;
  for (std::size_t word = 2; word < kWords; word += 2) {
    const Range found = extent_of(memory.get() + word);
    if (found.size == 0) continue;
    ++believed;
    EXPECT_GE(found.start, start) << word;
    EXPECT_LE(found.end(), start + kWords * sizeof(std::uint64_t)) << word;
  }
  EXPECT_LE(believed, kWords / 1000);
}

TEST(HeapExtent, IsNotKnownOfOtherMemory) {
  TestMemory memory(4);
  EXPECT_EQ(extent_of(memory.data()).size, 0U) << "nothing is mapped in front";
  EXPECT_EQ(extent_of(memory.word(1)).size, 0U);
  const int on_stack[64] = {};
  EXPECT_EQ(extent_of(on_stack).size, 0U);
  EXPECT_EQ(extent_of(nullptr).size, 0U);
  EXPECT_EQ(extent_of(reinterpret_cast<void*>(~std::uintptr_t{15})).size, 0U);
}

TEST(HeapExtent, ASizeAloneIsNotBelieved) {
  TestMemory memory(64);
  auto* note = reinterpret_cast<heap::Note*>(memory.word(1));
  const void* const pointer = note + 1;
  note->size = 16 * kPageSize | heap::kInUseBefore;
  EXPECT_EQ(extent_of(pointer).size, 0U) << "nothing behind it says that it is in use";
  reinterpret_cast<heap::Note*>(memory.word(17))->size = std::uint64_t{1} << 40 | heap::kInUseBefore;
  EXPECT_EQ(extent_of(pointer).size, 15 * kPageSize) << "the last of a heap, it seems";
  reinterpret_cast<heap::Note*>(memory.word(17))->size = 5008 | heap::kInUseBefore;
  EXPECT_EQ(extent_of(pointer).size, 0U) << "what comes behind is no allocation";
  note->size = (100 * kPageSize) | heap::kMapped;
  EXPECT_EQ(extent_of(pointer).size, 0U) << "longer than the mapping";
}

// --- wishes

TEST(ExpectedWishes, AreTakenOnceAndForgottenWhereThereIsNoPlace) {
  auto expected = std::make_unique<Expected>();
  Expected::Wish wish{};
  EXPECT_FALSE(expected->take(&wish));
  EXPECT_TRUE(expected->put({{0x1000, 5}, 1, {}})) << "the service thread must be woken";
  for (std::uint64_t i = 2; i < 200; ++i) EXPECT_FALSE(expected->put({{i << 12, 0}, 0, {}}));
  ASSERT_TRUE(expected->take(&wish));
  EXPECT_EQ(wish.memory.address, 0x1000U);
  EXPECT_EQ(wish.memory.size, 5U);
  EXPECT_EQ(wish.device, 1U);
  std::size_t taken = 1;
  while (expected->take(&wish)) ++taken;
  EXPECT_EQ(taken, 64U);
  EXPECT_TRUE(expected->put({{0x5000, 0}, 3, {}}));
  ASSERT_TRUE(expected->take(&wish));
  EXPECT_EQ(wish.memory.address, 0x5000U);
  EXPECT_EQ(wish.device, 3U);
}

TEST(ExpectedWishes, AreAnsweredUntilSomethingLeaves) {
  auto expected = std::make_unique<Expected>();
  const Expected::Wish wish{{0x7fff'1234'5678, 0}, 2, {}};
  EXPECT_FALSE(expected->has_come(wish.memory.address, 2));
  expected->note_come(wish);
  EXPECT_TRUE(expected->has_come(wish.memory.address, 2));
  EXPECT_FALSE(expected->has_come(wish.memory.address, 1));
  EXPECT_FALSE(expected->has_come(wish.memory.address + 16, 2));
  expected->forget();
  EXPECT_FALSE(expected->has_come(wish.memory.address, 2));
}

TEST(ExpectedWishes, WakeNobodyAgainAndAgainInVain) {
  auto expected = std::make_unique<Expected>();
  Expected::Wish wish{};
  constexpr std::uint64_t kMs = 1'000'000;
  const auto wakes = [&](std::uint64_t now) {
    return (expected->rung() || expected->may_wake(now)) && expected->put({{0x1000, 0}, 0, {}});
  };
  for (int i = 0; i < 9; ++i) {
    EXPECT_TRUE(wakes(100 * kMs)) << i;
    while (expected->take(&wish)) expected->note_use(false);
  }
  EXPECT_FALSE(wakes(100 * kMs + 1));
  EXPECT_FALSE(expected->take(&wish)) << "what nobody looks for must not fill the places";
  EXPECT_FALSE(wakes(101 * kMs - 1));
  EXPECT_TRUE(wakes(101 * kMs));
  EXPECT_FALSE(wakes(101 * kMs + 1)) << "it is awake";
  while (expected->take(&wish)) expected->note_use(true);
  EXPECT_TRUE(wakes(101 * kMs + 2)) << "the last one was of use";
}

TEST(ExpectedWishes, WaitsEndWhenTheyAreClosed) {
  auto expected = std::make_unique<Expected>();
  const LaunchWait first = expected->open_wait();
  const LaunchWait second = expected->open_wait();
  EXPECT_FALSE(first.is_over());
  EXPECT_FALSE(second.is_over());
  expected->close_wait(second.value);
  EXPECT_FALSE(first.is_over());
  EXPECT_TRUE(second.is_over());
  expected->close_wait(first.value);
  EXPECT_TRUE(first.is_over());
  EXPECT_TRUE(LaunchWait{}.is_over()) << "one that never was";
  LaunchWait later = expected->open_wait();
  for (int i = 0; i < 200; ++i) {
    later = expected->open_wait();
    EXPECT_FALSE(later.is_over());
  }
  expected->close_wait(later.value);
  EXPECT_TRUE(later.is_over());
}

// --- what comes

// Reaches 1 when the launch begins. Where the mirror's thread may read it: in an object that never migrates.
std::atomic<std::uint64_t> g_begun{0};

class ExpectedTest : public MirrorTest {
 protected:
  void SetUp() override {
    g_begun = 0;
    MirrorOptions options;
    options.expect_on_busy_machine = true;
    options.coherent_window_ms = 60'000;  // what returned of late is not forgotten while the machine is busy
    start(options);
  }
  void expect(const void* pointer, std::size_t size = 0) {
    const NamedMemory memory{address_of(pointer), size};
    mirror_->expect(device_, std::span(&memory, 1), {&g_begun, 1});
  }
  bool has_come(const void* pointer) const { return mirror_->has_come(device_, address_of(pointer)); }
  // Until the wish has been answered.
  void expect_and_wait(const void* pointer, std::size_t size = 0) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!has_come(pointer)) {
      ASSERT_LT(std::chrono::steady_clock::now(), end);
      expect(pointer, size);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  PageMask on_device(const TestMemory& memory) { return mirror_->device_pages(device_, address_of(memory.data())); }
};

TEST_F(ExpectedTest, AnAllocationComesWithoutAFault) {
  SKIP_WITHOUT_MOVE();
  SKIP_WITHOUT_MALLOC_OF_LIBC();
  constexpr std::size_t kWords = 3 * kBlockSize / sizeof(std::uint64_t);
  const Memory words = allocate(kWords * sizeof(std::uint64_t));
  for (std::size_t i = 0; i < kWords; ++i) words.get()[i] = i;
  const Range whole = extent_of(words.get());
  ASSERT_GE(whole.size, 3 * kBlockSize - 2 * kPageSize);
  EXPECT_FALSE(has_come(words.get()));
  expect_and_wait(words.get());
  for (std::size_t i = 0; i < kWords; i += 100) {
    const std::uint64_t address = address_of(words.get() + i);
    if (address - whole.start < whole.size) {
      ASSERT_EQ(device_.load(words.get() + i), i);
    }
  }
  EXPECT_EQ(device_.faults(), 0U);
  EXPECT_GE(statistics().bytes_brought_for_launches, 3 * kBlockSize - 2 * kPageSize);
  EXPECT_LE(statistics().bytes_brought_for_launches, whole.size) << "nothing that lies beside it";
  EXPECT_EQ(statistics().bytes_brought_for_launches, statistics().bytes_to_device);
  for (std::size_t i = 0; i < kWords; i += 100) ASSERT_EQ(words.get()[i], i);
}

TEST_F(ExpectedTest, OfAKnownSizeComeTheWholePages) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  expect_and_wait(memory.word(3) + 1, 40 * kPageSize);
  EXPECT_EQ(on_device(memory), PageMask(PageRun{4, 39}));
}

TEST_F(ExpectedTest, LittleAndUnknownMemoryIsLeftToFaults) {
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  const Memory little = allocate(1000);
  *little = 1;
  const void* nowhere = reinterpret_cast<const void*>(std::uintptr_t{0x1230});
  for (const void* pointer : {static_cast<const void*>(memory.word(20)), static_cast<const void*>(little.get()),
                              static_cast<const void*>(&memory), nowhere}) {
    expect_and_wait(pointer);
  }
  expect_and_wait(memory.word(40), 15 * kPageSize);
  EXPECT_EQ(statistics().pages_to_device, 0U);
  EXPECT_EQ(statistics().device_faults_failed, 0U);
}

TEST_F(ExpectedTest, AroundWhatIsThereAlreadyItComesBack) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(kBlockPages);
  for (std::size_t page = 0; page < kBlockPages; ++page) *memory.word(page) = page;
  for (std::size_t page = 0; page < kBlockPages; ++page) ASSERT_EQ(device_.load(memory.word(page)), page);
  ASSERT_EQ(on_device(memory), PageMask::all());
  for (std::size_t page = 100; page < 110; ++page) *memory.word(page) = 0;
  ASSERT_NE(on_device(memory), PageMask::all());
  const std::uint64_t faults = device_.faults();
  expect_and_wait(memory.word(105));
  EXPECT_EQ(on_device(memory), PageMask::all());
  EXPECT_EQ(device_.faults(), faults);
}

TEST_F(ExpectedTest, WhatNobodyHasTouchedIsNotAllocated) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(kBlockPages);
  for (std::size_t page = 0; page < kBlockPages; page += 2) *memory.word(page) = page;
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(device_.pages_in_use(), kBlockPages / 2);
  for (std::size_t page = 0; page < kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page % 2 == 0 ? page : 0);
}

TEST_F(ExpectedTest, NothingComesOnceTheLaunchHasBegun) {
  TestMemory late(64);
  TestMemory other(64);
  for (std::size_t page = 0; page < 64; ++page) *late.word(page) = *other.word(page) = page;
  g_begun = 1;
  expect(late.data(), late.size());
  const NamedMemory named{address_of(other.data()), 15 * kPageSize};  // answered, though with nothing
  static std::atomic<std::uint64_t> never{0};
  while (!has_come(other.data())) mirror_->expect(device_, std::span(&named, 1), {&never, 1});
  EXPECT_FALSE(has_come(late.data()));
  EXPECT_EQ(statistics().pages_to_device, 0U);
}

TEST_F(ExpectedTest, NothingLeavesForIt) {
  SKIP_WITHOUT_MOVE();
  TestMemory resident(64);
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) {
    *memory.word(page) = page;
    device_.store(resident.word(page), page);
  }
  device_.limit_memory(device_.memory_in_use() + 32 * kPageSize);
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(statistics().bytes_brought_for_launches, 0U);
  EXPECT_EQ(statistics().evictions, 0U);
  device_.limit_memory(std::uint64_t{1} << 40);
  mirror_->bring_home({address_of(resident.data()), resident.size()});
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(statistics().bytes_brought_for_launches, memory.size()) << "what left made it worth another try";
}

TEST_F(ExpectedTest, NothingComesWhileEverythingIsHeldAtHome) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  mirror_->hold_home();
  expect(memory.data(), memory.size());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(has_come(memory.data()));
  EXPECT_EQ(statistics().pages_to_device, 0U);
  mirror_->release_hold();
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(statistics().bytes_brought_for_launches, memory.size());
}

TEST_F(ExpectedTest, ComesAgainForTheNextLaunch) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(32);
  for (std::size_t page = 0; page < 32; ++page) *memory.word(page) = page;
  expect_and_wait(memory.data(), memory.size());
  ASSERT_EQ(on_device(memory), PageMask(PageRun{0, 32}));
  g_begun = 1;
  device_.store(memory.word(0), std::uint64_t{100});
  for (std::size_t page = 0; page < 32; ++page) *memory.word(page) += 1;
  EXPECT_FALSE(has_come(memory.data()));
  g_begun = 0;
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(on_device(memory), PageMask(PageRun{0, 32}));
  EXPECT_EQ(device_.load(memory.word(0)), 101U);
  EXPECT_EQ(device_.load(memory.word(31)), 32U);
  EXPECT_EQ(device_.faults(), 0U);
}

TEST_F(ExpectedTest, WhatTheApplicationUsesMeanwhileIsLeftToIt) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  expect_and_wait(memory.data(), memory.size());
  ASSERT_EQ(on_device(memory), PageMask(PageRun{0, 64}));
  *memory.word(5) = 55;  // before the launch has begun
  ASSERT_FALSE(has_come(memory.data()));
  const std::uint64_t brought = statistics().bytes_brought_for_launches;
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(statistics().bytes_brought_for_launches, brought);
  EXPECT_EQ(*memory.word(5), 55U);
}

TEST_F(ExpectedTest, WhatGoesBackAndForthStays) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;  // or the block would be forgotten meanwhile
  for (std::uint64_t round = 0; round < 2; ++round) {
    for (std::size_t page = 0; page < 32; ++page) *memory.word(page) = round;
    for (std::size_t page = 0; page < 32; ++page) device_.store(memory.word(page), round);
  }
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  const PageMask before = on_device(memory);
  ASSERT_EQ((before & PageMask(PageRun{0, 64})).count(), 0U);
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(on_device(memory) & PageMask(PageRun{0, 32}), PageMask());
  EXPECT_EQ(on_device(memory) & PageMask(PageRun{32, 32}), PageMask(PageRun{32, 32})) << "the others do come";
}

TEST_F(ExpectedTest, PoliciesAreAsked) {
  SKIP_WITHOUT_MOVE();
  FollowedPolicies policies(*mirror_);
  TestMemory memory(128);
  for (std::size_t page = 0; page < 128; ++page) *memory.word(page) = page;
  const std::uint64_t start = address_of(memory.word(32));
  policies.set({start, 32 * kPageSize}, FollowedPolicies::read_mostly());
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(on_device(memory), PageMask(PageRun{0, 32}) | PageMask(PageRun{64, 64})) << "readers get copies of it";
}

// Pages that a forked child shares cannot be moved, only copied: that is left to faults, and so is a snapshot.
TEST_F(ExpectedTest, OnlyWhatCanBeMovedComes) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  expect_and_wait(memory.data(), memory.size());
  EXPECT_EQ(statistics().pages_to_device, 0U);
  EXPECT_EQ(statistics().snapshot_pages, 0U);
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  for (std::size_t page = 0; page < 64; ++page) exchange(memory.word(page), page);
}

TEST_F(ExpectedTest, NothingIsLostWhileThreadsUseTheMemory) {
  constexpr std::size_t kPages = 64;
  TestMemory memory(4 * kPages);
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::uint64_t round = 1; round <= 50; ++round) {
        for (std::size_t page = thread * kPages; page < (thread + 1) * kPages; ++page) {
          std::atomic_ref(*memory.word(page)).store(round);
          if (page % 16 == 0) expect(memory.word(page), 32 * kPageSize);
        }
        std::this_thread::sleep_for(std::chrono::microseconds(500));
        for (std::size_t page = thread * kPages; page < (thread + 1) * kPages; ++page) {
          ASSERT_EQ(std::atomic_ref(*memory.word(page)).load(), round);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t page = 0; page < 4 * kPages; ++page) ASSERT_EQ(device_.load(memory.word(page)), 50U);
}

TEST_F(ExpectedTest, MemoryThatIsUnmappedMeanwhile) {
  for (std::uint64_t round = 1; round <= 50; ++round) {
    TestMemory memory(600);
    for (std::size_t page = 0; page < 600; ++page) *memory.word(page) = round;
    expect(memory.data(), memory.size());
    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(round * 20));
    ASSERT_EQ(munmap(memory.word(100), 300 * kPageSize), 0);
    for (std::size_t page = 0; page < 100; ++page) ASSERT_EQ(*memory.word(page), round);
    for (std::size_t page = 400; page < 600; ++page) ASSERT_EQ(*memory.word(page), round);
  }
  EXPECT_EQ(statistics().device_faults_failed, 0U);
}

}  // namespace
}  // namespace mirrorcl::mirror
