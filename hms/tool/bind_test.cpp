// SPDX-License-Identifier: Apache-2.0
// `hms bind` and `hms residency` on live processes.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "hms/host_memory.h"
#include "hms/tool/run_tool.h"

namespace mirrorcl::hms {
namespace {

class BindTool : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kernel_host_memory().may_use(0)) GTEST_SKIP() << "node 0 is not this process's";
    if (access("/proc/self/numa_maps", R_OK) != 0) GTEST_SKIP() << "a kernel without NUMA";
  }
};

TEST_F(BindTool, StartsAProgramWithItsOptions) {
  const ToolOutcome bound = run_tool("bind node:0 grep -m 1 heap /proc/self/numa_maps");
  EXPECT_EQ(bound.status, 0);
  EXPECT_NE(bound.output.find("bind:0"), std::string::npos) << bound.output;
  const ToolOutcome preferred = run_tool("bind --prefer node0 grep -m 1 heap /proc/self/numa_maps");
  EXPECT_NE(preferred.output.find("prefer"), std::string::npos) << preferred.output;
  EXPECT_EQ(run_tool("bind node0 sh -c 'exit 7'").status, 7);
}

TEST_F(BindTool, MovesARunningProcess) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    for (;;) pause();
  }
  const ToolOutcome outcome = run_tool("bind node0 --pid " + std::to_string(child));
  const ToolOutcome seen = run_tool("residency --mappings " + std::to_string(child));
  const ToolOutcome json = run_tool("residency --json " + std::to_string(child));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("moved"), std::string::npos) << outcome.output;
  EXPECT_EQ(seen.status, 0) << seen.output;
  EXPECT_NE(seen.output.find("node0"), std::string::npos) << seen.output;
  EXPECT_NE(seen.output.find("[stack]"), std::string::npos) << seen.output;
  EXPECT_NE(json.output.find("\"node0\":"), std::string::npos) << json.output;
  EXPECT_NE(json.output.find("\"device\": null"), std::string::npos) << json.output;
}

TEST_F(BindTool, ErrorsSayWhatToDo) {
  struct Case {
    const char* arguments;
    const char* says;
  };
  for (const Case& c : {Case{"bind nowhere true", "there is no"}, Case{"bind node0", "--pid"},
                        Case{"bind node0 --pid 1073741823", "there is no process"},
                        Case{"bind node0 /no/such/program", "cannot start '/no/such/program'"},
                        Case{"residency 1073741823", "there is no process"}}) {
    const ToolOutcome outcome = run_tool(c.arguments);
    EXPECT_EQ(outcome.status, 1) << c.arguments;
    EXPECT_NE(outcome.output.find(c.says), std::string::npos) << c.arguments << ": " << outcome.output;
  }
}

}  // namespace
}  // namespace mirrorcl::hms
