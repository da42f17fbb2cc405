// SPDX-License-Identifier: Apache-2.0
// Pages that go back and forth between the application and a device whose memory the CPU cannot map.
#include "mirror/shared_memory.h"

#include <fstream>
#include <string>

#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

class PrivateMemoryTest : public MirrorTest {
 protected:
  void SetUp() override {
    g_fake_device.emplace(true);
    start({.coherent_window_ms = 60'000});  // also on a busy machine
  }
  // Until the page is shared.
  void go_back_and_forth(std::uint64_t* word) {
    for (std::uint64_t i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(exchange(word, 10 * i));
    ASSERT_GT(statistics().coherent_upgrades, 0U);
  }
  // What /proc/self/maps says is mapped at `address`.
  static std::string mapped_at(const void* address) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      std::uint64_t start = 0;
      std::uint64_t end = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx", &start, &end) == 2 &&
          reinterpret_cast<std::uint64_t>(address) >= start && reinterpret_cast<std::uint64_t>(address) < end) {
        return line;
      }
    }
    return {};
  }
};

TEST_F(PrivateMemoryTest, ACpuAccessBringsAPageBack) {
  TestMemory memory(1);
  exchange(memory.word(0), 1);
  EXPECT_EQ(device_.pages_in_use(), 0U);
  EXPECT_EQ(statistics().pages_to_host, 1U);
  EXPECT_EQ(mapped_at(memory.data()).find("memfd"), std::string::npos);
}

TEST_F(PrivateMemoryTest, PagesThatGoBackAndForthAreSharedInHostMemory) {
  TestMemory memory(1);
  go_back_and_forth(memory.word(0));
  EXPECT_EQ(device_.pages_in_use(), 0U);
  EXPECT_EQ(device_.mapped_files(), 1U);
  EXPECT_NE(mapped_at(memory.data()).find("mirrorcl-pinned-memory"), std::string::npos);
  const std::uint64_t faults = statistics().device_faults + statistics().cpu_faults;
  for (std::uint64_t i = 0; i < 100; ++i) exchange(memory.word(0), i);
  EXPECT_EQ(statistics().device_faults + statistics().cpu_faults, faults);
}

TEST_F(PrivateMemoryTest, SharedPagesComeHomeWithTheirContents) {
  TestMemory memory(2);
  go_back_and_forth(memory.word(0));
  device_.store(memory.word(0), std::uint64_t{77});
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
  EXPECT_EQ(*memory.word(0), 77U);
  EXPECT_EQ(device_.mapped_files(), 0U);
  EXPECT_EQ(mapped_at(memory.data()).find("memfd"), std::string::npos);
  exchange(memory.word(0), 5);
}

TEST_F(PrivateMemoryTest, DiscardedSharedPagesShowZerosToBoth) {
  TestMemory memory(1);
  go_back_and_forth(memory.word(0));
  ASSERT_EQ(madvise(memory.data(), memory.size(), MADV_DONTNEED), 0);
  mirror_->drain_events();
  EXPECT_EQ(device_.load(memory.word(0)), 0U);
  EXPECT_EQ(*memory.word(0), 0U);
  exchange(memory.word(0), 5);
}

TEST_F(PrivateMemoryTest, UnmappedSharedPagesAreGoneForTheDevice) {
  TestMemory memory(1);
  go_back_and_forth(memory.word(0));
  munmap(memory.data(), memory.size());
  mirror_->drain_events();
  (void)device_.load(memory.word(0));
  EXPECT_EQ(device_.last_error(), device::FaultKind::kInvalidAddress);
  EXPECT_EQ(device_.mapped_files(), 0U);
}

TEST_F(PrivateMemoryTest, ADeviceThatRestartsFindsSharedPagesAgain) {
  TestMemory memory(1);
  go_back_and_forth(memory.word(0));
  *memory.word(0) = 42;
  device_.lose();
  while (!device_.lost_was_reported()) std::this_thread::yield();
  device_.restart();
  ASSERT_TRUE(mirror_->attach(device_));
  EXPECT_EQ(device_.load(memory.word(0)), 42U);
  const std::uint64_t faults = statistics().device_faults;
  device_.store(memory.word(0), std::uint64_t{43});
  EXPECT_EQ(*memory.word(0), 43U);
  EXPECT_EQ(statistics().device_faults, faults);
}

TEST_F(PrivateMemoryTest, WriteProtectionHoldsForTheDevice) {
  TestMemory memory(1);
  go_back_and_forth(memory.word(0));
  ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ), 0);
  mirror_->drain_events();
  const std::uint64_t before = device_.load(memory.word(0));
  device_.store(memory.word(0), std::uint64_t{999});
  EXPECT_EQ(device_.last_error(), device::FaultKind::kReadOnly);
  EXPECT_EQ(*memory.word(0), before);
  ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ | PROT_WRITE), 0);
  mirror_->drain_events();
  exchange(memory.word(0), 7);
}

}  // namespace
}  // namespace mirrorcl::mirror
