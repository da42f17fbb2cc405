// SPDX-License-Identifier: Apache-2.0
// What the compiler's tests share: a folder of their own, a code space in this process, and PoCL's calling convention.
#pragma once

#include <gtest/gtest.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compiler/client.h"
#include "compiler/loader.h"

namespace mirrorcl::compiler {

// A temporary folder, gone with this object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = (std::filesystem::temp_directory_path() / "mirrorcl-test-XXXXXX").string();
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    path_ = path;
  }
  ~TemporaryFolder() {
    // A compiler service that is just ending removes its own folder in it: then there is something to try again.
    std::error_code error;
    for (int tries = 0; tries < 100; ++tries) {
      std::filesystem::remove_all(path_, error);
      if (!error) return;
    }
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Code space of this process, with libc's functions: kernels run in the test itself. Nothing in it is writable and
// executable.
class HostCodeSpace {
 public:
  CodeSpace space() {
    CodeSpace result;
    result.allocate = [this](std::size_t bytes) -> void* {
      void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) return nullptr;
      sizes_[memory] = bytes;
      return memory;
    };
    result.free = [this](void* memory) {
      munmap(memory, sizes_.at(memory));
      sizes_.erase(memory);
    };
    result.make_executable = [](void* start, std::size_t bytes) -> Result<void> {
      if (mprotect(start, bytes, PROT_READ | PROT_EXEC) == 0) return {};
      return fail_errno("mprotect", errno);
    };
    result.find_symbol = [](const char* name) -> std::uint64_t {
      using TwoDoubles = double (*)(double, double);
      using TwoFloats = float (*)(float, float);
      static const std::map<std::string, std::uint64_t> known{
          {"memset", reinterpret_cast<std::uint64_t>(&memset)},
          {"memcpy", reinterpret_cast<std::uint64_t>(static_cast<void* (*)(void*, const void*, std::size_t)>(&memcpy))},
          {"memmove", reinterpret_cast<std::uint64_t>(&memmove)},
          {"snprintf", reinterpret_cast<std::uint64_t>(&snprintf)},
          {"fmod", reinterpret_cast<std::uint64_t>(static_cast<TwoDoubles>(&fmod))},
          {"fmodf", reinterpret_cast<std::uint64_t>(static_cast<TwoFloats>(&fmodf))},
      };
      auto found = known.find(name);
      return found == known.end() ? 0 : found->second;
    };
    return result;
  }
  std::size_t blocks() const { return sizes_.size(); }

 private:
  std::map<void*, std::size_t> sizes_;
};

// PoCL 3.1's pocl_context for 64-bit devices.
struct PoclContext {
  std::uint64_t num_groups[3] = {1, 1, 1};
  std::uint64_t global_offset[3] = {0, 0, 0};
  std::uint64_t local_size[3] = {1, 1, 1};
  unsigned char* printf_buffer = nullptr;
  std::uint32_t* printf_buffer_position = nullptr;
  std::uint32_t printf_buffer_capacity = 0;
  std::uint32_t work_dim = 1;
};

using WorkGroupFunction = void (*)(void** arguments, PoclContext* context, std::uint64_t x, std::uint64_t y,
                                   std::uint64_t z);

inline const KernelImage& kernel_of(const BuildOutcome& built, const std::string& name) {
  static const KernelImage none;
  if (!built.image) {
    ADD_FAILURE() << built.image.error().message << "\n" << built.log;
    return none;
  }
  for (const KernelImage& kernel : built.image->kernels) {
    if (kernel.name == name) return kernel;
  }
  ADD_FAILURE() << "no kernel " << name;
  return none;
}

// Runs `groups` work-groups of `local` items in this process. `arguments`: the address of each argument's value. Locals
// are appended. Returns what the kernel printed.
inline std::string run_kernel(const KernelImage& kernel, std::vector<void*> arguments, std::uint64_t groups,
                              std::uint64_t local) {
  HostCodeSpace host;
  auto loaded = load_kernel(kernel.elf, kernel.symbol, host.space());
  if (!loaded) {
    ADD_FAILURE() << loaded.error().message;
    return {};
  }
  std::vector<std::vector<std::byte>> locals;
  std::vector<void*> local_pointers(kernel.automatic_locals.size());
  for (std::size_t i = 0; i < local_pointers.size(); ++i) {
    locals.emplace_back(kernel.automatic_locals[i] + 128);
    local_pointers[i] =
        reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(locals.back().data()) + 127) & ~std::uintptr_t{127});
    arguments.push_back(&local_pointers[i]);
  }
  std::vector<unsigned char> text(4096);
  std::uint32_t used = 0;
  PoclContext context;
  context.num_groups[0] = groups;
  context.local_size[0] = local;
  context.printf_buffer = text.data();
  context.printf_buffer_position = &used;
  context.printf_buffer_capacity = static_cast<std::uint32_t>(text.size());
  auto function = reinterpret_cast<WorkGroupFunction>((*loaded)->entry());
  for (std::uint64_t group = 0; group < groups; ++group) function(arguments.data(), &context, group, 0, 0);
  return {text.begin(), text.begin() + std::min<std::uint32_t>(used, context.printf_buffer_capacity)};
}

}  // namespace mirrorcl::compiler
