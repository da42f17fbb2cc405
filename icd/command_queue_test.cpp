// SPDX-License-Identifier: Apache-2.0
// Command queues (OpenCL 3.0, 5.1 and 5.15): order, finishing, a full user-mode queue, many queues, and their end.
#include <unistd.h>

#include <numeric>
#include <thread>

#include "icd/command_fixture.h"

namespace mirrorcl::icd::testing {
namespace {

class CommandQueueTest : public CommandTest {};

TEST_F(CommandQueueTest, ChecksWhatItIsMadeOf) {
  const auto error_of = [&](cl_context in, cl_device_id of, std::vector<cl_queue_properties> properties) {
    cl_int error = 1;
    EXPECT_EQ(cl().clCreateCommandQueueWithProperties(in, of, properties.data(), &error), nullptr);
    return error;
  };
  EXPECT_EQ(error_of(nullptr, device, {0}), CL_INVALID_CONTEXT);
  EXPECT_EQ(error_of(context, nullptr, {0}), CL_INVALID_DEVICE);
  EXPECT_EQ(error_of(context, device, {CL_QUEUE_PROPERTIES, cl_queue_properties{1} << 40, 0}), CL_INVALID_VALUE);
  EXPECT_EQ(error_of(context, device, {CL_QUEUE_CONTEXT, 0, 0}), CL_INVALID_VALUE);
  EXPECT_EQ(error_of(context, device, {CL_QUEUE_SIZE, 64, 0}), CL_INVALID_VALUE);
  EXPECT_EQ(
      error_of(context, device, {CL_QUEUE_PROPERTIES, CL_QUEUE_ON_DEVICE | CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, 0}),
      CL_INVALID_QUEUE_PROPERTIES);
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateCommandQueue(context, device, CL_QUEUE_ON_DEVICE, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(CommandQueueTest, TellsWhatItWasMadeOf) {
  cl_command_queue made = make_queue(CL_QUEUE_PROFILING_ENABLE);
  cl_queue_properties array[3] = {};
  std::size_t size = 0;
  EXPECT_EQ(cl().clGetCommandQueueInfo(made, CL_QUEUE_PROPERTIES_ARRAY, sizeof array, array, &size), CL_SUCCESS);
  EXPECT_EQ(size, sizeof array);
  EXPECT_EQ(array[0], cl_queue_properties{CL_QUEUE_PROPERTIES});
  EXPECT_EQ(array[1], cl_queue_properties{CL_QUEUE_PROFILING_ENABLE});
  EXPECT_EQ(array[2], 0u);
  EXPECT_EQ(cl().clGetCommandQueueInfo(queue, CL_QUEUE_PROPERTIES_ARRAY, 0, nullptr, &size), CL_SUCCESS);
  EXPECT_EQ(size, 0u) << "made without a list";
  cl_context of = nullptr;
  EXPECT_EQ(cl().clGetCommandQueueInfo(made, CL_QUEUE_CONTEXT, sizeof of, &of, nullptr), CL_SUCCESS);
  EXPECT_EQ(of, context);
  cl_uint elements = 0;
  EXPECT_EQ(cl().clGetCommandQueueInfo(made, CL_QUEUE_SIZE, sizeof elements, &elements, nullptr),
            CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clGetCommandQueueInfo(made, 0xbad, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clReleaseCommandQueue(made), CL_SUCCESS);
}

TEST_F(CommandQueueTest, CountsAndRefusesAReleasedHandle) {
  cl_command_queue made = make_queue();
  EXPECT_EQ(cl().clRetainCommandQueue(made), CL_SUCCESS);
  cl_uint count = 0;
  EXPECT_EQ(cl().clGetCommandQueueInfo(made, CL_QUEUE_REFERENCE_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(cl().clReleaseCommandQueue(made), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(made), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(made), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(made), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clRetainCommandQueue(made), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clFlush(made), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clFinish(made), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clEnqueueMarkerWithWaitList(made, 0, nullptr, nullptr), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clGetCommandQueueInfo(made, CL_QUEUE_REFERENCE_COUNT, sizeof count, &count, nullptr),
            CL_INVALID_COMMAND_QUEUE);
  int value = 0;
  EXPECT_EQ(enqueue(made, kernel("add", &value, 1)), CL_INVALID_COMMAND_QUEUE);
}

// Kernels, copies of the enqueuing thread, and copies of the host worker, each of which needs the one before it.
TEST_F(CommandQueueTest, CommandsOfEveryKindRunInTheOrderOfTheirEnqueue) {
  constexpr int kRounds = 60;
  constexpr std::size_t kLarge = 256 * 1024;  // bytes; beyond what an enqueuing thread copies itself
  std::vector<int> value(kLarge / sizeof(int));
  std::vector<int> copy(value.size());
  Kernel step = kernel("twice_plus", value.data(), 1);
  Kernel back = kernel("twice_plus", copy.data(), 1);
  std::uint32_t expected = 0;
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_EQ(enqueue(queue, step), CL_SUCCESS);
    const std::size_t bytes = i % 2 == 0 ? kLarge : sizeof(int);
    ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, copy.data(), value.data(), bytes, 0, nullptr, nullptr),
              CL_SUCCESS);
    ASSERT_EQ(enqueue(queue, back), CL_SUCCESS);
    ASSERT_EQ(cl().clEnqueueMarkerWithWaitList(queue, 0, nullptr, nullptr), CL_SUCCESS);
    ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, value.data(), copy.data(), bytes, 0, nullptr, nullptr),
              CL_SUCCESS);
    expected = (expected * 2 + 1) * 2 + 1;
  }
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(static_cast<std::uint32_t>(value[0]), expected);
}

TEST_F(CommandQueueTest, TakesMoreLaunchesThanTheRingHolds) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(value, 5000);
}

// Nobody waits: what did not fit into the ring must go on by itself.
TEST_F(CommandQueueTest, LaunchesBeyondAFullRingGoOnWithoutTheApplication) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  Event first = hold(queue);
  for (int i = 0; i < 4000; ++i) ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  Event last = launch(queue, add);
  EXPECT_EQ(status_of(last), CL_QUEUED);
  gate.store(1);
  EXPECT_TRUE(becomes([&] { return status_of(last) == CL_COMPLETE; }));
  EXPECT_EQ(value, 4001);
}

TEST_F(CommandQueueTest, AFullRingHoldsBackHostCommandsToo) {
  int value = 0;
  int seen = -1;
  Kernel add = kernel("add", &value, 1);
  Event first = hold(queue);
  for (int i = 0; i < 1500; ++i) ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, &seen, &value, sizeof seen, 0, nullptr, nullptr), CL_SUCCESS);
  for (int i = 0; i < 1500; ++i) ASSERT_EQ(enqueue(queue, add), CL_SUCCESS);
  gate.store(1);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(seen, 1500);
  EXPECT_EQ(value, 3000);
}

TEST_F(CommandQueueTest, FlushedCommandsRunWithoutFurtherCalls) {
  auto value = std::make_unique<std::atomic<int>>(0);
  Event held = user_event();
  Event gated = launch(queue, kernel("add", reinterpret_cast<int*>(value.get()), 1), {held.get()});
  ASSERT_EQ(enqueue(queue, kernel("add", reinterpret_cast<int*>(value.get()), 1)), CL_SUCCESS);
  EXPECT_EQ(cl().clFlush(queue), CL_SUCCESS);
  EXPECT_EQ(value->load(), 0);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return value->load() == 2; }));
  EXPECT_EQ(cl().clFlush(nullptr), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(cl().clFinish(nullptr), CL_INVALID_COMMAND_QUEUE);
}

TEST_F(CommandQueueTest, SeveralThreadsEnqueueAndFinish) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 100;
  std::vector<int> values(kThreads * 64);
  int shared = 0;
  Kernel for_all = kernel("add", &shared, 1);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      int& mine = values[static_cast<std::size_t>(t) * 64];
      Kernel add = kernel("add", &mine, 1);
      int copy = 0;
      for (int i = 1; i <= kRounds; ++i) {
        EXPECT_EQ(enqueue(queue, add), CL_SUCCESS);
        EXPECT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, &copy, &mine, sizeof copy, 0, nullptr, nullptr), CL_SUCCESS);
        EXPECT_EQ(enqueue(queue, for_all), CL_SUCCESS);
        EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
        if (mine != i || copy != i) wrong.fetch_add(1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0) << "clFinish returned before what its thread had enqueued was done";
  EXPECT_EQ(shared, kThreads * kRounds);
}

// A finish must wait for what another thread's commands before it wait for, and no thread may be forgotten.
TEST_F(CommandQueueTest, FinishFromSeveralThreadsWhileACommandIsHeldBack) {
  int value = 0;
  Event held = user_event();
  ASSERT_EQ(enqueue(queue, kernel("add", &value, 1), {held.get()}), CL_SUCCESS);
  std::vector<char> large(256 * 1024, 1);
  std::vector<char> target(large.size());
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, target.data(), large.data(), large.size(), 0, nullptr, nullptr),
            CL_SUCCESS);
  ASSERT_EQ(enqueue(queue, kernel("add", &value, 1)), CL_SUCCESS);
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
      done.fetch_add(1);
    });
  }
  usleep(20'000);
  EXPECT_EQ(done.load(), 0);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(value, 2);
  EXPECT_EQ(target.back(), 1);
}

TEST_F(CommandQueueTest, FinishTellsOnceOfAFailureThatNobodyElseWasToldOf) {
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS) << "of an empty queue";
  ASSERT_EQ(enqueue(queue, kernel("trap")), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_OUT_OF_RESOURCES);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS) << "told already";
  Event failed = launch(queue, kernel("trap"));
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS) << "the event tells";
  EXPECT_LT(status_of(failed), 0);
  int from = 1;
  int to = 0;
  const cl_event list = failed.get();
  EXPECT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_TRUE, &to, &from, sizeof to, 1, &list, nullptr),
            CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  EXPECT_EQ(to, 0);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS) << "the blocking call told";
}

TEST_F(CommandQueueTest, QueuesRunSideBySide) {
  cl_uint units = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, nullptr), CL_SUCCESS);
  if (units < 2) GTEST_SKIP() << "needs two compute units";
  cl_command_queue other = make_queue();
  Event waits = hold(queue);
  ASSERT_EQ(enqueue(other, kernel("open", static_cast<void*>(&gate))), CL_SUCCESS);
  EXPECT_EQ(wait(waits), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
}

// The device has 256 hardware queues; queues that were released make room.
TEST_F(CommandQueueTest, ManyQueuesAndTheLimit) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  for (int round = 0; round < 2; ++round) {
    value = 0;
    std::vector<cl_command_queue> queues;
    cl_int error = CL_SUCCESS;
    for (;;) {
      cl_command_queue made = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
      if (error != CL_SUCCESS) {
        EXPECT_EQ(made, nullptr);
        break;
      }
      queues.push_back(made);
      ASSERT_LE(queues.size(), 1000u);
    }
    EXPECT_EQ(error, CL_OUT_OF_RESOURCES);
    EXPECT_LE(queues.size(), 255u) << "and the fixture's own";
    EXPECT_GE(queues.size(), 240u) << "a few may be of queues that were released a moment ago";
    for (cl_command_queue each : queues) {
      for (int i = 0; i < 10; ++i) ASSERT_EQ(enqueue(each, add), CL_SUCCESS);
    }
    for (cl_command_queue each : queues) EXPECT_EQ(cl().clFinish(each), CL_SUCCESS);
    EXPECT_EQ(value, static_cast<int>(queues.size()) * 10);
    for (cl_command_queue each : queues) EXPECT_EQ(cl().clReleaseCommandQueue(each), CL_SUCCESS);
  }
}

TEST_F(CommandQueueTest, ReleasedWithCommandsUnderWay) {
  cl_command_queue other = make_queue();
  int value = 0;
  int copy = 0;
  Event held = user_event();
  ASSERT_EQ(enqueue(other, kernel("add", &value, 3), {held.get()}), CL_SUCCESS);
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(other, CL_FALSE, &copy, &value, sizeof copy, 0, nullptr, nullptr), CL_SUCCESS);
  Event last = launch(other, kernel("add", &value, 4));
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
  cl_command_queue named = nullptr;
  EXPECT_EQ(cl().clGetEventInfo(last.get(), CL_EVENT_COMMAND_QUEUE, sizeof named, &named, nullptr), CL_SUCCESS);
  EXPECT_EQ(named, other);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(wait(last), CL_SUCCESS);
  EXPECT_EQ(copy, 3);
  EXPECT_EQ(value, 7);
  last.reset();
  // The thread that has ended the last command lets go of the queue a moment later.
  for (int i = 0; i < 10'000 && cl().clFinish(other) == CL_SUCCESS; ++i) usleep(1000);
  EXPECT_EQ(cl().clFinish(other), CL_INVALID_COMMAND_QUEUE);
}

// Commands that nobody has a handle of any more are still done, and what they held is let go.
TEST_F(CommandQueueTest, EverythingReleasedWhileAKernelRuns) {
  struct Note {
    std::atomic<int> gone{0};
  } note;
  const auto on_gone = [](cl_mem, void* data) { static_cast<Note*>(data)->gone.store(1); };
  cl_command_queue other = make_queue();
  int value = 0;
  cl_int error = 1;
  cl_mem buffer = cl().clCreateBuffer(context, CL_MEM_USE_HOST_PTR, sizeof value, &value, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(cl().clSetMemObjectDestructorCallback(buffer, on_gone, &note), CL_SUCCESS);
  hold(other);
  {
    Kernel add = kernel("add");
    EXPECT_EQ(cl().clSetKernelArg(add.get(), 0, sizeof buffer, &buffer), CL_SUCCESS);
    set_argument(add.get(), 1, 5);
    ASSERT_EQ(enqueue(other, add), CL_SUCCESS);
  }
  EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
  usleep(10'000);
  EXPECT_EQ(note.gone.load(), 0) << "the kernel behind still needs it";
  gate.store(1);
  EXPECT_TRUE(becomes([&] { return note.gone.load() == 1; }));
  EXPECT_EQ(value, 5);
}

// Whichever thread's release is the last must see to the commands under way.
TEST_F(CommandQueueTest, ReleasedByTwoThreadsAtOnce) {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> gone{0};
    const auto on_gone = [](cl_mem, void* data) { static_cast<std::atomic<int>*>(data)->store(1); };
    cl_command_queue other = make_queue();
    int value = 0;
    cl_int error = 1;
    cl_mem buffer = cl().clCreateBuffer(context, CL_MEM_USE_HOST_PTR, sizeof value, &value, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(cl().clSetMemObjectDestructorCallback(buffer, on_gone, &gone), CL_SUCCESS);
    Kernel add = kernel("add");
    EXPECT_EQ(cl().clSetKernelArg(add.get(), 0, sizeof buffer, &buffer), CL_SUCCESS);
    set_argument(add.get(), 1, 1);
    ASSERT_EQ(enqueue(other, add), CL_SUCCESS);
    EXPECT_EQ(cl().clReleaseMemObject(buffer), CL_SUCCESS);
    EXPECT_EQ(cl().clRetainCommandQueue(other), CL_SUCCESS);
    std::atomic<int> ready{0};
    const auto release = [&] {
      ready.fetch_add(1);
      while (ready.load() != 2) {
      }
      EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
    };
    std::thread thread(release);
    release();
    thread.join();
    ASSERT_TRUE(becomes([&] { return gone.load() == 1; })) << "round " << round;
  }
}

// Hardware queues and their packets are used again at once; a late packet of the former owner must not be taken for one
// of the next.
TEST_F(CommandQueueTest, QueuesComeAndGoWithNoticesUnderWay) {
  int value = 0;
  Kernel add = kernel("add", &value, 1);
  for (int round = 0; round < 500; ++round) {
    cl_command_queue other = make_queue();
    ASSERT_EQ(enqueue(other, add), CL_SUCCESS);
    Event last = launch(other, add);
    EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);  // asks for a notice
    EXPECT_EQ(wait(last), CL_SUCCESS);
    ASSERT_EQ(value, 2 * (round + 1));
  }
}

// A released queue may have left a packet that only asks for a notice; nobody may wait for a unit to get to it.
TEST_F(CommandQueueTest, ReleasedWhileAllUnitsAreBusyForLong) {
  cl_uint units = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, nullptr), CL_SUCCESS);
  std::vector<Gate> own(units + 1);  // the last two belong to the queues below
  const auto enqueue_hold = [&](cl_command_queue to, Gate& at) {
    return launch(to, kernel("hold", static_cast<void*>(&at)));
  };
  const auto has_begun = [&](const Gate& at) { return becomes([&] { return at.began.load() == 1; }); };
  std::vector<cl_command_queue> queues;
  for (cl_uint i = 0; i + 1 < units; ++i) {
    queues.push_back(make_queue());
    enqueue_hold(queues.back(), own[i]);
    ASSERT_TRUE(has_begun(own[i]));
  }
  cl_command_queue released = make_queue();
  cl_command_queue next = make_queue();
  Event first = enqueue_hold(released, own[units - 1]);
  ASSERT_TRUE(has_begun(own[units - 1]));
  enqueue_hold(next, own[units]);
  EXPECT_EQ(cl().clReleaseCommandQueue(released), CL_SUCCESS);  // asks for a notice
  own[units - 1].open.store(1);
  EXPECT_EQ(wait(first), CL_SUCCESS);
  first.reset();
  ASSERT_TRUE(has_begun(own[units])) << "the unit goes on with the other queue";
  // The host worker lets go of the released queue when it looks next, and has more to do then.
  std::vector<char> from(100'000, 7);
  std::vector<char> to(from.size());
  for (int round = 0; round < 3; ++round) {
    Event held = user_event();
    const cl_event list = held.get();
    cl_event handle = nullptr;
    ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, to.data(), from.data(), to.size(), 1, &list, &handle),
              CL_SUCCESS);
    Event copy(handle);
    EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
    EXPECT_TRUE(becomes([&] { return status_of(copy) == CL_COMPLETE; })) << round;
  }
  for (Gate& at : own) at.open.store(1);
  EXPECT_EQ(cl().clFinish(next), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(next), CL_SUCCESS);
  for (cl_command_queue each : queues) EXPECT_EQ(cl().clReleaseCommandQueue(each), CL_SUCCESS);
}

// The kernel object is gone when the application has released it and its launches are done, whoever noticed that.
TEST_F(CommandQueueTest, ProgramCanBeBuiltAgainAfterItsKernelsAreDone) {
  cl_program again = build("kernel void one(global int* p) { *p = 1; }");
  for (int round = 0; round < 100; ++round) {
    int value = 0;
    cl_int error = 1;
    cl_kernel one = cl().clCreateKernel(again, "one", &error);
    ASSERT_EQ(error, CL_SUCCESS);
    set_argument(one, 0, &value);
    Kernel launched(one);
    Event event = launch(queue, launched);
    const auto nothing = [](cl_event, cl_int, void*) {};
    EXPECT_EQ(cl().clSetEventCallback(event.get(), CL_COMPLETE, nothing, nullptr), CL_SUCCESS);
    launched.reset();
    EXPECT_TRUE(becomes([&] { return status_of(event) == CL_COMPLETE; }));
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    ASSERT_EQ(cl().clBuildProgram(again, 1, &device, "-cl-std=CL3.0", nullptr, nullptr), CL_SUCCESS) << round;
    EXPECT_EQ(value, 1);
  }
  EXPECT_EQ(cl().clReleaseProgram(again), CL_SUCCESS);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
