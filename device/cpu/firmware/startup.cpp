// SPDX-License-Identifier: Apache-2.0
// The device process from its first instruction to its end: builds the device's address space and hands its userfaultfd
// to the application (or runs in the application's memory as it is) and starts the compute units.
#include "device/cpu/startup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <span>

#include "base/pass_descriptors.h"
#include "base/raw_syscall.h"
#include "device/cpu/firmware/symbols.h"
#include "device/cpu/firmware/unit.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

extern "C" {
alignas(64) char mirrorcl_control_stack[64 * 1024];
extern char mirrorcl_control_stack_end;
asm(".globl mirrorcl_control_stack_end\n.set mirrorcl_control_stack_end, mirrorcl_control_stack + 65536\n");
std::uint8_t mirrorcl_has_avx;
[[noreturn]] void mirrorcl_firmware_main(std::uint64_t memory);
}

namespace mirrorcl::firmware {

bool shares_memory = false;
constinit device::DeviceControl device_control{0};

namespace {

// Newer than Debian 12's headers.
constexpr unsigned long kUserfaultfdIocNew = 0xaa00;  // _IO(0xAA, 0x00)
constexpr std::uint64_t kNeededFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |
                                          UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                                          UFFD_FEATURE_THREAD_ID;
constexpr std::uint64_t kWantedFeatures = UFFD_FEATURE_EXACT_ADDRESS;

struct alignas(16) ControlThread {
  void* self;
  std::byte zeros[1024];
};
ControlThread control_thread;

// A thread of the control's kind needs no unit; musl's functions only look at %fs:0.
void set_fs_base(void* base) noexcept {
  raw_syscall(SYS_arch_prctl, 0x1002 /* ARCH_SET_FS */, base);
}

// Tells A how the start went; those of device::HelloDescriptor that are there go along.
void send_hello(device::Hello hello, int uffd, int pagemap) noexcept {
  const int fds[] = {uffd, pagemap};
  const std::size_t count = uffd < 0 ? 0 : pagemap < 0 ? 1 : 2;
  (void)send_with_descriptors(device::kSocketFd, &hello, sizeof hello, std::span(fds, count));
}

device::Hello hello_of(std::int32_t error_number, const char* step) noexcept {
  device::Hello hello{};
  hello.magic = device::kHelloMagic;
  hello.version = device::kProtocolVersion;
  hello.error_number = error_number;
  for (std::size_t i = 0; i + 1 < sizeof hello.failed_step && step[i] != 0; ++i) hello.failed_step[i] = step[i];
  return hello;
}

// The result of a step that the start cannot go on without.
long must(long result, const char* step) noexcept {
  if (result >= 0 || result < -4095) return result;
  send_hello(hello_of(static_cast<std::int32_t>(-result), step), -1, -1);
  for (;;) raw_syscall(SYS_exit_group, 71);
}

// Addresses above 2^63 do not occur; mmap's result is an address or -errno.
void map_fixed(std::uint64_t start, std::uint64_t size, int protection, int flags, int fd, std::uint64_t offset,
               const char* step) noexcept {
  must(raw_syscall(SYS_mmap, start, size, protection, flags | MAP_FIXED, fd, offset), step);
}

void map_private(std::uint64_t start, std::uint64_t size, const char* step) noexcept {
  map_fixed(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, step);
  // A unit uses little of its stacks; huge pages would be cleared for nothing.
  raw_syscall(SYS_madvise, start, size, MADV_NOHUGEPAGE);
}

void raise_limit(int resource) noexcept {
  rlimit limit{};
  if (raw_syscall(SYS_prlimit64, 0, resource, nullptr, &limit) < 0) return;
  limit.rlim_cur = limit.rlim_max;
  raw_syscall(SYS_prlimit64, 0, resource, &limit, nullptr);
}

void become_daemon() noexcept {
  // The application's terminal, working directory and core-dump settings are none of this process's business; neither
  // is a dump of 128 TiB of sparse mapping.
  raw_syscall(SYS_setsid);
  raw_syscall(SYS_chdir, "/");
  raw_syscall(SYS_prctl, PR_SET_NAME, "mirrorcl-device");
  // A property of the memory, and so the application's where that is shared.
  if (!shares_memory) raw_syscall(SYS_prctl, PR_SET_DUMPABLE, 0);
  rlimit none{0, 0};
  raw_syscall(SYS_prlimit64, 0, RLIMIT_CORE, &none, nullptr);
  raise_limit(RLIMIT_AS);
  raise_limit(RLIMIT_DATA);
}

// What A has left in the socket.
void take_start_message() noexcept {
  device::Start start{};
  const long size =
      must(raw_syscall(SYS_recvfrom, device::kSocketFd, &start, sizeof start, MSG_DONTWAIT, nullptr, nullptr),
           "receiving the start message");
  if (size != static_cast<long>(sizeof start) || start.version != device::kProtocolVersion)
    must(-EPROTONOSUPPORT, "comparing versions");
  if (start.device >= window::kMaxDevices) must(-ERANGE, "finding its place in the window");
  device_control = device::DeviceControl(start.device);
}

void map_window() noexcept {
  using namespace window;
  const auto shared = [](const Region& region, int protection, const char* step) {
    map_fixed(region.start, region.size, protection, MAP_SHARED | MAP_NORESERVE, device::kWindowFd,
              region.start - kControl.start, step);
  };
  shared(kSharedControl, PROT_READ | PROT_WRITE, "mapping what devices share of the window's control region");
  shared(device_control.region(), PROT_READ | PROT_WRITE, "mapping the device's part of the control region");
  shared(kHeap, PROT_READ | PROT_WRITE, "mapping the window's heap");
  shared(kCode, PROT_READ | PROT_WRITE | PROT_EXEC, "mapping the window's code region");
}

// From here on the process has no memory but the window and the device memory: the stack that exec made and the vDSO
// are gone.
void take_over_address_space() noexcept {
  const auto take = [](std::uint64_t start, std::uint64_t end) {
    map_fixed(start, end - start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, device::kDeviceMemoryFd, start,
              "mapping device memory over the address space");
  };
  take(window::kUserSpaceStart, window::kWindow.start);
  take(window::kWindow.end(), window::kUserSpaceEnd);
}

long open_userfaultfd() noexcept {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
  long fd = raw_syscall(SYS_userfaultfd, kFlags);
  if (fd >= 0) return fd;
  // Forbidden by a container's filter, say, while the device node may have been granted.
  long node = raw_syscall(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (node < 0) return fd;
  long second = raw_syscall(SYS_ioctl, node, kUserfaultfdIocNew, kFlags);
  raw_syscall(SYS_close, node);
  return second >= 0 ? second : fd;
}

int make_mmu(std::uint64_t* features) noexcept {
  long probe = must(open_userfaultfd(), "userfaultfd");
  uffdio_api api{UFFD_API, 0, 0};
  must(raw_syscall(SYS_ioctl, probe, UFFDIO_API, &api), "UFFDIO_API");
  raw_syscall(SYS_close, probe);
  if ((api.features & kNeededFeatures) != kNeededFeatures)
    must(-EOPNOTSUPP, "userfaultfd with write protection of shared memory");
  int uffd = static_cast<int>(must(open_userfaultfd(), "userfaultfd"));
  *features = kNeededFeatures | (api.features & kWantedFeatures);
  api = {UFFD_API, *features, 0};
  must(raw_syscall(SYS_ioctl, uffd, UFFDIO_API, &api), "UFFDIO_API with features");
  return uffd;
}

void register_range(int uffd, std::uint64_t start, std::uint64_t end) noexcept {
  uffdio_register request{};
  request.range = {start, end - start};
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
  must(raw_syscall(SYS_ioctl, uffd, UFFDIO_REGISTER, &request), "UFFDIO_REGISTER");
}

// Returns the userfaultfd that drives it.
int make_own_address_space(std::uint64_t* features) noexcept {
  int uffd = make_mmu(features);
  take_over_address_space();
  register_range(uffd, window::kUserSpaceStart, window::kWindow.start);
  register_range(uffd, window::kWindow.end(), window::kUserSpaceEnd);
  return uffd;
}

// Of this process, -1 for none. Where the process is not dumpable its files in /proc are root's, so that this comes
// first.
int open_own_pagemap(std::int32_t* error_number) noexcept {
  const long fd = raw_syscall(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  *error_number = fd < 0 ? static_cast<std::int32_t>(-fd) : 0;
  return fd < 0 ? -1 : static_cast<int>(fd);
}

bool avx_usable() noexcept {
  std::uint32_t a = 1;
  std::uint32_t c = 0;
  asm volatile("cpuid" : "+a"(a), "+c"(c) : : "ebx", "edx");
  constexpr std::uint32_t kOsxsaveAndAvx = 3U << 27;
  if ((c & kOsxsaveAndAvx) != kOsxsaveAndAvx) return false;
  std::uint32_t low;
  std::uint32_t high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & 6) == 6;
}

void start_unit(std::uint32_t index) noexcept {
  const std::uint64_t space = unit_space(index);
  map_private(space + kUnitOffset, kUnitSize, "mapping a unit's state");
  map_private(space + kLoopStackOffset, kLoopStackSize, "mapping a unit's stack");
  map_private(space + kSignalStackOffset, kSignalStackSize, "mapping a unit's signal stack");
  map_private(space + kPrintfOffset, kPrintfSize, "mapping a unit's print buffer");
  map_private(space + kKernelStackOffset, kKernelStackSize, "mapping a kernel stack");
  map_private(space + kLocalMemoryOffset, window::kUnitLocalMemory, "mapping local memory");
  Unit* unit = unit_at(index);
  unit->self = unit;
  unit->index = index;
  unit->next_queue = index;
  unit->state = &device_control.block().units[index];
  constexpr unsigned long kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                                   CLONE_SETTLS | CLONE_PARENT_SETTID;
  auto* stack = reinterpret_cast<void*>(space + kLoopStackOffset + kLoopStackSize);
  must(mirrorcl_start_thread(kFlags, stack, &unit->state->thread_id, unit, run_unit), "starting a unit's thread");
}

std::uint32_t publish_symbols() noexcept {
  device::FirmwareSymbol* symbols = device_control.symbols();
  std::uint32_t count = 0;
  for (const MirrorclSymbol* from = mirrorcl_symbols; from->name != nullptr; ++from) {
    if (count == device::kMaxSymbols) must(-ENOSPC, "publishing the firmware's symbols");
    device::FirmwareSymbol& to = symbols[count++];
    std::size_t length = strlen(from->name);
    if (length >= sizeof to.name) must(-ENAMETOOLONG, from->name);
    memcpy(to.name, from->name, length + 1);
    to.address = reinterpret_cast<std::uint64_t>(from->address);
  }
  return count;
}

}  // namespace
}  // namespace mirrorcl::firmware

extern "C" [[noreturn]] void mirrorcl_firmware_main(std::uint64_t memory) {
  using namespace mirrorcl;
  using namespace mirrorcl::firmware;
  shares_memory = memory == device::kApplicationMemory;
  control_thread.self = &control_thread;
  set_fs_base(&control_thread);
  install_fault_handlers();
  std::int32_t pagemap_error = 0;
  const int pagemap = shares_memory ? -1 : open_own_pagemap(&pagemap_error);
  become_daemon();
  mirrorcl_has_avx = avx_usable() ? 1 : 0;
  take_start_message();
  if (!shares_memory) map_window();
  device::Hello hello = hello_of(0, "");
  hello.pagemap_error = pagemap_error;
  const int uffd = shares_memory ? -1 : make_own_address_space(&hello.features);
  hello.symbol_count = publish_symbols();
  must(raw_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
  for (std::uint32_t i = 0; i < device_control.block().unit_count; ++i) start_unit(i);
  raw_syscall(SYS_close, device::kWindowFd);
  raw_syscall(SYS_close, device::kDeviceMemoryFd);
  send_hello(hello, uffd, pagemap);
  if (pagemap >= 0) raw_syscall(SYS_close, pagemap);
  if (long result = restrict_control(); result < 0)
    die("seccomp of the control thread", static_cast<std::uint64_t>(-result));
  run_control();
}
