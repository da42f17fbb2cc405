// SPDX-License-Identifier: Apache-2.0
// A device for tests, in the manner of the kernel's test_hmm: a page table and device memory in this process, accesses
// made by the test through read() and write(), which fault to the mirror and wait like a compute unit would, a fault
// counter, and a snapshot byte per page.
//
// The service thread calls it, so it must never migrate: put it into static storage, which lies in an object that the
// mirror keeps for itself. At most 64 accesses at a time.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "base/futex.h"
#include "base/memory_file.h"
#include "base/options.h"
#include "base/unique_fd.h"
#include "device/packet.h"
#include "mirror/device/operations.h"
#include "mirror/fake_files.h"

namespace mirrorcl::mirror {

class FakeDevice final : public DeviceOperations {
 public:
  // What the device sees of a page.
  enum Snapshot : std::uint8_t { kNone = 0x00, kRead = 0x01, kWrite = 0x02, kAbsentMapping = 0x20 };

  // private_memory: the CPU cannot map device memory.
  explicit FakeDevice(bool private_memory = options().private_memory);
  ~FakeDevice() override;

  // --- the test's side: a compute unit. Each waits at most ten seconds, then returns kUnknown.
  // kNone: done. Else the reason for which the mirror refused the access.
  device::FaultKind read(const void* address, void* value, std::size_t size);
  device::FaultKind write(const void* address, const void* value, std::size_t size);
  template <typename T>
  T load(const T* address) {
    T value{};
    last_error_ = read(address, &value, sizeof value);
    return value;
  }
  template <typename T>
  void store(T* address, T value) {
    last_error_ = write(address, &value, sizeof value);
  }
  device::FaultKind last_error() const { return last_error_; }

  std::uint8_t snapshot(const void* address);
  std::size_t mapped_files() noexcept;
  std::uint64_t faults() const { return fault_count_.load(); }
  // Pages of device memory in use, by the file's own count of blocks.
  std::uint64_t pages_in_use() const { return memory_in_use() / 4096; }
  // What capabilities() says from now on.
  void limit_memory(std::uint64_t bytes) { memory_size_ = bytes; }

  // The device is gone: lost_fd becomes readable.
  void lose();
  void restart();
  bool lost_was_reported() const { return lost_reported_.load(); }
  // The next `count` calls of copy_in fail with `error`.
  void fail_copies(int count, int error) {
    copy_error_ = error;
    copies_to_fail_ = count;
  }
  // Called, by the mirror's thread, before such a call fails.
  void before_failing(void (*what)()) { before_failing_ = what; }
  void answer_again(int count) { agains_ = count; }
  // What capabilities() says from now on, and whether map_file works.
  void allow_parallel_copies() { parallel_copies_ = true; }
  void map_no_files() { maps_files_ = false; }
  // The next `count` blocks that are asked for are large pages, the last `failing` of which cannot be mapped. A large
  // page is unmapped as a whole when a part of it is protected, until the last of it has been unmapped.
  void offer_blocks(int count, int failing = 0) {
    blocks_to_fail_ = failing;
    blocks_offered_ = count;
  }
  std::uint64_t blocks_mapped() const { return blocks_mapped_.load(); }

  // --- the mirror's side
  DeviceCapabilities capabilities() const noexcept override {
    return {mappable_, true, parallel_copies_, memory_size_.load()};
  }
  std::uint64_t memory_in_use() const noexcept override { return memory_file_in_use(memory_.get()); }
  int memory_fd() const noexcept override { return memory_.get(); }
  int fault_fd() const noexcept override { return fault_event_.get(); }
  int next_faults(std::span<DeviceFault> faults) noexcept override;
  int lost_fd() const noexcept override { return lost_event_.get(); }
  void on_lost() noexcept override { lost_reported_ = true; }
  int copy_in(Range range, const void* source) noexcept override;
  int zero_fill(Range range) noexcept override;
  int copy_out(Range range, void* destination) noexcept override;
  int map(Range range, Access access) noexcept override;
  int protect(Range range, Access access) noexcept override;
  int unmap(Range range) noexcept override;
  int replay(Range range) noexcept override;
  int map_file(Range range, int fd, std::uint64_t offset, Access access) noexcept override;
  int unmap_file(Range range) noexcept override;
  void* allocate_block(std::uint64_t address) noexcept override;
  int map_block(std::uint64_t address) noexcept override;
  int fail(const DeviceFault& fault, device::FaultKind kind) noexcept override;

 private:
  // One byte of Access per page of the user's address space, sparse.
  std::atomic<std::uint8_t>& entry(std::uint64_t address) { return table_[address / 4096]; }
  device::FaultKind access(std::uint64_t address, void* value, std::size_t size, Access wanted);
  void set_entries(Range range, Access access) noexcept;
  void wake() noexcept;
  void lock() noexcept;
  void unlock() noexcept { lock_.store(0, std::memory_order_release); }

  static constexpr std::uint64_t kTableSize = (std::uint64_t{1} << 47) / 4096;
  static constexpr std::size_t kMaxFaults = 64;
  struct Pending {
    DeviceFault fault;
    bool used;
  };
  struct Refusal {
    std::uint32_t requester;
    device::FaultKind kind;
    bool used;
  };

  static constexpr std::size_t kTransferSize = 64;
  static constexpr std::uint64_t kBlock = std::uint64_t{2} << 20;

  const bool mappable_;
  UniqueFd memory_;
  UniqueFd fault_event_;
  UniqueFd lost_event_;
  std::atomic<std::uint8_t>* table_ = nullptr;
  std::atomic<std::uint32_t> lock_{0};
  FutexWord changes_{0};  // bumped whenever an access may succeed or has been refused
  char transfers_[kMaxFaults][kTransferSize] = {};
  std::array<Pending, kMaxFaults> pending_{};
  std::array<Refusal, kMaxFaults> refusals_{};
  std::size_t next_refusal_ = 0;
  FakeFiles files_;
  std::atomic<std::uint32_t> next_requester_{1};
  std::atomic<std::uint64_t> fault_count_{0};
  std::atomic<std::uint64_t> memory_size_{std::uint64_t{1} << 40};
  std::atomic<bool> lost_reported_{false};
  std::atomic<int> copies_to_fail_{0};
  std::atomic<int> copy_error_{0};
  std::atomic<int> agains_{0};
  std::atomic<bool> parallel_copies_{false};
  std::atomic<bool> maps_files_{true};
  std::atomic<void (*)()> before_failing_{nullptr};
  void* view_ = nullptr;  // where a block is filled
  std::atomic<int> blocks_offered_{0};
  std::atomic<int> blocks_to_fail_{0};
  std::atomic<std::uint64_t> blocks_mapped_{0};
  std::array<std::atomic<std::uint64_t>, 16> large_pages_{};  // addresses of those that are mapped as a whole
  std::atomic<device::FaultKind> last_error_{device::FaultKind::kNone};  // of whichever thread was last
};

}  // namespace mirrorcl::mirror
