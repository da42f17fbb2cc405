// SPDX-License-Identifier: Apache-2.0
// Images (OpenCL 3.0, 5.3). CL_DEVICE_IMAGE_SUPPORT is false: making one is CL_INVALID_OPERATION, the list of formats
// is empty, and no handle is ever an image's.
#include <CL/cl.h>

#include "icd/api/guard.h"
#include "icd/core/context.h"

using namespace mirrorcl::icd;

namespace {

ClResult<cl_mem> refuse_image(cl_context context, const cl_image_format* format, bool described) {
  MIRRORCL_VALID(context);
  MIRRORCL_GUARD(format != nullptr, CL_INVALID_IMAGE_FORMAT_DESCRIPTOR);
  MIRRORCL_GUARD(described, CL_INVALID_IMAGE_DESCRIPTOR);
  return ClError{CL_INVALID_OPERATION};
}

// Commands on images: the queue may be wrong; the image always is.
cl_int refuse_command(cl_command_queue command_queue) noexcept {
  MIRRORCL_VALID(command_queue);
  return CL_INVALID_MEM_OBJECT;
}

constexpr bool is_image_type(cl_mem_object_type type) {
  switch (type) {
    case CL_MEM_OBJECT_IMAGE1D:
    case CL_MEM_OBJECT_IMAGE1D_BUFFER:
    case CL_MEM_OBJECT_IMAGE1D_ARRAY:
    case CL_MEM_OBJECT_IMAGE2D:
    case CL_MEM_OBJECT_IMAGE2D_ARRAY:
    case CL_MEM_OBJECT_IMAGE3D:
      return true;
    default:
      return false;
  }
}

}  // namespace

extern "C" {

cl_mem CL_API_CALL clCreateImage(cl_context context, cl_mem_flags /*flags*/, const cl_image_format* image_format,
                                 const cl_image_desc* image_desc, void* /*host_ptr*/, cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return refuse_image(context, image_format, image_desc != nullptr); });
}

cl_mem CL_API_CALL clCreateImageWithProperties(cl_context context, const cl_mem_properties* /*properties*/,
                                               cl_mem_flags /*flags*/, const cl_image_format* image_format,
                                               const cl_image_desc* image_desc, void* /*host_ptr*/,
                                               cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return refuse_image(context, image_format, image_desc != nullptr); });
}

cl_mem CL_API_CALL clCreateImage2D(cl_context context, cl_mem_flags /*flags*/, const cl_image_format* image_format,
                                   size_t /*image_width*/, size_t /*image_height*/, size_t /*image_row_pitch*/,
                                   void* /*host_ptr*/, cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return refuse_image(context, image_format, true); });
}

cl_mem CL_API_CALL clCreateImage3D(cl_context context, cl_mem_flags /*flags*/, const cl_image_format* image_format,
                                   size_t /*image_width*/, size_t /*image_height*/, size_t /*image_depth*/,
                                   size_t /*image_row_pitch*/, size_t /*image_slice_pitch*/, void* /*host_ptr*/,
                                   cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return refuse_image(context, image_format, true); });
}

cl_int CL_API_CALL clGetSupportedImageFormats(cl_context context, cl_mem_flags /*flags*/, cl_mem_object_type image_type,
                                              cl_uint num_entries, cl_image_format* image_formats,
                                              cl_uint* num_image_formats) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(context);
    MIRRORCL_GUARD(is_image_type(image_type), CL_INVALID_VALUE);
    MIRRORCL_GUARD(image_formats == nullptr || num_entries != 0, CL_INVALID_VALUE);
    if (num_image_formats != nullptr) *num_image_formats = 0;
    return CL_SUCCESS;
  });
}

cl_int CL_API_CALL clGetImageInfo(cl_mem /*image*/, cl_image_info /*param_name*/, size_t /*param_value_size*/,
                                  void* /*param_value*/, size_t* /*param_value_size_ret*/) {
  return CL_INVALID_MEM_OBJECT;
}

cl_int CL_API_CALL clEnqueueReadImage(cl_command_queue command_queue, cl_mem /*image*/, cl_bool /*blocking_read*/,
                                      const size_t* /*origin*/, const size_t* /*region*/, size_t /*row_pitch*/,
                                      size_t /*slice_pitch*/, void* /*ptr*/, cl_uint /*num_events_in_wait_list*/,
                                      const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return refuse_command(command_queue);
}

cl_int CL_API_CALL clEnqueueWriteImage(cl_command_queue command_queue, cl_mem /*image*/, cl_bool /*blocking_write*/,
                                       const size_t* /*origin*/, const size_t* /*region*/, size_t /*input_row_pitch*/,
                                       size_t /*input_slice_pitch*/, const void* /*ptr*/,
                                       cl_uint /*num_events_in_wait_list*/, const cl_event* /*event_wait_list*/,
                                       cl_event* /*event*/) {
  return refuse_command(command_queue);
}

cl_int CL_API_CALL clEnqueueCopyImage(cl_command_queue command_queue, cl_mem /*src_image*/, cl_mem /*dst_image*/,
                                      const size_t* /*src_origin*/, const size_t* /*dst_origin*/,
                                      const size_t* /*region*/, cl_uint /*num_events_in_wait_list*/,
                                      const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return refuse_command(command_queue);
}

cl_int CL_API_CALL clEnqueueCopyImageToBuffer(cl_command_queue command_queue, cl_mem /*src_image*/,
                                              cl_mem /*dst_buffer*/, const size_t* /*src_origin*/,
                                              const size_t* /*region*/, size_t /*dst_offset*/,
                                              cl_uint /*num_events_in_wait_list*/, const cl_event* /*event_wait_list*/,
                                              cl_event* /*event*/) {
  return refuse_command(command_queue);
}

cl_int CL_API_CALL clEnqueueCopyBufferToImage(cl_command_queue command_queue, cl_mem /*src_buffer*/,
                                              cl_mem /*dst_image*/, size_t /*src_offset*/, const size_t* /*dst_origin*/,
                                              const size_t* /*region*/, cl_uint /*num_events_in_wait_list*/,
                                              const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return refuse_command(command_queue);
}

cl_int CL_API_CALL clEnqueueFillImage(cl_command_queue command_queue, cl_mem /*image*/, const void* /*fill_color*/,
                                      const size_t* /*origin*/, const size_t* /*region*/,
                                      cl_uint /*num_events_in_wait_list*/, const cl_event* /*event_wait_list*/,
                                      cl_event* /*event*/) {
  return refuse_command(command_queue);
}

void* CL_API_CALL clEnqueueMapImage(cl_command_queue command_queue, cl_mem /*image*/, cl_bool /*blocking_map*/,
                                    cl_map_flags /*map_flags*/, const size_t* /*origin*/, const size_t* /*region*/,
                                    size_t* /*image_row_pitch*/, size_t* /*image_slice_pitch*/,
                                    cl_uint /*num_events_in_wait_list*/, const cl_event* /*event_wait_list*/,
                                    cl_event* /*event*/, cl_int* errcode_ret) {
  return create(errcode_ret, [&]() -> ClResult<void*> { return ClError{refuse_command(command_queue)}; });
}

}  // extern "C"
