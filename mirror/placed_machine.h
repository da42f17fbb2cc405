// SPDX-License-Identifier: Apache-2.0
// For tests: a machine of one NUMA node that a mirror's decisions know with its devices, and on which hbind() says
// where memory should live, set up as the driver does.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <vector>

#include "hms/binder.h"
#include "hms/process.h"
#include "mirror/device_memory.h"
#include "mirror/mirror.h"

namespace mirrorcl::mirror {

class PlacedMachine {
 public:
  // `devices` are attached to `mirror`. Both outlive this, and `mirror` has no policies afterwards.
  PlacedMachine(Mirror& mirror, const std::vector<DeviceOperations*>& devices) : mirror_(mirror) {
    hms::Topology machine = host();
    std::vector<Mirror::DeviceUids> uids;
    for (DeviceOperations* device : devices) {
      const DeviceCapabilities capabilities = device->capabilities();
      hms::ProcessDevice description;
      description.name = "device:" + std::to_string(uids.size());
      description.memory_size = capabilities.memory_size;
      description.node = 0;
      description.memory_cpu_mappable = capabilities.memory_cpu_mappable;
      description.native_atomics = true;
      hms::ProcessDeviceUids added;
      auto with_device = hms::with_device(machine, description, &added);
      if (!with_device) {
        ADD_FAILURE() << with_device.error().message;
        return;
      }
      machine = std::move(*with_device);
      uids.push_back({device, added.initiator, added.target});
    }
    void* table = mmap(nullptr, kTableSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED) {
      ADD_FAILURE() << "no memory for policies";
      return;
    }
    table_.reset(static_cast<char*>(table));
    resource_.emplace(table, kTableSize, std::pmr::null_memory_resource());
    policies_ = std::move(*hms::PolicyTable::create(&*resource_));
    mirror.never_migrate({reinterpret_cast<std::uint64_t>(table), kTableSize});
    mirror.follow_policies(policies_.get());
    const auto placed = mirror.place_by(machine, uids);
    EXPECT_TRUE(placed.has_value()) << placed.error().message;
    binder_.emplace(std::make_shared<const hms::Topology>(std::move(machine)), *policies_, hms::kernel_host_memory());
    for (std::size_t i = 0; i < devices.size(); ++i) {
      memories_.push_back(std::make_unique<MirroredMemory>(mirror, *devices[i], uids[i].target));
      binder_->add_device(*memories_.back());
    }
  }
  ~PlacedMachine() { mirror_.follow_policies(nullptr); }
  PlacedMachine(const PlacedMachine&) = delete;
  PlacedMachine& operator=(const PlacedMachine&) = delete;

  // This process may say on which node its memory is to lie.
  static bool possible() { return hms::kernel_host_memory().may_use(0); }
  hms::Binder& binder() { return *binder_; }
  hms::Uid memory_of(std::size_t device) const { return memories_[device]->target(); }
  hms::Uid host_memory() const { return binder_->topology()->target_of_node(0)->uid; }

 private:
  static constexpr std::size_t kTableSize = std::size_t{16} << 20;
  struct Unmap {
    void operator()(char* table) const { munmap(table, kTableSize); }
  };

  static hms::Topology host() {
    hms::Topology machine;
    hms::Target node;
    node.name = "node0";
    node.node = 0;
    node.cpus.add(0);
    hms::Initiator cpus;
    cpus.name = "cpus";
    cpus.node = 0;
    cpus.cpus.add(0);
    hms::Link link;
    link.initiators = {*machine.add(cpus)};
    link.targets = {*machine.add(node)};
    EXPECT_TRUE(machine.add(link));
    return machine;
  }

  Mirror& mirror_;
  std::unique_ptr<char, Unmap> table_;
  std::optional<std::pmr::monotonic_buffer_resource> resource_;
  hms::PolicyTable::Pointer policies_{nullptr, {nullptr}};
  std::optional<hms::Binder> binder_;
  std::vector<std::unique_ptr<MirroredMemory>> memories_;
};

}  // namespace mirrorcl::mirror
