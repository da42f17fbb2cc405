// SPDX-License-Identifier: Apache-2.0
#include "mirror/evacuation.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <string>

#include "device/window.h"
#include "mirror/address_space.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

// Beyond it a mapping is a reservation (an allocator's, a sanitizer's), and walking it would take the time of all
// others.
constexpr std::uint64_t kLargestMapping = std::uint64_t{16} << 30;
// Pages that have become coherent are brought home in every so many sweeps, or they would stay so for good.
constexpr std::uint64_t kSweepsUntilHome = 8;

}  // namespace

Evacuation::Evacuation(Mirror& mirror, std::span<DeviceOperations* const> devices)
    : mirror_(mirror), devices_(devices.begin(), devices.end()) {
  // The application's signals are not this thread's business.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Evacuation::~Evacuation() {
  stop_ = true;
  thread_.join();
}

void Evacuation::run() {
  while (!stop_) {
    sweep();
    ++sweeps_;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Evacuation::sweep() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; !stop_ && std::getline(maps, line);) {
    MappingInfo mapping;
    if (!parse_maps_line(line, &mapping) || mapping.range.size > kLargestMapping) continue;
    if (window::kWindow.contains(mapping.range.start) || !mapping.readable() || !mapping.writable()) continue;
    // Coherent pages are shared mappings of the device's memory; others of those are left alone.
    if (mapping.shared) {
      if (sweeps_ % kSweepsUntilHome == 0) mirror_.bring_home(mapping.range);
      continue;
    }
    if (!mapping.migratable()) continue;
    // Block by block, so that faults are served in between.
    for (std::uint64_t start = mapping.range.start; start < mapping.range.end() && !stop_;) {
      const std::uint64_t end = std::min(mapping.range.end(), block_down(start) + kBlockSize);
      DeviceOperations& device = *devices_[(start / kBlockSize + sweeps_ / kSweepsUntilHome) % devices_.size()];
      (void)mirror_.bring_in(device, {start, end - start}, Untouched::kSkip);
      start = end;
    }
  }
}

}  // namespace mirrorcl::mirror
