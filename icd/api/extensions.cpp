// SPDX-License-Identifier: Apache-2.0
// Our own extension, and the slots of extensions that we do not offer: some loaders call those unchecked, so each
// returns the error that its extension names for objects that have nothing to do with it.
#include <CL/cl_egl.h>
#include <CL/cl_ext.h>
#include <CL/cl_gl.h>

#include <cstring>

#include "CL/cl_ext_mirrorcl.h"
#include "icd/api/guard.h"
#include "icd/core/context.h"
#include "icd/core/runtime.h"
#include "icd/dispatch.h"

using namespace mirrorcl::icd;

namespace {

cl_mirror_statistics_mirrorcl read_statistics() {
  cl_mirror_statistics_mirrorcl out{};
  Runtime* runtime = Runtime::if_started();
  if (runtime == nullptr || runtime->mirror() == nullptr) return out;
  const mirrorcl::mirror::Statistics in = runtime->mirror()->statistics();
  out.device_faults = in.device_faults;
  out.device_faults_failed = in.device_faults_failed;
  out.cpu_faults = in.cpu_faults;
  out.replays = in.replays;
  out.pages_to_device = in.pages_to_device;
  out.bytes_to_device = in.bytes_to_device;
  out.pages_zero_filled = in.pages_zero_filled;
  out.pages_to_host = in.pages_to_host;
  out.bytes_to_host = in.bytes_to_host;
  out.coherent_upgrades = in.coherent_upgrades;
  out.snapshot_pages = in.snapshot_pages;
  out.events_unmap = in.events_unmap;
  out.events_remap = in.events_remap;
  out.events_remove = in.events_remove;
  out.retries = in.retries;
  out.device_losses = in.device_losses;
  out.pages_duplicated = in.pages_duplicated;
  out.bytes_brought_for_launches = in.bytes_brought_for_launches;
  return out;
}

// cl_khr_gl_sharing: "CL_INVALID_CONTEXT if context is not a valid context or was not created from a GL context".
template <typename Handle>
Handle no_gl_context(cl_int* errcode_ret) noexcept {
  if (errcode_ret != nullptr) *errcode_ret = CL_INVALID_CONTEXT;
  return nullptr;
}

// cl_khr_egl_image: "CL_INVALID_OPERATION if there are no devices associated with context that support EGL images".
template <typename Handle>
ClResult<Handle> no_egl(cl_context context) {
  MIRRORCL_VALID(context);
  return ClError{CL_INVALID_OPERATION};
}

// Commands of either: "CL_INVALID_CONTEXT if the context of the queue was not created from a GL context".
cl_int no_shared_objects(cl_command_queue command_queue) noexcept {
  MIRRORCL_VALID(command_queue);
  return CL_INVALID_CONTEXT;
}

}  // namespace

extern "C" {

cl_int CL_API_CALL clGetMirrorStatisticsMIRRORCL(cl_device_id device, size_t size,
                                                 cl_mirror_statistics_mirrorcl* statistics, size_t* size_ret) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(device);
    MIRRORCL_GUARD(statistics != nullptr || size_ret != nullptr, CL_INVALID_VALUE);
    MIRRORCL_GUARD(statistics == nullptr || size <= sizeof(cl_mirror_statistics_mirrorcl), CL_INVALID_VALUE);
    if (statistics != nullptr) {
      const cl_mirror_statistics_mirrorcl now = read_statistics();
      std::memcpy(statistics, &now, size);
    }
    if (size_ret != nullptr) *size_ret = sizeof(cl_mirror_statistics_mirrorcl);
    return CL_SUCCESS;
  });
}

cl_mem CL_API_CALL clCreateFromGLBuffer(cl_context /*context*/, cl_mem_flags /*flags*/, cl_GLuint /*bufobj*/,
                                        cl_int* errcode_ret) {
  return no_gl_context<cl_mem>(errcode_ret);
}

cl_mem CL_API_CALL clCreateFromGLTexture(cl_context /*context*/, cl_mem_flags /*flags*/, cl_GLenum /*target*/,
                                         cl_GLint /*miplevel*/, cl_GLuint /*texture*/, cl_int* errcode_ret) {
  return no_gl_context<cl_mem>(errcode_ret);
}

cl_mem CL_API_CALL clCreateFromGLTexture2D(cl_context /*context*/, cl_mem_flags /*flags*/, cl_GLenum /*target*/,
                                           cl_GLint /*miplevel*/, cl_GLuint /*texture*/, cl_int* errcode_ret) {
  return no_gl_context<cl_mem>(errcode_ret);
}

cl_mem CL_API_CALL clCreateFromGLTexture3D(cl_context /*context*/, cl_mem_flags /*flags*/, cl_GLenum /*target*/,
                                           cl_GLint /*miplevel*/, cl_GLuint /*texture*/, cl_int* errcode_ret) {
  return no_gl_context<cl_mem>(errcode_ret);
}

cl_mem CL_API_CALL clCreateFromGLRenderbuffer(cl_context /*context*/, cl_mem_flags /*flags*/,
                                              cl_GLuint /*renderbuffer*/, cl_int* errcode_ret) {
  return no_gl_context<cl_mem>(errcode_ret);
}

cl_event CL_API_CALL clCreateEventFromGLsyncKHR(cl_context /*context*/, cl_GLsync /*sync*/, cl_int* errcode_ret) {
  return no_gl_context<cl_event>(errcode_ret);
}

cl_int CL_API_CALL clGetGLObjectInfo(cl_mem memobj, cl_gl_object_type* /*gl_object_type*/,
                                     cl_GLuint* /*gl_object_name*/) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(memobj);
    return CL_INVALID_GL_OBJECT;
  });
}

cl_int CL_API_CALL clGetGLTextureInfo(cl_mem memobj, cl_gl_texture_info /*param_name*/, size_t /*param_value_size*/,
                                      void* /*param_value*/, size_t* /*param_value_size_ret*/) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(memobj);
    return CL_INVALID_GL_OBJECT;
  });
}

cl_int CL_API_CALL clGetGLContextInfoKHR(const cl_context_properties* properties, cl_gl_context_info /*param_name*/,
                                         size_t /*param_value_size*/, void* /*param_value*/,
                                         size_t* /*param_value_size_ret*/) {
  // The properties can name no GL context that this platform knows.
  return properties == nullptr ? CL_INVALID_VALUE : CL_INVALID_GL_SHAREGROUP_REFERENCE_KHR;
}

cl_int CL_API_CALL clEnqueueAcquireGLObjects(cl_command_queue command_queue, cl_uint /*num_objects*/,
                                             const cl_mem* /*mem_objects*/, cl_uint /*num_events_in_wait_list*/,
                                             const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return no_shared_objects(command_queue);
}

cl_int CL_API_CALL clEnqueueReleaseGLObjects(cl_command_queue command_queue, cl_uint /*num_objects*/,
                                             const cl_mem* /*mem_objects*/, cl_uint /*num_events_in_wait_list*/,
                                             const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return no_shared_objects(command_queue);
}

cl_int CL_API_CALL clEnqueueAcquireEGLObjectsKHR(cl_command_queue command_queue, cl_uint /*num_objects*/,
                                                 const cl_mem* /*mem_objects*/, cl_uint /*num_events_in_wait_list*/,
                                                 const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return no_shared_objects(command_queue);
}

cl_int CL_API_CALL clEnqueueReleaseEGLObjectsKHR(cl_command_queue command_queue, cl_uint /*num_objects*/,
                                                 const cl_mem* /*mem_objects*/, cl_uint /*num_events_in_wait_list*/,
                                                 const cl_event* /*event_wait_list*/, cl_event* /*event*/) {
  return no_shared_objects(command_queue);
}

cl_mem CL_API_CALL clCreateFromEGLImageKHR(cl_context context, CLeglDisplayKHR /*egldisplay*/,
                                           CLeglImageKHR /*eglimage*/, cl_mem_flags /*flags*/,
                                           const cl_egl_image_properties_khr* /*properties*/, cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return no_egl<cl_mem>(context); });
}

cl_event CL_API_CALL clCreateEventFromEGLSyncKHR(cl_context context, CLeglSyncKHR /*sync*/, CLeglDisplayKHR /*display*/,
                                                 cl_int* errcode_ret) {
  return create(errcode_ret, [&] { return no_egl<cl_event>(context); });
}

cl_int CL_API_CALL clCreateSubDevicesEXT(cl_device_id in_device, const cl_device_partition_property_ext* /*properties*/,
                                         cl_uint /*num_entries*/, cl_device_id* /*out_devices*/,
                                         cl_uint* /*num_devices*/) {
  return call([&]() -> cl_int {
    MIRRORCL_VALID(in_device);
    return CL_INVALID_VALUE;  // cl_ext_device_fission: "... values in properties are not supported by the device"
  });
}

}  // extern "C"
