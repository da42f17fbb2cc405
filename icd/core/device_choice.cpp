// SPDX-License-Identifier: Apache-2.0
#include "icd/core/device_choice.h"

#include "base/options.h"
#include "mirror/mirror.h"

namespace mirrorcl::icd {

Result<DeviceChoice> choose_device() {
  if (const std::string& reason = options().disable_reason; !reason.empty()) {
    return fail(ErrorCode::kNotSupported, reason);
  }
  if (options().device == DeviceKind::kAts) return DeviceChoice{true, "chosen by MIRRORCL_DEVICE"};
  const auto mirror = mirror::Mirror::probe();
  if (mirror) return DeviceChoice{.reason = {}, .without = std::string(*mirror)};
  if (options().device == DeviceKind::kMirrored) return tl::unexpected(mirror.error());
  return DeviceChoice{true, mirror.error().message};
}

}  // namespace mirrorcl::icd
