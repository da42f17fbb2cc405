// SPDX-License-Identifier: Apache-2.0
// For tests: a machine of one NUMA node that a mirror's decisions know with its devices, and on which hbind() says
// where memory should live, set up as the driver does.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hms/binder.h"
#include "hms/process.h"
#include "mirror/device_memory.h"
#include "mirror/followed_policies.h"
#include "mirror/mirror.h"

namespace mirrorcl::mirror {

class PlacedMachine {
 public:
  // `devices` are attached to `mirror`. Both outlive this, and `mirror` has no policies afterwards.
  PlacedMachine(Mirror& mirror, const std::vector<DeviceOperations*>& devices) : policies_(mirror) {
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
    const auto placed = mirror.place_by(machine, uids);
    EXPECT_TRUE(placed.has_value()) << placed.error().message;
    binder_.emplace(std::make_shared<const hms::Topology>(std::move(machine)), policies_.table(),
                    hms::kernel_host_memory());
    for (std::size_t i = 0; i < devices.size(); ++i) {
      memories_.push_back(std::make_unique<MirroredMemory>(mirror, *devices[i], uids[i].target));
      binder_->add_device(*memories_.back());
    }
  }

  // This process may say on which node its memory is to lie.
  static bool possible() { return hms::kernel_host_memory().may_use(0); }
  hms::Binder& binder() { return *binder_; }
  hms::Uid memory_of(std::size_t device) const { return memories_[device]->target(); }
  hms::Uid host_memory() const { return binder_->topology()->target_of_node(0)->uid; }

 private:
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

  FollowedPolicies policies_;
  std::optional<hms::Binder> binder_;
  std::vector<std::unique_ptr<MirroredMemory>> memories_;
};

}  // namespace mirrorcl::mirror
