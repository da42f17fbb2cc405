// SPDX-License-Identifier: Apache-2.0
#include "hms/tree_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "hms/load.h"
#include "hms/reference_machine.h"

namespace mirrorcl::hms {
namespace {

namespace fs = std::filesystem;

class TreeFile : public ::testing::Test {
 protected:
  void SetUp() override {
    machine_.info["a/key"] = "of\ntwo lines";
    Target odd;
    odd.name = "odd one\n";
    odd.version = 3;
    odd.caches = {{1 << 20, 64, 0, 1}, {1 << 21, 0, -1, -1}};
    odd.online = false;
    ASSERT_TRUE(machine_.add(odd));
    ASSERT_TRUE(write_tree(machine_, folder_.string()));
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string text(const std::string& file) const {
    std::ifstream stream(folder_ / file);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }
  std::string error_after(const std::string& file, const std::string& content) const {
    std::ofstream(folder_ / file) << content;
    const auto result = read_tree(folder_.string());
    return result ? "no error" : result.error().message;
  }

  Topology machine_ = reference_machine();
  fs::path folder_ = fs::path(::testing::TempDir()) / ("hms-tree-" + std::to_string(getpid()));
};

TEST_F(TreeFile, RoundTripLosesNothing) {
  const auto again = load(folder_.string());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, machine_);
}

TEST_F(TreeFile, HasTheProposalsNames) {
  const Uid hbm = machine_.find("hbm00")->uid, link = machine_.find("hbm00-link")->uid;
  const std::string target = entry_name(*machine_.object(hbm), ObjectType::kTarget);
  EXPECT_EQ(text(target + "/uid"), std::to_string(hbm) + "\n");
  EXPECT_EQ(text(target + "/nid"), "2\n");
  EXPECT_EQ(text(target + "/size"), "17179869184\n");
  EXPECT_EQ(fs::read_symlink(folder_ / target / "node2"), "/sys/devices/system/node/node2");
  const std::string link_entry = entry_name(*machine_.object(link), ObjectType::kLink);
  EXPECT_EQ(fs::read_symlink(folder_ / target / link_entry), "../" + link_entry);
  EXPECT_EQ(text(link_entry + "/bandwidth"), "190735\n");
  EXPECT_EQ(text(link_entry + "/latency"), "120\n");
  // The link leads back to the target and its initiators, the initiator to its bridges.
  EXPECT_EQ(text(link_entry + "/" + target + "/uid"), std::to_string(hbm) + "\n");
  const std::string bridge = entry_name(*machine_.find("complexes0"), ObjectType::kBridge);
  const std::string complex = entry_name(*machine_.find("cx00"), ObjectType::kInitiator);
  EXPECT_TRUE(fs::is_symlink(folder_ / complex / bridge));
  EXPECT_TRUE(fs::is_symlink(folder_ / bridge / link_entry));
  EXPECT_TRUE(fs::is_symlink(folder_ / bridge / complex));
  EXPECT_TRUE(fs::is_directory(folder_ / ("v3-" + std::to_string(machine_.find("odd one\n")->uid) + "-target")));
}

TEST_F(TreeFile, SaysWhatIsWrong) {
  EXPECT_NE(write_tree(machine_, folder_.string()).error().message.find("is not an empty folder"), std::string::npos);
  EXPECT_NE(error_after("v0-0-initiator/uid", "7\n").find("'uid' is not that of its name"), std::string::npos);
  EXPECT_NE(error_after("v0-0-initiator/uid", "x\n").find("holds 'x'"), std::string::npos);
  EXPECT_EQ(error_after("v0-0-initiator/uid", "0\n"), "no error");
  EXPECT_NE(error_after("v0-0-initiator/kind", "gpu\n").find("holds 'gpu'"), std::string::npos);
  EXPECT_NE(error_after("v0-0-initiator/kind", "").find("holds ''"), std::string::npos);
  fs::remove_all(folder_ / "v0-0-initiator");
  EXPECT_NE(read_tree(folder_.string()).error().message.find("refers to initiator 0"), std::string::npos);
  fs::remove(folder_ / "next_uid");
  EXPECT_NE(read_tree(folder_.string()).error().message.find("refers to initiator 0"), std::string::npos);
  EXPECT_FALSE(load(folder_.string()));
}

TEST(TreeFileOfNothing, RoundTrips) {
  const std::string folder = ::testing::TempDir() + "hms-no-tree-" + std::to_string(getpid());
  ASSERT_TRUE(write_tree(Topology{}, folder));
  const auto again = read_tree(folder);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, Topology{});
  fs::remove_all(folder);
  EXPECT_FALSE(write_tree(Topology{}, "/proc/none"));
}

}  // namespace
}  // namespace mirrorcl::hms
