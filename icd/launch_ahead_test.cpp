// SPDX-License-Identifier: Apache-2.0
// What launches that wait name comes to the device before they begin: arguments, buffers on the application's memory,
// and CL_KERNEL_EXEC_INFO_SVM_PTRS (OpenCL 3.0, 5.9.2).
#include <chrono>
#include <cstdlib>
#include <deque>
#include <numeric>
#include <thread>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "base/sanitizers.h"
#include "icd/command_fixture.h"

namespace mirrorcl::icd::testing {
namespace {

// However busy the machine is. Before the driver is loaded, which reads it once.
[[maybe_unused]] const int g_always = setenv("MIRRORCL_LAUNCH_AHEAD", "always", 1);

class LaunchAheadTest : public CommandTest {
 protected:
  static constexpr std::size_t kBytes = std::size_t{1} << 20;
  static constexpr std::size_t kInts = kBytes / sizeof(int);
  // The first and the last page of an allocation may be shared with others.
  static constexpr std::size_t kWhole = kBytes - 2 * 4096;

  void SetUp() override {
    CommandTest::SetUp();
    if (HasFatalFailure()) return;
    read_ = reinterpret_cast<clGetMirrorStatisticsMIRRORCL_fn>(
        cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clGetMirrorStatisticsMIRRORCL"));
    ASSERT_NE(read_, nullptr);
    int probe = 0;
    ASSERT_EQ(enqueue(queue, kernel("add", &probe, 1)), CL_SUCCESS);
    ASSERT_EQ(cl().clFinish(queue), CL_SUCCESS);
    // What a test before used while a launch waited for it stays at home for 100 ms, and so may what lies there now.
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    if (statistics().bytes_to_device == 0) GTEST_SKIP() << "the device has no memory of its own";
  }
  cl_mirror_statistics_mirrorcl statistics() const {
    cl_mirror_statistics_mirrorcl now{};
    EXPECT_EQ(read_(device, sizeof now, &now, nullptr), CL_SUCCESS);
    return now;
  }
  cl_ulong brought() const { return statistics().bytes_brought_for_launches; }
  // Large enough to be brought, where no device has had any memory: none of it is given back.
  static std::vector<int>& fresh() {
    static auto* const all = new std::deque<std::vector<int>>;
    std::vector<int>& words = all->emplace_back(kInts);
    std::iota(words.begin(), words.end(), 0);
    return words;
  }

 private:
  clGetMirrorStatisticsMIRRORCL_fn read_ = nullptr;
};

TEST_F(LaunchAheadTest, SvmPointersAreThereBeforeTheirUserEvent) {
  if (!kMallocOfLibc) GTEST_SKIP() << "only libc's malloc tells the size of an allocation";
  std::vector<int>& words = fresh();
  auto other = std::make_unique<int>(0);
  Kernel add = kernel("add", other.get(), 1);
  const void* pointers[] = {words.data()};
  ASSERT_EQ(cl().clSetKernelExecInfo(add.get(), CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof pointers, pointers), CL_SUCCESS);
  Event event = user_event();
  const cl_ulong before = brought();
  Event launched = launch(queue, add, {event.get()});
  EXPECT_TRUE(becomes([&] { return brought() - before >= kWhole; }));
  EXPECT_NE(status_of(launched), CL_COMPLETE);
  EXPECT_EQ(set(event, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(wait(launched), CL_SUCCESS);
  EXPECT_EQ(*other, 1);
  for (std::size_t i = 0; i < kInts; ++i) ASSERT_EQ(words[i], static_cast<int>(i));
}

TEST_F(LaunchAheadTest, ArgumentsAreThereBeforeTheKernelInFrontEnds) {
  if (!kMallocOfLibc) GTEST_SKIP() << "only libc's malloc tells the size of an allocation";
  std::vector<int>& words = fresh();
  Kernel add = kernel("add", words.data(), 1);
  Event first = hold(queue);
  const cl_ulong before = brought();
  ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return brought() - before >= kWhole; }));
  EXPECT_NE(status_of(first), CL_COMPLETE);
  gate.store(1);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(words[0], 1);
  EXPECT_EQ(words[kInts - 1], static_cast<int>(kInts) - 1);
}

TEST_F(LaunchAheadTest, BuffersOnTheApplicationsMemoryAreThereToTheirSize) {
  std::vector<int>& words = fresh();
  cl_int error = 1;
  cl_mem buffer = cl().clCreateBuffer(context, CL_MEM_USE_HOST_PTR, kBytes / 2, words.data(), &error);
  ASSERT_EQ(error, CL_SUCCESS);
  Kernel add = kernel("add", nullptr, 1);
  ASSERT_EQ(cl().clSetKernelArg(add.get(), 0, sizeof buffer, &buffer), CL_SUCCESS);
  Event first = hold(queue);
  const cl_ulong before = brought();
  ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return brought() - before >= kBytes / 2 - 2 * 4096; }));
  gate.store(1);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_LE(brought() - before, kBytes / 2);
  EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_EQ(words[0], 1);
}

TEST_F(LaunchAheadTest, NothingComesForALaunchThatBeginsAtOnce) {
  const cl_ulong before = brought();
  for (int round = 0; round < 20; ++round) {
    std::vector<int>& words = fresh();
    ASSERT_EQ(enqueue(queue, kernel("add", words.data(), 1)), CL_SUCCESS);
    ASSERT_EQ(cl().clFinish(queue), CL_SUCCESS);
    ASSERT_EQ(words[0], 1);
  }
  EXPECT_EQ(brought(), before);
}

// A launch that never begins ends its wait too.
TEST_F(LaunchAheadTest, LaunchesThatAreGivenUp) {
  std::vector<int>& words = fresh();
  for (int round = 0; round < 100; ++round) {
    Event event = user_event();
    Event launched = launch(queue, kernel("add", words.data(), 1), {event.get()});
    EXPECT_EQ(set(event, -1), CL_SUCCESS);
    EXPECT_EQ(wait(launched), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    ASSERT_EQ(words[0], 0);
    ASSERT_EQ(words[kInts - 1], static_cast<int>(kInts) - 1);
  }
}

// Producer and consumer: the application fills what a launch that waits names.
TEST_F(LaunchAheadTest, TheApplicationMayGoOnUsingTheMemory) {
  std::vector<int> words(kInts);
  for (int round = 1; round <= 50; ++round) {
    Event event = user_event();
    Event launched = launch(queue, kernel("twice_plus", words.data(), 1), {event.get()});
    for (int& word : words) word = round;
    EXPECT_EQ(set(event, CL_COMPLETE), CL_SUCCESS);
    EXPECT_EQ(wait(launched), CL_SUCCESS);
    for (std::size_t i = 0; i < kInts; ++i) {
      ASSERT_EQ(words[i], i == 0 ? 2 * round + 1 : round) << i;
    }
  }
}

}  // namespace
}  // namespace mirrorcl::icd::testing
