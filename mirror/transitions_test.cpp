// SPDX-License-Identifier: Apache-2.0
// Every transition of a page, driven through the fake device one access at a time.
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/running_time.h"
#include "mirror/address_space.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

class TransitionsTest : public MirrorTest {};

TEST_F(TransitionsTest, DeviceReadsWhatTheHostWrote) {
  TestMemory memory(1);
  *memory.word(0) = 42;
  EXPECT_EQ(device_.load(memory.word(0)), 42U);
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
  Statistics s = statistics();
  EXPECT_EQ(s.device_faults, 1U);
  EXPECT_EQ(s.pages_to_device, 1U);
  EXPECT_EQ(s.bytes_to_device, kPageSize);
  EXPECT_EQ(s.replays, 1U);
  EXPECT_EQ(device_.snapshot(memory.word(0)), FakeDevice::kRead | FakeDevice::kWrite);
}

TEST_F(TransitionsTest, HostReadsWhatTheDeviceWrote) {
  TestMemory memory(1);
  *memory.word(0) = 1;
  device_.store(memory.word(0), std::uint64_t{2});
  EXPECT_EQ(*memory.word(0), 2U);
  EXPECT_EQ(statistics().cpu_faults, 1U);
  EXPECT_EQ(statistics().pages_to_host, 1U);
  EXPECT_EQ(device_.snapshot(memory.word(0)), FakeDevice::kNone) << "device memory is freed when the page goes home";
  EXPECT_EQ(device_.pages_in_use(), 0U);
}

// Whether the kernel asks the mirror for missing pages of the mapping at `address`.
bool is_tracked(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    if (MappingInfo mapping; parse_maps_line(line, &mapping)) {
      here = reinterpret_cast<std::uint64_t>(address) - mapping.range.start < mapping.range.size;
    }
    if (here && line.starts_with("VmFlags:")) return line.find(" um") != std::string::npos;
  }
  return false;
}

TEST_F(TransitionsTest, WhatIsAskedHomeIsTheKernelsWhenNothingHappens) {
  TestMemory memory(3 * kBlockPages);
  const Range range{reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
  for (std::size_t page = 0; page < 3 * kBlockPages; ++page) *memory.word(page) = page;
  ASSERT_EQ(mirror_->bring_in(device_, range, Untouched::kSkip), 0);
  EXPECT_TRUE(is_tracked(memory.data()));
  mirror_->bring_home(range);
  EXPECT_EQ(device_.pages_in_use(), 0U);
  for (RunningTime time; is_tracked(memory.data()) && time.is_within(std::chrono::seconds(20));) usleep(10'000);
  for (std::size_t block = 0; block < 3; ++block) EXPECT_FALSE(is_tracked(memory.word(block * kBlockPages)));
  for (std::size_t page = 0; page < 3 * kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page);
  EXPECT_EQ(statistics().cpu_faults, 0U);
}

TEST_F(TransitionsTest, UntouchedPageIsZeroAndNotCopied) {
  TestMemory memory(4);
  EXPECT_EQ(device_.load(memory.word(2)), 0U);
  EXPECT_EQ(statistics().pages_zero_filled, 1U);
  EXPECT_EQ(statistics().pages_to_device, 0U);
  device_.store(memory.word(2), std::uint64_t{9});
  EXPECT_EQ(*memory.word(2), 9U);
  EXPECT_EQ(*memory.word(3), 0U);
}

TEST_F(TransitionsTest, WritesAfterAReadNeedNoSecondFault) {
  TestMemory memory(1);
  *memory.word(0) = 5;
  EXPECT_EQ(device_.load(memory.word(0)), 5U);
  device_.store(memory.word(0), std::uint64_t{6});
  EXPECT_EQ(device_.faults(), 1U);
}

TEST_F(TransitionsTest, DenseAccessGrowsToTheWholeBlock) {
  TestMemory memory(4 * kBlockPages);
  for (std::size_t page = 0; page < 4 * kBlockPages; ++page) *memory.word(page) = page;
  for (std::size_t page = 0; page < 4 * kBlockPages; ++page) ASSERT_EQ(device_.load(memory.word(page)), page);
  EXPECT_EQ(statistics().pages_to_device, 4U * kBlockPages);
  EXPECT_LE(device_.faults(), 24U) << "a few per doubling in the first block, one in each of the others";
  for (std::size_t page = 0; page < 4 * kBlockPages; ++page) ASSERT_EQ(*memory.word(page), page);
  EXPECT_LE(statistics().cpu_faults, 24U);
  EXPECT_GT(statistics().pages_duplicated, 3U * kBlockPages) << "what is only read stays with the device too";
  for (std::size_t page = 0; page < 4 * kBlockPages; ++page) *memory.word(page) = page + 1;
  EXPECT_LE(statistics().cpu_faults, 48U);
  EXPECT_EQ(device_.pages_in_use(), 0U);
}

class DuplicationTest : public TransitionsTest {
 protected:
  static constexpr std::size_t kPages = 64;
  // The device writes every page and the host reads them, so that most are duplicated: pages 8 to 63.
  void duplicate(TestMemory& memory) {
    for (std::size_t page = 0; page < kPages; ++page) device_.store(memory.word(page), 100 + page);
    for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory.word(page), 100 + page);
    ASSERT_GE(statistics().pages_duplicated, kPages / 2);
  }
  void expect_on_both_sides(TestMemory& memory, std::size_t page, std::uint64_t value) {
    EXPECT_EQ(*memory.word(page), value) << "host, page " << page;
    EXPECT_EQ(device_.load(memory.word(page)), value) << "device, page " << page;
  }
};

TEST_F(DuplicationTest, BothSidesReadWithoutFaults) {
  TestMemory memory(kPages);
  duplicate(memory);
  const std::uint64_t faults = device_.faults();
  const std::uint64_t cpu_faults = statistics().cpu_faults;
  for (std::size_t page = kPages / 2; page < kPages; ++page) expect_on_both_sides(memory, page, 100 + page);
  EXPECT_EQ(device_.faults(), faults);
  EXPECT_EQ(statistics().cpu_faults, cpu_faults);
  EXPECT_EQ(device_.snapshot(memory.word(40)), FakeDevice::kRead);
}

TEST_F(DuplicationTest, EitherSidesWritesReachTheOther) {
  TestMemory memory(kPages);
  duplicate(memory);
  for (std::size_t page = 0; page < kPages; ++page) {
    if (page % 2 == 0) *memory.word(page) = 200 + page;
    if (page % 2 != 0) device_.store(memory.word(page), 300 + page);
  }
  for (std::size_t page = 0; page < kPages; ++page) {
    expect_on_both_sides(memory, page, (page % 2 == 0 ? 200 : 300) + page);
  }
}

TEST_F(DuplicationTest, DeviceWritesTakeTheHostsCopiesAway) {
  TestMemory memory(kPages);
  duplicate(memory);
  for (std::size_t page = 0; page < kPages; ++page) device_.store(memory.word(page), 300 + page);
  EXPECT_EQ(device_.snapshot(memory.word(40)), FakeDevice::kRead | FakeDevice::kWrite);
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory.word(page), 300 + page);
}

// The application adds to what the device has written: first in each block it only reads.
TEST_F(DuplicationTest, WhatIsWrittenNextIsNotCopied) {
  ASSERT_NO_FATAL_FAILURE(start({.coherent_after_returns = 0}));
  constexpr std::size_t kBlocks = 6;
  TestMemory memory(kBlocks * kBlockPages);
  const Range range{reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
  for (std::size_t page = 0; page < kBlocks * kBlockPages; ++page) *memory.word(page) = page;
  constexpr std::uint64_t kRounds = 8;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    ASSERT_EQ(mirror_->bring_in(device_, range, Untouched::kSkip), 0);
    for (std::size_t page = 0; page < kBlocks * kBlockPages; ++page) {
      const std::uint64_t value = std::atomic_ref(*memory.word(page)).load();
      ASSERT_EQ(value, page + round);
      std::atomic_ref(*memory.word(page)).store(value + 1);
    }
  }
  EXPECT_LE(statistics().pages_duplicated, kRounds * kBlocks * kBlockPages / 3) << "all would be, without a memory";
}

// What is only read beside it goes on being copied, once that has been seen.
TEST_F(DuplicationTest, WhatIsReadBesideThatIsCopied) {
  ASSERT_NO_FATAL_FAILURE(start({.coherent_after_returns = 0}));
  constexpr std::size_t kBlocks = 3;
  TestMemory memory(2 * kBlocks * kBlockPages);
  const Range range{reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
  constexpr std::size_t kWritten = kBlocks * kBlockPages;
  for (std::size_t page = 0; page < 2 * kWritten; ++page) *memory.word(page) = page;
  std::uint64_t copied = 0;
  for (std::uint64_t round = 0; round < 8; ++round) {
    ASSERT_EQ(mirror_->bring_in(device_, range, Untouched::kSkip), 0);
    for (std::size_t page = 0; page < kWritten; ++page) {
      std::atomic_ref(*memory.word(page)).store(std::atomic_ref(*memory.word(page)).load() + 1);
    }
    for (std::size_t page = kWritten; page < 2 * kWritten; ++page) {
      ASSERT_EQ(std::atomic_ref(*memory.word(page)).load(), page);
    }
    copied = 0;
    for (std::size_t page = kWritten; page < 2 * kWritten; ++page) {
      copied += device_.snapshot(memory.word(page)) == FakeDevice::kRead ? 1 : 0;
    }
  }
  EXPECT_GE(copied, kWritten * 3 / 4);
}

TEST_F(DuplicationTest, DiscardedPagesAreZeroOnBothSides) {
  TestMemory memory(kPages);
  duplicate(memory);
  ASSERT_EQ(madvise(memory.data() + 32 * kPageSize, 8 * kPageSize, MADV_DONTNEED), 0);
  for (std::size_t page = 30; page < 42; ++page) {
    expect_on_both_sides(memory, page, page >= 32 && page < 40 ? 0 : 100 + page);
  }
}

TEST_F(DuplicationTest, UnmappedPagesAreGoneFromTheDevice) {
  TestMemory memory(kPages);
  duplicate(memory);
  ASSERT_EQ(mmap(memory.data() + 32 * kPageSize, 8 * kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            memory.data() + 32 * kPageSize);
  mirror_->drain_events();
  for (std::size_t page = 30; page < 42; ++page) {
    expect_on_both_sides(memory, page, page >= 32 && page < 40 ? 0 : 100 + page);
  }
}

TEST_F(DuplicationTest, MovedPagesKeepTheirContents) {
  TestMemory memory(kPages);
  TestMemory to(kPages);
  duplicate(memory);
  ASSERT_NE(mremap(memory.data(), kPages * kPageSize, kPages * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to.data()),
            MAP_FAILED);
  for (std::size_t page = 0; page < kPages; ++page) expect_on_both_sides(to, page, 100 + page);
  for (std::size_t page = 0; page < kPages; ++page) *to.word(page) = page;
  for (std::size_t page = 0; page < kPages; ++page) expect_on_both_sides(to, page, page);
}

TEST_F(DuplicationTest, BringingHomeMakesTheHostTheOwner) {
  TestMemory memory(kPages);
  duplicate(memory);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), kPages * kPageSize});
  EXPECT_EQ(device_.pages_in_use(), 0U);
  const std::uint64_t cpu_faults = statistics().cpu_faults;
  for (std::size_t page = 0; page < kPages; ++page) *memory.word(page) += 1;
  EXPECT_EQ(statistics().cpu_faults, cpu_faults);
  for (std::size_t page = 0; page < kPages; ++page) expect_on_both_sides(memory, page, 101 + page);
}

TEST_F(DuplicationTest, ARestartedDeviceReadsAndWritesIt) {
  TestMemory memory(kPages);
  duplicate(memory);
  device_.lose();
  while (!device_.lost_was_reported()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  device_.restart();
  ASSERT_TRUE(mirror_->attach(device_));
  EXPECT_EQ(device_.load(memory.word(40)), 140U);
  device_.store(memory.word(41), std::uint64_t{7});
  expect_on_both_sides(memory, 41, 7);
}

TEST_F(DuplicationTest, LockedAndSharedCopiesAreTakenAwayToo) {
  TestMemory memory(kPages);
  duplicate(memory);
  ASSERT_EQ(mlock(memory.data() + 32 * kPageSize, 8 * kPageSize), 0);
  for (std::size_t page = 30; page < 42; ++page) device_.store(memory.word(page), 300 + page);
  for (std::size_t page = 30; page < 42; ++page) expect_on_both_sides(memory, page, 300 + page);
  ASSERT_EQ(munlock(memory.data() + 32 * kPageSize, 8 * kPageSize), 0);
}

TEST_F(TransitionsTest, SparseAccessMovesSinglePages) {
  TestMemory memory(2 * kBlockPages);
  for (std::size_t page = 0; page < 2 * kBlockPages; ++page) *memory.word(page) = page;
  for (std::size_t page = 0; page < 2 * kBlockPages; page += 64) ASSERT_EQ(device_.load(memory.word(page)), page);
  EXPECT_EQ(statistics().pages_to_device, 16U);
}

TEST_F(TransitionsTest, GrowthStaysInsideTheMapping) {
  TestMemory memory(8);
  for (std::size_t page = 0; page < 8; ++page) *memory.word(page) = page;
  ASSERT_EQ(mprotect(memory.data() + 4 * kPageSize, 4 * kPageSize, PROT_READ), 0);
  for (std::size_t page = 0; page < 4; ++page) device_.store(memory.word(page), std::uint64_t{100 + page});
  EXPECT_EQ(statistics().pages_to_device, 4U);
  EXPECT_EQ(device_.snapshot(memory.word(4)), FakeDevice::kNone);
  for (std::size_t page = 0; page < 4; ++page) EXPECT_EQ(*memory.word(page), 100 + page);
}

TEST_F(TransitionsTest, PingPongBecomesCoherent) {
  TestMemory memory(1);
  for (std::uint64_t i = 0; i < 8; ++i) {
    device_.store(memory.word(0), 2 * i + 1);
    ASSERT_EQ(*memory.word(0), 2 * i + 1);
    *memory.word(0) = 2 * i + 2;
    ASSERT_EQ(device_.load(memory.word(0)), 2 * i + 2);
  }
  EXPECT_EQ(statistics().coherent_upgrades, 1U);
  std::uint64_t faults = device_.faults();
  // A thread may have gone on before its fault was counted, which has happened by the second answer.
  for (int i = 0; i < 2; ++i) (void)mirror_->device_pages(device_, reinterpret_cast<std::uint64_t>(memory.word(0)));
  std::uint64_t cpu_faults = statistics().cpu_faults;
  for (std::uint64_t i = 0; i < 100; ++i) {
    *memory.word(0) = i;
    ASSERT_EQ(device_.load(memory.word(0)), i);
  }
  EXPECT_EQ(device_.faults(), faults) << "a coherent page faults on neither side";
  EXPECT_EQ(statistics().cpu_faults, cpu_faults);
}

TEST_F(TransitionsTest, ReturnsOutsideTheWindowDoNotMakeCoherent) {
  start({.coherent_after_returns = 2, .coherent_window_ms = 1, .density_percent = 51});
  TestMemory memory(1);
  for (std::uint64_t i = 0; i < 5; ++i) {
    device_.store(memory.word(0), i);
    ASSERT_EQ(*memory.word(0), i);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(statistics().coherent_upgrades, 0U);
}

TEST_F(TransitionsTest, BouncingRegionBecomesCoherentAtOnce) {
  start({.coherent_window_ms = 60'000});  // also on a busy machine
  TestMemory memory(64);
  for (std::uint64_t i = 0; i < 4; ++i) {
    for (std::size_t page = 0; page < 64; ++page) device_.store(memory.word(page), i + page);
    for (std::size_t page = 0; page < 64; ++page) ASSERT_EQ(*memory.word(page), i + page);
  }
  EXPECT_EQ(statistics().coherent_upgrades, 64U);
}

TEST_F(TransitionsTest, BringHomeEndsEveryState) {
  TestMemory memory(8);
  for (std::size_t page = 0; page < 8; ++page) *memory.word(page) = page;
  for (std::uint64_t i = 0; i < 6; ++i) {
    device_.store(memory.word(0), i + 10);
    ASSERT_EQ(*memory.word(0), i + 10);
  }
  ASSERT_EQ(statistics().coherent_upgrades, 1U);
  device_.store(memory.word(5), std::uint64_t{55});
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  EXPECT_EQ(device_.pages_in_use(), 0U);
  std::uint64_t cpu_faults = statistics().cpu_faults;
  EXPECT_EQ(*memory.word(0), 15U);
  EXPECT_EQ(*memory.word(5), 55U);
  EXPECT_EQ(*memory.word(7), 7U);
  EXPECT_EQ(statistics().cpu_faults, cpu_faults) << "at home, nothing faults";
  device_.store(memory.word(5), std::uint64_t{56});
  EXPECT_EQ(*memory.word(5), 56U);
}

TEST_F(TransitionsTest, HoldKeepsDeviceFaultsWaiting) {
  TestMemory memory(1);
  device_.store(memory.word(0), std::uint64_t{1});
  mirror_->hold_home();
  mirror_->hold_home();
  EXPECT_EQ(*memory.word(0), 1U);
  std::atomic<bool> done{false};
  std::thread unit([&] {
    device_.store(memory.word(0), std::uint64_t{2});
    done = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  mirror_->release_hold();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(done) << "holds nest";
  EXPECT_EQ(*memory.word(0), 1U);
  mirror_->release_hold();
  unit.join();
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
  EXPECT_EQ(*memory.word(0), 2U);
}

TEST_F(TransitionsTest, WildAddressesAreRefused) {
  auto read = [&](std::uint64_t address) {
    std::uint64_t value;
    return device_.read(reinterpret_cast<void*>(address), &value, sizeof value);
  };
  TestMemory memory(1);
  ASSERT_EQ(munmap(memory.data(), kPageSize), 0);
  EXPECT_EQ(read(0), FaultKind::kInvalidAddress);
  EXPECT_EQ(read(0x1000), FaultKind::kInvalidAddress);
  EXPECT_EQ(read(reinterpret_cast<std::uint64_t>(memory.data())), FaultKind::kInvalidAddress);
  EXPECT_EQ(read(window::kWindow.start), FaultKind::kInvalidAddress) << "the window is nobody's memory";
  EXPECT_EQ(read(0x8000'0000'0000'0000), FaultKind::kInvalidAddress);
  EXPECT_EQ(statistics().device_faults_failed, 5U);
  *const_cast<volatile std::uint64_t*>(TestMemory(1).word(0)) = 1;
}

TEST_F(TransitionsTest, ProtNoneIsRefused) {
  TestMemory memory(1);
  ASSERT_EQ(mprotect(memory.data(), kPageSize, PROT_NONE), 0);
  device_.load(memory.word(0));
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
}

TEST_F(TransitionsTest, ReadOnlyMemoryIsCopiedAndNotWritten) {
  TestMemory memory(1);
  *memory.word(0) = 77;
  ASSERT_EQ(mprotect(memory.data(), kPageSize, PROT_READ), 0);
  EXPECT_EQ(device_.load(memory.word(0)), 77U);
  EXPECT_EQ(device_.snapshot(memory.word(0)), FakeDevice::kRead);
  EXPECT_EQ(statistics().snapshot_pages, 1U);
  device_.store(memory.word(0), std::uint64_t{78});
  EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly);
  ASSERT_EQ(mprotect(memory.data(), kPageSize, PROT_READ | PROT_WRITE), 0);
  device_.store(memory.word(0), std::uint64_t{79});
  EXPECT_EQ(device_.last_error(), FaultKind::kNone) << "writable by now: mirrored";
  EXPECT_EQ(*memory.word(0), 79U);
}

TEST_F(TransitionsTest, DroppedSnapshotShowsPresentContents) {
  static std::uint64_t global = 1;  // .data: a private file mapping
  EXPECT_EQ(device_.load(&global), 1U);
  global = 2;
  mirror_->drop_snapshots();
  EXPECT_EQ(device_.load(&global), 2U);
  device_.store(&global, std::uint64_t{3});
  EXPECT_EQ(device_.last_error(), FaultKind::kUnmappable);
  EXPECT_EQ(global, 2U);
}

TEST_F(TransitionsTest, FullDeviceMemoryLosesNothing) {
  TestMemory memory(4);
  for (std::size_t page = 0; page < 4; ++page) *memory.word(page) = page + 1;
  device_.fail_copies(1, ENOSPC);
  device_.load(memory.word(1));
  EXPECT_EQ(device_.last_error(), FaultKind::kOutOfMemory);
  for (std::size_t page = 0; page < 4; ++page) EXPECT_EQ(*memory.word(page), page + 1);
  EXPECT_EQ(device_.load(memory.word(1)), 2U);
}

TEST_F(TransitionsTest, DeviceOperationsAreRepeatedAfterEagain) {
  TestMemory memory(1);
  *memory.word(0) = 3;
  device_.answer_again(5);
  EXPECT_EQ(device_.load(memory.word(0)), 3U);
  EXPECT_GE(statistics().retries, 5U);
}

TEST_F(TransitionsTest, LostDeviceKeepsDataAndMayComeBack) {
  TestMemory memory(2);
  device_.store(memory.word(0), std::uint64_t{11});
  device_.store(memory.word(1), std::uint64_t{12});
  device_.lose();
  EXPECT_EQ(*memory.word(0), 11U) << "served from device memory, which outlives the device";
  for (int i = 0; i < 1000 && !device_.lost_was_reported(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(device_.lost_was_reported());
  EXPECT_EQ(statistics().device_losses, 1U);
  device_.restart();
  ASSERT_TRUE(mirror_->attach(device_).has_value());
  EXPECT_EQ(device_.load(memory.word(1)), 12U);
  device_.store(memory.word(0), std::uint64_t{13});
  EXPECT_EQ(*memory.word(0), 13U);
}

TEST_F(TransitionsTest, OneMirrorPerProcess) {
  auto second = Mirror::start();
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(Mirror::probe().has_value());
}

TEST_F(TransitionsTest, InaccessibleNeighbourDoesNotFailTheAccess) {
  TestMemory memory(16);
  for (std::size_t page = 0; page < 16; ++page) *memory.word(page) = page;
  // Registers the whole, and makes it look dense from page 8 on.
  for (std::size_t page = 15; page >= 9; --page) ASSERT_EQ(device_.load(memory.word(page)), page);
  ASSERT_EQ(mprotect(memory.data(), 8 * kPageSize, PROT_NONE), 0);
  device_.store(memory.word(8), std::uint64_t{88});
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
  EXPECT_EQ(*memory.word(8), 88U);
}

TEST_F(TransitionsTest, ReadOnlyPageThatWasNeverTouchedHoldsZeros) {
  TestMemory memory(4);
  device_.store(memory.word(0), std::uint64_t{1});  // registers the range
  ASSERT_EQ(mprotect(memory.data() + kPageSize, kPageSize, PROT_READ), 0);
  EXPECT_EQ(device_.load(memory.word(1)), 0U);
  EXPECT_EQ(device_.last_error(), FaultKind::kNone);
}

// As on kernels before 6.8.
class WithoutMoveTest : public MirrorTest {
 protected:
  void SetUp() override {
    MirrorOptions options;
    options.use_move = false;
    options.coherent_window_ms = 60'000;  // also on a busy machine
    start(options);
  }
};

TEST_F(WithoutMoveTest, PagesGoBothWaysAndBecomeCoherent) {
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; page += 2) *memory.word(page) = page;
  for (std::size_t page = 0; page < 64; ++page) ASSERT_EQ(device_.load(memory.word(page)), page % 2 == 0 ? page : 0);
  EXPECT_GT(statistics().pages_zero_filled, 0U);
  for (std::uint64_t i = 0; i < 5; ++i) {
    for (std::size_t page = 0; page < 64; ++page) {
      device_.store(memory.word(page), i + page);
      ASSERT_EQ(*memory.word(page), i + page);
    }
  }
  EXPECT_EQ(statistics().coherent_upgrades, 64U);
}

TEST_F(WithoutMoveTest, NoWriteIsLostUnderConcurrentWriters) {
  constexpr std::size_t kPages = 16;
  TestMemory memory(kPages);
  std::atomic<bool> stop{false};
  std::uint64_t counts[kPages] = {};
  std::thread writer([&] {
    for (std::size_t i = 0; !stop; i = (i * 1103515245 + 12345) % kPages) {
      auto* mine = reinterpret_cast<volatile std::uint64_t*>(memory.word(i) + 1);
      *mine = *mine + 1;
      ++counts[i];
    }
  });
  std::uint64_t device_counts[kPages] = {};
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  for (std::size_t i = 0; std::chrono::steady_clock::now() < end; i = (i * 48271 + 11) % kPages) {
    device_.store(memory.word(i), device_.load(memory.word(i)) + 1);
    ++device_counts[i];
    if (i == 5) mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  }
  stop = true;
  writer.join();
  for (std::size_t i = 0; i < kPages; ++i) {
    ASSERT_EQ(memory.word(i)[0], device_counts[i]) << i;
    ASSERT_EQ(memory.word(i)[1], counts[i]) << i;
  }
}

TEST_F(WithoutMoveTest, DeviceWritesAfterMadvFreeSurvive) {
  TestMemory memory(4);
  *memory.word(0) = 1;
  *memory.word(1) = 1;
  device_.load(memory.word(3));  // registers the range
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  ASSERT_EQ(madvise(memory.data(), 2 * kPageSize, MADV_FREE), 0);
  mirror_->drain_events();
  device_.store(memory.word(0) + 5, std::uint64_t{7});
  EXPECT_EQ(memory.word(0)[5], 7U);
  EXPECT_TRUE(memory.word(0)[0] <= 1);
}

TEST_F(WithoutMoveTest, RunsThatCrossMappingsLoseNothing) {
  TestMemory memory(64);
  // Two mappings that the kernel does not merge.
  ASSERT_EQ(madvise(memory.data() + 32 * kPageSize, 32 * kPageSize, MADV_HUGEPAGE), 0);
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = page;
  for (std::size_t page = 63; page < 64; --page) ASSERT_EQ(device_.load(memory.word(page)), page);
  for (std::size_t page = 0; page < 64; ++page) device_.store(memory.word(page), 100 + page);
  mirror_->drain_events();
  for (std::size_t page = 0; page < 64; ++page) ASSERT_EQ(*memory.word(page), 100 + page);
}

TEST_F(WithoutMoveTest, UnmapReuseAndDiscard) {
  TestMemory memory(4);
  for (std::uint64_t round = 0; round < 50; ++round) {
    *memory.word(1) = round;
    ASSERT_EQ(device_.load(memory.word(1)), round);
    device_.store(memory.word(2), round + 1);
    if (round % 2 == 0) {
      ASSERT_EQ(munmap(memory.data(), memory.size()), 0);
      ASSERT_NE(
          mmap(memory.data(), memory.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
          MAP_FAILED);
    } else {
      ASSERT_EQ(madvise(memory.data(), memory.size(), MADV_DONTNEED), 0);
    }
    mirror_->drain_events();  // as before each launch
    ASSERT_EQ(device_.load(memory.word(1)), 0U);
    ASSERT_EQ(*memory.word(2), 0U);
  }
}

// --- faults that are expected

TEST_F(MirrorTest, AWalkAtAConstantDistanceIsExpected) {
  constexpr std::size_t kStep = 40;
  TestMemory memory(64 * kStep);
  for (std::size_t i = 0; i < 64; ++i) *memory.word(i * kStep) = i;
  for (std::size_t i = 0; i < 64; ++i) ASSERT_EQ(device_.load(memory.word(i * kStep)), i);
  EXPECT_EQ(statistics().pages_to_device, 64U);
  EXPECT_GT(statistics().pages_brought_ahead, 32U);  // though the device may ask for some before they are there
}

TEST_F(MirrorTest, NothingIsAllocatedOnAGuess) {
  constexpr std::size_t kStep = 40;
  TestMemory memory(64 * kStep);
  for (std::size_t i = 0; i < 8; ++i) *memory.word(i * kStep) = i;
  for (std::size_t i = 0; i < 8; ++i) ASSERT_EQ(device_.load(memory.word(i * kStep)), i);
  EXPECT_EQ(device_.pages_in_use(), 8U);
}

TEST_F(MirrorTest, PagesAheadArePartOfTheMirrorLikeOthers) {
  constexpr std::size_t kStep = 40;
  TestMemory memory(64 * kStep);
  for (std::size_t i = 0; i < 64; ++i) *memory.word(i * kStep) = i;
  for (std::size_t i = 0; i < 8; ++i) ASSERT_EQ(device_.load(memory.word(i * kStep)), i);
  ASSERT_GT(statistics().pages_brought_ahead, 0U);
  for (std::size_t i = 0; i < 64; ++i) exchange(memory.word(i * kStep), 1000 * i);
}

TEST_F(MirrorTest, RegionsOfAStreamGrow) {
  TestMemory memory(512);
  for (std::size_t i = 0; i < 512; ++i) *memory.word(i) = i;
  for (std::size_t i = 0; i < 512; ++i) ASSERT_EQ(device_.load(memory.word(i)), i);
  EXPECT_LT(device_.faults(), 16U);
}

TEST_F(MirrorTest, AStreamThatGoesOnElsewhereTakesWholeBlocksAtOnce) {
  constexpr std::size_t kBlock = 512;
  TestMemory memory(12 * kBlock);
  for (std::size_t i = 0; i < 12 * kBlock; ++i) *memory.word(i) = i;
  for (std::size_t i = 0; i < 4 * kBlock; ++i) ASSERT_EQ(device_.load(memory.word(i)), i);
  const std::uint64_t before = device_.faults();
  for (std::size_t i = 8 * kBlock; i < 9 * kBlock; ++i) ASSERT_EQ(device_.load(memory.word(i)), i);
  EXPECT_LT(device_.faults() - before, 4U);
}

// Read-only memory is not registered, so that no event tells that it has been replaced.
TEST_F(TransitionsTest, WhatMovesToWhereADeviceHasASnapshotIsSeenThere) {
  TestMemory from(2);
  TestMemory to(2);
  device_.store(from.word(1), std::uint64_t{41});
  *from.word(0) = 5;  // at home, in memory that is registered
  ASSERT_EQ(mprotect(to.data(), to.size(), PROT_READ), 0);
  ASSERT_EQ(device_.load(to.word(0)), 0U);
  ASSERT_EQ(device_.load(to.word(1)), 0U);
  ASSERT_GT(statistics().snapshot_pages, 0U);
  for (std::size_t page = 0; page < 2; ++page) {
    ASSERT_EQ(mremap(from.word(page), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to.word(page)),
              to.word(page));
  }
  mirror_->drain_events();
  mirror_->drop_snapshots();
  EXPECT_EQ(device_.load(to.word(0)), 5U);
  EXPECT_EQ(device_.load(to.word(1)), 41U);
  EXPECT_EQ(*to.word(0), 5U);
  EXPECT_EQ(*to.word(1), 41U);
}

}  // namespace
}  // namespace mirrorcl::mirror
