// SPDX-License-Identifier: Apache-2.0
// Queues, events, callbacks and profiling: OpenCL 3.0 API, sections 5.1, 5.10 (markers, barriers), 5.11 (event
// objects), 5.14 (profiling) and 5.15 (flush and finish).
#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

using std::chrono::seconds;

class Commands : public ClTest {
 protected:
  void SetUp() override {
    ClTest::SetUp();
    if (HasFatalFailure()) return;
    add_ = build("kernel void add(global int *data, int value) { *data += value; }", "add");
    set_ = build("kernel void set(global int *data, int value) { *data = value; }", "set");
    ASSERT_TRUE(add_);
    ASSERT_TRUE(set_);
    word_ = make_buffer(CL_MEM_READ_WRITE, sizeof(int));
    write(0);
  }
  void TearDown() override {
    word_.reset();
    add_ = {};
    set_ = {};
    ClTest::TearDown();
  }
  void write(int value) {
    EXPECT_CL(CL_SUCCESS,
              clEnqueueWriteBuffer(queue(), word_.get(), CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr));
  }
  int read() {
    int value = -1;
    EXPECT_CL(CL_SUCCESS,
              clEnqueueReadBuffer(queue(), word_.get(), CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr));
    return value;
  }
  Event user_event() {
    cl_int code = CL_SUCCESS;
    Event event(clCreateUserEvent(context(), &code));
    EXPECT_CL(CL_SUCCESS, code);
    return event;
  }
  Event enqueue_add(cl_command_queue on, int value, const std::vector<cl_event>& wait = {}) {
    EXPECT_CL(CL_SUCCESS, set_argument(add_.get(), 0, word_.get()));
    EXPECT_CL(CL_SUCCESS, set_argument(add_.get(), 1, value));
    std::size_t one = 1;
    cl_event event = nullptr;
    EXPECT_CL(CL_SUCCESS,
              clEnqueueNDRangeKernel(on, add_.get(), 1, nullptr, &one, nullptr, static_cast<cl_uint>(wait.size()),
                                     wait.empty() ? nullptr : wait.data(), &event));
    return Event(event);
  }
  Kernel add_, set_;
  Buffer word_;
};

TEST_F(Commands, AThousandKernelsInOrder) {
  // *2 + i keeps the order visible.
  Kernel kernel = build("kernel void advance(global uint *data, uint i) { *data = *data * 3 + i; }", "advance");
  ASSERT_TRUE(kernel);
  cl_uint expected = 0;
  for (cl_uint i = 0; i < 1000; ++i) {
    launch(kernel, 1, word_.get(), i);
    expected = expected * 3 + i;
  }
  EXPECT_EQ(static_cast<cl_uint>(read()), expected);
}

TEST_F(Commands, ArgumentsAreCapturedAtEnqueue) {
  // Section 5.9.2: a change of an argument does not touch commands that are already enqueued.
  Event gate = user_event();
  Event first = enqueue_add(queue(), 1, {gate.get()});
  Event second = enqueue_add(queue(), 10);
  EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), CL_COMPLETE));
  expect_complete(second);
  EXPECT_EQ(read(), 11);
}

TEST_F(Commands, UserEventHoldsAKernelBack) {
  Event gate = user_event();
  EXPECT_CL(CL_SUBMITTED, event_status(gate));
  Event held = enqueue_add(queue(), 5, {gate.get()});
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_GT(event_status(held), CL_COMPLETE);
  EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), CL_COMPLETE));
  expect_complete(held);
  EXPECT_EQ(read(), 5);
  EXPECT_CL(CL_INVALID_OPERATION, clSetUserEventStatus(gate.get(), CL_COMPLETE));
}

TEST_F(Commands, FailedUserEventTerminatesItsDependants) {
  Event gate = user_event();
  Event held = enqueue_add(queue(), 5, {gate.get()});
  EXPECT_CL(CL_INVALID_VALUE, clSetUserEventStatus(gate.get(), CL_RUNNING));
  EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), -42));
  cl_event handle = held.get();
  EXPECT_CL(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, clWaitForEvents(1, &handle));
  EXPECT_LT(event_status(held), 0);
  EXPECT_EQ(read(), 0);
}

TEST_F(Commands, EventsOrderTwoQueues) {
  Queue other = make_queue();
  for (int i = 0; i < 50; ++i) {
    Event first = launch(set_, 1, word_.get(), i);
    Event second = enqueue_add(other.get(), 1000, {first.get()});
    ASSERT_CL(CL_SUCCESS, clFlush(queue()));
    ASSERT_CL(CL_SUCCESS, clFlush(other.get()));
    expect_complete(second);
    ASSERT_EQ(read(), 1000 + i);
  }
}

TEST_F(Commands, StatusReachesCompleteByPollingAlone) {
  Event event = enqueue_add(queue(), 1);
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  EXPECT_TRUE(wait_until([&] { return event_status(event) == CL_COMPLETE; }, seconds(10)));
}

struct Callback {
  std::atomic<int> calls{0};
  std::atomic<cl_int> status{1234};
  std::atomic<cl_event> event{nullptr};
};

void CL_CALLBACK note_call(cl_event event, cl_int status, void* data) {
  auto* callback = static_cast<Callback*>(data);
  callback->event = event;
  callback->status = status;
  callback->calls.fetch_add(1);
}

TEST_F(Commands, CallbacksForEveryStage) {
  Event gate = user_event();
  Event event = enqueue_add(queue(), 1, {gate.get()});
  Callback submitted, running, complete, late;
  ASSERT_CL(CL_SUCCESS, clSetEventCallback(event.get(), CL_SUBMITTED, note_call, &submitted));
  ASSERT_CL(CL_SUCCESS, clSetEventCallback(event.get(), CL_RUNNING, note_call, &running));
  ASSERT_CL(CL_SUCCESS, clSetEventCallback(event.get(), CL_COMPLETE, note_call, &complete));
  EXPECT_EQ(complete.calls.load(), 0);
  EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), CL_COMPLETE));
  expect_complete(event);
  for (Callback* callback : {&submitted, &running, &complete}) {
    EXPECT_TRUE(wait_until([&] { return callback->calls.load() == 1; }, seconds(10)));
    EXPECT_EQ(callback->event.load(), event.get());
  }
  EXPECT_CL(CL_COMPLETE, complete.status.load());
  // Of a command that is complete already.
  ASSERT_CL(CL_SUCCESS, clSetEventCallback(event.get(), CL_COMPLETE, note_call, &late));
  EXPECT_TRUE(wait_until([&] { return late.calls.load() == 1; }, seconds(10)));
  EXPECT_CL(CL_INVALID_VALUE, clSetEventCallback(event.get(), CL_COMPLETE, nullptr, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clSetEventCallback(event.get(), CL_QUEUED, note_call, &late));
}

TEST_F(Commands, CallbackOfAFailedUserEventHasItsStatus) {
  Event gate = user_event();
  Callback callback;
  ASSERT_CL(CL_SUCCESS, clSetEventCallback(gate.get(), CL_COMPLETE, note_call, &callback));
  EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), -77));
  EXPECT_TRUE(wait_until([&] { return callback.calls.load() == 1; }, seconds(10)));
  EXPECT_EQ(callback.status.load(), -77);
}

struct EnqueueFromCallback {
  Commands* test;
  cl_command_queue queue;
  cl_kernel kernel;
  std::atomic<cl_int> code{1};
};

void CL_CALLBACK enqueue_more(cl_event /*event*/, cl_int /*status*/, void* data) {
  auto* next = static_cast<EnqueueFromCallback*>(data);
  std::size_t one = 1;
  cl_int code = clEnqueueNDRangeKernel(next->queue, next->kernel, 1, nullptr, &one, nullptr, 0, nullptr, nullptr);
  if (code == CL_SUCCESS) code = clFlush(next->queue);
  next->code = code;
}

TEST_F(Commands, CallbacksMayEnqueue) {
  EnqueueFromCallback next{this, queue(), add_.get()};
  Event event = enqueue_add(queue(), 3);  // the arguments stay set for the callback's launch
  ASSERT_CL(CL_SUCCESS, clSetEventCallback(event.get(), CL_COMPLETE, enqueue_more, &next));
  ASSERT_CL(CL_SUCCESS, clFlush(queue()));
  ASSERT_TRUE(wait_until([&] { return next.code.load() != 1; }, seconds(10)));
  EXPECT_CL(CL_SUCCESS, next.code.load());
  EXPECT_EQ(read(), 6);
}

TEST_F(Commands, MarkersAndBarriers) {
  Event gate = user_event();
  Event held = enqueue_add(queue(), 1, {gate.get()});
  cl_event marker_handle = nullptr, barrier_handle = nullptr;
  ASSERT_CL(CL_SUCCESS, clEnqueueMarkerWithWaitList(queue(), 0, nullptr, &marker_handle));
  ASSERT_CL(CL_SUCCESS, clEnqueueBarrierWithWaitList(queue(), 0, nullptr, &barrier_handle));
  Event marker(marker_handle), barrier(barrier_handle);
  EXPECT_GT(event_status(marker), CL_COMPLETE);
  EXPECT_GT(event_status(barrier), CL_COMPLETE);
  EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), CL_COMPLETE));
  expect_complete(barrier);
  EXPECT_CL(CL_COMPLETE, event_status(marker));
  EXPECT_CL(CL_COMPLETE, event_status(held));
}

TEST_F(Commands, EventInformation) {
  Event event = enqueue_add(queue(), 1);
  cl_command_queue of_queue = nullptr;
  cl_context of_context = nullptr;
  cl_command_type type = 0;
  cl_uint references = 0;
  EXPECT_CL(CL_SUCCESS, clGetEventInfo(event.get(), CL_EVENT_COMMAND_QUEUE, sizeof of_queue, &of_queue, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetEventInfo(event.get(), CL_EVENT_CONTEXT, sizeof of_context, &of_context, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetEventInfo(event.get(), CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr));
  EXPECT_CL(CL_SUCCESS, clGetEventInfo(event.get(), CL_EVENT_REFERENCE_COUNT, sizeof references, &references, nullptr));
  EXPECT_EQ(of_queue, queue());
  EXPECT_EQ(of_context, context());
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_NDRANGE_KERNEL});
  EXPECT_GE(references, 1u);
  EXPECT_CL(CL_INVALID_VALUE, clGetEventInfo(event.get(), 0x1, sizeof type, &type, nullptr));
  EXPECT_CL(CL_INVALID_EVENT, clGetEventInfo(nullptr, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr));
  EXPECT_CL(CL_INVALID_VALUE, clWaitForEvents(0, nullptr));
}

TEST_F(Commands, ProfilingTimesGrowFromStageToStage) {
  Kernel kernel = build(R"(
kernel void spin(global int *data) {
  volatile int x = 0;
  for (int i = 0; i < 3000000; ++i) x += i;
  *data = x;
})",
                        "spin");
  ASSERT_TRUE(kernel);
  cl_ulong host_before = 0, device_time = 0;
  bool has_timer = clGetDeviceAndHostTimer(device(), &device_time, &host_before) == CL_SUCCESS;
  Event event = launch(kernel, 1, word_.get());
  expect_complete(event);
  cl_ulong times[5] = {};
  const cl_profiling_info names[5] = {CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_SUBMIT,
                                      CL_PROFILING_COMMAND_START, CL_PROFILING_COMMAND_END,
                                      CL_PROFILING_COMMAND_COMPLETE};
  for (int i = 0; i < 5; ++i) {
    EXPECT_CL(CL_SUCCESS, clGetEventProfilingInfo(event.get(), names[i], sizeof(cl_ulong), &times[i], nullptr));
  }
  for (int i = 1; i < 5; ++i) EXPECT_LE(times[i - 1], times[i]) << "stage " << i;
  EXPECT_GT(times[3] - times[2], 100'000u) << "three million steps in less than 0.1 ms";
  EXPECT_LT(times[3] - times[2], 60'000'000'000u);
  if (has_timer && platform().is_mirrorcl) {
    EXPECT_GE(times[0], device_time);  // one clock for both
  }
  Queue plain = make_queue(0);
  Event unprofiled = enqueue_add(plain.get(), 1);
  expect_complete(unprofiled);
  EXPECT_CL(CL_PROFILING_INFO_NOT_AVAILABLE,
            clGetEventProfilingInfo(unprofiled.get(), CL_PROFILING_COMMAND_START, sizeof(cl_ulong), times, nullptr));
}

TEST_F(Commands, FinishWaitsForEverything) {
  std::vector<Event> events;
  for (int i = 0; i < 20; ++i) events.push_back(enqueue_add(queue(), 1));
  ASSERT_CL(CL_SUCCESS, clFinish(queue()));
  for (const Event& event : events) EXPECT_CL(CL_COMPLETE, event_status(event));
  EXPECT_EQ(read(), 20);
}

TEST_F(Commands, ReleasingEverythingWithCommandsInFlight) {
  // Section 5.11 and others: objects live until the commands that use them are done.
  auto result = std::make_unique<int>(0);
  Callback done;
  {
    Queue own = make_queue();
    Buffer buffer = make_buffer(CL_MEM_READ_WRITE, sizeof(int));
    Kernel kernel = build("kernel void set(global int *data, int value) { *data = value; }", "set");
    ASSERT_TRUE(kernel);
    Event gate = user_event();
    EXPECT_CL(CL_SUCCESS, set_argument(kernel.get(), 0, buffer.get()));
    EXPECT_CL(CL_SUCCESS, set_argument(kernel.get(), 1, 77));
    std::size_t one = 1;
    cl_event wait = gate.get(), last = nullptr;
    EXPECT_CL(CL_SUCCESS,
              clEnqueueNDRangeKernel(own.get(), kernel.get(), 1, nullptr, &one, nullptr, 1, &wait, nullptr));
    EXPECT_CL(CL_SUCCESS,
              clEnqueueReadBuffer(own.get(), buffer.get(), CL_FALSE, 0, sizeof(int), result.get(), 0, nullptr, &last));
    Event read_event(last);
    EXPECT_CL(CL_SUCCESS, clSetEventCallback(last, CL_COMPLETE, note_call, &done));
    EXPECT_CL(CL_SUCCESS, clFlush(own.get()));
    EXPECT_CL(CL_SUCCESS, clSetUserEventStatus(gate.get(), CL_COMPLETE));
  }
  ASSERT_TRUE(wait_until([&] { return done.calls.load() == 1; }, seconds(10)));
  EXPECT_CL(CL_COMPLETE, done.status.load());
  EXPECT_EQ(*result, 77);
}

TEST_F(Commands, ManyThreadsOnOneQueue) {
  // Section 5: all calls but clSetKernelArg on one kernel are thread-safe.
  Kernel kernel = build("kernel void count(global int *data) { atomic_inc(data); }", "count");
  ASSERT_TRUE(kernel);
  EXPECT_CL(CL_SUCCESS, set_argument(kernel.get(), 0, word_.get()));
  constexpr int kThreads = 4, kEach = 100;
  std::vector<std::thread> threads;
  std::atomic<int> errors{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      std::size_t ten = 10;
      for (int i = 0; i < kEach; ++i) {
        cl_event event = nullptr;
        errors +=
            clEnqueueNDRangeKernel(queue(), kernel.get(), 1, nullptr, &ten, nullptr, 0, nullptr, &event) != CL_SUCCESS;
        if (i % 10 == 0) errors += clWaitForEvents(1, &event) != CL_SUCCESS;
        errors += clReleaseEvent(event) != CL_SUCCESS;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(errors.load(), 0);
  EXPECT_EQ(read(), kThreads * kEach * 10);
}

TEST_F(Commands, OutOfOrderQueueHonoursWaitListsAndBarriers) {
  cl_command_queue_properties supported = 0;
  ASSERT_CL(CL_SUCCESS,
            clGetDeviceInfo(device(), CL_DEVICE_QUEUE_ON_HOST_PROPERTIES, sizeof supported, &supported, nullptr));
  if ((supported & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) == 0) GTEST_SKIP() << "no out-of-order queues";
  Queue own = make_queue(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
  Kernel kernel = build("kernel void advance(global uint *data, uint i) { *data = *data * 3 + i; }", "advance");
  ASSERT_TRUE(kernel);
  Event previous;
  cl_uint expected = 0;
  for (cl_uint i = 0; i < 100; ++i) {
    EXPECT_CL(CL_SUCCESS, set_argument(kernel.get(), 0, word_.get()));
    EXPECT_CL(CL_SUCCESS, set_argument(kernel.get(), 1, i));
    std::size_t one = 1;
    cl_event wait = previous.get(), event = nullptr;
    bool by_barrier = i % 3 == 0;
    if (by_barrier) {
      ASSERT_CL(CL_SUCCESS, clEnqueueBarrierWithWaitList(own.get(), 0, nullptr, nullptr));
    }
    bool waits = !by_barrier && wait != nullptr;
    ASSERT_CL(CL_SUCCESS, clEnqueueNDRangeKernel(own.get(), kernel.get(), 1, nullptr, &one, nullptr, waits ? 1 : 0,
                                                 waits ? &wait : nullptr, &event));
    previous.reset(event);
    expected = expected * 3 + i;
  }
  ASSERT_CL(CL_SUCCESS, clFinish(own.get()));
  EXPECT_EQ(static_cast<cl_uint>(read()), expected);
}

}  // namespace
}  // namespace mirrorcl::conformance
