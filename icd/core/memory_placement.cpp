// SPDX-License-Identifier: Apache-2.0
#include "icd/core/memory_placement.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/log.h"
#include "base/options.h"
#include "device/cpu/memory_node.h"
#include "device/window.h"
#include "hms/hbind.h"
#include "hms/json_file.h"
#include "hms/query.h"
#include "mirror/device_memory.h"

namespace mirrorcl::icd {
namespace {

std::uint64_t page_down(std::uint64_t address) {
  return address & ~(hms::DeviceMemory::kPageSize - 1);
}
std::uint64_t page_up(std::uint64_t address) {
  return page_down(address + hms::DeviceMemory::kPageSize - 1);
}

// The first device's memory is what the mirror has moved to it, and all SVM and buffer allocations, which it never
// moves.
class FirstDeviceMemory final : public hms::DeviceMemory {
 public:
  // `node`: the NUMA node that the device's memory comes from; -1: any.
  FirstDeviceMemory(Runtime& runtime, hms::Uid target, const hms::PolicyTable& policies, int node)
      : mirrored_(*runtime.mirror(), runtime.device(0), target),
        allocator_(runtime.allocator()),
        policies_(policies),
        node_(node) {}

  hms::Uid target() const noexcept override { return mirrored_.target(); }
  std::uint64_t free_bytes() const noexcept override { return mirrored_.free_bytes(); }
  int move_in(hms::AddressRange range, hms::Untouched untouched) noexcept override {
    return mirrored_.move_in(range, untouched);
  }
  int move_out(hms::AddressRange range) noexcept override { return mirrored_.move_out(range); }
  void settle() noexcept override { mirrored_.settle(); }
  void policy_changed(hms::AddressRange range) noexcept override {
    mirrored_.policy_changed(range);
    // Ranges are mostly an allocation or part of one.
    for (const std::uint64_t address : {range.start, range.end - 1}) return_to_node(address, range);
  }

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
  // A policy of the program that has ended took the device's own with it: what the kernel keeps with device memory is
  // the last one that was set. So for what is part of `range` in the allocation around `address`.
  void return_to_node(std::uint64_t address, hms::AddressRange range) const noexcept {
    if (node_ < 0) return;
    const auto allocation = allocator_.find(reinterpret_cast<const void*>(address));
    if (!allocation) return;
    const auto start = reinterpret_cast<std::uint64_t>(allocation->start);
    hms::AddressRange part{std::max(range.start, page_down(start)),
                           std::min(range.end, page_up(start + allocation->size))};
    const hms::PolicyReader policies(policies_);
    const auto [where, policy] = policies.find(address);
    part = {std::max(part.start, where.start), std::min(part.end, where.end)};
    if (!policy.empty() || part.start >= part.end) return;
    const int nodes[] = {node_};
    (void)hms::kernel_host_memory().set_policy(part, {hms::HostPolicy::Mode::kPrefer, nodes});
  }

  mirror::MirroredMemory mirrored_;
  svm::Allocator& allocator_;
  const hms::PolicyTable& policies_;
  int node_;
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

std::size_t usable_nodes(const hms::Topology& topology) {
  return static_cast<std::size_t>(std::ranges::count_if(topology.targets(), [](const hms::Target& target) {
    return target.is_host() && target.online && hms::kernel_host_memory().may_use(target.node);
  }));
}

// The node that device memory comes from, or whose figures it has at least; -1: none.
int memory_node(const hms::Topology& topology) {
  const int wanted = options().device_memory_node;
  const bool usable =
      wanted >= 0 && topology.target_of_node(wanted) != nullptr && hms::kernel_host_memory().may_use(wanted);
  if (wanted >= 0 && !usable) log_warning("NUMA node {} cannot be used for device memory: see 'hms show'", wanted);
  return usable ? wanted : best_node(topology);
}

// Has the kernel take the device's memory from `node`, if that makes a difference. True: it does.
bool place_memory(device::CpuDevice& device, const hms::Topology& topology, int node) {
  const int wanted = options().device_memory_node;
  if (node < 0 || wanted == Options::kAnyNode) return false;
  if (wanted == Options::kBestNode && usable_nodes(topology) < 2) return false;
  const auto placed = device::prefer_node(device.memory_fd(), window::kDeviceMemoryFileSize, node);
  if (!placed) {
    log_warning("device memory comes from any NUMA node: {}", placed.error().message);
    return false;
  }
  log_info("device memory comes from NUMA node {}", node);
  return true;
}

// Once the devices have joined it.
std::atomic<hms::Binder*> g_binder{nullptr};

// Leaked, as the runtime is.
Result<MemoryPlacement*>& joined() {
  static auto* result = new Result<MemoryPlacement*>(fail(ErrorCode::kNotSupported, "the device could not be started"));
  return *result;
}

}  // namespace

void MemoryPlacement::announce() {
  hms::on_process_binder(&MemoryPlacement::join);
}

void MemoryPlacement::join(hms::Binder& binder) {
  const auto runtime = Runtime::get();
  if (!runtime) return;
  std::unique_ptr<MemoryPlacement> placement(new MemoryPlacement(binder));
  if (auto done = placement->join_devices(**runtime)) {
    g_binder.store(&binder, std::memory_order_release);
    joined() = placement.release();
  } else {
    joined() = tl::unexpected(done.error());
    placement.release();  // the binder may know some of its devices
  }
}

Result<void> MemoryPlacement::join_devices(Runtime& runtime) {
  for (std::uint32_t i = 0; i < runtime.device_count(); ++i) {
    if (auto done = join_device(runtime, i); !done) return done;
  }
  if (runtime.mirror() != nullptr) publish(runtime);
  return {};
}

Result<void> MemoryPlacement::join_device(Runtime& runtime, std::uint32_t index) {
  const auto before = binder_.topology();
  const bool mirrored = runtime.mirror() != nullptr;
  const mirror::DeviceCapabilities capabilities = runtime.device(index).capabilities();
  hms::ProcessDevice device;
  device.name = "mirrorcl:" + std::to_string(index);
  device.node = memory_node(*before);
  device.memory_size = mirrored ? capabilities.memory_size : 0;
  device.memory_cpu_mappable = capabilities.memory_cpu_mappable;
  device.native_atomics = capabilities.native_atomics;
  const bool placed = mirrored && place_memory(runtime.device(index), *before, device.node);
  Device added;
  auto topology = hms::with_device(*before, device, &added.uids);
  if (!topology) return tl::unexpected(topology.error());
  binder_.set_topology(std::make_shared<const hms::Topology>(std::move(*topology)));
  if (mirrored && index == 0) {
    added.memory =
        std::make_unique<FirstDeviceMemory>(runtime, added.uids.target, binder_.policies(), placed ? device.node : -1);
  } else if (mirrored) {
    added.memory =
        std::make_unique<mirror::MirroredMemory>(*runtime.mirror(), runtime.device(index), added.uids.target);
  }
  if (added.memory) {
    binder_.add_device(*added.memory);
    runtime.mirror()->publish_device(runtime.device(index), device.name, added.uids.initiator, added.uids.target);
  }
  devices_.push_back(std::move(added));
  return {};
}

void MemoryPlacement::publish(Runtime& runtime) {
  // The mirror's pinned threads read the policies.
  const hms::AddressRange policies = hms::process_policy_memory();
  runtime.mirror()->never_migrate({policies.start, policies.size()});
  runtime.mirror()->follow_policies(&binder_.policies());
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

Result<MemoryPlacement*> MemoryPlacement::get() {
  if (const auto binder = hms::process_binder(); !binder) return tl::unexpected(binder.error());
  return joined();
}

void MemoryPlacement::free(Runtime& runtime, void* pointer) {
  hms::Binder* binder = g_binder.load(std::memory_order_acquire);
  if (const auto found = runtime.allocator().find(pointer);
      found && binder != nullptr && binder->policies().range_count() != 0) {
    // Whole pages: others may have allocations in the first and the last.
    const auto start = reinterpret_cast<std::uint64_t>(found->start);
    std::uint32_t atom = HBIND_ATOM(HBIND_CMD_DEFAULT, 0);
    hbind_params params{
        page_up(start), page_down(start + found->size), 0, 1, 0, reinterpret_cast<std::uint64_t>(&atom)};
    if (params.start < params.end) (void)binder->hbind(&params);
  }
  runtime.allocator().free(pointer);
}

void MemoryPlacement::join_in_background() {
  // The application's signals are not this thread's business.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  static auto* thread = new std::thread([] {
    if (auto placement = get(); !placement) {
      log_info("memory is placed without the topology: {}", placement.error().message);
    }
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  // It must be gone before the destructors of the libraries that it uses run. The child of a fork has no such thread.
  static const pid_t owner = getpid();
  std::atexit([] {
    if (getpid() == owner) thread->join();
  });
}

}  // namespace mirrorcl::icd
