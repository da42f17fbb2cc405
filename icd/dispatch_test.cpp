// SPDX-License-Identifier: Apache-2.0
// What cl_khr_icd 1 and 2.0 ask of a driver.
#include <cstring>
#include <set>
#include <string>
#include <string_view>

#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

constexpr std::intptr_t kIcd2Tag = 0x4F50454E434C3331;

template <typename Slot>
std::intptr_t bits(Slot slot) {
  return reinterpret_cast<std::intptr_t>(slot);
}

TEST(Icd, OnlyLoaderEntryPointsAreVisible) {
  void* library = Driver::get().library;
  EXPECT_NE(dlsym(library, "clGetExtensionFunctionAddress"), nullptr);
  EXPECT_NE(dlsym(library, "clIcdGetPlatformIDsKHR"), nullptr);
  EXPECT_EQ(dlsym(library, "clCreateContext"), nullptr);
  EXPECT_EQ(dlsym(library, "clGetPlatformIDs"), nullptr);
}

TEST(Icd, LibraryStaysInTheProcess) {
  void* again = dlopen(MIRRORCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  ASSERT_EQ(again, Driver::get().library);
  EXPECT_EQ(dlclose(again), 0);
  EXPECT_NE(dlopen(MIRRORCL_LIBRARY, RTLD_NOW | RTLD_NOLOAD), nullptr);
}

TEST(Icd, PlatformListFollowsTheArguments) {
  auto get_platforms = Driver::get().get_platforms;
  cl_uint count = 0;
  EXPECT_EQ(get_platforms(0, nullptr, &count), CL_SUCCESS);
  EXPECT_EQ(count, 1u);
  cl_platform_id platform = nullptr;
  EXPECT_EQ(get_platforms(1, &platform, nullptr), CL_SUCCESS);
  EXPECT_EQ(platform, Driver::get().platform);
  EXPECT_EQ(get_platforms(0, &platform, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(get_platforms(0, nullptr, nullptr), CL_INVALID_VALUE);
}

TEST(Icd, BothIcd2SlotsHoldTheTag) {
  EXPECT_EQ(bits(cl().clGetPlatformIDs), kIcd2Tag);
  EXPECT_EQ(bits(cl().clUnloadCompiler), kIcd2Tag);
}

TEST(Icd, TableHasEverySlotOfOpenCl30) {
#define MIRRORCL_ENTRY(name) EXPECT_NE(bits(cl().name), 0) << #name;
#define MIRRORCL_FOREIGN(name) EXPECT_NE(bits(cl().name), 0) << #name;
#define MIRRORCL_ALIAS(name, target) EXPECT_EQ(bits(cl().name), bits(cl().target)) << #name;
#define MIRRORCL_ABSENT(name) EXPECT_EQ(bits(cl().name), 0) << #name;
#include "icd/entry_points.def"
}

TEST(Icd, TableAndNamesAgree) {
  Driver& driver = Driver::get();
  std::set<void*> addresses;
  std::size_t names = 0;
#define MIRRORCL_ENTRY(name)                                                                  \
  EXPECT_EQ(bits(driver.get_function(driver.platform, #name)), bits(cl().name)) << #name;     \
  EXPECT_TRUE(addresses.insert(driver.get_function(driver.platform, #name)).second) << #name; \
  ++names;
#define MIRRORCL_TAGGED(name) EXPECT_NE(driver.get_function(driver.platform, #name), nullptr) << #name;
#include "icd/entry_points.def"
  EXPECT_GT(names, 100u);
  EXPECT_EQ(driver.get_function(driver.platform, "clNoSuchFunction"), nullptr);
  EXPECT_EQ(driver.get_function(driver.platform, nullptr), nullptr);
  EXPECT_EQ(driver.get_function(nullptr, "clCreateContext"), nullptr);
}

TEST(Icd, ExtensionLookupKnowsExtensionsOnly) {
  Driver& driver = Driver::get();
  EXPECT_NE(driver.get_extension("clIcdGetPlatformIDsKHR"), nullptr);
  EXPECT_NE(cl().clGetExtensionFunctionAddressForPlatform(driver.platform, "clGetMirrorStatisticsMIRRORCL"), nullptr);
  EXPECT_EQ(cl().clGetExtensionFunctionAddressForPlatform(driver.platform, "clCreateContext"), nullptr);
  EXPECT_EQ(cl().clGetExtensionFunctionAddressForPlatform(nullptr, "clIcdGetPlatformIDsKHR"), nullptr);
  EXPECT_EQ(driver.get_extension("clCreateContext"), nullptr);
  EXPECT_EQ(driver.get_extension(nullptr), nullptr);
}

TEST(Icd, ObjectsCarryTheLoadersData) {
  Driver& driver = Driver::get();
  int data = 0;
  ASSERT_EQ(driver.set_dispatch_data(driver.platform, &data), CL_SUCCESS);
  const auto view = [](auto handle) { return reinterpret_cast<const LoaderView*>(handle); };
  EXPECT_EQ(view(driver.platform)->dispatch_data, &data);
  EXPECT_EQ(view(driver.device)->dispatch_data, &data);
  EXPECT_EQ(view(driver.device)->dispatch, &cl());
  cl_int error = -1;
  cl_context context = cl().clCreateContext(nullptr, 1, &driver.device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(view(context)->dispatch, &cl());
  EXPECT_EQ(view(context)->dispatch_data, &data);
  const char* source = "kernel void k() {}";
  cl_program program = cl().clCreateProgramWithSource(context, 1, &source, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(view(program)->dispatch_data, &data);
  cl_event event = cl().clCreateUserEvent(context, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(view(event)->dispatch, &cl());
  EXPECT_EQ(view(event)->dispatch_data, &data);
  EXPECT_EQ(cl().clReleaseEvent(event), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(context), CL_SUCCESS);
  ASSERT_EQ(driver.set_dispatch_data(driver.platform, nullptr), CL_SUCCESS);
  EXPECT_EQ(driver.set_dispatch_data(nullptr, nullptr), CL_INVALID_PLATFORM);
}

TEST(Icd, SlotsOfForeignExtensionsReturnTheirErrors) {
  cl_int error = 0;
  EXPECT_EQ(cl().clCreateFromGLBuffer(nullptr, CL_MEM_READ_WRITE, 1, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(cl().clEnqueueAcquireGLObjects(nullptr, 0, nullptr, 0, nullptr, nullptr), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clCreateSubDevicesEXT(Driver::get().device, nullptr, 0, nullptr, nullptr), CL_INVALID_VALUE);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
