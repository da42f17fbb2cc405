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

// A device's memory is what the mirror has moved to it, and the SVM and buffer allocations that lie in it, which it
// never moves.
class OwnMemory final : public hms::DeviceMemory {
 public:
  // `node`: the NUMA node that the device's memory comes from; -1: any.
  OwnMemory(Runtime& runtime, std::uint32_t index, hms::Uid target, const hms::PolicyTable& policies, int node)
      : mirrored_(*runtime.mirror(), runtime.device(index), target),
        runtime_(runtime),
        policies_(policies),
        index_(index),
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

  // The first device tells of allocations on NUMA nodes too: of pages that only devices have touched the kernel does
  // not.
  void residency(hms::AddressRange range, std::span<hms::Uid> places) const noexcept override {
    mirrored_.residency(range, places);
    runtime_.allocator().visit_resident({range.start, range.size()}, [&](mirror::Range run, svm::Place place) {
      const hms::Uid uid = tells_of(place) ? uid_of(place) : hms::kNoUid;
      if (uid == hms::kNoUid) return;
      std::fill_n(places.begin() + static_cast<std::ptrdiff_t>((run.start - range.start) / kPageSize),
                  run.size / kPageSize, uid);
    });
  }

 private:
  bool tells_of(svm::Place place) const noexcept {
    return place == svm::memory_of_device(index_) || (index_ == 0 && place.kind == svm::Place::Kind::kNode);
  }

  // A policy of the program that has ended took the allocation's own with it: what the kernel keeps with shared memory
  // is the last one that was set. So for what is part of `range` in the allocation around `address`.
  void return_to_node(std::uint64_t address, hms::AddressRange range) const noexcept {
    const auto allocation = runtime_.allocator().find(reinterpret_cast<const void*>(address));
    if (!allocation || !tells_of(allocation->place)) return;
    const bool on_node = allocation->place.kind == svm::Place::Kind::kNode;
    const int nodes[] = {on_node ? allocation->place.index : node_};
    if (nodes[0] < 0) return;
    const auto start = reinterpret_cast<std::uint64_t>(allocation->start);
    hms::AddressRange part{std::max(range.start, page_down(start)),
                           std::min(range.end, page_up(start + allocation->size))};
    const hms::PolicyReader policies(policies_);
    const auto [where, policy] = policies.find(address);
    part = {std::max(part.start, where.start), std::min(part.end, where.end)};
    if (!policy.empty() || part.start >= part.end) return;
    const auto mode = on_node ? hms::HostPolicy::Mode::kBind : hms::HostPolicy::Mode::kPrefer;
    (void)hms::kernel_host_memory().set_policy(part, {mode, nodes});
  }

  hms::Uid uid_of(svm::Place place) const noexcept {
    if (place == svm::memory_of_device(index_)) return target();
    const MemoryPlacement* placement = MemoryPlacement::if_joined();
    return placement == nullptr ? hms::kNoUid : placement->allocation_places().target_of(place);
  }

  mirror::MirroredMemory mirrored_;
  Runtime& runtime_;
  const hms::PolicyTable& policies_;
  std::uint32_t index_;
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

// Once the devices have joined.
std::atomic<MemoryPlacement*> g_joined{nullptr};

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
  // Stays, whatever comes: the binder may know some of its devices even if others cannot join.
  auto* placement = new MemoryPlacement(binder);
  if (auto done = placement->join_devices(**runtime)) {
    g_joined.store(placement, std::memory_order_release);
    joined() = placement;
  } else {
    joined() = tl::unexpected(done.error());
  }
}

Result<void> MemoryPlacement::join_devices(Runtime& runtime) {
  for (std::uint32_t i = 0; i < runtime.device_count(); ++i) {
    if (auto done = join_device(runtime, i); !done) return done;
  }
  if (runtime.mirror() != nullptr) publish(runtime);
  return find_allocation_places();
}

Result<void> MemoryPlacement::find_allocation_places() {
  std::vector<svm::AllocationPlaces::Device> devices;
  devices.reserve(devices_.size());
  for (const Device& device : devices_) devices.push_back({device.uids.initiator, device.uids.target});
  auto places = svm::AllocationPlaces::create(*binder_.topology(), devices);
  if (!places) return tl::unexpected(places.error());
  allocation_places_ = std::move(*places);
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
  if (mirrored) {
    added.memory =
        std::make_unique<OwnMemory>(runtime, index, added.uids.target, binder_.policies(), placed ? device.node : -1);
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

MemoryPlacement::DeviceFigures MemoryPlacement::figures(std::uint32_t index) const {
  const hms::ProcessDeviceUids& uids = devices_[index].uids;
  const auto topology = binder_.topology();
  std::optional<hms::Candidate> memory;
  if (uids.target != hms::kNoUid) {
    memory = hms::reach(*topology, uids.initiator, uids.target);
  } else if (const auto best = hms::best_targets(*topology, {.initiators = {uids.initiator}}); best && !best->empty()) {
    memory = best->front();
  }
  if (!memory) return {uids.initiator, hms::kNoUid, -1, {}, {}};
  return {uids.initiator, memory->target, topology->initiator(uids.initiator)->node, memory->bandwidth,
          memory->latency};
}

MemoryPlacement* MemoryPlacement::if_joined() noexcept {
  return g_joined.load(std::memory_order_acquire);
}

hms::Uid MemoryPlacement::allocated_target(const void* address) {
  Runtime* runtime = Runtime::if_started();
  const auto found = runtime == nullptr ? std::nullopt : runtime->allocator().find(address);
  if (!found) return hms::kNoUid;
  const auto placement = get();
  return placement ? (*placement)->allocation_places().target_of(found->place) : hms::kNoUid;
}

void MemoryPlacement::free(Runtime& runtime, void* pointer) {
  MemoryPlacement* placement = if_joined();
  if (const auto found = runtime.allocator().find(pointer);
      found && placement != nullptr && placement->binder().policies().range_count() != 0) {
    // Whole pages: others may have allocations in the first and the last.
    const auto start = reinterpret_cast<std::uint64_t>(found->start);
    std::uint32_t atom = HBIND_ATOM(HBIND_CMD_DEFAULT, 0);
    hbind_params params{
        page_up(start), page_down(start + found->size), 0, 1, 0, reinterpret_cast<std::uint64_t>(&atom)};
    if (params.start < params.end) (void)placement->binder().hbind(&params);
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
