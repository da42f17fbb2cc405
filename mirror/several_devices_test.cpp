// SPDX-License-Identifier: Apache-2.0
// Several fake devices on one mirror: pages go from one to the other without coming home, copies are dropped where
// somebody writes, coherent pages are one memory for all, and events reach every device.
#include <fcntl.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <vector>

#include "mirror/evacuation.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

constexpr std::size_t kDevices = 3;
// Static storage, see FakeDevice.
std::array<std::optional<FakeDevice>, kDevices> g_devices;

class SeveralDevicesTest : public ::testing::Test {
 protected:
  void SetUp() override { start({}); }
  void start(const MirrorOptions& options) {
    mirror_.reset();
    for (auto& device : g_devices) device.emplace();
    auto started = Mirror::start(options);
    ASSERT_TRUE(started.has_value()) << started.error().message;
    mirror_ = std::move(*started);
    for (auto& device : g_devices) ASSERT_TRUE(mirror_->attach(*device).has_value());
  }
  static FakeDevice& device(std::size_t i) { return *g_devices[i]; }
  Statistics statistics() const { return mirror_->statistics(); }

  void expect_kinds(const std::uint64_t* word, std::array<int, kDevices> wanted) {
    for (std::size_t i = 0; i < kDevices; ++i) EXPECT_EQ(device(i).snapshot(word), wanted[i]) << "device " << i;
  }
  // CPU and device 0 write in turn until the page is coherent.
  void make_coherent(std::uint64_t* word) {
    std::atomic_ref<std::uint64_t> shared(*word);
    const std::uint64_t before = statistics().coherent_upgrades;
    for (int i = 0; i < 20 && statistics().coherent_upgrades == before; ++i) {
      shared.fetch_add(1);
      device(0).store(word, shared.load());
    }
    ASSERT_GT(statistics().coherent_upgrades, before);
  }
  // Writes of each of CPU and devices are seen by all the others.
  void expect_one_memory(std::uint64_t* word) {
    std::atomic_ref<std::uint64_t> shared(*word);
    for (std::size_t writer = 0; writer <= kDevices; ++writer) {
      const std::uint64_t value = 0x1000 + writer + shared.load();
      if (writer == kDevices) {
        shared.store(value);
      } else {
        device(writer).store(word, value);
        ASSERT_EQ(device(writer).last_error(), FaultKind::kNone);
      }
      EXPECT_EQ(shared.load(), value);
      for (std::size_t reader = 0; reader < kDevices; ++reader) {
        EXPECT_EQ(device(reader).load(word), value) << "written by " << writer << ", read by " << reader;
      }
    }
  }
  std::uint64_t faults() const {
    const Statistics s = statistics();
    return s.device_faults + s.cpu_faults;
  }

  std::unique_ptr<Mirror> mirror_;
};

constexpr int kNowhere = FakeDevice::kNone;
constexpr int kReadOnly = FakeDevice::kRead;
constexpr int kWritable = FakeDevice::kRead | FakeDevice::kWrite;

TEST_F(SeveralDevicesTest, PageGoesFromDeviceToDeviceWithoutComingHome) {
  TestMemory memory(1);
  *memory.word(0) = 1;
  device(0).store(memory.word(0), std::uint64_t{2});
  EXPECT_EQ(device(1).load(memory.word(0)), 2U);
  expect_kinds(memory.word(0), {kNowhere, kWritable, kNowhere});
  device(2).store(memory.word(0) + 1, std::uint64_t{3});
  expect_kinds(memory.word(0), {kNowhere, kNowhere, kWritable});
  EXPECT_EQ(statistics().pages_to_host, 0U);
  EXPECT_EQ(statistics().pages_between_devices, 2U);
  EXPECT_EQ(memory.word(0)[0], 2U);
  EXPECT_EQ(memory.word(0)[1], 3U);
}

TEST_F(SeveralDevicesTest, DenseRegionGoesAlong) {
  constexpr std::size_t kPages = 64;
  TestMemory memory(kPages);
  for (std::size_t page = 0; page < kPages; ++page) device(0).store(memory.word(page), page);
  for (std::size_t page = 0; page < kPages; ++page) device(1).store(memory.word(page) + 1, 2 * page);
  EXPECT_LT(device(1).faults(), kPages / 2);
  EXPECT_EQ(statistics().pages_between_devices, kPages);
  EXPECT_EQ(statistics().pages_to_host, 0U);
  EXPECT_EQ(device(0).pages_in_use(), 0U);
  for (std::size_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(memory.word(page)[0], page);
    EXPECT_EQ(memory.word(page)[1], 2 * page);
  }
}

TEST_F(SeveralDevicesTest, RegionsOfAStreamOverAnotherDevicesMemoryGrow) {
  constexpr std::size_t kPages = 512;
  TestMemory memory(kPages);
  for (std::size_t page = 0; page < kPages; ++page) device(0).store(memory.word(page), page);
  for (std::size_t page = 0; page < kPages; ++page) device(1).store(memory.word(page) + 1, 2 * page);
  EXPECT_LT(device(1).faults(), 32U);
  EXPECT_EQ(statistics().pages_between_devices, kPages);
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(memory.word(page)[0], page);
}

TEST_F(SeveralDevicesTest, AWalkOverAnotherDevicesMemoryAtAConstantDistanceIsExpected) {
  constexpr std::size_t kStep = 40;
  TestMemory memory(64 * kStep);
  for (std::size_t i = 0; i < 64; ++i) device(0).store(memory.word(i * kStep), i);
  const std::uint64_t before = statistics().pages_brought_ahead;
  for (std::size_t i = 0; i < 64; ++i) device(1).store(memory.word(i * kStep) + 1, 2 * i);
  EXPECT_EQ(statistics().pages_between_devices, 64U);
  EXPECT_GT(statistics().pages_brought_ahead - before, 32U);
  EXPECT_EQ(statistics().pages_to_host, 0U);
  for (std::size_t i = 0; i < 64; ++i) {
    ASSERT_EQ(memory.word(i * kStep)[0], i);
    ASSERT_EQ(memory.word(i * kStep)[1], 2 * i);
  }
}

TEST_F(SeveralDevicesTest, EachDeviceHasItsOwnNumbers) {
  TestMemory memory(4);
  *memory.word(0) = 1;
  device(0).store(memory.word(0), std::uint64_t{2});
  device(1).store(memory.word(0), std::uint64_t{3});
  EXPECT_EQ(*memory.word(0), 3U);
  const DeviceStatistics first = mirror_->statistics(device(0));
  const DeviceStatistics second = mirror_->statistics(device(1));
  const DeviceStatistics third = mirror_->statistics(device(2));
  EXPECT_EQ(first.faults, 1U);
  EXPECT_EQ(first.pages_in, 1U);
  EXPECT_EQ(first.pages_home, 0U);
  EXPECT_EQ(second.faults, 1U);
  EXPECT_EQ(second.pages_in, 0U);
  EXPECT_EQ(second.pages_from_devices, 1U);
  EXPECT_EQ(second.pages_home, 1U);
  EXPECT_EQ(third.faults + third.pages_in + third.pages_home + third.pages_from_devices, 0U);
}

TEST_F(SeveralDevicesTest, EvacuationSpreadsOverAllOfThem) {
  SKIP_UNDER_THREAD_SANITIZER();
  std::vector<std::uint64_t> heap(16 * kBlockSize / sizeof(std::uint64_t));
  std::array<DeviceOperations*, kDevices> all;
  for (std::size_t i = 0; i < kDevices; ++i) all[i] = &device(i);
  {
    Evacuation evacuation(*mirror_, all);
    for (std::uint64_t round = 1; evacuation.sweeps() < 20; ++round) {
      for (std::size_t i = 0; i < heap.size(); i += 512) ASSERT_EQ(++heap[i], round);
    }
  }
  for (std::size_t i = 0; i < kDevices; ++i) EXPECT_GT(mirror_->statistics(device(i)).pages_in, 0U) << "device " << i;
}

class CopiesTest : public SeveralDevicesTest {
 protected:
  static constexpr std::size_t kPages = 128;
  static constexpr std::size_t kLate = kPages - 1;  // of those that are read in bulk
  void SetUp() override {
    SeveralDevicesTest::SetUp();
    for (std::size_t page = 0; page < kPages; ++page) device(0).store(memory_.word(page), page);
    for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(device(1).load(memory_.word(page)), page);
    expect_kinds(memory_.word(kLate), {kReadOnly, kReadOnly, kNowhere});
  }
  TestMemory memory_{kPages};
};

TEST_F(CopiesTest, OwnerWrites) {
  device(0).store(memory_.word(kLate), std::uint64_t{1000});
  expect_kinds(memory_.word(kLate), {kWritable, kNowhere, kNowhere});
  EXPECT_EQ(device(1).load(memory_.word(kLate)), 1000U);
  EXPECT_EQ(*memory_.word(kLate), 1000U);
}

TEST_F(CopiesTest, HolderOfACopyWrites) {
  device(1).store(memory_.word(kLate), std::uint64_t{1000});
  expect_kinds(memory_.word(kLate), {kNowhere, kWritable, kNowhere});
  EXPECT_EQ(device(0).load(memory_.word(kLate)), 1000U);
  EXPECT_EQ(*memory_.word(kLate), 1000U);
}

TEST_F(CopiesTest, AThirdReadsAndAnotherThirdWrites) {
  EXPECT_EQ(device(2).load(memory_.word(kLate)), kLate);
  expect_kinds(memory_.word(kLate), {kReadOnly, kReadOnly, kReadOnly});
  EXPECT_EQ(statistics().pages_to_host, 0U);
  device(2).store(memory_.word(kLate), std::uint64_t{1000});
  expect_kinds(memory_.word(kLate), {kNowhere, kNowhere, kWritable});
  EXPECT_EQ(*memory_.word(kLate), 1000U);
}

TEST_F(CopiesTest, StrangerWrites) {
  device(2).store(memory_.word(kLate) + 1, std::uint64_t{1000});
  expect_kinds(memory_.word(kLate), {kNowhere, kNowhere, kWritable});
  EXPECT_EQ(memory_.word(kLate)[0], kLate);
  EXPECT_EQ(memory_.word(kLate)[1], 1000U);
}

TEST_F(CopiesTest, HostWrites) {
  *memory_.word(kLate) = 1000;
  expect_kinds(memory_.word(kLate), {kNowhere, kNowhere, kNowhere});
  EXPECT_EQ(device(0).load(memory_.word(kLate)), 1000U);
}

TEST_F(CopiesTest, HostReadsInBulkToo) {
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory_.word(page), page);
  expect_kinds(memory_.word(kLate), {kReadOnly, kReadOnly, kNowhere});
  const std::uint64_t home = statistics().pages_to_host;
  EXPECT_EQ(device(2).load(memory_.word(kLate)), kLate);
  expect_kinds(memory_.word(kLate), {kReadOnly, kReadOnly, kReadOnly});
  *memory_.word(kLate) = 1000;
  expect_kinds(memory_.word(kLate), {kNowhere, kNowhere, kNowhere});
  // Each of the others, on pages further down that all have.
  device(1).store(memory_.word(80), std::uint64_t{1001});
  expect_kinds(memory_.word(80), {kNowhere, kWritable, kNowhere});
  device(2).store(memory_.word(60), std::uint64_t{1002});
  EXPECT_EQ(device(0).load(memory_.word(60)), 1002U);
  EXPECT_EQ(*memory_.word(80), 1001U);
  EXPECT_EQ(*memory_.word(60), 1002U);
  EXPECT_GE(statistics().pages_to_host, home);
}

TEST_F(CopiesTest, Events) {
  char* start = memory_.data();
  ASSERT_EQ(madvise(start, 16 * kPageSize, MADV_DONTNEED), 0);
  ASSERT_EQ(munmap(start + 16 * kPageSize, 16 * kPageSize), 0);
  ASSERT_NE(mremap(start + 96 * kPageSize, 16 * kPageSize, 16 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED,
                   start + 16 * kPageSize),
            MAP_FAILED);
  mirror_->drain_events();
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(device(i).load(memory_.word(3)), 0U);
    EXPECT_EQ(device(i).load(memory_.word(20)), 100U);
    device(i).load(memory_.word(100));
    EXPECT_EQ(device(i).last_error(), FaultKind::kInvalidAddress);
  }
  EXPECT_EQ(*memory_.word(20), 100U);
}

TEST_F(CopiesTest, BringHomeAndFork) {
  pid_t child = fork();
  if (child == 0) _exit(*memory_.word(kLate) == kLate && *memory_.word(2) == 2 ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (std::size_t i = 0; i < kDevices; ++i) EXPECT_EQ(device(i).pages_in_use(), 0U);
  device(1).store(memory_.word(kLate), std::uint64_t{7});
  EXPECT_EQ(device(0).load(memory_.word(kLate)), 7U);
}

class CoherentTest : public SeveralDevicesTest {
 protected:
  void SetUp() override {
    SeveralDevicesTest::SetUp();
    ASSERT_NO_FATAL_FAILURE(make_coherent(memory_.word(0)));
  }
  TestMemory memory_{4};
};

TEST_F(CoherentTest, IsOneMemoryForAllWithoutFaults) {
  for (std::size_t i = 0; i < kDevices; ++i) device(i).load(memory_.word(0));
  EXPECT_EQ(statistics().coherent_pages_shared, 2U);
  EXPECT_EQ(device(1).mapped_files(), 1U);
  const std::uint64_t before = faults();
  expect_one_memory(memory_.word(0));
  EXPECT_EQ(faults(), before);
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), memory_.size()});
  EXPECT_EQ(device(1).mapped_files(), 0U);
  EXPECT_EQ(device(2).mapped_files(), 0U);
  expect_one_memory(memory_.word(0));
}

TEST_F(CoherentTest, UnmapDiscardAndMove) {
  device(1).store(memory_.word(0), std::uint64_t{50});
  ASSERT_EQ(madvise(memory_.data(), kPageSize, MADV_DONTNEED), 0);
  mirror_->drain_events();
  EXPECT_EQ(device(1).load(memory_.word(0)), 0U);
  expect_one_memory(memory_.word(0));
  const std::uint64_t value = *memory_.word(0);
  ASSERT_NE(mremap(memory_.data(), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, memory_.data() + 2 * kPageSize),
            MAP_FAILED);
  mirror_->drain_events();
  EXPECT_EQ(device(1).mapped_files(), 0U);
  EXPECT_EQ(device(1).load(memory_.word(2)), value);
  device(2).load(memory_.word(0));
  EXPECT_EQ(device(2).last_error(), FaultKind::kInvalidAddress);
  expect_one_memory(memory_.word(2));
  ASSERT_EQ(munmap(memory_.data() + 2 * kPageSize, kPageSize), 0);
  mirror_->drain_events();
  device(1).load(memory_.word(2));
  EXPECT_EQ(device(1).last_error(), FaultKind::kInvalidAddress);
  EXPECT_EQ(device(1).mapped_files(), 0U);
}

TEST_F(CoherentTest, ProtectionIsFollowedBothWays) {
  device(1).store(memory_.word(0), std::uint64_t{50});
  ASSERT_EQ(mprotect(memory_.data(), kPageSize, PROT_READ), 0);
  mirror_->drain_events();
  for (std::size_t i = 0; i < kDevices; ++i) {
    EXPECT_EQ(device(i).load(memory_.word(0)), 50U);
    device(i).store(memory_.word(0), std::uint64_t{60});
    EXPECT_NE(device(i).last_error(), FaultKind::kNone) << "device " << i;
  }
  ASSERT_EQ(mprotect(memory_.data(), kPageSize, PROT_READ | PROT_WRITE), 0);
  mirror_->drain_events();
  expect_one_memory(memory_.word(0));
}

TEST_F(CoherentTest, OwnerDiesRestartsAndLeaves) {
  device(1).store(memory_.word(0), std::uint64_t{50});
  device(0).lose();
  for (int i = 0; i < 1000 && !device(0).lost_was_reported(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(device(1).load(memory_.word(0)), 50U);
  device(0).restart();
  ASSERT_TRUE(mirror_->attach(device(0)).has_value());
  expect_one_memory(memory_.word(0));
  const std::uint64_t value = *memory_.word(0);
  EXPECT_EQ(mirror_->detach(device(0)), 0);
  EXPECT_EQ(device(0).pages_in_use(), 0U);
  EXPECT_EQ(device(1).load(memory_.word(0)), value);
}

TEST_F(CoherentTest, OtherDeviceRestarts) {
  device(1).store(memory_.word(0), std::uint64_t{50});
  device(1).lose();
  for (int i = 0; i < 1000 && !device(1).lost_was_reported(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  device(1).restart();
  ASSERT_TRUE(mirror_->attach(device(1)).has_value());
  expect_one_memory(memory_.word(0));
}

TEST_F(CoherentTest, DeviceThatCannotMapItEndsIt) {
  device(1).map_no_files();
  EXPECT_EQ(device(1).load(memory_.word(0)), *memory_.word(0));
  EXPECT_EQ(statistics().coherent_upgrades, 1U);
  for (int i = 0; i < 5; ++i) expect_one_memory(memory_.word(0));
  EXPECT_EQ(statistics().coherent_upgrades, 1U) << "the page goes back and forth from then on";
}

TEST_F(SeveralDevicesTest, PageThatGoesBackAndForthBetweenDevicesBecomesCoherent) {
  TestMemory memory(1);
  for (std::uint64_t i = 0; i < 20; ++i) {
    device(i % 2).store(memory.word(0), i);
    ASSERT_EQ(device((i + 1) % 2).load(memory.word(0)), i);
  }
  EXPECT_EQ(statistics().coherent_upgrades, 1U);
  EXPECT_EQ(statistics().pages_to_host, 0U);
  const std::uint64_t before = faults();
  device(0).store(memory.word(0), std::uint64_t{100});
  EXPECT_EQ(device(1).load(memory.word(0)), 100U);
  EXPECT_EQ(faults(), before);
  expect_one_memory(memory.word(0));
}

TEST_F(SeveralDevicesTest, SharedFileIsMappedByEachAndUnmappedFromEach) {
  const int file = memfd_create("several-devices", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(file, 4 * kPageSize), 0);
  auto* words = static_cast<std::uint64_t*>(mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  expect_one_memory(words);
  for (std::size_t i = 0; i < kDevices; ++i) EXPECT_EQ(device(i).mapped_files(), 1U);
  // A new process of one maps nothing; the others still do.
  device(1).lose();
  for (int i = 0; i < 1000 && !device(1).lost_was_reported(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  device(1).restart();
  ASSERT_TRUE(mirror_->attach(device(1)).has_value());
  EXPECT_EQ(device(1).mapped_files(), 0U);
  EXPECT_EQ(device(0).mapped_files(), 1U);
  expect_one_memory(words);
  ASSERT_EQ(munmap(words, 4 * kPageSize), 0);
  mirror_->drain_events();
  for (std::size_t i = 0; i < kDevices; ++i) {
    EXPECT_EQ(device(i).mapped_files(), 0U);
    device(i).load(words);
    EXPECT_EQ(device(i).last_error(), FaultKind::kInvalidAddress);
  }
  close(file);
}

TEST_F(SeveralDevicesTest, SnapshotsOfEach) {
  static constexpr std::uint64_t kConstant = 0x1234'5678'9abc'def0;
  for (std::size_t i = 0; i < kDevices; ++i) EXPECT_EQ(device(i).load(&kConstant), kConstant);
  expect_kinds(&kConstant, {kReadOnly, kReadOnly, kReadOnly});
  device(1).store(const_cast<std::uint64_t*>(&kConstant), std::uint64_t{1});
  EXPECT_NE(device(1).last_error(), FaultKind::kNone);
  mirror_->drop_snapshots();
  expect_kinds(&kConstant, {kNowhere, kNowhere, kNowhere});
}

TEST_F(SeveralDevicesTest, MemoryOfOneIsFull) {
  constexpr std::size_t kBlocks = 8;
  constexpr std::size_t kPages = kBlocks * kBlockPages;
  device(1).limit_memory(4 * kBlockSize);
  TestMemory memory(kPages);
  for (std::size_t page = 0; page < kPages; ++page) *memory.word(page) = page;
  for (std::size_t page = 0; page < kPages; ++page) device(0).store(memory.word(page) + 1, page);
  for (std::size_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(device(1).load(memory.word(page)), page);
    device(1).store(memory.word(page) + 2, page);
    ASSERT_EQ(device(1).last_error(), FaultKind::kNone);
  }
  EXPECT_LE(device(1).pages_in_use(), 4 * kBlockPages);
  EXPECT_GT(statistics().evictions, 0U);
  for (std::size_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(device(0).load(memory.word(page) + 2), page);
    ASSERT_EQ(memory.word(page)[1], page);
  }
}

TEST_F(SeveralDevicesTest, DeviceThatRefusesAPageLosesNothing) {
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) device(0).store(memory.word(page), page);
  for (std::size_t page : {0U, 16U, 32U, 48U}) {
    device(1).fail_copies(1, ENOSPC);
    device(1).store(memory.word(page), std::uint64_t{1000});
    EXPECT_EQ(device(1).last_error(), FaultKind::kOutOfMemory);
    device(0).store(memory.word(page), page + 1);
    ASSERT_EQ(device(0).last_error(), FaultKind::kNone);
    EXPECT_EQ(device(1).load(memory.word(page)), page + 1);
  }
  for (std::size_t page = 1; page < 16; ++page) ASSERT_EQ(device(1).load(memory.word(page)), page);
  // Of a run some pages are refused once: only then the page that is waited for goes alone.
  device(1).fail_copies(1, ENOSPC);
  for (std::size_t page = 17; page < 32; ++page) ASSERT_EQ(device(1).load(memory.word(page)), page);
  EXPECT_EQ(device(1).last_error(), FaultKind::kNone);
  for (std::size_t page = 1; page < 16; ++page) ASSERT_EQ(*memory.word(page), page);
}

TEST_F(SeveralDevicesTest, ServiceIsRepeatedAfterEagain) {
  TestMemory memory(64);
  for (std::size_t page = 0; page < 64; ++page) device(0).store(memory.word(page), page);
  for (std::size_t page = 0; page < 64; ++page) {
    device(1).answer_again(3);
    ASSERT_EQ(device(1).load(memory.word(page)), page);
  }
  EXPECT_GE(statistics().retries, 3U);
}

TEST_F(SeveralDevicesTest, PagesOfADeadDeviceAreServedFromItsMemory) {
  TestMemory memory(2);
  device(0).store(memory.word(0), std::uint64_t{11});
  device(0).lose();
  for (int i = 0; i < 1000 && !device(0).lost_was_reported(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  device(1).store(memory.word(1), std::uint64_t{12});
  EXPECT_EQ(device(1).load(memory.word(0)), 11U);
  EXPECT_EQ(statistics().pages_to_host, 0U);
  EXPECT_EQ(statistics().device_losses, 1U);
}

TEST_F(SeveralDevicesTest, ADeviceLeavesAndAnotherComes) {
  static std::array<std::optional<FakeDevice>, 2> others;
  for (auto& other : others) other.emplace();
  ASSERT_TRUE(mirror_->attach(*others[0]).has_value());
  auto refused = mirror_->attach(*others[1]);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kNotSupported);
  TestMemory memory(40);
  for (std::size_t page = 0; page < 40; ++page) device(1).store(memory.word(page), page);
  for (std::size_t page = 20; page < 40; ++page) ASSERT_EQ(device(2).load(memory.word(page)), page);
  EXPECT_EQ(mirror_->detach(device(1)), 0);
  EXPECT_EQ(mirror_->detach(device(1)), -ENODEV);
  EXPECT_EQ(device(1).pages_in_use(), 0U);
  ASSERT_TRUE(mirror_->attach(*others[1]).has_value());
  for (std::size_t page = 0; page < 40; ++page) {
    ASSERT_EQ(others[1]->load(memory.word(page)), page);
    ASSERT_EQ(device(2).load(memory.word(page)), page);
    ASSERT_EQ(*memory.word(page), page);
  }
  EXPECT_EQ(mirror_->bring_in(device(1), {reinterpret_cast<std::uint64_t>(memory.data()), kPageSize}, Untouched::kSkip),
            -ENODEV);
  mirror_.reset();
}

TEST_F(SeveralDevicesTest, AskedForPagesGoStraightToTheDevice) {
  TestMemory memory(64);
  const Range range{reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
  for (std::size_t page = 0; page < 32; ++page) *memory.word(page) = page;
  for (std::size_t page = 16; page < 48; ++page) device(0).store(memory.word(page), page);
  ASSERT_NO_FATAL_FAILURE(make_coherent(memory.word(20)));
  const std::uint64_t value = *memory.word(20);
  // A fault that the upgrade itself has served may be read once more, and would bring the page home.
  for (int i = 0; i < 2; ++i) (void)mirror_->device_pages(device(0), range.start);
  EXPECT_EQ(mirror_->bring_in(device(1), range, Untouched::kSkip), 0);
  EXPECT_TRUE(mirror_->device_pages(device(1), range.start).all_of({0, 48}));
  EXPECT_TRUE(mirror_->device_pages(device(0), range.start).none());
  const std::uint64_t before = device(1).faults();
  for (std::size_t page = 0; page < 48; ++page) ASSERT_EQ(device(1).load(memory.word(page)), page == 20 ? value : page);
  EXPECT_EQ(device(1).faults(), before);
}

// CPU threads and all devices at once, each on words of its own in shared pages.
class ConcurrentDevicesTest : public SeveralDevicesTest {
 protected:
  static constexpr std::size_t kPages = 48;
  static constexpr std::size_t kOwners = kDevices + 2;

  // Counts what went wrong, and tells of the first few.
  struct Wrong {
    std::atomic<std::uint64_t> count{0};
    void expect(const char* what, std::size_t owner, std::size_t page, FaultKind kind, std::uint64_t found,
                std::uint64_t expected) {
      if (kind == FaultKind::kNone && found == expected) return;
      if (++count > 10) return;
      std::printf("%s by %zu on page %zu: kind %d, found %llu, expected %llu\n", what, owner, page,
                  static_cast<int>(kind), static_cast<unsigned long long>(found),
                  static_cast<unsigned long long>(expected));
    }
  };

  void run_concurrently(const MirrorOptions& options, bool parallel_copies = false) {
    ASSERT_NO_FATAL_FAILURE(start(options));
    if (parallel_copies) {
      for (std::size_t i = 0; i < kDevices; ++i) device(i).allow_parallel_copies();
    }
    TestMemory memory(kPages);
    std::atomic<bool> stop{false};
    Wrong wrong;
    std::vector<std::thread> threads;
    for (std::size_t owner = 0; owner < kOwners; ++owner) {
      threads.emplace_back([&, owner] {
        std::array<std::uint64_t, kPages> expected{};
        std::uint64_t random = owner + 1;
        for (std::uint64_t i = 0; !stop; ++i) {
          random = random * 6364136223846793005 + 1442695040888963407;
          // Now and then a stretch is read, which leaves copies.
          const std::size_t first = (random >> 33) % kPages;
          const std::size_t count = i % 16 == 0 ? kPages - first : 1;
          for (std::size_t page = first; page < first + count; ++page) {
            std::uint64_t* word = memory.word(page) + 8 * owner;
            const bool writes = count == 1 && (random >> 20) % 2 == 0;
            if (owner >= kDevices) {
              std::atomic_ref<std::uint64_t> mine(*word);
              wrong.expect("read", owner, page, FaultKind::kNone, mine.load(), expected[page]);
              if (writes) mine.store(++expected[page]);
            } else {
              FakeDevice& mine = device(owner);
              std::uint64_t found = 0;
              const FaultKind kind = mine.read(word, &found, sizeof found);
              wrong.expect("read", owner, page, kind, found, expected[page]);
              if (!writes) continue;
              ++expected[page];
              wrong.expect("write", owner, page, mine.write(word, &expected[page], sizeof found), 0, 0);
            }
          }
        }
        for (std::size_t page = 0; page < kPages; ++page) {
          wrong.expect("last", owner, page, FaultKind::kNone, memory.word(page)[8 * owner], expected[page]);
        }
      });
    }
    const Range range{reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(800);
    for (std::size_t round = 0; std::chrono::steady_clock::now() < end; ++round) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      if (round % 4 == 0) mirror_->bring_home(range);
      if (round % 4 == 2) (void)mirror_->bring_in(device(round / 4 % kDevices), range, Untouched::kSkip);
    }
    stop = true;
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(wrong.count, 0U);
    EXPECT_GT(statistics().pages_between_devices, 0U);
  }
};

TEST_F(ConcurrentDevicesTest, DefaultPolicy) {
  run_concurrently({});
}

TEST_F(ConcurrentDevicesTest, NothingBecomesCoherent) {
  MirrorOptions options;
  options.coherent_after_returns = 0;
  run_concurrently(options, true);
}

TEST_F(ConcurrentDevicesTest, WithoutMove) {
  MirrorOptions options;
  options.use_move = false;
  run_concurrently(options);
}

}  // namespace
}  // namespace mirrorcl::mirror
