// SPDX-License-Identifier: Apache-2.0
// An int from malloc, written by the CPU, read and written by a kernel, read by the CPU. The device has page tables of
// its own, so this takes a device page fault, a migration and a replay, and a CPU fault to come home: the driver's
// statistics tell. On the ATS device (MIRRORCL_DEVICE=ats) it takes nothing of the kind: its page tables are the
// application's own.
#include <CL/cl_ext_mirrorcl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "examples/opencl.h"

namespace {

const char* const kSource = "kernel void add(global int* p) { *p += 37; }";

cl_mirror_statistics_mirrorcl statistics(const example::OpenCl& cl) {
  const auto read = reinterpret_cast<clGetMirrorStatisticsMIRRORCL_fn>(
      clGetExtensionFunctionAddressForPlatform(cl.platform, "clGetMirrorStatisticsMIRRORCL"));
  if (read == nullptr) example::fail("the driver lacks cl_mirrorcl_statistics");
  cl_mirror_statistics_mirrorcl counters{};
  example::check(read(cl.device, sizeof counters, &counters, nullptr), "clGetMirrorStatisticsMIRRORCL");
  return counters;
}

bool shares_page_tables(const example::OpenCl& cl) {
  char version[1024] = "";
  example::check(clGetDeviceInfo(cl.device, CL_DEVICE_VERSION, sizeof version, version, nullptr), "clGetDeviceInfo");
  return std::strstr(version, "(ATS device") != nullptr;
}

unsigned long long more(cl_ulong after, cl_ulong before) {
  return after - before;
}

}  // namespace

int main() {
  example::OpenCl cl = example::open_mirrorcl();
  cl_kernel kernel = example::build_kernel(cl, kSource, "add");

  int* p = static_cast<int*>(std::malloc(sizeof *p));
  *p = 5;
  std::printf("The CPU wrote 5 to %p, which malloc returned.\n", static_cast<void*>(p));

  const auto before = statistics(cl);
  example::launch(cl, kernel, 1, {p});
  example::check(clFinish(cl.queue), "clFinish");
  const auto after_kernel = statistics(cl);
  const int value = *p;
  const auto at_home = statistics(cl);

  std::printf("A kernel added 37 to it: %llu device fault(s), %llu page(s) migrated to the device, %llu replay(s).\n",
              more(after_kernel.device_faults, before.device_faults),
              more(after_kernel.pages_to_device, before.pages_to_device), more(after_kernel.replays, before.replays));
  std::printf("The CPU reads %d: %llu CPU fault(s), %llu page(s) came home, %llu became coherent.\n", value,
              more(at_home.cpu_faults, before.cpu_faults), more(at_home.pages_to_host, before.pages_to_host),
              more(at_home.coherent_upgrades, before.coherent_upgrades));
  example::expect(value == 42, "the kernel's sum");
  if (shares_page_tables(cl)) {
    std::printf("The device shares the application's page tables: there is nothing to fault on and nothing to move.\n");
    example::expect(at_home.device_faults == 0 && at_home.cpu_faults == 0, "no fault");
  } else {
    example::expect(after_kernel.device_faults > before.device_faults, "the device took a page fault");
    example::expect(after_kernel.pages_to_device > before.pages_to_device, "the page migrated");
    example::expect(after_kernel.replays > before.replays, "the access was replayed");
    example::expect(at_home.cpu_faults > before.cpu_faults, "the CPU's access faulted");
  }

  std::free(p);
  example::close(cl, kernel);
  return 0;
}
