// SPDX-License-Identifier: Apache-2.0
// Platform and device queries, contexts (OpenCL 3.0, 4.1 to 4.4).
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

cl_device_id device() {
  return Driver::get().device;
}

template <typename T>
T device_value(cl_device_info name) {
  T value{};
  std::size_t size = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device(), name, sizeof value, &value, &size), CL_SUCCESS) << std::hex << name;
  EXPECT_EQ(size, sizeof value) << std::hex << name;
  return value;
}

std::string device_string(cl_device_info name) {
  std::size_t size = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device(), name, 0, nullptr, &size), CL_SUCCESS) << std::hex << name;
  std::string text(size, 'x');
  EXPECT_EQ(cl().clGetDeviceInfo(device(), name, size, text.data(), nullptr), CL_SUCCESS);
  EXPECT_EQ(text.back(), '\0');
  text.pop_back();
  return text;
}

std::vector<cl_name_version> device_list(cl_device_info name) {
  std::size_t size = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device(), name, 0, nullptr, &size), CL_SUCCESS);
  std::vector<cl_name_version> list(size / sizeof(cl_name_version));
  EXPECT_EQ(cl().clGetDeviceInfo(device(), name, size, list.data(), nullptr), CL_SUCCESS);
  return list;
}

TEST(PlatformInfo, AnswersEveryQuery) {
  const cl_platform_info names[] = {CL_PLATFORM_PROFILE,
                                    CL_PLATFORM_VERSION,
                                    CL_PLATFORM_NUMERIC_VERSION,
                                    CL_PLATFORM_NAME,
                                    CL_PLATFORM_VENDOR,
                                    CL_PLATFORM_EXTENSIONS,
                                    CL_PLATFORM_ICD_SUFFIX_KHR,
                                    CL_PLATFORM_EXTENSIONS_WITH_VERSION,
                                    CL_PLATFORM_HOST_TIMER_RESOLUTION};
  for (cl_platform_info name : names) {
    std::size_t size = 0;
    ASSERT_EQ(cl().clGetPlatformInfo(Driver::get().platform, name, 0, nullptr, &size), CL_SUCCESS) << std::hex << name;
    ASSERT_GT(size, 0u);
    std::vector<char> answer(size);
    EXPECT_EQ(cl().clGetPlatformInfo(Driver::get().platform, name, size, answer.data(), nullptr), CL_SUCCESS);
    EXPECT_EQ(cl().clGetPlatformInfo(Driver::get().platform, name, size - 1, answer.data(), nullptr), CL_INVALID_VALUE);
  }
  EXPECT_EQ(cl().clGetPlatformInfo(Driver::get().platform, 0xbad, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetPlatformInfo(reinterpret_cast<cl_platform_id>(device()), CL_PLATFORM_NAME, 0, nullptr, nullptr),
            CL_INVALID_PLATFORM);
}

TEST(PlatformInfo, ClaimsIcdButNotUnloading) {
  char text[2000];
  ASSERT_EQ(cl().clGetPlatformInfo(Driver::get().platform, CL_PLATFORM_EXTENSIONS, sizeof text, text, nullptr),
            CL_SUCCESS);
  EXPECT_NE(std::string(text).find("cl_khr_icd"), std::string::npos);
  EXPECT_EQ(std::string(text).find("unloadable"), std::string::npos);
}

TEST(DeviceInfo, AnswersEveryQueryOfOpenCl30AndChecksSizes) {
  for (cl_device_info name = CL_DEVICE_TYPE; name <= CL_DEVICE_LATEST_CONFORMANCE_VERSION_PASSED; ++name) {
    // Numbers of extensions that we do not offer (half floats, device UUIDs).
    const bool unused = name == 0x1033 || (name >= 0x106a && name <= 0x106e);
    std::size_t size = 1u << 20;
    const cl_int error = cl().clGetDeviceInfo(device(), name, 0, nullptr, &size);
    if (unused) {
      EXPECT_EQ(error, CL_INVALID_VALUE) << std::hex << name;
      continue;
    }
    ASSERT_EQ(error, CL_SUCCESS) << std::hex << name;
    std::vector<char> answer(size + 1, 'x');
    EXPECT_EQ(cl().clGetDeviceInfo(device(), name, size, answer.data(), nullptr), CL_SUCCESS) << std::hex << name;
    EXPECT_EQ(answer[size], 'x') << std::hex << name;
    if (size != 0) {
      EXPECT_EQ(cl().clGetDeviceInfo(device(), name, size - 1, answer.data(), nullptr), CL_INVALID_VALUE);
    }
  }
  EXPECT_EQ(cl().clGetDeviceInfo(device(), CL_DRIVER_VERSION, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clGetDeviceInfo(device(), 0xbad, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetDeviceInfo(nullptr, CL_DEVICE_NAME, 0, nullptr, nullptr), CL_INVALID_DEVICE);
}

TEST(DeviceInfo, TellsTheTruthAboutThisMachine) {
  EXPECT_EQ(device_value<cl_device_type>(CL_DEVICE_TYPE), cl_device_type{CL_DEVICE_TYPE_CPU});
  EXPECT_EQ(device_value<cl_platform_id>(CL_DEVICE_PLATFORM), Driver::get().platform);
  EXPECT_GE(device_value<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS), 1u);
  EXPECT_GE(device_value<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE), cl_ulong{1} << 28);
  EXPECT_GE(device_value<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE),
            device_value<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE) / 4);
  EXPECT_GE(device_value<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE), cl_ulong{32} << 10);
  EXPECT_EQ(device_value<cl_uint>(CL_DEVICE_ADDRESS_BITS), 64u);
  EXPECT_EQ(device_value<cl_version>(CL_DEVICE_NUMERIC_VERSION), cl_version{CL_MAKE_VERSION(3, 0, 0)});
  EXPECT_EQ(device_string(CL_DEVICE_VERSION).rfind("OpenCL 3.0 MirrorCL", 0), 0u);
  EXPECT_EQ(device_value<cl_bool>(CL_DEVICE_AVAILABLE), cl_bool{CL_TRUE}) << device_string(CL_DEVICE_VERSION);
  EXPECT_EQ(device_value<cl_bool>(CL_DEVICE_COMPILER_AVAILABLE), cl_bool{CL_TRUE}) << device_string(CL_DEVICE_VERSION);
}

TEST(DeviceInfo, ShowsEveryLevelOfSharedVirtualMemory) {
  EXPECT_EQ(device_value<cl_device_svm_capabilities>(CL_DEVICE_SVM_CAPABILITIES),
            cl_device_svm_capabilities{CL_DEVICE_SVM_COARSE_GRAIN_BUFFER | CL_DEVICE_SVM_FINE_GRAIN_BUFFER |
                                       CL_DEVICE_SVM_FINE_GRAIN_SYSTEM | CL_DEVICE_SVM_ATOMICS});
}

TEST(DeviceInfo, ListsAgreeWithTheirStrings) {
  std::string joined;
  for (const cl_name_version& extension : device_list(CL_DEVICE_EXTENSIONS_WITH_VERSION)) {
    EXPECT_NE(extension.version, 0u);
    joined += (joined.empty() ? "" : " ") + std::string(extension.name);
  }
  EXPECT_EQ(joined, device_string(CL_DEVICE_EXTENSIONS));
  EXPECT_FALSE(device_list(CL_DEVICE_OPENCL_C_ALL_VERSIONS).empty());
  EXPECT_FALSE(device_list(CL_DEVICE_OPENCL_C_FEATURES).empty());
  EXPECT_TRUE(device_list(CL_DEVICE_ILS_WITH_VERSION).empty());
}

TEST(DeviceIds, FollowTypeAndArguments) {
  cl_platform_id platform = Driver::get().platform;
  cl_device_id found = nullptr;
  cl_uint count = 7;
  EXPECT_EQ(cl().clGetDeviceIDs(platform, CL_DEVICE_TYPE_CPU, 1, &found, &count), CL_SUCCESS);
  EXPECT_EQ(found, device());
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(cl().clGetDeviceIDs(platform, CL_DEVICE_TYPE_DEFAULT, 1, &found, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clGetDeviceIDs(platform, CL_DEVICE_TYPE_GPU, 1, &found, nullptr), CL_DEVICE_NOT_FOUND);
  EXPECT_EQ(cl().clGetDeviceIDs(platform, 0, 1, &found, nullptr), CL_INVALID_DEVICE_TYPE);
  EXPECT_EQ(cl().clGetDeviceIDs(platform, 1 << 20, 1, &found, nullptr), CL_INVALID_DEVICE_TYPE);
  EXPECT_EQ(cl().clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, &found, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clRetainDevice(device()), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseDevice(device()), CL_SUCCESS);
  EXPECT_EQ(device_value<cl_uint>(CL_DEVICE_REFERENCE_COUNT), 1u);
}

TEST(DeviceIds, CannotBePartitioned) {
  const cl_device_partition_property equally[] = {CL_DEVICE_PARTITION_EQUALLY, 1, 0};
  cl_uint count = 0;
  EXPECT_EQ(cl().clCreateSubDevices(device(), equally, 0, nullptr, &count), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clCreateSubDevices(nullptr, equally, 0, nullptr, &count), CL_INVALID_DEVICE);
  EXPECT_EQ(device_value<cl_device_partition_property>(CL_DEVICE_PARTITION_PROPERTIES), 0);
}

TEST(DeviceTimer, IsTheHostsClock) {
  cl_ulong on_device = 0;
  cl_ulong on_host = 0;
  cl_ulong later = 0;
  ASSERT_EQ(cl().clGetDeviceAndHostTimer(device(), &on_device, &on_host), CL_SUCCESS);
  ASSERT_EQ(cl().clGetHostTimer(device(), &later), CL_SUCCESS);
  EXPECT_GT(on_device, 0u);
  EXPECT_GE(later, on_host);
  EXPECT_EQ(cl().clGetHostTimer(device(), nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetDeviceAndHostTimer(device(), nullptr, &on_host), CL_INVALID_VALUE);
}

TEST(Statistics, CanBeReadAtAnyTime) {
  auto read = reinterpret_cast<clGetMirrorStatisticsMIRRORCL_fn>(
      cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clGetMirrorStatisticsMIRRORCL"));
  ASSERT_NE(read, nullptr);
  cl_mirror_statistics_mirrorcl statistics;
  std::size_t size = 0;
  EXPECT_EQ(read(device(), sizeof statistics, &statistics, &size), CL_SUCCESS);
  EXPECT_EQ(size, sizeof statistics);
  EXPECT_EQ(read(device(), sizeof statistics + 8, &statistics, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(read(device(), 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(read(nullptr, sizeof statistics, &statistics, nullptr), CL_INVALID_DEVICE);
}

TEST(Statistics, OfADeviceCanBeReadAtAnyTime) {
  cl_device_mirror_statistics_mirrorcl statistics;
  std::size_t size = 0;
  const auto ask = [&](std::size_t room) {
    return cl().clGetDeviceInfo(device(), CL_DEVICE_MIRROR_STATISTICS_MIRRORCL, room, &statistics, &size);
  };
  EXPECT_EQ(ask(sizeof statistics), CL_SUCCESS);
  EXPECT_EQ(size, sizeof statistics);
  EXPECT_EQ(ask(sizeof statistics - 1), CL_INVALID_VALUE);
}

TEST(Context, RefusesWrongArguments) {
  cl_device_id one = device();
  const auto create = [](const cl_context_properties* properties, cl_uint count, const cl_device_id* devices,
                         void* user_data) {
    cl_int error = 1;
    EXPECT_EQ(cl().clCreateContext(properties, count, devices, nullptr, user_data, &error), nullptr);
    return error;
  };
  int data = 0;
  EXPECT_EQ(create(nullptr, 0, &one, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(create(nullptr, 1, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(create(nullptr, 1, &one, &data), CL_INVALID_VALUE);
  cl_device_id wrong = reinterpret_cast<cl_device_id>(Driver::get().platform);
  EXPECT_EQ(create(nullptr, 1, &wrong, nullptr), CL_INVALID_DEVICE);
  const cl_context_properties no_platform[] = {CL_CONTEXT_PLATFORM, reinterpret_cast<cl_context_properties>(one), 0};
  EXPECT_EQ(create(no_platform, 1, &one, nullptr), CL_INVALID_PLATFORM);
  const auto platform = reinterpret_cast<cl_context_properties>(Driver::get().platform);
  const cl_context_properties twice[] = {CL_CONTEXT_PLATFORM, platform, CL_CONTEXT_PLATFORM, platform, 0};
  EXPECT_EQ(create(twice, 1, &one, nullptr), CL_INVALID_PROPERTY);
  const cl_context_properties unknown[] = {0xbad, 1, 0};
  EXPECT_EQ(create(unknown, 1, &one, nullptr), CL_INVALID_PROPERTY);
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateContextFromType(nullptr, CL_DEVICE_TYPE_GPU, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_DEVICE_NOT_FOUND);
  EXPECT_EQ(cl().clCreateContextFromType(nullptr, 0, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_DEVICE_TYPE);
}

TEST(Context, AnswersQueries) {
  const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                              reinterpret_cast<cl_context_properties>(Driver::get().platform), 0};
  cl_int error = 1;
  cl_context context = cl().clCreateContextFromType(properties, CL_DEVICE_TYPE_ALL, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_uint count = 0;
  EXPECT_EQ(cl().clGetContextInfo(context, CL_CONTEXT_NUM_DEVICES, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 1u);
  cl_device_id found = nullptr;
  EXPECT_EQ(cl().clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof found, &found, nullptr), CL_SUCCESS);
  EXPECT_EQ(found, device());
  cl_context_properties shown[3] = {};
  EXPECT_EQ(cl().clGetContextInfo(context, CL_CONTEXT_PROPERTIES, sizeof shown, shown, nullptr), CL_SUCCESS);
  EXPECT_EQ(std::memcmp(shown, properties, sizeof shown), 0);
  EXPECT_EQ(cl().clRetainContext(context), CL_SUCCESS);
  EXPECT_EQ(cl().clGetContextInfo(context, CL_CONTEXT_REFERENCE_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(cl().clGetContextInfo(context, CL_CONTEXT_REFERENCE_COUNT, 1, &count, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetContextInfo(context, 0xbad, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clReleaseContext(context), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(context), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(context), CL_INVALID_CONTEXT);
  EXPECT_EQ(cl().clGetContextInfo(context, CL_CONTEXT_NUM_DEVICES, 0, nullptr, nullptr), CL_INVALID_CONTEXT);
}

TEST_F(ContextTest, DestructorCallbacksRunLastFirst) {
  static std::vector<int> order;
  order.clear();
  int numbers[] = {1, 2};
  const auto note = [](cl_context, void* data) { order.push_back(*static_cast<int*>(data)); };
  EXPECT_EQ(cl().clSetContextDestructorCallback(context, note, &numbers[0]), CL_SUCCESS);
  EXPECT_EQ(cl().clSetContextDestructorCallback(context, note, &numbers[1]), CL_SUCCESS);
  EXPECT_EQ(cl().clSetContextDestructorCallback(context, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clReleaseContext(context), CL_SUCCESS);
  context = nullptr;
  EXPECT_EQ(order, (std::vector<int>{2, 1}));
}

TEST_F(ContextTest, HandleOutlivesItsReleaseWhileAChildNamesIt) {
  const char* source = "kernel void k() {}";
  cl_program program = cl().clCreateProgramWithSource(context, 1, &source, nullptr, nullptr);
  ASSERT_NE(program, nullptr);
  ASSERT_EQ(cl().clReleaseContext(context), CL_SUCCESS);
  cl_context named = nullptr;
  ASSERT_EQ(cl().clGetProgramInfo(program, CL_PROGRAM_CONTEXT, sizeof named, &named, nullptr), CL_SUCCESS);
  EXPECT_EQ(named, context);
  EXPECT_EQ(cl().clReleaseContext(named), CL_INVALID_CONTEXT) << "released more often than retained";
  EXPECT_EQ(cl().clRetainContext(named), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(named), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
  EXPECT_EQ(cl().clRetainContext(context), CL_INVALID_CONTEXT);
  context = nullptr;
}

TEST_F(ContextTest, ImagesPipesAndSamplersAreRefused) {
  cl_int error = 0;
  const cl_image_format format{CL_RGBA, CL_UNORM_INT8};
  cl_image_desc desc{};
  desc.image_type = CL_MEM_OBJECT_IMAGE2D;
  EXPECT_EQ(cl().clCreateImage(context, CL_MEM_READ_WRITE, &format, &desc, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  EXPECT_EQ(cl().clCreateSampler(context, CL_TRUE, CL_ADDRESS_CLAMP, CL_FILTER_LINEAR, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  EXPECT_EQ(cl().clCreatePipe(context, 0, 4, 4, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  cl_uint formats = 9;
  EXPECT_EQ(cl().clGetSupportedImageFormats(context, CL_MEM_READ_WRITE, CL_MEM_OBJECT_IMAGE2D, 0, nullptr, &formats),
            CL_SUCCESS);
  EXPECT_EQ(formats, 0u);
  EXPECT_EQ(cl().clRetainSampler(nullptr), CL_INVALID_SAMPLER);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
