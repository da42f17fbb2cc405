// SPDX-License-Identifier: Apache-2.0
// Another process's mirror, seen from outside while it works: with hms/live_view.h, and with the tool as its users see
// it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "base/options.h"
#include "hms/json_file.h"
#include "hms/live_view.h"
#include "hms/load.h"
#include "hms/placement.h"
#include "hms/process.h"
#include "hms/tool/run_tool.h"
#include "mirror/followed_policies.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

using hms::LiveView;
using hms::run_tool;
using hms::ToolOutcome;

// A process that has a mirror and the fake device, does `work`, then waits to be killed.
class MirroredProcess {
 public:
  using Work = std::function<void(Mirror&, FakeDevice&, TestMemory&)>;

  explicit MirroredProcess(const Work& work) {
    int ends[2];
    if (pipe(ends) != 0) return;
    ready_.reset(ends[0]);
    pid_ = fork();
    if (pid_ == 0) run(work, ends[1]);
    close(ends[1]);
    (void)!read(ready_.get(), &address_, sizeof address_);
  }
  ~MirroredProcess() { end(); }
  void end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

  pid_t pid() const { return pid_; }
  // Of its memory; 0: it could not do its work.
  std::uint64_t address() const { return address_; }
  std::string argument(const std::string& command) const { return command + " " + std::to_string(pid_); }
  std::string page(std::uint64_t i) const { return fmt::format(" {:x}", address_ + i * kPageSize); }

 private:
  [[noreturn]] static void run(const Work& work, int ready) {
    alarm(60);
    auto mirror = Mirror::start();
    FakeDevice& device = g_fake_device.emplace();
    if (!mirror || !(*mirror)->attach(device)) _exit(1);
    auto* memory = new TestMemory(2 * kBlockPages);
    work(**mirror, device, *memory);
    const auto address = reinterpret_cast<std::uint64_t>(memory->data());
    if (write(ready, &address, sizeof address) != sizeof address) _exit(1);
    for (;;) pause();
  }

  UniqueFd ready_;
  pid_t pid_ = 0;
  std::uint64_t address_ = 0;
};

// As the driver does it.
void publish(Mirror& mirror, const FakeDevice& device) {
  const auto machine = hms::load("");
  if (!machine) return;
  hms::ProcessDeviceUids uids;
  const auto with = hms::with_device(
      *machine, {.name = "fake:0", .memory_size = 1 << 30, .node = machine->targets().front().node}, &uids);
  if (!with) return;
  mirror.publish_topology(hms::to_json(*with));
  mirror.publish_device(device, "fake:0", uids.initiator, uids.target);
}

// Page 0 goes to the device and stays; 700 comes back; 900 goes back and forth; 600 is only the application's.
void use_pages(Mirror& mirror, FakeDevice& device, TestMemory& memory) {
  publish(mirror, device);
  for (std::size_t page : {0U, 600U, 700U, 900U}) *memory.word(page) = page + 1;
  device.store<std::uint64_t>(memory.word(0), 10);
  (void)device.load(memory.word(700));
  *memory.word(700) = 5;
  for (int i = 0; i < 10; ++i) {
    device.store<std::uint64_t>(memory.word(900), 3);
    *memory.word(900) = 4;
  }
}

TEST(LiveProcessTest, IsReadWhileItWorks) {
  // Never done: it moves pages as long as it lives.
  MirroredProcess process([](Mirror& mirror, FakeDevice& device, TestMemory& memory) {
    publish(mirror, device);
    device.store<std::uint64_t>(memory.word(0), 1);
    std::thread([&] {
      for (std::uint64_t i = 0;; ++i) {
        device.store(memory.word(i % 512), i);
        *memory.word(i % 512) = i;
        // Else they are all coherent soon, and there is nothing to decide.
        if (i % 512 == 0) mirror.bring_home({reinterpret_cast<std::uint64_t>(memory.data()), memory.size()});
      }
    }).detach();
  });
  ASSERT_NE(process.address(), 0U);
  const auto view = LiveView::open(process.pid());
  ASSERT_TRUE(view) << view.error().message;
  std::uint64_t faults = 0;
  std::uint64_t decisions = 0;
  for (int i = 0; i < 50; ++i) {
    const auto state = view->read();
    ASSERT_TRUE(state) << state.error().message;
    const auto counter = std::ranges::find(state->counters, "device_faults", [](const auto& c) { return c.first; });
    ASSERT_NE(counter, state->counters.end());
    EXPECT_GE(counter->second, faults);
    faults = counter->second;
    EXPECT_GE(state->decisions_made, decisions);
    decisions = state->decisions_made;
    for (std::size_t d = 0; d < state->decisions.size(); ++d) {
      const auto& decision = state->decisions[d];
      EXPECT_TRUE(d == 0 || decision.number > state->decisions[d - 1].number);
      // Nothing that was half written.
      EXPECT_GE(decision.address, process.address());
      EXPECT_LE(decision.address + decision.pages * kPageSize, process.address() + 2 * kBlockSize);
      EXPECT_LE(decision.action, static_cast<std::uint8_t>(hms::Action::kFail));
    }
    for (const auto& block : state->blocks) {
      EXPECT_LE(block.devices[0].only + block.devices[0].duplicated + block.devices[0].coherent, 512);
    }
  }
  EXPECT_GT(decisions, 0U);
  process.end();
  const auto state = view->read();
  ASSERT_FALSE(state);
  EXPECT_NE(state.error().message.find("has ended"), std::string::npos);
  EXPECT_TRUE(view->read(true)) << "what it said last can still be had";
}

TEST(LiveProcessTest, StatsShowCountersAndTimes) {
  const MirroredProcess process(use_pages);
  ASSERT_NE(process.address(), 0U);
  const ToolOutcome text = run_tool(process.argument("stats --histograms"));
  EXPECT_EQ(text.status, 0) << text.output;
  for (const char* part : {"coherent_upgrades        1\n", "device fake:0", "device_fault_isolated", "times, ",
                           "below ", "#", "decisions "}) {
    EXPECT_NE(text.output.find(part), std::string::npos) << part << text.output;
  }
  const ToolOutcome json = run_tool(process.argument("stats --json"));
  EXPECT_EQ(json.status, 0) << json.output;
  EXPECT_NE(json.output.find("\"device_faults\": "), std::string::npos) << json.output;
  EXPECT_NE(json.output.find("\"unit\": \"ns\""), std::string::npos) << json.output;
}

TEST(LiveProcessTest, StatsWatchUntilTheEnd) {
  MirroredProcess process(use_pages);
  ASSERT_NE(process.address(), 0U);
  const ToolOutcome twice = run_tool(process.argument("stats --watch --json --interval 0.01 --times 2"));
  EXPECT_EQ(twice.status, 0);
  EXPECT_EQ(std::ranges::count(twice.output, '\n'), 2) << twice.output;
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    kill(process.pid(), SIGKILL);
  });
  const ToolOutcome watched = run_tool(process.argument("stats --watch --interval 0.05"));
  killer.join();
  EXPECT_EQ(watched.status, 0);
  EXPECT_NE(watched.output.find(fmt::format("process {} has ended\n", process.pid())), std::string::npos)
      << watched.output;
}

TEST(LiveProcessTest, WhySaysWhatHappenedAndWhatElseThereWas) {
  const MirroredProcess process(use_pages);
  ASSERT_NE(process.address(), 0U);
  const auto why = [&](std::uint64_t page) {
    const ToolOutcome outcome = run_tool(process.argument("why") + process.page(page));
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return outcome.output;
  };
  const auto says = [](const std::string& output, const std::string& part) {
    EXPECT_NE(output.find(part), std::string::npos) << part << "\n" << output;
  };
  const std::string moved = why(0);
  says(moved, "is in device memory only; of the 2 MiB around it fake:0 has");
  says(moved, "ago fake:0 wrote it: it moved from host memory to fake:0-memory");
  says(moved, "Because: who asks cannot use it where it is.");
  says(moved, "Policy: the program had no wish for this range.");
  says(moved, "To read a page once costs fake:0:\n");
  says(moved, "GiB/s");
  const std::string returned = why(700);
  says(returned, "is with the application");
  says(returned, "the application wrote it: it moved from fake:0-memory to host memory");
  EXPECT_LT(returned.find("to host memory"), returned.find("to fake:0-memory")) << "the newest comes first";
  const std::string shared = why(900);
  // Where the CPU cannot map the device's memory, they meet in the host's.
  const bool meets_in_host_memory = options().private_memory;
  says(shared, meets_in_host_memory ? "is in host memory, which devices have mapped there too"
                                    : "is in device memory, which the application has mapped there too");
  says(shared,
       fmt::format("it went to {}, where both sides map it", meets_in_host_memory ? "host memory" : "fake:0-memory"));
  says(why(600), "None of the last");
  const ToolOutcome nowhere = run_tool(process.argument("why") + " 0x1000");
  says(nowhere.output, "0x1000 is not mapped.");
}

TEST(LiveProcessTest, ResidencyShowsWhatDevicesHave) {
  const MirroredProcess process(use_pages);
  ASSERT_NE(process.address(), 0U);
  const ToolOutcome all = run_tool(process.argument("residency"));
  EXPECT_EQ(all.status, 0) << all.output;
  EXPECT_NE(all.output.find("mirrored by fake:0: "), std::string::npos) << all.output;
  EXPECT_NE(all.output.find(" 1 coherent"), std::string::npos) << all.output;
  const ToolOutcome json = run_tool(process.argument("residency --json"));
  EXPECT_NE(json.output.find("\"coherent\": 4096"), std::string::npos) << json.output;
  const ToolOutcome pages = run_tool(process.argument("residency") + process.page(0) + process.page(600));
  EXPECT_EQ(pages.status, 0) << pages.output;
  EXPECT_NE(pages.output.find("is in device memory only"), std::string::npos) << pages.output;
  EXPECT_NE(pages.output.find("is with the application"), std::string::npos) << pages.output;
}

TEST(LiveProcessTest, WorksBeforeTheTopologyIsPublished) {
  const MirroredProcess process(
      [](Mirror&, FakeDevice& device, TestMemory& memory) { (void)device.load(memory.word(0)); });
  ASSERT_NE(process.address(), 0U);
  const ToolOutcome why = run_tool(process.argument("why") + process.page(0));
  EXPECT_EQ(why.status, 0) << why.output;
  EXPECT_NE(why.output.find("device 0 read it: it was allocated in device 0's memory"), std::string::npos)
      << why.output;
  EXPECT_NE(why.output.find("has not published its topology"), std::string::npos) << why.output;
}

TEST(LiveProcessTest, WhyTellsThePolicyThatApplied) {
  const MirroredProcess process([](Mirror& mirror, FakeDevice& device, TestMemory& memory) {
    static FollowedPolicies policies(mirror);
    policies.set({reinterpret_cast<std::uint64_t>(memory.data()), kPageSize}, FollowedPolicies::read_mostly());
    *memory.word(0) = 1;
    (void)device.load(memory.word(0));
    *memory.word(1) = 1;
    (void)device.load(memory.word(1));
  });
  ASSERT_NE(process.address(), 0U);
  const ToolOutcome wished = run_tool(process.argument("why") + process.page(0));
  EXPECT_NE(wished.output.find("Because: the range is marked as read mostly"), std::string::npos) << wished.output;
  EXPECT_NE(wished.output.find("Policy: the program's wish: read mostly."), std::string::npos) << wished.output;
  const ToolOutcome other = run_tool(process.argument("why") + process.page(1));
  EXPECT_NE(other.output.find("the program had no wish for this range"), std::string::npos) << other.output;
}

TEST(LiveProcessTest, ErrorsSayWhatToDo) {
  const pid_t plain = fork();
  if (plain == 0) {
    alarm(60);
    for (;;) pause();
  }
  struct Case {
    std::string arguments;
    const char* says;
  };
  const std::string pid = std::to_string(plain);
  for (const Case& c : {Case{"stats 1073741823", "there is no process 1073741823"},
                        Case{"why 1073741823 0x1000", "there is no process 1073741823"},
                        Case{"stats " + pid, "has no mirror: it does not use MirrorCL"},
                        Case{"why " + pid + " 0x1000", "has no mirror: it does not use MirrorCL"},
                        Case{"why " + pid + " here", "'here' is no address"},
                        Case{"residency " + pid + " 12x", "'12x' is no address"}}) {
    const ToolOutcome outcome = run_tool(c.arguments);
    EXPECT_EQ(outcome.status, 1) << c.arguments;
    EXPECT_NE(outcome.output.find(c.says), std::string::npos) << c.arguments << ": " << outcome.output;
  }
  kill(plain, SIGKILL);
  waitpid(plain, nullptr, 0);
}

// The child of a fork has its parent's memory and none of its mirror.
TEST(LiveProcessTest, AForkedChildHasNoMirror) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const int report = ends[1];
  const MirroredProcess process([report](Mirror&, FakeDevice&, TestMemory&) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      for (;;) pause();
    }
    (void)!write(report, &child, sizeof child);
  });
  pid_t child = 0;
  ASSERT_EQ(read(ends[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  const auto view = LiveView::open(child);
  kill(child, SIGKILL);
  close(ends[0]);
  close(ends[1]);
  ASSERT_FALSE(view);
  EXPECT_NE(view.error().message.find("has no mirror"), std::string::npos) << view.error().message;
}

}  // namespace
}  // namespace mirrorcl::mirror
