// SPDX-License-Identifier: Apache-2.0
#include "device/ats/ats_device.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <atomic>

#include "base/futex.h"
#include "device/ats/firmware_image.h"
#include "device/cpu/cpu_device_impl.h"
#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

class AtsDevice final : public CpuDeviceImpl {
 public:
  explicit AtsDevice(const CpuDeviceOptions& options) : CpuDeviceImpl(0, options) {}
  ~AtsDevice() override;

  static Result<std::unique_ptr<CpuDevice>> create(const CpuDeviceOptions& options);

  // --- mirror::DeviceOperations: every mapping is there already, and nothing is anywhere else
  mirror::DeviceCapabilities capabilities() const noexcept override {
    return {.memory_cpu_mappable = true,
            .native_atomics = true,
            .parallel_copies = false,
            .memory_size = memory_size_,
            .shares_page_tables = true};
  }
  std::uint64_t memory_in_use() const noexcept override { return 0; }
  int memory_fd() const noexcept override { return -1; }
  int fault_fd() const noexcept override { return -1; }
  int next_faults(std::span<mirror::DeviceFault>) noexcept override { return 0; }
  int copy_in(mirror::Range, const void*) noexcept override { return -EOPNOTSUPP; }
  int zero_fill(mirror::Range) noexcept override { return -EOPNOTSUPP; }
  int copy_out(mirror::Range, void*) noexcept override { return -EOPNOTSUPP; }
  int map(mirror::Range, mirror::Access) noexcept override { return 0; }
  int protect(mirror::Range, mirror::Access) noexcept override { return 0; }
  int unmap(mirror::Range) noexcept override { return 0; }
  int replay(mirror::Range) noexcept override { return 0; }
  int fail(const mirror::DeviceFault&, FaultKind) noexcept override { return -EINVAL; }

  // --- application threads
  Result<void> share(mirror::Range) override { return {}; }
  Result<void> unshare(mirror::Range) override { return {}; }
  Result<void> make_executable(void* start, std::size_t bytes) override;
  void after_fork_in_child() noexcept override;

 private:
  Result<DeviceProcess> launch() override;
  Result<void> adopt_process() override;
  Result<void> watch_process() override;
  void disown_process() noexcept override {}
  void make_writable(void* start, std::size_t bytes) noexcept override;

  static void* watch(void* device);
  void wait_for_watcher() noexcept;
  static void remove_units() noexcept;

  // 1 while the watcher, the thread that waits for the process's end, uses this object.
  FutexWord watching_{0};
};

Result<std::unique_ptr<CpuDevice>> AtsDevice::create(const CpuDeviceOptions& options) {
  if (!claim_window()) return window_is_taken();
  auto device = std::make_unique<AtsDevice>(options);
  if (auto started = device->start_first_process(); !started) return tl::unexpected<Error>(started.error());
  return device;
}

AtsDevice::~AtsDevice() {
  shut_down();
  if (!forked_.load()) {
    wait_for_watcher();
    remove_firmware();
    remove_units();
    // The next device empties it.
    make_writable(reinterpret_cast<void*>(window::kCode.start), window::kCode.size);
  }
  release_window();
}

Result<DeviceProcess> AtsDevice::launch() {
  // The former process has ended, so its watcher is about to.
  wait_for_watcher();
  auto image = place_firmware(host_->firmware);
  if (!image) return tl::unexpected<Error>(image.error());
  remove_units();
  return start_sharing_device_process(host_->firmware, image->entry, image->stack_top);
}

Result<void> AtsDevice::adopt_process() {
  // The units' stacks are none of a forked child's business.
  auto* units = reinterpret_cast<void*>(window::kUnits.start);
  if (madvise(units, window::kUnits.size, MADV_DONTFORK) != 0) return fail_errno("madvise(MADV_DONTFORK)", errno);
  return {};
}

Result<void> AtsDevice::watch_process() {
  // The thread never handles a signal of the application.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  watching_.store(1);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int error = pthread_create(&thread, &detached, watch, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&detached);
  if (error == 0) return {};
  watching_.store(0);
  return fail_errno("starting the thread that watches the device process", error);
}

// In a thread of its own; process_ does not change meanwhile.
void* AtsDevice::watch(void* argument) {
  auto* device = static_cast<AtsDevice*>(argument);
  pthread_setname_np(pthread_self(), "mirrorcl-ats");
  pollfd process{device->process_.pidfd.get(), POLLIN, 0};
  while (poll(&process, 1, -1) <= 0) {
  }
  device->on_lost();
  FutexWord* watching = &device->watching_;
  watching->store(0, std::memory_order_release);
  futex_wake(watching, INT32_MAX);  // by its address: the device may be gone
  return nullptr;
}

void AtsDevice::wait_for_watcher() noexcept {
  while (watching_.load(std::memory_order_acquire) != 0) futex_wait(&watching_, 1);
}

void AtsDevice::remove_units() noexcept {
  (void)renew_region(window::kUnits, PROT_NONE);
}

Result<void> AtsDevice::make_executable(void* start, std::size_t bytes) {
  if (mprotect(start, bytes, PROT_READ | PROT_EXEC) == 0) return {};
  return fail_errno("making a kernel executable (does a security policy forbid it?)", errno);
}

void AtsDevice::make_writable(void* start, std::size_t bytes) noexcept {
  (void)mprotect(start, bytes, PROT_READ | PROT_WRITE);
}

void AtsDevice::after_fork_in_child() noexcept {
  remove_firmware();
  remove_units();
  CpuDeviceImpl::after_fork_in_child();
}

}  // namespace

Result<std::unique_ptr<CpuDevice>> start_ats_device(const CpuDeviceOptions& options) {
  if (auto reserved = reserve_window(); !reserved) return tl::unexpected<Error>(reserved.error());
  return AtsDevice::create(options);
}

}  // namespace mirrorcl::device
