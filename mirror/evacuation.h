// SPDX-License-Identifier: Apache-2.0
// A test mode: takes the process's memory away from it again and again. A thread sweeps over all mappings and moves
// every page that can move to a device: heaps, stacks with the control blocks of their threads, .bss, the driver's own
// objects in the heap. Whatever the process does then must bring back what it touches, whoever touches it: its threads,
// a system call, a signal frame, a futex.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "mirror/mirror.h"

namespace mirrorcl::mirror {

class Evacuation {
 public:
  // Sweeps until it is destroyed. `mirror` must live longer, and `devices`, at least one, stay attached to it.
  // Each block goes to another of them in turn.
  Evacuation(Mirror& mirror, std::span<DeviceOperations* const> devices);
  ~Evacuation();
  Evacuation(const Evacuation&) = delete;
  Evacuation& operator=(const Evacuation&) = delete;

  std::uint64_t sweeps() const { return sweeps_.load(); }

 private:
  void run();
  void sweep();

  Mirror& mirror_;
  std::vector<DeviceOperations*> devices_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> sweeps_{0};
  std::thread thread_;
};

}  // namespace mirrorcl::mirror
