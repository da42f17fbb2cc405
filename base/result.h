// SPDX-License-Identifier: Apache-2.0
// Result<T>: a value, or an Error that says in one sentence what could not be had and why. The only way in which
// failure travels inside MirrorCL; no exceptions cross a folder's interface. The interface is that of std::expected
// (C++23).
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace mirrorcl {

// Why something could not be done, in terms that a caller can act on. The OpenCL layer maps these to the code that the
// specification names for the call at hand.
enum class ErrorCode {
  kInvalidArgument,    // the caller's value is wrong
  kNotSupported,       // this kernel, permission set or PoCL cannot do it; the message names what is missing
  kOutOfHostMemory,    // host allocation failed
  kOutOfDeviceMemory,  // device memory or window space is used up
  kDeviceLost,         // the device process died
  kCompilerLost,       // the compiler service died or cannot be started
  kBuildFailed,        // the program is wrong; the build log says where
  kSystem,             // an unexpected system-call failure; the message holds errno's text
};

struct Error {
  ErrorCode code;
  std::string message;  // one sentence for a person, no trailing newline
};

template <typename T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

// fail(kSystem) with the text of `error_number` (an errno value) appended to `what`.
tl::unexpected<Error> fail_errno(std::string what, int error_number);

}  // namespace mirrorcl
