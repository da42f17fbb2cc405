// SPDX-License-Identifier: Apache-2.0
// Memory objects: OpenCL 3.0, 5.2.1 (buffers), 5.5 (queries and releases).
#include "icd/core/memory.h"

#include <CL/cl.h>

#include <utility>
#include <vector>

#include "icd/api/allocation_properties.h"
#include "icd/api/guard.h"
#include "icd/core/context.h"
#include "icd/core/device.h"
#include "icd/core/memory_placement.h"
#include "icd/core/runtime.h"

using namespace mirrorcl::icd;

namespace {

constexpr cl_mem_flags kAccess = CL_MEM_READ_WRITE | CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY;
constexpr cl_mem_flags kHostAccess = CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_NO_ACCESS;
constexpr cl_mem_flags kHostPointer = CL_MEM_USE_HOST_PTR | CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR;

bool at_most_one(cl_mem_flags bits) {
  return (bits & (bits - 1)) == 0;
}

// Table 12 of 5.2.1.
bool are_buffer_flags(cl_mem_flags flags) {
  if ((flags & ~(kAccess | kHostAccess | kHostPointer)) != 0) return false;
  if (!at_most_one(flags & kAccess) || !at_most_one(flags & kHostAccess)) return false;
  return (flags & CL_MEM_USE_HOST_PTR) == 0 || (flags & (CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR)) == 0;
}

ClResult<cl_mem> create_buffer(cl_context context, const cl_mem_properties* properties, cl_mem_flags flags, size_t size,
                               void* host_ptr) {
  MIRRORCL_VALID(context);
  auto read = read_properties(properties, CL_MEM_TARGETS_MIRRORCL, std::nullopt);
  if (!read) return ClError{read.error()};
  MIRRORCL_GUARD(are_buffer_flags(flags), CL_INVALID_VALUE);
  MIRRORCL_GUARD(size != 0, CL_INVALID_BUFFER_SIZE);
  const bool needs_pointer = (flags & (CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR)) != 0;
  MIRRORCL_GUARD(needs_pointer == (host_ptr != nullptr), CL_INVALID_HOST_PTR);
  // The application's memory lies where it lies.
  MIRRORCL_GUARD(read->targets.empty() || (flags & CL_MEM_USE_HOST_PTR) == 0, CL_INVALID_PROPERTY);
  MIRRORCL_GUARD(size <= context->max_allocation(), CL_INVALID_BUFFER_SIZE);
  auto runtime = context->devices().front()->runtime();
  if (!runtime) return ClError{report(runtime.error())};
  if ((flags & CL_MEM_USE_HOST_PTR) != 0) {
    // "CL_INVALID_BUFFER_SIZE if host_ptr is an SVM pointer and size is greater than the size of its allocation"
    if (const auto svm = (*runtime)->allocator().find(host_ptr)) {
      const auto offset = static_cast<std::size_t>(static_cast<char*>(host_ptr) - static_cast<char*>(svm->start));
      MIRRORCL_GUARD(size <= svm->size - offset, CL_INVALID_BUFFER_SIZE);
    }
  }
  return _cl_mem::make_buffer(*context, **runtime,
                              {flags, size, host_ptr, std::move(read->given), std::move(read->targets)});
}

}  // namespace

extern "C" {

CL_API_ENTRY cl_mem CL_API_CALL clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void* host_ptr,
                                               cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return create_buffer(context, nullptr, flags, size, host_ptr); });
}

CL_API_ENTRY cl_mem CL_API_CALL clCreateBufferWithProperties(cl_context context, const cl_mem_properties* properties,
                                                             cl_mem_flags flags, size_t size, void* host_ptr,
                                                             cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return create_buffer(context, properties, flags, size, host_ptr); });
}

CL_API_ENTRY cl_mem CL_API_CALL clCreateSubBuffer(cl_mem buffer, cl_mem_flags flags,
                                                  cl_buffer_create_type buffer_create_type,
                                                  const void* buffer_create_info, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<cl_mem> {
    MIRRORCL_VALID(buffer);
    MIRRORCL_GUARD(buffer->parent() == nullptr, CL_INVALID_MEM_OBJECT);
    // Access and host access may only become narrower; host pointer flags are inherited and may not be given.
    MIRRORCL_GUARD(are_buffer_flags(flags) && (flags & kHostPointer) == 0, CL_INVALID_VALUE);
    const cl_mem_flags parent = buffer->flags();
    MIRRORCL_GUARD((parent & CL_MEM_WRITE_ONLY) == 0 || (flags & (CL_MEM_READ_WRITE | CL_MEM_READ_ONLY)) == 0,
                   CL_INVALID_VALUE);
    MIRRORCL_GUARD((parent & CL_MEM_READ_ONLY) == 0 || (flags & (CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY)) == 0,
                   CL_INVALID_VALUE);
    MIRRORCL_GUARD((parent & CL_MEM_HOST_WRITE_ONLY) == 0 || (flags & CL_MEM_HOST_READ_ONLY) == 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD((parent & CL_MEM_HOST_READ_ONLY) == 0 || (flags & CL_MEM_HOST_WRITE_ONLY) == 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD(
        (parent & CL_MEM_HOST_NO_ACCESS) == 0 || (flags & (CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_WRITE_ONLY)) == 0,
        CL_INVALID_VALUE);
    MIRRORCL_GUARD(buffer_create_type == CL_BUFFER_CREATE_TYPE_REGION && buffer_create_info != nullptr,
                   CL_INVALID_VALUE);
    const auto& region = *static_cast<const cl_buffer_region*>(buffer_create_info);
    MIRRORCL_GUARD(region.size != 0, CL_INVALID_BUFFER_SIZE);
    MIRRORCL_GUARD(region.origin <= buffer->size() && region.size <= buffer->size() - region.origin, CL_INVALID_VALUE);
    // CL_DEVICE_MEM_BASE_ADDR_ALIGN, in bytes.
    constexpr std::size_t kBaseAlignment = 128;
    MIRRORCL_GUARD(region.origin % kBaseAlignment == 0, CL_MISALIGNED_SUB_BUFFER_OFFSET);
    return _cl_mem::make_sub_buffer(*buffer, flags, region);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clRetainMemObject(cl_mem memobj) {
  return retain_handle(memobj);
}
CL_API_ENTRY cl_int CL_API_CALL clReleaseMemObject(cl_mem memobj) {
  return release_handle(memobj);
}

CL_API_ENTRY cl_int CL_API_CALL clSetMemObjectDestructorCallback(cl_mem memobj,
                                                                 void(CL_CALLBACK* pfn_notify)(cl_mem, void*),
                                                                 void* user_data) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(memobj);
    MIRRORCL_GUARD(pfn_notify != nullptr, CL_INVALID_VALUE);
    memobj->add_destructor_callback(pfn_notify, user_data);
    return CL_SUCCESS;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clGetMemObjectInfo(cl_mem memobj, cl_mem_info param_name, size_t param_value_size,
                                                   void* param_value, size_t* param_value_size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(memobj);
    const Info info(param_value_size, param_value, param_value_size_ret);
    switch (param_name) {
      case CL_MEM_TYPE:
        return info.value<cl_mem_object_type>(memobj->type());
      case CL_MEM_FLAGS:
        return info.value<cl_mem_flags>(memobj->flags());
      case CL_MEM_SIZE:
        return info.value<size_t>(memobj->size());
      case CL_MEM_HOST_PTR:
        return info.value<void*>(memobj->host_ptr());
      case CL_MEM_MAP_COUNT:
        return info.value<cl_uint>(memobj->map_count());
      case CL_MEM_REFERENCE_COUNT:
        return info.value<cl_uint>(memobj->api_count());
      case CL_MEM_CONTEXT:
        return info.value<cl_context>(memobj->context());
      case CL_MEM_ASSOCIATED_MEMOBJECT:
        return info.value<cl_mem>(memobj->parent());
      case CL_MEM_OFFSET:
        return info.value<size_t>(memobj->origin());
      case CL_MEM_USES_SVM_POINTER:
        return info.value<cl_bool>(memobj->uses_svm_pointer() ? CL_TRUE : CL_FALSE);
      case CL_MEM_PROPERTIES:
        return info.list(memobj->properties());
      case CL_MEM_ALLOCATED_TARGET_MIRRORCL:
        return info.value<cl_uint>(memobj->is_allocated() ? MemoryPlacement::allocated_target(memobj->address())
                                                          : CL_MEMORY_TARGETS_END_MIRRORCL);
      default:
        return CL_INVALID_VALUE;
    }
  });
}

}  // extern "C"
