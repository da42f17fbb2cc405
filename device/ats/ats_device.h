// SPDX-License-Identifier: Apache-2.0
// The ATS device: its compute units translate addresses with the application's own page tables, as hardware with
// address translation services (PCIe ATS and PASID) does. Every pointer of the application is valid on it by itself:
// there is no device memory, no migration, no userfaultfd and no mirror; memory is what the application's page tables
// say it is.
//
// Its units are the same firmware as the mirrored device's, in a process of its own that shares the application's
// memory (clone with CLONE_VM) but no signal handler, descriptor or thread group, so that a kernel's faults are handled
// there and the application's are its own (docs/decisions/).
#pragma once

#include <memory>

#include "base/result.h"
#include "device/cpu/cpu_device.h"

namespace mirrorcl::device {

// Starts the unit process. The window must be reserved, and no other device there: the firmware's image, which can be
// at one place only, is where other kinds keep their state. options.memory_size only bounds what the allocator of SVM
// memory and buffers hands out.
Result<std::unique_ptr<CpuDevice>> start_ats_device(const CpuDeviceOptions& options);

}  // namespace mirrorcl::device
