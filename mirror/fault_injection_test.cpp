// SPDX-License-Identifier: Apache-2.0
// What the kernel may refuse, it refuses here: nothing hangs and nothing is lost.
#include "mirror/fault_injection.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <tuple>

#include "base/log.h"
#include "mirror/address_space.h"
#include "mirror/mirror_fixture.h"
#include "mirror/model_devices.h"
#include "mirror/model_test_support.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

class FaultInjectionTest : public MirrorTest {
 protected:
  void SetUp() override {
    // What is injected is also logged.
    setenv("MIRRORCL_LOG", "off", 0);
    init_log();
    before_ = injection_counts();
    MirrorTest::SetUp();
  }
  void TearDown() override {
    inject_nothing();
    MirrorTest::TearDown();
  }
  std::uint64_t faults(Injected kind) const {
    return injection_counts().faults[static_cast<unsigned>(kind)] - before_.faults[static_cast<unsigned>(kind)];
  }
  std::uint64_t calls(Injected kind) const {
    return injection_counts().calls[static_cast<unsigned>(kind)] - before_.calls[static_cast<unsigned>(kind)];
  }

  void run_programs(const MirrorOptions& options, std::uint64_t first_seed, std::uint64_t operations,
                    bool two_devices = false) {
    ASSERT_NO_FATAL_FAILURE(start(options));
    FakeModelDevice device(device_);
    FakeModelDevice second(g_second_fake_device.emplace());
    Model model(*mirror_, device);
    if (two_devices) {
      ASSERT_TRUE(mirror_->attach(*g_second_fake_device).has_value());
      model.add_device(second);
    }
    model.tolerate_refusals();
    inject_randomly(20, first_seed);
    run_random_programs(model, first_seed, operations);
    inject_nothing();
    print_statistics(model.operations(), statistics());
    for (Injected kind : {Injected::kCopy, Injected::kRegister, Injected::kRead, Injected::kWrite, Injected::kWait}) {
      EXPECT_GT(faults(kind), 0U) << static_cast<int>(kind);
    }
  }

  InjectionCounts before_{};
};

// Whether the thread sleeps, and not in a system call.
bool sleeps_in_a_fault(pid_t thread) {
  char text[32] = {};
  UniqueFd file(open(("/proc/self/task/" + std::to_string(thread) + "/syscall").c_str(), O_RDONLY | O_CLOEXEC));
  return read(file.get(), text, sizeof text - 1) > 0 && std::string_view(text).starts_with("-1 ");
}

// Returns when the thread has slept in a fault for a while: not for a lock of the kernel's, but for the mirror.
void wait_until_it_waits_for_memory(const std::atomic<pid_t>& thread) {
  for (int looks = 0; looks < 10; ++looks) {
    if (thread == 0 || !sleeps_in_a_fault(thread)) looks = 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// --- the way home: the device has the only copy

class ComingHomeTest : public FaultInjectionTest, public ::testing::WithParamInterface<int> {};

TEST_P(ComingHomeTest, SinglePageSurvivesARefusedCopy) {
  TestMemory memory(1);
  device_.store(memory.word(0), std::uint64_t{42});
  inject_once(Injected::kCopy, GetParam(), 0, 3);
  EXPECT_EQ(*memory.word(0), 42U);
  EXPECT_EQ(faults(Injected::kCopy), 3U);
}

TEST_P(ComingHomeTest, BlockSurvivesARefusedCopy) {
  TestMemory memory(kBlockPages);
  for (std::size_t page = 0; page < kBlockPages; ++page) device_.store(memory.word(page), std::uint64_t{page + 1});
  inject_once(Injected::kCopy, GetParam(), 1, 2);
  for (std::size_t page = 0; page < kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page + 1);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  EXPECT_EQ(device_.pages_in_use(), 0U);
}

TEST_P(ComingHomeTest, BringHomeInsists) {
  TestMemory memory(4);
  for (std::size_t page = 0; page < 4; ++page) device_.store(memory.word(page), std::uint64_t{page + 1});
  inject_once(Injected::kCopy, GetParam(), 0, 3);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  EXPECT_EQ(device_.pages_in_use(), 0U);
  for (std::size_t page = 0; page < 4; ++page) ASSERT_EQ(*memory.word(page), page + 1);
}

// The second fault is read before the first brings its page along. To bring it once more would leave the application
// with an old copy while the copy is refused.
TEST_P(ComingHomeTest, PagesThatTwoThreadsReadAtOnceComeOnce) {
  constexpr std::size_t kPages = 64;
  TestMemory memory(kPages);
  TestMemory other(1);
  for (std::size_t page = 0; page < kPages; ++page) device_.store(memory.word(page), std::uint64_t{page + 1});
  // What is read after them is read in bulk, and stays with the device too.
  for (std::size_t page = 0; page < 16; ++page) EXPECT_EQ(*memory.word(page), page + 1);
  static std::atomic<int> waiting;
  static std::atomic<bool> held;
  waiting = 0;
  held = false;
  device_.fail_copies(1, EAGAIN);
  device_.before_failing([] {
    held = true;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (waiting < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  *other.word(0) = 1;
  std::thread holder([&] { EXPECT_EQ(device_.load(other.word(0)), 1U); });
  while (!held) std::this_thread::yield();
  std::array<std::atomic<pid_t>, 2> ids{};
  std::array<std::uint64_t, 2> found{};
  std::array<std::thread, 2> readers;
  for (std::size_t i = 0; i < readers.size(); ++i) {
    readers[i] = std::thread([&, i] {
      ids[i] = gettid();
      found[i] = std::atomic_ref(*memory.word(16 + i)).load();
    });
  }
  inject_once(Injected::kCopy, GetParam(), 1, 100);
  for (const auto& id : ids) {
    wait_until_it_waits_for_memory(id);
    ++waiting;
  }
  for (std::thread& reader : readers) reader.join();
  holder.join();
  (void)mirror_->device_pages(device_, reinterpret_cast<std::uint64_t>(memory.data()));  // both have been tried by then
  EXPECT_EQ(found[0], 17U);
  EXPECT_EQ(found[1], 18U);
  for (std::size_t page : {16, 17}) EXPECT_EQ(int{device_.snapshot(memory.word(page))}, FakeDevice::kRead) << page;
  for (std::size_t page : {16, 17}) {
    device_.store(memory.word(page), std::uint64_t{100 + page});
    EXPECT_EQ(std::atomic_ref(*memory.word(page)).load(), 100 + page);
  }
}

INSTANTIATE_TEST_SUITE_P(Errors, ComingHomeTest, ::testing::Values(EAGAIN, ENOMEM));

// --- the way in: the pages are in transit when the device refuses them, and must go back

class GoingBackTest : public FaultInjectionTest, public ::testing::WithParamInterface<int> {
 protected:
  void SetUp() override {
    FaultInjectionTest::SetUp();
    SKIP_WITHOUT_MOVE();
  }
};

TEST_P(GoingBackTest, PagesInTransitReturnThoughTheKernelRefusesAtFirst) {
  TestMemory memory(4);
  for (std::size_t page = 0; page < 4; ++page) *memory.word(page) = page + 1;
  device_.fail_copies(1, ENOSPC);
  inject_once(Injected::kMove, GetParam(), 1, 3);  // the first takes the page out
  device_.load(memory.word(1));
  EXPECT_EQ(device_.last_error(), FaultKind::kOutOfMemory);
  for (std::size_t page = 0; page < 4; ++page) EXPECT_EQ(*memory.word(page), page + 1);
  EXPECT_EQ(faults(Injected::kMove), 3U);
}

// mprotect raises no event, and MOVE does not give to memory that cannot be written.
TEST_F(FaultInjectionTest, PageInTransitReturnsToMemoryThatHasBecomeReadOnly) {
  static TestMemory* memory;
  TestMemory own(1);
  memory = &own;
  *own.word(0) = 5;
  device_.fail_copies(1, ENOSPC);
  inject_once(Injected::kMove, EAGAIN, 1, 1);
  static FakeDevice* device = &device_;
  device->before_failing([] { mprotect(memory->data(), kPageSize, PROT_READ); });
  device_.load(own.word(0));
  EXPECT_EQ(device_.last_error(), FaultKind::kOutOfMemory);
  EXPECT_EQ(*own.word(0), 5U);
}

INSTANTIATE_TEST_SUITE_P(Errors, GoingBackTest, ::testing::Values(EAGAIN, EBUSY, ENOMEM));

TEST_F(FaultInjectionTest, MoveThatIsBusyForAMomentIsServed) {
  TestMemory memory(1);
  *memory.word(0) = 7;
  inject_once(Injected::kMove, EBUSY, 0, 1);
  EXPECT_EQ(device_.load(memory.word(0)), 7U);
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
}

TEST_F(FaultInjectionTest, PinnedPageIsReadAsASnapshot) {
  SKIP_WITHOUT_MOVE();
  TestMemory memory(1);
  *memory.word(0) = 7;
  inject_once(Injected::kMove, EBUSY, 0, 1000);
  EXPECT_EQ(device_.load(memory.word(0)), 7U);
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
  EXPECT_EQ(device_.snapshot(memory.word(0)), FakeDevice::kRead);
}

TEST_F(FaultInjectionTest, PinnedPageIsASnapshotForEachOfTwoDevicesUntilOneWrites) {
  SKIP_WITHOUT_MOVE();
  FakeDevice& second = g_second_fake_device.emplace();
  ASSERT_TRUE(mirror_->attach(second).has_value());
  TestMemory memory(1);
  *memory.word(0) = 7;
  inject_once(Injected::kMove, EBUSY, 0, 2);
  EXPECT_EQ(device_.load(memory.word(0)), 7U);
  EXPECT_EQ(second.load(memory.word(0)), 7U);
  EXPECT_EQ(device_.snapshot(memory.word(0)), FakeDevice::kRead);
  EXPECT_EQ(second.snapshot(memory.word(0)), FakeDevice::kRead);
  second.store(memory.word(0), std::uint64_t{8});
  EXPECT_EQ(second.last_error(), FaultKind::kNone);
  EXPECT_EQ(device_.load(memory.word(0)), 8U);
  EXPECT_EQ(*memory.word(0), 8U);
  mirror_.reset();
}

// It becomes anonymous memory, and its contents go to the device because the application's new pages refuse them.
TEST_F(FaultInjectionTest, PrivateMemoryOfAFileThatIsRefusedAtHomeIsReadOnTheDevice) {
  constexpr std::size_t kPages = 16;
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  for (std::uint64_t page = 0; page < kPages; ++page) {
    const std::uint64_t word = page + 1;
    const std::vector<std::uint64_t> contents(kPageSize / sizeof word, word);
    ASSERT_EQ(pwrite(file.get(), contents.data(), kPageSize, static_cast<off_t>(page * kPageSize)), ssize_t{kPageSize});
  }
  const auto size = kPages * kPageSize;
  auto* memory = static_cast<std::byte*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0));
  ASSERT_NE(static_cast<void*>(memory), MAP_FAILED);
  const auto word = [&](std::size_t page) { return reinterpret_cast<std::uint64_t*>(memory + page * kPageSize); };
  inject_once(Injected::kCopy, EAGAIN, 0, 1);
  EXPECT_EQ(device_.load(word(5)), 6U);
  EXPECT_EQ(statistics().pages_made_anonymous, kPages);
  EXPECT_EQ(faults(Injected::kCopy), 1U);
  for (std::size_t page = 0; page < kPages; ++page) EXPECT_EQ(device_.load(word(page)), page + 1);
  for (std::size_t page = 0; page < kPages; ++page) EXPECT_EQ(*word(page), page + 1);
  munmap(memory, size);
}

TEST_F(FaultInjectionTest, MemoryOfAnotherUserfaultfdIsRefused) {
  TestMemory memory(1);
  inject_once(Injected::kRegister, EBUSY, 0, 1);
  device_.store(memory.word(0), std::uint64_t{1});
  EXPECT_EQ(device_.last_error(), FaultKind::kUnmappable);
  *memory.word(0) = 2;
  EXPECT_EQ(device_.load(memory.word(0)), 2U);
}

// --- coherence

TEST_F(FaultInjectionTest, PageThatCannotBecomeCoherentMigrates) {
  TestMemory memory(1);
  inject_once(Injected::kRemap, ENOMEM, 0, 1000);
  for (std::uint64_t i = 0; i < 20; ++i) {
    device_.store(memory.word(0), i);
    ASSERT_EQ(*memory.word(0), i);
  }
  EXPECT_EQ(statistics().coherent_upgrades, 0U);
}

// The attempt takes the application's copy away before it fails.
TEST_F(FaultInjectionTest, DuplicatedPageThatCannotBecomeCoherentGoesHome) {
  constexpr std::size_t kPages = 64;
  TestMemory memory(kPages);
  for (std::uint64_t round = 1; round <= 2; ++round) {
    for (std::size_t page = 0; page < kPages; ++page) device_.store(memory.word(page), 100 * round + page);
    for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory.word(page), 100 * round + page);
  }
  ASSERT_GT(statistics().pages_duplicated, 0U);
  inject_once(Injected::kRemap, ENOMEM, 0, 1000);
  for (std::size_t page = 0; page < kPages; ++page) *memory.word(page) = 300 + page;
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(device_.load(memory.word(page)), 300 + page);
  EXPECT_EQ(statistics().coherent_upgrades, 0U);
}

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

// --- features that a kernel lacks

TEST_F(FaultInjectionTest, KernelWithoutMove) {
  mirror_.reset();
  hide_userfaultfd_features(kFeatureMove);
  ASSERT_NO_FATAL_FAILURE(start({}));
  TestMemory memory(4);
  for (std::size_t page = 0; page < 4; ++page) *memory.word(page) = page + 1;
  for (std::size_t page = 0; page < 4; ++page) EXPECT_EQ(device_.load(memory.word(page)), page + 1);
  EXPECT_EQ(calls(Injected::kMove), 0U);
}

TEST_F(FaultInjectionTest, TellsWhatTheKernelLacks) {
  hide_userfaultfd_features(kFeatureMove);
  const auto probed = Mirror::probe();
  ASSERT_TRUE(probed.has_value()) << probed.error().message;
  EXPECT_NE(probed->find("6.8"), std::string_view::npos) << *probed;
}

TEST_F(FaultInjectionTest, KernelWithoutPoison) {
  mirror_.reset();
  hide_userfaultfd_features(std::uint64_t{1} << 14);  // UFFD_FEATURE_POISON
  ASSERT_NO_FATAL_FAILURE(start({}));
  std::uint64_t value = 0;
  EXPECT_EQ(device_.read(reinterpret_cast<void*>(0x1000), &value, sizeof value), FaultKind::kInvalidAddress);
}

TEST_F(FaultInjectionTest, KernelWithoutWriteProtectionOfSharedMemoryIsRefusedWithAReason) {
  mirror_.reset();
  hide_userfaultfd_features(kFeatureWpShmem);
  auto started = Mirror::start();
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, ErrorCode::kNotSupported);
  EXPECT_NE(started.error().message.find("5.19"), std::string::npos) << started.error().message;
  EXPECT_FALSE(Mirror::probe().has_value());
}

// --- the device dies

// At each step of a page's ways in, home and to coherence.
TEST_F(FaultInjectionTest, DeviceThatDiesAtAnyStepLosesNothing) {
  for (std::uint64_t step = 0; step < 60; ++step) {
    ASSERT_NO_FATAL_FAILURE(start({}));
    TestMemory memory(4);
    for (std::size_t page = 0; page < 4; ++page) *memory.word(page) = page + 1;
    before_call(step, [] { g_fake_device->lose(); });
    std::uint64_t last = 1;
    for (std::uint64_t i = 10; i < 16; ++i) {
      // A lost device's accesses fail.
      if (device_.write(memory.word(0), &i, sizeof i) == FaultKind::kNone) last = i;
      ASSERT_EQ(*memory.word(0), last) << "step " << step;
    }
    for (std::size_t page = 1; page < 4; ++page) ASSERT_EQ(*memory.word(page), page + 1) << "step " << step;
    inject_nothing();
    mirror_.reset();
    device_.restart();
  }
}

// At each step of a page's ways from device to device, and to coherence.
TEST_F(FaultInjectionTest, EitherOfTwoDevicesDiesAtAnyStepAndLosesNothing) {
  for (std::uint64_t step = 0; step < 60; ++step) {
    g_second_fake_device.emplace();
    ASSERT_NO_FATAL_FAILURE(start({}));
    FakeDevice* devices[] = {&device_, &*g_second_fake_device};
    ASSERT_TRUE(mirror_->attach(*devices[1]).has_value());
    TestMemory memory(4);
    for (std::size_t page = 0; page < 4; ++page) *memory.word(page) = page + 1;
    if (step % 2 == 0) before_call(step, [] { g_fake_device->lose(); });
    if (step % 2 != 0) before_call(step, [] { g_second_fake_device->lose(); });
    std::uint64_t last = 1;
    for (std::uint64_t i = 10; i < 18; ++i) {
      FakeDevice& writer = *devices[i % 2];
      FakeDevice& reader = *devices[(i + 1) % 2];
      if (writer.write(memory.word(0), &i, sizeof i) == FaultKind::kNone) last = i;
      std::uint64_t seen = 0;
      if (reader.read(memory.word(0), &seen, sizeof seen) == FaultKind::kNone) {
        ASSERT_EQ(seen, last) << "step " << step;
      }
    }
    for (std::size_t page = 1; page < 4; ++page) ASSERT_EQ(*memory.word(page), page + 1) << "step " << step;
    ASSERT_EQ(*memory.word(0), last) << "step " << step;
    inject_nothing();
    mirror_.reset();
    for (FakeDevice* device : devices) device->restart();
  }
}

// --- everything at once

TEST_F(FaultInjectionTest, RandomProgramsUnderRandomFaults) {
  run_programs({}, 21'000'000, 600'000);
}

TEST_F(FaultInjectionTest, RandomProgramsUnderRandomFaultsWithCoherence) {
  run_programs(everything_becomes_coherent(), 22'000'000, 400'000);
}

TEST_F(FaultInjectionTest, RandomProgramsOnTwoDevicesUnderRandomFaults) {
  MirrorOptions options;
  options.coherent_after_returns = 3;
  options.coherent_window_ms = 100'000;
  run_programs(options, 24'000'000, 200'000, true);
  EXPECT_GT(statistics().pages_between_devices, 0U);
}

TEST_F(FaultInjectionTest, RandomProgramsUnderRandomFaultsWithoutMove) {
  MirrorOptions options;
  options.use_move = false;
  run_programs(options, 23'000'000, 400'000);
}

}  // namespace
}  // namespace mirrorcl::mirror
