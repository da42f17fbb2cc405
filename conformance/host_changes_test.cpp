// SPDX-License-Identifier: Apache-2.0
// The host changes its address space while a device has pages of it: unmaps, reuses, moves, drops and protects memory,
// and lets the kernel read and write it in system calls. OpenCL 3.0 API, section 5.6: system memory stays ordinary
// memory of the process; nothing of it is registered, and so nothing has to be told to the runtime.
#include <fcntl.h>
#include <linux/futex.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "conformance/harness.h"

namespace mirrorcl::conformance {
namespace {

class HostChanges : public SystemMemoryTest {
 protected:
  void SetUp() override {
    SystemMemoryTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    fill_ = build(
        "kernel void fill(global int *data, int first) { data[get_global_id(0)] = first + (int)get_global_id(0); }",
        "fill");
    sum_ = build(R"(
kernel void sum(global const int *data, uint count, global long *result) {
  long total = 0;
  for (uint i = 0; i < count; ++i) total += data[i];
  *result = total;
})",
                 "sum");
    ASSERT_TRUE(fill_);
    ASSERT_TRUE(sum_);
  }
  void TearDown() override {
    fill_ = {};
    sum_ = {};
    SystemMemoryTest::TearDown();
  }
  // Lets the device write first, first + 1, ... into `data`, so that the pages are the device's.
  void device_fill(int* data, std::size_t count, int first) { run(fill_, count, data, first); }
  cl_long device_sum(const int* data, std::size_t count) {
    auto result = std::make_unique<cl_long>(-1);
    run(sum_, 1, data, static_cast<cl_uint>(count), result.get());
    return *result;
  }
  // Of first, first + 1, ...
  static cl_long series(std::size_t count, cl_long first) {
    auto n = static_cast<cl_long>(count);
    return n * first + n * (n - 1) / 2;
  }
  // mremap takes one mapping at a time and answers EFAULT for more (mremap(2)). A driver may have made another mapping
  // of pages that it shares with the device; the last page alone is always in one.
  static void grow_in_place(void* address, std::size_t bytes, std::size_t grown) {
    if (mremap(address, bytes, grown, 0) == address) return;
    ASSERT_EQ(errno, EFAULT) << std::strerror(errno);
    auto* last = static_cast<std::byte*>(address) + bytes - kPage;
    ASSERT_EQ(mremap(last, kPage, kPage + grown - bytes, 0), last) << std::strerror(errno);
  }
  // Shrinks and grows again `memory`, all of which the device has written.
  void check_second_half_comes_anew(const Mapping& memory, int first) {
    const std::size_t half = memory.size() / 2, count = memory.size() / sizeof(int);
    int* data = memory.as<int>();
    ASSERT_EQ(mremap(data, memory.size(), half, 0), data) << std::strerror(errno);
    ASSERT_NO_FATAL_FAILURE(grow_in_place(data, half, memory.size()));
    EXPECT_EQ(device_sum(data, count), series(count / 2, first));
    EXPECT_EQ(std::accumulate(data, data + count, 0L), series(count / 2, first));
  }
  Kernel fill_, sum_;
};

constexpr std::size_t kCount = 16 * kPage / sizeof(int);

TEST_F(HostChanges, AddressReusedWithNewContentsAHundredTimes) {
  void* address = nullptr;
  for (int round = 0; round < 100; ++round) {
    Mapping memory(kCount * sizeof(int), -1, 0, address);
    address = memory.as();
    if (round % 2 == 0) {
      std::iota(memory.as<int>(), memory.as<int>() + kCount, round);
      ASSERT_EQ(device_sum(memory.as<int>(), kCount), series(kCount, round)) << "round " << round;
    } else {
      ASSERT_EQ(device_sum(memory.as<int>(), kCount), 0) << "stale contents in round " << round;
    }
    device_fill(memory.as<int>(), kCount, -round);  // leaves the pages on the device for the munmap
  }
}

TEST_F(HostChanges, FixedMappingOverDeviceOwnedPages) {
  Mapping memory(kCount * sizeof(int));
  device_fill(memory.as<int>(), kCount, 5);
  void* over = mmap(memory.as(), memory.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_EQ(over, memory.as());
  EXPECT_EQ(std::accumulate(memory.as<int>(), memory.as<int>() + kCount, 0L), 0);
  EXPECT_EQ(device_sum(memory.as<int>(), kCount), 0);
}

TEST_F(HostChanges, PartialUnmapLeavesTheRest) {
  Mapping memory(3 * kCount * sizeof(int));
  int* data = memory.as<int>();
  device_fill(data, 3 * kCount, 1);
  ASSERT_EQ(munmap(data + kCount, kCount * sizeof(int)), 0);
  EXPECT_EQ(device_sum(data, kCount), series(kCount, 1));
  EXPECT_EQ(device_sum(data + 2 * kCount, kCount), series(kCount, 1 + 2 * static_cast<cl_long>(kCount)));
  EXPECT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount, 1));
}

TEST_F(HostChanges, FreeAndMallocAgain) {
  for (int round = 0; round < 20; ++round) {
    auto* data = static_cast<int*>(std::malloc(kCount * sizeof(int)));
    ASSERT_NE(data, nullptr);
    device_fill(data, kCount, round);
    ASSERT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount, round));
    device_fill(data, kCount, -round);
    std::free(data);
  }
}

TEST_F(HostChanges, ReallocThatMovesKeepsWhatTheDeviceWrote) {
  constexpr std::size_t kOld = 16 * kMiB / sizeof(int), kNew = 4 * kOld;
  auto* data = static_cast<int*>(std::malloc(kOld * sizeof(int)));
  ASSERT_NE(data, nullptr);
  Mapping neighbour(kPage);  // often placed right below; the block above is taken by what was mapped before
  device_fill(data, kOld, 9);
  volatile auto old_address = reinterpret_cast<std::uintptr_t>(data);
  auto* grown = static_cast<int*>(std::realloc(data, kNew * sizeof(int)));  // mremap in glibc for blocks of this size
  ASSERT_NE(grown, nullptr);
  RecordProperty("moved", reinterpret_cast<std::uintptr_t>(grown) != old_address ? 1 : 0);
  EXPECT_EQ(device_sum(grown, kOld), series(kOld, 9));
  EXPECT_EQ(std::accumulate(grown, grown + kOld, 0L), series(kOld, 9));
  device_fill(grown, kNew, 2);
  EXPECT_EQ(std::accumulate(grown, grown + kNew, 0L), series(kNew, 2));
  std::free(grown);
}

TEST_F(HostChanges, MremapToAnotherAddressKeepsWhatTheDeviceWrote) {
  Mapping memory(kCount * sizeof(int)), target(kCount * sizeof(int));
  device_fill(memory.as<int>(), kCount, 3);
  void* moved = mremap(memory.as(), memory.size(), memory.size(), MREMAP_MAYMOVE | MREMAP_FIXED, target.as());
  ASSERT_EQ(moved, target.as());
  auto* old_address = memory.as<int>();
  memory.forget();
  // The device first, then the host, then something new at the old place.
  EXPECT_EQ(device_sum(target.as<int>(), kCount), series(kCount, 3));
  EXPECT_EQ(std::accumulate(target.as<int>(), target.as<int>() + kCount, 0L), series(kCount, 3));
  void* again = mmap(old_address, memory.size(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (again == MAP_FAILED && errno == EEXIST) GTEST_SKIP() << "another thread has got the old place";
  ASSERT_EQ(again, old_address);
  EXPECT_EQ(device_sum(old_address, kCount), 0);
  munmap(again, memory.size());
}

TEST_F(HostChanges, MremapThenTheHostReadsFirst) {
  Mapping memory(kCount * sizeof(int)), target(kCount * sizeof(int));
  device_fill(memory.as<int>(), kCount, 3);
  void* moved = mremap(memory.as(), memory.size(), memory.size(), MREMAP_MAYMOVE | MREMAP_FIXED, target.as());
  ASSERT_EQ(moved, target.as());
  memory.forget();
  EXPECT_EQ(std::accumulate(target.as<int>(), target.as<int>() + kCount, 0L), series(kCount, 3));
}

TEST_F(HostChanges, DontneedThenTheHostReadsZero) {
  Mapping memory(kCount * sizeof(int));
  int* data = memory.as<int>();
  for (int round = 0; round < 5; ++round) {
    device_fill(data, kCount, 77);
    ASSERT_EQ(madvise(data, memory.size(), MADV_DONTNEED), 0);
    ASSERT_EQ(std::accumulate(data, data + kCount, 0L), 0) << "round " << round;
    std::iota(data, data + kCount, round);
    ASSERT_EQ(device_sum(data, kCount), series(kCount, round));
  }
}

TEST_F(HostChanges, DontneedThenTheDeviceReadsZero) {
  Mapping memory(kCount * sizeof(int));
  int* data = memory.as<int>();
  for (int round = 0; round < 5; ++round) {
    std::iota(data, data + kCount, 1);
    device_fill(data, kCount, 77);
    ASSERT_EQ(madvise(data, memory.size(), MADV_DONTNEED), 0);
    ASSERT_EQ(device_sum(data, kCount), 0) << "round " << round;
    device_fill(data, kCount, round);
    ASSERT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount, round));
  }
}

TEST_F(HostChanges, DontneedOnPagesThatWentBackAndForth) {
  // Enough turns that a driver may have begun to share the pages instead of moving them.
  Mapping memory(kCount * sizeof(int));
  int* data = memory.as<int>();
  for (int turn = 0; turn < 30; ++turn) {
    device_fill(data, kCount, turn);
    ASSERT_EQ(data[kCount - 1], turn + static_cast<int>(kCount) - 1);
    data[0] = turn;
  }
  ASSERT_EQ(madvise(data, memory.size(), MADV_DONTNEED), 0);
  data[1] = 11;  // the host writes first: the write must survive, the rest be zero
  EXPECT_EQ(device_sum(data, kCount), 11);
  EXPECT_EQ(data[1], 11);
  ASSERT_EQ(madvise(data, memory.size(), MADV_DONTNEED), 0);
  device_fill(data, kCount / 2, 1);
  EXPECT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount / 2, 1));
}

TEST_F(HostChanges, MremapThatShrinksAndGrowsAgain) {
  Mapping memory(2 * kCount * sizeof(int));
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    device_fill(memory.as<int>(), 2 * kCount, round);
    ASSERT_NO_FATAL_FAILURE(check_second_half_comes_anew(memory, round));
  }
}

TEST_F(HostChanges, MremapThatShrinksAndGrowsMemoryThatWentBackAndForthInPart) {
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    Mapping memory(8 * kCount * sizeof(int));
    int* data = memory.as<int>();
    // Enough turns that a driver may have begun to share these pages instead of moving them.
    for (int turn = 0; turn < 10; ++turn) {
      device_fill(data, kCount, turn);
      ASSERT_EQ(data[0], turn);
      data[0] = -turn;
    }
    device_fill(data, 8 * kCount, round);
    ASSERT_NO_FATAL_FAILURE(check_second_half_comes_anew(memory, round));
  }
}

TEST_F(HostChanges, FreedLazilyItHoldsWhatWasWrittenOrZerosAndThenWhatIsWritten) {
  Mapping memory(kCount * sizeof(int));
  int* data = memory.as<int>();
  for (int round = 1; round < 5; ++round) {
    device_fill(data, kCount, round);
    if (round % 2 == 0) {  // at home again
      ASSERT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount, round));
    }
    // A driver may have made the memory of a kind that cannot be freed lazily; what is written must stay all the same.
    ASSERT_TRUE(madvise(data, memory.size(), MADV_FREE) == 0 || errno == EINVAL) << std::strerror(errno);
    for (std::size_t i = 0; i < kCount; ++i) {
      ASSERT_TRUE(data[i] == 0 || data[i] == round + static_cast<int>(i)) << i << " holds " << data[i];
    }
    std::iota(data, data + kCount, 100 * round);  // from here on nothing may be given up
    EXPECT_EQ(device_sum(data, kCount), series(kCount, 100 * round));
    EXPECT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount, 100 * round));
  }
}

TEST_F(HostChanges, HolesInSharedMemoryAreZeroForTheDevice) {
  const std::size_t bytes = kCount * sizeof(int);
  void* shared = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  int* data = static_cast<int*>(shared);
  for (int round = 0; round < 5; ++round) {
    device_fill(data, kCount, round);
    ASSERT_EQ(madvise(data + kCount / 2, bytes / 2, MADV_REMOVE), 0);
    EXPECT_EQ(device_sum(data, kCount), series(kCount / 2, round));
    EXPECT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount / 2, round));
    std::iota(data, data + kCount, 2 * round);
    EXPECT_EQ(device_sum(data, kCount), series(kCount, 2 * round));
  }
  munmap(shared, bytes);
}

TEST_F(HostChanges, TheHeapThatBrkGivesBackComesAgainAsZeros) {
  // malloc must not take from the break meanwhile.
  mallopt(M_TOP_PAD, 16 << 20);
  std::free(std::malloc(1000));
  constexpr std::size_t kBytes = kCount * sizeof(int);
  for (int round = 0; round < 5; ++round) {
    void* before = sbrk(kBytes);
    ASSERT_NE(before, reinterpret_cast<void*>(-1));
    int* data = static_cast<int*>(before);
    EXPECT_EQ(device_sum(data, kCount), 0) << "round " << round;
    device_fill(data, kCount, round);
    if (round % 2 == 0) {
      EXPECT_EQ(std::accumulate(data, data + kCount, 0L), series(kCount, round));
    }
    ASSERT_EQ(sbrk(0), data + kCount) << "somebody else has moved the break";
    ASSERT_NE(sbrk(-static_cast<std::intptr_t>(kBytes)), reinterpret_cast<void*>(-1));
  }
  mallopt(M_TOP_PAD, 128 << 10);
}

TEST_F(HostChanges, ReadOnlyProtectionKeepsTheContents) {
  Mapping memory(kCount * sizeof(int));
  device_fill(memory.as<int>(), kCount, 4);
  ASSERT_EQ(mprotect(memory.as(), memory.size(), PROT_READ), 0);
  EXPECT_EQ(std::accumulate(memory.as<int>(), memory.as<int>() + kCount, 0L), series(kCount, 4));
  EXPECT_EQ(device_sum(memory.as<int>(), kCount), series(kCount, 4));
  ASSERT_EQ(mprotect(memory.as(), memory.size(), PROT_READ | PROT_WRITE), 0);
  device_fill(memory.as<int>(), kCount, 5);
  EXPECT_EQ(memory.as<int>()[0], 5);
}

TEST_F(HostChanges, WriteSystemCallFromDeviceOwnedPages) {
  Mapping memory(kCount * sizeof(int));
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::vector<int> copy(kPage / sizeof(int));
  for (std::size_t page = 0; page < 8; ++page) {
    device_fill(memory.as<int>(), kCount, static_cast<int>(1000 * page));
    const int* from = memory.as<int>() + page * copy.size();
    ASSERT_EQ(write(ends[1], from, kPage), static_cast<ssize_t>(kPage));  // no host access before it
    ASSERT_EQ(read(ends[0], copy.data(), kPage), static_cast<ssize_t>(kPage));
    EXPECT_EQ(std::accumulate(copy.begin(), copy.end(), 0L),
              series(copy.size(), static_cast<cl_long>(1000 * page + page * copy.size())));
  }
  close(ends[0]);
  close(ends[1]);
}

TEST_F(HostChanges, ReadSystemCallIntoDeviceOwnedPages) {
  Mapping memory(kCount * sizeof(int));
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  std::vector<int> message(kPage / sizeof(int));
  std::iota(message.begin(), message.end(), 100);
  device_fill(memory.as<int>(), kCount, 0);
  ASSERT_EQ(write(ends[1], message.data(), kPage), static_cast<ssize_t>(kPage));
  int* into = memory.as<int>() + 100;  // straddles two pages, both partly kept
  ASSERT_EQ(read(ends[0], into, kPage), static_cast<ssize_t>(kPage));
  cl_long expected = series(100, 0) + series(message.size(), 100) +
                     series(kCount - 100 - message.size(), static_cast<cl_long>(100 + message.size()));
  EXPECT_EQ(device_sum(memory.as<int>(), kCount), expected);
  EXPECT_EQ(std::accumulate(memory.as<int>(), memory.as<int>() + kCount, 0L), expected);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(HostChanges, FutexOnADeviceOwnedPage) {
  Mapping memory(kPage);
  auto* word = memory.as<int>();
  for (int round = 1; round <= 10; ++round) {
    device_fill(word, 1, round);
    // The kernel must see the device's value: it differs from the expected one, so the call may not sleep.
    timespec limit{5, 0};
    long code = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, round - 1, &limit, nullptr, 0);
    ASSERT_EQ(code, -1);
    ASSERT_EQ(errno, EAGAIN) << "the kernel saw an old value";
    ASSERT_EQ(*word, round);
  }
}

TEST_F(HostChanges, ProcessVmReadvOfDeviceOwnedPages) {
  Mapping memory(kCount * sizeof(int));
  device_fill(memory.as<int>(), kCount, 6);
  std::vector<int> copy(kCount);
  iovec local{copy.data(), copy.size() * sizeof(int)}, remote{memory.as(), memory.size()};
  ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), static_cast<ssize_t>(memory.size()));
  EXPECT_EQ(std::accumulate(copy.begin(), copy.end(), 0L), series(kCount, 6));
}

TEST_F(HostChanges, PathNamesAndStructuresOnDeviceOwnedPages) {
  // A path and an iovec array that the device wrote, read by the kernel.
  Mapping memory(2 * kPage);
  Kernel kernel = build(R"(
kernel void path(global char *to, global ulong *vector, ulong address) {
  const char text[] = "/dev/null";
  for (int i = 0; i < 10; ++i) to[i] = text[i];
  vector[0] = address; vector[1] = 9;
})",
                        "path");
  ASSERT_TRUE(kernel);
  char* text = memory.as<char>();
  auto* vector = reinterpret_cast<iovec*>(memory.as() + kPage);
  run(kernel, 1, text, reinterpret_cast<cl_ulong*>(vector),
      static_cast<cl_ulong>(reinterpret_cast<std::uintptr_t>(text)));
  int file = open(text, O_WRONLY | O_CLOEXEC);
  ASSERT_GE(file, 0) << std::strerror(errno);
  EXPECT_EQ(writev(file, vector, 1), 9);
  close(file);
}

}  // namespace
}  // namespace mirrorcl::conformance
