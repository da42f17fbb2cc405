// SPDX-License-Identifier: Apache-2.0
// What the kernel may refuse, it refuses here: nothing hangs and nothing is lost.
#include "mirror/fault_injection.h"

#include <errno.h>
#include <fcntl.h>

#include <array>
#include <string>
#include <string_view>

#include "mirror/fault_injection_fixture.h"
#include "mirror/userfaultfd.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

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
  for (std::size_t page : {16U, 17U}) EXPECT_EQ(int{device_.snapshot(memory.word(page))}, FakeDevice::kRead) << page;
  for (std::size_t page : {16U, 17U}) {
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
