// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/fork_handlers.h"

#include <pthread.h>

#include <mutex>

#include "device/cpu/cpu_device_impl.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

// Held over a fork, so that the device neither appears nor goes in the middle of one.
std::mutex g_mutex;
CpuDeviceImpl* g_device = nullptr;

void prepare() {
  g_mutex.lock();
  if (g_device != nullptr) g_device->before_fork();
}

void in_parent() {
  if (g_device != nullptr) g_device->after_fork_in_parent();
  g_mutex.unlock();
}

void in_child() {
  if (g_device != nullptr) g_device->after_fork_in_child();
  detach_window_after_fork();
  g_mutex.unlock();
}

}  // namespace

void register_fork_handlers() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(prepare, in_parent, in_child); });
}

void set_fork_target(CpuDeviceImpl* device) {
  std::scoped_lock lock(g_mutex);
  g_device = device;
}

}  // namespace mirrorcl::device
