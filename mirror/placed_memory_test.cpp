// SPDX-License-Identifier: Apache-2.0
// What programs have said with hbind(), against what becomes of the memory afterwards.
#include <sys/wait.h>

#include <optional>
#include <vector>

#include "mirror/mirror_fixture.h"
#include "mirror/placed_machine.h"

namespace mirrorcl::mirror {
namespace {

class PlacedMemoryTest : public MirrorTest {
 protected:
  void SetUp() override {
    if (!PlacedMachine::possible()) GTEST_SKIP() << "node 0 is not this process's";
    MirrorTest::SetUp();
    place({&device_});
  }
  void TearDown() override { machine_.reset(); }

  void place(const std::vector<DeviceOperations*>& devices) {
    machine_.reset();
    machine_.emplace(*mirror_, devices);
  }
  // One command about the first `pages` pages of the memory.
  void say(std::uint32_t command, std::size_t pages, std::vector<std::uint32_t> targets,
           const std::vector<std::uint32_t>& dwords = {}) {
    std::vector<std::uint32_t> atoms{HBIND_ATOM(command, dwords.size())};
    atoms.insert(atoms.end(), dwords.begin(), dwords.end());
    const auto start = reinterpret_cast<std::uint64_t>(memory_.data());
    const hbind_params call{start,
                            start + pages * kPageSize,
                            static_cast<std::uint32_t>(targets.size()),
                            static_cast<std::uint32_t>(atoms.size()),
                            reinterpret_cast<std::uint64_t>(targets.data()),
                            reinterpret_cast<std::uint64_t>(atoms.data())};
    ASSERT_EQ(machine_->binder().hbind(&call), 0);
  }

  std::optional<PlacedMachine> machine_;
  TestMemory memory_{8};
};

// Nothing of the block had ever come home from a device, so that there were no counts of that to forget.
TEST_F(PlacedMemoryTest, WhatIsSharedByPolicyAtOnceCanStillComeHome) {
  say(HBIND_CMD_PREFERRED, 8, {machine_->memory_of(0)});
  for (std::size_t page = 0; page < 8; ++page) device_.store(memory_.word(page), page + 1);
  ASSERT_EQ(device_.last_error(), device::FaultKind::kNone);
  for (std::size_t page = 0; page < 8; ++page) ASSERT_EQ(*memory_.word(page), page + 1);
  if (device_.capabilities().memory_cpu_mappable) {
    ASSERT_GT(statistics().coherent_upgrades, 0U);
  }
  mirror_->bring_home({reinterpret_cast<std::uint64_t>(memory_.data()), memory_.size()});
  for (std::size_t page = 0; page < 8; ++page) ASSERT_EQ(*memory_.word(page), page + 1);
}

}  // namespace
}  // namespace mirrorcl::mirror
