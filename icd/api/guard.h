// SPDX-License-Identifier: Apache-2.0
// What entry points are written with: a column of guards, each naming the specification's error, then one call.
//
//   cl_int CL_API_CALL clRetainContext(cl_context context) {
//     return call([&]() -> cl_int {
//       MIRRORCL_VALID(context);
//       ...
//       return CL_SUCCESS;
//     });
//   }
//
//   cl_context CL_API_CALL clCreateContext(..., cl_int* errcode_ret) {
//     return create(errcode_ret, [&]() -> ClResult<cl_context> {
//       MIRRORCL_GUARD(num_devices != 0, CL_INVALID_VALUE);
//       ...
//     });
//   }
#pragma once

#include <CL/cl.h>

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <string_view>
#include <tl/expected.hpp>

#include "base/log.h"
#include "icd/core/object.h"

namespace mirrorcl::icd {

// A value, or the OpenCL error code to return.
template <typename T>
using ClResult = tl::expected<T, cl_int>;

// An error code that turns into whatever the function at hand returns.
struct ClError {
  cl_int code;
  operator cl_int() const noexcept { return code; }
  template <typename T>
  operator ClResult<T>() const {
    return tl::unexpected<cl_int>(code);
  }
};

// Returns `error` from the surrounding function unless `condition` holds.
#define MIRRORCL_GUARD(condition, error)                        \
  do {                                                          \
    if (!(condition)) return ::mirrorcl::icd::ClError{(error)}; \
  } while (false)

// Returns the handle's own error unless it is valid.
#define MIRRORCL_VALID(handle)                      \
  MIRRORCL_GUARD(::mirrorcl::icd::is_valid(handle), \
                 ::mirrorcl::icd::HandleTraits<std::remove_cv_t<std::remove_reference_t<decltype(handle)>>>::kInvalid)

// Returns the error that `expression` (a cl_int) gives unless it is CL_SUCCESS.
#define MIRRORCL_TRY(expression)                                            \
  do {                                                                      \
    if (const cl_int guard_error = (expression); guard_error != CL_SUCCESS) \
      return ::mirrorcl::icd::ClError{guard_error};                         \
  } while (false)

// Runs the body of an entry point that returns an error code. No exception leaves it: the only one we expect is
// bad_alloc.
template <typename Body>
cl_int call(Body&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return CL_OUT_OF_HOST_MEMORY;
  } catch (const std::exception& error) {
    log_error("unexpected exception in an entry point: {}", error.what());
    return CL_OUT_OF_RESOURCES;
  }
}

// The same for one that returns a handle or pointer and puts the code into *errcode_ret (may be null). The body returns
// ClResult.
template <typename Body>
auto create(cl_int* errcode_ret, Body&& body) noexcept -> typename decltype(body())::value_type {
  typename decltype(body())::value_type value{};
  const cl_int code = call([&]() -> cl_int {
    auto result = body();
    if (!result) return result.error();
    value = *result;
    return CL_SUCCESS;
  });
  if (errcode_ret != nullptr) *errcode_ret = code;
  return value;
}

// An array with its count: both given and every handle valid, or neither. `inconsistent` if only one is given.
template <typename Handle>
cl_int check_handles(cl_uint count, const Handle* handles, cl_int inconsistent) noexcept {
  if ((count == 0) != (handles == nullptr)) return inconsistent;
  for (cl_uint i = 0; i < count; ++i) {
    if (!is_valid(handles[i])) return HandleTraits<Handle>::kInvalid;
  }
  return CL_SUCCESS;
}

// clRetain... and clRelease... of any handle.
template <typename Handle>
cl_int retain_handle(Handle handle) noexcept {
  MIRRORCL_VALID(handle);
  handle->api_retain();
  return CL_SUCCESS;
}
template <typename Handle>
cl_int release_handle(Handle handle) noexcept {
  MIRRORCL_VALID(handle);
  return handle->api_release() ? CL_SUCCESS : HandleTraits<Handle>::kInvalid;
}

// The last three parameters of every clGet...Info. Each function writes one answer: CL_INVALID_VALUE if `value` is
// given and too small; `size_ret` always gets the whole size.
class Info {
 public:
  Info(std::size_t size, void* value, std::size_t* size_ret) noexcept
      : size_(size), value_(value), size_ret_(size_ret) {}

  cl_int bytes(const void* data, std::size_t count) const noexcept {
    if (value_ != nullptr) {
      if (size_ < count) return CL_INVALID_VALUE;
      if (count != 0) std::memcpy(value_, data, count);
    }
    if (size_ret_ != nullptr) *size_ret_ = count;
    return CL_SUCCESS;
  }
  // A scalar, handle or structure: T must be the type that the specification names.
  template <typename T>
  cl_int value(const T& answer) const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    return bytes(&answer, sizeof(T));
  }
  template <typename T>
  cl_int array(std::span<const T> answer) const noexcept {
    return bytes(answer.data(), answer.size_bytes());
  }
  template <typename Container>
  cl_int list(const Container& answer) const noexcept {
    return bytes(answer.data(), answer.size() * sizeof(*answer.data()));
  }
  // With the terminating zero.
  cl_int string(std::string_view answer) const noexcept {
    if (value_ != nullptr) {
      if (size_ < answer.size() + 1) return CL_INVALID_VALUE;
      if (!answer.empty()) std::memcpy(value_, answer.data(), answer.size());
      static_cast<char*>(value_)[answer.size()] = '\0';
    }
    if (size_ret_ != nullptr) *size_ret_ = answer.size() + 1;
    return CL_SUCCESS;
  }
  // For answers that the caller's buffer is itself a list of destinations of (CL_PROGRAM_BINARIES).
  std::size_t size() const noexcept { return size_; }
  void* destination() const noexcept { return value_; }
  void set_size_ret(std::size_t size) const noexcept {
    if (size_ret_ != nullptr) *size_ret_ = size;
  }

 private:
  std::size_t size_;
  void* value_;
  std::size_t* size_ret_;
};

}  // namespace mirrorcl::icd
