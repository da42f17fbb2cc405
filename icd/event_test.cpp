// SPDX-License-Identifier: Apache-2.0
// Events (OpenCL 3.0, 5.11) and profiling (5.14): statuses, callbacks, user events, dependencies between queues,
// lifetimes.
#include <unistd.h>

#include <mutex>
#include <thread>

#include "icd/command_fixture.h"

namespace mirrorcl::icd::testing {
namespace {

class EventTest : public CommandTest {
 protected:
  // Notes every callback, in the order of the calls.
  struct Notes {
    std::mutex mutex;
    std::vector<std::pair<cl_event, cl_int>> calls;
    void clear() {
      std::lock_guard lock(mutex);
      calls.clear();
    }
    std::size_t count() {
      std::lock_guard lock(mutex);
      return calls.size();
    }
    std::vector<cl_int> statuses() {
      std::lock_guard lock(mutex);
      std::vector<cl_int> found;
      for (const auto& [event, status] : calls) found.push_back(status);
      std::sort(found.rbegin(), found.rend());  // the specification promises no order
      return found;
    }
  };
  static void CL_CALLBACK note(cl_event event, cl_int status, void* data) {
    auto& notes = *static_cast<Notes*>(data);
    std::lock_guard lock(notes.mutex);
    notes.calls.emplace_back(event, status);
  }
  cl_int watch(const Event& event, cl_int trigger) {
    return cl().clSetEventCallback(event.get(), trigger, note, &notes);
  }
  template <typename T>
  static T info(const Event& event, cl_event_info name) {
    T value{};
    EXPECT_EQ(cl().clGetEventInfo(event.get(), name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }
  static cl_int profile(const Event& event, cl_profiling_info name, cl_ulong* time) {
    return cl().clGetEventProfilingInfo(event.get(), name, sizeof *time, time, nullptr);
  }
  void expect_growing_times(const Event& event) {
    cl_ulong times[5] = {};
    const cl_profiling_info names[] = {CL_PROFILING_COMMAND_QUEUED, CL_PROFILING_COMMAND_SUBMIT,
                                       CL_PROFILING_COMMAND_START, CL_PROFILING_COMMAND_END,
                                       CL_PROFILING_COMMAND_COMPLETE};
    for (int i = 0; i < 5; ++i) ASSERT_EQ(profile(event, names[i], &times[i]), CL_SUCCESS) << i;
    EXPECT_GT(times[0], 0u);
    for (int i = 1; i < 5; ++i) EXPECT_LE(times[i - 1], times[i]) << i;
  }

  // Each callback enqueues the next link on either of two queues, so that nothing but callbacks keeps it going.
  struct Chain {
    EventTest* test;
    cl_command_queue queues[2];
    std::vector<Event> gates;
    std::vector<Event> links;
    Kernel add;
    std::atomic<int> length{0};
    static constexpr int kLength = 200;
    void link() {
      const auto at = static_cast<std::size_t>(length.load());
      gates.push_back(test->user_event());
      links.push_back(test->launch(queues[at % 2], add, {gates.back().get()}));
      EXPECT_EQ(cl().clSetEventCallback(links.back().get(), CL_COMPLETE, next, this), CL_SUCCESS);
      EXPECT_EQ(set(gates.back(), CL_COMPLETE), CL_SUCCESS);
    }
    static void CL_CALLBACK next(cl_event, cl_int status, void* data) {
      auto& chain = *static_cast<Chain*>(data);
      EXPECT_EQ(status, CL_COMPLETE);
      if (chain.length.load() + 1 < kLength) {
        chain.length.fetch_add(1);
        chain.link();
      } else {
        chain.length.fetch_add(1);
      }
    }
  };

  Notes notes;
  int value = 0;
};

TEST_F(EventTest, AnswersQueries) {
  Event event = launch(queue, kernel("add", &value, 1));
  EXPECT_EQ(info<cl_command_queue>(event, CL_EVENT_COMMAND_QUEUE), queue);
  EXPECT_EQ(info<cl_context>(event, CL_EVENT_CONTEXT), context);
  EXPECT_EQ(info<cl_command_type>(event, CL_EVENT_COMMAND_TYPE), cl_command_type{CL_COMMAND_NDRANGE_KERNEL});
  EXPECT_EQ(info<cl_uint>(event, CL_EVENT_REFERENCE_COUNT), 1u);
  EXPECT_EQ(cl().clGetEventInfo(event.get(), 0xbad, 0, nullptr, nullptr), CL_INVALID_VALUE);
  cl_int small = 0;
  EXPECT_EQ(cl().clGetEventInfo(event.get(), CL_EVENT_CONTEXT, sizeof small, &small, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetEventInfo(nullptr, CL_EVENT_CONTEXT, 0, nullptr, nullptr), CL_INVALID_EVENT);
  Event user = user_event();
  EXPECT_EQ(info<cl_command_queue>(user, CL_EVENT_COMMAND_QUEUE), nullptr);
  EXPECT_EQ(info<cl_command_type>(user, CL_EVENT_COMMAND_TYPE), cl_command_type{CL_COMMAND_USER});
  EXPECT_EQ(status_of(user), CL_SUBMITTED);
  EXPECT_EQ(set(user, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
}

TEST_F(EventTest, WaitChecksItsList) {
  Event user = user_event();
  EXPECT_EQ(set(user, CL_COMPLETE), CL_SUCCESS);
  const cl_event good = user.get();
  EXPECT_EQ(cl().clWaitForEvents(0, &good), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clWaitForEvents(1, nullptr), CL_INVALID_VALUE);
  const cl_event with_null[] = {good, nullptr};
  EXPECT_EQ(cl().clWaitForEvents(2, with_null), CL_INVALID_EVENT);
  cl_int error = 1;
  cl_context other = cl().clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_event foreign = cl().clCreateUserEvent(other, &error);
  const cl_event mixed[] = {good, foreign};
  EXPECT_EQ(cl().clWaitForEvents(2, mixed), CL_INVALID_CONTEXT);
  const std::size_t one = 1;
  Kernel add = kernel("add", &value, 1);
  EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, add.get(), 1, nullptr, &one, nullptr, 1, &foreign, nullptr),
            CL_INVALID_CONTEXT);
  EXPECT_EQ(cl().clReleaseEvent(foreign), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseContext(other), CL_SUCCESS);
}

// Queued while something before it is not met, then running, as polling alone sees it, then complete.
TEST_F(EventTest, StatusOnlyGoesForward) {
  Event held = user_event();
  gate.store(0);
  began.store(0);
  Event event = launch(queue, kernel("hold", static_cast<void*>(&gate)), {held.get()});
  Event behind = marker(queue);
  EXPECT_EQ(status_of(event), CL_QUEUED);
  EXPECT_EQ(status_of(behind), CL_QUEUED);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  cl_int last = CL_QUEUED;
  ASSERT_TRUE(becomes([&] {
    const cl_int now = status_of(event);
    EXPECT_LE(now, last);
    last = now;
    return now == CL_RUNNING;
  }));
  EXPECT_TRUE(becomes([&] { return began.load() == 1; }));
  EXPECT_GT(status_of(behind), CL_COMPLETE);
  gate.store(1);
  ASSERT_TRUE(becomes([&] {
    const cl_int now = status_of(event);
    EXPECT_LE(now, last);
    last = now;
    return now == CL_COMPLETE;
  }));
  EXPECT_TRUE(becomes([&] { return status_of(behind) == CL_COMPLETE; }));
}

TEST_F(EventTest, CallbacksTellEveryStageOnce) {
  Event held = user_event();
  Event event = launch(queue, kernel("add", &value, 1), {held.get()});
  EXPECT_EQ(watch(event, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(watch(event, CL_RUNNING), CL_SUCCESS);
  EXPECT_EQ(watch(event, CL_SUBMITTED), CL_SUCCESS);
  EXPECT_EQ(watch(event, CL_QUEUED), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clSetEventCallback(event.get(), CL_COMPLETE, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clSetEventCallback(nullptr, CL_COMPLETE, note, nullptr), CL_INVALID_EVENT);
  EXPECT_EQ(notes.count(), 0u);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  ASSERT_TRUE(becomes([&] { return notes.count() == 3; })) << "nobody waits for the event";
  EXPECT_EQ(notes.statuses(), (std::vector<cl_int>{CL_SUBMITTED, CL_RUNNING, CL_COMPLETE}));
  EXPECT_EQ(watch(event, CL_COMPLETE), CL_SUCCESS) << "of an event that is complete already";
  ASSERT_TRUE(becomes([&] { return notes.count() == 4; }));
  EXPECT_EQ(notes.calls.back(), std::pair(event.get(), CL_COMPLETE));
}

TEST_F(EventTest, CallbacksOfHostCommandsAndMarkers) {
  Event held = user_event();
  std::vector<char> from(100'000, 7);
  std::vector<char> to(from.size());
  cl_event handle = nullptr;
  const cl_event list = held.get();
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(queue, CL_FALSE, to.data(), from.data(), to.size(), 1, &list, &handle), CL_SUCCESS);
  Event copy(handle);
  Event last = marker(queue);
  for (const cl_int trigger : {CL_COMPLETE, CL_RUNNING, CL_SUBMITTED}) {
    EXPECT_EQ(watch(copy, trigger), CL_SUCCESS);
    EXPECT_EQ(watch(last, trigger), CL_SUCCESS);
  }
  usleep(20'000);  // the host worker has looked, found nothing to do yet, and sleeps
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  ASSERT_TRUE(becomes([&] { return notes.count() == 6; }));
  EXPECT_EQ(to.back(), 7);
  EXPECT_EQ(notes.statuses(),
            (std::vector<cl_int>{CL_SUBMITTED, CL_SUBMITTED, CL_RUNNING, CL_RUNNING, CL_COMPLETE, CL_COMPLETE}));
}

TEST_F(EventTest, CallbacksOfAFailureHaveItsStatus) {
  Event held = user_event();
  Event event = launch(queue, kernel("add", &value, 1), {held.get()});
  Event after = marker(queue, {event.get()});
  EXPECT_EQ(watch(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(watch(event, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(watch(after, CL_RUNNING), CL_SUCCESS);
  EXPECT_EQ(set(held, -77), CL_SUCCESS);
  ASSERT_TRUE(becomes([&] { return notes.count() == 3; }));
  EXPECT_EQ(notes.statuses(), (std::vector<cl_int>{CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST,
                                                   CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, -77}));
  EXPECT_EQ(wait(after), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  EXPECT_EQ(value, 0);
}

TEST_F(EventTest, CallbacksMayEnqueueAndSetUserEvents) {
  cl_command_queue other = make_queue();
  Chain chain{this, {queue, other}, {}, {}, kernel("add", &value, 1), {}};
  chain.link();
  ASSERT_TRUE(becomes([&] { return chain.length.load() == Chain::kLength; }));
  EXPECT_EQ(value, Chain::kLength);
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
}

TEST_F(EventTest, ASlowCallbackHoldsUpNoQueue) {
  struct Slow {
    std::atomic<bool> entered{false};
    std::atomic<bool> leave{false};
    std::atomic<bool> left{false};
  } slow;
  const auto callback = [](cl_event, cl_int, void* data) {
    auto& state = *static_cast<Slow*>(data);
    state.entered.store(true);
    while (!state.leave.load()) sched_yield();
    state.left.store(true);
  };
  Event first = launch(queue, kernel("add", &value, 1));
  EXPECT_EQ(cl().clSetEventCallback(first.get(), CL_COMPLETE, callback, &slow), CL_SUCCESS);
  ASSERT_TRUE(becomes([&] { return slow.entered.load(); }));
  Event held = user_event();
  cl_command_queue other = make_queue();
  Event there = launch(other, kernel("add", &value, 1), {held.get()});
  Event here = launch(queue, kernel("add", &value, 1), {there.get()});
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return status_of(here) == CL_COMPLETE; }));
  EXPECT_EQ(value, 3);
  slow.leave.store(true);
  ASSERT_TRUE(becomes([&] { return slow.left.load(); }));
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
}

TEST_F(EventTest, UserEventsAreSetOnceAndNotBackwards) {
  Event user = user_event();
  EXPECT_EQ(set(user, CL_SUBMITTED), CL_INVALID_VALUE);
  EXPECT_EQ(set(user, CL_RUNNING), CL_INVALID_VALUE);
  EXPECT_EQ(set(user, 17), CL_INVALID_VALUE);
  EXPECT_EQ(status_of(user), CL_SUBMITTED);
  EXPECT_EQ(set(user, -5), CL_SUCCESS);
  EXPECT_EQ(set(user, CL_COMPLETE), CL_INVALID_OPERATION);
  EXPECT_EQ(status_of(user), -5);
  EXPECT_EQ(wait(user), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  Event command = launch(queue, kernel("add", &value, 1));
  EXPECT_EQ(set(command, CL_COMPLETE), CL_INVALID_EVENT);
  EXPECT_EQ(cl().clSetUserEventStatus(nullptr, CL_COMPLETE), CL_INVALID_EVENT);
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateUserEvent(nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(wait(command), CL_SUCCESS);
}

// Who waits for what failed fails, of whatever kind it is; the rest of the queue runs.
TEST_F(EventTest, FailureSpreadsAlongWaitListsOnly) {
  Event held = user_event();
  cl_command_queue other = make_queue();
  Event kernel_event = launch(queue, kernel("add", &value, 1), {held.get()});
  Event bystander = launch(queue, kernel("add", &value, 10));
  int copy = -1;
  cl_event handle = nullptr;
  cl_event list = kernel_event.get();
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(other, CL_FALSE, &copy, &value, sizeof copy, 1, &list, &handle), CL_SUCCESS);
  Event copied(handle);
  Event third = launch(other, kernel("add", &value, 100), {copied.get()});
  Event marked = marker(other, {third.get(), bystander.get()});
  Event last = launch(other, kernel("add", &value, 1000), {bystander.get()});
  EXPECT_EQ(set(held, -1), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(other), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  for (const Event* failed : {&kernel_event, &copied, &third, &marked}) {
    EXPECT_EQ(status_of(*failed), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  }
  EXPECT_EQ(status_of(bystander), CL_COMPLETE);
  EXPECT_EQ(status_of(last), CL_COMPLETE);
  EXPECT_EQ(copy, -1);
  EXPECT_EQ(value, 1010);
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
}

// Undefined by the specification; what waits must end all the same.
TEST_F(EventTest, UserEventReleasedUnsetFailsItsDependants) {
  Event held = user_event();
  Event event = launch(queue, kernel("add", &value, 1), {held.get()});
  held.reset();
  EXPECT_EQ(wait(event), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  EXPECT_EQ(value, 0);
}

TEST_F(EventTest, ChainsAcrossQueues) {
  constexpr int kQueues = 3;
  constexpr int kRounds = 200;
  cl_command_queue queues[kQueues] = {queue, make_queue(), make_queue()};
  std::uint32_t expected = 0;
  Event last;
  for (int i = 0; i < kRounds; ++i) {
    std::vector<cl_event> waits;
    if (last) waits = {last.get()};
    last = launch(queues[i % kQueues], kernel("twice_plus", &value, i % 5), waits);
    expected = expected * 2 + static_cast<std::uint32_t>(i % 5);
  }
  EXPECT_EQ(wait(last), CL_SUCCESS);
  EXPECT_EQ(static_cast<std::uint32_t>(value), expected);
  EXPECT_EQ(cl().clReleaseCommandQueue(queues[1]), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseCommandQueue(queues[2]), CL_SUCCESS);
}

// Two queues that wait for each other in turn, and nobody calls anything meanwhile.
TEST_F(EventTest, DependenciesAreMetWithoutTheApplication) {
  cl_command_queue other = make_queue();
  Event held = user_event();
  Event here = launch(queue, kernel("add", &value, 1), {held.get()});
  Event there;
  for (int i = 0; i < 50; ++i) {
    there = launch(other, kernel("add", &value, 1), {here.get()});
    here = launch(queue, kernel("add", &value, 1), {there.get()});
  }
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_TRUE(becomes([&] { return status_of(here) == CL_COMPLETE; }));
  EXPECT_EQ(value, 101);
  EXPECT_EQ(cl().clReleaseCommandQueue(other), CL_SUCCESS);
}

TEST_F(EventTest, ListsMayNameEventsOfTheSameQueueAndTwice) {
  Event first = launch(queue, kernel("add", &value, 1));
  Event second = launch(queue, kernel("add", &value, 1), {first.get(), first.get()});
  Event third = marker(queue, {first.get(), second.get(), second.get()});
  EXPECT_EQ(wait(third), CL_SUCCESS);
  EXPECT_EQ(value, 2);
  // The list and the new event in one variable.
  cl_event same = third.release();
  const cl_event before = same;
  const std::size_t one = 1;
  Kernel add = kernel("add", &value, 1);
  ASSERT_EQ(cl().clEnqueueNDRangeKernel(queue, add.get(), 1, nullptr, &one, nullptr, 1, &same, &same), CL_SUCCESS);
  EXPECT_NE(same, before);
  EXPECT_EQ(cl().clWaitForEvents(1, &same), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseEvent(same), CL_SUCCESS);
  EXPECT_EQ(cl().clReleaseEvent(before), CL_SUCCESS);
  EXPECT_EQ(value, 3);
}

TEST_F(EventTest, ReleasedWhileQueuedItsCommandRunsAndItsCallbackIsCalled) {
  Event held = user_event();
  Event event = launch(queue, kernel("add", &value, 1), {held.get()});
  const cl_event handle = event.get();
  EXPECT_EQ(watch(event, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(cl().clRetainEvent(handle), CL_SUCCESS);
  EXPECT_EQ(info<cl_uint>(event, CL_EVENT_REFERENCE_COUNT), 2u);
  EXPECT_EQ(cl().clReleaseEvent(handle), CL_SUCCESS);
  event.reset();
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(value, 1);
  ASSERT_TRUE(becomes([&] { return notes.count() == 1; }));
  EXPECT_EQ(notes.calls[0], std::pair(handle, CL_COMPLETE));
  cl_int status = 0;
  EXPECT_TRUE(becomes([&] {
    return cl().clGetEventInfo(handle, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, nullptr) ==
           CL_INVALID_EVENT;
  })) << "valid until its callback has returned, and no longer";
  EXPECT_EQ(cl().clRetainEvent(handle), CL_INVALID_EVENT);
  EXPECT_EQ(cl().clReleaseEvent(handle), CL_INVALID_EVENT);
}

TEST_F(EventTest, SeveralThreadsWaitForOneEvent) {
  for (int round = 0; round < 20; ++round) {
    Event held = user_event();
    Event event = launch(queue, kernel("add", &value, 1), {held.get()});
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        EXPECT_EQ(wait(event), CL_SUCCESS);
        EXPECT_EQ(status_of(event), CL_COMPLETE);
      });
    }
    EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(value, round + 1);
  }
}

TEST_F(EventTest, ProfilingTimesGrowForEveryKindOfCommand) {
  cl_command_queue profiled = make_queue(CL_QUEUE_PROFILING_ENABLE);
  std::vector<char> from(100'000, 7);
  std::vector<char> to(from.size());
  Event held = user_event();
  Event gated = launch(profiled, kernel("add", &value, 1), {held.get()});
  cl_ulong time = 0;
  EXPECT_EQ(profile(gated, CL_PROFILING_COMMAND_QUEUED, &time), CL_PROFILING_INFO_NOT_AVAILABLE) << "not complete";
  cl_event handle = nullptr;
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(profiled, CL_FALSE, to.data(), from.data(), to.size(), 0, nullptr, &handle),
            CL_SUCCESS);
  Event copy(handle);
  ASSERT_EQ(cl().clEnqueueSVMMemcpy(profiled, CL_FALSE, to.data(), from.data(), 4, 0, nullptr, &handle), CL_SUCCESS);
  Event small_copy(handle);
  Event running = launch(profiled, kernel("add", &value, 1));
  Event mark = marker(profiled);
  const std::size_t none = 0;
  Kernel add = kernel("add", &value, 1);
  ASSERT_EQ(cl().clEnqueueNDRangeKernel(profiled, add.get(), 1, nullptr, &none, nullptr, 0, nullptr, &handle),
            CL_SUCCESS);
  Event empty(handle);
  EXPECT_EQ(set(held, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(cl().clFinish(profiled), CL_SUCCESS);
  for (const Event* event : {&gated, &copy, &small_copy, &running, &mark, &empty}) expect_growing_times(*event);
  // In order: none begins before the one before it has ended.
  cl_ulong end_before = 0;
  for (const Event* event : {&gated, &copy, &small_copy, &running, &mark, &empty}) {
    cl_ulong start = 0;
    EXPECT_EQ(profile(*event, CL_PROFILING_COMMAND_START, &start), CL_SUCCESS);
    EXPECT_GE(start, end_before);
    EXPECT_EQ(profile(*event, CL_PROFILING_COMMAND_END, &end_before), CL_SUCCESS);
  }
  EXPECT_EQ(profile(running, 0xbad, &time), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clGetEventProfilingInfo(running.get(), CL_PROFILING_COMMAND_END, 4, &time, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(cl().clReleaseCommandQueue(profiled), CL_SUCCESS);
}

TEST_F(EventTest, NoProfilingWhereThereIsNone) {
  cl_ulong time = 0;
  Event plain = launch(queue, kernel("add", &value, 1));
  EXPECT_EQ(wait(plain), CL_SUCCESS);
  EXPECT_EQ(profile(plain, CL_PROFILING_COMMAND_END, &time), CL_PROFILING_INFO_NOT_AVAILABLE);
  Event user = user_event();
  EXPECT_EQ(set(user, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(profile(user, CL_PROFILING_COMMAND_END, &time), CL_PROFILING_INFO_NOT_AVAILABLE);
  EXPECT_EQ(cl().clGetEventProfilingInfo(nullptr, CL_PROFILING_COMMAND_END, sizeof time, &time, nullptr),
            CL_INVALID_EVENT);
  cl_command_queue profiled = make_queue(CL_QUEUE_PROFILING_ENABLE);
  Event failed = launch(profiled, kernel("trap"));
  EXPECT_EQ(wait(failed), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  EXPECT_EQ(profile(failed, CL_PROFILING_COMMAND_END, &time), CL_PROFILING_INFO_NOT_AVAILABLE);
  EXPECT_EQ(cl().clReleaseCommandQueue(profiled), CL_SUCCESS);
}

}  // namespace
}  // namespace mirrorcl::icd::testing
