// SPDX-License-Identifier: Apache-2.0
#include "hms/process.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <memory_resource>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/mutex.h"
#include "hms/load.h"
#include "hms/query.h"

namespace mirrorcl::hms {
namespace {

// Holds the table with PolicyLimits' defaults; what is not used costs nothing.
constexpr std::size_t kPolicyMemory = std::size_t{16} << 20;

struct Process {
  // Held while the binder is made, but not while anybody joins: who starts a device takes locks then that other
  // libraries' fork handlers hold, and a fork waits for this one last.
  Mutex mutex;
  ConditionVariable joined;        // notified when joining ends
  std::atomic<bool> ready{false};  // the binder is there, and everybody has joined
  // Guarded by the mutex, but for the result once ready.
  std::optional<Result<Binder*>> result;
  std::vector<void (*)(Binder&)> joiners;  // that have not joined yet
  std::thread::id joining;                 // who lets them join; nobody: nobody does
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

// What is taken before a fork is let go after it.
void before_fork() MIRRORCL_NO_THREAD_ANALYSIS {
  process().mutex.lock();
  if (process().binder != nullptr) process().binder->before_fork();
}
void after_fork_in_parent() MIRRORCL_NO_THREAD_ANALYSIS {
  if (process().binder != nullptr) process().binder->after_fork_in_parent();
  process().mutex.unlock();
}
void after_fork_in_child() {
  if (process().binder != nullptr) process().binder->after_fork_in_child();
  Process& p = process();
  new (&p.mutex) Mutex;
  new (&p.joined) ConditionVariable;
  // Who was just joining does not exist here, and no device can be had any more.
  p.joining = {};
  p.joiners.clear();
  p.ready.store(p.result.has_value(), std::memory_order_release);
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

// The mutex is open while somebody joins.
void let_join(Process& p, Binder& binder) MIRRORCL_REQUIRES(p.mutex) {
  p.joining = std::this_thread::get_id();
  while (!p.joiners.empty()) {
    auto* join = p.joiners.back();
    p.joiners.pop_back();
    ScopedUnlock unlock(p.mutex);
    join(binder);
  }
  p.joining = {};
  p.ready.store(true, std::memory_order_release);
  p.joined.notify_all();
}

// The CPUs that are nearest to the node; null: there are none.
const Initiator* nearest_cpus(const Topology& topology, const Target& node) {
  const Initiator* any = nullptr;
  for (const Initiator& initiator : topology.initiators()) {
    const bool near = initiator.cpus.intersects(node.cpus);
    if (initiator.kind != InitiatorKind::kCpu || (!near && any != nullptr)) continue;
    if (!reach(topology, initiator.uid, node.uid)) continue;
    if (near) return &initiator;
    any = &initiator;
  }
  return any;
}

// Of the best way from one to the other; nothing if there is none.
std::optional<Properties> way_figures(const Topology& topology, Uid initiator, Uid target) {
  const auto way = reach(topology, initiator, target);
  if (!way) return std::nullopt;
  Properties figures;
  if (way->bandwidth) figures.set(Property::kBandwidth, *way->bandwidth);
  if (way->latency) figures.set(Property::kLatency, *way->latency);
  return figures;
}

// The device has the host's memory as the CPUs that are nearest to its node: it runs on CPUs, or beside them.
Result<void> link_host(Topology& result, const Topology& before, const ProcessDevice& device, const Target& node,
                       Uid uid) {
  const Initiator* nearest = nearest_cpus(before, node);
  for (const Target& target : before.targets()) {
    if (!target.is_host() || !target.online) continue;
    const auto figures = nearest != nullptr ? way_figures(before, nearest->uid, target.uid) : Properties{};
    const bool own = target.uid == node.uid;
    if (!figures && !own) continue;
    Link host{};
    host.name = device.name + "-host" + (own ? "" : "-" + target.name);
    host.initiators = {uid};
    host.targets = {target.uid};
    host.properties = figures.value_or(Properties{});
    host.atomic = device.native_atomics;
    if (auto link = result.add(host); !link) return tl::unexpected<Error>(link.error());
  }
  return {};
}

// Who reaches the device's memory, each as it reaches the node that this lies in.
Result<void> link_memory(Topology& result, const Topology& before, const ProcessDevice& device, const Target& node,
                         const ProcessDeviceUids& uids) {
  const Initiator* nearest = nearest_cpus(before, node);
  const auto figures = [&](Uid initiator) {
    const auto found = device.memory_is_host_memory ? way_figures(before, initiator, node.uid) : std::nullopt;
    return found.value_or(Properties{});
  };
  std::vector<Link> links(1);
  links[0].name = device.name + "-own";
  links[0].initiators = {uids.initiator};
  if (nearest != nullptr) links[0].properties = figures(nearest->uid);
  for (const Initiator& initiator : before.initiators()) {
    if (!device.memory_cpu_mappable || initiator.kind != InitiatorKind::kCpu) continue;
    const Properties its = figures(initiator.uid);
    auto link = std::ranges::find(links, its, &Link::properties);
    if (link == links.end()) {
      link = links.emplace(links.end());
      link->name = links[0].name + "-" + initiator.name;
      link->properties = its;
    }
    link->initiators.push_back(initiator.uid);
  }
  for (Link& link : links) {
    link.targets = {uids.target};
    link.atomic = device.native_atomics;
    if (auto added = result.add(link); !added) return tl::unexpected<Error>(added.error());
  }
  return {};
}

}  // namespace

Result<Binder*> process_binder() {
  Process& p = process();
  if (p.ready.load(std::memory_order_acquire)) return *p.result;
  ScopedLock lock(p.mutex);
  if (!p.result) p.result.emplace(start());
  while (*p.result && !p.ready.load(std::memory_order_relaxed)) {
    if (p.joining == std::this_thread::get_id()) break;  // who joins asks for it
    if (p.joining == std::thread::id()) {
      let_join(p, ***p.result);
    } else {
      p.joined.wait(p.mutex);
    }
  }
  return *p.result;
}

void on_process_binder(void (*join)(Binder& binder)) {
  Process& p = process();
  ScopedLock lock(p.mutex);
  p.joiners.push_back(join);
  p.ready.store(false, std::memory_order_release);
}

AddressRange process_policy_memory() noexcept {
  auto start = reinterpret_cast<std::uint64_t>(process().memory);
  return {start, start == 0 ? 0 : start + kPolicyMemory};
}

Result<Topology> with_device(const Topology& topology, const ProcessDevice& device, ProcessDeviceUids* uids) {
  Topology result = topology;
  const Target* node = device.node >= 0 ? topology.target_of_node(device.node) : nullptr;
  if (node == nullptr) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the topology has no NUMA node {} for device {}", device.node, device.name));
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
  if (auto done = link_host(result, topology, device, *node, uids->initiator); !done) {
    return tl::unexpected<Error>(done.error());
  }
  if (device.memory_size == 0) return result;

  added = result.add(memory);
  if (!added) return tl::unexpected<Error>(added.error());
  uids->target = *added;
  if (auto done = link_memory(result, topology, device, *node, *uids); !done) {
    return tl::unexpected<Error>(done.error());
  }
  return result;
}

}  // namespace mirrorcl::hms
