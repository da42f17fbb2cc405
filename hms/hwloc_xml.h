// SPDX-License-Identifier: Apache-2.0
// Lets hwloc 2 read the XML files that hwloc 3 writes.
#pragma once

#include <string>

namespace mirrorcl::hms {

// `xml` as hwloc 2 understands it: its version, the numbers of I/O device types, and the facts about the machine put
// where version 2 has them. What is not of version 3 comes back unchanged. Tags that only version 3 knows stay: hwloc 2
// skips them.
std::string as_hwloc_2_xml(std::string xml);

}  // namespace mirrorcl::hms
