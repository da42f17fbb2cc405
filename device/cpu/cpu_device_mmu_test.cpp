// SPDX-License-Identifier: Apache-2.0
// The operations table on D's page tables and on device memory.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/unique_fd.h"
#include "device/cpu/cpu_device_fixture.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::DeviceFault;
using mirror::Range;

constexpr std::uint64_t kPage = window::kPageSize;
// Free in this process, or not: the device's view of it is its own.
constexpr std::uint64_t kBase = 0x3000'0000'0000;

class CpuDeviceMmu : public CpuDeviceTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::SetUp());
    out_ = shared_array<std::uint64_t>(8);
    page_.assign(kPage * 64 / 8, 0);
  }

  // Answers every fault by failing it, and remembers it.
  void fail_faults() {
    start_mirror([this](const DeviceFault& fault) {
      {
        const std::lock_guard lock(mutex_);
        last_fault_ = fault;
      }
      device_->fail(fault, fault.protection ? FaultKind::kReadOnly : FaultKind::kInvalidAddress);
    });
  }

  DeviceFault last_fault() {
    const std::lock_guard lock(mutex_);
    return last_fault_;
  }

  bool readable(std::uint64_t address) { return run(kernel_read, {address, out_}) == kStatusComplete; }
  bool writable(std::uint64_t address) { return run(kernel_write, {address, 77U}) == kStatusComplete; }

  std::uint64_t* out_ = nullptr;
  std::vector<std::uint64_t> page_;
  std::mutex mutex_;
  DeviceFault last_fault_{};
};

TEST_F(CpuDeviceMmu, AFaultIsServedWithTheHostsContents) {
  auto host = std::make_unique<std::uint64_t[]>(3 * kPage / 8);
  auto address = reinterpret_cast<std::uint64_t>(host.get()) / kPage * kPage + kPage + 64;
  *reinterpret_cast<std::uint64_t*>(address) = 0x1122334455667788;
  start_mirror([&](const DeviceFault& fault) {
    EXPECT_EQ(fault.address, address / kPage * kPage);
    EXPECT_EQ(fault.access, Access::kRead);
    EXPECT_FALSE(fault.protection);
    EXPECT_LT(fault.requester, device_->compute_units());
    Range range{fault.address, kPage};
    EXPECT_EQ(device_->copy_in(range, reinterpret_cast<void*>(fault.address)), 0);
    EXPECT_EQ(device_->map(range, Access::kReadWrite), 0);
  });
  ASSERT_EQ(run(kernel_read, {address, out_}), kStatusComplete);
  EXPECT_EQ(out_[0], 0x1122334455667788U);
  EXPECT_EQ(faults_.load(), 1);
  ASSERT_EQ(run(kernel_write, {address, 5U}), kStatusComplete);
  EXPECT_EQ(faults_.load(), 1);
  EXPECT_EQ(*reinterpret_cast<std::uint64_t*>(address), 0x1122334455667788U);  // device memory is its own
  std::uint64_t copy[kPage / 8];
  ASSERT_EQ(device_->copy_out({address / kPage * kPage, kPage}, copy), 0);
  EXPECT_EQ(copy[8], 5U);
}

TEST_F(CpuDeviceMmu, MapInstallsWritableOrReadOnlyMappings) {
  fail_faults();
  page_[0] = 3;
  page_[kPage / 8] = 4;
  ASSERT_EQ(device_->copy_in({kBase, 2 * kPage}, page_.data()), 0);
  EXPECT_FALSE(readable(kBase));  // a device page without a mapping
  ASSERT_EQ(device_->map({kBase, kPage}, Access::kRead), 0);
  ASSERT_EQ(device_->map({kBase + kPage, kPage}, Access::kReadWrite), 0);
  ASSERT_TRUE(readable(kBase));
  EXPECT_EQ(out_[0], 3U);
  EXPECT_FALSE(writable(kBase));
  EXPECT_TRUE(last_fault().protection);
  EXPECT_EQ(last_fault().access, Access::kReadWrite);
  EXPECT_EQ(last_error_.kind, FaultKind::kReadOnly);
  EXPECT_TRUE(writable(kBase + kPage));
}

TEST_F(CpuDeviceMmu, MapLeavesMappedPagesAloneAndSkipsHoles) {
  fail_faults();
  ASSERT_EQ(device_->copy_in({kBase, 8 * kPage}, page_.data()), 0);
  ASSERT_EQ(device_->map({kBase + 2 * kPage, kPage}, Access::kReadWrite), 0);
  ASSERT_EQ(device_->unmap({kBase + 5 * kPage, kPage}), 0);
  ASSERT_EQ(device_->map({kBase, 8 * kPage}, Access::kRead), 0);
  for (std::uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(readable(kBase + i * kPage), i != 5) << i;
    EXPECT_EQ(writable(kBase + i * kPage), i == 2) << i;
  }
  EXPECT_EQ(device_->map({kBase, 8 * kPage}, Access::kRead), 0);
}

TEST_F(CpuDeviceMmu, ProtectChangesMappingsBothWays) {
  fail_faults();
  ASSERT_EQ(device_->copy_in({kBase, 4 * kPage}, page_.data()), 0);
  ASSERT_EQ(device_->map({kBase, 4 * kPage}, Access::kReadWrite), 0);
  ASSERT_TRUE(writable(kBase + kPage));
  ASSERT_EQ(device_->protect({kBase, 4 * kPage}, Access::kRead), 0);
  EXPECT_FALSE(writable(kBase + kPage));
  EXPECT_TRUE(readable(kBase + kPage));
  EXPECT_EQ(out_[0], 77U);
  ASSERT_EQ(device_->protect({kBase, 4 * kPage}, Access::kReadWrite), 0);
  EXPECT_TRUE(writable(kBase + kPage));
}

TEST_F(CpuDeviceMmu, ProtectForWritingReplaysTheWaitingWrite) {
  ASSERT_EQ(device_->copy_in({kBase, kPage}, page_.data()), 0);
  ASSERT_EQ(device_->map({kBase, kPage}, Access::kRead), 0);
  start_mirror([&](const DeviceFault& fault) {
    EXPECT_TRUE(fault.protection);
    EXPECT_EQ(device_->protect({fault.address, kPage}, Access::kReadWrite), 0);
  });
  EXPECT_TRUE(writable(kBase));
  EXPECT_EQ(faults_.load(), 1);
}

TEST_F(CpuDeviceMmu, UnmapRemovesMappingsAndContents) {
  fail_faults();
  page_[0] = 9;
  ASSERT_EQ(device_->copy_in({kBase, 2 * kPage}, page_.data()), 0);
  ASSERT_EQ(device_->map({kBase, 2 * kPage}, Access::kReadWrite), 0);
  ASSERT_TRUE(readable(kBase));
  ASSERT_EQ(device_->unmap({kBase, kPage}), 0);
  EXPECT_FALSE(readable(kBase));
  EXPECT_FALSE(last_fault().protection);
  EXPECT_TRUE(readable(kBase + kPage));
  std::uint64_t copy[kPage / 8];
  ASSERT_EQ(device_->copy_out({kBase, kPage}, copy), 0);
  EXPECT_EQ(copy[0], 0U);
}

TEST_F(CpuDeviceMmu, AReadOnlyPageThatWasUnmappedComesBackWritable) {
  fail_faults();
  ASSERT_EQ(device_->copy_in({kBase, kPage}, page_.data()), 0);
  ASSERT_EQ(device_->map({kBase, kPage}, Access::kRead), 0);
  ASSERT_TRUE(readable(kBase));
  ASSERT_EQ(device_->unmap({kBase, kPage}), 0);
  ASSERT_EQ(device_->copy_in({kBase, kPage}, page_.data()), 0);
  ASSERT_EQ(device_->map({kBase, kPage}, Access::kReadWrite), 0);
  EXPECT_TRUE(writable(kBase));
}

TEST_F(CpuDeviceMmu, ZeroFillKeepsExistingPages) {
  fail_faults();
  page_[0] = 9;
  ASSERT_EQ(device_->copy_in({kBase + kPage, kPage}, page_.data()), 0);
  ASSERT_EQ(device_->zero_fill({kBase, 3 * kPage}), 0);
  ASSERT_EQ(device_->map({kBase, 3 * kPage}, Access::kReadWrite), 0);
  for (std::uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(readable(kBase + i * kPage));
    EXPECT_EQ(out_[0], i == 1 ? 9U : 0U);
  }
}

TEST_F(CpuDeviceMmu, CopyInReportsAnUnreadableSource) {
  EXPECT_EQ(device_->copy_in({kBase, kPage}, reinterpret_cast<void*>(0x1000)), -EFAULT);
}

TEST_F(CpuDeviceMmu, ReplayWithoutAMappingFaultsAgain) {
  std::atomic<int> seen{0};
  start_mirror([&](const DeviceFault& fault) {
    if (++seen < 5) {
      EXPECT_EQ(device_->replay({fault.address, kPage}), 0);
    } else {
      EXPECT_EQ(device_->zero_fill({fault.address, kPage}), 0);
      EXPECT_EQ(device_->map({fault.address, kPage}, Access::kReadWrite), 0);
    }
  });
  EXPECT_TRUE(readable(kBase));
  EXPECT_EQ(seen.load(), 5);
}

TEST_F(CpuDeviceMmu, ALateVerdictHitsNobody) {
  // The first message of a group is answered twice: by serving it, and by failing it when the group is long over.
  std::vector<DeviceFault> old;
  start_mirror([&](const DeviceFault& fault) {
    EXPECT_EQ(device_->zero_fill({fault.address, kPage}), 0);
    EXPECT_EQ(device_->map({fault.address, kPage}, Access::kReadWrite), 0);
    old.push_back(fault);
  });
  ASSERT_TRUE(readable(kBase));
  stop_mirror();
  ASSERT_EQ(old.size(), 1U);
  auto* flag = shared_array<std::uint32_t>(1);
  Signal* innocent = launch(kernel_spin, {flag}, Grid::of_groups(8));
  while (device_->wait(innocent, 5'000'000) > kStatusRunning) {  // queued and submitted: the machine is busy
  }
  ASSERT_EQ(device_->wait(innocent, 5'000'000), kStatusRunning);
  EXPECT_EQ(device_->fail(old[0], FaultKind::kInvalidAddress), 0);
  EXPECT_EQ(device_->wait(innocent, 5'000'000), kStatusRunning);
  std::atomic_ref<std::uint32_t>(*flag).store(1);
  EXPECT_EQ(device_->wait(innocent, kPatience), kStatusComplete);
}

TEST_F(CpuDeviceMmu, SharedRangesNeedNoService) {
  fail_faults();
  constexpr std::uint64_t kSize = 16 * kPage;
  void* here = mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(here, MAP_FAILED);
  const auto start = reinterpret_cast<std::uint64_t>(here);
  ASSERT_TRUE(device_->share({start, kSize}));
  ASSERT_EQ(mmap(here, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device_->memory_fd(),
                 static_cast<off_t>(start)),
            here);
  auto* word = static_cast<volatile std::uint64_t*>(here);
  word[10] = 0xabc;
  ASSERT_TRUE(readable(start + 80));
  EXPECT_EQ(out_[0], 0xabcU);
  ASSERT_TRUE(writable(start + kPage));
  EXPECT_EQ(word[kPage / 8], 77U);
  EXPECT_EQ(faults_.load(), 0);

  ASSERT_TRUE(device_->unshare({start + kPage, kPage}));
  EXPECT_TRUE(readable(start));
  EXPECT_FALSE(readable(start + kPage));
  EXPECT_TRUE(readable(start + 2 * kPage));
  munmap(here, kSize);
}

TEST_F(CpuDeviceMmu, MappedInBulkNothingFaults) {
  constexpr std::uint64_t kSize = 64 * window::kMiB;
  ASSERT_EQ(device_->zero_fill({kBase, kSize}), 0);
  ASSERT_EQ(device_->map({kBase, kSize}, Access::kReadWrite), 0);
  fail_faults();
  ASSERT_EQ(run(kernel_sum, {kBase, kSize / 8, out_}), kStatusComplete);
  EXPECT_EQ(out_[0], 0U);
  EXPECT_EQ(faults_.load(), 0);
  ASSERT_EQ(device_->unmap({kBase, kSize}), 0);
}

class CpuDeviceFile : public CpuDeviceMmu {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(CpuDeviceMmu::SetUp());
    file_.reset(memfd_create("test-file", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file_.get(), 64 * kPage), 0);
    fail_faults();
  }
  void put(std::uint64_t offset, std::uint64_t word) {
    ASSERT_EQ(pwrite(file_.get(), &word, sizeof word, static_cast<off_t>(offset)), 8);
  }
  std::uint64_t get(std::uint64_t offset) const {
    std::uint64_t word = 0;
    EXPECT_EQ(pread(file_.get(), &word, sizeof word, static_cast<off_t>(offset)), 8);
    return word;
  }

  UniqueFd file_;
};

TEST_F(CpuDeviceFile, IsSharedWithTheDevice) {
  const Range range{kBase, 16 * kPage};
  ASSERT_EQ(device_->map_file(range, file_.get(), 8 * kPage, Access::kReadWrite), 0);
  put(8 * kPage, 0x11);
  ASSERT_TRUE(readable(kBase));
  EXPECT_EQ(out_[0], 0x11U);
  ASSERT_TRUE(writable(kBase + 15 * kPage + 8));
  EXPECT_EQ(get(23 * kPage + 8), 77U);
  EXPECT_EQ(faults_.load(), 0);
  EXPECT_FALSE(readable(kBase + 16 * kPage)) << "what lies behind is device memory";
  EXPECT_EQ(faults_.load(), 1);
}

TEST_F(CpuDeviceFile, CanBeReadOnly) {
  const Range range{kBase, 4 * kPage};
  ASSERT_EQ(device_->map_file(range, file_.get(), 0, Access::kRead), 0);
  EXPECT_TRUE(readable(kBase));
  EXPECT_FALSE(writable(kBase));
  EXPECT_EQ(last_error_.kind, FaultKind::kReadOnly);
  EXPECT_EQ(last_error_.address, kBase);
  ASSERT_EQ(device_->map_file(range, file_.get(), 0, Access::kReadWrite), 0);
  EXPECT_TRUE(writable(kBase));
  EXPECT_EQ(get(0), 77U);
}

TEST_F(CpuDeviceFile, GivesWayToDeviceMemoryAgain) {
  const Range range{kBase, 4 * kPage};
  for (std::uint64_t round = 0; round < 20; ++round) {
    put(0, round);
    ASSERT_EQ(device_->map_file(range, file_.get(), 0, Access::kReadWrite), 0);
    ASSERT_TRUE(readable(kBase));
    ASSERT_EQ(out_[0], round);
    ASSERT_EQ(device_->unmap_file({kBase, 2 * kPage}), 0);
    const int faults = faults_.load();
    ASSERT_FALSE(readable(kBase));
    ASSERT_EQ(faults_.load(), faults + 1);
    ASSERT_TRUE(readable(kBase + 3 * kPage)) << "the rest is the file still";
    page_[0] = 5;
    ASSERT_EQ(device_->copy_in({kBase, kPage}, page_.data()), 0);
    ASSERT_EQ(device_->map({kBase, kPage}, Access::kReadWrite), 0);
    ASSERT_TRUE(readable(kBase));
    ASSERT_EQ(out_[0], 5U);
    ASSERT_EQ(device_->unmap({kBase, kPage}), 0);
  }
}

TEST_F(CpuDeviceFile, IsRefusedWhereItMustNotBe) {
  EXPECT_EQ(device_->map_file({window::kCode.start, kPage}, file_.get(), 0, Access::kReadWrite), -EINVAL);
  EXPECT_EQ(device_->map_file({window::kWindow.start - kPage, 2 * kPage}, file_.get(), 0, Access::kRead), -EINVAL);
  EXPECT_EQ(device_->map_file({kBase + 8, kPage}, file_.get(), 0, Access::kRead), -EINVAL);
  EXPECT_EQ(run(kernel_empty, {}), kStatusComplete);
}

TEST_F(CpuDeviceFile, ADeadDeviceRefusesNothing) {
  kill(device_->process_id(), SIGKILL);
  for (int i = 0; i < 1000 && !device_->lost(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(device_->map_file({kBase, kPage}, file_.get(), 0, Access::kRead), 0);
  EXPECT_EQ(device_->unmap_file({kBase, kPage}), 0);
  ASSERT_TRUE(device_->restart());
  EXPECT_FALSE(readable(kBase));
}

}  // namespace
}  // namespace mirrorcl::device
