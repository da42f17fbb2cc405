// SPDX-License-Identifier: Apache-2.0
// Shared virtual memory: OpenCL 3.0, 5.6. The device reaches every address of the process, so the commands take any
// host pointer where the specification allows it, and mapping only waits for its turn.
#include <CL/cl.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "icd/api/allocation_properties.h"
#include "icd/api/enqueue.h"
#include "icd/core/allocation.h"
#include "icd/core/context.h"
#include "icd/core/copy.h"
#include "icd/core/device.h"
#include "icd/core/memory_placement.h"
#include "icd/core/runtime.h"
#include "icd/dispatch.h"

using namespace mirrorcl::icd;

namespace {

constexpr std::size_t kMaxAlignment = 2 * 1024 * 1024;

// The flags of table 19 (5.6.1).
bool are_svm_flags(cl_svm_mem_flags flags) {
  constexpr cl_svm_mem_flags kAccess = CL_MEM_READ_WRITE | CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY;
  constexpr cl_svm_mem_flags kSvm = CL_MEM_SVM_FINE_GRAIN_BUFFER | CL_MEM_SVM_ATOMICS;
  if ((flags & ~(kAccess | kSvm)) != 0 || !(std::popcount(flags & kAccess) <= 1)) return false;
  return (flags & CL_MEM_SVM_ATOMICS) == 0 || (flags & CL_MEM_SVM_FINE_GRAIN_BUFFER) != 0;
}

bool ranges_overlap(const void* a, const void* b, std::size_t size) {
  const auto first = reinterpret_cast<std::uintptr_t>(a);
  const auto second = reinterpret_cast<std::uintptr_t>(b);
  return (first > second ? first - second : second - first) < size;
}

bool is_alignment(std::size_t alignment) {
  return alignment == 0 || (std::has_single_bit(alignment) && alignment <= kMaxAlignment);
}

ClResult<void*> allocate_svm(cl_context context, cl_svm_mem_flags flags, size_t size, size_t alignment,
                             std::span<const mirrorcl::hms::Uid> targets) {
  MIRRORCL_VALID(context);
  MIRRORCL_GUARD(are_svm_flags(flags), CL_INVALID_VALUE);
  MIRRORCL_GUARD(is_alignment(alignment), CL_INVALID_VALUE);
  MIRRORCL_GUARD(size != 0 && size <= context->max_allocation(), CL_INVALID_VALUE);
  auto runtime = context->devices().front()->runtime();
  if (!runtime) return ClError{report(runtime.error())};
  return allocate(**runtime, {.devices = context->devices(),
                              .bytes = size,
                              .alignment = alignment,
                              .atomics = (flags & CL_MEM_SVM_ATOMICS) != 0,
                              .targets = targets});
}

}  // namespace

extern "C" {

CL_API_ENTRY void* CL_API_CALL clSVMAlloc(cl_context context, cl_svm_mem_flags flags, size_t size, cl_uint alignment) {
  return create(nullptr, [&] { return allocate_svm(context, flags, size, alignment, {}); });
}

// cl_mirrorcl_hms.
void* CL_API_CALL clSVMAllocWithPropertiesMIRRORCL(cl_context context,
                                                   const cl_svm_alloc_properties_mirrorcl* properties,
                                                   cl_svm_mem_flags flags, size_t size, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<void*> {
    MIRRORCL_VALID(context);
    const auto read = read_properties(properties, CL_SVM_ALLOC_TARGETS_MIRRORCL, CL_SVM_ALLOC_ALIGNMENT_MIRRORCL);
    if (!read) return ClError{read.error()};
    const std::size_t alignment = read->alignment.value_or(0);
    MIRRORCL_GUARD(is_alignment(alignment), CL_INVALID_PROPERTY);
    return allocate_svm(context, flags, size, alignment, read->targets);
  });
}

CL_API_ENTRY void CL_API_CALL clSVMFree(cl_context context, void* svm_pointer) {
  if (!is_valid(context) || svm_pointer == nullptr) return;
  if (Runtime* runtime = Runtime::if_started()) MemoryPlacement::free(*runtime, svm_pointer);
}

CL_API_ENTRY cl_int CL_API_CALL
clEnqueueSVMFree(cl_command_queue command_queue, cl_uint num_svm_pointers, void* svm_pointers[],
                 void(CL_CALLBACK* pfn_free_func)(cl_command_queue, cl_uint, void*[], void*), void* user_data,
                 cl_uint num_events_in_wait_list, const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD((num_svm_pointers == 0) == (svm_pointers == nullptr), CL_INVALID_VALUE);
    std::vector<void*> pointers(svm_pointers, svm_pointers + num_svm_pointers);
    // Not short: the callback is the application's.
    auto* command = new _cl_event(*command_queue, CL_COMMAND_SVM_FREE,
                                  pfn_free_func == nullptr ? CommandKind::kHostShort : CommandKind::kHost);
    command->set_work([command_queue, pointers = std::move(pointers), pfn_free_func, user_data]() mutable {
      if (pfn_free_func != nullptr) {
        pfn_free_func(command_queue, static_cast<cl_uint>(pointers.size()), pointers.data(), user_data);
      } else {
        for (void* pointer : pointers) MemoryPlacement::free(command_queue->runtime(), pointer);
      }
      return CL_COMPLETE;
    });
    return enqueue(command_queue, command, num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueSVMMemcpy(cl_command_queue command_queue, cl_bool blocking_copy, void* dst_ptr,
                                                   const void* src_ptr, size_t size, cl_uint num_events_in_wait_list,
                                                   const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(dst_ptr != nullptr && src_ptr != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD(!ranges_overlap(dst_ptr, src_ptr, size), CL_MEM_COPY_OVERLAP);
    auto* command = make_host_command(command_queue, CL_COMMAND_SVM_MEMCPY, size, [dst_ptr, src_ptr, size] {
      std::memcpy(dst_ptr, src_ptr, size);
      return CL_COMPLETE;
    });
    return enqueue(command_queue, command, num_events_in_wait_list, event_wait_list, event, blocking_copy != CL_FALSE);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueSVMMemFill(cl_command_queue command_queue, void* svm_ptr, const void* pattern,
                                                    size_t pattern_size, size_t size, cl_uint num_events_in_wait_list,
                                                    const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(svm_ptr != nullptr && pattern != nullptr && is_pattern_size(pattern_size), CL_INVALID_VALUE);
    MIRRORCL_GUARD(reinterpret_cast<std::uintptr_t>(svm_ptr) % pattern_size == 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD(size % pattern_size == 0, CL_INVALID_VALUE);
    FillPattern copy{{}, pattern_size};
    std::memcpy(copy.bytes.data(), pattern, pattern_size);
    auto* command = make_host_command(command_queue, CL_COMMAND_SVM_MEMFILL, size, [svm_ptr, copy, size] {
      fill_pattern(static_cast<std::byte*>(svm_ptr), size, copy.bytes.data(), copy.size);
      return CL_COMPLETE;
    });
    return enqueue(command_queue, command, num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueSVMMap(cl_command_queue command_queue, cl_bool blocking_map,
                                                cl_map_flags flags, void* svm_ptr, size_t size,
                                                cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                                cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(svm_ptr != nullptr && size != 0, CL_INVALID_VALUE);
    constexpr cl_map_flags kReadWrite = CL_MAP_READ | CL_MAP_WRITE;
    MIRRORCL_GUARD((flags & ~(kReadWrite | CL_MAP_WRITE_INVALIDATE_REGION)) == 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD((flags & CL_MAP_WRITE_INVALIDATE_REGION) == 0 || (flags & kReadWrite) == 0, CL_INVALID_VALUE);
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_SVM_MAP), num_events_in_wait_list,
                   event_wait_list, event, blocking_map != CL_FALSE);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueSVMUnmap(cl_command_queue command_queue, void* svm_ptr,
                                                  cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                                  cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(svm_ptr != nullptr, CL_INVALID_VALUE);
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_SVM_UNMAP), num_events_in_wait_list,
                   event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueSVMMigrateMem(cl_command_queue command_queue, cl_uint num_svm_pointers,
                                                       const void** svm_pointers, const size_t* sizes,
                                                       cl_mem_migration_flags flags, cl_uint num_events_in_wait_list,
                                                       const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(num_svm_pointers != 0 && svm_pointers != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD((flags & ~static_cast<cl_mem_migration_flags>(CL_MIGRATE_MEM_OBJECT_HOST |
                                                                 CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED)) == 0,
                   CL_INVALID_VALUE);
    for (cl_uint i = 0; i < num_svm_pointers; ++i) {
      // "...if sizes[i] is non-zero range [svm_pointers[i], svm_pointers[i]+sizes[i]) is not contained within an
      // existing clSVMAlloc allocation"; zero means the whole allocation.
      const auto found = command_queue->runtime().allocator().find(svm_pointers[i]);
      MIRRORCL_GUARD(found.has_value(), CL_INVALID_VALUE);
      const auto offset =
          static_cast<std::size_t>(static_cast<const char*>(svm_pointers[i]) - static_cast<const char*>(found->start));
      MIRRORCL_GUARD(sizes == nullptr || sizes[i] <= found->size - offset, CL_INVALID_VALUE);
    }
    // Such memory is at memory speed from both sides wherever it is.
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_SVM_MIGRATE_MEM), num_events_in_wait_list,
                   event_wait_list, event);
  });
}

}  // extern "C"
