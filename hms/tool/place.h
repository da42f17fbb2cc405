// SPDX-License-Identifier: Apache-2.0
// Where one page of a live process is, as a sentence without subject and full stop: "is in device memory only; ...".
#pragma once

#include <cstdint>
#include <string>

#include "hms/live_view.h"
#include "hms/residency.h"

namespace mirrorcl::hms::tool {

// `state`: null if the process publishes none.
std::string place_text(const LiveState* state, std::uint64_t address, const PageResidency& page);

}  // namespace mirrorcl::hms::tool
