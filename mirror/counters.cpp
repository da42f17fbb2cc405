// SPDX-License-Identifier: Apache-2.0
#include "mirror/counters.h"

#include <algorithm>
#include <array>

namespace mirrorcl::mirror {
namespace {

// By position in Statistics.
constexpr auto kNames = [] {
  std::array<const char*, Counters::kCount> names{};
#define NAME(member) names[offsetof(Statistics, member) / sizeof(std::uint64_t)] = #member
  NAME(device_faults);
  NAME(device_faults_failed);
  NAME(cpu_faults);
  NAME(replays);
  NAME(pages_to_device);
  NAME(bytes_to_device);
  NAME(pages_zero_filled);
  NAME(pages_to_host);
  NAME(bytes_to_host);
  NAME(pages_duplicated);
  NAME(pages_between_devices);
  NAME(pages_brought_ahead);
  NAME(bytes_brought_for_launches);
  NAME(evictions);
  NAME(coherent_upgrades);
  NAME(coherent_pages_shared);
  NAME(snapshot_pages);
  NAME(pages_made_anonymous);
  NAME(shared_file_mappings);
  NAME(events_unmap);
  NAME(events_remap);
  NAME(events_remove);
  NAME(retries);
  NAME(device_losses);
  NAME(locks_left);
#undef NAME
  return names;
}();
static_assert(std::ranges::find(kNames, nullptr) == kNames.end(), "every counter has a name here");

constexpr auto kDeviceNames = [] {
  std::array<const char*, Counters::kDeviceCount> names{};
#define NAME(member) names[offsetof(DeviceStatistics, member) / sizeof(std::uint64_t)] = #member
  NAME(faults);
  NAME(faults_failed);
  NAME(pages_in);
  NAME(pages_home);
  NAME(pages_from_devices);
  NAME(coherent_upgrades);
  NAME(evictions);
  NAME(losses);
#undef NAME
  return names;
}();
static_assert(std::ranges::find(kDeviceNames, nullptr) == kDeviceNames.end(), "every counter has a name here");

}  // namespace

std::string Counters::name(std::size_t i) {
  if (i < kCount) return kNames[i];
  const std::size_t device = (i - kCount) / kDeviceCount;
  return "device" + std::to_string(device) + "_" + kDeviceNames[(i - kCount) % kDeviceCount];
}

}  // namespace mirrorcl::mirror
