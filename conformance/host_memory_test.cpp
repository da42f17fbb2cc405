// SPDX-License-Identifier: Apache-2.0
// Every kind of memory that a host process has, handed to a kernel by its address alone.
// OpenCL 3.0 API, section 5.6 "Shared Virtual Memory": with CL_DEVICE_SVM_FINE_GRAIN_SYSTEM "the entire host virtual
// address space" is shared, "any memory allocated by the system" may be used, at its own address.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

using HostMemory = SystemMemoryTest;

constexpr std::size_t kCount =
    4000;  // about four pages of int: begins and ends inside pages that hold other things too

int g_zero_initialised[kCount];
int g_initialised[kCount] = {7, 8, 9};
const int g_constants[8] = {2, 3, 5, 7, 11, 13, 17, 19};
thread_local int t_local[kCount];

void fill(int* data, std::size_t count, int seed) {
  for (std::size_t i = 0; i < count; ++i) data[i] = seed + 3 * static_cast<int>(i);
}

// Runs add_index over `data` twice with host changes in between, and checks both directions each time.
void exchange_with_device(const ClTest& test, int* data, std::size_t count) {
  Kernel kernel = test.build(kAddIndex, "add_index");
  ASSERT_TRUE(kernel);
  std::vector<int> before(count);
  for (int round = 0; round < 2; ++round) {
    int seed = 1000 * (round + 1);
    fill(data, count, seed);
    test.run(kernel, count, data, before.data());
    for (std::size_t i = 0; i < count; ++i) {
      int wanted = seed + 3 * static_cast<int>(i);
      ASSERT_EQ(before[i], wanted) << "the device read word " << i << " wrongly in round " << round;
      ASSERT_EQ(data[i], wanted + static_cast<int>(i)) << "the host read word " << i << " wrongly in round " << round;
    }
  }
}

constexpr const char* kSum = R"(
kernel void sum(global const int *data, ulong count, global long *result) {
  long total = 0;
  for (ulong i = 0; i < count; ++i) total += data[i];
  *result = total;
})";

TEST_F(HostMemory, HeapFromMalloc) {
  std::unique_ptr<int, decltype(&std::free)> data(static_cast<int*>(std::malloc(kCount * sizeof(int))), &std::free);
  exchange_with_device(*this, data.get(), kCount);
}

TEST_F(HostMemory, HeapFromNewAndSmallNeighbours) {
  // Many small objects share each page; the device changes every other one, the host's neighbours must stay.
  std::vector<std::unique_ptr<int>> objects;
  for (int i = 0; i < 512; ++i) objects.push_back(std::make_unique<int>(i));
  std::vector<int*> targets;
  for (std::size_t i = 0; i < objects.size(); i += 2) targets.push_back(objects[i].get());
  Kernel kernel =
      build("kernel void negate(global ulong *at) { global int *p = (global int *)at[get_global_id(0)]; *p = -*p; }",
            "negate");
  ASSERT_TRUE(kernel);
  run(kernel, targets.size(), targets.data());
  for (int i = 0; i < 512; ++i) EXPECT_EQ(*objects[static_cast<std::size_t>(i)], i % 2 == 0 ? -i : i);
}

TEST_F(HostMemory, LargeAllocationAtAnUnalignedAddress) {
  std::vector<int> data(3 * kMiB / sizeof(int) + 17);
  exchange_with_device(*this, data.data() + 5, data.size() - 11);
}

TEST_F(HostMemory, StackOfTheMainThread) {
  int on_stack[kCount];
  exchange_with_device(*this, on_stack, kCount);
}

TEST_F(HostMemory, StackOfAnotherThreadThatRuns) {
  std::thread([this] {
    int on_stack[kCount];
    exchange_with_device(*this, on_stack, kCount);
  }).join();
}

TEST_F(HostMemory, StackOfAnotherThreadThatSleeps) {
  std::mutex mutex;
  std::condition_variable changed;
  int* stack_words = nullptr;
  bool done = false;
  long sum_seen_by_owner = 0;
  std::thread owner([&] {
    int on_stack[kCount];
    fill(on_stack, kCount, 0);
    std::unique_lock lock(mutex);
    stack_words = on_stack;
    changed.notify_all();
    changed.wait(lock, [&] { return done; });
    sum_seen_by_owner = std::accumulate(on_stack, on_stack + kCount, 0L);
  });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return stack_words != nullptr; });
  }
  Kernel kernel = build(kAddIndex, "add_index");
  std::vector<int> before(kCount);
  if (kernel) run(kernel, kCount, stack_words, before.data());
  {
    std::lock_guard lock(mutex);
    done = true;
  }
  changed.notify_all();
  owner.join();
  long indices = static_cast<long>(kCount * (kCount - 1) / 2);
  EXPECT_EQ(std::accumulate(before.begin(), before.end(), 0L), 3 * indices);
  EXPECT_EQ(sum_seen_by_owner, 4 * indices);
}

TEST_F(HostMemory, ZeroInitialisedGlobals) {
  exchange_with_device(*this, g_zero_initialised, kCount);
}

TEST_F(HostMemory, ZeroInitialisedGlobalsNeverTouchedByTheHost) {
  // Page aligned: the beginning of .bss lies in the last page of .data, which is file memory.
  alignas(4096) static int untouched[kCount];
  Kernel kernel = build(kAddIndex, "add_index");
  ASSERT_TRUE(kernel);
  std::vector<int> before(kCount, -1);
  run(kernel, kCount, static_cast<int*>(untouched), before.data());
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(before[i], 0) << i;
    ASSERT_EQ(untouched[i], static_cast<int>(i));
  }
}

TEST_F(HostMemory, ThreadLocalsOfTheMainThread) {
  exchange_with_device(*this, t_local, kCount);
}

TEST_F(HostMemory, ThreadLocalsOfAnotherThread) {
  std::thread([this] { exchange_with_device(*this, t_local, kCount); }).join();
}

TEST_F(HostMemory, InitialisedGlobalsAreReadAndSeenAfterTheHostChangesThem) {
  Kernel kernel = build(kSum, "sum");
  ASSERT_TRUE(kernel);
  auto result = std::make_unique<cl_long>(0);
  for (int round = 0; round < 3; ++round) {
    g_initialised[kCount - 1] = 100 * round;
    run(kernel, 1, static_cast<int*>(g_initialised), cl_ulong{kCount}, result.get());
    EXPECT_EQ(*result, 24 + 100 * round);
  }
}

TEST_F(HostMemory, InitialisedGlobals) {
  exchange_with_device(*this, g_initialised, kCount);
}

TEST_F(HostMemory, InitialisedGlobalThatARunningKernelWatches) {
  static volatile int flag[1] = {1};
  Kernel kernel = build(R"(
kernel void watch(global volatile int *flag) {
  while (*flag == 1) {
  }
  *flag = 3;
})",
                        "watch");
  ASSERT_TRUE(kernel);
  Event event = launch(kernel, 1, const_cast<int*>(flag));
  ASSERT_TRUE(event);
  clFlush(queue());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  flag[0] = 2;
  clFinish(queue());
  EXPECT_EQ(event_status(event), CL_COMPLETE);
  EXPECT_EQ(flag[0], 3);
}

TEST_F(HostMemory, ReadOnlyDataOfTheExecutable) {
  Kernel kernel = build(kSum, "sum");
  ASSERT_TRUE(kernel);
  auto result = std::make_unique<cl_long>(0);
  run(kernel, 1, const_cast<int*>(g_constants), cl_ulong{8}, result.get());
  EXPECT_EQ(*result, 77);
}

TEST_F(HostMemory, StringLiteralAndProgramText) {
  const char* literal = "a string literal lives in .rodata";
  Kernel kernel = build(R"(
kernel void bytes(global const uchar *p, uint count, global uint *result) {
  uint total = 0;
  for (uint i = 0; i < count; ++i) total = total * 31 + p[i];
  *result = total;
})",
                        "bytes");
  ASSERT_TRUE(kernel);
  auto hash = [](const unsigned char* bytes, std::size_t count) {
    cl_uint total = 0;
    for (std::size_t i = 0; i < count; ++i) total = total * 31 + bytes[i];
    return total;
  };
  auto result = std::make_unique<cl_uint>(0);
  run(kernel, 1, literal, cl_uint{33}, result.get());
  EXPECT_EQ(*result, hash(reinterpret_cast<const unsigned char*>(literal), 33));
  auto* code = reinterpret_cast<const unsigned char*>(&fill);
  run(kernel, 1, code, cl_uint{16}, result.get());
  EXPECT_EQ(*result, hash(code, 16));
}

TEST_F(HostMemory, FreshAnonymousMemoryNeverTouchedByTheHost) {
  Mapping memory(8 * kMiB);
  std::size_t count = memory.size() / sizeof(int);
  Kernel kernel = build(R"(
kernel void first_touch(global int *data, global int *not_zero) {
  size_t i = get_global_id(0);
  if (data[i] != 0) atomic_inc(not_zero);
  data[i] = (int)i ^ 0x5a5a;
})",
                        "first_touch");
  ASSERT_TRUE(kernel);
  auto not_zero = std::make_unique<int>(0);
  run(kernel, count, memory.as<int>(), not_zero.get());
  EXPECT_EQ(*not_zero, 0);
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(memory.as<int>()[i], static_cast<int>(i) ^ 0x5a5a) << i;
}

class FileMemory : public SystemMemoryTest {
 protected:
  void SetUp() override {
    SystemMemoryTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    char name[] = "/tmp/mirrorcl-conformance-XXXXXX";
    file_ = mkstemp(name);
    ASSERT_GE(file_, 0);
    unlink(name);
    std::vector<int> words(kWords);
    std::iota(words.begin(), words.end(), 1);
    ASSERT_EQ(write(file_, words.data(), kBytes), static_cast<ssize_t>(kBytes));
  }
  void TearDown() override {
    if (data_ != nullptr) munmap(data_, kBytes);
    if (file_ >= 0) close(file_);
    SystemMemoryTest::TearDown();
  }
  void map(int protection, int flags) {
    void* data = mmap(nullptr, kBytes, protection, flags, file_, 0);
    ASSERT_NE(data, MAP_FAILED);
    data_ = static_cast<int*>(data);
  }
  // What read(2) finds.
  std::vector<int> read_file() const {
    std::vector<int> words(kWords);
    EXPECT_EQ(pread(file_, words.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
    return words;
  }
  // What a kernel finds when it adds all words up.
  cl_long device_sum() {
    Kernel kernel = build(kSum, "sum");
    auto result = std::make_unique<cl_long>(-1);
    if (kernel) run(kernel, 1, static_cast<const int*>(data_), cl_ulong{kWords}, result.get());
    return *result;
  }
  static constexpr std::size_t kWords = 50'000;
  static constexpr std::size_t kBytes = kWords * sizeof(int);
  static constexpr cl_long kExpected = static_cast<cl_long>(kWords) * (kWords + 1) / 2;
  int file_ = -1;
  int* data_ = nullptr;
};

TEST_F(FileMemory, PrivateReadOnlyMapping) {
  map(PROT_READ, MAP_PRIVATE);
  EXPECT_EQ(device_sum(), kExpected);
  EXPECT_EQ(std::accumulate(data_, data_ + kWords, 0L), kExpected);
}

TEST_F(FileMemory, SharedReadOnlyMapping) {
  map(PROT_READ, MAP_SHARED);
  EXPECT_EQ(device_sum(), kExpected);
}

TEST_F(FileMemory, ChangesMadeThroughTheFileAreSeenByTheNextKernel) {
  map(PROT_READ, MAP_SHARED);
  EXPECT_EQ(device_sum(), kExpected);
  int word = 1'000'001;
  ASSERT_EQ(pwrite(file_, &word, sizeof word, 0), static_cast<ssize_t>(sizeof word));
  EXPECT_EQ(device_sum(), kExpected + 1'000'000);
}

TEST_F(FileMemory, SharedMappingThatTheDeviceWrites) {
  map(PROT_READ | PROT_WRITE, MAP_SHARED);
  Kernel kernel = build(kAddIndex, "add_index");
  ASSERT_TRUE(kernel);
  std::vector<int> before(kWords);
  run(kernel, kWords, data_, before.data());
  const std::vector<int> in_file = read_file();
  for (std::size_t i = 0; i < kWords; ++i) {
    ASSERT_EQ(before[i], static_cast<int>(i) + 1) << i;
    ASSERT_EQ(data_[i], 2 * static_cast<int>(i) + 1) << i;
    ASSERT_EQ(in_file[i], data_[i]) << "what a kernel writes is what read(2) finds, at " << i;
  }
}

TEST_F(FileMemory, RunningKernelSeesWhatIsWrittenToTheFile) {
  map(PROT_READ | PROT_WRITE, MAP_SHARED);
  Kernel kernel = build(R"(
kernel void answer(global volatile int *words) {
  while (words[0] == 1) {
  }
  words[1] = words[0] + 1;
})",
                        "answer");
  ASSERT_TRUE(kernel);
  Event event = launch(kernel, 1, data_);
  ASSERT_TRUE(event);
  clFlush(queue());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  int word = 70;
  ASSERT_EQ(pwrite(file_, &word, sizeof word, 0), static_cast<ssize_t>(sizeof word));
  clFinish(queue());
  EXPECT_EQ(event_status(event), CL_COMPLETE);
  ASSERT_EQ(pread(file_, &word, sizeof word, sizeof word), static_cast<ssize_t>(sizeof word));
  EXPECT_EQ(word, 71);
}

TEST_F(FileMemory, PrivateMappingThatTheDeviceWrites) {
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
  data_[1] = 1000;
  Kernel kernel = build(kAddIndex, "add_index");
  ASSERT_TRUE(kernel);
  std::vector<int> before(kWords);
  run(kernel, kWords, data_, before.data());
  const std::vector<int> in_file = read_file();
  for (std::size_t i = 0; i < kWords; ++i) {
    const int was = i == 1 ? 1000 : static_cast<int>(i) + 1;
    ASSERT_EQ(before[i], was) << i;
    ASSERT_EQ(data_[i], was + static_cast<int>(i)) << i;
    ASSERT_EQ(in_file[i], static_cast<int>(i) + 1) << "the file is nobody's to change through a private mapping";
  }
}

TEST_F(FileMemory, PrivateWritableMappingThatTheHostChanged) {
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
  data_[0] += 10;
  EXPECT_EQ(device_sum(), kExpected + 10);
  data_[kWords - 1] += 5;
  EXPECT_EQ(device_sum(), kExpected + 15);
}

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * kPage;
}

TEST_F(HostMemory, SparseFourGigabytesCostOnlyWhatIsTouched) {
  constexpr std::size_t kSize = 4 * kGiB, kStride = 64 * kMiB, kTouched = kSize / kStride;
  Mapping memory(kSize, PROT_READ | PROT_WRITE, MAP_NORESERVE);
  Kernel kernel = build(R"(
kernel void touch(global uchar *data, ulong stride) {
  size_t i = get_global_id(0);
  data[i * stride] = (uchar)(i + 1);
})",
                        "touch");
  ASSERT_TRUE(kernel);
  std::size_t before = resident_bytes();
  run(kernel, kTouched, memory.as(), cl_ulong{kStride});
  for (std::size_t i = 0; i < kTouched; ++i) {
    ASSERT_EQ(memory.as()[i * kStride], i + 1);
    ASSERT_EQ(memory.as()[i * kStride + kStride / 2], 0);
  }
  // 128 pages; with transparent huge pages, or answers of a whole 2 MiB block, each may cost 2 MiB.
  EXPECT_LT(resident_bytes(), before + 2 * kTouched * 2 * kMiB + 16 * kMiB);
}

TEST_F(HostMemory, TwoHundredFiftySixMegabytesBothWays) {
  constexpr std::size_t kWords = 256 * kMiB / sizeof(cl_ulong);
  Mapping memory(256 * kMiB);
  auto* words = memory.as<cl_ulong>();
  auto pattern = [](std::size_t i) { return (i + 1) * 0x9e37'79b9'7f4a'7c15ULL; };
  for (std::size_t i = 0; i < kWords; ++i) words[i] = pattern(i);
  Kernel kernel = build(R"(
kernel void invert(global ulong *data, ulong per_item, global ulong *wrong) {
  ulong first = get_global_id(0) * per_item, bad = 0;
  for (ulong i = first; i < first + per_item; ++i) {
    if (data[i] != (i + 1) * 0x9e3779b97f4a7c15UL) ++bad;
    data[i] = ~data[i];
  }
  wrong[get_global_id(0)] = bad;
})",
                        "invert");
  ASSERT_TRUE(kernel);
  std::vector<cl_ulong> wrong(64, 1);
  run(kernel, wrong.size(), words, cl_ulong{kWords / wrong.size()}, wrong.data());
  EXPECT_EQ(std::accumulate(wrong.begin(), wrong.end(), cl_ulong{0}), 0u);
  std::size_t bad = 0;
  for (std::size_t i = 0; i < kWords; ++i) bad += words[i] != ~pattern(i);
  EXPECT_EQ(bad, 0u);
}

}  // namespace
}  // namespace mirrorcl::conformance
