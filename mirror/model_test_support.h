// SPDX-License-Identifier: Apache-2.0
// Drives the model with random programs, and tells the seed of the one that fails, also if it crashes or hangs.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "mirror/model.h"

namespace mirrorcl::mirror {

// A number from the environment: MIRRORCL_MODEL_SEED and so on (docs/mirror.md).
inline std::uint64_t model_option(const char* name, std::uint64_t fallback) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

// While it exists, a fatal signal or `seconds` without progress() end the process with the seed on standard error.
class SeedReporter {
 public:
  explicit SeedReporter(unsigned seconds) : seconds_(seconds) {
    for (int number : {SIGSEGV, SIGBUS, SIGALRM, SIGABRT}) signal(number, report);
    progress(0);
  }
  ~SeedReporter() {
    alarm(0);
    for (int number : {SIGSEGV, SIGBUS, SIGALRM, SIGABRT}) signal(number, SIG_DFL);
  }
  SeedReporter(const SeedReporter&) = delete;
  SeedReporter& operator=(const SeedReporter&) = delete;

  void progress(std::uint64_t seed) {
    text_size() = static_cast<std::size_t>(std::snprintf(text().data(), text().size(),
                                                         "\nrepeat it with MIRRORCL_MODEL_SEED=%llu\n",
                                                         static_cast<unsigned long long>(seed)));
    alarm(seconds_);
  }

 private:
  static std::array<char, 80>& text() {
    static std::array<char, 80> text;
    return text;
  }
  static std::size_t& text_size() {
    static std::size_t size = 0;
    return size;
  }
  static void report(int number) {
    static constexpr char kHang[] = "\nno progress: hangs";
    if (number == SIGALRM) (void)!write(STDERR_FILENO, kHang, sizeof kHang - 1);
    (void)!write(STDERR_FILENO, text().data(), text_size());
    signal(number, SIG_DFL);
    raise(number);
  }

  unsigned seconds_;
};

// Every page that comes back once is shared from then on.
inline MirrorOptions everything_becomes_coherent() {
  return {.coherent_after_returns = 1, .coherent_window_ms = 100'000, .coherent_not_before_ms = 0};
}
inline MirrorOptions nothing_becomes_coherent() {
  return {.coherent_after_returns = 0};
}

inline void print_statistics(std::uint64_t operations, const Statistics& s) {
  std::printf(
      "%llu operations; %llu device and %llu CPU faults, %llu pages made coherent, %llu events, %llu retries; "
      "%llu pages between devices, %llu coherent ones shared; %llu evictions, %llu locks left\n",
      static_cast<unsigned long long>(operations), static_cast<unsigned long long>(s.device_faults),
      static_cast<unsigned long long>(s.cpu_faults), static_cast<unsigned long long>(s.coherent_upgrades),
      static_cast<unsigned long long>(s.events_unmap + s.events_remap + s.events_remove),
      static_cast<unsigned long long>(s.retries), static_cast<unsigned long long>(s.pages_between_devices),
      static_cast<unsigned long long>(s.coherent_pages_shared), static_cast<unsigned long long>(s.evictions),
      static_cast<unsigned long long>(s.locks_left));
  std::fflush(stdout);
}

// Runs random programs until `operations` elementary operations have been made; with MIRRORCL_MODEL_SEED just that one.
inline void run_random_programs(Model& model, std::uint64_t first_seed, std::uint64_t operations) {
  constexpr std::size_t kProgramBytes = 4096;
  // A sanitizer or a busy machine makes it many times slower; a hang is for ever.
  SeedReporter reporter(static_cast<unsigned>(model_option("MIRRORCL_MODEL_PATIENCE", 100)));
  const std::uint64_t only = model_option("MIRRORCL_MODEL_SEED", 0);
  operations = model_option("MIRRORCL_MODEL_OPERATIONS", operations);
  std::uint64_t seed = only != 0 ? only : model_option("MIRRORCL_MODEL_FIRST_SEED", first_seed);
  const std::uint64_t wanted = model.operations() + operations;
  for (; model.operations() < wanted; ++seed) {
    reporter.progress(seed);
    ASSERT_TRUE(model.run(random_program(seed, kProgramBytes)))
        << model.failure() << "\nrepeat it with MIRRORCL_MODEL_SEED=" << seed;
    if (only != 0) break;
  }
}

}  // namespace mirrorcl::mirror
