// SPDX-License-Identifier: Apache-2.0
// Addresses that the application gives back and gets again all the time, while what lies there goes to the device and
// back, becomes coherent and stops being so. Whichever thread gets an address finds zeros there, and keeps what it
// writes.
#include "mirror/churn.h"

#include <errno.h>

#include <array>
#include <cstdio>
#include <vector>

#include "base/running_time.h"
#include "base/sanitizers.h"
#include "mirror/address_space.h"
#include "mirror/mirror_fixture.h"

namespace mirrorcl::mirror {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kPages = 4;
constexpr std::size_t kSize = kPages * kPageSize;

struct Tenant {
  std::atomic<std::uint64_t> address{0};  // what the thread has mapped now, or had a moment ago; 0: nothing
  std::uint64_t wrong = 0;
  std::uint64_t rounds = 0;
};
// In static storage, where nothing goes to the device in this test.
constinit std::array<Tenant, 4> g_tenants;

// kSize bytes at an address that the threads have one after another. ThreadSanitizer would map memory of its own at
// addresses that they have given back and a device still looks at: there they have a place for themselves.
void* map_pages(int flags) {
  constexpr int kProtection = PROT_READ | PROT_WRITE;
  flags |= MAP_PRIVATE | MAP_ANONYMOUS;
  if (!kThreadSanitizer) return mmap(nullptr, kSize, kProtection, flags, -1, 0);
  constexpr std::uint64_t kPlace = 0x70'0000'0000;
  for (std::uint64_t i = 0;; ++i) {
    void* wanted = reinterpret_cast<void*>(kPlace + i % (g_tenants.size() + 1) * kSize);
    void* memory = mmap(wanted, kSize, kProtection, flags | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory != MAP_FAILED || errno != EEXIST) return memory;
  }
}

// Maps (with `flags`), writes, checks and unmaps some pages again and again. Each mapping is kept for `stay` at least.
void come_and_go(Tenant& self, std::uint64_t seed, int flags, std::chrono::milliseconds stay,
                 const std::atomic<bool>& stop) {
  constexpr std::size_t kStride = kPageSize / sizeof(std::uint64_t);
  for (std::uint64_t round = 0; !stop; ++round) {
    void* memory = map_pages(flags);
    auto* words = static_cast<volatile std::uint64_t*>(memory);
    const std::uint64_t tag = (seed << 48) + round * kPages;
    for (std::size_t i = 0; i < kPages; ++i) {
      self.wrong += words[i * kStride] != 0;
      words[i * kStride] = tag + i;
    }
    self.address = reinterpret_cast<std::uint64_t>(memory);
    const auto end = Clock::now() + stay;
    for (unsigned pass = 0; pass < 3 + round % 5 || Clock::now() < end; ++pass) {
      for (std::size_t i = 0; i < kPages; ++i) {
        self.wrong += words[i * kStride] != tag + i;
        words[i * kStride] = tag + i;
      }
      if (pass % 2 == 1) std::this_thread::yield();
    }
    if (round % 3 == 0) self.address = 0;
    munmap(memory, kSize);
    ++self.rounds;
  }
  self.address = 0;
}

// Without UFFDIO_MOVE: who gets an address between the host agent's look and its call, which are two system calls of
// one thread, finds zeros there until he is given back what was taken. On two CPUs that comes once or twice a second
// here.
constexpr std::uint64_t kInTheGap = 12;

class ChurnTest : public MirrorTest {
 protected:
  // Every page that comes back once becomes coherent, if it stays long enough.
  void SetUp() override { start({.coherent_after_returns = 1, .coherent_window_ms = 60'000}); }

  static bool kernel_can_move() {
    const auto lacks = Mirror::probe();
    return lacks && lacks->empty();
  }

  // `most_wrong`: how many wrong words there may be.
  void churn(int flags, std::uint64_t most_wrong) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < g_tenants.size(); ++i) {
      g_tenants[i].wrong = g_tenants[i].rounds = 0;
      // The last one stays long enough for its pages to become coherent.
      const std::chrono::milliseconds stay(i + 1 == g_tenants.size() ? 250 : 0);
      threads.emplace_back([&, i, stay] { come_and_go(g_tenants[i], i + 1, flags, stay, stop); });
    }
    unsigned unanswered = 0;
    RunningTime time;
    for (std::uint64_t round = 0; time.is_within(std::chrono::seconds(3)); ++round) {
      const std::uint64_t address = g_tenants[round % g_tenants.size()].address;
      if (address == 0) continue;
      if (round % 16 < g_tenants.size()) {
        mirror_->bring_home({address, kSize});
      } else {
        // May be refused: the address may be nobody's by now.
        (void)device_.load(reinterpret_cast<const std::uint64_t*>(address + round / 16 % kPages * kPageSize));
        unanswered += device_.last_error() == device::FaultKind::kUnknown;
      }
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    std::uint64_t wrong = 0;
    for (const Tenant& tenant : g_tenants) {
      wrong += tenant.wrong;
      EXPECT_GT(tenant.rounds, 0U);
    }
    EXPECT_LE(wrong, most_wrong);
    EXPECT_EQ(unanswered, 0U) << "accesses of the device";
    EXPECT_GT(statistics().pages_to_device, 0U);
    EXPECT_GT(statistics().events_unmap, 0U);
  }
};

TEST_F(ChurnTest, AddressesThatComeAndGoKeepWhatTheirOwnersWrite) {
  churn(0, kernel_can_move() ? 0 : kInTheGap);
  EXPECT_GT(statistics().coherent_upgrades, 0U);
}

// As before Linux 6.8.
TEST_F(ChurnTest, AddressesThatComeAndGoKeepWhatTheirOwnersWriteWithoutMove) {
  start({.coherent_after_returns = 1, .coherent_window_ms = 60'000, .use_move = false});
  churn(0, kInTheGap);
}

// UFFDIO_MOVE moves it only to locked memory.
TEST_F(ChurnTest, LockedMemoryThatComesAndGoesKeepsWhatItsOwnersWrite) {
  SKIP_WITHOUT_MOVE();
  churn(MAP_LOCKED, 0);
}

// A thread that changes a page's protection all the time, while that becomes coherent and ceases to be, finds what it
// has set but for a change in the moment between the mirror's last look and its call, which are two system calls of one
// thread.
TEST_F(ChurnTest, ProtectionsThatChangeAllTheTimeAreKept) {
  TestMemory memory(4);
  auto space = AddressSpace::open();
  ASSERT_TRUE(space.has_value());
  const auto address = reinterpret_cast<std::uint64_t>(memory.data());
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> changes{0};
  std::uint64_t wrong = 0;
  std::thread changer([&] {
    for (; !stop; ++changes) {
      const int protection = changes % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE;
      mprotect(memory.data(), kPageSize, protection);
      const auto until = Clock::now() + std::chrono::microseconds(changes % 64);
      while (Clock::now() < until) std::this_thread::yield();
      const auto mapping = space->query(address);
      wrong += !mapping || mapping->protection != protection;
    }
  });
  // Longer where the machine hardly lets it run.
  constexpr std::uint64_t kEnough = 1000;
  RunningTime time;
  const auto lasts = [&](int seconds) { return time.is_within(std::chrono::seconds(seconds)); };
  for (std::uint64_t round = 0; lasts(3) || (changes <= kEnough && lasts(30)); ++round) {
    std::uint64_t value = 0;
    (void)device_.read(memory.word(0), &value, sizeof value);
    std::atomic_ref(*memory.word(0)).load();
    if (round % 4 == 3) mirror_->bring_home({address, kPageSize});
  }
  stop = true;
  changer.join();
  std::printf("%llu of %llu changes overwritten, %llu upgrades\n", static_cast<unsigned long long>(wrong),
              static_cast<unsigned long long>(changes.load()),
              static_cast<unsigned long long>(statistics().coherent_upgrades));
  EXPECT_GT(changes, kEnough);
  EXPECT_GT(statistics().coherent_upgrades, 10U);
  // How many are overwritten depends on how often the thread is interrupted between two system calls, or waits in the
  // second one for an mprotect that is under way. A replacement overwrites one change at most, and there are two for
  // each upgrade: to the device's memory, and back.
  EXPECT_LE(wrong, 2 * statistics().coherent_upgrades);
  EXPECT_LE(wrong * 4, changes);
}

TEST(ChurnMemory, PagesAreSparedForAWhileAfterTheyWereUnmapped) {
  constexpr std::uint64_t kBase = 10 * kBlockSize;
  constexpr std::uint64_t kNow = 5'000'000'000;
  constexpr std::uint64_t kLater = kNow + 1'000'000'000;
  auto churn = std::make_unique<Churn>();
  EXPECT_TRUE(churn->recent(kBase, kNow).none());
  churn->note(kBase, {3, 2}, kNow);
  EXPECT_TRUE(churn->recent(kBase, kNow + 1).test(4));
  EXPECT_FALSE(churn->recent(kBase, kNow + 1).test(5));
  EXPECT_TRUE(churn->recent(kBase + kBlockSize, kNow + 1).none());
  EXPECT_TRUE(churn->recent(kBase, kLater).none());
  churn->note(kBase, {7, 1}, kLater);
  EXPECT_FALSE(churn->recent(kBase, kLater).test(4)) << "what is long ago is not remembered with the new";
  EXPECT_TRUE(churn->recent(kBase, kLater).test(7));
}

}  // namespace
}  // namespace mirrorcl::mirror
