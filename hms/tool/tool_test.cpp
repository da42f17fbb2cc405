// SPDX-License-Identifier: Apache-2.0
// The `hms` tool as its users see it: output, exit status, errors that say what to do.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "hms/json_file.h"
#include "hms/load.h"
#include "hms/reference_machine.h"
#include "hms/tool/run_tool.h"

namespace mirrorcl::hms {
namespace {

class Tool : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(folder_);
    std::ofstream(reference_) << to_json(reference_machine());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  ToolOutcome run(const std::string& arguments) const {
    return run_tool(arguments, "XDG_CACHE_HOME='" + folder_ + "'");
  }
  ToolOutcome on_reference(const std::string& arguments) const { return run("-t '" + reference_ + "' " + arguments); }

  std::string folder_ = ::testing::TempDir() + "hms-tool-" + std::to_string(getpid());
  std::string reference_ = folder_ + "/reference.json";
};

TEST_F(Tool, ShowsThisMachine) {
  const ToolOutcome outcome = run("show");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.output.find("memory node0"), std::string::npos) << outcome.output;
}

TEST_F(Tool, WritesAllFormats) {
  const Topology machine = reference_machine();
  EXPECT_EQ(on_reference("show --json").output, to_json(machine));
  EXPECT_EQ(on_reference("show --dot").output.substr(0, 16), "digraph topology");
  EXPECT_EQ(on_reference("show --svg").output.substr(0, 4), "<svg");
  EXPECT_EQ(on_reference("show --tree '" + folder_ + "/tree'").status, 0);
  EXPECT_EQ(*load(folder_ + "/tree"), machine);
  EXPECT_EQ(on_reference("show --json -o '" + folder_ + "/copy.json'").output, "");
  EXPECT_EQ(*load(folder_ + "/copy.json"), machine);
  EXPECT_NE(on_reference("show --json --dot").status, 0);
}

// Worked out in topology_test.cpp.
TEST_F(Tool, FindsTheBestMemory) {
  const ToolOutcome best = on_reference("best cx00 -n 2");
  EXPECT_EQ(best.status, 0);
  EXPECT_EQ(best.output.substr(best.output.find('\n') + 1, 5), "hbm00") << best.output;
  const ToolOutcome latency = on_reference("best --by latency cpu:0 -n 1");
  EXPECT_NE(latency.output.find("ddr0"), std::string::npos) << latency.output;
  const ToolOutcome large = on_reference("best cx00 --size 20G -n 1");
  EXPECT_NE(large.output.find("ddr0"), std::string::npos) << large.output;
  const ToolOutcome both = on_reference("best --json -n 1 cx00 gpu0");
  EXPECT_NE(both.output.find("\"name\": \"ddr0\""), std::string::npos) << both.output;
  EXPECT_EQ(on_reference("best --json --coherent --size 1T cx00").output, "[]\n");
}

TEST_F(Tool, ShowsPaths) {
  const ToolOutcome outcome = on_reference("paths cx00 hbm01");
  EXPECT_EQ(outcome.output,
            "bandwidth 93.1 GiB/s (configured), latency 280 ns (configured)\n"
            "  link hbm00-link\n  bridge complexes0\n  link hbm01-link\n");
  EXPECT_EQ(on_reference("paths cx00 gpu0-hbm").output, "cx00 does not reach gpu0-hbm\n");
}

TEST_F(Tool, SaysWhatToDo) {
  const auto complaint = [](const ToolOutcome& outcome) {
    EXPECT_NE(outcome.status, 0);
    return outcome.output;
  };
  EXPECT_NE(complaint(on_reference("best cx99")).find("there is no initiator 'cx99'; there are: cx00, cx01"),
            std::string::npos);
  EXPECT_NE(complaint(on_reference("paths cx00 x")).find("there is no memory 'x'; there are: ddr0"), std::string::npos);
  EXPECT_NE(complaint(on_reference("best --size much cx00")).find("'much' is not a size"), std::string::npos);
  EXPECT_NE(complaint(on_reference("best --size 1T cx00")).find("'hms show' lists"), std::string::npos);
  EXPECT_NE(complaint(on_reference("measure")).find("leave --topology out"), std::string::npos);
  EXPECT_NE(complaint(run("-t /nonexistent show")).find("cannot read /nonexistent"), std::string::npos);
  EXPECT_NE(complaint(run("frobnicate")).find("--help"), std::string::npos);
  EXPECT_NE(complaint(on_reference("show -o /nonexistent/x")).find("cannot write /nonexistent/x"), std::string::npos);
}

TEST_F(Tool, KeepsMeasurements) {
  const ToolOutcome measured = run("measure --time 5 --memory 8M");
  EXPECT_EQ(measured.status, 0) << measured.output;
  if (measured.output.find("kept in ") == std::string::npos) GTEST_SKIP() << measured.output;
  EXPECT_NE(run("best").output.find("measured"), std::string::npos);
  EXPECT_EQ(run("measure --forget").status, 0);
  EXPECT_EQ(run("best").output.find("measured"), std::string::npos);
}

TEST_F(Tool, TakesWhatTheEnvironmentTellsHwloc) {
  const auto with = [&](const std::string& variable, const std::string& machine) {
    setenv(variable.c_str(), (std::string(HMS_TESTDATA) + "/" + machine).c_str(), 1);
    const ToolOutcome outcome = run("best cpu:0 -n 1 --json");
    unsetenv(variable.c_str());
    return outcome.output;
  };
  EXPECT_NE(with("HWLOC_XMLFILE", "64intel64-heteromem.xml").find("\"name\": \"node7\""), std::string::npos);
  EXPECT_NE(with("HWLOC_FSROOT", "memorysidecaches").find("\"name\": \"node0\""), std::string::npos);
}

TEST_F(Tool, HasHelpAndVersion) {
  for (const char* command : {"", "show", "best", "paths", "measure"}) {
    const ToolOutcome outcome = run(std::string(command) + " --help");
    EXPECT_EQ(outcome.status, 0);
    EXPECT_NE(outcome.output.find("--help"), std::string::npos);
  }
  EXPECT_EQ(run("--version").status, 0);
}

}  // namespace
}  // namespace mirrorcl::hms
