// SPDX-License-Identifier: Apache-2.0
// The allocator over a device that is nothing but its memory file: the second mapping of the file in these tests is
// what the device process would see. The real device is behind it in icd/'s and conformance/'s tests.
#include "svm/allocator.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "device/cpu/cpu_device.h"
#include "hms/fake_memory.h"

namespace mirrorcl::svm {
namespace {

constexpr std::uint64_t kMiB = window::kMiB;

class MemoryOnlyDevice final : public device::CpuDevice {
 public:
  explicit MemoryOnlyDevice(std::uint64_t memory_size, bool shares_page_tables = false)
      : memory_size_(memory_size), shares_page_tables_(shares_page_tables) {
    if (shares_page_tables) return;
    fd_.reset(::memfd_create("mirrorcl-test", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(window::kDeviceMemoryFileSize)), 0);
  }
  mirror::DeviceCapabilities capabilities() const noexcept override {
    return {true, true, false, memory_size_, shares_page_tables_};
  }
  std::uint64_t memory_in_use() const noexcept override { return 0; }
  int memory_fd() const noexcept override { return fd_.get(); }
  Result<void> share(mirror::Range range) override { return share_file(fd_.get(), range); }
  Result<void> share_file(int memory, mirror::Range range) override {
    if (refuses) return mirrorcl::fail(ErrorCode::kSystem, "refused");
    EXPECT_GE(memory, 0);
    shared.push_back(range);
    files.push_back(memory);
    return {};
  }
  Result<void> unshare(mirror::Range range) override {
    std::erase_if(shared, [&](const mirror::Range& old) { return old.start == range.start && old.size == range.size; });
    return {};
  }
  // Bytes of device memory that are backed by pages.
  std::uint64_t resident_bytes() const {
    struct stat status {};
    EXPECT_EQ(::fstat(fd_.get(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  // What the device sees at `address`.
  std::byte read(const void* address) const {
    std::byte value{};
    EXPECT_EQ(::pread(fd_.get(), &value, 1, static_cast<off_t>(reinterpret_cast<std::uint64_t>(address))), 1);
    return value;
  }
  std::vector<mirror::Range> shared;
  std::vector<int> files;  // that it was asked to share
  bool refuses = false;

  // What the allocator never calls.
  int fault_fd() const noexcept override { return -1; }
  int next_faults(std::span<mirror::DeviceFault>) noexcept override { return 0; }
  int lost_fd() const noexcept override { return -1; }
  void on_lost() noexcept override {}
  int copy_in(mirror::Range, const void*) noexcept override { return -ENOSYS; }
  int zero_fill(mirror::Range) noexcept override { return -ENOSYS; }
  int copy_out(mirror::Range, void*) noexcept override { return -ENOSYS; }
  int map(mirror::Range, mirror::Access) noexcept override { return -ENOSYS; }
  int protect(mirror::Range, mirror::Access) noexcept override { return -ENOSYS; }
  int unmap(mirror::Range) noexcept override { return -ENOSYS; }
  int replay(mirror::Range) noexcept override { return -ENOSYS; }
  int fail(const mirror::DeviceFault&, device::FaultKind) noexcept override { return -ENOSYS; }
  Result<void> restart() override { return mirrorcl::fail(ErrorCode::kNotSupported, "no process"); }
  bool lost() const noexcept override { return false; }
  std::uint32_t compute_units() const noexcept override { return 0; }
  int process_id() const noexcept override { return -1; }
  Result<device::Queue*> create_queue() override { return mirrorcl::fail(ErrorCode::kNotSupported, "no queues"); }
  void destroy_queue(device::Queue*) noexcept override {}
  bool submit(device::Queue*, const device::Packet&) noexcept override { return false; }
  Result<device::Signal*> create_signal() override { return mirrorcl::fail(ErrorCode::kNotSupported, "no signals"); }
  void destroy_signal(device::Signal*) noexcept override {}
  void renew_signal(device::Signal*) noexcept override {}
  std::int32_t wait(device::Signal*, std::int64_t) noexcept override { return 0; }
  std::uint32_t completions() const noexcept override { return 0; }
  void wait_completions(std::uint32_t, std::int64_t) noexcept override {}
  void wake_completions() noexcept override {}
  void* allocate(std::size_t) noexcept override { return nullptr; }
  void free(void*) noexcept override {}
  void* allocate_code(std::size_t) noexcept override { return nullptr; }
  void free_code(void*) noexcept override {}
  std::uint64_t firmware_symbol(const char*) const noexcept override { return 0; }

 private:
  const std::uint64_t memory_size_;
  const bool shares_page_tables_;
  UniqueFd fd_;
};

Result<std::unique_ptr<Allocator>> create_allocator(MemoryOnlyDevice& device) {
  device::CpuDevice* const devices[] = {&device};
  return Allocator::create(devices);
}

struct AllocatorTest : testing::Test {
  AllocatorTest() {
    auto created = create_allocator(device);
    EXPECT_TRUE(created.has_value());
    allocator = std::move(*created);
  }
  void* must_allocate(std::size_t bytes, std::size_t alignment = 0) {
    auto pointer = allocator->allocate(bytes, alignment);
    EXPECT_TRUE(pointer.has_value());
    return pointer.value_or(nullptr);
  }
  MemoryOnlyDevice device{256 * kMiB};
  std::unique_ptr<Allocator> allocator;
};

TEST_F(AllocatorTest, TheDeviceSeesWhatTheHostWritesAtTheSameAddress) {
  auto* bytes = static_cast<std::byte*>(must_allocate(100'000));
  bytes[0] = std::byte{1};
  bytes[99'999] = std::byte{2};
  EXPECT_EQ(device.read(bytes), std::byte{1});
  EXPECT_EQ(device.read(bytes + 99'999), std::byte{2});
}

TEST_F(AllocatorTest, EveryAllocationLiesInASharedRange) {
  for (std::size_t size : {1u, 128u, 4096u, 5'000'000u}) {
    const auto address = reinterpret_cast<std::uint64_t>(must_allocate(size));
    bool inside = false;
    for (const auto& range : device.shared) inside |= address >= range.start && address + size <= range.end();
    EXPECT_TRUE(inside) << size;
  }
  EXPECT_EQ(device.shared.size(), 1u) << "small allocations share one arena";
}

TEST_F(AllocatorTest, HonoursAlignment) {
  for (std::size_t alignment = 1; alignment <= 2 * kMiB; alignment *= 2) {
    for (std::size_t size : {1u, 100u, 3000u, 10'000u}) {
      EXPECT_EQ(reinterpret_cast<std::uint64_t>(must_allocate(size, alignment)) % alignment, 0u)
          << size << " bytes at " << alignment;
    }
  }
  EXPECT_EQ(reinterpret_cast<std::uint64_t>(must_allocate(1)) % 128, 0u);
}

TEST_F(AllocatorTest, RefusesWrongArguments) {
  EXPECT_EQ(allocator->allocate(0, 0).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(allocator->allocate(10, 3).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(allocator->allocate(10, 4 * kMiB).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(AllocatorTest, RefusesMoreThanTheDeviceHasAndServesAgainAfterFree) {
  void* most = must_allocate(200 * kMiB);
  EXPECT_EQ(allocator->allocate(100 * kMiB, 0).error().code, ErrorCode::kOutOfDeviceMemory);
  EXPECT_EQ(allocator->allocate(~std::size_t{0}, 0).error().code, ErrorCode::kOutOfDeviceMemory);
  EXPECT_TRUE(allocator->free(most));
  EXPECT_EQ(allocator->bytes_allocated(), 0u);
  EXPECT_TRUE(allocator->allocate(100 * kMiB, 0).has_value());
}

TEST_F(AllocatorTest, FreedPagesGoBackToTheSystemAndComeBackAsZero) {
  constexpr std::size_t kSize = 8 * kMiB;
  void* first = must_allocate(kSize);
  std::memset(first, 0xab, kSize);
  EXPECT_GE(device.resident_bytes(), kSize);
  EXPECT_TRUE(allocator->free(first));
  EXPECT_LT(device.resident_bytes(), kSize / 2);
  auto* second = static_cast<unsigned char*>(must_allocate(kSize));
  for (std::size_t i = 0; i < kSize; i += 1000) ASSERT_EQ(second[i], 0);
}

TEST_F(AllocatorTest, FreesOnlyWhatItGave) {
  auto* bytes = static_cast<char*>(must_allocate(1000));
  int local = 0;
  EXPECT_FALSE(allocator->free(bytes + 1));
  EXPECT_FALSE(allocator->free(&local));
  EXPECT_FALSE(allocator->free(nullptr));
  EXPECT_TRUE(allocator->free(bytes));
  EXPECT_FALSE(allocator->free(bytes));
}

TEST_F(AllocatorTest, FindKnowsTheExtentOfEachAllocation) {
  auto* small = static_cast<char*>(must_allocate(100));
  auto* large = static_cast<char*>(must_allocate(10'000));
  for (char* inside : {small, small + 99}) {
    auto found = allocator->find(inside);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->start, small);
    EXPECT_EQ(found->size, 100u);
  }
  EXPECT_FALSE(allocator->find(small + 100).has_value());
  EXPECT_EQ(allocator->find(large + 9'999)->start, large);
  EXPECT_FALSE(allocator->find(large + 10'000).has_value());
  EXPECT_FALSE(allocator->find(&large).has_value());
  allocator->free(large);
  EXPECT_FALSE(allocator->find(large).has_value());
}

TEST_F(AllocatorTest, LargerThanAnArenaWorks) {
  MemoryOnlyDevice big(8 * window::kGiB);
  auto roomy = std::move(*create_allocator(big));
  auto pointer = roomy->allocate(3 * window::kGiB, 0);
  ASSERT_TRUE(pointer.has_value());
  auto* bytes = static_cast<std::byte*>(*pointer);
  bytes[3 * window::kGiB - 1] = std::byte{7};
  EXPECT_EQ(big.read(bytes + 3 * window::kGiB - 1), std::byte{7});
  EXPECT_TRUE(roomy->free(*pointer));
}

TEST_F(AllocatorTest, ThreadsGetDistinctMemory) {
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  std::atomic<int> clobbered{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::pair<unsigned char*, std::size_t>> mine;
      for (int i = 0; i < 2000; ++i) {
        if (mine.size() < 50 && random() % 3 != 0) {
          const std::size_t size = 1 + random() % 20'000;
          auto pointer = allocator->allocate(size, 0);
          if (!pointer) continue;
          std::memset(*pointer, t + 1, size);
          mine.emplace_back(static_cast<unsigned char*>(*pointer), size);
        } else if (!mine.empty()) {
          const auto [pointer, size] = mine.back();
          mine.pop_back();
          for (std::size_t k = 0; k < size; k += 61) clobbered += pointer[k] != t + 1;
          if (!allocator->free(pointer)) ++clobbered;
        }
      }
      for (const auto& [pointer, size] : mine) {
        for (std::size_t k = 0; k < size; k += 61) clobbered += pointer[k] != t + 1;
        if (!allocator->free(pointer)) ++clobbered;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(clobbered, 0);
  EXPECT_EQ(allocator->bytes_allocated(), 0u);
}

TEST(AllocatorOfSeveralDevices, SharesTheFirstOnesMemoryWithAllOrWithNone) {
  MemoryOnlyDevice first(256 * kMiB);
  MemoryOnlyDevice second(16 * kMiB);
  MemoryOnlyDevice third(16 * kMiB);
  device::CpuDevice* const devices[] = {&first, &second, &third};
  auto allocator = Allocator::create(devices);
  ASSERT_TRUE(allocator.has_value());
  third.refuses = true;
  EXPECT_FALSE((*allocator)->allocate(kMiB, 0).has_value());
  EXPECT_TRUE(first.shared.empty() && second.shared.empty() && third.shared.empty());
  third.refuses = false;
  auto memory = (*allocator)->allocate(64 * kMiB, 0);  // more than the others have
  ASSERT_TRUE(memory.has_value()) << memory.error().message;
  const auto address = reinterpret_cast<std::uint64_t>(*memory);
  for (const MemoryOnlyDevice* device : {&first, &second, &third}) {
    ASSERT_EQ(device->shared.size(), 1U);
    EXPECT_LE(device->shared[0].start, address);
    EXPECT_GE(device->shared[0].end(), address + 64 * kMiB);
  }
  *static_cast<std::byte*>(*memory) = std::byte{3};
  EXPECT_EQ(first.read(*memory), std::byte{3});
  EXPECT_EQ(second.resident_bytes() + third.resident_bytes(), 0U);
}

TEST(AllocatorOfSeveralDevices, EachOnesMemoryIsAPlaceOfItsOwn) {
  MemoryOnlyDevice first(256 * kMiB);
  MemoryOnlyDevice second(16 * kMiB);
  device::CpuDevice* const devices[] = {&first, &second};
  auto allocator = Allocator::create(devices);
  ASSERT_TRUE(allocator.has_value());
  auto memory = (*allocator)->allocate(10 * kMiB, 0, memory_of_device(1));
  ASSERT_TRUE(memory.has_value()) << memory.error().message;
  *static_cast<std::byte*>(*memory) = std::byte{3};
  EXPECT_EQ(second.read(*memory), std::byte{3});
  EXPECT_EQ(first.resident_bytes(), 0U);
  EXPECT_EQ(first.files, std::vector<int>{second.memory_fd()}) << "the other maps it from there";
  EXPECT_EQ((*allocator)->find(*memory)->place, memory_of_device(1));
  EXPECT_EQ((*allocator)->free_bytes(memory_of_device(1)), 6 * kMiB);
  EXPECT_EQ((*allocator)->free_bytes(memory_of_device(0)), 256 * kMiB);
  EXPECT_EQ((*allocator)->allocate(7 * kMiB, 0, memory_of_device(1)).error().code, ErrorCode::kOutOfDeviceMemory);
  EXPECT_TRUE((*allocator)->allocate(7 * kMiB, 0, memory_of_device(0)).has_value());
  EXPECT_EQ((*allocator)->allocate(1, 0, memory_of_device(2)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ((*allocator)->free_bytes(memory_of_device(2)), std::nullopt);
  EXPECT_TRUE((*allocator)->free(*memory));
  EXPECT_EQ((*allocator)->free_bytes(memory_of_device(1)), 16 * kMiB);
}

// Two nodes that do not exist.
struct NodeAllocatorTest : testing::Test {
  NodeAllocatorTest() {
    for (int node = 0; node < 2; ++node) {
      hms::Target memory;
      memory.name = "node" + std::to_string(node);
      memory.node = node;
      EXPECT_TRUE(topology.add(memory));
    }
    device::CpuDevice* const devices[] = {&device};
    allocator = std::move(*Allocator::create(devices, host));
  }
  hms::Topology topology;
  hms::FakePages pages;
  hms::FakeHostMemory host{pages, topology};
  MemoryOnlyDevice device{256 * kMiB};
  std::unique_ptr<Allocator> allocator;
};

TEST_F(NodeAllocatorTest, MemoryOfANodeIsBoundToItAtEachAllocation) {
  auto memory = allocator->allocate(kMiB, 0, memory_of_node(1));
  ASSERT_TRUE(memory.has_value()) << memory.error().message;
  const auto start = reinterpret_cast<std::uint64_t>(*memory);
  const hms::FakeHostMemory::Told bound{{start, start + kMiB}, hms::HostPolicy::Mode::kBind, {1}};
  EXPECT_EQ(host.told, std::vector{bound});
  ASSERT_EQ(device.files.size(), 1U);
  EXPECT_NE(device.files[0], device.memory_fd()) << "the device maps it, and none of its memory is taken";
  std::memset(*memory, 7, kMiB);
  EXPECT_EQ(device.resident_bytes(), 0U);
  EXPECT_EQ(allocator->free_bytes(memory_of_device(0)), 256 * kMiB);
  EXPECT_TRUE(allocator->free(*memory));
  auto again = allocator->allocate(kMiB, 0, memory_of_node(1));
  ASSERT_EQ(again.value_or(nullptr), *memory);
  EXPECT_EQ(host.told.size(), 2U) << "somebody may have changed the policy meanwhile";
  EXPECT_EQ(static_cast<char*>(*again)[kMiB / 2], 0);
}

TEST_F(NodeAllocatorTest, AFullNodeRefusesAndCountsWhatIsStillToBeTouched) {
  host.free[0] = 10 * kMiB;
  EXPECT_EQ(allocator->allocate(11 * kMiB, 0, memory_of_node(0)).error().code, ErrorCode::kOutOfDeviceMemory);
  ASSERT_TRUE(allocator->allocate(6 * kMiB, 0, memory_of_node(0)).has_value());
  EXPECT_EQ(allocator->free_bytes(memory_of_node(0)), 4 * kMiB);
  EXPECT_EQ(allocator->allocate(6 * kMiB, 0, memory_of_node(0)).error().code, ErrorCode::kOutOfDeviceMemory);
  EXPECT_TRUE(allocator->allocate(6 * kMiB, 0, memory_of_node(1)).has_value());
}

TEST_F(NodeAllocatorTest, RefusesWhatTheSystemForbids) {
  host.forbidden_nodes = {1};
  EXPECT_EQ(allocator->allocate(kMiB, 0, memory_of_node(1)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(allocator->free_bytes(memory_of_node(1)), std::nullopt);
  host.set_policy_errors = {-EPERM};
  EXPECT_EQ(allocator->allocate(kMiB, 0, memory_of_node(0)).error().code, ErrorCode::kNotSupported);
  EXPECT_TRUE(allocator->allocate(kMiB, 0, memory_of_node(0)).has_value());
}

TEST_F(NodeAllocatorTest, TellsWhichPagesHaveMemory) {
  auto* on_device = static_cast<char*>(allocator->allocate(64 << 10, 0, memory_of_device(0)).value());
  auto* on_node = static_cast<char*>(allocator->allocate(64 << 10, 0, memory_of_node(1)).value());
  on_device[4096] = 1;
  on_node[3 * 4096] = 1;
  std::vector<std::pair<std::uint64_t, Place>> seen;
  for (const char* start : {on_device, on_node}) {
    allocator->visit_resident({reinterpret_cast<std::uint64_t>(start), 64 << 10}, [&](mirror::Range run, Place place) {
      EXPECT_EQ(run.size, 4096U);
      seen.emplace_back(run.start, place);
    });
  }
  const std::vector<std::pair<std::uint64_t, Place>> expected{
      {reinterpret_cast<std::uint64_t>(on_device + 4096), memory_of_device(0)},
      {reinterpret_cast<std::uint64_t>(on_node + 3 * 4096), memory_of_node(1)}};
  EXPECT_EQ(seen, expected);
}

TEST(AllocatorOfSharedPageTables, HandsOutPlainMemoryThatIsZeroAgainAfterUse) {
  MemoryOnlyDevice device(256 * kMiB, true);
  auto allocator = create_allocator(device);
  ASSERT_TRUE(allocator.has_value()) << allocator.error().message;
  constexpr std::size_t kSize = 4 * kMiB;
  auto first = (*allocator)->allocate(kSize, 0);
  ASSERT_TRUE(first.has_value());
  auto* bytes = static_cast<unsigned char*>(*first);
  std::memset(bytes, 7, kSize);
  EXPECT_TRUE(device.shared.empty()) << "there is nothing to share: the device sees all memory";
  ASSERT_TRUE((*allocator)->free(bytes));
  auto second = (*allocator)->allocate(kSize, 0);
  ASSERT_TRUE(second.has_value());
  ASSERT_EQ(*second, static_cast<void*>(bytes));
  for (std::size_t i = 0; i < kSize; i += 512) ASSERT_EQ(bytes[i], 0) << i;
}

TEST(AllocatorOfSharedPageTables, KeepsToTheMemorySize) {
  MemoryOnlyDevice device(kMiB, true);
  auto allocator = create_allocator(device);
  ASSERT_TRUE(allocator.has_value()) << allocator.error().message;
  auto too_much = (*allocator)->allocate(2 * kMiB, 0);
  ASSERT_FALSE(too_much.has_value());
  EXPECT_EQ(too_much.error().code, ErrorCode::kOutOfDeviceMemory);
}

}  // namespace
}  // namespace mirrorcl::svm
