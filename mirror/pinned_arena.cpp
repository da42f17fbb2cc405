// SPDX-License-Identifier: Apache-2.0
#include "mirror/pinned_arena.h"

#include <dlfcn.h>
#include <errno.h>
#include <fmt/format.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

#include "base/sanitizers.h"
#include "mirror/address_space.h"
#include "mirror/page_mask.h"

namespace mirrorcl::mirror {
namespace {

constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// Bytes that libc takes from the top of a new thread's stack for the thread-local variables of the program and its
// libraries: most programs have a few KiB, some a MiB.
std::size_t thread_local_storage_size() {
  std::size_t size = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void* sum) {
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& header = object->dlpi_phdr[i];
          if (header.p_type == PT_TLS) *static_cast<std::size_t*>(sum) += header.p_memsz + header.p_align;
        }
        return 0;
      },
      &size);
  return size;
}

// AddressSanitizer's own pthread_create keeps what it knows of the thread in memory beside the application's, which can
// go to a device. Its runtime makes do with threads that it does not know: libc's is taken instead.
auto pthread_create_of_libc() {
  auto* create = &pthread_create;
  if constexpr (kAddressSanitizer) {
    void* libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    void* found = libc == nullptr ? nullptr : dlsym(libc, "pthread_create");
    if (found != nullptr) create = reinterpret_cast<decltype(create)>(found);
  }
  return create;
}

}  // namespace

Result<void> map_window_region(const window::Region& region, int protection) {
  void* wanted = reinterpret_cast<void*>(region.start);
  if (mmap(wanted, region.size, protection, kFlags | MAP_FIXED_NOREPLACE, -1, 0) == wanted) return {};
  if (errno != EEXIST) return fail_errno(fmt::format("cannot map the window at {:#x}", region.start), errno);
  auto space = AddressSpace::open();
  if (!space) return tl::unexpected<Error>(space.error());
  for (std::uint64_t address = region.start; address < region.end();) {
    auto mapping = space->query(address);
    if (mapping && (mapping->protection != PROT_NONE || !mapping->anonymous)) {
      return fail(
          ErrorCode::kNotSupported,
          fmt::format(
              "the address range {:#x}-{:#x}, which MirrorCL needs for itself, is already in use by this process",
              window::kWindow.start, window::kWindow.end()));
    }
    address = mapping ? mapping->range.end() : address + kBlockSize;
  }
  if (mmap(wanted, region.size, protection, kFlags | MAP_FIXED, -1, 0) != wanted) {
    return fail_errno(fmt::format("cannot map the window at {:#x}", region.start), errno);
  }
  return {};
}

void unmap_window_region(const window::Region& region) noexcept {
  (void)mmap(reinterpret_cast<void*>(region.start), region.size, PROT_NONE, kFlags | MAP_FIXED, -1, 0);
}

unsigned PinnedArena::size_class(std::size_t bytes) {
  return static_cast<unsigned>(std::bit_width(std::max(bytes, sizeof(Free)) - 1));
}

void* PinnedArena::do_allocate(std::size_t bytes, std::size_t alignment) {
  unsigned index = size_class(bytes);
  std::uint64_t size = std::uint64_t{1} << index;
  if (Free* again = free_[index]; again != nullptr && reinterpret_cast<std::uint64_t>(again) % alignment == 0) {
    free_[index] = again->next;
    return again;
  }
  std::uint64_t start = (next_ + alignment - 1) & ~(std::uint64_t{alignment} - 1);
  if (start > window::kPinned.end() || size > window::kPinned.end() - start) throw std::bad_alloc();
  next_ = start + size;
  return reinterpret_cast<void*>(start);
}

void PinnedArena::do_deallocate(void* memory, std::size_t bytes, std::size_t) {
  unsigned index = size_class(bytes);
  free_[index] = new (memory) Free{free_[index]};
}

Result<void> PinnedThread::start(PinnedArena& arena, const char* name, void (*body)(void*), void* argument) {
  const std::size_t size = page_up(kStackSize + thread_local_storage_size());
  // Page below the stack: an overflow must not reach the neighbour's data.
  char* memory = static_cast<char*>(arena.allocate(size + kPageSize, kPageSize));
  if (mprotect(memory, kPageSize, PROT_NONE) != 0) return fail_errno("cannot protect a pinned stack", errno);
  body_ = body;
  argument_ = argument;

  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, memory + kPageSize, size);
  // The new thread inherits the mask: no handler of the application ever runs on a pinned stack. (libc keeps its own
  // two signals open, so that setuid() still reaches every thread.)
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create_of_libc()(
      &thread_, &attributes,
      [](void* self) -> void* {
        auto* thread = static_cast<PinnedThread*>(self);
        thread->body_(thread->argument_);
        return nullptr;
      },
      this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) return fail_errno("cannot start a pinned thread", error);
  running_ = true;
  pthread_setname_np(thread_, name);
  return {};
}

void PinnedThread::join() noexcept {
  if (running_) pthread_join(thread_, nullptr);
  running_ = false;
}

}  // namespace mirrorcl::mirror
