// SPDX-License-Identifier: Apache-2.0
// Launches (OpenCL 3.0, 5.10): grids and their errors, arguments, what kernels may not do, the sudden end of the
// device, printed text, and the order of maps.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <string>

#include "icd/command_fixture.h"
#include "icd/device_processes.h"

namespace mirrorcl::icd::testing {
namespace {

using Sizes = std::array<std::size_t, 3>;

class LaunchTest : public CommandTest {
 protected:
  cl_int launch_grid(const Kernel& what, cl_uint dimensions, const std::size_t* offset, const std::size_t* global,
                     const std::size_t* local) {
    return cl().clEnqueueNDRangeKernel(queue, what.get(), dimensions, offset, global, local, 0, nullptr, nullptr);
  }
  // Every work-item says where it is; all must have been there once, in groups of the sizes that the grid asks for.
  void expect_grid(cl_uint dimensions, Sizes global, const Sizes* local, Sizes offset = {0, 0, 0}) {
    SCOPED_TRACE(::testing::Message() << dimensions << "D " << global[0] << 'x' << global[1] << 'x' << global[2]);
    const std::size_t items = global[0] * global[1] * global[2];
    std::vector<cl_ulong> out(items * 6, ~cl_ulong{0});
    Kernel where = kernel("where", out.data());
    ASSERT_EQ(launch_grid(where, dimensions, offset.data(), global.data(), local != nullptr ? local->data() : nullptr),
              CL_SUCCESS);
    ASSERT_EQ(cl().clFinish(queue), CL_SUCCESS);
    std::size_t wrong = 0;
    for (std::size_t z = 0; z < global[2]; ++z) {
      for (std::size_t y = 0; y < global[1]; ++y) {
        for (std::size_t x = 0; x < global[0]; ++x) {
          const cl_ulong* at = &out[((z * global[1] + y) * global[0] + x) * 6];
          const Sizes id = {x, y, z};
          for (std::size_t d = 0; d < 3; ++d) {
            wrong += at[d] == id[d] + offset[d] ? 0 : 1;
            if (local != nullptr) {
              const std::size_t first = id[d] / (*local)[d] * (*local)[d];
              wrong += at[3 + d] == std::min((*local)[d], global[d] - first) ? 0 : 1;
            }
          }
        }
      }
    }
    EXPECT_EQ(wrong, 0u);
  }
  // A kernel that must fail: a negative status, dependants that fail for it, and a queue that goes on.
  void expect_failure(const Kernel& bad) {
    int value = 0;
    Event failed = launch(queue, bad);
    Event dependant = launch(queue, kernel("add", &value, 1), {failed.get()});
    Event bystander = launch(queue, kernel("add", &value, 10));
    EXPECT_EQ(wait(failed), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    EXPECT_EQ(status_of(failed), CL_OUT_OF_RESOURCES);
    EXPECT_EQ(wait(dependant), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    EXPECT_EQ(status_of(dependant), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    EXPECT_EQ(wait(bystander), CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(value, 10);
  }
};

TEST_F(LaunchTest, GridsOfOneToThreeDimensionsWithAndWithoutLocalSize) {
  const Sizes eight = {8, 1, 1};
  const Sizes flat = {8, 4, 1};
  const Sizes cube = {4, 2, 3};
  expect_grid(1, {1, 1, 1}, nullptr);
  expect_grid(1, {640, 1, 1}, nullptr);
  expect_grid(1, {640, 1, 1}, &eight);
  expect_grid(2, {24, 12, 1}, nullptr);
  expect_grid(2, {24, 12, 1}, &flat);
  expect_grid(3, {8, 6, 9}, nullptr);
  expect_grid(3, {8, 6, 9}, &cube);
  expect_grid(1, {997, 1, 1}, nullptr);
  expect_grid(3, {7, 11, 13}, nullptr);
}

TEST_F(LaunchTest, Offsets) {
  const Sizes cube = {4, 2, 3};
  expect_grid(1, {64, 1, 1}, nullptr, {1000, 0, 0});
  expect_grid(3, {8, 6, 9}, &cube, {1, 20, 300});
  expect_grid(3, {5, 3, 2}, nullptr, {0, std::size_t{1} << 33, 7});
}

// From OpenCL C 2.0 on the last group of a dimension may be smaller.
TEST_F(LaunchTest, NonUniformGroups) {
  const Sizes eight = {8, 1, 1};
  const Sizes cube = {4, 4, 4};
  expect_grid(1, {61, 1, 1}, &eight);
  expect_grid(1, {3, 1, 1}, &eight);
  expect_grid(3, {9, 7, 6}, &cube);
  expect_grid(3, {9, 7, 6}, &cube, {100, 200, 300});
}

TEST_F(LaunchTest, UniformGroupsOnlyWhereTheLanguageSaysSo) {
  for (const char* options : {"", "-cl-std=CL1.2", "-cl-std=CL3.0 -cl-uniform-work-group-size"}) {
    cl_program uniform = build("kernel void count(global int* p) { atomic_inc(p); }", options);
    cl_int error = 1;
    Kernel count(cl().clCreateKernel(uniform, "count", &error));
    ASSERT_EQ(error, CL_SUCCESS);
    int value = 0;
    set_argument(count.get(), 0, &value);
    const std::size_t global = 61;
    const std::size_t local = 8;
    EXPECT_EQ(launch_grid(count, 1, nullptr, &global, &local), CL_INVALID_WORK_GROUP_SIZE) << options;
    EXPECT_EQ(launch_grid(count, 1, nullptr, &global, nullptr), CL_SUCCESS) << options;
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(value, 61);
    EXPECT_EQ(cl().clReleaseProgram(uniform), CL_SUCCESS);
  }
}

// OpenCL C 3.0, 6.15.1: sizes are 1 and ids 0 in dimensions that there are not.
TEST_F(LaunchTest, DimensionsBeyondTheThird) {
  const char* source = R"(kernel void beyond(global ulong* out, uint d) {
    out[0] = get_global_size(d); out[1] = get_global_id(d); out[2] = get_local_size(d); out[3] = get_local_id(d);
    out[4] = get_num_groups(d); out[5] = get_group_id(d); out[6] = get_global_offset(d);
  })";
  for (const char* options : {"-cl-std=CL1.2", "-cl-std=CL3.0"}) {
    cl_program of = build(source, options);
    cl_int error = 1;
    Kernel beyond(cl().clCreateKernel(of, "beyond", &error));
    ASSERT_EQ(error, CL_SUCCESS);
    for (const cl_uint dimension : {1u, 2u, 3u, 17u, ~0u}) {
      std::vector<cl_ulong> out(7, 99);
      set_argument(beyond.get(), 0, out.data());
      set_argument(beyond.get(), 1, dimension);
      ASSERT_EQ(enqueue(queue, beyond), CL_SUCCESS);
      EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
      EXPECT_EQ(out, (std::vector<cl_ulong>{1, 0, 1, 0, 1, 0, 0})) << dimension << ' ' << options;
    }
    EXPECT_EQ(cl().clReleaseProgram(of), CL_SUCCESS);
  }
}

// "If global_work_size is NULL, or the value in any passed dimension is 0 then the kernel command will trivially
// succeed after its event dependencies are satisfied."
TEST_F(LaunchTest, AnEmptyGridSucceedsInItsTurn) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  const std::size_t empty[] = {8, 0, 4};
  const std::size_t local[] = {8, 1, 4};
  EXPECT_EQ(launch_grid(add, 1, nullptr, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(launch_grid(add, 3, nullptr, empty, nullptr), CL_SUCCESS);
  EXPECT_EQ(launch_grid(add, 3, nullptr, empty, local), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(value, 0);
  Event held = user_event();
  const cl_event list = held.get();
  cl_event handle = nullptr;
  ASSERT_EQ(cl().clEnqueueNDRangeKernel(queue, add.get(), 3, nullptr, empty, nullptr, 1, &list, &handle), CL_SUCCESS);
  Event event(handle);
  EXPECT_EQ(status_of(event), CL_QUEUED);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(wait(event), CL_SUCCESS);
  Event gated = hold(queue);
  ASSERT_EQ(cl().clEnqueueNDRangeKernel(queue, add.get(), 1, nullptr, nullptr, nullptr, 0, nullptr, &handle),
            CL_SUCCESS);
  event.reset(handle);
  EXPECT_GT(status_of(event), CL_COMPLETE) << "behind a kernel that runs";
  gate.store(1);
  EXPECT_EQ(wait(event), CL_SUCCESS);
}

TEST_F(LaunchTest, WrongGridsHaveTheirOwnErrors) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  const Sizes ones = {1, 1, 1};
  EXPECT_EQ(launch_grid(add, 0, nullptr, ones.data(), nullptr), CL_INVALID_WORK_DIMENSION);
  EXPECT_EQ(launch_grid(add, 4, nullptr, ones.data(), nullptr), CL_INVALID_WORK_DIMENSION);
  const Sizes beyond = {1, SIZE_MAX, 1};
  const Sizes two = {2, 2, 2};
  EXPECT_EQ(launch_grid(add, 2, beyond.data(), two.data(), nullptr), CL_INVALID_GLOBAL_OFFSET);
  EXPECT_EQ(launch_grid(add, 1, beyond.data(), two.data(), nullptr), CL_SUCCESS) << "a dimension that is not used";
  const Sizes no_local = {1, 0, 1};
  EXPECT_EQ(launch_grid(add, 2, nullptr, two.data(), no_local.data()), CL_INVALID_WORK_GROUP_SIZE);
  std::size_t most = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof most, &most, nullptr), CL_SUCCESS);
  const Sizes large = {most * 4, most * 4, 1};
  const Sizes wide = {most * 2, 1, 1};
  const Sizes area = {most / 2, 4, 1};
  EXPECT_EQ(launch_grid(add, 1, nullptr, large.data(), wide.data()), CL_INVALID_WORK_ITEM_SIZE);
  EXPECT_EQ(launch_grid(add, 2, nullptr, large.data(), area.data()), CL_INVALID_WORK_GROUP_SIZE);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(value, 2);
}

TEST_F(LaunchTest, RequiredGroupSize) {
  int count = 0;
  Kernel fixed = kernel("fixed", &count);
  const Sizes global = {8, 4, 1};
  const Sizes right = {4, 2, 1};
  const Sizes wrong = {2, 4, 1};
  EXPECT_EQ(launch_grid(fixed, 2, nullptr, global.data(), wrong.data()), CL_INVALID_WORK_GROUP_SIZE);
  EXPECT_EQ(launch_grid(fixed, 1, nullptr, global.data(), nullptr), CL_INVALID_WORK_GROUP_SIZE)
      << "two dimensions are required";
  EXPECT_EQ(launch_grid(fixed, 2, nullptr, global.data(), right.data()), CL_SUCCESS);
  EXPECT_EQ(launch_grid(fixed, 2, nullptr, global.data(), nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(count, 64);
}

TEST_F(LaunchTest, WrongHandlesHaveTheirOwnErrors) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  const std::size_t one = 1;
  const auto code = [&](cl_command_queue to, cl_kernel what, cl_uint count, const cl_event* list) {
    return cl().clEnqueueNDRangeKernel(to, what, 1, nullptr, &one, nullptr, count, list, nullptr);
  };
  EXPECT_EQ(code(nullptr, add.get(), 0, nullptr), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(code(queue, nullptr, 0, nullptr), CL_INVALID_KERNEL);
  Event user = user_event();
  const cl_event list[] = {user.get(), nullptr};
  EXPECT_EQ(code(queue, add.get(), 1, nullptr), CL_INVALID_EVENT_WAIT_LIST);
  EXPECT_EQ(code(queue, add.get(), 0, list), CL_INVALID_EVENT_WAIT_LIST);
  EXPECT_EQ(code(queue, add.get(), 2, list), CL_INVALID_EVENT_WAIT_LIST);
  EXPECT_EQ(set(user, CL_COMPLETE), CL_SUCCESS);
  cl_int error = 1;
  Kernel unset(cl().clCreateKernel(program, "add", &error));
  EXPECT_EQ(code(queue, unset.get(), 0, nullptr), CL_INVALID_KERNEL_ARGS);
  cl_context other = cl().clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  cl_command_queue foreign = cl().clCreateCommandQueueWithProperties(other, device, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(code(foreign, add.get(), 0, nullptr), CL_INVALID_CONTEXT);
  EXPECT_EQ(cl().clReleaseCommandQueue(foreign), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(other), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(value, 0);
}

TEST_F(LaunchTest, StructsAndVectorsByValue) {
  struct Record {
    char tag;
    double value;
    short last[3];
  };
  double out[4] = {};
  Kernel take = kernel("take", Record{7, 2.5, {1, 2, -3}}, std::array<cl_uchar, 4>{1, 2, 250, 0}, out);
  ASSERT_EQ(enqueue(queue, take), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(std::vector<double>(out, out + 4), (std::vector<double>{7, 2.5, -3, 250}));
  EXPECT_EQ(cl().clSetKernelArg(take.get(), 0, sizeof(Record) - 1, out), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(cl().clSetKernelArg(take.get(), 0, sizeof(Record), nullptr), CL_INVALID_ARG_VALUE);
}

TEST_F(LaunchTest, LocalMemoryArguments) {
  std::vector<int> data(256);
  std::iota(data.begin(), data.end(), 0);
  Kernel reversed = kernel("reversed", data.data());
  const std::size_t global = data.size();
  const std::size_t local = 64;
  EXPECT_EQ(launch_grid(reversed, 1, nullptr, &global, &local), CL_INVALID_KERNEL_ARGS);
  EXPECT_EQ(cl().clSetKernelArg(reversed.get(), 1, 0, nullptr), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(cl().clSetKernelArg(reversed.get(), 1, 8, data.data()), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(cl().clSetKernelArg(reversed.get(), 1, local * sizeof(int), nullptr), CL_SUCCESS);
  EXPECT_EQ(launch_grid(reversed, 1, nullptr, &global, &local), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  for (std::size_t i = 0; i < data.size(); ++i) {
    ASSERT_EQ(data[i], static_cast<int>(i / local * local + local - 1 - i % local));
  }
  cl_ulong most = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_LOCAL_MEM_SIZE, sizeof most, &most, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clSetKernelArg(reversed.get(), 1, most + 1, nullptr), CL_SUCCESS);
  EXPECT_EQ(launch_grid(reversed, 1, nullptr, &global, &local), CL_OUT_OF_RESOURCES);
}

TEST_F(LaunchTest, ArgumentsAreThoseOfTheEnqueue) {
  int values[3] = {};
  Event held = user_event();
  Kernel store = kernel("store", &values[0], 1);
  ASSERT_EQ(enqueue(queue, store, {held.get()}), CL_SUCCESS);
  set_argument(store.get(), 0, &values[1]);
  set_argument(store.get(), 1, 2);
  ASSERT_EQ(enqueue(queue, store), CL_SUCCESS);
  set_argument(store.get(), 0, &values[2]);
  store.reset();
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[1], 2);
  EXPECT_EQ(values[2], 0);
}

TEST_F(LaunchTest, WildPointersFailTheirKernelOnly) {
  void* hole = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(hole, MAP_FAILED);
  ASSERT_EQ(munmap(hole, 4096), 0);
  for (const cl_ulong address : {cl_ulong{0}, cl_ulong{64}, reinterpret_cast<cl_ulong>(hole), cl_ulong{1} << 62}) {
    SCOPED_TRACE(address);
    expect_failure(kernel("poke", address));
  }
}

TEST_F(LaunchTest, DivisionByZeroAndTrapsFailTheirKernelOnly) {
  std::vector<int> numbers = {1, 6, 0};
  expect_failure(kernel("divide", numbers.data()));
  EXPECT_EQ(numbers[0], 1);
  expect_failure(kernel("trap"));
}

TEST_F(LaunchTest, TheContextIsToldWhichKernelFailedAndHow) {
  struct Told {
    std::mutex mutex;
    std::vector<std::string> messages;
    std::string text() {
      std::lock_guard lock(mutex);
      std::string all;
      for (const auto& message : messages) all += message + "\n";
      return all;
    }
  } told;
  const auto tell = [](const char* message, const void*, std::size_t, void* data) {
    auto& to = *static_cast<Told*>(data);
    std::lock_guard lock(to.mutex);
    to.messages.emplace_back(message);
  };
  cl_int error = 1;
  cl_context own = cl().clCreateContext(nullptr, 1, &device, tell, &told, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_command_queue to = cl().clCreateCommandQueueWithProperties(own, device, nullptr, &error);
  const char* source = "kernel void poke(ulong address) { *(volatile global int*)address = 1; }";
  cl_program of = cl().clCreateProgramWithSource(own, 1, &source, nullptr, &error);
  ASSERT_EQ(cl().clBuildProgram(of, 1, &device, "", nullptr, nullptr), CL_SUCCESS);
  Kernel poke(cl().clCreateKernel(of, "poke", &error));
  set_argument(poke.get(), 0, cl_ulong{0x40});
  const std::size_t global = 8;
  const std::size_t local = 4;
  ASSERT_EQ(cl().clEnqueueNDRangeKernel(to, poke.get(), 1, nullptr, &global, &local, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(to), CL_OUT_OF_RESOURCES);
  EXPECT_TRUE(becomes([&] { return !told.text().empty(); }));
  const std::string text = told.text();
  EXPECT_NE(text.find("'poke'"), std::string::npos) << text;
  EXPECT_NE(text.find("0x40"), std::string::npos) << text;
  EXPECT_NE(text.find("work-group ("), std::string::npos) << text;
  poke.reset();
  EXPECT_EQ(cl().clReleaseProgram(of), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(to), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(own), CL_SUCCESS);
}

TEST_F(LaunchTest, TheDeviceProcessKilledInTheMiddleOfAKernel) {
  std::vector<int> kept(10'000, 1);
  Kernel step = kernel("twice_plus", kept.data(), 1);
  ASSERT_EQ(enqueue(queue, step), CL_SUCCESS);  // its page is the device's now
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  cl_command_queue other = make_queue();
  for (int round = 0; round < 3; ++round) {
    int value = 0;
    Event running = hold(queue);
    Event behind = launch(queue, kernel("add", &value, 1));
    Event dependant = launch(other, kernel("add", &value, 10), {running.get()});
    int copy = -1;
    ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, &copy, &kept[1], sizeof copy, 0, nullptr, nullptr), CL_SUCCESS);
    const std::vector<pid_t> processes = device_processes();
    ASSERT_FALSE(processes.empty());
    for (pid_t process : processes) ASSERT_EQ(kill(process, SIGKILL), 0);
    EXPECT_EQ(wait(running), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    EXPECT_EQ(status_of(running), CL_OUT_OF_RESOURCES);
    EXPECT_EQ(wait(dependant), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    EXPECT_EQ(wait(behind), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST) << "it was with the device already";
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(copy, 1) << "commands of the host go on";
    EXPECT_EQ(kept[0], (4 << round) - 1) << "what only the device had";
    Event next = launch(queue, step);
    EXPECT_EQ(wait(next), CL_SUCCESS);
    EXPECT_EQ(value, 0);
  }
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
}

// Standard output goes to a file while this lives.
class CapturedOutput {
 public:
  CapturedOutput() : file_(memfd_create("output", MFD_CLOEXEC)) {
    std::fflush(stdout);
    saved_ = dup(STDOUT_FILENO);
    dup2(file_, STDOUT_FILENO);
  }
  ~CapturedOutput() {
    if (saved_ >= 0) stop();
    close(file_);
  }
  std::string stop() {
    std::fflush(stdout);
    dup2(saved_, STDOUT_FILENO);
    close(std::exchange(saved_, -1));
    std::string text(static_cast<std::size_t>(lseek(file_, 0, SEEK_END)), '\0');
    EXPECT_EQ(pread(file_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    return text;
  }

 private:
  int file_;
  int saved_;
};

TEST_F(LaunchTest, TextIsPrintedInOrderWithTheApplicationsOwn) {
  std::vector<Kernel> kernels;
  for (int i = 0; i < 20; ++i) kernels.push_back(kernel("say", i));
  std::string expected;
  CapturedOutput output;
  for (int i = 0; i < 20; i += 2) {
    std::printf("before %d\n", i);
    enqueue(queue, kernels[static_cast<std::size_t>(i)]);
    enqueue(queue, kernels[static_cast<std::size_t>(i) + 1]);
    cl().clFinish(queue);
    std::printf("after %d\n", i);
  }
  const std::string text = output.stop();
  for (int i = 0; i < 20; i += 2) {
    expected += "before " + std::to_string(i) + "\nline " + std::to_string(i) + "\nline " + std::to_string(i + 1) +
                "\nafter " + std::to_string(i) + "\n";
  }
  EXPECT_EQ(text, expected);
}

// An event that is seen complete by polling means that the text is out.
TEST_F(LaunchTest, TextIsOutWhenTheEventIsComplete) {
  Kernel say = kernel("say", 1);
  for (int i = 0; i < 20; ++i) {
    CapturedOutput output;
    Event event = launch(queue, say);
    EXPECT_TRUE(becomes([&] { return status_of(event) == CL_COMPLETE; }));
    EXPECT_EQ(output.stop(), "line 1\n");
  }
}

TEST_F(LaunchTest, MapsAndUnmapsStandInTheQueuesOrder) {
  cl_int error = 1;
  cl_mem buffer = cl().clCreateBuffer(context, CL_MEM_READ_WRITE, 64 * sizeof(int), nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  Kernel step = kernel("twice_plus");
  EXPECT_EQ(cl().clSetKernelArg(step.get(), 0, sizeof buffer, &buffer), CL_SUCCESS);
  set_argument(step.get(), 1, 1);
  auto* first = static_cast<int*>(
      cl().clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_WRITE, 0, sizeof(int), 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  *first = 5;
  ASSERT_EQ(cl().clEnqueueUnmapMemObject(queue, buffer, first, 0, nullptr, nullptr), CL_SUCCESS);
  for (int round = 1; round <= 20; ++round) {
    Event running = hold(queue);
    ASSERT_EQ(enqueue(queue, step), CL_SUCCESS);
    cl_event handle = nullptr;
    auto* mapped = static_cast<volatile int*>(cl().clEnqueueMapBuffer(
        queue, buffer, CL_FALSE, CL_MAP_READ | CL_MAP_WRITE, 0, sizeof(int), 0, nullptr, &handle, &error));
    ASSERT_EQ(error, CL_SUCCESS);
    Event map(handle);
    cl_uint maps = 0;
    EXPECT_EQ(cl().clGetMemObjectInfo(buffer, CL_MEM_MAP_COUNT, sizeof maps, &maps, nullptr), CL_SUCCESS);
    EXPECT_EQ(maps, 1u);
    EXPECT_GT(status_of(map), CL_COMPLETE) << "mapped before the kernels in front of it ran";
    gate.store(1);
    EXPECT_EQ(wait(map), CL_SUCCESS);
    ASSERT_EQ(*mapped, 11);
    *mapped = 5;
    ASSERT_EQ(cl().clEnqueueUnmapMemObject(queue, buffer, const_cast<int*>(mapped), 0, nullptr, nullptr), CL_SUCCESS);
    EXPECT_EQ(cl().clEnqueueUnmapMemObject(queue, buffer, const_cast<int*>(mapped), 0, nullptr, nullptr),
              CL_INVALID_VALUE)
        << "not mapped any more";
  }
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
