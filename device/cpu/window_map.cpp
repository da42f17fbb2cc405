// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/window_map.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/memory_file.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "device/cpu/fork_handlers.h"
#include "device/window.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace mirrorcl::device {
namespace {

using window::Region;

// One after the other in the address space and in the file.
constexpr Region kShared{window::kControl.start, window::kCode.end() - window::kControl.start};
static_assert(window::kControl.end() == window::kHeap.start && window::kHeap.end() == window::kCode.start);

int g_window_fd = -1;
// The ranges are ours; in the child of a fork they still are, while the shared file is not.
bool g_reserved = false;

void* at(const Region& region) {
  return reinterpret_cast<void*>(region.start);
}

// Reserves `region` without access. Returns 0, or an errno value.
int reserve(const Region& region) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void* got = mmap(at(region), region.size, PROT_NONE, kFlags, -1, 0);
  if (got == at(region)) return 0;
  if (got == MAP_FAILED) return errno;
  munmap(got, region.size);
  return EEXIST;
}

Result<void> reserve_regions() {
  constexpr std::array kOurs = {window::kFirmware, kShared, window::kUnits};
  // The mirror maps these for itself, and may have done so already; it checks that nobody else did.
  constexpr std::array kMirrors = {window::kPinned, window::kStaging, window::kViews};
  int error = 0;
  std::size_t done = 0;
  for (; done < kOurs.size() && error == 0; ++done) error = reserve(kOurs[done]);
  for (std::size_t i = 0; i < kMirrors.size() && error == 0; ++i) {
    int result = reserve(kMirrors[i]);
    if (result != EEXIST) error = result;
  }
  if (error == 0) return {};
  if (error != EEXIST) {
    return fail_errno(
        fmt::format("cannot reserve 64 GiB of address space at {:#x} (is RLIMIT_AS set?)", window::kWindow.start),
        error);
  }
  for (std::size_t i = 0; i + 1 < done; ++i) munmap(at(kOurs[i]), kOurs[i].size);
  return fail(
      ErrorCode::kNotSupported,
      fmt::format("the address range {:#x}-{:#x}, which MirrorCL needs for itself, is already in use by this process",
                  window::kWindow.start, window::kWindow.end()));
}

Result<void> reserve_once() {
  if (!g_reserved) {
    auto reserved = reserve_regions();
    if (!reserved) return reserved;
    g_reserved = true;
    register_fork_handlers();
  }
  auto file = create_memory_file("mirrorcl-window", kShared.size);
  if (!file) return tl::unexpected<Error>(file.error());
  UniqueFd fd(*file);
  constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  if (mmap(at(kShared), kShared.size, kReadWrite, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd.get(), 0) == MAP_FAILED) {
    return fail_errno("cannot map the window's shared regions", errno);
  }
  if (madvise(at(kShared), kShared.size, MADV_DONTFORK) != 0) return fail_errno("madvise(MADV_DONTFORK)", errno);
  // For the MirroredDevices' own state; the ATS device places the firmware there.
  if (int error = renew_region(window::kFirmware, kReadWrite); error != 0) {
    return fail_errno("cannot map the window's private region", error);
  }
  g_window_fd = fd.release();
  return {};
}

}  // namespace

Result<void> reserve_window() {
  static Mutex mutex;
  ScopedLock lock(mutex);
  if (g_window_fd >= 0) return {};
  return reserve_once();
}

int window_fd() noexcept {
  return g_window_fd;
}

int renew_region(const Region& region, int protection) noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  return mmap(at(region), region.size, protection, kFlags, -1, 0) == MAP_FAILED ? errno : 0;
}

void discard_window_memory(void* start, std::size_t size) noexcept {
  madvise(start, size, MADV_REMOVE);
}

void detach_window_after_fork() noexcept {
  if (g_window_fd < 0) return;
  (void)renew_region(kShared, PROT_READ | PROT_WRITE);
  close(g_window_fd);
  g_window_fd = -1;
}

}  // namespace mirrorcl::device
