// SPDX-License-Identifier: Apache-2.0
// Builds through the real service, and runs what comes out in this process.
#include "compiler/client.h"

#include <CL/cl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <numeric>
#include <thread>

#include "compiler/test_support.h"

namespace mirrorcl::compiler {
namespace {

using testing::HasSubstr;
using testing::Not;

class CompilerClient : public testing::Test {
 protected:
  BuildOutcome build(const std::string& source, const std::string& options = {}) {
    return client_->build({source, options});
  }
  // One work-item that writes one int.
  int run_to_int(const std::string& source, const std::string& options = {}) {
    BuildOutcome built = build(source, options);
    int result = -1;
    int* pointer = &result;
    run_kernel(kernel_of(built, "k"), {&pointer}, 1, 1);
    return result;
  }
  std::unique_ptr<Client> client_ = Client::create();
};

TEST_F(CompilerClient, builds_a_kernel_that_computes_the_right_result) {
  BuildOutcome built = build(
      "kernel void add(global const int* a, global int* b, int c) {\n"
      "  size_t i = get_global_id(0);\n  b[i] = a[i] + c;\n}\n");
  std::vector<int> a(256), b(256);
  std::iota(a.begin(), a.end(), 0);
  int* a_pointer = a.data();
  int* b_pointer = b.data();
  int c = 7;
  run_kernel(kernel_of(built, "add"), {&a_pointer, &b_pointer, &c}, 4, 64);
  for (int i = 0; i < 256; ++i) ASSERT_EQ(b[static_cast<std::size_t>(i)], i + 7);
}

}  // namespace
}  // namespace mirrorcl::compiler
