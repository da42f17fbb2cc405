// SPDX-License-Identifier: Apache-2.0
// Memory that never migrates: the window's pinned region. The service thread, the host agent and the copy threads have
// their stacks and all their data here, so that serving a fault cannot itself fault on a page that is away.
#pragma once

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory_resource>

#include "base/result.h"
#include "device/window.h"

namespace mirrorcl::mirror {

// Gives `region` of the window the protection `protection` as fresh private memory. The range must be free, or reserved
// without access (by whoever reserved the window). kNotSupported if something else lies there.
Result<void> map_window_region(const window::Region& region, int protection);
// Turns `region` back into a reservation without access.
void unmap_window_region(const window::Region& region) noexcept;

// Hands out the pinned region front to back; what is given back is handed out again for the same size class (powers of
// two). Not one of the C++ library's pools: their code lies in a shared object that binds its calls lazily, and binding
// one in a pinned thread would read the dynamic linker's data. Locking: allocate before the threads start, then by the
// service thread only.
class PinnedArena final : public std::pmr::memory_resource {
 public:
  PinnedArena() : next_(window::kPinned.start) {}

  std::size_t bytes_left() const noexcept { return window::kPinned.end() - next_; }

 private:
  struct Free {
    Free* next;
  };
  static constexpr unsigned kClasses = 40;
  static unsigned size_class(std::size_t bytes);

  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  std::uint64_t next_;
  std::array<Free*, kClasses> free_{};
};

// A thread whose stack, and with it its thread-local storage, lies in pinned memory. All signals are blocked in it.
class PinnedThread {
 public:
  static constexpr std::size_t kStackSize = 512 * 1024;  // without thread-local storage

  // `name`: at most 15 characters.
  Result<void> start(PinnedArena& arena, const char* name, void (*body)(void*), void* argument);
  void join() noexcept;

 private:
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  pthread_t thread_{};
  bool running_ = false;
};

}  // namespace mirrorcl::mirror
