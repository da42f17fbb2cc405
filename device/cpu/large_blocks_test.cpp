// SPDX-License-Identifier: Apache-2.0
// Blocks of device memory in huge pages: what D sees of them, and when their memory is free again.
#include "device/cpu/large_blocks.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/memory_file.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "base/test_kernel.h"
#include "base/test_users.h"
#include "base/unique_fd.h"
#include "device/cpu/cpu_device_fixture.h"
#include "device/cpu/mmu.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::DeviceFault;
using mirror::kBlockPages;
using mirror::kBlockSize;
using mirror::kPageSize;
using mirror::PageRun;
using mirror::Range;

// --- the table

class LargeBlocksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    memory_ =
        mmap(nullptr, LargeBlocks::kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(memory_, MAP_FAILED);
    blocks_ = std::make_unique<LargeBlocks>(memory_);
  }
  void TearDown() override { munmap(memory_, LargeBlocks::kBytes); }

  void* memory_ = nullptr;
  std::unique_ptr<LargeBlocks> blocks_;
};

TEST_F(LargeBlocksTest, FindsWhatWasAddedByAnyAddressInIt) {
  EXPECT_EQ(blocks_->find(5 * kBlockSize), nullptr);
  LargeBlocks::Block* block = blocks_->add(5 * kBlockSize);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(blocks_->find(5 * kBlockSize + 7 * kPageSize), block);
  EXPECT_EQ(blocks_->find(6 * kBlockSize), nullptr);
  blocks_->remove(*block);
  EXPECT_EQ(blocks_->find(5 * kBlockSize), nullptr);
  EXPECT_TRUE(blocks_->none());
}

TEST_F(LargeBlocksTest, HasRoomForSomeBlocksOfOneSet) {
  constexpr std::uint64_t kDistance = std::uint64_t{4096} * kBlockSize;
  unsigned added = 0;
  while (added < 100 && blocks_->add(kBlockSize + added * kDistance) != nullptr) ++added;
  EXPECT_GE(added, 2U);
  EXPECT_LT(added, 100U);
  for (unsigned i = 0; i < added; ++i) EXPECT_NE(blocks_->find(kBlockSize + i * kDistance), nullptr) << i;
}

TEST_F(LargeBlocksTest, TellsTheLastLivePage) {
  LargeBlocks::Block& block = *blocks_->add(kBlockSize);
  block.set_live({60, 10});
  block.set_live({65, 100});
  EXPECT_FALSE(block.is_live(59));
  EXPECT_TRUE(block.is_live(60));
  EXPECT_TRUE(block.is_live(164));
  EXPECT_FALSE(block.is_live(165));
  EXPECT_EQ(block.run_from(0, kBlockPages), (PageRun{0, 60}));
  EXPECT_EQ(block.run_from(60, kBlockPages), (PageRun{60, 105}));
  EXPECT_EQ(block.run_from(60, 70), (PageRun{60, 10}));
  EXPECT_EQ(block.run_from(kBlockPages, kBlockPages).count, 0U);
  EXPECT_FALSE(block.clear_live({0, 100}));
  EXPECT_FALSE(block.clear_live({0, 100})) << "none of these was live";
  EXPECT_TRUE(block.clear_live({90, 422}));
}

TEST_F(LargeBlocksTest, KeepsAsMuchAsItMay) {
  blocks_->limit_kept(2 * kBlockSize);
  std::array<LargeBlocks::Block*, 3> some{};
  for (std::size_t i = 0; i < some.size(); ++i) some[i] = blocks_->add((i + 1) * kBlockSize);
  EXPECT_TRUE(blocks_->keep(*some[0]));
  EXPECT_TRUE(blocks_->keep(*some[1]));
  EXPECT_FALSE(blocks_->keep(*some[2]));
  EXPECT_EQ(blocks_->kept_bytes(), 2 * kBlockSize);
  blocks_->use(*some[0]);
  blocks_->use(*some[0]);
  EXPECT_EQ(blocks_->kept_bytes(), kBlockSize);
  EXPECT_TRUE(blocks_->keep(*some[2]));
  blocks_->remove(*some[1]);
  unsigned kept = 0;
  blocks_->for_each_kept([&](LargeBlocks::Block& block) {
    EXPECT_EQ(&block, some[2]);
    ++kept;
  });
  EXPECT_EQ(kept, 1U);
}

TEST_F(LargeBlocksTest, RemembersPageTables) {
  EXPECT_FALSE(blocks_->has_table(9 * kBlockSize));
  blocks_->note_table(9 * kBlockSize + kPageSize, true);
  EXPECT_TRUE(blocks_->has_table(9 * kBlockSize));
  EXPECT_FALSE(blocks_->has_table(8 * kBlockSize));
  blocks_->note_table(9 * kBlockSize, false);
  EXPECT_FALSE(blocks_->has_table(9 * kBlockSize));
}

// --- the device

constexpr std::uint64_t kBase = 0x3000'0000'0000;

class LargeDeviceBlocksTest : public CpuDeviceTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(CpuDeviceTest::SetUp());
    out_ = shared_array<std::uint64_t>(1);
    start_mirror([this](const DeviceFault& fault) {
      last_fault_ = fault;
      device_->fail(fault, fault.protection ? FaultKind::kReadOnly : FaultKind::kInvalidAddress);
    });
    page_.assign(kPageSize / sizeof(std::uint64_t), 0);
  }

  // Slow huge pages come one at a time.
  void* allocate(std::uint64_t address) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
    while (std::chrono::steady_clock::now() < end) {
      if (void* memory = device_->allocate_block(address); memory != nullptr) return memory;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return nullptr;
  }
  // Page i begins with `first` + i. False: there are no huge pages here.
  bool fill(std::uint64_t address, std::uint64_t first) {
    auto* const memory = static_cast<char*>(allocate(address));
    if (memory == nullptr) return false;
    for (unsigned page = 0; page < kBlockPages; ++page) {
      const std::uint64_t value = first + page;
      std::memcpy(memory + page * kPageSize, &value, sizeof value);
    }
    EXPECT_EQ(device_->map_block(address), 0);
    return true;
  }
  static Range pages(unsigned first, unsigned count) { return {kBase + first * kPageSize, count * kPageSize}; }
  static constexpr Range kAll{kBase, kBlockSize};

  bool readable(unsigned page) { return run(kernel_read, {kBase + page * kPageSize, out_}) == kStatusComplete; }
  bool writable(unsigned page, std::uint64_t value) {
    return run(kernel_write, {kBase + page * kPageSize, value}) == kStatusComplete;
  }
  std::uint64_t contents(unsigned page) {
    EXPECT_EQ(device_->copy_out(pages(page, 1), page_.data()), 0);
    return page_[0];
  }
  std::uint64_t memory_of_file() const { return memory_file_in_use(device_->memory_fd()); }

  std::uint64_t* out_ = nullptr;
  std::vector<std::uint64_t> page_;
  DeviceFault last_fault_{};
};

#define FILL_OR_SKIP(first) \
  if (!fill(kBase, first)) GTEST_SKIP() << "no huge pages for device memory here"

TEST_F(LargeDeviceBlocksTest, IsUsedWithoutAFault) {
  FILL_OR_SKIP(100);
  for (unsigned page : {0U, 1U, 255U, 511U}) {
    ASSERT_TRUE(readable(page)) << page;
    EXPECT_EQ(*out_, 100 + page);
    ASSERT_TRUE(writable(page, 7 + page));
    EXPECT_EQ(contents(page), 7 + page);
  }
  EXPECT_EQ(faults_.load(), 0);
  EXPECT_EQ(device_->memory_in_use(), kBlockSize);
}

TEST_F(LargeDeviceBlocksTest, ProtectedItFaultsAndKeepsItsContents) {
  FILL_OR_SKIP(100);
  ASSERT_TRUE(writable(3, 33));
  ASSERT_EQ(device_->protect(kAll, Access::kRead), 0);
  EXPECT_FALSE(writable(3, 34));
  EXPECT_FALSE(writable(4, 44));
  EXPECT_EQ(contents(3), 33U);
  ASSERT_EQ(device_->map(pages(0, 8), Access::kReadWrite), 0);
  EXPECT_TRUE(writable(3, 35));
  ASSERT_TRUE(readable(4));
  EXPECT_EQ(*out_, 104U);
  EXPECT_FALSE(writable(8, 88));
}

TEST_F(LargeDeviceBlocksTest, APartThatIsProtectedFaults) {
  FILL_OR_SKIP(100);
  ASSERT_TRUE(writable(3, 33));
  ASSERT_EQ(device_->protect(pages(3, 1), Access::kRead), 0);
  EXPECT_FALSE(writable(3, 34));
  // The others may fault too, and are mapped again then.
  ASSERT_EQ(device_->map(pages(0, 3), Access::kReadWrite), 0);
  ASSERT_EQ(device_->map(pages(3, 1), Access::kRead), 0);
  EXPECT_TRUE(writable(2, 22));
  EXPECT_TRUE(readable(3));
  EXPECT_EQ(*out_, 33U);
  EXPECT_FALSE(writable(3, 34));
}

TEST_F(LargeDeviceBlocksTest, WhatHasLeftIsNotSeen) {
  FILL_OR_SKIP(100);
  ASSERT_TRUE(readable(5));
  ASSERT_EQ(device_->protect(pages(5, 2), Access::kRead), 0);
  ASSERT_EQ(device_->vacate(pages(5, 2)), 0);
  EXPECT_FALSE(readable(5));
  ASSERT_EQ(device_->map(kAll, Access::kReadWrite), 0);
  EXPECT_FALSE(readable(5)) << "it is no device page";
  EXPECT_FALSE(readable(6));
  EXPECT_TRUE(readable(4));
  EXPECT_EQ(*out_, 104U);
  // Untouched pages hold zeros, whatever was there before; others what is copied to them.
  ASSERT_EQ(device_->zero_fill(pages(4, 2)), 0);
  page_[0] = 66;
  EXPECT_EQ(device_->copy_in_mapped(pages(6, 1), page_.data(), Access::kReadWrite).error, 0);
  ASSERT_EQ(device_->map(pages(5, 1), Access::kReadWrite), 0);
  ASSERT_TRUE(readable(5));
  EXPECT_EQ(*out_, 0U);
  ASSERT_TRUE(readable(6));
  EXPECT_EQ(*out_, 66U);
  ASSERT_TRUE(readable(4));
  EXPECT_EQ(*out_, 104U);
}

TEST_F(LargeDeviceBlocksTest, PartsThatAreFreedAreFree) {
  FILL_OR_SKIP(100);
  ASSERT_TRUE(readable(5));
  ASSERT_EQ(device_->unmap(pages(5, 1)), 0);
  EXPECT_FALSE(readable(5));
  EXPECT_EQ(contents(5), 0U);
  ASSERT_EQ(device_->map(pages(6, 1), Access::kReadWrite), 0);
  ASSERT_TRUE(readable(6));
  EXPECT_EQ(*out_, 106U);
  ASSERT_EQ(device_->unmap(kAll), 0);
  EXPECT_EQ(memory_of_file(), 0U);
  EXPECT_FALSE(readable(6));
}

TEST_F(LargeDeviceBlocksTest, WhoseLastPageHasLeftIsKeptForALater) {
  FILL_OR_SKIP(100);
  for (unsigned round = 0; round < 3; ++round) {
    ASSERT_TRUE(readable(7));
    EXPECT_EQ(*out_, 107 + round);
    ASSERT_EQ(device_->protect(kAll, Access::kRead), 0);
    constexpr unsigned kPart = 64;
    std::vector<std::thread> threads;
    for (unsigned first = 0; first < kBlockPages; first += kPart) {
      threads.emplace_back([&, first] { EXPECT_EQ(device_->vacate(pages(first, kPart)), 0); });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(device_->memory_in_use(), 0U);
    EXPECT_EQ(memory_of_file(), kBlockSize);
    EXPECT_FALSE(readable(7));
    ASSERT_TRUE(fill(kBase, 101 + round));
  }
  ASSERT_EQ(device_->protect(kAll, Access::kRead), 0);
  ASSERT_EQ(device_->vacate(kAll), 0);
  device_->free_kept();
  EXPECT_EQ(memory_of_file(), 0U);
}

TEST_F(LargeDeviceBlocksTest, KeptMemoryIsUsedPageByPageToo) {
  FILL_OR_SKIP(100);
  ASSERT_EQ(device_->protect(kAll, Access::kRead), 0);
  ASSERT_EQ(device_->vacate(kAll), 0);
  ASSERT_EQ(device_->zero_fill(pages(1, 1)), 0);
  ASSERT_EQ(device_->map(pages(1, 1), Access::kReadWrite), 0);
  ASSERT_TRUE(readable(1));
  EXPECT_EQ(*out_, 0U);
  EXPECT_FALSE(readable(2));
  EXPECT_EQ(device_->allocate_block(kBase), nullptr) << "there is a page in it";
  ASSERT_EQ(device_->unmap(pages(1, 1)), 0);
  EXPECT_EQ(memory_of_file(), 0U);
}

TEST_F(LargeDeviceBlocksTest, FollowsSmallPagesInTheSamePlace) {
  page_[0] = 55;
  ASSERT_EQ(device_->copy_in_mapped(pages(9, 1), page_.data(), Access::kReadWrite).error, 0);
  ASSERT_TRUE(readable(9));
  ASSERT_EQ(device_->unmap(pages(9, 1)), 0);
  FILL_OR_SKIP(100);
  ASSERT_TRUE(readable(9));
  EXPECT_EQ(*out_, 109U);
  EXPECT_TRUE(writable(10, 1));
  EXPECT_EQ(faults_.load(), 0);
  ASSERT_EQ(device_->protect(pages(10, 1), Access::kRead), 0);
  EXPECT_FALSE(writable(10, 2));
  ASSERT_EQ(device_->vacate(pages(10, 1)), 0);
  EXPECT_FALSE(readable(10));
}

TEST_F(LargeDeviceBlocksTest, OutlivesTheProcess) {
  FILL_OR_SKIP(100);
  ASSERT_TRUE(writable(3, 33));
  ASSERT_EQ(kill(device_->process_id(), SIGKILL), 0);
  for (int i = 0; i < 10'000 && !device_->lost(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(device_->lost());
  EXPECT_EQ(device_->protect(pages(3, 1), Access::kRead), 0);
  EXPECT_EQ(device_->vacate(pages(4, 1)), 0);
  ASSERT_TRUE(device_->restart().has_value());
  EXPECT_FALSE(readable(3));
  ASSERT_EQ(device_->map(kAll, Access::kReadWrite), 0);
  ASSERT_TRUE(readable(3));
  EXPECT_EQ(*out_, 33U);
  EXPECT_FALSE(readable(4));
}

// --- memory that cannot be freed

// The MMU drives this process's own page tables.
class LargeBlocksOfAnMmuTest : public LargeBlocksTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(LargeBlocksTest::SetUp());
    auto made = create_huge_page_file("mirrorcl-test", std::uint64_t{1} << 47);
    ASSERT_TRUE(made) << made.error().message;
    file_ = std::move(made->fd);
    unfreeable_.reset(open(("/proc/self/fd/" + std::to_string(file_.get())).c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(unfreeable_);
    pagemap_.reset(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    space_ = Mapping(mmap(nullptr, 3 * kBlockSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
                     3 * kBlockSize);
    const std::uint64_t view = mirror::block_down(reinterpret_cast<std::uint64_t>(space_.address()) + kBlockSize - 1);
    base_ = view + kBlockSize;
    ASSERT_EQ(mmap(reinterpret_cast<void*>(base_), kBlockSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                   file_.get(), static_cast<off_t>(base_)),
              reinterpret_cast<void*>(base_));
    uffd_.reset(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
    uffdio_api api{UFFD_API, UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 0};
    ASSERT_EQ(ioctl(uffd_.get(), UFFDIO_API, &api), 0);
    mmu_ = std::make_unique<Mmu>(file_.get(), memory_, Range{view, kBlockSize});
    mmu_->set_uffd(uffd_.get());
    mmu_->set_pagemaps(pagemap_.get(), pagemap_.get());
    ASSERT_EQ(mmu_->register_again({base_, kBlockSize}), 0);
    mmu_->limit_kept(0);
  }
  void TearDown() override {
    mmu_.reset();
    space_.reset();
    LargeBlocksTest::TearDown();
  }

  void* allocate() {
    for (int i = 0; i < 3000; ++i) {
      if (void* memory = mmu_->allocate_block(base_); memory != nullptr) return memory;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return nullptr;
  }

  UniqueFd file_;
  UniqueFd unfreeable_;  // the same file, which cannot be changed through it
  UniqueFd pagemap_;
  UniqueFd uffd_;
  Mapping space_;           // two blocks of it are used: the view, and
  std::uint64_t base_ = 0;  // the block
  std::unique_ptr<Mmu> mmu_;
};

TEST_F(LargeBlocksOfAnMmuTest, IsUsedAgainOrFreedLater) {
  const Range all{base_, kBlockSize};
  if (allocate() == nullptr) GTEST_SKIP() << "no huge pages for device memory here";
  for (const bool vacated : {true, false}) {
    mmu_->set_memory(unfreeable_.get());
    EXPECT_EQ(vacated ? mmu_->vacate(all) : mmu_->unmap(all), 0);
    EXPECT_EQ(mmu_->memory_in_use(), 0U);
    EXPECT_EQ(memory_file_in_use(file_.get()), kBlockSize);
    mmu_->free_kept();
    EXPECT_EQ(memory_file_in_use(file_.get()), kBlockSize) << "it still cannot be freed";
    mmu_->set_memory(file_.get());
    ASSERT_NE(mmu_->allocate_block(base_), nullptr) << "it is there";
    EXPECT_EQ(mmu_->memory_in_use(), kBlockSize);
  }
  mmu_->set_memory(unfreeable_.get());
  EXPECT_EQ(mmu_->vacate(all), 0);
  mmu_->set_memory(file_.get());
  mmu_->free_kept();
  EXPECT_EQ(memory_file_in_use(file_.get()), 0U);
}

// --- ordinary users

// What this program prints when it runs the tests above.
std::string run_tests_above() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "pipe2";
  const UniqueFd out(ends[0]);
  UniqueFd in(ends[1]);
  const std::array<int, 3> fds{-1, in.get(), in.get()};
  auto process = spawn_detached("/proc/self/exe", {"cpu_device_test", "--gtest_filter=LargeDeviceBlocksTest.*"}, fds);
  if (!process) return process.error().message;
  in.reset();
  std::string text;
  char part[4096];
  for (ssize_t got; (got = read(out.get(), part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(got));
  return text;
}

TEST(OrdinaryUsersLargeDeviceBlocks, PassTheTestsAbove) {
  if (!linux_is_at_least(6, 8)) GTEST_SKIP() << "Linux 6.8 is needed for huge pages";
  const std::string text = as_ordinary_user([]() -> std::string {
    if (access(private_file("mirrorcl-firmware").c_str(), X_OK) != 0)
      return "refused: the firmware is not theirs to run";
    auto file = create_huge_page_file("mirrorcl-test", kBlockSize);
    if (!file) return file.error().message;
    if (!file->refusal.empty()) return "refused: " + file->refusal;
    if (!can_have_huge_page(file->fd.get())) return "refused: the kernel has no huge page";
    return run_tests_above();
  });
  if (text.starts_with("refused")) GTEST_SKIP() << text;
  EXPECT_NE(text.find("[  PASSED  ]"), std::string::npos) << text;
  EXPECT_EQ(text.find("[  FAILED  ]"), std::string::npos) << text;
  // Some may have found that huge pages are slow to come.
  EXPECT_NE(text.find("[       OK ] LargeDeviceBlocksTest"), std::string::npos) << text;
}

}  // namespace
}  // namespace mirrorcl::device
