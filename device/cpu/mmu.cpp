// SPDX-License-Identifier: Apache-2.0
#include "device/cpu/mmu.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "base/memory_file.h"
#include "base/raw_syscall.h"
#include "device/window.h"

namespace mirrorcl::device {
namespace {

using mirror::Access;
using mirror::kBlockPages;
using mirror::kBlockSize;
using mirror::kPageSize;
using mirror::PageRun;
using mirror::Progress;
using mirror::Range;

// Newer than Debian 12's headers.
constexpr std::uint64_t kContinueModeWriteProtect = 2;  // UFFDIO_CONTINUE_MODE_WP

constexpr char kZeros[kPageSize] = {};

}  // namespace

PageRun Mmu::pages_of(Range range) noexcept {
  return {mirror::page_in_block(range.start), static_cast<unsigned>(range.size / kPageSize)};
}

template <typename What>
int Mmu::for_each_part(Range range, What what) noexcept {
  if (large_.none()) return what(range, nullptr);
  for (std::uint64_t at = range.start; at < range.end();) {
    const std::uint64_t end = std::min(mirror::block_down(at) + kBlockSize, range.end());
    if (const int error = what({at, end - at}, large_.find(at)); error != 0) return error;
    at = end;
  }
  return 0;
}

void Mmu::note_tables(Range range) noexcept {
  for (std::uint64_t at = mirror::block_down(range.start); at < range.end(); at += kBlockSize) {
    large_.note_table(at, true);
  }
}

int Mmu::control(unsigned long request, void* argument) noexcept {
  int fd = uffd();
  if (fd < 0) return 0;
  long result = raw_syscall(SYS_ioctl, fd, request, argument);
  return result == -ESRCH ? 0 : static_cast<int>(result);
}

int Mmu::read_faults(std::span<uffd_msg> messages) noexcept {
  int fd = uffd();
  if (fd < 0) return 0;
  long result = raw_syscall(SYS_read, fd, messages.data(), messages.size_bytes());
  if (result == -EAGAIN || result == -EINTR) return 0;
  return static_cast<int>(result < 0 ? result : result / static_cast<long>(sizeof(uffd_msg)));
}

std::uint64_t Mmu::memory_in_use() const noexcept {
  const std::uint64_t in_file = memory_file_in_use(memory_);
  return in_file - std::min(in_file, large_.kept_bytes());
}

int Mmu::copy_in(Range range, const void* source) noexcept {
  const int error = write_memory_file(memory_, range.start, source, range.size);
  if (error != 0) return error;
  return for_each_part(range, [&](Range part, Large* block) {
    if (block == nullptr) return 0;
    large_.use(*block);
    block->set_live(pages_of(part));
    return 0;
  });
}

Progress Mmu::copy_in_mapped(Range range, const void* source, Access access) noexcept {
  Progress progress{0, 0};
  progress.error = for_each_part(range, [&](Range part, Large* block) {
    note_tables(part);
    const auto* from = static_cast<const char*>(source) + progress.done;
    if (block == nullptr) {
      const Progress one = copy_in_small(part, from, access);
      progress.done += one.done;
      return one.error;
    }
    // The pages exist, most likely, which UFFDIO_COPY leaves alone.
    large_.use(*block);
    int error = write_memory_file(memory_, part.start, from, part.size);
    if (error == 0) error = map_small(part, access);
    if (error != 0) return error;
    block->set_live(pages_of(part));
    progress.done += part.size;
    return 0;
  });
  return progress;
}

Progress Mmu::copy_in_small(Range range, const void* source, Access access) noexcept {
  std::uint64_t done = 0;
  while (done < range.size) {
    const Range rest{range.start + done, range.size - done};
    const auto* from = static_cast<const char*>(source) + done;
    uffdio_copy request{};
    request.dst = rest.start;
    request.src = reinterpret_cast<std::uint64_t>(from);
    request.len = rest.size;
    request.mode = access == Access::kRead ? UFFDIO_COPY_MODE_WP : 0;
    const int fd = uffd();
    const long result = fd < 0 ? -ESRCH : raw_syscall(SYS_ioctl, fd, UFFDIO_COPY, &request);
    if (result == 0) break;
    if (request.copy > 0) {
      done += static_cast<std::uint64_t>(request.copy);
      continue;
    }
    if (result != -ESRCH && result != -EEXIST) return {done, static_cast<int>(result)};
    // No process there: the memory outlives it. Or a device page that exists already, which COPY leaves alone.
    const Range now = result == -ESRCH ? rest : Range{rest.start, kPageSize};
    int error = write_memory_file(memory_, now.start, from, now.size);
    if (error == 0) error = map_small(now, access);
    if (error != 0) return {done, error};
    done += now.size;
  }
  return {range.size, 0};
}

int Mmu::copy_out(Range range, void* destination) noexcept {
  return read_memory_file(memory_, range.start, destination, range.size);
}

int Mmu::zero_fill(Range range) noexcept {
  return for_each_part(range, [&](Range part, Large* block) {
    if (block == nullptr) return fill_memory_file(memory_, part.start, part.size);
    large_.use(*block);
    const PageRun pages = pages_of(part);
    for (unsigned page = pages.first; page < pages.end(); ++page) {
      if (block->is_live(page)) continue;
      const std::uint64_t address = mirror::block_down(part.start) + page * kPageSize;
      if (const int error = write_memory_file(memory_, address, kZeros, kPageSize); error != 0) return error;
      block->set_live({page, 1});
    }
    return 0;
  });
}

int Mmu::write_protect(Range range, std::uint64_t mode) noexcept {
  uffdio_writeprotect request{{range.start, range.size}, mode};
  return control(UFFDIO_WRITEPROTECT, &request);
}

int Mmu::map(Range range, Access access) noexcept {
  if (access == Access::kNone) return -EINVAL;
  return for_each_part(range, [&](Range part, Large* block) {
    if (block != nullptr && block->open) return replay(part);
    note_tables(part);
    if (block == nullptr) return map_small(part, access);
    const PageRun pages = pages_of(part);
    for (PageRun run = block->run_from(pages.first, pages.end()); run.count != 0;
         run = block->run_from(run.end(), pages.end())) {
      const Range now{mirror::block_down(part.start) + run.first * kPageSize, run.count * kPageSize};
      const int error = block->is_live(run.first) ? map_small(now, access) : replay(now);
      if (error != 0) return error;
    }
    return 0;
  });
}

int Mmu::map_small(Range range, Access access) noexcept {
  bool left_alone = false;
  for (std::uint64_t at = range.start; at < range.end();) {
    const bool protect_now = access == Access::kRead && can_install_protected_.load(std::memory_order_relaxed);
    const bool protect_after = access == Access::kRead && !protect_now;
    uffdio_continue request{};
    request.range = {at, range.end() - at};
    request.mode = (protect_now ? kContinueModeWriteProtect : 0) | (protect_after ? UFFDIO_CONTINUE_MODE_DONTWAKE : 0);
    int result = control(UFFDIO_CONTINUE, &request);
    const std::uint64_t done = result == 0          ? range.end() - at
                               : request.mapped > 0 ? static_cast<std::uint64_t>(request.mapped)
                                                    : 0;
    if (done != 0) {
      if (protect_after) {
        // Another unit may write through the new mapping before it is protected; kernels before 6.4 know no better.
        if (int failed = write_protect({at, done}, UFFDIO_WRITEPROTECT_MODE_WP); failed != 0) return failed;
        if (int failed = replay({at, done}); failed != 0) return failed;
      }
      at += done;
      continue;
    }
    switch (result) {
      case -EEXIST:  // mapped already
      case -EFAULT:  // no device page
        left_alone = true;
        at += kPageSize;
        break;
      case -EINVAL:
        if (!protect_now) return result;
        can_install_protected_.store(false, std::memory_order_relaxed);
        break;
      default:
        return result;
    }
  }
  // Somebody may wait for a page that another fault's service had mapped, and CONTINUE wakes only those that it maps
  // itself.
  return left_alone ? replay(range) : 0;
}

int Mmu::protect(Range range, Access access) noexcept {
  if (access == Access::kNone) return -EINVAL;
  return for_each_part(range, [&](Range part, Large* block) {
    if (access == Access::kReadWrite) return block != nullptr && block->open ? 0 : write_protect(part, 0);
    if (block != nullptr && block->open) {
      if (const int error = close_and_unmap(*block); error != 0) return error;
    }
    if (block != nullptr && !is_mapped(part)) return 0;
    note_tables(part);
    return write_protect(part, UFFDIO_WRITEPROTECT_MODE_WP);
  });
}

int Mmu::unmap(Range range) noexcept {
  return for_each_part(range, [&](Range part, Large* block) {
    if (block == nullptr) return punch_memory_file(memory_, part.start, part.size);
    if (block->open) {
      if (const int error = close(*block); error != 0) return error;
    }
    large_.use(*block);
    const bool last = block->clear_live(pages_of(part));
    return last || block->live_count == 0 ? free_or_keep(*block) : punch_memory_file(memory_, part.start, part.size);
  });
}

int Mmu::vacate(Range range) noexcept {
  return for_each_part(range, [&](Range part, Large* block) {
    if (block == nullptr) return punch_memory_file(memory_, part.start, part.size);
    if (block->open) {
      if (const int error = close_and_unmap(*block); error != 0) return error;
    }
    if (!block->clear_live(pages_of(part)))
      return is_mapped(part) ? punch_memory_file(memory_, part.start, part.size) : 0;
    const Range whole{mirror::block_down(part.start), kBlockSize};
    return !is_mapped(whole) && large_.keep(*block) ? 0 : free_or_keep(*block);
  });
}

int Mmu::free_block(Large& block) noexcept {
  const std::uint64_t base = block.base;
  const int error = punch_memory_file(memory_, base, kBlockSize);
  if (error == 0) large_.remove(block);
  return error;
}

// What cannot be freed, and D does not see, is used for the block's next turn, or freed with what is kept.
int Mmu::free_or_keep(Large& block) noexcept {
  const Range whole{block.base, kBlockSize};
  const int error = free_block(block);
  return error != 0 && !is_mapped(whole) && large_.keep(block, true) ? 0 : error;
}

void Mmu::free_kept() noexcept {
  large_.for_each_kept([&](Large& block) { (void)free_block(block); });
}

int Mmu::free_shared(Range range) noexcept {
  return punch_memory_file(memory_, range.start, range.size);
}

int Mmu::replay(Range range) noexcept {
  uffdio_range request{range.start, range.size};
  return control(UFFDIO_WAKE, &request);
}

int Mmu::unregister(Range range) noexcept {
  uffdio_range request{range.start, range.size};
  return dead_or(control(UFFDIO_UNREGISTER, &request), range);
}

int Mmu::register_as(Range range, std::uint64_t mode) noexcept {
  uffdio_register request{};
  request.range = {range.start, range.size};
  request.mode = mode;
  return dead_or(control(UFFDIO_REGISTER, &request), range);
}

// Registrations answer ENOMEM also where D has ended.
int Mmu::dead_or(int result, Range range) noexcept {
  if (result != -ENOMEM) return result;
  uffdio_writeprotect nothing{{range.start, kPageSize}, UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
  const int fd = uffd();
  return fd < 0 || raw_syscall(SYS_ioctl, fd, UFFDIO_WRITEPROTECT, &nothing) == -ESRCH ? 0 : result;
}

int Mmu::register_again(Range range) noexcept {
  return register_as(range, kAllFaults);
}

}  // namespace mirrorcl::device
