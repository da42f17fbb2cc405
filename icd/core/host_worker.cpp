// SPDX-License-Identifier: Apache-2.0
#include "icd/core/host_worker.h"

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

#include "device/cpu/cpu_device.h"
#include "icd/core/command_queue.h"

namespace mirrorcl::icd {
namespace {

// A detached thread in which no signal of the process is ever handled.
template <typename Body>
void start_thread(const char* name, Body body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  thread.detach();
}

}  // namespace

void HostWorker::watch(Ref<_cl_command_queue> queue) {
  {
    ScopedLock lock(mutex_);
    arrived_.push_back(std::move(queue));
    if (!started_) {
      started_ = true;
      start_thread("mirrorcl-host", [this] { run(); });
    }
  }
  wake();
}

void HostWorker::wake() noexcept {
  device_->wake_completions();
}

void HostWorker::run() {
  std::vector<Ref<_cl_command_queue>> watched;
  for (;;) {
    // Read before looking, so that nothing completed since is missed.
    const std::uint32_t seen = device_->completions();
    {
      ScopedLock lock(mutex_);
      for (auto& queue : arrived_) watched.push_back(std::move(queue));
      arrived_.clear();
    }
    std::erase_if(watched, [](const Ref<_cl_command_queue>& queue) { return !queue->advance_as_worker(); });
    device_->wait_completions(seen);
  }
}

void TaskThread::post(std::function<void()> task) {
  {
    ScopedLock lock(mutex_);
    tasks_.push_back(std::move(task));
    if (!started_) {
      started_ = true;
      start_thread(name_, [this] { run(); });
    }
  }
  arrived_.notify_one();
}

std::function<void()> TaskThread::take() {
  ScopedLock lock(mutex_);
  while (tasks_.empty()) arrived_.wait(mutex_);
  auto task = std::move(tasks_.front());
  tasks_.pop_front();
  return task;
}

void TaskThread::run() {
  for (;;) take()();
}

// Never destroyed: the threads may run until the process is gone.
TaskThread& callback_thread() noexcept {
  static auto* thread = new TaskThread("mirrorcl-call");
  return *thread;
}

TaskThread& build_thread() noexcept {
  static auto* thread = new TaskThread("mirrorcl-build");
  return *thread;
}

}  // namespace mirrorcl::icd
