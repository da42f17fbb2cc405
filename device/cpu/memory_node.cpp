// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/memory_node.h"

#include <errno.h>
#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>

#include "base/unique_fd.h"

namespace mirrorcl::device {
namespace {

// What is mapped at a time. Nothing of it is ever touched, so it costs a hole of that size in the address space.
constexpr std::uint64_t kStep = std::uint64_t{4} << 40;
constexpr std::uint64_t kSmallestStep = std::uint64_t{1} << 30;
constexpr int kMaxNode = 1023;

}  // namespace

// A policy set on a shared mapping of a memory file is kept with the file, by offset.
Result<void> prefer_node(int fd, std::uint64_t size, int node) {
  if (node < 0 || node > kMaxNode) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("there is no NUMA node {}", node));
  }
  constexpr std::size_t kWordBits = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, (kMaxNode + 1) / kWordBits> mask{};
  mask[static_cast<std::size_t>(node) / kWordBits] = 1UL << (static_cast<std::size_t>(node) % kWordBits);
  std::uint64_t step = kStep;
  for (std::uint64_t offset = 0; offset < size;) {
    const std::uint64_t length = std::min(step, size - offset);
    void* start = mmap(nullptr, length, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(offset));
    if (start == MAP_FAILED && errno == ENOMEM && step > kSmallestStep) {
      step /= 2;  // no hole of that size, or a limit on address space
      continue;
    }
    if (start == MAP_FAILED) return fail_errno("device memory cannot be mapped to choose its NUMA node", errno);
    const Mapping mapping(start, length);
    if (syscall(SYS_mbind, start, length, MPOL_PREFERRED, mask.data(), kMaxNode + 2, 0) != 0) {
      return fail_errno(fmt::format("device memory cannot be taken from NUMA node {}", node), errno);
    }
    offset += length;
  }
  return {};
}

}  // namespace mirrorcl::device
