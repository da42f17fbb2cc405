// SPDX-License-Identifier: Apache-2.0
#include "hms/host_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "base/pagemap.h"
#include "base/raw_syscall.h"
#include "base/unique_fd.h"
#include "hms/sysfs.h"

namespace mirrorcl::hms {
namespace {

// A kernel's limit of node numbers; CONFIG_NODES_SHIFT is at most 10.
constexpr unsigned kMaxNodes = 1024;
using NodeMask = std::array<unsigned long, kMaxNodes / 64>;
// The kernel takes the number of bits plus one.
constexpr unsigned long kMaskBits = kMaxNodes + 1;

bool in_mask(int node) {
  return node >= 0 && node < static_cast<int>(kMaxNodes);
}

NodeMask mask_of(std::span<const int> nodes) {
  NodeMask mask{};
  for (int node : nodes) {
    auto index = static_cast<unsigned>(node);
    if (in_mask(node)) mask[index / 64] |= 1UL << index % 64;
  }
  return mask;
}

// What the kernel calls a policy.
struct KernelPolicy {
  int mode = MPOL_DEFAULT;
  NodeMask nodes{};
  bool has_nodes = false;

  explicit KernelPolicy(const HostPolicy& policy) {
    if (policy.mode == HostPolicy::Mode::kDefault || policy.nodes.empty()) return;
    bool prefer = policy.mode == HostPolicy::Mode::kPrefer;
    mode = prefer ? MPOL_PREFERRED : MPOL_BIND;
    nodes = mask_of(prefer ? policy.nodes.first(1) : policy.nodes);
    has_nodes = true;
  }
  const unsigned long* mask() const { return has_nodes ? nodes.data() : nullptr; }
  unsigned long bits() const { return has_nodes ? kMaskBits : 0; }
};

class KernelHostMemory final : public HostMemory {
 public:
  bool is_mapped(AddressRange range) const noexcept override {
    // Touches no page; MS_ASYNC does nothing but look for holes.
    return raw_syscall(SYS_msync, range.start, range.size(), MS_ASYNC) == 0;
  }

  bool may_use(int node) const noexcept override {
    if (!in_mask(node)) return false;
    NodeMask allowed{};
    long result = raw_syscall(SYS_get_mempolicy, nullptr, allowed.data(), kMaskBits, nullptr, MPOL_F_MEMS_ALLOWED);
    // A kernel without NUMA, or a container that forbids the question; mbind() will tell.
    if (result == -ENOSYS || result == -EPERM) return node == 0;
    auto index = static_cast<unsigned>(node);
    return result == 0 && (allowed[index / 64] >> index % 64 & 1U) != 0;
  }

  std::uint64_t free_bytes(int node) const noexcept override {
    return node < 0 ? 0 : Sysfs("").free_memory(static_cast<std::uint32_t>(node)).value_or(~std::uint64_t{0});
  }

  int set_policy(AddressRange range, const HostPolicy& policy) noexcept override {
    const KernelPolicy wanted(policy);
    long result = raw_syscall(SYS_mbind, range.start, range.size(), wanted.mode, wanted.mask(), wanted.bits(), 0);
    // Without NUMA there is one node, and all memory is bound to it.
    return result == -ENOSYS ? 0 : static_cast<int>(result);
  }

  int nodes_of(std::uint64_t start, std::span<int> nodes) const noexcept override {
    if (is_only_node_ && find_present(start, nodes)) return 0;
    return for_batches(
        start, nodes.size(),
        [&](std::size_t done, std::span<void*> pages) {
          return raw_syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, nodes.data() + done, 0);
        },
        [&](std::size_t index) { nodes[index] = std::max(nodes[index], -1); });
  }

  int move(AddressRange range, int node) noexcept override {
    std::array<int, kBatch> wanted;
    std::array<int, kBatch> status;
    wanted.fill(node);
    return for_batches(
        range.start, range.size() / kPageSize,
        [&](std::size_t, std::span<void*> pages) {
          return raw_syscall(SYS_move_pages, 0, pages.size(), pages.data(), wanted.data(), status.data(), MPOL_MF_MOVE);
        },
        [](std::size_t) {});
  }

 private:
  static constexpr std::size_t kBatch = 1024;

  // Pages that are there are on the only node, 0: that is quick to tell, and allowed where move_pages is not. False:
  // not before Linux 6.7.
  static bool find_present(std::uint64_t start, std::span<int> nodes) noexcept {
    // Opened anew each time: a child of fork would see its parent's memory.
    const UniqueFd pagemap(
        static_cast<int>(raw_syscall(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC)));
    if (!pagemap) return false;
    std::ranges::fill(nodes, -1);
    constexpr PagemapFilter kPresent{.all = kPageIsPresent, .none = kPageIsSharedZero};
    std::array<PagemapRegion, 64> found;
    for (std::uint64_t at = start, end = start + nodes.size() * kPageSize; at < end;) {
      std::uint64_t walked_to = at;
      const long count = scan_pagemap(pagemap.get(), at, end - at, kPresent, found, &walked_to);
      if (count < 0 || walked_to <= at) return false;
      at = walked_to;
      for (const PagemapRegion& region : std::span(found).first(static_cast<std::size_t>(count))) {
        const auto first = nodes.begin() + static_cast<std::ptrdiff_t>((region.start - start) / kPageSize);
        std::fill_n(first, (region.end - region.start) / kPageSize, 0);
      }
    }
    return true;
  }

  // Calls `call` with the addresses of up to kBatch pages at a time, and `each` for every page. A positive result of
  // move_pages is a number of pages that did not move, which is no error here.
  template <typename Call, typename Each>
  static int for_batches(std::uint64_t start, std::size_t count, const Call& call, const Each& each) {
    std::array<void*, kBatch> pages;
    for (std::size_t done = 0; done < count;) {
      std::size_t size = std::min(count - done, kBatch);
      for (std::size_t i = 0; i < size; ++i) pages[i] = reinterpret_cast<void*>(start + (done + i) * kPageSize);
      long result = call(done, std::span(pages).first(size));
      if (result < 0) return static_cast<int>(result);
      for (std::size_t i = 0; i < size; ++i) each(done + i);
      done += size;
    }
    return 0;
  }

  const bool is_only_node_ = Sysfs("").possible_nodes() == IdSet::range(0, 0);
};

}  // namespace

HostMemory& kernel_host_memory() noexcept {
  static KernelHostMemory memory;
  return memory;
}

int set_process_policy(const HostPolicy& policy) noexcept {
  const KernelPolicy wanted(policy);
  return static_cast<int>(raw_syscall(SYS_set_mempolicy, wanted.mode, wanted.mask(), wanted.bits()));
}

long move_process(int pid, std::span<const int> from, int to) noexcept {
  const NodeMask old_nodes = mask_of(from);
  const NodeMask new_nodes = mask_of(std::span(&to, 1));
  return raw_syscall(SYS_migrate_pages, pid, kMaskBits, old_nodes.data(), new_nodes.data());
}

}  // namespace mirrorcl::hms
