// SPDX-License-Identifier: Apache-2.0
#include "mirror/thread_blocks.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/raw_syscall.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {

// x86-64's ABI: a control block begins with its own address and has it again as its third word. The id lies somewhere
// behind in the same page: where this thread's own is found, and no other word like it.
void ThreadBlocks::open() {
  std::thread([this] {
    const auto block = reinterpret_cast<std::uint64_t>(pthread_self());
    const auto id = static_cast<std::uint32_t>(gettid());
    const auto* words = reinterpret_cast<const std::uint64_t*>(block);
    if (words[0] != block || words[2] != block) return;
    unsigned found = 0;
    for (std::uint64_t offset = 0; block % kPageSize + offset < kPageSize; offset += sizeof id) {
      std::uint32_t word;
      std::memcpy(&word, reinterpret_cast<const char*>(block) + offset, sizeof word);
      if (word != id) continue;
      id_offset_ = static_cast<std::uint32_t>(offset);
      ++found;
    }
    if (found == 1) block_offset_ = static_cast<std::uint32_t>(block % kPageSize);
  }).join();
}

bool ThreadBlocks::is_one(std::uint64_t address, const void* page) const noexcept {
  if (block_offset_ == kUnknown) return false;
  const std::uint64_t block = address + block_offset_;
  std::uint64_t words[3];
  __builtin_memcpy(words, static_cast<const char*>(page) + block_offset_, sizeof words);
  return words[0] == block && words[2] == block;
}

void ThreadBlocks::note(std::uint64_t address, const void* page) noexcept {
  if (!is_one(address, page)) return;
  const std::uint64_t block = address + block_offset_;
  std::uint32_t id;
  __builtin_memcpy(&id, static_cast<const char*>(page) + block_offset_ + id_offset_, sizeof id);
  if (id == 0) return;  // a thread that is gone may have ended just before, when the page was out of reach already
  std::size_t place = threads_end_;
  for (std::size_t i = 0; i < threads_end_; ++i) {
    if (threads_[i].id_address == block + id_offset_ || (threads_[i].id == 0 && place == threads_end_)) place = i;
    if (threads_[i].id_address == block + id_offset_) break;
  }
  if (place == threads_.size()) return;
  threads_[place] = {block + id_offset_, id, 0};
  threads_end_ = std::max(threads_end_, place + 1);
}

void ThreadBlocks::shrink() noexcept {
  while (threads_end_ != 0 && threads_[threads_end_ - 1].id == 0) --threads_end_;
}

bool ThreadBlocks::is_gone(std::uint32_t id) noexcept {
  return raw_syscall(SYS_tgkill, raw_syscall(SYS_getpid), static_cast<long>(id), 0) == -ESRCH;
}

}  // namespace mirrorcl::mirror
