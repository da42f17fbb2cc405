// SPDX-License-Identifier: Apache-2.0
// What the tests of commands share: a context with a queue, one program of small kernels (so that it is compiled once),
// and handles that release themselves.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {

constexpr const char* kKernels = R"(
  kernel void add(global int* value, int n) { atomic_add(value, n); }
  kernel void twice_plus(global int* value, int n) { *value = *value * 2 + n; }
  kernel void store(global int* value, int n) { *value = n; }
  // Runs until the application says so; tells that it has begun.
  kernel void hold(global atomic_int* gate) {
    atomic_store_explicit(gate + 1, 1, memory_order_release, memory_scope_all_svm_devices);
    while (atomic_load_explicit(gate, memory_order_acquire, memory_scope_all_svm_devices) == 0) {}
  }
  kernel void open(global atomic_int* gate) {
    atomic_store_explicit(gate, 1, memory_order_release, memory_scope_all_svm_devices);
  }
  kernel void poke(ulong address) { *(volatile global int*)address = 1; }
  kernel void divide(global int* numbers) { numbers[0] = numbers[1] / numbers[2]; }
  kernel void trap() { __asm__ volatile("ud2"); }
  kernel void say(int n) { printf("line %d\n", n); }
  // Where each work-item is, in global linear order: global ids, then group and local sizes.
  kernel void where(global ulong* out) {
    size_t at = get_global_linear_id() * 6;
    for (uint d = 0; d < 3; ++d) out[at + d] = get_global_id(d);
    for (uint d = 0; d < 3; ++d) out[at + 3 + d] = get_local_size(d);
  }
  kernel void reversed(global int* data, local int* scratch) {
    size_t at = get_local_id(0);
    scratch[at] = data[get_global_id(0)];
    barrier(CLK_LOCAL_MEM_FENCE);
    data[get_global_id(0)] = scratch[get_local_size(0) - 1 - at];
  }
  typedef struct { char tag; double value; short last[3]; } record_t;
  kernel void take(record_t record, uchar3 bytes, global double* out) {
    out[0] = record.tag; out[1] = record.value; out[2] = record.last[2]; out[3] = bytes.z;
  }
  kernel void __attribute__((reqd_work_group_size(4, 2, 1))) fixed(global int* count) { atomic_inc(count); }
)";

class CommandTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    if (HasFatalFailure()) return;
    queue = make_queue();
    program = build(kKernels);
  }
  void TearDown() override {
    // What a failed test may have left running.
    gate.store(1);
    if (queue != nullptr) {
      EXPECT_EQ(cl().clReleaseCommandQueue(queue), CL_SUCCESS);
    }
    if (program != nullptr) {
      EXPECT_EQ(cl().clReleaseProgram(program), CL_SUCCESS);
    }
    ContextTest::TearDown();
  }

  struct ReleaseKernel {
    void operator()(cl_kernel handle) const { EXPECT_EQ(cl().clReleaseKernel(handle), CL_SUCCESS); }
  };
  struct ReleaseEvent {
    void operator()(cl_event handle) const { EXPECT_EQ(cl().clReleaseEvent(handle), CL_SUCCESS); }
  };
  using Kernel = std::unique_ptr<std::remove_pointer_t<cl_kernel>, ReleaseKernel>;
  using Event = std::unique_ptr<std::remove_pointer_t<cl_event>, ReleaseEvent>;

  cl_command_queue make_queue(cl_command_queue_properties flags = 0) {
    const cl_queue_properties properties[] = {CL_QUEUE_PROPERTIES, flags, 0};
    cl_int error = 1;
    cl_command_queue made =
        cl().clCreateCommandQueueWithProperties(context, device, flags != 0 ? properties : nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return made;
  }
  template <typename... Arguments>
  Kernel kernel(const char* name, Arguments... arguments) {
    cl_int error = 1;
    Kernel made(cl().clCreateKernel(program, name, &error));
    EXPECT_EQ(error, CL_SUCCESS) << name;
    cl_uint index = 0;
    (set_argument(made.get(), index++, arguments), ...);
    return made;
  }
  template <typename T>
  void set_argument(cl_kernel handle, cl_uint index, T value) {
    if constexpr (std::is_pointer_v<T>) {
      EXPECT_EQ(cl().clSetKernelArgSVMPointer(handle, index, value), CL_SUCCESS);
    } else {
      EXPECT_EQ(cl().clSetKernelArg(handle, index, sizeof value, &value), CL_SUCCESS);
    }
  }
  // One work-item.
  cl_int enqueue(cl_command_queue to, const Kernel& what, std::vector<cl_event> waits = {}, Event* event = nullptr) {
    const std::size_t one = 1;
    cl_event handle = nullptr;
    const cl_int error =
        cl().clEnqueueNDRangeKernel(to, what.get(), 1, nullptr, &one, nullptr, static_cast<cl_uint>(waits.size()),
                                    waits.empty() ? nullptr : waits.data(), event != nullptr ? &handle : nullptr);
    if (event != nullptr) event->reset(handle);
    return error;
  }
  Event launch(cl_command_queue to, const Kernel& what, std::vector<cl_event> waits = {}) {
    Event event;
    EXPECT_EQ(enqueue(to, what, std::move(waits), &event), CL_SUCCESS);
    return event;
  }
  Event marker(cl_command_queue to, std::vector<cl_event> waits = {}) {
    cl_event handle = nullptr;
    EXPECT_EQ(cl().clEnqueueMarkerWithWaitList(to, static_cast<cl_uint>(waits.size()),
                                               waits.empty() ? nullptr : waits.data(), &handle),
              CL_SUCCESS);
    return Event(handle);
  }
  Event user_event() {
    cl_int error = 1;
    Event event(cl().clCreateUserEvent(context, &error));
    EXPECT_EQ(error, CL_SUCCESS);
    return event;
  }
  static cl_int set(const Event& event, cl_int status) { return cl().clSetUserEventStatus(event.get(), status); }
  static cl_int status_of(const Event& event) {
    cl_int status = -999;
    EXPECT_EQ(cl().clGetEventInfo(event.get(), CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, nullptr),
              CL_SUCCESS);
    return status;
  }
  static cl_int wait(const Event& event) {
    const cl_event handle = event.get();
    return cl().clWaitForEvents(1, &handle);
  }
  // A kernel that runs in `to` from when this returns until the gate is opened.
  Event hold(cl_command_queue to) {
    gate.store(0);
    began.store(0);
    Event event = launch(to, kernel("hold", static_cast<void*>(&gate)));
    EXPECT_TRUE(becomes([&] { return began.load() == 1; }));
    return event;
  }

  cl_command_queue queue = nullptr;
  cl_program program = nullptr;
  // Side by side: the kernels "hold" and "open" get the address of the first.
  struct Gate {
    std::atomic<cl_int> open{0};
    std::atomic<cl_int> began{0};
  };
  std::unique_ptr<Gate> gates = std::make_unique<Gate>();
  std::atomic<cl_int>& gate = gates->open;
  std::atomic<cl_int>& began = gates->began;
};

}  // namespace mirrorcl::icd::testing
