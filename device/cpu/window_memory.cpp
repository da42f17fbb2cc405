// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/window_memory.h"

#include <utility>

#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

void empty(const window::Region& region) noexcept {
  discard_window_memory(reinterpret_cast<void*>(region.start), region.size);
}

}  // namespace

std::shared_ptr<WindowMemory> WindowMemory::get() {
  static Mutex mutex;
  static std::weak_ptr<WindowMemory> current;
  ScopedLock lock(mutex);
  std::shared_ptr<WindowMemory> memory = current.lock();
  if (!memory) current = memory = std::shared_ptr<WindowMemory>(new WindowMemory);
  return memory;
}

WindowMemory::WindowMemory() {
  empty(window::kSharedControl);
  empty(window::kHeap);
  empty(window::kCode);
}

void* WindowMemory::allocate_code(std::size_t bytes) noexcept {
  ScopedLock lock(mutex_);
  auto start = code_.allocate(bytes);
  return start ? reinterpret_cast<void*>(*start) : nullptr;
}

std::uint64_t WindowMemory::code_size(void* memory) noexcept {
  ScopedLock lock(mutex_);
  return code_.size_of(reinterpret_cast<std::uint64_t>(memory));
}

void WindowMemory::free_code(void* memory) noexcept {
  ScopedLock lock(mutex_);
  const std::uint64_t size = code_.free(reinterpret_cast<std::uint64_t>(memory));
  if (size != 0) discard_window_memory(memory, size);
}

bool WindowMemory::agree_on_symbols(Symbols symbols) {
  ScopedLock lock(mutex_);
  if (!symbols_.empty()) return symbols == symbols_;
  symbols_ = std::move(symbols);
  return true;
}

std::uint64_t WindowMemory::symbol(const char* name) const noexcept {
  auto found = symbols_.find(name);
  return found != symbols_.end() ? found->second : 0;
}

void WindowMemory::lock() noexcept {
  mutex_.lock();
  heap_.mutex().lock();
}

void WindowMemory::unlock() noexcept {
  heap_.mutex().unlock();
  mutex_.unlock();
}

}  // namespace mirrorcl::device
