// SPDX-License-Identifier: Apache-2.0
// Memory that files are behind: globals of libraries, private and shared mappings.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "mirror/layout_watch.h"
#include "mirror/mapped_file.h"
#include "mirror/mirror_fixture.h"

extern "C" std::uint64_t* test_data();
extern "C" const std::uint64_t* test_rodata();

namespace mirrorcl::mirror {
namespace {

using device::FaultKind;

// A file without a name whose page i begins with the word i, and mappings of it.
class TestFile {
 public:
  explicit TestFile(std::size_t pages) : pages_(pages) {
    char path[] = "/tmp/mirrorcl-test-XXXXXX";
    fd_.reset(mkstemp(path));
    unlink(path);
    for (std::uint64_t page = 0; page < pages; ++page) put(page, page);
  }
  ~TestFile() {
    for (void* mapped : mapped_) munmap(mapped, size());
  }

  int fd() const { return fd_.get(); }
  std::size_t size() const { return pages_ * kPageSize; }
  // The word at the beginning of page `page`, as read(2) and write(2) see it.
  std::uint64_t get(std::uint64_t page) const {
    std::uint64_t word = ~std::uint64_t{0};
    EXPECT_EQ(pread(fd(), &word, sizeof word, static_cast<off_t>(page * kPageSize)), 8);
    return word;
  }
  void put(std::uint64_t page, std::uint64_t word) {
    char contents[kPageSize] = {};
    std::memcpy(contents, &word, sizeof word);
    ASSERT_EQ(pwrite(fd(), contents, kPageSize, static_cast<off_t>(page * kPageSize)), ssize_t{kPageSize});
  }
  std::uint64_t* map(int protection, int flags) {
    void* mapped = mmap(nullptr, size(), protection, flags, fd(), 0);
    EXPECT_NE(mapped, MAP_FAILED);
    mapped_.push_back(mapped);
    return static_cast<std::uint64_t*>(mapped);
  }

 private:
  std::size_t pages_;
  UniqueFd fd_;
  std::vector<void*> mapped_;
};

constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);  // of a page

class FileMemoryTest : public MirrorTest {};

TEST_F(FileMemoryTest, InitialisedGlobalsOfALibrary) {
  std::uint64_t* words = test_data();
  EXPECT_EQ(device_.load(words + 1), 2U);
  device_.store(words + 2, std::uint64_t{30});
  EXPECT_EQ(words[2], 30U);
  EXPECT_EQ(words[0], 1U);
  for (std::uint64_t i = 0; i < 6; ++i) exchange(words + i * 300, 100 * i);
  EXPECT_GE(statistics().pages_made_anonymous, 4U);
}

TEST_F(FileMemoryTest, ConstantsCanOnlyBeRead) {
  EXPECT_EQ(device_.load(test_rodata() + 1), 5U);
  device_.store(const_cast<std::uint64_t*>(test_rodata()), std::uint64_t{1});
  EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly);
  EXPECT_EQ(test_rodata()[0], 4U);
}

TEST_F(FileMemoryTest, PrivateMappingKeepsItsContentsAndTheFileItsOwn) {
  constexpr std::size_t kPages = 1300;  // three blocks, and more than the chunks that are replaced at once
  TestFile file(kPages);
  std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
  for (std::size_t page = 0; page < kPages; page += 3) words[page * kWords] += 1000;
  for (std::size_t page = 1; page < kPages; page += 7) device_.store(words + page * kWords + 1, std::uint64_t{page});
  for (std::size_t page = 0; page < kPages; ++page) {
    const std::uint64_t wanted = page + (page % 3 == 0 ? 1000 : 0);
    ASSERT_EQ(device_.load(words + page * kWords), wanted);
    ASSERT_EQ(words[page * kWords], wanted);
    ASSERT_EQ(words[page * kWords + 1], page % 7 == 1 ? page : 0);
    ASSERT_EQ(file.get(page), page);
  }
  exchange(words + 5 * kWords, 1);
}

TEST_F(FileMemoryTest, PrivateMappingBeyondTheEndOfTheFile) {
  TestFile file(4);
  std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
  ASSERT_EQ(ftruncate(file.fd(), 2 * kPageSize), 0);
  device_.store(words + kWords, std::uint64_t{7});
  EXPECT_EQ(words[kWords], 7U);
  device_.store(words + 3 * kWords, std::uint64_t{7});
  EXPECT_EQ(device_.last_error(), FaultKind::kUnmappable);
}

TEST_F(FileMemoryTest, PrivateMappingThatGoesAway) {
  TestFile file(8);
  for (std::uint64_t round = 0; round < 20; ++round) {
    auto* words =
        static_cast<std::uint64_t*>(mmap(nullptr, file.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE, file.fd(), 0));
    ASSERT_NE(words, MAP_FAILED);
    ASSERT_EQ(device_.load(words + 3 * kWords), 3U);
    device_.store(words + 3 * kWords, round);
    ASSERT_EQ(munmap(words, file.size()), 0);
    mirror_->drain_events();
    device_.load(words);
    ASSERT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
  }
}

TEST_F(FileMemoryTest, NoWriteIsLostWhilePrivateMappingsBecomeAnonymous) {
  constexpr std::size_t kPages = 64;
  TestFile file(kPages);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  std::uint64_t rounds = 0;
  for (; std::chrono::steady_clock::now() < end; ++rounds) {
    std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
    std::atomic<bool> stop{false};
    std::atomic<int> running{0};
    std::vector<std::uint64_t> counts[2] = {std::vector<std::uint64_t>(kPages), std::vector<std::uint64_t>(kPages)};
    std::vector<std::thread> writers;
    for (std::size_t t = 0; t < 2; ++t) {
      writers.emplace_back([&, t] {
        for (std::size_t i = t; !stop; i = (i * 1103515245 + 12345) % kPages) {
          auto* mine = reinterpret_cast<volatile std::uint64_t*>(words + i * kWords + 1 + t);
          *mine = *mine + 1;
          if (counts[t][i]++ == 0) ++running;
        }
      });
    }
    while (running < 8) std::this_thread::yield();
    device_.store(words + rounds % kPages * kWords, std::uint64_t{77});
    ASSERT_EQ(device_.last_error(), FaultKind::kNone);
    stop = true;
    for (auto& writer : writers) writer.join();
    ASSERT_EQ(words[rounds % kPages * kWords], 77U);
    for (std::size_t i = 0; i < kPages; ++i) {
      ASSERT_EQ(words[i * kWords + 1], counts[0][i]) << i << " in round " << rounds;
      ASSERT_EQ(words[i * kWords + 2], counts[1][i]) << i << " in round " << rounds;
    }
  }
  EXPECT_GE(statistics().pages_made_anonymous, rounds);
  RecordProperty("rounds", static_cast<int>(rounds));
}

TEST_F(FileMemoryTest, SharedMappingIsOneMemoryWithFileAndDevice) {
  constexpr std::size_t kPages = 700;
  TestFile file(kPages);
  std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_SHARED);
  std::uint64_t* again = file.map(PROT_READ | PROT_WRITE, MAP_SHARED);
  for (std::uint64_t page = 0; page < kPages; page += 13) {
    ASSERT_EQ(device_.load(words + page * kWords), page);
    device_.store(words + page * kWords, page + 1);
    ASSERT_EQ(device_.last_error(), FaultKind::kNone);
    ASSERT_EQ(file.get(page), page + 1) << "read(2) sees what the device wrote";
    ASSERT_EQ(again[page * kWords], page + 1);
    file.put(page, page + 2);
    ASSERT_EQ(device_.load(words + page * kWords), page + 2) << "the device sees what write(2) wrote";
    exchange(words + page * kWords + 3, page);
  }
  EXPECT_EQ(device_.load(again + 13 * kWords), 15U);
  EXPECT_EQ(device_.mapped_files(), 2U);
  EXPECT_EQ(statistics().shared_file_mappings, 2U);
  EXPECT_EQ(statistics().snapshot_pages, 0U);
  EXPECT_EQ(device_.pages_in_use(), 0U);
}

TEST_F(FileMemoryTest, MemfdAndSharedAnonymousMemory) {
  UniqueFd memfd(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memfd.get(), 8 * kPageSize), 0);
  // At an offset, and with its descriptor closed.
  auto* part = static_cast<std::uint64_t*>(
      mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 2 * kPageSize));
  exchange(part + kWords, 7);
  std::uint64_t word = 0;
  ASSERT_EQ(pread(memfd.get(), &word, 8, 3 * kPageSize), 8);
  EXPECT_EQ(word, 8U);
  auto* other =
      static_cast<std::uint64_t*>(mmap(nullptr, 8 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0));
  memfd.reset();
  exchange(other + 7 * kWords, 9);
  EXPECT_EQ(device_.load(other + 3 * kWords), 8U);
  auto* anonymous = static_cast<std::uint64_t*>(
      mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  exchange(anonymous + 2 * kWords, 11);
  EXPECT_EQ(device_.mapped_files(), 3U);
  munmap(part, 4 * kPageSize);
  munmap(other, 8 * kPageSize);
  munmap(anonymous, 4 * kPageSize);
  mirror_->drain_events();
  EXPECT_EQ(device_.mapped_files(), 0U);
}

TEST_F(FileMemoryTest, SharedMappingChangesAreSeenByTheNextLaunch) {
  TestFile file(8);
  TestFile second(8);
  second.put(2, 222);
  TestMemory memory(200);
  std::uint64_t* words = memory.word(0);
  ASSERT_EQ(mmap(words, file.size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.fd(), 0), words);
  ASSERT_EQ(device_.load(words + 2 * kWords), 2U);
  // Another file at the same place.
  ASSERT_EQ(mmap(words, file.size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, second.fd(), 0), words);
  mirror_->drain_events();
  ASSERT_EQ(device_.load(words + 2 * kWords), 222U);
  // The same file, another part.
  ASSERT_EQ(mmap(words, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.fd(), 4 * kPageSize),
            words);
  mirror_->drain_events();
  EXPECT_EQ(device_.load(words), 4U);
  EXPECT_EQ(device_.load(words + 5 * kWords), 5U) << "still the second file";
  // Anonymous memory in the middle.
  ASSERT_EQ(mmap(words + 2 * kWords, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            words + 2 * kWords);
  words[2 * kWords] = 33;
  mirror_->drain_events();
  exchange(words + 2 * kWords, 34);
  EXPECT_EQ(device_.load(words + 3 * kWords), 7U);
  EXPECT_EQ(device_.load(words + kWords), 5U);
  EXPECT_EQ(file.get(6), 6U);
  // Part of it moves.
  ASSERT_NE(
      mremap(words + 4 * kWords, 4 * kPageSize, 4 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, words + 100 * kWords),
      MAP_FAILED);
  mirror_->drain_events();
  device_.load(words + 4 * kWords);
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
  EXPECT_EQ(device_.load(words + 101 * kWords), 5U);
}

TEST_F(FileMemoryTest, SharedMappingFollowsProtection) {
  TestFile file(8);
  std::uint64_t* words = file.map(PROT_READ, MAP_SHARED);
  EXPECT_EQ(device_.load(words + kWords), 1U);
  device_.store(words, std::uint64_t{1});
  EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly);
  ASSERT_EQ(mprotect(words, file.size(), PROT_READ | PROT_WRITE), 0);
  mirror_->drain_events();
  exchange(words + kWords, 5);
  ASSERT_EQ(mprotect(words + 2 * kWords, 2 * kPageSize, PROT_NONE), 0);
  mirror_->drain_events();
  exchange(words + kWords, 7);
  device_.load(words + 2 * kWords);
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
  ASSERT_EQ(mprotect(words + 2 * kWords, 2 * kPageSize, PROT_READ), 0);
  EXPECT_EQ(device_.load(words + 2 * kWords), 2U);
}

TEST_F(FileMemoryTest, SharedMappingOfAFileThatGrows) {
  TestFile file(8);
  std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_EQ(ftruncate(file.fd(), 2 * kPageSize + 100), 0);
  EXPECT_EQ(device_.load(words + kWords), 1U);
  exchange(words + 2 * kWords, 1);
  device_.load(words + 5 * kWords);
  EXPECT_EQ(device_.last_error(), FaultKind::kInvalidAddress);
  file.put(5, 55);
  EXPECT_EQ(device_.load(words + 5 * kWords), 55U);
}

TEST_F(FileMemoryTest, SharedMappingsSurviveAForkAndEndWithTheMirror) {
  TestFile file(4);
  std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_SHARED);
  exchange(words, 5);
  const pid_t child = fork();
  if (child == 0) {
    words[1] = words[0] == 6 ? 60 : 0;
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(device_.load(words + 1), 60U) << "the child's memory too";
  exchange(words, 8);
  mirror_.reset();
  EXPECT_EQ(device_.mapped_files(), 0U);
  EXPECT_EQ(words[0], 9U);
}

TEST_F(FileMemoryTest, ADescriptorIsFoundInThreeWays) {
  for (const bool maps_file : {false, true}) {
    SCOPED_TRACE(maps_file);
    auto space = AddressSpace::open();
    ASSERT_TRUE(space);
    if (maps_file) space->use_maps_file();  // as before Linux 6.11
    char path[] = "/tmp/mirrorcl\ntest-XXXXXX";
    UniqueFd fd(mkstemp(path));
    ASSERT_EQ(ftruncate(fd.get(), 3 * kPageSize), 0);
    const auto map = [&](int protection) {
      return reinterpret_cast<std::uint64_t>(mmap(nullptr, 2 * kPageSize, protection, MAP_SHARED, fd.get(), kPageSize));
    };
    const std::uint64_t writable = map(PROT_READ | PROT_WRITE);
    const std::uint64_t read_only = map(PROT_READ);
    const auto found = [&](std::uint64_t address, unsigned way) {
      const auto mapping = space->query(address);
      const MappedFile file = open_mapped_file(*space, *mapping, way);
      if (file.error != 0) return false;
      EXPECT_EQ(file.size, 3 * kPageSize);
      struct stat ours {};
      struct stat theirs {};
      EXPECT_EQ(fstat(fd.get(), &theirs), 0);
      EXPECT_EQ(fstat(file.fd.get(), &ours), 0);
      EXPECT_EQ(ours.st_ino, theirs.st_ino);
      const bool writes = (fcntl(file.fd.get(), F_GETFL) & O_ACCMODE) == O_RDWR;
      EXPECT_TRUE(writes || address == read_only);
      return true;
    };
    for (std::uint64_t address : {writable, read_only}) {
      EXPECT_TRUE(found(address, kByDescriptor));
      EXPECT_TRUE(found(address, kByName));
      if (geteuid() == 0) {  // needs a capability
        EXPECT_TRUE(found(address, kByMapping));
      }
    }
    // Another file of that name, and then none.
    unlink(path);
    UniqueFd other(open(path, O_RDWR | O_CREAT | O_EXCL, 0600));
    EXPECT_FALSE(found(writable, kByName));
    unlink(path);
    EXPECT_FALSE(found(writable, kByName));
    EXPECT_TRUE(found(writable, kByDescriptor));
    fd.reset();
    EXPECT_FALSE(open_mapped_file(*space, *space->query(writable), kByDescriptor).fd);
    munmap(reinterpret_cast<void*>(writable), 2 * kPageSize);
    munmap(reinterpret_cast<void*>(read_only), 2 * kPageSize);
  }
}

TEST_F(FileMemoryTest, TheSameInTheMapsFileOfOlderKernels) {
  auto space = AddressSpace::open();
  ASSERT_TRUE(space);
  TestFile file(4);
  std::uint64_t* words = file.map(PROT_READ | PROT_WRITE, MAP_SHARED);
  const auto quick = space->query(reinterpret_cast<std::uint64_t>(words));
  space->use_maps_file();
  const auto slow = space->query(reinterpret_cast<std::uint64_t>(words));
  ASSERT_TRUE(quick && slow);
  EXPECT_EQ(quick->file, slow->file);
  EXPECT_TRUE(slow->shared_file());
  EXPECT_EQ(quick->file_offset, slow->file_offset);
  const auto next = space->query_from(quick->range.start - 1);
  EXPECT_TRUE(next && next->range.start <= quick->range.start);
}

// The protection that the application gives to memory of which the device has pages.
class ProtectionTest : public FileMemoryTest {};

TEST_F(ProtectionTest, ReadOnlyMemoryIsReadOnlyForTheDeviceToo) {
  TestMemory memory(8);
  for (std::size_t page = 0; page < 8; ++page) device_.store(memory.word(page), std::uint64_t{page});
  for (std::uint64_t round = 0; round < 5; ++round) {
    // The device's last access may be over while the mirror is still making its page coherent.
    mirror_->bring_home({0x10000, kPageSize});
    ASSERT_EQ(mprotect(memory.data() + 2 * kPageSize, 4 * kPageSize, PROT_READ), 0);
    mirror_->drain_events();
    for (std::size_t page = 0; page < 8; ++page) {
      const bool read_only = page >= 2 && page < 6;
      ASSERT_EQ(device_.load(memory.word(page)), page + round);
      device_.store(memory.word(page), page + round + 1);
      ASSERT_EQ(device_.last_error(), read_only ? FaultKind::kReadOnly : FaultKind::kNone)
          << page << " round " << round;
    }
    // One page has come home meanwhile.
    ASSERT_EQ(*memory.word(3), 3 + round);
    ASSERT_EQ(device_.load(memory.word(3)), 3 + round);
    ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ | PROT_WRITE), 0);
    if (round % 2 == 0) mirror_->drain_events();
    for (std::size_t page = 2; page < 6; ++page) {
      device_.store(memory.word(page), page + round + 1);
      ASSERT_EQ(device_.last_error(), FaultKind::kNone) << page << " round " << round;
    }
  }
  for (std::size_t page = 0; page < 8; ++page) EXPECT_EQ(*memory.word(page), page + 5);
}

TEST_F(ProtectionTest, MemoryWithoutAccessIsKeptAndComesBack) {
  TestMemory memory(8);
  for (std::uint64_t round = 0; round < 5; ++round) {
    for (std::size_t page = 0; page < 8; ++page) {
      device_.store(memory.word(page), page + round);
      ASSERT_EQ(device_.last_error(), FaultKind::kNone);
    }
    // One of them coherent.
    for (std::uint64_t i = 0; i < 4; ++i) exchange(memory.word(4), 100 * round + i);
    ASSERT_EQ(mprotect(memory.data() + 2 * kPageSize, 4 * kPageSize, PROT_NONE), 0);
    mirror_->drain_events();
    for (std::size_t page = 2; page < 6; ++page) {
      device_.load(memory.word(page));
      ASSERT_EQ(device_.last_error(), FaultKind::kInvalidAddress) << page;
    }
    ASSERT_EQ(device_.load(memory.word(1)), 1 + round);
    ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ | PROT_WRITE), 0);
    if (round % 2 == 0) mirror_->drain_events();
    ASSERT_EQ(device_.load(memory.word(4)), 100 * round + 4);
    for (std::size_t page : {2U, 3U, 5U}) ASSERT_EQ(*memory.word(page), page + round);
  }
}

TEST_F(ProtectionTest, CoherentMemoryFollowsToo) {
  TestMemory memory(2);
  for (std::uint64_t i = 0; i < 4; ++i) exchange(memory.word(0), 10 * i);
  ASSERT_GE(statistics().coherent_upgrades, 1U);
  ASSERT_EQ(mprotect(memory.data(), kPageSize, PROT_READ), 0);
  mirror_->drain_events();
  EXPECT_EQ(device_.load(memory.word(0)), 31U);
  device_.store(memory.word(0), std::uint64_t{5});
  EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly);
  ASSERT_EQ(mprotect(memory.data(), kPageSize, PROT_READ | PROT_WRITE), 0);
  exchange(memory.word(0), 50);
}

TEST_F(ProtectionTest, WritesGivenBackBetweenTwoLaunchesAreTakenAwayAgain) {
  TestMemory memory(4);
  device_.store(memory.word(1), std::uint64_t{1});
  ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ), 0);
  mirror_->drain_events();
  ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ | PROT_WRITE), 0);
  device_.store(memory.word(1), std::uint64_t{2});  // a kernel that runs all the time
  ASSERT_EQ(device_.last_error(), FaultKind::kNone);
  device_.store(memory.word(2), std::uint64_t{2});
  ASSERT_EQ(device_.last_error(), FaultKind::kNone);
  ASSERT_EQ(mprotect(memory.data(), memory.size(), PROT_READ), 0);
  mirror_->drain_events();
  for (std::size_t page : {1U, 2U}) {
    device_.store(memory.word(page), std::uint64_t{3});
    EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly) << page;
  }
}

TEST_F(ProtectionTest, ManyMappingsAreComparedInTurn) {
  constexpr std::size_t kMappings = 3 * LayoutWatch::kMaxQueries;
  TestMemory memory(2 * kMappings);
  for (std::size_t i = 0; i < kMappings; ++i) {
    device_.store(memory.word(2 * i), std::uint64_t{i});
    ASSERT_EQ(mprotect(memory.word(2 * i + 1), kPageSize, PROT_NONE), 0);
  }
  mirror_->drain_events();
  ASSERT_EQ(mprotect(memory.word(2 * kMappings - 2), kPageSize, PROT_READ), 0);
  for (std::size_t launch = 0; launch < 2 * kMappings / LayoutWatch::kMaxQueries + 1; ++launch) mirror_->drain_events();
  device_.store(memory.word(2 * kMappings - 2), std::uint64_t{3});
  EXPECT_EQ(device_.last_error(), FaultKind::kReadOnly);
}

TEST(LayoutWatch, MergesAndSplitsSpans) {
  auto watch = std::make_unique<LayoutWatch>();
  const FileIdentity file{1, 2, 3};
  watch->add({{0x1000, 0x2000}, PROT_READ | PROT_WRITE});
  watch->add({{0x3000, 0x1000}, PROT_READ | PROT_WRITE});
  ASSERT_EQ(watch->size(), 1U);
  EXPECT_EQ(watch->at(0).range.size, 0x3000U);
  EXPECT_FALSE(watch->has_read_only());
  watch->add({{0x2000, 0x1000}, PROT_READ});
  ASSERT_EQ(watch->size(), 3U);
  EXPECT_TRUE(watch->has_read_only());
  watch->add({{0x2000, 0x1000}, PROT_READ | PROT_WRITE});
  ASSERT_EQ(watch->size(), 1U);
  EXPECT_FALSE(watch->has_read_only());
  watch->add({{0x10000, 0x4000}, PROT_READ, file, 0x8000});
  watch->remove({0x11000, 0x1000});
  ASSERT_EQ(watch->size(), 3U);
  EXPECT_EQ(watch->at(2).range.start, 0x12000U);
  EXPECT_EQ(watch->at(2).file_offset, 0xa000U);
  watch->add({{0x11000, 0x1000}, PROT_READ, file, 0x9000});
  EXPECT_EQ(watch->size(), 2U);
  watch->add({{0x11000, 0x1000}, PROT_READ, file, 0x1000});
  EXPECT_EQ(watch->size(), 4U);
  watch->remove({0, ~std::uint64_t{0}});
  EXPECT_EQ(watch->size(), 0U);
}

}  // namespace
}  // namespace mirrorcl::mirror
