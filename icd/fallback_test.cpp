// SPDX-License-Identifier: Apache-2.0
// Where the mirror cannot run, the ATS device takes its place, says why in CL_DEVICE_VERSION and in the log, and does
// everything that the mirrored one does. The test takes userfaultfd away from itself with a seccomp filter, as
// containers do; each test is a process of its own.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>

#include "icd/driver_under_test.h"

namespace mirrorcl::icd::testing {
namespace {

constexpr std::uint32_t kNewUserfaultfd = 0xaa00;  // USERFAULTFD_IOC_NEW, the ioctl of /dev/userfaultfd

enum class Denied { kEverywhere, kInTheDeviceProcess };

// From now on userfaultfd is refused with EPERM to this process and its children; kInTheDeviceProcess: only if made for
// accesses of user mode, as the device process does.
void deny_userfaultfd(Denied denied) {
  constexpr int kLoad = BPF_LD | BPF_W | BPF_ABS;
  constexpr int kEqual = BPF_JMP | BPF_JEQ | BPF_K;
  constexpr auto kArgument = [](int index) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * static_cast<std::size_t>(index));
  };
  const std::uint32_t if_not_user_mode = denied == Denied::kEverywhere ? SECCOMP_RET_ERRNO | EPERM : SECCOMP_RET_ALLOW;
  sock_filter program[] = {
      BPF_STMT(kLoad, offsetof(seccomp_data, nr)),
      BPF_JUMP(kEqual, SYS_userfaultfd, 0, 2),
      BPF_STMT(kLoad, kArgument(0)),
      BPF_STMT(BPF_JMP | BPF_JA, 4),
      BPF_JUMP(kEqual, SYS_ioctl, 0, 5),
      BPF_STMT(kLoad, kArgument(1)),
      BPF_JUMP(kEqual, kNewUserfaultfd, 0, 3),
      BPF_STMT(kLoad, kArgument(2)),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1 /* UFFD_USER_MODE_ONLY */, 2, 0),
      BPF_STMT(BPF_RET | BPF_K, if_not_user_mode),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
  };
  const sock_fprog description{static_cast<unsigned short>(sizeof program / sizeof program[0]), program};
  ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &description), 0);
}

std::string version_of(cl_device_id device) {
  char version[1000] = "";
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_VERSION, sizeof version, version, nullptr), CL_SUCCESS);
  return version;
}

class Fallback : public ContextTest {
 protected:
  void SetUp() override {}  // each test first takes something away

  void run_a_kernel_on_the_heap() {
    cl_int error = -1;
    cl_command_queue queue = cl().clCreateCommandQueueWithProperties(context, device, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    cl_program program = build("kernel void add(global int* p) { *p += 37; }");
    cl_kernel kernel = cl().clCreateKernel(program, "add", &error);
    ASSERT_EQ(error, CL_SUCCESS);
    auto value = std::make_unique<int>(5);
    EXPECT_EQ(cl().clSetKernelArgSVMPointer(kernel, 0, value.get()), CL_SUCCESS);
    const std::size_t one = 1;
    EXPECT_EQ(cl().clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
    EXPECT_EQ(cl().clFinish(queue), CL_SUCCESS);
    EXPECT_EQ(*value, 42);
    cl().clReleaseKernel(kernel);
    cl().clReleaseProgram(program);
    cl().clReleaseCommandQueue(queue);
  }
};

TEST_F(Fallback, TheAtsDeviceServesWhereUserfaultfdIsForbidden) {
  deny_userfaultfd(Denied::kEverywhere);
  ASSERT_NO_FATAL_FAILURE(ContextTest::SetUp());
  EXPECT_NE(version_of(device).find("(ATS device: this process may not handle page faults"), std::string::npos)
      << version_of(device);
  cl_bool available = CL_FALSE;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_AVAILABLE, sizeof available, &available, nullptr), CL_SUCCESS);
  EXPECT_EQ(available, cl_bool{CL_TRUE});
  cl_device_svm_capabilities svm = 0;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_SVM_CAPABILITIES, sizeof svm, &svm, nullptr), CL_SUCCESS);
  EXPECT_EQ(svm, cl_device_svm_capabilities{CL_DEVICE_SVM_COARSE_GRAIN_BUFFER | CL_DEVICE_SVM_FINE_GRAIN_BUFFER |
                                            CL_DEVICE_SVM_FINE_GRAIN_SYSTEM | CL_DEVICE_SVM_ATOMICS});
  ::testing::internal::CaptureStderr();
  run_a_kernel_on_the_heap();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("ATS device"), std::string::npos) << log;
  EXPECT_NE(log.find("this process may not handle page faults"), std::string::npos) << log;
}

TEST_F(Fallback, AlsoWhereOnlyTheDeviceProcessFindsOut) {
  deny_userfaultfd(Denied::kInTheDeviceProcess);
  ASSERT_NO_FATAL_FAILURE(ContextTest::SetUp());
  EXPECT_EQ(version_of(device).find("ATS"), std::string::npos) << version_of(device);
  run_a_kernel_on_the_heap();
  EXPECT_NE(version_of(device).find("(ATS device: the device process cannot have a userfaultfd"), std::string::npos)
      << version_of(device);
}

TEST_F(Fallback, NoneIsTakenAgainstTheUsersWill) {
  setenv("MIRRORCL_DEVICE", "mirrored", 1);  // before the library is opened
  deny_userfaultfd(Denied::kEverywhere);
  device = Driver::get().device;
  cl_bool available = CL_TRUE;
  EXPECT_EQ(cl().clGetDeviceInfo(device, CL_DEVICE_AVAILABLE, sizeof available, &available, nullptr), CL_SUCCESS);
  EXPECT_EQ(available, cl_bool{CL_FALSE});
  EXPECT_NE(version_of(device).find("(not available: this process may not handle page faults"), std::string::npos)
      << version_of(device);
}

TEST_F(Fallback, TheAtsDeviceCanBeChosen) {
  setenv("MIRRORCL_DEVICE", "ats", 1);
  ASSERT_NO_FATAL_FAILURE(ContextTest::SetUp());
  EXPECT_NE(version_of(device).find("(ATS device: chosen by MIRRORCL_DEVICE)"), std::string::npos)
      << version_of(device);
  run_a_kernel_on_the_heap();
}

}  // namespace
}  // namespace mirrorcl::icd::testing
