// SPDX-License-Identifier: Apache-2.0
// Part of every test program in builds with ThreadSanitizer: how its runtime behaves unless TSAN_OPTIONS says
// otherwise, and where its memory lies.
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

// The runtime calls these before it is ready for instrumented code.
#define MIRRORCL_FOR_RUNTIME __attribute__((visibility("default"), no_sanitize("thread")))

namespace {

constexpr std::uint64_t kPageSize = 4096;

// The kernel makes one mapping of neighbours that are alike. The runtime maps what it knows of the mirror's threads
// beside what the program maps, and a mirror that watched both, as one mapping, would wait for itself where its threads
// touch the runtime's. So the program's memory is made unlike the runtime's, in ways of which nothing else comes.
MIRRORCL_FOR_RUNTIME void keep_apart(const volatile void* start, std::size_t size) {
  const int error = errno;
  const std::uint64_t first = reinterpret_cast<std::uint64_t>(start) & ~(kPageSize - 1);
  madvise(reinterpret_cast<void*>(first), reinterpret_cast<std::uint64_t>(start) + size - first, MADV_DONTDUMP);
  errno = error;
}

}  // namespace

extern "C" {

// die_after_fork: children of a process with threads may start threads, as the driver's do. report_thread_leaks: tests
// end processes by _exit(), with the driver's threads unjoined.
MIRRORCL_FOR_RUNTIME const char* __tsan_default_options() {  // NOLINT: the runtime's name
  return "die_after_fork=0:report_thread_leaks=0";
}

// Small allocations have a place of their own, which the runtime does not use for itself. Larger ones are mapped.
MIRRORCL_FOR_RUNTIME void __sanitizer_malloc_hook(const volatile void* start,  // NOLINT: likewise
                                                  std::size_t size) {
  constexpr std::uint64_t kSmall = 0x7b0000000000;  // tsan_platform.h: kHeapMemBeg
  constexpr std::uint64_t kSmallEnd = 0x7c0000000000;
  const auto address = reinterpret_cast<std::uint64_t>(start);
  if (start != nullptr && (address < kSmall || address >= kSmallEnd)) keep_apart(start, size);
}

void* __interceptor_mmap(void*, std::size_t, int, int, int, off_t);  // NOLINT: likewise; the one it replaces

// From the start: others may use an address that is not theirs any more.
MIRRORCL_FOR_RUNTIME void* mmap(void* address, std::size_t size, int protection, int flags, int file,
                                off_t offset) noexcept {
  return __interceptor_mmap(address, size, protection, flags | MAP_NORESERVE, file, offset);
}

}  // extern "C"
