// SPDX-License-Identifier: Apache-2.0
#include "hms/hms.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "hms/json_file.h"
#include "hms/reference_machine.h"

extern "C" int hms_from_c(const char* path);

namespace mirrorcl::hms {
namespace {

TEST(CInterface, AnswersAsTheCppOneDoes) {
  const std::string path = ::testing::TempDir() + "hms-c-" + std::to_string(getpid()) + ".json";
  std::ofstream(path) << to_json(reference_machine());
  EXPECT_EQ(hms_from_c(path.c_str()), 0) << "the line of hms_c_test.c";
  std::remove(path.c_str());
}

}  // namespace
}  // namespace mirrorcl::hms
