// SPDX-License-Identifier: Apache-2.0
#include "conformance/harness.h"

#include <CL/cl_ext.h>
#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <thread>

namespace mirrorcl::conformance {
namespace {

struct CodeName {
  cl_int code;
  const char* name;
};

#define NAME(code) \
  CodeName {       \
    code, #code    \
  }
constexpr std::array kCodeNames = {
    NAME(CL_SUCCESS),
    NAME(CL_DEVICE_NOT_FOUND),
    NAME(CL_DEVICE_NOT_AVAILABLE),
    NAME(CL_COMPILER_NOT_AVAILABLE),
    NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE),
    NAME(CL_OUT_OF_RESOURCES),
    NAME(CL_OUT_OF_HOST_MEMORY),
    NAME(CL_PROFILING_INFO_NOT_AVAILABLE),
    NAME(CL_MEM_COPY_OVERLAP),
    NAME(CL_BUILD_PROGRAM_FAILURE),
    NAME(CL_MISALIGNED_SUB_BUFFER_OFFSET),
    NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST),
    NAME(CL_COMPILE_PROGRAM_FAILURE),
    NAME(CL_LINKER_NOT_AVAILABLE),
    NAME(CL_LINK_PROGRAM_FAILURE),
    NAME(CL_KERNEL_ARG_INFO_NOT_AVAILABLE),
    NAME(CL_INVALID_VALUE),
    NAME(CL_INVALID_DEVICE_TYPE),
    NAME(CL_INVALID_PLATFORM),
    NAME(CL_INVALID_DEVICE),
    NAME(CL_INVALID_CONTEXT),
    NAME(CL_INVALID_QUEUE_PROPERTIES),
    NAME(CL_INVALID_COMMAND_QUEUE),
    NAME(CL_INVALID_HOST_PTR),
    NAME(CL_INVALID_MEM_OBJECT),
    NAME(CL_INVALID_BINARY),
    NAME(CL_INVALID_BUILD_OPTIONS),
    NAME(CL_INVALID_PROGRAM),
    NAME(CL_INVALID_PROGRAM_EXECUTABLE),
    NAME(CL_INVALID_KERNEL_NAME),
    NAME(CL_INVALID_KERNEL_DEFINITION),
    NAME(CL_INVALID_KERNEL),
    NAME(CL_INVALID_ARG_INDEX),
    NAME(CL_INVALID_ARG_VALUE),
    NAME(CL_INVALID_ARG_SIZE),
    NAME(CL_INVALID_KERNEL_ARGS),
    NAME(CL_INVALID_WORK_DIMENSION),
    NAME(CL_INVALID_WORK_GROUP_SIZE),
    NAME(CL_INVALID_WORK_ITEM_SIZE),
    NAME(CL_INVALID_GLOBAL_OFFSET),
    NAME(CL_INVALID_EVENT_WAIT_LIST),
    NAME(CL_INVALID_EVENT),
    NAME(CL_INVALID_OPERATION),
    NAME(CL_INVALID_BUFFER_SIZE),
    NAME(CL_INVALID_GLOBAL_WORK_SIZE),
    NAME(CL_INVALID_PROPERTY),
    NAME(CL_INVALID_COMPILER_OPTIONS),
    NAME(CL_INVALID_LINKER_OPTIONS),
    NAME(CL_PLATFORM_NOT_FOUND_KHR),
};
#undef NAME

bool environment_is_set(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value != nullptr && *value != '\0' && std::string(value) != "0";
}

Platform find_platform() {
  const char* wanted = std::getenv("MIRRORCL_TEST_PLATFORM");  // NOLINT(concurrency-mt-unsafe)
  std::string text = wanted != nullptr ? wanted : "MirrorCL";
  const char* wanted_device = std::getenv("MIRRORCL_TEST_DEVICE");  // NOLINT(concurrency-mt-unsafe)
  const std::size_t device_index = wanted_device != nullptr ? std::strtoul(wanted_device, nullptr, 10) : 0;
  cl_uint count = 0;
  if (clGetPlatformIDs(0, nullptr, &count) != CL_SUCCESS) return {};
  std::vector<cl_platform_id> ids(count);
  if (clGetPlatformIDs(count, ids.data(), nullptr) != CL_SUCCESS) return {};
  for (cl_platform_id id : ids) {
    char name[256] = "";
    if (clGetPlatformInfo(id, CL_PLATFORM_NAME, sizeof name, name, nullptr) != CL_SUCCESS) continue;
    Platform found;
    found.name = name;
    if (found.name.find(text) == std::string::npos) continue;
    if (clGetDeviceIDs(id, CL_DEVICE_TYPE_ALL, 0, nullptr, &found.device_count) != CL_SUCCESS) continue;
    std::vector<cl_device_id> devices(found.device_count);
    if (clGetDeviceIDs(id, CL_DEVICE_TYPE_ALL, found.device_count, devices.data(), nullptr) != CL_SUCCESS) continue;
    if (device_index >= devices.size()) continue;
    found.device = devices[device_index];
    found.id = id;
    found.is_mirrorcl = found.name.find("MirrorCL") != std::string::npos;
    clGetDeviceInfo(found.device, CL_DEVICE_SVM_CAPABILITIES, sizeof found.svm, &found.svm, nullptr);
    std::size_t bytes = 0;
    clGetDeviceInfo(found.device, CL_DEVICE_EXTENSIONS, 0, nullptr, &bytes);
    std::string extensions(bytes, '\0');
    clGetDeviceInfo(found.device, CL_DEVICE_EXTENSIONS, bytes, extensions.data(), nullptr);
    found.has_int64_atomics = extensions.find("cl_khr_int64_base_atomics") != std::string::npos;
    cl_device_atomic_capabilities atomics = 0;
    clGetDeviceInfo(found.device, CL_DEVICE_ATOMIC_MEMORY_CAPABILITIES, sizeof atomics, &atomics, nullptr);
    found.has_all_devices_scope = (atomics & CL_DEVICE_ATOMIC_SCOPE_ALL_DEVICES) != 0;
    return found;
  }
  return {};
}

}  // namespace

std::string error_name(cl_int code) {
  for (const CodeName& entry : kCodeNames) {
    if (entry.code == code) return std::string(entry.name) + " (" + std::to_string(code) + ")";
  }
  return "code " + std::to_string(code);
}

::testing::AssertionResult same_code(const char* /*expected_text*/, const char* actual_text, cl_int expected,
                                     cl_int actual) {
  if (expected == actual) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << actual_text << "\n  gave     " << error_name(actual) << "\n  expected "
                                       << error_name(expected);
}

const Platform& platform() {
  static const Platform instance = find_platform();
  return instance;
}

void ClTest::SetUp() {
  ASSERT_NE(platform().id, nullptr)
      << "no platform with a device matches MIRRORCL_TEST_PLATFORM; is OCL_ICD_VENDORS set?";
  cl_int code = CL_SUCCESS;
  cl_device_id device_id = device();
  context_.reset(clCreateContext(nullptr, 1, &device_id, nullptr, nullptr, &code));
  ASSERT_CL(CL_SUCCESS, code);
  queue_ = make_queue(CL_QUEUE_PROFILING_ENABLE);
  ASSERT_TRUE(queue_);
}

void ClTest::TearDown() {
  if (queue_) clFinish(queue_.get());  // its result is the business of the test, which may have broken the device
  queue_.reset();
  context_.reset();
}

void SystemMemoryTest::SetUp() {
  ClTest::SetUp();
  if (HasFatalFailure()) return;
  if ((platform().svm & CL_DEVICE_SVM_FINE_GRAIN_SYSTEM) == 0 && !environment_is_set("MIRRORCL_TEST_ASSUME_SYSTEM")) {
    GTEST_SKIP() << platform().name << " does not claim CL_DEVICE_SVM_FINE_GRAIN_SYSTEM";
  }
}

void SystemAtomicsTest::SetUp() {
  SystemMemoryTest::SetUp();
  if (HasFatalFailure() || IsSkipped()) return;
  if ((platform().svm & CL_DEVICE_SVM_ATOMICS) == 0) GTEST_SKIP() << platform().name << " does not claim SVM atomics";
  if (!platform().has_all_devices_scope) GTEST_SKIP() << platform().name << " has no all-devices atomic scope";
}

Queue ClTest::make_queue(cl_command_queue_properties properties) const {
  cl_int code = CL_SUCCESS;
  const cl_queue_properties list[] = {CL_QUEUE_PROPERTIES, properties, 0};
  Queue made(clCreateCommandQueueWithProperties(context(), device(), list, &code));
  EXPECT_CL(CL_SUCCESS, code);
  return made;
}

Kernel ClTest::build(const std::string& source, const std::string& kernel_name, const std::string& options) const {
  Kernel kernel;
  const char* text = source.c_str();
  cl_int code = CL_SUCCESS;
  kernel.program.reset(clCreateProgramWithSource(context(), 1, &text, nullptr, &code));
  EXPECT_CL(CL_SUCCESS, code);
  std::string all_options = options.find("-cl-std") == std::string::npos ? "-cl-std=CL3.0 " + options : options;
  cl_device_id device_id = device();
  code = clBuildProgram(kernel.program.get(), 1, &device_id, all_options.c_str(), nullptr, nullptr);
  if (code != CL_SUCCESS) {
    std::size_t bytes = 0;
    clGetProgramBuildInfo(kernel.program.get(), device_id, CL_PROGRAM_BUILD_LOG, 0, nullptr, &bytes);
    std::string log(bytes, '\0');
    clGetProgramBuildInfo(kernel.program.get(), device_id, CL_PROGRAM_BUILD_LOG, bytes, log.data(), nullptr);
    ADD_FAILURE() << "clBuildProgram: " << error_name(code) << "\n" << log;
    return kernel;
  }
  kernel.handle.reset(clCreateKernel(kernel.program.get(), kernel_name.c_str(), &code));
  EXPECT_CL(CL_SUCCESS, code) << kernel_name;
  return kernel;
}

Buffer ClTest::make_buffer(cl_mem_flags flags, std::size_t bytes, void* host_pointer) const {
  cl_int code = CL_SUCCESS;
  Buffer made(clCreateBuffer(context(), flags, bytes, host_pointer, &code));
  EXPECT_CL(CL_SUCCESS, code);
  return made;
}

Event ClTest::enqueue(cl_command_queue on, const Kernel& kernel, const Grid& grid) const {
  cl_event event = nullptr;
  cl_int code = clEnqueueNDRangeKernel(on, kernel.get(), static_cast<cl_uint>(grid.global.size()),
                                       grid.offset.empty() ? nullptr : grid.offset.data(), grid.global.data(),
                                       grid.local.empty() ? nullptr : grid.local.data(), 0, nullptr, &event);
  EXPECT_CL(CL_SUCCESS, code);
  return Event(event);
}

void ClTest::expect_complete(const Event& event) const {
  ASSERT_TRUE(event);
  cl_event handle = event.get();
  EXPECT_CL(CL_SUCCESS, clWaitForEvents(1, &handle));
  EXPECT_CL(CL_COMPLETE, event_status(event));
}

cl_int event_status(const Event& event) {
  cl_int status = CL_QUEUED;
  EXPECT_CL(CL_SUCCESS,
            clGetEventInfo(event.get(), CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, nullptr));
  return status;
}

bool wait_until(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

Mapping::Mapping(std::size_t bytes, int protection, int extra_flags, void* fixed_address)
    : data_(mmap(fixed_address, bytes, protection == -1 ? PROT_READ | PROT_WRITE : protection,
                 MAP_PRIVATE | MAP_ANONYMOUS | extra_flags | (fixed_address != nullptr ? MAP_FIXED_NOREPLACE : 0), -1,
                 0)),
      size_(bytes) {
  if (data_ == MAP_FAILED) {
    ADD_FAILURE() << "mmap of " << bytes << " bytes failed";
    std::abort();  // a test cannot go on without its memory
  }
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace mirrorcl::conformance
