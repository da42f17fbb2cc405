// SPDX-License-Identifier: Apache-2.0
// What the mirror writes for other processes, as the published layout says. (hms/live_view_test.cpp reads it from
// outside.)
#include "mirror/live.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

namespace layout = hms::live;

// This process's object, opened as another process would.
UniqueFd open_object() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string file = std::filesystem::read_symlink(entry.path(), ignored);
    if (file == std::string("/memfd:") + layout::kObjectName + " (deleted)") {
      return UniqueFd(open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    }
  }
  return UniqueFd();
}

class LiveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(map_window_region(window::kPinned, PROT_READ | PROT_WRITE));
    arena_.emplace();
    live_.emplace(*arena_);
    file_ = open_object();
    ASSERT_TRUE(file_);
    struct stat status {};
    ASSERT_EQ(fstat(file_.get(), &status), 0);
    size_ = static_cast<std::size_t>(status.st_size);
    void* seen = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
    ASSERT_NE(seen, MAP_FAILED);
    seen_ = Mapping(seen, size_);
  }
  void TearDown() override {
    live_.reset();
    unmap_window_region(window::kPinned);
  }

  const layout::Header& header() const { return *static_cast<const layout::Header*>(seen_.address()); }
  template <typename Entry>
  const Entry& entry(const layout::Table& table, std::size_t i) const {
    EXPECT_LT(i, table.count);
    return *reinterpret_cast<const Entry*>(static_cast<const char*>(seen_.address()) + table.offset + i * table.stride);
  }
  const layout::Decision& decision(std::uint64_t n) const {
    return entry<layout::Decision>(header().decisions, n % Live::kDecisions);
  }

  std::optional<PinnedArena> arena_;
  std::optional<Live> live_;
  UniqueFd file_;
  std::size_t size_ = 0;
  Mapping seen_;
};

TEST_F(LiveTest, HeaderSaysWhereEverythingLies) {
  EXPECT_EQ(header().magic, layout::kMagic);
  EXPECT_EQ(header().version, layout::kVersion);
  EXPECT_EQ(header().pid, getpid());
  for (const layout::Table& table : {header().counter_names, header().counters, header().histograms, header().decisions,
                                     header().blocks, header().devices, header().topology, header().allocations}) {
    EXPECT_GE(table.offset, sizeof(layout::Header));
    EXPECT_NE(table.count, 0U);
    EXPECT_LE(table.offset + std::uint64_t{table.count} * table.stride, size_);
  }
  live_->counters().add(&Statistics::evictions, 3);
  bool found = false;
  for (std::size_t i = 0; i < header().counters.count; ++i) {
    if (std::string(entry<layout::Name>(header().counter_names, i).text) != "evictions") continue;
    EXPECT_EQ(entry<std::uint64_t>(header().counters, i), 3U);
    found = true;
  }
  EXPECT_TRUE(found);
}

TEST_F(LiveTest, OthersCanOnlyRead) {
  const std::string path = "/proc/self/fd/" + std::to_string(file_.get());
  UniqueFd writable(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (writable) {
    EXPECT_EQ(pwrite(writable.get(), "x", 1, 0), -1);
    EXPECT_EQ(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, writable.get(), 0), MAP_FAILED);
    EXPECT_EQ(ftruncate(writable.get(), 0), -1);
  }
  EXPECT_EQ(header().magic, layout::kMagic);
}

TEST_F(LiveTest, ForkedChildHasNoPartInIt) {
  const pid_t child = fork();
  if (child == 0) {
    // Where the parent has the object there is nothing.
    unsigned char present = 0;
    for (std::uint64_t at = window::kPinned.start; at < window::kPinned.start + 16 * kBlockSize; at += kPageSize) {
      if (mincore(reinterpret_cast<void*>(at), kPageSize, &present) == -1 && errno == ENOMEM) _exit(7);
    }
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST_F(LiveTest, DecisionsCarryThePolicy) {
  const hms::Uid bind[] = {3, 1, 4, 1, 5};
  hms::Policy policy{.bind = bind, .preferred = 9, .accessed_by = {}, .read_mostly = true};
  live_->begin(1234);
  live_->note_decision({.range = {0x7000, 2 * kPageSize},
                        .requester = 8,
                        .from = 1,
                        .to = 3,
                        .access = hms::Access::kWrite,
                        .action = hms::Action::kMove,
                        .reason = hms::Reason::kBound,
                        .evicts = true,
                        .policy = &policy});
  EXPECT_EQ(header().decisions_made, 1U);
  const layout::Decision& seen = decision(0);
  EXPECT_EQ(seen.sequence, 2U);
  EXPECT_EQ(seen.time_ns, 1234U);
  EXPECT_EQ(seen.address, 0x7000U);
  EXPECT_EQ(seen.pages, 2U);
  EXPECT_EQ(seen.requester, 8U);
  EXPECT_EQ(seen.to, 3U);
  EXPECT_EQ(seen.flags, layout::Decision::kEvicts | layout::Decision::kHasPolicy | layout::Decision::kReadMostly);
  EXPECT_EQ(seen.bind_count, 5U);
  EXPECT_EQ(seen.bind[3], 1U);
  EXPECT_EQ(seen.preferred, 9U);
  live_->note_decision({});
  EXPECT_EQ(decision(1).flags, 0U) << "no policy";
}

TEST_F(LiveTest, RingKeepsTheLastDecisions) {
  for (std::uint64_t i = 0; i < Live::kDecisions + 10; ++i) live_->note_decision({.range = {i * kPageSize, kPageSize}});
  EXPECT_EQ(header().decisions_made, Live::kDecisions + 10);
  EXPECT_EQ(decision(9).address, (Live::kDecisions + 9) * kPageSize);
  EXPECT_EQ(decision(9).sequence, 4U);
  EXPECT_EQ(decision(10).address, 10 * kPageSize);
  EXPECT_EQ(decision(10).sequence, 2U);
}

TEST_F(LiveTest, TimesGoByTheSizeOfWhatMoved) {
  live_->begin(1000);
  live_->note_migration(Live::To::kDevice, 1, kPageSize);
  live_->note_try(Live::Fault::kDevice, true, 1600);
  live_->note_try(Live::Fault::kDevice, false, 99'000);  // events were in the way
  live_->note_migration(Live::To::kHost, kBlockPages, 2 * kPageSize);
  live_->note_try(Live::Fault::kCpu, true, 100'000);
  std::size_t counted = 0;
  for (std::size_t i = 0; i < header().histograms.count; ++i) {
    const auto& histogram = entry<layout::Histogram>(header().histograms, i);
    const std::string name = histogram.name;
    const std::uint64_t expected = name == "device_fault_isolated" ? 600U
                                   : name == "cpu_fault_bulk"      ? 1000U
                                   : name == "migration_to_device" ? 4096U
                                   : name == "migration_to_host"   ? 8192U
                                                                   : 0U;
    EXPECT_EQ(histogram.count, expected == 0 ? 0U : 1U) << name;
    EXPECT_EQ(histogram.sum, expected) << name;
    EXPECT_EQ(histogram.max, expected) << name;
    EXPECT_EQ(histogram.buckets[std::bit_width(expected)], expected == 0 ? 0U : 1U) << name;
    counted += histogram.count;
  }
  EXPECT_EQ(counted, 4U);
}

TEST_F(LiveTest, BlocksComeAndGo) {
  layout::Block* one = live_->list_block(kBlockSize);
  layout::Block* two = live_->list_block(2 * kBlockSize);
  ASSERT_NE(one, nullptr);
  ASSERT_NE(two, nullptr);
  Live::show_pages(*two, 1, {.only = 500, .duplicated = 7, .coherent = 5, .snapshot = 0});
  EXPECT_EQ(header().blocks_used, 2U);
  EXPECT_EQ(entry<layout::Block>(header().blocks, 1).base, 2 * kBlockSize);
  EXPECT_EQ(entry<layout::Block>(header().blocks, 1).devices[1].only, 500U);
  EXPECT_EQ(entry<layout::Block>(header().blocks, 1).sequence % 2, 0U);
  live_->unlist_block(one);
  EXPECT_EQ(entry<layout::Block>(header().blocks, 0).base, 0U);
  EXPECT_EQ(live_->list_block(3 * kBlockSize), one) << "a free entry is used again";
  EXPECT_EQ(header().blocks_used, 2U);
}

TEST_F(LiveTest, TableOfBlocksHasAnEnd) {
  std::uint64_t base = kBlockSize;
  for (std::uint32_t i = 0; i < Live::kBlocks; ++i) ASSERT_NE(live_->list_block(base += kBlockSize), nullptr);
  EXPECT_EQ(live_->list_block(base + kBlockSize), nullptr);
  EXPECT_EQ(header().blocks_unlisted, 1U);
  live_->unlist_block(nullptr);
}

TEST_F(LiveTest, AllocationsHaveARingOfTheirOwn) {
  for (std::uint32_t i = 0; i < Live::kAllocations + 1; ++i) {
    live_->note_allocation({.range = {0x10'0000 + i * kPageSize, kPageSize}, .requester = 8, .to = 3});
  }
  EXPECT_EQ(header().allocations_made, Live::kAllocations + 1);
  EXPECT_EQ(header().decisions_made, 0U);
  const auto& newest = entry<layout::Decision>(header().allocations, 0);
  EXPECT_EQ(newest.address, 0x10'0000 + Live::kAllocations * kPageSize);
  EXPECT_EQ(newest.sequence, 4U) << "its second lap";
  EXPECT_EQ(newest.flags, layout::Decision::kAllocation);
  EXPECT_EQ(entry<layout::Decision>(header().allocations, 1).sequence, 2U);
}

// What is not used of the room for it takes no memory.
TEST_F(LiveTest, TopologiesOfManyMebibytesArePublished) {
  struct stat status {};
  ASSERT_EQ(fstat(file_.get(), &status), 0);
  const auto before = status.st_blocks * 512;
  const std::string json(10 << 20, 'x');
  live_->publish_topology(json);
  EXPECT_EQ(header().topology_size, json.size());
  EXPECT_EQ(entry<char>(header().topology, json.size() - 1), 'x');
  ASSERT_EQ(fstat(file_.get(), &status), 0);
  EXPECT_LT(status.st_blocks * 512 - before, 12 << 20);
}

TEST_F(LiveTest, DevicesAndTopologyArePublished) {
  EXPECT_EQ(header().topology_sequence, 0U);
  live_->publish_device(0, "mirrorcl:0", 17, 18, 1 << 30);
  live_->publish_topology("{}");
  const auto& device = entry<layout::Device>(header().devices, 0);
  EXPECT_STREQ(device.name, "mirrorcl:0");
  EXPECT_EQ(device.target, 18U);
  EXPECT_EQ(device.sequence, 2U);
  EXPECT_EQ(device.attached, 1U);
  live_->withdraw_device(0);
  EXPECT_EQ(device.attached, 0U);
  EXPECT_EQ(device.target, hms::kNoUid);
  EXPECT_EQ(device.sequence, 4U);
  EXPECT_EQ(header().topology_sequence, 2U);
  EXPECT_EQ(header().topology_size, 2U);
  EXPECT_EQ(entry<char>(header().topology, 1), '}');
  live_->publish_topology(std::string(Live::kTopologySize + 1, ' '));
  EXPECT_EQ(header().topology_size, 2U) << "too long a one is left out";
}

}  // namespace
}  // namespace mirrorcl::mirror
