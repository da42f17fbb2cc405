// SPDX-License-Identifier: Apache-2.0
// A device that cannot be had is shown with the reason, and refuses contexts with the error that 4.4 names.
#include <cstdlib>
#include <string>

#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

class UnavailableDevice : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { setenv("MIRRORCL_DISABLE", "1", 1); }  // before the library is opened
  cl_device_id device = Driver::get().device;
};

TEST_F(UnavailableDevice, SaysSoAndWhy) {
  ASSERT_NE(device, nullptr);
  cl_bool available = CL_TRUE;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_AVAILABLE, sizeof available, &available, nullptr), CL_SUCCESS);
  EXPECT_EQ(available, cl_bool{CL_FALSE});
  char version[500];
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_VERSION, sizeof version, version, nullptr), CL_SUCCESS);
  EXPECT_EQ(std::string(version).rfind("OpenCL 3.0 MirrorCL ", 0), 0u) << version;
  EXPECT_NE(std::string(version).find("MIRRORCL_DISABLE"), std::string::npos) << version;
  cl_device_svm_capabilities svm = 1;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_SVM_CAPABILITIES, sizeof svm, &svm, nullptr), CL_SUCCESS);
  EXPECT_EQ(svm, 0u);
}

TEST_F(UnavailableDevice, RefusesContextsAndTellsTheCallback) {
  std::string message;
  const auto note = [](const char* text, const void*, std::size_t, void* data) {
    *static_cast<std::string*>(data) = text;
  };
  cl_int error = 1;
  EXPECT_EQ(cl().clCreateContext(nullptr, 1, &device, note, &message, &error), nullptr);
  EXPECT_EQ(error, CL_DEVICE_NOT_AVAILABLE);
  EXPECT_NE(message.find("MIRRORCL_DISABLE"), std::string::npos) << message;
}

}  // namespace
}  // namespace mirrorcl::icd::testing
