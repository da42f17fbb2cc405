// SPDX-License-Identifier: Apache-2.0
// Runs the tests, or, started by a test as `--child=NAME`, the part of a test that needs a process of its own.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "conformance/child.h"

int main(int argc, char** argv) {
  // By default the driver of this build tree; a user's own choice stands. XDG_CACHE_HOME keeps the tests out of the
  // user's cache.
  setenv("OCL_ICD_VENDORS", MIRRORCL_TEST_ICD, 0);          // NOLINT(concurrency-mt-unsafe)
  setenv("XDG_CACHE_HOME", MIRRORCL_TEST_CACHE_FOLDER, 0);  // NOLINT(concurrency-mt-unsafe)
  ::testing::InitGoogleTest(&argc, argv);
  const std::string flag = "--child=";
  if (argc > 1 && std::string(argv[1]).rfind(flag, 0) == 0) {
    return mirrorcl::conformance::run_child(std::string(argv[1]).substr(flag.size()));
  }
  return RUN_ALL_TESTS();
}
