// SPDX-License-Identifier: Apache-2.0
// What threads of the application do between two system calls of the mirror: they unmap memory and get it again,
// protect it, discard it and move it, at each step of what the mirror does with it.
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <functional>
#include <thread>
#include <tuple>

#include "base/sanitizers.h"
#include "mirror/address_space.h"
#include "mirror/ending_thread.h"
#include "mirror/fault_injection_fixture.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

// What happens in between the agent's last look and its call is not noticed. That is one step, but the threads' steps
// are not always in the same order.
constexpr unsigned kInTheGap = 4;

// At each step of a page's way to coherence.
TEST_F(FaultInjectionTest, ProtectionThatChangesAtAnyStepIsKept) {
  static TestMemory* memory;
  static std::atomic<bool> changed;
  auto space = AddressSpace::open();
  ASSERT_TRUE(space.has_value());
  unsigned lost = 0;
  unsigned upgrades = 0;
  for (std::uint64_t step = 0; step < 60; ++step) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    TestMemory own(4);
    memory = &own;
    changed = false;
    before_call(step, [] { changed = mprotect(memory->data(), kPageSize, PROT_READ) == 0; });
    for (std::uint64_t i = 10; i < 16; ++i) {
      const FaultKind result = device_.write(own.word(0), &i, sizeof i);
      ASSERT_TRUE(result == FaultKind::kNone || result == FaultKind::kReadOnly) << "step " << step;
      if (result == FaultKind::kNone) {
        ASSERT_EQ(*own.word(0), i) << "step " << step;
      }
    }
    const auto mapping = space->query(reinterpret_cast<std::uint64_t>(own.data()));
    ASSERT_TRUE(mapping.has_value());
    lost += changed && mapping->protection != PROT_READ;
    upgrades += statistics().coherent_upgrades != 0;
    inject_nothing();
    mirror_.reset();
  }
  EXPECT_LE(lost, kInTheGap);
  EXPECT_GT(upgrades, 10U);
}

// At each step of its control block's way to the device, with UFFDIO_MOVE and without: the kernel cannot tell who waits
// for the thread. What is not cleared then is cleared by the mirror.
TEST_F(FaultInjectionTest, AThreadThatEndsAtAnyStepIsJoined) {
  if (kThreadSanitizer || kAddressSanitizer) GTEST_SKIP() << "its runtime must be told when a thread ends";
  for (const bool use_move : {true, false}) {
    MirrorOptions options;
    options.use_move = use_move;
    for (std::uint64_t step = 0; step < 40; ++step) {
      ASSERT_NO_FATAL_FAILURE(start(options));
      const pthread_t thread = EndingThread::start();
      const auto* block = reinterpret_cast<const std::uint64_t*>(thread);
      before_call(step, [] { EndingThread::end(); });
      EXPECT_EQ(device_.load(block), reinterpret_cast<std::uint64_t>(block));
      EndingThread::end();
      ASSERT_EQ(EndingThread::join(thread), 0) << "step " << step << (use_move ? "" : " without MOVE");
      inject_nothing();
      mirror_.reset();
    }
  }
}

// At each step of a page's way to the device without UFFDIO_MOVE, which ends with the application's page being
// discarded: another thread has unmapped it, and somebody else has got the address. The event is unread. In the gap
// between the agent's look and its call his page is taken, and given back.
TEST_F(FaultInjectionTest, WhatSomebodyElseHasGotIsNotDiscarded) {
  static TestMemory* memory;
  static AddressSpace* space;
  static std::atomic<bool> to_be_unmapped;
  static std::atomic<bool> replaced;
  static std::atomic<bool> stop;
  auto opened = AddressSpace::open();
  ASSERT_TRUE(opened.has_value());
  space = &*opened;
  MirrorOptions options;
  options.use_move = false;
  unsigned times = 0;
  unsigned lost = 0;
  for (std::uint64_t step = 0; step < 40; ++step) {
    ASSERT_NO_FATAL_FAILURE(start(options));
    TestMemory own(1);
    memory = &own;
    *own.word(0) = 5;
    to_be_unmapped = replaced = stop = false;
    std::thread unmapper([&] {
      while (!stop && !to_be_unmapped) std::this_thread::yield();
      if (to_be_unmapped) munmap(own.data(), kPageSize);
    });
    before_call(step, [] {
      const auto address = reinterpret_cast<std::uint64_t>(memory->data());
      to_be_unmapped = true;
      for (unsigned i = 0; i < 1'000'000 && !stop && space->query(address); ++i) sched_yield();
      if (mmap(memory->data(), kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
               0) != memory->data()) {
        return;
      }
      *memory->word(0) = 6;
      replaced = true;
    });
    std::uint64_t seen = 0;
    (void)device_.read(own.word(0), &seen, sizeof seen);
    stop = true;
    unmapper.join();
    times += replaced;
    lost += replaced && *own.word(0) != 6U;
    inject_nothing();
    mirror_.reset();
  }
  EXPECT_GT(times, 5U);
  EXPECT_EQ(lost, 0U);
}

// Between the host agent's look at a mapping and its call, a thread unmaps it and gets the address again. It cannot go
// on before its event has been read, so it does so after the call: what it writes then stays. Each call of the agent's
// that changes what it has looked at.
struct Replacement {
  const char* name;
  bool use_move;
  int flags;      // of the mapping
  bool coherent;  // when the agent is asked
  bool ends;      // the page's being coherent or its being with the device, rather than its being at home
  Injected call;
};

class ReuseTest : public FaultInjectionTest, public ::testing::WithParamInterface<Replacement> {};

TEST_P(ReuseTest, WhatAThreadWritesWhereItHasUnmappedIsKept) {
  const Replacement& replacement = GetParam();
  if (replacement.use_move) SKIP_WITHOUT_MOVE();
  static std::atomic<char*> to_be_unmapped;
  static std::atomic<bool> called;
  static std::atomic<bool> written;
  static AddressSpace* space;
  static char* address;
  auto opened = AddressSpace::open();
  ASSERT_TRUE(opened.has_value());
  space = &*opened;
  for (int round = 0; round < 3; ++round) {
    MirrorOptions options;
    options.use_move = replacement.use_move;
    options.coherent_after_returns = replacement.coherent ? 1 : 0;
    options.coherent_window_ms = 60'000;
    ASSERT_NO_FATAL_FAILURE(start(options));
    TestMemory own(1);
    munmap(own.data(), kPageSize);
    const auto map = [&] {
      return mmap(own.data(), kPageSize, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | replacement.flags, -1, 0);
    };
    ASSERT_EQ(map(), own.data());
    *own.word(0) = 5;
    for (std::uint64_t i = 0; i < 3 && replacement.ends; ++i) ASSERT_NO_FATAL_FAILURE(exchange(own.word(0), 5));
    if (replacement.coherent && !replacement.ends) {
      ASSERT_EQ(device_.load(own.word(0)), 5U);
      ASSERT_EQ(std::atomic_ref(*own.word(0)).load(), 5U);
    }
    address = own.data();
    to_be_unmapped = nullptr;
    called = written = false;
    std::atomic<bool> stop{false};
    bool mapped = false;
    std::thread tenant([&] {
      while (!stop && to_be_unmapped == nullptr) std::this_thread::yield();
      if (to_be_unmapped == nullptr) return;
      munmap(to_be_unmapped, kPageSize);
      // The mirror may have left something empty there.
      mapped = map() == own.data();
      if (mapped) *own.word(0) = 77;
      written = true;
    });
    before_call(replacement.call, 0, [] {
      to_be_unmapped = address;
      const auto unmapped = reinterpret_cast<std::uint64_t>(address);
      for (unsigned i = 0; i < 1'000'000 && !written && space->query(unmapped); ++i) sched_yield();
      called = true;
      for (unsigned i = 0; i < 10 && !written; ++i) std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
    if (replacement.ends) {
      mirror_->bring_home({reinterpret_cast<std::uint64_t>(own.data()), kPageSize});
    } else {
      std::uint64_t value = 0;
      (void)device_.read(own.word(0), &value, sizeof value);
    }
    // The device may go on before the mapping is replaced.
    for (int i = 0; i < 10'000 && !called; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(called);
    stop = true;
    tenant.join();
    inject_nothing();
    mirror_->drain_events();
    if (mapped) {
      EXPECT_EQ(*own.word(0), 77U);
      EXPECT_EQ(device_.load(own.word(0)), 77U);
    }
    mirror_.reset();
  }
}

INSTANTIATE_TEST_SUITE_P(Calls, ReuseTest,
                         ::testing::Values(Replacement{"ToCoherence", true, 0, true, false, Injected::kRemap},
                                           Replacement{"FromCoherence", true, 0, true, true, Injected::kRemap},
                                           Replacement{"ToTheDevice", false, 0, false, false, Injected::kRemap},
                                           Replacement{"LockedToTheDevice", false, MAP_LOCKED, false, false,
                                                       Injected::kAdvise}),
                         [](const auto& test) { return test.param.name; });

// A thread changes some of the pages that go to a device, with UFFDIO_MOVE or without, at each step of their way. The
// others stay as they are, wherever it comes in between: also while the kernel, which is about to discard the
// application's pages, waits for the event of that to be read.
class NeighboursTest : public FaultInjectionTest, public ::testing::WithParamInterface<std::tuple<std::size_t, bool>> {
 protected:
  static constexpr std::size_t kPages = 12;
  static constexpr std::size_t kChanged = 3;  // from first() on

  static std::size_t first() { return std::get<0>(GetParam()); }
  static bool is_changed(std::size_t page) { return page - first() < kChanged; }

  // change(address, size): in a thread of the application. It is made when has_begun(address) says so.
  // check(step): what has become of the pages.
  template <typename Change, typename HasBegun, typename Check>
  void change_at_each_step(Change change, HasBegun has_begun, Check check) {
    static std::atomic<bool> wanted;
    static std::atomic<bool> stop;
    static std::function<bool()> begun;
    MirrorOptions options;
    options.use_move = std::get<1>(GetParam());
    // How many steps there are differs, so sometimes they are gone through again.
    constexpr unsigned kEnough = 5;
    constexpr std::uint64_t kSteps = 24;
    unsigned changed = 0;
    for (std::uint64_t turn = 0; turn < kSteps || (changed <= kEnough && turn < 3 * kSteps); ++turn) {
      const std::uint64_t step = turn % kSteps;
      ASSERT_NO_FATAL_FAILURE(start(options));
      TestMemory own(kPages);
      for (std::size_t page = 0; page < kPages; ++page) *own.word(page) = page + 1;
      memory_ = &own;
      char* const target = own.data() + first() * kPageSize;
      wanted = stop = false;
      begun = [&] { return has_begun(target); };
      std::thread changer([&] {
        while (!stop && !wanted) std::this_thread::yield();
        if (wanted) change(target, kChanged * kPageSize);
      });
      before_call(step, [] {
        // The host agent's call, if it has just been asked for one, comes as far as its event.
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        wanted = !stop;
        for (unsigned i = 0; i < 1'000'000 && !stop && !begun(); ++i) sched_yield();
      });
      (void)mirror_->bring_in(device_, {reinterpret_cast<std::uint64_t>(own.data()), own.size()}, Untouched::kSkip);
      changed += wanted;
      stop = true;
      changer.join();
      inject_nothing();
      mirror_->drain_events();  // as before a launch
      for (std::size_t page = 0; page < kPages; ++page) {
        if (is_changed(page)) continue;
        ASSERT_EQ(device_.load(own.word(page)), page + 1) << "page " << page << " at step " << step;
        ASSERT_EQ(*own.word(page), page + 1) << "page " << page << " at step " << step;
      }
      check(step);
      mirror_.reset();
    }
    EXPECT_GT(changed, kEnough);
  }

  TestMemory* memory_ = nullptr;
};

TEST_P(NeighboursTest, OfPagesThatBecomeReadOnly) {
  auto space = AddressSpace::open();
  ASSERT_TRUE(space.has_value());
  change_at_each_step([](char* address, std::size_t size) { EXPECT_EQ(mprotect(address, size, PROT_READ), 0); },
                      [&](char* address) {
                        const auto mapping = space->query(reinterpret_cast<std::uint64_t>(address));
                        return mapping && !mapping->writable();
                      },
                      [&](std::uint64_t step) {
                        for (std::size_t page = 0; page < kPages; ++page) {
                          ASSERT_EQ(*memory_->word(page), page + 1) << "page " << page << " at step " << step;
                        }
                      });
}

TEST_P(NeighboursTest, OfPagesThatAreUnmapped) {
  auto space = AddressSpace::open();
  ASSERT_TRUE(space.has_value());
  change_at_each_step([](char* address, std::size_t size) { EXPECT_EQ(munmap(address, size), 0); },
                      [&](char* address) { return !space->query(reinterpret_cast<std::uint64_t>(address)); },
                      [](std::uint64_t) {});
}

TEST_P(NeighboursTest, OfPagesThatAreDiscarded) {
  static std::atomic<unsigned> calls;
  calls = 0;
  unsigned seen = 0;
  change_at_each_step(
      [](char* address, std::size_t size) {
        ++calls;
        EXPECT_EQ(madvise(address, size, MADV_DONTNEED), 0);
      },
      [&](char*) {
        if (calls == seen) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));  // as far as its event
        return true;
      },
      [&](std::uint64_t step) {
        for (std::size_t page = 0; page < kPages && calls != seen; ++page) {
          if (!is_changed(page)) continue;
          ASSERT_EQ(device_.load(memory_->word(page)), 0U) << "page " << page << " at step " << step;
          ASSERT_EQ(*memory_->word(page), 0U) << "page " << page << " at step " << step;
        }
        seen = calls;
      });
}

INSTANTIATE_TEST_SUITE_P(AtTheBeginningInTheMiddleAndAtTheEnd, NeighboursTest,
                         ::testing::Combine(::testing::Values(0, 4, 9), ::testing::Bool()));

// A mapping moves over another one while a fault there is served after which nothing needs to be watched any more. The
// mirror does not know yet, and must not leave off watching what has come.
class LeavingOffTest : public FaultInjectionTest {
 protected:
  static constexpr std::size_t kPages = 4;
  static constexpr std::size_t kTouched = 3;  // the page of the fault

  // kept(page, value): what is found in each of the pages when the mapping has moved right before the first `call`.
  template <typename Kept>
  void move_before(Injected call, Kept kept) {
    static std::atomic<bool> wanted;
    static std::atomic<bool> stop;
    static AddressSpace* space;
    static char* from;
    auto opened = AddressSpace::open();
    ASSERT_TRUE(opened.has_value());
    space = &*opened;
    for (int round = 0; round < 10; ++round) {
      ASSERT_NO_FATAL_FAILURE(start({}));
      TestMemory source(kPages);
      TestMemory target(kPages);
      from = source.data();
      for (std::size_t page = 0; page < kPages; ++page) device_.store(source.word(page), std::uint64_t{page + 1});
      device_.store(target.word(0), std::uint64_t{9});
      ASSERT_EQ(*target.word(0), 9U);
      wanted = stop = false;
      std::thread mover([&] {
        while (!stop && !wanted) std::this_thread::yield();
        if (!wanted) return;
        EXPECT_EQ(mremap(source.data(), source.size(), source.size(), MREMAP_MAYMOVE | MREMAP_FIXED, target.data()),
                  target.data());
      });
      before_call(call, 0, [] {
        wanted = true;
        // The mirror reads the event of that when this returns.
        const auto address = reinterpret_cast<std::uint64_t>(from);
        for (unsigned i = 0; i < 1'000'000 && space->query(address); ++i) sched_yield();
      });
      kept(kTouched, std::atomic_ref(*target.word(kTouched)).load());
      EXPECT_TRUE(wanted);
      stop = true;
      mover.join();
      inject_nothing();
      for (std::size_t page = 0; page < kTouched; ++page) {
        EXPECT_EQ(device_.load(target.word(page)), page + 1);
        kept(page, *target.word(page));
      }
      mirror_.reset();
    }
  }
};

TEST_F(LeavingOffTest, WhatHasMovedBeforeTheMirrorAsksStaysWatched) {
  SKIP_WITHOUT_MOVE();
  move_before(Injected::kContinue, [](std::size_t page, std::uint64_t value) { EXPECT_EQ(value, page + 1); });
}

// Too late for the thread that touches it at this very moment, and finds zeros; but it is watched again.
TEST_F(LeavingOffTest, WhatHasMovedAfterTheMirrorHasAskedIsWatchedAgain) {
  SKIP_WITHOUT_MOVE();
  move_before(Injected::kUnregister, [](std::size_t page, std::uint64_t value) {
    EXPECT_TRUE(value == page + 1 || (page == kTouched && value == 0)) << value;
  });
}

// At each step of finding out what has become of coherent memory that the application discards, the memory is unmapped.
// Nothing else is mapped in its block.
TEST_F(FaultInjectionTest, CoherentMemoryIsDiscardedAndUnmappedAtAnyStep) {
  static std::atomic<bool> wanted;
  static AddressSpace* space;
  static std::uint64_t address;
  auto opened = AddressSpace::open();
  ASSERT_TRUE(opened.has_value());
  space = &*opened;
  MirrorOptions options;
  options.coherent_after_returns = 1;
  options.coherent_window_ms = 60'000;
  options.coherent_not_before_ms = 0;
  // The less there is to find out the fewer steps there are, so sometimes they are gone through again.
  constexpr unsigned kEnough = 3;
  constexpr std::uint64_t kSteps = 20;
  unsigned times = 0;
  for (std::uint64_t turn = 0; turn < kSteps || (times <= kEnough && turn < 5 * kSteps); ++turn) {
    ASSERT_NO_FATAL_FAILURE(start(options));
    TestMemory memory(1);
    munmap(memory.data() + kPageSize, kBlockSize - kPageSize);
    address = reinterpret_cast<std::uint64_t>(memory.data());
    for (std::uint64_t i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(exchange(memory.word(0), i));
    if (statistics().coherent_upgrades == 0) continue;
    wanted = false;
    std::atomic<bool> stop{false};
    std::thread unmapper([&] {
      while (!stop && !wanted) std::this_thread::yield();
      munmap(memory.data(), kPageSize);
    });
    before_call(turn % kSteps, [] {
      wanted = true;
      for (unsigned i = 0; i < 1'000'000 && space->query(address); ++i) sched_yield();
    });
    // ENOMEM: unmapped before it came to that.
    EXPECT_TRUE(madvise(memory.data(), kPageSize, MADV_DONTNEED) == 0 || errno == ENOMEM);
    mirror_->drain_events();
    times += wanted;
    stop = true;
    unmapper.join();
    inject_nothing();
    mirror_->drain_events();
    std::uint64_t value = 0;
    EXPECT_EQ(device_.read(memory.word(0), &value, sizeof value), FaultKind::kInvalidAddress);
    mirror_.reset();
  }
  EXPECT_GT(times, kEnough);
}

// A thread unmaps memory that the device has, and waits for the mirror to read of it. Another one gets the address
// meanwhile, and waits for nobody: what it has written there the device finds in the next launch.
TEST_F(FaultInjectionTest, LaunchesWaitForEventsThatAreOnTheirWay) {
  static std::atomic<bool> held;
  static std::atomic<bool> released;
  auto opened = AddressSpace::open();
  ASSERT_TRUE(opened.has_value());
  for (int round = 0; round < 10; ++round) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    TestMemory memory(1);
    TestMemory other(1);
    ASSERT_NO_FATAL_FAILURE(exchange(memory.word(0), 5));
    device_.store(memory.word(0), std::uint64_t{6});
    held = released = false;
    *other.word(0) = 7;
    before_call(0, [] {
      held = true;
      while (!released) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    std::thread holder([&] { (void)device_.load(other.word(0)); });
    while (!held) std::this_thread::yield();
    std::thread unmapper([&] { munmap(memory.data(), kPageSize); });
    while (opened->query(reinterpret_cast<std::uint64_t>(memory.data()))) std::this_thread::yield();
    ASSERT_EQ(mmap(memory.data(), kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                   -1, 0),
              memory.data());
    *memory.word(0) = 77;
    std::thread releaser([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5 * round));
      released = true;
    });
    mirror_->drain_events();
    EXPECT_EQ(device_.load(memory.word(0)), 77U);
    releaser.join();
    unmapper.join();
    holder.join();
    inject_nothing();
    EXPECT_EQ(*memory.word(0), 77U);
    mirror_.reset();
  }
}

}  // namespace
}  // namespace mirrorcl::mirror
