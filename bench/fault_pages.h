// SPDX-License-Identifier: Apache-2.0
// Which pages the fault benchmarks touch: isolated ones, in random order, so that no neighbour's fault brings them
// along.
#pragma once

#include <algorithm>
#include <cstddef>
#include <random>
#include <vector>

namespace mirrorcl::bench {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kBlock = std::size_t{2} << 20;
inline constexpr std::size_t kFaultBlocks = 128;
inline constexpr std::size_t kFaultRange = kFaultBlocks * kBlock;  // 256 MiB
inline constexpr int kFaultBatch = 16;                             // faults timed together

// Byte offsets below kFaultRange of `batches` * kFaultBatch pages (at most 4,096). The pages of a batch lie in
// different 2 MiB blocks, and no two pages of the whole list in the same 64 KiB.
inline std::vector<std::size_t> isolated_pages(int batches) {
  std::mt19937 random(42);
  std::vector<std::size_t> blocks(kFaultBlocks);
  for (std::size_t i = 0; i < kFaultBlocks; i++) blocks[i] = i;
  std::vector<std::size_t> pages;
  const std::size_t count = static_cast<std::size_t>(batches) * kFaultBatch;
  for (std::size_t slot = 0; pages.size() < count; slot++) {
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (std::size_t i = 0; i < kFaultBlocks && pages.size() < count; i++) {
      pages.push_back(blocks[i] * kBlock + slot * 64 * 1024 + random() % 16 * kPage);
    }
  }
  return pages;
}

}  // namespace mirrorcl::bench
