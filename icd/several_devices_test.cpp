// SPDX-License-Identifier: Apache-2.0
// A platform with two devices (MIRRORCL_DEVICES=2): contexts, programs and memory that both share, and what is each
// one's own.
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "icd/command_fixture.h"
#include "icd/device_processes.h"

namespace mirrorcl::icd::testing {
namespace {

// A context with both devices; `device` and `queue` are the first one's, the program is built for both.
class TwoDevices : public CommandTest {
 protected:
  static void SetUpTestSuite() {  // before the library is opened
    setenv("MIRRORCL_DEVICES", "2", 1);
    setenv("MIRRORCL_COMPUTE_UNITS", "3", 1);
    setenv("MIRRORCL_DEVICE_MEMORY", "2G", 1);
  }

  void SetUp() override {
    cl_uint count = 0;
    ASSERT_EQ(cl().clGetDeviceIDs(Driver::get().platform, CL_DEVICE_TYPE_ALL, 2, devices.data(), &count), CL_SUCCESS);
    ASSERT_EQ(count, 2U);
    device = devices[0];
    cl_int error = 1;
    context = cl().clCreateContext(nullptr, 2, devices.data(), nullptr, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    queue = make_queue();
    device = devices[1];
    other_queue = make_queue();
    device = devices[0];
    program = source_program(kKernels);
    ASSERT_EQ(cl().clBuildProgram(program, 0, nullptr, "-cl-std=CL3.0", nullptr, nullptr), CL_SUCCESS)
        << log_of(program);
  }
  void TearDown() override {
    gate.store(1);
    if (other_queue != nullptr) {
      EXPECT_EQ(cl().clReleaseCommandQueue(other_queue), CL_SUCCESS);
    }
    CommandTest::TearDown();
  }

  cl_program source_program(const char* source) {
    cl_int error = 1;
    cl_program made = cl().clCreateProgramWithSource(context, 1, &source, nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return made;
  }

  template <typename T>
  T of_device(cl_device_id which, cl_device_info name) {
    T value{};
    EXPECT_EQ(cl().clGetDeviceInfo(which, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }

  cl_build_status build_status(cl_program of, cl_device_id which) {
    cl_build_status status = -999;
    EXPECT_EQ(cl().clGetProgramBuildInfo(of, which, CL_PROGRAM_BUILD_STATUS, sizeof status, &status, nullptr),
              CL_SUCCESS);
    return status;
  }

  std::vector<cl_device_id> devices_of(cl_program of) {
    cl_uint count = 0;
    EXPECT_EQ(cl().clGetProgramInfo(of, CL_PROGRAM_NUM_DEVICES, sizeof count, &count, nullptr), CL_SUCCESS);
    std::vector<cl_device_id> list(count);
    EXPECT_EQ(cl().clGetProgramInfo(of, CL_PROGRAM_DEVICES, count * sizeof(cl_device_id), list.data(), nullptr),
              CL_SUCCESS);
    return list;
  }

  // What the kernel `six` of the program leaves in a word, on the device of `to`.
  int six_on(cl_command_queue to, cl_program of) {
    int word = 0;
    cl_int error = 1;
    Kernel six(cl().clCreateKernel(of, "six", &error));
    EXPECT_EQ(error, CL_SUCCESS);
    set_argument(six.get(), 0, &word);
    EXPECT_EQ(enqueue(to, six), CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(to), CL_SUCCESS);
    return word;
  }

  // Both devices add to `word` at once, and so does the host.
  void add_from_all(int* word, cl_mem buffer) {
    constexpr int kLaunches = 200;
    Kernel add = kernel("add", word, 1);
    if (buffer != nullptr) {
      ASSERT_EQ(cl().clSetKernelArg(add.get(), 0, sizeof buffer, &buffer), CL_SUCCESS);
    }
    for (int i = 0; i < kLaunches; ++i) {
      ASSERT_EQ(enqueue(i % 2 == 0 ? queue : other_queue, add), CL_SUCCESS);
      if (i % 10 == 0) cl().clFlush(queue), cl().clFlush(other_queue);
      std::atomic_ref<int>(*word).fetch_add(1);
    }
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(other_queue), CL_SUCCESS);
    EXPECT_EQ(std::atomic_ref<int>(*word).load(), 2 * kLaunches);
  }

  std::array<cl_device_id, 2> devices{};
  cl_command_queue other_queue = nullptr;
};

constexpr const char* kSix = "kernel void six(global int* out) { *out = 6 SUFFIX; }";

TEST_F(TwoDevices, CountFaultsAndPagesEachForItself) {
  const auto counts = [&] {
    return std::array{
        of_device<cl_device_mirror_statistics_mirrorcl>(devices[0], CL_DEVICE_MIRROR_STATISTICS_MIRRORCL),
        of_device<cl_device_mirror_statistics_mirrorcl>(devices[1], CL_DEVICE_MIRROR_STATISTICS_MIRRORCL)};
  };
  auto warm = std::make_unique<int>(0);
  Kernel add = kernel("add", warm.get(), 1);
  for (cl_command_queue each : {queue, other_queue}) {  // starts the devices
    ASSERT_EQ(enqueue(each, add), CL_SUCCESS);
    ASSERT_EQ(cl().clFinish(each), CL_SUCCESS);
  }
  const auto word = std::make_unique<std::array<int, 1 << 20>>();  // on pages of its own
  set_argument(add.get(), 0, &(*word)[1 << 19]);
  const auto before = counts();
  ASSERT_EQ(enqueue(other_queue, add), CL_SUCCESS);
  ASSERT_EQ(cl().clFinish(other_queue), CL_SUCCESS);
  const auto after_other = counts();
  EXPECT_EQ(after_other[0].faults, before[0].faults);
  EXPECT_EQ(after_other[0].pages_in, before[0].pages_in);
  EXPECT_GT(after_other[1].faults, before[1].faults);
  EXPECT_GT(after_other[1].pages_in, before[1].pages_in);
  ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  ASSERT_EQ(cl().clFinish(queue), CL_SUCCESS);
  const auto after_both = counts();
  EXPECT_GT(after_both[0].faults, after_other[0].faults);
  EXPECT_GT(after_both[0].pages_from_devices, after_other[0].pages_from_devices);
  EXPECT_EQ(after_both[1].faults, after_other[1].faults);
  EXPECT_EQ((*word)[1 << 19], 2);
  EXPECT_GT(counts()[0].pages_home, after_both[0].pages_home);
}

TEST_F(TwoDevices, DivideTheMachine) {
  EXPECT_NE(devices[0], devices[1]);
  EXPECT_EQ(of_device<cl_uint>(devices[0], CL_DEVICE_MAX_COMPUTE_UNITS), 2U);
  EXPECT_EQ(of_device<cl_uint>(devices[1], CL_DEVICE_MAX_COMPUTE_UNITS), 1U);
  for (cl_device_id each : devices) EXPECT_EQ(of_device<cl_ulong>(each, CL_DEVICE_GLOBAL_MEM_SIZE), cl_ulong{1} << 30);
  cl_device_id one = nullptr;
  cl_uint count = 0;
  ASSERT_EQ(cl().clGetDeviceIDs(Driver::get().platform, CL_DEVICE_TYPE_DEFAULT, 1, &one, &count), CL_SUCCESS);
  EXPECT_EQ(one, devices[0]);
  EXPECT_EQ(count, 1U) << "one is the default";
}

TEST_F(TwoDevices, AreAllInAContextFromType) {
  cl_int error = 1;
  cl_context all = cl().clCreateContextFromType(nullptr, CL_DEVICE_TYPE_CPU, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  std::array<cl_device_id, 2> found{};
  EXPECT_EQ(cl().clGetContextInfo(all, CL_CONTEXT_DEVICES, sizeof found, found.data(), nullptr), CL_SUCCESS);
  EXPECT_EQ(found, devices);
  EXPECT_EQ(cl().clReleaseContext(all), CL_SUCCESS);
  cl_context of_default = cl().clCreateContextFromType(nullptr, CL_DEVICE_TYPE_DEFAULT, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_uint count = 0;
  EXPECT_EQ(cl().clGetContextInfo(of_default, CL_CONTEXT_NUM_DEVICES, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 1U);
  EXPECT_EQ(cl().clReleaseContext(of_default), CL_SUCCESS);
}

TEST_F(TwoDevices, AndTheHostAddToOneMallocedWord) {
  auto word = std::make_unique<int>(0);
  add_from_all(word.get(), nullptr);
}

TEST_F(TwoDevices, AndTheHostAddToOneWordOfSvmMemory) {
  auto* word = static_cast<int*>(
      cl().clSVMAlloc(context, CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS, 4096, 0));
  ASSERT_NE(word, nullptr);
  *word = 0;
  add_from_all(word, nullptr);
  cl().clSVMFree(context, word);
}

TEST_F(TwoDevices, AndTheHostAddToOneWordOfABuffer) {
  cl_int error = 1;
  int zero = 0;
  cl_mem buffer = cl().clCreateBuffer(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof zero, &zero, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  auto* word = static_cast<int*>(cl().clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0,
                                                         sizeof(int), 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  add_from_all(word, buffer);
  EXPECT_EQ(cl().clEnqueueUnmapMemObject(queue, buffer, word, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
}

TEST_F(TwoDevices, EventsOrderCommandsOfBoth) {
  std::vector<int> value(1, 0);
  Event held = hold(queue);
  Event first = launch(queue, kernel("store", value.data(), 5));
  Event second = launch(other_queue, kernel("twice_plus", value.data(), 1), {first.get()});
  Event third = launch(queue, kernel("twice_plus", value.data(), 2), {second.get()});
  EXPECT_GT(status_of(second), CL_RUNNING);
  gate.store(1);
  EXPECT_EQ(wait(third), CL_SUCCESS);
  EXPECT_EQ(value[0], 24);
}

TEST_F(TwoDevices, ACallbackComesForACommandOfAny) {
  for (cl_command_queue to : {queue, other_queue}) {
    std::atomic<int> called{0};
    Event held = hold(to);
    const auto note = [](cl_event, cl_int status, void* data) {
      static_cast<std::atomic<int>*>(data)->store(status == CL_COMPLETE ? 1 : -1);
    };
    ASSERT_EQ(cl().clSetEventCallback(held.get(), CL_COMPLETE, note, &called), CL_SUCCESS);
    gate.store(1);
    EXPECT_TRUE(becomes([&] { return called.load() != 0; }));
    EXPECT_EQ(called.load(), 1);
  }
}

TEST_F(TwoDevices, AProgramIsBuiltForEachThatIsNamed) {
  cl_program six = source_program(kSix);
  ASSERT_EQ(cl().clBuildProgram(six, 1, &devices[0], "-DSUFFIX=", nullptr, nullptr), CL_SUCCESS) << log_of(six);
  EXPECT_EQ(build_status(six, devices[0]), CL_BUILD_SUCCESS);
  EXPECT_EQ(build_status(six, devices[1]), CL_BUILD_NONE);
  {
    int word = 0;
    cl_int error = 1;
    Kernel kernel_of_one(cl().clCreateKernel(six, "six", &error));
    ASSERT_EQ(error, CL_SUCCESS);
    set_argument(kernel_of_one.get(), 0, &word);
    EXPECT_EQ(enqueue(other_queue, kernel_of_one), CL_INVALID_PROGRAM_EXECUTABLE);
    EXPECT_EQ(enqueue(queue, kernel_of_one), CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(word, 6);
    cl_ulong bytes = 0;
    EXPECT_EQ(cl().clGetKernelWorkGroupInfo(kernel_of_one.get(), devices[1], CL_KERNEL_PRIVATE_MEM_SIZE, sizeof bytes,
                                            &bytes, nullptr),
              CL_INVALID_DEVICE);
    EXPECT_EQ(cl().clGetKernelWorkGroupInfo(kernel_of_one.get(), nullptr, CL_KERNEL_PRIVATE_MEM_SIZE, sizeof bytes,
                                            &bytes, nullptr),
              CL_SUCCESS);
  }
  // The same for the other: one kernel serves both.
  ASSERT_EQ(cl().clBuildProgram(six, 1, &devices[1], "-DSUFFIX=", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(six_on(queue, six), 6);
  EXPECT_EQ(six_on(other_queue, six), 6);
  EXPECT_EQ(cl().clReleaseProgram(six), CL_SUCCESS);
}

TEST_F(TwoDevices, AKernelOfBothHasToBeAskedAboutOne) {
  Kernel add = kernel("add", nullptr, 1);
  std::size_t size = 0;
  EXPECT_EQ(cl().clGetKernelWorkGroupInfo(add.get(), nullptr, CL_KERNEL_WORK_GROUP_SIZE, sizeof size, &size, nullptr),
            CL_INVALID_DEVICE);
  for (cl_device_id each : devices) {
    EXPECT_EQ(cl().clGetKernelWorkGroupInfo(add.get(), each, CL_KERNEL_WORK_GROUP_SIZE, sizeof size, &size, nullptr),
              CL_SUCCESS);
  }
}

TEST_F(TwoDevices, ABuildThatFailsForOneLeavesTheOther) {
  cl_program six = source_program(kSix);
  ASSERT_EQ(cl().clBuildProgram(six, 1, &devices[0], "-DSUFFIX=", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clBuildProgram(six, 1, &devices[1], "-DSUFFIX=nothing", nullptr, nullptr), CL_BUILD_PROGRAM_FAILURE);
  EXPECT_EQ(build_status(six, devices[0]), CL_BUILD_SUCCESS);
  EXPECT_EQ(build_status(six, devices[1]), CL_BUILD_ERROR);
  EXPECT_EQ(six_on(queue, six), 6);
  EXPECT_EQ(cl().clReleaseProgram(six), CL_SUCCESS);
}

TEST_F(TwoDevices, AProgramIsLinkedForThoseThatHaveItsParts) {
  cl_int error = 1;
  const auto compile = [&](cl_program what, std::vector<cl_device_id> where) {
    return cl().clCompileProgram(what, static_cast<cl_uint>(where.size()), where.data(), "", 0, nullptr, nullptr,
                                 nullptr, nullptr);
  };
  cl_program main = source_program("int six_(void); kernel void six(global int* out) { *out = six_(); }");
  cl_program part = source_program("int six_(void) { return 6; }");
  ASSERT_EQ(compile(main, {devices[0], devices[1]}), CL_SUCCESS) << log_of(main);
  ASSERT_EQ(compile(part, {devices[1]}), CL_SUCCESS);
  const cl_program parts[] = {main, part};
  EXPECT_EQ(cl().clLinkProgram(context, 0, nullptr, "", 2, parts, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION) << "the first device has one of them only";
  cl_program of_one = cl().clLinkProgram(context, 1, &devices[1], "", 2, parts, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(devices_of(of_one), std::vector<cl_device_id>{devices[1]});
  EXPECT_EQ(six_on(other_queue, of_one), 6);
  ASSERT_EQ(compile(part, {devices[0]}), CL_SUCCESS);
  cl_program of_both = cl().clLinkProgram(context, 0, nullptr, "", 2, parts, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(devices_of(of_both).size(), 2U);
  EXPECT_EQ(six_on(queue, of_both), 6);
  for (cl_program each : {main, part, of_one, of_both}) EXPECT_EQ(cl().clReleaseProgram(each), CL_SUCCESS);
}

TEST_F(TwoDevices, BinariesAreEachOnes) {
  cl_program six = source_program(kSix);
  ASSERT_EQ(cl().clBuildProgram(six, 0, nullptr, "-DSUFFIX=", nullptr, nullptr), CL_SUCCESS);
  std::array<std::size_t, 2> sizes{};
  ASSERT_EQ(cl().clGetProgramInfo(six, CL_PROGRAM_BINARY_SIZES, sizeof sizes, sizes.data(), nullptr), CL_SUCCESS);
  std::array<std::vector<unsigned char>, 2> bytes{std::vector<unsigned char>(sizes[0]),
                                                  std::vector<unsigned char>(sizes[1])};
  unsigned char* to[] = {bytes[0].data(), bytes[1].data()};
  ASSERT_EQ(cl().clGetProgramInfo(six, CL_PROGRAM_BINARIES, sizeof to, to, nullptr), CL_SUCCESS);
  EXPECT_EQ(bytes[0], bytes[1]);

  const unsigned char* from[] = {bytes[0].data(), bytes[1].data()};
  std::array<cl_int, 2> status{1, 1};
  cl_int error = 1;
  cl_program loaded =
      cl().clCreateProgramWithBinary(context, 2, devices.data(), sizes.data(), from, status.data(), &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(status, (std::array<cl_int, 2>{CL_SUCCESS, CL_SUCCESS}));
  ASSERT_EQ(cl().clBuildProgram(loaded, 0, nullptr, "", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(six_on(queue, loaded), 6);
  EXPECT_EQ(six_on(other_queue, loaded), 6);

  cl_program of_one = cl().clCreateProgramWithBinary(context, 1, &devices[1], sizes.data(), from, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(devices_of(of_one), std::vector<cl_device_id>{devices[1]});
  EXPECT_EQ(cl().clBuildProgram(of_one, 1, &devices[0], "", nullptr, nullptr), CL_INVALID_DEVICE);
  ASSERT_EQ(cl().clBuildProgram(of_one, 0, nullptr, "", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(six_on(other_queue, of_one), 6);

  bytes[1][sizes[1] / 2] ^= 1;
  EXPECT_EQ(cl().clCreateProgramWithBinary(context, 2, devices.data(), sizes.data(), from, status.data(), &error),
            nullptr);
  EXPECT_EQ(error, CL_INVALID_BINARY);
  EXPECT_EQ(status, (std::array<cl_int, 2>{CL_SUCCESS, CL_INVALID_BINARY}));
  for (cl_program each : {six, loaded, of_one}) EXPECT_EQ(cl().clReleaseProgram(each), CL_SUCCESS);
}

TEST_F(TwoDevices, OneDiesWhileTheOtherGoesOn) {
  std::vector<int> numbers(5000, 1);
  auto* shared = static_cast<int*>(
      cl().clSVMAlloc(context, CL_MEM_READ_WRITE | CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS, 4096, 0));
  ASSERT_NE(shared, nullptr);
  *shared = 0;
  // Which process is whose shows when it is gone.
  int killed_of_first = 0;
  for (int round = 0; round < 2; ++round) {
    auto second_gates = std::make_unique<Gate>();
    Event first = hold(queue);
    Event second = launch(other_queue, kernel("hold", static_cast<void*>(second_gates.get())));
    EXPECT_TRUE(becomes([&] { return second_gates->began.load() == 1; }));
    const std::vector<pid_t> processes = device_processes();
    ASSERT_EQ(processes.size(), 2U);
    ASSERT_EQ(kill(processes[static_cast<std::size_t>(round)], SIGKILL), 0);
    ASSERT_TRUE(becomes([&] { return status_of(first) < 0 || status_of(second) < 0; }));
    const bool first_died = status_of(first) < 0;
    killed_of_first += first_died ? 1 : 0;
    EXPECT_EQ(status_of(first_died ? first : second), CL_OUT_OF_RESOURCES);
    Event& survivor = first_died ? second : first;
    EXPECT_EQ(status_of(survivor), CL_RUNNING);
    // The dead one's next command starts it again, while the other still runs.
    Event again = launch(first_died ? queue : other_queue, kernel("add", shared, 1));
    EXPECT_EQ(wait(again), CL_SUCCESS);
    gate.store(1);
    second_gates->open.store(1);
    EXPECT_EQ(wait(survivor), CL_SUCCESS);
    for (cl_command_queue to : {queue, other_queue}) {
      EXPECT_EQ(wait(launch(to, kernel("add", &numbers[4000], 1))), CL_SUCCESS);
      EXPECT_EQ(wait(launch(to, kernel("add", shared, 1))), CL_SUCCESS);
    }
    EXPECT_EQ(numbers[4000], 3 + 2 * round);
    EXPECT_EQ(*shared, 3 + 3 * round);
    cl().clFinish(queue), cl().clFinish(other_queue);
  }
  EXPECT_LE(killed_of_first, 2);
  cl().clSVMFree(context, shared);
}

TEST_F(TwoDevices, HaveMemoryOfTheirOwnInTheTopology) {
  const auto targets = reinterpret_cast<clGetMemoryTargetsMIRRORCL_fn>(
      cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clGetMemoryTargetsMIRRORCL"));
  const auto bind = reinterpret_cast<clBindMemoryMIRRORCL_fn>(
      cl().clGetExtensionFunctionAddressForPlatform(Driver::get().platform, "clBindMemoryMIRRORCL"));
  ASSERT_TRUE(targets != nullptr && bind != nullptr);
  constexpr std::size_t kBytes = 100 * 4096;
  std::vector<char> memory(kBytes + 4096, 3);
  char* start = memory.data() + 4096 - reinterpret_cast<std::uintptr_t>(memory.data()) % 4096;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    std::array<cl_memory_target_info_mirrorcl, 16> all{};
    cl_uint count = 0;
    ASSERT_EQ(targets(devices[i], 16, all.data(), &count), CL_SUCCESS);
    ASSERT_LE(count, 16U);
    const cl_memory_target_info_mirrorcl* own = nullptr;
    for (cl_uint t = 0; t < count; ++t) {
      if ((all[t].flags & CL_MEMORY_TARGET_OWN_MIRRORCL) != 0) own = &all[t];
    }
    ASSERT_NE(own, nullptr);
    EXPECT_NE(std::string(own->name).find("mirrorcl:" + std::to_string(i)), std::string::npos) << own->name;
    cl_ulong moved = 0;
    EXPECT_EQ(bind(devices[i], start, kBytes, CL_MEMORY_BINDING_MIGRATE_MIRRORCL, 1, &own->uid, &moved), CL_SUCCESS);
    EXPECT_GT(moved, 0U) << i;
  }
  for (std::size_t i = 0; i < kBytes; ++i) ASSERT_EQ(start[i], 3);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
