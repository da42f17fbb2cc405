// SPDX-License-Identifier: Apache-2.0
// What all devices of the process share of the window: memory for argument blocks, code space, and the addresses of the
// firmware's functions, so that an argument block or a loaded kernel serves any of them.
//
// Thread safety: all members, unless they say otherwise. For application threads only: the bookkeeping lies in ordinary
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "device/cpu/range_allocator.h"
#include "device/cpu/window_heap.h"
#include "device/window.h"

namespace mirrorcl::device {

class WindowMemory {
 public:
  using Symbols = std::unordered_map<std::string, std::uint64_t>;  // name -> address

  // The process's. The first device that asks finds the regions empty; they are kept until the last one has let go.
  // The window must be reserved.
  static std::shared_ptr<WindowMemory> get();
  WindowMemory(const WindowMemory&) = delete;
  WindowMemory& operator=(const WindowMemory&) = delete;

  void* allocate(std::size_t bytes) noexcept { return heap_.allocate(bytes); }
  void free(void* memory) noexcept { heap_.free(memory); }

  void* allocate_code(std::size_t bytes) noexcept;
  // Bytes, in whole pages, that were allocated at `memory`; 0 if it was not.
  std::uint64_t code_size(void* memory) noexcept;
  void free_code(void* memory) noexcept;

  // The first device process says what they are; false if a later one's differ.
  bool agree_on_symbols(Symbols symbols);
  // 0 if there is no such function. After agree_on_symbols().
  std::uint64_t symbol(const char* name) const noexcept;

  // Held over a fork, so that the child finds everything unlocked.
  void lock() noexcept MIRRORCL_ACQUIRE(mutex_, heap_.mutex());
  void unlock() noexcept MIRRORCL_RELEASE(mutex_, heap_.mutex());

 private:
  WindowMemory();

  WindowHeap heap_;
  Mutex mutex_;
  RangeAllocator code_ MIRRORCL_GUARDED_BY(mutex_){window::kCode.start, window::kCode.size, window::kPageSize};
  Symbols symbols_;  // does not change any more once it is not empty
};

}  // namespace mirrorcl::device
