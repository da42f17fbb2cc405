// SPDX-License-Identifier: Apache-2.0
// Memory that the kernel itself has a hold on: huge pages, pinned buffers, guard pages, signal stacks.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <atomic>
#include <cstring>

#include "base/unique_fd.h"
#include "mirror/mirror_fixture.h"
#include "mirror/test_huge_pages.h"

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, 6.13

class SpecialMemoryTest : public MirrorTest {};

TEST_F(SpecialMemoryTest, PrivateHugePages) {
  HugePagesOnDemand on_demand;
  constexpr std::size_t kSize = 2 * kBlockSize;
  void* mapped = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (mapped == MAP_FAILED) GTEST_SKIP() << "no huge pages can be had: " << std::strerror(errno);
  auto* words = static_cast<std::uint64_t*>(mapped);
  for (std::size_t i = 0; i < kSize / 8; i += 100) words[i] = i;
  for (std::size_t i = 0; i < kSize / 8; i += 10'000) exchange(words + i + 1, i);
  for (std::size_t i = 0; i < kSize / 8; i += 100) ASSERT_EQ(words[i], i);
  EXPECT_EQ(device_.load(words + 300), 300U);
  munmap(mapped, kSize);
  mirror_->drain_events();
  device_.load(words);
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
  EXPECT_EQ(statistics().pages_made_anonymous, 2 * kBlockPages);
}

TEST_F(SpecialMemoryTest, GuardPagesAreNoMemory) {
  TestMemory memory(16);
  for (std::size_t page = 0; page < 16; ++page) *memory.word(page) = page;
  if (madvise(memory.word(4), kPageSize, kGuardInstall) != 0) {
    GTEST_SKIP() << "no guard pages (Linux 6.13): " << std::strerror(errno);
  }
  for (bool use_move : {true, false}) {
    MirrorOptions options;
    options.use_move = use_move;
    ASSERT_NO_FATAL_FAILURE(start(options));
    for (std::size_t page : {3U, 5U, 6U, 2U}) exchange(memory.word(page), 10 * page);
    device_.load(memory.word(4));
    EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
    device_.store(memory.word(4), std::uint64_t{1});
    EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
    for (std::size_t page = 7; page < 16; ++page) exchange(memory.word(page), page);
  }
}

TEST_F(SpecialMemoryTest, BuffersPinnedByIoUring) {
  SKIP_WITHOUT_MOVE();  // nothing else tells which pages are pinned
  TestMemory memory(4);
  io_uring_params parameters{};
  UniqueFd ring(static_cast<int>(syscall(SYS_io_uring_setup, 4, &parameters)));
  iovec buffer{memory.word(1), kPageSize};
  *memory.word(1) = 11;
  if (!ring || syscall(SYS_io_uring_register, ring.get(), IORING_REGISTER_BUFFERS, &buffer, 1) != 0) {
    GTEST_SKIP() << "io_uring cannot register buffers: " << std::strerror(errno);
  }
  EXPECT_EQ(device_.load(memory.word(1)), 11U) << "a copy";
  device_.store(memory.word(1), std::uint64_t{12});
  EXPECT_EQ(device_.last_error(), FaultKind::kUnmappable) << "an error, and no endless wait";
  *memory.word(1) = 13;
  mirror_->drain_events();
  mirror_->drop_snapshots();
  EXPECT_EQ(device_.load(memory.word(1)), 13U);
  exchange(memory.word(0), 1);
  exchange(memory.word(2), 2);
  ASSERT_EQ(syscall(SYS_io_uring_register, ring.get(), IORING_UNREGISTER_BUFFERS, nullptr, 0), 0);
  // The kernel lets go of the pages in its own time.
  FaultKind error = FaultKind::kUnmappable;
  for (int i = 0; i < 100 && error == FaultKind::kUnmappable; ++i) {
    device_.store(memory.word(1), std::uint64_t{14});
    error = device_.last_error();
  }
  EXPECT_EQ(error, FaultKind::kNone);
  EXPECT_EQ(*memory.word(1), 14U);
}

std::uint64_t g_from_handler = 0;

void on_signal(int) {
  volatile std::uint64_t local = 41;
  local = local + 1;
  g_from_handler = local;
}

TEST_F(SpecialMemoryTest, AlternateSignalStackOnTheDevice) {
  TestMemory memory(16);
  stack_t stack{};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  stack_t before{};
  ASSERT_EQ(sigaltstack(&stack, &before), 0);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  struct sigaction old {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &old), 0);
  for (std::uint64_t round = 0; round < 20; ++round) {
    for (std::size_t page = 0; page < 16; ++page) device_.store(memory.word(page), page);
    g_from_handler = 0;
    raise(SIGUSR1);  // the kernel writes the frame where there is no page
    ASSERT_EQ(g_from_handler, 42U);
    ASSERT_EQ(*memory.word(0), 0U);
    ASSERT_EQ(*memory.word(3), 3U);
  }
  sigaction(SIGUSR1, &old, nullptr);
  before.ss_flags = SS_DISABLE;
  sigaltstack(&before, nullptr);
}

}  // namespace
}  // namespace mirrorcl::mirror
