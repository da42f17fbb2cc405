// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/window_heap.h"

#include <bit>

#include "device/cpu/window_map.h"

namespace mirrorcl::device {
namespace {

constexpr std::size_t kSmallest = 64;

}  // namespace

// Four classes per power of two from 256 bytes on (64, 128, 192, 256, 320, 384, 448, 512, 640 ...): at most a fifth is
// wasted.
std::uint32_t WindowHeap::class_of(std::size_t bytes) {
  if (bytes <= 4 * kSmallest) return bytes == 0 ? 0 : static_cast<std::uint32_t>((bytes - 1) / kSmallest);
  auto power = static_cast<std::uint32_t>(std::bit_width(bytes - 1) - 1);  // 2^power < bytes <= 2^(power + 1)
  auto quarter = static_cast<std::uint32_t>((bytes - 1) >> (power - 2)) & 3;
  return 4 + (power - 8) * 4 + quarter;
}

std::size_t WindowHeap::class_size(std::uint32_t size_class) {
  if (size_class < 4) return (size_class + 1) * kSmallest;
  std::uint32_t power = 8 + (size_class - 4) / 4;
  return (std::size_t{1} << power) + ((size_class - 4) % 4 + 1) * (std::size_t{1} << (power - 2));
}

WindowHeap::WindowHeap()
    : spans_(window::kHeap.start, window::kHeap.size, kSpan), span_class_(window::kHeap.size / kSpan, 0) {}

void* WindowHeap::allocate(std::size_t bytes) {
  ScopedLock lock(mutex_);
  std::uint32_t size_class = class_of(bytes);
  if (size_class >= kClassCount) {
    auto start = spans_.allocate(bytes);
    if (!start) return nullptr;
    span_class_[(*start - window::kHeap.start) / kSpan] = kLarge;
    return reinterpret_cast<void*>(*start);
  }
  SizeClass& list = classes_[size_class];
  if (!list.free.empty()) {
    void* memory = list.free.back();
    list.free.pop_back();
    return memory;
  }
  std::size_t size = class_size(size_class);
  if (list.fresh_end - list.fresh < size) {
    auto start = spans_.allocate(kSpan);
    if (!start) return nullptr;
    span_class_[(*start - window::kHeap.start) / kSpan] = static_cast<std::uint8_t>(size_class + 1);
    list.fresh = *start;
    list.fresh_end = *start + kSpan;
  }
  void* memory = reinterpret_cast<void*>(list.fresh);
  list.fresh += size;
  return memory;
}

void WindowHeap::free(void* memory) {
  auto address = reinterpret_cast<std::uint64_t>(memory);
  if (!window::kHeap.contains(address)) return;
  ScopedLock lock(mutex_);
  std::uint8_t& span = span_class_[(address - window::kHeap.start) / kSpan];
  if (span == kLarge) {
    std::uint64_t size = spans_.free(address);
    if (size == 0) return;
    span = 0;
    discard_window_memory(memory, size);
  } else if (span != 0) {
    classes_[span - 1U].free.push_back(memory);
  }
}

}  // namespace mirrorcl::device
