// SPDX-License-Identifier: Apache-2.0
// The fake device as the model test's device.
#pragma once

#include "mirror/fake_device.h"
#include "mirror/model.h"

namespace mirrorcl::mirror {

class FakeModelDevice final : public ModelDevice {
 public:
  explicit FakeModelDevice(FakeDevice& device) : device_(device) {}

  std::size_t run(std::span<ModelAccess> accesses, device::FaultKind* error) override {
    for (std::size_t i = 0; i < accesses.size(); ++i) {
      *error = make(accesses[i]);
      if (*error != device::FaultKind::kNone) return i;
    }
    return accesses.size();
  }

 private:
  // Nothing else runs meanwhile, so an addition may be a read and a write.
  device::FaultKind make(ModelAccess& access) {
    const void* address = reinterpret_cast<const void*>(access.address);
    if (access.kind == ModelAccess::Kind::kWrite) return device_.write(address, &access.value, access.size);
    std::uint64_t found = 0;
    device::FaultKind error = device_.read(address, &found, access.size);
    if (error == device::FaultKind::kNone && access.kind == ModelAccess::Kind::kAdd) {
      std::uint64_t sum = found + access.value;
      error = device_.write(address, &sum, access.size);
    }
    if (error == device::FaultKind::kNone) access.value = found;
    return error;
  }

  FakeDevice& device_;
};

}  // namespace mirrorcl::mirror
