// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "base/futex.h"
#include "base/options.h"
#include "base/paths.h"
#include "base/result.h"
#include "base/running_time.h"
#include "base/unique_fd.h"

namespace mirrorcl {
namespace {

TEST(ParseSize, TakesSuffixesAndRefusesRubbish) {
  std::uint64_t bytes = 7;
  EXPECT_TRUE(parse_size("64M", &bytes));
  EXPECT_EQ(bytes, 64u << 20);
  EXPECT_TRUE(parse_size("12", &bytes));
  EXPECT_EQ(bytes, 12u);
  for (const char* bad : {"", "M", "12Q", "12MB", "-1", "99999999999999999999", "20000000T"}) {
    bytes = 7;
    EXPECT_FALSE(parse_size(bad, &bytes)) << bad;
    EXPECT_EQ(bytes, 7u) << bad;
  }
}

TEST(Result, CarriesErrnoText) {
  Result<int> result = fail_errno("open /nowhere", ENOENT);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, ErrorCode::kSystem);
  EXPECT_EQ(result.error().message, "open /nowhere: No such file or directory");
}

TEST(RunningTime, DoesNotCountWhatTheProcessMayHaveMissed) {
  RunningTime time;
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LE(time.elapsed(), 2 * RunningTime::kLook);
  EXPECT_GE(time.elapsed(), RunningTime::kLook);
  while (time.is_within(std::chrono::milliseconds(400))) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_GE(time.elapsed(), std::chrono::milliseconds(400));
}

TEST(UniqueFd, ClosesOnce) {
  int raw = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(raw, 0);
  {
    UniqueFd a(raw);
    UniqueFd b(std::move(a));
    EXPECT_FALSE(a);
    EXPECT_EQ(b.get(), raw);
  }
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
}

TEST(Futex, WakesAndTimesOut) {
  FutexWord word{0};
  EXPECT_EQ(futex_wait(&word, 0, 1'000'000), -ETIMEDOUT);
  EXPECT_EQ(futex_wait(&word, 1), -EAGAIN);
  std::thread waker([&] {
    word = 1;
    futex_wake(&word, 1);
  });
  while (word.load() == 0) futex_wait(&word, 0, 100'000'000);
  waker.join();
  EXPECT_EQ(word.load(), 1u);
}

TEST(RawSyscall, ReturnsNegativeErrno) {
  EXPECT_EQ(raw_syscall(SYS_close, -1), -EBADF);
}

TEST(PrivateFile, NamesTheFileInTheProjectsFolder) {
  EXPECT_NE(private_file("mirrorcl-firmware").find("mirrorcl/mirrorcl-firmware"), std::string::npos);
}

// As when the mirror makes the page behind a lock coherent.
TEST(PrivateFutex, FindsItsSleepersAfterThePageWasReplaced) {
  constexpr std::size_t kSize = 4096;
  void* page = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  auto* word = new (page) FutexWord(0);
  std::thread sleeper([word] {
    while (word->load() == 0) private_futex_wait(word, 0);
  });
  usleep(20'000);  // asleep by now, or it sees the value
  UniqueFd file(memfd_create("page", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), kSize), 0);
  ASSERT_EQ(mmap(page, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.get(), 0), page);
  word->store(1);
  private_futex_wake(word, INT32_MAX);
  sleeper.join();
  munmap(page, kSize);
}

}  // namespace
}  // namespace mirrorcl
