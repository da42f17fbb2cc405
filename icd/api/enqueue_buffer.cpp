// SPDX-License-Identifier: Apache-2.0
// Commands on buffers: OpenCL 3.0, 5.2.2 (read, write, copy), 5.2.3 (fill), 5.2.4 (map), 5.5.2 (unmap), 5.5.4
// (migrate).
#include <CL/cl.h>

#include <array>
#include <cstring>

#include "icd/api/enqueue.h"
#include "icd/core/context.h"
#include "icd/core/copy.h"

using namespace mirrorcl::icd;

namespace {

constexpr cl_mem_flags kNoHostRead = CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_NO_ACCESS;
constexpr cl_mem_flags kNoHostWrite = CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS;

enum class Direction { kToHost, kToBuffer };

// clEnqueueReadBuffer and clEnqueueWriteBuffer. `pointer` is written to only for kToHost.
cl_int transfer(Direction direction, cl_command_queue queue, cl_mem buffer, cl_bool blocking, size_t offset,
                size_t size, void* pointer, cl_uint count, const cl_event* list, cl_event* event) {
  const bool to_host = direction == Direction::kToHost;
  MIRRORCL_TRY(check_queue(queue, count, list));
  MIRRORCL_TRY(check_buffer(queue, buffer));
  MIRRORCL_GUARD(pointer != nullptr, CL_INVALID_VALUE);
  MIRRORCL_TRY(check_range(buffer, offset, size));
  MIRRORCL_GUARD((buffer->flags() & (to_host ? kNoHostRead : kNoHostWrite)) == 0, CL_INVALID_OPERATION);
  auto* command = make_host_command(queue, to_host ? CL_COMMAND_READ_BUFFER : CL_COMMAND_WRITE_BUFFER, size,
                                    [to_host, memory = Ref<_cl_mem>(buffer), offset, size, pointer] {
                                      std::byte* place = memory->address() + offset;
                                      // The same memory if the buffer was made over it (CL_MEM_USE_HOST_PTR).
                                      if (place != pointer)
                                        std::memmove(to_host ? pointer : place, to_host ? place : pointer, size);
                                      return CL_COMPLETE;
                                    });
  return enqueue(queue, command, count, list, event, blocking != CL_FALSE);
}

// A host pointer's or a buffer's side of a rectangular transfer; CL_INVALID_VALUE as 5.2.2 lists it.
cl_int make_box(const size_t* origin, const size_t* region, size_t row_pitch, size_t slice_pitch, Box* box) {
  return Box::make(origin, region, row_pitch, slice_pitch, box) ? CL_SUCCESS : CL_INVALID_VALUE;
}
cl_int check_box(cl_mem buffer, const Box& box, const size_t* region) {
  std::size_t end = 0;
  return box.end(region, &end) && end <= buffer->size() ? CL_SUCCESS : CL_INVALID_VALUE;
}
cl_int check_region(const size_t* region) {
  return region != nullptr && region[0] != 0 && region[1] != 0 && region[2] != 0 ? CL_SUCCESS : CL_INVALID_VALUE;
}

cl_int transfer_box(Direction direction, cl_command_queue queue, cl_mem buffer, cl_bool blocking,
                    const size_t* buffer_origin, const size_t* host_origin, const size_t* region,
                    size_t buffer_row_pitch, size_t buffer_slice_pitch, size_t host_row_pitch, size_t host_slice_pitch,
                    void* pointer, cl_uint count, const cl_event* list, cl_event* event) {
  const bool to_host = direction == Direction::kToHost;
  MIRRORCL_TRY(check_queue(queue, count, list));
  MIRRORCL_TRY(check_buffer(queue, buffer));
  MIRRORCL_GUARD(pointer != nullptr && buffer_origin != nullptr && host_origin != nullptr, CL_INVALID_VALUE);
  MIRRORCL_TRY(check_region(region));
  Box buffer_box;
  Box host_box;
  MIRRORCL_TRY(make_box(buffer_origin, region, buffer_row_pitch, buffer_slice_pitch, &buffer_box));
  MIRRORCL_TRY(make_box(host_origin, region, host_row_pitch, host_slice_pitch, &host_box));
  MIRRORCL_TRY(check_box(buffer, buffer_box, region));
  MIRRORCL_GUARD((buffer->flags() & (to_host ? kNoHostRead : kNoHostWrite)) == 0, CL_INVALID_OPERATION);
  const std::array<std::size_t, 3> extent{region[0], region[1], region[2]};
  auto* command = make_host_command(queue, to_host ? CL_COMMAND_READ_BUFFER_RECT : CL_COMMAND_WRITE_BUFFER_RECT,
                                    region[0] * region[1] * region[2],
                                    [to_host, memory = Ref<_cl_mem>(buffer), buffer_box, host_box, extent, pointer] {
                                      auto* host = static_cast<std::byte*>(pointer);
                                      if (to_host) {
                                        copy_box(host, host_box, memory->address(), buffer_box, extent);
                                      } else {
                                        copy_box(memory->address(), buffer_box, host, host_box, extent);
                                      }
                                      return CL_COMPLETE;
                                    });
  return enqueue(queue, command, count, list, event, blocking != CL_FALSE);
}

// The buffer that holds the storage: the parent of a sub-buffer.
cl_mem root_of(cl_mem buffer) {
  return buffer->parent() != nullptr ? buffer->parent() : buffer;
}

}  // namespace

extern "C" {

CL_API_ENTRY cl_int CL_API_CALL clEnqueueReadBuffer(cl_command_queue command_queue, cl_mem buffer,
                                                    cl_bool blocking_read, size_t offset, size_t size, void* ptr,
                                                    cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                                    cl_event* event) {
  return call([&] {
    return transfer(Direction::kToHost, command_queue, buffer, blocking_read, offset, size, ptr,
                    num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueWriteBuffer(cl_command_queue command_queue, cl_mem buffer,
                                                     cl_bool blocking_write, size_t offset, size_t size,
                                                     const void* ptr, cl_uint num_events_in_wait_list,
                                                     const cl_event* event_wait_list, cl_event* event) {
  return call([&] {
    return transfer(Direction::kToBuffer, command_queue, buffer, blocking_write, offset, size, const_cast<void*>(ptr),
                    num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueReadBufferRect(cl_command_queue command_queue, cl_mem buffer,
                                                        cl_bool blocking_read, const size_t* buffer_origin,
                                                        const size_t* host_origin, const size_t* region,
                                                        size_t buffer_row_pitch, size_t buffer_slice_pitch,
                                                        size_t host_row_pitch, size_t host_slice_pitch, void* ptr,
                                                        cl_uint num_events_in_wait_list,
                                                        const cl_event* event_wait_list, cl_event* event) {
  return call([&] {
    return transfer_box(Direction::kToHost, command_queue, buffer, blocking_read, buffer_origin, host_origin, region,
                        buffer_row_pitch, buffer_slice_pitch, host_row_pitch, host_slice_pitch, ptr,
                        num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueWriteBufferRect(cl_command_queue command_queue, cl_mem buffer,
                                                         cl_bool blocking_write, const size_t* buffer_origin,
                                                         const size_t* host_origin, const size_t* region,
                                                         size_t buffer_row_pitch, size_t buffer_slice_pitch,
                                                         size_t host_row_pitch, size_t host_slice_pitch,
                                                         const void* ptr, cl_uint num_events_in_wait_list,
                                                         const cl_event* event_wait_list, cl_event* event) {
  return call([&] {
    return transfer_box(Direction::kToBuffer, command_queue, buffer, blocking_write, buffer_origin, host_origin, region,
                        buffer_row_pitch, buffer_slice_pitch, host_row_pitch, host_slice_pitch, const_cast<void*>(ptr),
                        num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueCopyBuffer(cl_command_queue command_queue, cl_mem src_buffer,
                                                    cl_mem dst_buffer, size_t src_offset, size_t dst_offset,
                                                    size_t size, cl_uint num_events_in_wait_list,
                                                    const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_TRY(check_buffer(command_queue, src_buffer));
    MIRRORCL_TRY(check_buffer(command_queue, dst_buffer));
    MIRRORCL_TRY(check_range(src_buffer, src_offset, size));
    MIRRORCL_TRY(check_range(dst_buffer, dst_offset, size));
    const std::byte* source = src_buffer->address() + src_offset;
    std::byte* destination = dst_buffer->address() + dst_offset;
    MIRRORCL_GUARD(
        root_of(src_buffer) != root_of(dst_buffer) || source + size <= destination || destination + size <= source,
        CL_MEM_COPY_OVERLAP);
    auto* command =
        make_host_command(command_queue, CL_COMMAND_COPY_BUFFER, size,
                          [from = Ref<_cl_mem>(src_buffer), to = Ref<_cl_mem>(dst_buffer), source, destination, size] {
                            std::memmove(destination, source, size);
                            return CL_COMPLETE;
                          });
    return enqueue(command_queue, command, num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueCopyBufferRect(
    cl_command_queue command_queue, cl_mem src_buffer, cl_mem dst_buffer, const size_t* src_origin,
    const size_t* dst_origin, const size_t* region, size_t src_row_pitch, size_t src_slice_pitch, size_t dst_row_pitch,
    size_t dst_slice_pitch, cl_uint num_events_in_wait_list, const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_TRY(check_buffer(command_queue, src_buffer));
    MIRRORCL_TRY(check_buffer(command_queue, dst_buffer));
    MIRRORCL_GUARD(src_origin != nullptr && dst_origin != nullptr, CL_INVALID_VALUE);
    MIRRORCL_TRY(check_region(region));
    Box source;
    Box destination;
    MIRRORCL_TRY(make_box(src_origin, region, src_row_pitch, src_slice_pitch, &source));
    MIRRORCL_TRY(make_box(dst_origin, region, dst_row_pitch, dst_slice_pitch, &destination));
    MIRRORCL_TRY(check_box(src_buffer, source, region));
    MIRRORCL_TRY(check_box(dst_buffer, destination, region));
    MIRRORCL_GUARD(src_buffer != dst_buffer ||
                       (source.row_pitch == destination.row_pitch && source.slice_pitch == destination.slice_pitch),
                   CL_INVALID_VALUE);
    if (root_of(src_buffer) == root_of(dst_buffer)) {
      // In the parent's bytes, so that two sub-buffers can be compared. Boxes of different pitches are taken to overlap
      // where their whole ranges do.
      Box a = source;
      Box b = destination;
      a.offset += src_buffer->origin();
      b.offset += dst_buffer->origin();
      if (a.row_pitch == b.row_pitch && a.slice_pitch == b.slice_pitch) {
        MIRRORCL_GUARD(!boxes_overlap(a, b, region), CL_MEM_COPY_OVERLAP);
      } else {
        std::size_t a_end = 0;
        std::size_t b_end = 0;
        MIRRORCL_GUARD(a.end(region, &a_end) && b.end(region, &b_end), CL_INVALID_VALUE);
        MIRRORCL_GUARD(a_end <= b.offset || b_end <= a.offset, CL_MEM_COPY_OVERLAP);
      }
    }
    const std::array<std::size_t, 3> extent{region[0], region[1], region[2]};
    auto* command = make_host_command(
        command_queue, CL_COMMAND_COPY_BUFFER_RECT, region[0] * region[1] * region[2],
        [from = Ref<_cl_mem>(src_buffer), to = Ref<_cl_mem>(dst_buffer), source, destination, extent] {
          copy_box(to->address(), destination, from->address(), source, extent);
          return CL_COMPLETE;
        });
    return enqueue(command_queue, command, num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueFillBuffer(cl_command_queue command_queue, cl_mem buffer, const void* pattern,
                                                    size_t pattern_size, size_t offset, size_t size,
                                                    cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                                    cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_TRY(check_buffer(command_queue, buffer));
    MIRRORCL_TRY(check_range(buffer, offset, size));
    MIRRORCL_GUARD(pattern != nullptr && is_pattern_size(pattern_size), CL_INVALID_VALUE);
    MIRRORCL_GUARD(offset % pattern_size == 0 && size % pattern_size == 0, CL_INVALID_VALUE);
    FillPattern copy{{}, pattern_size};
    std::memcpy(copy.bytes.data(), pattern, pattern_size);
    auto* command = make_host_command(command_queue, CL_COMMAND_FILL_BUFFER, size,
                                      [memory = Ref<_cl_mem>(buffer), copy, offset, size] {
                                        fill_pattern(memory->address() + offset, size, copy.bytes.data(), copy.size);
                                        return CL_COMPLETE;
                                      });
    return enqueue(command_queue, command, num_events_in_wait_list, event_wait_list, event);
  });
}

CL_API_ENTRY void* CL_API_CALL clEnqueueMapBuffer(cl_command_queue command_queue, cl_mem buffer, cl_bool blocking_map,
                                                  cl_map_flags map_flags, size_t offset, size_t size,
                                                  cl_uint num_events_in_wait_list, const cl_event* event_wait_list,
                                                  cl_event* event, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<void*> {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_TRY(check_buffer(command_queue, buffer));
    MIRRORCL_GUARD(size != 0, CL_INVALID_VALUE);
    MIRRORCL_TRY(check_range(buffer, offset, size));
    constexpr cl_map_flags kReadWrite = CL_MAP_READ | CL_MAP_WRITE;
    MIRRORCL_GUARD((map_flags & ~(kReadWrite | CL_MAP_WRITE_INVALIDATE_REGION)) == 0, CL_INVALID_VALUE);
    MIRRORCL_GUARD((map_flags & CL_MAP_WRITE_INVALIDATE_REGION) == 0 || (map_flags & kReadWrite) == 0,
                   CL_INVALID_VALUE);
    const cl_mem_flags flags = buffer->flags();
    MIRRORCL_GUARD((map_flags & CL_MAP_READ) == 0 || (flags & kNoHostRead) == 0, CL_INVALID_OPERATION);
    MIRRORCL_GUARD((map_flags & (CL_MAP_WRITE | CL_MAP_WRITE_INVALIDATE_REGION)) == 0 || (flags & kNoHostWrite) == 0,
                   CL_INVALID_OPERATION);
    // The contents are where the host can reach them already: mapping only waits for its turn.
    void* pointer = buffer->address() + offset;
    MIRRORCL_TRY(enqueue(command_queue, make_marker(command_queue, CL_COMMAND_MAP_BUFFER), num_events_in_wait_list,
                         event_wait_list, event, blocking_map != CL_FALSE));
    buffer->add_mapping(pointer);
    return pointer;
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueUnmapMemObject(cl_command_queue command_queue, cl_mem memobj, void* mapped_ptr,
                                                        cl_uint num_events_in_wait_list,
                                                        const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_TRY(check_buffer(command_queue, memobj));
    MIRRORCL_GUARD(memobj->remove_mapping(mapped_ptr), CL_INVALID_VALUE);
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_UNMAP_MEM_OBJECT), num_events_in_wait_list,
                   event_wait_list, event);
  });
}

CL_API_ENTRY cl_int CL_API_CALL clEnqueueMigrateMemObjects(cl_command_queue command_queue, cl_uint num_mem_objects,
                                                           const cl_mem* mem_objects, cl_mem_migration_flags flags,
                                                           cl_uint num_events_in_wait_list,
                                                           const cl_event* event_wait_list, cl_event* event) {
  return call([&]() -> cl_int {
    MIRRORCL_TRY(check_queue(command_queue, num_events_in_wait_list, event_wait_list));
    MIRRORCL_GUARD(num_mem_objects != 0 && mem_objects != nullptr, CL_INVALID_VALUE);
    for (cl_uint i = 0; i < num_mem_objects; ++i) MIRRORCL_TRY(check_buffer(command_queue, mem_objects[i]));
    MIRRORCL_GUARD((flags & ~static_cast<cl_mem_migration_flags>(CL_MIGRATE_MEM_OBJECT_HOST |
                                                                 CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED)) == 0,
                   CL_INVALID_VALUE);
    // Storage of ours is at memory speed from both sides wherever it is; a caller's follows the accesses.
    return enqueue(command_queue, make_marker(command_queue, CL_COMMAND_MIGRATE_MEM_OBJECTS), num_events_in_wait_list,
                   event_wait_list, event);
  });
}

}  // extern "C"
