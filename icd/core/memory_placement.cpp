// SPDX-License-Identifier: Apache-2.0
#include "icd/core/memory_placement.h"

#include <algorithm>
#include <mutex>
#include <string>

#include "hms/json_file.h"
#include "base/log.h"
#include "hms/query.h"
#include "mirror/device_memory.h"

namespace mirrorcl::icd {
namespace {

// The first device's memory is what the mirror has moved to it, and all SVM and buffer allocations, which it never
// moves.
class FirstDeviceMemory final : public hms::DeviceMemory {
 public:
  FirstDeviceMemory(Runtime& runtime, hms::Uid target)
      : mirrored_(*runtime.mirror(), runtime.device(0), target), allocator_(runtime.allocator()) {}

  hms::Uid target() const noexcept override { return mirrored_.target(); }
  std::uint64_t free_bytes() const noexcept override { return mirrored_.free_bytes(); }
  int move_in(hms::AddressRange range, hms::Untouched untouched) noexcept override {
    return mirrored_.move_in(range, untouched);
  }
  int move_out(hms::AddressRange range) noexcept override { return mirrored_.move_out(range); }
  void settle() noexcept override { mirrored_.settle(); }
  void policy_changed(hms::AddressRange range) noexcept override { mirrored_.policy_changed(range); }

  void residency(hms::AddressRange range, std::span<hms::Uid> places) const noexcept override {
    mirrored_.residency(range, places);
    for (std::uint64_t address = range.start; address < range.end;) {
      const auto allocation = allocator_.find(reinterpret_cast<const void*>(address));
      std::uint64_t end = address + kPageSize;
      if (allocation) {
        const std::uint64_t last = reinterpret_cast<std::uint64_t>(allocation->start) + allocation->size;
        end = std::max(end, std::min(range.end, (last + kPageSize - 1) & ~(kPageSize - 1)));
      }
      for (; address < end; address += kPageSize) {
        // Pages of it that nobody has touched are nowhere yet.
        hms::Uid& place = places[(address - range.start) / kPageSize];
        if (allocation && place != hms::kNoUid) place = target();
      }
    }
  }

 private:
  mirror::MirroredMemory mirrored_;
  svm::Allocator& allocator_;
};

// The node that is best for all CPUs together; -1: none.
int best_node(const hms::Topology& topology) {
  hms::Query query{.initiators = {}, .coherent = true};
  for (const hms::Initiator& initiator : topology.initiators()) {
    if (initiator.kind == hms::InitiatorKind::kCpu) query.initiators.push_back(initiator.uid);
  }
  const auto best = hms::best_targets(topology, query);
  if (!best) return -1;
  for (const hms::Candidate& candidate : *best) {
    const hms::Target* target = topology.target(candidate.target);
    if (target->is_host() && hms::kernel_host_memory().may_use(target->node)) return target->node;
  }
  return -1;
}

}  // namespace

Result<std::unique_ptr<MemoryPlacement>> MemoryPlacement::join(Runtime& runtime) {
  const auto binder = hms::process_binder();
  if (!binder) return tl::unexpected(binder.error());
  std::unique_ptr<MemoryPlacement> placement(new MemoryPlacement(**binder));
  for (std::uint32_t i = 0; i < runtime.device_count(); ++i) {
    if (auto joined = placement->join_device(runtime, i); !joined) return tl::unexpected(joined.error());
  }
  if (runtime.mirror() != nullptr) placement->publish(runtime);
  return placement;
}

Result<void> MemoryPlacement::join_device(Runtime& runtime, std::uint32_t index) {
  const auto before = binder_.topology();
  const bool mirrored = runtime.mirror() != nullptr;
  const mirror::DeviceCapabilities capabilities = runtime.device(index).capabilities();
  hms::ProcessDevice device;
  device.name = "mirrorcl:" + std::to_string(index);
  device.node = best_node(*before);
  device.memory_size = mirrored ? capabilities.memory_size : 0;
  device.memory_cpu_mappable = capabilities.memory_cpu_mappable;
  device.native_atomics = capabilities.native_atomics;
  Device joined;
  auto topology = hms::with_device(*before, device, &joined.uids);
  if (!topology) return tl::unexpected(topology.error());
  binder_.set_topology(std::make_shared<const hms::Topology>(std::move(*topology)));
  if (mirrored && index == 0) {
    joined.memory = std::make_unique<FirstDeviceMemory>(runtime, joined.uids.target);
  } else if (mirrored) {
    joined.memory =
        std::make_unique<mirror::MirroredMemory>(*runtime.mirror(), runtime.device(index), joined.uids.target);
  }
  if (joined.memory) {
    binder_.add_device(*joined.memory);
    runtime.mirror()->publish_device(runtime.device(index), device.name, joined.uids.initiator, joined.uids.target);
  }
  devices_.push_back(std::move(joined));
  return {};
}

void MemoryPlacement::publish(Runtime& runtime) {
  const auto topology = binder_.topology();
  runtime.mirror()->publish_topology(hms::to_json(*topology));
  std::vector<mirror::Mirror::DeviceUids> uids;
  for (std::uint32_t i = 0; i < runtime.device_count(); ++i) {
    uids.push_back({&runtime.device(i), devices_[i].uids.initiator, devices_[i].uids.target});
  }
  if (auto placed = runtime.mirror()->place_by(*topology, uids); !placed) {
    log_warning("pages are placed without regard to the machine's topology: {}", placed.error().message);
  }
}

Result<MemoryPlacement*> MemoryPlacement::get(Runtime& runtime) {
  // Leaked, as the runtime is.
  static auto* mutex = new std::mutex;
  static MemoryPlacement* joined = nullptr;
  std::scoped_lock lock(*mutex);
  if (joined == nullptr) {
    auto placement = join(runtime);
    if (!placement) return tl::unexpected(placement.error());
    joined = placement->release();
  }
  return joined;
}

}  // namespace mirrorcl::icd
