// SPDX-License-Identifier: Apache-2.0
// Where the driver's own files lie: beside the library, in the folder mirrorcl/, when built and when installed.
#pragma once

#include <string>

namespace mirrorcl {

// The full path of `name` (say "mirrorcl-firmware") in MIRRORCL_LIBRARY_DIR, else in the folder mirrorcl/ beside the
// shared object or executable that this code was linked into (a test in build/bin finds build/lib/mirrorcl). Does not
// check that the file exists.
std::string private_file(const std::string& name);

}  // namespace mirrorcl
