// SPDX-License-Identifier: Apache-2.0
// hbind() on a device behind a running mirror: pages that a program asks to have moved, on the fake device.
#include "mirror/device_memory.h"

#include <algorithm>
#include <atomic>
#include <memory_resource>
#include <random>
#include <vector>

#include "hms/binder.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

class DeviceMemoryTest : public MirrorTest {
 protected:
  void SetUp() override {
    MirrorTest::SetUp();
    auto machine = std::make_shared<hms::Topology>();
    hms::Target node;
    node.name = "node0";
    node.node = 0;
    node_ = *machine->add(node);
    hms::Target memory;
    memory.name = "device-memory";
    memory.kind = hms::MemoryKind::kDevice;
    device_target_ = *machine->add(memory);
    memory.name = "second-device-memory";
    second_target_ = *machine->add(memory);
    policies_ = std::move(*hms::PolicyTable::create(std::pmr::new_delete_resource()));
    binder_.emplace(machine, *policies_, hms::kernel_host_memory());
    memory_.emplace(*mirror_, device_, device_target_);
    binder_->add_device(*memory_);
    if (!hms::kernel_host_memory().may_use(0)) GTEST_SKIP() << "node 0 is not this process's";
  }
  void TearDown() override {
    if (memory_) binder_->remove_device(*memory_);
  }

  // The extra dwords, as the call left them.
  std::vector<std::uint32_t> call(const void* start, std::size_t pages, hms::Uid target, std::uint32_t command,
                                  std::vector<std::uint32_t> dwords = {}) {
    std::vector<std::uint32_t> atoms{HBIND_ATOM(command, dwords.size())};
    atoms.insert(atoms.end(), dwords.begin(), dwords.end());
    auto address = reinterpret_cast<std::uint64_t>(start);
    hbind_params params{address,
                        address + pages * kPageSize,
                        1,
                        static_cast<std::uint32_t>(atoms.size()),
                        reinterpret_cast<std::uint64_t>(&target),
                        reinterpret_cast<std::uint64_t>(atoms.data())};
    EXPECT_EQ(binder_->hbind(&params), 0);
    return {atoms.begin() + 1, atoms.end()};
  }
  std::uint32_t migrate(const void* start, std::size_t pages, hms::Uid target) {
    return call(start, pages, target, HBIND_CMD_MIGRATE, {0})[0];
  }
  std::uint32_t on_device(const void* start, std::size_t pages) {
    return call(start, pages, device_target_, HBIND_CMD_QUERY_RESIDENCY, {0, 0, 0})[0];
  }

  hms::Uid node_ = hms::kNoUid;
  hms::Uid device_target_ = hms::kNoUid;
  hms::Uid second_target_ = hms::kNoUid;
  hms::PolicyTable::Pointer policies_{nullptr, {nullptr}};
  std::optional<hms::Binder> binder_;
  std::optional<MirroredMemory> memory_;
};

TEST_F(DeviceMemoryTest, MigrateTakesTouchedPagesToTheDeviceAndBack) {
  constexpr std::size_t kPages = 3 * kBlockPages + 77;
  TestMemory memory(kPages);
  for (std::size_t page = 0; page < kPages; page += 2) *memory.word(page) = page;
  EXPECT_EQ(migrate(memory.data(), kPages, device_target_), (kPages + 1) / 2);
  EXPECT_EQ(on_device(memory.data(), kPages), (kPages + 1) / 2);
  EXPECT_EQ(migrate(memory.data(), kPages, device_target_), 0U) << "they are there";
  std::uint64_t faults = device_.faults();
  EXPECT_EQ(device_.load(memory.word(100)), 100U);
  EXPECT_EQ(device_.faults(), faults) << "and mapped";
  EXPECT_EQ(migrate(memory.data(), kPages, node_), (kPages + 1) / 2);
  EXPECT_EQ(on_device(memory.data(), kPages), 0U);
  EXPECT_EQ(statistics().cpu_faults, 0U);
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory.word(page), page % 2 == 0 ? page : 0) << page;
}

TEST_F(DeviceMemoryTest, MigrateMovesOnlyTheRange) {
  TestMemory memory(100);
  for (std::size_t page = 0; page < 100; ++page) *memory.word(page) = page;
  EXPECT_EQ(migrate(memory.word(30), 20, device_target_), 20U);
  EXPECT_EQ(on_device(memory.data(), 100), 20U);
  EXPECT_EQ(device_.snapshot(memory.word(29)), FakeDevice::kNone);
  EXPECT_NE(device_.snapshot(memory.word(30)), FakeDevice::kNone);
  EXPECT_EQ(device_.snapshot(memory.word(50)), FakeDevice::kNone);
}

TEST_F(DeviceMemoryTest, PrefetchGivesTheDeviceUntouchedPagesToo) {
  TestMemory memory(kBlockPages);
  *memory.word(5) = 5;
  call(memory.data(), kBlockPages, device_target_, HBIND_CMD_PREFETCH);
  EXPECT_EQ(on_device(memory.data(), kBlockPages), kBlockPages);
  for (std::size_t page = 0; page < kBlockPages; ++page) {
    ASSERT_EQ(device_.load(memory.word(page)), page == 5 ? 5U : 0U);
  }
  EXPECT_EQ(device_.faults(), 0U);
}

TEST_F(DeviceMemoryTest, WhatCannotMoveIsLeftAndNotCounted) {
  TestMemory memory(30);
  for (std::size_t page = 0; page < 30; ++page) *memory.word(page) = page;
  ASSERT_EQ(mprotect(memory.word(10), 10 * kPageSize, PROT_READ), 0);
  EXPECT_EQ(migrate(memory.data(), 30, device_target_), 20U);
  EXPECT_EQ(*memory.word(15), 15U);
  EXPECT_EQ(device_.load(memory.word(29)), 29U);
}

TEST_F(DeviceMemoryTest, WhileEverythingIsHeldAtHomeNothingMoves) {
  TestMemory memory(10);
  for (std::size_t page = 0; page < 10; ++page) *memory.word(page) = page;
  mirror_->hold_home();
  EXPECT_EQ(migrate(memory.data(), 10, device_target_), 0U);
  mirror_->release_hold();
  EXPECT_EQ(migrate(memory.data(), 10, device_target_), 10U);
}

TEST_F(DeviceMemoryTest, FreeSpaceIsWhatIsNotInUse) {
  TestMemory memory(64);
  std::uint64_t before = memory_->free_bytes();
  for (std::size_t page = 0; page < 64; ++page) *memory.word(page) = 1;
  migrate(memory.data(), 64, device_target_);
  EXPECT_EQ(before - memory_->free_bytes(), 64 * kPageSize);
}

TEST_F(DeviceMemoryTest, PagesGoStraightFromOneDevicesMemoryToAnothers) {
  ASSERT_TRUE(mirror_->attach(g_second_fake_device.emplace()).has_value());
  MirroredMemory second(*mirror_, *g_second_fake_device, second_target_);
  binder_->add_device(second);
  TestMemory memory(100);
  for (std::size_t page = 0; page < 100; ++page) *memory.word(page) = page;
  EXPECT_EQ(migrate(memory.data(), 100, device_target_), 100U);
  EXPECT_EQ(migrate(memory.word(20), 60, second_target_), 60U);
  EXPECT_EQ(on_device(memory.data(), 100), 40U);
  EXPECT_EQ(statistics().pages_between_devices, 60U);
  EXPECT_EQ(statistics().pages_to_host, 0U);
  for (std::size_t page = 20; page < 80; ++page) ASSERT_EQ(g_second_fake_device->load(memory.word(page)), page);
  EXPECT_EQ(g_second_fake_device->faults(), 0U);
  EXPECT_EQ(migrate(memory.data(), 100, node_), 100U);
  EXPECT_EQ(second.free_bytes(), g_second_fake_device->capabilities().memory_size);
  for (std::size_t page = 0; page < 100; ++page) ASSERT_EQ(*memory.word(page), page);
  binder_->remove_device(second);
}

// Threads write pages while others have them moved to and fro; no write is lost.
TEST_F(DeviceMemoryTest, MovesAndWritesAtOnceLoseNothing) {
  constexpr std::size_t kPages = 256;
  TestMemory memory(kPages);
  std::atomic<bool> stop{false};
  std::vector<std::uint64_t> written(kPages, 0);
  std::thread writer([&] {
    std::minstd_rand random(1);
    while (!stop) {
      std::size_t page = random() % kPages;
      std::atomic_ref<std::uint64_t>(*memory.word(page)).fetch_add(1);
      ++written[page];
    }
  });
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) migrate(memory.word(kPages / 2), kPages / 2, i % 2 == 0 ? device_target_ : node_);
  });
  for (int i = 0; i < 100; ++i) migrate(memory.data(), kPages, i % 2 == 0 ? device_target_ : node_);
  other.join();
  stop = true;
  writer.join();
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(*memory.word(page), written[page]) << page;
}

}  // namespace
}  // namespace mirrorcl::mirror
