// SPDX-License-Identifier: Apache-2.0
// What is created and released ten thousand times leaves nothing behind: no memory, no mapping, no descriptor.
#include <dirent.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/sanitizers.h"
#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

struct Footprint {
  long resident_pages = 0;
  long mappings = 0;
  long descriptors = 0;
};

Footprint footprint() {
  Footprint result;
  std::ifstream statm("/proc/self/statm");
  long size = 0;
  statm >> size >> result.resident_pages;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) ++result.mappings;
  if (DIR* folder = opendir("/proc/self/fd")) {
    while (readdir(folder) != nullptr) ++result.descriptors;
    closedir(folder);
  }
  return result;
}

class SoakTest : public ::testing::Test {
 protected:
  static constexpr int kCycles = 10'000;
  static constexpr int kWarmUp = 500;
  static constexpr long kPagesAllowed = 2048;  // 8 MiB, of the allocator's own ups and downs
  static constexpr long kMappingsAllowed = 32;

  template <typename Cycle>
  void repeat(Cycle cycle) {
    Footprint before;
    for (int i = 0; i < kCycles; ++i) {
      if (i == kWarmUp) before = footprint();
      ASSERT_NO_FATAL_FAILURE(cycle()) << "cycle " << i;
    }
    const Footprint after = footprint();
    std::printf("%d cycles: %ld pages, %ld mappings, %ld descriptors more\n", kCycles - kWarmUp,
                after.resident_pages - before.resident_pages, after.mappings - before.mappings,
                after.descriptors - before.descriptors);
    // AddressSanitizer keeps what is freed, up to 256 MiB.
    if (!kAddressSanitizer) {
      EXPECT_LE(after.resident_pages, before.resident_pages + kPagesAllowed);
    }
    EXPECT_LE(after.mappings, before.mappings + kMappingsAllowed);
    EXPECT_LE(after.descriptors, before.descriptors);  // fewer: the machine was still being looked at before
  }

  Driver& driver_ = Driver::get();
  const _cl_icd_dispatch& cl_ = driver_.table();

  cl_context new_context() {
    cl_int error = CL_SUCCESS;
    cl_context context = cl_.clCreateContext(nullptr, 1, &driver_.device, nullptr, nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return context;
  }
};

TEST_F(SoakTest, Contexts) {
  repeat([&] {
    cl_context context = new_context();
    ASSERT_NE(context, nullptr);
    ASSERT_EQ(cl_.clReleaseContext(context), CL_SUCCESS);
  });
}

TEST_F(SoakTest, ContextsWithAQueueABufferAndCommands) {
  repeat([&] {
    cl_int error = CL_SUCCESS;
    cl_context context = new_context();
    ASSERT_NE(context, nullptr);
    cl_command_queue queue = cl_.clCreateCommandQueueWithProperties(context, driver_.device, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    cl_mem buffer = cl_.clCreateBuffer(context, CL_MEM_READ_WRITE, 64 * 1024, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    const int value = 7;
    int back = 0;
    ASSERT_EQ(cl_.clEnqueueWriteBuffer(queue, buffer, CL_FALSE, 0, sizeof value, &value, 0, nullptr, nullptr),
              CL_SUCCESS);
    ASSERT_EQ(cl_.clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, sizeof back, &back, 0, nullptr, nullptr), CL_SUCCESS);
    ASSERT_EQ(back, value);
    void* shared = cl_.clSVMAlloc(context, CL_MEM_READ_WRITE, 4096, 0);
    ASSERT_NE(shared, nullptr);
    cl_.clSVMFree(context, shared);
    ASSERT_EQ(cl_.clReleaseMemObject(buffer), CL_SUCCESS);
    ASSERT_EQ(cl_.clReleaseCommandQueue(queue), CL_SUCCESS);
    ASSERT_EQ(cl_.clReleaseContext(context), CL_SUCCESS);
  });
}

}  // namespace
}  // namespace mirrorcl::icd::testing
