// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/fork_handlers.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "base/mutex.h"
#include "device/cpu/cpu_device_impl.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

// Held over a fork, so that no device appears or goes in the middle of one.
Mutex g_mutex;
std::array<CpuDeviceImpl*, window::kMaxDevices> g_devices MIRRORCL_GUARDED_BY(g_mutex){};  // null: none

template <typename Function>
void for_each_device(Function function) MIRRORCL_REQUIRES(g_mutex) {
  for (CpuDeviceImpl* device : g_devices) {
    if (device != nullptr) function(*device);
  }
}

// What the devices share; null without devices.
WindowMemory* window_memory() MIRRORCL_REQUIRES(g_mutex) {
  WindowMemory* memory = nullptr;
  for_each_device([&](CpuDeviceImpl& device) { memory = &device.window_memory(); });
  return memory;
}

// What is taken before a fork is let go after it.
void prepare() MIRRORCL_NO_THREAD_ANALYSIS {
  g_mutex.lock();
  for_each_device([](CpuDeviceImpl& device) { device.before_fork(); });
  if (WindowMemory* memory = window_memory()) memory->lock();
}

void in_parent() MIRRORCL_NO_THREAD_ANALYSIS {
  if (WindowMemory* memory = window_memory()) memory->unlock();
  for_each_device([](CpuDeviceImpl& device) { device.after_fork_in_parent(); });
  g_mutex.unlock();
}

void in_child() MIRRORCL_NO_THREAD_ANALYSIS {
  if (WindowMemory* memory = window_memory()) memory->unlock();
  for_each_device([](CpuDeviceImpl& device) { device.after_fork_in_child(); });
  detach_window_after_fork();
  g_mutex.unlock();
}

}  // namespace

void register_fork_handlers() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(prepare, in_parent, in_child); });
}

void add_fork_target(CpuDeviceImpl& device) {
  ScopedLock lock(g_mutex);
  *std::find(g_devices.begin(), g_devices.end(), nullptr) = &device;
}

void remove_fork_target(CpuDeviceImpl& device) noexcept {
  ScopedLock lock(g_mutex);
  std::replace(g_devices.begin(), g_devices.end(), &device, static_cast<CpuDeviceImpl*>(nullptr));
}

}  // namespace mirrorcl::device
