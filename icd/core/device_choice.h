// SPDX-License-Identifier: Apache-2.0
// Which kind of device this process gets: the mirrored one, with page tables of its own, or the ATS device, which uses
// the application's.
#pragma once

#include <string>

#include "base/result.h"

namespace mirrorcl::icd {

struct DeviceChoice {
  bool ats = false;
  std::string reason;        // why ATS, in one sentence; empty otherwise
  std::string without = {};  // what the mirrored device has to do without on this kernel, in a few words
};

// By MIRRORCL_DEVICE, and by what kernel and permissions allow; starts nothing, takes well under a millisecond. An
// error if there can be no device at all.
Result<DeviceChoice> choose_device();

}  // namespace mirrorcl::icd
