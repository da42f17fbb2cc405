// SPDX-License-Identifier: Apache-2.0
// hbind() of an application that also uses OpenCL: it and the driver share libmirror-hms, so it reaches the device.
#include "hms/hbind.h"

#include <sys/mman.h>

#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

TEST(HbindBesideOpenCl, MovesMemoryToTheDriversDevice) {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kPages = 100;
  const auto targets_of = reinterpret_cast<clGetMemoryTargetsMIRRORCL_fn>(
      cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clGetMemoryTargetsMIRRORCL"));
  ASSERT_NE(targets_of, nullptr);
  std::vector<cl_memory_target_info_mirrorcl> targets(64);
  cl_uint count = 0;
  ASSERT_EQ(targets_of(Driver::get().device, 64, targets.data(), &count), CL_SUCCESS);
  std::uint32_t own = ~std::uint32_t{0};
  for (cl_uint i = 0; i < count && i < targets.size(); ++i) {
    if ((targets[i].flags & CL_MEMORY_TARGET_OWN_MIRRORCL) != 0) own = targets[i].uid;
  }
  if (own == ~std::uint32_t{0}) GTEST_SKIP() << "the ATS device has no memory of its own";

  void* memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* bytes = static_cast<char*>(memory);
  for (std::size_t page = 0; page < kPages; ++page) bytes[page * kPage] = static_cast<char>(page);
  EXPECT_EQ(hms_bind(memory, kPages * kPage, &own, 1), 0);
  EXPECT_EQ(hms_migrate(memory, kPages * kPage, &own, 1), static_cast<std::int64_t>(kPages));
  for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(bytes[page * kPage], static_cast<char>(page));
  EXPECT_EQ(hms_unbind(memory, kPages * kPage), 0);
  munmap(memory, kPages * kPage);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
