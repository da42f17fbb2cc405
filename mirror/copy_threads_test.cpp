// SPDX-License-Identifier: Apache-2.0
#include "mirror/copy_threads.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>

#include "device/window.h"

namespace mirrorcl::mirror {
namespace {

// Runs works of every size and expects each part exactly once, and none after its work has ended.
void expect_each_part_once(CopyThreads& threads, int works) {
  constexpr unsigned kMost = 40;
  for (int work = 0; work < works; ++work) {
    const unsigned parts = static_cast<unsigned>(work) % kMost;
    std::array<std::atomic<int>, kMost> calls{};
    auto body = [&](unsigned part) { calls.at(part).fetch_add(1); };
    threads.run(parts, body);
    for (unsigned part = 0; part < kMost; ++part) ASSERT_EQ(calls[part].load(), part < parts ? 1 : 0);
  }
}

TEST(CopyThreadsTest, WithoutThreadsTheCallerDoesEverything) {
  CopyThreads threads;
  expect_each_part_once(threads, 100);
}

TEST(CopyThreadsTest, EachPartIsDoneOnce) {
  ASSERT_TRUE(map_window_region(window::kPinned, PROT_READ | PROT_WRITE));
  PinnedArena arena;
  CopyThreads threads;
  threads.start(arena);
  expect_each_part_once(threads, 20'000);
  threads.stop();
  expect_each_part_once(threads, 100);
  unmap_window_region(window::kPinned);
}

}  // namespace
}  // namespace mirrorcl::mirror
