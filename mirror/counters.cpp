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

}  // namespace

const char* Counters::name(std::size_t i) noexcept {
  return kNames[i];
}

}  // namespace mirrorcl::mirror
