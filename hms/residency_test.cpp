// SPDX-License-Identifier: Apache-2.0
#include "hms/residency.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/unique_fd.h"
#include "hms/host_memory.h"

namespace mirrorcl::hms {
namespace {

constexpr std::uint64_t kPage = 4096;

TEST(Residency, ReadsTheKernelsFiles) {
  constexpr std::string_view maps =
      "00400000-00401000 r-xp 00000000 08:01 123                        /usr/bin/a program\n"
      "01000000-01010000 rw-p 00000000 00:00 0                          [heap]\n"
      "7f0000000000-7f0000400000 rw-p 00000000 00:0e 9                  /dev/hugepages/x\n"
      "7f0000400000-7f0000500000 rw-s 7f0000400000 00:01 77             /memfd:mirrorcl-device-memory (deleted)\n"
      "7f0000600000-7f0000700000 rw-p 00000000 00:00 0 \n"
      "nonsense\n";
  constexpr std::string_view numa_maps =
      "00400000 default file=/usr/bin/a\\040program mapped=1 N1=1 kernelpagesize_kB=4\n"
      "01000000 default heap anon=12 dirty=12 N0=8 N1=4 kernelpagesize_kB=4\n"
      "7f0000000000 default file=/dev/hugepages/x huge anon=2 dirty=2 N0=2 kernelpagesize_kB=2048\n"
      "7f0000400000 default file=/memfd:mirrorcl-device-memory\\040(deleted) dirty=3 N0=3 kernelpagesize_kB=4\n"
      "7fffffff0000 default anon=1 N0=1 kernelpagesize_kB=4\n"
      "garbage N0=7\n";
  auto mappings = parse_mappings(maps, numa_maps);
  ASSERT_EQ(mappings.size(), 5U);
  EXPECT_EQ(mappings[0].name, "/usr/bin/a program");
  EXPECT_EQ(mappings[0].node_pages, (std::map<int, std::uint64_t>{{1, 1}}));
  EXPECT_EQ(mappings[1].range, (AddressRange{0x01000000, 0x01010000}));
  EXPECT_EQ(mappings[1].node_pages, (std::map<int, std::uint64_t>{{0, 8}, {1, 4}}));
  EXPECT_EQ(mappings[2].node_pages, (std::map<int, std::uint64_t>{{0, 1024}})) << "in pages of 4 KiB";
  EXPECT_FALSE(mappings[2].shared_with_device);
  EXPECT_TRUE(mappings[3].shared_with_device);
  EXPECT_TRUE(mappings[4].name.empty());
  EXPECT_TRUE(mappings[4].node_pages.empty());
}

TEST(Residency, RefusesProcessesThatAreNot) {
  EXPECT_FALSE(read_residency(0).has_value());
  EXPECT_FALSE(read_residency(-1).has_value());
  auto missing = read_residency(0x3fffffff);
  ASSERT_FALSE(missing.has_value());
  EXPECT_NE(missing.error().message.find("no process"), std::string::npos);
}

TEST(Residency, TellsThePagesNode) {
  auto* memory =
      static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  memory[0] = 1;
  const auto start = reinterpret_cast<std::uint64_t>(memory);
  int nodes[2];
  if (kernel_host_memory().nodes_of(start, nodes) != 0) GTEST_SKIP() << "this process may not ask where pages are";
  const auto touched = read_page_residency(getpid(), start + 7);
  const auto untouched = read_page_residency(getpid(), start + kPage);
  ASSERT_TRUE(touched && untouched);
  EXPECT_EQ(touched->node, nodes[0]);
  EXPECT_EQ(untouched->node, -1);
  munmap(memory, 2 * kPage);
}

// A child with device memory in the driver's manner: some pages of a range only there, some mapped, some on the host.
TEST(Residency, ShowsALiveProcess) {
  if (!std::filesystem::exists("/proc/self/numa_maps")) GTEST_SKIP() << "a kernel without NUMA";
  constexpr std::uint64_t kPages = 512;
  auto* memory = static_cast<char*>(mmap(nullptr, 2 * kPages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  int ready[2];
  int done[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(done), 0);
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(done[1]);
    UniqueFd device(memfd_create("mirrorcl-device-memory", MFD_CLOEXEC));
    auto address = reinterpret_cast<std::uint64_t>(memory);
    bool good = ftruncate(device.get(), off_t{1} << 47) == 0;
    good &=
        mmap(memory, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory;
    madvise(memory, kPages * kPage, MADV_NOHUGEPAGE);
    for (std::uint64_t page = 0; page < 100; ++page) memory[page * kPage] = 1;
    char contents[kPage] = {1};
    for (std::uint64_t page = 200; page < 240; page += 2) {
      good &= pwrite(device.get(), contents, kPage, static_cast<off_t>(address + page * kPage)) == kPage;
    }
    char* shared = memory + kPages * kPage;
    good &= mmap(shared, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device.get(),
                 static_cast<off_t>(address + kPages * kPage)) == shared;
    for (std::uint64_t page = 0; page < 7; ++page) shared[page * kPage] = 1;
    good &= write(ready[1], "", 1) == 1;
    char end;
    (void)!read(done[0], &end, 1);  // until the test closes its end, also by dying
    _exit(good ? 0 : 1);
  }
  close(ready[1]);
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  auto seen = read_residency(child);
  close(done[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  close(ready[0]);
  close(done[0]);
  munmap(memory, 2 * kPages * kPage);
  ASSERT_TRUE(seen.has_value()) << seen.error().message;
  EXPECT_TRUE(seen->has_device);
  EXPECT_EQ(seen->device_pages(), 27U);
  EXPECT_EQ(seen->shared_device_pages(), 7U);
  auto address = reinterpret_cast<std::uint64_t>(memory);
  auto found = std::ranges::find_if(seen->mappings, [&](const auto& m) { return m.range.contains(address); });
  ASSERT_NE(found, seen->mappings.end());
  EXPECT_EQ(found->device_pages, 20U);
  std::uint64_t host = 0;
  for (auto [node, pages] : found->node_pages) host += pages;
  EXPECT_EQ(host, 100U);
}

}  // namespace
}  // namespace mirrorcl::hms
