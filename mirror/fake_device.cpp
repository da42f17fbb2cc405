// SPDX-License-Identifier: Apache-2.0
#include "mirror/fake_device.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/memory_file.h"
#include "base/raw_syscall.h"
#include "base/running_time.h"

namespace mirrorcl::mirror {
namespace {

constexpr std::chrono::seconds kPatience{10};

}  // namespace

FakeDevice::FakeDevice(bool private_memory) : mappable_(!private_memory) {
  memory_.reset(memfd_create("mirrorcl-device-memory", MFD_CLOEXEC));
  fault_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  lost_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  void* table = mmap(nullptr, kTableSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!memory_ || !fault_event_ || !lost_event_ || table == MAP_FAILED ||
      ftruncate(memory_.get(), off_t{1} << 47) != 0) {
    std::perror("the fake device cannot be made");
    std::abort();
  }
  madvise(table, kTableSize, MADV_DONTFORK);
  table_ = static_cast<std::atomic<std::uint8_t>*>(table);
  view_ = mmap(nullptr, kBlock, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

FakeDevice::~FakeDevice() {
  munmap(table_, kTableSize);
  munmap(view_, kBlock);
}

void FakeDevice::lock() noexcept {
  std::uint32_t expected = 0;
  while (!lock_.compare_exchange_weak(expected, 1, std::memory_order_acquire)) {
    expected = 0;
    raw_syscall(SYS_sched_yield);
  }
}

void FakeDevice::wake() noexcept {
  changes_.fetch_add(1);
  futex_wake(&changes_, 1 << 30);
}

device::FaultKind FakeDevice::read(const void* address, void* value, std::size_t size) {
  return access(reinterpret_cast<std::uint64_t>(address), value, size, Access::kRead);
}

device::FaultKind FakeDevice::write(const void* address, const void* value, std::size_t size) {
  return access(reinterpret_cast<std::uint64_t>(address), const_cast<void*>(value), size, Access::kReadWrite);
}

device::FaultKind FakeDevice::access(std::uint64_t address, void* value, std::size_t size, Access wanted) {
  std::uint64_t page = address & ~std::uint64_t{4095};
  std::uint32_t requester = next_requester_.fetch_add(1);
  RunningTime time;
  // The value travels through the device's own memory: the caller's may be away, and must not be touched under the
  // lock.
  char(&transfer)[kTransferSize] = transfers_[requester % kMaxFaults];
  if (size > kTransferSize) return device::FaultKind::kUnknown;
  if (wanted == Access::kReadWrite) __builtin_memcpy(transfer, value, size);
  for (bool faulted = false;;) {
    std::uint32_t seen = changes_.load();
    lock();
    auto allowed = page < kTableSize * 4096 ? static_cast<Access>(entry(page).load()) : Access::kNone;
    if (allowed == Access::kReadWrite || (allowed == Access::kRead && wanted == Access::kRead)) {
      const FakeFiles::Mapping* file = files_.at(address);
      long done =
          raw_syscall(wanted == Access::kRead ? SYS_pread64 : SYS_pwrite64, file == nullptr ? memory_.get() : file->fd,
                      transfer, size, file == nullptr ? address : file->offset + (address - file->range.start));
      unlock();
      if (wanted == Access::kRead) __builtin_memcpy(value, transfer, size);
      return done == static_cast<long>(size) ? device::FaultKind::kNone : device::FaultKind::kUnknown;
    }
    for (Refusal& refusal : refusals_) {
      if (!refusal.used || refusal.requester != requester) continue;
      refusal.used = false;
      device::FaultKind kind = refusal.kind;
      unlock();
      return kind;
    }
    if (!faulted) {
      // As in D: a woken access that still finds no mapping faults again.
      for (Pending& pending : pending_) {
        if (pending.used) continue;
        pending = {{page, wanted, allowed != Access::kNone, requester}, true};
        break;
      }
      fault_count_.fetch_add(1);
      faulted = true;
      unlock();
      std::uint64_t one = 1;
      raw_syscall(SYS_write, fault_event_.get(), &one, sizeof one);
    } else {
      unlock();
    }
    if (lost_reported_.load() || !time.is_within(kPatience)) return device::FaultKind::kUnknown;
    futex_wait(&changes_, seen, RunningTime::kLook.count());
    if (changes_.load() != seen) {
      // Still pending faults need no repetition.
      lock();
      bool waiting = false;
      for (const Pending& pending : pending_)
        waiting = waiting || (pending.used && pending.fault.requester == requester);
      faulted = waiting;
      unlock();
    }
  }
}

int FakeDevice::next_faults(std::span<DeviceFault> faults) noexcept {
  std::uint64_t count;
  raw_syscall(SYS_read, fault_event_.get(), &count, sizeof count);
  int taken = 0;
  lock();
  for (Pending& pending : pending_) {
    if (!pending.used || static_cast<std::size_t>(taken) == faults.size()) continue;
    faults[static_cast<std::size_t>(taken++)] = pending.fault;
    pending.used = false;
  }
  unlock();
  return taken;
}

int FakeDevice::copy_in(Range range, const void* source) noexcept {
  if (agains_ > 0 && agains_-- > 0) return -EAGAIN;
  if (copies_to_fail_ > 0 && copies_to_fail_-- > 0) {
    if (auto what = before_failing_.exchange(nullptr)) what();
    return -copy_error_;
  }
  return write_memory_file(memory_.get(), range.start, source, range.size);
}

int FakeDevice::zero_fill(Range range) noexcept {
  return fill_memory_file(memory_.get(), range.start, range.size);
}

int FakeDevice::copy_out(Range range, void* destination) noexcept {
  return read_memory_file(memory_.get(), range.start, destination, range.size);
}

int FakeDevice::map(Range range, Access access) noexcept {
  lock();
  for (std::uint64_t page = range.start; page < range.end(); page += 4096) {
    if (entry(page).load() == 0) entry(page).store(static_cast<std::uint8_t>(access));
  }
  unlock();
  wake();
  return 0;
}

int FakeDevice::protect(Range range, Access access) noexcept {
  lock();
  for (std::atomic<std::uint64_t>& large : large_pages_) {
    if (access != Access::kRead || large.load() != range.start / kBlock * kBlock) continue;
    set_entries({large.load(), kBlock}, Access::kNone);
    large = 0;
  }
  for (std::uint64_t page = range.start; page < range.end(); page += 4096) {
    if (entry(page).load() != 0) entry(page).store(static_cast<std::uint8_t>(access));
  }
  unlock();
  if (access == Access::kReadWrite) wake();
  return 0;
}

// Entries that change; the table is sparse.
void FakeDevice::set_entries(Range range, Access access) noexcept {
  const auto wanted = static_cast<std::uint8_t>(access);
  for (std::uint64_t page = range.start; page < range.end(); page += 4096) {
    if (entry(page).load() != wanted) entry(page).store(wanted);
  }
}

int FakeDevice::unmap(Range range) noexcept {
  lock();
  set_entries(range, Access::kNone);
  const int result = punch_memory_file(memory_.get(), range.start, range.size);
  unlock();
  return result;
}

std::size_t FakeDevice::mapped_files() noexcept {
  lock();
  const std::size_t count = files_.size();
  unlock();
  return count;
}

int FakeDevice::map_file(Range range, int fd, std::uint64_t offset, Access access) noexcept {
  if (!maps_files_) return -EOPNOTSUPP;
  lock();
  const int result = files_.map(range, fd, offset);
  set_entries(range, result == 0 ? access : Access::kNone);
  unlock();
  wake();
  return result;
}

int FakeDevice::unmap_file(Range range) noexcept {
  lock();
  files_.cut(range);
  set_entries(range, Access::kNone);
  unlock();
  return 0;
}

void* FakeDevice::allocate_block(std::uint64_t address) noexcept {
  if (blocks_offered_ <= 0 || blocks_offered_-- <= 0) return nullptr;
  const long mapped =
      raw_syscall(SYS_mmap, view_, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_.get(), address);
  return mapped < 0 ? nullptr : view_;
}

int FakeDevice::map_block(std::uint64_t address) noexcept {
  if (blocks_offered_ < blocks_to_fail_) return -ENOMEM;
  for (std::atomic<std::uint64_t>& large : large_pages_) {
    std::uint64_t none = 0;
    if (large.compare_exchange_strong(none, address)) break;
  }
  ++blocks_mapped_;
  return map({address, kBlock}, Access::kReadWrite);
}

int FakeDevice::replay(Range) noexcept {
  wake();
  return 0;
}

int FakeDevice::fail(const DeviceFault& fault, device::FaultKind kind) noexcept {
  lock();
  // An access that faulted twice may be refused twice; nobody collects the second. The oldest gives way.
  refusals_[next_refusal_++ % kMaxFaults] = {fault.requester, kind, true};
  unlock();
  wake();
  return 0;
}

std::uint8_t FakeDevice::snapshot(const void* address) {
  std::uint64_t page = reinterpret_cast<std::uint64_t>(address) & ~std::uint64_t{4095};
  auto access = static_cast<Access>(entry(page).load());
  off_t data = lseek(memory_.get(), static_cast<off_t>(page), SEEK_DATA);
  bool present = data == static_cast<off_t>(page);
  if (!present) return kNone;
  return access == Access::kNone ? kAbsentMapping : access == Access::kRead ? kRead : kRead | kWrite;
}

void FakeDevice::lose() {
  std::uint64_t one = 1;
  (void)!::write(lost_event_.get(), &one, sizeof one);
}

void FakeDevice::restart() {
  std::uint64_t count;
  (void)!::read(lost_event_.get(), &count, sizeof count);
  lost_reported_ = false;
  files_.clear();
  madvise(table_, kTableSize, MADV_DONTNEED);
}

}  // namespace mirrorcl::mirror
