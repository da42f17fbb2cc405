// SPDX-License-Identifier: Apache-2.0
// What tests of the mirror share: a running mirror with a fake device, and memory of their own.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "base/sanitizers.h"
#include "mirror/fake_device.h"
#include "mirror/mirror.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

// Private anonymous memory of `pages` pages, aligned to a block, with untouched gaps around it.
class TestMemory {
 public:
  explicit TestMemory(std::size_t pages) : size_(pages * kPageSize) {
    reserved_size_ = size_ + 3 * kBlockSize;
    reserved_ = mmap(nullptr, reserved_size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    std::uint64_t start = block_down(reinterpret_cast<std::uint64_t>(reserved_) + 2 * kBlockSize - 1);
    start_ = static_cast<char*>(mmap(reinterpret_cast<void*>(start), size_, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0));
    madvise(start_, size_, MADV_NOHUGEPAGE);
  }
  ~TestMemory() { munmap(reserved_, reserved_size_); }
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;

  char* data() const { return start_; }
  std::size_t size() const { return size_; }
  // The first 8 bytes of page `page`.
  std::uint64_t* word(std::size_t page) const { return reinterpret_cast<std::uint64_t*>(start_ + page * kPageSize); }

 private:
  std::size_t size_;
  std::size_t reserved_size_;
  void* reserved_;
  char* start_;
};

// Static storage, see FakeDevice.
inline std::optional<FakeDevice> g_fake_device;
inline std::optional<FakeDevice> g_second_fake_device;  // for tests that attach one

// For tests of what only UFFDIO_MOVE does.
#define SKIP_WITHOUT_MOVE() \
  if (const auto lacks = Mirror::probe(); lacks && !lacks->empty()) GTEST_SKIP() << *lacks

// For tests that have whatever the process has moved. What the runtime knows of the mirror's own threads would go too.
#define SKIP_UNDER_THREAD_SANITIZER() \
  if (kThreadSanitizer) GTEST_SKIP() << "what its runtime knows of the mirror's own threads would be moved away"

class MirrorTest : public ::testing::Test {
 protected:
  void SetUp() override { start({}); }
  void start(const MirrorOptions& options) {
    mirror_.reset();
    auto started = Mirror::start(options);
    ASSERT_TRUE(started.has_value()) << started.error().message;
    mirror_ = std::move(*started);
    auto attached = mirror_->attach(device_);
    ASSERT_TRUE(attached.has_value()) << attached.error().message;
  }
  Statistics statistics() const { return mirror_->statistics(); }
  // Whatever the address, both sides see each other's writes.
  void exchange(std::uint64_t* word, std::uint64_t value) {
    std::atomic_ref<std::uint64_t> shared(*word);
    shared.store(value);
    EXPECT_EQ(device_.load(word), value);
    ASSERT_EQ(device_.last_error(), device::FaultKind::kNone);
    device_.store(word, value + 1);
    ASSERT_EQ(device_.last_error(), device::FaultKind::kNone);
    EXPECT_EQ(shared.load(), value + 1);
  }

  FakeDevice& device_ = g_fake_device.emplace();
  std::unique_ptr<Mirror> mirror_;
};

}  // namespace mirrorcl::mirror
