// SPDX-License-Identifier: Apache-2.0
#include "base/memory_limit.h"

#include <gtest/gtest.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace mirrorcl {
namespace {

class ControlGroups : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "mirrorcl-groups-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = folder_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << '\n';
  }
  std::uint64_t limit() const { return control_group_limit(folder_ + "/membership", folder_); }

  std::string folder_;
};

TEST_F(ControlGroups, TheTightestOfVersionTwoCounts) {
  write("/membership", "0::/user.slice/job");
  write("/user.slice/job/memory.max", "max");
  EXPECT_EQ(limit(), UINT64_MAX);
  write("/user.slice/memory.max", "1073741824");
  EXPECT_EQ(limit(), std::uint64_t{1} << 30);
  write("/user.slice/job/memory.max", "4096");
  EXPECT_EQ(limit(), 4096U);
}

TEST_F(ControlGroups, VersionOneHasAFolderOfItsOwn) {
  write("/membership", "9:name=systemd:/\n4:cpu,memory:/job\n1:cpuset:/job\n0::/");
  write("/memory/job/memory.limit_in_bytes", "8192");
  write("/memory/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(limit(), 8192U);
}

TEST_F(ControlGroups, OfAPathThatIsNotSeenHereTheRootCounts) {
  write("/membership", "0::/not/to/be/seen/in/the/container");
  write("/memory.max", "65536");
  EXPECT_EQ(limit(), 65536U);
}

TEST_F(ControlGroups, RubbishIsNoLimit) {
  EXPECT_EQ(limit(), UINT64_MAX) << "no file";
  write("/membership", "rubbish\n\n0:\n0::\n5:memory:relative");
  write("/memory.max", "12");
  EXPECT_EQ(limit(), UINT64_MAX);
}

TEST(UsableMemory, IsNoMoreThanTheMachineHas) {
  struct sysinfo machine {};
  ASSERT_EQ(sysinfo(&machine), 0);
  EXPECT_LE(usable_memory(), std::uint64_t{machine.totalram} * machine.mem_unit);
  EXPECT_GT(usable_memory(), 0U);
}

}  // namespace
}  // namespace mirrorcl
