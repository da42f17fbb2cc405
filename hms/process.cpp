// SPDX-License-Identifier: Apache-2.0
#include "hms/process.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "base/log.h"
#include "hms/load.h"
#include "hms/query.h"

namespace mirrorcl::hms {
namespace {

// Holds the table with PolicyLimits' defaults; what is not used costs nothing.
constexpr std::size_t kPolicyMemory = std::size_t{16} << 20;

struct Process {
  // Held while the binder is made and joined.
  std::recursive_mutex mutex;
  std::atomic<bool> ready{false};  // the binder is there, and everybody has joined
  std::optional<Result<Binder*>> result;
  std::vector<void (*)(Binder&)> joiners;  // that have not joined yet
  bool joining = false;
  void* memory = nullptr;
  std::unique_ptr<std::pmr::monotonic_buffer_resource> resource;
  PolicyTable::Pointer policies{nullptr, {nullptr}};
  std::unique_ptr<Binder> binder;
};

// Never destroyed: threads may call hbind() while the process ends.
Process& process() {
  static Process* instance = new Process;
  return *instance;
}

void before_fork() {
  process().mutex.lock();
  if (process().binder != nullptr) process().binder->before_fork();
}
void after_fork_in_parent() {
  if (process().binder != nullptr) process().binder->after_fork_in_parent();
  process().mutex.unlock();
}
void after_fork_in_child() {
  if (process().binder != nullptr) process().binder->after_fork_in_child();
  // Locked by a thread whose number is another here.
  new (&process().mutex) std::recursive_mutex;
}

Result<Binder*> start() {
  init_log();  // this library has a copy of its own
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  auto topology = load("");
  if (!topology) return tl::unexpected<Error>(topology.error());
  Process& p = process();
  void* memory =
      mmap(nullptr, kPolicyMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return fail(ErrorCode::kOutOfHostMemory, "no memory for the table of range policies");
  p.memory = memory;
  p.resource =
      std::make_unique<std::pmr::monotonic_buffer_resource>(memory, kPolicyMemory, std::pmr::null_memory_resource());
  auto policies = PolicyTable::create(p.resource.get());
  if (!policies) return tl::unexpected<Error>(policies.error());
  p.policies = std::move(*policies);
  p.binder = std::make_unique<Binder>(std::make_shared<const Topology>(std::move(*topology)), *p.policies,
                                      kernel_host_memory());
  return p.binder.get();
}

// Locking: the mutex.
void let_join(Binder& binder) {
  Process& p = process();
  p.joining = true;
  while (!p.joiners.empty()) {
    auto* join = p.joiners.back();
    p.joiners.pop_back();
    join(binder);
  }
  p.joining = false;
  p.ready.store(true, std::memory_order_release);
}

// How the node's own CPUs reach it; nothing if it has none.
std::optional<Candidate> own_figures(const Topology& topology, const Target& node) {
  for (const Initiator& initiator : topology.initiators()) {
    if (initiator.kind != InitiatorKind::kCpu || !initiator.cpus.intersects(node.cpus)) continue;
    if (auto candidate = reach(topology, initiator.uid, node.uid)) return candidate;
  }
  for (const Initiator& initiator : topology.initiators()) {
    if (initiator.kind != InitiatorKind::kCpu) continue;
    if (auto candidate = reach(topology, initiator.uid, node.uid)) return candidate;
  }
  return std::nullopt;
}

}  // namespace

Result<Binder*> process_binder() {
  Process& p = process();
  if (p.ready.load(std::memory_order_acquire)) return *p.result;
  std::scoped_lock lock(p.mutex);
  if (!p.result) p.result.emplace(start());
  if (*p.result && !p.joining) let_join(***p.result);
  return *p.result;
}

void on_process_binder(void (*join)(Binder& binder)) {
  Process& p = process();
  std::scoped_lock lock(p.mutex);
  p.joiners.push_back(join);
  p.ready.store(false, std::memory_order_release);
}

AddressRange process_policy_memory() noexcept {
  auto start = reinterpret_cast<std::uint64_t>(process().memory);
  return {start, start == 0 ? 0 : start + kPolicyMemory};
}

Result<Topology> with_device(const Topology& topology, const ProcessDevice& device, ProcessDeviceUids* uids) {
  Topology result = topology;
  const Target* node = device.node >= 0 ? result.target_of_node(device.node) : nullptr;
  if (node == nullptr) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the topology has no NUMA node {} for device {}", device.node, device.name));
  }
  Uid node_uid = node->uid;
  Properties figures;
  if (auto own = own_figures(result, *node)) {
    if (own->bandwidth) figures.set(Property::kBandwidth, *own->bandwidth);
    if (own->latency) figures.set(Property::kLatency, *own->latency);
  }
  std::vector<Uid> sharers;
  for (const Initiator& initiator : result.initiators()) {
    if (initiator.kind == InitiatorKind::kCpu) sharers.push_back(initiator.uid);
  }

  Initiator initiator;
  initiator.name = device.name;
  initiator.kind = InitiatorKind::kDevice;
  initiator.device = device.name;
  initiator.node = device.node;
  initiator.package = node->package;
  initiator.cpus = node->cpus;
  Target memory;
  memory.name = device.name + "-memory";
  memory.kind = MemoryKind::kDevice;
  memory.device = device.name;
  memory.package = node->package;
  memory.size = device.memory_size;
  memory.cpus = device.memory_is_host_memory ? node->cpus : IdSet();

  auto added = result.add(initiator);
  if (!added) return tl::unexpected<Error>(added.error());
  *uids = {*added, kNoUid};
  Link host{};
  host.name = device.name + "-host";
  host.initiators = {uids->initiator};
  host.targets = {node_uid};
  host.properties = figures;
  host.atomic = device.native_atomics;
  if (auto link = result.add(host); !link) return tl::unexpected<Error>(link.error());
  if (device.memory_size == 0) return result;

  added = result.add(memory);
  if (!added) return tl::unexpected<Error>(added.error());
  uids->target = *added;
  Link own{};
  own.name = device.name + "-own";
  own.initiators = {uids->initiator};
  if (device.memory_cpu_mappable) own.initiators.insert(own.initiators.end(), sharers.begin(), sharers.end());
  own.targets = {uids->target};
  if (device.memory_is_host_memory) own.properties = figures;
  own.atomic = device.native_atomics;
  if (auto link = result.add(own); !link) return tl::unexpected<Error>(link.error());
  return result;
}

}  // namespace mirrorcl::hms
