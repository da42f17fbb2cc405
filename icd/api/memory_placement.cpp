// SPDX-License-Identifier: Apache-2.0
// cl_mirrorcl_hms: which memories there are, where memory should live, and where it does (docs/extensions/).
#include "icd/core/memory_placement.h"

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "CL/cl_ext_mirrorcl.h"
#include "hms/hbind.h"
#include "hms/query.h"
#include "icd/api/guard.h"
#include "icd/core/device.h"
#include "icd/dispatch.h"

using namespace mirrorcl::icd;
namespace hms = mirrorcl::hms;

namespace {

// The machine with the running device in it.
ClResult<MemoryPlacement*> placement_of(cl_device_id device) {
  const auto runtime = device->runtime();
  if (!runtime) return ClError{CL_DEVICE_NOT_AVAILABLE};
  const auto placement = MemoryPlacement::get();
  if (!placement) return ClError{report(placement.error())};
  return *placement;
}

cl_uint kind_of(hms::MemoryKind kind) {
  switch (kind) {
    case hms::MemoryKind::kDram:
      return CL_MEMORY_TARGET_DRAM_MIRRORCL;
    case hms::MemoryKind::kHbm:
      return CL_MEMORY_TARGET_HBM_MIRRORCL;
    case hms::MemoryKind::kNvm:
      return CL_MEMORY_TARGET_PERSISTENT_MIRRORCL;
    case hms::MemoryKind::kCxl:
      return CL_MEMORY_TARGET_CXL_MIRRORCL;
    case hms::MemoryKind::kDevice:
      return CL_MEMORY_TARGET_DEVICE_MIRRORCL;
    case hms::MemoryKind::kSpm:
    case hms::MemoryKind::kOther:
      break;
  }
  return CL_MEMORY_TARGET_OTHER_MIRRORCL;
}

cl_memory_target_info_mirrorcl describe(const hms::Topology& topology, const hms::Candidate& candidate,
                                        const hms::ProcessDeviceUids& device) {
  const hms::Target& target = *topology.target(candidate.target);
  cl_memory_target_info_mirrorcl info{};
  info.uid = target.uid;
  info.kind = kind_of(target.kind);
  info.numa_node = target.node;
  info.size = target.size;
  info.bandwidth = candidate.bandwidth ? candidate.bandwidth->number : 0;
  info.latency = candidate.latency ? candidate.latency->number : 0;
  if (target.is_host()) info.flags |= CL_MEMORY_TARGET_HOST_MIRRORCL;
  if (target.uid == device.target) info.flags |= CL_MEMORY_TARGET_OWN_MIRRORCL;
  if (candidate.coherent) info.flags |= CL_MEMORY_TARGET_COHERENT_MIRRORCL;
  if (candidate.atomic) info.flags |= CL_MEMORY_TARGET_ATOMIC_MIRRORCL;
  std::strncpy(info.name, target.name.c_str(), sizeof info.name - 1);
  return info;
}

// hbind() with one command; its extra dwords are written back.
cl_int bind(MemoryPlacement& placement, const void* pointer, size_t size, cl_uint num_targets, const cl_uint* targets,
            std::uint32_t command, std::vector<std::uint32_t>& dwords) {
  std::vector<std::uint32_t> atoms{HBIND_ATOM(command, dwords.size())};
  atoms.insert(atoms.end(), dwords.begin(), dwords.end());
  const auto start = reinterpret_cast<std::uint64_t>(pointer);
  MIRRORCL_GUARD(size <= ~std::uint64_t{0} - start, CL_INVALID_VALUE);
  hbind_params params{start,
                      start + size,
                      num_targets,
                      static_cast<std::uint32_t>(atoms.size()),
                      reinterpret_cast<std::uint64_t>(targets),
                      reinterpret_cast<std::uint64_t>(atoms.data())};
  const int error = placement.binder().hbind(&params);
  dwords.assign(atoms.begin() + 1, atoms.end());
  switch (error) {
    case 0:
      return CL_SUCCESS;
    case -ENODEV:
      return CL_INVALID_MEMORY_TARGET_MIRRORCL;
    case -ENOMEM:
      return CL_OUT_OF_HOST_MEMORY;
    case -EPERM:
      return CL_INVALID_OPERATION;
    default:
      return CL_INVALID_VALUE;
  }
}

}  // namespace

extern "C" {

cl_int CL_API_CALL clGetMemoryTargetsMIRRORCL(cl_device_id device, cl_uint num_entries,
                                              cl_memory_target_info_mirrorcl* targets, cl_uint* num_targets) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(targets != nullptr || num_targets != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD((targets == nullptr) == (num_entries == 0), CL_INVALID_VALUE);
    const auto placement = placement_of(device);
    if (!placement) return placement.error();
    const auto topology = (*placement)->binder().topology();
    const hms::ProcessDeviceUids& own = (*placement)->device(device->index());
    const auto best = hms::best_targets(*topology, {.initiators = {own.initiator}});
    if (!best) return report(best.error());
    for (std::size_t i = 0; i < std::min<std::size_t>(num_entries, best->size()); ++i) {
      targets[i] = describe(*topology, (*best)[i], own);
    }
    if (num_targets != nullptr) *num_targets = static_cast<cl_uint>(best->size());
    return CL_SUCCESS;
  });
}

cl_int CL_API_CALL clBindMemoryMIRRORCL(cl_device_id device, const void* pointer, size_t size,
                                        cl_memory_binding_mirrorcl binding, cl_uint num_targets, const cl_uint* targets,
                                        cl_ulong* pages_moved) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(pointer != nullptr && size != 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD((targets == nullptr) == (num_targets == 0), CL_INVALID_VALUE);
    std::vector<std::uint32_t> dwords;
    std::uint32_t command = 0;
    switch (binding) {
      case CL_MEMORY_BINDING_DEFAULT_MIRRORCL:
        command = HBIND_CMD_DEFAULT;
        break;
      case CL_MEMORY_BINDING_BIND_MIRRORCL:
        command = HBIND_CMD_BIND;
        break;
      case CL_MEMORY_BINDING_MIGRATE_MIRRORCL:
        command = HBIND_CMD_MIGRATE;
        dwords = {0};
        break;
      case CL_MEMORY_BINDING_PREFETCH_MIRRORCL:
        command = HBIND_CMD_PREFETCH;
        break;
      case CL_MEMORY_BINDING_PREFERRED_MIRRORCL:
        command = HBIND_CMD_PREFERRED;
        break;
      case CL_MEMORY_BINDING_READ_MOSTLY_MIRRORCL:
      case CL_MEMORY_BINDING_NOT_READ_MOSTLY_MIRRORCL:
        command = HBIND_CMD_READ_MOSTLY;
        dwords = {binding == CL_MEMORY_BINDING_READ_MOSTLY_MIRRORCL ? 1U : 0U};
        break;
      default:
        return CL_INVALID_VALUE;
    }
    MIRRORCL_GUARD(pages_moved == nullptr || command == HBIND_CMD_MIGRATE, CL_INVALID_VALUE);
    const auto placement = placement_of(device);
    if (!placement) return placement.error();
    const cl_int result = bind(**placement, pointer, size, num_targets, targets, command, dwords);
    if (result == CL_SUCCESS && pages_moved != nullptr) *pages_moved = dwords[0];
    return result;
  });
}

cl_int CL_API_CALL clGetMemoryResidencyMIRRORCL(cl_device_id device, const void* pointer, size_t size,
                                                cl_uint num_targets, const cl_uint* targets, cl_ulong* pages) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(pointer != nullptr && size != 0 && pages != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD((targets == nullptr) == (num_targets == 0), CL_INVALID_VALUE);
    MIRRORCL_GUARD(num_targets <= HBIND_MAX_ATOMS - 3, CL_INVALID_VALUE);
    const auto placement = placement_of(device);
    if (!placement) return placement.error();
    std::vector<std::uint32_t> counts(num_targets + 2);
    const cl_int result = bind(**placement, pointer, size, num_targets, targets, HBIND_CMD_QUERY_RESIDENCY, counts);
    if (result == CL_SUCCESS) std::copy(counts.begin(), counts.end(), pages);
    return result;
  });
}

}  // extern "C"
