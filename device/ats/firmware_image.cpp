// SPDX-License-Identifier: Apache-2.0
#include "device/ats/firmware_image.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <vector>

#include "base/unique_fd.h"
#include "device/cpu/window_map.h"
#include "device/window.h"

namespace mirrorcl::device {
namespace {

using window::kPageSize;

constexpr std::size_t kLargestFile = 16 * window::kMiB;
constexpr std::uint64_t kStackSize = 64 * 1024;
constexpr window::Region kStack{window::kFirmware.end() - kStackSize, kStackSize};
// A page between them catches a stack that runs over.
constexpr window::Region kSegments{window::kFirmware.start, window::kFirmware.size - kStackSize - kPageSize};

tl::unexpected<Error> not_firmware(const std::string& path, const char* why) {
  return fail(ErrorCode::kNotSupported, fmt::format("{} is not the device firmware: {}", path, why));
}

Result<std::vector<std::byte>> read_file(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0) {
    return fail(ErrorCode::kNotSupported,
                fmt::format("the device firmware {} is missing or not readable ({}); MIRRORCL_LIBRARY_DIR names the "
                            "folder it lies in",
                            path, strerrordesc_np(errno)));
  }
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) > kLargestFile) {
    return not_firmware(path, "no file of its size");
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(status.st_size));
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t got = read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(fmt::format("reading {}", path), errno);
    if (got == 0) return not_firmware(path, "it shrank");
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

struct Segments {
  std::uint64_t entry = 0;
  std::vector<Elf64_Phdr> load;
};

Result<Segments> read_headers(const std::vector<std::byte>& file, const std::string& path) {
  Elf64_Ehdr header{};
  if (file.size() < sizeof header) return not_firmware(path, "too short");
  memcpy(&header, file.data(), sizeof header);
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64 || header.e_type != ET_EXEC || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return not_firmware(path, "not a static x86-64 executable");
  }
  const std::uint64_t table_size = std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  if (header.e_phoff > file.size() || file.size() - header.e_phoff < table_size) {
    return not_firmware(path, "program headers beyond its end");
  }
  Segments segments;
  segments.entry = header.e_entry;
  std::uint64_t end = kSegments.start;  // of the pages taken so far: segments are sorted, and share none
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    memcpy(&segment, file.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    const std::uint64_t first_page = segment.p_vaddr / kPageSize * kPageSize;
    if (first_page < end || segment.p_vaddr >= kSegments.end() || segment.p_memsz > kSegments.end() - segment.p_vaddr ||
        segment.p_filesz > segment.p_memsz || segment.p_offset > file.size() ||
        segment.p_filesz > file.size() - segment.p_offset) {
      return not_firmware(path, "a segment out of place");
    }
    end = (segment.p_vaddr + segment.p_memsz + kPageSize - 1) / kPageSize * kPageSize;
    segments.load.push_back(segment);
  }
  if (!kSegments.contains(segments.entry)) return not_firmware(path, "its entry is out of place");
  return segments;
}

int protection_of(const Elf64_Phdr& segment) {
  return ((segment.p_flags & PF_R) != 0 ? PROT_READ : 0) | ((segment.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
         ((segment.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
}

}  // namespace

Result<FirmwareImage> place_firmware(const std::string& path) {
  auto file = read_file(path);
  if (!file) return tl::unexpected<Error>(file.error());
  auto segments = read_headers(*file, path);
  if (!segments) return tl::unexpected<Error>(segments.error());

  if (int error = renew_region(window::kFirmware, PROT_NONE); error != 0) {
    return fail_errno("mapping the device firmware", error);
  }
  auto* region = reinterpret_cast<void*>(window::kFirmware.start);
  if (madvise(region, window::kFirmware.size, MADV_DONTFORK) != 0) return fail_errno("madvise(MADV_DONTFORK)", errno);
  constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  for (const Elf64_Phdr& segment : segments->load) {
    const std::uint64_t first_page = segment.p_vaddr / kPageSize * kPageSize;
    const std::uint64_t size = segment.p_vaddr + segment.p_memsz - first_page;
    auto* pages = reinterpret_cast<void*>(first_page);
    if (mprotect(pages, size, kReadWrite) != 0) return fail_errno("mapping the device firmware", errno);
    memcpy(reinterpret_cast<void*>(segment.p_vaddr), file->data() + segment.p_offset, segment.p_filesz);
    if (mprotect(pages, size, protection_of(segment)) != 0) {
      return fail_errno("making the device firmware executable (does a security policy forbid it?)", errno);
    }
  }
  if (mprotect(reinterpret_cast<void*>(kStack.start), kStack.size, kReadWrite) != 0) {
    return fail_errno("mapping a stack for the device firmware", errno);
  }
  return FirmwareImage{reinterpret_cast<SharingEntry>(segments->entry), reinterpret_cast<void*>(kStack.end())};
}

void remove_firmware() noexcept {
  (void)renew_region(window::kFirmware, PROT_READ | PROT_WRITE);
}

}  // namespace mirrorcl::device
